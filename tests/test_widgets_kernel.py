"""Widgets in a real kernel: what a cell made is let go of when it runs again; no thread, no widget is left behind."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

manager = pytest.importorskip("jupyter_client.manager")
pytest.importorskip("ipywidgets")

import slmkit_widgets  # noqa: E402

MAKE = "from slmkit_widgets import ParetoExplorer, ThresholdExplorer\nParetoExplorer()\nThresholdExplorer()"
COUNT = "import ipywidgets, threading\nprint(len(ipywidgets.widget._instances), threading.active_count())"


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    started, client = manager.start_new_kernel(kernel_name="python3")
    home = str(Path(slmkit_widgets.__file__).parent.parent)
    run(client, f"import sys; sys.path[:0] = [p for p in {sys.path!r} if p]; sys.path.append({home!r})")
    yield client
    client.stop_channels()
    started.shutdown_kernel(now=True)


def run(client: Any, code: str, cell: str = "") -> str:
    """Run a cell as JupyterLab does, with its name; what it printed, showed and raised."""
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    message = client.session.msg("execute_request", content, metadata={"cellId": cell} if cell else {})
    client.shell_channel.send(message)
    said = []
    while True:
        answer = client.get_iopub_msg(timeout=120)
        if answer["parent_header"].get("msg_id") != message["header"]["msg_id"]:
            continue
        kind, body = answer["msg_type"], answer["content"]
        said += [body.get("text", ""), str(body.get("data", {}).get("text/plain", "")), *body.get("traceback", [])]
        if kind == "status" and body["execution_state"] == "idle":
            return "\n".join(part for part in said if part)


@pytest.mark.slow
def test_a_cell_that_runs_again_leaves_no_widget_and_no_thread(client: Any) -> None:
    shown = run(client, MAKE, "one")
    assert "ThresholdExplorer\nAt 0.5" in shown and "Traceback" not in shown
    first = re.findall(r"\d+", run(client, COUNT, "two"))
    assert int(first[0]) > 50
    for _ in range(3):
        assert "Traceback" not in run(client, MAKE, "one")
    assert re.findall(r"\d+", run(client, COUNT, "two")) == first
    run(client, MAKE, "three")  # another cell: the widgets of the first one stay
    assert int(re.findall(r"\d+", run(client, COUNT, "two"))[0]) > 1.8 * int(first[0])
