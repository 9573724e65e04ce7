"""Several processes share the tests as `schedule` says; pytest 9.2 with pytest-xdist 3.8 forgets groups in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

FILE = """
import os, time, pytest

@pytest.fixture
def start_here():
    return None

@pytest.fixture(autouse=True)
def told(request):
    with open("order.txt", "a") as file:
        file.write(f"{request.node.path.stem} {request.node.originalname} {os.environ['PYTEST_XDIST_WORKER']}\\n")
    time.sleep(0.05)

@pytest.mark.parametrize("i", range(5))
def test_quick(i): ...

@pytest.mark.slow
@pytest.mark.xdist_group("shared")
@pytest.mark.parametrize("i", range(3))
def test_grouped(i): ...

@pytest.mark.slow
@pytest.mark.parametrize("i", range(4))
def test_long(i): ...

def test_first(start_here): ...
"""


def test_long_tests_come_first_and_groups_stay_on_one_worker(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / f"test_{name}.py").write_text(FILE, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: long\n", encoding="utf-8")
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "schedule", "-n", "2", "--dist", "loadgroup"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment | {"PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in (tmp_path / "order.txt").read_text(encoding="utf-8").splitlines()]
    workers: dict[str, set[str]] = defaultdict(set)
    for file, test, worker in lines:
        workers[file if test == "test_quick" else test].add(worker)
    for group in ("test_first", "test_grouped", "test_one", "test_two", "test_three"):
        assert len(workers[group]) == 1, f"{group} ran on {workers[group]}"
    orders: dict[str, list[str]] = defaultdict(list)
    for _, test, worker in lines:
        orders[worker].append(test)
    assert len(orders) == 2
    for tests in orders.values():  # within a process: the first notebook's, then long ones, then the rest
        turns = [{"test_first": 0, "test_quick": 2}.get(test, 1) for test in tests]
        assert turns == sorted(turns)
