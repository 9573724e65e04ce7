"""What several models would take in one use on this machine, side by side, before any of them is fetched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from slmkit.estimate.answer import Estimate, estimate


def side_by_side(models: Iterable[str], bits: Sequence[int] = (16, 4), **how: Any) -> pd.DataFrame:
    """Estimate one use of each model at each bit width.

    Parameters
    ----------
    models : iterable of str
        As `slmkit.estimate` takes them; nothing is loaded or fetched.
    bits : sequence of {16, 8, 4}
    how
        As `slmkit.estimate` takes it (method, seq, batch, limit_bytes).

    Returns
    -------
    DataFrame
        model, parameters (billions), bits, stored_GB, peak_GB, fits ("yes" or "no": within what this machine allows),
        and from_per_s, to_per_s: tokens a second, written where the method writes, else read. All estimated.
    """
    return pd.DataFrame([_row(estimate(model, bits=width, **how)) for model in models for width in bits])


def _row(found: Estimate) -> dict[str, Any]:
    writes = found.use.method == "generate"
    low, high = (found.times.written_per_s if writes else None) or found.times.tokens_per_s
    return {
        "model": found.network.title,
        "parameters": found.network.n_parameters / 1e9,
        "bits": found.use.bits,
        "stored_GB": found.stored_bytes / 1e9,
        "peak_GB": found.peak_bytes / 1e9,
        "fits": "yes" if found.fits else "no",
        "from_per_s": low,
        "to_per_s": high,
    }
