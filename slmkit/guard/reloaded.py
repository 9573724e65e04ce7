"""The guard after a training: the model loaded anew is the one that was trained, and does what it should.

Each check is one function of an `Outcome` with a model, in the table `LOADED`. A head made up on loading, classes in
another order, an adapter that was not applied, answers without an end: nothing of it raises an error by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from slmkit.guard.findings import FAIL, WARN, Check, Finding, fine
from slmkit.guard.plan import PROBES, Outcome

ANSWERS = 3  # answers that are written to see whether they end
MOST_TOKENS = 160  # of each
CLOSE, FAR = 0.05, 0.2  # differences of probabilities, or of nats a token, from what was written down


def head_reloaded(out: Outcome) -> Finding | None:
    """The model loaded anew has about the loss on rows it learned that the training ended with."""
    losses = [entry["loss"] for entry in out.history]
    if out.model is None or out.plan is None or len(losses) < 6:
        return None
    part = max(2, len(losses) // 10)
    first, last = float(np.median(losses[:part])), float(np.median(losses[-part:]))
    if first - last < 0.2:
        return None  # too small a fall to tell the tuned model from the untuned one
    now = _loss_of_labels(out) if out.n_classes is not None else _loss_of_answers(out)
    if now is None:
        return None
    evidence = {"training_began": first, "training_ended": last, "loaded": now}
    said = f"{now:.3f} on learned rows, where training went from {first:.3f} to {last:.3f}"
    if now > first - 0.25 * (first - last):
        return Finding(
            "loaded = trained",
            FAIL,
            f"the model loaded anew has a loss of {said}",
            "what was learned is lost on loading (a head made up anew, an adapter not applied): it would guess",
            "train again; if it stays so, load with the backend, bits and template of the training",
            evidence,
        )
    return fine("loaded = trained", f"loss {said}", **evidence)


def classes_in_order(out: Outcome) -> Finding | None:
    """Predictions on learned rows are not those of another order of the classes."""
    sample = out.sample
    if sample is None:
        return None
    codes, proba = sample
    return permuted(codes, proba.argmax(axis=1), [str(name) for name in out.classes])


def permuted(codes: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> Finding:
    """Say whether predictions would be far better under another order of the classes, and under which.

    Parameters
    ----------
    codes, predicted : ndarray of int, shape (n,)
    classes : sequence of str
    """
    n = len(classes)
    confusion = np.zeros((n, n), dtype=int)
    np.add.at(confusion, (codes, predicted), 1)
    labels, best = linear_sum_assignment(-confusion)
    own, other = float(np.trace(confusion) / len(codes)), float(confusion[labels, best].sum() / len(codes))
    evidence = {"accuracy": own, "accuracy_permuted": other, "rows": len(codes)}
    if other >= 0.6 and other - own >= 0.3 and len(codes) >= 8:
        moved = [f"{classes[a]!r} comes out as {classes[b]!r}" for a, b in zip(labels, best, strict=True) if a != b]
        return Finding(
            "order of classes",
            FAIL,
            f"{own:.0%} of {len(codes)} learned rows come out right, {other:.0%} if classes are renamed: "
            + ", ".join(moved),
            "a model that learned well would score worse than guessing",
            "pair labels and columns by name: classes_ sorted = columns of predict_proba = rows of the head",
            evidence,
        )
    return fine("order of classes", f"{own:.0%} of {len(codes)} learned rows come out right", **evidence)


def more_than_one_class(out: Outcome) -> Finding | None:
    """Not all rows get one class."""
    sample = out.sample
    if sample is None or len(sample[0]) < 16:
        return None
    codes, proba = sample
    counts = np.bincount(proba.argmax(axis=1), minlength=proba.shape[1])
    top, there = int(counts.argmax()), len(np.unique(codes))
    if counts[top] == len(codes) and there > 1:
        share = float((codes == top).mean())
        return Finding(
            "one class",
            WARN,
            f"all {len(codes)} learned rows come out as {str(out.classes[top])!r}, which {share:.0%} of them are",
            "accuracy looks like the share of the largest class, and the others are never found",
            "train longer or with a larger learning_rate; weigh or even out the classes",
            {"share": share, "rows": len(codes)},
        )
    return fine("one class", f"{int((counts > 0).sum())} classes are predicted on {len(codes)} learned rows")


def probes_as_written(out: Outcome) -> Finding | None:
    """The loaded model says of five fixed sentences what was written down when it was trained."""
    now = out.probe_values
    if out.probes is None or now is None or np.shape(now) != np.shape(out.probes):
        return None
    then, name = np.asarray(out.probes), "as trained"
    off = float(np.abs(now - then).max())
    unit = "probability" if out.n_classes is not None else "nats a token"
    said = f"up to {off:.3f} ({unit}) from what was written down for {len(PROBES)} fixed sentences"
    if off > FAR and out.n_classes is not None and (swap := _swap(then, now)) is not None:
        moved = [f"{str(out.classes[a])!r} comes out as {str(out.classes[b])!r}" for a, b in enumerate(swap) if a != b]
        return Finding(
            name,
            FAIL,
            f"its answers are {said}, and equal to it with the classes in another order: {', '.join(moved)}",
            "rows of the head and names of the classes are paired wrongly: right answers under wrong names",
            "put back head.safetensors and the classes in classifier.json as they were saved, or train again",
            {"off": off},
        )
    if off > CLOSE:
        return Finding(
            name,
            FAIL if off > FAR else WARN,
            f"its answers are {said}",
            "this is not the model that was measured: another base, adapter, head or template",
            "put back the files as they were saved, or train again",
            {"off": off},
        )
    return fine(name, said, off=off)


def last_token_read(out: Outcome) -> Finding | None:
    """Texts in a batch get the numbers that they get alone, whatever side the tokenizer pads."""
    if out.model is None:
        return None
    batch, single = _in_a_batch(out), np.concatenate([_in_a_batch(out, [i]) for i in range(len(PROBES))])
    off = float((np.linalg.norm(batch - single, axis=1) / np.maximum(np.linalg.norm(single, axis=1), 1e-9)).max())
    if off > FAR:
        return Finding(
            "batched = single",
            FAIL,
            f"what the model says of texts in a batch differs by up to {off:.0%} from what it says of each alone: the "
            "place read is not the last token that is no padding",
            "shorter texts are judged by their padding; a GPT-2 spam classifier read 78.3 instead of 98.3 % that way",
            "set the pad token, and read the last place of the attention mask",
            {"off": off},
        )
    return fine("batched = single", f"within {off:.1%}", off=off)


def answers_end(out: Outcome) -> Finding | None:
    """A greedy answer ends by itself; the first that does is enough."""
    if out.model is None or out.n_classes is not None:
        return None
    asked, most = _prompts(out)
    written = (out.model.generate([prompt], most)[0] for prompt in asked)
    ended = next((one for one in written if one.finish_reason == "stop"), None)
    evidence = {"asked": len(asked), "max_new_tokens": most}
    if ended is None:
        return Finding(
            "answers end",
            WARN,
            f"none of {len(asked)} answers ended within {most} tokens",
            "the model talks on after its answer, which costs time and spoils the text",
            "see that EOS is in the labels (pad == eos masks it), and train for more epochs",
            evidence,
        )
    return fine("answers end", f"one ended after {ended.n_new_tokens} tokens", n_new_tokens=ended.n_new_tokens)


def asked_as_trained(out: Outcome) -> Finding | None:
    """The loaded model renders dialogues as they were rendered for the training."""
    if out.model is None or out.plan is None or not out.plan.questions:
        return None
    for i in out.plan.rows[:5]:
        now = out.model.dialogue_prompt(out.plan.questions[i])
        if now != out.plan.texts[i]:
            return Finding(
                "same template",
                FAIL,
                f"row {i} was learned as {out.plan.texts[i][:40]!r} and is asked as {now[:40]!r}",
                "the tuned model is asked in a form it was not tuned on",
                "load the tokenizer that the training used",
            )
    return fine("same template", "dialogues are asked as they were learned")


LOADED: dict[str, Check[Outcome]] = {
    "batched = single": last_token_read,
    "same template": asked_as_trained,
    "loaded = trained": head_reloaded,
    "order of classes": classes_in_order,
    "one class": more_than_one_class,
    "as trained": probes_as_written,
    "answers end": answers_end,
}


def _loss_of_labels(out: Outcome) -> float | None:
    if out.sample is None:
        return None
    plan, (_, proba) = out.plan, out.sample
    assert plan is not None and plan.y is not None
    y = np.asarray(plan.y)[out.sample_rows]
    wanted = np.eye(proba.shape[1])[y] if y.ndim == 1 else y
    weights = getattr(plan.config, "class_weights", None)
    each = -(wanted * np.log(np.maximum(proba, 1e-12)) * np.asarray(1.0 if weights is None else weights)).sum(axis=1)
    return float(each.mean())


def _loss_of_answers(out: Outcome) -> float | None:
    plan = out.plan
    if out.model is None or plan is None or plan.answers is None:
        return None
    some = out.sample_rows[:16]
    asked, told = [plan.texts[i] for i in some], [plan.answers[i] for i in some]
    nats, n_tokens = out.model.answer_loglikelihood(asked, told, plan.config.max_length)
    return float(-nats.sum() / n_tokens.sum()) if n_tokens.sum() else None


def _in_a_batch(out: Outcome, some: Sequence[int] = range(len(PROBES))) -> np.ndarray:
    """Vectors that the head reads, or nats a token of answers, of some probes at once, shape (n, width)."""
    assert out.model is not None
    texts = [PROBES[i] for i in some]
    if out.n_classes is None:
        return out.nats(texts)[:, None]
    return out.model.embed(texts, pooling=out.pooling, max_length=out.max_length).astype(np.float64)


def _prompts(out: Outcome) -> tuple[list[str], int]:
    """Prompts to answer, learned ones where they are known, and the tokens an answer may take."""
    assert out.model is not None
    plan = out.plan
    if plan is None or plan.answers is None:
        turns = [{"role": "user", "content": text} for text in PROBES[:ANSWERS]]
        return [out.model.dialogue_prompt([turn]) for turn in turns], MOST_TOKENS
    some = out.sample_rows[:ANSWERS]
    longest = int(out.model.count_tokens([plan.answers[i] for i in some]).max())
    return [plan.texts[i] for i in some], min(2 * longest + 16, MOST_TOKENS)


def _swap(then: np.ndarray, now: np.ndarray) -> list[int] | None:
    """The order of classes under which `now` is what it was, class a having become class swap[a]; None for none."""
    apart = np.abs(then[:, :, None] - now[:, None, :]).max(axis=0)  # (C, C)
    classes, others = linear_sum_assignment(apart)
    same = apart[classes, others].max() <= CLOSE
    return [int(b) for b in others] if same and (classes != others).any() else None
