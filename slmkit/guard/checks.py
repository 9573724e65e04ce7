"""The guard before a training: mistakes in rows, labels and tokens that would cost it silently.

Each check is one function of a `Plan` in the table `BEFORE`. What they look for is known to have ruined real trainings:
the last position read instead of the last token (a classifier at 78 instead of 98 %), an end that is never learned, a
second BOS, labels that slipped by a row, a teacher whose targets are constant.
"""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

from slmkit import catalog
from slmkit.guard.findings import FAIL, WARN, Check, Finding, fine
from slmkit.guard.labelnoise import labels_follow_texts
from slmkit.guard.plan import Plan
from slmkit.splits import alike, leaks

MARKS = re.compile(r"<\|im_(?:start|end)\|>|<\|(?:user|assistant|system|end|eot_id|start_header_id)\|>"
                   r"|<(?:start|end)_of_turn>|\[/?INST\]")  # fmt: skip
MANY = 0.1  # share of rows from which a cut is worth a word
CONTRADICTORY = 0.25  # share of rows from which contradictions are no noise
SHOWN = 3  # rows named in one sentence


def pad_token(plan: Plan) -> Finding | None:
    """A pad token is set, so that batches can be padded at all."""
    read = plan.reading
    if read is None:
        return None
    if read.pad is None:
        return Finding(
            "pad token",
            FAIL,
            f"the tokenizer of {plan.source.name} has no pad token, and none was set",
            "rows of unequal length cannot share a batch, or are padded with a token that is read as text",
            f"put pad_token into {plan.source.folder}/tokenizer_config.json (the end token does)",
        )
    same = " (the end token; answers learn their end by place, not by id)" if read.pad in read.ends else ""
    return fine("pad token", f"id {read.pad}{same}")


def end_is_learned(plan: Plan) -> Finding | None:
    """Every answer's last target is a token at which generation stops, also where padding is the same token."""
    read = plan.reading
    if read is None or read.targets is None:
        return None
    without = [i for i, target in enumerate(read.targets) if not target or target[-1] not in read.ends]
    early = [i for i, target in enumerate(read.targets) if read.ends & set(target[:-1])]
    if without:
        masked = " (it is the pad token too: a mask by id takes it away)" if read.pad in read.ends else ""
        return Finding(
            "end of answers",
            FAIL,
            f"{len(without):,} of {len(read.targets):,} answers are learned without a token that ends them{masked}",
            "the tuned model would never stop writing",
            "keep the end token in the labels: mask padding by its place, not by its id",
            {"without_end": len(without), "answers": len(read.targets)},
        )
    if early:
        return Finding(
            "end of answers",
            WARN,
            f"{len(early):,} answers hold an end token before their end (row {plan.rows[early[0]]} for one)",
            "the tuned model learns to stop there, and what follows is learned for nothing",
            "take the end token out of the answers' texts",
            {"early_end": len(early), "answers": len(read.targets)},
        )
    return fine("end of answers", f"all {len(read.targets):,} answers end in a stop token", answers=len(read.targets))


def one_bos(plan: Plan) -> Finding | None:
    """Rows begin with BOS exactly once, template and tokenizer together."""
    read = plan.reading
    if read is None or read.bos is None:
        return None
    leads = np.array([next((i for i, t in enumerate(row) if t != read.bos), len(row)) for row in read.rows])
    lone = np.array([len(row) == 1 for row in read.rows])  # an empty text is BOS alone
    double, none = np.flatnonzero((leads > 1) & ~lone), np.flatnonzero(leads == 0)
    cost = "the model never saw such a beginning, and what it writes and decides from there is off"
    if len(double):
        return Finding(
            "one BOS",
            FAIL,
            f"{len(double):,} of {len(read.rows):,} rows begin with {read.bos_token!r} twice or more",
            cost,
            "leave BOS to the template or to the tokenizer, not to both (nor to the text)",
            {"double": len(double), "rows": len(read.rows)},
        )
    if read.adds_bos and len(none):
        found = f"{len(none):,} of {len(read.rows):,} rows begin without {read.bos_token!r}, which this tokenizer adds"
        mend = "cut rows behind BOS, not at it; encode with special tokens"
        return Finding("one BOS", FAIL, found, cost, mend, {"none": len(none), "rows": len(read.rows)})
    inside = sum(read.bos in row[1:] for row in read.rows) if read.bos_token not in read.template else 0
    if inside:
        found = f"{inside:,} rows hold {read.bos_token!r} as a part of their text"
        mend = "take it out of the texts"
        return Finding("one BOS", WARN, found, "the model reads it as a beginning", mend, {"inside": inside})
    return fine("one BOS", "each row begins with it once" if read.adds_bos else "none is added, none is doubled")


