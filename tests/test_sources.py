"""Data files: the mirror first, the same bytes always, nothing half-made, and terms accepted before rows are read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from full_disk import open_on_full_disk
from loopback_server import Answer, LoopbackServer
from typer.testing import CliRunner

from slmkit import __main__ as cli
from slmkit import assets, tasks
from slmkit.assets import hub, licences, sources
from slmkit.assets.sources import DataFile, HubData
from slmkit.errors import AssetError, SlmkitError
from slmkit.files import fetch
from slmkit.tasks import financial_phrasebank

ROWS, OTHER = b"1,a\n2,b\n", b"1,a\n2,c\n"
SHA256, OTHER_SHA256 = (hashlib.sha256(body).hexdigest() for body in (ROWS, OTHER))
QUICK = fetch.Policy(tries=2, stall_s=20, back_off_s=0.01)
FILE = "set/rows.csv"
FIRST, SECOND = "a" * 40, "b" * 40
TRAIN = ("data/train-0-of-2.csv", "data/train-1-of-2.csv")
HUB = HubData("rows", "someone/rows", {"train": "data/train-*", "test": "data/test.csv"})
HUB_FILES = {"data/test.csv": b"t", TRAIN[0]: b"zero", TRAIN[1]: b"one"}
ALL = [f"rows/{name}" for name in HUB_FILES]
OBTAIN = """
import json, sys
from slmkit import errors
from slmkit.assets import sources
from slmkit.files import fetch
try:
    paths = sources.obtain(sources.HubData(**json.loads(sys.argv[1])), "rows", policy=fetch.Policy(2, 20, 0.01))
    print(json.dumps([path.relative_to(sources.data_dir()).as_posix() for path in paths]))
