"""The neutral text and what a tuning changes there: the same tokens before and after, and an interval that covers."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import slmkit_data
import yaml
from engines import available

import slmkit
from slmkit import backends, text
from slmkit.assets import ModelSource
from slmkit.errors import InputError
from slmkit.splits import alike
from slmkit.tasks import domain_dialogues
from slmkit.training import forgetting

BANKING = re.compile(r"\b(banks?|accounts?|cards?|loans?|mortgages?|transfers?|fees?|customers?|euros?)\b", re.I)


def test_the_neutral_text_is_what_its_card_says_and_shares_nothing_with_the_help_desk() -> None:
    passages, card = forgetting.passages(), slmkit_data.path("neutral_text.md").read_text(encoding="utf-8")
    raw = slmkit_data.path("neutral_text.txt").read_bytes()
    assert hashlib.sha256(raw).hexdigest() in card
    words = [len(passage.split()) for passage in passages]
    assert f"{len(passages)} short passages" in card and f"{sum(words):,} words; {min(words)} to {max(words)}" in card
    assert len(set(passages)) == len(passages) and "CC BY 4.0" in card
    assert not [found[0] for passage in passages if (found := BANKING.search(passage))]
    dialogues = [turn["content"] for row in domain_dialogues.dialogues() for turn in row["messages"]]
    near, _ = alike.pairs(map(alike.normalise, [*passages, *dialogues]), 0.5)
    assert not (near[:, 0] < len(passages)).any()


@pytest.mark.parametrize("name", ["bnb", "mlx"])
def test_scores_are_those_of_transformers_over_all_tokens_but_the_first_word(
    name: str, tiny_decoder: ModelSource
) -> None:
    from reference import Reference

    engine = available(name)
    texts, reference = forgetting.passages()[:2], Reference(tiny_decoder)
    with engine.load(tiny_decoder, dtype="float32") as model:
        found = forgetting.score(model, texts)
    wanted = [reference.loglikelihood([t.split(" ")[0]], [" " + t.split(" ", 1)[1]])[0, 0] for t in texts]
    np.testing.assert_allclose(found.nats, wanted, atol=0.02)
    ids = [len(reference.ids(t)) - len(reference.ids(t.split(" ")[0])) for t in texts]
    assert found.n_tokens.tolist() == ids and min(ids) > 50


def test_the_interval_holds_the_ratio_and_is_narrow_where_all_texts_agree() -> None:
    tokens = np.full(20, 100)
    before = forgetting.Scored(-300.0 - 50 * np.arange(20), tokens)
    same = forgetting.compare(before, before)
    assert same.ratio == same.ratio_low == same.ratio_high == 1
    steady = forgetting.compare(before, forgetting.Scored(before.nats - 10, tokens))
    assert steady.ratio == pytest.approx(math.exp(0.1)) and steady.ratio_high - steady.ratio_low < 1e-9
    assert steady.perplexity_after == pytest.approx(steady.perplexity_before * steady.ratio)
    uneven = forgetting.compare(before, forgetting.Scored(before.nats - np.linspace(-10, 30, 20), tokens))
    assert uneven.ratio_low < uneven.ratio < uneven.ratio_high and uneven.ratio_high - uneven.ratio_low > 0.05
    assert (uneven.n_tokens, uneven.n_texts) == (2000, 20)


def test_the_interval_covers_the_true_change_about_as_often_as_it_says() -> None:
    rng, tokens, hits = np.random.default_rng(1), np.full(20, 100), 0
    for seed in range(200):
        rise = rng.normal(5, 8, 20)
        change = forgetting.compare(
            forgetting.Scored(np.zeros(20) - 300, tokens), forgetting.Scored(-300 - rise, tokens), seed
        )
        hits += change.ratio_low <= math.exp(0.05) <= change.ratio_high
    assert 170 <= hits <= 199  # 95 % of 200 is 190; 20 texts make the bootstrap a little narrow


def test_other_tokens_before_than_after_are_refused_and_so_are_texts_of_one_word(tiny_decoder: ModelSource) -> None:
    one, two = (forgetting.Scored(np.zeros(2), np.array(n)) for n in ([3, 4], [3, 5]))
    with pytest.raises(InputError, match="must score the same tokens"):
        forgetting.compare(one, two)
    with backends.get("bnb").load(tiny_decoder) as model, pytest.raises(InputError, match="at least two words"):
        forgetting.score(model, ["word"])


def test_a_tuning_reports_what_it_cost_elsewhere_and_writes_it_down_and_on_its_card(
    tiny_chat_decoder: ModelSource, tmp_path: Path
) -> None:
    subjects = ["bank", "train", "parcel", "flower", "lunch", "phone", "card", "letter", "price", "news", "fee", "tea"]
    rows = pd.DataFrame({"prompt": [f"What about {s} number {i}?" for i, s in enumerate(subjects)], "answer": "No."})
    rows.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    name, out = str(tiny_chat_decoder.folder), tmp_path / "tuned"
    how = {"backend": "bnb", "epochs": 6, "learning_rate": 1e-2, "checks": False}
    tuned = slmkit.finetune(name, tmp_path / "rows.jsonl", out=out, **how)
    with slmkit.load(name, backend="bnb", adapter=out) as model:
        after = forgetting.score(model)
    change = tuned.forgotten
    assert (change.n_texts, change.n_tokens) == (20, after.n_tokens.sum()) and change.n_tokens > 5000
    assert change.perplexity_after == pytest.approx(math.exp(-after.nats.sum() / change.n_tokens), rel=1e-6)
    assert change.ratio == pytest.approx(change.perplexity_after / change.perplexity_before) and change.ratio != 1
    assert tuned.learned.ratio_high < 1 and tuned.loss_after == pytest.approx(math.log(tuned.learned.perplexity_after))
    saved = json.loads((out / "finetune.json").read_text(encoding="utf-8"))
    assert saved["forgotten"]["ratio_low"] == change.ratio_low < saved["forgotten"]["ratio_high"]

    _, header, body = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(header)["library_name"] == "peft" and yaml.safe_load(header)["datasets"] == ["rows.jsonl"]
    shown = f"{text.rounded(change.ratio)} | {text.rounded(change.ratio_low)} to {text.rounded(change.ratio_high)}"
    assert f"a neutral text, after / before | {shown} | {change.n_tokens:,} tokens in 20 texts |" in body
    assert f"{tuned.n_train} answers learned, {tuned.n_test} held out" in body and "| rank | `16` |" in body
    assert saved["data"]["sha256"] in body and "| seed | `0` |" in body and "Python" in body and "machine" in body
    assert str(tmp_path) not in body and "PATH_OF_THE_BASE_MODEL" in body
