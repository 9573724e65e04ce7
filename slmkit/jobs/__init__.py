"""Runs a job in a fresh child process: the only way to get all memory back, to measure a peak that is one job's own,
and to outlive a crash or the out-of-memory killer.

The parent writes one JSON line to the child's stdin and keeps it open; the child answers with JSON lines, the last of
which is {"event": "done"} or {"event": "failed"}. A further line asks it to stop, as Ctrl-C would. A child whose stdin
ends has lost its parent and stops.
"""

from __future__ import annotations

import _thread
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from slmkit.errors import SlmkitError
from slmkit.files import disk_full
from slmkit.jobs.nursery import Child, Nursery

Process = subprocess.Popen[bytes] | Child
Event = Mapping[str, Any]
Emit = Callable[[Event], None]

ORPHANED = 70
TAIL_CHARACTERS = 1500
STOP = b"stop\n"
GRACE_S = 10.0  # for a last checkpoint
POLL_S = 0.2


class JobFailed(SlmkitError):
    """A child process that brought no result.

    Attributes
    ----------
    kind : str
        Class name of the exception in the child; "signal", "exit" or "timeout" when there was none.
    peak_rss_bytes : int
        The largest resident memory the child reported, 0 if it reported none.
    """

    def __init__(self, message: str, kind: str, peak_rss_bytes: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.peak_rss_bytes = peak_rss_bytes


class Cancelled(SlmkitError):
    """The caller's `cancel` event was set; the child is gone, what was finished is kept."""


def run_child(
    job: Mapping[str, Any],
    *,
    on_event: Emit | None = None,
    timeout: float | None = None,
    cancel: threading.Event | None = None,
    grace_s: float = 0.0,
    log_path: Path | None = None,
    module: str = "slmkit.evaluate",
    nursery: Nursery | None = None,
) -> dict[str, Any]:
    """Run one job in a fresh process and wait for its result.

    Parameters
    ----------
    job : mapping
        JSON values only.
    on_event : callable or None
        Gets every event in between; an exception it raises ends the child and comes out of here.
    timeout : float or None
        Seconds after which the child is killed.
    cancel : threading.Event or None
        Set it from another thread to end the child within a fraction of a second (`Cancelled`).
    grace_s : float
        Above 0 the child is first asked to stop, as by Ctrl-C, and ended only if it is still there after these seconds:
        a training keeps its last step as a checkpoint, for which `serve` must be told to listen.
    log_path : Path or None
        Where the child's stderr, and whatever libraries print, is appended. None throws it away.
    module : str
        What `python -m` runs; it has to call `serve`.
    nursery : Nursery or None
        What forks the child from a process that has imported that module and more, where that can be; the child is
        started afresh otherwise.

    Returns
    -------
    dict
        What the job returned, and `peak_rss_bytes` of its process.

    Raises
    ------
    JobFailed
        The job raised, was killed (out of memory, most often) or took too long. The message says which.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    start = log_path.stat().st_size if log_path is not None and log_path.exists() else 0
    with _child(module, log_path, nursery) as process:
        _send(process, job)
        last, peak = _follow(process, on_event, deadline, cancel, grace_s)
        code = process.wait() if last is None else 0
    if last is None and isinstance(process, Child) and process.unborn:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        how: dict[str, Any] = {"on_event": on_event, "timeout": left, "cancel": cancel, "grace_s": grace_s}
        return run_child(job, log_path=log_path, module=module, **how)
    if last is not None and last["event"] == "done":
        return {**last["result"], "peak_rss_bytes": peak}
    if last is not None:
        raise JobFailed(last["error"], last["kind"], peak)
    raise JobFailed(*_death(code, _tail(log_path, start)), peak)


def serve(function: Callable[[dict[str, Any], Emit], dict[str, Any]], *, grace_s: float = 0.0) -> None:
    """Be the child: read the job, run it, report; never returns.

    Parameters
    ----------
    function : callable
        Gets the job and `emit`, which sends one event to the parent and may be called from any thread.
    grace_s : float
        Above 0 a `KeyboardInterrupt` comes out of the function when the parent asks to stop or is gone, and it has so
        many seconds to end; 0 ends it at once.
    """
    emit = _take_over_stdout()
    job: dict[str, Any] = {}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if grace_s:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        job = json.loads(_read_line(0))
        threading.Thread(target=_end_with_parent, args=(grace_s,), daemon=True).start()
        emit({"event": "done", "result": function(job, emit)})
        code = 0
    except BaseException as error:
        traceback.print_exc()
        emit(
            {"event": "failed", "error": describe(error, job.get("job", job).get("out")), "kind": type(error).__name__}
        )
        code = 1
    sys.stderr.flush()
    os._exit(code)  # no teardown: libraries that crash while they unload cannot spoil a finished job


def describe(error: BaseException, folder: str | Path | None = None) -> str:
    """One line about an exception: our own errors speak for themselves, others are named.

    `folder` is what was written to, for a full disk whose exception names no file.
    """
    text = " ".join(str(error).split())[:2000]
    if isinstance(error, SlmkitError):
        return text
    if disk_full(error):
        named = getattr(error, "filename", None)
        where = Path(os.fsdecode(named)).parent if isinstance(named, (str, bytes)) else folder
        return f"the disk is full: {where}" if where else "the disk is full"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def _child(module: str, log_path: Path | None, nursery: Nursery | None) -> Iterator[Process]:
    if log_path is not None:
        log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path or os.devnull, "ab") as log:
        process: Process | None = nursery.child(log, _environment()) if nursery else None
        process = process or subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(),
            start_new_session=True,  # a Ctrl-C on the terminal reaches the parent only
        )
    try:
        yield process
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def _environment() -> dict[str, str]:
    """The child finds this very slmkit, and no module that happens to lie in the current folder."""
    root = str(Path(__file__).resolve().parents[2])
    path = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p] + [root]
    fixed = {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **fixed, "PYTHONPATH": os.pathsep.join(path)}


def _send(process: Process, job: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once; how is told from its exit code
        process.stdin.write(json.dumps(job, default=_plain).encode() + b"\n")
        process.stdin.flush()


def _follow(
    process: Process,
    on_event: Emit | None,
    deadline: float | None,
    cancel: threading.Event | None,
    grace_s: float,
) -> tuple[dict[str, Any] | None, int]:
    """Hand on the child's events until the last one; (None, peak) when the pipe ended without one."""
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    peak = 0
    while True:
        if cancel is not None and cancel.is_set():
            _ask_to_stop(process, grace_s)
            raise Cancelled("stopped on request; what was finished is kept")
        if deadline is not None and time.monotonic() > deadline:
            raise JobFailed("the process took longer than it was given and was ended", "timeout", peak)
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if not line:
            return None, peak
        event = json.loads(line)
        peak = max(peak, event.pop("peak_rss_bytes", 0))
        if event["event"] in ("done", "failed"):
            return event, peak
        if on_event is not None:
            on_event(event)


def _ask_to_stop(process: Process, grace_s: float) -> None:
    """Have the child end by itself; back when it has, or when it had its time."""
    if not grace_s or process.stdin is None:
        return
    with suppress(OSError, subprocess.TimeoutExpired):
        process.stdin.write(STOP)
        process.stdin.flush()
        process.wait(timeout=grace_s)


def _pump(pipe: IO[bytes], lines: queue.Queue[bytes]) -> None:
    """Lines into the queue; an empty one, last, says that the pipe has ended."""
    with suppress(ValueError):  # closed by the parent meanwhile
        for line in pipe:
            if line.endswith(b"\n"):
                lines.put(line)
    lines.put(b"")


def _death(code: int, tail: str) -> tuple[str, str]:
    said = f". Its last words: {tail}" if tail else ""
    if code >= 0:
        return f"the process ended with exit code {code} and no result{said}", "exit"
    number = -code
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = "unnamed"
    cause = "most often: out of memory" if name == "SIGKILL" else name
    return f"the process was ended by signal {number} ({cause}){said}", "signal"


def _tail(log_path: Path | None, start: int) -> str:
    """The end of what this child wrote to its log, on one line."""
    if log_path is None or not log_path.exists():
        return ""
    with open(log_path, "rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - TAIL_CHARACTERS))
        return " | ".join(line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip())


def _take_over_stdout() -> Emit:
    """Keep the pipe for events alone: from here on whatever prints, in C as in Python, prints to stderr."""
    from slmkit.footprint import peak_ram_bytes

    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def emit(event: Event) -> None:
        line = json.dumps({**event, "peak_rss_bytes": peak_ram_bytes() or 0}, default=_plain)
        with lock:
            pipe.write(line + "\n")
            pipe.flush()

    return emit


def _read_line(descriptor: int) -> bytes:
    """One line straight from the descriptor: a buffered reader would hold a lock while the watcher waits on it."""
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        part = os.read(descriptor, 1 << 16)
        if not part:
            raise EOFError("no job came")
        parts.append(part)
    return b"".join(parts)


def _end_with_parent(grace_s: float) -> None:
    """Wait for the parent to ask for an end, or to be gone; then interrupt the main thread, and end what stays."""
    asked = os.read(0, 1)
    if grace_s:
        _interrupt()
        time.sleep(grace_s)
    while asked and os.read(0, 1):
        pass
    os._exit(ORPHANED)


def _interrupt() -> None:
    """Raise `KeyboardInterrupt` in the main thread, also out of a sleep where the system can signal one thread."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    else:
        _thread.interrupt_main(signal.SIGTERM)


def _plain(value: Any) -> Any:
    """NumPy numbers as Python's, arrays as lists, everything else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
