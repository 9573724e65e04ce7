"""The picker: the order of `slmkit models --fits`, the estimate of the library to the byte, licence, gate and code."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from sample_runs import HOSTILE

import slmkit
from slmkit import catalog, doctor, footprint
from slmkit.assets import licences
from slmkit.commands import models
from slmkit.errors import InputError
from slmkit_widgets.models.picker import PickerModel

SMOL = "smollm2-135m-instruct"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 2 GB without a graphics card."""
    monkeypatch.setenv("SLMKIT_MEMORY_LIMIT", "2GB")
    monkeypatch.setattr(footprint, "device_memory", lambda: None)


@pytest.mark.slow
def test_the_backends_are_tried_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    model = PickerModel()
    assert "backend bnb: installed; whether it runs was not tried" in model.engines
    model.probe(wait=True)
    told = [one.split(",")[0] for one in model.engines]
    assert "backend bnb: runs here" in told and not any("dummy" in one for one in told)
    monkeypatch.setitem(doctor.EXTRAS, "mlx", ("no-such-package",))
    assert "backend mlx: lacks no-such-package" in PickerModel().engines


def line(model: PickerModel, name: str) -> dict[str, Any]:
    return next(line for line in model.table if line["name"] == name)


def test_the_table_has_the_catalog_in_the_order_of_the_command_line() -> None:
    model = PickerModel(bits=4, method="qlora")
    assert [one["name"] for one in model.table] == [row["name"] for row in sorted(models.rows(), key=models.rank)]
    here = [one["here"] for one in model.table]
    assert here == sorted(here, key=("tune", "serve", "no").index) and len(set(here)) > 1
    found = slmkit.estimate(SMOL, bits=4, method="qlora")
    assert line(model, SMOL)["needs"] == f"{found.peak_bytes / 1e9:.2f} GB" and line(model, SMOL)["fits"] == "yes"
    assert line(model, "llama-2-7b")["fits"] == "no" and line(model, "llama-2-7b")["licence"].endswith(", gated")
    assert line(model, "minilm")["tune"] == "-"
    assert line(model, model.name)["fits"] == "yes" and "it fits in 2.00 GB" in model.headline  # one is looked at


def test_settings_change_what_fits_and_a_limit_stands_for_another_machine() -> None:
    model = PickerModel(name="llama-2-7b", bits=4)
    assert "does NOT fit in 2.00 GB" in model.headline
    model.limit = "16GB"
    assert "it fits in 16.00 GB (given)" in model.headline and line(model, "llama-2-7b")["fits"] == "yes"
    assert line(model, "llama-2-7b")["here"] == "tune"
    model.bits, model.limit = 16, "32GB"  # a CPU without bfloat16 computes 16 bits in float32: 27 GB
    assert "llama-2-7b" in model.code and "bits=16" in model.code and "limit_bytes=32000000000" in model.code
    assert line(model, "llama-2-7b")["fits"] == "yes"
    model.method = "full"
    assert "does NOT fit" in model.headline and line(model, "llama-2-7b")["fits"] == "no"


def test_filters_keep_the_order_and_touch_no_choice() -> None:
    model = PickerModel(bits=4)
    chosen, names = model.name, [one["name"] for one in model.table]
    model.find = "  GEMMA "
    assert {one["name"] for one in model.table} == {name for name in names if "gemma" in name}
    model.find, model.only_fitting = "", True
    assert 0 < len(model.table) < len(names) and all(one["fits"] == "yes" for one in model.table)
    model.only_fitting, model.find = False, HOSTILE
    assert model.table == () and model.name == chosen


def test_the_terms_are_the_librarys_and_sum_to_the_answer() -> None:
    model = PickerModel(name=SMOL, bits=4, method="lora", seq=256)
    found = slmkit.estimate(SMOL, bits=4, method="lora", seq=256)
    assert {term["term"]: term["megabytes"] for term in model.terms} == {
        term.name: f"{term.n_bytes / 1e6:,.1f}" for term in found.terms
    }
    total = sum(float(term["megabytes"].replace(",", "")) for term in model.terms)
    assert total == pytest.approx(found.peak_bytes / 1e6, abs=0.05 * len(model.terms))
    assert all(term["why"] for term in model.terms)
    assert any(said.startswith("Largest that fits") for said in model.lines)


