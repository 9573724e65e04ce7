"""`slmkit merge`: an adapter inside its model's weights, as a folder of its own, measured before and after.

The adapter is added to weights taken out of their 4 or 8 bits and kept in 16; adding it to packed ones would round it
away (transformers issue 31293). Asked for, the result is quantised again, and what that costs is measured too. A merge
that does not say what base and adapter said together is refused, and leaves nothing.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy.special import softmax

from slmkit import adapters, assets, backends, estimate, files, footprint, modelcards, prequantise
from slmkit.assets import ModelSource, stored
from slmkit.backends.base import Backend, check_bits
from slmkit.errors import AssetError, InputError, NotEnoughMemory, SlmkitError
from slmkit.training import forgetting

log = logging.getLogger(__name__)
N_TEXTS = 8  # of the neutral text
LEAST = 0.02  # nats a token, or probability, that a merge may be off on any text: rounding to 16 bits does that
SHARE = 0.2  # of what the adapter changes, where that is more
BYTES_A_WEIGHT = 6  # while merging: float32, and 16 bits beside it


@dataclass(frozen=True)
class Merged:
    """A merged model, and what was measured.

    Attributes
    ----------
    folder : Path
        A Hugging Face folder: `slmkit.load(folder)`.
    base, base_revision, licence : str
        The model it was made from, and the licence that holds for both.
    adapter_sha256 : str
        Of the adapter's weights.
    backend : str
    base_bits, bits : int
        What the adapter was trained on, and what the folder holds.
    unit : str
        What was compared on each text: "nats a token", or "probability" for a classifier's head.
    n_texts : int
    loss_adapter, loss_merged, loss_stored : float or None
        Mean cross-entropy in nats a token: of base and adapter side by side, of the merged weights in 16 bits, and in
        fewer bits. None for a classifier, and for bits not asked for.
    effect, shift_merged, shift_stored : float or None
        The largest difference on any text, in `unit`: what the adapter changes at all, merged from side by side, and
        stored in few bits from merged. All are computed in float32, so that nothing but the weights differs.
    stored_bytes : int
        Of the weights in the folder.
    """

    folder: Path
    base: str
    base_revision: str
    licence: str
    adapter_sha256: str
    backend: str
    base_bits: int
    bits: int
    unit: str
    n_texts: int
    loss_adapter: float | None
    loss_merged: float | None
    loss_stored: float | None
    effect: float
    shift_merged: float
    shift_stored: float | None
    stored_bytes: int


@dataclass(frozen=True)
class _Answers:
    """What a model says of each text: nats a token (n,), or probabilities (n, n_classes)."""

    values: np.ndarray
    loss: float | None

    def shift_from(self, other: _Answers) -> float:
        return float(np.abs(self.values - other.values).max())


def merge(
    model: str,
    adapter: str | Path,
    *,
    out: str | Path,
    bits: int = 16,
    backend: str | None = None,
    texts: Sequence[str] | None = None,
) -> Merged:
    """Write a model with an adapter in its weights.

    Parameters
    ----------
    model : str
        As `slmkit.load` takes it: the one the adapter was trained on.
    adapter : path
        What `slmkit tune` wrote (weights trained as a whole too), a saved `LoRAClassifier`, or an adapter of PEFT or
        mlx-lm.
    out : path
        A new or an empty folder. It is there when it is complete, and not before.
    bits : {16, 8, 4}
        How the merged weights are kept. 16 gives a folder that transformers (and, of most architectures, mlx-lm)
        reads; fewer are quantised anew from it, and cost what `Merged` says.
    backend : {"bnb", "mlx"} or None
        What merges, and reads the folder if it is quantised. None takes the one the adapter was trained with.
    texts : sequence of str or None
        What is compared; None takes passages of the neutral text.

    Returns
    -------
    Merged

    Raises
    ------
    InputError, AssetError, NotEnoughMemory, SlmkitError
        An adapter of another model or template, a damaged one, a folder that holds something, no room, or a merged
        model that answers otherwise than the adapter did: nothing is written.
    """
    check_bits(bits)
    folder, given = Path(out).expanduser().absolute(), _adapter_in(Path(adapter))
    adapters.check_new(folder)
    source, facts = assets.resolve(model), adapters.facts_of(given)
    engine = _engine(source, backend, facts.get("backend"))
    base_bits = int(facts.get("bits") or (source.stored.bits if source.stored else 16))
    _check_room(source, folder, bits)
    source = backends.prepare(source)
    own = adapters.for_backend(given, engine.name, source)
    chosen = forgetting.passages()[:N_TEXTS] if texts is None else list(texts)
    with files.on_disk(folder, "nothing was written"), assets.atomic_folder(folder) as aside:
        base = modelcards.base_of(source)
        before = _ask(engine, source, base_bits, own, own, chosen)
        effect = before.shift_from(_ask(engine, source, base_bits, None, own, chosen))
        whole = _merge(engine, source, base_bits, own, aside / f"{Path(base.name).name}-merged")
        merged = _ask(engine, whole, 16, None, own, chosen)
        _check(merged.shift_from(before), effect, given)
        kept, few = whole.folder, None
        if bits != 16:
            kept = aside / "stored"
            prequantise.quantize(str(whole.folder), out=kept, bits=bits, backend=engine.name)
            few = _ask(engine, assets.resolve(str(kept)), bits, None, own, chosen)
        done = Merged(
            folder=folder,
            base=base.name,
            base_revision=base.revision,
            licence=base.licence,
            adapter_sha256=_sha256(given),
            backend=engine.name,
            base_bits=base_bits,
            bits=bits,
            unit="nats a token" if merged.loss is not None else "probability",
            n_texts=len(chosen),
            loss_adapter=before.loss,
            loss_merged=merged.loss,
            loss_stored=few.loss if few else None,
            effect=effect,
            shift_merged=merged.shift_from(before),
            shift_stored=few.shift_from(merged) if few else None,
            stored_bytes=_weight_bytes(kept),
        )
        _move_up(kept, aside)
        _add_files(done, base, source, given, aside)
        aside.chmod(0o755)  # a temporary folder is closed to others
    return done


def _adapter_in(folder: Path) -> Path:
    """The adapter's folder: the one given, or that of a saved classifier."""
    found = folder / "adapter" if (folder / "adapter").is_dir() else folder
    if adapters.file_of(found) is None:
        raise AssetError(adapters.no_adapter(found))
    return found


