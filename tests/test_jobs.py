"""Child processes, fresh or from a nursery: results, noise, crashes, time limits, cancelling, a parent that dies."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from slmkit import jobs
from slmkit.jobs.nursery import Nursery, possible

CHILD = """
import ctypes, os, signal, sys, time
from slmkit import jobs
from slmkit.errors import InputError

def work(job, emit):
    what = job["what"]
    if what == "add":
        return {"sum": sum(job["numbers"])}
    if what == "noise":
        print("a library prints this")
        os.system("echo a program prints this")
        ctypes.CDLL(None).puts(b"C prints this")
        emit({"event": "progress", "step": 1})
        return {"ok": True}
    if what == "raise":
        raise (InputError if job["ours"] else KeyError)("what went wrong")
    if what == "die":
        print("the last thing said", file=sys.stderr, flush=True)
        os.kill(os.getpid(), getattr(signal, job["signal"]))
    if what == "exit":
        os._exit(9)
    if what == "grow":
        block = bytearray(300_000_000)
        return {"n": len(block)}
    emit({"event": "progress", "pid": os.getpid(), "parent": os.getppid()})
    time.sleep(60 if what == "sleep" else 0)
    return {}

def main():
    jobs.serve(work)

if __name__ == "__main__":
    main()
"""
NURSERY = pytest.param(True, marks=pytest.mark.skipif(not possible(), reason="forks"), id="nursery")


@pytest.fixture(params=[pytest.param(False, id="fresh"), NURSERY])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "job_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    log_path = tmp_path / "logs" / "job.log"
    with Nursery("job_child") if request.param else nullcontext() as nursery:
        how = {"module": "job_child", "log_path": log_path, "nursery": nursery}
        yield lambda job, **more: jobs.run_child(job, **how, **more)
        if nursery:  # it gave its children, whatever became of them, and has another one
            events: list = []
            jobs.run_child({"what": "tell"}, on_event=events.append, **how)
            assert events[0]["parent"] == nursery._process.pid != os.getpid()


def test_a_full_disk_is_named_with_its_folder(tmp_path: Path) -> None:
    named = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x.json"))
    assert jobs.describe(named, "runs") == f"the disk is full: {tmp_path}"
    assert jobs.describe(RuntimeError("I/O error: No space left on device (os error 28)"), "runs") == (
        "the disk is full: runs"
    )
    assert jobs.describe(OSError(errno.EACCES, "Permission denied")) == "PermissionError: [Errno 13] Permission denied"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


def test_result_comes_back_with_the_childs_peak(run):
    result = run({"what": "add", "numbers": [1, 2, 3]})
    assert result["sum"] == 6
    assert 10_000_000 < result["peak_rss_bytes"] < 2_000_000_000


def test_peak_is_the_childs_own_and_not_the_parents(run):
    held = bytearray(os.urandom(1) * 400_000_000)
    small = run({"what": "add", "numbers": []})["peak_rss_bytes"]
    del held
    assert run({"what": "grow"})["peak_rss_bytes"] - small > 250_000_000


def test_prints_of_python_c_and_programs_do_not_reach_the_events(run, tmp_path):
    events: list = []
    assert run({"what": "noise"}, on_event=events.append)["ok"] is True
    assert [event["step"] for event in events] == [1]
    said = (tmp_path / "logs" / "job.log").read_text()
    assert "a library prints this" in said and "a program prints this" in said


def test_errors_are_named_unless_they_are_our_own(run, tmp_path):
    with pytest.raises(jobs.JobFailed, match=r"^what went wrong$") as ours:
        run({"what": "raise", "ours": True})
    assert ours.value.kind == "InputError"
    with pytest.raises(jobs.JobFailed, match=r"^KeyError: 'what went wrong'$") as other:
        run({"what": "raise", "ours": False})
    assert other.value.kind == "KeyError" and other.value.peak_rss_bytes > 10_000_000
    assert "Traceback" in (tmp_path / "logs" / "job.log").read_text()


def test_a_killed_child_is_told_with_its_last_words(run):
    with pytest.raises(jobs.JobFailed, match=r"ended by signal 9 \(most often: out of memory\).*the last thing said"):
        run({"what": "die", "signal": "SIGKILL"})
    with pytest.raises(jobs.JobFailed, match=r"ended by signal 11 \(SIGSEGV\)"):
        run({"what": "die", "signal": "SIGSEGV"})
    with pytest.raises(jobs.JobFailed, match="exit code 9 and no result"):
        run({"what": "exit"})


def test_time_limit_ends_the_child(run):
    events: list = []
    with pytest.raises(jobs.JobFailed, match="longer than it was given") as error:
        run({"what": "sleep"}, timeout=2.0, on_event=events.append)
    assert error.value.kind == "timeout"
    assert events and gone(events[0]["pid"])


def test_cancel_answers_at_once(run):
    cancel, pids = threading.Event(), []

    def stop(event):
        pids.append(event["pid"])
        cancel.set()

    began = time.monotonic()
    with pytest.raises(jobs.Cancelled):
        run({"what": "sleep"}, on_event=stop, cancel=cancel)
    assert time.monotonic() - began < 10 and gone(pids[0])


def test_an_exception_in_the_callback_ends_the_child(run):
    pids: list = []

    def stop(event):
        pids.append(event["pid"])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run({"what": "sleep"}, on_event=stop)
    assert gone(pids[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_child_dies_with_its_parent(run, request):
    forks = "nursery" in request.node.name
    parent = textwrap.dedent(f"""
        from slmkit import jobs
        from slmkit.jobs.nursery import Nursery
        with Nursery("job_child") as nursery:
            tell = lambda e: print(e["pid"], e["parent"], flush=True)
            how = {{"module": "job_child", "nursery": nursery if {forks} else None}}
            jobs.run_child({{"what": "sleep"}}, on_event=tell, **how)
    """)
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        child, parent = map(int, process.stdout.readline().split())
        assert alive(child) and alive(parent) and forks == (parent != process.pid)
        process.send_signal(signal.SIGKILL)
    assert gone(child) and gone(parent)


def test_no_module_of_the_current_folder_is_picked_up(run, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(elsewhere)
    assert run({"what": "add", "numbers": [4]})["sum"] == 4


GENTLE = """
import time
from pathlib import Path
from slmkit import jobs

