"""SIGKILL at random moments of a tuning in other processes; the same command finishes it to the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from engines import available

from slmkit.assets import ModelSource

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the attempts are forked")
@pytest.mark.parametrize("backend", ["bnb", "mlx"])
def test_a_killed_tuning_goes_on_to_the_same_bits(tiny_chat_decoder: ModelSource, backend: str) -> None:
    available(backend)
    command = [sys.executable, "-m", "benchmarks.kill_resume", "--model", str(tiny_chat_decoder.folder)]
    command += ["--backend", backend, "--kills", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["kills"] == 4 and told["same_to_the_bit"] == told["finished"] >= 1
    assert told["left"] == ["killed", "whole"]
