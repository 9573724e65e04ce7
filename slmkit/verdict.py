"""What the runs say, in words: does anything beat the floor, what is the cheapest that is as good, what do bits buy.

A comparison is paired (McNemar's exact test on the same rows) and called significant at 0.05. Seeds are not pooled into
one p value: they share test rows, so the sentence says in how many of them p is below 0.05.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pandas as pd

from slmkit import bitcosts, text
from slmkit.bitcosts import SAME
from slmkit.runs import Run
from slmkit.runs.configurations import FOOTPRINTS, Configuration, as_runs, configurations, setups, told_apart
from slmkit.runs.pairs import ALPHA, Comparison, Folder, compare, interval

SAME_SIZE = 0.1  # a tenth of the bytes is not a reason to take the less accurate one


@dataclass(frozen=True)
class Finding:
    """One sentence and what it is about: "leak", "headline", "cheapest", "bits", "floor" or "caveat"."""

    kind: str
    sentence: str


def verdicts(runs: Iterable[Run] | pd.DataFrame, folder: Path | None = None) -> list[str]:
    """Sentences that sum up the runs, the most important first.

    Parameters
    ----------
    runs : iterable of Run, or the frame of `runs.to_frame`
    folder : Path or None
        Where the per-example probabilities lie. With them "as good as the best" is a paired test; without, it means
        inside the best one's 95 % interval.

    Returns
    -------
    list of str
        Plain text; names are cleaned, not escaped. With several setups each sentence starts with its own.
    """
    groups = setups(as_runs(runs))
    titles = told_apart([f"{text.clean(g[0].task, 60)}, {g[0].n_train} training rows" for g in groups], groups)
    found = []
    for title, group in zip(titles, groups, strict=True):
        prefix = f"{title}: " if len(groups) > 1 else ""
        found += [prefix + finding.sentence for finding in findings(group, folder)]
    return found


def of_two(ours: Configuration, theirs: Configuration, folder: Folder = None) -> str:
    """One sentence about two configurations of one setup: which is better, by how much, and whether that is luck.

    Parameters
    ----------
    ours, theirs : Configuration
        Compared row by row on the seeds both have.
    folder : Path, callable or None
        Where the per-example probabilities lie, or a function from a run to that place. Without them nothing is tested.
    """
    comparison = compare(ours, theirs, lambda run: None, folder)
    points, ends = comparison.points, interval(ours, theirs, folder)
    span = f", 95 % interval {100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}" if ends else ""
    word = "is better than" if comparison.better else "is worse than" if comparison.worse else "is not told apart from"
    word = word if comparison.known else "was not tested against"
    seeds = len([seed for seed in ours.seeds if seed in theirs.seeds])
    mean = f"mean of {seeds} seeds, " if seeds > 1 else ""
    shares = f"{mean}{text.percent(comparison.ours)} against {text.percent(comparison.theirs)}"
    why = comparison.test if comparison.known else "no probabilities of the same rows with the same seed"
    return (
        f"{ours.phrase} {word} {theirs.phrase}: {shares}, {points:+.1f} points{span}, n = {ours.first.n_test}, {why}."
    )


def findings(runs: Sequence[Run], folder: Path | None = None) -> list[Finding]:
    """The sentences for runs of one task and one size; see `verdicts`."""
    configs = configurations(runs)
    floor = next((c for c in configs if c.is_floor), None)
    others = [c for c in configs if not c.is_floor]
    against = [(c, compare(c, floor, lambda r: r.p_vs_floor, folder)) for c in others] if floor else []
    bits = bitcosts.pairs_of(configs, folder)
    sentences = [*_headline(floor, against, configs), *_cheapest(configs, folder)]
    found = [Finding("leak", s) for s in _leaks(runs)]
    found += [Finding("headline", s) for s in sentences[:1]] + [Finding("cheapest", s) for s in sentences[1:]]
    found += [Finding("bits", _bits_sentence(pair)) for pair in bits]
    found += [Finding("floor", _floor_sentence(c, comparison)) for c, comparison in against]
    return found + _caveat(against, bits)


def _leaks(runs: Sequence[Run]) -> list[str]:
    """A warning when test rows were seen in training: such scores compare with nothing."""
    worst = max(runs, key=lambda run: (run.leaked_test_rows or 0) / run.n_test)
    if not worst.leaked_test_rows:
        return []
    share = text.percent(worst.leaked_test_rows / worst.n_test)
    how = "the leak was allowed" if worst.split == "given" else "the rows left no other way to split"
    return [
        f"Leak: {worst.leaked_test_rows} of {worst.n_test} test rows ({share}) stand in the training rows, to the "
        f"letter or nearly; {how}. These scores are too good and compare with no others."
    ]


def _headline(
    floor: Configuration | None, against: Sequence[tuple[Configuration, Comparison]], configs: Sequence[Configuration]
) -> list[str]:
    best = configs[0]
    if floor is None:
        return [f"No floor was run, so nothing here shows that a model is worth its size. Best: {_scored(best)}."]
    if not against:
        return [f"Only the floor was run. It reaches {_score(floor)}."]
    winners = [(c, comparison) for c, comparison in against if comparison.better]
    if not winners:
        n = len(against)
        tried = "the one configuration tried is not" if n == 1 else f"none of the {n} configurations tried is"
        reached = f"{_score(floor)}{_size(floor, ', ')}"
        return [f"Nothing beats the floor: {tried} significantly better. The floor reaches {reached}."]
    winner, comparison = winners[0]
    count = f"{len(winners)} of {len(against)} configurations beat" if len(against) > 1 else "The one tried beats"
    lead = f"{count} the floor{'; the best of them' if len(winners) > 1 else ''}"
    return [f"{lead}: {_floor_sentence(winner, comparison)}"]


def _cheapest(configs: Sequence[Configuration], folder: Path | None) -> list[str]:
    """The smallest configuration that cannot be told from the most accurate one; of about one size the best."""
    best = configs[0]
    sizes = {c.number: size for c in configs if (size := c.mean(FOOTPRINTS["stored_bytes"].of)) is not None}
    if len(configs) < 2 or best.number not in sizes:
        return []
    reasons = {c.number: "" if c is best else _as_good(c, best, folder) for c in configs if c.number in sizes}
    good = [c for c in configs if c is best or reasons.get(c.number)]
    smallest = min(sizes[c.number] for c in good)
    chosen = next(c for c in good if sizes[c.number] <= (1 + SAME_SIZE) * smallest)  # configs come best first
    if chosen is best:
        scored = f"{_scored(best)}{_size(best, ', ')}"
        if sizes[best.number] == min(sizes.values()):
            return [f"The most accurate is the smallest too: {scored}."]
        return [f"Nothing clearly smaller comes within noise of the best, {scored}."]
    ours, theirs = (f"{_scored(c)}{_size(c, ', ')}" for c in (chosen, best))
    why = reasons[chosen.number]
    return [f"The smallest that cannot be told apart from the best: {ours}, against {theirs} ({why})."]


def _as_good(config: Configuration, best: Configuration, folder: Path | None) -> str:
    """Why a configuration is within noise of the best; "" if it is not."""
    comparison = compare(config, best, lambda run: None, folder)
    if comparison.known:
        return "" if comparison.significant else f"paired test: {comparison.test}"
    low = fmean(run.accuracy_low for run in best.runs)
    return "not tested in pairs; inside the best one's 95 % interval" if config.accuracy >= low else ""


def _floor_sentence(config: Configuration, comparison: Comparison) -> str:
    shown = f"{_mean(config)}{text.percent(comparison.ours)} against {text.percent(comparison.theirs)}"
    facts = f"({shown}, n = {config.first.n_test}, {comparison.test})"
    for_size = _size(config, " for ")
    if comparison.better:
        return f"{config.phrase} beats the floor by {comparison.points:.1f} points {facts}{for_size}."
    if comparison.worse:
        return f"{config.phrase} is worse than the floor by {-comparison.points:.1f} points {facts}{for_size}."
    sign = "+" if comparison.points > 0 else ""
    return f"{config.phrase} does not beat the floor: {sign}{comparison.points:.1f} points {facts}{for_size}."


def _bits_sentence(pair: bitcosts.BitsPair) -> str:
    low, high = pair.few, pair.sixteen
    parts = [_saved(pair, "stored_bytes", "stored"), _lost(pair.comparison)]
    parts += [_saved(pair, "peak_ram_bytes", "of peak memory"), _time(pair)]
    known = [part for part in parts if part]
    joined = ", ".join(known[:-1]) + f" and {known[-1]}" if len(known) > 1 else known[0]
    told = high.phrase.replace(" at 16 bits", "")
    return f"{low.first.bits} bits instead of 16 for {told} {joined}. {pair.sentence}"


def _saved(pair: bitcosts.BitsPair, key: str, words: str) -> str:
    ratio = pair.ratio(key)
    few, many = (c.mean(FOOTPRINTS[key].of) for c in (pair.few, pair.sixteen))
    if ratio is None or few is None or many is None or abs(ratio - 1) < SAME[key]:
        return ""
    verb = "save" if few <= many else "take"
    more = "" if few <= many else " more"
    return f"{verb} {text.rounded(abs(many - few))} MB{more} {words} ({100 * abs(many - few) / many:.0f} %)"


def _lost(comparison: Comparison) -> str:
    points = comparison.points
    verb = "cost" if points < 0 else "gain"
    change = f"{verb} {abs(points):.1f} points" if points else "leave the accuracy as it is"
    return f"{change} ({comparison.test})"


def _time(pair: bitcosts.BitsPair) -> str:
    ratio = pair.ratio("latency_p50_s")
    if ratio is None:
        return ""
    if abs(ratio - 1) <= SAME["latency_p50_s"]:
        return "take as long per row"
    return f"take {ratio:.1f} times as long per row" if ratio > 1 else f"need {100 * ratio:.0f} % of the time per row"


def _caveat(against: Sequence[object], bits: Sequence[object]) -> list[Finding]:
    total = len(against) + len(bits)
    if total < 2:
        return []
    parts = [f"{len(against)} with the floor"] if against else []
    parts += [f"{len(bits)} with 16 bits"] if bits else []
    sentence = (
        f"{total} comparisons were made ({', '.join(parts)}), each at the 5 % level and not corrected for their "
        f"number: by chance alone about {total * ALPHA:.1f} would look significant."
    )
    return [Finding("caveat", sentence)]


def _mean(config: Configuration) -> str:
    return f"mean of {len(config.runs)} seeds, " if len(config.runs) > 1 else ""


def _scored(config: Configuration) -> str:
    return f"{config.phrase}: {_score(config)}"


def _score(config: Configuration) -> str:
    """The accuracy: with its interval for one run, with the range over the seeds for several."""
    shares = [run.accuracy for run in config.runs]
    if len(shares) == 1:
        run = config.first
        return f"{text.with_interval(run.accuracy, run.accuracy_low, run.accuracy_high)}, n = {run.n_test}"
    low, high = 100 * min(shares), 100 * max(shares)
    return f"{text.percent(config.accuracy)} (mean of {len(shares)} seeds, {low:.1f} to {high:.1f})"


def _size(config: Configuration, lead: str) -> str:
    size = config.mean(FOOTPRINTS["stored_bytes"].of)
    return "" if size is None else f"{lead}{text.rounded(size)} MB stored"
