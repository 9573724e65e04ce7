"""Prompts for classification: plain completion for base models, chat turns for chat models, the same examples in both.

The answer is never parsed from free text; it is the label whose word the model finds likeliest, so that no instruction
inside a row can produce anything but a label.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MAX_CHARACTERS = 1200  # of a text in a prompt; the rest is cut, so that no row fills the context


@dataclass(frozen=True)
class Prompting:
    """What a model is told.

    Attributes
    ----------
    instruction : str
        One sentence: what to decide.
    words : tuple of str
        The word that stands for each class, in the order of `classes_`.
    noun : str
        What a row is: "Message", "Sentence".
    examples : tuple of (str, int)
        Worked examples, text and class index, shown before the row.
    """

    instruction: str
    words: tuple[str, ...]
    noun: str = "Text"
    examples: tuple[tuple[str, int], ...] = ()

    def plain(self, text: str) -> str:
        """The prompt for a base model; the continuation is " " + word."""
        shown = [f"{self.noun}: {clean(t)}\nAnswer: {self.words[c]}\n\n" for t, c in self.examples]
        return f"{self._task()}\n\n{''.join(shown)}{self.noun}: {clean(text)}\nAnswer:"

    def chat(self, text: str) -> list[dict[str, str]]:
        """The turns for a chat model; the continuation is the word itself."""
        turns = [{"role": "system", "content": self._task()}]
        for example, index in self.examples:
            turns.append({"role": "user", "content": f"{self.noun}: {clean(example)}"})
            turns.append({"role": "assistant", "content": self.words[index]})
        return [*turns, {"role": "user", "content": f"{self.noun}: {clean(text)}"}]

    def continuations(self, chat: bool) -> list[str]:
        """What is scored after the prompt, one for each class."""
        return [word if chat else f" {word}" for word in self.words]

    def _task(self) -> str:
        *first, last = self.words
        return f"{self.instruction} Answer with one of: {', '.join(first)} or {last}."


def clean(text: str) -> str:
    """One line, at most `MAX_CHARACTERS`, with nothing a chat template would read as its own sign."""
    line = re.sub(r"\s+", " ", text.replace("\x00", " ")).strip()[:MAX_CHARACTERS]
    return line.replace("<|", "< |").replace("[INST]", "[ INST]").replace("<s>", "< s>").replace("</s>", "< /s>")


def label_words(classes: Sequence[object], given: Mapping[str, str] | None) -> tuple[str, ...]:
    """The word for each class: the given one, else the label itself with its separators as spaces."""
    return tuple((given or {}).get(str(c)) or re.sub(r"[_\-]+", " ", str(c)).strip() for c in classes)


def pick_examples(
    texts: Sequence[str], y: np.ndarray, n_classes: int, shots: int, seed: int
) -> tuple[tuple[str, int], ...]:
    """`shots` examples from the training rows, the classes in turn, in random order.

    Parameters
    ----------
    texts : sequence of str
    y : ndarray of int, shape (n_texts,)
        Class indices.
    shots : int
        Examples in all; fewer are taken where a class runs out.
    seed : int
    """
    rng = np.random.default_rng(seed)
    pools = [list(rng.permutation(np.flatnonzero(y == c))) for c in range(n_classes)]
    turns = [pool[turn] for turn in range(shots) for pool in pools if turn < len(pool)]
    chosen = [turns[i] for i in rng.permutation(len(turns[:shots]))]
    return tuple((texts[i], int(y[i])) for i in chosen)


def dialogue(messages: Sequence[Mapping[str, str]]) -> str:
    """Turns as plain text for a model without chat template, ready for its answer, which begins with a space."""
    names = {"user": "User: ", "assistant": "Assistant: "}
    turns = [names.get(message["role"], "") + message["content"].strip() for message in messages]
    return "\n\n".join([*turns, "Assistant:"])
