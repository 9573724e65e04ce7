"""Downloads over a network that cuts, stalls, lies and refuses: whole at the end, or nothing but what helps."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from full_disk import open_on_full_disk
from loopback_server import Answer, Asked, LoopbackServer, loopback_server

from slmkit.errors import AssetError, SlmkitError
from slmkit.files import fetch

BODY = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()
OTHER = BODY[::-1]
N = 100_000
Child = Callable[[], subprocess.Popen[bytes]]
QUICK = fetch.Policy(tries=3, stall_s=20, back_off_s=0.01)
IMPATIENT = fetch.Policy(tries=3, stall_s=0.3, back_off_s=0.01)
KEPT = re.escape("What came is kept; the same command goes on")
CHILD = "import pathlib, sys; from slmkit.files import fetch; fetch.download(sys.argv[1], pathlib.Path(sys.argv[2]))"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "files" / "rows.bin"


def get(url: str, target: Path, **more: Any) -> dict[str, Any]:
    return fetch.download(url, target, **{"policy": QUICK, **more})


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def keep(target: Path, part: bytes, url: str) -> None:
    """What an earlier call left."""
    target.parent.mkdir()
    target.with_name("rows.bin.part").write_bytes(part)
    target.with_name("rows.bin.part.json").write_text(json.dumps({"url": url, "tag": '"one"'}))


def ranges(server: LoopbackServer) -> list[str | None]:
    return [asked.range for asked in server.log]


@pytest.fixture
def stalled_child(server: LoopbackServer, target: Path) -> Iterator[Child]:
    """Another process that has got the first N bytes and waits for more."""
    children = []

    def start() -> subprocess.Popen[bytes]:
        url = server.plan("/a", Answer(BODY, stall=N), Answer(BODY))
        children.append(subprocess.Popen([sys.executable, "-c", CHILD, url, str(target)]))
        part = target.with_name("rows.bin.part")
        while not (part.exists() and part.stat().st_size == N):
            assert children[0].poll() is None, "it should wait"
            time.sleep(0.01)
        return children[0]

    yield start
    for child in children:
        child.kill()
        child.wait()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_whole_file_comes_with_its_hash_and_alone(server: LoopbackServer, target: Path, chunked: bool) -> None:
    url = server.plan("/a", Answer(BODY, chunked=chunked))
    assert get(url, target, sha256=SHA256, n_bytes=len(BODY)) == {"sha256": SHA256, "bytes": len(BODY)}
    assert target.read_bytes() == BODY and left(target) == ["rows.bin"]
    assert server.log == [Asked("/a", None, None, None)]
    assert get(server.plan("/none", Answer(b"")), target)["bytes"] == target.stat().st_size == 0
    assert left(target) == ["rows.bin"]


def test_progress_says_file_bytes_total_and_rate_and_ends_complete(server: LoopbackServer, target: Path) -> None:
    events: list[Mapping[str, Any]] = []
    url = server.plan("/a", Answer(BODY, cut=N), Answer(BODY))
    get(url, target, progress=events.append)
    assert all(set(e) == {"file", "bytes", "total", "bytes_per_s", "seconds_left"} for e in events)
    assert {(e["file"], e["total"]) for e in events} == {("rows.bin", len(BODY))}
    assert [e["bytes"] for e in events] == sorted(e["bytes"] for e in events) and events[0]["bytes"] < len(BODY)
    assert events[-1]["bytes"] == len(BODY) and events[-1]["bytes_per_s"] > 0 and events[-1]["seconds_left"] == 0
    events.clear()
    get(server.plan("/b", Answer(BODY, chunked=True)), target, progress=events.append)
    assert events[-1]["bytes"] == len(BODY) and events[-1]["total"] is events[-1]["seconds_left"] is None


@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_connection_goes_on_at_the_byte_it_was_cut(server: LoopbackServer, target: Path, chunked: bool) -> None:
    cut = [Answer(BODY, cut=N, chunked=chunked), Answer(BODY, cut=N, chunked=chunked), Answer(BODY, chunked=chunked)]
    assert get(server.plan("/a", *cut), target, sha256=SHA256)["bytes"] == len(BODY)
    more = [Asked("/a", f"bytes={n}-", '"one"', None) for n in (N, 2 * N)]
    assert server.log == [Asked("/a", None, None, None), *more]
    assert target.read_bytes() == BODY and left(target) == ["rows.bin"]


def test_tries_count_only_while_no_byte_comes(server: LoopbackServer, target: Path) -> None:
    url = server.plan("/a", *[Answer(BODY, cut=30_000)] * 8, Answer(BODY))
    assert get(url, target)["sha256"] == SHA256 and len(server.log) == 9 > QUICK.tries


def test_a_killed_process_is_gone_on_from_by_the_next(
    server: LoopbackServer, target: Path, stalled_child: Child
) -> None:
    child = stalled_child()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert left(target) == ["rows.bin.part", "rows.bin.part.json"]
    assert get(server.url("/a"), target, sha256=SHA256)["bytes"] == len(BODY)
    assert server.log[1:] == [Asked("/a", f"bytes={N}-", '"one"', None)]
    assert left(target) == ["rows.bin"]


def test_a_second_process_on_one_target_is_refused(server: LoopbackServer, target: Path, stalled_child: Child) -> None:
    pytest.importorskip("fcntl")
    stalled_child()
    with pytest.raises(SlmkitError, match=r"rows\.bin\.part: another process is fetching it; wait for it"):
        get(server.url("/a"), target)
    assert len(server.log) == 1 and target.with_name("rows.bin.part").read_bytes() == BODY[:N]


def test_a_file_finished_by_another_process_just_before_the_lock_is_not_emptied(
    server: LoopbackServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    url, flock = server.plan("/a", Answer(OTHER)), fcntl.flock
    keep(target, BODY, url)

    def finished_meanwhile(*arguments: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        os.replace(target.with_name("rows.bin.part"), target)
        os.link(target, target.with_name("a copy"))
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", finished_meanwhile)
    get(url, target)
    assert target.with_name("a copy").read_bytes() == BODY and target.read_bytes() == OTHER


@pytest.mark.parametrize(
    ("second", "asked"),
    [
        (Answer(BODY, ranges=False), ["bytes=100000-"]),
        (Answer(BODY, etag='"two"'), ["bytes=100000-"]),
        (Answer(BODY, etag='"two"', if_range=False), ["bytes=100000-", None]),
        (Answer(BODY, shift=1), ["bytes=100000-", None]),
        (Answer(BODY, shift=len(BODY)), ["bytes=100000-", None]),
    ],
    ids=["ranges ignored", "changed", "changed, If-Range ignored", "another range", "too short by now"],
)
def test_what_cannot_be_gone_on_from_is_fetched_from_the_start(
    server: LoopbackServer, target: Path, second: Answer, asked: list[str | None]
) -> None:
    url = server.plan("/a", Answer(OTHER, cut=N), second)
    assert get(url, target)["sha256"] == SHA256 and ranges(server) == [None, *asked]
    assert target.read_bytes() == BODY and left(target) == ["rows.bin"]


def test_without_a_version_or_hash_nothing_is_gone_on_from(server: LoopbackServer, target: Path) -> None:
    url = server.plan("/a", Answer(OTHER, cut=N, etag=None), Answer(BODY, etag=None))
    assert get(url, target)["sha256"] == SHA256 and ranges(server) == [None, None]
    server.log.clear()
    server.plan("/a", Answer(BODY, cut=N, etag=None), Answer(BODY, etag=None))
    assert get(url, target, sha256=SHA256)["bytes"] == len(BODY)
    assert server.log[1:] == [Asked("/a", f"bytes={N}-", None, None)]


def test_a_weak_tag_is_compared_here_for_if_range_must_not_carry_it(server: LoopbackServer, target: Path) -> None:
    url = server.plan("/a", Answer(BODY, cut=N, etag='W/"a"'), Answer(BODY, etag='W/"a"'))
    assert get(url, target)["sha256"] == SHA256 and server.log[1:] == [Asked("/a", f"bytes={N}-", None, None)]
    server.plan("/a", Answer(OTHER, cut=N, etag='W/"a"'), Answer(BODY, etag='W/"b"'))
    assert get(url, target)["sha256"] == SHA256 and ranges(server)[-2:] == [f"bytes={N}-", None]


def test_a_server_that_never_lets_a_piece_fit_is_given_up(server: LoopbackServer, target: Path) -> None:
    changing = [Answer(BODY, cut=N, etag=f'"{i}"', if_range=False) for i in range(30)]
    with pytest.raises(AssetError, match=r"\(3 tries in a row\)"):
        get(server.plan("/a", *changing), target)
    assert len(server.log) < 10


def test_a_part_of_another_address_is_not_believed(server: LoopbackServer, target: Path) -> None:
    keep(target, OTHER[:N], server.url("/else"))
    assert get(server.plan("/a", Answer(BODY)), target)["sha256"] == SHA256 and ranges(server) == [None]
    target.with_name("rows.bin.part").write_bytes(OTHER[:N])
    target.with_name("rows.bin.part.json").write_text('{"url": ')
    assert get(server.url("/a"), target)["sha256"] == SHA256 and ranges(server)[1:] == [None]


def test_a_part_that_was_whole_takes_its_name(server: LoopbackServer, target: Path) -> None:
    events: list[Mapping[str, Any]] = []
    url = server.plan("/a", Answer(BODY))
    keep(target, BODY, url)
    assert get(url, target, sha256=SHA256, progress=events.append)["bytes"] == len(BODY)
    assert ranges(server) == [f"bytes={len(BODY)}-"] and left(target) == ["rows.bin"]
    assert (events[-1]["bytes"], events[-1]["total"]) == (len(BODY), len(BODY))


def test_wrong_bytes_name_both_hashes_and_leave_what_was_there(server: LoopbackServer, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"as before")
    url = server.plan("/a", Answer(OTHER))
    both = f"SHA-256 must be {SHA256}; got {hashlib.sha256(OTHER).hexdigest()}"
    with pytest.raises(AssetError, match=f"{url} gave another file than expected: {both}"):
        get(url, target, sha256=SHA256)
    assert left(target) == ["rows.bin"] and target.read_bytes() == b"as before" and len(server.log) == 1
    with pytest.raises(AssetError, match="another file than expected: it must have 256,001 bytes; got 256,000"):
        get(url, target, n_bytes=len(BODY) + 1)
    assert left(target) == ["rows.bin"] and target.read_bytes() == b"as before"


@pytest.mark.parametrize("again", [BODY, OTHER])
def test_a_kept_part_that_does_not_fit_costs_one_full_fetch(
    server: LoopbackServer, target: Path, again: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.plan("/a", Answer(BODY), Answer(again))
    keep(target, OTHER[:N], url)
    if again == BODY:
        assert get(url, target, sha256=SHA256)["bytes"] == len(BODY) and left(target) == ["rows.bin"]
    else:
        with pytest.raises(AssetError, match="another file than expected"):
            get(url, target, sha256=SHA256)
        assert left(target) == []
    assert ranges(server) == [f"bytes={N}-", None] and "do not fit; fetching all of it again" in caplog.text


def test_silence_is_cut_and_given_up_and_the_part_stays(server: LoopbackServer, target: Path) -> None:
    url = server.plan("/a", Answer(BODY, stall=N), Answer(BODY, stall=0), Answer(BODY, stall=0), Answer(BODY))
    with pytest.raises(AssetError, match=rf"cannot fetch {url}: the server went silent \(3 tries in a row\)\. {KEPT}"):
        get(url, target, policy=IMPATIENT)
    assert target.with_name("rows.bin.part").read_bytes() == BODY[:N] and not target.exists()
    assert get(url, target)["sha256"] == SHA256 and ranges(server) == [None, *[f"bytes={N}-"] * 3]


@pytest.mark.parametrize(
    ("status", "token", "message"),
    [
        (401, None, r"permission \(401\): accept the terms on the data set's page and log in with `hf auth login`"),
        (403, "t0k", r"permission \(403\): accept the terms .* and the token in use has no right to it"),
        (404, None, r"no such file any more \(404\); give a local copy through SLMKIT_ASSETS"),
        (410, None, r"no such file any more \(410\)"),
        (400, None, r"the server refuses it \(400\)"),
    ],
)
def test_a_refusal_is_final_says_what_to_do_and_leaves_nothing(
    server: LoopbackServer, target: Path, status: int, token: str | None, message: str
) -> None:
    url = server.plan("/a", Answer(b"no", status))
    keep(target, BODY[:N], url)
    with pytest.raises(AssetError, match=message) as refused:
        get(url, target, token=token)
    assert str(refused.value).startswith(f"cannot fetch {url}: ") and "t0k" not in str(refused.value)
    assert left(target) == [] and [asked.authorization for asked in server.log] == [token and "Bearer t0k"]


@pytest.mark.parametrize("wait", ["0", "date", "-5", "²", "soon", None])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: LoopbackServer, target: Path, status: int, wait: str | None) -> None:
    headers = {} if wait is None else {"Retry-After": formatdate(0, usegmt=True) if wait == "date" else wait}
    busy = Answer(b"busy", status, headers=headers)
    assert get(server.plan("/a", busy, busy, Answer(BODY)), target)["sha256"] == SHA256
    assert len(server.log) == 3 and left(target) == ["rows.bin"]
    with pytest.raises(AssetError, match=rf"the server answers {status} .*\(3 tries in a row\)\. {KEPT}"):
        get(server.plan("/b", busy), target.with_name("b"))
    assert len(server.log) == 6 and left(target) == ["rows.bin"]


class Waits(threading.Event):
    """Notes how long it was asked to wait, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.asked.append(timeout or 0)
        return False