def template_fits(plan: Plan) -> Finding | None:
    """No chat template on a base model, and no turns of another template in the texts."""
    entry, read = catalog.MODELS.get(plan.source.name), plan.reading
    if read is None:
        return None
    if plan.source.chat and entry is not None and not entry.chat:
        return Finding(
            "chat template",
            WARN,
            f"{plan.source.name} is a base model, and is asked through a chat template",
            "its marks mean nothing to a base model, and the first rows go into learning them",
            f"take the chat model, or a base model without template (remove it from {plan.source.folder})",
        )
    own = _own(read.template)
    holds = {int(i): sorted(set(MARKS.findall(plan.texts[i])) - own) for i in plan.rows}
    foreign = {i: marks[0] for i, marks in holds.items() if marks}
    if len(foreign) > MANY * len(plan.rows):
        row, mark = next(iter(foreign.items()))
        what = "its own template has other ones" if read.template else "it is a base model without a template"
        return Finding(
            "chat template",
            WARN,
            f"{len(foreign):,} of {len(plan.rows):,} rows hold marks of a chat template that is not this model's, such "
            f"as {mark} in row {row}: {what}",
            "the marks are read as odd text, in training and in use",
            "give plain texts, or messages that slmkit renders with the model's own template",
            {"rows": len(foreign)},
        )
    return fine("chat template", "the texts hold no marks of a foreign template")


def _own(template: str) -> set[str]:
    """Marks that a template writes; one that puts a role between bars writes all of those."""
    found = set(MARKS.findall(template))
    if re.search(r"<\|['\"]? ?[+~{]", template):
        found |= {f"<|{role}|>" for role in ("user", "assistant", "system")}
    return found


