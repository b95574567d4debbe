"""Who knows whom: coursekit knows no grader, lesson or test, and importing it is quick, quiet and offline."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import coursekit

ROOT = Path(coursekit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
STRANGERS = {"autograder", "nbgrader", "jupytext", "solutions", "course", "tests", "lessons"}
LATE = [
    "matplotlib",
    "ipywidgets",
    "anywidget",
    "IPython",
    "pycocotools",
    "faster_coco_eval",
    "torchvision",
    "safetensors",
]  # inside of functions only


def imported(file):
    """The first part of the name of every absolute import in a file, those inside of functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (value.value.split(".")[0] for value in node.args if isinstance(value, ast.Constant))


def test_the_walk_finds_imports_wherever_they_stand(tmp_path):
    source = (
        "import a.b\ndef f():\n    from c.d import e\n    importlib.import_module('g.h')\nfrom . import i\n"
    )
    (tmp_path / "x.py").write_text(source)
    assert sorted(imported(tmp_path / "x.py")) == ["a", "c", "g"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_coursekit_imports_no_grader_lesson_or_test(file):
    assert not STRANGERS & set(imported(file))


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_coursekit_alone_loads_nothing_else():
    code = "import sys, coursekit\nprint(*{name.split('.')[0] for name in sys.modules})"
    assert not {"torch", "numpy", *LATE} & set(run(code))


def test_importing_every_module_needs_no_network_no_gpu_and_no_slow_library():
    code = f"""
import pkgutil, socket, sys
def no_network(*_, **__): raise RuntimeError("network")
import torch
socket.socket.connect = socket.create_connection = socket.getaddrinfo = torch.cuda._lazy_init = no_network
import coursekit
for module in pkgutil.walk_packages(coursekit.__path__, "coursekit."):
    __import__(module.name)
    print(module.name)
print(*(name for name in {LATE} if name in sys.modules), "gpu" if torch.cuda.is_initialized() else "")
"""
    found = run(code)
    assert {"coursekit.plot", "coursekit.training", "coursekit.data.scenes"} <= set(found)
    assert not {*LATE, "gpu"} & set(found)
