"""The leak guard on a million short messages: seconds, peak memory, and what it finds of planted near-duplicates.

The messages are drawn word by word from a vocabulary with the frequencies of real text (Zipf), eight to thirty words
each; no collection of that size may be shipped. Into them go copies with up to two words exchanged. What counts as a
near-duplicate is measured with plain sets, apart from the guard: a find is a planted row whose Jaccard index with
its source is at least 0.85 and which is reported, a false alarm a reported row whose named partner is below that.

    python -m benchmarks.leak_guard
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks import common

LIMIT_S, LIMIT_BYTES = 90.0, 2e9
LEAST_RECALL, MOST_FALSE = 0.95, 0.01
VOCABULARY = 60_000


def messages(n: int, rng: np.random.Generator) -> list[list[str]]:
    """Messages of eight to thirty words; the rank of a word decides how often it comes."""
    weights = 1 / np.arange(3, VOCABULARY + 3) ** 0.95
    lengths = rng.integers(8, 31, n)
    drawn = rng.choice(VOCABULARY, size=int(lengths.sum()), p=weights / weights.sum())
    names = np.array([_word(i) for i in range(VOCABULARY)], dtype=object)
    return [list(names[part]) for part in np.split(drawn, np.cumsum(lengths)[:-1])]


def plant(rows: list[list[str]], n: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Put altered copies in place of rows at random and return the pairs; up to two words of each are exchanged."""
    chosen = rng.choice(len(rows), size=2 * n, replace=False).reshape(n, 2)
    for source, target in chosen.tolist():
        copy = list(rows[source])
        for place in rng.choice(len(copy), size=rng.integers(0, 3), replace=False).tolist():
            copy[place] = _word(int(rng.integers(VOCABULARY)))
        rows[target] = copy
    return [(int(a), int(b)) for a, b in chosen]


def jaccard(texts: list[str], a: int, b: int) -> float:
    """Shared words over all words of two messages."""
    one, other = set(texts[a].split()), set(texts[b].split())
    return len(one & other) / len(one | other)


def work(n: int, n_planted: int, seed: int) -> dict[str, Any]:
    """What the child process measures: the guard alone is timed, its peak is that of the whole process."""
    from slmkit import footprint
    from slmkit.splits import alike, leaks

    rng = np.random.default_rng(seed)
    rows = messages(n, rng)
    planted = plant(rows, n_planted, rng)
    texts = [" ".join(words) for words in rows]
    del rows
    before = footprint.peak_ram_bytes()
    seconds, report = common.timed(lambda: leaks.check({"rows": texts}))
    peak = footprint.peak_ram_bytes()
    found = report.within[0].rows
    reported = dict(zip(found["row"].tolist(), found["other_row"].tolist(), strict=True))
    wanted = {max(pair) for pair in planted if jaccard(texts, *pair) >= alike.THRESHOLD}
    false = sum(jaccard(texts, row, other) < alike.THRESHOLD for row, other in reported.items())
    return {
        "seconds": seconds,
        "peak_bytes": peak,
        "peak_before_bytes": before,
        "n": n,
        "planted_at_or_above": len(wanted),
        "found": len(wanted & set(reported)),
        "reported": len(reported),
        "reported_below_threshold": false,
    }


def main() -> int:
    """Run the guard in a process of its own and judge."""
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--planted", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help="do the work here and print one JSON line")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(work(arguments.rows, arguments.planted, arguments.seed)))
        return 0
    facts = common.describe()
    names = ("rows", "planted", "seed")
    command = [f"--{name}={getattr(arguments, name)}" for name in names]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.leak_guard", "--child", *command], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        return 2
    found = json.loads(done.stdout.splitlines()[-1])
    recall = found["found"] / found["planted_at_or_above"]
    false = found["reported_below_threshold"] / max(found["reported"], 1)
    print(f"{found['n']:,} messages in {found['seconds']:.1f} s")
    print(f"peak {found['peak_bytes'] / 1e6:,.0f} MB, of which {found['peak_before_bytes'] / 1e6:,.0f} hold the texts")
    print(f"{found['found']:,} of {found['planted_at_or_above']:,} planted near-duplicates found")
    targets = [
        common.Target("share of planted near-duplicates found", recall, LEAST_RECALL),
        common.Target("share of false alarms", false, MOST_FALSE, at_least=False),
    ]
    if arguments.rows >= 1_000_000:
        targets += [
            common.Target("seconds", found["seconds"], LIMIT_S, at_least=False),
            common.Target("peak bytes", found["peak_bytes"], LIMIT_BYTES, at_least=False),
        ]
    return common.finish("leak_guard", {**facts, **found}, targets)


def _word(number: int) -> str:
    """A word of consonants and vowels by its number; no two are alike."""
    word = ""
    while number or not word:
        number, last = divmod(number, 85)
        word += "bcdfghklmnprstvwz"[last // 5] + "aeiou"[last % 5]
    return word


if __name__ == "__main__":
    common.run(main)
