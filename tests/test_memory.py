"""Memory comes back when a model is released, whatever happened before; the ledger says who holds what."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import available

import slmkit
from slmkit import backends, ledger
from slmkit.assets import ModelSource
from slmkit.backends import _memory
from slmkit.backends.base import Backend, LoRAConfig

MB = 1_000_000
# Five cycles of load, use, fail and release for each way to end; RSS after each, and the most while a model was loaded.
CYCLES = """
import json, resource, sys
import numpy, psutil
from slmkit import backends
class Stop(Exception):
    pass
name, backend, bits, *ends = sys.argv[1:]
def rss():
    return psutil.Process().memory_info().rss
def fail(end):
    held = numpy.ones(40_000_000, dtype=numpy.uint8)  # what a frame keeps alive
    if end == "exception":
        raise Stop
    if end == "allocator":
        import torch
        return torch.empty(10**15, dtype=torch.uint8), held
    if end == "system":  # the system itself refuses the next page
        size = psutil.Process().memory_info().vms + 100_000_000
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
        blocks = []
        while True:
            blocks.append(numpy.ones(2_000_000, dtype=numpy.uint8))
def cycle(end):
    most = 0
    try:
        with backends.load(name, bits=int(bits), backend=backend) as model:
            model.loglikelihood(["Is it spam? "] * 4, [" yes", " no"])
            model.embed(["you have won a prize, call now"] * 8)
            most = rss()
            fail(end)
    except (Stop, MemoryError, RuntimeError) as error:
        sys.last_value, sys.last_traceback = error, error.__traceback__  # as a console and Jupyter do
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return most, rss(), "MemoryError" if isinstance(error, MemoryError) else type(error).__name__
    return most, rss(), None
