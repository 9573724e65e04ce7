"""Every notebook runs offline in its smallest profile, twice in one kernel, and shows what it promises.

The kernel and all processes it starts can reach nothing but this machine: a `sitecustomize` in front of their path
refuses every other address. Time is recorded, not asserted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parent.parent
PLOTLY = "application/vnd.plotly.v1+json"
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
        self.env = {**os.environ, "PYTHONPATH": path, "SLMKIT_PROFILE": "tiny"}

    def passes(self, notebook: Path, n: int) -> list[Executed]:
        """Run all cells of the notebook n times, one pass after the other, in the same kernel."""
        shutil.copy(notebook, self.folder)
        book = nbformat.read(notebook, as_version=4)
        probe = nbformat.v4.new_code_cell(PROBE)
        book.cells.append(probe)
        client = nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(self.folder)}})
        found = []
        with client.setup_kernel(env=self.env, cwd=str(self.folder)):
            client.execute_cell(probe, len(book.cells) - 1)
            assert "blocked by the test: 192.0.2.1" in probe.outputs[0].text
            for _ in range(n):
                started = time.monotonic()
                for index, cell in enumerate(book.cells[:-1]):
                    client.execute_cell(cell, index)
                cells = json.loads(json.dumps(book.cells[:-1]))
                found.append(Executed([nbformat.from_dict(c) for c in cells], time.monotonic() - started))
        return found


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    yield Kernel(tmp_path)


def assert_clean(executed: Executed) -> None:
    """No error, no traceback in what was printed or shown; nbclient stays green when a callback fails."""
    assert [o for o in executed.outputs if o.output_type == "error"] == []
    shown = [o.text for o in executed.outputs if o.output_type == "stream"] + executed.of_type("text/plain")
    assert not [text for text in shown if "Traceback (most recent call last)" in text]


@pytest.mark.real
@pytest.mark.slow
def test_start_here_runs_offline_twice_in_one_kernel(kernel: Kernel, record_property: Any) -> None:
    first, second = kernel.passes(ROOT / "notebooks" / "00_start_here.ipynb", 2)
    record_property("first_pass_s", round(first.seconds, 1))
    record_property("second_pass_s", round(second.seconds, 1))
    for executed in (first, second):
        assert_clean(executed)
    assert re.match(
        r"slmkit \d\S* \| Python 3\.\d+\.\d+ \| torch \S+ \| .*memory limit \d.*\| profile tiny\n", first.printed
    )
    assert "[OK]" in first.printed
    n_failed, n_planned = map(int, re.search(r"(\d+) of (\d+) combinations failed", first.printed).groups())
    assert (n_failed, n_planned) == (0, 7), first.printed
    assert_pictures(first)
    assert int(re.search(r"at most (\d+) MB in one process", first.printed)[1]) <= 1600
    records = list((kernel.folder / "runs").rglob("*.json"))
    runs = [
        r for r in (json.loads(p.read_text(encoding="utf-8")) for p in records) if isinstance(r, dict) and "run_id" in r
    ]
    assert len(runs) == n_planned and {r["method"] for r in runs} == {"floor", "embedding", "prompt", "lora"}
    # Finished runs are taken from the folder: the same figures, without measuring again.
    assert second.of_type("text/html") == first.of_type("text/html")
    assert second.seconds < first.seconds / 2


def assert_pictures(executed: Executed) -> None:
    """Both figures hold measured points, and the tables hold every run."""
    tradeoff, recall = executed.of_type(PLOTLY)
    names = " ".join(str(trace.get("name")) for trace in tradeoff["data"])
    assert "SmolLM2-135M" in names and "floor" in names
    assert len(recall["data"]) >= 2
    tables = executed.of_type("text/html")
    assert any("p_vs_floor" in table and table.count("smollm2-135m-instruct") == 6 for table in tables)
    sentences = re.findall(r"^- (.+)$", executed.printed, flags=re.MULTILINE)
    assert sentences and any(re.search(r"\d", sentence) for sentence in sentences)
