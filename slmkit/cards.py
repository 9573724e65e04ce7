"""The cards of data sets: found beside the runs or with the task, and turned into HTML that can do nothing.

Cards are Markdown and may quote anything; raw HTML in them is shown as text, links lead nowhere but to http addresses,
and pictures are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from slmkit import tasks, text
from slmkit.runs import Run

MAX_CHARACTERS = 50_000
SECTION = 3  # the level of the heading a card stands under


def kept_at(out: Path, data_sha256: str) -> Path:
    """Where a study keeps the card of the data it ran on."""
    return out / "cards" / f"{data_sha256[:12]}.md"


def find(run: Run, folder: Path | None) -> str | None:
    """The card of a run's data, in Markdown; None when there is none."""
    is_hash = re.fullmatch("[0-9a-f]{64}", str(run.data_sha256))
    kept = kept_at(folder, run.data_sha256) if folder and is_hash else None
    if kept is not None and kept.is_file():
        return kept.read_text(encoding="utf-8", errors="replace")[:MAX_CHARACTERS]
    return tasks.named(run.task).card if run.task in tasks.names() else None


def to_html(card: str) -> str:
    """A card as HTML of headings, paragraphs, lists, tables and links."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "html_block", "html_inline"])
    reader.validateLink = lambda url: url.startswith(("https://", "http://"))  # type: ignore[method-assign]
    tokens = reader.parse(text.clean_document(card, MAX_CHARACTERS))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + SECTION)}"  # below the headings of the page
    return str(reader.renderer.render(tokens, reader.options, {}))
