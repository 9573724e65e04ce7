"""The licence gate: data with conditions is read only after its terms were shown and accepted, once, on this machine.

What was accepted is written down beside the cache, with its time. Nothing is sent anywhere.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slmkit import assets, files
from slmkit.errors import InputError

log = logging.getLogger(__name__)


class LicenceNotAccepted(InputError):
    """Data whose terms nobody on this machine has accepted yet; the message holds them and how to accept."""


def record() -> Path:
    """The file that says what was accepted here."""
    return assets.cache_dir() / "licences.json"


def accepted(name: str, licence: str) -> bool:
    """Whether this licence was accepted here for these data; another licence under the same name does not count."""
    entry = _known().get(name)
    return isinstance(entry, dict) and entry.get("licence") == licence


def accept(name: str, licence: str) -> None:
    """Write down that the terms were accepted; a second time changes nothing."""
    if accepted(name, licence):
        return
    entry = {"licence": licence, "accepted_utc": datetime.now(UTC).isoformat(timespec="seconds")}
    path = record()
    with files.on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(path.parent):
            files.replace(path, json.dumps(_known() | {name: entry}, indent=1, ensure_ascii=False) + "\n")


def require(name: str, licence: str, terms: str) -> None:
    """Raise `LicenceNotAccepted` unless the terms were accepted here before."""
    if not accepted(name, licence):
        raise LicenceNotAccepted(
            f"{name} is under {licence}. {terms} To accept, once on this machine: slmkit data fetch {name} "
            f"--accept-license, the same option of slmkit study, or slmkit.accept_license({name!r}) in Python"
        )


def _known() -> dict[str, Any]:
    try:
        known = json.loads(record().read_text(encoding="utf-8"))
        if not isinstance(known, dict):
            raise ValueError("it holds no JSON object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read (%s): licences have to be accepted again", record(), error)
        return {}
    return known
