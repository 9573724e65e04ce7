"""Widgets in a real kernel: what a cell made is let go of when it runs again; no thread, no widget is left behind."""

from __future__ import annotations

import re
import sys
import time
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


@pytest.mark.slow
def test_a_tuner_whose_cell_runs_again_leaves_one_tuning_and_the_next_one_resumes(client: Any, tmp_path: Path) -> None:
    make = f"""from slmkit_widgets import Tuner
tuner = Tuner("dummy", "fraud_messages", {str(tmp_path / "tuned")!r}, train=100, epochs=20000)
print("resumes" if tuner.model.half_done else "begins")"""
    look = """import time, psutil
end = time.monotonic() + 60
while tuner.model.progress.done < 4 and time.monotonic() < end:
    time.sleep(0.1)
print(tuner.model.progress.done > 3, threading.active_count(), len(psutil.Process().children(recursive=True)))"""
    run(client, COUNT)
    assert "begins" in run(client, make, "tuner")
    run(client, "tuner.model.start()")
    first = run(client, look)
    assert first.startswith("True")
    widgets = run(client, COUNT).split()[0]
    for _ in range(2):
        run(client, "old = tuner.model.job")
        run(client, make, "tuner")  # closes the running one, which keeps its last step
        assert "True cancelled" in run(client, "print(old.wait(20), old.state)")
        run(client, make, "tuner")
        assert "True" in run(client, "print(bool(tuner.model.half_done))")
        run(client, "tuner.model.resume()")
        assert run(client, look) == first, "threads and child processes stay as many"
        assert run(client, COUNT).split()[0] == widgets
    run(client, "tuner.close(); tuner.model.job.wait(20)")


@pytest.mark.slow
def test_cancel_is_answered_within_a_second_of_the_click(client: Any, tmp_path: Path) -> None:
    make = f"""import ipykernel
from slmkit_widgets import Tuner
tuner = Tuner("dummy", "fraud_messages", {str(tmp_path / "tuned")!r}, train=100, epochs=20000)
tuner.model.start()
end = time.monotonic() + 60
while tuner.model.progress.done < 4 and time.monotonic() < end:
    time.sleep(0.1)
print(ipykernel.__version__, tuner.cancel.comm.comm_id)"""
    run(client, "import time")
    version, button = run(client, make, "cancel").split()[-2:]
    click = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
    began = time.monotonic()
    client.shell_channel.send(client.session.msg("comm_msg", click))
    while "Stopping" not in str(client.get_iopub_msg(timeout=30)["content"]):
        pass
    answered = time.monotonic() - began
    assert "True cancelled" in run(client, "print(tuner.model.job.wait(20), tuner.model.state)")
    print(
        f"ipykernel {version}: cancel was answered after {answered:.2f} s, stopped after {time.monotonic() - began:.2f}"
    )
    assert answered < 1
    assert "True" in run(client, "print(bool(tuner.model.half_done)); tuner.close()")
