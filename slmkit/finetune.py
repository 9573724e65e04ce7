"""Tunes a decoder on dialogues, and says what it bought: the loss on held-out answers before and after.

Only answers (and that they end) are learned, in the very form in which the model is asked later. Labels are learned by
`slmkit.LoRAClassifier`.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import slmkit
from slmkit import adapters, assets, backends, dialogues, estimate, files, modelcards, splits
from slmkit.assets import ModelSource
from slmkit.backends.base import Backend, LoRAConfig, Progress, Watch
from slmkit.dialogues import Dialogue
from slmkit.errors import InputError
from slmkit.guard import watch
from slmkit.guard.plan import Plan
from slmkit.training import forgetting, recipe, ways

log = logging.getLogger(__name__)
FILE = "finetune.json"


@dataclass(frozen=True)
class Tuned:
    """What a tuning left.

    Attributes
    ----------
    folder : Path
        The adapter, or the trained weights: `slmkit.load(model, bits=..., adapter=folder)`.
    history : list of dict
        See `Backend.train_completion`.
    loss_before, loss_after : float
        Mean cross-entropy in nats over the tokens of held-out answers, their ends included.
    n_train, n_test : int
        Answers learned, and answers held out.
    n_tokens : int
        Tokens of the held-out answers.
    learned, forgotten : Change
        Perplexity before and after with a paired interval: of the held-out answers, and of a neutral text that has
        nothing to do with them (`slmkit.training.forgetting`).
    n_validation : int
        Answers held back from those to learn, for early stopping.
    """

    folder: Path
    history: list[dict[str, float]]
    loss_before: float
    loss_after: float
    n_train: int
    n_test: int
    n_tokens: int
    learned: forgetting.Change
    forgotten: forgetting.Change
    n_validation: int = 0

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop before its last step."""
        return any("stopped" in entry for entry in self.history)

    @property
    def perplexity_before(self) -> float:
        """exp of `loss_before`."""
        return math.exp(self.loss_before)

    @property
    def perplexity_after(self) -> float:
        """exp of `loss_after`."""
        return math.exp(self.loss_after)