def test_waits_double_up_to_a_minute_unless_the_server_names_a_time(server: LoopbackServer, target: Path) -> None:
    cancel, policy = Waits(), fetch.Policy(tries=9, back_off_s=1)
    with pytest.raises(AssetError, match="9 tries"):
        get(server.plan("/a", Answer(status=500)), target, policy=policy, cancel=cancel)
    assert cancel.asked == [1, 2, 4, 8, 16, 32, 60, 60]
    named = [
        Answer(status=429, headers={"Retry-After": when}) for when in ("7", "999", formatdate(1e10), formatdate(0))
    ]
    cancel.asked.clear()
    get(server.plan("/b", *named, Answer(BODY)), target, policy=policy, cancel=cancel)
    assert cancel.asked == [7, 60, 60, 0]


def test_the_token_stays_with_its_host(server: LoopbackServer, target: Path) -> None:
    with loopback_server() as other:
        other.plan("/b", Answer(BODY, cut=N), Answer(BODY))
        url = server.plan("/a", Answer(status=302, headers={"Location": other.url("/b", "localhost")}))
        assert get(url, target, token="t0k")["sha256"] == SHA256
        assert [asked.authorization for asked in server.log] == ["Bearer t0k"] * 2
        assert other.log == [Asked("/b", None, None, None), Asked("/b", f"bytes={N}-", '"one"', None)]


