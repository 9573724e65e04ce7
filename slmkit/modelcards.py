"""The card of a saved model or adapter: what it was made from and how, what it scored, what it takes, how to load it.

Written as the README.md that model hubs read: a header in YAML, then Markdown. Names of models, data and labels come
from outside, so the header is written by a YAML library and everything else is cleaned and escaped. What is not known
is said to be so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmkit import assets, catalog, files, footprint, text
from slmkit.assets import ModelSource, stored

FILE = "README.md"
MERGED = "slmkit_merged.json"
MADE_FROM = (
    MERGED,
    stored.CARD,
    "slmkit_matched.json",
    "slmkit_pruned.json",
)  # what names the model that a folder was made from
UNKNOWN = "not known here; ask where it came from"
HUB_LICENCES = {  # as model hubs write them in a header
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "CC BY 4.0": "cc-by-4.0",
    "Gemma terms of use": "gemma",
    "Llama 2 community licence": "llama2",
    "Llama 3.2 community licence": "llama3.2",
}
NOT_MEASURED = "not measured"
TUNED, CLASSIFIER = "finetune.json", "classifier.json"
LIBRARIES = {"bnb": "peft", "mlx": "mlx"}
LIMITS = (
    "For the kind of texts it was tuned on, after you measured it on yours: scores here are of the rows named above.",
    "It keeps the faults of its base model, may be wrong with confidence, and may say what stood in its training rows.",
    "Not for decisions about people without somebody who checks them.",
)


@dataclass(frozen=True)
class Base:
    """The model something was made from.

    Attributes
    ----------
    name : str
        In the catalog or on the hub; of a folder or file only its last part.
    hub_id : str or None
    revision : str
    licence : str
        With what has to be accepted.
    header : str
        The licence as a header has it: "apache-2.0", "other", "unknown".
    """

    name: str
    hub_id: str | None
    revision: str
    licence: str
    header: str


@dataclass(frozen=True)
class Score:
    """A figure with its interval and what it is of.

    Attributes
    ----------
    name : str
    value, low, high : float or None
        None is shown as "not measured".
    n : str
        "1,204 tokens in 66 answers".
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: str = ""


@dataclass(frozen=True)
class Data:
    """What was learned from; None is not known."""

    name: str | None = None
    licence: str | None = None
    rows: str | None = None
    sha256: str | None = None
    card: str | None = None


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes
    ----------
    title, summary : str
        Heading, and one sentence on what this is.
    base : Base
    library : str
        What reads the weights: "peft", "mlx", "transformers".
    tags : tuple of str
    data : Data
    recipe : mapping
        Setting -> value.
    scores : sequence of Score
    footprint : mapping
        Figure -> bytes, or None.
    load : str
        Lines of Python.
    limits : tuple of str
        Sentences.
    """

    title: str
    summary: str
    base: Base
    library: str
    tags: tuple[str, ...]
    data: Data = field(default_factory=Data)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    scores: Sequence[Score] = ()
    footprint: Mapping[str, int | None] = field(default_factory=dict)
    load: str = ""
    limits: tuple[str, ...] = ()


def base_of(source: ModelSource) -> Base:
    """What a card says of a model; of a merged or a quantised one, the model that was made from."""
    return base_named(source.name, source.revision, source.folder)


def base_named(name: str, revision: str, folder: Path | None = None) -> Base:
    """As `base_of`, by the name a model was asked for under; its files need not be there."""
    entry = catalog.MODELS.get(name)
    if entry is not None:
        gate = f"terms to accept at the hub page of {entry.hub_id}" if entry.gated else ""
        licence = ". ".join(filter(None, [entry.licence, entry.terms or gate]))
        return Base(name, entry.hub_id, revision, licence, HUB_LICENCES.get(entry.licence, "other"))
    path = Path(name).expanduser()
    for card in MADE_FROM:
        if ((folder or path) / card).is_file():
            return _base_in(assets.read_json((folder or path) / card))
    is_path = path.exists() or path.is_absolute() or name.count("/") != 1
    return Base(path.name if is_path else name, None if is_path else name, revision, UNKNOWN, "unknown")


def _base_in(known: Mapping[str, Any]) -> Base:
    """The base that a merged or quantised folder names."""
    name, licence = str(known.get("base")), str(known.get("licence") or UNKNOWN)
    header = next((form for words, form in HUB_LICENCES.items() if licence.startswith(words)), "unknown")
    entry = catalog.MODELS.get(name)
    return Base(name, entry.hub_id if entry else None, str(known.get("base_revision")), licence, header)


def for_tuning(values: Mapping[str, Any], base: Base, adapter_bytes: int) -> Card:
    """The card of an adapter that learned dialogues, from what its finetune.json says."""
    data, recipe, scores = _of_dialogues(values)
    whole = values.get("method") == "full"
    what = "Trained weights" if whole else "A LoRA adapter"
    return Card(
        title=f"{base.name} tuned on {data.name or 'dialogues'}",
        summary=f"{what}, written by slmkit: the model answers in the way of the dialogues it was tuned on.",
        base=base,
        library=LIBRARIES.get(str(values.get("backend")), "peft"),
        tags=("text-generation",) if whole else ("lora", "text-generation"),
        data=data,
        recipe=recipe,
        scores=scores,
        footprint={"weights" if whole else "adapter": adapter_bytes},
        load=_load_lines(values["model"], base, values["bits"], "THIS_FOLDER", "model.generate([prompt])[0].text"),
        limits=LIMITS,
    )


def for_classifier(
    values: Mapping[str, Any], adapter_bytes: int | None, data: Data | None = None, scores: Sequence[Score] = ()
) -> Card:
    """The card of a saved `LoRAClassifier`, from what its classifier.json says."""
    base = base_named(str(values["params"]["model"]), str(values.get("revision")))
    known, recipe = _of_labels(values)
    labels = ", ".join(map(str, values["classes"]))
    whole = values["params"].get("way") == "full"
    what = "Trained weights" if whole else "A LoRA adapter"
    return Card(
        title=f"{base.name} as a classifier",
        summary=f"{what} and a head, written by slmkit. It sorts texts into {len(values['classes'])} classes.",
        base=base,
        library="slmkit",
        tags=("text-classification",) if whole else ("lora", "text-classification"),
        data=data or known,
        recipe={"classes": labels, **recipe},
        scores=scores,
        footprint={"weights and head" if whole else "adapter and head": adapter_bytes},
        load='import slmkit\n\nclassifier = slmkit.load_classifier("THIS_FOLDER")\nclassifier.predict(["..."])',
        limits=LIMITS,
    )


def of_tuning(adapter: Path) -> tuple[Data, dict[str, Any], list[Score]]:
    """Data, recipe and scores that an adapter's folder tells, or the classifier it is part of; empty when none does."""
    if (adapter / TUNED).is_file():
        return _of_dialogues(assets.read_json(adapter / TUNED))
    if (adapter.parent / CLASSIFIER).is_file():
        return *_of_labels(assets.read_json(adapter.parent / CLASSIFIER)), []
    return Data(), {}, []


