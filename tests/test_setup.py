"""The set-up: its files say one thing, and lab.py makes an environment, keeps it and repairs it."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections import defaultdict
from datetime import datetime
from itertools import product
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINNED = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]
PINS = defaultdict(list)  # name -> its lines in constraints.txt, each for some platforms
for pin in PINNED:
    PINS[canonicalize_name(pin.name)].append(pin)


# ---------------------------------------------------------------------------------------- the files


def direct_dependencies():
    extras = PROJECT["project"]["optional-dependencies"]
    every = map(Requirement, sum(extras.values(), PROJECT["project"]["dependencies"]))
    return [needed for needed in every if needed.name != PROJECT["project"]["name"]]


def applies(requirement, **platform):
    return requirement.marker is None or requirement.marker.evaluate({"extra": "", **platform})


def test_conda_brings_python_and_pip_and_pip_brings_the_rest():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    assert environment["dependencies"] == [
        f"python {PROJECT['project']['requires-python']}",
        "pip",
        {"pip": ["--constraint constraints.txt", "--editable .[dev]"]},
    ]


def test_every_constraint_is_one_version():
    assert [str(pin) for pin in PINNED if not re.fullmatch(r"==[^*,]+", str(pin.specifier))] == []


@pytest.mark.parametrize("needed", direct_dependencies(), ids=str)
def test_every_dependency_is_pinned_within_its_range_on_every_platform(needed):
    pythons, systems = ("3.11.2", "3.12.1", "3.13.0", "3.14.0"), ("linux", "darwin", "win32")
    for python, system in product(pythons, systems):
        platform = {"python_full_version": python, "sys_platform": system}
        (pin,) = [p for p in PINS[canonicalize_name(needed.name)] if applies(p, **platform)]
        assert str(pin.specifier)[2:] in needed.specifier


def test_what_the_pinned_packages_need_is_pinned_too_and_fits():
    for pin in filter(applies, PINNED):
        try:
            package = importlib.metadata.distribution(pin.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # another platform's
        if package.version not in pin.specifier:
            continue  # an environment of other versions, as the ranges allow
        for needed in filter(applies, map(Requirement, package.requires or [])):
            (other,) = filter(applies, PINS[canonicalize_name(needed.name)])
            assert needed.specifier.contains(str(other.specifier)[2:], prereleases=True), pin


def test_the_ranges_allow_the_oldest_torch_we_promise():
    oldest = {"torch": "2.11", "torchvision": "0.26"}
    ranges = {needed.name: needed.specifier for needed in direct_dependencies()}
    assert all(version in ranges[name] for name, version in oldest.items())


def test_uv_resolves_as_of_one_day_and_knows_dev_by_both_names():
    assert datetime.fromisoformat(PROJECT["tool"]["uv"]["exclude-newer"])
    assert PROJECT["dependency-groups"]["dev"] == ["pruning-lab[dev]"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "environment.yml", "lab.py"])
def test_no_set_up_file_names_a_host(name):
    assert "://" not in (ROOT / name).read_text(encoding="utf-8")


def test_no_lock_file_is_tracked():
    """They name a host in every line. Outside a git checkout there is nothing to track."""
    if (ROOT / ".git").exists():
        git = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "*.lock", "*pylock*.toml"]
        assert subprocess.check_output(git, cwd=ROOT, text=True) == ""


def test_a_wheel_holds_all_that_the_package_reads(tmp_path):
    pytest.importorskip("setuptools", "77", reason="nothing to build a wheel with")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("pruning_lab", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL
    )
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if "dist-info" not in name}
    sources = (path.relative_to(tmp_path) for path in (tmp_path / "pruning_lab").rglob("*.*"))
    course = {
        path.relative_to(ROOT / "notebooks").as_posix(): path.read_bytes()
        for folder in ("", "read")
        for path in (ROOT / "notebooks" / folder).glob("*.ipynb")
    }
    assert inside == {path.as_posix() for path in sources} | {
        f"pruning_lab/notebooks/{name}" for name in course
    }
    assert {"pruning_lab/pages/studio/page.js", "pruning_lab/weights/lenet-5-mnist.json"} <= inside

    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    subprocess.run(
        [sys.executable, "-m", "pruning_lab", "course", "start", "copied", "--solved"],
        cwd=tmp_path / "site",
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    to = tmp_path / "site" / "copied"
    assert {p.relative_to(to).as_posix(): p.read_bytes() for p in to.rglob("*.*")} == course
    assert {"00_start.ipynb", "read/00_start.ipynb"} <= set(course)


def test_the_checksums_in_the_data_page_are_those_of_the_files():
    raw = Path(os.environ.get("PRUNING_LAB_DATA", ROOT / "data")) / "MNIST" / "raw"
    if not raw.is_dir():
        pytest.skip(f"no MNIST in {raw}")
    page = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for name, size in re.findall(r"\| `(\S+-ubyte)` \| ([\d,]+) \|", page):
        content = (raw / name).read_bytes()
        assert f"{len(content):,}" == size
        for hashed in (hashlib.md5(content), hashlib.sha256(content)):
            assert f"    {hashed.hexdigest()}  {name}\n" in page


# ----------------------------------------------------------------------------------------- lab.py

# It stands in for uv: notes what it is asked, goes wrong when told to, else "installs" modules that
# tell how they were started.
INSTALLER = """
import os, signal, subprocess, sys, time
from pathlib import Path

