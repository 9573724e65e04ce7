"""The parts all backends share, and the fence around the tests."""

from __future__ import annotations

import socket
from typing import ClassVar

import numpy as np
import pytest

from slmkit.backends import _shared as shared
from slmkit.backends.base import LoRAConfig
from slmkit.errors import InputError

TemplateError = pytest.importorskip("jinja2.exceptions").TemplateError


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


def test_rows_on_both_sides_of_a_border_are_read_apart() -> None:
    batches = shared.length_batches([9, 8, 4, 3, 2], max_tokens=100, border=4)
    assert [b.tolist() for b in batches] == [[0, 1], [2, 3, 4]]
    short, long = shared.Pair((1, 2, 3), (3, 9)), shared.Pair((1, 2, 3, 4, 5), (4, 5, 6))
    assert shared.plan_reads([[short, long]])[0] == [long.read]
    reads, places = shared.plan_reads([[short, long]], border=4)
    assert reads == [long.read, short.read]
    assert [row for row, _, _ in places] == [1, 0]
    assert shared.alike(reads, max_length=None, border=4) == [[1], [0]]
    assert shared.alike([(1,), (1, 2)], max_length=2, border=None) == [[0], [1]]


def test_a_short_beginning_is_not_shared_by_rows_beyond_the_border() -> None:
    rows = [(1, 2, 3, 4, 5), (1, 2, 3, 9, 9)]
    assert shared.shared_beginning(rows, [4, 4], border=None) == 3
    assert shared.shared_beginning(rows, [4, 4], border=5) == 3
    assert shared.shared_beginning(rows, [4, 4], border=4) == 0
    assert shared.shared_beginning(rows, [4, 4], border=2) == 3
    assert shared.shared_beginning(rows[:1], [4], border=None) == 0


class Templated:
    """A tokenizer whose template takes the roles it is told."""

    chat_template = "user: <end_of_turn>"
    eos_token_id = 7
    added_tokens_decoder: ClassVar[dict[int, object]] = {}
    all_special_tokens = ("<|im_end|>",)

    def __init__(self, *roles: str) -> None:
        self.roles = roles

    def get_added_vocab(self) -> dict[str, int]:
        return {"<end_of_turn>": 5, "<|im_end|>": 6}

    def apply_chat_template(self, turns: list[dict[str, str]], **_: object) -> str:
        if wrong := [turn["role"] for turn in turns if turn["role"] not in self.roles]:
            raise TemplateError(f"no {wrong[0]}")
        return "|".join(f"{turn['role']}:{turn['content']}" for turn in turns)


def test_a_system_message_opens_the_users_turn_where_the_template_takes_none() -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]
    assert shared.chat_prompt(Templated("system", "user"), turns, "x") == "system:Be short.|user:Hello"
    assert shared.chat_prompt(Templated("user"), turns, "x") == "user:Be short.\n\nHello"
    with pytest.raises(InputError, match="the chat template of 'x' refuses these messages: no tool"):
        shared.chat_prompt(Templated("user"), [{"role": "tool", "content": ""}], "x")


def test_a_text_ends_where_its_config_tokenizer_or_template_says() -> None:
    assert shared.end_tokens(Templated(), [1, 2]) == {1, 2, 5, 7}
    assert shared.end_tokens(Templated(), None) == {5, 7}
