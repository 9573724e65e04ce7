"""Holds processes to so many bytes by a control group, where this user may make one; what takes more is killed.

Works with both versions of control groups. Elsewhere nothing is held, and a test has to go by what it measures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")


class Group:
    """A control group of the test's own."""

    def __init__(self, folder: Path, limit: str, peak: str) -> None:
        self.folder, self.limit, self._peak = folder, folder / limit, folder / peak

    def add(self, pid: int) -> None:
        """Put a process into it; what the process starts from then on is in it too."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    @property
    def peak_bytes(self) -> int:
        """The most that was held at once, cached files included, which go when room is needed."""
        return int(self._peak.read_text())


@contextmanager
def confined(n_bytes: int) -> Iterator[Group | None]:
    """A group that holds at most so many bytes; None where none can be made."""
    group = next(filter(None, (_make(*one, n_bytes) for one in _places())), None)
    try:
        yield group
    finally:
        for _ in range(50 if group else 0):
            with suppress(OSError):
                group.folder.rmdir()
                break
            time.sleep(0.1)  # a process that was killed is still leaving


def _places() -> Iterator[tuple[Path, str, str]]:
    """Where a group could be made: the folder of this process's own group, and the names of its files."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                yield MOUNT / "memory" / path.strip("/"), "memory.limit_in_bytes", "memory.max_usage_in_bytes"
            elif number == "0":
                yield MOUNT / path.strip("/"), "memory.max", "memory.peak"


def _make(parent: Path, limit: str, peak: str, n_bytes: int) -> Group | None:
    folder = parent / f"slmkit-{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.mkdir()
    except OSError:
        return None
    group = Group(folder, limit, peak)
    try:
        group.limit.write_text(str(n_bytes))  # fails where the group has no say over memory
        group.peak_bytes  # noqa: B018 - the file must be there as well
    except (OSError, ValueError):
        folder.rmdir()
        return None
    with suppress(OSError):
        (folder / "memory.swap.max").write_text("0")
    return group