except errors.SlmkitError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no mirror, and a network."""
    for name in ("SLMKIT_ASSETS", *hub.OFFLINE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    return tmp_path / "cache" / "data"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLMKIT_ASSETS", str(tmp_path / "mirror"))
    return tmp_path / "mirror"


def put(root: Path, relative: str, body: bytes = ROWS) -> Path:
    (root / relative).parent.mkdir(parents=True, exist_ok=True)
    (root / relative).write_bytes(body)
    return root / relative


def obtain(data: DataFile | HubData, to: Path | None = None) -> list[Path]:
    return sources.obtain(data, "rows", to, policy=QUICK)


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def written(root: Path) -> dict[str, Any]:
    return json.loads((root / sources.RECORD).read_text())


def archive(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, body in members.items():
            file.writestr(name, body)
    return packed.getvalue()


PACKED = archive(rows=ROWS * 99)


def test_the_mirror_wins_over_the_cache_and_the_network(server: LoopbackServer, cache: Path, mirror: Path) -> None:
    file = DataFile(FILE, server.plan("/a", Answer(OTHER)))
    with pytest.raises(
        AssetError, match=rf"rows is not on this disk: no {FILE} under .*mirror and .*cache.data\. Get it"
    ):
        sources.path(file, "rows")
    put(cache, FILE, OTHER)
    assert sources.path(file, "rows") == cache / FILE and sources.where(file) == "cache"
    put(mirror, FILE)
    assert sources.path(file, "rows") == mirror / FILE and sources.where(file) == "mirror"
    (cache / FILE).unlink()
    assert obtain(file) == [cache / FILE] and (cache / FILE).read_bytes() == ROWS
    assert written(cache)[FILE]["sha256"] == SHA256 and server.log == []


def test_a_copy_in_the_cache_fills_a_folder_where_the_mirror_lacks_it(
    cache: Path, mirror: Path, tmp_path: Path
) -> None:
    put(cache, FILE)
    assert obtain(DataFile(FILE), tmp_path / "stick") == [tmp_path / "stick" / FILE]
    assert everything(tmp_path / "stick") == [FILE, sources.RECORD]
    with pytest.raises(AssetError, match=r"rows cannot be fetched: no address of other\.csv is known\. Give a copy by"):
        obtain(DataFile("other.csv"))
    with pytest.raises(SlmkitError, match="cannot be written: (Not a directory|File exists)"):
        obtain(DataFile(FILE), cache / FILE)


def test_another_file_under_a_pinned_name_is_refused(server: LoopbackServer, cache: Path, mirror: Path) -> None:
    file = DataFile(FILE, server.plan("/a", Answer(ROWS)), SHA256)
    path = put(mirror, FILE, OTHER)
    refusal = f"{path} is another file than slmkit knows: SHA-256 must be {SHA256}; got {OTHER_SHA256}"
    for read in (lambda: sources.path(file, "rows"), lambda: obtain(file)):
        with pytest.raises(AssetError, match=refusal):
            read()
    assert everything(cache.parent) == []
    path.unlink()
    put(cache, FILE, OTHER)
    assert obtain(file) == [cache / FILE] and (cache / FILE).read_bytes() == ROWS, "a damaged copy is fetched again"


def test_the_first_fetch_of_an_unpinned_file_decides_what_it_is(server: LoopbackServer, cache: Path) -> None:
    url = server.plan("/a", Answer(ROWS), Answer(OTHER))
    assert obtain(DataFile(FILE, url)) == obtain(DataFile(FILE, url)) == [cache / FILE] and len(server.log) == 1
    entry = written(cache)[FILE]
    assert (entry["url"], entry["sha256"], entry["bytes"]) == (url, SHA256, len(ROWS))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", entry["fetched_utc"])
    put(cache, FILE, OTHER)
    with pytest.raises(AssetError, match=f"another file than slmkit knows: SHA-256 must be {SHA256}"):
        sources.path(DataFile(FILE, url), "rows")
    with pytest.raises(AssetError, match=f"{url} gave another file than expected: SHA-256 must be {SHA256}"):
        obtain(DataFile(FILE, url))
    server.plan("/a", Answer(ROWS))
    assert obtain(DataFile(FILE, url)) and sources.path(DataFile(FILE, url), "rows").read_bytes() == ROWS
    assert written(cache)[FILE]["sha256"] == SHA256 and everything(cache) == [FILE, sources.RECORD]


def test_a_filled_folder_is_a_mirror_that_is_checked(server: LoopbackServer, cache: Path, mirror: Path) -> None:
    file = DataFile(FILE, server.plan("/a", Answer(ROWS)))
    assert obtain(file, mirror) == [mirror / FILE] and everything(mirror) == [FILE, sources.RECORD]
    assert sources.where(file) == "mirror" and sources.path(file, "rows") == mirror / FILE and not cache.exists()
    put(mirror, FILE, OTHER)
    for read in (lambda: sources.path(file, "rows"), lambda: obtain(file)):
        with pytest.raises(AssetError, match=f"SHA-256 must be {SHA256}; got {OTHER_SHA256}"):
            read()


def test_a_member_of_an_archive_comes_out_and_the_archive_goes(server: LoopbackServer, cache: Path) -> None:
    hostile = {"../../outside.csv": ROWS, "v1/rows.csv": OTHER, str(cache.parents[1] / "absolute.csv"): ROWS}
    url = server.plan("/a.zip", Answer(archive(**hostile), cut=60), Answer(archive(**hostile)))
    for member, body in hostile.items():
        (path,) = obtain(DataFile(FILE, url, hashlib.sha256(body).hexdigest(), member))
        assert path == cache / FILE and path.read_bytes() == body
    assert everything(cache.parents[1]) == [f"cache/data/{FILE}", f"cache/data/{sources.RECORD}"]


@pytest.mark.parametrize(
    ("body", "member", "says"),
    [
        (PACKED, "row", r"rows\.csv\.zip is not the archive expected, with row in it: .*no item named 'row'"),
        (b"<html>log in</html>", "rows", r"is not the archive expected, with rows in it: File is not a zip file"),
        (PACKED[:-9], "rows", "is not the archive expected, .* not a zip file"),
        (PACKED.replace(PACKED[34:40], b"\xff" * 6), "rows", "is not the archive expected"),
        (PACKED.replace(b"\x14\0\0", b"\x14\0\1"), "rows", "is not the archive expected, .* encrypted"),
        (PACKED, "rows", f"rows in .*rows.csv.zip is another file: SHA-256 must be {SHA256}; got "),
    ],
)
def test_a_bad_archive_leaves_nothing(server: LoopbackServer, cache: Path, body: bytes, member: str, says: str) -> None:
    put(cache, "set/else.csv")
    with pytest.raises(AssetError, match=says):
        obtain(DataFile(FILE, server.plan("/a.zip", Answer(body)), SHA256, member))
    assert everything(cache) == ["set/else.csv"]


def test_a_disk_too_full_for_what_is_in_an_archive_keeps_nothing(
    server: LoopbackServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "open", open_on_full_disk(9), raising=False)
    with pytest.raises(SlmkitError, match=r"data: the disk is full"):
        obtain(DataFile(FILE, server.plan("/a.zip", Answer(PACKED)), member="rows"))
    assert everything(cache) == []


@pytest.mark.parametrize("variable", hub.OFFLINE)
def test_offline_refuses_to_fetch_but_not_to_read_or_copy(
    server: LoopbackServer, cache: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "TRUE")
    file = DataFile(FILE, server.plan("/a", Answer(ROWS)), SHA256)
    for data in (file, HUB):
        with pytest.raises(
            AssetError, match=rf"not on this disk and fetching is off \({variable}=TRUE\)\. Unset it, or"
        ):
            obtain(data)
    put(mirror, FILE)
    for relative, body in HUB_FILES.items():
        put(mirror / "rows", relative, body)
    assert obtain(file) == [cache / FILE] and obtain(HUB) == [cache / "rows" / name for name in sorted(HUB_FILES)]
    monkeypatch.delenv("SLMKIT_ASSETS")
    assert sources.path(file, "rows") == cache / FILE and obtain(file) == [cache / FILE]
    assert sources.hub_paths(HUB)["train"] == [cache / "rows" / name for name in TRAIN] and server.log == []
    monkeypatch.setenv(variable, "0")
    assert hub.offline() is None


def test_records_of_fetches_at_the_same_time_are_all_kept(server: LoopbackServer, cache: Path) -> None:
    wanted = [DataFile(f"set/{i}.csv", server.plan(f"/{i}", Answer(ROWS))) for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(obtain, wanted))
    assert set(written(cache)) == {file.path for file in wanted}


@pytest.mark.parametrize("content", ["{", "[]", '{"set/rows.csv": 1}'])
def test_a_broken_record_is_named_with_the_way_out(cache: Path, content: str) -> None:
    put(cache, FILE)
    put(cache, sources.RECORD, content.encode())
    for read in (sources.path, sources.obtain):
        with pytest.raises(AssetError, match=rf"{sources.RECORD}, which says .* cannot be read: .*\. Delete it to"):
            read(DataFile(FILE), "rows")
    assert sources.where(DataFile(FILE)) == "cache" and sources.where(HUB) is None


def publish(server: LoopbackServer, revision: str = FIRST, bodies: Mapping[str, bytes] = HUB_FILES) -> None:
    server.publish(HUB.hub_id, revision, bodies, hashed=TRAIN[0])


def obtained(server: LoopbackServer, data: HubData = HUB) -> tuple[Any, list[str]]:
    """What a process of its own gets or says, for the hub's address is read at import; and what it asked for."""
    server.log.clear()
    told = {**os.environ, "HF_ENDPOINT": server.url(), "HF_TOKEN": "t0k"}
    command = [sys.executable, "-c", OBTAIN, json.dumps(asdict(data))]
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    log = [asked for asked in server.log if HUB.hub_id in asked.path]  # huggingface_hub asks for other things too
    assert {asked.authorization for asked in log} <= {"Bearer t0k"}
    places = [asked.path.partition("?")[0].removeprefix(f"/datasets/{HUB.hub_id}/resolve/") for asked in log]
    return json.loads(done.stdout), [place.removeprefix(f"/api/datasets/{HUB.hub_id}/") for place in places]


