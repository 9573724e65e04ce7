"""Memory that really runs out in a training: fewer tokens at once from there on, the same batches, the same losses."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from engines import available

from slmkit.assets import ModelSource

CHILD = """
import json, logging, resource, sys, tempfile
from pathlib import Path
import numpy as np
import torch
from slmkit import assets, backends
from slmkit.backends.base import LoRAConfig

torch.set_num_threads(1)
source, bnb = assets.resolve(sys.argv[1]), backends.get("bnb")
texts = [f"{word} " * 400 for word in ("bank", "train", "prize", "lunch")] * 12
y = np.arange(len(texts)) % 2

def train(tokens):
    config = LoRAConfig(rank=4, alpha=8, epochs=1, batch_size=48, max_length=400, max_batch_tokens=tokens)
    with tempfile.TemporaryDirectory() as out:
        return bnb.train_lora(source, texts, y, n_classes=2, bits=16, config=config, out=Path(out))

small = train(400)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
most = 1024 * int(status["VmPeak"].split()[0])  # what the small one took while it ran
resource.setrlimit(resource.RLIMIT_AS, (most + 60_000_000, resource.RLIM_INFINITY))
print(json.dumps([small, train(100_000)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_training_that_runs_out_of_memory_goes_on_with_fewer_tokens_at_once(tiny_decoder: ModelSource) -> None:
    available("bnb")
    command = [sys.executable, "-c", CHILD, str(tiny_decoder.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    small, limited = json.loads(done.stdout)
    assert "memory ran out at step 1" in done.stderr
    assert 400 <= limited[0]["max_batch_tokens"] < 19_200 and limited[0]["tokens"] == 19_200
    np.testing.assert_allclose([e["loss"] for e in limited], [e["loss"] for e in small], atol=0.02)
