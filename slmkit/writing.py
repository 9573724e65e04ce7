"""Short writing jobs (to translate, to sum up, to work something out) on shipped texts, judged without a judge.

Each job has a measure that a rule can take, and a floor that no language model stands behind: the German left as it is,
the first words of the text, the sum of all numbers in the question. Answers are kept on the disk as they come, so
that a run that was stopped goes on. Facts of an assistant are judged by `slmkit.tuning.facts`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from slmkit import assets, backends, files, footprint, metrics, overlap, text
from slmkit.backends.base import Generation, Progress
from slmkit.errors import AssetError, InputError, unknown
from slmkit.jobs.background import Job as Background
from slmkit.tuning import facts, values
from slmkit.tuning.facts import Question

FILE = "answers.json"
SUMMARY_WORDS = 25  # of an answer that count: a text repeated as a whole states everything
Turns = Sequence[Mapping[str, str]]
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Job:
    """A kind of writing.

    Attributes
    ----------
    instruction : str
        What the model is told in front of a text.
    max_new_tokens : int
        Tokens at which an answer is cut.
    measure : str
        What the score of one answer is, in words.
    score : callable
        Gives it, 0 to 1, from the answer and the row.
    floor : callable
        Answers a row by a rule.
    floor_rule : str
        The rule in words.
    """

    instruction: str
    max_new_tokens: int
    measure: str
    score: Callable[[str, Mapping[str, Any]], float]
    floor: Callable[[str], str]
    floor_rule: str


def rows(job: str, n: int | None = None) -> pd.DataFrame:
    """The shipped texts of a job: text, reference, and the values (a list) that a summary must state.

    Parameters
    ----------
    job : str
        Of `JOBS`.
    n : int or None
        The first n of them; None takes all.
    """
    from slmkit_data import path

    _known(job)
    frame = pd.read_csv(path("short_jobs.csv"), dtype=str, keep_default_na=False)
    found = frame[frame["job"] == job][:n].reset_index(drop=True).drop(columns="job")
    found["values"] = found["values"].map(lambda cell: cell.split("|") if cell else [])
    return found


def prompts(job: str, texts: Sequence[str]) -> list[Turns]:
    """What is said to a model for each text: one turn of the user."""
    told = _known(job).instruction
    return [[{"role": "user", "content": f"{told}\n\n{one}"}] for one in texts]


def answers(
    model: str,
    asked: Sequence[Turns],
    out: str | Path,
    *,
    bits: int | None = None,
    backend: str | None = None,
    max_new_tokens: int = 64,
    progress: Progress | None = None,
) -> list[Generation]:
    """Let a model answer, one conversation at a time, always the likeliest token; what is in `out` is not asked again.

    Parameters
    ----------
    model : str
        As `slmkit.load` takes it. It is loaded when an answer is missing, and let go at the end.
    asked : sequence of turns
        Each a list of {"role", "content"}, the user last.
    out : path
        A folder; every answer is in its file before the next is asked for.
    bits, backend, max_new_tokens
        As `slmkit.load` and `LanguageModel.generate` take them.
    progress : callable or None
        Gets {"step", "steps"}: the number of answers there are, and of all.

    Returns
    -------
    list of Generation
        `seconds` as they were when the answer was written.
    """
    place = Path(out) / FILE
    told = _told(model, bits, backend, max_new_tokens)
    keys = [_key(told, turns) for turns in asked]
    kept = _kept(place)
    missing = [i for i, key in enumerate(keys) if key not in kept]
    if missing:
        Path(out).mkdir(parents=True, exist_ok=True)
        machine = footprint.machine()
        with backends.load(model, bits=bits, backend=backend) as loaded:
            for i in missing:
                (answer,) = loaded.generate([loaded.dialogue_prompt(asked[i])], max_new_tokens)
                here = {"cpu": machine["cpu"], "cores": machine["cores"], "peak_ram_bytes": footprint.peak_ram_bytes()}
                kept[keys[i]] = {**asdict(answer), **told, **here}
                files.replace(place, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
                if progress is not None:
                    progress({"step": sum(key in kept for key in keys), "steps": len(keys)})
    return [_generation(kept[key]) for key in keys]


def partly_recorded(
    model: str, asked: Sequence[Turns], out: str | Path, *, live: int | None, max_new_tokens: int = 64
) -> tuple[list[str], str]:
    """Answers of which the first `live` are written here and now, the others were recorded and come with slmkit.

    The model runs in a process of its own, so that all its memory is given back, and is unpacked in another one.

    Parameters
    ----------
    model, asked, out, max_new_tokens
        As `answers` takes them.
    live : int or None
        None asks everything here.

    Returns
    -------
    texts : list of str
    origin : str
        Where they come from, in words: belongs beside every score of them.

    Raises
    ------
    InputError
        Answers that are neither asked here nor recorded: another model or revision, other texts.
    """
    n = len(asked) if live is None else min(live, len(asked))
    there = _kept(Path(out) / FILE)
    if any(_key(_told(model, None, None, max_new_tokens), turns) not in there for turns in asked[:n]):
        source = assets.resolve(model)
        if source.gguf is not None and not assets.is_whole(source.folder):
            Background(_unpack, model).start(in_child=True).result()
        Background(answers, model, list(asked[:n]), out, max_new_tokens=max_new_tokens).start(in_child=True).result()
    here = answers(model, asked[:n], out, max_new_tokens=max_new_tokens)
    kept, where = _recorded(model, asked[n:], max_new_tokens) if n < len(asked) else ([], "")
    said = f"{n} written here" + (f", {len(kept)} recorded on {where}" if kept else "")
    if cut := sum(answer.finish_reason == "length" for answer in [*here, *kept]):
        said += f"; {cut} of them cut at {max_new_tokens} tokens"
    return [answer.text for answer in [*here, *kept]], said


def peak_ram_bytes(out: str | Path) -> int | None:
    """The most memory that a process held which wrote answers into `out`; None where nobody knows."""
    known = [one["peak_ram_bytes"] for one in _kept(Path(out) / FILE).values() if one.get("peak_ram_bytes")]
    return max(known, default=None)


def floor(job: str, texts: Sequence[str]) -> list[str]:
    """What the job's rule answers to each text, without a language model."""
    return [_known(job).floor(one) for one in texts]


