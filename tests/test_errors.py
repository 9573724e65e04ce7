"""A wrong name is answered with the right one."""

from __future__ import annotations

import pytest

from slmkit.errors import unknown

MODELS = (
    "minilm",
    "smollm2-135m-instruct",
    "smollm2-360m-instruct",
    "smollm2-1.7b-instruct",
    "smollm2-x",
    "gemma-2b-it",
)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("minilmm", " Did you mean 'minilm'? "),
        ("smollm2-360m", " Did you mean 'smollm2-360m-instruct' or "),
        ("Gemma", " Did you mean 'gemma-2b-it'? "),
        ("whatever", "'whatever'. Known: "),
        ("", "''. Known: "),
    ],
)
def test_the_nearest_names_come_first(name: str, hint: str) -> None:
    assert hint in str(unknown("model", name, MODELS))


def test_the_beginning_of_a_name_finds_it_and_three_are_enough() -> None:
    message = str(unknown("model", "smolm2", MODELS)).partition(" Known")[0]
    assert "smollm2-135m-instruct" in message and message.count("smollm2-") == 3 and "minilm" not in message
