"""The guard after a training: whether what was learned is there, and came out as it should.

Each check is one function of an `Outcome` in the table `FILES`; they read what was written and load no model. An
adapter that no gradient reached, a head that was lost, a loss that rose: each trains and saves without a complaint.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from slmkit import architectures, assets
from slmkit.assets import tensors
from slmkit.backends.base import TRAINED
from slmkit.errors import SlmkitError
from slmkit.guard.findings import FAIL, WARN, Check, Finding, fine
from slmkit.guard.plan import Outcome

ADAPTER_FILES = ("adapter_model.safetensors", "adapters.safetensors")  # of PEFT, of mlx-lm
LOOKED_AT = 20  # of those, as many are compared with the model's own
BLOCK = 64  # values that share a scale when a head is quantised


def weights_moved(out: Outcome) -> Finding | None:
    """No adapter matrix is still zero, as all of them begin, and no trained weight is still the model's own."""
    moved = _adapted(out) or _changed(out)
    if moved is None:
        return None
    still = [name for name, nonzero in moved.items() if not nonzero]
    evidence = {"still": len(still), "matrices": len(moved)}
    if still:
        steps = f" after {len(out.history)} steps" if out.history else ""
        return Finding(
            "weights moved",
            FAIL if len(still) == len(moved) else WARN,
            f"{len(still)} of {len(moved)} trained matrices are as they began{steps}, {still[0]} among them",
            "no gradient reached them: that part of the model is the untuned one",
            "train on freshly loaded weights (a model that has scored may pass no gradient), and not with everything "
            "frozen",
            evidence,
        )
    return fine("weights moved", f"all {len(moved)} trained matrices moved", **evidence)


def targets_matched(out: Outcome) -> Finding | None:
    """The adapter sits on every linear layer that belongs to the architecture."""
    moved = _adapted(out)
    if moved is None:
        return None
    kind = str(_config(out).get("model_type"))
    name, found = "target modules", {key.split(".")[-1] for key in moved}
    if not found:
        return Finding(
            name,
            FAIL,
            "the adapter holds no matrix: its targets matched no layer of the model",
            "nothing but the head was trained",
            "name the layers of this architecture, or take all linear layers (slmkit does)",
        )
    known = architectures.ARCHITECTURES.get(kind)
    missing = sorted(set(known.lora_targets) - found) if known else []
    if missing:
        return Finding(
            name,
            WARN,
            f"the adapter leaves {', '.join(missing)} of {kind} alone; it sits on {', '.join(sorted(found))}",
            "fewer weights adapt than was meant, which costs accuracy and is not said elsewhere",
            f"targets of {kind} are {', '.join(known.lora_targets if known else ())}",
            {"missing": len(missing)},
        )
    return fine(name, f"{', '.join(sorted(found))}: {len(moved)} matrices", matrices=len(moved))