def work(job, emit):
    told = False
    while True:
        try:
            if not told:
                told = True
                emit({"event": "progress"})
            time.sleep(60)
        except KeyboardInterrupt:
            if job["what"] != "deep":
                Path(job["kept"]).write_text("a last checkpoint")
                raise

jobs.serve(work, grace_s=1.5)
"""


@pytest.fixture
def gentle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gentle_child.py").write_text(GENTLE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return {"what": "sleep", "kept": str(tmp_path / "kept")}


def cancelled_after(job, **more) -> float:
    """Seconds from the wish to stop to the answer."""
    cancel, began = threading.Event(), [0.0]

    def stop(event):
        began[0] = time.monotonic()
        cancel.set()

    with pytest.raises(jobs.Cancelled):
        jobs.run_child(job, module="gentle_child", on_event=stop, cancel=cancel, **more)
    return time.monotonic() - began[0]


def test_with_grace_a_child_keeps_what_it_has_before_it_ends(gentle):
    assert cancelled_after(gentle, grace_s=30) < 5
    assert Path(gentle["kept"]).read_text() == "a last checkpoint"


def test_a_child_that_hears_nothing_is_ended_after_its_grace(gentle):
    assert 0.3 < cancelled_after({**gentle, "what": "deep"}, grace_s=0.5) < 5
    assert cancelled_after(gentle) < 5 and not Path(gentle["kept"]).exists(), "no grace, no last words"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_that_lost_its_parent_keeps_what_it_has(gentle):
    parent = textwrap.dedent(f"""
        from slmkit import jobs
        jobs.run_child({gentle!r}, module="gentle_child", on_event=lambda e: print("up", flush=True))
    """)
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while not Path(gentle["kept"]).exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert Path(gentle["kept"]).read_text() == "a last checkpoint"
