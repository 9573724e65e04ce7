"""LoRA classification tuning: slmkit beside transformers.Trainer + PEFT, from loading the model to the predictions.

Work: Financial PhraseBank AllAgree, seeded leak-free 80/20 splits, SmolLM2-135M from the same folder, rank 16 on all
linear layers, alpha 32, three epochs, batch 16, 5e-4 with a tenth of warm-up and a cosine, AdamW, at most 256 tokens.
Each tuning has a process of its own, the sides in turn (the first one changes with the seed), all at the same threads.

Fair to the peer: rows padded to their batch, batches of like length (`train_sampling_strategy="group_by_length"`), base
weights in bfloat16, its own head on the last token that is not padding (pad token set), nothing saved or logged in
between, test rows sorted by length. Under --peer-forms it is tried with and without autocast and the quicker counts.
A CPU without bfloat16 instructions needs `--peer-forms float32`. With --last-blocks both sides adapt the last K blocks,
with --own-last-blocks slmkit alone does: the blocks below are computed once for all epochs, which the peer cannot.
Its accuracy is shown: below 93 % (97 % is usual) the comparison would say nothing.

--short: 500 texts of SMS Spam, slmkit alone: LoRA on all blocks as it comes, the same on at most 512 tokens at once,
and the last 8 blocks on outputs that are computed once. Judged is the second: its seconds, its peak, and that it is not
worse on the same test rows than the first.

    SLMKIT_ASSETS=../shared/data python -m benchmarks.tuning_speed --seeds 0 1 2
    SLMKIT_ASSETS=../shared/data python -m benchmarks.tuning_speed --short --seeds 0 1 2
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common

MODEL, FPB, SMS = "smollm2-135m-instruct", "financial_phrasebank", "sms_spam"
MIN_RATIO, HEALTHY = 2.0, 0.93
SHORT_ROWS, SHORT_TEST, SHORT_S, SHORT_BYTES = 500, 1000, 90.0, 1.5e9
SHORT_WAYS: dict[str, dict[str, int]] = {
    "all blocks": {},
    "512 tokens at once": {"max_batch_tokens": 512},
    "last 8 blocks": {"last_blocks": 8},
}
JUDGED = "512 tokens at once"
ALPHA = 0.05
FORMS = {
    "bfloat16": ("bfloat16", False),
    "autocast": ("bfloat16", True),
    "float32": ("float32", False),  # where a CPU has no bfloat16 instructions it is the only quick one
    "float32-autocast": ("float32", True),
}


def rows_file(folder: Path, task: str, seed: int, train: int | None, test: int | None) -> Path:
    """Both parts of a split as JSON, so that the peer's process needs nothing of slmkit to read them."""
    from slmkit import data, tasks

    split = data.split(tasks.get(task).load(), seed=seed, train=train, test=test)
    parts = {"train": split.train, "test": split.test}
    path = folder / f"{task}-{seed}.json"
    told = {name: {column: part[column].tolist() for column in ("text", "label")} for name, part in parts.items()}
    path.write_text(json.dumps(told), encoding="utf-8")
    return path


def tuning(arguments: Any, rows: Path, side: str, seed: int, **other: Any) -> dict[str, Any]:
    """One tuning in a process of its own."""
    from slmkit import jobs, metrics

    how = {"model": MODEL, "folder": str(arguments.folder), "rank": 16, "alpha": 32, "epochs": arguments.epochs}
    how |= {"learning_rate": 5e-4, "batch_size": 16, "max_length": 256, "last_blocks": arguments.last_blocks}
    how |= {"seed": seed, "eval_batch": 32, "dtype": "bfloat16", "autocast": False}
    how |= {"max_batch_tokens": None, **other}  # None: slmkit's own choice
    job = {"rows": str(rows), "side": side, "how": how}
    found = jobs.run_child(job, module="benchmarks.tuning_speed_work", log_path=arguments.log)
    right, n = sum(found["right"]), len(found["right"])
    found |= {"accuracy": right / n, "interval": metrics.wilson(right, n), "n": n, "seed": seed, "side": side}
    return found


def show(name: str, run: dict[str, Any]) -> None:
    """One line a tuning."""
    low, high = run["interval"]
    print(
        f"{name:<28} seed {run['seed']}: {run['seconds']:7.1f} s (fit {run['fit_s']:.1f}), peak "
        f"{run['peak_bytes'] / 1e9:.2f} GB, accuracy {run['accuracy']:.1%} ({low:.1%} to {high:.1%}, n = {run['n']})",
        flush=True,
    )


def points(test: dict[str, float]) -> str:
    """A paired difference in words."""
    low, middle, high = (f"{100 * test[name]:+.1f}" for name in ("low", "difference", "high"))
    return f"accuracy {middle} points ({low} to {high}, p = {test['p']:.2g})"


def peer_form(arguments: Any, rows: Path) -> dict[str, Any]:
    """The quickest of the peer's forms on the first rows of a split, one epoch."""
    seconds = {}
    parts = json.loads(rows.read_text(encoding="utf-8"))
    few = {name: {column: _spread(cells, 160) for column, cells in part.items()} for name, part in parts.items()}
    some = rows.with_name("some.json")
    some.write_text(json.dumps(few), encoding="utf-8")
    for name in arguments.peer_forms:
        dtype, autocast = FORMS[name]
        found = tuning(arguments, some, "peer", 0, epochs=1, dtype=dtype, autocast=autocast)
        seconds[name] = found["seconds"]
        print(f"peer in {name}: {found['seconds']:.1f} s for {found['n']} rows, one epoch", flush=True)
    best = min(seconds, key=lambda name: seconds[name])
    return dict(zip(("dtype", "autocast"), FORMS[best], strict=True))


