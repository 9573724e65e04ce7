"""Records that cross the seam to the engines: a text that was written, weights stored, how a training is watched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Generation:
    """One generated text.

    Attributes
    ----------
    text : str
        The new text, without the prompt and without special tokens.
    n_prompt_tokens, n_new_tokens : int
        Tokens read and tokens written.
    finish_reason : str
        "stop" (the model ended or a stop string came) or "length".
    seconds : float
        Wall time for this text; for a batch, the time of the whole batch.
    """

    text: str
    n_prompt_tokens: int
    n_new_tokens: int
    finish_reason: str
    seconds: float


@dataclass(frozen=True)
class Stored:
    """What a backend wrote: the scheme, and the parameters before quantisation, tied weights once."""

    scheme: str
    n_parameters: int


@dataclass(frozen=True)
class Watch:
    """How a training is kept safe, stopped, and told when to end.

    Attributes
    ----------
    checkpoints : Path or None
        A folder of this training alone. What is found there is gone on with: on the same machine and thread count the
        weights come out bit for bit as without the interruption. The caller removes it (`backends.clear_checkpoints`)
        when what was trained is in its place. None keeps nothing.
    every_s : float
        Seconds between two checkpoints, more where writing one takes long (at most a twentieth of the time is spent
        on them). One is also written at the end of each epoch, and when the training is stopped or fails.
    stop : threading.Event or None
        Once it is set, the training ends after the present step and leaves what it has learned so far.
    held_out : (texts, y), (prompts, answers) or None
        Rows to measure the loss on at the end of each epoch. The weights of the best epoch are what is left.
    patience : int or None
        Epochs without a lower loss on the held-out rows after which the training ends; None goes through all.
    recompute : bool
        Keep of each trained block its input alone and compute the rest anew on the way back: far less memory for one
        more forward pass (a step with adapters takes half as long again), and the same gradients. Without it this
        begins when memory runs out with a single row.
    """

    checkpoints: Path | None = None
    every_s: float = 30.0
    stop: threading.Event | None = None
    held_out: tuple[Sequence[str], Sequence[Any]] | None = None
    patience: int | None = None
    recompute: bool = False
