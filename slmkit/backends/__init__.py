"""Finds the backends beside this file by file name, probes them, and picks one with the reason logged."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from slmkit import adapters, assets
from slmkit.assets import ModelSource, stored
from slmkit.backends import _checkpoints, _memory, _reading
from slmkit.backends.base import Backend, LanguageModel, LoRAConfig, Progress, check_bits
from slmkit.errors import MissingExtra, unknown

log = logging.getLogger(__name__)


def names() -> list[str]:
    """Names of all backends, from the file names in this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base" and not m.name.startswith("_"))


@cache
def get(name: str) -> Backend:
    """The backend of that name, available or not; `InputError` with the near names otherwise."""
    if name not in names():
        raise unknown("backend", name, names())
    backend = importlib.import_module(f"{__name__}.{name}").BACKEND
    assert isinstance(backend, Backend)
    return backend


def imports(name: str | None = None) -> tuple[str, ...]:
    """Modules that an engine needs and takes seconds to import; those of the likeliest where none is named."""
    return get(name or "bnb").imports


def probe() -> dict[str, tuple[bool, str]]:
    """Availability and reason of every backend, by name."""
    return {name: get(name).is_available() for name in names()}


def choose(name: str | None = None) -> Backend:
    """The named backend, or the best this machine can run: mlx on Metal, else bnb, else mlx on a CPU.

    Raises `MissingExtra` with every backend's reason when none can run. `dummy` is never chosen unasked.
    """
    if name is not None:
        backend = get(name)
        ok, reason = backend.is_available()
        if not ok:
            raise MissingExtra(f"backend {name!r} cannot run here: {reason}")
        return backend
    reasons = {}
    for candidate in ("bnb", "mlx"):
        ok, reasons[candidate] = get(candidate).is_available()
        if ok and candidate == "bnb" and " on mps" in reasons["bnb"] and "Metal" in get("mlx").is_available()[1]:
            candidate = "mlx"
        if ok:
            log.info("backend %s: %s", candidate, get(candidate).is_available()[1])
            return get(candidate)
    raise MissingExtra("no backend can run here. " + " ".join(f"{n}: {reason}" for n, reason in reasons.items()))


def engine_for(source: ModelSource, backend: str | None = None) -> Backend:
    """The backend that runs a model: the named one, `dummy` for the dummy model, the one that reads how it is stored,
    else the best this machine has. `InputError` when the named one cannot read it."""
    if source.name == "dummy" and backend is None:
        return get("dummy")
    form = source.stored
    stored.check(form, source.name, None, backend)
    return choose(form.backend if form else backend)


def prepare(source: ModelSource) -> ModelSource:
    """Fill the source's cache folder from its GGUF file, once; other sources are left as they are."""
    if source.gguf is not None and not assets.is_whole(source.folder):
        convert = importlib.import_module(f"{__name__}._torch.gguf").convert
        with assets.atomic_folder(source.folder) as folder:
            convert(source.gguf, folder)
    return source


def count_tokens(name: str, texts: Sequence[str], backend: str | None = None) -> np.ndarray:
    """Tokens of each text for a model, named as `load` names it; int64, shape (n_texts,). No weights are loaded."""
    source = assets.resolve(name)
    return engine_for(source, backend).count_tokens(source, texts)


def read(
    engine: Backend, source: ModelSource, texts: Sequence[str], answers: Sequence[str] | None = None
) -> _reading.Reading | None:
    """Token ids as a training reads them, see `_reading.read`; None from a backend without tokenizer."""
    return _reading.read(engine, source, texts, answers)


def block_distances(
    source: ModelSource, texts: Sequence[str], *, last: bool, angles: bool, max_length: int = 256
) -> np.ndarray:
    """How far the hidden states are apart between any two places of a model: before each block, and after the last.

    Torch only; `MissingExtra` says how to get it.

    Parameters
    ----------
    source : ModelSource
        In 16 bits.
    texts : sequence of str
    last : bool
        Look at the last token of each text, and not at all of them.
    angles : bool
        Angles as shares of half a turn (0 the same direction, 1 the opposite one); else 1 minus the cosine.
    max_length : int
        Tokens read of each text.

    Returns
    -------
    ndarray of float64, shape (n_blocks + 1, n_blocks + 1)
        Means over the tokens.
    """
    found = _torch_only("depth", "hidden states are read").distances
    return np.asarray(found(prepare(source), texts, last=last, angles=angles, max_length=max_length))


