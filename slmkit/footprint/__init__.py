"""What a model costs here: memory peaks, latency, throughput and energy, and the machine they were measured on.

Peaks belong to a process, so every evaluation has one of its own. On Linux the peak is VmHWM: `ru_maxrss` of a fresh
child starts at its parent's size. Nothing that names a person, a host or a folder is read into a record.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from slmkit.errors import InputError
from slmkit.footprint.energy import EnergyReading

log = logging.getLogger(__name__)

PROFILES = ("tiny", "laptop", "gpu")  # of the notebooks: how much they do
PACKAGES = ("slmkit", "torch", "transformers", "bitsandbytes", "peft", "mlx", "mlx-lm", "scikit-learn", "numpy")
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "neon")
LATENCY_SHARE = 0.35  # of the time budget; the rest is for batches
BATCHED_S = 1.5
_UNITS = {"": 1, "B": 1} | {
    f"{p}{b}": m**i for i, p in enumerate("KMGT", 1) for b, m in (("", 1000), ("B", 1000), ("IB", 1024))
}


def parse_bytes(text: str) -> int:
    """Bytes of "1500000000", "1.5GB" (powers of 1000) or "1.5GiB" (powers of 1024); `InputError` otherwise."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].upper() not in _UNITS:
        raise InputError(f"a memory size must look like 2000000000, 1.5GB or 1.5GiB; got {text!r}")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def memory_limit(root: Path = Path("/")) -> tuple[int, str]:
    """How much memory this process may use, and who says so.

    The first that is set counts: SLMKIT_MEMORY_LIMIT, MEM_LIMIT (Binder and JupyterHub), the smallest limit among this
    process's control groups (v2, then v1), the machine's memory.

    Parameters
    ----------
    root : Path
        Where /proc and /sys are looked for.

    Returns
    -------
    tuple of int and str
        Bytes, and the origin: "MEM_LIMIT", "control group", "machine".
    """
    total = ram_bytes()
    for variable in ("SLMKIT_MEMORY_LIMIT", "MEM_LIMIT"):
        value = os.environ.get(variable, "").strip()
        if not value:
            continue
        try:
            limit = parse_bytes(value)
        except InputError as error:
            raise InputError(f"{variable}: {error}") from error
        if limit > 0:
            return limit, variable
    limits = [limit for limit in _cgroup_values(root, "memory.max", "memory.limit_in_bytes") if limit < total]
    return (min(limits), "control group") if limits else (total, "machine")