def finetune(
    model: str,
    data: Any,
    *,
    out: str | Path,
    bits: int | None = None,
    method: str = "lora",
    backend: str | None = None,
    train: int | None = None,
    test_share: float = 0.2,
    last_blocks: int | None = None,
    epochs: float = 3,
    learning_rate: float | None = None,
    rank: int = 16,
    alpha: int = 32,
    batch_size: int = 16,
    max_length: int = 512,
    max_batch_tokens: int = 1024,
    seed: int = 0,
    early_stopping: bool = False,
    validation_share: float = 0.1,
    checks: bool = True,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    keep_partial: bool = False,
) -> Tuned:
    """Tune a decoder on dialogues: it learns the answers, and where they end, and nothing of the questions.

    Parameters
    ----------
    model : str
        As `slmkit.load` takes it.
    data : str, Path or DataFrame
        "domain_dialogues", or what `slmkit.dialogues.read` reads.
    out : path
        A new folder for the adapter. It appears when all is done, or not at all. Until then OUT.partial beside it holds
        checkpoints; the same call goes on from them, after a kill too, to the same weights bit for bit. After a kill in
        the very moment between, the same call removes what is left of them and returns what is there.
    bits : {16, 8, 4} or None
        How the frozen weights are stored; None takes the method's own.
    method : {"lora", "qlora", "last-k", "full"}
        Adapters on all blocks over 16 bits; the same over 4 (or 8) bits, for less memory; adapters on the last blocks
        alone, which is quicker, since those below are run once (on backend mlx in every epoch); or no adapter but the
        weights themselves, which takes 18 bytes of memory a weight and saves as much as it trained.
    backend : str or None
    train : int or None
        Dialogues to learn from; None takes all that are not held out.
    test_share : float
        Share of the dialogues held out. Near-copies and groups are never split.
    last_blocks : int or None
        Blocks that "last-k" adapts; None takes 8, or half of a model with fewer than 16. With "full" the weights of
        that many last blocks are trained; None trains all there are, embedding and head included.
    learning_rate : float or None
        Peak of the schedule; None takes the method's own, 5e-4 for adapters and 1e-4 for weights. Too high and the
        loss jumps or becomes no number, too low and little is learned in the epochs there are.
    epochs, rank, alpha, batch_size, max_length, max_batch_tokens, seed
        See `LoRAConfig`. Rows longer than `max_length` tokens lose the beginning of their prompt.
    early_stopping : bool
        Hold `validation_share` of the dialogues to learn back, measure the loss on their answers after each epoch, end
        after two epochs without a lower one and keep the best epoch's weights. Guards against too many epochs, at the
        price of dialogues that are not learned. The held-out ones take no part in it.
    validation_share : float
        Near-copies and groups stay on one side.
    checks : bool
        Whether silent mistakes are looked for before and after (`slmkit.guard`), in seconds. Warnings are logged and
        stand in finetune.json. False saves the seconds; an end that is not learned, or an adapter that was not applied,
        then go unnoticed, and `slmkit doctor --model` has nothing to compare the folder with.
    progress : callable or None
        Gets the events of `Backend.train_completion`.
    stop : threading.Event or None
        Once it is set, what was learned so far is written to `out`; OUT.partial stays, so that it can be gone on with.
    keep_partial : bool
        Learn no further: make an adapter of the checkpoint that an interrupted call left, given the same settings.

    Returns
    -------
    Tuned

    Raises
    ------
    InputError, AssetError, NotEnoughMemory
        Unusable settings, data or model; a folder that holds something; no room for it; a check that failed (of those
        after the training the folder is kept).
    """
    folder = Path(out)
    ended = _ended(folder)
    if ended is None:
        _check_new(folder, keep_partial)
    source = assets.resolve(model)
    way = ways.get(method)
    bits, last_blocks = ways.choose(method, bits, last_blocks, source, writes=True)
    split = dialogues.split(data, seed=seed, train=train, test_share=test_share)
    rows = [*_parted(split.train, validation_share if early_stopping else None, seed), split.test]
    config = LoRAConfig(
        rank=rank, alpha=alpha, epochs=epochs, learning_rate=ways.rate(method, learning_rate), batch_size=batch_size,
        last_blocks=last_blocks, max_length=max_length, max_batch_tokens=max_batch_tokens, seed=seed, trains=way.trains,
    )  # fmt: skip
    about: dict[str, Any] = {"slmkit": slmkit.__version__, "model": source.name, "revision": source.revision}
    about |= {"bits": bits, "method": method, "config": asdict(config), "data": _about_data(data)}
    about |= {"dialogues": dict(zip(("learned", "held back", "held out"), map(len, rows), strict=True))}
    if ended is not None:
        return _as_before(folder, ended, about)
    width = max(max_batch_tokens, max_length)  # a row beyond the budget is a batch of its own
    needs: dict[str, Any] = {"batch_tokens": width, "last_blocks": last_blocks, "rank": rank, "backend": backend}
    lean = estimate.check_training(source, bits, full=way.trains == "weights", **needs)
    engine, source = backends.engine_for(source, backend), backends.prepare(source)
    learned, checked, held_out = (_answers(engine, source, part) for part in rows)
    told: dict[str, Any] = {"questions": learned.turns, "answers": learned.answers}
    told |= {"learned": learned.texts, "held_out": [*held_out.texts, *checked.texts]}
    plan = Plan(engine, source, bits, config, learned.prompts, **told)
    early = watch.before(plan) if checks else []
    before, neutral = _score(engine, source, bits, None, held_out, max_length)
    safety = Watch(
        checkpoints=partial_of(folder), stop=_set() if keep_partial else stop, recompute=lean,
        held_out=(checked.prompts, checked.answers) if early_stopping else None,
        patience=recipe.PATIENCE if early_stopping else None,
    )  # fmt: skip
    with files.on_disk(folder), _beside(folder) as aside:
        history = engine.train_completion(
            source, learned.prompts, learned.answers, bits=bits, config=config, out=aside, callback=progress,
            watch=safety,
        )  # fmt: skip
        after, neutral_after = _score(engine, source, bits, aside, held_out, max_length)
        change, forgotten = forgetting.compare(before, after), forgetting.compare(neutral, neutral_after)
        losses = math.log(change.perplexity_before), math.log(change.perplexity_after)
        guard = watch.after(plan, aside, history, early, losses) if checks else {}
        tuned = Tuned(
            folder=folder, history=history, loss_before=losses[0], loss_after=losses[1], n_train=len(learned.answers),
            n_test=len(held_out.answers), n_tokens=change.n_tokens, learned=change, forgotten=forgotten,
            n_validation=len(checked.answers),
        )  # fmt: skip
        about |= {"backend": engine.name, "guard": guard, "computed_in": adapters.facts_of(aside).get("computed_in")}
        _write(aside, tuned, about, source)
    if not tuned.stopped:  # half a training need not pass
        backends.clear_checkpoints(partial_of(folder))
        watch.settle(plan, guard, f"the adapter is kept in {folder}")
    return tuned


