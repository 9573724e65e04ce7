"""How far `slmkit.estimate` is from what is measured: predicted against measured peak memory, a child process a case.

    python -m benchmarks.fit_error                       # all 34 cases, about 25 minutes on two cores
    python -m benchmarks.fit_error --only qwen --out x.csv

Each case runs through slmkit's own code (scoring, writing, embedding, LoRA training of three steps) in a fresh process;
its peak is VmHWM. Two models come with published weights; the others are written to a temporary folder (--folder keeps
them) at their true size with random weights. A copy that a first use would make is made before, by another process.

The four measured constants of `slmkit/estimate/terms.py` were set on the cases of part "calibration" alone; "held out"
cases were predicted with what came of it. "full size" holds the 7B records of `data/full_size`, measured earlier by
`benchmarks.full_size`, which reads no tokenizer. Targets: median error at most 10 %, worst at most 20 %.

Times are measured too, on a machine that others may use; how many lie in the predicted range is said, and is no target.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import common, fit_error_work, random_checkpoint
from slmkit import catalog, estimate, jobs
from slmkit.errors import MissingExtra
from slmkit.estimate.terms import TOKENIZER_BYTES

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "data" / "full_size"
OUT = ROOT / "data" / "fit" / "fit_error.csv"
MEDIAN, WORST = 0.10, 0.20
PUBLISHED = ("smollm2-135m-instruct", "minilm")
INFER = ("score", "embed")


@dataclass(frozen=True)
class Case:
    """One pair to predict and to measure."""

    part: str
    model: str
    bits: int
    method: str
    seq: int
    batch: int
    last_blocks: int | None = None

    def predicted(self) -> estimate.Estimate:
        """What slmkit says of it beforehand."""
        method = "infer" if self.method in INFER else self.method
        how: dict[str, Any] = {"bits": self.bits, "method": method, "seq": self.seq, "batch": self.batch}
        known = self.seq * self.batch if method not in ("infer", "generate") else 0
        return estimate.estimate(self.model, last_blocks=self.last_blocks, train_tokens=known, **how)


CALIBRATION = (
    ("smollm2-135m-instruct", 16, "score", 32, 4),
    ("smollm2-135m-instruct", 4, "score", 128, 16),
    ("smollm2-135m-instruct", 16, "generate", 512, 1),
    ("smollm2-135m-instruct", 4, "generate", 128, 1),
    ("smollm2-135m-instruct", 16, "lora", 128, 4),
    ("smollm2-135m-instruct", 4, "qlora", 64, 4),
    ("smollm2-135m-instruct", 16, "last-k", 256, 4, 8),
    ("minilm", 16, "embed", 128, 32),
    ("minilm", 4, "embed", 64, 8),
    ("gemma-3-270m", 16, "score", 64, 4),
    ("gemma-3-270m", 4, "score", 64, 4),
    ("gemma-3-270m", 4, "generate", 64, 1),
    ("gemma-3-270m", 16, "lora", 64, 2),
)
HELD_OUT = (
    ("smollm2-135m-instruct", 16, "score", 128, 8),
    ("smollm2-135m-instruct", 8, "score", 64, 16),
    ("smollm2-135m-instruct", 16, "embed", 512, 4),
    ("smollm2-135m-instruct", 4, "qlora", 128, 4),
    ("smollm2-135m-instruct", 8, "qlora", 64, 2),
    ("smollm2-135m-instruct", 16, "full", 64, 4),
    ("smollm2-135m-instruct", 16, "full", 128, 4, 4),
    ("minilm", 16, "embed", 256, 8),
    ("gemma-3-270m", 16, "score", 64, 32),
    ("gemma-3-270m", 4, "qlora", 64, 4),
    ("qwen2.5-0.5b-instruct", 16, "score", 64, 8),
    ("qwen2.5-0.5b-instruct", 4, "score", 128, 4),
    ("qwen2.5-0.5b-instruct", 4, "generate", 128, 1),
    ("qwen2.5-0.5b-instruct", 16, "lora", 64, 4),
    ("smollm2-360m-instruct", 16, "last-k", 128, 4, 4),
    ("smollm2-360m-instruct", 4, "qlora", 64, 4),
    ("tinyllama-1.1b-chat", 4, "score", 64, 4),
    ("tinyllama-1.1b-chat", 4, "qlora", 64, 2),
    ("tinyllama-1.1b-chat", 16, "generate", 64, 1),
    ("llama-3.2-1b", 4, "score", 64, 4),
    ("llama-3.2-1b", 4, "generate", 64, 1),
)
CASES = [Case("calibration", *c) for c in CALIBRATION] + [Case("held out", *c) for c in HELD_OUT]


def row(
    case: Case, peak_bytes: int, seconds: float | None, missing: int = 0, steps: int = fit_error_work.STEPS
) -> dict[str, Any]:
    """One line of the table, of which a training took so many steps; `missing` bytes were predicted for what the
    measured process did not have."""
    found = case.predicted()
    predicted = found.peak_bytes - missing
    span = found.times.step_s or found.times.forward_s
    scale = steps if found.times.step_s else 1
    timed = seconds is not None and case.method != "generate"
    return {
        "part": case.part,
        "model": case.model,
        "weights": "published" if case.model in PUBLISHED else "random",
        "bits": case.bits,
        "method": case.method,
        "seq": case.seq,
        "batch": case.batch,
        "last_blocks": case.last_blocks,
        "measured_bytes": peak_bytes,
        "predicted_bytes": predicted,
        "error": round(predicted / peak_bytes - 1, 4),
        "measured_s": round(seconds, 2) if timed and seconds else None,
        "predicted_low_s": round(span[0] * scale, 2) if timed else None,
        "predicted_high_s": round(span[1] * scale, 2) if timed else None,
    }


def measure(cases: Iterable[Case], folder: Path) -> Iterator[dict[str, Any]]:
    """Prepare and measure one case after the other, each in processes of its own."""
    prepared = set()
    for case in cases:
        where = case.model if case.model in PUBLISHED else str(_checkpoint(case.model, folder))
        common_job = {"model": where, "bits": case.bits}
        if (case.model, case.bits) not in prepared:
            jobs.run_child({"do": "prepare", **common_job}, module="benchmarks.fit_error_work")
            prepared.add((case.model, case.bits))
        job = {"do": "measure", **common_job, "method": case.method, "seq": case.seq, "batch": case.batch}
        found = jobs.run_child({**job, "last_blocks": case.last_blocks}, module="benchmarks.fit_error_work")
        yield row(case, found["peak_bytes"], found["seconds"])


def _checkpoint(name: str, folder: Path) -> Path:
    place = folder / name
    if not (place / "model.safetensors.index.json").is_file():
        place.mkdir(parents=True, exist_ok=True)
        random_checkpoint.write(name, place)
    return place


def recorded(folder: Path = RECORDS) -> Iterator[dict[str, Any]]:
    """The full-size records as cases: writing after 128 tokens, one QLoRA step on all blocks and on the last 8."""
    peaks = {
        ("generate", None): ("peak_ram_bytes", None),
        ("qlora", None): ("qlora_peak_ram_bytes", "qlora_step_s"),
        ("qlora", 8): ("qlora_last8_peak_ram_bytes", "qlora_last8_step_s"),
    }
    for path in sorted(folder.glob("*-bnb-4bit-cpu.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = TOKENIZER_BYTES * catalog.get(record["model"]).vocab
        for (method, blocks), (peak, seconds) in peaks.items():
            case = Case("full size", record["model"], 4, method, record["prompt_tokens"], 1, blocks)
            found = row(case, record[peak], record[seconds] if seconds else None, missing, steps=1)
            yield {**found, **stamp(record, record["created_utc"])}


def again(table: Path, cases: Sequence[Case] = CASES) -> Iterator[dict[str, Any]]:
    """The measured cases of a table with today's predictions; the full-size records are read anew instead."""
    with open(table, encoding="utf-8", newline="") as file:
        known = {_key(one): one for one in csv.DictReader(file)}
    for case in cases:
        one = known.get(_key(vars(case)))
        if one is not None:
            found = row(case, int(one["measured_bytes"]), float(one["measured_s"]) if one["measured_s"] else None)
            print(_line(found))
            yield {**one, **found}  # with the machine and the day it was measured


