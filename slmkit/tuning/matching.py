"""`slmkit.match_states`: a student of its teacher's family takes over its hidden states, from texts without any label.

What a pruned model lost comes back this way before it is tuned for a task (TinyBERT, Jiao et al. 2020, arXiv
1909.10351, matches states and then labels). It runs on torch alone; the folder it writes is read by every backend.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slmkit import architectures, assets, backends, estimate, files, modelcards, prequantise, splits
from slmkit.assets import ModelSource
from slmkit.backends.base import LoRAConfig, Progress
from slmkit.errors import InputError, unknown
from slmkit.estimator import check_texts
from slmkit.training import ways
from slmkit.tuning import pruning
from slmkit.tuning.distil import check_new

FILE = "slmkit_matched.json"
LOSSES = ("mse", "cosine")
WAYS = ("full", "lora")


@dataclass(frozen=True)
class Matched:
    """What a matching left.

    Attributes
    ----------
    folder : Path
        The student with what it learned in its weights: a Hugging Face folder like any other.
    teacher, student : str
    layers : dict of int to int
        As they were matched, the last hidden states apart.
    loss : str
    n_train, n_test : int
        Texts learned from and held out.
    distance_before, distance_after : float
        Squared distance of the vectors of held-out texts to the teacher's, as a share of the teacher's squared
        lengths: 0 is the same, 1 what a vector of zeros would have. Of decoders the last token's, of encoders means.
    history : list of dict
        See `Backend.train_lora`.
    """

    folder: Path
    teacher: str
    student: str
    layers: dict[int, int]
    loss: str
    n_train: int
    n_test: int
    distance_before: float
    distance_after: float
    history: list[dict[str, float]]


def match_states(
    teacher: str,
    student: str,
    texts: Sequence[str],
    *,
    out: str | Path,
    layers: Mapping[int, int] | str | None = None,
    loss: str = "mse",
    way: str = "full",
    epochs: float = 1,
    learning_rate: float | None = None,
    rank: int = 32,
    batch_size: int = 16,
    max_length: int = 256,
    max_batch_tokens: int = 1024,
    test_share: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Matched:
    """Train a student on texts alone, so that its hidden states become its teacher's.

    Parameters
    ----------
    teacher, student : str
        As `slmkit.load` takes them, in 16 bits: one tokenizer, hidden states of one width.
    texts : sequence of str
        Thousands, like those the student is for.
    out : path
        A new folder for the student.
    layers : mapping of int to int, "pruned" or None
        Block of the student -> block of the teacher whose output it shall have as well; "pruned" takes, for a folder
        of `slmkit.prune` made from this teacher, the place before the next block that was kept. None matches the last
        hidden states alone, which leaves the student the freedom of how it gets there.
    loss : {"mse", "cosine"}
        Squared distance relative to the teacher's length, or the direction alone.
    way : {"full", "lora"}
        Train the weights themselves (18 bytes of memory a weight), or adapters that are merged in the end.
    epochs, learning_rate, rank, batch_size, max_length, max_batch_tokens, seed
        See `LoRAConfig`. None takes the way's own rate.
    test_share : float
        Of the texts, to measure the distance on; near-copies are never split.
    progress : callable or None

    Returns
    -------
    Matched

    Raises
    ------
    InputError, AssetError, MissingExtra, NotEnoughMemory
        Models that do not belong together, unusable settings, no torch.
    """
    final, rows = check_new(out), check_texts(texts)
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    if way not in WAYS:
        raise unknown("way", way, WAYS)
    source, target = assets.resolve(teacher), assets.resolve(student)
    pairs = _layers(source, target, layers)
    trains = ways.get(way).trains
    estimate.check_fits(source, 16)
    full = trains == "weights"
    estimate.check_fits(target, 16, training=True, full=full, batch_tokens=max_batch_tokens, rank=rank)
    parts = splits.hold_out(pd.DataFrame({"text": rows}), seed=seed, test_share=test_share)
    learned, held_out = (part["text"].tolist() for part in (parts.train, parts.test))
    config = LoRAConfig(
        rank=rank,
        alpha=2 * rank,
        epochs=epochs,
        learning_rate=ways.rate(way, learning_rate),
        batch_size=batch_size,
        max_length=max_length,
        max_batch_tokens=max_batch_tokens,
        seed=seed,
        trains=trains,
    )
    with files.on_disk(final, "nothing was written"), assets.atomic_folder(final) as aside:
        aside.chmod(0o755)
        history = backends.match(
            source, target, learned, layers=pairs, cosine=loss == "cosine", config=config, out=aside, callback=progress
        )
        shutil.copyfile(target.folder / "config.json", aside / "config.json")
        prequantise.copy_companions(target, aside)
        told, before, after = (_vectors(name, held_out, max_length) for name in (teacher, student, str(aside)))
        made = Matched(
            final, source.name, target.name, pairs, loss, len(learned), len(held_out),
            distance(told, before), distance(told, after), history,
        )  # fmt: skip
        _write(made, config, [source, target], aside)
    return made


def distance(told: np.ndarray, said: np.ndarray) -> float:
    """Squared distance of vectors (n, hidden) to those of the teacher, as a share of the teacher's squared lengths."""
    return float(((told - said) ** 2).sum() / (told**2).sum())


