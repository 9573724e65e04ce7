"""Distillation on Financial PhraseBank AllAgree: what a small student keeps of a tuned SmolLM2-135M, without leaking.

The teacher is tuned by LoRA on the train rows of slmkit's own split. The pool is those rows with their labels and all
sentences of 50Agree without theirs; what stands in the test rows, to the letter or nearly, leaves it first. Every
student is distilled, and trained on the labels alone with the same settings, and both are scored on the same test rows.

- floor, minilm: word counts, and a linear head on MiniLM's frozen vectors. Seconds.
- minilm-full: all weights of MiniLM. Minutes.
- pruned: SmolLM2 with --blocks of its 30 blocks, tuned by LoRA. Minutes.
- matched: the same after its hidden states were matched to those of SmolLM2 on the pool. Ten minutes more.

The teacher is kept in --out and takes ten minutes a seed on two cores, with --teacher-blocks 8 a third of that. Targets
are those of --judged: it keeps 97 % of the teacher's accuracy within a fifth of its latency (one row, median), and
beats labels alone by McNemar's exact test.

    slmkit data fetch financial_phrasebank --accept-license
    SLMKIT_ASSETS=../shared/data python -m benchmarks.distillation --seeds 0 1 2
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import common

ALL, HALF, MODEL = "financial_phrasebank", "financial_phrasebank_50agree", "smollm2-135m-instruct"
RETENTION, LATENCY, ALPHA = 0.97, 0.2, 0.05


def rows(seed: int) -> tuple[pd.DataFrame, list[str], pd.DataFrame]:
    """Train rows of AllAgree, the sentences of 50Agree that are not among them, and the test rows of AllAgree."""
    from slmkit import data, tasks

    parts = data.split(tasks.get(ALL).load(), seed=seed)
    known = set(map(data.normalise, parts.train["text"]))
    more = [text for text in tasks.get(HALF).load()["text"] if data.normalise(text) not in known]
    return parts.train, list(dict.fromkeys(more)), parts.test


def teacher(arguments: Any, seed: int, train: pd.DataFrame) -> Any:
    """The tuned teacher of a seed, from --out if it is there."""
    from slmkit import LoRAClassifier, load_classifier

    folder = arguments.out / f"teacher-s{seed}-{arguments.teacher_blocks or 'all'}"
    if not folder.is_dir():
        made = LoRAClassifier(MODEL, last_blocks=arguments.teacher_blocks, seed=seed)
        made.fit(train["text"].tolist(), train["label"].tolist()).save(folder)
        made.release()
    return load_classifier(folder)


def pruned(arguments: Any) -> Path:
    """SmolLM2 with fewer blocks, made once."""
    import slmkit

    folder = Path(arguments.out) / f"pruned-{arguments.blocks}"
    if not folder.is_dir():
        made = slmkit.prune(MODEL, out=folder, keep_layers=arguments.blocks)
        print(f"kept blocks {made.kept}", flush=True)
    return folder


def matched(arguments: Any, seed: int, texts: list[str]) -> Path:
    """The pruned model after its hidden states were matched; `texts` hold no test row and nothing like one."""
    import slmkit

    folder = Path(arguments.out) / f"matched-{arguments.blocks}-s{seed}"
    if not folder.is_dir():
        made = slmkit.match_states(
            MODEL, str(pruned(arguments)), texts, out=folder, layers="pruned", epochs=3, seed=seed
        )
        print(f"distance to the teacher's vectors {made.distance_before:.3f} -> {made.distance_after:.3f}", flush=True)
    return folder


def without_test(texts: list[str], test: pd.DataFrame) -> list[str]:
    """Texts without copies and near-copies of the test rows."""
    from slmkit.splits import leaks

    found = leaks.check({"test": test, "pool": texts}, within=False).across[0].rows["row"]
    return [text for i, text in enumerate(texts) if i not in set(found.tolist())]


def students(arguments: Any, seed: int, pool: list[str], test: pd.DataFrame) -> dict[str, Callable[[], Any]]:
    """The students by name, unfitted."""
    from slmkit import EmbeddingClassifier, FloorClassifier, LoRAClassifier

    def shallow(folder: Path) -> Any:
        return LoRAClassifier(str(folder), learning_rate=1e-3, epochs=arguments.epochs, seed=seed)

    return {
        "floor": lambda: FloorClassifier(seed=seed),
        "minilm": lambda: EmbeddingClassifier("minilm", C=1.0, seed=seed),
        "minilm-full": lambda: LoRAClassifier("minilm", way="full", epochs=arguments.epochs, seed=seed),
        "pruned": lambda: shallow(pruned(arguments)),
        "matched": lambda: shallow(matched(arguments, seed, without_test(pool, test))),
    }


def one(arguments: Any, seed: int, name: str) -> dict[str, Any]:
    """One student of one seed: distilled, set beside the labels alone, saved with its record."""
    import slmkit

    train, more, test = rows(seed)
    pool = [*train["text"], *more]
    made = slmkit.distill(
        teacher(arguments, seed, train),
        students(arguments, seed, pool, test)[name](),
        pool,
        labels=[*train["label"], *[None] * len(more)],
        test=test,
        temperature=arguments.temperature,
        weight=arguments.weight,
        measure_s=arguments.measure_s,
    )
    print(f"\n{name}, seed {seed}", *made.lines(), sep="\n  ", flush=True)
    made.save(arguments.out / f"student-{name}-s{seed}")
    made.student.release()
    record = made.to_dict()
    kept = ("n_pool", "n_labelled", "removed", "agreement", "figures", "costs", "saving")
    return {"student": name, "seed": seed, **{key: record[key] for key in kept}}


def judge(found: list[dict[str, Any]], name: str) -> list[common.Target]:
    """What the judged student kept and saved, and in how many seeds distilling beat labels alone."""
    records = [record for record in found if record["student"] == name]
    if not records:
        print(f"\n{name} was not among the students: no target is judged")
        return []
    kept = float(np.mean([x["figures"]["retention"] for x in records]))
    latency = float(np.median([x["saving"]["latency_share"] for x in records]))
    wins = [x["figures"]["gain"] > 0 and x["figures"]["p_vs_labels"] < ALPHA for x in records]
    return [
        common.Target(f"{name}: accuracy kept, mean of {len(records)} seed(s)", kept, RETENTION),
        common.Target(f"{name}: share of the teacher's latency", latency, LATENCY, at_least=False),
        common.Target(f"{name}: share of seeds in which it beats labels alone (p < 0.05)", float(np.mean(wins)), 0.5),
    ]


def main() -> int:
    """All students and seeds asked for."""
    names = ("floor", "minilm", "minilm-full", "pruned", "matched")
    parser = common.parser(__doc__)
    parser.add_argument("--students", nargs="+", choices=names, default=list(names))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--judged", choices=names, default="minilm-full", help="named before anything was measured")
    parser.add_argument("--teacher-blocks", type=int, help="last blocks of the teacher that are tuned; all by default")
    parser.add_argument("--blocks", type=int, default=5, help="of the pruned student")
    parser.add_argument("--epochs", type=float, default=5, help="of students whose weights are trained")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--weight", type=float, default=0.7)
    parser.add_argument("--measure-s", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"))
    arguments = parser.parse_args()
    common.environment()
    facts = common.describe()
    found = [one(arguments, seed, name) for seed in arguments.seeds for name in arguments.students]
    return common.finish("distillation", {**facts, "runs": found}, judge(found, arguments.judged))


if __name__ == "__main__":
    common.run(main)