def _spread(cells: list[Any], n: int) -> list[Any]:
    return cells[:: max(1, len(cells) // n)][:n]  # the first rows of a file may lack a label


def full(arguments: Any, folder: Path) -> tuple[dict[str, Any], list[common.Target]]:
    """slmkit and the peer on every seed."""
    from slmkit import metrics

    rows = {seed: rows_file(folder, FPB, seed, arguments.train, arguments.test) for seed in arguments.seeds}
    form = peer_form(arguments, rows[arguments.seeds[0]])
    print(f"the peer takes {form}")
    own = {"last_blocks": arguments.own_last_blocks} if arguments.own_last_blocks else {}
    pairs, tests = [], []
    for seed in arguments.seeds:
        found = {}
        for side in ("peer", "slmkit") if seed % 2 == 0 else ("slmkit", "peer"):
            found[side] = tuning(arguments, rows[seed], side, seed, **(form if side == "peer" else own))
            show("Trainer + PEFT" if side == "peer" else "slmkit", found[side])
        pairs.append(found)
        tests.append(metrics.mcnemar(found["slmkit"]["right"], found["peer"]["right"]))
        times = found["peer"]["seconds"] / found["slmkit"]["seconds"]
        print(f"{'':<28} seed {seed}: {times:.2f} times as fast, {points(tests[-1])}")
    ratio = statistics.median(pair["peer"]["seconds"] / pair["slmkit"]["seconds"] for pair in pairs)
    memory = statistics.median(pair["slmkit"]["peak_bytes"] / pair["peer"]["peak_bytes"] for pair in pairs)
    worse = sum(test["p"] < ALPHA and test["difference"] < 0 for test in tests)
    targets = [
        common.Target("times as fast as Trainer + PEFT", ratio, MIN_RATIO),
        common.Target("peak memory over the peer's", memory, 1.0, at_least=False),
        common.Target("seeds in which slmkit is less accurate (p < 0.05)", worse, 0, at_least=False),
        common.Target("peer's accuracy, mean", statistics.fmean(p["peer"]["accuracy"] for p in pairs), HEALTHY),
    ]
    runs = [slim(run) for pair in pairs for run in pair.values()]
    return {"peer_form": form, "runs": runs, "paired": tests, "ratio": ratio, "memory_ratio": memory}, targets


def short(arguments: Any, folder: Path) -> tuple[dict[str, Any], list[common.Target]]:
    """Ways to tune on 500 short texts."""
    from slmkit import metrics

    runs, tests = [], []
    for seed in arguments.seeds:
        rows = rows_file(folder, SMS, seed, arguments.train or SHORT_ROWS, arguments.test or SHORT_TEST)
        found = {}
        for name, how in SHORT_WAYS.items():
            found[name] = tuning(arguments, rows, "slmkit", seed, **how)
            show(name, found[name])
            runs.append(slim(found[name]) | {"way": name})
            if how:
                test = metrics.mcnemar(found[name]["right"], found["all blocks"]["right"])
                tests.append({**test, "seed": seed, "way": name})
                print(f"{'':<28} seed {seed}: {points(test)}")
    mine = [run for run in runs if run["way"] == JUDGED]
    worse = sum(test["p"] < ALPHA and test["difference"] < 0 for test in tests if test["way"] == JUDGED)
    targets = [
        common.Target("seconds to tune, the longest", max(run["fit_s"] for run in mine), SHORT_S, at_least=False),
        common.Target("peak bytes, the largest", max(run["peak_bytes"] for run in mine), SHORT_BYTES, at_least=False),
        common.Target("seeds in which it is less accurate (p < 0.05)", worse, 0, at_least=False),
    ]
    return {"runs": runs, "paired": tests}, targets


def slim(run: dict[str, Any]) -> dict[str, Any]:
    """A tuning without its rows."""
    return {name: value for name, value in run.items() if name not in ("right", "predicted")}


def main() -> int:
    """Tune, compare, judge; with fewer rows or epochs than the defaults nothing is judged."""
    parser = common.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--last-blocks", type=int, help="adapt the last K blocks, on both sides")
    parser.add_argument("--own-last-blocks", type=int, help="adapt the last K blocks in slmkit, all in the peer")
    parser.add_argument("--train", type=int)
    parser.add_argument("--test", type=int)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--peer-forms", nargs="+", choices=FORMS, default=["bfloat16", "autocast"])
    parser.add_argument("--log", type=Path, help="where what the processes print is appended")
    arguments = parser.parse_args()
    common.environment()
    facts = common.describe()
    from slmkit import assets, backends

    arguments.folder = backends.prepare(assets.resolve(MODEL)).folder
    with tempfile.TemporaryDirectory() as folder:
        found, targets = (short if arguments.short else full)(arguments, Path(folder))
    whole = arguments.epochs == 3 and arguments.train is None and arguments.test is None
    name = "tuning_speed_short" if arguments.short else "tuning_speed"
    facts |= {asked: getattr(arguments, asked) for asked in ("epochs", "last_blocks", "own_last_blocks")}
    return common.finish(name, {**facts, **found}, targets if whole else [])


if __name__ == "__main__":
    common.run(main)