def test_the_code_does_the_same_here_and_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    model = PickerModel(name=SMOL, method="qlora", seq=64, batch=2)
    _, _, estimating, loading = model.code.splitlines()
    found = eval(estimating, {"slmkit": slmkit})
    assert (found.use.bits, found.use.method, found.use.seq, found.use.batch) == (4, "qlora", 64, 2)
    assert f"{found.peak_bytes / 1e9:.2f}" in model.headline
    assert loading == f"model = slmkit.load('{SMOL}', bits=4)"
    from slmkit.__main__ import app

    program, *arguments = shlex.split(model.shell.splitlines()[-1])
    assert program == "slmkit"
    app(arguments, standalone_mode=False)
    assert model.headline in capsys.readouterr().out


def test_a_gate_is_shown_and_accepting_it_is_written_down_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    gemma = catalog.MODELS["gemma-3-270m"]
    model = PickerModel(name=gemma.name)
    assert "To be accepted once: " in model.licence and gemma.terms[:40] in model.licence
    assert "slmkit.accept_license('gemma-3-270m')" in model.code
    model.accept()
    assert licences.accepted(gemma.name, gemma.licence)
    assert "Accepted on this machine" in model.licence and "accept_license" not in model.code
    model.name = "llama-2-7b"
    assert "Gated: the hub asks for an account" in model.licence
    model.accept()  # nothing to accept here
    assert licences._known().keys() == {gemma.name}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bits": 5}, "bits must be one of 4, 8, 16; got 5"),
        ({"method": "guess"}, "method must be one of infer, generate, lora, qlora, last-k, full; got 'guess'"),
        ({"name": "smolm2-135m"}, "unknown model 'smolm2-135m'. Did you mean 'smollm2-135m-instruct' or"),
        ({"seq": 0, "batch": -1}, "seq must be at least 1; got 0; batch must be at least 1; got -1"),
        ({"name": "minilm", "method": "generate"}, "is an encoder and writes no text"),
        ({"name": "x" * 5000}, "File name too long"),
    ],
)
def test_a_wrong_setting_is_said_as_the_library_says_it_and_mended_by_the_next(settings: Any, said: str) -> None:
    model = PickerModel(name=SMOL)
    before = model.headline
    for name, value in settings.items():
        setattr(model, name, value)
    assert said in model.headline and len(model.headline) <= 1000
    assert (model.code, model.shell, model.terms, model.error) == ("", "", (), "")
    for name, value in {"bits": None, "method": "infer", "seq": 128, "batch": 4, "name": SMOL}.items():
        setattr(model, name, value)
    assert model.headline == before


def test_a_limit_that_is_none_is_refused_and_changes_nothing() -> None:
    model = PickerModel(name=SMOL, limit="8GB")
    before = model.headline
    model.attempt(setattr, model, "limit", "much")
    assert model.error == "a memory size must look like 2000000000, 1.5GB or 1.5GiB; got 'much'"
    assert (model.limit, model.headline) == ("8GB", before)
    model.attempt(setattr, model, "limit", " ")
    assert model.error == "" and model.limit == "" and "2.00 GB" in model.headline


def test_settings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="unknown settings bit; known: bits, backend, method"):
        PickerModel(bit=4)


def test_a_folder_of_any_name_is_looked_at_and_quoted(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "mine" $(touch x) ; <b>'
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(catalog.config_values(catalog.MODELS[SMOL])))
    model = PickerModel(name=str(folder), bits=4)
    assert "it fits in" in model.headline and "not in the catalog" in model.licence
    assert shlex.split(model.shell)[2] == str(folder)
    assert eval(model.code.splitlines()[2], {"slmkit": slmkit}).use.bits == 4


@pytest.mark.parametrize("name", [HOSTILE, "two\nlines", "a\0b", "a\u200bb"])
def test_a_name_with_what_nobody_sees_is_refused_and_spelled_out(name: str) -> None:
    model = PickerModel(name=SMOL)
    model.attempt(setattr, model, "name", name)
    assert model.name == SMOL and model.error == f"a model's name must have printable characters only; got {name!r}"
    with pytest.raises(InputError, match="printable characters only"):
        PickerModel(name=name)
