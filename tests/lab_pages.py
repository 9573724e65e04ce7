"""A JupyterLab server and a Chromium page for the browser tests: what all of them look through, picture and forbid.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("jupyterlab")

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(
    filter(
        None, map(shutil.which, [os.environ.get("SLMKIT_CHROMIUM", "chromium"), "chromium-browser", "google-chrome"])
    ),
    None,
)
IN_CHROMIUM = [
    pytest.mark.slow,
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


@contextmanager
def serving(home: Path, work: Path) -> Iterator[tuple[str, str]]:
    """A JupyterLab server on the folder `work`, with settings of its own in `home`; its address and token."""
    for name, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    port, token = free_port(), secrets.token_hex(16)
    address = f"http://127.0.0.1:{port}"
    command = ["jupyterlab", *server_options(port, token, work)]
    with running(command, f"{address}/api/status?token={token}", home, work):
        yield address, token


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], address: str, home: Path, work: Path) -> Iterator[None]:
    """A Python module that serves notebooks, once it answers at this address; its settings and log are in `home`."""
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, **server_environment(home)},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=work,
        )
    try:
        wait_until_up(address, server, log)
        yield
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
    raise AssertionError(f"the server did not answer within 60 s:\n{log.read_text(errors='replace')[-3000:]}")


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


def kernel_is_idle(view: Any) -> None:
    """Wait until the status bar says that the kernel has nothing left to do."""
    sync_api.expect(view.get_by_text("| Idle").first).to_be_visible(timeout=STUDY_MS)


def write_notebook(path: Path, sources: Sequence[str]) -> None:
    """A notebook of these code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


def opened(lab: tuple[str, str], page: Page, name: str) -> Any:
    """The notebook with all its cells run."""
    view = page.page
    view.goto(f"{lab[0]}/lab/workspaces/{name}/tree/{name}.ipynb?token={lab[1]}")  # what others left open stays out
    kernel_is_idle(view)
    view.keyboard.press("Control+b")  # the file browser takes a third of a narrow page
    view.get_by_role("menuitem", name="Run", exact=True).click()
    view.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    return view


def pictured(view: Any, folder: Path, name: str) -> list[str]:
    """The widget in both themes and both widths; what axe-core finds, and controls beyond the edge, in words."""
    problems = []
    for theme in ("dark", "light"):
        for width in (800, 1280):
            shown_as(view, theme, width)
            view.screenshot(path=folder / f"{name}-{theme}-{width}.png")
            problems += [f"{name}, {theme}, {width}: beyond the edge: {one}" for one in overflowing(view)]
        problems += [f"{name}, {theme}: {one}" for one in serious(view)]
    return problems


def shown_as(view: Any, theme: str, width: int) -> None:
    """Show the page in JupyterLab's dark or light theme, `width` pixels wide."""
    script = "theme => jupyterapp.commands.execute('apputils:change-theme', { theme })"
    view.evaluate(script, f"JupyterLab {theme.capitalize()}")
    view.wait_for_selector(f"body[data-jp-theme-light={str(theme == 'light').lower()}]", state="attached")
    view.set_viewport_size({"width": width, "height": 1200})
    view.wait_for_timeout(500)


def overflowing(view: Any) -> list[str]:
    """Buttons and fields of the widgets that reach beyond the notebook's right edge."""
    script = """() => {
      const edge = document.querySelector(".jp-NotebookPanel").getBoundingClientRect().right + 2;
      return [...document.querySelectorAll(".jupyter-widgets button, .jupyter-widgets input, .jupyter-widgets select")]
        .filter((e) => e.offsetParent && e.getBoundingClientRect().right > edge)
        .map((e) => e.outerHTML.slice(0, 100));
    }"""
    return list(view.evaluate(script))


def serious(view: Any) -> list[str]:
    """Serious violations that axe-core finds in the widgets on the page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(view, context={"include": [[".jp-OutputArea-output .jupyter-widgets"]]}).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def unharmed(page: Page) -> None:
    """No script of a row, label or name ran, nothing was asked of the network, no script of the page failed."""
    assert page.page.title() not in ("owned", "1")
    assert page.external == [], f"asked of the network: {page.external}"
    assert page.errors == [], f"errors of the page's scripts: {page.errors}"
