"""Energy of a piece of work in joules, from the best source this machine offers, and always with its origin.

"counter": the CPU's own RAPL counters (Linux powercap; CPU package and DRAM). "sampled": a GPU's power draw through
NVML. "modelled": CPU seconds of this process times a fixed power of a busy core, a figure for comparing runs on one
machine and not a reading. Readings are net of an idle baseline and need ten seconds of work, else the modelled figure
is given.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

WATTS_PER_BUSY_CORE = 10.0
"""An assumption: laptop and server CPUs are rated at roughly 5 to 15 W a core (28 W for 4 cores, 280 W for 32)."""

MIN_READING_S = 10.0  # shorter readings are mostly noise (FIELD_NOTES)
BASELINE_S = 0.5
POWERCAP = Path("/sys/class/powercap")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Energy:
    """Joules above idle of one piece of work; None and None when this machine cannot tell. `reason` is a sentence."""

    joules: float | None
    origin: str | None
    reason: str


class EnergyMeter(ABC):
    """Counts joules from `start()` to `stop()`; one reading at a time."""

    origin: str
    reason: str
    needs_baseline = True

    @abstractmethod
    def start(self) -> None:
        """Begin a reading."""

    @abstractmethod
    def stop(self) -> float | None:
        """Joules since `start()`, idle draw included; None when the source gave nothing."""

    def so_far(self) -> float | None:
        """The same while the reading goes on."""
        return self.stop()


class RaplMeter(EnergyMeter):
    """Intel's and AMD's energy counters: every CPU package and its DRAM, other processes' work included.

    Parameters
    ----------
    folder : Path
        The powercap tree. Zones inside another counted one (core, uncore) and the platform zone `psys` are left out,
        and the memory-mapped twin `intel-rapl-mmio`, so that nothing counts twice.
    """

    origin = "counter"

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _wanted_zone(zone)]
        names = " + ".join((zone / "name").read_text().strip() for zone in self._zones)
        self.reason = f"RAPL counters ({names}); everything the CPU does counts, idle is subtracted"
        self._before: list[int] = []

    @property
    def available(self) -> bool:
        """Whether at least one zone can be read (Linux allows it to root only, by default)."""
        return bool(self._zones)

    def start(self) -> None:
        self._before = [_read_int(zone / "energy_uj") for zone in self._zones]

    def stop(self) -> float | None:
        if len(self._before) != len(self._zones):
            return None
        joules = 0.0
        for zone, before in zip(self._zones, self._before, strict=True):
            used = _read_int(zone / "energy_uj") - before
            if used < 0:  # the counter wrapped round at its range
                used += _read_int(zone / "max_energy_range_uj")
            joules += used / 1e6
        return joules


class SampledMeter(EnergyMeter):
    """Power read ten times a second in a thread and summed over time (trapezoids).

    Parameters
    ----------
    read_watts : callable
        Gives the power now, in watts.
    reason : str
        What is read.
    """

    origin = "sampled"

    def __init__(self, read_watts: Callable[[], float], reason: str, *, hertz: float = 10.0) -> None:
        self.reason = reason
        self._read_watts, self._period = read_watts, 1 / hertz
        self._samples: list[tuple[float, float]] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._samples = []
        self._done.clear()
        self._thread = threading.Thread(target=self._run, name="slmkit-energy", daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        return self.so_far()

    def so_far(self) -> float | None:
        points = list(self._samples)
        if len(points) < 2:
            return None
        return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in itertools.pairwise(points))

    def _run(self) -> None:
        try:
            finished = False
            while not finished:
                self._samples.append((time.perf_counter(), self._read_watts()))
                finished = self._done.wait(self._period)
            self._samples.append((time.perf_counter(), self._read_watts()))
        except Exception as error:  # a driver that stops answering must not end the evaluation
            log.warning("reading the power failed: %s", error)
            self._samples = []


class ModelledMeter(EnergyMeter):
    """CPU seconds of this process, all its threads, times `watts_per_core`. Idle is 0 by construction."""

    origin = "modelled"
    needs_baseline = False

    def __init__(self, watts_per_core: float = WATTS_PER_BUSY_CORE, *, clock: Clock = time.process_time) -> None:
        self.reason = (
            f"CPU seconds of this process x {watts_per_core:g} W a busy core: compares runs on one machine, no reading"
        )
        self._watts, self._clock, self._before = watts_per_core, clock, 0.0

    def start(self) -> None:
        self._before = self._clock()

    def stop(self) -> float | None:
        return (self._clock() - self._before) * self._watts


def choose_meter(device: str = "cpu", *, powercap: Path = POWERCAP) -> EnergyMeter | None:
    """The best meter for work on `device`.

    Parameters
    ----------
    device : str
        "cpu": RAPL where readable, else modelled. "cuda": NVML, the GPU's draw alone. Any other accelerator has no
        source we can read, and CPU seconds would miss its work: None.
    """
    if device == "cpu":
        rapl = RaplMeter(powercap)
        return rapl if rapl.available else ModelledMeter()
    return _nvml_meter() if device.startswith("cuda") else None


def with_children() -> float:
    """CPU seconds of this process and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def of_this_and_children(more: Clock = lambda: 0.0) -> EnergyReading:
    """A reading of work on the GPU where one can be read, else on the CPU, children that have ended included.

    `more` gives further CPU seconds, those of a child that still runs.
    """
    modelled = ModelledMeter(clock=lambda: with_children() + more())
    if (gpu := choose_meter("cuda")) is not None:
        return EnergyReading("cuda", meter=gpu)
    meter = choose_meter("cpu")
    return EnergyReading(meter=modelled if isinstance(meter, ModelledMeter) else meter, fallback=modelled)