def scores(job: str, given: Sequence[str], asked: pd.DataFrame) -> np.ndarray:
    """The score of each answer, 0 to 1, shape (n,).

    Parameters
    ----------
    job : str
    given : sequence of str
        Answers, in the order of `asked`.
    asked : DataFrame
        Of `rows`.
    """
    how = _known(job)
    if len(given) != len(asked):
        raise InputError(f"one answer a row is needed; got {len(given)} answers and {len(asked)} rows")
    records: list[dict[str, Any]] = asked.to_dict("records")  # type: ignore[assignment]
    return np.array([how.score(one, row) for one, row in zip(given, records, strict=True)])


def table(job: str, given: Mapping[str, Sequence[str]], asked: pd.DataFrame) -> pd.DataFrame:
    """Scores of several writers, each with its interval, and the paired difference to the floor.

    Parameters
    ----------
    job : str
    given : mapping of str to sequence of str
        Answers of each writer; the floor is added.
    asked : DataFrame
        Of `rows`.

    Returns
    -------
    DataFrame
        writer, n, score, low, high (95 %; Wilson's where every score is 0 or 1, else a bootstrap over the texts),
        points (against the floor, in hundredths) with points_low, points_high and p. One row a writer, the floor first.
    """
    name = f"floor: {_known(job).floor_rule}"
    every = {
        writer: scores(job, said, asked) for writer, said in {name: floor(job, list(asked["text"])), **given}.items()
    }
    return pd.DataFrame([_row(writer, found, every[name]) for writer, found in every.items()])


def fact_table(given: Mapping[str, Sequence[str]], asked: Sequence[Question], sheet: pd.DataFrame) -> pd.DataFrame:
    """The columns of `table` for assistants: the share of the values asked for that each one's answers state.

    Parameters
    ----------
    given : mapping of str to sequence of str
        Answers of each assistant to every question. The first is what the others are compared with, the floor.
    asked : sequence of Question
        Of `facts.questions`; n is the number of values they ask for.
    sheet : DataFrame
        Columns fact and value.

    Returns
    -------
    DataFrame
        And `invented`: the share of all answers with an amount, a time or a number that stands nowhere.
    """
    floor_name, *_ = given
    found = []
    for writer, said in given.items():
        scored = facts.score(said, asked, sheet)
        row = {"writer": writer, "n": scored.n_facts, "score": scored.recall, "low": scored.low, "high": scored.high}
        pair = None if writer == floor_name else facts.compare(said, given[floor_name], asked)
        found.append({**row, **_against(pair), "invented": scored.invented})
    return pd.DataFrame(found)


def sentences(found: pd.DataFrame) -> list[str]:
    """A `table` in words."""
    said = []
    for row in found.to_dict("records"):
        line = f"{row['writer']}: {text.with_interval(row['score'], row['low'], row['high'])}, n = {row['n']}"
        if row["p"] is not None and not pd.isna(row["p"]):
            clear = "" if row["p"] < 0.05 else ", not significant"
            span = f"({row['points_low']:+.1f} to {row['points_high']:+.1f})"
            line += f"; against the floor {row['points']:+.1f} points {span}, {text.p_value(row['p'])}{clear}"
        said.append(line)
    return said


