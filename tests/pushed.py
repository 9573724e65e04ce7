"""What widgets send to the page: a comm that keeps every message, so that tests can weigh and read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest


class Pushed:
    """Messages of all widgets since the start or the last `clear`."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def clear(self) -> None:
        self.messages.clear()

    @property
    def n_bytes(self) -> int:
        return sum(len(self.document(message)) for message in self.messages)

    @property
    def texts(self) -> str:
        return "\n".join(self.document(message, escape=False) for message in self.messages)

    def document(self, message: dict[str, Any], *, escape: bool = True) -> str:
        return json.dumps(message, ensure_ascii=escape, default=repr)

    def states(self) -> Iterator[dict[str, Any]]:
        yield from (message["state"] for message in self.messages if "state" in message)

    def bundles(self) -> Iterator[dict[str, Any]]:
        """The data of every output that was sent."""
        for state in self.states():
            yield from (output["data"] for output in state.get("outputs", ()))


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> Pushed:
    """Every message that widgets made in this test send."""
    comm = pytest.importorskip("comm")
    from comm.base_comm import BaseComm

    kept = Pushed()

    class Recorder(BaseComm):
        def publish_msg(self, msg_type: str, data: Any = None, *rest: Any, **keys: Any) -> None:
            kept.messages.append(dict(data or {}))

    monkeypatch.setattr(comm, "create_comm", lambda *args, **keys: Recorder(*args, **keys))
    return kept


def assert_only_text(pushed: Pushed) -> None:
    """No widget that renders markup, no element in a table or picture that came from a text, nothing invisible."""
    models = {state["_model_name"] for state in pushed.states() if "_model_name" in state}
    assert "LabelModel" in models and not models & {"HTMLModel", "HTMLMathModel"}
    bundles = list(pushed.bundles())
    assert bundles
    for data in bundles:
        assert set(data) <= {"text/plain", "text/html", "application/vnd.plotly.v1+json"}
        for kind in set(data) - {"text/plain"}:
            shown = json.dumps(data[kind], ensure_ascii=False)
            assert "<img" not in shown and "<script" not in shown and "</script" not in shown
    assert "\x1b" not in pushed.texts and "\u202e" not in pushed.texts and "\\u001b" not in pushed.texts