class EnergyReading:
    """One reading: measures the idle draw first, then counts between `start()` and `stop()`.

    Parameters
    ----------
    device : str
        As `choose_meter` takes it.
    meter : EnergyMeter or None
        Take this one instead of choosing.
    fallback : EnergyMeter or None
        Used when a reading was shorter than ten seconds; by default modelled for a CPU and nothing for other devices.

    Attributes
    ----------
    min_seconds : float
        Work shorter than this falls back; 0 for a modelled meter.
    """

    def __init__(
        self,
        device: str = "cpu",
        *,
        meter: EnergyMeter | None = None,
        fallback: EnergyMeter | None = None,
        clock: Clock = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._meter = meter or choose_meter(device)
        self._fallback = fallback or (ModelledMeter() if device == "cpu" else None)
        self._device, self._clock, self._sleep = device, clock, sleep
        self._idle_watts: float | None = None
        self._began = 0.0
        self.min_seconds = MIN_READING_S if self._meter is not None and self._meter.needs_baseline else 0.0

    def start(self) -> None:
        """Measure the idle draw for half a second where the meter needs it, then begin."""
        meter = self._meter
        if meter is not None and meter.needs_baseline:
            began = self._clock()
            meter.start()
            self._sleep(BASELINE_S)
            idle = meter.stop()
            self._idle_watts = None if idle is None else idle / max(self._clock() - began, 1e-9)
        for each in (meter, self._fallback):
            if each is not None:
                each.start()
        self._began = self._clock()

    def stop(self) -> Energy:
        """Joules above idle since `start()`, their origin and the reason for it."""
        found = [each.stop() if each is not None else None for each in (self._meter, self._fallback)]
        return self._found(*found)

    def so_far(self) -> Energy:
        """The same while the reading goes on; nothing before `start()`."""
        if not self._began:
            return Energy(None, None, "not started")
        found = [each.so_far() if each is not None else None for each in (self._meter, self._fallback)]
        return self._found(*found)

    def _found(self, total: float | None, modelled: float | None) -> Energy:
        seconds = self._clock() - self._began
        if self._meter is None:
            return Energy(None, None, f"no energy source can be read for device {self._device!r}")
        if not self._meter.needs_baseline:
            return Energy(total, self._meter.origin, self._meter.reason)
        problem = self._problem(total, seconds)
        if problem is None:
            assert total is not None and self._idle_watts is not None
            return Energy(total - self._idle_watts * seconds, self._meter.origin, self._meter.reason)
        log.info("energy not read from %s: %s", self._meter.reason, problem)
        if self._fallback is None:
            return Energy(None, None, problem)
        return Energy(modelled, self._fallback.origin, f"{self._fallback.reason} ({problem})")

    def _problem(self, total: float | None, seconds: float) -> str | None:
        if total is None or self._idle_watts is None or (total == 0 and self._idle_watts == 0):
            return "the meter gave no readings"
        if seconds < MIN_READING_S:
            return f"the work took {seconds:.1f} s and a reading needs {MIN_READING_S:g} s"
        if total <= self._idle_watts * seconds:
            return "the machine drew less than in the idle baseline: something else ran"
        return None


def _wanted_zone(zone: Path) -> bool:
    try:
        name = (zone / "name").read_text().strip()
        _read_int(zone / "energy_uj")
        _read_int(zone / "max_energy_range_uj")
    except (OSError, ValueError):
        return False
    return name.startswith("package") or name == "dram"


def _read_int(path: Path) -> int:
    return int(path.read_text().strip())


def _nvml_meter() -> EnergyMeter | None:
    """A meter on the first GPU this process may use, or None without NVML (`pip install nvidia-ml-py`)."""
    try:
        import pynvml

        pynvml.nvmlInit()
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
        handle = (
            pynvml.nvmlDeviceGetHandleByIndex(int(first))
            if first.isdigit()
            else pynvml.nvmlDeviceGetHandleByUUID(first)
        )
        watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
    except Exception as error:  # no driver, no library, no permission: all mean that this source is not there
        log.info("no NVML power readings: %s", error)
        return None
    log.debug("NVML reads %.0f W", watts)
    return SampledMeter(
        lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000, "NVML power of the GPU, without the CPU's"
    )
