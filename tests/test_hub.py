"""Models of the hub, fetched by huggingface_hub itself from a server on this machine that serves a small checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback_server import Answer, LoopbackServer
from safetensors.numpy import save

from slmkit import catalog
from slmkit.assets import ModelSource

FIRST, SECOND = "1" * 40, "2" * 40
HUB_ID = "someone/small-model"
ALWAYS = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
# huggingface_hub reads HF_ENDPOINT when it is imported, so every story is told by a process of its own.
RESOLVE = """
import json, logging, sys
from slmkit import assets, errors
told = []
handler = logging.Handler()
handler.emit = lambda record: told.append(record.getMessage())
logging.getLogger("slmkit").addHandler(handler)
for name in sys.argv[1:]:
    try:
        source = assets.resolve(name)
        said = {"folder": str(source.folder), "revision": source.revision}
    except errors.SlmkitError as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said | {"log": told}))
"""
SCORE = """
import logging, sys, slmkit
from slmkit import errors
logging.basicConfig(stream=sys.stdout)
for name in sys.argv[1:]:
    try:
        with slmkit.load(name, backend="bnb", dtype="float32") as model:
            print(repr(float(model.loglikelihood(["The bank"], [" wrote"])[0, 0])))
    except errors.AssetError as error:
        print(error)
"""


@pytest.fixture
def files(tiny_decoder: ModelSource) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tiny_decoder.folder.iterdir()}


class Machine:
    """A machine with a cache of its own that knows one hub."""

    def __init__(self, folder: Path, server: LoopbackServer) -> None:
        self.folder, self.server = folder, server
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "SLMKIT_"))}
        own = {"HF_ENDPOINT": server.url(), "HF_HOME": str(folder / "hf"), "SLMKIT_CACHE": str(folder / "cache")}
        self.environment = kept | own | {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def run(self, code: str, *arguments: str, **environment: str) -> list[str]:
        self.server.log.clear()
        command = [sys.executable, "-c", code, *arguments]
        told = self.environment | environment
        done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def resolve(self, *names: str, **environment: str) -> Any:
        said = [json.loads(line) for line in self.run(RESOLVE, *names, **environment)]
        return said[0] if len(said) == 1 else said

    def asked(self, method: str = "GET") -> list[str]:
        """Paths asked for, the repository's own part only."""
        paths = [a.path.partition("?")[0] for a in self.server.log if a.method == method and "small-model" in a.path]
        return [path.replace(f"/{HUB_ID}/resolve", "").replace(f"/api/models/{HUB_ID}/", "") for path in paths]

    def fetched(self) -> list[str]:
        return sorted(path.rpartition("/")[2] for path in self.asked() if path.startswith("/"))


@pytest.fixture
def machine(tmp_path: Path, server: LoopbackServer) -> Machine:
    return Machine(tmp_path, server)


def test_main_is_resolved_once_written_down_and_reused_also_offline(
    machine: Machine, server: LoopbackServer, files: dict[str, bytes]
) -> None:
    server.publish_model(HUB_ID, FIRST, files)
    first = machine.resolve(HUB_ID)
    assert first["revision"] == FIRST and first["log"] == []
    assert machine.asked()[0] == "revision/main" and machine.fetched() == sorted(files)
    assert json.loads((machine.folder / "cache" / "revisions.json").read_text()) == {HUB_ID: FIRST}
    server.publish_model(HUB_ID, SECOND, files)  # main moves on
    assert machine.resolve(HUB_ID) == first and server.log == [], "what is here is not asked for again"
    for variable in ("HF_HUB_OFFLINE", "SLMKIT_OFFLINE"):
        assert machine.resolve(HUB_ID, **{variable: "1"}) == first and server.log == []
        said = machine.resolve("someone/other", **{variable: "1"})["error"]
        assert said.startswith(f"AssetError: cannot fetch 'someone/other' (fetching is off: {variable}=1): unset it")
        assert said.endswith("or give the path of a local copy") and server.log == []


def test_a_pinned_revision_of_the_catalog_is_what_is_fetched(
    machine: Machine, server: LoopbackServer, files: dict[str, bytes]
) -> None:
    entry = next(e for e in catalog.MODELS.values() if e.revision != "main" and e.package is None)
    server.publish_model(entry.hub_id, entry.revision, files)
    server.plan(f"/api/models/{entry.hub_id}/revision/main", Answer(b"main must not be asked for", 500))
    assert machine.resolve(entry.name)["revision"] == entry.revision