class WordCounts:
    """Vectors of weighted word counts, for `facts.nearest`: a search without a language model."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = TfidfVectorizer(sublinear_tf=True, stop_words="english").fit(list(texts))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Float64, shape (n_texts, n_words)."""
        return np.asarray(self._counts.transform(list(texts)).toarray())


def first_words(passage: str) -> str:
    """The beginning of a text, as many words as count in a summary."""
    return " ".join(passage.split()[:SUMMARY_WORDS])


def last_number(answer: str) -> Decimal | None:
    """The number that an answer states last, in digits or words; None where it states none."""
    found = _NUMBER.findall(values.spell(answer))
    return Decimal(found[-1]) if found else None


def _number_sum(question: str) -> str:
    return str(sum(map(Decimal, _NUMBER.findall(values.spell(question))), Decimal(0)))


def _stated(answer: str, row: Mapping[str, Any]) -> float:
    said = first_words(answer)
    return float(np.mean([values.states(said, value) for value in row["values"]]))


JOBS = {
    "translation": Job(
        "Translate this German sentence into English. Answer with the English sentence only.",
        32,
        "likeness to the reference (chrF)",
        lambda answer, row: overlap.chrf(answer, row["reference"]),
        lambda passage: passage,
        "the German as it is",
    ),
    "summary": Job(
        "Sum up this text in one sentence.",
        48,
        f"share of the important values that its first {SUMMARY_WORDS} words state",
        _stated,
        first_words,
        f"the first {SUMMARY_WORDS} words",
    ),
    "tutor": Job(
        "Work this out step by step and end with the number.",
        64,
        "whether the last number is right",
        lambda answer, row: float(last_number(answer) == Decimal(row["reference"])),
        _number_sum,
        "the sum of all numbers",
    ),
}


def _known(job: str) -> Job:
    if job not in JOBS:
        raise unknown("job", job, JOBS)
    return JOBS[job]


def _told(model: str, bits: int | None, backend: str | None, max_new_tokens: int) -> dict[str, Any]:
    """What makes an answer this one and no other, beside what was asked."""
    revision = assets.resolve(model).revision
    return {"model": model, "revision": revision, "bits": bits, "backend": backend, "tokens": max_new_tokens}


def _unpack(model: str) -> None:
    """Make the copy of a model's packed file that is loaded from, where there is none yet."""
    backends.prepare(assets.resolve(model))


def _generation(one: Mapping[str, Any]) -> Generation:
    return Generation(**{name: one[name] for name in Generation.__dataclass_fields__})


def _recorded(model: str, asked: Sequence[Turns], max_new_tokens: int) -> tuple[list[Generation], str]:
    """Shipped answers, and the machines they were written on."""
    from slmkit_data import path

    kept, told = _kept(path("answers") / FILE), _told(model, None, None, max_new_tokens)
    keys = [_key(told, turns) for turns in asked]
    if missing := sum(key not in kept for key in keys):
        raise InputError(
            f"{missing} of {len(keys)} answers of {model!r} are not among those recorded with slmkit: ask for all of "
            "them here (live=None)"
        )
    found = [kept[key] for key in keys]
    machines = sorted({f"{one['cpu']}, {one['cores']} cores" for one in found})
    return [_generation(one) for one in found], "; ".join(text.clean(name, 80) for name in machines)


def _key(told: Mapping[str, Any], turns: Turns) -> str:
    document = json.dumps([told, [dict(turn) for turn in turns]], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:24]


def _kept(place: Path) -> dict[str, dict[str, Any]]:
    if not place.is_file():
        return {}
    found = assets.read_json(place)
    if not all(isinstance(one, dict) and {"text", "seconds"} <= set(one) for one in found.values()):
        raise AssetError(f"{place} does not hold answers: remove it, and they are asked for anew")
    return found


def _row(writer: str, found: np.ndarray, against: np.ndarray) -> dict[str, Any]:
    whole = bool(np.isin(found, (0.0, 1.0)).all())
    low, high = metrics.wilson(int(found.sum()), len(found)) if whole else overlap.mean(found)[1:]
    row = {"writer": writer, "n": len(found), "score": float(found.mean()), "low": low, "high": high}
    if found is against:
        return {**row, **_against(None)}
    both = whole and bool(np.isin(against, (0.0, 1.0)).all())
    return {**row, **_against(metrics.mcnemar(found == 1, against == 1) if both else overlap.compare(found, against))}


def _against(pair: Mapping[str, float] | None) -> dict[str, float | None]:
    """The difference to the floor in points with its ends, and p; None for the floor itself."""
    names = {"points": "difference", "points_low": "low", "points_high": "high"}
    ends = {name: None if pair is None else 100 * pair[key] for name, key in names.items()}
    return {**ends, "p": None if pair is None else pair["p"]}