def test_the_hubs_revision_is_resolved_once_and_written_down(server: LoopbackServer, cache: Path) -> None:
    publish(server)
    assert obtained(server) == (ALL, ["revision/main", *[f"{FIRST}/{name}" for name in HUB_FILES]])
    assert sources.hub_paths(HUB) == {"train": [cache / one for one in ALL[1:]], "test": [cache / ALL[0]]}
    record = written(cache)
    assert (record["rows"]["revision"], record["rows"]["files"]) == (FIRST, ALL) and record["rows"]["fetched_utc"]
    assert {name: record[name]["sha256"] for name in ALL} == {name: assets.sha256_of(cache / name) for name in ALL}
    publish(server, SECOND, bodies=dict.fromkeys(HUB_FILES, b"newer"))
    assert obtained(server) == (ALL, [])
    put(cache, ALL[1], b"half")
    assert obtained(server) == (ALL, [f"revision/{FIRST}", f"{FIRST}/{TRAIN[0]}"])
    assert [path.read_bytes() for path in sources.hub_paths(HUB)["train"]] == [b"zero", b"one"]
    pinned, gone = replace(HUB, revision=SECOND), f"/datasets/{HUB.hub_id}/resolve/{SECOND}/{TRAIN[1]}"
    newer = server.script.pop(gone)
    assert "(404)" in obtained(server, pinned)[0] and sources.where(pinned) is None, "two revisions are not mixed"
    server.plan(gone, *newer)
    assert obtained(server, pinned) == (ALL, [f"revision/{SECOND}", f"{SECOND}/{TRAIN[1]}"])
    assert {(cache / one).read_bytes() for one in ALL} == {b"newer"}


