"""The Pareto explorer: the right runs beside the floor, the paired verdict, hostile names, ten thousand records."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pushed import Pushed, assert_only_text, pushed
from sample_runs import HOSTILE, N_TEST, a_floor, a_run, a_study

pytest.importorskip("ipywidgets")

import slmkit_data

from slmkit import metrics, plots
from slmkit.errors import InputError
from slmkit.runs import Run, probability_frame, write_run
from slmkit.runs.configurations import FOOTPRINTS
from slmkit_widgets import ParetoExplorer
from slmkit_widgets.models.pareto import NUMBERED

__all__ = ["pushed"]  # the fixture


def explorer(runs: list[Run], **named: Any) -> ParetoExplorer:
    return ParetoExplorer(runs, recorded=False, **named)


def many(n: int) -> list[Run]:
    rng = random.Random(0)
    scored = {right: a_run(right=right) for right in range(60, 119)}
    made = [a_floor()]
    for i in range(n - 1):
        costs = {"stored_bytes": rng.randint(10**7, 10**10), "latency_p50_s": rng.random()}
        chosen = {"method": rng.choice(["lora", "embedding"]), "model": f"m{i % 500}", "bits": rng.choice([16, 4])}
        made.append(replace(scored[rng.randint(60, 118)], **chosen, params={"rank": i}, run_id=f"r{i}", **costs))
    return made


def in_picture(view: ParetoExplorer) -> list[str]:
    return [trace.name.split(" · ")[1] for trace in view.model.figure.data if " · " in (trace.name or "")]


def test_filters_leave_the_floor_and_the_table_shows_what_the_picture_shows() -> None:
    view = explorer(a_study())
    view.methods.value, view.bits.value = ("lora",), (4,)
    view.first.value = view.second.value = ""
    names = [name for name in in_picture(view) if "LoRA" not in name]
    assert names == ["TF-IDF floor"]
    assert list(view.model.table["configuration"]) == in_picture(view)
    assert set(view.model.table["configuration"]) == {
        "TF-IDF floor", "SmolLM2-135M, LoRA, 4 bits", "SmolLM2-360M, LoRA, 4 bits"
    }  # fmt: skip
    view.clear.click()
    assert len(in_picture(view)) == 12 and view.methods.value == ()


@pytest.mark.parametrize("key", list(FOOTPRINTS))
def test_the_axis_switches_between_the_four_costs(key: str) -> None:
    view = explorer(a_study())
    view.footprint.value = key
    assert FOOTPRINTS[key].title in view.model.figure.layout.xaxis.title.text
    assert not view.model.figure.layout.updatemenus
    floor = view.model.table[view.model.table["configuration"] == "TF-IDF floor"].iloc[0]
    drawn = next(t for t in view.model.figure.data if "floor" in (t.name or ""))
    column = f"{FOOTPRINTS[key].button} ({FOOTPRINTS[key].unit})"
    assert float(floor[column]) == pytest.approx(np.mean(drawn.x), rel=0.01)


def test_the_front_is_that_of_the_means() -> None:
    view = explorer(a_study())
    configs = view.model._all
    points = [(FOOTPRINTS["stored_bytes"].of(c.first), c.accuracy) for c in configs]
    front = {configs[i].name for i in plots.pareto(points)}
    shown = view.model.table
    assert set(shown.loc[shown["on the front"] == "yes", "configuration"]) == front


def with_probabilities(run: Run, folder: Path, right: int, offset: int) -> Run:
    """A run whose rows from `offset` on, `right` of them, are right."""
    hit = (np.arange(N_TEST) - offset) % N_TEST < right
    proba = np.where(hit[:, None], [0.9, 0.1], [0.1, 0.9])
    rows = probability_frame(np.arange(N_TEST), ["fraud"] * N_TEST, proba, ["fraud", "genuine"])
    write_run(run, folder, rows)
    return run


def test_two_picked_ones_are_compared_row_by_row_also_from_two_folders(tmp_path: Path) -> None:
    with_probabilities(a_floor(90), tmp_path / "one", 90, 0)
    with_probabilities(a_run(right=110), tmp_path / "two", 110, 5)
    view = ParetoExplorer(folder=tmp_path, recorded=False)
    hits = [(np.arange(N_TEST) - offset) % N_TEST < right for right, offset in ((110, 5), (90, 0))]
    expected = metrics.mcnemar(*hits)
    assert view.model.comparison.startswith("Number 1 and number 2: SmolLM2-135M with LoRA at 16 bits is better than")
    assert "91.7 % against 75.0 %, +16.7 points" in view.model.comparison
    low, high = 100 * expected["low"], 100 * expected["high"]
    assert f"95 % interval {low:+.1f} to {high:+.1f}, n = 120, p < 0.001" in view.model.comparison
    view.first.value, view.second.value = view.second.value, view.first.value
    view.second.value = view.first.options[1][1]
    assert "is worse than" in view.model.comparison and "-16.7 points" in view.model.comparison


def test_without_probabilities_nothing_is_called_better() -> None:
    view = explorer(a_study())
    assert "was not tested against" in view.model.comparison and "no probabilities of the same rows" in (
        view.model.comparison
    )
    view.first.value = ""
    assert view.model.comparison == "Pick two configurations to compare them row by row."


def test_a_picked_one_stays_whatever_the_filter() -> None:
    view = explorer(a_study())
    place = next(value for name, value in view.first.options if "prompt" in name)
    view.first.value = place
    view.methods.value = ("embedding",)
    assert view.first.value == place and any("prompt" in name for name in in_picture(view))


def test_setups_are_not_mixed_and_a_missing_floor_is_said() -> None:
    other = [replace(run, task="sms_spam", data_sha256="cd" * 32) for run in a_study()[6:9]]
    view = explorer([*a_study(), *other])
    assert [name.split(",")[0] for name, _ in view.setup.options] == ["Fraud messages", "SMS spam"]
    view.setup.value = "1"
    assert len(in_picture(view)) == 3 and "No floor was run here" in view.model.said
    assert explorer([*a_study(), *other], task="sms_spam").model.setup == "1"
    with pytest.raises(InputError, match="no run of task 'x'; runs there are of: fraud_messages, sms_spam"):
        explorer([*a_study(), *other], task="x")


def test_a_cost_that_nobody_measured_is_said_and_the_table_stays() -> None:
    view = explorer([replace(run, energy_j_per_1000_rows=None) for run in a_study()])
    view.footprint.value = "energy_j_per_1000_rows"
    assert view.model.figure is None and "energy for 1000 rows is unknown for all" in view.model.said
    assert len(view.model.table) == 12 and view.model.error == ""


def test_the_python_draws_the_same_runs_and_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_probabilities(a_floor(90), tmp_path, 90, 0)
    with_probabilities(a_run(right=110), tmp_path, 110, 5)
    with_probabilities(a_run("embedding", right=100), tmp_path, 100, 5)
    view = ParetoExplorer(folder=tmp_path, task="fraud_messages")
    view.setup.value = next(value for name, value in view.setup.options if "320" in name)
    view.methods.value = ("lora",)
    space: dict[str, Any] = {}
    exec(view.model.code.replace(".show()", ""), space)
    assert {run.run_id for run in space["chosen"]} == {a_floor(90).run_id, a_run(right=110).run_id}
    assert view.model.comparison.endswith(capsys.readouterr().out.strip())


def test_shipped_runs_are_there_and_called_recorded() -> None:
    view = ParetoExplorer()
    assert view.model.setup_options[0][0].startswith("Fraud messages") and view.model.error == ""
    assert set(view.model.table["figures"]) == {"recorded"} and "TF-IDF floor" in view.model.comparison
    n = len(list(slmkit_data.path("runs").glob("*.json")))
    assert n >= 27 and f"{n} records: 0 of your own, {n} recorded elsewhere" in view.model.found


def test_runs_added_later_appear_and_broken_files_are_named(tmp_path: Path) -> None:
    write_run(a_floor(), tmp_path)
    view = ParetoExplorer(folder=tmp_path, recorded=False)
    write_run(a_run(), tmp_path / "second")
    (tmp_path / "broken.json").write_text('{"run_id": "x", ')
    (tmp_path / "settings.json").write_text("{}")
    view.again.click()
    assert len(in_picture(view)) == 2
    assert "1 files could not be read" in view.model.found and "broken.json" in view.model.found
    with pytest.raises(InputError, match="no folder of runs"):
        ParetoExplorer(folder=tmp_path / "none", recorded=False)


def test_hostile_names_stay_text(pushed: Pushed, tmp_path: Path) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>\u202e"
    for run in (a_floor(task=HOSTILE), a_run(HOSTILE, HOSTILE, task=HOSTILE, machine={"cpu": HOSTILE})):
        write_run(run, folder)
    view = ParetoExplorer(folder=folder, recorded=False)
    view.models.value = (HOSTILE,)
    view.footprint.value = "latency_p50_s"
    space: dict[str, Any] = {}
    exec(view.model.code.replace(".show()", ""), space)
    assert len(space["chosen"]) == 2
    (folder / "<img src=x onerror=1>.json").write_text('{"run_id": ')
    view.again.click()
    assert view.model.error == "" and len(in_picture(view)) == 2 and "onerror=1" in view.model.found
    assert_only_text(pushed)


def test_ten_thousand_records_are_sent_in_bounded_pushes(pushed: Pushed) -> None:
    runs = many(10_000)
    costs = [(run.stored_bytes, run.accuracy) for run in runs]
    front = [runs[i] for i in plots.pareto(costs)]
    view = explorer(runs)
    on_front = view.model.table["on the front"] == "yes"
    assert 3 < on_front.sum() == len(front) and min(run.accuracy for run in front) < 0.9
    assert 50_000 < pushed.n_bytes < 500_000
    assert len(view.model.table) == NUMBERED and "24 have a number" in view.model.said
    assert any("TF-IDF floor" in name for name in in_picture(view))
    crowd = view.model.figure.data[-1]
    assert crowd.name == "9,976 more, without a number" and len(crowd.x) <= 1600
    low, high = (10**end for end in view.model.figure.layout.xaxis.range)
    assert low < min(crowd.x) and max(crowd.x) < high
    for control, value in ((view.footprint, "latency_p50_s"), (view.methods, ("lora",)), (view.bits, (4,))):
        pushed.clear()
        control.value = value
        assert 10_000 < pushed.n_bytes < 300_000 and view.model.error == ""


def test_ten_thousand_seeds_of_one_configuration_are_cut_and_said(pushed: Pushed) -> None:
    one = a_run()
    view = explorer([a_floor(), *(replace(one, seed=seed, run_id=f"r{seed}") for seed in range(2_000))])
    assert pushed.n_bytes < 300_000 and "the first 8 count" in view.model.said
    assert list(view.model.table["seeds"]) == [8, 1]
