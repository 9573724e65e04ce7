"""Runs a study, a tuning, a download or a fit in the background, so that a notebook stays free while it works.

A `Job` has a state, a frozen snapshot of its progress, a log, `cancel()`, `wait()` and `result()`, as
`concurrent.futures.Future` has, and knows nothing of Jupyter. It runs in a thread, or in a child process (`jobs`),
which gives all memory back and can be ended at any moment. A job that failed keeps its error but no frame of it, so
that no traceback holds a model.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self

from slmkit import files, jobs, text
from slmkit.backends import _memory
from slmkit.errors import InputError, SlmkitError
from slmkit.footprint import energy
from slmkit.jobs import calls

log = logging.getLogger(__name__)
WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
EVERY_S = 0.25  # callbacks come at most four times a second
LINES = 1000  # the newest lines of a log that are kept in memory
LOOK_S = 0.5  # a wait looks up this often, so that Ctrl-C reaches it on every system
_OURS = ("progress", "cancel")


@dataclass(frozen=True)
class Snapshot:
    """How far a job is, at one moment; what the function did not tell is None.

    Attributes
    ----------
    state : str
        "waiting", "running", "done", "failed" or "cancelled".
    message : str
        What it is at, in a few words; of a failed job its error.
    done, total : int or None
        Runs of a study: finished, and in all.
    step, steps : int or None
        Steps of the training under way, rows of a file, or bytes of a download.
    loss, tokens_per_s, seconds_left : float or None
    seconds : float
        Since it was started.
    energy_j : float or None
        Joules above idle so far, of the whole process and of its children that have ended.
    energy_origin : str or None
        "counter", "sampled" or "modelled" (see `slmkit.footprint.energy`); None where this machine cannot tell.
    peak_ram_bytes : int or None
        The most memory its child process has held; None in a thread, which shares its process with others.
    """

    state: str = WAITING
    message: str = ""
    done: int | None = None
    total: int | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    seconds_left: float | None = None
    seconds: float = 0.0
    energy_j: float | None = None
    energy_origin: str | None = None
    peak_ram_bytes: int | None = None


Watcher = Callable[[Snapshot], Any]


class Job:
    """One call of a function in the background.

    Parameters
    ----------
    function : callable
        `slmkit.study`, `slmkit.finetune`, a classifier's `fit`, or any other. Where it takes `progress`, or is a method
        of an object that has it, the job listens there; where it takes `cancel`, the job can stop it at any moment,
        elsewhere at its next report.
    *args, **kwargs
        What to call it with.

    Attributes
    ----------
    log : list of str
        What it said, warnings and the traceback of a failure included: the newest thousand lines.
    clock : callable
        Seconds; callbacks are rationed by it.

    Raises
    ------
    InputError
        Something that cannot be called, or `progress` or `cancel` among the arguments: both are the job's own.

    Examples
    --------
    >>> job = slmkit.Job(slmkit.study, "fraud_messages", methods=["floor", "embedding"]).start()
    >>> job.progress.message, job.wait(timeout=600), job.result().frame
    """

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        if not callable(function):
            raise InputError(f"a job needs something to call, for example slmkit.study; got {function!r:.100}")
        if taken := [name for name in _OURS if name in kwargs]:
            raise InputError(f"{' and '.join(taken)} cannot be given: a job has watch() and cancel() for that")
        self.name = getattr(function, "__name__", type(function).__name__).removeprefix("slmkit.")
        self._call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = (function, args, kwargs)
        self._lock, self._ended, self._cancel = threading.Lock(), threading.Event(), threading.Event()
        self._snapshot, self._watchers = Snapshot(), list[Watcher]()
        self._lines: deque[str] = deque(maxlen=LINES)
        self._file: IO[str] | None = None
        self.clock: Callable[[], float] = time.monotonic
        self._result: Any = None
        self._error: BaseException | None = None
        self._began, self._told, self._child_s = 0.0, float("-inf"), 0.0
        self._child_bytes: int | None = None
        self._energy = energy.of_this_and_children(lambda: self._child_s)

    def __repr__(self) -> str:
        now = self.progress
        return f"Job({self.name}: {now.state}{f', {now.message}' if now.message else ''})"

    @property
    def state(self) -> str:
        """ "waiting" until it is started, then "running", at last "done", "failed" or "cancelled"."""
        return self._snapshot.state

    @property
    def progress(self) -> Snapshot:
        """How far it is now."""
        return self._snapshot

    @property
    def log(self) -> list[str]:
        """A copy of the lines so far."""
        with self._lock:
            return list(self._lines)

    def watch(self, callback: Watcher) -> Self:
        """Have a function called with a `Snapshot` at most four times a second, and once when the job has ended.

        It is called in the job's thread. What it raises is logged and does not harm the job.
        """
        with self._lock:
            self._watchers.append(callback)
        return self

    def start(self, *, in_child: bool = False, log_file: str | Path | None = None) -> Self:
        """Begin, and return at once.

        Parameters
        ----------
        in_child : bool
            Run in a process of its own: `cancel` interrupts it as Ctrl-C would, so that a training keeps a checkpoint,
            and ends it after ten seconds whatever it is at; all its memory comes back. Then the function must be one
            that a module defines, its arguments numbers, texts, lists, dicts and paths, and its result of these or a
            dataclass of them.
        log_file : path or None
            Append the log to this file, and in a child whatever libraries print.

        Raises
        ------
        InputError
            Started before, an unwritable log, or a call that a child cannot be given.
        """
        message = calls.as_message(*self._call) if in_child and self._call else None
        path = None if log_file is None else Path(log_file).expanduser()
        with self._lock:
            if self.state != WAITING:
                raise InputError(f"this job was started before and is {self.state}; make a new Job to run it again")
            self._file = None if path is None else _opened(path)
            self._began = self.clock()
            self._snapshot = Snapshot(RUNNING, "starting")
        threading.Thread(target=self._work, args=(message, path), name=f"slmkit-job-{self.name}", daemon=True).start()
        return self

    def cancel(self) -> None:
        """Ask it to stop, and return at once; what was finished is kept. One that has ended is left as it is."""
        with self._lock:
            self._cancel.set()
            if self.state != WAITING:
                return
            self._snapshot, self._call = Snapshot(CANCELLED, "cancelled before it was started"), None
            self._error = jobs.Cancelled("this job was cancelled before it was started")
        self._ended.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds; whether it has. Ctrl-C ends the waiting, not the job."""
        if self.state == WAITING:
            raise InputError("this job was not started; call start() first")
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ended.is_set():
            left = LOOK_S if deadline is None else min(LOOK_S, deadline - time.monotonic())
            if left <= 0:
                return False
            self._ended.wait(left)
        return True

    def result(self, timeout: float | None = None) -> Any:
        """What the function returned, waited for at most `timeout` seconds.

        Of a cancelled study that is what it had finished.

        Raises
        ------
        The error of a failed job, `jobs.Cancelled` of a cancelled one, `TimeoutError` while it runs.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"the job {self.name} still runs: {self.progress.message}")
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._result

    def _work(self, message: Mapping[str, Any] | None, log_path: Path | None) -> None:
        state, said = DONE, "done"
        with self._listening():
            self._line(f"{self.name} started{' in a child process' if message else ''}")
            try:
                self._energy.start()
                self._result = self._run(message, log_path)
                if self._cancel.is_set() and getattr(self._result, "stopped", False):
                    state, said = CANCELLED, "stopped on request"
            except BaseException as error:
                state, said = FAILED, jobs.describe(error)
                if isinstance(error, jobs.Cancelled) or (self._cancel.is_set() and isinstance(error, SlmkitError)):
                    state, error = CANCELLED, jobs.Cancelled(said)
                else:
                    self._line(*traceback.format_exception(error))
                    _forget_frames(error)
                self._error = error
            self._call = None
            if self._error is not None:
                _memory.give_back()
            self._line(f"{state}: {said}" if state != DONE else DONE)
            self._end(state, said)

    def _run(self, message: Mapping[str, Any] | None, log_path: Path | None) -> Any:
        if message is not None:
            how: dict[str, Any] = {"on_event": self._hear_child, "cancel": self._cancel, "log_path": log_path}
            how["grace_s"] = jobs.GRACE_S
            return calls.from_json(jobs.run_child(message, module=calls.__name__, **how)["result"])
        assert self._call is not None
        function, args, kwargs = self._call
        return calls.listening(function, args, kwargs, self._hear, self._cancel)

    def _hear_child(self, event: Mapping[str, Any]) -> None:
        self._child_s, self._child_bytes = event["cpu_s"], event["peak_ram_bytes"]
        self._hear(event["facts"])

    def _hear(self, event: Mapping[str, Any]) -> None:
        """Take one event of the function: keep it, and hand it on if it is time."""
        function = self._call[0] if self._call else None
        if self._cancel.is_set() and "cancel" not in calls.parameters(function):
            raise jobs.Cancelled("stopped on request; what was finished is kept")
        facts = _facts(event)
        if facts["message"] and facts["message"] != self._snapshot.message:
            self._line(facts["message"])
        self._keep(Snapshot(RUNNING, **facts))
        now = self.clock()
        if now - self._told >= EVERY_S:
            self._told = now
            self._tell()

    def _end(self, state: str, said: str) -> None:
        self._keep(replace(self._snapshot, state=state, message=said, seconds_left=None))
        self._tell()
        self._energy.stop()
        self._ended.set()

    def _keep(self, snapshot: Snapshot) -> None:
        used = self._energy.so_far()
        spent = {"seconds": self.clock() - self._began, "energy_j": used.joules, "energy_origin": used.origin}
        spent["peak_ram_bytes"] = self._child_bytes
        self._snapshot = replace(snapshot, **spent)  # type: ignore[arg-type]

    def _tell(self) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            try:
                watcher(self._snapshot)
            except Exception as error:
                self._line(f"the callback {getattr(watcher, '__name__', watcher)!r:.80} failed: {error!r:.300}")

    def _line(self, *documents: str) -> None:
        for line in "\n".join(documents).rstrip().splitlines():
            told = text.clean_document(line, 2000)
            with self._lock:
                self._lines.append(told)
            if self._file is not None:
                try:
                    self._file.write(f"{datetime.now():%H:%M:%S} {told}\n")
                except (OSError, ValueError) as error:  # a full disk must not end the work
                    self._file = None
                    self._line(f"the log file cannot be written any more: {error}")

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """What slmkit logs in this thread goes into the job's log too."""
        handler = _Lines(self._line, threading.get_ident())
        logger = logging.getLogger("slmkit")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            if self._file is not None:
                self._file.close()


