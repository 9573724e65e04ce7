"""Limits and meters over made-up system folders, timings of models whose speed is known, peaks of real processes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import slmkit
from slmkit import footprint
from slmkit.errors import InputError
from slmkit.footprint import energy

MB = 1_000_000


@pytest.fixture(autouse=True)
def no_limits_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLMKIT_MEMORY_LIMIT", "MEM_LIMIT"):
        monkeypatch.delenv(name, raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("2000000000", 2e9), ("1.5GB", 1.5e9), ("1.5 GiB", 1.5 * 2**30), ("512m", 512e6), ("1KiB", 1024)],
)
def test_memory_sizes_are_read(text: str, n_bytes: float) -> None:
    assert footprint.parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "much", "-1GB", "1.5XB", "GB"])
def test_wrong_memory_sizes_are_named(text: str) -> None:
    with pytest.raises(InputError, match=r"must look like 2000000000, 1\.5GB or 1\.5GiB; got"):
        footprint.parse_bytes(text)


def test_limit_set_by_hand_comes_before_binders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{300 * MB}\n"})
    assert footprint.memory_limit(tmp_path) == (300 * MB, "control group")
    monkeypatch.setenv("MEM_LIMIT", str(600 * MB))
    assert footprint.memory_limit(tmp_path) == (600 * MB, "MEM_LIMIT")
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "1.5GB")
    assert footprint.memory_limit(tmp_path) == (1500 * MB, "SLMKIT_MEMORY_LIMIT")
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "lots")
    with pytest.raises(InputError, match="SLMKIT_MEMORY_LIMIT: a memory size must look like"):
        footprint.memory_limit(tmp_path)


def test_smallest_limit_of_the_group_and_its_parents_counts(tmp_path: Path) -> None:
    base = "sys/fs/cgroup"
    files = {
        f"{base}/user/memory.max": f"{400 * MB}",
        f"{base}/user/app/memory.max": "max",
        f"{base}/memory.max": "max",
    }
    write(tmp_path, {"proc/self/cgroup": "0::/user/app\n", **files})
    assert footprint.memory_limit(tmp_path) == (400 * MB, "control group")


def test_version_1_groups_are_read_where_only_the_top_is_mounted(tmp_path: Path) -> None:
    lines = "4:memory:/docker/0123\n1:cpu:/docker/0123\n0::/\n"
    limit = {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{500 * MB}"}
    assert footprint.memory_limit(write(tmp_path, {"proc/self/cgroup": lines, **limit})) == (500 * MB, "control group")


def test_no_limit_is_the_machine(tmp_path: Path) -> None:
    unlimited = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}
    write(tmp_path, {"proc/self/cgroup": "4:memory:/\n", **unlimited})
    assert footprint.memory_limit(tmp_path) == (footprint.ram_bytes(), "machine")
    assert footprint.memory_limit(tmp_path / "nowhere") == (footprint.ram_bytes(), "machine")


def test_available_memory_is_what_the_group_has_left(tmp_path: Path) -> None:
    files = {"memory.max": f"{400 * MB}", "memory.current": f"{150 * MB}"}
    write(tmp_path, {"proc/self/cgroup": "0::/\n", **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}})
    assert footprint.available_memory(tmp_path) == 250 * MB
    assert 0 < footprint.available_memory(tmp_path / "nowhere") <= footprint.ram_bytes()


def test_machine_describes_it_without_naming_anybody() -> None:
    facts = footprint.machine()
    said = "cpu cores threads ram_bytes memory_limit_bytes memory_limit_origin os python gpu instruction_sets"
    assert " ".join(facts) == said
    assert facts["cores"] >= 1 and facts["ram_bytes"] > 100 * MB and facts["python"] == platform.python_version()
    assert set(facts["instruction_sets"]) <= set(footprint.INSTRUCTION_SETS)
    text = json.dumps(facts)
    private = [platform.node(), str(Path.home()), str(Path.cwd())]
    assert not [word for word in private if len(word) > 3 and word in text]


def test_versions_leave_out_what_is_absent() -> None:
    found = footprint.versions()
    assert found["numpy"].count(".") == 2 and set(found) <= set(footprint.PACKAGES) and None not in found.values()


def test_peak_holds_what_was_freed() -> None:
    code = "from slmkit.footprint import peak_ram_bytes as p; a = p(); x = bytearray(200_000_000); del x; print(a, p())"
    before, after = map(int, _python(code).split())
    assert 195 * MB < after - before < 230 * MB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone starts a child at its parent's peak")
def test_peak_of_a_child_is_its_own_and_not_its_parents() -> None:
    code = (
        "import subprocess, sys; x = bytearray(500_000_000); "
        "subprocess.run([sys.executable, '-c', 'from slmkit.footprint import peak_ram_bytes as p; print(p())'])"
    )
    assert int(_python(code)) < 300 * MB


def _python(code: str) -> str:
    root = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=root, check=True
    )
    return done.stdout


class Sleeper:
    """A model that takes a fixed time a call and a row, and remembers its batches."""

    def __init__(self, per_call_s: float, per_row_s: float) -> None:
        self.per_call_s, self.per_row_s = per_call_s, per_row_s
        self.batches: list[int] = []

    def __call__(self, texts: Sequence[str]) -> None:
        self.batches.append(len(texts))
        time.sleep(self.per_call_s + self.per_row_s * len(texts))


def test_measure_finds_the_speed_that_was_built_in() -> None:
    model, order = Sleeper(0.004, 0.001), []
    found = footprint.measure(
        model,
        [f"text {i}" for i in range(100)],
        synchronize=lambda: order.append("synchronised"),
        device_peak=lambda: 123,
        time_budget_s=4,
        batch_rows=50,
    )
    assert found["latency_p50_s"] == pytest.approx(0.005, rel=0.3)
    assert found["latency_p50_s"] <= found["latency_p95_s"] < 0.02
    assert found["rows_per_s"] == pytest.approx(50 / 0.054, rel=0.3)
    assert found["n_latency"] == 40 and model.batches[:2] == [1, 1] and model.batches.count(1) == 42, "two warm-ups"
    assert found["n_batched"] == (model.batches.count(50) - 1) * 50, "one batched warm-up"
    assert len(order) == 2 * len(model.batches), "the device is waited for before both readings of the clock"
    assert found["peak_device_bytes"] == 123 and found["peak_ram_bytes"] > 10 * MB
    assert found["energy_origin"] == "modelled" and "no reading" in found["energy_reason"]


def test_a_slow_model_ends_near_the_budget_and_p95_of_few_rows_is_unknown() -> None:
    began = time.perf_counter()
    found = footprint.measure(Sleeper(0, 0.3), ["a"] * 100, time_budget_s=1.5)
    assert time.perf_counter() - began < 2.6
    assert found["latency_p95_s"] is None and 1 <= found["n_latency"] < 10
    assert found["latency_p50_s"] == pytest.approx(0.3, rel=0.1) and found["rows_per_s"] == pytest.approx(3.3, rel=0.2)
    assert found["peak_device_bytes"] is None


def test_measure_needs_a_text() -> None:
    with pytest.raises(InputError, match="at least one text; got none"):
        footprint.measure(lambda texts: None, [])


def test_measure_reports_joules_per_thousand_rows() -> None:
    reading = energy.EnergyReading(meter=Counted([50.0], origin="modelled"))
    found = footprint.measure(Sleeper(0.01, 0), ["a", "b"], time_budget_s=1, energy=reading)
    assert found["energy_j_per_1000_rows"] == pytest.approx(50.0 / found["n_batched"] * 1000)


class Counted(energy.EnergyMeter):
    """A meter that gives the readings it is told."""

    reason = "told"

    def __init__(self, readings: list[float | None], origin: str = "counter") -> None:
        self.origin, self.needs_baseline = origin, origin != "modelled"
        self.readings: Iterator[float | None] = iter(readings)

    def start(self) -> None:
        pass

    def stop(self) -> float | None:
        return next(self.readings)


def read(readings: list[float | None], seconds: float, **kwargs: object) -> energy.Energy:
    """One reading of work that took `seconds`, after half a second of idling, on a clock of our own."""
    now = [0.0]
    fallback = energy.ModelledMeter(10, clock=lambda: now[0])
    reading = energy.EnergyReading(
        meter=Counted(readings),
        fallback=fallback,
        clock=lambda: now[0],
        sleep=lambda s: now.__setitem__(0, now[0] + s),
        **kwargs,  # type: ignore[arg-type]
    )
    reading.start()
    now[0] += seconds
    return reading.stop()


def test_idle_draw_is_subtracted() -> None:
    found = read([10.0, 1000.0], 20)  # 10 J in half a second: 20 W idle
    assert (found.joules, found.origin) == (1000 - 20 * 20, "counter")


@pytest.mark.parametrize(
    ("readings", "seconds", "reason"),
    [
        ([10.0, 300.0], 5, "the work took 5.0 s and a reading needs 10 s"),
        ([10.0, 200.0], 20, "drew less than in the idle baseline"),
        ([0.0, 0.0], 20, "gave no readings"),
        ([None, None], 20, "gave no readings"),
    ],
)
def test_a_reading_that_says_nothing_becomes_modelled_and_says_so(
    readings: list[float | None], seconds: float, reason: str
) -> None:
    found = read(readings, seconds)
    assert found.origin == "modelled" and found.joules == pytest.approx(10 * seconds)
    assert reason in found.reason and "no reading" in found.reason


def test_modelled_is_cpu_seconds_times_watts() -> None:
    meter = energy.ModelledMeter()
    meter.start()
    began = time.process_time()
    sum(i * i for i in range(1_000_000))
    spent = time.process_time() - began
    joules = meter.stop()
    assert joules == pytest.approx(spent * energy.WATTS_PER_BUSY_CORE, rel=0.1)
    meter.start()
    time.sleep(0.2)
    idle = meter.stop()
    assert idle is not None and idle < 0.5, "waiting costs nothing by construction"


ZONES = {
    "intel-rapl:0": ("package-0", 5_000_000, 10_000_000),
    "intel-rapl:0:0": ("core", 1_000_000, 10_000_000),
    "intel-rapl:0:1": ("dram", 2_000_000, 8_000_000),
    "intel-rapl:1": ("psys", 9_000_000, 10_000_000),
    "intel-rapl-mmio:0": ("package-0", 5_000_000, 10_000_000),
}


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    for zone, (name, used, whole) in ZONES.items():
        write(tmp_path / zone, {"name": f"{name}\n", "energy_uj": f"{used}\n", "max_energy_range_uj": f"{whole}\n"})
    write(tmp_path / "intel-rapl", {"enabled": "1"})
    return tmp_path


def test_counters_add_package_and_dram_once_and_survive_a_wrap(powercap: Path) -> None:
    meter = energy.choose_meter("cpu", powercap=powercap)
    assert isinstance(meter, energy.RaplMeter) and "(package-0 + dram)" in meter.reason
    meter.start()
    after = {"intel-rapl:0": 7_500_000, "intel-rapl:0:0": 9_000_000, "intel-rapl:0:1": 500_000, "intel-rapl:1": 1}
    for zone, used in after.items():
        (powercap / zone / "energy_uj").write_text(f"{used}\n")
    assert meter.stop() == pytest.approx(2.5 + (0.5 - 2.0 + 8.0))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read what is closed to others")
def test_counters_that_may_not_be_read_are_passed_over(powercap: Path) -> None:
    for path in powercap.glob("*/energy_uj"):
        path.chmod(0)
    assert isinstance(energy.choose_meter("cpu", powercap=powercap), energy.ModelledMeter)


def test_counters_that_are_broken_are_passed_over(powercap: Path) -> None:
    for path in powercap.glob("*/energy_uj"):
        path.write_text("")
    assert isinstance(energy.choose_meter("cpu", powercap=powercap), energy.ModelledMeter)


def test_sampled_power_is_summed_over_time() -> None:
    meter = energy.SampledMeter(lambda: 40.0, "told", hertz=100)
    began = time.perf_counter()
    meter.start()
    time.sleep(0.3)
    joules = meter.stop()
    assert joules is not None and joules == pytest.approx(40 * (time.perf_counter() - began), rel=0.1)


def test_joules_are_told_while_a_reading_goes_on() -> None:
    now = [1.0]
    meter = energy.ModelledMeter(10, clock=lambda: now[0])
    reading = energy.EnergyReading(meter=meter, clock=lambda: now[0])
    assert reading.so_far().joules is None
    reading.start()
    now[0] += 2
    assert (reading.so_far().joules, reading.so_far().origin) == (20.0, "modelled")
    now[0] += 1
    assert reading.stop().joules == 30.0
    sampled = energy.SampledMeter(lambda: 40.0, "told", hertz=200)
    sampled.start()
    time.sleep(0.1)
    early, whole = sampled.so_far(), sampled.stop()
    assert early is not None and whole is not None and 0 < early < whole


def test_a_driver_that_stops_answering_gives_no_figure(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> float:
        raise RuntimeError("GPU is lost")

    meter = energy.SampledMeter(broken, "told")
    meter.start()
    assert meter.stop() is None and "reading the power failed: GPU is lost" in caplog.text


def test_work_that_cpu_seconds_would_miss_has_no_figure() -> None:
    reading = energy.EnergyReading("metal")
    reading.start()
    found = reading.stop()
    assert (found.joules, found.origin) == (None, None) and "device 'metal'" in found.reason


@pytest.mark.parametrize(("offline", "hub"), [("1", "off"), ("0", "asked only for models that are not on this disk")])
def test_the_line_a_notebook_begins_with(monkeypatch: pytest.MonkeyPatch, offline: str, hub: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "2GB")
    parts = footprint.headline("tiny").split(" | ")
    assert parts[0] == f"slmkit {slmkit.__version__}" and parts[1] == f"Python {platform.python_version()}"
    assert parts[3].endswith(f", {footprint.usable_cores()} cores") and parts[4].startswith("memory limit 2.0 GB (")
    assert parts[5:] == [f"model hub: {hub}", "profile tiny"]


def test_a_profile_that_there_is_not_and_one_without_its_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"must be one of tiny, laptop, gpu; got 'Laptop'"):
        footprint.headline("Laptop")
    with_card = {**footprint.machine(), "gpu": "A card"}
    monkeypatch.setattr(footprint, "machine", lambda: {**with_card, "gpu": None})
    with pytest.raises(InputError, match=r"here: no GPU, torch .*; take profile 'laptop' or 'tiny'"):
        footprint.headline("gpu")
    monkeypatch.setattr(footprint, "machine", lambda: with_card)
    monkeypatch.setattr(footprint, "versions", lambda: {"torch": "2.13.0+cpu"})
    with pytest.raises(InputError, match=r"here: A card, torch 2\.13\.0\+cpu"):
        footprint.headline("gpu")
    monkeypatch.setattr(footprint, "versions", lambda: {"torch": "2.13.0+cu130"})
    assert footprint.headline("gpu").endswith("profile gpu")
