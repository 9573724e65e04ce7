"""What a `Tuner` says: of its ways, its rows, its learning rate, what stands in a folder, and what a tuning cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from slmkit import files, footprint, text
from slmkit.jobs.background import Snapshot
from slmkit.training import ways
from slmkit.tuning.either import Left
from slmkit_widgets.models.progress import cost

METHOD_WORDS = {
    "lora": "adapters on all blocks",
    "qlora": "adapters over 4-bit weights, less memory",
    "last-k": "adapters on the last blocks, quicker",
    "full": "the weights themselves, most memory",
}
SAID = {
    "ready": "Nothing runs yet.",
    "done": "Done: the result is below.",
    "cancelled": "Stopped.",
    "failed": "The tuning failed; the cause is above. Settings can be changed, and Start tries again.",
}
ROWS_SAID = {
    None: "Rows: a task's name, or a file with texts and labels or with dialogues.",
    True: "Dialogues: the perplexity of held-out answers is measured before and after. No word count writes answers, "
    "so the model before tuning is what it has to beat.",
    False: "Labels: a fifth of the rows is held out and scored, beside a word-count floor learned on the same rows.",
}


def rate(value: Any) -> str:
    return "" if value in (None, "") else f"{value:g}" if isinstance(value, float | int) else str(value)


def rate_words(method: str) -> str:
    own = ways.get(method).learning_rate
    why = (
        "weights themselves bear smaller steps than adapters, which begin at zero"
        if ways.get(method).trains == "weights"
        else "adapters begin at zero and bear larger steps than the weights themselves"
    )
    return (
        f"Learning rate: {own:g} unless you say otherwise, since {why}. Too high and the loss jumps or becomes no "
        "number; too low and little is learned in the epochs there are. slmkit.find_lr measures one."
    )


def rows_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.rows.jsonl")


def kept(rows: pd.DataFrame, out: Path) -> Path:
    """A frame as a file beside the output folder: a child process, and a kernel that was restarted, can read it."""
    path = rows_file(out)
    with files.on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, rows.to_json(orient="records", lines=True, force_ascii=False))
    return path


def half_done(out: str, left: Left | None) -> str:
    if left is None:
        return ""
    asked = {name: left.asked[name] for name in ("model", "data", "method") if name in left.asked}
    told = f" ({', '.join(str(value) for value in asked.values())})" if asked else ""
    return f"A tuning stands half done in {out}{told}, at step {left.step:,} of {left.steps:,}: Resume goes on with it."


def spent(folder: Path, now: Snapshot | None) -> list[str]:
    """What a tuning cost; of one that ended before this widget was made only what it left on the disk is known."""
    stored = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    if now is None:
        return [f"{text.megabytes(stored)} stored"]
    machine = footprint.machine()
    return [f"It cost {cost(now)} · {text.megabytes(stored)} stored ({machine['cpu']}, {machine['cores']} cores)"]
