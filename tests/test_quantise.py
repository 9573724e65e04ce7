"""Four and eight bits on the real model: how many bytes, how close, and how much memory."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from slmkit import backends

pytestmark = pytest.mark.real
TEXTS = ["Your parcel is waiting, pay the fee here", "Lunch at noon?", "The bank will never ask for your code."]
CHILD = """
import json, sys
import slmkit
from slmkit import footprint
with slmkit.load(sys.argv[1], bits=int(sys.argv[2]), backend="bnb") as model:
    model.embed(["a text of some words to read"] * 8)
    print(json.dumps([model.weight_bytes(), model.n_parameters(), footprint.peak_ram_bytes()]))
"""


def test_bytes_and_memory_of_smollm2(real_model: str, width: int) -> None:
    """Embeddings included, 4 bits take at most 80 MB, from a cache, with a lower peak than 16 bits."""

    def child(bits: int) -> list[int]:
        command = [sys.executable, "-c", CHILD, real_model, str(bits)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        return json.loads(done.stdout.splitlines()[-1])

    child(4)  # fills the cache
    four, eight, sixteen = child(4), child(8), child(16)
    assert four[1] == eight[1] == sixteen[1] == 134_515_008
    assert sixteen[0] == width * sixteen[1]
    assert four[0] <= 80e6 < eight[0] <= 150e6
    assert four[2] < sixteen[2]


def test_closeness_of_vectors(real_model: str) -> None:
    with backends.load(real_model, bits=16, backend="bnb") as model:
        exact = model.embed(TEXTS)
    nearness = {}
    for bits in (8, 4):
        with backends.load(real_model, bits=bits, backend="bnb") as model:
            vectors = model.embed(TEXTS)
        cosines = (vectors * exact).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(exact, axis=1)
        nearness[bits] = float(cosines.min())
    assert nearness[8] > 0.99 and nearness[4] > 0.8 and nearness[4] < nearness[8]


def test_chat_answer_makes_sense(real_model: str) -> None:
    with backends.load(real_model, bits=16, backend="bnb") as model:
        prompt = model.chat_prompt([{"role": "user", "content": "What is the capital of France?"}])
        (answer,) = model.generate([prompt], 20)
    assert "Paris" in answer.text and answer.finish_reason == "stop"
