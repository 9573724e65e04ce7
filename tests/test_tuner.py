"""The tuner's state without a browser: settings, a tuning in a child process, cancel, resume, errors, result, cost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tuning_rows import LABELS, TEXTS

from slmkit.errors import InputError
from slmkit.jobs.background import Snapshot
from slmkit.tuning import either
from slmkit_widgets.models.progress import MOST_POINTS, Curve, figures
from slmkit_widgets.models.tuner import TunerModel

LONG = 20_000  # epochs that nobody waits for
WORDS = ["prize", "lunch", "train", "flower", "card", "letter", "phone", "news"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Thirty-two texts of two labels, no two of them alike."""
    frame = pd.DataFrame({"text": TEXTS, "label": LABELS})
    words = [f"{a} {b} {a}{b}" for a in WORDS for b in WORDS if a != b]
    frame["text"] = [f"{text} {word}" for text, word in zip(frame["text"], words, strict=False)]
    frame.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


@pytest.fixture
def make(rows: Path, tmp_path: Path) -> Iterator[Callable[..., TunerModel]]:
    """Makes tuners of the model without weights, and closes them."""
    made: list[TunerModel] = []

    def one(**options: Any) -> TunerModel:
        how: dict[str, Any] = {"model": "dummy", "data": rows, "out": tmp_path / "tuned", "seed": 0, **options}
        made.append(TunerModel(**how))
        return made[-1]

    yield one
    for tuner in made:
        tuner.close()
        if tuner.job is not None:
            tuner.job.wait(60)


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_tuning_runs_in_a_child_and_says_what_it_bought_and_cost(make: Callable[..., TunerModel]) -> None:
    tuner, seen = make(epochs=40.0), []
    tuner.observe(lambda change: seen.append(change["new"]), "progress")
    assert tuner.state == "ready" and "Labels: a fifth" in tuner.rows_said and "Learning rate: 0.0005" in tuner.rate_why
    tuner.start(wait=True)
    assert tuner.state == "done" and tuner.error == "" and tuner.job.result().n_test > 0
    told = " ".join(tuner.result)
    for part in ("floor, on the same rows:", "accuracy:", "the floor", "It cost", "of memory at most", "J (", "cores"):
        assert part in told
    assert tuner.figure.data[0].x[-1] == tuner.progress.total == tuner.progress.done > 40
    assert not tuner.progress.busy and tuner.progress.points[-1][0] <= tuner.progress.total
    assert seen[0].busy and seen[0].total == 0 and "Getting ready" in seen[0].said
    assert not (Path(tuner.out).parent / "tuned.partial").exists()


def test_a_finished_folder_shows_its_result_and_is_not_written_again(make: Callable[..., TunerModel]) -> None:
    make(epochs=4.0).start(wait=True)
    again = make(epochs=4.0)
    assert again.state == "done" and "accuracy:" in " ".join(again.result) and again.figure is not None
    assert "It cost" not in " ".join(again.result), "what it cost is not written down"
    again.attempt(again.start)
    assert "out must be a new or an empty folder" in again.error and again.state == "done"


def test_cancel_is_said_at_once_keeps_a_checkpoint_and_another_tuner_resumes(make: Callable[..., TunerModel]) -> None:
    tuner = make(epochs=float(LONG), learning_rate=1e-3)
    tuner.start()
    until(lambda: tuner.progress.done > 3)
    with pytest.raises(InputError, match="a tuning runs here already, at step"):
        tuner.start()
    began = time.monotonic()
    tuner.cancel()
    assert tuner.state == "stopping" and "Stopping" in tuner.progress.said and time.monotonic() - began < 1
    assert tuner.job.wait(15) and tuner.state == "cancelled"
    left = either.left(tuner.out)
    assert left is not None and left.step >= 3 and left.asked["learning_rate"] == 1e-3
    assert f"at step {left.step:,}" in tuner.half_done and "Resume" in tuner.half_done
    with pytest.raises(InputError, match="nothing runs here"):
        tuner.cancel()

    other = make(epochs=3.0)  # as after a restart of the kernel, with other settings in the cell
    assert other.half_done == tuner.half_done and other.epochs == 3
    with pytest.raises(InputError, match=r"half-done tuning with other settings \(.*epochs was 20000.0 and is 3.0"):
        other.start()
    other.resume()
    assert (other.epochs, other.learning_rate) == (LONG, "0.001")
    until(lambda: other.progress.done > left.step)
    assert other.progress.points[0][0] > left.step, "it goes on, and does not begin anew"
    other.close()
    assert other.job.wait(15) and other.job.state == "cancelled"


def test_start_goes_on_with_the_same_settings(make: Callable[..., TunerModel]) -> None:
    tuner = make(epochs=float(LONG))
    tuner.start()
    until(lambda: tuner.progress.done > 3)
    tuner.cancel()
    assert tuner.job.wait(15)
    step = either.left(tuner.out).step  # type: ignore[union-attr]
    tuner.start()
    until(lambda: tuner.progress.done > step)
    assert tuner.progress.points[0][0] > step


