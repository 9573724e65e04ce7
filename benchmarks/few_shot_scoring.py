"""Few-shot label scoring: slmkit beside lm-evaluation-harness (HFLM.loglikelihood) on the same prompts.

Work: Financial PhraseBank AllAgree, 6-shot plain prompts, one continuation a label, SmolLM2-135M from the same folder.
Fair to the peer: it keeps its own grouping of one-token continuations (one forward pass a prompt, its default), and it
is given the batch size it is fastest with, found on some of the rows before. "auto" is not among them, for it would
search again in every timed call. Both sides start from strings, both are warm, both have the same threads and dtype,
each has a process of its own. What slmkit does instead: the part that all prompts share is computed once, and the
vocabulary only where it is read.

Speed counts in --dtype (bfloat16). Equality counts in float32: log-likelihoods within 1e-3 nats, same predictions.

    pip install -c constraints.txt -e ".[bnb,bench]"
    SLMKIT_ASSETS=../shared/data python -m benchmarks.few_shot_scoring
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import common

MODEL = "smollm2-135m-instruct"
MIN_RATIO, MAX_DIFFERENCE = 5.0, 1e-3
WARM_UP_ROWS, SEARCH_ROWS = 4, 64
NAMES = ("lm-evaluation-harness", "slmkit")


class Peer:
    """lm-evaluation-harness on a folder; log-likelihoods of the words after each prompt."""

    def __init__(self, folder: str, dtype: str, words: list[str], threads: int | None) -> None:
        import torch
        from lm_eval.models.huggingface import HFLM

        common.set_up(threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.words, self.model = words, HFLM(pretrained=folder, dtype=dtype, device=device, batch_size=8)
        self.found: list[tuple[float, bool]] = []

    def batch(self, size: int) -> None:
        """Rows in one forward pass from now on."""
        self.model.batch_size_per_gpu = size

    def run(self, prompts: Sequence[str]) -> None:
        """Score, from strings."""
        from lm_eval.api.instance import Instance

        pairs = [(prompt, word) for prompt in prompts for word in self.words]
        requests = [Instance("loglikelihood", {}, pair, idx) for idx, pair in enumerate(pairs)]
        self.found = self.model.loglikelihood(requests, disable_tqdm=True)

    def result(self) -> np.ndarray:
        """Log-likelihoods in nats, shape (n_prompts, n_words)."""
        return np.array([value for value, _ in self.found]).reshape(-1, len(self.words))


class Own:
    """slmkit on the same model."""

    def __init__(self, dtype: str, words: list[str], threads: int | None) -> None:
        import slmkit

        self.words, self.model = words, slmkit.load(MODEL, dtype=dtype)
        self.n_threads = common.set_up(threads)
        self.found = np.zeros(0)

    def run(self, prompts: Sequence[str]) -> None:
        """Score, from strings."""
        self.found = self.model.loglikelihood(prompts, self.words)

    def result(self) -> np.ndarray:
        """Log-likelihoods in nats, shape (n_prompts, n_words)."""
        return self.found

    def facts(self) -> dict[str, Any]:
        """Folder of the model's files, which the peer loads too, and torch's threads."""
        return {"folder": str(self.model.source.folder), "threads": self.n_threads}


def prompts_and_words(n: int, shots: int) -> tuple[list[str], list[str]]:
    """`n` prompts of held-out rows, with examples from the training rows, and the continuations."""
    from slmkit import data, prompts, tasks

    task = tasks.get("financial_phrasebank")
    split = data.split(task.load(), seed=0, test=n)
    codes = np.array([task.labels.index(label) for label in split.train["label"]])
    examples = prompts.pick_examples(split.train["text"].tolist(), codes, len(task.labels), shots, seed=0)
    words = prompts.label_words(task.labels, task.label_words)
    prompting = prompts.Prompting(task.instruction, words, task.noun.capitalize(), examples)
    return [prompting.plain(text) for text in split.test["text"]], prompting.continuations(chat=False)


def best_batch_size(peer: common.Side, prompts: list[str], sizes: Sequence[int]) -> int:
    """The peer's fastest batch size on the first rows, as many as the largest batch holds."""
    if len(sizes) == 1:
        return sizes[0]
    seconds, some = {}, prompts[:SEARCH_ROWS]
    for size in sizes:
        peer.call("batch", size)
        seconds[size], _ = peer.call("run", some)
        print(f"peer, batch size {size:>2}: {seconds[size]:6.2f} s for {len(some)} rows", flush=True)
    return min(seconds, key=lambda size: seconds[size])


def compare_speed(arguments: Any, prompts: list[str], words: list[str]) -> dict[str, Any]:
    """The timed part in `--dtype`."""
    with common.Side(Own, arguments.dtype, words, arguments.threads) as own:
        facts = own.call("facts")[1]
        with common.Side(Peer, facts.pop("folder"), arguments.dtype, words, arguments.threads) as peer:
            for side in (peer, own):
                side.call("run", prompts[:WARM_UP_ROWS])
            size = best_batch_size(peer, prompts, arguments.peer_batch_sizes)
            peer.call("batch", size)
            print(f"peer takes batch size {size}; {len(prompts)} rows, {arguments.dtype}\n")
            duel = common.duel(peer, own, prompts, rounds=arguments.rounds, names=NAMES)
            equality = agreement(peer.call("result")[1], own.call("result")[1])
    facts |= {"peer_batch_size": size, "dtype": arguments.dtype, f"{arguments.dtype}_equality": equality}
    return facts | duel.facts(len(prompts))


def compare_values(arguments: Any, prompts: list[str], words: list[str]) -> dict[str, Any]:
    """Both sides in float32, once, untimed."""
    found = []
    with common.Side(Own, "float32", words, arguments.threads) as own:
        folder = own.call("facts")[1]["folder"]
        own.call("run", prompts)
        found.append(own.call("result")[1])
    with common.Side(Peer, folder, "float32", words, arguments.threads) as peer:
        peer.call("run", prompts)
        found.append(peer.call("result")[1])
    return agreement(*found)


def agreement(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """How near two arrays of log-likelihoods are, shape (n_prompts, n_labels) each."""
    same = int((one.argmax(axis=1) == other.argmax(axis=1)).sum())
    return {"n": len(one), "max_abs_difference": float(np.abs(one - other).max()), "same_predictions": same}


def main() -> int:
    """Prompts, speed, equality, verdict."""
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shots", type=int, default=6)
    parser.add_argument("--dtype", choices=common.DTYPES, default="bfloat16", help="of the timed part")
    parser.add_argument("--peer-batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--float32-rows", type=int, help="rows compared in float32; default all, 0 skips that part")
    parser.add_argument("--threads", type=int, help="of torch, for both sides")
    arguments = parser.parse_args()
    common.environment()
    facts = common.describe()
    prompts, words = prompts_and_words(arguments.rows, arguments.shots)
    facts |= {"n": len(prompts), "shots": arguments.shots, "model": MODEL}
    facts |= compare_speed(arguments, prompts, words)
    targets = [common.Target("times as fast as lm-evaluation-harness", facts["ratio"], MIN_RATIO)]
    checked = prompts[: arguments.float32_rows]
    if checked:
        print(f"\ncomparing values of {len(checked)} rows in float32", flush=True)
        facts["float32_equality"] = found = compare_values(arguments, checked, words)
        targets += [
            common.Target("largest difference in float32, nats", found["max_abs_difference"], MAX_DIFFERENCE, False),
            common.Target("same predictions in float32", found["same_predictions"], found["n"]),
        ]
    return common.finish("few_shot_scoring", facts, targets)


if __name__ == "__main__":
    common.run(main)