def _of_dialogues(values: Mapping[str, Any]) -> tuple[Data, dict[str, Any], list[Score]]:
    named = {name: value for name, value in (values.get("data") or {}).items() if name in Data.__dataclass_fields__}
    back = f", {values['n_validation']} held back to stop by" if values.get("n_validation") else ""
    rows = f"{values['n_train']} answers learned{back}, {values['n_test']} held out"
    recipe = {"method": values.get("method"), "bits of the base": values.get("bits"), **(values.get("config") or {})}
    recipe |= {"computed in": values["computed_in"]} if values.get("computed_in") else {}
    if any("recomputed" in entry for entry in values.get("history") or ()):
        recipe["memory"] = "blocks computed anew on the way back"
    scores = []
    for key, words in (("learned", "the held-out answers"), ("forgotten", "a neutral text")):
        change = values.get(key) or {}
        n = f"{change['n_tokens']:,} tokens in {change['n_texts']} texts" if change else ""
        scores += [
            Score(f"perplexity of {words}, before", change.get("perplexity_before"), n=n),
            Score(f"perplexity of {words}, after", change.get("perplexity_after"), n=n),
            Score(
                f"perplexity of {words}, after / before",
                change.get("ratio"), change.get("ratio_low"), change.get("ratio_high"), n,
            ),
        ]  # fmt: skip
    return Data(**{"rows": rows, **named}), recipe, scores


def _of_labels(values: Mapping[str, Any]) -> tuple[Data, dict[str, Any]]:
    n_train = (values.get("state") or {}).get("n_train")
    recipe = {name: value for name, value in values["params"].items() if name != "model"}
    return Data(rows=f"{n_train} texts learned" if n_train else None), {"method": values["class"], **recipe}


def _load_lines(model: str, base: Base, bits: int, adapter: str, use: str) -> str:
    known = model if model in catalog.MODELS or model == base.hub_id else "PATH_OF_THE_BASE_MODEL"
    first = f"with slmkit.load({json.dumps(known)}, bits={bits}, adapter={json.dumps(adapter)}) as model:"
    ask = '    prompt = model.dialogue_prompt([{"role": "user", "content": "..."}])'
    return "\n".join(["import slmkit", "", first, ask, f"    print({use})"])


