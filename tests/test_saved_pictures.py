"""Pictures become files that show the same figures, without asking the network and without half a file."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sample_runs import HOSTILE, a_floor, a_run

from slmkit import plots
from slmkit.errors import InputError, MissingExtra, SlmkitError


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_page_holds_its_script_and_shows_names_as_text(tmp_path: Path) -> None:
    figure = plots.accuracy_vs_footprint([a_run(model=HOSTILE), a_floor()])
    page = plots.save(figure, tmp_path / "new" / "picture.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?:", page)
    assert len(page) > 1_000_000 and "Accuracy (%)" in page and "<img" not in page.split("Plotly.newPlot(")[-1]
    assert names(tmp_path / "new") == ["picture.html"]


@pytest.mark.browser
@pytest.mark.slow
def test_no_button_of_a_picture_sends_it_away(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    figures = [plots.accuracy_vs_footprint([a_run(), a_floor()]), plots.text_lengths([3, 5, 9], [4])]
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page()
        for i, figure in enumerate(figures):
            page.goto(plots.save(figure, tmp_path / f"{i}.html").as_uri())
            page.wait_for_selector(".modebar-btn", state="attached")
            titles = page.eval_on_selector_all(".modebar-btn", "all => all.map((b) => b.getAttribute('data-title'))")
            assert any("PNG" in title or "png" in title for title in titles), titles
            assert not [title for title in titles if title and "share" in title.lower()], titles
            assert page.locator("a[href*='plotly']").count() == 0
        chromium.close()


@pytest.mark.browser
@pytest.mark.slow
def test_drawn_files_are_of_the_size_asked_for_and_show_the_words(tmp_path: Path) -> None:
    figure = plots.accuracy_vs_footprint([a_run(), a_floor()])
    png = plots.save(figure, tmp_path / "a.png", width=400, height=300, scale=2).read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == (800, 600)
    drawn = ElementTree.fromstring(plots.save(figure, tmp_path / "a.SVG", width=800, height=600).read_text())
    words = "".join(drawn.itertext())
    assert drawn.get("width") == "800" and "Stored size of the model (MB), logarithmic" in words and "n = 120" in words
    assert "Peak memory" not in words and figure.layout.updatemenus  # no buttons in a drawn file; the figure keeps its
    again = plots.save(figure, tmp_path / "a.png", width=300, height=200, scale=1)
    assert int.from_bytes(again.read_bytes()[16:20], "big") == 300


def test_what_cannot_be_saved_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = plots.accuracy_vs_footprint([a_run(), a_floor()])
    with pytest.raises(InputError, match=r"must end in .png, .svg or .html; got 'a.gif'"):
        plots.save(figure, tmp_path / "a.gif")
    with pytest.raises(InputError, match="must be a plotly Figure, as slmkit.plots makes them; got dict"):
        plots.save({}, tmp_path / "a.png")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SlmkitError, match="cannot be written"):
        plots.save(figure, tmp_path / "file" / "a.html")
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(MissingExtra, match="need kaleido: pip install .* or save as .html"):
        plots.save(figure, tmp_path / "a.png")
    assert names(tmp_path) == ["file"]


def test_a_machine_without_a_browser_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no_such_browser"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlmkitError, match="drawn in Chromium or Chrome, and neither is found"):
        plots.save(plots.accuracy_vs_footprint([a_run(), a_floor()]), tmp_path / "a.svg")
    assert names(tmp_path) == []
