"""A small search over settings of a training, judged on validation rows; test rows are never seen.

Optuna's tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS 24) proposes, from a seed; what is usual is the
first trial, so that the answer is never worse than it on these rows. Finished trials are in the folder and are not
repeated.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from slmkit import assets, backends, estimate, files
from slmkit.backends.base import Backend, LoRAConfig
from slmkit.errors import InputError, MissingExtra
from slmkit.training import ways
from slmkit.tuning import rows as material
from slmkit.tuning.rows import Rows

JOURNAL, SETUP = "trials.jsonl", "search.json"
AROUND = 10.0  # the learning rate is searched that factor below and above the usual one
RANKS, EPOCHS, BLOCKS = (4, 8, 16, 32), (1, 2, 3, 5), (2, 4, 8, 16)
Say = Callable[..., None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes
    ----------
    frame : DataFrame
        A row a trial: number, the settings tried, loss and (of labels) accuracy on the validation rows, seconds.
    best : mapping
        Settings of the trial with the lowest validation loss, as `slmkit.finetune` and `LoRAClassifier` take them.
    loss : float
        Of that trial, in nats a row or (of answers) a token.
    n_train, n_validation : int
        Rows learned and rows judged on, in each trial.
    """

    frame: pd.DataFrame
    best: Mapping[str, Any]
    loss: float
    n_train: int
    n_validation: int

    def lines(self) -> list[str]:
        """The trials as a table, and the chosen setting."""
        chosen = ", ".join(f"{name} {value:.3g}" for name, value in self.best.items())
        table = self.frame.sort_values("loss").to_string(index=False, float_format=lambda v: f"{v:.4g}")
        said = f"chosen on {self.n_validation:,} validation rows: {chosen} (loss {self.loss:.4f})"
        return [*table.splitlines(), said]


def search(
    model: str,
    data_set: Any,
    *,
    trials: int,
    out: str | Path,
    method: str = "lora",
    bits: int | None = None,
    last_blocks: int | None = None,
    learning_rate: float | None = None,
    epochs: float = 3,
    train: int | None = None,
    validation_share: float = 0.2,
    text_column: str | None = None,
    label_column: str | None = None,
    backend: str | None = None,
    seed: int = 0,
    say: Say = log.info,
) -> Search:
    """Try settings of a training and choose by the loss on validation rows, which are a part of the training rows.

    Learning rate and epochs are searched, for adapters their rank, and for "last-k" the number of blocks. The score of
    the chosen setting on these rows is too good, for it was chosen by it: score it on test rows, as `slmkit tune` does.

    Parameters
    ----------
    model, data_set, method, bits, last_blocks, train, text_column, label_column, backend, seed
        As `slmkit tune` takes them.
    trials : int
        In all, those of an earlier call among them.
    out : path
        Folder for finished trials; the same call goes on with them.
    learning_rate, epochs
        The usual setting, which is the first trial; None and 3 take the method's own.
    validation_share : float
        Of the training rows, near-copies and groups kept on one side.
    say : callable
        Gets lines: how many trials, about how long, and each result.

    Returns
    -------
    Search

    Raises
    ------
    InputError, AssetError, MissingExtra, NotEnoughMemory
        Unusable settings; trials of another search in the folder, with the difference; Optuna not installed.
    """
    if trials < 1:
        raise InputError(f"trials must be at least 1; got {trials!r}")
    optuna = _optuna()
    source = assets.resolve(model)
    bits, blocks = ways.choose(method, bits, last_blocks, source, writes=False)
    usual: dict[str, Any] = {"learning_rate": ways.rate(method, learning_rate), "epochs": epochs}
    engine, source = backends.engine_for(source, backend), backends.prepare(source)
    columns = {"text_column": text_column, "label_column": label_column}
    rows = material.of(data_set, engine, source, train=train, seed=seed, **columns)
    learned, checked = rows.parted(validation_share, seed)
    config = LoRAConfig(
        epochs=epochs, learning_rate=usual["learning_rate"], last_blocks=blocks, seed=seed,
        max_length=rows.max_length(engine, source), max_batch_tokens=1024, trains=ways.get(method).trains,
    )  # fmt: skip
    lean = rows.check_fits(source, bits, config, backend)
    if config.trains == "adapter":
        usual["rank"] = config.rank
    if method == "last-k":
        usual["last_blocks"] = blocks
    setup = {"model": source.revision, "rows": rows.name, "n_train": len(learned.texts), "n": len(checked.texts)}
    setup |= {"method": method, "bits": bits, "backend": engine.name, "seed": seed, "blocks": blocks, "usual": usual}
    study = _study(optuna, Path(out), setup)
    if not any(t.params == usual or t.state == optuna.trial.TrialState.WAITING for t in study.trials if _counts(t)):
        study.enqueue_trial(usual)
    trial = _Trial(engine, source, bits, config, learned, checked, _space(method, usual, source), lean)
    _run(optuna, study, trial, trials, seed, say)
    return _result(study, len(learned.texts), len(checked.texts))