def test_only_safetensors_and_what_is_needed_is_fetched(
    machine: Machine, server: LoopbackServer, files: dict[str, bytes]
) -> None:
    unwanted = [
        "pytorch_model.bin", "modeling_small.py", "tokenizer_small.py", "onnx/config.json", "original/m.safetensors",
        "consolidated.safetensors", "training_args.bin", "README.md", "model.gguf", ".gitattributes",
    ]  # fmt: skip
    server.publish_model(HUB_ID, FIRST, files | dict.fromkeys(unwanted, b"no"))
    machine.resolve(HUB_ID)
    assert machine.fetched() == sorted(files)


def test_a_cut_connection_goes_on_where_it_ended(
    machine: Machine, server: LoopbackServer, files: dict[str, bytes]
) -> None:
    large = save({"weight": np.random.default_rng(0).integers(0, 255, 24_000_000, dtype=np.uint8)})
    server.publish_model(HUB_ID, FIRST, files | {"model.safetensors": large})
    path = f"/{HUB_ID}/resolve/{FIRST}/model.safetensors"
    (whole,) = server.script[path]
    cut = Answer(whole.body, cut=15_000_000, etag=whole.etag, headers=whole.headers)
    server.plan(path, cut, whole)
    folder = Path(machine.resolve(HUB_ID)["folder"])
    ranges = [asked.range for asked in server.log if asked.path == path and asked.method == "GET"]
    assert ranges == [None, f"bytes={10 * 2**20}-"], "huggingface_hub keeps whole pieces of 10 MiB"
    assert (folder / "model.safetensors").read_bytes() == whole.body


def test_what_came_is_checked_and_what_is_altered_later_is_fetched_again(
    machine: Machine, server: LoopbackServer, files: dict[str, bytes]
) -> None:
    server.publish_model(HUB_ID, FIRST, files)
    path = f"/{HUB_ID}/resolve/{FIRST}/model.safetensors"
    (whole,) = server.script[path]
    altered = bytearray(whole.body)
    altered[-1] ^= 1
    server.plan(path, Answer(bytes(altered), etag=whole.etag, headers=whole.headers))
    said = machine.resolve(HUB_ID)["error"]
    assert "model.safetensors came as another file than someone/small-model lists: its hash must be" in said
    server.plan(path, whole)
    source = machine.resolve(HUB_ID)
    assert source["revision"] == FIRST
    weights = (Path(source["folder"]) / "model.safetensors").resolve()
    weights.write_bytes(altered)
    said = machine.resolve(HUB_ID, HF_HUB_OFFLINE="1")["error"]
    assert "model.safetensors was altered (its SHA-256 is not the one written)" in said and "go online once" in said
    mended = machine.resolve(HUB_ID)
    assert "altered" in mended["log"][0] and weights.read_bytes() == whole.body
    assert machine.fetched() == ["model.safetensors"]


@pytest.mark.parametrize("token", [None, "t0k"])
def test_a_gated_model_says_where_its_terms_are_and_how_to_log_in(
    machine: Machine, server: LoopbackServer, files: dict[str, bytes], token: str | None
) -> None:
    server.publish_model(HUB_ID, FIRST, files, gated=403 if token else 401)
    said = machine.resolve(HUB_ID, **({"HF_TOKEN": token} if token else {}))["error"]
    then = "the token in use has no permission yet" if token else "then log in with `hf auth login`"
    status = 403 if token else 401
    assert said == (
        f"AssetError: cannot fetch '{HUB_ID}': it is gated ({status}). Accept the terms on the model's page, "
        f"{server.url()}/{HUB_ID}; {then}"
    )


def test_what_is_not_on_the_hub_is_named(machine: Machine, server: LoopbackServer, files: dict[str, bytes]) -> None:
    for status in (404, 401):
        answer = Answer(b"{}", status, headers={"X-Error-Code": "RepoNotFound"} if status == 404 else {})
        server.plan(f"/api/models/someone/none-{status}/revision/main", answer)
    gone = Answer(b"{}", 404, headers={"X-Error-Code": "RevisionNotFound"})
    server.plan("/api/models/someone/gone/revision/main", gone)
    server.plan("/api/models/someone/ill/revision/main", Answer(b"{}", 500))
    none, private, lost, ill, bad = machine.resolve(
        "someone/none-404", "someone/none-401", "someone/gone", "someone/ill", "some one/x"
    )
    assert "the hub shows no such model (404). Check the name; for a private or gated one" in none["error"]
    assert "the hub shows no such model (401)" in private["error"] and "`hf auth login`" in private["error"]
    assert "it has no revision main (404)" in lost["error"] and "revisions.json" in lost["error"]
    assert "the hub answers 500. Try again later, or give the path of a local copy" in ill["error"]
    assert bad["error"] == "InputError: 'some one/x' is not a hub id (owner/name)"
    server.shutdown()
    server.server_close()
    said = machine.resolve("someone/none-404")["error"]
    assert "Go online and try again, or give the path of a local copy" in said


