"""Write notebooks/NN_name.ipynb from notebooks/src/NN_name.py (py:percent), the only file that people edit.

The result depends on the source alone: no outputs, no versions of this machine, and a cell's id is made from its text,
so that changing one cell changes one cell of the notebook.

What stands between `### BEGIN SOLUTION` and `### END SOLUTION` (nbgrader's delimiters) becomes an empty place to write
in, and goes to slmkit/workshop/solutions.json, where `workshop.solution` finds it. `--nbgrader DIR` writes the
notebooks with their solutions and the marks nbgrader needs.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
SOLUTIONS = ROOT / "slmkit" / "workshop" / "solutions.json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
BLOCK = re.compile(rf"^(?P<indent> *){BEGIN}\n(?P<code>.*?)^ *{END}$", flags=re.MULTILINE | re.DOTALL)
ANSWER = re.compile(r"^ *answer_(\d\d)_(\d+) *=", flags=re.MULTILINE)
CHECK = re.compile(r"^workshop\.check\(\"(\d\d\.\d+)\"", flags=re.MULTILINE)


def sources() -> list[Path]:
    """The files that people edit, in order."""
    return sorted((FOLDER / "src").glob("[0-9][0-9]_*.py"))


def render(source: Path, *, solved: bool = False) -> str:
    """The notebook of one source file as JSON text, as a student gets it or with its solutions."""
    return _as_text([_cell(cell.cell_type, text) for cell, text in _texts(source, solved)])


def render_for_nbgrader(source: Path) -> str:
    """The notebook with its solutions and nbgrader's marks: an answer's check is a cell of its own."""
    cells = []
    for cell, text in _texts(source, solved=True):
        found = CHECK.search(text)
        kept = text[: found.start()].rstrip("\n") if found else text
        if kept:
            cells.append(_cell(cell.cell_type, kept))
        if BEGIN in kept:
            (name,) = _answers(kept)
            cells[-1].metadata["nbgrader"] = _mark("answer", name)
        if found:
            cells.append(_cell("code", f"assert {text[found.start() :]}"))  # what was said of a wrong answer is false
            cells[-1].metadata["nbgrader"] = _mark("check", found[1]) | {"points": 1}
    return _as_text(cells)


def solutions(source: Path) -> dict[str, str]:
    """The code of each exercise of one source file, by its name: "30.2".

    Raises `ValueError` for delimiters that do not match and for a solution that sets no `answer_NN_N`.
    """
    found: dict[str, str] = {}
    for cell in _parsed(source):
        blocks = list(BLOCK.finditer(cell.source))
        if len(blocks) != cell.source.count("BEGIN SOLUTION") or len(blocks) != cell.source.count("END SOLUTION"):
            raise ValueError(f"{source.name}: {BEGIN} and {END} must stand in pairs, each on a line of its own")
        for block in blocks:
            names = _answers(block["code"])
            if len(names) != 1 or names[0] in found:
                raise ValueError(f"{source.name}: a solution must set one answer_NN_N that no other sets; got {names}")
            found[names[0]] = textwrap.dedent(block["code"]).rstrip("\n")
    return found


def _texts(source: Path, solved: bool) -> list[tuple[Any, str]]:
    """Each cell with what it says, with or without the solutions."""
    solutions(source)  # so that a slip is an error here as well
    return [(cell, cell.source if solved else BLOCK.sub(_stub, cell.source)) for cell in _parsed(source)]


def _stub(block: re.Match[str]) -> str:
    (name,) = _answers(block["code"])
    return f"{block['indent']}answer_{name.replace('.', '_')} = ...  # your answer"


def _answers(code: str) -> list[str]:
    return list(dict.fromkeys(".".join(groups) for groups in ANSWER.findall(code)))


def _parsed(source: Path) -> list[Any]:
    return list(jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent").cells)


def _mark(kind: str, name: str) -> dict[str, Any]:
    grade = kind == "check"
    marks = {"grade_id": f"{kind}-{name.replace('.', '-')}", "grade": grade, "solution": not grade}
    return marks | {"locked": grade, "task": False, "schema_version": 3}


def _cell(cell_type: str, text: str) -> Any:
    make = nbformat.v4.new_markdown_cell if cell_type == "markdown" else nbformat.v4.new_code_cell
    return make(text)


def _as_text(cells: list[Any]) -> str:
    seen: set[str] = set()
    for cell in cells:
        cell["id"] = _cell_id(cell.cell_type + cell.source, seen)
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=METADATA)
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook, indent=1)).rstrip("\n") + "\n"


def _cell_id(text: str, seen: set[str]) -> str:
    made = hashlib.sha256(text.encode()).hexdigest()[:12]
    while made in seen:
        made = hashlib.sha256(made.encode()).hexdigest()[:12]
    seen.add(made)
    return made


def outputs() -> dict[Path, str]:
    """Every file that is generated from the sources, and what it must hold."""
    found = {FOLDER / f"{source.stem}.ipynb": render(source) for source in sources()}
    known = {name: code for source in sources() for name, code in solutions(source).items()}
    return found | {SOLUTIONS: json.dumps(known, indent=1, ensure_ascii=False) + "\n"}


def main(arguments: list[str]) -> int:
    """Write all files, or with --check only name those that differ from their source; --nbgrader DIR: see above."""
    if "--nbgrader" in arguments:
        folder = Path(arguments[arguments.index("--nbgrader") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources():
            (folder / f"{source.stem}.ipynb").write_text(render_for_nbgrader(source), encoding="utf-8")
        return 0
    made = outputs()
    stale = {path.name for path in FOLDER.glob("*.ipynb") if path not in made}
    for path, text in made.items():
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.add(path.name)
    if stale:
        print(f"differ from notebooks/src: {', '.join(sorted(stale))}: run `make notebooks`", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
