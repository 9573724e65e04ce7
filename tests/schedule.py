"""The order of the tests for several processes (`-n 2 --dist loadgroup`): long ones first, a file's others together."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Groups start in the order they are given in, and each process computes on one core.

    With a thread per core in every process the threads wait for each other: tiny trainings took 3 to 15 times as long.
    """
    if config.getoption("dist", "no") != "no":
        config.option.loadscopereorder = False  # else those of most tests come first, and the long ones last
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Long tests come first, each for itself.

    A file's other tests stay together, since they share what was made for them. All that looks at the first notebook's
    kernel is one group and the first of all: it runs for minutes.
    """
    if not config.getoption("loadgroup", False):  # what a worker is told of `--dist loadgroup`
        return
    for item in items:
        if _turn(item) != 1:
            name = "notebooks" if _turn(item) == 0 else item.path.stem.removeprefix("test_")
            item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=_turn)


def _turn(item: pytest.Function) -> int:
    if "start_here" in item.fixturenames:
        return 0
    return 1 if {"slow", "real", "browser"} & {mark.name for mark in item.iter_markers()} else 2