@pytest.mark.parametrize("to", ["http://192.0.2.1/b", "http://127.0.0.1.org", "ftp://192.0.2.1/b", "https://["])
def test_a_redirect_off_https_is_refused(server: LoopbackServer, target: Path, to: str) -> None:
    url = server.plan("/a", Answer(status=302, headers={"Location": to}))
    refusal = f"only https addresses are fetched; got {to}"
    with pytest.raises(AssetError, match="leads to an address that is none" if to.endswith("[") else refusal):
        get(url, target)
    assert left(target) == [] and len(server.log) == 1


@pytest.mark.parametrize("url", ["http://a.b", "ftp://a.b", "file:///a", "a", "https://[", "http://127.0.0.1@b"])
def test_other_than_https_is_refused_before_anything_is_made(target: Path, url: str) -> None:
    with pytest.raises(AssetError, match=f"only https addresses are fetched; got {re.escape(url)}"):
        get(url, target)
    assert not target.parent.exists()


def test_an_unreachable_server_is_named(target: Path) -> None:
    with loopback_server() as gone:
        url = gone.url("/a")
    with pytest.raises(AssetError, match=rf"cannot fetch {url}: URLError: .*refused \(3 tries in a row\)"):
        get(url, target)
    assert left(target) == []


def test_a_disk_too_small_is_told_at_once(
    server: LoopbackServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(target.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=fetch.SPARE_BYTES + len(BODY) - 1))
    url = server.plan("/a", Answer(BODY))
    with pytest.raises(SlmkitError, match=r"rows\.bin needs 0 MB more and 50 MB to spare; the disk has 50 MB left"):
        get(url, target)
    assert left(target) == []
    target.parent.rmdir()
    keep(target, BODY[:N], url)
    assert get(url, target)["sha256"] == SHA256, "what is there already needs no room"


