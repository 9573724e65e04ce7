"""Exercises of notebook 00: what a model costs beside the floor, and who pays for a floor's errors."""

from __future__ import annotations

from slmkit.runs import Run
from slmkit.workshop.answers import near, number, share
from slmkit.workshop.exercise import Exercise, Hint


def _times_as_long(answer: object, runs: list[Run]) -> str:
    found = number(answer, "how many times as long")
    model, floor = (_of(runs, *one).latency_p50_s or 0.0 for one in (("lora", 16), ("floor", None)))
    if near(found, model / floor, 0.02):
        return f"{model * 1e3:.1f} ms against {floor * 1e3:.2f} ms here. Was it worth it? Look at p_vs_floor."
    if near(found, floor / model, 0.05 * floor / model):
        raise Hint("that is the floor's time as a part of the model's: turn the division round")
    if near(found, model - floor, 0.02) or near(found, 1e3 * (model - floor), 0.02):
        raise Hint("that is a difference: divide the model's time by the floor's")
    raise Hint('take latency_p50_s of the run "lora" at 16 bits and of the run "floor", and divide')


def _missed_fraud(answer: object, runs: list[Run]) -> str:
    found = share(answer, "the share of the fraud that the floor misses")
    floor = _of(runs, "floor", None)
    recall = floor.recall_by_class["fraud"]
    if near(found, 1 - recall):
        return f"Of {floor.n_test} test messages these are the ones somebody pays for."
    if near(found, recall):
        raise Hint("that is what the floor finds, its recall: the rest is missed")
    if near(found, 1 - floor.accuracy):
        raise Hint("that is the share of all messages it gets wrong, genuine ones among them: look at the fraud alone")
    raise Hint('`recall_by_class["fraud"]` of the run with the method "floor" is the share that is found')


def _of(runs: list[Run], method: str, bits: int | None) -> Run:
    return next(run for run in runs if (run.method, run.bits) == (method, bits))


EXERCISES = (
    Exercise(
        "00.1",
        "how many times as long LoRA at 16 bits takes for one message as the floor",
        _times_as_long,
        "[(run.method, run.bits, run.latency_p50_s) for run in result.runs] lists what you need",
    ),
    Exercise(
        "00.2",
        "the share of the fraud that the floor misses",
        _missed_fraud,
        'floor = next(run for run in result.runs if run.method == "floor"), then look at floor.recall_by_class',
    ),
)
