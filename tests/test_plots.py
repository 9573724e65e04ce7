"""Pictures hold the right figures, in the right units, and no text from outside gets in unescaped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sample_runs import HOSTILE, N_TEST, a_floor, a_run, a_study

from slmkit import metrics, plots, thresholds
from slmkit.errors import InputError
from slmkit.runs import probability_frame, to_frame, write_run


def markers(figure: object, *, visible: bool = True) -> list:
    return [t for t in figure.data if t.mode == "markers+text" and bool(t.visible) is visible]  # type: ignore[attr-defined]


def test_the_figures_are_in_percent_and_megabytes_with_asymmetric_bars() -> None:
    figure = plots.accuracy_vs_footprint([a_run(right=108), a_floor()])
    [lora] = [t for t in markers(figure) if "LoRA" in t.name]
    low, high = metrics.wilson(108, N_TEST)
    assert lora.x[0] == pytest.approx(269.0) and lora.y[0] == pytest.approx(90.0)
    assert lora.error_y.array[0] == pytest.approx(100 * high - 90) and lora.error_y.arrayminus[0] == pytest.approx(
        90 - 100 * low
    )
    assert figure.layout.xaxis.title.text == "Stored size of the model (MB), logarithmic"
    assert figure.layout.annotations[0].text == "Accuracy (%)"
    assert "n = 120" in figure.layout.title.subtitle.text and "95 %" in figure.layout.title.subtitle.text


@pytest.mark.parametrize(
    ("footprint", "value", "unit"),
    [("peak_ram_bytes", 812.0, "(MB)"), ("latency_p50_s", 31.0, "(ms)"), ("energy_j_per_1000_rows", 410.0, "(J)")],
)
def test_each_footprint_has_its_unit_and_its_button(footprint: str, value: float, unit: str) -> None:
    figure = plots.accuracy_vs_footprint([a_run(), a_floor()], footprint)
    assert [t.x[0] for t in markers(figure) if "LoRA" in t.name] == [pytest.approx(value)]
    assert unit in figure.layout.xaxis.title.text
    menu = figure.layout.updatemenus[0]
    assert [b.label for b in menu.buttons] == ["Stored size", "Peak memory", "Latency", "Energy"]
    visible, layout = menu.buttons[menu.active].args
    assert visible["visible"] == [bool(t.visible) for t in figure.data]
    assert layout["xaxis.title.text"] == figure.layout.xaxis.title.text


def test_the_axis_is_logarithmic_only_above_a_factor_of_ten() -> None:
    near = plots.accuracy_vs_footprint([a_run(), a_run(bits=4, stored_bytes=79_000_000)])
    far = plots.accuracy_vs_footprint([a_run(), a_floor()])
    assert (near.layout.xaxis.type, far.layout.xaxis.type) == ("linear", "log")
    assert near.layout.xaxis.range[0] <= 0 and near.layout.xaxis.range[1] > 269
    assert 10 ** far.layout.xaxis.range[0] < 1.9 and 10 ** far.layout.xaxis.range[1] > 269
    assert set(far.layout.xaxis.tickvals) >= {2, 5, 10, 20, 50, 100, 200}


def test_device_memory_counts_where_a_device_was_used() -> None:
    figure = plots.accuracy_vs_footprint([a_run(peak_device_bytes=300_000_000)], "peak_ram_bytes")
    assert markers(figure)[0].x[0] == pytest.approx(300.0)
    assert "on the device" in markers(figure)[0].hovertext[0]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1, 1), (2, 2), (3, 3)], [0, 1, 2]),
        ([(3, 3), (1, 1), (2, 0.5)], [1, 0]),
        ([(1, 5), (2, 4), (3, 3)], [0]),
        ([(1, 2), (1, 3), (2, 3)], [1]),
        ([(2, 2), (2, 2)], [0]),
        ([], []),
    ],
)
def test_pareto_keeps_what_nothing_beats(points: list[tuple[float, float]], front: list[int]) -> None:
    assert plots.pareto(points) == front


def test_the_front_is_recomputed_for_each_footprint() -> None:
    small_slow = a_run(bits=4, right=104, stored_bytes=80_000_000, latency_p50_s=0.09)
    big_fast = a_run(right=108, stored_bytes=270_000_000, latency_p50_s=0.03)
    figure = plots.accuracy_vs_footprint([small_slow, big_fast])
    lines = [t for t in figure.data if t.mode == "lines"]
    assert lines[0].x == pytest.approx((80, 270)) and lines[0].line.shape == "hv"
    assert lines[2].x == pytest.approx((30,))


def test_the_floor_is_a_labelled_line_outside_the_markers() -> None:
    figure = plots.accuracy_vs_footprint([a_run(), a_floor(102)])
    assert figure.layout.shapes[0].y0 == pytest.approx(85.0)
    assert figure.layout.annotations[1].text == "floor<br>85.0 %" and figure.layout.annotations[1].x == 1


def test_seeds_share_a_legend_entry_and_bits_and_methods_differ_in_marker() -> None:
    figure = plots.accuracy_vs_footprint(a_study())
    by_name = {t.name.split(" · ")[1]: t for t in markers(figure)}
    assert len(by_name["SmolLM2-135M, LoRA, 16 bits"].x) == 3
    assert by_name["SmolLM2-135M, LoRA, 16 bits"].marker.symbol == "circle"
    assert by_name["SmolLM2-135M, LoRA, 4 bits"].marker.symbol == "circle-open"
    assert by_name["MiniLM-L6-v2, embedding, 16 bits"].marker.symbol == "square"
    assert by_name["TF-IDF floor"].marker.symbol == "x"
    assert {"SmolLM2-135M, prompt, 4 bits (shots 0)", "SmolLM2-135M, prompt, 4 bits (shots 4)"} <= set(by_name)


def test_a_run_without_the_figure_is_left_out_and_named() -> None:
    figure = plots.accuracy_vs_footprint(
        [a_run(right=110), a_floor(energy_j_per_1000_rows=None)], "energy_j_per_1000_rows"
    )
    assert [t.name for t in markers(figure)] == ["1 · SmolLM2-135M, LoRA, 16 bits"]
    assert "Not shown, energy unknown: number 2" in figure.layout.title.subtitle.text.replace("<br>", " ")


def test_hover_says_the_facts_and_their_origin() -> None:
    shown = markers(plots.accuracy_vs_footprint([a_run()]))[0].hovertext[0]
    assert "Accuracy 89.2 % (82.3 to 93.6), n = 120" in shown and "16 bits, bf16" in shown
    assert "Stored size of the model: 269 MB" in shown and "410 J (modelled)" in shown
    assert "Measured on Example CPU 2.5 GHz, 2 cores" in shown


def test_recorded_runs_are_fainter_and_named() -> None:
    figure = plots.accuracy_vs_footprint([a_floor()], recorded=[a_run()])
    [old] = [t for t in markers(figure) if "recorded" in t.name]
    assert old.opacity == 0.5 and "Recorded on Example CPU" in old.hovertext[0]


def test_a_frame_gives_the_same_figure_as_its_runs() -> None:
    runs = a_study()
    assert plots.accuracy_vs_footprint(to_frame(runs)).to_json() == plots.accuracy_vs_footprint(runs).to_json()


def test_text_from_outside_is_escaped_everywhere() -> None:
    run = replace(a_run(), task=HOSTILE, model=HOSTILE, method=HOSTILE, scheme=HOSTILE, machine={"cpu": HOSTILE},
                  recall_by_class={HOSTILE: 0.5})  # fmt: skip
    for figure in (plots.accuracy_vs_footprint([run]), plots.per_class_recall([run])):
        document = json.loads(figure.to_json())
        document["layout"].pop("template")
        shown = json.dumps(document, ensure_ascii=False)
        assert "<img" not in shown and "<script" not in shown and "\u202e" not in shown and "\\u001b" not in shown


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"unknown footprint 'stored_byte'. Did you mean 'stored_bytes'"):
        plots.accuracy_vs_footprint([a_run()], "stored_byte")
    with pytest.raises(InputError, match="these are of 2: fraud_messages, sms_spam"):
        plots.accuracy_vs_footprint([a_run(), a_run(task="sms_spam")])
    with pytest.raises(InputError, match="list of runs is empty"):
        plots.accuracy_vs_footprint([])
    with pytest.raises(InputError, match=r"no run has the footprint 'latency_p50_s'.*stored_bytes, peak_ram"):
        plots.accuracy_vs_footprint([a_run(latency_p50_s=None)], "latency_p50_s")
    with pytest.raises(InputError, match="lacks the columns run_id"):
        plots.accuracy_vs_footprint(pd.DataFrame({"accuracy": [0.5]}))


def test_recall_has_one_marker_a_class_and_configuration() -> None:
    figure = plots.per_class_recall([a_run(right=108), a_floor(102)])
    fraud, genuine = figure.data
    assert (fraud.name, genuine.name) == ("fraud", "genuine") and fraud.marker.symbol != genuine.marker.symbol
    assert fraud.x == pytest.approx((87.0, 82.0)) and genuine.x == pytest.approx((91.0, 86.0))
    assert fraud.error_x.array[0] > 0


def test_a_class_without_test_rows_has_no_marker() -> None:
    figure = plots.per_class_recall([a_run(recall_by_class={"fraud": None, "genuine": 0.9})])
    assert [len(t.x) for t in figure.data] == [0, 1]


def test_calibration_counts_rows_and_right_answers(tmp_path: Path) -> None:
    import numpy as np

    run = a_run()
    sure = np.array([[0.95, 0.05]] * 4 + [[0.45, 0.55]] * 2)
    write_run(run, tmp_path, probability_frame(np.arange(6), ["a", "a", "a", "b", "b", "b"], sure, ["a", "b"]))
    points = plots.calibration(run, tmp_path).data[1]
    assert points.x == pytest.approx((55, 95)) and points.y == pytest.approx((100, 75))
    with pytest.raises(InputError, match="has no probabilities at"):
        plots.calibration(run, tmp_path / "elsewhere")


def a_curve(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2 == 0
    return thresholds.curve(y, np.clip(0.3 * y + 0.7 * rng.random(n), 0, 1), miss_cost=5)


def test_a_threshold_picture_holds_the_curve_and_marks_the_choice() -> None:
    points = a_curve()
    figure = plots.threshold_cost(points, 0.42, "fraud", "n = 40 rows")
    by_name = {trace.name: trace for trace in figure.data}
    recall = by_name["recall: caught of all fraud"]
    assert list(recall.y) == pytest.approx([100, *(100 * points["recall"])])
    assert list(recall.x) == pytest.approx([0, *points["up_to"].clip(upper=1)])
    assert list(by_name["cost of 1000 rows"].y)[1:] == pytest.approx(list(points["cost_per_1000"]))
    assert len({trace.line.dash for trace in figure.data}) == 4  # nothing rests on colour alone
    assert {shape.x0 for shape in figure.layout.shapes} == {0.42}
    assert any(note.text == "threshold 0.42" for note in figure.layout.annotations)
    assert figure.layout.yaxis.title.text == "Share (%)" and figure.layout.title.subtitle.text == "n = 40 rows"
    with pytest.raises(InputError, match="the curve of thresholds must have rows and the columns threshold, up_to"):
        plots.threshold_cost(points.drop(columns="recall"), 0.5)


def test_a_threshold_picture_of_many_rows_keeps_its_ends_and_a_bound() -> None:
    points = a_curve(20_000)
    figure = plots.threshold_cost(points, 0.5)
    assert 300 < len(figure.data[0].x) <= 402
    assert (figure.data[0].x[0], figure.data[0].x[-1], figure.data[0].y[-1]) == (0, 1, 0)


def test_a_confusion_matrix_shades_the_share_of_the_true_class() -> None:
    counts = pd.DataFrame([[8, 2], [1, 0]], index=["fraud", HOSTILE], columns=["flagged", "let through"])
    [heat] = plots.confusion_matrix(counts, "n = 11").data
    assert heat.z.tolist() == [[80, 20], [100, 0]]
    assert list(heat.text[0]) == ["8<br>80.0 %", "2<br>20.0 %"]
    assert "<img" not in heat.y[1] and "&lt;img" in heat.y[1]


def test_names_stand_in_two_columns_only_where_each_fits_into_half_a_line() -> None:
    short, long = [a_run(bits=16), a_floor()], [a_run(bits=16, model="m" * 40), a_floor()]
    legends = [{trace.legend for trace in plots.accuracy_vs_footprint(runs).data} for runs in (short, long)]
    assert legends == [{None, "legend2"}, {None}]
    heights = [plots.accuracy_vs_footprint(runs).layout.height for runs in (short, long)]
    assert heights[1] == heights[0] + 21


def test_a_cell_of_a_confusion_matrix_holds_its_first_rows_for_a_click() -> None:
    counts = pd.DataFrame([[8, 2], [1, 0]], index=["fraud", "other"], columns=["flagged", "let through"])
    told = [("fraud", "let through", f"row {i}") for i in range(5)]
    told += [("other", "flagged", HOSTILE), ("nowhere", "flagged", "no cell"), ("fraud", "flagged", "long " * 90)]
    figure = plots.confusion_matrix(counts, "n = 11", pd.DataFrame(told, columns=["truth", "decided", "text"]))
    found = {(a.yclick, a.xclick): a for a in figure.layout.annotations}
    assert set(found) == {(0, 0), (0, 1), (1, 0)}
    assert found[0, 1].text == "<b>1</b> row 0<br><b>2</b> row 1<br><b>3</b> row 2"
    assert "<img" not in found[1, 0].text and "&lt;img" in found[1, 0].text
    assert len(found[0, 0].text) < 250 and found[0, 0].text.endswith("...")
    assert {(a.visible, a.clicktoshow) for a in found.values()} == {(False, "onout")}
    assert figure.data[0].hoverinfo == "none"  # "skip" would take the clicks away
    assert figure.layout.title.subtitle.text == "n = 11; click on a cell to read some of its rows"
    with pytest.raises(InputError, match=r"the table of examples must have .* lacks \['decided'\]"):
        plots.confusion_matrix(counts, examples=pd.DataFrame({"truth": ["fraud"], "text": ["a"]}))


def test_a_crowd_lies_behind_the_named_runs_inside_the_axes_with_a_bound() -> None:
    crowd = [(10.0 ** (i % 60 / 10), 0.3 + (i % 97) / 200) for i in range(20_000)]
    figure = plots.accuracy_in_a_crowd(a_study(), "stored_bytes", crowd)
    named = plots.accuracy_in_a_crowd(a_study(), "stored_bytes")
    assert len(figure.data) == len(named.data) + 1 and not figure.layout.updatemenus
    dots = figure.data[-1]
    assert dots.name == "20,000 more, without a number" and 1000 < len(dots.x) <= 1600
    low, high = figure.layout.xaxis.range
    assert 10**low < 1 and 10**high > max(dots.x) and figure.layout.xaxis.type == "log"
    bottom, top = figure.layout.yaxis.range
    assert bottom < 30 and top > 100 * max(y for _, y in crowd)


def test_lengths_stand_beside_the_limits_that_would_cut_them() -> None:
    figure = plots.text_lengths([10] * 6 + [40] * 3 + [200], [32, 64])
    assert sum(figure.data[0].y) == 10 and figure.layout.xaxis.title.text == "tokens of a text"
    assert [a.text for a in figure.layout.annotations] == ["at 32: 40% are cut", "at 64: 10% are cut"]
    assert [line.x0 for line in figure.layout.shapes] == [32, 64]
    assert figure.layout.xaxis.range[1] > 200
    with pytest.raises(InputError, match="at least one text's tokens"):
        plots.text_lengths([], [32])
