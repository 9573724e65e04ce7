"""The workbench where JupyterLab is not: in Notebook 7, and as a page of its own that Voila makes of a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_pages import IN_CHROMIUM, Page, free_port, page, pictures, running, server_options, sync_api, write_notebook

pytest.importorskip("anywidget")

__all__ = ["page", "pictures"]  # the fixtures
pytestmark = IN_CHROMIUM
TOKEN, LONG_MS = "a-token", 60_000


@pytest.fixture(scope="module", params=["notebook", "voila"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and name of a server on a notebook with a workbench."""
    pytest.importorskip(request.param)
    home, work, port = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work"), free_port()
    write_notebook(work / "bench.ipynb", ["from slmkit_widgets import Workbench", "Workbench()"])
    address = f"http://127.0.0.1:{port}"
    if request.param == "notebook":
        options, up = server_options(port, TOKEN, work), f"{address}/api/status?token={TOKEN}"
    else:
        options, up = ["--no-browser", f"--port={port}", str(work)], f"{address}/"
    with running([request.param, *options], up, home, work):
        yield address, request.param


def test_the_workbench_opens_and_turns_with_the_keyboard(lab: tuple[str, str], page: Page, pictures: Path) -> None:
    expect, view = sync_api.expect, page.page
    view.route(lambda url: not url.startswith(lab[0]), lambda route: route.abort())  # as without a network
    if lab[1] == "notebook":
        view.goto(f"{lab[0]}/notebooks/bench.ipynb?token={TOKEN}")
        expect(view.get_by_text("Python 3 (ipykernel)").first).to_be_visible(timeout=LONG_MS)
        idle = view.locator(".jp-Notebook-ExecutionIndicator[data-status='idle']")  # before that, running all is lost
        expect(idle).to_be_attached(timeout=LONG_MS)
        view.get_by_role("menuitem", name="Run", exact=True).click()
        view.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    else:
        view.goto(f"{lab[0]}/voila/render/bench.ipynb")
    expect(view.get_by_role("tab", name="Start", exact=True)).to_be_visible(timeout=LONG_MS)
    view.get_by_role("tab", name="Start", exact=True).focus()
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Enter")
    expect(view.get_by_role("tab", name="Models", exact=True, selected=True)).to_be_visible()
    expect(view.get_by_role("cell", name="SmolLM2-135M-Instruct").first).to_be_visible(timeout=LONG_MS)
    view.screenshot(path=pictures / f"workbench-{lab[1]}.png")
    assert view.get_by_text("Problem:").count() == 0 and view.get_by_text("Traceback").count() == 0
