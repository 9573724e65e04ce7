"""Backends for tests: one that does not run here skips the test, and says why."""

from __future__ import annotations

import pytest

from slmkit import backends
from slmkit.backends.base import Backend


def available(name: str) -> Backend:
    """The backend of that name, where it runs."""
    found = backends.get(name)
    ok, reason = found.is_available()
    if not ok:
        pytest.skip(reason)
    return found
