"""Does tuning on a bank's dialogues teach a small model its facts? Held-out questions, facts right, and the cost.

SmolLM2-135M-Instruct answers the held-out questions of `domain_dialogues` in several ways, a process each:

- untuned; untuned with the whole fact sheet in the prompt; untuned with the --nearest facts that MiniLM finds nearest
  to what was said (its bytes and its time count);
- tuned by LoRA on all blocks (16 bits) on the other dialogues; tuned, with the nearest facts as well.

The split is that of `slmkit.finetune`: stories and near-copies on one side. A fact that a held-out question asks for
also stands in training dialogues, in other words (the run says for what share of them): this measures recall of what
was taught. --unseen takes all dialogues of some facts out of training, as a check: a tuned model cannot know those.

A fact is right where the answer states the sheet's value, however it is written (`slmkit.tuning.values`). Finished
parts lie in --out and are not done again. On two cores a tuning takes minutes, a way as long again.

    python -m benchmarks.domain_tuning --seeds 0 1 2 --plot benchmarks/domain_tuning.svg
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import common, domain_tuning_work
from slmkit import jobs, plots
from slmkit.console import Lines, about
from slmkit.errors import InputError, listed
from slmkit.tasks import domain_dialogues
from slmkit.tuning import facts

MODEL = "smollm2-135m-instruct"
CSV = Path(__file__).resolve().parent.parent / "data" / "tuning" / "domain_tuning.csv"
UNTUNED, TUNED = "untuned", "tuned"
UNSEEN_EVERY = 10  # of the sheet's facts, for --unseen


def ways(nearest: int) -> dict[str, tuple[bool, str]]:
    """Name of a way to (tuned or not, notes)."""
    near = f"{nearest} nearest facts in the prompt"
    return {
        UNTUNED: (False, ""),
        f"{UNTUNED}, whole sheet in the prompt": (False, "all"),
        f"{UNTUNED}, {near}": (False, str(nearest)),
        TUNED: (True, ""),
        f"{TUNED}, {near}": (True, str(nearest)),
    }


def once(out: Path, name: str, job: dict[str, Any]) -> dict[str, Any]:
    """What a job gives, from --out where it was done before with the same settings."""
    path = out / f"{name}.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["job"] == job:
            return dict(kept["found"])
    print(f"  {name} ...", flush=True)
    lines = Lines()
    how: dict[str, Any] = {"on_event": lambda event: lines.passing(about(event)), "log_path": out / f"{name}.log"}
    found = jobs.run_child(job, module="benchmarks.domain_tuning_work", **how)
    lines.passing("")
    path.write_text(json.dumps({"job": job, "found": found, "utc": datetime.now(UTC).isoformat(timespec="seconds")}))
    return found


def tuned_model(arguments: Any, seed: int, unseen: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """Folder of the adapter of a seed, and what its training took."""
    name = f"tune-s{seed}-e{arguments.epochs:g}-b{arguments.batch_size}-lr{arguments.learning_rate:g}"
    name += "-unseen" if unseen else ""
    folder = arguments.out / "models" / name
    how = {"epochs": arguments.epochs, "learning_rate": arguments.learning_rate, "batch_size": arguments.batch_size}
    job = {"do": "tune", "model": MODEL, "seed": seed, "out": str(folder), "unseen": list(unseen), **how}
    return str(folder), once(arguments.out, name, job)


def answers(
    arguments: Any, seed: int, way: str, adapter: str | None, *, unseen: Sequence[str] = (), rows: int | None = None
) -> dict[str, Any]:
    """The answers of a way to the held-out questions of a seed, or to the first `rows` of them, for their time."""
    notes = ways(arguments.nearest)[way][1]
    name = f"answers-s{seed}-{Path(adapter).name if adapter else UNTUNED}-notes{notes or 0}"
    name += f"-first{rows}" if rows else ""
    job = {"do": "answer", "model": MODEL, "bits": 16, "adapter": adapter, "notes": notes, "seed": seed}
    job |= {"most_tokens": arguments.most_tokens, "rows": rows or arguments.questions, "unseen": list(unseen)}
    return once(arguments.out, name, job)


def record(
    way: str, seed: Any, texts: list[str], asked: list[facts.Question], runs: list[dict[str, Any]]
) -> dict[str, Any]:
    """One line of the table: scores of all answers, and costs over the processes that gave them."""
    seconds = np.concatenate([run["seconds"] for run in runs])
    return {
        "way": way,
        "seed": seed,
        **asdict(facts.score(texts, asked, domain_dialogues.facts())),
        "latency_p50_s": float(np.median(seconds)),
        "latency_p95_s": float(np.percentile(seconds, 95)),
        "n_latency": len(seconds),
        "prompt_tokens": float(np.mean(np.concatenate([run["prompt_tokens"] for run in runs]))),
        "new_tokens": float(np.mean(np.concatenate([run["new_tokens"] for run in runs]))),
        "ended": float(np.mean(np.concatenate([run["ended"] for run in runs]))),
        "stored_bytes": max(run["stored_bytes"] for run in runs),
        "peak_ram_bytes": max(run["peak_bytes"] for run in runs),
    }


def show(row: dict[str, Any]) -> None:
    """One line on the screen."""
    print(
        f"{row['way']:<44} seed {row['seed']!s:<4} facts right {row['recall']:6.1%} ({row['low']:.1%} to "
        f"{row['high']:.1%}, n = {row['n_facts']}), made up {row['invented']:.1%}, {row['latency_p50_s']:.2f} s, "
        f"{row['peak_ram_bytes'] / 1e6:,.0f} MB",
        flush=True,
    )


def seen_share(seed: int) -> float:
    """Share of the values asked for that an answer of the training dialogues states."""
    sheet = domain_dialogues.facts()
    learned, held_out = domain_tuning_work.held_out(seed)
    taught = {value for q in facts.questions(learned, sheet) for value in q.values}
    asked = [value for q in facts.questions(held_out, sheet) for value in q.values]
    return float(np.mean([value in taught for value in asked]))


def check_unseen(arguments: Any) -> list[dict[str, Any]]:
    """Recall of facts that no training dialogue used, and of the others, by a model tuned without them."""
    unseen, seed = list(domain_dialogues.facts()["value"][::UNSEEN_EVERY]), arguments.seeds[0]
    adapter, _ = tuned_model(arguments, seed, unseen)
    run = answers(arguments, seed, TUNED, adapter, unseen=unseen)
    asked = facts.questions(domain_tuning_work.held_out(seed, unseen)[1], domain_dialogues.facts())[
        : arguments.questions
    ]
    rows = []
    for name, wanted in (("unseen", True), ("seen", False)):
        kept = [replace(q, values=tuple(v for v in q.values if (v in unseen) == wanted)) for q in asked]
        rows.append(record(f"{TUNED} without {len(unseen)} facts: {name} facts", seed, run["texts"], kept, [run]))
        show(rows[-1])
    return rows


def timed(arguments: Any, way: str) -> dict[str, Any]:
    """Latency of a way from some questions asked once more, one way right after the other; for a quiet machine."""
    if not arguments.timed:
        return {}
    seed = arguments.seeds[0]
    adapter = tuned_model(arguments, seed)[0] if ways(arguments.nearest)[way][0] else None
    seconds = answers(arguments, seed, way, adapter, rows=arguments.timed)["seconds"]
    p50, p95 = (float(v) for v in np.percentile(seconds, [50, 95]))
    return {"latency_p50_s": p50, "latency_p95_s": p95, "n_latency": len(seconds)}


def conclude(
    arguments: Any, told: dict[str, Any], rows: list[dict[str, Any]], asked: list[facts.Question], found: dict[str, Any]
) -> int:
    """All seeds together, the tuned model against each other way, the table and the picture."""
    print(f"\nall {len(arguments.seeds)} seeds together")
    pooled, versus = [], {}
    texts = {way: [text for run in runs for text in run["texts"]] for way, runs in found.items()}
    for way, runs in found.items():
        pooled.append(record(way, "all", texts[way], asked, runs) | timed(arguments, way))
        show(pooled[-1])
    for way in texts if TUNED in texts else ():
        if way != TUNED:
            versus[way] = v = facts.compare(texts[TUNED], texts[way], asked)
            print(
                f"{TUNED} minus {way}: {100 * v['difference']:+.1f} points of facts right ({100 * v['low']:+.1f} to "
                f"{100 * v['high']:+.1f}, p = {v['p']:.2g})"
            )
    rows += pooled
    if arguments.unseen:
        rows += check_unseen(arguments)
    write(arguments, told, rows, versus)
    if arguments.plot:
        draw(pd.DataFrame(pooled), arguments.plot)
    targets = []
    if UNTUNED in versus:
        targets = [
            common.Target("facts right, tuned minus untuned", versus[UNTUNED]["difference"], 0.0),
            common.Target("p of that", versus[UNTUNED]["p"], 0.05, at_least=False),
        ]
    return common.finish("domain_tuning", {**told, "rows": rows, "tuned_minus": versus}, targets)


def write(arguments: Any, told: dict[str, Any], rows: list[dict[str, Any]], versus: dict[str, Any]) -> None:
    """The table with settings, machine and versions in every line."""
    how = {"model": MODEL, "epochs": arguments.epochs, "learning_rate": arguments.learning_rate}
    how |= {"batch_size": arguments.batch_size, "most_tokens": arguments.most_tokens}
    where = {name: told["machine"][name] for name in ("cpu", "cores")}
    where |= {"instruction_sets": " ".join(told["machine"]["instruction_sets"])}
    where |= {name: told["versions"].get(name) for name in ("torch", "transformers", "peft")}
    where |= {"measured_utc": datetime.now(UTC).isoformat(timespec="seconds")}
    table = pd.DataFrame([{**row, **how, **where} for row in rows])
    for name in ("difference", "low", "high", "p"):
        column = [versus[row["way"]][name] if row["seed"] == "all" and row["way"] in versus else None for row in rows]
        table[f"tuned_minus_{name}"] = column
    arguments.csv.parent.mkdir(parents=True, exist_ok=True)
    table.round(6).to_csv(arguments.csv, index=False, lineterminator="\n")
    print(f"table: {arguments.csv}")


def draw(frame: pd.DataFrame, path: Path) -> None:
    """The picture, by its ending."""
    figure = plots.facts_vs_cost(frame)
    if path.suffix == ".html":
        figure.write_html(path, include_plotlyjs=True)
    else:
        figure.write_image(path, width=900)


def settings() -> Any:
    """What was asked on the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--nearest", type=int, default=5, help="facts that the search puts into the prompt")
    parser.add_argument("--most-tokens", type=int, default=80, help="at which an answer is cut")
    parser.add_argument("--questions", type=int, help="only so many held-out questions a seed")
    parser.add_argument("--ways", nargs="+", help="only these; default all")
    parser.add_argument("--timed", type=int, default=20, help="questions asked once more for their time; 0 for none")
    parser.add_argument("--unseen", action="store_true", help="also tune without some facts, on the first seed")
    parser.add_argument("--out", type=Path, default=Path("runs/domain"))
    parser.add_argument("--csv", type=Path, default=CSV)
    parser.add_argument("--plot", type=Path, help="the picture: .html, or .svg and .png where kaleido is installed")
    return parser.parse_args()


