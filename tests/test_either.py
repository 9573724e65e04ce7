"""`slmkit.tune` on labels and on dialogues: what was asked stands beside the checkpoints, and only there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tuning_rows import table

import slmkit
from slmkit import plots
from slmkit.assets import ModelSource
from slmkit.errors import InputError
from slmkit.finetune import Tuned
from slmkit.tuning import either


class Stop(Exception):
    """Ends a training at its second report."""


def stopping(events: list[Any]) -> Any:
    def heard(event: Any) -> None:
        events.append(event)
        raise Stop

    return heard


def test_what_was_asked_is_kept_until_it_is_done(tiny_chat_decoder: ModelSource, tmp_path: Path) -> None:
    rows, out, name = tmp_path / "rows.jsonl", tmp_path / "tuned", str(tiny_chat_decoder.folder)
    table().to_json(rows, orient="records", lines=True)
    how: dict[str, Any] = {"out": out, "method": "last-k", "epochs": 2.0, "batch_size": 4, "backend": "bnb"}
    assert either.hold_dialogues(rows) and either.hold_dialogues(table()) and either.left(out) is None
    with pytest.raises(Stop):
        slmkit.tune(name, rows, **how, progress=stopping([]))
    left = either.left(out)
    assert left is not None and 1 <= left.step < left.steps == 6
    asked = {k: v for k, v in how.items() if k != "out"} | {"model": name, "data": str(rows)}
    assert left.asked == asked and either.result(out) is None
    again = {**left.asked, "out": out}
    told = slmkit.tune(again.pop("model"), again.pop("data"), **again)
    assert isinstance(told, Tuned) and len(told.history) == 6 and not (tmp_path / "tuned.partial").exists()
    found = either.result(out)
    assert found is not None and found[0] == told and found[1]["method"] == "last-k"
    said = " ".join(either.lines(told, name, 16))
    assert "perplexity of the held-out answers" in said and f"adapter={str(out)!r}" in said
    figure = plots.training_course(told.history)
    assert list(figure.data[0].x) == [1, 2, 3, 4, 5, 6] and figure.layout.yaxis.title.text == "loss (nats)"


def test_a_refused_call_leaves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    with pytest.raises(InputError, match="class_weight belong to rows with labels; domain_dialogues holds dialogues"):
        slmkit.tune("dummy", "domain_dialogues", out=out, class_weight="balanced")
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="out must be a new or an empty folder"):
        slmkit.tune("dummy", "fraud_messages", out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]
    (tmp_path / "tuned.partial").mkdir()
    (tmp_path / "tuned.partial" / either.ASKED).write_text("{", encoding="utf-8")
    assert either.left(out) is None


def test_held_out_losses_are_drawn_and_an_empty_history_is_refused() -> None:
    history = [{"step": 1, "loss": 2.0, "tokens": 30.0}, {"step": 2, "loss": 1.0, "tokens": 30.0, "held_out_loss": 1.5}]
    figure = plots.training_course(history)
    assert [trace.name for trace in figure.data][-1] == "rows held back, after each epoch"
    assert list(figure.data[-1].y) == [1.5] and "2 steps, 60 tokens" in figure.layout.title.subtitle.text
    with pytest.raises(InputError, match="history of a training"):
        plots.training_course([])
    assert json.loads(figure.to_json())