def test_a_fetch_interrupted_between_two_files_goes_on_at_its_revision(server: LoopbackServer, cache: Path) -> None:
    publish(server)
    last = server.script.pop(f"/datasets/{HUB.hub_id}/resolve/{FIRST}/{TRAIN[1]}")
    assert f"{FIRST}/{TRAIN[1]}: there is no such file any more (404)" in obtained(server)[0]
    assert sources.where(HUB) is None and everything(cache) == [*ALL[:2], sources.RECORD]
    with pytest.raises(AssetError, match=f"rows is not on this disk: no {ALL[2]} under .* slmkit data fetch rows"):
        sources.hub_paths(HUB)  # and not half of the train rows
    publish(server, SECOND)
    server.plan(f"/datasets/{HUB.hub_id}/resolve/{FIRST}/{TRAIN[1]}", *last)
    assert obtained(server) == (ALL, [f"revision/{FIRST}", f"{FIRST}/{TRAIN[1]}"])
    assert written(cache)["rows"]["revision"] == FIRST and sources.where(HUB) == "cache"


def test_what_the_hub_lacks_or_refuses_is_named_and_nothing_is_left(server: LoopbackServer, cache: Path) -> None:
    outside = {"../test.csv": b"x", "data/train-/../../x": b"x", "data/train-old/x.csv": b"x"}
    publish(server, bodies=outside)
    for parts in (HUB.parts, {"train": "*/test.csv"}):
        said, _ = obtained(server, replace(HUB, parts=parts))
        assert said == f"someone/rows at {FIRST} has no file {parts['train']!r} for its part 'train'"
    api = f"/api/datasets/{HUB.hub_id}/revision/main"
    server.plan(api, Answer(b"no", 401))
    said, asked = obtained(server)
    assert said.startswith("cannot ask the hub for 'someone/rows' (") and asked == ["revision/main"]
    assert "): go online once, accept its terms there if it has any and log in with `hf auth login`, or give a" in said
    assert not cache.exists()
    publish(server)
    server.script[api].insert(0, Answer(b"busy", 503))
    assert obtained(server)[0] == ALL, "a busy hub is asked again"


def slmkit(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)])


def accepted() -> dict[str, Any]:
    return json.loads(licences.record().read_text()) if licences.record().exists() else {}


