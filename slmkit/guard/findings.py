"""What the guard found: one finding a check, in a form for the log, for a record and for a table.

A check never decides what happens: failures stop a training or come out of it as one error, warnings are logged and
kept in the record (`settle`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from slmkit.doctor import FAIL, OK, WARN
from slmkit.errors import InputError, SlmkitError

log = logging.getLogger(__name__)
View = TypeVar("View")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    name : str
        What was looked at: "one BOS", "weights moved".
    status : {"OK", "WARN", "FAIL"}
        WARN: probably a mistake, a person has to look. FAIL: what comes out is wrong or worthless.
    found : str
        What was found, with its figures.
    cost : str
        What the mistake would have cost; empty where nothing is wrong.
    remedy : str
        What to do; empty where nothing is wrong.
    evidence : mapping of str to float
        The figures behind it.
    """

    name: str
    status: str
    found: str
    cost: str = ""
    remedy: str = ""
    evidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """Finding and cost in one sentence; the remedy follows after an arrow."""
        what = "; ".join(filter(None, [self.found, self.cost]))
        return f"{self.name}: {what}" + (f" -> {self.remedy}" if self.remedy else "")

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return asdict(self)


Check = Callable[[View], Finding | None]  # None: there is nothing of that kind to look at


def run(checks: Mapping[str, Check[View]], view: View) -> list[Finding]:
    """What every check of a table says of a view; one that breaks is a warning, and the rest goes on."""
    found: list[Finding] = []
    for name, check in checks.items():
        try:
            finding = check(view)
        except (SlmkitError, MemoryError):
            raise  # an unusable model or setting says so itself
        except Exception as error:  # a guard that cannot look must not stop what it guards
            finding = Finding(name, WARN, f"could not be looked at ({type(error).__name__}: {error})")
        found += [finding] if finding is not None else []
    return found


def settle(found: Iterable[Finding], where: str, then: str = "") -> None:
    """Log warnings; raise one `InputError` with all failures, and what is `then` the case."""
    listed = list(found)
    for finding in listed:
        if finding.status == WARN:
            log.warning("%s: %s", where, finding.sentence)
    failed = [f"- {finding.sentence}" for finding in listed if finding.status == FAIL]
    if failed:
        rest = [f"- (warning) {finding.sentence}" for finding in listed if finding.status == WARN]
        last = [*([then] if then else []), "checks=False goes on without the guard"]
        raise InputError(
            "\n".join(
                [f"{where}: {len(failed)} {'check' if len(failed) == 1 else 'checks'} failed", *failed, *rest, *last]
            )
        )


def fine(name: str, found: str, **evidence: float) -> Finding:
    """A finding with nothing to mend."""
    return Finding(name, OK, found, evidence=evidence)
