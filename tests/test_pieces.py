"""A file in parts is put together whole or not at all, whatever stops the work."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slmkit.errors import AssetError, SlmkitError
from slmkit.files import pieces

CONTENT = bytes(range(256)) * 9000  # more than two blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
KILLED = """
import os, signal, sys
from pathlib import Path
from slmkit.files import pieces
def blocks(parts):
    yield b"half"
    os.kill(os.getpid(), signal.SIGKILL)
pieces._blocks = blocks
pieces.join([Path(p) for p in sys.argv[1:-1]], Path(sys.argv[-1]), "0" * 64)
"""
JOIN = """
import sys
from pathlib import Path
from slmkit.files import pieces
pieces.join([Path(p) for p in sys.argv[3:]], Path(sys.argv[1]), sys.argv[2])
"""


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    cuts = [0, 1_000_000, 1_000_001, len(CONTENT)]
    made = [tmp_path / f"model.part{i:02}" for i in range(3)]
    for path, start, end in zip(made, cuts, cuts[1:], strict=False):
        path.write_bytes(CONTENT[start:end])
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "joined" / "model.gguf"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_parts_become_the_whole_once(parts: list[Path], target: Path) -> None:
    assert pieces.join(parts, target, SHA256) == target
    assert target.read_bytes() == CONTENT and names(target.parent) == ["model.gguf"]
    before = target.stat()
    pieces.join(parts, target, SHA256)
    after = target.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "a second time writes nothing"
    assert pieces.digest(parts) == pieces.digest([target]) == SHA256


def test_an_altered_whole_is_made_again(parts: list[Path], target: Path) -> None:
    pieces.join(parts, target, SHA256)
    target.write_bytes(CONTENT[:-1] + b"x")
    pieces.join(parts, target, SHA256)
    assert target.read_bytes() == CONTENT


def test_altered_and_missing_parts_are_said_and_leave_nothing(parts: list[Path], target: Path) -> None:
    parts[1].write_bytes(b"?")
    with pytest.raises(AssetError, match=rf"the 3 parts of model\.gguf are truncated or altered: .* must be {SHA256}"):
        pieces.join(parts, target, SHA256)
    assert names(target.parent) == []
    with pytest.raises(AssetError, match="truncated or altered"):
        pieces.join(parts[::-1], target, SHA256)
    parts[1].unlink()
    with pytest.raises(AssetError, match=r"model\.gguf lacks .*model\.part01\. Install the packages again"):
        pieces.join(parts, target, SHA256)
    with pytest.raises(AssetError, match="lacks all its parts"):
        pieces.join([], target, SHA256)
    assert names(target.parent) == []


def test_interrupted_half_way_leaves_nothing_and_the_next_call_does_it(
    parts: list[Path], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(paths: list[Path]) -> Iterator[bytes]:
        yield paths[0].read_bytes()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pieces, "_blocks", stopped)
        pieces.join(parts, target, SHA256)
    assert names(target.parent) == []
    pieces.join(parts, target, SHA256)
    assert target.read_bytes() == CONTENT


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_half_way_the_next_call_clears_up(parts: list[Path], target: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, parts), str(target)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = names(target.parent)
    assert left.startswith(".model.gguf.") and left.endswith(".part"), "the whole is not there, only what was begun"
    pieces.join(parts, target, SHA256)
    assert names(target.parent) == ["model.gguf"] and target.read_bytes() == CONTENT


def test_two_processes_at_once_end_with_one_whole(parts: list[Path], target: Path) -> None:
    command = [sys.executable, "-c", JOIN, str(target), SHA256, *map(str, parts)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert names(target.parent) == ["model.gguf"] and target.read_bytes() == CONTENT


def test_a_full_disk_is_said(parts: list[Path], target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pieces, "_copy", full)
    with pytest.raises(SlmkitError, match=r"model\.gguf: the disk is full"):
        pieces.join(parts, target, SHA256)
    assert names(target.parent) == []