@pytest.fixture
def phrasebank(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> tasks.Task:
    """The task with the pin and the address of a small archive on this machine."""
    task = tasks.named("financial_phrasebank")
    assert isinstance(task.data, DataFile) and task.data.member
    url = server.plan("/bank.zip", Answer(archive(**{task.data.member: ROWS})))
    task = replace(task, data=replace(task.data, url=url, sha256=SHA256))
    monkeypatch.setattr(financial_phrasebank, "TASKS", (task,))
    return task


def test_rows_with_terms_are_read_only_after_acceptance_once_for_all_levels(mirror: Path) -> None:
    levels = [task for task in map(tasks.get, tasks.names()) if task.gate == "financial_phrasebank"]
    assert len(levels) == 5
    for task in levels:
        with pytest.raises(licences.LicenceNotAccepted) as refused:
            task.load()
        assert "other than commercial purposes only" in str(refused.value) and task.licence in str(refused.value)
        assert "slmkit data fetch financial_phrasebank --accept-license" in str(refused.value)
        assert "slmkit.accept_license('financial_phrasebank') in Python" in str(refused.value)
    tasks.accept_license("financial_phrasebank_50agree")
    for task in levels:
        with pytest.raises(AssetError, match="is not on this disk"):
            task.load()
    assert accepted()["financial_phrasebank"]["accepted_utc"].endswith("+00:00")
    licences.record().write_text(first := licences.record().read_text().replace("T", "T "))
    tasks.accept_license("financial_phrasebank")
    assert licences.record().read_text() == first


def test_another_licence_under_the_same_name_is_not_accepted() -> None:
    licences.accept("rows", "old terms")
    licences.accept("more", "terms")
    licences.require("rows", "old terms", "")
    with pytest.raises(licences.LicenceNotAccepted, match=r"rows is under new terms\. Ask first\. To accept, once"):
        licences.require("rows", "new terms", "Ask first.")
    assert set(accepted()) == {"rows", "more"}


@pytest.mark.parametrize(("content", "warned"), [("{", True), ("[1]", True), ('{"rows": "terms"}', False)])
def test_a_broken_record_of_licences_only_warns(content: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    put(licences.record().parent, licences.record().name, content.encode())
    assert not licences.accepted("rows", "terms")
    assert ("licences.json cannot be read" in caplog.text and "have to be accepted again" in caplog.text) is warned
    licences.accept("rows", "terms")
    assert licences.accepted("rows", "terms")


def test_fetch_shows_the_terms_and_goes_on_once_they_are_accepted(
    server: LoopbackServer, cache: Path, phrasebank: tasks.Task, mirror: Path
) -> None:
    refused = slmkit("fetch", phrasebank.name)
    assert refused.exit_code == 2 and phrasebank.terms in refused.stderr and "--accept-license" in refused.stderr
    assert server.log == [] and accepted() == {} and not cache.exists() and refused.stdout == ""
    fetched = slmkit("fetch", phrasebank.name, "--accept-license", "--to", mirror)
    assert fetched.exit_code == 0 and fetched.stdout.splitlines() == [str(mirror / phrasebank.data.path)]
    assert accepted()[phrasebank.name]["licence"] == phrasebank.licence and accepted()[phrasebank.name]["accepted_utc"]
    assert len(everything(mirror)) == 2
    assert slmkit("fetch", phrasebank.name).stdout.strip() == str(cache / phrasebank.data.path), "copied from there"
    assert len(server.log) == 1


def test_list_says_what_is_here_and_what_has_terms(phrasebank: tasks.Task, cache: Path) -> None:
    put(cache, phrasebank.data.path)
    (row,) = (row for row in json.loads(slmkit("list", "--json").stdout)["data"] if row["name"] == phrasebank.name)
    assert (row["rows"], row["labels"], row["mb"], row["accepted"], row["on_disk"]) == (2264, 3, 0.7, False, "cache")
    assert slmkit().stdout == slmkit("list").stdout and ", to be" in slmkit().stdout
    phrasebank.accept_license()
    assert ", to be" not in "".join(line for line in slmkit().stdout.splitlines() if phrasebank.name in line)
    assert [one["name"] for one in json.loads(slmkit("--json").stdout)["data"]] == tasks.names()


def test_show_prints_the_card_and_the_terms(phrasebank: tasks.Task) -> None:
    shown = slmkit("show", phrasebank.name).stdout
    assert " ".join(phrasebank.card.split()) in " ".join(shown.split())
    assert f"Terms to accept: {phrasebank.terms}" in shown
    assert slmkit("fetch", "fraud_messages").stdout == "fraud_messages comes with slmkit: there is nothing to fetch\n"


@pytest.mark.parametrize("command", ["show", "fetch"])
def test_an_unknown_data_set_is_answered_with_the_near_names(command: str) -> None:
    done = slmkit(command, "banking7")
    assert done.exit_code == 2 and "unknown data set 'banking7'. Did you mean 'banking77'?" in done.stderr