def loss_falls(out: Outcome) -> Finding | None:
    """The median loss of the last tenth of the steps is below that of the first tenth, and better than guessing."""
    losses = np.array([entry["loss"] for entry in out.history])
    if len(losses) < 6:
        return None
    name, part = "loss falls", max(2, len(losses) // 10)
    first, last = float(np.median(losses[:part])), float(np.median(losses[-part:]))
    guess = math.log(out.n_classes) if out.n_classes else math.inf
    evidence = {"first": first, "last": last, "steps": len(losses)}
    said = f"{first:.3f} at the beginning, {last:.3f} at the end of {len(losses)} steps"
    if not np.isfinite(losses).all() or last > max(1.5 * first, guess if out.n_classes else 0):
        mend = "take a smaller learning_rate (a third), and look at the first rows"
        return Finding(name, FAIL, f"it rises: {said}", "the training diverged; the model is spoilt", mend, evidence)
    if last > 0.98 * min(first, guess):
        what = "it does not fall" if last > 0.98 * first else f"it ends where guessing does ({guess:.3f})"
        return Finding(
            name,
            WARN,
            f"{what}: {said}",
            "hardly anything was learned",
            "train for more epochs or with a larger learning_rate; check that labels belong to their texts",
            evidence,
        )
    return fine(name, said, **evidence)


def held_out_gained(out: Outcome) -> Finding | None:
    """The loss on held-out answers is lower than before."""
    if out.losses is None:
        return None
    before, after = out.losses
    evidence = {"before": before, "after": after}
    if after >= before or not math.isfinite(after):
        return Finding(
            "held-out loss",
            WARN,
            f"{before:.3f} before and {after:.3f} after the tuning: it did not fall",
            "what was learned does not hold for new rows",
            "take fewer epochs, a smaller learning_rate, or more rows",
            evidence,
        )
    return fine("held-out loss", f"{before:.3f} before, {after:.3f} after", **evidence)


def head_is_there(out: Outcome) -> Finding | None:
    """A head for labels is saved, has a row for each class, and was trained."""
    if out.n_classes is None:
        return None
    name, cost = "head", "the classes would be guessed, by a head that is made up on loading"
    remedy = "save it beside the adapter (LoRAClassifier.save does), or train again"
    if out.head is None:
        why = "cannot be read" if (out.folder / "head.safetensors").exists() else "is not there"
        return Finding(name, FAIL, f"head.safetensors {why} in {out.folder}", cost, remedy)
    weight, bias = out.head
    hidden = _hidden(out)
    if weight.ndim != 2 or len(weight) != out.n_classes or bias.shape != (out.n_classes,):
        found = f"its shape is {weight.shape} with a bias of {bias.shape}, for {out.n_classes} classes"
        return Finding(name, FAIL, found, cost, remedy)
    if hidden is not None and weight.shape[1] != hidden:
        found = f"it reads vectors of {weight.shape[1]} values, and the base model has {hidden}"
        return Finding(name, FAIL, found, "it belongs to another model", "put back the head that was saved", {})
    values = np.concatenate([weight.ravel(), bias]).astype(np.float64)
    if not np.isfinite(values).all() or not weight.any():
        found = "it holds values that are no numbers" if weight.any() else "all its weights are zero"
        return Finding(name, FAIL, found, cost, remedy)
    if not bias.any():
        found = "its bias is exactly zero, as in a head that was never trained"
        return Finding(name, FAIL, found, cost, remedy, {"std": float(weight.std())})
    return fine(name, f"{weight.shape[0]} classes, {weight.shape[1]} values each", std=float(weight.std()))


def head_not_quantised(out: Outcome) -> Finding | None:
    """The head's values are as training left them, not on the grid of 4 or 8 bits."""
    if out.head is None or out.n_classes is None:
        return None
    values = np.asarray(out.head[0])
    levels = {4: _few_values(values.astype(np.float64)), 8: _on_grid(values.astype(np.float64))}
    bits = next((b for b, hit in levels.items() if hit), None)
    if values.dtype.kind in "iu" or bits is not None:
        return Finding(
            "head not quantised",
            FAIL,
            f"its values are {values.dtype}" if bits is None else f"its values lie on a grid of {bits} bits",
            "the head is a few rows of numbers: nothing is saved, and near classes fall together",
            "keep the head out of quantisation and save it in float32",
        )
    return fine("head not quantised", f"{values.dtype}, {len(np.unique(values)):,} different values")


FILES: dict[str, Check[Outcome]] = {
    "weights moved": weights_moved,
    "target modules": targets_matched,
    "loss falls": loss_falls,
    "held-out loss": held_out_gained,
    "head": head_is_there,
    "head not quantised": head_not_quantised,
}


def _adapted(out: Outcome) -> dict[str, bool] | None:
    """Adapted layers, and whether each one moved; None for a folder without an adapter that can be read."""
    path = next((out.folder / name for name in ADAPTER_FILES if (out.folder / name).is_file()), None)
    if path is None:
        return None
    found: dict[str, bool] = {}
    for name in tensors.names(path):
        if ".lora_b" in name.lower():
            layer = name.lower().split(".lora_b")[0]
            found[layer] = bool(tensors.read_file(path, name).any())
    return found


def _changed(out: Outcome) -> dict[str, bool] | None:
    """Trained weights, evenly some of them, and whether each differs from the model's own."""
    path = out.folder / TRAINED
    if not path.is_file():
        return None
    names = tensors.names(path)
    found: dict[str, bool] = {}
    for name in names[:: max(1, len(names) // LOOKED_AT)]:
        try:
            own = tensors.read(out.source.folder, name)
        except SlmkitError:  # under another name there
            continue
        now = tensors.read_file(path, name)
        found[name] = now.shape != own.shape or bool((now != own).any())
    return found or None


def _config(out: Outcome) -> dict[str, Any]:
    path = out.source.folder / "config.json"
    return assets.read_json(path) if path.is_file() else {}


def _hidden(out: Outcome) -> int | None:
    """Width of the base model's vectors, where its configuration says so."""
    config = _config(out)
    found = config.get("hidden_size") or config.get("dim") or (config.get("text_config") or {}).get("hidden_size")
    return int(found) if found else None


def _few_values(weight: np.ndarray) -> bool:
    """Whether blocks of 64 values hold no more different ones than 4 bits can say."""
    flat = weight.ravel()
    blocks = flat[: len(flat) // BLOCK * BLOCK].reshape(-1, BLOCK)
    return len(blocks) > 0 and max(len(np.unique(block)) for block in blocks) <= 16


def _on_grid(weight: np.ndarray) -> bool:
    """Whether the values of each row, or of each block of 64, are whole multiples of 1/127 of their largest."""
    flat = weight.ravel()
    for shaped in (weight, flat[: len(flat) // BLOCK * BLOCK].reshape(-1, BLOCK)):
        if not shaped.size:
            continue
        steps = 127 * shaped / np.maximum(np.abs(shaped).max(axis=1, keepdims=True), 1e-30)
        if np.abs(steps - steps.round()).max() < 0.01:
            return True
    return False
