"""Memory that comes back: which models and trainings are alive, what an exception's frames hold, freed pages returned.

Nothing frees a model that something else still holds: the local variables of an exception's frames above all, for
Python keeps the last exception until the next one. So a release lets go of the weights, clears those frames, collects,
empties the device's cache, hands freed pages back to the system, and then looks whether the weights are really gone.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import time
import traceback
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from slmkit.errors import SlmkitError

log = logging.getLogger(__name__)
SHOWN = 5  # holders named in one warning
RAN_OUT = ("can't allocate memory", "out of memory", "unable to allocate", "insufficient memory", "metal::malloc")


@dataclass(eq=False)
class Training:
    """A training under way, listed as long as the function that made it holds it.

    Attributes
    ----------
    model, backend : str
    bits : int
    held_bytes : callable
        Bytes of trained weights, gradients and optimizer states at this moment.
    since : float
        `time.time()` when it began.
    """

    model: str
    backend: str
    bits: int
    held_bytes: Callable[[], int] = field(default=lambda: 0)
    since: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        TRAININGS.add(self)


MODELS: weakref.WeakSet[Any] = weakref.WeakSet()  # LanguageModel: loaded and not released
TRAININGS: weakref.WeakSet[Training] = weakref.WeakSet()


def last_exceptions() -> list[BaseException]:
    """What Python keeps after an error: the last one shown (also by Jupyter), and the one being handled now."""
    kept = (getattr(sys, "last_exc", None), getattr(sys, "last_value", None), sys.exception())
    found = {id(error): error for error in kept if isinstance(error, BaseException)}
    return list(found.values())


def chain(*errors: BaseException) -> Iterator[BaseException]:
    """The exceptions with all that they came from or hold together, each once."""
    seen: set[int] = set()
    todo = list(errors)
    while todo:
        error = todo.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        more = (error.__cause__, error.__context__, *getattr(error, "exceptions", ()))
        todo += [other for other in more if isinstance(other, BaseException)]


def drop_frames(*errors: BaseException | None) -> None:
    """Clear the local variables of every finished frame of these exceptions; a frame that still runs keeps its own.

    Tracebacks print as before. A post-mortem debugger no longer sees the variables.
    """
    for error in chain(*(e for e in errors if e is not None)):
        traceback.clear_frames(error.__traceback__)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            _ = frame.f_locals  # up to Python 3.12 who read them left a copy, which reading them now empties


def give_back(empty_cache: Callable[[], None] | None = None) -> None:
    """Collect, empty the device's cache, and hand freed pages back to the system where its C library can."""
    gc.collect()
    if empty_cache is not None:
        empty_cache()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # only glibc has it
        log.debug("this system's C library has no malloc_trim")


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that memory ran out; torch on a CPU and mlx say it in words only."""
    if isinstance(error, SlmkitError):  # a refusal with the arithmetic in it, or advice already given
        return False
    words = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in words for w in RAN_OUT))


@contextmanager
def given_back(empty_cache: Callable[[], None] | None = None) -> Iterator[None]:
    """Give memory back when the block ends; after an exception the frames inside it are cleared first."""
    try:
        yield
    except BaseException as error:
        drop_frames(error)
        raise
    finally:
        give_back(empty_cache)


def holders(kept: object) -> list[str]:
    """What refers to an object, in words, the caller's own frames left out."""
    own = {id(frame) for frame in _own_frames()}
    found = [_in_words(one) for one in gc.get_referrers(kept) if id(one) not in own]
    return list(dict.fromkeys(found))[:SHOWN]


def _own_frames() -> Iterator[types.FrameType]:
    frame: types.FrameType | None = sys._getframe(1)
    for _ in range(4):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _in_words(holder: Any) -> str:
    if isinstance(holder, types.FrameType):
        return f"a frame of {holder.f_code.co_name}()"
    if isinstance(holder, types.MethodType):
        return f"the bound method {holder.__name__}"
    if isinstance(holder, dict) and "__name__" in holder:
        return f"a variable of module {holder['__name__']}"
    return f"a {type(holder).__name__}"
