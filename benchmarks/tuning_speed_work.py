"""The child of `tuning_speed`: one tuning and its predictions, by slmkit or by Trainer and PEFT, from load to answers.

`python -m benchmarks.tuning_speed_work` is run by `slmkit.jobs`. The peer's side imports nothing of slmkit that sets
anything for torch.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from slmkit import footprint, jobs

Rows = dict[str, list[Any]]


def own(train: Rows, test: Rows, how: dict[str, Any]) -> dict[str, Any]:
    """slmkit's LoRAClassifier."""
    began = time.perf_counter()
    from slmkit import LoRAClassifier

    names = ["rank", "alpha", "epochs", "learning_rate", "batch_size", "max_length", "last_blocks", "seed"]
    names += ["max_batch_tokens"]
    model = LoRAClassifier(how["model"], **{name: how[name] for name in names})
    model.fit(train["text"], train["label"])
    fitted = time.perf_counter()
    return _told(began, fitted, model.predict(test["text"]), test)


def peer(train: Rows, test: Rows, how: dict[str, Any]) -> dict[str, Any]:
    """transformers.Trainer with PEFT: padding to the batch, rows of like length together, bfloat16."""
    began = time.perf_counter()
    import torch
    from datasets import Dataset  # type: ignore[import-untyped]
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

    set_seed(how["seed"])
    labels = sorted(set(train["label"]))
    tokenizer = AutoTokenizer.from_pretrained(how["folder"])
    model = AutoModelForSequenceClassification.from_pretrained(
        how["folder"], num_labels=len(labels), dtype=getattr(torch, how["dtype"])
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    linear = {name.rsplit(".", 1)[-1] for name, m in model.model.named_modules() if isinstance(m, torch.nn.Linear)}
    blocks = model.config.num_hidden_layers
    lora = LoraConfig(
        task_type="SEQ_CLS",
        r=how["rank"],
        lora_alpha=how["alpha"],
        lora_dropout=0.0,
        target_modules=sorted(linear),
        layers_to_transform=list(range(blocks - how["last_blocks"], blocks)) if how["last_blocks"] else None,
    )
    model = get_peft_model(model, lora)

    def rows_of(part: Rows) -> Any:
        tokens = tokenizer(part["text"], truncation=True, max_length=how["max_length"])
        known = {"labels": [labels.index(label) for label in part["label"]], "length": list(map(len, tokens.input_ids))}
        return Dataset.from_dict({**tokens, **known})

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=how["epochs"],
            per_device_train_batch_size=how["batch_size"],
            per_device_eval_batch_size=how["eval_batch"],
            learning_rate=how["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            weight_decay=0.01,
            max_grad_norm=1.0,
            train_sampling_strategy="group_by_length",
            bf16=how["autocast"],
            use_cpu=not torch.cuda.is_available(),
            seed=how["seed"],
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=rows_of(train), processing_class=tokenizer)
        trainer.train()
        fitted = time.perf_counter()
        arguments.train_sampling_strategy = "random"  # of evaluation: in the order given, here by length
        data = rows_of(test)
        order = np.argsort(-np.array(data["length"]), kind="stable")
        logits = np.empty((len(order), len(labels)))
        logits[order] = trainer.predict(data.select(order)).predictions
    return _told(began, fitted, [labels[i] for i in logits.argmax(axis=1)], test)


def _told(began: float, fitted: float, predicted: Any, test: Rows) -> dict[str, Any]:
    right = [bool(a == b) for a, b in zip(predicted, test["label"], strict=True)]
    return {
        "seconds": time.perf_counter() - began,
        "fit_s": fitted - began,
        "peak_bytes": footprint.peak_ram_bytes(),
        "right": right,
        "predicted": [str(label) for label in predicted],
    }


def _serve(job: dict[str, Any], _: jobs.Emit) -> dict[str, Any]:
    parts = json.loads(Path(job["rows"]).read_text(encoding="utf-8"))
    return {"slmkit": own, "peer": peer}[job["side"]](parts["train"], parts["test"], job["how"])


if __name__ == "__main__":
    jobs.serve(_serve)
