"""How an engine's tokenizer reads the rows of a training: the ids themselves, for the guard to look at.

The rows come from the very functions that trainings and models use, so that a mistake in them shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from slmkit.assets import ModelSource
from slmkit.backends import _checks
from slmkit.backends import _completions as completions
from slmkit.backends import _shared as shared


@runtime_checkable
class Tokenizes(Protocol):
    """A backend that reads with a tokenizer of transformers."""

    def tokenizer(self, source: ModelSource) -> Any:
        """The tokenizer that its trainings and its models read with."""


@dataclass(frozen=True)
class Reading:
    """Rows as a training reads them.

    Attributes
    ----------
    bos, eos, pad : int or None
        Special tokens' ids.
    bos_token : str
        BOS as text; empty where there is none.
    adds_bos : bool
        Whether an ordinary text gets BOS.
    ends : frozenset of int
        Tokens at which generation stops.
    template : str
        The chat template; empty where there is none.
    template_sha256 : str or None
        As `slmkit_adapter.json` has it.
    rows : list of list of int
        Uncut ids of each text; with answers, what the model reads of prompt and answer together.
    targets : list of tuple of int, or None
        What must be predicted of each answer.
    """

    bos: int | None
    eos: int | None
    pad: int | None
    bos_token: str
    adds_bos: bool
    ends: frozenset[int]
    template: str
    template_sha256: str | None
    rows: list[list[int]]
    targets: list[tuple[int, ...]] | None = None


def read(
    engine: object, source: ModelSource, texts: Sequence[str], answers: Sequence[str] | None = None
) -> Reading | None:
    """Read texts, or prompts with their answers, as a training of this backend does; None for one without tokenizer.

    Raises `InputError` or `AssetError` for an unusable tokenizer, or a text the model cannot read.
    """
    if not isinstance(engine, Tokenizes):
        return None
    tokenizer = engine.tokenizer(source)
    ends = shared.end_tokens(tokenizer, _configured_ends(source.folder))
    rows, targets = shared.encode(tokenizer, texts), None
    if answers is not None:
        pairs, _ = completions.pairs(tokenizer, texts, answers, chat=source.chat, ends=ends, max_length=10**9)
        rows, targets = [list(pair.read) for pair in pairs], [pair.target for pair in pairs]
    bos = tokenizer.bos_token_id
    ordinary = tokenizer("Hello", verbose=False)["input_ids"]
    return Reading(
        bos=bos,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        bos_token=tokenizer.bos_token or "",
        adds_bos=bos is not None and ordinary[:1] == [bos],
        ends=frozenset(ends),
        template=str(tokenizer.chat_template or ""),
        template_sha256=_checks.template_sha256(tokenizer),
        rows=rows,
        targets=targets,
    )


def _configured_ends(folder: Path) -> list[int]:
    found: list[int] = []
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        named = values.get("eos_token_id")
        found += named if isinstance(named, list) else [named] if named is not None else []
    return found
