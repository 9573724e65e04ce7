"""What some of slmkit's ways bring on this machine: the same work with and without them, in turn, in one run.

- nursery: the study of notebook 00_start_here in `tiny`, with checks around its trainings; children forked by a process
  that has imported their engine, and started afresh.
- products: SmolLM2-135M's vectors, and LoRA for an epoch, with products by way of float32 where this CPU is quicker so,
  and in bfloat16 as they come. A CPU that is quick in bfloat16 has nothing to compare, and the part says so.

Results are compared too: accuracies of the study, and vectors by cosine. Nothing is judged but that.

    pip install -c constraints.txt -e ".[bnb]"
    python -m benchmarks.ablations --rounds 3
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bulk_rows, common

MODEL, TASK = "smollm2-135m-instruct", "fraud_messages"
ROWS, TUNED_ROWS = 64, 32
MIN_COSINE = 0.999


class Study:
    """The first notebook's study, every round in a new folder."""

    def __init__(self, forks: bool) -> None:
        from slmkit.jobs.nursery import Nursery

        if not forks:
            Nursery.child = lambda self, log, environment: None  # type: ignore[method-assign]
        self.accuracies: list[float] = []

    def run(self, models: list[str]) -> None:
        """All seven combinations."""
        import slmkit

        with tempfile.TemporaryDirectory() as folder:
            found = slmkit.study(
                TASK, models=models, methods=["floor", "embedding", "prompt", "lora"], bits=[16, 4], out=Path(folder),
                params={"lora": {"last_blocks": 8, "batch_size": 8}}, train=64, test=40, epochs=1, measure_s=0.5,
                progress=lambda event: None,
            )  # fmt: skip
        self.accuracies = [run.accuracy for run in found.runs]

    def result(self) -> list[float]:
        """Accuracy of each."""
        return self.accuracies


class Vectors(bulk_rows.Own):
    """Vectors of texts, pooled over their tokens."""

    def __init__(self, widens: bool) -> None:
        _widen(widens)
        super().__init__(MODEL, "bfloat16", None)


class Tuning:
    """LoRA on all blocks."""

    def __init__(self, widens: bool) -> None:
        _widen(widens)

    def run(self, texts: list[str]) -> None:
        """One epoch; what the labels are is no matter for the time."""
        from slmkit import LoRAClassifier

        LoRAClassifier(MODEL, epochs=1, checks=False).fit(texts, ["even", "odd"] * (len(texts) // 2))


def _widen(widens: bool) -> None:
    from slmkit.backends._torch import products

    if not widens:
        products.widens = lambda: False


def _texts(n: int) -> list[str]:
    from slmkit import tasks

    return list(tasks.get(TASK).load()["text"][:n])


def nursery(rounds: int) -> tuple[dict[str, Any], list[common.Target]]:
    """The study both ways."""
    with common.Side(Study, False) as afresh, common.Side(Study, True) as forked:
        names = ("started afresh", "forked by a nursery")
        found = common.duel(afresh, forked, [MODEL], rounds=rounds, names=names)
        same = float(afresh.call("result")[1] == forked.call("result")[1])
    return found.facts(7), [common.Target("the study's accuracies are the same", same, 1.0)]


def products(rounds: int) -> tuple[dict[str, Any], list[common.Target]]:
    """Vectors and LoRA both ways."""
    from slmkit.backends._torch.products import widens

    if not widens():
        print("this CPU is not quicker in float32: there is nothing to compare")
        return {}, []
    facts: dict[str, Any] = {}
    for kind, n in ((Vectors, ROWS), (Tuning, TUNED_ROWS)):
        print(f"{kind.__name__.lower()}, {n} texts")
        with common.Side(kind, False) as narrow, common.Side(kind, True) as wide:
            for side in (narrow, wide):
                side.call("run", _texts(8))
            names = ("bfloat16 as it comes", "by way of float32")
            found = common.duel(narrow, wide, _texts(n), rounds=rounds, names=names)
            facts[kind.__name__.lower()] = found.facts(n)
            if kind is Vectors:
                ours, theirs = wide.call("result")[1], narrow.call("result")[1]
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = float(((ours * theirs).sum(axis=1) / lengths).min())
    return facts, [common.Target("smallest cosine between the vectors", cosine, MIN_COSINE)]


PARTS = {"nursery": nursery, "products": products}


def main() -> int:
    """The parts asked for."""
    parser = common.parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    common.environment()
    facts, targets = common.describe(), []
    for name in arguments.parts:
        print(f"\n== {name}", flush=True)
        facts[name], judged = PARTS[name](arguments.rounds)
        targets += judged
    return common.finish("ablations", facts, targets)


if __name__ == "__main__":
    common.run(main)