def _check_new(out: Path, keep_partial: bool) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"out must be a new or an empty folder; {out} exists. Choose another one or remove it")
    partial = partial_of(out)
    if keep_partial and backends.unfinished(partial) is None:
        raise InputError(f"{partial} holds no checkpoint: there is nothing to keep. Tune without keep_partial first")


def partial_of(out: Path) -> Path:
    """Where the checkpoints of a tuning stand until its adapter is in place."""
    return out.with_name(out.name + ".partial")


def _ended(folder: Path) -> dict[str, Any] | None:
    """What a call wrote that was killed when all was in place but its checkpoints, which are removed; else None."""
    if not (folder / FILE).is_file() or assets.problem_with(folder):
        return None
    told: dict[str, Any] = assets.read_json(folder / FILE)
    return told if backends.clear_ended(partial_of(folder), told["history"]) else None


def _as_before(folder: Path, ended: Mapping[str, Any], about: Mapping[str, Any]) -> Tuned:
    """The tuning that ended, if it is the one asked for."""
    asked = json.loads(json.dumps(about))
    if changed := [name for name in asked if name != "slmkit" and asked[name] != ended.get(name)]:
        raise InputError(
            f"out must be a new or an empty folder; {folder} is complete and differs in {', '.join(changed)}"
        )
    log.warning("the work is done: %s is complete, and the checkpoints that a kill left beside it are removed", folder)
    names = [name for name in Tuned.__dataclass_fields__ if name in ended]
    changes = {name: forgetting.Change(**ended[name]) for name in ("learned", "forgotten")}
    return Tuned(**{"folder": folder, **{name: ended[name] for name in names}, **changes})


def _set() -> threading.Event:
    stop = threading.Event()
    stop.set()
    return stop


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder to fill among the checkpoints; what killed calls left there is removed."""
    partial = partial_of(folder)
    for left in partial.glob(f".{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        with assets.atomic_folder(folder, partial) as aside:
            yield aside
    finally:
        with suppress(OSError):  # it holds checkpoints
            partial.rmdir()


@dataclass(frozen=True)
class _Answers:
    """Answers with what was said before each, rendered and as turns, and the texts that tell their dialogues apart."""

    prompts: list[str]
    answers: list[str]
    turns: list[Sequence[Mapping[str, str]]]
    texts: list[str]


def _parted(rows: pd.DataFrame, share: float | None, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Dialogues to learn and dialogues to measure the loss on; near-copies and groups stay on one side."""
    if share is None:
        return rows, rows.iloc[:0]
    if not 0 < share < 1:
        raise InputError(f"validation_share must be between 0 and 1; got {share!r}")
    try:
        parts = splits.hold_out(rows, seed=seed, test_share=share)
    except InputError as error:
        raise InputError(f"early_stopping holds dialogues back, and these allow none: {error}") from error
    return parts.train, parts.test


def _answers(engine: Backend, source: ModelSource, part: pd.DataFrame) -> _Answers:
    rows: list[Dialogue] = list(part["dialogue"])
    found = [answer for row in rows for answer in row.answers()]
    turns = [before for before, _ in found]
    return _Answers(engine.dialogue_prompts(source, turns), [a for _, a in found], list(turns), list(part["text"]))


def _score(
    engine: Backend,
    source: ModelSource,
    bits: int,
    adapter: Path | None,
    asked: _Answers,
    max_length: int,
) -> tuple[forgetting.Scored, forgetting.Scored]:
    """What the model finds of answers after their prompts, and of the neutral text."""
    with engine.load(source, bits=bits, adapter=adapter) as model:
        found = forgetting.Scored(*model.answer_loglikelihood(asked.prompts, asked.answers, max_length))
        if not found.n_tokens.sum():
            raise InputError(f"no held-out answer fits into max_length={max_length} tokens")
        return found, forgetting.score(model)


def _about_data(data: Any) -> dict[str, str | None]:
    """What the card says of the data."""
    if isinstance(data, str) and data == dialogues.SHIPPED:
        from slmkit_data import path

        file = path(f"{data}.jsonl")
        return {"name": data, "licence": "CC BY 4.0", "sha256": files.sha256_of(file), "card": f"{data}.md"}
    if isinstance(data, str | Path):
        return {"name": Path(data).name, "sha256": files.sha256_of(Path(data))}
    return {}


def _write(folder: Path, tuned: Tuned, facts: dict[str, Any], source: ModelSource) -> None:
    values = {**facts, **asdict(tuned)}
    del values["folder"]
    (folder / FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    n_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    modelcards.write(folder, modelcards.for_tuning(values, modelcards.base_of(source), n_bytes))


class _Callable(types.ModuleType):
    __call__ = staticmethod(finetune)


sys.modules[__name__].__class__ = _Callable  # so that `slmkit.finetune(...)` works once this module was imported
