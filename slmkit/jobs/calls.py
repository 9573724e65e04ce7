"""Calls a function and listens to its progress, in this process or as the child process this module is.

What passes between two processes is JSON: numbers, texts, lists, dicts, paths and dataclasses, and never a pickle.
"""

from __future__ import annotations

import importlib
import inspect
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from slmkit import footprint, jobs
from slmkit.errors import InputError

Hear = Callable[[Mapping[str, Any]], None]


def parameters(function: Any) -> set[str]:
    """Names of what a function takes; none of one written in C."""
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return set()


def listening(
    function: Callable[..., Any],
    args: Any,
    kwargs: Mapping[str, Any],
    hear: Hear,
    cancel: threading.Event | None,
) -> Any:
    """Call the function, listening to its progress in whichever way it tells it."""
    known, owner = parameters(function), getattr(function, "__self__", None)
    own = {"progress": hear} if "progress" in known else {}
    if cancel is not None and "cancel" in known:
        own["cancel"] = cancel  # type: ignore[assignment]
    if "progress" in known or not hasattr(owner, "progress"):
        return function(*args, **kwargs, **own)
    before = vars(owner).get("progress")
    owner.progress = hear  # type: ignore[union-attr]
    try:
        return function(*args, **kwargs, **own)
    finally:
        owner.progress = before  # type: ignore[union-attr]


def as_message(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The call as JSON values; `InputError` says what of it a child cannot be given."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if isinstance(function, types.ModuleType):  # one that can be called: `import slmkit.study` puts it there
        module, name = function.__name__, function.__name__.rpartition(".")[2]
    if module in (None, "__main__", "builtins") or not name.isidentifier():
        raise InputError(
            f"a child process can run what a module defines; {name or function!r} lives in this process only"
        )
    where = f"the arguments of {name}"
    return {"function": [module, name], "args": to_json(list(args), where), "kwargs": to_json(dict(kwargs), where)}


def to_json(value: Any, where: str) -> Any:
    """JSON values; a path and a dataclass are marked, anything else is refused."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(item, where) for item in value]
    if isinstance(value, Mapping):
        return {"dict": {str(key): to_json(item, where) for key, item in value.items()}}
    if is_dataclass(value) and not isinstance(value, type):
        own = {f.name: to_json(getattr(value, f.name), where) for f in fields(value) if f.init}
        return {"dataclass": [type(value).__module__, type(value).__name__], "fields": own}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise InputError(
        f"a {type(value).__name__} among {where} cannot pass to or from a child process; numbers, texts, lists, dicts, "
        "paths and dataclasses can. Run it without in_child"
    )


def from_json(value: Any) -> Any:
    """What `to_json` was given; tuples come back as lists."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "path" in value:
        return Path(value["path"])
    if "dict" in value:
        return {key: from_json(item) for key, item in value["dict"].items()}
    module, name = value["dataclass"]
    kind = getattr(importlib.import_module(module), name)
    return kind(**{key: from_json(item) for key, item in value["fields"].items()})


def _serve(message: dict[str, Any], emit: jobs.Emit) -> dict[str, Any]:
    """Be the child: call the function and send its progress and result."""
    module, name = message["function"]
    function = getattr(importlib.import_module(module), name)
    args, kwargs = from_json(message["args"]), from_json(message["kwargs"])

    def tell(event: Mapping[str, Any]) -> None:  # wrapped, for an event of its own may be called "done" or "failed"
        spent = {"cpu_s": time.process_time(), "peak_ram_bytes": footprint.peak_ram_bytes()}
        emit({"event": "progress", "facts": event, **spent})

    found = listening(function, args, kwargs, tell, None)
    return {"result": to_json(found, f"the results of {name}")}


if __name__ == "__main__":
    jobs.serve(_serve, grace_s=jobs.GRACE_S)