def test_a_failure_is_said_as_its_cause_and_another_start_works(make: Callable[..., TunerModel]) -> None:
    tuner = make(rank=0, epochs=2.0)
    tuner.start()
    until(lambda: tuner.state == "failed")
    assert "rank" in tuner.error and "Traceback" not in tuner.error and "failed" in tuner.progress.said
    tuner._more["rank"] = 4
    tuner.start(wait=True)
    assert tuner.state == "done"
    wrong = make(out=Path(tuner.out).parent / "other", data="no_such_task")
    with pytest.raises(Exception, match="unknown task 'no_such_task'"):
        wrong.start(wait=True)
    assert wrong.state == "failed" and not (Path(wrong.out).parent / "other.partial").exists()


def test_a_frame_is_kept_beside_the_folder_and_found_again(make: Callable[..., TunerModel], rows: Path) -> None:
    frame = pd.read_csv(rows)
    tuner = make(data=frame, epochs=float(LONG))
    assert tuner.data == "your frame, 32 rows" and "frame, out=" in tuner.code
    tuner.start()
    until(lambda: tuner.progress.done > 3)
    tuner.cancel()
    assert tuner.job.wait(15)
    kept = Path(tuner.out).parent / "tuned.rows.jsonl"
    assert [json.loads(line)["text"] for line in kept.read_text().splitlines()] == frame["text"].tolist()
    again = make(data=frame, epochs=float(LONG))
    again.resume()
    assert again.data == "your frame, 32 rows"
    until(lambda: again.state in ("failed",) or again.progress.done > 3)
    assert again.error == ""


def test_an_interrupted_wait_stops_the_tuning_with_a_checkpoint(
    make: Callable[..., TunerModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner = make(epochs=float(LONG))

    def interrupted(job: Any) -> None:
        until(lambda: tuner.progress.done > 3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("slmkit.jobs.background.Job.wait", interrupted)
        tuner.start(wait=True)
    assert tuner.state == "stopping" and tuner.job.wait(15)
    assert either.left(tuner.out) is not None


def test_settings_are_checked_and_stand_in_the_python(make: Callable[..., TunerModel]) -> None:
    tuner = make(method="last-k", bits=8, train=20)
    assert tuner.bits == 8 and "method='last-k'" in tuner.code and "bits=8" in tuner.code and "train=20" in tuner.code
    tuner.method = "full"
    assert tuner.bits is None and [value for _, value in tuner.bits_options] == [None, 16]
    assert "0.0001 unless" in tuner.rate_why and "weights themselves" in tuner.rate_why
    for name, value, said in (
        ("learning_rate", "quick", "a number such as 5e-4; got 'quick'"),
        ("learning_rate", "7", "at most 1"),
        ("epochs", 0.0, "epochs must be above 0"),
        ("train", -1, "train must be 0"),
        ("method", "magic", "unknown method 'magic'"),
    ):
        tuner.attempt(setattr, tuner, name, value)
        assert said in tuner.error and getattr(tuner, name) != value
    with pytest.raises(InputError, match="a task's name, a file or a frame; got list"):
        TunerModel("dummy", [1], "x")
    tuner.model = "smollm2-135m"
    assert "needs about" in tuner.needs or "unknown" in tuner.needs
    tuner.data = "domain_dialogues"
    assert "perplexity" in tuner.rows_said


def test_a_curve_stays_small_and_keeps_its_ends() -> None:
    curve = Curve()
    for step in range(1, 5001):
        curve.add(step, 1 / step)
        assert len(curve.points) <= MOST_POINTS
    assert curve.points[0] == (1, 1.0) and curve.points[-1] == (5000, 0.0002)
    curve.add(10, 5.0)
    assert curve.points[-1][0] == 5000


def test_figures_say_what_is_known_with_units() -> None:
    now = Snapshot("running", step=12, steps=60, loss=2.3456, tokens_per_s=412.3, seconds_left=63, seconds=35.0,
                   energy_j=310.2, energy_origin="modelled", peak_ram_bytes=1_210_000_000)  # fmt: skip
    assert figures(now) == (
        "step 12 of 60 · loss 2.346 · 412 tokens/s · about 1 min 3 s left · 35 s so far · 1210 MB of memory at most "
        "· 310 J (modelled)"
    )
    assert figures(Snapshot("running", seconds=2.0)) == "2 s so far"


def test_closing_while_it_runs_leaves_no_thread(make: Callable[..., TunerModel]) -> None:
    before = set(threading.enumerate())
    tuner = make(epochs=float(LONG))
    tuner.start()
    until(lambda: tuner.progress.done > 3)
    tuner.close()
    tuner.close()
    until(lambda: set(threading.enumerate()) <= before, 15)
