"""A tuning that is killed (SIGKILL) at random moments and begun again each time: its adapter must not differ in a bit.

One process imports the engine and forks a child for each attempt. The last block of SmolLM2-135M is tuned, or that of
MODEL; kills fall anywhere, from the first look at the folder to the moment the adapter moves into place.

    python -m benchmarks.kill_resume [--model MODEL] [--kills 20] [--backend bnb]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

ADAPTERS = {"bnb": "adapter_model.safetensors", "mlx": "adapters.safetensors"}
SUBJECTS = ["bank", "train", "parcel", "account", "flower", "lunch", "phone", "card", "letter", "price", "news", "fee"]


def settings() -> dict[str, Any]:
    """A training of many short epochs, with a checkpoint at the end of each."""
    prompts = [f"What about the {subject}?" for subject in SUBJECTS]
    rows = pd.DataFrame({"prompt": prompts, "answer": [f"No {subject}." for subject in SUBJECTS]})
    return {
        "data": rows,
        "epochs": 40,
        "batch_size": 4,
        "max_length": 64,
        "method": "last-k",
        "last_blocks": 1,
        "checks": False,
    }


def attempt(model: str, out: Path, backend: str) -> int:
    """Begin the tuning in a child, or go on with it; the child's process id."""
    child = os.fork()
    if child:
        return child
    try:
        from slmkit import finetune

        finetune(model, out=out, backend=backend, **settings())  # type: ignore[operator]
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def wait(child: int, limit_s: float | None) -> int | None:
    """The child's status when it ends; None when it was killed after `limit_s`."""
    end = None if limit_s is None else time.monotonic() + limit_s
    while True:
        done, status = os.waitpid(child, os.WNOHANG if end else 0)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end and time.monotonic() >= end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.002)


def run(model: str, backend: str, kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill and go on until all kills are made and the tuning is done; what came out each time it was done."""
    rng, began = random.Random(seed), time.monotonic()
    whole, out = folder / "whole", folder / "killed"
    if wait(attempt(model, whole, backend), None) != 0:
        raise SystemExit("the uninterrupted tuning failed")
    took = time.monotonic() - began
    wanted = (whole / ADAPTERS[backend]).read_bytes()
    made, finished, same, resumed = 0, 0, 0, 0
    while True:
        resumed += any(folder.glob("killed.partial/checkpoint-*"))
        status = wait(attempt(model, out, backend), rng.uniform(0, took) if made < kills else None)
        made += status is None
        if status is None and not out.exists():
            continue
        if status:
            raise SystemExit(f"an attempt after {made} kills failed")
        finished += 1
        same += (out / ADAPTERS[backend]).read_bytes() == wanted
        if status is None:  # killed between the adapter's move into place and the end: its checkpoints are left
            shutil.rmtree(folder / "killed.partial", ignore_errors=True)
        left = sorted(p.name for p in folder.iterdir())
        shutil.rmtree(out)
        if made >= kills:
            told = {"backend": backend, "kills": made, "attempts_that_resumed": resumed, "finished": finished}
            return {**told, "same_to_the_bit": same, "left": left, "whole_s": round(took, 2)}


def warm_up(backend: str, model: str) -> None:
    """Import what every child needs. mlx must not compute before the fork: a child would lack its threads."""
    from slmkit import assets, backends

    source = backends.prepare(assets.resolve(model))
    if backend == "mlx":
        importlib.import_module("slmkit.backends._mlx.lora")
        backends.get(backend).count_tokens(source, ["a tokenizer"])
    else:
        backends.get(backend).load(source).release()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--backend", default="bnb", choices=sorted(ADAPTERS))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for name, value in (("OMP_NUM_THREADS", "1"), ("TOKENIZERS_PARALLELISM", "false")):  # threads do not survive a fork
        os.environ[name] = value
    with tempfile.TemporaryDirectory() as name:
        os.environ["SLMKIT_CACHE"] = str(Path(name) / "cache")
        (Path(name) / "runs").mkdir()
        warm_up(asked.backend, asked.model)
        print(json.dumps(run(asked.model, asked.backend, asked.kills, asked.seed, Path(name) / "runs")))


if __name__ == "__main__":
    main()