def _key(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(values[name] or "") for name in ("model", "bits", "method", "seq", "batch", "last_blocks"))


def draw(table: Path, picture: Path) -> None:
    """The scatter plot of a table, as a page of its own or as a picture."""
    import pandas as pd

    from slmkit import plots

    figure = plots.predicted_vs_measured(pd.read_csv(table))
    if picture.suffix == ".html":
        figure.write_html(picture, include_plotlyjs=True)
        return
    try:
        figure.write_image(picture)
    except ValueError as error:
        raise MissingExtra(f"{picture} cannot be drawn ({error}): pip install kaleido, or give a .html") from error


def stamp(facts: dict[str, Any], when: str) -> dict[str, Any]:
    """Machine, versions and time of a measurement, as a line of the table holds them."""
    machine, versions = facts["machine"], facts["versions"]
    same = {"cpu": machine["cpu"], "cores": machine["cores"], "instruction_sets": " ".join(machine["instruction_sets"])}
    same |= {name: versions.get(name) for name in ("torch", "transformers", "bitsandbytes", "peft")}
    return same | {"measured_utc": when}


def write(rows: Sequence[dict[str, Any]], facts: dict[str, Any], out: Path) -> None:
    """The table as CSV with machine and versions in every line."""
    same = stamp(facts, datetime.now(UTC).isoformat(timespec="seconds"))
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", encoding="utf-8", newline="") as file:
        names = list(dict.fromkeys([*rows[-1], *same]))
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**same, **one} for one in rows)


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """n, median and worst error of each part, and how many times lie in the predicted range."""
    found: dict[str, Any] = {}
    for part in dict.fromkeys(one["part"] for one in rows):
        errors = [abs(one["error"]) for one in rows if one["part"] == part]
        found[part] = {"n": len(errors), "median": statistics.median(errors), "worst": max(errors)}
    timed = [one for one in rows if one["measured_s"] is not None]
    inside = sum(one["predicted_low_s"] <= one["measured_s"] <= one["predicted_high_s"] for one in timed)
    return found | {"times_in_range": inside, "times": len(timed)}


