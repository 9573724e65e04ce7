"""A person opens the first notebook in JupyterLab and runs it, in a real Chromium driven by role; nothing goes out.

Its study was run before (`start_here`), so that this pass finds the finished runs, as on a second day.

Screenshots go to the folder SLMKIT_SCREENSHOTS, or to pytest's own temporary folder.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("jupyterlab")

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(
    filter(
        None, map(shutil.which, [os.environ.get("SLMKIT_CHROMIUM", "chromium"), "chromium-browser", "google-chrome"])
    ),
    None,
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it, or set SLMKIT_CHROMIUM"),
]
# No news popup and no question about updates: both would ask the network, and would lie over the notebook.
SETTINGS = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --disable-sync --disable-background-networking"
    " --disable-component-update"
)
STUDY_MS = 600_000


@dataclass
class Page:
    """A browser page that remembers what it asked of the network and which errors its scripts raised."""

    page: Any
    home: str
    external: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", self._requested)
        self.page.on("websocket", self._requested)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _requested(self, request: Any) -> None:
        address = request.url.replace("ws://", "http://", 1)
        if not address.startswith((self.home, "data:", "blob:")):
            self.external.append(request.url)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, start_here: Any) -> Iterator[tuple[str, str]]:
    """A JupyterLab server on a copy of the notebooks, with settings of its own; its address and token."""
    home = tmp_path_factory.mktemp("lab")
    work = home / "work"
    work.mkdir()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, work)
    shutil.copytree(start_here.folder / "runs", work / "runs")
    with serving(home, work) as address:
        yield address


@contextmanager
def serving(home: Path, work: Path) -> Iterator[tuple[str, str]]:
    """A JupyterLab server on the folder `work`, with settings of its own in `home`; its address and token."""
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *server_options(port, token, work)],
            env={**os.environ, **server_environment(home)},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=work,
        )
    try:
        wait_until_up(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
        yield f"http://127.0.0.1:{port}", token
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def server_options(port: int, token: str, root: Path) -> list[str]:
    return [
        "--no-browser",
        "--allow-root",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
    ]


def server_environment(home: Path) -> dict[str, str]:
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**{name: str(home / at) for name, at in folders.items()}, "PYTHONPATH": path, "SLMKIT_PROFILE": "tiny"}


def wait_until_up(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, log.read_text(errors="replace")[-3000:]
            time.sleep(0.3)
    raise AssertionError(f"JupyterLab did not answer within 60 s:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture
def page(lab: tuple[str, str]) -> Iterator[Page]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        opened = Page(browser.new_context(viewport={"width": 1280, "height": 1200}).new_page(), lab[0])
        yield opened
        browser.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("SLMKIT_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_start_here_shows_figure_and_table(lab: tuple[str, str], page: Page, pictures: Path) -> None:
    expect = sync_api.expect
    view = page.page
    view.goto(f"{lab[0]}/lab/tree/00_start_here.ipynb?token={lab[1]}")
    expect(view.get_by_role("heading", name="Start here")).to_be_visible(timeout=60_000)
    kernel_is_idle(view)
    view.get_by_role("menuitem", name="Run", exact=True).click()
    view.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    scroll_to(view, "The picture")
    figure = view.locator(".js-plotly-plot").first
    expect(figure).to_be_visible(timeout=STUDY_MS)
    kernel_is_idle(view)
    expect(figure.get_by_text("floor").first).to_be_visible()
    figure.scroll_into_view_if_needed()
    figure.screenshot(path=pictures / "00_start_here-figure.png")
    scroll_to(view, "The table")
    expect(view.get_by_text("combinations failed").last).to_contain_text("0 of 7 combinations failed")
    table = view.get_by_role("table").filter(has_text="p_vs_floor")
    expect(table).to_be_visible()
    assert table.get_by_role("row").count() == 1 + 7
    view.screenshot(path=pictures / "00_start_here-table.png")
    scroll_to(view, "Which class is missed?")
    expect(view.get_by_text("Traceback (most recent call last)")).to_have_count(0)
    view.screenshot(path=pictures / "00_start_here-end.png")
    assert page.external == [], f"asked of the network: {page.external}"
    assert page.errors == [], f"errors of the page's scripts: {page.errors}"


def kernel_is_idle(view: Any) -> None:
    """Wait until the status bar says that the kernel has nothing left to do."""
    sync_api.expect(view.get_by_text("| Idle").first).to_be_visible(timeout=STUDY_MS)


def scroll_to(view: Any, heading: str) -> None:
    """Bring a heading into view; cells far from it need not be drawn yet, so scroll until it is there."""
    target = view.get_by_role("heading", name=heading)
    view.get_by_role("main").get_by_role("heading").first.hover()
    for _ in range(100):
        if target.count():
            target.first.scroll_into_view_if_needed()
            return
        view.mouse.wheel(0, 500)
        view.wait_for_timeout(100)
    raise AssertionError(f"no heading {heading!r} in the notebook")