def same_prompts(plan: Plan) -> Finding | None:
    """Prompts are trained on as this backend renders the same dialogues when it is asked later."""
    if not plan.questions:
        return None
    some = plan.rows[:: max(1, len(plan.rows) // 50)]
    wanted = plan.engine.dialogue_prompts(plan.source, [plan.questions[i] for i in some])
    other = [int(i) for i, prompt in zip(some, wanted, strict=True) if plan.texts[i] != prompt]
    if other:
        return Finding(
            "same prompts",
            FAIL,
            f"{len(other)} of {len(some)} prompts are not what {plan.source.name} is asked with later (row {other[0]})",
            "the tuned model is asked in a form it was not tuned on, and answers like the untuned one",
            "render prompts with Backend.dialogue_prompts (or give finetune the messages)",
            {"other": len(other), "looked_at": len(some)},
        )
    return fine("same prompts", f"{len(some)} prompts are rendered as in use", looked_at=len(some))


def contradictions(plan: Plan) -> Finding | None:
    """The same text under two labels."""
    if plan.codes is None or plan.proba is not None:
        return None
    groups: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(plan.texts):
        groups[alike.normalise(text)].append(i)
    torn = [rows for rows in groups.values() if len({int(plan.codes[i]) for i in rows}) > 1]
    n_rows = sum(map(len, torn))
    if not torn:
        return fine("contradictory labels", f"none in {len(plan.texts):,} rows")
    first = torn[0][0]
    second = next(i for i in torn[0] if plan.codes[i] != plan.codes[first])
    return Finding(
        "contradictory labels",
        FAIL if n_rows > CONTRADICTORY * len(plan.texts) else WARN,
        f"{n_rows:,} of {len(plan.texts):,} rows have a text that stands under two labels: rows {first} and {second}, "
        f"{plan.named(plan.codes[first])} and {plan.named(plan.codes[second])}, are the first",
        "no model can get both right; they cap the accuracy and are learned by heart",
        "look at them (slmkit data check), correct or drop them",
        {"rows": n_rows, "texts": len(torn)},
    )


def held_out_is_unseen(plan: Plan) -> Finding | None:
    """No held-out row, and no near-copy of one, among those learned."""
    if not len(plan.held_out):
        return None
    learned = plan.texts if plan.learned is None else plan.learned
    report = leaks.check({"train": list(learned), "test": list(plan.held_out)}, within=False)
    if not report.n_leaking:
        return fine("train rows in test", f"none of {len(plan.held_out):,} held-out rows", held_out=len(plan.held_out))
    found = report.across[0]
    example = report.examples(found, 1)[0]
    return Finding(
        "train rows in test",
        FAIL,
        f"{found.sentence()} ({example})",
        "the score on held-out rows would be too high, and tell nothing of new texts",
        "split again (slmkit data split keeps copies and near-copies on one side), or drop them from one part",
        {"leaking": report.n_leaking, "held_out": len(plan.held_out)},
    )


def cut_rows(plan: Plan) -> Finding | None:
    """Rows that lose tokens to `max_length`."""
    read = plan.reading
    if read is None or not read.rows:
        return None
    lengths, most = np.array([len(row) for row in read.rows]), plan.config.max_length
    share, lost = float((lengths > most).mean()), float(np.maximum(lengths - most, 0).sum() / lengths.sum())
    if share <= MANY:
        return fine("cut rows", f"{share:.0%} of the rows are longer than {most} tokens", share=share)
    part = "end" if plan.answers is None else "beginning of their prompt"
    return Finding(
        "cut rows",
        WARN,
        f"{share:.0%} of the rows are longer than {most} tokens and lose their {part}, {lost:.0%} of all tokens",
        "what is cut cannot be learned from, in training and in use",
        f"take a larger max_length: {int(np.quantile(lengths, 0.95))} holds 95 % of the rows whole",
        {"share": share, "tokens_lost": lost},
    )


def soft_targets(plan: Plan) -> Finding | None:
    """A teacher's probabilities that say something: neither constant, nor uniform, nor no probabilities."""
    return None if plan.proba is None else targets_say_something(plan.proba)


def targets_say_something(proba: np.ndarray) -> Finding:
    """What is wrong with the label probabilities of a teacher, shape (n_rows, n_classes)."""
    name, p = "teacher's targets", np.asarray(proba, dtype=np.float64)
    remedy = "look at the teacher's predict_proba on ten rows: is it fitted, and does it get the texts?"
    if p.ndim != 2 or not np.isfinite(p).all() or (p < 0).any() or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        found = "they are no probabilities: each row must hold finite values, at least 0, that add up to 1"
        return Finding(name, FAIL, found, "the student would learn noise, or nothing", remedy)
    spread, uniform = float(p.std(axis=0).max()), float(np.abs(p - 1 / p.shape[1]).max())
    evidence = {"spread": spread, "from_uniform": uniform, "rows": len(p)}
    if len(p) > 1 and spread < 1e-3:
        what = "uniform" if uniform < 1e-2 else "the same"
        found = f"all {len(p):,} rows have {what} probabilities (largest standard deviation {spread:.1e})"
        return Finding(name, FAIL, found, "the student learns that constant and nothing of the texts", remedy, evidence)
    top = np.bincount(p.argmax(axis=1), minlength=p.shape[1])
    if len(p) >= 20 and top.max() == len(p):
        found = f"class {int(top.argmax())} is the likeliest of all {len(p):,} rows"
        cost = "the student learns to say that class"
        return Finding(name, WARN, found, cost, "check the teacher, and that the pool holds every class", evidence)
    return fine(name, f"they differ from row to row (largest standard deviation {spread:.2f})", **evidence)


BEFORE: dict[str, Check[Plan]] = {
    "pad token": pad_token,
    "end of answers": end_is_learned,
    "one BOS": one_bos,
    "chat template": template_fits,
    "same prompts": same_prompts,
    "cut rows": cut_rows,
    "labels": labels_follow_texts,
    "contradictory labels": contradictions,
    "train rows in test": held_out_is_unseen,
    "teacher's targets": soft_targets,
}