def load_whole(kind: str) -> str:
    """Lines that load a folder of weights of their own and use it; `kind` is "decoder" or "encoder"."""
    use = 'model.generate(["..."])[0].text' if kind == "decoder" else 'model.embed(["..."]).shape'
    return f'import slmkit\n\nwith slmkit.load("THIS_FOLDER", bits=16) as model:\n    print({use})'


def write(folder: Path, card: Card) -> Path:
    """Write a card into a folder, replacing an earlier one."""
    path = folder / FILE
    files.replace(path, render(card))
    return path


def render(card: Card) -> str:
    """The whole card: header and Markdown."""
    lines = [f"# {_plain(card.title)}", "", _plain(card.summary, 1000), ""]
    lines += _section("Base", _base_rows(card.base))
    lines += _section("Data", _data_rows(card.data))
    lines += _section("Recipe", [(name, _code(value)) for name, value in card.recipe.items()])
    lines += _scores(card.scores)
    taken = {name: NOT_MEASURED if value is None else text.megabytes(value) for name, value in card.footprint.items()}
    lines += _section("Footprint", list(taken.items()))
    lines += _section("Made with", _made_with())
    lines += ["## Use", "", *(["```python", *map(_line, card.load.splitlines()), "```", ""] if card.load else [])]
    lines += [f"- {_plain(limit, 1000)}" for limit in card.limits]
    return header(card.base, card.library, card.tags, card.data.name) + "\n".join(lines).rstrip() + "\n"


def header(base: Base, library: str, tags: Sequence[str], data: str | None = None) -> str:
    """The part of a card that model hubs read, with the lines around it."""
    from huggingface_hub import ModelCardData

    values: dict[str, Any] = {
        "base_model": _bare(base.hub_id or base.name, 200),
        "license": base.header,
        "license_name": _bare(base.licence, 60) if base.header == "other" else None,
        "library_name": library,
        "datasets": [_bare(data, 200)] if data else None,
        "tags": ["slmkit", *(_bare(tag, 60) for tag in tags)],
    }
    return f"---\n{ModelCardData(**values, ignore_metadata_errors=True).to_yaml()}\n---\n\n"


def _base_rows(base: Base) -> list[tuple[str, str]]:
    where = [("on the hub", _code(base.hub_id))] if base.hub_id else []
    licence = f"{_plain(base.licence, 500)}. It holds for what is here too."
    return [("model", _code(base.name)), *where, ("revision", _code(base.revision)), ("licence", licence)]


def _data_rows(data: Data) -> list[tuple[str, str]]:
    names = ("name", "licence", "rows", "sha256", "card")
    return [(name, "not known" if (value := getattr(data, name)) is None else _code(value)) for name in names]


def _scores(scores: Sequence[Score]) -> list[str]:
    if not scores:
        return ["## Scores", "", f"{NOT_MEASURED.capitalize()}.", ""]
    rows = ["| | | 95 % interval | n |", "|---|---|---|---|"]
    for one in scores:
        value = NOT_MEASURED if one.value is None else text.rounded(one.value)
        known = one.value is not None and one.low is not None and one.high is not None
        interval = f"{text.rounded(one.low or 0)} to {text.rounded(one.high or 0)}" if known else NOT_MEASURED
        rows.append(f"| {_plain(one.name)} | {value} | {interval} | {_plain(one.n) or '-'} |")
    return ["## Scores", "", *rows, ""]


def _made_with() -> list[tuple[str, str]]:
    machine = footprint.machine()
    names = [str(machine[key]) for key in ("cpu", "gpu") if machine.get(key)]
    versions = ", ".join(f"{name} {version}" for name, version in footprint.versions().items())
    return [
        ("machine", _plain(", ".join([*names, f"{machine['cores']} cores", str(machine["os"])]))),
        ("versions", _plain(f"Python {machine['python']}, {versions}", 500)),
    ]


def _section(heading: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    if not rows:
        return []
    return [f"## {heading}", "", "| | |", "|---|---|", *(f"| {_plain(name)} | {value} |" for name, value in rows), ""]


def _bare(value: object, limit: int) -> str:
    """One printable line; what no YAML reader takes is left out."""
    return "".join(c for c in text.clean(value, limit) if c.isprintable())


def _plain(value: object, limit: int = 200) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#~&!])", r"\\\1", _bare(value, limit))


def _code(value: object, limit: int = 300) -> str:
    """A value in a code span, for names: nothing in it means anything."""
    shown = json.dumps(value) if isinstance(value, bool | dict | list) or value is None else value
    inner = _bare(shown, limit).replace("`", "'").replace("|", "\\|")
    return f"`{inner}`" if inner else "-"


def _line(line: str) -> str:
    """A line inside a fence, which cannot end it."""
    return "".join(c for c in line if c.isprintable()).replace("```", "'''")
