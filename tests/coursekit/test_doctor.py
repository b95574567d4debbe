"""`coursekit doctor`: right on this machine, and for each thing that breaks a line that says what to do."""

import importlib.metadata
import os
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
import torchvision
from packaging.requirements import Requirement

from coursekit import cli
from coursekit.data import download


@pytest.fixture
def quick(monkeypatch):
    """Without the steps that take seconds; they have a test of their own."""
    monkeypatch.setattr(cli, "training_seconds", lambda device, bf16: 0.1)


def told(look):
    return list(look())


def wrong(findings):
    return [finding for finding in findings if finding.state == "WRONG"]


def test_on_a_machine_that_works_all_is_right_and_training_really_runs(capsys, monkeypatch):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")  # even where fit would train nothing
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "WRONG" not in out and out.endswith("All right.\n")
    assert "a training step runs on cpu: 8 images in" in out and f"torch {torch.__version__}" in out
    assert os.environ["NBGRADER_EXECUTION"] == "autograde"


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, capsys, quick):
    version = importlib.metadata.version

    def without_pycocotools(name):
        if name == "pycocotools":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_pycocotools)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert (
        'WRONG  pycocotools is missing (wanted: >=2.0.8)\n       -> pip install "pycocotools>=2.0.8"' in out
    )
    assert out.endswith("\n1 thing is wrong.\n") and "ok  safetensors" in out, (
        "the other lines come all the same"
    )


def test_a_package_that_cannot_be_imported_is_told_from_a_missing_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    (finding,) = wrong(told(cli.look_at_packages))
    assert finding.what.startswith("pycocotools is installed but cannot be imported: ModuleNotFoundError")
    assert "--force-reinstall" in finding.todo


@pytest.mark.parametrize(
    "installed, state",
    [
        ("2.9.1", "WRONG"),
        ("2.13.0", "WRONG"),
        ("2.13.0+cpu", "WRONG"),
        ("2.11.0+cu130", "ok"),
        ("2.16.0a0", "ok"),
    ],
)
def test_versions_are_held_against_the_pins(installed, state, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: installed)
    finding = cli.look_at_version(Requirement("torch>=2.10,!=2.13.0"))
    assert finding.state == state and installed in finding.what


def test_without_jupyter_and_nbgrader_a_note_says_what_for_they_are(monkeypatch):
    version = importlib.metadata.version

    def bare(name):
        if name in ("jupyterlab", "ipywidgets", "nbgrader", "jupytext", "nbval"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", bare)
    findings = told(cli.look_at_packages)
    assert not wrong(findings)
    notes = [finding for finding in findings if finding.state == "note"]
    assert (
        "open the lessons: jupyterlab is missing" in notes[0].what
        and 'pip install -e ".[notebooks]"' in notes[0].todo
    )
    assert "build and grade: nbgrader is missing" in notes[1].what


def test_a_checkout_that_is_not_installed_says_how_to(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    (finding,) = told(cli.look_at_packages)
    assert finding.state == "WRONG" and "pip install -e ." in finding.todo


def test_a_torchvision_of_another_release_is_told_by_its_operators(monkeypatch):
    def unfit(*_):
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(torchvision.ops, "nms", unfit)
    (finding,) = told(cli.look_at_operators)
    assert finding.state == "WRONG" and finding.what.endswith(
        "RuntimeError: operator torchvision::nms does not exist"
    )
    assert "in one command" in finding.todo


def test_a_training_step_that_fails_is_wrong(monkeypatch):
    def failing(device, bf16):
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(cli, "training_seconds", failing)
    (finding,) = wrong(cli.look_at_training(torch.device("cuda", 0)))
    assert (
        "no training step runs on cuda:0: RuntimeError: no kernel image" in finding.what
        and "driver" in finding.todo
    )


def test_a_gpu_that_torch_does_not_see_gets_a_note(monkeypatch, quick):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(cli.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert any("sees no GPU" in finding.what and finding.todo for finding in told(cli.look_at_devices))


def test_a_full_disk_is_wrong(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cli.shutil, "disk_usage", lambda place: usage(10e9, 9e9, 1e9))
    (finding,) = told(cli.look_at_disk)
    assert finding.state == "WRONG" and "1 GB free" in finding.what and "COURSEKIT_CACHE" in finding.todo


def test_a_cache_that_is_a_file_is_wrong(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSEKIT_CACHE", str(tmp_path / "file"))
    (finding,) = told(cli.look_at_disk)
    assert finding.state == "WRONG" and "cannot be written" in finding.what


def test_a_wrong_data_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSEKIT_DATA", str(tmp_path / "gone"))
    (finding,) = wrong(told(cli.look_at_data))
    assert "gone, which is no folder" in finding.what


def test_sets_that_are_there_are_found(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSEKIT_CACHE", str(tmp_path))
    monkeypatch.delenv("COURSEKIT_DATA", raising=False)
    names = set(download.sets())
    missing = [finding for finding in told(cli.look_at_data) if finding.state == "note"]
    assert {finding.what.split()[0] for finding in missing} == names
    place, needed, _ = download.sets()["bccd"].layouts[0]
    for path in needed:
        (tmp_path / place.format(split="val") / path.format(split="val")).mkdir(parents=True, exist_ok=True)
    assert any(
        finding.what.startswith("bccd: ") and "val" in finding.what for finding in told(cli.look_at_data)
    )


def test_a_look_that_breaks_hides_no_other_line(monkeypatch, capsys, quick):
    def look_at_disk():
        raise OSError("disk on fire")
        yield

    monkeypatch.setattr(cli, "look_at_disk", look_at_disk)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "WRONG  look at disk failed: OSError: disk on fire" in out and "COURSEKIT_DATA" in out


def test_without_torch_every_line_comes_and_no_traceback():
    code = (
        "import sys; sys.modules['torch'] = None; from coursekit.cli import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "torch is installed but cannot be imported" in done.stdout and "numpy" in done.stdout


def test_it_needs_no_notebook_package():
    blocked = ["IPython", "ipywidgets", "jupyterlab", "nbgrader", "nbformat", "jupytext", "ipykernel"]
    code = f"""
import sys
for name in {blocked}: sys.modules[name] = None
from coursekit import cli
cli.training_seconds = lambda device, bf16: 0.1
sys.exit(cli.main(["doctor"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [[], ["nurse"]])
def test_another_command_shows_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2 and "usage: coursekit" in capsys.readouterr().err
