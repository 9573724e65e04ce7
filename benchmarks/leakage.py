"""How far a leaking pool inflates Financial PhraseBank: the same test rows, learned from a clean and a leaking pool.

AllAgree lies inside 50Agree, so whoever tunes on 50Agree and reports on AllAgree has seen the test rows. For each seed
the AllAgree test rows are those of slmkit's own split; the clean pool is 50Agree without them, their near-duplicates
and their groups, the leaking one has them in. Both are learned with the same method and compared row by row.

    python -m benchmarks.leakage
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from benchmarks import common

ALL, HALF = "financial_phrasebank", "financial_phrasebank_50agree"


def pools(seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Test rows of AllAgree, the clean pool and the leaking pool of 50Agree."""
    from slmkit import data, tasks
    from slmkit.splits import leaks

    test = data.split(tasks.get(ALL).load(), seed=seed).test
    pool = data.deduplicate(tasks.get(HALF).load())[0]
    found = leaks.check({"test": test, "pool": pool}, within=False).across[0].rows["row"]
    return test, pool.drop(index=found.tolist()), pool


def classifiers(seed: int, names: list[str]) -> dict[str, Any]:
    """The methods by name, unfitted."""
    from slmkit import EmbeddingClassifier, FloorClassifier, LoRAClassifier

    made = {
        "floor": lambda: FloorClassifier(seed=seed),
        "embedding": lambda: EmbeddingClassifier("minilm", C=1.0, seed=seed),
        "lora": lambda: LoRAClassifier(seed=seed),
    }
    return {name: made[name]() for name in names}


def inflation(method: str, seed: int) -> dict[str, Any]:
    """Accuracy on the same test rows after learning from either pool, and McNemar's test of the two."""
    from slmkit import metrics

    test, clean, leaking = pools(seed)
    right = {}
    for name, pool in (("clean", clean), ("leaking", leaking)):
        model = classifiers(seed, [method])[method]
        model.fit(pool["text"].tolist(), pool["label"].tolist())
        right[name] = model.predict(test["text"].tolist()) == test["label"].to_numpy()
        if hasattr(model, "release"):
            model.release()
    low, high = metrics.wilson(int(right["leaking"].sum()), len(test))
    clean_low, clean_high = metrics.wilson(int(right["clean"].sum()), len(test))
    return {
        "method": method,
        "seed": seed,
        "n": len(test),
        "clean": float(right["clean"].mean()),
        "clean_interval": [clean_low, clean_high],
        "leaking": float(right["leaking"].mean()),
        "leaking_interval": [low, high],
        "rows_clean": len(clean),
        "rows_leaking": len(leaking),
        "p": float(metrics.mcnemar(right["leaking"], right["clean"])["p"]),
    }


def main() -> int:
    """All methods and seeds asked for."""
    parser = common.parser(__doc__)
    parser.add_argument("--methods", nargs="+", choices=("floor", "embedding", "lora"), default=["floor", "embedding"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    common.environment()
    facts = common.describe()
    found = []
    for method in arguments.methods:
        for seed in arguments.seeds:
            one = inflation(method, seed)
            found.append(one)
            clean, leaking = (f"{one[k]:.1%} ({_span(one[k + '_interval'])})" for k in ("clean", "leaking"))
            print(
                f"{method}, seed {seed}, n {one['n']}: clean {clean}, leaking {leaking}, p {one['p']:.2g}", flush=True
            )
        mine = [one for one in found if one["method"] == method]
        mean = {name: float(np.mean([one[name] for one in mine])) for name in ("clean", "leaking")}
        print(f"{method}, mean of {len(mine)} seeds: {mean['clean']:.1%} clean, {mean['leaking']:.1%} leaking")
    return common.finish("leakage", {**facts, "runs": found}, [])


def _span(interval: list[float]) -> str:
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


if __name__ == "__main__":
    common.run(main)
