"""Financial PhraseBank: sentences of financial news, judged by 5 to 8 people each (Malo et al. 2014), in four files.

The files hold the sentences on which at least 50, 66, 75 % or all of them agreed, each contained in the one before.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from slmkit.assets.sources import DataFile
from slmkit.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

ARCHIVE = "FinancialPhraseBank-v1.0"
URL = (
    "https://huggingface.co/datasets/takala/financial_phrasebank/resolve/598b6aad98f7c8d67be161b12a4b5f2497e07edd/data/"
    f"{ARCHIVE}.zip"
)
SHA256 = {
    "50": "bb1b4df6de05d50b146f87a9d4d024b69f947066445f2384f014c3564c1612c8",
    "66": "725adb1de7d33977b0c2f63c33d5ad60e3c623b916856e18663915dfe47b6981",
    "75": "a7ca39fb9dc60aed1c323ee635494aed4acdfc05e0349a9e74367502325303a4",
    "All": "5fb370b3005b9a2759f708849a691ad2e4d2593d4c995c1afde229398a516594",
}
CARD = """# Financial PhraseBank v1.0, {level}
{n} sentences of English news about companies listed in Helsinki: positive, negative or neutral for an investor.

- Every sentence of a stricter agreement level stands in the looser ones too: a model tuned on "50Agree" has seen the
  test rows of "AllAgree".
- Published results are inflated where test texts stood in the training pool.
- Licence: CC BY-NC-SA 3.0, so not for commercial use. Source: the authors' v1.0 archive.
"""
ROWS = {"50": 4846, "66": 4217, "75": 3453, "All": 2264}
TERMS = (
    "You may use it for other than commercial purposes only, must name its authors, and may pass on what you make of "
    "its texts under the same licence only."
)


def _file(level: str) -> DataFile:
    name = f"Sentences_{level}Agree.txt"
    return DataFile(f"financial_phrasebank/{name}", URL, SHA256[level], f"{ARCHIVE}/{name}")


def read(level: str) -> pd.DataFrame:
    """All rows of one agreement level ("50", "66", "75", "All") in file order, duplicates included."""
    from slmkit import data
    from slmkit.assets import sources

    found = sources.path(_file(level), _name(level))
    lines = found.read_bytes().decode("latin-1").split("\n")
    rows = [line.rstrip("\r").rsplit("@", 1) for line in lines if line.strip()]
    return data.finish([text for text, _ in rows], [label for _, label in rows])


def _name(level: str) -> str:
    return f"financial_phrasebank_{level.lower()}agree"


def _task(name: str, level: str) -> Task:
    return Task(
        name=name,
        title=f"Financial PhraseBank ({level}Agree)",
        labels=("negative", "neutral", "positive"),
        positive=None,
        instruction="Decide whether the financial news is positive, neutral or negative for an investor.",
        label_words={"negative": "negative", "neutral": "neutral", "positive": "positive"},
        noun="sentence",
        licence="CC BY-NC-SA 3.0 (non-commercial)",
        source="P. Malo, A. Sinha, P. Korhonen, J. Wallenius, P. Takala: Good debt or bad debt: Detecting semantic "
        "orientations in economic texts, JASIST 65(4), 2014. doi:10.1002/asi.23062",
        card=CARD.format(level=f"{level}Agree", n=ROWS[level]),
        read=partial(read, level),
        n_rows=ROWS[level],
        n_bytes=700_000,
        data=_file(level),
        terms=TERMS,
        gate="financial_phrasebank",
    )


TASKS = (_task("financial_phrasebank", "All"), *(_task(_name(level), level) for level in SHA256))