@dataclass(frozen=True)
class _Trial:
    """One training with proposed settings, as Optuna calls it."""

    engine: Backend
    source: assets.ModelSource
    bits: int
    config: LoRAConfig
    learned: Rows
    checked: Rows
    space: Mapping[str, Any]
    recompute: bool = False

    def __call__(self, trial: Any) -> float:
        began = time.perf_counter()
        chosen = {name: propose(trial) for name, propose in self.space.items()}
        config = replace(self.config, **chosen)
        if "rank" in chosen:
            config = replace(config, alpha=2 * config.rank)  # so that the rank alone changes, not the size of its steps
        how: dict[str, Any] = {"held_out": self.checked, "recompute": self.recompute}
        try:
            with tempfile.TemporaryDirectory(prefix="slmkit-trial-") as folder:
                history = self.learned.train(self.engine, self.source, self.bits, config, Path(folder), **how)
        except InputError as error:  # a loss that became no number
            trial.set_user_attr("failed", str(error))
            trial.set_user_attr("seconds", time.perf_counter() - began)
            return float("inf")
        best = min((entry for entry in history if "held_out_loss" in entry), key=lambda entry: entry["held_out_loss"])
        trial.set_user_attr("accuracy", best.get("held_out_accuracy"))
        trial.set_user_attr("seconds", time.perf_counter() - began)
        return float(best["held_out_loss"])

    def seconds(self) -> float:
        """About how long the usual setting takes."""
        tokens = float(
            np.mean(np.minimum(self.engine.count_tokens(self.source, self.learned.texts), self.config.max_length))
        )
        facts = {"method": "lora", "model": self.source, "bits": self.bits, "n_train": len(self.learned.texts)}
        facts |= {"n_test": len(self.checked.texts), "epochs": self.config.epochs, "mean_tokens": tokens}
        facts |= {} if self.config.last_blocks is None else {"last_blocks": self.config.last_blocks}
        return 1.0 if self.source.revision == "builtin" else float(estimate.study_estimate([facts])["seconds"])


def _space(method: str, usual: Mapping[str, Any], source: assets.ModelSource) -> dict[str, Callable[[Any], Any]]:
    """What is searched: a name and how a trial is asked for it; the usual value is always among those allowed."""
    rate = usual["learning_rate"]
    epochs = sorted({*EPOCHS, usual["epochs"]})
    found: dict[str, Callable[[Any], Any]] = {
        "learning_rate": lambda t: t.suggest_float("learning_rate", rate / AROUND, min(1.0, rate * AROUND), log=True),
        "epochs": lambda t: t.suggest_categorical("epochs", epochs),
    }
    if "rank" in usual:
        found["rank"] = lambda t: t.suggest_categorical("rank", RANKS)
    if "last_blocks" in usual:
        layers = estimate.network_of(source).layers
        blocks = sorted({*(n for n in BLOCKS if n <= layers), usual["last_blocks"]})
        found["last_blocks"] = lambda t: t.suggest_categorical("last_blocks", blocks)
    return found


def _run(optuna: Any, study: Any, trial: _Trial, trials: int, seed: int, say: Say) -> None:
    finished = _finished(study)
    left = max(0, trials - len(finished))
    took = [t.user_attrs["seconds"] for t in finished]
    each = float(np.mean(took)) if took else trial.seconds()
    measured = "measured" if took else "estimated"
    say(
        f"{left} of {trials} trials to come, about {estimate.duration(left * each)} ({measured}); test rows stay unseen"
    )

    def told(study: Any, done: Any) -> None:
        settings = ", ".join(f"{name} {value:.3g}" for name, value in done.params.items())
        say(
            f"trial {done.number}: {settings}: loss {done.value:.4f}"
            if done.value is not None
            else f"trial {done.number}"
        )

    while left > 0:  # one by one: a trial that was cut off counts for nothing
        study.sampler = optuna.samplers.TPESampler(seed=1000 * seed + len(_finished(study)))
        study.optimize(trial, n_trials=1, callbacks=[told])
        left = trials - len(_finished(study))


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def _counts(trial: Any) -> bool:
    """Whether a trial is finished or still to come; one that was cut off is neither."""
    return trial.state.name in ("COMPLETE", "WAITING")


def _study(optuna: Any, folder: Path, setup: Mapping[str, Any]) -> Any:
    """The study in a folder, begun or gone on with; `InputError` says in what another search there differs."""
    with files.on_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        before = assets.read_json(folder / SETUP) if (folder / SETUP).is_file() else None
        now = json.loads(json.dumps(setup))
        if before is not None and before != now:
            changed = [
                f"{name} {before.get(name)!r} there, {now[name]!r} now" for name in now if before.get(name) != now[name]
            ]
            raise InputError(
                f"{folder} holds trials of another search: {'; '.join(changed)}. Choose another out, or remove it"
            )
        files.replace(folder / SETUP, json.dumps(setup, indent=1) + "\n")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    return optuna.create_study(storage=storage, study_name="slmkit", direction="minimize", load_if_exists=True)


def _result(study: Any, n_train: int, n_validation: int) -> Search:
    finished = _finished(study)
    rows = [
        {
            "trial": t.number,
            **t.params,
            "loss": t.value,
            "accuracy": t.user_attrs.get("accuracy"),
            "seconds": t.user_attrs["seconds"],
        }
        for t in finished
    ]
    best = min(finished, key=lambda t: t.value)
    if not np.isfinite(best.value):
        raise InputError(f"no trial came to an end: {best.user_attrs['failed']}")
    chosen = dict(best.params) | ({"alpha": 2 * best.params["rank"]} if "rank" in best.params else {})
    return Search(pd.DataFrame(rows).dropna(axis=1, how="all"), chosen, float(best.value), n_train, n_validation)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra('a search needs Optuna: pip install -c constraints.txt -e ".[search]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
