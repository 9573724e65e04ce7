"""Write notebooks/NN_name.ipynb from notebooks/src/NN_name.py (py:percent), the only file that people edit.

The result depends on the source alone: no outputs, no versions of this machine, and a cell's id is made from its text,
so that changing one cell changes one cell of the notebook.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def render(source: Path) -> str:
    """The notebook of one source file as JSON text."""
    parsed = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    seen: set[str] = set()
    cells = []
    for cell in parsed.cells:
        make = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
        cells.append(make(cell.source, id=_cell_id(cell.cell_type + cell.source, seen)))
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=METADATA)
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook, indent=1)).rstrip("\n") + "\n"


def _cell_id(text: str, seen: set[str]) -> str:
    made = hashlib.sha256(text.encode()).hexdigest()[:12]
    while made in seen:
        made = hashlib.sha256(made.encode()).hexdigest()[:12]
    seen.add(made)
    return made


def main(arguments: list[str]) -> int:
    """Write all notebooks, or with --check only name those that differ from their source."""
    sources = sorted((FOLDER / "src").glob("[0-9][0-9]_*.py"))
    stale = {p.name for p in FOLDER.glob("*.ipynb")} - {p.stem + ".ipynb" for p in sources}
    for source in sources:
        path, text = FOLDER / f"{source.stem}.ipynb", render(source)
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.add(path.name)
    if stale:
        print(f"differ from notebooks/src: {', '.join(sorted(stale))}: run `make notebooks`", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
