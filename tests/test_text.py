"""Text from outside is harmless after `clean` and `escape`; figures are rounded without changing what they say."""

from __future__ import annotations

import json

import pytest

from slmkit import text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("a\x00b\x9b2Jc", "abc"),
        ("inv\u202eoice\u2066", "invoice"),
        ("two\nlines\u2028here", "two lines here"),
        ("\ud800lone\ufeff", "lone"),
        ("Ünïcode ✓ 中", "Ünïcode ✓ 中"),
        (None, ""),
        ("   ", ""),
        (4, "4"),
    ],
)
def test_clean_leaves_printable_text_only(raw: object, shown: str) -> None:
    assert text.clean(raw) == shown


def test_clean_caps_the_length_and_may_keep_lines() -> None:
    assert text.clean("x" * 100_000, 10) == "xxxxxxx..."
    assert text.clean("a\r\nb\tc", newlines=True) == "a\nb c"


def test_escape_is_safe_in_elements_and_in_attributes() -> None:
    assert text.escape("<b a=\"1\" b='2'>$x$ & y") == "&lt;b a=&#34;1&#34; b=&#39;2&#39;&gt;&#36;x&#36; &amp; y"


def test_json_in_a_script_cannot_end_it_and_stays_the_same() -> None:
    value = {"a": "</script><!--\u2028&"}
    document = text.script_json(json.dumps(value, ensure_ascii=False))
    assert not set("<>&\u2028") & set(document) and json.loads(document) == value


def test_figures() -> None:
    assert text.with_interval(0.8917, 0.851, 0.923) == "89.2 % (85.1 to 92.3)"
    assert [text.megabytes(n) for n in (269e6, 26.9e6, 1.9e6, 270e3)] == ["269 MB", "26.9 MB", "1.90 MB", "0.270 MB"]
    assert [text.p_value(p) for p in (0.0004, 0.002, 0.0497, 0.0504, 0.612, 1.0)] == [
        "p < 0.001", "p = 0.002", "p = 0.0497", "p = 0.0504", "p = 0.61", "p = 1",
    ]  # fmt: skip


def test_a_document_keeps_its_lines_and_indents_and_nothing_that_acts() -> None:
    document = "# A\x1b[31m\n- one\n  - two\u202e  three\n"
    assert text.clean_document(document, 1000) == "# A\n- one\n  - two three"
    assert text.clean_document("x" * 50, 20) == "x" * 20
