"""A kernel of its own for one notebook, as on Binder: offline, in 2 GB; what its cells put out and leave behind.

The kernel and all processes it starts can reach nothing but this machine: a `sitecustomize` in front of their path
refuses every other address.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from confined import confined

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
build_notebooks = pytest.importorskip("tools.build_notebooks")

ROOT = Path(__file__).resolve().parent.parent
PLOTLY = "application/vnd.plotly.v1+json"
BINDER_BYTES = 2 * 2**30  # for a session, which the server is a part of
SERVER_BYTES = 100_000_000  # JupyterLab's own process
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ONLY_LOOPBACK = """
import socket

LOCAL = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "", None}

def guarded(method):
    def call(self, address, *rest):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            raise OSError(f"blocked by the test: {address[0]}")
        return method(self, address, *rest)
    return call

def lookup(host, *rest, _real=socket.getaddrinfo, **named):
    if (host.decode() if isinstance(host, bytes) else host) not in LOCAL:
        raise socket.gaierror(f"blocked by the test: {host}")
    return _real(host, *rest, **named)

socket.socket.connect = guarded(socket.socket.connect)
socket.socket.connect_ex = guarded(socket.socket.connect_ex)
socket.getaddrinfo = lookup
"""
PROBE = """
import socket, subprocess, sys
code = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"
print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.splitlines()[-1])
"""


def as_on_binder() -> dict[str, str]:
    """This environment as binder/start changes it: profile tiny, offline, one thread, 2 GB."""
    keep = {name: value for name, value in os.environ.items() if name not in ("MEM_LIMIT", "SLMKIT_PROFILE")}
    start = [str(ROOT / "binder" / "start"), "env", "-0"]
    done = subprocess.run(start, env=keep, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)


class Executed:
    """The outputs of one pass through a notebook."""

    def __init__(self, cells: list[Any], seconds: float) -> None:
        self.seconds = seconds
        self.outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]

    @property
    def printed(self) -> str:
        return "".join(o.text for o in self.outputs if o.output_type == "stream" and o.name == "stdout")

    def of_type(self, mime: str) -> list[Any]:
        return [
            o.data[mime] for o in self.outputs if o.output_type in ("execute_result", "display_data") and mime in o.data
        ]


class Kernel:
    """One kernel in a folder of its own, cut off from the network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        guard = folder / "guard"
        guard.mkdir()
        (guard / "sitecustomize.py").write_text(ONLY_LOOPBACK, encoding="utf-8")
        path = os.pathsep.join([str(guard), str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self._passed: dict[str, list[Executed]] = {}
        self.peak_bytes: dict[str, int] = {}
        self.held_by = "nothing: measured only"
        self.env = {**as_on_binder(), "PYTHONPATH": path}

    def passes(self, name: str, n: int) -> list[Executed]:
        """Run all cells of a notebook n times, one pass after the other, in the same kernel; asked again, the same.

        The first pass leaves the exercises open, as a student gets them; the others do them as the source does. The
        folder then holds the notebook with the last pass's outputs.
        """
        if name not in self._passed:
            self._passed[name] = self._run(ROOT / "notebooks" / f"{name}.ipynb", n)
        return self._passed[name]

    def _run(self, notebook: Path, n: int) -> list[Executed]:
        book = nbformat.read(notebook, as_version=4)
        source = notebook.parent / "src" / f"{notebook.stem}.py"
        solved = nbformat.reads(build_notebooks.render(source, solved=True), as_version=4)
        probe = nbformat.v4.new_code_cell(PROBE)
        book.cells.append(probe)
        client = nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(self.folder)}})
        found = []
        with (
            confined(BINDER_BYTES - SERVER_BYTES) as group,
            client.setup_kernel(env=self.env, cwd=str(self.folder)),
            watching(client.km.provisioner.pid) as peak,
        ):
            if group:
                group.add(client.km.provisioner.pid)
                self.held_by = "a control group"
            client.execute_cell(probe, len(book.cells) - 1)
            assert "blocked by the test: 192.0.2.1" in probe.outputs[0].text
            for turn in range(n):
                for cell, done in zip(book.cells, solved.cells, strict=False):
                    cell.source = done.source if turn else cell.source
                started = time.monotonic()
                for index, cell in enumerate(book.cells[:-1]):
                    client.execute_cell(cell, index)
                cells = json.loads(json.dumps(book.cells[:-1]))
                found.append(Executed([nbformat.from_dict(c) for c in cells], time.monotonic() - started))
        self.peak_bytes[notebook.stem] = peak.together
        del book.cells[-1]
        nbformat.write(book, self.folder / notebook.name)
        return found


