"""Children that find their imports done: a process imports what a study's jobs need and forks one child for each job.

Importing an engine takes seconds, for every job anew. Only on Linux and without a GPU, for elsewhere such libraries do
not outlive a fork; where there is no nursery, children are started afresh, to the same results. A child has its memory
to itself, and it counts as that of a fresh one: the system gives it the nursery's data, and pages of libraries, which
it does not, are mapped again first.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import IO, Any

NUMBER = struct.Struct("i")  # the child's process id, and later how it ended
POPULATE_READ = 22  # of madvise, since Linux 5.14
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # whose drivers, opened by an import, do not outlive a fork
PRESENT = 1 << 63  # of an entry in a pagemap


def possible() -> bool:
    """Whether this machine can have a nursery at all; a page is mapped to see whether it can be."""
    if sys.platform != "linux" or any(map(os.path.exists, GPUS)):
        return False
    size = os.sysconf("SC_PAGE_SIZE")
    pages = ctypes.create_string_buffer(2 * size)
    try:
        populate([(-(-ctypes.addressof(pages) // size) * size, size)])
        os.close(os.open("/proc/self/pagemap", os.O_RDONLY))
    except OSError:
        return False
    return True


class Nursery:
    """The owner's side; a context manager, whose process starts with the first child and ends with the context.

    Parameters
    ----------
    module : str
        Its `main()` is the child; as `jobs.run_child` takes it.
    ready : sequence of str
        Further modules to import beforehand; those that are not installed are left to the child.
    """

    def __init__(self, module: str, ready: Sequence[str] = ()) -> None:
        self.module, self.ready = module, list(ready)
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._works = possible()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def child(self, log: IO[bytes], environment: dict[str, str]) -> Child | None:
        """A child whose stderr is `log`; None where there can be none."""
        if not self._works:
            return None
        stdin, stdout = os.pipe(), os.pipe()
        try:
            if self._process is None:
                self._begin(environment)
            assert self._line is not None
            socket.send_fds(self._line, [b"a child"], [stdin[0], stdout[1], log.fileno()])
        except OSError:
            os.close(stdin[1])
            os.close(stdout[0])
            self.end()
            return None
        finally:
            os.close(stdin[0])
            os.close(stdout[1])
        return Child(self, self._line, os.fdopen(stdin[1], "wb"), os.fdopen(stdout[0], "rb"))

    def end(self) -> None:
        """Have no more children: a child that is at work is ended too."""
        self._works = False
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()  # it holds nothing; a child ends when its stdin does
            self._process.wait()

    def _begin(self, environment: dict[str, str]) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked = json.dumps({"module": self.module, "ready": self.ready})
        command = [sys.executable, "-c", "from slmkit.jobs import nursery; nursery.main()", asked]
        quiet = subprocess.DEVNULL
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=quiet, stderr=quiet, env=environment, start_new_session=True
            )


class Child:
    """A process that is another one's child, with what `jobs` asks of a `Popen`."""

    def __init__(self, nursery: Nursery, line: socket.socket, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.stdin, self.stdout = stdin, stdout
        self.pid: int | None = None
        self.returncode: int | None = None
        self._nursery, self._line = nursery, line

    @property
    def unborn(self) -> bool:
        """Whether the nursery ended before it had forked this child."""
        return self.returncode is not None and self.pid is None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, or minus the signal that ended it; `TimeoutExpired` as of a `Popen`."""
        while self.returncode is None:
            try:
                self._line.settimeout(timeout)
                said = self._line.recv(NUMBER.size)
            except TimeoutError:
                raise subprocess.TimeoutExpired("a child of the nursery", timeout or 0.0) from None
            except OSError:
                said = b""
            if not said:
                self.returncode = -signal.SIGKILL
            elif self.pid is None:
                (self.pid,) = NUMBER.unpack(said)
            else:
                (self.returncode,) = NUMBER.unpack(said)
        return self.returncode

    def kill(self) -> None:
        """End it; before it is forked, its nursery."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0.001)
        if self.returncode is not None:
            return
        if self.pid is None:
            self._nursery.end()
        else:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def main() -> None:
    """The nursery's side: import, then fork whenever the owner asks, one child at a time; never returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line, asked = socket.socket(fileno=0), json.loads(sys.argv[1])
    import_all(asked["ready"])
    module = importlib.import_module(asked["module"])
    pages = library_pages()
    populate(pages)
    gc.collect()
    gc.freeze()  # so that a child's collections do not write to what it shares
    while True:
        said, files, *_ = socket.recv_fds(line, 16, 3)
        if not said:
            os._exit(0)
        child = os.fork()
        if not child:
            line.detach()
            _be_the_child(module, files, pages)
        for file in files:
            os.close(file)
        line.send(NUMBER.pack(child))
        line.send(NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


def import_all(names: Iterable[str]) -> None:
    """Import modules; those that are not installed are left to whoever needs them."""
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)


def _be_the_child(module: Any, files: Sequence[int], pages: Sequence[tuple[int, int]]) -> None:
    try:
        os.setsid()
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        populate(pages)
        module.main()
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def library_pages() -> list[tuple[int, int]]:
    """Address and length of the stretches of mapped files that this process has in memory."""
    import numpy as np

    size, found = os.sysconf("SC_PAGE_SIZE"), []
    with open("/proc/self/maps") as maps, open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for line in maps:
            place, permissions, _, _, inode, *_ = line.split()
            if inode == "0" or permissions[0] != "r":
                continue
            first, end = (int(address, 16) // size for address in place.split("-"))
            pagemap.seek(8 * first)
            there = np.frombuffer(pagemap.read(8 * (end - first)), dtype=np.uint64) >= PRESENT
            borders = np.flatnonzero(np.diff(there, prepend=False, append=False)) + first
            found += [(int(a) * size, int(b - a) * size) for a, b in borders.reshape(-1, 2)]
    return found


def populate(pages: Sequence[tuple[int, int]]) -> None:
    """Map stretches of memory as if they had been read; `OSError` where the system cannot."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    for address, length in pages:
        if madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), POPULATE_READ):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