def match(
    teacher: ModelSource,
    student: ModelSource,
    texts: Sequence[str],
    *,
    layers: Mapping[int, int],
    cosine: bool,
    config: LoRAConfig,
    out: Path,
    callback: Progress | None = None,
) -> list[dict[str, float]]:
    """Train a student so that its hidden states become its teacher's, and write its config.json and weights to `out`.

    Torch only; `MissingExtra` says how to get it.

    Parameters
    ----------
    teacher, student : ModelSource
        Both in 16 bits, with one tokenizer and hidden states of one width.
    texts : sequence of str
    layers : mapping of int to int
        Block of the student -> block of the teacher whose output it shall have, beside the last hidden states.
    cosine : bool
        1 minus the cosine instead of the squared distance as a share of the teacher's squared length.
    config : LoRAConfig
        Adapters, which are merged in the end, or the weights themselves; without `last_blocks`.
    out : Path
        A folder that exists and is empty.
    callback : callable or None

    Returns
    -------
    list of dict
        As of `Backend.train_lora`.
    """
    found = _torch_only("matching", "hidden states are matched").match
    how: dict[str, Any] = {"layers": layers, "cosine": cosine, "config": config, "out": out, "callback": callback}
    try:
        return list(found(prepare(teacher), prepare(student), texts, **how))
    finally:
        _memory.give_back()


def _torch_only(module: str, what: str) -> Any:
    """A module of the torch engine, for work that no other backend does."""
    ok, reason = get("bnb").is_available()
    if not ok:
        raise MissingExtra(f"{what} with torch alone (backend bnb), which cannot run here: {reason}")
    return importlib.import_module(f"{__name__}._torch.{module}")


def load(
    name: str,
    *,
    bits: int | None = None,
    backend: str | None = None,
    adapter: str | Path | None = None,
    dtype: str | None = None,
) -> LanguageModel:
    """Load a model for inference.

    Parameters
    ----------
    name : str
        A catalog name ("smollm2-135m-instruct", "minilm"), a path to a Hugging Face folder or a GGUF file, or a hub id.
    bits : {16, 8, 4} or None
        How weights are stored. Fewer bits: fewer bytes, not always less time or memory; `slmkit.study` measures it.
        None takes what a folder that `slmkit quantize` wrote is stored in, and 16 for every other model.
    backend : str or None
        "bnb", "mlx" or "dummy"; None probes for the best, and logs why.
    adapter : path or None
        A folder that `slmkit.finetune` or a backend's `train_lora` wrote, on this backend or another: one in another
        layout is converted (`slmkit.adapters`).
    dtype : {"float32", "bfloat16", "float16"} or None
        What to compute in; None takes what this device does best.

    Returns
    -------
    LanguageModel
        A context manager: `with slmkit.load(...) as model:`.

    Raises
    ------
    InputError, AssetError, MissingExtra, NotEnoughMemory
        Unknown name, unusable files, bits or backend other than what is stored, nothing to run it with, no room for it.
    """
    from slmkit import estimate

    if bits is not None:
        check_bits(bits)
    source = assets.resolve(name)
    engine = engine_for(source, backend)
    bits = bits or (source.stored.bits if source.stored else 16)
    estimate.check_fits(source, bits)
    try:
        source = prepare(source)
        own = adapters.for_backend(Path(adapter), engine.name, source) if adapter else None
        model = engine.load(source, bits=bits, adapter=own, dtype=dtype)
        model.adapter = Path(adapter) if adapter else None
        return model
    except BaseException as error:  # its frames hold what was loaded so far
        _memory.drop_frames(error)
        _memory.give_back()
        raise


def merge(backend: str, source: ModelSource, *, bits: int, adapter: Path, out: Path, dtype: str) -> None:
    """Write a model with an adapter in its weights into an empty folder, as plain weights of that type and a tokenizer.

    Parameters
    ----------
    backend : {"bnb", "mlx"}
    source : ModelSource
        A decoder.
    bits : {4, 8, 16}
        What the adapter was trained on; it corrects the weights as these bits hold them.
    adapter, out : Path
        An adapter in that backend's layout; a folder that exists and is empty.
    dtype : {"float32", "bfloat16", "float16"}
        Of the weights that are written; the sum is made in float32.
    """
    package = {"bnb": "_torch", "mlx": "_mlx"}[backend]
    try:
        importlib.import_module(f"{__name__}.{package}.merging").merge(source, bits, adapter, out, dtype)
    finally:
        _memory.give_back()


def unfinished(folder: Path) -> tuple[int, int] | None:
    """Steps done and steps in all of a training that left checkpoints in a folder; None where there are none."""
    found = _checkpoints.newest(folder)
    return (found.facts["step"], found.facts["steps"]) if found else None


def clear_checkpoints(folder: Path) -> None:
    """Remove the checkpoints in a folder, and the folder if nothing else is in it."""
    _checkpoints.clear(folder)


def clear_ended(folder: Path, history: Sequence[Mapping[str, Any]]) -> bool:
    """Remove checkpoints that stand beside what their training left; whether there were any.

    A kill may come between the two. Checkpoints of another training are left, and those of one that was stopped.
    """
    return _checkpoints.clear_ended(folder, history)


def live_models() -> list[LanguageModel]:
    """Models that are loaded and not released."""
    return [model for model in _memory.MODELS if hasattr(model, "device")]


def live_trainings() -> list[_memory.Training]:
    """Trainings under way in this process."""
    return list(_memory.TRAININGS)


def device_bytes() -> dict[str, int]:
    """Memory each backend holds on a GPU, by its name; backends that hold none there are left out."""
    found = {name: get(name).device_bytes() for name in names()}
    return {name: n_bytes for name, n_bytes in found.items() if n_bytes is not None}
