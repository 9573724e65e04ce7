"""The estimated peak dealt out to layers adds up, lies where it should, and is drawn so."""

from __future__ import annotations

import pytest
from sample_runs import HOSTILE

import slmkit
from slmkit import plots
from slmkit.errors import InputError
from slmkit.estimate import layers
from slmkit.estimate.several import side_by_side


def sums(found: slmkit.estimate.Estimate) -> dict[str, int]:
    return found.by_layer().groupby("layer", sort=False)["n_bytes"].sum().to_dict()


@pytest.mark.parametrize("model", ["smollm2-135m-instruct", "gemma-2b-it", "falcon-7b", "minilm"])
@pytest.mark.parametrize(
    "use",
    [{}, {"bits": 4}, {"bits": 8}, {"method": "lora"}, {"method": "qlora"}, {"method": "full"},
     {"method": "last-k", "last_blocks": 2, "train_tokens": 5000}, {"method": "full", "last_blocks": 2},
     {"method": "lora", "seq": 512, "batch": 16, "limit_bytes": 2_000_000_000}],
    ids=str,
)  # fmt: skip
def test_layers_add_up_to_the_peak(model: str, use: dict) -> None:
    found = slmkit.estimate(model, **use)
    frame = found.by_layer()
    assert frame["n_bytes"].sum() == found.peak_bytes and (frame["n_bytes"] >= 0).all()
    by_group = frame.groupby("group")["n_bytes"].sum().to_dict()
    assert by_group == slmkit.estimate.fits.grouped(found.terms)
    blocks = [layer for layer in dict.fromkeys(frame["layer"]) if layer.startswith("block ")]
    assert blocks == [f"block {i + 1}" for i in range(found.network.layers)]


def test_training_the_last_blocks_takes_its_memory_there() -> None:
    whole = slmkit.estimate("smollm2-135m-instruct", method="last-k", last_blocks=8)
    found = sums(whole)
    assert found["block 1"] == pytest.approx(found["block 22"], abs=1) and found["block 23"] > 2 * found["block 22"]
    frame = whole.by_layer()
    assert set(frame.loc[frame["layer"] == "block 30", "group"]) == {
        "weights", "adapter", "gradients", "optimizer", "activations",
    }  # fmt: skip
    assert set(frame.loc[frame["layer"] == "block 1", "group"]) == {"weights"}


def test_a_large_vocabulary_weighs_as_much_as_many_blocks() -> None:
    found = sums(slmkit.estimate("gemma-2b-it", bits=16))
    assert found["embeddings"] > 4 * found["block 1"]
    every = sums(slmkit.estimate("smollm2-135m-instruct", method="full"))
    assert every["embeddings"] > 5 * every["block 1"]  # the table is trained too


def test_recomputed_blocks_keep_their_activations_once() -> None:
    lean = slmkit.estimate("smollm2-135m-instruct", method="lora", seq=512, batch=16, limit_bytes=3_000_000_000)
    assert lean.use.recompute
    frame = lean.by_layer()
    kept = frame[(frame["group"] == "activations") & (frame["layer"] == layers.AT_WORK)]["n_bytes"].sum()
    assert kept > 2 * frame[(frame["group"] == "activations") & (frame["layer"] == "block 1")]["n_bytes"].sum()


def test_the_picture_stacks_megabytes_and_names_what_it_leaves_out() -> None:
    found = slmkit.estimate("smollm2-135m-instruct", method="last-k")
    figure = plots.memory_by_layer(found.by_layer(), "SmolLM2, last 8 blocks")
    drawn = sum(sum(trace.x) for trace in figure.data)
    outside = found.by_layer().query("layer == 'process'")["n_bytes"].sum()
    assert drawn == pytest.approx((found.peak_bytes - outside) / 1e6)
    assert [t.name for t in figure.data] == ["weights", "adapter", "gradients", "optimizer", "activations"]
    assert figure.layout.barmode == "stack" and figure.layout.xaxis.title.text == "Memory (MB)"
    assert figure.data[0].y[:2] == ("embeddings", "block 1") and figure.layout.yaxis.autorange == "reversed"
    assert "not drawn" in figure.layout.title.subtitle.text and "MB more" in figure.layout.title.subtitle.text


def test_text_from_outside_is_escaped_and_a_table_without_its_columns_is_refused() -> None:
    frame = slmkit.estimate("minilm").by_layer().assign(layer=HOSTILE, group=HOSTILE)
    shown = plots.memory_by_layer(frame, HOSTILE).to_json()
    assert "<img" not in shown and "\\u003cimg" not in shown
    with pytest.raises(InputError, match="the table of layers must have rows and the columns layer, group, n_bytes"):
        plots.memory_by_layer(frame.drop(columns="group"))


def test_models_stand_side_by_side_with_what_each_would_take() -> None:
    found = side_by_side(
        ["smollm2-135m-instruct", "mistral-7b-instruct-v0.3"], method="generate", limit_bytes=4 * 10**9
    )
    assert found["bits"].tolist() == [16, 4, 16, 4] and found["fits"].tolist() == ["yes", "yes", "no", "no"]
    one = slmkit.estimate("mistral-7b-instruct-v0.3", bits=4, method="generate", limit_bytes=4 * 10**9)
    last = found.iloc[3]
    assert (last["peak_GB"], last["stored_GB"]) == (one.peak_bytes / 1e9, one.stored_bytes / 1e9)
    assert (last["from_per_s"], last["to_per_s"]) == one.times.written_per_s
    read = side_by_side(["minilm"], bits=[16]).iloc[0]
    assert read["to_per_s"] == slmkit.estimate("minilm").times.tokens_per_s[1]
