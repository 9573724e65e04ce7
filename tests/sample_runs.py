"""Runs as a study gives them, and a hostile text: for the tests of plots, verdicts and the report."""

from __future__ import annotations

from slmkit import metrics
from slmkit.runs import Run

N_TEST = 120
HOSTILE = "<img src=x onerror=\"document.title='owned'\"></script><script>document.title=1</script>\u202egnp\x1b[31m"


def a_run(method: str = "lora", model: str | None = "smollm2-135m-instruct", bits: int | None = 16, right: int = 107,
          **changes: object) -> Run:  # fmt: skip
    """One realistic run: `right` of 120 test rows are right."""
    share, (low, high) = right / N_TEST, metrics.wilson(right, N_TEST)
    values: dict[str, object] = {
        "run_id": f"{method}{model}{bits}{right}{changes.get('seed', 0)}", "created_utc": "2026-03-01T10:00:00+00:00",
        "slmkit_version": "0.1.0", "versions": {"torch": "2.13.0", "slmkit": "0.1.0"},
        "machine": {"cpu": "Example CPU 2.5 GHz", "cores": 2, "ram_bytes": 8_000_000_000, "os": "Linux 6.1"},
        "task": "fraud_messages", "data_sha256": "ab" * 32, "licence": "CC0-1.0", "n_train": 320, "n_test": N_TEST,
        "model": model, "revision": "12fd25f7" if model else None, "backend": "bnb" if model else None, "bits": bits,
        "scheme": {16: "bf16", 4: "nf4-dq-mse", None: None}[bits], "method": method, "params": {}, "seed": 0,
        "accuracy": share, "accuracy_low": low, "accuracy_high": high, "macro_f1": share - 0.01,
        "mcc": 0.78, "ece": 0.041, "recall_by_class": {"fraud": share - 0.03, "genuine": share + 0.01},
        "pr_auc": 0.95, "recall_at_1pct_fpr": 0.71, "stored_bytes": 269_000_000, "peak_ram_bytes": 812_000_000,
        "load_s": 1.4, "fit_s": 61.0, "latency_p50_s": 0.031, "latency_p95_s": 0.044, "rows_per_s": 55.0,
        "energy_j_per_1000_rows": 410.0, "energy_origin": "modelled", "p_vs_floor": 0.02,
        "intervals": {"recall:fraud": [low - 0.06, high - 0.02], "recall:genuine": [low, high]},
        "origins": {"accuracy": "measured", "stored_bytes": "measured", "energy_j_per_1000_rows": "estimated"},
    }  # fmt: skip
    return Run(**{**values, **changes})  # type: ignore[arg-type]


def a_floor(right: int = 102, **changes: object) -> Run:
    small = {"stored_bytes": 1_900_000, "peak_ram_bytes": 148_000_000, "latency_p50_s": 0.0007, "rows_per_s": 9000.0}
    costs = {"energy_j_per_1000_rows": 1.6, "fit_s": 0.6, "load_s": 0.02, "p_vs_floor": None}
    return a_run("floor", None, None, right, **{**small, **costs, **changes})


def a_study() -> list[Run]:
    """Twelve configurations as a study on a laptop gives them, one of them with three seeds."""

    def cost(mb: float, peak: float, ms: float, joule: float | None, p: float, **more: object) -> dict[str, object]:
        return {"stored_bytes": int(mb * 1e6), "peak_ram_bytes": int(peak * 1e6), "latency_p50_s": ms / 1e3,
                "energy_j_per_1000_rows": joule, "p_vs_floor": p, **more}  # fmt: skip

    slm, big = "smollm2-135m-instruct", "smollm2-360m-instruct"
    seeds = [a_run("lora", slm, 16, k, **cost(276, 905, 31 + s, 415, p, seed=s))
             for s, k, p in ((0, 111, 0.012), (1, 109, 0.039), (2, 112, 0.006))]  # fmt: skip
    return [
        *(a_floor(k, seed=s) for s, k in ((0, 102), (1, 101), (2, 103))), *seeds,
        a_run("lora", slm, 4, 110, **cost(86, 640, 44, 590, 0.02, p_vs_16bit=1.0)),
        a_run("prompt", slm, 16, 71, **cost(269, 880, 58, 760, 0.0001, params={"shots": 0})),
        a_run("prompt", slm, 4, 69, **cost(79, 620, 83, 1080, 0.0001, params={"shots": 0}, p_vs_16bit=0.79)),
        a_run("prompt", slm, 16, 84, **cost(269, 905, 66, 850, 0.001, params={"shots": 4})),
        a_run("prompt", slm, 4, 80, **cost(79, 660, 97, 1210, 0.0004, params={"shots": 4}, p_vs_16bit=0.29)),
        a_run("embedding", slm, 16, 104, **cost(269, 790, 29, 380, 0.79)),
        a_run("embedding", "minilm", 16, 107, **cost(46, 390, 4.6, 55, 0.23)),
        a_run("embedding", "minilm", 4, 106, **cost(17, 360, 5.2, None, 0.34, p_vs_16bit=1.0)),
        a_run("lora", big, 16, 113, **cost(731, 2120, 92, None, 0.003)),
        a_run("lora", big, 4, 112, **cost(229, 1480, 131, None, 0.006, p_vs_16bit=1.0)),
    ]  # fmt: skip
