"""Jobs: states, progress, callbacks and their rate, cancelling, errors, logs, and memory that comes back."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from loopback_server import Answer, loopback_server

import slmkit
from slmkit import jobs
from slmkit.errors import InputError
from slmkit.files import fetch
from slmkit.finetune import Tuned
from slmkit.jobs.background import Job, Snapshot

LONG_S = 60  # a test that waits this long has failed
CHILD = """
import os, time
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Found:
    where: Path
    numbers: dict
    pid: int

def work(numbers, where, progress=None):
    progress({"event": "failed", "step": 1, "steps": 2, "loss": 0.5})
    return Found(Path(where), {"sum": sum(numbers)}, os.getpid())

def sleep(progress=None):
    progress({"stage": "asleep", "step": os.getpid()})
    time.sleep(600)

def raises(progress=None):
    raise KeyError("what went wrong")

def returns_a_lock():
    import threading
    return threading.Lock()
"""


class Steps:
    """A function that goes on when told: `Job(steps)` reports one event for each `step()`."""

    def __init__(self) -> None:
        self.go, self.heard = threading.Semaphore(0), threading.Semaphore(0)
        self.events: list[dict[str, Any]] = []
        self.end = False

    def __call__(self, *, progress: Callable[[dict[str, Any]], None]) -> str:
        for number in range(1000):
            self.go.acquire(timeout=LONG_S)
            if self.end:
                return "the end"
            try:
                progress({"stage": "train", "step": number + 1, "steps": 1000, "loss": 1 / (number + 1)})
            finally:
                self.heard.release()
        raise AssertionError("never told to end")

    def step(self) -> None:
        self.go.release()
        assert self.heard.acquire(timeout=LONG_S)

    def finish(self) -> None:
        self.end = True
        self.go.release()


@pytest.fixture
def steps() -> Iterator[Steps]:
    made = Steps()
    yield made
    made.finish()


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that a child process finds too."""
    (tmp_path / "job_work.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib
    import sys

    sys.modules.pop("job_work", None)
    return importlib.import_module("job_work")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Forty texts of two kinds."""
    names = [f"{a}{b}" for a in "bcdf" for b in "aeiou"]
    rows = [(f"pay the fee for {n} now", "fraud") for n in names] + [(f"lunch with {n} at noon", "ham") for n in names]
    return pd.DataFrame(rows, columns=["text", "label"])


def test_a_job_goes_from_waiting_through_running_to_done(steps: Steps) -> None:
    job = Job(steps)
    assert job.state == "waiting" and job.progress == Snapshot()
    assert job.start() is job and job.state == "running" and not job.wait(0)
    steps.step()
    now = job.progress
    assert (now.state, now.message, now.step, now.steps, now.loss) == ("running", "train", 1, 1000, 1.0)
    with pytest.raises(FrozenInstanceError):
        now.step = 2  # type: ignore[misc]
    with pytest.raises(TimeoutError, match="still runs: train"):
        job.result(timeout=0)
    steps.finish()
    assert job.wait(LONG_S) and job.state == "done" and job.result() == "the end"
    assert job.progress.message == "done" and job.progress.step == 1, "the last figures stay"


def test_a_second_start_is_refused_and_harms_nothing(steps: Steps) -> None:
    job = Job(steps).start()
    with pytest.raises(InputError, match=r"started before and is running; make a new Job"):
        job.start()
    steps.finish()
    assert job.result(LONG_S) == "the end"
    with pytest.raises(InputError, match="started before and is done"):
        job.start()


def test_callbacks_come_four_times_a_second_at_most_and_once_at_the_end(steps: Steps) -> None:
    seen: list[Snapshot] = []
    job = Job(steps).watch(seen.append)
    now = 100.0
    job.clock = lambda: now
    job.start()
    for _ in range(32):  # one report every sixteenth of a second for two seconds
        steps.step()
        now += 1 / 16
    assert [one.step for one in seen] == [1, 5, 9, 13, 17, 21, 25, 29]
    steps.finish()
    assert job.wait(LONG_S)
    assert [one.state for one in seen] == ["running"] * 8 + ["done"]
    assert seen[-1].step == 32 and seen[-1].seconds == pytest.approx(2.0)


def test_a_callback_that_raises_is_logged_and_the_others_go_on(steps: Steps) -> None:
    seen: list[Snapshot] = []

    def broken(now: Snapshot) -> None:
        raise ZeroDivisionError("in a widget")

    job = Job(steps).watch(broken).watch(seen.append).start()
    steps.step()
    steps.finish()
    assert job.result(LONG_S) == "the end" and [one.state for one in seen] == ["running", "done"]
    assert any("broken" in line and "in a widget" in line for line in job.log), job.log


def test_cancel_stops_a_function_at_its_next_report(steps: Steps) -> None:
    job = Job(steps).start()
    steps.step()
    job.cancel()
    steps.step()
    assert job.wait(LONG_S) and job.state == "cancelled"
    with pytest.raises(jobs.Cancelled, match="stopped on request"):
        job.result()
    job.cancel()
    assert job.state == "cancelled" and "cancelled" in repr(job)


def test_cancel_before_the_start_and_after_the_end(steps: Steps) -> None:
    job = Job(steps)
    job.cancel()
    assert job.state == "cancelled"
    with pytest.raises(InputError, match="is cancelled; make a new Job"):
        job.start()
    with pytest.raises(jobs.Cancelled, match="before it was started"):
        job.result()
    ended = Job(lambda: 3).start()
    assert ended.result(LONG_S) == 3
    ended.cancel()
    assert ended.state == "done" and ended.result() == 3


def test_a_failure_is_kept_told_and_raised_without_what_its_frames_held(caplog: pytest.LogCaptureFixture) -> None:
    held: list[weakref.ref[Any]] = []

    class Weights:
        pass

    def load(name: str) -> None:
        weights = Weights()
        held.append(weakref.ref(weights))
        logging.getLogger("slmkit.test").warning("about to read %s", name)
        try:
            raise OSError("half a file")
        except OSError as error:
            raise ValueError(f"{name} is broken") from error

    seen: list[Snapshot] = []
    job = Job(load, "a model").watch(seen.append).start()
    assert job.wait(LONG_S) and job.state == "failed" and seen[-1].message == "ValueError: a model is broken"
    gc.collect()
    assert held[0]() is None, "the traceback holds the weights"
    for _ in range(2):
        with pytest.raises(ValueError, match="a model is broken") as raised:
            job.result()
        gc.collect()
        assert held[0]() is None and "load" not in [entry.name for entry in raised.traceback]
    log = "\n".join(job.log)
    assert "warning: about to read a model" in log and "raise ValueError" in log and "half a file" in log


def test_a_finished_job_lets_go_of_what_it_was_called_with() -> None:
    class Rows:
        pass

    rows = Rows()
    gone = weakref.ref(rows)
    job = Job(len_of, rows).start()
    assert job.result(LONG_S) == 1
    del rows
    gc.collect()
    assert gone() is None


def len_of(rows: object) -> int:
    return 1


def test_the_log_goes_to_a_file_too(tmp_path: Path, steps: Steps) -> None:
    path = tmp_path / "logs" / "job.log"
    job = Job(steps).start(log_file=path)
    steps.step()
    steps.finish()
    assert job.wait(LONG_S)
    lines = path.read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == job.log == ["Steps started", "train", "done"]
    with pytest.raises(slmkit.errors.SlmkitError, match="cannot be written"):
        Job(len_of, 1).start(log_file=tmp_path)


def test_energy_so_far_is_counted_with_its_origin() -> None:
    def work(progress: Callable[[dict[str, Any]], None]) -> None:
        for step in range(3):
            sum(i * i for i in range(1_000_000))
            progress({"step": step})

    seen: list[Snapshot] = []
    job = Job(work)
    job.clock = iter(range(100)).__next__
    job.watch(seen.append).start()
    assert job.wait(LONG_S)
    joules = [one.energy_j for one in seen]
    assert joules == sorted(joules) and 0 < joules[0] < joules[-1]
    assert {one.energy_origin for one in seen} <= {"counter", "sampled", "modelled"}


def test_a_study_tells_its_runs_and_is_cancelled_at_any_moment(table: pd.DataFrame, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"models": "dummy", "bits": 16, "measure_s": 0.2, "out": tmp_path / "runs"}
    job = slmkit.Job(slmkit.study, table, methods="floor", **quick).start()
    result = job.result(LONG_S)
    assert [run.method for run in result.runs] == ["floor"] and (job.progress.done, job.progress.total) == (1, 1)
    assert any(line.startswith("floor · seed 0: finished") for line in job.log), job.log

    def stop(now: Snapshot) -> None:
        if now.message.startswith("prompt"):
            again.cancel()

    again = slmkit.Job(slmkit.study, table, methods="prompt", **quick).watch(stop)
    again.clock = iter(range(10_000)).__next__
    again.start()
    kept = again.result(LONG_S)
    assert again.state == "cancelled" and kept.stopped and [run.method for run in kept.runs] == ["floor"]


def test_a_download_tells_its_bytes_and_keeps_what_came_when_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    body = bytes(range(256)) * 4000
    with loopback_server() as server:
        url = server.plan("/a", Answer(body))
        job = slmkit.Job(fetch.download, url, tmp_path / "a.bin").start()
        assert job.result(LONG_S)["bytes"] == len(body) and (tmp_path / "a.bin").read_bytes() == body
        assert (job.progress.step, job.progress.steps) == (len(body), len(body)) and "a.bin" in job.log
        stopped = slmkit.Job(fetch.download, url, tmp_path / "b.bin")
        stopped.watch(lambda now: stopped.cancel()).start()
        with pytest.raises(jobs.Cancelled, match="what came of b.bin is kept"):
            stopped.result(LONG_S)
    assert stopped.state == "cancelled" and (tmp_path / "b.bin.part").stat().st_size > 0


def test_a_classifier_s_fit_is_heard_and_can_be_cancelled(tiny_decoder: Any, table: pd.DataFrame) -> None:
    classifier = slmkit.LoRAClassifier(tiny_decoder.name, bits=16, backend="bnb", epochs=1, rank=2, batch_size=8)
    texts, labels = list(table["text"]), list(table["label"])
    seen: list[Snapshot] = []
    job = slmkit.Job(classifier.fit, texts, labels).watch(seen.append).start()
    assert job.result(LONG_S) is classifier and classifier.predict(texts[:2]).shape == (2,)
    assert seen[0].step and seen[0].steps == 5 and seen[0].loss > 0 and seen[0].tokens_per_s > 0
    assert classifier.progress is None

    endless = slmkit.LoRAClassifier(tiny_decoder.name, bits=16, backend="bnb", epochs=10_000, rank=2)
    job = slmkit.Job(endless.fit, texts, labels)
    job.watch(lambda now: job.cancel()).start()
    assert job.wait(LONG_S) and job.state == "cancelled" and endless.progress is None
    assert not hasattr(endless, "history_")


def test_a_tuning_runs_in_a_child_and_its_result_comes_back(tiny_chat_decoder: Any, tmp_path: Path) -> None:
    words = ["lunch", "train", "phone", "prize", "money", "flowers", "account", "password", "sales", "profit"]
    path = tmp_path / "rows.csv"
    pd.DataFrame({"prompt": words, "answer": [f"It is {word}." for word in words]}).to_csv(path, index=False)
    how: dict[str, Any] = {"out": tmp_path / "tuned", "epochs": 1, "rank": 2, "backend": "bnb"}
    seen: list[Snapshot] = []
    job = slmkit.Job(slmkit.finetune, tiny_chat_decoder.name, path, **how).watch(seen.append)
    tuned = job.start(in_child=True).result(LONG_S)
    assert isinstance(tuned, Tuned) and tuned.folder == tmp_path / "tuned" and tuned.loss_after < tuned.loss_before
    assert (tuned.folder / "adapter_model.safetensors").is_file() and seen[0].loss > 0
    assert seen[0].energy_j > 0, "a child's work counts while it runs"


def test_a_child_brings_values_back_and_its_events_are_its_own(child: Any, tmp_path: Path) -> None:
    import os

    seen: list[Snapshot] = []
    found = Job(child.work, [1, 2, 3], where=tmp_path).watch(seen.append).start(in_child=True).result(LONG_S)
    assert isinstance(found, child.Found) and found.where == tmp_path and found.numbers == {"sum": 6}
    assert found.pid != os.getpid() and seen[0].message == "failed" and seen[0].loss == 0.5


def test_cancel_ends_a_child_that_never_reports_again(child: Any) -> None:
    reported = threading.Event()
    job = Job(child.sleep).watch(lambda now: reported.set()).start(in_child=True)
    assert reported.wait(LONG_S)
    pid = job.progress.step
    job.cancel()
    assert job.wait(LONG_S) and job.state == "cancelled"
    assert pid is not None and not Path(f"/proc/{pid}").exists()


def test_a_child_s_failure_is_named_and_its_traceback_is_in_the_log_file(child: Any, tmp_path: Path) -> None:
    job = Job(child.raises).start(in_child=True, log_file=tmp_path / "job.log")
    with pytest.raises(jobs.JobFailed, match=r"^KeyError: 'what went wrong'$"):
        job.result(LONG_S)
    assert job.state == "failed" and "Traceback" in (tmp_path / "job.log").read_text()
    with pytest.raises(jobs.JobFailed, match="a lock among the results of returns_a_lock cannot pass"):
        Job(child.returns_a_lock).start(in_child=True).result(LONG_S)


def test_what_cannot_be_a_job_is_said_at_once(table: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"something to call, for example slmkit\.study; got 'study'"):
        Job("study")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"progress and cancel cannot be given: a job has watch\(\) and cancel\(\)"):
        Job(slmkit.study, "fraud_messages", progress=print, cancel=threading.Event())
    with pytest.raises(InputError, match="a DataFrame among the arguments of study cannot pass"):
        Job(slmkit.study, table).start(in_child=True)
    with pytest.raises(InputError, match="what a module defines"):
        Job(lambda: 1).start(in_child=True)
    with pytest.raises(InputError, match=r"was not started; call start\(\) first"):
        Job(len_of, 1).wait()
