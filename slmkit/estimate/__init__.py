"""Predicts bytes, memory and seconds before anything is loaded, so that what cannot fit is refused and not killed.

`slmkit.estimate(...)` calls this package: it says term by term what a model takes, and what the largest setting is
that fits. Every figure is an estimate; its error is published in the README (`benchmarks/fit_error.py`).
"""

from __future__ import annotations

import sys
import types

from slmkit.estimate.answer import Estimate, estimate
from slmkit.estimate.fits import (
    check_fits,
    check_training,
    gigabytes,
    largest_settings,
    largest_that_fits,
    model_memory,
    stored_bytes,
    training_tokens,
)
from slmkit.estimate.networks import Network, network_of
from slmkit.estimate.studies import duration, study_estimate
from slmkit.estimate.terms import BITS, METHODS, PREPARING_BYTES, ROOMY_TOKENS, Term, Use
from slmkit.estimate.times import Times

__all__ = [
    "BITS",
    "METHODS",
    "PREPARING_BYTES",
    "ROOMY_TOKENS",
    "Estimate",
    "Network",
    "Term",
    "Times",
    "Use",
    "check_fits",
    "check_training",
    "duration",
    "estimate",
    "gigabytes",
    "largest_settings",
    "largest_that_fits",
    "model_memory",
    "network_of",
    "stored_bytes",
    "study_estimate",
    "training_tokens",
]


class _Callable(types.ModuleType):
    __call__ = staticmethod(estimate)


sys.modules[__name__].__class__ = _Callable
