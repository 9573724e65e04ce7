"""The report is one complete, self-contained file, and bad input is named."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from full_disk import open_on_full_disk
from sample_runs import HOSTILE, a_floor, a_run, a_study

from slmkit import files, report
from slmkit.errors import InputError, SlmkitError
from slmkit.runs import Run, probability_frame, write_run


def written(runs: list[Run], folder: Path) -> str:
    for run in runs:
        write_run(run, folder)
    out = report.write(folder, folder.parent / "report.html")
    return out.read_text(encoding="utf-8")


def own_part(page: str) -> str:
    """The page without plotly.js."""
    return max(re.split(r"<script>.*?</script>", page, maxsplit=1, flags=re.DOTALL), key=len)


def test_the_page_holds_words_picture_table_and_provenance(tmp_path: Path) -> None:
    page = own_part(written(a_study(), tmp_path / "runs"))
    assert "4 of 11 configurations beat the floor; the best of them: SmolLM2-360M with LoRA at 16 bits" in page
    assert page.index("beat the floor") < page.index('id="footprint-1"') < page.index("<table>")
    assert "89.2 % (82.3 to 93.6)" in page and "J per 1000 rows" in page
    assert ">SmolLM2-135M, LoRA, 16 bits, 3 seeds<" in page and ">92.2 % (90.8 to 93.3)<" in page
    assert "Example CPU 2.5 GHz" in page and "ram 8.0 GB" in page and "ab" * 32 in page and "torch 2.13.0" in page
    assert "estimated: energy j per 1000 rows" in page
    assert page.count("<tr class=floor>") == 2


def test_the_table_sorts_by_numbers_and_marks_what_is_unknown(tmp_path: Path) -> None:
    page = own_part(written([a_run(energy_j_per_1000_rows=None), a_floor()], tmp_path / "runs"))
    assert 'data-v="">–</td>' in page and 'data-v="269.0">269.0</td>' in page


def test_nothing_is_fetched_and_one_plotly_is_inside(tmp_path: Path) -> None:
    page = written(a_study(), tmp_path / "runs")
    assert page.count("plotly.js v") == 1 and len(page) < 6_000_000
    outside = own_part(page)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", outside)
    assert "default-src 'none'" in outside and re.search(r"script-src 'sha256-[\w+/=]+' 'sha256-[\w+/=]+';", outside)


def test_calibration_is_shown_when_probabilities_lie_beside_the_runs(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    assert "calibration-1" not in written([a_run()], folder)
    proba = np.array([[0.8, 0.2]] * 4)
    write_run(a_run(), folder, probability_frame(np.arange(4), ["a"] * 4, proba, ["a", "b"]))
    assert 'id="calibration-1"' in report.write(folder, tmp_path / "r.html").read_text(encoding="utf-8")


def test_each_task_has_its_section_and_link(tmp_path: Path) -> None:
    page = own_part(written([a_run(), a_floor(), a_run(task="sms_spam", right=90)], tmp_path / "runs"))
    assert '<a href="#task-2">' in page and page.count("<section ") == 2


def test_hostile_text_is_nowhere_unescaped(tmp_path: Path) -> None:
    names = dict.fromkeys(("task", "model", "method", "backend", "scheme", "revision", "licence"), HOSTILE)
    more = {"machine": {HOSTILE: HOSTILE}, "versions": {HOSTILE: HOSTILE}, "recall_by_class": {HOSTILE: 0.5},
            "params": {HOSTILE: HOSTILE}, "origins": {HOSTILE: HOSTILE}, "energy_origin": HOSTILE,
            "intervals": {f"recall:{HOSTILE}": [0.4, 0.6]}, "created_utc": HOSTILE,
            "slmkit_version": HOSTILE}  # fmt: skip
    folder = tmp_path / "runs"
    write_run(a_run(), folder)
    hostile = replace(a_run(right=90), **{**names, **more, "run_id": "x"})
    write_run(hostile, folder)
    write_run(replace(hostile, run_id="y", params={HOSTILE: "other"}), folder)
    page = own_part(report.write(folder, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "<img" not in page and 'onerror="' not in page and "title=1</script>" not in page
    assert "\u202e" not in page and "\x1b" not in page and "&lt;img src=x" in page
    assert page.count("<script") == page.count("</script>")


def test_missing_folders_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder of runs at .*nowhere"):
        report.write(tmp_path / "nowhere", tmp_path / "r.html")
    with pytest.raises(InputError, match=r"no run in .*it holds no \.json file"):
        report.write(tmp_path, tmp_path / "r.html")
    write_run(a_run(), tmp_path)
    with pytest.raises(InputError, match=r"cannot write the report to .*there is no folder .*gone"):
        report.write(tmp_path, tmp_path / "gone" / "r.html")
    with pytest.raises(InputError, match=r"cannot write the report to .*it is a folder"):
        report.write(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "is not a run file"),
        ("[]", "it lacks"),
        ({"accuracy": "high"}, "unusable values in accuracy"),
        ({"accuracy": 7}, "unusable values in accuracy"),
        ({"n_test": None, "machine": []}, "unusable values in machine, n_test"),
        ({"stored_bytes": True}, "unusable values in stored_bytes"),
        ({"latency_p50_s": float("nan")}, "unusable values in latency_p50_s"),
        ({"recall_by_class": {"a": "b"}}, "unusable values in recall_by_class"),
        ({"intervals": {"ece": [1]}}, "unusable values in intervals"),
        ({"n_test": 0}, "unusable values in n_test"),
        ({"leaked_test_rows": -5}, "unusable values in leaked_test_rows"),
    ],
)
def test_a_broken_run_file_is_named_and_the_old_report_stays(tmp_path: Path, change: object, message: str) -> None:
    path = write_run(a_run(), tmp_path)
    values = json.loads(path.read_text(encoding="utf-8"))
    (tmp_path / "broken.json").write_text(change if isinstance(change, str) else json.dumps({**values, **change}))  # type: ignore[dict-item]
    out = tmp_path / "report.html"
    old = '<!doctype html>\n<html lang="en"><meta name="generator" content="slmkit">'
    out.write_text(old)
    with pytest.raises(InputError, match=f"broken.json {message}|broken.json is not a run file: {message}"):
        report.write(tmp_path, out)
    assert out.read_text() == old


def test_undefined_scores_are_shown_as_unknown(tmp_path: Path) -> None:
    run = a_run(mcc=None, ece=None, macro_f1=None, recall_by_class={"fraud": None, "genuine": 0.9}, energy_origin=None)
    assert "–" in own_part(written([run], tmp_path / "runs"))


def test_runs_without_any_footprint_still_give_a_report(tmp_path: Path) -> None:
    none = dict.fromkeys(("stored_bytes", "peak_ram_bytes", "latency_p50_s", "energy_j_per_1000_rows"))
    assert "No footprint of these runs is known" in written([a_run(**none)], tmp_path / "runs")


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(a_run(), tmp_path / "runs")
    monkeypatch.setattr(files, "open", open_on_full_disk(100_000), raising=False)
    with pytest.raises(SlmkitError, match=r"r\.html: the disk is full$"):
        report.write(tmp_path / "runs", tmp_path / "r.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]


def test_only_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    write_run(a_run(), tmp_path / "runs")
    out = tmp_path / "r.HTM"
    for old in (b"<!doctype html><title>my diary</title>", b"", b"notes on <title>slmkit: x"):
        out.write_bytes(old)
        with pytest.raises(InputError, match=r"r\.HTM exists and is not a slmkit report; choose another name$"):
            report.write(tmp_path / "runs", out)
        assert out.read_bytes() == old
    out.write_text("<!doctype html>\n<html lang=en>\n<title>slmkit: sms_spam</title>")
    first = report.write(tmp_path / "runs", out).read_bytes()
    assert b'<meta name="generator" content="slmkit">' in first[:4096]
    assert report.write(tmp_path / "runs", out).read_bytes() == first
    for name in ("notes.txt", "report"):
        with pytest.raises(InputError, match=rf"{name}: its name must end in \.html or \.htm"):
            report.write(tmp_path / "runs", tmp_path / name)


def test_sections_of_one_task_have_different_titles(tmp_path: Path) -> None:
    other = a_run(right=90, data_sha256="cd" * 32)
    page = own_part(written([a_run(), a_floor(), other], tmp_path / "runs"))
    assert "<h2>fraud_messages, 320 training and 120 test rows, data cdcdcdcd</h2>" in page
    assert "<h2>fraud_messages, 320 training and 120 test rows, data abababab</h2>" in page