def main() -> int:
    """Tune, ask, score, write."""
    arguments = settings()
    common.environment()
    (arguments.out / "models").mkdir(parents=True, exist_ok=True)
    told = common.describe()
    known = ways(arguments.nearest)
    chosen = arguments.ways or list(known)
    if strange := [way for way in chosen if way not in known]:
        raise InputError(f"ways must be some of {listed(known)}; got {listed(strange)}")
    rows, asked = [], []
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in chosen}
    for seed in arguments.seeds:
        mine = facts.questions(domain_tuning_work.held_out(seed)[1], domain_dialogues.facts())[: arguments.questions]
        asked += mine
        adapter, training = tuned_model(arguments, seed)
        print(
            f"seed {seed}: tuned in {training['train_s']:.0f} s, peak {training['train_peak_bytes'] / 1e6:,.0f} MB, "
            f"loss {training['loss_before']:.2f} to {training['loss_after']:.2f}; {seen_share(seed):.1%} of the facts "
            "asked for were taught"
        )
        for way in chosen:
            run = answers(arguments, seed, way, adapter if known[way][0] else None)
            found[way].append(run)
            costs = {"train_s": training["train_s"], "train_peak_bytes": training["train_peak_bytes"]}
            rows.append(record(way, seed, run["texts"], mine, [run]) | (costs if known[way][0] else {}))
            show(rows[-1])
    return conclude(arguments, told, rows, asked, found)


if __name__ == "__main__":
    common.run(main)
