"""A model to try, by its name: a plain one, one tuned on dialogues, or a saved classifier; and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit import assets, backends, classify, estimate, finetune
from slmkit.backends.base import LanguageModel
from slmkit.errors import InputError
from slmkit.estimator import FILE, ModelClassifier, TextClassifier, read_saved
from slmkit.tuning import either


@dataclass(frozen=True)
class Asked:
    """A model by its name: what it is, and how it is loaded."""

    name: str
    kind: str  # "model", "tuned" on dialogues, "saved" classifier
    model: str  # the model underneath; "" for a floor
    bits: int
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, mode: str, bits: int | None) -> Asked:
        folder = Path(name)
        if (folder / FILE).is_file():
            saved = read_saved(folder)
            if mode == "chat":
                raise InputError(f"{name} is a saved classifier, it sorts texts: take mode='classify'")
            params = saved["params"]
            own = saved["state"].get("bits") or params.get("bits") or 16
            return cls(name, "saved", str(params.get("model", "")), own, tuple(map(str, saved["classes"])))
        if (folder / finetune.FILE).is_file():
            told = assets.read_json(folder / finetune.FILE)
            if mode == "classify":
                raise InputError(f"{name} was tuned on dialogues, it answers: take mode='chat'")
            return cls(name, "tuned", str(told["model"]), int(told["bits"]))
        source = assets.resolve(name)
        if source.kind != "decoder":
            raise InputError(f"{name!r} is an encoder: tune it on labels (slmkit.tune) and name the folder it wrote")
        return cls(name, "model", name, bits or (source.stored.bits if source.stored else 16))

    def needs(self) -> dict[str, int]:
        """Bytes of memory by group, estimated."""
        if not self.model:
            return {}
        source = assets.resolve(self.model)
        return {} if source.revision == "builtin" else estimate.model_memory(source, self.bits)

    def scores(self) -> list[str]:
        """What its folder says of held-out rows, the floor's score beside it."""
        found = either.result(self.name) if self.kind != "model" and Path(self.name).is_dir() else None
        return [] if found is None else either.lines(found[0], found[1]["model"], found[1]["bits"])[1:4]

    def load(self, backend: str | None, task: Mapping[str, Any] | None) -> LanguageModel | TextClassifier:
        """Load it: to answer, or to sort by `task` where that is given."""
        if self.kind == "saved":
            saved = classify.load(self.name)
            if isinstance(saved, ModelClassifier):
                saved.facts()  # loads its model
            return saved
        if task is None:
            adapter = self.name if self.kind == "tuned" else None
            return backends.load(self.model, bits=self.bits, backend=backend, adapter=adapter)
        asked = {name: value for name, value in task.items() if name != "labels"}
        made = classify.PromptClassifier(self.model, bits=self.bits, backend=backend, calibrate=False, **asked)
        return made.fit(task["labels"], task["labels"])  # nothing is learned: the labels say which classes there are


def together(models: Sequence[Asked]) -> int:
    """Bytes of memory of all at once; the libraries count once."""
    needs = [one.needs() for one in models]
    shared = [need.pop("runtime", 0) for need in needs]
    return max(shared, default=0) + sum(sum(need.values()) for need in needs)
