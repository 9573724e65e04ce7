"""Cards of saved models: a header that a YAML reader takes, every figure with its n, and names that can do nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import slmkit
from slmkit import cards, modelcards
from slmkit.assets import ModelSource
from slmkit.classify import LoRAClassifier

HOSTILE = 'evil: [x]\n---\n# <script>alert(1)</script> | `a` \\ "q" \x1b[31m\u202e\ufffe {{ }} ![p](http://x/y.png)'


def split(document: str) -> tuple[dict[str, Any], str]:
    """Header and body of a card."""
    before, header, body = document.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(header), body


def card(**changes: Any) -> modelcards.Card:
    base = modelcards.base_named("smollm2-135m-instruct", "package sha256:b179")
    values = {"title": "A title", "summary": "Written.", "base": base, "library": "peft", "tags": ("lora",)}
    return modelcards.Card(**{**values, **changes})


def test_the_header_names_base_licence_data_and_library() -> None:
    data = modelcards.Data("domain_dialogues", "CC BY 4.0", "10 answers", "ab" * 32, "domain_dialogues.md")
    header, body = split(modelcards.render(card(data=data)))
    assert header == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "license": "apache-2.0",
        "library_name": "peft",
        "datasets": ["domain_dialogues"],
        "tags": ["slmkit", "lora"],
    }
    assert "| revision | `package sha256:b179` |" in body and "| licence | `CC BY 4.0` |" in body
    assert "Apache-2.0. It holds for what is here too." in body


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("gemma-3-270m", "gemma"),
        ("llama-2-7b-chat", "llama2"),
        ("phi-3-mini-4k-instruct", "mit"),
        ("you/mine", "unknown"),
    ],
)
def test_licences_are_in_the_words_of_the_hub(name: str, header: str) -> None:
    base = modelcards.base_named(name, "main")
    found, body = split(modelcards.render(card(base=base)))
    assert found["license"] == header and found["base_model"] == (base.hub_id or name)
    assert ("terms" in body) == (header in ("gemma", "llama2"))


def test_a_path_of_this_machine_stays_here(tiny_decoder: ModelSource) -> None:
    base = modelcards.base_of(tiny_decoder)
    assert (base.name, base.hub_id) == (tiny_decoder.folder.name, None) and base.licence == modelcards.UNKNOWN
    assert str(tiny_decoder.folder.parent) not in modelcards.render(card(base=base))


def test_what_is_not_known_is_said_and_never_a_zero() -> None:
    scores = [modelcards.Score("perplexity", None), modelcards.Score("accuracy, %", 97.125, 95.5, 98.25, "452 rows")]
    _, body = split(modelcards.render(card(scores=scores, footprint={"adapter": None, "stored": 269_000_000})))
    assert "| perplexity | not measured | not measured | - |" in body
    assert "| accuracy, % | 97.1 | 95.5 to 98.2 | 452 rows |" in body
    assert "| adapter | not measured |" in body and "| stored | 269 MB |" in body
    assert body.count("| not known |") == 5 and "Not measured." in split(modelcards.render(card()))[1]


def test_hostile_names_neither_leave_the_header_nor_become_markup() -> None:
    base = modelcards.Base(HOSTILE, HOSTILE, HOSTILE, HOSTILE, "other")
    whole = card(
        title=HOSTILE,
        summary=HOSTILE,
        base=base,
        tags=(HOSTILE,),
        data=modelcards.Data(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),
        recipe={HOSTILE: HOSTILE},
        scores=[modelcards.Score(HOSTILE, 1.0, n=HOSTILE)],
        footprint={HOSTILE: 1},
        load=f"print({HOSTILE!r})\n```\n<b>",
        limits=(HOSTILE,),
    )
    document = modelcards.render(whole)
    header, body = split(document)
    assert set(header) == {"base_model", "license", "license_name", "library_name", "datasets", "tags"}
    assert header["base_model"].startswith("evil: [x] --- # <script>") and "\u202e" not in document
    page = cards.to_html(body)
    assert "<script" not in page and "<img" not in page and "<b>" not in page and "href" not in page
    assert page.count("<table>") == 6 and all(row.count("<td>") in (0, 2, 4) for row in page.split("</tr>"))


def test_a_saved_classifier_carries_its_card_and_takes_up_its_scores(
    tiny_chat_decoder: ModelSource, tmp_path: Path
) -> None:
    texts, labels = ["Call now!", "See you.", "You have won.", "The train is late."], ["a|b", "<i>", "a|b", "<i>"]
    classifier = LoRAClassifier(str(tiny_chat_decoder.folder), backend="bnb", epochs=1, rank=2, checks=False).fit(
        texts, labels
    )
    folder = classifier.save(tmp_path / "saved")
    header, body = split((folder / "README.md").read_text(encoding="utf-8"))
    assert "text-classification" in header["tags"] and "Not measured." in body and "`4 texts learned`" in body
    assert "<i>" not in cards.to_html(body) and str(tmp_path) not in body
    again = slmkit.load_classifier(folder)
    scores = [modelcards.Score("accuracy, %", 75.0, 30.1, 95.4, "4 test rows")]
    again.write_card(folder, data=modelcards.Data("fraud_messages", "CC BY 4.0"), scores=scores)  # type: ignore[attr-defined]
    header, body = split((folder / "README.md").read_text(encoding="utf-8"))
    assert header["datasets"] == ["fraud_messages"] and "| accuracy, % | 75.0 | 30.1 to 95.4 | 4 test rows |" in body