def _sha256(adapter: Path) -> str:
    return files.sha256_of(adapters.file_of(adapter) or adapter)


def _engine(source: ModelSource, named: str | None, trained_with: str | None) -> Backend:
    if source.kind != "decoder" or source.revision == "builtin":
        raise InputError(f"only a decoder's adapter can be merged; {source.name!r} is not one with weights")
    if named is None and trained_with in adapters.LAYOUTS and backends.get(trained_with).is_available()[0]:
        named = trained_with
    engine = backends.engine_for(source, named)
    if engine.name not in adapters.LAYOUTS:
        raise InputError(f"backend must be one of {', '.join(adapters.LAYOUTS)} to merge; got {engine.name!r}")
    return engine


def _check_room(source: ModelSource, folder: Path, bits: int) -> None:
    """Refuse what memory or disk have no room for, with the figures."""
    n_bytes = estimate.stored_bytes(source, 16)
    need, (limit, origin) = BYTES_A_WEIGHT * n_bytes // 2, footprint.memory_limit()
    if need > limit:
        raise NotEnoughMemory(
            f"merging into {source.name} takes about {need / 1e9:,.1f} GB ({BYTES_A_WEIGHT} bytes a weight) but this "
            f"process may use {limit / 1e9:,.1f} GB ({origin}); merge on a machine with more, the folder can be copied"
        )
    there = next(parent for parent in folder.parents if parent.exists())
    need = n_bytes + (3 * estimate.stored_bytes(source, bits) if bits != 16 else 0)
    free = shutil.disk_usage(there).free
    if need > free:
        raise SlmkitError(
            f"{folder}: merging takes about {need / 1e6:,.0f} MB of the disk and {free / 1e6:,.0f} MB are free; make "
            "room, or name a folder on another disk"
        )


def _merge(engine: Backend, source: ModelSource, base_bits: int, adapter: Path, out: Path) -> ModelSource:
    out.mkdir()
    backends.merge(engine.name, source, bits=base_bits, adapter=adapter, out=out, dtype=_sixteen(source))
    for path in {path for pattern in prequantise.TERMS for path in source.folder.glob(pattern)}:
        shutil.copyfile(path, out / path.name)
    return assets.resolve(str(out))


def _sixteen(source: ModelSource) -> str:
    config = assets.read_json(source.folder / "config.json")
    return "float16" if "float16" in (config.get("dtype"), config.get("torch_dtype")) else "bfloat16"


