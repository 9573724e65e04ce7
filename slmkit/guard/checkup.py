"""`slmkit doctor --model DIR`: the guard's checks on a saved classifier or a tuned folder, whatever state it is in.

Nothing stops at the first fault: a damaged file is a finding like others, and what can still be looked at is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slmkit import assets, backends, doctor, estimator, text
from slmkit.assets import ModelSource
from slmkit.errors import InputError, SlmkitError
from slmkit.guard import aftermath, findings, watch
from slmkit.guard.findings import FAIL, WARN, Finding, fine
from slmkit.guard.plan import Outcome

AGAIN = "put back the files as they were saved, or train again"
FACTS, TUNED = "slmkit_adapter.json", "finetune.json"


@dataclass(frozen=True)
class Saved:
    """A folder as its JSON describes it.

    Attributes
    ----------
    folder, adapter : Path
        The whole, and the part that training wrote.
    name : str
        The base model's.
    revision : str or None
    bits : int
    backend : str or None
    kind : str
        "labels", "answers", or the class of a classifier that trains no weights.
    values : dict
        The JSON itself.
    guard : dict
        What `guard.after` wrote down; empty for a folder without.
    """

    folder: Path
    adapter: Path
    name: str
    revision: str | None
    bits: int
    backend: str | None
    kind: str
    values: Mapping[str, Any]
    guard: Mapping[str, Any]


def examine(folder: str | Path) -> list[Finding]:
    """Look at a saved classifier (`LoRAClassifier.save`) or a folder of `slmkit tune`.

    Returns
    -------
    list of Finding
        In seconds for a small model; the base model is loaded once.

    Raises
    ------
    InputError
        No such folder, or one that holds neither.
    """
    saved = read(Path(folder))
    found = _now(saved)
    said = {finding.name for finding in found}
    return [*found, *(finding for finding in _earlier(saved) if finding.name not in said)]


def _now(saved: Saved) -> list[Finding]:
    """What is found in a folder as it is."""
    source, problem = _base(saved)
    found = [_whole(saved), problem]
    if source is None or saved.kind not in ("labels", "answers"):
        return found
    out = _outcome(saved, source)
    found += findings.run(aftermath.FILES, out)
    if any(finding.name == "head" and finding.status == FAIL for finding in found):
        return found
    return found + _loaded(saved, source, out)


def render(found: Sequence[Finding]) -> str:
    """The findings as the doctor's table; what came from files is cleaned."""
    rows = []
    for one in found:
        parts = [text.clean(part, 1000) for part in (one.found, one.cost, one.remedy)]
        rows.append(doctor.Check(text.clean(one.name), one.status, "; ".join(filter(None, parts[:2])), parts[2]))
    return doctor.render(rows)


def to_json(found: Sequence[Finding]) -> str:
    """One JSON object: `ok` (nothing failed) and `checks`, the findings with their figures."""
    document = {"ok": exit_status(found) == 0, "checks": [one.to_dict() for one in found]}
    return json.dumps(document, indent=1, ensure_ascii=False)


def exit_status(found: Sequence[Finding]) -> int:
    """1 when anything failed, else 0."""
    return int(any(one.status == FAIL for one in found))


