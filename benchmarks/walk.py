"""Every notebook in profile `tiny`, in a kernel and a folder of its own: seconds and memory of all its cells.

Exercises stay open, as a student gets them. Memory is that of all processes together, a page that several share counted
once; beside it stands the largest single process.

    pip install -c constraints.txt -e ".[bnb,notebooks,dev]"
    PYTHONPATH=tests python -m benchmarks.walk
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
LIMIT_S, LIMIT_BYTES = 90.0, 1.5e9


def walked(notebook: Path, folder: Path) -> dict[str, Any]:
    """All cells of a notebook, once."""
    import nbclient
    import nbformat
    from notebook_kernel import watching

    book = nbformat.read(notebook, as_version=4)
    client = nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(folder)}})
    environment = {**os.environ, "SLMKIT_PROFILE": "tiny", "HF_HUB_OFFLINE": "1"}
    with (
        client.setup_kernel(env=environment, cwd=str(folder)),
        watching(client.km.provisioner.pid) as peak,  # type: ignore[union-attr]
    ):
        began = time.monotonic()
        for number, cell in enumerate(book.cells):
            client.execute_cell(cell, number)
        seconds = time.monotonic() - began
    return {"seconds": seconds, "together_bytes": peak.together, "largest_bytes": peak.largest}


def main() -> int:
    """Walk, and judge the longest and the largest."""
    parser = common.parser(__doc__)
    parser.add_argument("--only", nargs="+", help="names of notebooks, without .ipynb; default all")
    arguments = parser.parse_args()
    facts = common.describe()
    import slmkit

    slmkit.load("smollm2-135m-instruct", bits=4).release()  # a warm install has this copy
    found = {}
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        if arguments.only and notebook.stem not in arguments.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found[notebook.stem] = one = walked(notebook, Path(folder))
        sizes = f"{one['together_bytes'] / 1e6:5.0f} MB together, {one['largest_bytes'] / 1e6:5.0f} MB the largest"
        print(f"{notebook.stem:<46}{one['seconds']:6.1f} s  {sizes}", flush=True)
    longest, largest = (max(one[name] for one in found.values()) for name in ("seconds", "largest_bytes"))
    targets = [
        common.Target("seconds of the longest notebook", longest, LIMIT_S, at_least=False),
        common.Target("bytes of the largest process", largest, LIMIT_BYTES, at_least=False),
    ]
    return common.finish("walk", {**facts, "notebooks": found}, targets)


if __name__ == "__main__":
    common.run(main)
