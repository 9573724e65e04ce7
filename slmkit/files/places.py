"""Where slmkit keeps what it makes, and where it looks for what others have brought."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Folder for de-quantised and quantised copies: `SLMKIT_CACHE`, else the platform's cache folder."""
    return Path(os.environ.get("SLMKIT_CACHE") or platformdirs.user_cache_dir("slmkit")).expanduser()


def mirror() -> Path | None:
    """The local mirror of data and models, `SLMKIT_ASSETS`, if it is set."""
    value = os.environ.get("SLMKIT_ASSETS")
    return Path(value).expanduser() if value else None
