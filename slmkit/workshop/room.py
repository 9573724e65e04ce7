"""What a class needs of a machine, check by check, and a code word that tells the teacher which of them failed.

Everything is tried as the class will use it: a kernel is started, a real model reads a sentence. Nothing is fetched.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slmkit import __version__, assets, doctor, footprint, prefetch, tasks
from slmkit.assets import prefetched
from slmkit.doctor import FAIL, OK, Check
from slmkit.errors import SlmkitError
from slmkit.files import places
from slmkit.workshop import codewords

MODELS = ("minilm", "smollm2-135m-instruct")
LIMIT_BYTES, FREE_BYTES = 1_900_000_000, 1_300_000_000  # the notebooks in profile tiny, kernel and server beside them
DISK_BYTES = 1_000_000_000
CHILD_S = 600.0
FIRST_NOTEBOOK = "00_start_here.ipynb"
FORWARD = """
import json, time
import slmkit
began = time.monotonic()
with slmkit.load("smollm2-135m-instruct") as model:
    scores = model.loglikelihood(["The capital of France is"], [" Paris", " Berlin"])
print(json.dumps({"right": bool(scores[0, 0] > scores[0, 1]), "seconds": round(time.monotonic() - began, 1)}))
"""


class Failed(Exception):
    """What is wrong, in a sentence."""


def checks() -> list[Check]:
    """All eight, in the order of the code word; takes half a minute at most on a slow machine."""
    found = []
    for name, (look, mend) in LOOKS.items():
        try:
            found.append(Check(name, OK, look()))
        except (Failed, SlmkitError) as error:
            found.append(Check(name, FAIL, str(error), mend))
        except Exception as error:  # the rest goes on whatever is broken
            found.append(Check(name, FAIL, f"{type(error).__name__}: {error}", mend))
    return found


def code_word(found: Sequence[Check]) -> str:
    """The word to report."""
    return codewords.encode([check.status == FAIL for check in found])


def render(found: Sequence[Check]) -> str:
    """The checks as the doctor shows them, and the code word."""
    return f"{doctor.render(found)}\nYour code word: {code_word(found)}"


def to_json(found: Sequence[Check]) -> str:
    """One JSON object: `ok`, `code_word`, `checks`."""
    document = {"ok": doctor.exit_status(found) == 0, "code_word": code_word(found)}
    return json.dumps(document | {"checks": [asdict(check) for check in found]}, indent=1, ensure_ascii=False)


def explain(word: str) -> str:
    """What a code word tells: the checks that failed, each with what to do; `InputError` for no code word."""
    failed = [name for name, bad in zip(LOOKS, codewords.decode(word), strict=True) if bad]
    lines = [f"{name}: {LOOKS[name][1]}" for name in failed]
    return "\n".join([f"{len(failed)} of {len(LOOKS)} checks failed", *lines]) if failed else "every check is fine"


def _software() -> str:
    found = [check for name in ("python", "packages", "backends") for check in doctor.LOOKS[name]()]
    broken = [check.message for check in found if check.status == FAIL]
    broken += [check.message for check in found if check.name == "extra notebooks" and check.status != OK]
    if broken:
        raise Failed("; ".join(broken))
    return f"Python {'.'.join(map(str, sys.version_info[:3]))}, slmkit {__version__}"


def _memory() -> str:
    (limit, origin), free = footprint.memory_limit(), footprint.available_memory()
    said = f"{limit / 1e9:.1f} GB may be used ({origin}), {free / 1e9:.1f} GB are free"
    if limit < LIMIT_BYTES or free < FREE_BYTES:
        raise Failed(f"{said}; the class needs {LIMIT_BYTES / 1e9:.1f} and {FREE_BYTES / 1e9:.1f} GB")
    return said


def _disk() -> str:
    free = {}
    for folder in (places.cache_dir(), Path()):
        there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise Failed(f"{doctor.shown(there)} cannot be written to")
        free[doctor.shown(there)] = shutil.disk_usage(there).free
    where, least = min(free.items(), key=lambda one: one[1])
    if least < DISK_BYTES:
        raise Failed(f"{least / 1e9:.1f} GB free in {where}; the class needs {DISK_BYTES / 1e9:.1f}")
    return f"{least / 1e9:.1f} GB free"


def _models() -> str:
    found = {check.name.removeprefix("model "): check for check in doctor.LOOKS["models"]()}
    if broken := [f"{name}: {found[name].message}" for name in MODELS if found[name].status != OK]:
        raise Failed("; ".join(broken))
    for name in MODELS:
        assets.resolve(name)  # of a prefetched one every file is compared
    return f"{', '.join(MODELS)}, SHA-256 as published"


def _data() -> str:
    shipped = [task for task in map(tasks.named, tasks.names()) if task.data is None]
    n_rows = sum(len(task.load()) for task in shipped)
    folder = places.mirror()
    if folder is not None and not folder.is_dir():
        raise Failed(f"SLMKIT_ASSETS names {doctor.shown(folder)}, which is no folder")
    whole = f"; SLMKIT_ASSETS: {prefetch.check(folder)} files whole" if folder and prefetched.manifest(folder) else ""
    return f"{len(shipped)} corpora, {n_rows:,} rows{whole}"


def _notebooks() -> str:
    folder = next((at for at in (Path(), Path("notebooks")) if (at / FIRST_NOTEBOOK).is_file()), None)
    if folder is None:
        raise Failed(f"no {FIRST_NOTEBOOK} in {doctor.shown(Path().absolute())} or in notebooks below it")
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    for path in paths:
        try:
            json.loads(path.read_text(encoding="utf-8"))["cells"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Failed(f"{path.name} is no notebook: {error!r}") from error
    if not os.access(folder, os.W_OK):
        raise Failed(f"{doctor.shown(folder.absolute())} cannot be written to, and results go there")
    return f"{len(paths)} in {doctor.shown(folder.absolute())}"


def _kernel() -> str:
    manager = importlib.import_module("jupyter_client.manager")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started, client = manager.start_new_kernel(kernel_name="python3", startup_timeout=60, **quiet)
    heard: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        content = message["content"]
        heard.append(content.get("text") or f"{content.get('ename', '')}: {content.get('evalue', '')}".strip(": "))

    try:
        client.execute_interactive("import slmkit; print(slmkit.__version__)", timeout=60, output_hook=hear)
    finally:
        client.stop_channels()
        started.shutdown_kernel(now=True)
    if (said := "".join(heard).strip()) != __version__:
        raise Failed(f"the kernel python3 does not have slmkit {__version__}: {said or 'it said nothing'}")
    return f"python3 answers, with slmkit {said}"


def _forward() -> str:
    done = subprocess.run([sys.executable, "-c", FORWARD], capture_output=True, text=True, timeout=CHILD_S, check=False)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise Failed(f"the model could not be run (exit code {done.returncode}): {''.join(last)}")
    found = json.loads(done.stdout.splitlines()[-1])
    if not found["right"]:
        raise Failed("the model ran, but Berlin was likelier than Paris as the capital of France")
    return f"smollm2-135m-instruct read a sentence in {found['seconds']} s, loading included"


LOOKS: dict[str, tuple[Callable[[], str], str]] = {  # the order is the code word's: append nothing, change no place
    "software": (_software, 'pip install -c constraints.txt -e ".[bnb,notebooks]", or make setup'),
    "memory": (_memory, "close other programs (browser tabs first), or share a machine"),
    "disk": (_disk, "free some space, or set SLMKIT_CACHE to a folder on another disk"),
    "models": (_models, "slmkit models --install all, or set SLMKIT_ASSETS to a folder filled by slmkit prefetch"),
    "data": (_data, "install slmkit again; a folder named by SLMKIT_ASSETS: slmkit prefetch DIR mends it"),
    "notebooks": (_notebooks, "go to the folder of the notebooks (cd notebooks), or copy them anew"),
    "kernel": (_kernel, "python -m ipykernel install --sys-prefix, in the environment slmkit is in"),
    "forward pass": (_forward, "slmkit doctor says more; with little memory close other programs and try again"),
}