def _vectors(name: str, texts: list[str], max_length: int) -> np.ndarray:
    with backends.load(name, bits=16, backend="bnb") as model:
        pooling = "last" if model.source.kind == "decoder" else "mean"
        return model.embed(texts, pooling=pooling, max_length=max_length).astype(np.float64)


def _layers(teacher: ModelSource, student: ModelSource, asked: Mapping[int, int] | str | None) -> dict[int, int]:
    """Blocks of the student and of the teacher whose outputs are matched, checked."""
    counts = []
    for source in (teacher, student):
        if source.revision == "builtin" or source.stored:
            raise InputError(f"hidden states are matched in 16 bits; {source.name} is built in or quantised")
        counts.append(architectures.sizes(assets.read_json(backends.prepare(source).folder / "config.json"))["layers"])
    if isinstance(asked, str):
        if asked != "pruned":
            raise InputError(f"layers must be a mapping, 'pruned' or None; got {asked!r}")
        return _gaps(teacher, student)
    pairs = {int(ours): int(theirs) for ours, theirs in (asked or {}).items()}
    beyond = [pair for pair in pairs.items() if not (0 <= pair[0] < counts[1] and 0 <= pair[1] < counts[0])]
    if beyond:
        raise InputError(
            f"layers must map blocks 0 .. {counts[1] - 1} of the student to 0 .. {counts[0] - 1} of the teacher; "
            f"got {dict(beyond)}"
        )
    return pairs


def _gaps(teacher: ModelSource, student: ModelSource) -> dict[int, int]:
    path = student.folder / pruning.CARD
    card: dict[str, Any] = assets.read_json(path) if path.is_file() else {}
    if card.get("base_revision") != teacher.revision:
        raise InputError(
            f"layers='pruned' needs a student that slmkit prune made from the teacher; {student.name} was made from "
            f"{card.get('base', 'something else')} ({card.get('base_revision', 'no ' + pruning.CARD)}), and the "
            f"teacher is {teacher.name} ({teacher.revision})"
        )
    return {ours: following - 1 for ours, following in enumerate(card["kept"][1:])}


def _write(made: Matched, config: LoRAConfig, sources: Sequence[ModelSource], out: Path) -> None:
    base = modelcards.base_of(sources[1])
    facts = {"base": base.name, "base_revision": base.revision, "licence": base.licence}
    facts |= {"teacher_revision": sources[0].revision, "student_revision": sources[1].revision}
    values: dict[str, Any] = {**asdict(made), **facts, "config": asdict(config)}
    values["folder"] = made.folder.name
    (out / FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    n_bytes = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    modelcards.write(out, _card(made, config, modelcards.base_of(sources[0]).name, base, sources[1].kind, n_bytes))


def _card(
    made: Matched, config: LoRAConfig, teacher: str, base: modelcards.Base, kind: str, n_bytes: int
) -> modelcards.Card:
    words, n = "squared distance to the teacher's vectors, share of their length", f"{made.n_test:,} texts"
    return modelcards.Card(
        title=f"{base.name} with the hidden states of its teacher",
        summary=f"Written by slmkit: a student learned from texts alone to have the hidden states of {teacher}.",
        base=base,
        library="transformers",
        tags=("distilled",),
        data=modelcards.Data(rows=f"{made.n_train:,} texts learned, {made.n_test:,} held out"),
        recipe={"teacher": teacher, "loss": made.loss, "layers": made.layers, **asdict(config)},
        scores=[
            modelcards.Score(f"{words}, before", made.distance_before, n=n),
            modelcards.Score(f"{words}, after", made.distance_after, n=n),
        ],
        footprint={"stored": n_bytes},
        load=modelcards.load_whole(kind),
        limits=("A student to tune or to distil labels into; measure it beside its teacher.", *modelcards.LIMITS[1:]),
    )
