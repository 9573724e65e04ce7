"""The licence gate: data and models with conditions are read only after their terms were shown and accepted, once.

What was accepted is written down beside the cache, with its time. Nothing is sent anywhere.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmkit import files
from slmkit.errors import InputError
from slmkit.files import places

if TYPE_CHECKING:
    from slmkit.catalog import ModelEntry

log = logging.getLogger(__name__)


class LicenceNotAccepted(InputError):
    """Data or a model whose terms nobody on this machine has accepted yet; the message holds them and how to accept."""


def record() -> Path:
    """The file that says what was accepted here."""
    return places.cache_dir() / "licences.json"


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


def require(name: str, licence: str, terms: str, command: str = "slmkit data fetch") -> None:
    """Raise `LicenceNotAccepted` unless the terms were accepted here before; `command` is what accepts them by name."""
    if not accepted(name, licence):
        raise LicenceNotAccepted(
            f"{name} is under {licence}. {terms} To accept, once on this machine: {command} {name} "
            f"--accept-license, the same option of slmkit study, or slmkit.accept_license({name!r}) in Python"
        )


def require_model(entry: ModelEntry) -> None:
    """`require` for a model of the catalog; nothing to accept where the entry has no terms."""
    if entry.terms:
        require(entry.name, entry.licence, entry.terms, "slmkit models --install")


def accept_model(entry: ModelEntry) -> None:
    """Write down that the terms of a model were accepted; nothing to write where it has none."""
    if entry.terms:
        accept(entry.name, entry.licence)


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
