"""Bulk classification adds columns and changes nothing else, in bounded memory, and survives whatever stops it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from full_disk import open_on_full_disk

from slmkit import bulk, classify
from slmkit.errors import InputError, SlmkitError
from slmkit.files import partfile

TEXTS = [
    "win a free prize now",
    "see you at lunch",
    "claim your free cash",
    "the train is late",
    "  ",
    "see you at lunch",
]
ADDED = ["predicted", "p_ham", "p_spam"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved floor trained on a few words."""
    rng = np.random.default_rng(0)
    spam, ham = ["win", "free", "prize", "cash", "claim", "now"], ["see", "you", "lunch", "train", "late", "home"]
    texts = [" ".join(rng.choice(words, 5)) for words in (spam, ham) for _ in range(30)]
    folder = tmp_path_factory.mktemp("model") / "floor"
    classify.FloorClassifier().fit(texts, ["spam"] * 30 + ["ham"] * 30).save(folder)
    return folder


def many(path: Path, n: int = 100) -> Path:
    """n rows as a CSV, JSONL or Parquet file with columns id and text."""
    frame = pd.DataFrame({"id": range(n), "text": [f"{TEXTS[i % 6]} {i}" if i % 6 != 4 else "" for i in range(n)]})
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path, row_group_size=30)
    return path


def stop_after(rows: int, error: BaseException) -> Callable[[Mapping[str, Any]], None]:
    def progress(news: Mapping[str, Any]) -> None:
        if news["rows"] >= rows:
            raise error

    return progress


def test_csv_cells_stay_byte_for_byte_and_the_model_decides_the_added_ones(model: Path, tmp_path: Path) -> None:
    lines = [
        "id;text;note",
        '01;"win a ""free"" prize; now\r\ntoday";',
        "2;see you at lunch;'=1+1",
        "3;  ; x ",
        "4;free cash",
    ]
    source, target = tmp_path / "a.csv", tmp_path / "b.csv"
    source.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    facts = bulk.classify_file(model, source, target)
    assert (facts["rows"], facts["empty"], facts["resumed_from"], facts["output"]) == (4, 1, 0, str(target))
    written = target.read_bytes().decode("utf-8-sig").split("\r\n")
    assert written[0] == "id;text;note;predicted;p_ham;p_spam"
    assert written[1] == lines[1].split("\r\n")[0] and written[2].startswith('today";;spam;0.')
    assert written[3].startswith("2;see you at lunch;'=1+1;ham;0.")
    assert written[4] == "3;  ; x ;;;" and written[5].startswith("4;free cash;;spam;0.") and written[6:] == [""]
    rows = list(csv.DictReader(target.open(encoding="utf-8-sig", newline=""), delimiter=";"))
    texts = ['win a "free" prize; now\r\ntoday', "see you at lunch", "free cash"]
    expected = classify.load(model).predict_proba(texts)
    found = [[float(row["p_ham"]), float(row["p_spam"])] for row in rows if row["predicted"]]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "b.csv"]


def test_jsonl_objects_are_kept_as_written(model: Path, tmp_path: Path) -> None:
    lines = [
        '{"text":"win a prize", "n": 1.10, "deep": {"a": [1]}}',
        '{ "text": null }',
        "{}",
        '{"text": "ü", "n": 12345678901234567890}',
    ]
    source, target = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    source.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    facts = bulk.classify_file(model, source, target)
    written = target.read_text(encoding="utf-8").splitlines()
    assert (facts["rows"], facts["empty"]) == (4, 2)
    assert written[0].startswith(lines[0][:-1] + ', "predicted": "spam", "p_ham": 0.')
    assert written[1] == '{ "text": null, "predicted": null, "p_ham": null, "p_spam": null}'
    assert written[2] == '{"predicted": null, "p_ham": null, "p_spam": null}'
    assert list(json.loads(written[3])) == ["text", "n", *ADDED] and '"n": 12345678901234567890, ' in written[3]