def read(folder: Path) -> Saved:
    """What stands in a folder; `InputError` for one that is neither a saved classifier nor a tuned folder."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}: give the folder of a saved classifier or of slmkit tune")
    if (folder / estimator.FILE).is_file():
        return _classifier(folder, _json(folder / estimator.FILE))
    if (folder / TUNED).is_file():
        values = _json(folder / TUNED)
        model, facts = _need(values, "model", folder / TUNED), _facts(folder)
        bits = int(values.get("bits") or facts.get("bits") or 16)
        backend, guard = values.get("backend"), values.get("guard") or {}
        return Saved(folder, folder, model, values.get("revision"), bits, backend, "answers", values, guard)
    inside = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    raise InputError(
        f"{folder} is neither a saved classifier (no {estimator.FILE}) nor a folder of slmkit tune (no "
        f"{TUNED}); it holds {inside}"
    )


def _classifier(folder: Path, values: Mapping[str, Any]) -> Saved:
    path, adapter = folder / estimator.FILE, folder / "adapter"
    kind, params = _need(values, "class", path), _need(values, "params", path)
    facts = _facts(adapter)
    labels = kind == "LoRAClassifier"
    return Saved(
        folder,
        adapter,
        str(params.get("model") or ""),
        values.get("revision"),
        int(facts.get("bits") or params.get("bits") or 16),
        facts.get("backend") or params.get("backend"),
        "labels" if labels else str(kind),
        values,
        (values.get("state") or {}).get("guard") or {},
    )


def _whole(saved: Saved) -> Finding:
    if not (saved.folder / assets.MANIFEST).is_file():
        what = f"there is no {assets.MANIFEST}: whether files were altered cannot be told"
        return Finding("files", WARN, what, "", "save it again with slmkit")
    problem = assets.problem_with(saved.folder)
    if problem:
        return Finding("files", FAIL, problem, "this is not what was saved; slmkit refuses to load it", AGAIN)
    return fine("files", "all are as they were written")


def _earlier(saved: Saved) -> Iterator[Finding]:
    """What was found when it was trained."""
    for entry in (*saved.guard.get("before", []), *saved.guard.get("after", [])):
        if isinstance(entry, Mapping) and {"name", "found"} <= set(entry):
            found = f"said when it was trained: {entry['found']}"
            yield Finding(str(entry["name"]), WARN, found, str(entry.get("cost", "")), str(entry.get("remedy", "")))


def _base(saved: Saved) -> tuple[ModelSource | None, Finding]:
    """The base model on this disk, and whether it is the one that was tuned."""
    name, facts = "base model", _facts(saved.adapter)
    if not saved.name:
        return None, fine(name, f"{saved.kind} has none")
    cost = "the adapter is a change to one set of weights, and noise on any other"
    try:
        source = assets.resolve(saved.name)
    except SlmkitError as error:
        return None, Finding(name, FAIL, f"{saved.name!r} cannot be found: {error}", cost, _back(facts, saved))
    known = facts.get("revision") or saved.revision
    if known is not None and known != source.revision:
        found = f"it was tuned on {facts.get('model', 'a model')} ({_short(known)})"
        found += f"; {saved.name} here is {_short(source.revision)}"
        return None, Finding(name, FAIL, found, cost, _back(facts, saved))
    if saved.revision is not None and saved.revision != source.revision:
        found = f"it was made with {saved.name} at {_short(saved.revision)}; here it is {_short(source.revision)}"
        return None, Finding(name, FAIL, found, cost, _back(facts, saved))
    if known is None:
        return source, Finding(name, WARN, f"nothing says which revision of {saved.name} it was tuned on", cost, AGAIN)
    return source, fine(name, f"{saved.name} ({_short(known)})")


def _short(revision: Any) -> str:
    return text.clean(revision, 60) if "==" in str(revision) else text.clean(revision, 22)


def _back(facts: Mapping[str, Any], saved: Saved) -> str:
    model = facts.get("model")
    return f"name {model!r} as the base again, or tune anew" if model and model != saved.name else AGAIN


def _outcome(saved: Saved, source: ModelSource) -> Outcome:
    values = saved.values
    classes = values.get("classes") or []
    state = values.get("state") or {}
    probes = saved.guard.get("probes")
    before, after = values.get("loss_before"), values.get("loss_after")
    return Outcome(
        source,
        saved.adapter,
        history=values.get("history") or state.get("history") or [],
        n_classes=len(classes) if saved.kind == "labels" else None,
        max_length=int(state.get("max_length") or (values.get("params") or {}).get("max_length") or 256),
        classes=classes,
        probes=None if probes is None else np.asarray(probes, dtype=np.float64),
        losses=(float(before), float(after)) if before is not None and after is not None else None,
    )


def _loaded(saved: Saved, source: ModelSource, out: Outcome) -> list[Finding]:
    engine = backends.engine_for(source, saved.backend)
    template = _template(saved, source, engine)
    found = [template] if template is not None else []
    if template is not None and template.status == FAIL:
        return found
    return found + watch.loaded(engine, backends.prepare(source), saved.bits, out)[0]


def _template(saved: Saved, source: ModelSource, engine: backends.Backend) -> Finding | None:
    """The chat template is the one of the training."""
    facts, read_here = _facts(saved.adapter), backends.read(engine, source, [])
    if "template_sha256" not in facts or read_here is None:
        return None
    then, now = facts["template_sha256"], read_here.template_sha256
    if then != now:
        shown = [f"sha256 {str(one)[:12]}" if one else "none" for one in (then, now)]
        return Finding(
            "same template",
            FAIL,
            f"it was tuned with another chat template ({shown[0]}) than {source.folder} has now ({shown[1]})",
            "it would be asked in a form it was not tuned on",
            "put back the tokenizer files it was tuned with, or tune it again",
        )
    return fine("same template", f"sha256 {now[:12]}" if now else "none, as in the training")


def _facts(adapter: Path) -> dict[str, Any]:
    """What stands beside an adapter; empty where it cannot be read."""
    try:
        return assets.read_json(adapter / FACTS)
    except SlmkitError:
        return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        return assets.read_json(path)
    except SlmkitError as error:
        raise InputError(f"{error}: this folder cannot be looked at") from error


def _need(values: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in values:
        raise InputError(f"{path} is damaged: it has no {key!r}")
    return values[key]
