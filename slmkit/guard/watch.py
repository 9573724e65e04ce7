"""The guard against silent mistakes around a training: one call before it, one after it.

Failures raise one `InputError` with everything that was found, warnings are logged and kept in the record. Before a
long training three steps are tried on a few short rows, so that an adapter that does not move, or a head that does not
come back, shows before the hours and not after them.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.assets import ModelSource
from slmkit.backends.base import Backend
from slmkit.errors import InputError, SlmkitError
from slmkit.guard import aftermath, checks, findings, reloaded
from slmkit.guard.findings import FAIL, OK, Finding
from slmkit.guard.plan import Outcome, Plan

LONG_STEPS = 200  # optimiser steps from which a trial costs little beside the training
TRIAL_ROWS, TRIAL_STEPS = 6, 3
TRIED = ("weights moved", "target modules", "head", "head not quantised")


def before(plan: Plan) -> list[Finding]:
    """Look at a training before it runs.

    Returns
    -------
    list of Finding

    Raises
    ------
    InputError
        With all findings, when one of them is a failure.
    """
    found = findings.run(checks.BEFORE, plan, strict=True)
    findings.settle(found, f"before tuning {plan.source.name}")
    steps = plan.config.epochs * math.ceil(len(plan.texts) / plan.config.batch_size)
    if steps >= LONG_STEPS:
        tried = trial(plan)
        findings.settle(tried, f"{TRIAL_STEPS} steps of tuning {plan.source.name}, tried before it")
        found += tried
    return found


def trial(plan: Plan) -> list[Finding]:
    """Train three steps on a few short rows, load what comes out, and look at it."""
    order = np.argsort([len(text) for text in plan.texts], kind="stable")
    some = [int(i) for i in order[len(order) // 4 :][:TRIAL_ROWS]]  # short ones, but not the empty
    y = None if plan.y is None else np.asarray(plan.y)[some]
    answers = None if plan.answers is None else [plan.answers[i] for i in some]
    config = replace(plan.config, epochs=1, batch_size=max(1, len(some) // TRIAL_STEPS))
    small = replace(plan, texts=[plan.texts[i] for i in some], codes=y, proba=None, answers=answers, config=config)
    with tempfile.TemporaryDirectory(prefix="slmkit-trial-") as name:
        folder = Path(name)
        try:
            history = train(small, folder)
        except InputError:
            raise  # a setting that the training itself refuses
        except SlmkitError as error:
            cost, remedy = "the whole training would have come to nothing", "see what the message names"
            return [Finding("weights moved", FAIL, str(error), cost, remedy)]
        out = _outcome(plan, folder, history)
        found = findings.run({name: aftermath.FILES[name] for name in TRIED}, out)
        with plan.engine.load(plan.source, bits=plan.bits, adapter=folder) as model:
            out = replace(out, model=model)
            return found + findings.run({"batched = single": reloaded.last_token_read}, out)


def train(plan: Plan, out: Path) -> list[dict[str, float]]:
    """Run a plan with its backend."""
    how: dict[str, Any] = {"bits": plan.bits, "config": plan.config, "out": out}
    if plan.answers is not None:
        return plan.engine.train_completion(plan.source, plan.texts, plan.answers, **how)
    assert plan.y is not None
    return plan.engine.train_lora(plan.source, plan.texts, plan.y, n_classes=len(plan.classes), **how)


def after(
    plan: Plan,
    folder: Path,
    history: Sequence[Mapping[str, float]],
    earlier: Sequence[Finding] = (),
    losses: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Look at what a training left, with the model loaded anew; does not raise for what it finds.

    Parameters
    ----------
    plan : Plan
    folder : Path
        What the training wrote.
    history : sequence of dict
    earlier : sequence of Finding
        What `before` found.
    losses : tuple of float or None
        On held-out answers, before and after.

    Returns
    -------
    dict
        For the record and for `settle`, as JSON values: `checked`, the names of all checks that had something to look
        at; `before` and `after`, what those found that are not OK; `probes`, what the model says of five fixed
        sentences, with which `slmkit doctor --model` compares it later; `seconds`, what looking took afterwards.
    """
    began = time.perf_counter()
    out = replace(_outcome(plan, folder, history), losses=losses)
    found = findings.run(aftermath.FILES, out)
    probes = None
    if not any(finding.status == FAIL and finding.name == "head" for finding in found):
        looked, probes = loaded(plan.engine, plan.source, plan.bits, out)
        found += looked
    return {
        "checked": [finding.name for finding in (*earlier, *found)],
        "before": [finding.to_dict() for finding in earlier if finding.status != OK],
        "after": [finding.to_dict() for finding in found if finding.status != OK],
        "probes": None if probes is None else np.round(probes, 6).tolist(),
        "seconds": round(time.perf_counter() - began, 3),
    }


def loaded(engine: Backend, source: ModelSource, bits: int, out: Outcome) -> tuple[list[Finding], np.ndarray | None]:
    """Load a model with its adapter, look at it, and say what it says of the fixed sentences."""
    try:
        with engine.load(source, bits=bits, adapter=out.folder) as model:
            out = replace(out, model=model)
            return findings.run(reloaded.LOADED, out), out.probe_values
    except SlmkitError as error:
        remedy = "put back the files as they were saved, or train again"
        return [Finding("loads", FAIL, str(error), "it cannot be used", remedy)], None
    except Exception as error:  # no memory for a second load, for one
        return [findings.unseen("loads", error)], None


def settle(plan: Plan, record: Mapping[str, Any], then: str) -> None:
    """Log the warnings that `after` found; raise `InputError` for its failures, saying what is `then` the case."""
    found = [Finding(**entry) for entry in record.get("after", [])]
    findings.settle(found, f"after tuning {plan.source.name}", then)


def sentences(record: Mapping[str, Any]) -> list[str]:
    """What a record of `after` warns of."""
    return [Finding(**entry).sentence for key in ("before", "after") for entry in record.get(key, [])]


def _outcome(plan: Plan, folder: Path, history: Sequence[Mapping[str, float]]) -> Outcome:
    return Outcome(
        plan.source,
        folder,
        plan=plan,
        history=history,
        n_classes=None if plan.codes is None else len(plan.classes),
        max_length=plan.config.max_length,
        classes=plan.classes,
    )
