"""Cards of data in reports: found beside the runs or with the task, and harmless whatever they say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from sample_runs import a_floor, a_run

from slmkit import cards, report, tasks
from slmkit.runs import write_run
from slmkit.study import folder

HOSTILE_CARD = """# Card <script>alert(1)</script>
- one
  - two
<img src=x onerror=alert(2)>

[click](javascript:alert(3)) ![pixel](https://example.test/p.png) [paper](https://example.test/paper) \u202e\x1b[31m

| a | b |
|---|---|
| <b>1</b> | 2 |
"""


def test_a_card_becomes_headings_lists_and_tables_and_nothing_that_acts() -> None:
    html = cards.to_html(HOSTILE_CARD)
    assert "<h4>Card &lt;script&gt;" in html and html.count("<ul>") == 2 and "<td>&lt;b&gt;1&lt;/b&gt;</td>" in html
    known = {"h4", "ul", "li", "p", "a", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(re.findall(r"</?(\w+)", html)) <= known
    assert 'href="https://example.test/paper"' in html and "javascript:" not in re.findall(r'href="([^"]*)"', html)[0]
    assert "<img" not in html and "\u202e" not in html and "\x1b" not in html


def test_the_card_beside_the_runs_comes_before_that_of_the_task(tmp_path: Path) -> None:
    run = replace(a_run(), task="fraud_messages")
    assert cards.find(run, tmp_path) == tasks.get("fraud_messages").card == cards.find(run, None)
    folder.write_card(tmp_path, run.data_sha256, "# Kept\nwith the runs")
    assert cards.find(run, tmp_path) == "# Kept\nwith the runs"
    assert cards.find(replace(run, task="somebody's file"), None) is None
    (tmp_path / "secret.md").write_text("not a card")
    for wrong in (None, "../secret", "../secret.md".ljust(64, "x")):
        assert cards.find(replace(run, task="other", data_sha256=wrong), tmp_path / "cards") is None


def test_a_report_shows_the_card_the_split_and_a_leak(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    clean = [replace(run, task="fraud_messages", split="seeded", leaked_test_rows=0) for run in (a_run(), a_floor())]
    for run in clean:
        write_run(run, runs)
    page = report.write(runs, tmp_path / "clean.html").read_text(encoding="utf-8").split("<script>")[0]
    assert "Card of the data: fraud_messages" in page and "<h4>Fraud messages: data card</h4>" in page
    assert "duplicates and near-duplicates on one side; by the leak guard no test row stands in training" in page
    assert "Leak: " not in page
    for run in clean:
        write_run(replace(run, split="given", leaked_test_rows=7), runs)
    page = report.write(runs, tmp_path / "leak.html").read_text(encoding="utf-8").split("<script>")[0]
    assert f"Leak: 7 of {clean[0].n_test} test rows" in page and page.index("Leak: 7") < page.index('class="lead"')
    assert "given with the data; by the leak guard 7 of" in page
