"""Parts of a batch side by side: the same numbers as one after the other, and the same bits every time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmkit import backends
from slmkit.assets import ModelSource
from slmkit.backends.base import LoRAConfig

torch = pytest.importorskip("torch")
from slmkit.backends._torch import lanes, loop, objectives, training  # noqa: E402

TEXTS = ["You have won a free prize! Call now.", "See you at lunch.", "Your card will be blocked today, call us back.",
         "Thanks for the flowers, they are lovely.", "Confirm your password.", "Sales fell by a tenth in the north.",
         "Win.", "The train leaves at nine, the next one an hour later."]  # fmt: skip
Y = np.array([1, 0] * 4)


def test_parts_are_of_like_work_and_keep_to_the_budget(two_threads: None) -> None:
    side, lengths = lanes.Lanes(2), [9, 3, 30, 8, 12, 7, 5, 11, 10, 6, 4, 20]
    assert side.parts(lengths, 512) is None  # not opened
    with side.opened():
        for budget, n in ((512, 2), (120, 4)):
            parts = side.parts(lengths, budget)
            assert parts is not None and sorted(np.concatenate(parts)) == list(range(12))
            work = [len(part) * max(lengths[i] for i in part) for part in parts]
            assert len(parts) == n and max(work) <= budget // 2
        assert side.parts(lengths, 59) is None  # the row of 30 tokens would have more than its share
        even = side.parts([10] * 16, 512)
        assert even is not None and [len(part) for part in even] == [8, 8]


def test_threads_are_one_of_torch_s_each_and_others_keep_theirs(two_threads: None) -> None:
    side, met, other = lanes.Lanes(2), threading.Barrier(2, timeout=30), list[int]()

    def work(_: int) -> tuple[int, str]:
        met.wait()  # both are at it at once
        return torch.get_num_threads(), threading.current_thread().name

    with side.opened():
        found = list(side.map(work, [0, 1]))
        thread = threading.Thread(target=lambda: other.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert [n for n, _ in found] == [1, 1] and len({name for _, name in found}) == 2
    assert other == [2] and torch.get_num_threads() == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("slmkit-lane")]


def test_an_error_comes_out_when_no_part_runs_any_more(two_threads: None) -> None:
    side, ended = lanes.Lanes(2), list[int]()

    def work(i: int) -> None:
        if i == 0:
            raise MemoryError("full")
        threading.Event().wait(0.2)
        ended.append(i)

    with side.opened():
        with pytest.raises(MemoryError):
            list(side.map(work, [0, 1]))
        assert ended == [1]


def gradients(source: ModelSource, bits: int, n: int, answers: bool) -> Any:
    """Of one batch, in `n` lanes."""
    torch.manual_seed(0)
    opened = training._open(source, bits, LoRAConfig(rank=4, max_length=32), head=False)
    for name, parameter in opened.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    rows = [[5 + i, 7, 9 + i, 11, 13][: 3 + i % 3] for i in range(8)]
    head = torch.nn.Linear(opened.model.config.hidden_size, 2)
    objective: Any = objectives.LastToken(head, Y, [len(row) for row in rows])
    if answers:
        objective = objectives.Answers(opened.model, [objectives.shared.Pair(tuple(row), (row[-1], 2)) for row in rows])
    learner = loop.Loop(opened.model, objective, rows, 8, 0, LoRAConfig(), opened.where, {})
    learner.lanes = lanes.Lanes(n)
    with learner.ready():
        loss, _ = learner.gradients(np.arange(8), 512)
        parts = learner.lanes.parts([len(row) for row in rows], 512)
        assert (parts is None) == (n == 1)
    return loss, torch.cat([p.grad.flatten() for p in learner.trained])


@pytest.mark.parametrize("answers", [False, True], ids=["labels", "answers"])
@pytest.mark.parametrize("bits", [16, 4])
def test_side_by_side_is_one_after_the_other(
    tiny_chat_decoder: ModelSource, bits: int, answers: bool, two_threads: None
) -> None:
    (loss, alone), (same, beside), (_, again) = (gradients(tiny_chat_decoder, bits, n, answers) for n in (1, 2, 2))
    assert same == pytest.approx(loss, rel=1e-3)
    exact = alone.dtype == torch.float32 and bits == 16
    assert float((beside - alone).norm() / alone.norm()) < (0.05 if not exact else 0.02)
    assert torch.equal(beside, again)


def test_a_training_takes_lanes_and_repeats_to_the_bit(
    tiny_decoder: ModelSource, tmp_path: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class Seen(lanes.Lanes):
        def map(self, work: Any, parts: Any) -> Any:
            seen.append(len(parts))
            return super().map(work, parts)

    monkeypatch.setattr(lanes, "Lanes", Seen)
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        config = LoRAConfig(rank=4, epochs=4, batch_size=4, learning_rate=5e-3)
        how: dict[str, Any] = {"n_classes": 2, "bits": 16, "config": config, "out": tmp_path / name}
        history = backends.get("bnb").train_lora(tiny_decoder, TEXTS, Y, **how)
        assert history[-1]["loss"] < 0.5 * history[0]["loss"]
        files.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert seen == [2] * 16
