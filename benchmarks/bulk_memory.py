"""Peak memory of `slmkit classify` over a CSV of a million rows against one of a hundred thousand: it must not grow.

The floor model, fitted on the shipped fraud messages, classifies files made of the same messages in random order with a
number in each, so that no row repeats; each run is a process of its own.

    python -m benchmarks.bulk_memory
"""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common

SIZES = (100_000, 1_000_000)
MOST = 1.2
CHILD = """
import json, sys
from slmkit import bulk, footprint
facts = bulk.classify_file(sys.argv[1], sys.argv[2], sys.argv[3], text_column="text")
print(json.dumps({**facts, "peak_bytes": footprint.peak_ram_bytes()}))
"""


def write_rows(path: Path, texts: list[str], n: int) -> None:
    """A CSV of n rows with a number and a text."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "text"])
        writer.writerows([i, f"{rng.choice(texts)} {i}"] for i in range(n))


def measure(model: Path, folder: Path, texts: list[str], n: int) -> dict[str, Any]:
    """Classify n rows in a child; its facts and peak."""
    source, target = folder / f"{n}.csv", folder / f"{n}-out.csv"
    write_rows(source, texts, n)
    command = [sys.executable, "-c", CHILD, str(model), str(source), str(target)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    with open(target, "rb") as file:
        lines = sum(1 for _ in file)
    source.unlink()
    target.unlink()
    print(
        f"{n:>9,} rows: {found['rows_per_s']:,.0f} rows/s, peak {found['peak_bytes'] / 1e6:.0f} MB",
        flush=True,
    )
    return {"n": n, "lines": lines, **{k: found[k] for k in ("rows", "seconds", "rows_per_s", "peak_bytes")}}


def main() -> int:
    """Both sizes, and the ratio of their peaks."""
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs=2, default=SIZES, help="the smaller and the larger file")
    arguments = parser.parse_args()
    facts = common.describe()
    from slmkit import FloorClassifier, tasks

    rows = tasks.get("fraud_messages").load()
    texts = [text for text in rows["text"] if "\n" not in text]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = FloorClassifier().fit(rows["text"].tolist(), rows["label"].tolist()).save(folder / "model")
        small, large = (measure(model, folder, texts, n) for n in arguments.rows)
    whole = all(one["rows"] == one["n"] and one["lines"] == one["n"] + 1 for one in (small, large))
    targets = [
        common.Target(
            "peak of the larger file over the smaller", large["peak_bytes"] / small["peak_bytes"], MOST, False
        ),
        common.Target("both outputs whole", float(whole), 1.0),
    ]
    return common.finish("bulk_memory", {**facts, "runs": [small, large]}, targets)


if __name__ == "__main__":
    common.run(main)