here = Path(__file__).parent
with open(here / "asked.txt", "a") as asked:
    print(*sys.argv[1:], os.environ.get("PYTHONDONTWRITEBYTECODE"), os.getcwd(), file=asked)
python = sys.argv[sys.argv.index("--python") + 1]
ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
site = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
(site / "half_installed.py").touch()
mishap = os.environ.get("MISHAP")
if mishap == "failed":
    sys.exit(7)
if mishap == "crashed":
    os.kill(os.getpid(), signal.SIGKILL)
if mishap == "killed":
    os.kill(os.getppid(), signal.SIGKILL)
    sys.exit()
if mishap == "interrupted":
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(9)
if mishap == "slow":
    time.sleep(0.5)
(site / "half_installed.py").unlink()
for module in ("pruning_lab", "pytest", "jupyterlab"):
    (site / module).mkdir(exist_ok=True)
    (site / module / "__main__.py").write_text((here / "task.py").read_text())
print("the installer talks")
"""
TASK = """
import json, os, shutil, sys
print(json.dumps({
    "module": os.path.basename(os.path.dirname(__file__)),
    "words": sys.argv[1:],
    "folder": os.getcwd(),
    "bytecode": os.environ.get("PYTHONDONTWRITEBYTECODE"),
    "python on the path": shutil.which("python"),
}))
sys.exit(int(os.environ.get("TASK_ENDS_WITH", 0)))
"""
posix = pytest.mark.skipif(os.name != "posix", reason="the stand-in for uv is a shell script")


class Lab:
    """A small project of its own in a folder with a space, with a stand-in for uv on the PATH."""

    def __init__(self, folder):
        self.root, self.bin, self.elsewhere = folder / "a lab", folder / "bin", folder / "elsewhere"
        for made in (self.root, self.bin, self.elsewhere):
            made.mkdir()
        shutil.copy(ROOT / "lab.py", self.root)
        (self.root / "pyproject.toml").write_text("[project]\n")
        (self.root / "constraints.txt").write_text("torch==2.15.0\n")
        (self.bin / "installer.py").write_text(INSTALLER)
        (self.bin / "task.py").write_text(TASK)
        command = f'exec "{sys.executable}" -IS "{self.bin}/installer.py" "$@"'
        (self.bin / "uv").write_text(f"#!/bin/sh\n{command}\n")
        (self.bin / "uv").chmod(0o755)

    @property
    def env(self):
        return self.root / ".venv"

    def start(self, *words, **environment):
        return subprocess.Popen(
            [sys.executable, "-S", self.root / "lab.py", *words],
            cwd=self.elsewhere,
            env={
                **os.environ,
                "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": "",
                **environment,
            },
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *words, **environment):
        """Exit code, standard output and standard error of one call."""
        process = self.start(*words, **environment)
        said, noted = process.communicate(timeout=60)
        return process.returncode, said, noted

    def asked(self):
        """What the installer was asked to do, a line per call."""
        notes = self.bin / "asked.txt"
        return notes.read_text().splitlines() if notes.exists() else []


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture
def module(lab, monkeypatch):
    """Its lab.py, imported, with no uv on the PATH; what it would start fails the test instead."""
    for start in (os, "execv"), (subprocess, "call"):
        monkeypatch.setattr(*start, lambda command, *_, **__: pytest.fail(f"it started {command}"))
    monkeypatch.setenv("PATH", str(lab.elsewhere))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # main() removes it; this brings it back
    spec = importlib.util.spec_from_file_location("lab", lab.root / "lab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_needs_nothing_and_makes_nothing(lab, words):
    code, said, noted = lab(*words)
    assert (code, noted) == (0, "")
    assert all(f"python3 lab.py {word}" in said for word in ("run", "test", "notebooks"))
    assert not lab.env.exists()


def test_an_old_python_can_read_the_file_and_is_told_which_one_it_needs(lab, module, monkeypatch):
    ast.parse((ROOT / "lab.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))
    with pytest.raises(SystemExit, match=r"^pruning_lab needs Python 3\.11 or newer.*lab\.py run$"):
        module.main(["run"])
    assert not lab.env.exists()


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_python_that_cannot_make_environments_says_what_to_type(
    lab, module, monkeypatch, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match=r"^lab\.py: .*apt install python3-venv.*install uv\.$"):
        module.main(["run"])
    assert not lab.env.exists()


def test_without_uv_the_environments_own_pip_installs(lab, module, monkeypatch):
    asked = []
    monkeypatch.setattr(module.subprocess, "call", lambda step, **_: asked.append(step) or 0)
    module.set_up()
    python = str(module.PYTHON)
    assert asked[0][:3] == [python, "-m", "ensurepip"]
    assert asked[1][:4] == [python, "-m", "pip", "install"]
    assert asked[1][-4:] == ["-c", "constraints.txt", "-e", ".[dev]"]
    assert module.is_ready()
    assert (lab.env / "pyvenv.cfg").exists()


def test_another_python_or_other_constraints_want_another_environment(lab, module, monkeypatch):
    wishes = {module.stamp()}
    for name in ("pyproject.toml", "constraints.txt"):
        (lab.root / name).write_text("other\n")
        wishes.add(module.stamp())
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
    wishes.add(module.stamp())
    assert len(wishes) == 4


@posix
def test_the_first_call_sets_up_and_the_second_only_runs(lab):
    (lab.elsewhere / "json.py").write_text("raise Exception('the folder shadows a module')")
    code, said, noted = lab("run", "--out", "runs/x", TASK_ENDS_WITH="3")
    assert code == 3
    assert json.loads(said) == {
        "module": "pruning_lab",
        "words": ["run", "--out", "runs/x"],
        "folder": str(lab.elsewhere),
        "bytecode": None,
        "python on the path": str(lab.env / "bin" / "python"),
    }
    assert noted.startswith("lab.py: making .venv with uv; ")
    assert noted.endswith("the installer talks\n")
    assert lab("run", "--out", "runs/x", TASK_ENDS_WITH="3") == (3, said, "")
    (asked,) = lab.asked()
    assert " --compile-bytecode -c constraints.txt -e .[dev] None " in asked
    assert asked.endswith(str(lab.root))


@posix
def test_each_word_starts_its_task(lab):
    def task(*words):
        found = json.loads(lab(*words)[1])
        return found["module"], found["words"], found["folder"]

    here = str(lab.elsewhere)
    assert task("test", "-k", "masks") == ("pytest", ["-k", "masks"], str(lab.root))
    assert task("studio", "--port", "1") == ("pruning_lab", ["studio", "--port", "1"], here)
    course = f"--ServerApp.root_dir={lab.root / 'notebooks'}"
    assert task("notebooks", "--port=1") == ("jupyterlab", [course, "--port=1"], here)


@posix
@pytest.mark.parametrize(
    ("mishap", "code", "sentence"),
    [
        ("failed", 1, "ended with 7; its messages are above\nThe same command starts it again.\n"),
        (
            "crashed",
            1,
            "ended with -9; its messages are above\nThe same command starts it again.\n",
        ),
        ("interrupted", 130, "did not finish: interrupted\nThe same command starts it again.\n"),
        ("killed", -9, ""),
    ],
    ids=["failed", "crashed", "interrupted", "killed"],
)
@pytest.mark.parametrize("before", ["nothing", "an environment"])
def test_a_broken_set_up_is_repaired_by_the_next_call(lab, before, mishap, code, sentence):
    if before == "an environment":
        lab("run")
        (lab.root / "constraints.txt").write_text("torch==2.16.0\n")
    ended, said, noted = lab("run", MISHAP=mishap)
    assert (ended, said) == (code, "")
    assert noted.endswith(sentence)
    assert list(lab.env.rglob("half_installed.py"))

    asked = len(lab.asked())
    code, said, noted = lab("run")
    assert (code, json.loads(said)["words"]) == (0, ["run"])
    assert len(lab.asked()) == asked + 1
    assert not list(lab.env.rglob("half_installed.py"))
    # An installer that gave up by itself, as when offline, leaves what was there to be built on.
    kept = (before, mishap) == ("an environment", "failed")
    assert noted.startswith(f"lab.py: {'updating' if kept else 'making'} .venv")


@posix
def test_new_constraints_update_what_is_there(lab):
    lab("run")
    (lab.env / "mine.txt").touch()
    (lab.root / "constraints.txt").write_text("torch==2.16.0\n")
    code, _, noted = lab("run")
    assert (code, len(lab.asked())) == (0, 2)
    assert noted.startswith("lab.py: updating .venv")
    assert (lab.env / "mine.txt").exists()
    assert lab("run")[2] == ""


@posix
def test_a_moved_folder_gets_a_new_environment(lab):
    lab("run")
    lab.root = lab.root.rename(lab.root.with_name("moved"))
    assert lab("run")[2].startswith("lab.py: making .venv")
    assert lab("run")[2] == ""


@posix
def test_an_environment_somebody_else_made_is_kept(lab):
    venv.create(lab.env, symlinks=True)
    (lab.env / "mine.txt").touch()
    assert lab("run")[2].startswith("lab.py: updating .venv")
    assert (lab.env / "mine.txt").exists()


@posix
def test_one_that_lost_its_settings_is_not_built_on(lab):
    """Without pyvenv.cfg its python is the system's, and an install would go there."""
    venv.create(lab.env, symlinks=True)
    (lab.env / "pyvenv.cfg").unlink()
    assert lab("run")[2].startswith("lab.py: making .venv")


@posix
def test_of_two_at_once_one_sets_up_and_both_run(lab):
    both = [lab.start("run", MISHAP="slow") for _ in range(2)]
    assert [process.communicate(timeout=60)[0] != "" for process in both] == [True, True]
    assert [process.returncode for process in both] == [0, 0]
    assert len(lab.asked()) == 1
