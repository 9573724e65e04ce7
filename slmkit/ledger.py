"""Who holds memory in this process: models, adapters, trainings, figures, the last traceback's frames, Jupyter's Out[].

Only what is there is looked at: nothing is imported, loaded or moved. Frames and Out[] keep memory from coming back in
a notebook; `with slmkit.load(...)` and `release()` clear the frames, Out[] is the person's own.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from slmkit import backends
from slmkit.backends import _memory

NAME_WIDTH = 48


@dataclass(frozen=True)
class Holder:
    """One that holds memory.

    Attributes
    ----------
    kind : str
        "model", "adapter", "training", "figure", "traceback" or "output".
    name : str
        What it is called: a model's name, a frame's function, a cell's number.
    n_bytes : int or None
        Bytes of weights, arrays or tensors it holds; None where they cannot be counted.
    detail : str
        What else is known of it.
    """

    kind: str
    name: str
    n_bytes: int | None
    detail: str = ""


@dataclass(frozen=True, repr=False)
class Ledger:
    """Everything found, the process's own size, and what the backends hold on a GPU; prints as a table.

    Attributes
    ----------
    holders : tuple of Holder
    rss_bytes : int
        Resident memory of this process.
    device_bytes : dict of str to int
        Memory each backend holds on a GPU; empty on a CPU.
    """

    holders: tuple[Holder, ...]
    rss_bytes: int
    device_bytes: Mapping[str, int]

    def __str__(self) -> str:
        rows = [(one.kind, _cut(one.name), _megabytes(one.n_bytes), one.detail) for one in self.holders]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
        on_device = [f"{_megabytes(n)} on the GPU by {name}" for name, n in self.device_bytes.items()]
        total = ", ".join([f"{_megabytes(self.rss_bytes)} in this process", *on_device])
        return "\n".join([*(lines or ["nothing of slmkit's is alive"]), total])

    __repr__ = __str__


def memory() -> Ledger:
    """Look who holds memory now.

    Returns
    -------
    Ledger
        Largest first within each kind; `print` shows a table, Jupyter shows it as a cell's last value.
    """
    found: list[Holder] = []
    for look in (_models, _trainings, _figures, _frames, _outputs):
        found += sorted(look(), key=lambda one: -(one.n_bytes or 0))
    return Ledger(tuple(found), int(psutil.Process().memory_info().rss), backends.device_bytes())


def _models() -> Iterator[Holder]:
    for model in backends.live_models():
        detail = f"{model.bits} bits ({model.scheme}), {model.backend} on {model.device}, from {model.source.folder}"
        yield Holder("model", model.source.name, model.weight_bytes(), detail)
        if model.adapter is not None:
            stored = [p.stat().st_size for p in Path(model.adapter).glob("adapter*.safetensors")]
            yield Holder("adapter", str(model.adapter), sum(stored) or None, f"on {model.source.name}")


def _trainings() -> Iterator[Holder]:
    for one in backends.live_trainings():
        seconds = time.time() - one.since
        detail = f"adapter, gradients and optimizer; {one.bits} bits, {one.backend}, for {seconds:.0f} s"
        yield Holder("training", one.model, one.held_bytes(), detail)


def _figures() -> Iterator[Holder]:
    kind = getattr(sys.modules.get("plotly.basedatatypes"), "BaseFigure", None)
    if kind is None:
        return
    for figure in (one for one in gc.get_objects() if issubclass(type(one), kind)):  # asks no object for its class
        held = _size_of_all(trace[name] for trace in figure.data for name in trace)
        title = figure.layout.title.text or "without a title"
        yield Holder("figure", str(title), held, f"plotly, {len(figure.data)} traces")


def _frames() -> Iterator[Holder]:
    seen: set[int] = set()
    for error in _memory.chain(*_memory.last_exceptions()):
        traceback = error.__traceback__
        while traceback is not None:
            frame, traceback = traceback.tb_frame, traceback.tb_next
            if frame.f_locals is not frame.f_globals and frame.f_locals and id(frame) not in seen:
                seen.add(id(frame))
                held = _size_of_all(frame.f_locals.values())
                detail = f"{len(frame.f_locals)} variables kept by the last {type(error).__name__}"
                yield Holder("traceback", f"{frame.f_code.co_name}()", held, detail)


def shell() -> Any:
    """The IPython shell that this runs in, one with a `kernel` in a notebook; None elsewhere."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def _outputs() -> Iterator[Holder]:
    here = shell()
    kept = {} if here is None else here.user_ns.get("Out", {})
    for number, value in dict(kept).items():
        yield Holder("output", f"Out[{number}]", _size(value), f"{type(value).__name__}; free it with: %reset -f out")


def _size(value: Any) -> int:
    """Bytes of an array or tensor, else what Python counts for the object itself."""
    n_bytes = getattr(value, "nbytes", None)
    return n_bytes if isinstance(n_bytes, int) else sys.getsizeof(value, 0)


def _size_of_all(values: Iterable[Any]) -> int:
    return sum(_size(value) for value in {id(value): value for value in values}.values())


def _megabytes(n_bytes: int | None) -> str:
    return "?" if n_bytes is None else f"{n_bytes / 1e6:,.1f} MB"


def _cut(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"...{name[-NAME_WIDTH + 3 :]}"