def test_repositories_that_are_refused_before_any_weights_come(
    machine: Machine, server: LoopbackServer, files: dict[str, bytes]
) -> None:
    rest = {name: body for name, body in files.items() if name != "model.safetensors"}
    weights = files["model.safetensors"]
    config = json.loads(files["config.json"]) | {"model_type": "whisper", "architectures": ["WhisperModel"]}
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    published = {
        "pickled": rest | {"pytorch_model.bin": weights},
        "foreign": files | {"config.json": json.dumps(config).encode()},
        "shards": rest
        | {"model.safetensors.index.json": json.dumps(index).encode(), "model-00001-of-00002.safetensors": weights},
        "adapter": {"adapter_config.json": b"{}", "adapter_model.safetensors": weights},
        "gguf": {"README.md": b"", "small.Q4_0.gguf": b"GGUF"},
    }
    for name, bodies in published.items():
        server.publish_model(f"someone/{name}", FIRST, bodies)
    said = dict(zip(published, machine.resolve(*[f"someone/{name}" for name in published]), strict=True))
    for name, part in {
        "pickled": "holds only pickled weights (pytorch_model.bin), which can run code when read",
        "foreign": "is neither a decoder (…ForCausalLM) nor a known encoder: model_type 'whisper'",
        "shards": "lacks model-00002-of-00002.safetensors (1 of 2 shards missing), which model.safetensors.index.json",
        "adapter": "is an adapter; fetch it to a folder, load its base model and give that folder as adapter=",
        "gguf": "it holds GGUF files; fetch one (small.Q4_0.gguf) and give its path",
    }.items():
        assert part in said[name]["error"], name
    assert not [a.path for a in server.log if a.path.endswith((".safetensors", ".bin", ".gguf"))]


def test_a_sharded_model_comes_whole_and_a_lost_shard_comes_again(
    machine: Machine, server: LoopbackServer, files: dict[str, bytes]
) -> None:
    shards = _sharded(files)
    server.publish_model(HUB_ID, FIRST, shards)
    folder = Path(machine.resolve(HUB_ID)["folder"])
    assert machine.fetched() == sorted(shards)
    lost = folder / "model-00002-of-00002.safetensors"
    lost.resolve().unlink()
    lost.unlink()
    said = machine.resolve(HUB_ID, SLMKIT_OFFLINE="1")["error"]
    assert f"{folder} lacks {lost.name} (1 of 2 shards missing)" in said and "unset it and go online once" in said
    assert "(1 of 2 shards missing)" in machine.resolve(HUB_ID)["log"][0]
    assert machine.fetched() == [lost.name] and lost.is_file()


def test_code_of_a_repository_is_neither_fetched_nor_run(
    machine: Machine, server: LoopbackServer, files: dict[str, bytes]
) -> None:
    trap = f"open({str(machine.folder / 'ran')!r}, 'w')".encode()
    named = {"AutoConfig": "small.SmallConfig", "AutoModelForCausalLM": "small.SmallForCausalLM"}
    config = json.loads(files["config.json"]) | {"auto_map": named}
    coded = files | {"config.json": json.dumps(config).encode(), "small.py": trap}
    server.publish_model(HUB_ID, FIRST, coded)
    server.publish_model("someone/plain", FIRST, files)
    new = json.dumps(config | {"model_type": "small"}).encode()
    server.publish_model("someone/new", FIRST, coded | {"config.json": new})
    told, score, plain, refused = machine.run(SCORE, HUB_ID, "someone/plain", "someone/new")
    assert "config.json names code of its own (small.py); it is not run, transformers" in told
    assert score == plain and float(score) < 0, "the built-in class computes what it computes"
    assert "has no architecture 'small', and code that comes with a model (small.py) is never run" in refused
    assert not [asked for asked in server.log if asked.path.endswith("small.py")]
    assert not (machine.folder / "ran").exists()


def _sharded(files: dict[str, bytes]) -> dict[str, bytes]:
    from safetensors.torch import load
    from safetensors.torch import save as save_tensors

    tensors = load(files["model.safetensors"])
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    index = {"weight_map": {name: part for part, mine in parts.items() for name in mine}}
    rest = {name: body for name, body in files.items() if name != "model.safetensors"}
    bodies = {part: save_tensors({name: tensors[name] for name in mine}) for part, mine in parts.items()}
    return rest | bodies | {"model.safetensors.index.json": json.dumps(index).encode()}
