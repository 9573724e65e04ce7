"""A process that forks children with their imports done: as good as fresh ones, and never in the way."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from slmkit import jobs
from slmkit.jobs.nursery import Nursery, library_pages, populate, possible

pytestmark = pytest.mark.skipif(not possible(), reason="a nursery forks: on Linux and without a GPU only")
CHILD = """
import os, sys
from slmkit import jobs

def work(job, emit):
    emit({"event": "progress", "known": sorted(set(job["look_for"]) & set(sys.modules)), "parent": os.getppid()})
    if job["torch"]:
        import torch
        torch.nn.functional.linear(torch.ones(64, 64), torch.ones(64, 64)).sum().item()
    return {}

def main():
    jobs.serve(work)

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where modules are found by children."""
    (tmp_path / "a_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def told(nursery: Nursery | None, torch: bool = False, **more: Any) -> dict[str, Any]:
    """What a child tells of itself, its peak among it."""
    events: list[dict[str, Any]] = []
    job = {"look_for": ["wave", "torch"], "torch": torch}
    found = jobs.run_child(job, module="a_child", nursery=nursery, on_event=events.append, **more)
    return {**events[0], **found}


def test_children_find_what_was_imported_once(folder: Path) -> None:
    with Nursery("a_child", ["wave", "no_such_module"]) as nursery:
        first, second = told(nursery), told(nursery)
        assert first["known"] == second["known"] == ["wave"]
        assert first["parent"] == second["parent"] == nursery._process.pid
    assert nursery._process.poll() is not None
    assert told(None)["known"] == [] and told(nursery)["parent"] != first["parent"], "it has ended: a fresh child"


def test_a_childs_peak_is_that_of_a_fresh_one(folder: Path) -> None:
    pytest.importorskip("torch")
    with Nursery("a_child", ["torch"]) as nursery:
        forked = told(nursery, torch=True)
    fresh = told(None, torch=True)
    assert forked["known"] == ["torch"] and fresh["known"] == []
    assert abs(forked["peak_rss_bytes"] / fresh["peak_rss_bytes"] - 1) < 0.06


def test_a_nursery_that_dies_is_done_without(folder: Path) -> None:
    (folder / "deadly.py").write_text("import os\nos._exit(3)")
    with Nursery("a_child", ["deadly"]) as nursery:
        assert told(nursery)["known"] == []
        assert told(nursery, timeout=60)["known"] == []


def test_where_libraries_cannot_be_mapped_again_there_is_none(folder: Path) -> None:
    (folder / "old_kernel.py").write_text("from slmkit.jobs import nursery\nnursery.POPULATE_READ = 12345")
    with Nursery("a_child", ["old_kernel", "wave"]) as nursery:
        assert told(nursery)["known"] == []


def test_where_a_gpus_driver_would_be_forked_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmkit.jobs.nursery.GPUS", (str(folder / "no_device"), str(folder)))
    with Nursery("a_child", ["wave"]) as nursery:
        assert told(nursery)["known"] == [] and nursery._process is None


def test_cancelling_does_not_wait_for_imports(folder: Path) -> None:
    (folder / "slow.py").write_text("import time\ntime.sleep(60)")
    cancel, began = threading.Event(), time.monotonic()
    threading.Timer(0.5, cancel.set).start()
    with Nursery("a_child", ["slow"]) as nursery, pytest.raises(jobs.Cancelled):
        told(nursery, cancel=cancel)
    assert time.monotonic() - began < 10 and nursery._process.poll() is not None


def test_pages_in_memory_are_found_and_mapped() -> None:
    pages = library_pages()
    assert sum(length for _, length in pages) > 1_000_000 and all(length > 0 for _, length in pages)
    populate(pages)
    with pytest.raises(OSError):
        populate([(1 << 46, 4096)])
