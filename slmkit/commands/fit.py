"""What `slmkit fit` shows: one model's memory term by term with the reasons, its times, and the largest that fits.

Everything is an estimate from the configuration; nothing is loaded, and no hub is called.
"""

from __future__ import annotations

import json
from typing import Any

from slmkit import footprint
from slmkit.console import show_table
from slmkit.estimate import Estimate, estimate, gigabytes
from slmkit.estimate.fits import MOST

WORDS = {
    "infer": "score",
    "generate": "write text",
    "lora": "train adapters",
    "qlora": "train adapters over quantised weights",
    "last-k": "train adapters in the last blocks",
    "full": "train all weights",
}
SETTINGS = {
    "batch": "rows of {seq} tokens",
    "seq": "tokens in one row",
    "bits": "bits at most",
    "last_blocks": "blocks",
}


def show(model: str, *, limit: str | None, as_json: bool, **how: Any) -> None:
    """Print the estimate of one use of one model as text, or as one JSON document."""
    limit_bytes = None if limit is None else footprint.parse_bytes(limit)
    found = estimate(model, limit_bytes=limit_bytes, **how)
    if as_json:
        print(json.dumps(found.facts()))
        return
    print(headline(found))
    rows = [[term.name, f"{term.n_bytes / 1e6:,.1f}", term.where, term.why] for term in found.terms]
    show_table("Peak memory in MB, estimated", ["term", "MB", "where", "why"], rows)
    for line in lines(found):
        print(line)


def headline(found: Estimate) -> str:
    """The answer in one sentence, with its arithmetic."""
    use = found.use
    what = f"{WORDS[use.method]}, {use.batch} rows of {use.seq} tokens"
    if use.last_blocks:
        what += f", {use.last_blocks} of {found.network.layers} blocks"
    verdict = "fits" if found.fits else "does NOT fit"
    device = f" and {gigabytes(found.device_bytes)} on the device" if found.device_bytes else ""
    return (
        f"{found.network.title} at {use.bits} bits ({what}) needs about {gigabytes(found.ram_bytes)} of RAM{device}: "
        f"it {verdict} in {' and '.join(f'{gigabytes(n)} ({origin})' for n, origin in found.limits.values())}."
    )


def lines(found: Estimate) -> list[str]:
    """Stored size, largest settings, times and notes, a line each."""
    said = [f"Stored: {found.stored_bytes / 1e6:,.1f} MB at {found.use.bits} bits."]
    fitting = [_setting(name, value, found) for name, value in found.largest.items()]
    said.append(f"Largest that fits, the rest as asked: {'; '.join(fitting)}.")
    passing, rate = found.times.forward_s, found.times.tokens_per_s
    time = f"Time: {_seconds(passing)} for one pass over the batch, {rate[0]:,.0f} to {rate[1]:,.0f} tokens/s"
    if found.times.written_per_s:
        time += f"; {found.times.written_per_s[0]:,.1f} to {found.times.written_per_s[1]:,.1f} tokens/s written"
    if found.times.step_s:
        time += f"; {_seconds(found.times.step_s)} for a training step"
    said += [f"{time}.", f"  ({found.times.origin})"]
    return said + [f"Note: {note}." for note in found.notes]


def _setting(name: str, value: int | None, found: Estimate) -> str:
    words = SETTINGS[name].format(seq=found.use.seq)
    if value is None:
        return f"not with any number of {words.removesuffix(' at most')}"
    return f"any number of {words}" if value >= MOST else f"{value:,} {words}"


def _seconds(span: tuple[float, float]) -> str:
    low, high = (f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in span)
    return f"{low} to {high} s"