@dataclass
class Peak:
    """Most bytes held by a process and all it started, shared pages counted once, and by the largest one of them."""

    together: int = 0
    largest: int = 0


@contextmanager
def watching(pid: int) -> Iterator[Peak]:
    """Look at a process and all it started four times a second."""
    peak, done = Peak(), threading.Event()

    def look() -> None:
        while not done.wait(0.25):
            with suppress(psutil.Error):
                kernel = psutil.Process(pid)
                held = [_held(p) for p in (kernel, *kernel.children(recursive=True))]
                peak.together = max(peak.together, sum(shared for shared, _ in held))
                peak.largest = max(peak.largest, *(whole for _, whole in held))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _held(process: psutil.Process) -> tuple[int, int]:
    """Resident bytes of a process, with its part of what it shares and with all of it; 0 of one that has just ended."""
    try:
        info = process.memory_full_info()
    except psutil.Error:
        return 0, 0
    return int(info.pss), int(info.rss)


def assert_clean(executed: Executed) -> None:
    """No error, no traceback in what was printed or shown; nbclient stays green when a callback fails."""
    assert [o for o in executed.outputs if o.output_type == "error"] == []
    shown = [o.text for o in executed.outputs if o.output_type == "stream"] + executed.of_type("text/plain")
    assert not [text for text in shown if "Traceback (most recent call last)" in text]


def twice(kernel: Kernel, name: str, record_property: Any) -> tuple[Executed, Executed]:
    """Two passes of one notebook: clean, the first line as promised, the second with the tables of the first."""
    first, second = kernel.passes(name, 2)
    record_property("first_pass_s", round(first.seconds, 1))
    record_property("second_pass_s", round(second.seconds, 1))
    record_property("all_processes_peak_mb", round(kernel.peak_bytes[name] / 1e6))
    record_property("memory_held_by", kernel.held_by)
    for executed in (first, second):
        assert_clean(executed)
    assert re.match(
        r"slmkit \d\S* \| Python 3\.\d+\.\d+ \| torch \S+ \| .*memory limit \d.*\| profile tiny\n", first.printed
    )
    exercises = build_notebooks.solutions(ROOT / "notebooks" / "src" / f"{name}.py")
    assert said(first) == dict.fromkeys(exercises, "not yet")
    assert said(second) == dict.fromkeys(exercises, "right"), second.of_type("text/plain")
    # Finished runs are taken from the folder: the same figures, without measuring again.
    assert second.of_type("text/html") == first.of_type("text/html")
    return first, second


def said(executed: Executed) -> dict[str, str]:
    """What the checks of exercises said: "not yet", "right", "not right", "could not be checked"."""
    found = [re.match(r"(\d\d\.\d+): (not yet|right|not right|could not)", t) for t in executed.of_type("text/plain")]
    return {match[1]: match[2] for match in found if match}


def records(kernel: Kernel) -> list[dict[str, Any]]:
    """The records of all runs that the notebook left in its folder."""
    found = [json.loads(p.read_text(encoding="utf-8")) for p in (kernel.folder / "runs").rglob("*.json")]
    return [r for r in found if isinstance(r, dict) and "run_id" in r]


def numbers(pattern: str, printed: str) -> list[int]:
    """The whole numbers that the groups of a pattern find in what was printed."""
    found = re.search(pattern, printed, flags=re.MULTILINE)
    assert found, f"nothing printed fits {pattern!r}:\n{printed}"
    return [int(group) for group in found.groups()]


def sentences(printed: str) -> list[str]:
    return re.findall(r"^- (.+)$", printed, flags=re.MULTILINE)