def test_a_full_disk_keeps_what_came(server: LoopbackServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.plan("/a", Answer(BODY))
    monkeypatch.setattr(fetch, "open", open_on_full_disk(N), raising=False)
    with pytest.raises(SlmkitError, match=rf"rows\.bin\.part: the disk is full\. {KEPT}"):
        get(url, target)
    assert len(server.log) == 1 and target.with_name("rows.bin.part").stat().st_size == N
    monkeypatch.undo()
    assert get(url, target)["sha256"] == SHA256 and ranges(server) == [None, f"bytes={N}-"]


def test_a_place_that_cannot_be_written_is_named(server: LoopbackServer, tmp_path: Path) -> None:
    url = server.plan("/a", Answer(BODY))
    (tmp_path / "file").write_text("x")
    with pytest.raises(SlmkitError, match=r"rows\.bin\.part: cannot be written: (File exists|Not a directory)"):
        get(url, tmp_path / "file" / "rows.bin")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SlmkitError, match=rf"folder: cannot be written: Is a directory\. {KEPT}"):
        get(url, tmp_path / "folder")


def test_a_stop_keeps_what_came(server: LoopbackServer, target: Path) -> None:
    cancel, url = threading.Event(), server.plan("/a", Answer(BODY))
    with pytest.raises(SlmkitError, match=r"stopped on request; what came of rows\.bin is kept"):
        get(url, target, cancel=cancel, progress=lambda event: cancel.set())
    assert target.with_name("rows.bin.part").stat().st_size > 0 and not target.exists()
    cancel.clear()
    assert get(url, target, cancel=cancel)["sha256"] == SHA256 and ranges(server)[1].startswith("bytes=")
    cancel.set()
    with pytest.raises(SlmkitError, match="stopped on request"):
        get(url, target.with_name("b"), cancel=cancel)
    assert left(target) == ["rows.bin"]
