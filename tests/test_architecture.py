"""The architecture as a test: floors, the seam around torch and mlx, sizes, and what may not stand in the library.

Each check reads the source with `ast`, collects every violation and raises once: one run shows all there is to mend.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "slmkit"
WIDGETS = ROOT / "widgets"

# Imports point down or stay on the floor (without circles). A new module says here where it lives.
FLOORS = {
    3: "__main__ commands console report study curves evaluate bulk",
    2: """
        estimator classify training tuning finetune guard cascade
        runs bitcosts tradeoffs verdict writing plots cards datasheets workshop playground
    """,
    1: "backends tasks footprint estimate prequantise prefetch modelcards jobs doctor ledger",
    0: """
        catalog architectures assets adapters
        data dialogues reading splits files prompts metrics overlap thresholds text errors
    """,
}
COMMAND_LINE = {"__main__", "commands", "console"}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}
ENGINES = {"torch", "transformers", "peft", "bitsandbytes", "accelerate", "mlx", "mlx_lm", "gguf"}
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
UNSAFE_CALLS = {"joblib.dump", "joblib.load", "torch.load", "torch.save"}
SINKS = {"HTML", "HTMLMath", "Markdown", "Styler"}
SCRIPT_SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|fetch\(|import\b|https?:"
)
MAKES_MARKUP = "widgets/display.py"  # tables of cleaned cells, escaped by pandas; tests/test_widgets.py reads them
MACHINE_PATH = re.compile(r"^(/home/|/tmp(/|$)|/root(/|$)|/Users/|/work/|/var/tmp|[A-Z]:\\)")
MAX_FILE, MAX_FUNCTION = 400, 80

FILES = sorted(LIBRARY.rglob("*.py"))
WIDGET_FILES = sorted(WIDGETS.rglob("*.py"))
ALL = [*FILES, *WIDGET_FILES]
TREES = {path: ast.parse(path.read_text(encoding="utf-8"), filename=str(path)) for path in ALL}


def report(violations: list[str]) -> None:
    assert not violations, "\n".join(["", *violations])


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or attribute, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else node.attr
    return ""


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def imports(path: Path, tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Full dotted names of what a file imports, at the top, inside functions, and by `import_module("...")`."""
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            yield from ((node, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
            yield from ((node, str(a.value)) for a in node.args[:1] if isinstance(a, ast.Constant))


def part(name: str) -> str | None:
    """The module of slmkit a dotted name stands for ("slmkit.backends.base.X" -> "backends"), None for others."""
    pieces = name.split(".")
    if pieces[0] != "slmkit" or len(pieces) < 2:
        return None
    known = (LIBRARY / pieces[1]).is_dir() or (LIBRARY / f"{pieces[1]}.py").is_file()
    return pieces[1] if known else None


def own(path: Path) -> str:
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


def test_every_module_has_a_floor_and_imports_only_point_down() -> None:
    violations = []
    edges: dict[str, set[str]] = {}
    for path in FILES:
        name = own(path)
        if name == "__init__":
            continue
        if name not in FLOOR:
            violations.append(f"{path.relative_to(ROOT)}: no floor; add {name!r} to FLOORS in {Path(__file__).name}")
            continue
        for node, imported in imports(path, TREES[path]):
            target = part(imported)
            if target is None or target == name or target not in FLOOR:
                continue
            edges.setdefault(name, set()).add(target)
            if FLOOR[target] > FLOOR[name]:
                violations.append(f"{where(path, node)}: {name} (L{FLOOR[name]}) imports {target} (L{FLOOR[target]})")
    report(violations + circles(edges))


def circles(edges: dict[str, set[str]]) -> list[str]:
    """Pairs of modules that import each other, directly or through others."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        stack = list(edges.get(start, ()))
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                stack.extend(edges.get(name, ()))
        return seen

    reached = {name: reach(name) for name in sorted(edges)}
    pairs = [(a, b) for a in reached for b in reached if a < b and b in reached[a] and a in reached[b]]
    return [f"{a} and {b} import each other" for a, b in pairs]


def test_only_backends_import_an_engine() -> None:
    report(
        [
            f"{where(path, node)}: imports {name}; only slmkit/backends may"
            for path in FILES
            if own(path) != "backends"
            for node, name in imports(path, TREES[path])
            if name.split(".")[0] in ENGINES
        ]
    )


def test_library_never_imports_widgets() -> None:
    report(
        [
            f"{where(path, node)}: imports {name}"
            for path in FILES
            for node, name in imports(path, TREES[path])
            if name.split(".")[0] in {"slmkit_widgets", "ipywidgets", "anywidget"}
        ]
    )


def test_widgets_compute_nothing_themselves_and_view_models_know_no_browser() -> None:
    violations = []
    for path in WIDGET_FILES:
        banned = {*ENGINES, "sklearn", "scipy"}
        if path.parent.name == "models":
            banned |= {"ipywidgets", "anywidget", "IPython"}
        for node, name in imports(path, TREES[path]):
            view = path.parent.name == "models" and re.match(r"slmkit_widgets\.(?!models|display)", name)
            if name.split(".")[0] in banned or name.startswith("slmkit.backends") or view:
                violations.append(f"{where(path, node)}: imports {name}")
    report(violations)


def test_only_one_file_of_the_widgets_makes_markup_and_no_script_does() -> None:
    violations = []
    for path in WIDGET_FILES:
        for node in ast.walk(TREES[path]):
            markup = isinstance(node, ast.Constant) and isinstance(node.value, str) and "text/html" in node.value
            if path.relative_to(ROOT).as_posix() != MAKES_MARKUP and (
                markup or (isinstance(node, ast.Attribute) and node.attr in {"to_html", "_repr_html_"})
            ):
                violations.append(f"{where(path, node)}: markup is made in {MAKES_MARKUP} only")
    for path in sorted(WIDGETS.rglob("*.js")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if SCRIPT_SINKS.search(line):
                violations.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}; set textContent")
    report(violations)


def test_every_module_says_what_it_is_for() -> None:
    violations = []
    for path in ALL:
        docstring = ast.get_docstring(TREES[path]) or ""
        if len(docstring.split("\n")[0]) < 20:
            violations.append(f"{path.relative_to(ROOT)}: the first line must say what the module is for")
    report(violations)


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, which may be as long as it needs to be."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None and len(function.body) > 1
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_files_and_functions_stay_short() -> None:
    violations = []
    others = sorted(
        path
        for name in ("benchmarks", "data", "notebooks/src", "tests", "tools")
        for path in (ROOT / name).glob("*.py")
    )
    for path in [*ALL, *others]:
        n_lines = len(path.read_text(encoding="utf-8").splitlines())
        if n_lines > MAX_FILE:
            violations.append(f"{path.relative_to(ROOT)}: {n_lines} lines, at most {MAX_FILE}")
        tree = TREES.get(path) or ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_lines = length(node)
                if n_lines > MAX_FUNCTION:
                    violations.append(f"{where(path, node)}: {node.name} has {n_lines} lines, at most {MAX_FUNCTION}")
    report(violations)


def test_no_way_for_a_text_to_become_markup() -> None:
    report(
        [
            f"{where(path, node)}: {name}(...) renders markup; show texts through plotly, a DataFrame or textContent"
            for path in ALL
            for node, name in calls(path)
            if name.split(".")[-1] in SINKS
        ]
        + [f"{where(path, n)}: DataFrame.style renders cells as markup" for path in ALL for n in stylers(TREES[path])]
    )


def stylers(tree: ast.AST) -> Iterator[ast.AST]:
    """`frame.style.format(...)`: an attribute of an attribute called style."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "style":
            yield node


def test_no_print_outside_the_command_line() -> None:
    report(
        [
            f"{where(path, node)}: print; use logging"
            for path in ALL
            if path in WIDGET_FILES or own(path) not in COMMAND_LINE
            for node, name in calls(path)
            if name == "print"
        ]
    )


def test_nothing_is_pickled() -> None:
    violations = []
    for path in ALL:
        violations += [
            f"{where(path, node)}: imports {name}"
            for node, name in imports(path, TREES[path])
            if name.split(".")[0] in UNSAFE
        ]
        for node, name in calls(path):
            allowed = any(k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in node.keywords)
            if name in UNSAFE_CALLS or allowed:
                violations.append(f"{where(path, node)}: {name} may run code from a file; use safetensors and JSON")
    report(violations)


def test_no_path_of_one_machine() -> None:
    report(
        [
            f"{where(path, node)}: absolute path {node.value[:60]!r}"
            for path in ALL
            for node in ast.walk(TREES[path])
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and MACHINE_PATH.match(node.value)
        ]
    )


@pytest.mark.parametrize("module", ["slmkit", "slmkit.__main__"])
def test_import_is_light(module: str) -> None:
    heavy = {"torch", "transformers", "mlx", "mlx_lm", "pandas", "sklearn", "plotly"}
    if module == "slmkit.__main__":
        heavy = {"torch", "transformers", "mlx", "mlx_lm", "sklearn"}
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", f"import {module} also loads {done.stdout.strip()}"
