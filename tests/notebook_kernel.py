"""A kernel of its own for one notebook, cut off from the network, and what its cells put out.

The kernel and all processes it starts can reach nothing but this machine: a `sitecustomize` in front of their path
refuses every other address.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parent.parent
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
        self.env = {**os.environ, "PYTHONPATH": path, "SLMKIT_PROFILE": "tiny"}

    def passes(self, name: str, n: int) -> list[Executed]:
        """Run all cells of a notebook n times, one pass after the other, in the same kernel; asked again, the same."""
        if name not in self._passed:
            self._passed[name] = self._run(ROOT / "notebooks" / f"{name}.ipynb", n)
        return self._passed[name]

    def _run(self, notebook: Path, n: int) -> list[Executed]:
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
