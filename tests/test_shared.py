"""The parts all backends share, and the fence around the tests."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from slmkit.backends import _shared as shared
from slmkit.backends.base import LoRAConfig


def test_batches_hold_every_row_once_within_their_budget() -> None:
    lengths = [3, 50, 7, 7, 1, 200, 20]
    batches = shared.length_batches(lengths, max_tokens=60, max_rows=3)
    assert sorted(i for b in batches for i in b) == list(range(7))
    assert batches[0].tolist() == [5]  # longer than the budget: alone, and first
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 60 for b in batches)


def test_training_plan_sees_every_row_once_an_epoch() -> None:
    plan = shared.training_plan([5] * 37, LoRAConfig(epochs=2.5, batch_size=8, seed=3))
    assert len(plan) == round(2.5 * 5)
    assert sorted(np.concatenate([rows for epoch, rows in plan if epoch == 1])) == list(range(37))
    other = shared.training_plan([5] * 37, LoRAConfig(epochs=2.5, batch_size=8, seed=4))
    assert [r.tolist() for _, r in plan] != [r.tolist() for _, r in other]


def test_one_cycle_rises_for_a_tenth_and_falls_to_zero() -> None:
    rates = [shared.one_cycle(step, 100, 1.0) for step in range(100)]
    assert rates[9] == max(rates) == 1.0 and rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.001 and (np.diff(rates[9:]) < 0).all()


def test_a_stop_string_over_two_tokens_is_never_let_out() -> None:
    state = shared.Writing()
    pieces = list(shared.write([0, 1, 2, 3], lambda ids: "ab#x##END c"[: 3 * len(ids)], ["##END"], 9, state))
    assert "".join(pieces) == "ab#x" and state.reason == "stop" and state.n_tokens == 3
    assert all("##" not in piece for piece in pieces)


def test_tests_cannot_reach_the_network() -> None:
    with socket.socket() as client, pytest.raises(OSError, match="tests must not use the network"):
        client.connect(("192.0.2.1", 80))