class _Lines(logging.Handler):
    """Records of one thread, as lines."""

    def __init__(self, take: Callable[[str], None], thread: int) -> None:
        super().__init__(logging.INFO)
        self.take, self.of = take, thread

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.of:
            self.take(f"{record.levelname.lower()}: {record.getMessage()}")


def _opened(path: Path) -> IO[str]:
    with files.on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a", encoding="utf-8", buffering=1)


def _facts(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event of a study, a training, a download or a file of rows, in the words of a `Snapshot`."""
    fetched = "bytes" in event
    parts = [event.get(key) for key in ("label", "file", "stage", "error")]
    found = {name: event.get(name) for name in ("step", "steps", "loss", "tokens_per_s", "seconds_left")}
    if fetched:
        found |= {"step": event["bytes"], "steps": event.get("total")}
    elif "rows" in event:
        found |= {"step": event["rows"], "steps": event.get("total_rows")}
    else:
        found |= {name: event.get(name) for name in ("done", "total")}
    if event.get("event") not in (None, "progress"):
        parts.insert(1, event["event"])
    return {**found, "message": text.clean(event.get("message") or ": ".join(str(p) for p in parts if p), 300)}


def _forget_frames(error: BaseException) -> None:
    """Take the frames, and with them a model, off an error and all that it came from."""
    _memory.drop_frames(error)
    for each in _memory.chain(error):
        each.__traceback__ = None
