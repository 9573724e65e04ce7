"""What `slmkit tune` shows: how the training goes, and what it bought on held-out answers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slmkit import backends
from slmkit.console import Lines, about


def run(model: str, data: str, out: Path, as_json: bool, **how: Any) -> None:
    """Tune, showing progress on stderr, and print the result as lines or as one JSON document."""
    from slmkit.finetune import finetune, partial_of

    lines = Lines()
    if found := backends.unfinished(partial_of(out)):
        lines.lasting(f"goes on from step {found[0]} of {found[1]} ({partial_of(out)})")
    told = finetune(
        model, data, out=out, progress=lambda event: lines.passing(about({"event": "tune", **event})), **how
    )
    lines.passing("")
    if as_json:
        print(json.dumps({**asdict(told), "folder": str(told.folder)}))
        return
    if told.stopped:
        where = f"{partial_of(out)} still holds its checkpoint: remove it if you do not go on"
        print(f"stopped after step {len(told.history)}; {where}")
    print(f"{told.n_train:,} answers learned, {told.n_test:,} held out (n = {told.n_tokens:,} tokens)")
    print(f"loss on the held-out answers: {told.loss_before:.3f} before, {told.loss_after:.3f} after (nats a token)")
    print(f"perplexity of the held-out answers: {told.learned}")
    print(f"perplexity of a neutral text: {told.forgotten}")
    bits = json.loads((told.folder / "finetune.json").read_text(encoding="utf-8"))["bits"]
    print(f"Use it: slmkit.load({model!r}, bits={bits}, adapter={str(told.folder)!r})")


def stopped(out: Path) -> str:
    """What to say after Ctrl-C: what is kept, and how to go on."""
    from slmkit.finetune import partial_of

    found = backends.unfinished(partial_of(out))
    if not found:
        return f"stopped; nothing was written to {out}"
    return (
        f"stopped; {partial_of(out)} keeps step {found[0]} of {found[1]}. The same command goes on from there; with "
        "--keep-partial it makes an adapter of it as it is"
    )