def ram_bytes() -> int:
    """The machine's memory in bytes, whatever this process may use of it."""
    return int(psutil.virtual_memory().total)


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that could be taken now without swapping, within the limit."""
    found = [int(psutil.virtual_memory().available), memory_limit(root)[0]]
    room = _room_in_cgroup(root)
    return min(found if room is None else [*found, room])


def machine() -> dict[str, Any]:
    """What a record says about the machine: cpu, cores (usable), threads, ram_bytes, memory_limit_bytes,
    memory_limit_origin, os, python, gpu (name or None) and instruction_sets. No host, user or folder names."""
    limit, origin = memory_limit()
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "threads": _threads(),
        "ram_bytes": ram_bytes(),
        "memory_limit_bytes": limit,
        "memory_limit_origin": origin,
        "os": f"{platform.system()} {'.'.join(re.findall(r'[0-9]+', platform.release())[:2])} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": _gpu_name(),
        "instruction_sets": list(instruction_sets()),
    }


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.lru_cache(maxsize=1)
def instruction_sets() -> tuple[str, ...]:
    """Those of `INSTRUCTION_SETS` that this CPU has: they decide which arithmetic is quick."""
    if sys.platform == "darwin":
        words = _output("sysctl", "-n", "machdep.cpu.leaf7_features").lower().split()
        words += ["neon"] if platform.machine() == "arm64" else []
    else:
        text = _read(Path("/proc/cpuinfo")) or ""
        words = " ".join(re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)[:1]).split()
        words += ["neon"] if "asimd" in words else []
    return tuple(name for name in INSTRUCTION_SETS if name in words)


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide a result, by distribution name; absent ones are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def headline(profile: str) -> str:
    """The line that a notebook begins with: versions, device, memory limit, whether a hub may be asked, its profile.

    Raises `InputError` for a profile that there is not, and for "gpu" where no GPU would be used.
    """
    from slmkit import __version__

    here, torch = machine(), versions().get("torch", "missing")
    if profile not in PROFILES:
        raise InputError(f"the profile must be one of {', '.join(PROFILES)}; got {profile!r}")
    if profile == "gpu" and (here["gpu"] is None or torch.endswith("+cpu")):
        raise InputError(
            f"profile 'gpu' needs a GPU and a torch that uses it; here: {here['gpu'] or 'no GPU'}, torch {torch}; "
            "take profile 'laptop' or 'tiny'"
        )
    hub = "off" if os.environ.get("HF_HUB_OFFLINE") == "1" else "asked only for models that are not on this disk"
    return (
        f"slmkit {__version__} | Python {here['python']} | torch {torch}"
        f" | {here['gpu'] or here['cpu']}, {here['cores']} cores"
        f" | memory limit {here['memory_limit_bytes'] / 1e9:.1f} GB ({here['memory_limit_origin']})"
        f" | model hub: {hub} | profile {profile}"
    )


def peak_ram_bytes() -> int | None:
    """The most memory this process has held (peak resident set), memory-mapped weights included once touched."""
    status = _read(Path("/proc/self/status")) or ""
    if match := re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE):
        return int(match[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(
    predict_proba: Callable[[Sequence[str]], Any],
    texts: Sequence[str],
    *,
    synchronize: Callable[[], None] = lambda: None,
    device_peak: Callable[[], int | None] = lambda: None,
    device: str = "cpu",
    latency_rows: int = 40,
    min_latency_rows: int = 10,
    time_budget_s: float = 10.0,
    batch_rows: int = 256,
    seed: int = 0,
    energy: EnergyReading | None = None,
) -> dict[str, Any]:
    """Time a classifier on rows drawn from `texts`, after warming up, and read the peaks afterwards.

    Parameters
    ----------
    predict_proba : callable
        Texts in, probabilities out; must be fitted and loaded.
    texts : sequence of str
        Rows as they come in use; a seeded sample of them is timed.
    synchronize : callable
        Waits for the device; called before each reading of the clock.
    device_peak : callable
        Peak bytes on the device, or None.
    device : str
        Where the model computes: decides which energy source can see its work.
    latency_rows, min_latency_rows : int
        Single rows to time at most; with fewer than `min_latency_rows` timed, the p95 says nothing and is None.
    time_budget_s : float
        About the time all of it takes. An energy reading, where the machine has a counter, goes on for ten seconds of
        batches if the budget is at least that.
    batch_rows : int
        Rows a batched call gets; fewer when the budget would not last for one call.
    energy : EnergyReading or None
        Take this instead of the best source for `device`.

    Returns
    -------
    dict
        latency_p50_s, latency_p95_s, n_latency, rows_per_s, n_batched, energy_j_per_1000_rows, energy_origin,
        energy_reason, peak_ram_bytes, peak_device_bytes. Unknown is None.
    """
    if not len(texts):
        raise InputError("measure needs at least one text; got none")
    end = time.perf_counter() + time_budget_s
    order = np.random.default_rng(seed).permutation(len(texts))
    sample = [texts[i] for i in order[: max(latency_rows, batch_rows)]]

    def timed(rows: list[str]) -> float:
        synchronize()
        began = time.perf_counter()
        predict_proba(rows)
        synchronize()
        return time.perf_counter() - began

    single = _latencies(timed, sample, latency_rows, min_latency_rows, time_budget_s)
    p50 = float(np.percentile(single, 50))
    rows = sample[: _rows_a_call(p50, max(end - time.perf_counter(), 0.1 * time_budget_s), batch_rows)]
    reading = energy or EnergyReading(device)
    batched = _batches(timed, rows, reading, end, time_budget_s)
    return {
        "latency_p50_s": p50,
        "latency_p95_s": float(np.percentile(single, 95)) if len(single) >= min_latency_rows else None,
        "n_latency": len(single),
        **batched,
        "peak_ram_bytes": peak_ram_bytes(),
        "peak_device_bytes": device_peak(),
    }


def _latencies(
    timed: Callable[[list[str]], float], sample: list[str], most: int, least: int, budget_s: float
) -> list[float]:
    """Seconds of single-row calls: one at least, `least` within 70 % of the budget, `most` within its share."""
    began = time.perf_counter()
    warm_up = timed(sample[:1])
    if warm_up < 0.1 * budget_s:  # a second call settles caches; a slow model cannot afford it
        timed(sample[:1])
    seconds: list[float] = []
    for text in itertools.islice(itertools.cycle(sample), most):
        used = time.perf_counter() - began
        if seconds and used > (LATENCY_SHARE if len(seconds) >= least else 0.7) * budget_s:
            break
        seconds.append(timed([text]))
    return seconds


def _rows_a_call(seconds_a_row: float, remaining_s: float, batch_rows: int) -> int:
    """Rows of a batched call so that a warm-up and one more end in time even if batching gains nothing."""
    return max(1, min(batch_rows, int(remaining_s / 2 / max(seconds_a_row, 1e-9))))


def _batches(
    timed: Callable[[list[str]], float], rows: list[str], reading: EnergyReading, end: float, budget_s: float
) -> dict[str, Any]:
    """Repeat batched calls for `BATCHED_S` (or what an energy reading needs) within the budget, after a warm-up."""
    if len(rows) > 1:  # single rows are warm already
        timed(rows)
    goal = max(BATCHED_S, reading.min_seconds if budget_s >= reading.min_seconds else 0.0)
    stop_at = max(end, time.perf_counter() + reading.min_seconds) if goal > BATCHED_S else end
    reading.start()
    spent = 0.0
    calls = 0
    while not calls or (spent < goal and time.perf_counter() < stop_at):
        spent += timed(rows)
        calls += 1
    used = reading.stop()
    n = calls * len(rows)
    return {
        "rows_per_s": n / spent if spent > 0 else None,
        "n_batched": n,
        "energy_j_per_1000_rows": None if used.joules is None else used.joules / n * 1000,
        "energy_origin": used.origin,
        "energy_reason": used.reason,
    }


def _cgroup_values(root: Path, v2_name: str, v1_name: str) -> list[int]:
    """The numbers in those files of this process's control group and all above it; "max" and missing are left out."""
    found = []
    for folder, name in _cgroup_folders(root, v2_name, v1_name):
        text = (_read(folder / name) or "").strip()
        if text.isdigit():
            found.append(int(text))
    return found