backends.choose(backend)
before = cycle("plain")[1]  # with all libraries imported
print(json.dumps({end: [cycle(end) for _ in range(5)] for end in ends}))
print(before)
print(len(backends.live_models()))
"""
ENDS = {"plain": None, "exception": "Stop", "allocator": "RuntimeError", "system": "MemoryError"}


def came_back(name: str, backend: str, bits: int, *ends: str, most_bytes: int = 20 * MB) -> int:
    """Check that five cycles of each kind leave a tenth more at most, and so many bytes; returns what a model took."""
    command = [sys.executable, "-c", CYCLES, name, backend, str(bits), *ends]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    table, before, alive = done.stdout.splitlines()[-3:]
    found, start = json.loads(table), int(before)
    assert alive == "0" and list(found) == list(ends)
    for end, rows in found.items():
        after = [rss for _, rss, _ in rows]
        assert {error for *_, error in rows} == {ENDS[end]}, end
        shown = f"{end}: {[round(rss / MB) for rss in (start, *after)]} MB"
        assert max(after) <= 1.1 * start and max(after) - start < most_bytes, shown
    return min(most - after for rows in found.values() for most, after, _ in rows)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is not kept elsewhere")
def test_memory_comes_back_whatever_happened_inside(tiny_decoder: ModelSource) -> None:
    came_back(str(tiny_decoder.folder), "bnb", 16, *ENDS)


def test_memory_comes_back_on_mlx(tiny_decoder: ModelSource) -> None:
    available("mlx")
    came_back(str(tiny_decoder.folder), "mlx", 16, "plain", "exception")


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(("bits", "end"), [(4, "exception"), (16, "allocator")])
def test_memory_of_a_real_model_comes_back(real_model: str, bits: int, end: str) -> None:
    given_back = came_back(real_model, "bnb", bits, end, most_bytes=50 * MB)  # a tenth of the start
    assert given_back > 100 * MB, "what the model took is no longer held"


def test_a_device_holds_no_more_than_before(tiny_decoder: ModelSource) -> None:
    before = backends.device_bytes()
    with backends.load(str(tiny_decoder.folder), backend="bnb") as model:
        model.embed(["hello"])
    after = backends.device_bytes()
    assert set(after) <= {"bnb", "mlx"} and all(after[name] - before.get(name, 0) < 20 * MB for name in after)


# frames


class Large:
    """Something with a size that can be watched."""

    alive = 0

    def __init__(self) -> None:
        self.nbytes = 5 * MB
        type(self).alive += 1

    def __del__(self) -> None:
        type(self).alive -= 1


def fail_with_large() -> None:
    kept = Large()
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError(kept.nbytes) from error


def test_an_exception_inside_the_block_lets_its_frames_go(backend: Backend, tiny_decoder: ModelSource) -> None:
    with pytest.raises(ValueError) as error, backend.load(tiny_decoder):
        fail_with_large()
    assert Large.alive == 0 and str(error.value) == str(5 * MB)
    assert error.traceback[-1].name == "fail_with_large", "the traceback still says where"


def test_release_lets_the_last_traceback_go(
    backend: Backend, tiny_decoder: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = backend.load(tiny_decoder)
    try:
        fail_with_large()
    except ValueError as error:
        monkeypatch.setattr(sys, "last_value", error, raising=False)
    gc.collect()
    assert Large.alive == 1
    (frame,) = [one for one in slmkit.memory().holders if one.name == "fail_with_large()"]
    assert frame.kind == "traceback" and frame.n_bytes is not None and frame.n_bytes >= 5 * MB
    model.release()
    assert Large.alive == 0
    assert not [one for one in slmkit.memory().holders if one.name == "fail_with_large()"]


def test_a_training_that_is_stopped_leaves_nothing(backend: Backend, tiny_decoder: ModelSource, tmp_path: Path) -> None:
    told: list[ledger.Ledger] = []

    def stop(_: Any) -> None:
        told.append(slmkit.memory())
        fail_with_large()

    texts, y = ["win now", "see you"] * 8, np.array([1, 0] * 8)
    config = LoRAConfig(rank=4, epochs=2, batch_size=4, max_length=16)
    with pytest.raises(ValueError) as kept:
        backend.train_lora(tiny_decoder, texts, y, n_classes=2, bits=16, config=config, out=tmp_path, callback=stop)
    assert Large.alive == 0 and backends.live_trainings() == [] and kept.value.__traceback__ is not None
    (training,) = [one for one in told[0].holders if one.kind == "training"]
    assert training.name == tiny_decoder.name and f"16 bits, {backend.name}" in training.detail
    assert training.n_bytes is not None and training.n_bytes > 3 * 4 * 4 * 128  # weights and two states of one matrix


def test_weights_that_something_else_holds_are_spoken_of(
    tiny_decoder: ModelSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    model: Any = backends.get("bnb").load(tiny_decoder)
    keeper = [model._model]
    model.release()
    assert f"the weights of {tiny_decoder.name} were released but stay in memory, held by a list" in caplog.text
    caplog.clear()
    keeper.clear()
    backends.get("bnb").load(tiny_decoder).release()
    assert caplog.text == ""


# ledger


def test_the_ledger_lists_models_and_adapters(backend: Backend, tiny_decoder: ModelSource, tmp_path: Path) -> None:
    gc.collect()
    known = slmkit.memory().holders  # another test may hold a model
    texts, y = ["win now", "see you"], np.array([1, 0])
    config = LoRAConfig(rank=2, epochs=1, max_length=16)
    backend.train_lora(tiny_decoder, texts, y, n_classes=2, bits=16, config=config, out=tmp_path)
    with backend.load(tiny_decoder, bits=4) as small, backend.load(tiny_decoder, adapter=tmp_path) as large:
        found = slmkit.memory()
        models = [one for one in found.holders if one.kind == "model" and one not in known]
        assert [one.n_bytes for one in models] == [large.weight_bytes(), small.weight_bytes()]
        assert [one.detail.split(" bits")[0] for one in models] == ["16", "4"]
        assert all(f"{backend.name} on {small.device}, from {tiny_decoder.folder}" in one.detail for one in models)
        (adapter,) = [one for one in found.holders if one.kind == "adapter" and one not in known]
        assert adapter.name == str(tmp_path) and 0 < (adapter.n_bytes or 0) < 100_000
        assert found.rss_bytes > 50 * MB
        text = str(found)
        assert "model" in text and f"{small.weight_bytes() / MB:,.1f} MB" in text
        assert text.splitlines()[-1].endswith("MB in this process") or "on the GPU" in text
        assert repr(found) == text
    left = [one for one in slmkit.memory().holders if one.kind in ("model", "adapter") and one not in known]
    assert left == []


def test_the_ledger_lists_figures_and_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(x=np.arange(1000.0), y=np.arange(1000.0)), layout={"title": "errors by size"})
    shell = type("Shell", (), {"user_ns": {"Out": {3: np.zeros(2_000_000, dtype=np.uint8)}}})()
    fake = type("IPython", (), {"get_ipython": staticmethod(lambda: shell)})
    monkeypatch.setitem(sys.modules, "IPython", fake)
    holders = {(one.kind, one.name): one for one in slmkit.memory().holders}
    assert holders["output", "Out[3]"].n_bytes == 2 * MB and "ndarray" in holders["output", "Out[3]"].detail
    assert (holders["figure", "errors by size"].n_bytes or 0) >= 16_000
    assert "Out[3]" in str(slmkit.memory()) and "2.0 MB" in str(slmkit.memory())
    del figure
    gc.collect()
    assert ("figure", "errors by size") not in {(one.kind, one.name) for one in slmkit.memory().holders}


def test_the_ledger_imports_no_engine() -> None:
    code = "import sys, slmkit; print(slmkit.memory()); print({'torch', 'mlx', 'plotly', 'IPython'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("nothing of slmkit's is alive\n") and done.stdout.endswith("set()\n")


def test_frames_that_run_keep_their_variables() -> None:
    mine = Large()
    try:
        fail_with_large()
    except ValueError as error:
        _memory.drop_frames(error)
    assert mine.nbytes == 5 * MB and Large.alive == 1