def test_parquet_keeps_types_order_and_metadata(model: Path, tmp_path: Path) -> None:
    table = pa.table(
        {
            "when": pa.array([1, 2, None, 4, 5, 6], pa.timestamp("ms")),
            "text": pa.array([*TEXTS[:5], None]).dictionary_encode(),
            "list": pa.array([[1], [], None, [2, 3], [4], [5]], pa.list_(pa.int32())),
        }
    ).replace_schema_metadata({"owner": "me"})
    source, target = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(table, source, row_group_size=4, compression="zstd")
    facts = bulk.classify_file(model, source, target, text_column="text", batch_rows=3)
    result = pq.read_table(target)
    assert result.column_names == [*table.column_names, *ADDED] and facts["empty"] == 2
    assert result.select(table.column_names).equals(table) and result.schema.metadata[b"owner"] == b"me"
    assert result["predicted"].to_pylist() == ["spam", "ham", "spam", "ham", None, None]
    assert result["p_spam"].type == pa.float64() and result["p_spam"].null_count == 2
    assert pq.ParquetFile(target).metadata.row_group(0).column(0).compression == "ZSTD"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("stop")])
def test_stopped_work_goes_on_and_gives_the_same_file(
    model: Path, tmp_path: Path, kind: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PROGRESS_S", -1.0)
    source, whole, target = many(tmp_path / f"a{kind}"), tmp_path / f"whole{kind}", tmp_path / f"b{kind}"
    bulk.classify_file(model, source, whole, batch_rows=1000)
    with pytest.raises(type(error)):
        bulk.classify_file(model, source, target, batch_rows=8, progress=stop_after(40, error))
    assert not target.exists() and partfile.part_path(target).stat().st_size > 0
    with partfile.part_path(target).open("ab") as part:
        part.write(b"half a row that the state does not count")
    facts = bulk.classify_file(model, source, target, batch_rows=9)
    assert (facts["resumed_from"], facts["rows"], facts["empty"]) == (40, 100, 16)
    if kind == ".parquet":
        assert pq.read_table(target).equals(pq.read_table(whole))
    else:
        assert target.read_bytes() == whole.read_bytes()
    assert not partfile.part_path(target).exists() and not partfile.state_path(target).exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_killed_process_leaves_a_part_that_the_next_one_finishes(model: Path, tmp_path: Path) -> None:
    source, target = many(tmp_path / "a.csv"), tmp_path / "b.csv"
    code = (
        "import os, signal, sys; from slmkit import bulk\n"
        "bulk.classify_file(*sys.argv[1:], batch_rows=10, progress=lambda news: os.kill(os.getpid(), signal.SIGKILL))"
    )
    killed = subprocess.run([sys.executable, "-c", code, model, source, target], timeout=120)
    assert killed.returncode == -signal.SIGKILL and not target.exists()
    assert bulk.classify_file(model, source, target)["resumed_from"] == 10
    assert pd.read_csv(target)["id"].tolist() == list(range(100))


@pytest.fixture
def half_done(model: Path, tmp_path: Path) -> tuple[Path, Path]:
    source, target = many(tmp_path / "a.csv"), tmp_path / "b.csv"
    with pytest.raises(RuntimeError):
        bulk.classify_file(model, source, target, batch_rows=10, progress=stop_after(10, RuntimeError()))
    return source, target


def test_a_changed_input_model_or_column_is_not_mixed_in(
    model: Path, tmp_path: Path, half_done: tuple[Path, Path]
) -> None:
    source, target = half_done
    part = partfile.part_path(target).read_bytes()
    other = tmp_path / "other"
    classify.FloorClassifier().fit(["see you", "free cash"] * 9, ["ham", "spam"] * 9).save(other)
    with pytest.raises(
        InputError, match=r"b\.csv\.part cannot be resumed: the model changed since\. Delete it to start"
    ):
        bulk.classify_file(other, source, target)
    with pytest.raises(InputError, match=r"the text column \('text'\) changed since"):
        bulk.classify_file(model, source, target, text_column="id")
    with source.open("a") as file:
        file.write("100,one more\n")
    with pytest.raises(InputError, match="the input changed since"):
        bulk.classify_file(model, source, target)
    assert partfile.part_path(target).read_bytes() == part, "a refusal must leave the part as it is"
    facts = bulk.classify_file(model, source, target, resume=False)
    assert (facts["rows"], facts["resumed_from"]) == (101, 0)


def test_a_part_without_its_state_is_refused_and_a_lost_part_starts_again(
    model: Path, half_done: tuple[Path, Path]
) -> None:
    source, target = half_done
    state = partfile.state_path(target).read_text()
    partfile.state_path(target).unlink()
    with pytest.raises(InputError, match=r"b\.csv\.part stands there without b\.csv\.part\.json"):
        bulk.classify_file(model, source, target)
    partfile.state_path(target).write_text("{")
    with pytest.raises(InputError, match=r"b\.csv\.part\.json is unreadable"):
        bulk.classify_file(model, source, target)
    partfile.state_path(target).write_text(state)
    partfile.part_path(target).unlink()
    assert bulk.classify_file(model, source, target)["resumed_from"] == 0


def test_a_full_disk_is_named_and_what_is_done_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = many(tmp_path / "a.csv"), tmp_path / "b.csv"
    monkeypatch.setattr(partfile, "open", open_on_full_disk(1200), raising=False)
    with pytest.raises(
        SlmkitError, match=r"b\.csv\.part: the disk is full\. [1-9]0 rows are kept; mend it and run the same"
    ) as caught:
        bulk.classify_file(model, source, target, batch_rows=10)
    monkeypatch.undo()
    good = json.loads(partfile.state_path(target).read_text())
    assert partfile.part_path(target).stat().st_size == good["bytes"] and f" {good['rows']} rows" in str(caught.value)
    assert bulk.classify_file(model, source, target)["resumed_from"] == good["rows"]
    assert len(pd.read_csv(target)) == 100


@pytest.mark.parametrize(
    ("room", "only"),
    [(100, ".part"), (0, ".part"), (0, f".{os.getpid()}.part")],
    ids=["table", "none", "of this process"],
)
def test_a_disk_full_before_the_first_batch_is_done_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, only: str
) -> None:
    source, target = many(tmp_path / "a.csv"), tmp_path / "b.csv"
    monkeypatch.setattr(partfile, "open", open_on_full_disk(room, only), raising=False)
    with pytest.raises(SlmkitError, match=r"b\.csv\.part: the disk is full\. 0 rows are kept"):
        bulk.classify_file(model, source, target)
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_two_processes_cannot_write_one_output(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    source, target = many(tmp_path / "a.csv"), tmp_path / "b.csv"

    def second(news: Mapping[str, Any]) -> None:
        bulk.classify_file(model, source, target)

    with pytest.raises(InputError, match=r"b\.csv\.part: another process is writing it"):
        bulk.classify_file(model, source, target, batch_rows=50, progress=second)


@pytest.mark.parametrize(
    ("content", "output", "message"),
    [
        ("text\na\n", "a.csv", r"a\.csv: input and output are the same file"),
        ("text\na\n", "b.jsonl", r"b\.jsonl: the output must be CSV as the input is; its ending says JSONL"),
        ("text\na\n", "none/b.csv", "there is no folder .*none"),
        ("text\na\n", "none/b.txt", r"b\.txt: ending '\.txt' is not supported"),
        ("text,predicted\na,b\n", "b.csv", "already has the column 'predicted', which the model would add"),
        ("text,p_spam,p_x\na,b,c\n", "b.csv", "already has the column 'p_spam', which"),
        ("text,x\na,b,c\n", "b.csv", "line 2 has 3 fields, the header 2"),
        ("one,two\na,b\n", "b.csv", r"which column holds the texts\? .*Columns: 'one', 'two'"),
        ("text\n", "b.csv", "has column names and no rows"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(
    model: Path, tmp_path: Path, content: str, output: str, message: str
) -> None:
    source = tmp_path / "a.csv"
    source.write_text(content)
    with pytest.raises(InputError, match=message):
        bulk.classify_file(model, source, tmp_path / output)
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"] and source.read_text() == content


def test_more_bad_input_is_refused(model: Path, tmp_path: Path) -> None:
    source, target = many(tmp_path / "a.csv"), tmp_path / "b.csv"
    with pytest.raises(InputError, match=r"a\.csv: unknown column 'txet'\. Did you mean 'text'\? Known: id, text\."):
        bulk.classify_file(model, source, target, text_column="txet")
    with pytest.raises(InputError, match="batch_rows must be at least 1; got 0"):
        bulk.classify_file(model, source, target, batch_rows=0)
    with pytest.raises(InputError, match=r"no file at .*none\.csv"):
        bulk.classify_file(model, tmp_path / "none.csv", target)
    (tmp_path / "texts").mkdir()
    with pytest.raises(InputError, match=r"texts is a folder, not a file"):
        bulk.classify_file(model, tmp_path / "texts", target)
    with pytest.raises(SlmkitError, match="nowhere"):
        bulk.classify_file(tmp_path / "nowhere", source, target)
    with pytest.raises(InputError, match="column 'id' holds int64, not text"):
        bulk.classify_file(model, many(tmp_path / "a.parquet"), tmp_path / "b.parquet", text_column="id")
    assert not target.exists() and not partfile.part_path(target).exists()
    target.write_text("precious")
    with pytest.raises(InputError, match=r"b\.csv: the output exists; delete it or choose another name"):
        bulk.classify_file(model, source, target)
    assert target.read_text() == "precious"


def test_a_model_that_fails_leaves_nothing_when_nothing_was_done(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, texts: list[str]) -> np.ndarray:
        return np.full((len(texts), 2), np.nan)

    monkeypatch.setattr(classify.FloorClassifier, "predict_proba", broken)
    with pytest.raises(SlmkitError, match="probabilities of shape .* or not finite"):
        bulk.classify_file(model, many(tmp_path / "a.csv"), tmp_path / "b.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_equal_texts_are_scored_once_a_batch(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = classify.FloorClassifier.predict_proba

    def counting(self: Any, texts: list[str]) -> np.ndarray:
        seen.append(len(texts))
        return real(self, texts)

    monkeypatch.setattr(classify.FloorClassifier, "predict_proba", counting)
    source = tmp_path / "a.csv"
    source.write_text("text\n" + "see you\nfree cash\n" * 50)
    bulk.classify_file(model, source, tmp_path / "b.csv", batch_rows=60)
    assert seen == [2, 2]
    assert pd.read_csv(tmp_path / "b.csv")["predicted"].tolist() == ["ham", "spam"] * 50


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(("kind", "rows"), [(".csv", 10_000), (".parquet", 30_000)])
def test_memory_does_not_grow_with_the_file(model: Path, tmp_path: Path, kind: str, rows: int) -> None:
    """Both files are longer than what is held at a time (a batch, 16 MB of a row group); one holds four times as much.

    Measured up to 240,000 rows: Parquet takes 24 MB more from 10,000 to 60,000 rows, then 2 MB more up to 267 MB.
    """
    code = (
        "import re, sys; from slmkit import bulk\n"
        "bulk.classify_file(*sys.argv[1:])\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]))"
    )
    peaks, sizes = [], []
    for n in (rows, 4 * rows):
        source = tmp_path / f"{n}{kind}"
        frame = pd.DataFrame({"text": [f"see you at lunch {i % 500}" for i in range(n)], "rest": ["x" * 1000] * n})
        if kind == ".csv":
            frame.to_csv(source, index=False)
        else:
            frame.assign(rest=[f"{i}" * 200 for i in range(n)]).to_parquet(source, row_group_size=n, compression="none")
        command = [sys.executable, "-c", code, model, source, tmp_path / f"out{n}{kind}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        peaks.append(1024 * int(done.stdout))
        sizes.append(source.stat().st_size)
    assert sizes[1] - sizes[0] > 30e6
    assert peaks[1] - peaks[0] < 0.2 * (sizes[1] - sizes[0]), (peaks, sizes)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_several_text_columns_are_joined_as_in_training(model: Path, tmp_path: Path, ending: str) -> None:
    whole = many(tmp_path / f"whole{ending}")
    texts = [f"{TEXTS[i % 6]} {i}" if i % 6 != 4 else "" for i in range(100)]
    frame = pd.DataFrame({"subject": "see", "body": texts, "id": range(100)})
    frame.loc[frame.index % 6 == 4, "subject"] = ""
    source, target = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    write = {".csv": lambda: frame.to_csv(source, index=False), ".parquet": lambda: frame.to_parquet(source)}
    write.get(ending, lambda: frame.to_json(source, orient="records", lines=True))()
    joined = [f"see\n{text}" if text else "" for text in texts]
    facts = bulk.classify_file(model, source, target, text_column="subject,body")
    assert facts["rows"] == 100 and facts["empty"] == sum(not text for text in joined)
    bulk.classify_file(model, whole, tmp_path / f"c{ending}")
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet}.get(ending, lambda p: pd.read_json(p, lines=True))
    found, expected = read(target), classify.load(model).predict_proba([text or "x" for text in joined])
    filled = [i for i, text in enumerate(joined) if text]
    np.testing.assert_allclose(found["p_spam"].to_numpy(float)[filled], expected[filled, 1], atol=1e-5)
    assert not np.allclose(read(tmp_path / f"c{ending}")["p_spam"].to_numpy(float)[filled], expected[filled, 1])
    with pytest.raises(InputError, match="unknown column 'subjekt'"):
        bulk.classify_file(model, source, tmp_path / f"d{ending}", text_column="subjekt,body")
