"""Tunes on whatever the rows hold, labels or dialogues, and remembers beside the checkpoints what was asked.

So a tuning that was stopped or killed can be gone on with by somebody who knows nothing but its folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from slmkit import assets, backends, dialogues, files, finetune, metrics
from slmkit.backends.base import Progress
from slmkit.errors import InputError
from slmkit.estimator import read_saved
from slmkit.finetune import Tuned, partial_of
from slmkit.training import forgetting
from slmkit.tuning import labels
from slmkit.tuning.labels import TunedLabels

ASKED = "asked.json"
FOR_LABELS = ("text_column", "label_column", "class_weight", "test")  # what dialogues have no use for


@dataclass(frozen=True)
class Left:
    """A tuning that is half done.

    Attributes
    ----------
    step, steps : int
        Of the newest checkpoint, and in all.
    asked : dict
        Arguments of `tune`; empty where a call left it that did not write them down.
    """

    step: int
    steps: int
    asked: dict[str, Any]


def tune(
    model: str,
    data: Any,
    *,
    out: str | Path,
    method: str = "lora",
    progress: Progress | None = None,
    **options: Any,
) -> Tuned | TunedLabels:
    """Tune a model on rows: to sort texts by label, or to answer as in dialogues.

    Parameters
    ----------
    model : str
        As `slmkit.load` takes it.
    data : str, Path or DataFrame
        A task's name or a table with texts and labels; "domain_dialogues" or a table with messages, or with prompt and
        answer.
    out : path
        A new folder. It appears when all is done; until then OUT.partial keeps checkpoints and what was asked, and the
        same call goes on from there.
    method : {"lora", "qlora", "last-k", "full"}
    progress : callable or None
    **options
        Of `slmkit.finetune` or `slmkit.tuning.labels.tune_labels`, whichever the rows are for.

    Raises
    ------
    InputError, AssetError, NotEnoughMemory
        Unusable settings, rows or model; a folder that holds something; no room for it.
    """
    folder = Path(out)
    with _noted(folder, {"model": model, "data": data, "method": method, **options}):
        if hold_dialogues(data):
            if given := [name for name in FOR_LABELS if options.get(name)]:
                raise InputError(f"{', '.join(given)} belong to rows with labels; {data} holds dialogues")
            own = {name: value for name, value in options.items() if name not in FOR_LABELS}
            return finetune.finetune(model, data, out=folder, method=method, progress=progress, **own)
        how: dict[str, Any] = {"max_length": None, **options}
        return labels.tune_labels(model, data, out=folder, way=method, progress=progress, **how)


def hold_dialogues(data: Any) -> bool:
    """Whether rows are for `slmkit.finetune`, by their name or their columns."""
    if isinstance(data, pd.DataFrame):
        return "messages" in data or {"prompt", "answer"} <= {*data}
    return isinstance(data, str | Path) and dialogues.are_in(str(data))


def left(out: str | Path) -> Left | None:
    """The half-done tuning whose folder would be `out`; None where there are no checkpoints."""
    partial = partial_of(Path(out))
    found = backends.unfinished(partial)
    if found is None:
        return None
    asked = assets.read_json(partial / ASKED) if (partial / ASKED).is_file() else {}
    return Left(*found, asked)


def result(out: str | Path) -> tuple[Tuned | TunedLabels, dict[str, Any]] | None:
    """What a finished tuning left in its folder, with model, bits and history as they were written; else None.

    Raises `AssetError` for files that are damaged.
    """
    folder = Path(out)
    if (folder / finetune.FILE).is_file():
        told = assets.read_json(folder / finetune.FILE)
        changes = {name: forgetting.Change(**told[name]) for name in ("learned", "forgotten")}
        own = {name: told[name] for name in Tuned.__dataclass_fields__ if name in told}
        return Tuned(**{**own, "folder": folder, **changes}), told
    if (folder / labels.FILE).is_file():
        told, saved = assets.read_json(folder / labels.FILE), read_saved(folder)
        told |= {"history": saved["state"]["history"], "bits": saved["state"]["bits"]}
        own = {name: told[name] for name in TunedLabels.__dataclass_fields__}
        return TunedLabels(**{**own, "folder": folder}), told
    return None


def lines(told: Tuned | TunedLabels, model: str, bits: int | None) -> list[str]:
    """What a tuning bought, in words: on held-out rows, beside what there was without it."""
    return _label_lines(told) if isinstance(told, TunedLabels) else _answer_lines(told, model, bits)


def _label_lines(told: TunedLabels) -> list[str]:
    floor = metrics.wilson(round(told.floor_accuracy * told.n_test), told.n_test)
    leaked = [f"{told.leaked_test_rows:,} test rows were learned as near-copies"] if told.leaked_test_rows else []
    return [
        f"{told.n_train:,} rows learned, {told.n_test:,} scored",
        f"accuracy: {_share(told.accuracy, told.accuracy_low, told.accuracy_high)}, macro-F1 {100 * told.macro_f1:.1f}",
        f"floor, on the same rows: {_share(told.floor_accuracy, *floor)}, macro-F1 {100 * told.floor_macro_f1:.1f}",
        told.sentence,
        *leaked,
        f"Use it: slmkit classify {told.folder} FILE -o OUTPUT, or slmkit.load_classifier({str(told.folder)!r})",
    ]


def _share(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _answer_lines(told: Tuned, model: str, bits: int | None) -> list[str]:
    return [
        f"{told.n_train:,} answers learned, {told.n_test:,} held out (n = {told.n_tokens:,} tokens)",
        *([_early(told)] if told.n_validation else []),
        f"loss on the held-out answers: {told.loss_before:.3f} before, {told.loss_after:.3f} after (nats a token)",
        f"perplexity of the held-out answers: {told.learned}",
        f"perplexity of a neutral text: {told.forgotten}",
        f"Use it: slmkit.load({model!r}, bits={bits}, adapter={str(told.folder)!r})",
    ]


def _early(told: Tuned) -> str:
    """What early stopping did."""
    epochs = [entry for entry in told.history if "held_out_loss" in entry]
    best = min(epochs, key=lambda entry: entry["held_out_loss"])
    return (
        f"early stopping: epoch {best['epoch'] + 1:.0f} of {len(epochs)} is kept, its loss on {told.n_validation:,} "
        f"answers held back the lowest ({best['held_out_loss']:.3f})"
    )


@contextmanager
def _noted(folder: Path, asked: Mapping[str, Any]) -> Iterator[None]:
    """Keep what was asked beside the checkpoints, as long as there are any."""
    partial = partial_of(folder)
    if not (folder.is_dir() and any(folder.iterdir())) and isinstance(asked["data"], str | Path):
        kept = {name: value for name, value in asked.items() if value is not None and name != "keep_partial"}
        document = json.dumps({**kept, "data": where(asked["data"])}, indent=1, default=str) + "\n"
        labels.new_folder(folder)
        with files.on_disk(partial):
            partial.mkdir(parents=True, exist_ok=True)
            with files.locked(partial, f"another training uses {partial}: wait for it, or choose another folder"):
                if backends.unfinished(partial) is None or not (partial / ASKED).is_file():
                    files.replace(partial / ASKED, document)
    try:
        yield
    finally:
        if partial.is_dir() and backends.unfinished(partial) is None:
            with suppress(OSError):
                (partial / ASKED).unlink(missing_ok=True)
                partial.rmdir()


def where(data: str | Path) -> str:
    """A file by its whole path, so that it is found from elsewhere too; a name as it is."""
    path = Path(data)
    return str(path.resolve()) if path.is_file() else str(data)
