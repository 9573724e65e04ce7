"""The report in a real browser: it draws, switches and sorts, runs nothing from the data, and fetches nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_curves import a_curve, falling
from sample_runs import HOSTILE, a_floor, a_run, a_study

from slmkit import report
from slmkit.runs import write_run

CHROMIUM = os.environ.get("SLMKIT_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
pytest.importorskip("playwright", reason="playwright is not installed: pip install playwright")
if not Path(CHROMIUM).is_file():
    pytest.skip(f"no browser at {CHROMIUM} (set SLMKIT_CHROMIUM)", allow_module_level=True)

from playwright.sync_api import expect, sync_playwright  # noqa: E402


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for run in a_study():
        write_run(run, folder / "runs")
    return report.write(folder / "runs", folder / "report.html")


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Open a file; at the end no request left the page and no error was raised in it."""
    problems: list[str] = []
    contexts = []

    def opened(path: Path, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else problems.append(r.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
        page.goto(path.as_uri())
        page.locator("html[data-ready]").wait_for(timeout=30_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def column(page: Any, i: int) -> list[str]:
    cells = page.locator("table").first.locator(f"tbody tr > :nth-child({i})")
    return [text.strip() for text in cells.all_inner_texts()]


def visible_x(page: Any) -> dict[str, list[float]]:
    return page.evaluate("""() => Object.fromEntries(document.getElementById("footprint-1").data
        .filter((t) => t.visible && t.mode !== "lines").map((t) => [t.name, t.x]))""")


def test_the_footprint_switches_with_a_button(visit: Any, study_page: Path) -> None:
    page = visit(study_page)
    expect(page.locator("#footprint-1 .xtitle")).to_have_text("Stored size of the model (MB), logarithmic")
    assert visible_x(page)["1 · SmolLM2-360M, LoRA, 16 bits"] == [731]
    page.get_by_role("button", name="Latency", exact=True).click()
    expect(page.locator("#footprint-1 .xtitle")).to_have_text("Median time for one row (ms), logarithmic")
    expect(page.get_by_role("button", name="Latency", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Stored size", exact=True)).to_have_attribute("aria-pressed", "false")
    assert visible_x(page)["1 · SmolLM2-360M, LoRA, 16 bits"] == [92]
    page.get_by_role("button", name="Energy", exact=True).press("Enter")
    expect(page.locator("#footprint-1 .gtitle-subtitle")).to_contain_text("unknown: number 1, 2, 6")
    assert "1 · SmolLM2-360M, LoRA, 16 bits" not in visible_x(page) and len(visible_x(page)) == 9


def test_the_table_sorts_by_click_and_by_keyboard_with_unknown_last(visit: Any, study_page: Path) -> None:
    page = visit(study_page)
    heading = page.get_by_role("columnheader", name="Energy").first
    assert column(page, 1) == [str(n) for n in range(1, 13)]
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    shown = column(page, 9)
    assert shown[:2] == ["1.6", "55.0"] and shown[-3:] == ["–"] * 3
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    shown = column(page, 9)
    assert shown[0] == "1210.0" and shown[-3:] == ["–"] * 3
    page.get_by_role("columnheader", name="Configuration").first.get_by_role("button").press("Space")
    assert column(page, 2)[0].startswith("MiniLM") and heading.get_attribute("aria-sort") == "none"


def test_hostile_text_is_shown_and_does_not_run(visit: Any, tmp_path: Path) -> None:
    link = '<a href="javascript:document.title=1">x</a>'
    hostile = a_run(right=100, model=HOSTILE, task=HOSTILE, method=link, licence=HOSTILE, machine={HOSTILE: link},
                    versions={link: HOSTILE}, recall_by_class={HOSTILE: 0.4, link: 0.9}, scheme=HOSTILE)  # fmt: skip
    for run in (hostile, replace(hostile, run_id="b", bits=4), a_floor(task=HOSTILE)):
        write_run(run, tmp_path / "runs")
    page = visit(report.write(tmp_path / "runs", tmp_path / "<img onerror=1>.html"))
    page.mouse.move(640, 700)
    assert page.title().startswith("slmkit: <img src=x onerror=")
    assert page.locator("img").count() == 0 and page.locator(".figure a[*|href]").count() == 0
    expect(page.get_by_text("<img src=x onerror=").first).to_be_visible()


def test_a_picture_follows_a_change_between_light_and_dark(visit: Any, study_page: Path) -> None:
    page = visit(study_page, color_scheme="dark")
    ink = "() => document.getElementById('footprint-1').layout.font.color"
    assert page.evaluate(ink) == "#e8ecf1"
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(500)
    assert page.evaluate(ink) == "#1d2733"


@pytest.mark.parametrize("width", [800, 1280])
def test_nothing_is_cut_and_no_label_covers_a_marker(visit: Any, study_page: Path, width: int) -> None:
    page = visit(study_page)
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = page.locator("#footprint-1").bounding_box()
    for part in (".gtitle", ".xtitle", ".annotation", ".legend", ".legend2"):
        for place in page.locator(f"#footprint-1 {part}").all():
            inner = place.bounding_box()
            assert inner["x"] >= box["x"] and inner["x"] + inner["width"] <= box["x"] + box["width"], part
            assert inner["y"] + inner["height"] <= box["y"] + box["height"], part
    plot = page.locator("#footprint-1 .nsewdrag").first.bounding_box()
    floor = page.locator("#footprint-1 .annotation", has_text="floor").bounding_box()
    assert floor["x"] >= plot["x"] + plot["width"]
    legend = page.locator("#footprint-1 .legend").bounding_box()
    title = page.locator("#footprint-1 .xtitle").bounding_box()
    assert legend["y"] >= title["y"] + title["height"]


@pytest.mark.parametrize("width", [800, 1280])
def test_a_learning_curve_is_drawn_whole_with_its_crossing(visit: Any, tmp_path: Path, width: int) -> None:
    rates = {"floor": lambda n: 0.2, "lora": falling(2.0), "prompt": lambda n: 0.3}
    page = visit(a_curve(tmp_path, rates, n_test=200).out / "learning_curve.html")
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.locator("#learning-curve .annotation").filter(has_text="ahead of the floor")).to_be_visible()
    box = page.locator("#learning-curve").bounding_box()
    for part in (".gtitle", ".gtitle-subtitle", ".xtitle", ".ytitle", ".annotation", ".legend"):
        for place in page.locator(f"#learning-curve {part}").all():
            inner = place.bounding_box()
            assert inner["x"] >= box["x"] and inner["x"] + inner["width"] <= box["x"] + box["width"], part
            assert inner["y"] + inner["height"] <= box["y"] + box["height"], part
    assert page.locator("table").inner_text().count("(") == 11, "an interval in every cell"