def main() -> int:
    """Measure, print a line a case, write the table, judge."""
    parser = common.parser(__doc__)
    parser.add_argument("--only", default="", help="cases whose model or method holds this; --out keeps its others")
    parser.add_argument("--folder", type=Path, help="where random checkpoints are kept and looked for")
    parser.add_argument("--out", type=Path, default=OUT, help="the table, CSV")
    parser.add_argument("--again", action="store_true", help="predict anew what --out holds measured; measure nothing")
    parser.add_argument(
        "--plot", type=Path, help="the scatter plot: .html, or .svg and .png where kaleido is installed"
    )
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    facts = common.describe()
    cases = [case for case in CASES if arguments.only in f"{case.model} {case.method}"]
    cases = [] if arguments.again else cases
    rows = []
    if arguments.out.is_file() and (arguments.again or arguments.only):
        rows = list(again(arguments.out, [case for case in CASES if case not in cases]))
    with tempfile.TemporaryDirectory() as name:
        os.environ.setdefault("SLMKIT_CACHE", str(Path(name) / "cache"))
        for one in measure(cases, arguments.folder or Path(name)):
            rows.append(one)
            print(_line(one), flush=True)
    for one in recorded():
        rows.append(one)
        print(_line(one))
    write(rows, facts, arguments.out)
    if arguments.plot:
        draw(arguments.out, arguments.plot)
    found = summary(rows)
    judged = [one for one in rows if one["part"] != "calibration"] or rows
    errors = [abs(one["error"]) for one in judged]
    targets = [
        common.Target("median error, not calibrated on", statistics.median(errors), MEDIAN, False),
        common.Target("worst error of all", max(abs(one["error"]) for one in rows), WORST, False),
    ]
    return common.finish("fit_error", {**facts, "summary": found}, targets)


def _line(one: dict[str, Any]) -> str:
    time = ""
    if one["measured_s"] is not None:
        time = f"{one['measured_s']:7.1f} s ({one['predicted_low_s']:.1f} to {one['predicted_high_s']:.1f})"
    what = f"{one['method']} {one['seq']} x {one['batch']}"
    if one["last_blocks"]:
        what += f", last {one['last_blocks']}"
    return (
        f"{one['part']:>11}  {one['model']:<24} {one['bits']:>2} bits  {what:<24} measured "
        f"{one['measured_bytes'] / 1e6:6,.0f} MB, predicted {one['predicted_bytes'] / 1e6:6,.0f} "
        f"({100 * one['error']:+5.1f} %) {time}"
    )


if __name__ == "__main__":
    common.run(main)