def _cgroup_folders(root: Path, v2_name: str, v1_name: str) -> Iterator[tuple[Path, str]]:
    mounts = {"": (root / "sys/fs/cgroup", v2_name), "memory": (root / "sys/fs/cgroup/memory", v1_name)}
    lines = (_read(root / "proc/self/cgroup") or "0::/\n0:memory:/").splitlines()
    for line in lines:
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        for key in {"memory"} & set(controllers.split(",")) if controllers else {""}:
            base, name = mounts[key]
            parts = [p for p in path.split("/") if p not in ("", "..")]
            for depth in range(len(parts), -1, -1):  # inside a container only the top of the tree is mounted
                yield base.joinpath(*parts[:depth]), name


def _room_in_cgroup(root: Path) -> int | None:
    limits = _cgroup_values(root, "memory.max", "memory.limit_in_bytes")
    used = _cgroup_values(root, "memory.current", "memory.usage_in_bytes")
    if not limits or not used or min(limits) >= ram_bytes():
        return None
    return max(0, min(limits) - used[0])


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else usable_cores()


@functools.lru_cache(maxsize=1)
def _cpu_name() -> str:
    match = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    name = match[1] if match else _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    return " ".join(name.split()) or platform.machine()


@functools.lru_cache(maxsize=1)
def _gpu_name() -> str | None:
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return f"{_cpu_name()} (integrated)"
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return names[0].strip() if names else None


@functools.lru_cache(maxsize=1)
def device_memory() -> int | None:
    """Bytes of the first NVIDIA card; None where there is none, or where the GPU shares the machine's memory."""
    found = _output("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits").split()
    return int(found[0]) * 1024**2 if found and found[0].isdigit() else None


def _output(*command: str) -> str:
    """What a system command prints, or nothing when it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