def _ask(
    engine: Backend, source: ModelSource, bits: int, adapter: Path | None, made_with: Path, texts: list[str]
) -> _Answers:
    """What a model says of texts: through the adapter's head if it has one, else the tokens themselves."""
    head = made_with / adapters.HEAD
    with engine.load(source, bits=bits, adapter=adapter, dtype="float32") as model:
        if head.is_file():
            arrays = load_file(head)
            vectors = model.embed(texts, pooling="last").astype(np.float64)
            return _Answers(softmax(vectors @ arrays["weight"].T + arrays["bias"], axis=1), None)
        found = forgetting.score(model, texts)
    return _Answers(-found.nats / found.n_tokens, float(-found.nats.sum() / found.n_tokens.sum()))


def allowed(effect: float) -> float:
    """How far merged weights may be from base and adapter side by side, by what the adapter changes."""
    return max(LEAST, SHARE * effect)


def _check(shift: float, effect: float, adapter: Path) -> None:
    if not shift <= allowed(effect):
        raise SlmkitError(
            f"the merged weights do not say what base and adapter say together ({adapter}): they differ by {shift:.3f} "
            f"on a text where {allowed(effect):.3f} is allowed. Nothing was written"
        )


def _weight_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("model*.safetensors"):
        with open(path, "rb") as file:
            total += path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")
    return total


def _move_up(kept: Path, aside: Path) -> None:
    """Make a folder's files those of `aside`, and nothing else of it stay."""
    for path in kept.iterdir():
        if path.name != assets.MANIFEST:
            path.replace(aside / path.name)
    for path in list(aside.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)


def _add_files(done: Merged, base: modelcards.Base, source: ModelSource, adapter: Path, out: Path) -> None:
    if (adapter / adapters.HEAD).is_file():
        shutil.copyfile(adapter / adapters.HEAD, out / adapters.HEAD)
    facts = {**asdict(done), "created_utc": datetime.now(UTC).isoformat(timespec="seconds")}
    del facts["folder"]
    (out / modelcards.MERGED).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if (out / stored.CARD).is_file():  # it names the merged folder, which is gone
        card = assets.read_json(out / stored.CARD)
        card |= {"base": base.name, "base_revision": base.revision, "licence": base.licence}
        (out / stored.CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    modelcards.write(out, _card(done, base, adapter))


def _card(done: Merged, base: modelcards.Base, adapter: Path) -> modelcards.Card:
    data, recipe, scores = modelcards.of_tuning(adapter)
    where = f"n = {done.n_texts} texts"
    scores += [
        modelcards.Score("nats a token, base and adapter side by side", done.loss_adapter, n=where),
        modelcards.Score("nats a token, merged in 16 bits", done.loss_merged, n=where),
    ] * (done.loss_adapter is not None)  # fmt: skip
    scores.append(modelcards.Score(f"largest change by the adapter, {done.unit}", done.effect, n=where))
    scores.append(modelcards.Score(f"largest difference by merging, {done.unit}", done.shift_merged, n=where))
    if done.bits != 16:
        words = f"largest difference by {done.bits} bits, {done.unit}"
        scores.append(modelcards.Score(words, done.shift_stored, n=where))
    return modelcards.Card(
        title=f"{base.name} with an adapter merged in, {done.bits} bits",
        summary="Written by slmkit merge: the weights of the base model with those of an adapter added.",
        base=base,
        library="transformers" if done.bits == 16 else "mlx" if done.backend == "mlx" else "slmkit",
        tags=("merged", "lora", *([f"{done.bits}-bit"] if done.bits != 16 else [])),
        data=data,
        recipe={**recipe, "merged into": f"weights as {done.base_bits} bits hold them, in float32, then rounded",
                "adapter sha256": done.adapter_sha256},
        scores=scores,
        footprint={"stored": done.stored_bytes},
        load=_how_to_load(done.bits, (adapter / adapters.HEAD).is_file()),
        limits=modelcards.LIMITS,
    )  # fmt: skip


def _how_to_load(bits: int, head: bool) -> str:
    lines = ["import slmkit", "", f'with slmkit.load("THIS_FOLDER", bits={bits}) as model:']
    if not head:
        return "\n".join([*lines, '    print(model.generate(["..."])[0].text)'])
    lines.insert(1, "from safetensors.numpy import load_file")
    lines.insert(2, "")
    lines.insert(3, 'head = load_file("THIS_FOLDER/head.safetensors")')
    last = (
        '    scores = model.embed(["..."], pooling="last") @ head["weight"].T + head["bias"]  # softmax: probabilities'
    )
    return "\n".join([*lines, last])
