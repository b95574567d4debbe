"""What is committed is what the sources give: built, executed, without an answer in the release."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from autograder.build import build, needs_run
from autograder.lessons import BEGIN_HIDDEN, ROOT, LessonError, exercises_of, read_cells, sources

LESSONS = [path.parent.name for path in sources()]
BY_NAME = {path.parent.name: path for path in sources()}


def release_of(lesson):
    return ROOT / "course" / lesson / f"{lesson[3:]}.ipynb"


def test_every_lesson_is_built(capsys):
    assert build(check=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_cell_was_run(lesson):
    notebook = nbformat.read(BY_NAME[lesson].with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    never = [cell.id for cell in notebook.cells if needs_run(cell) and not cell.execution_count]
    errors = [cell.id for cell in notebook.cells for out in cell.get("outputs", ()) if out.output_type == "error"]
    noisy = [cell.id for cell in notebook.cells for out in cell.get("outputs", ()) if out.get("name") == "stderr"]
    assert (never, errors, noisy) == ([], [], [])


@pytest.mark.parametrize("lesson", LESSONS)
def test_release_holds_no_answer(lesson):
    """But for lines of a colleague's function, which stands there to be copied and repaired."""
    text = "\n".join(cell.source for cell in nbformat.read(release_of(lesson), as_version=4).cells)
    assert not re.search(r"(BEGIN|END) (SOLUTION|HIDDEN|MARK)", text)
    colleague = ""
    for cell in read_cells(BY_NAME[lesson]):
        meta = cell.metadata.get("nbgrader", {})
        if "def colleague_" in cell.source and meta.get("locked"):
            colleague = cell.source
        if meta.get("solution") and meta.get("grade"):
            secret = cell.source.split("\n")  # a model answer
        elif meta.get("solution"):
            secret = re.findall(r"BEGIN SOLUTION\n(.*?)\n\s*### END SOLUTION", cell.source, re.DOTALL)[0].split("\n")
            if meta["grade_id"].startswith("repaired_"):
                secret = sorted(set(secret) - set(colleague.split("\n")))
                assert secret, "something was repaired"
        elif BEGIN_HIDDEN in cell.source:
            secret = cell.source.split(BEGIN_HIDDEN)[1].split("\n")[1:-2]
        else:
            continue
        shown = [line for line in secret if len(line.strip()) > 40 and line.strip() in text]
        assert not shown, f"{cell.metadata['nbgrader']['grade_id']}: {shown[0]!r} stands in the release"


@pytest.mark.parametrize("lesson", LESSONS)
def test_release_has_no_output(lesson):
    for cell in nbformat.read(release_of(lesson), as_version=4).cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


def test_release_holds_notebooks_only():
    others = [path for path in (ROOT / "course").rglob("*") if path.is_file() and path.suffix != ".ipynb"]
    assert not [path for path in others if ".ipynb_checkpoints" not in path.parts]


@pytest.mark.parametrize("lesson", LESSONS)
def test_lesson_has_two_written_questions_and_an_own_name_for_each_exercise(lesson):
    metas = [cell.metadata.get("nbgrader", {}) for cell in read_cells(BY_NAME[lesson])]
    assert sum(bool(meta.get("grade") and meta.get("solution")) for meta in metas) == 2
    text = "\n".join(cell.source for cell in read_cells(BY_NAME[lesson]) if cell.cell_type == "markdown")
    for name in exercises_of(BY_NAME[lesson]):
        assert re.search(rf"^#+ Exercise: `{name}`", text, re.MULTILINE), f"{name} has no heading"


def test_nbgraders_own_release_is_the_same(tmp_path):
    shutil.copytree(ROOT / "solutions", tmp_path / "solutions", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "autograder").mkdir()
    shutil.copy(ROOT / "autograder" / "nbgrader_config.py", tmp_path / "autograder")
    # nbgrader calls alembic by name: the environment's programs must be found.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, *LESSONS], cwd=tmp_path / "autograder", capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for lesson in LESSONS:
        theirs = tmp_path / "course" / lesson / release_of(lesson).name
        assert theirs.read_bytes() == release_of(lesson).read_bytes(), f"nbgrader's release of {lesson} differs"
    files = [path.name for path in (tmp_path / "course").rglob("*") if path.is_file()]
    assert sorted(files) == sorted(release_of(lesson).name for lesson in LESSONS)


# nbgrader's own command for each lesson, in one process: its start-up is most of the time.
GENERATE = """
import sys
from nbgrader.apps import NbGraderApp
for lesson in sys.argv[1:]:
    NbGraderApp.clear_instance()
    NbGraderApp.launch_instance(["generate_assignment", "--force", lesson])
"""


# The build notices what it should, on a small lesson of its own

SMALL = '''# %% [markdown]
r"""
# Small
### Exercise: `twice`
"""

# %% setup=true
import torch
from coursekit.checks import check, passed, same

# %% exercise="twice"
def twice(x):
    """Two times x."""
    ### BEGIN SOLUTION
    return x * torch.tensor(2.0)
    ### END SOLUTION

# %% check="twice" points=2
same(twice(torch.tensor([1.0, 2.0])), torch.tensor([2.0, 4.0]), "two times one and two")
### BEGIN HIDDEN TESTS
same(twice(torch.tensor([3.0, 5.0])), torch.tensor([6.0, 10.0]), "two times three and five")
### END HIDDEN TESTS

# %% written="why" points=1
r"""
Because two is the smallest number that doubles.
"""
'''


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("course")
    (root / "solutions" / "01_small").mkdir(parents=True)
    (root / "solutions" / "01_small" / "small.py").write_text(SMALL)
    assert build(root=root) == 0
    return root


@pytest.fixture
def course(built, tmp_path):
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_build_twice_changes_nothing(course):
    before = {path: path.read_bytes() for path in course.rglob("*") if path.is_file()}
    assert build(root=course) == 0 and build(root=course, check=True) == 0
    assert before == {path: path.read_bytes() for path in course.rglob("*") if path.is_file()}


def test_executing_again_gives_the_same_bytes(course):
    before = (course / "solutions" / "01_small" / "small.ipynb").read_bytes()
    assert build(root=course, force=True) == 0
    assert (course / "solutions" / "01_small" / "small.ipynb").read_bytes() == before


def test_source_edited_and_not_rebuilt_is_noticed(course, capsys):
    source = course / "solutions" / "01_small" / "small.py"
    source.write_text(SMALL.replace("# Small", "# Smaller"))
    assert build(root=course, check=True) == 1
    assert "solutions/01_small/small.ipynb" in capsys.readouterr().out


def test_release_edited_by_hand_is_noticed_and_mended(course, capsys):
    release = course / "course" / "01_small" / "small.ipynb"
    good = release.read_text()
    release.write_text(good.replace("Two times x", "Three times x"))
    assert build(root=course, check=True) == 1
    assert "course/01_small/small.ipynb" in capsys.readouterr().out
    build(root=course)
    assert release.read_text() == good


def test_cell_that_was_never_run_is_noticed(course):
    path = course / "solutions" / "01_small" / "small.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][3]["execution_count"] = None
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    assert build(root=course, check=True) == 1


@pytest.mark.parametrize(
    "old, new, words",
    [
        (" points=2", "", "test_twice needs points=N"),
        ('check="twice"', 'check="thrice"', "test_thrice checks an exercise that the lesson does not have"),
        ("### END HIDDEN TESTS", "", "one hidden region"),
        ('exercise="twice"', 'exercise="twice" setup=true', "setup and exercise in one header"),
    ],
)
def test_a_source_that_cannot_be_built_says_where_and_what(course, capsys, old, new, words):
    source = course / "solutions" / "01_small" / "small.py"
    source.write_text(SMALL.replace(old, new))
    assert build(root=course) == 2
    told = capsys.readouterr().err
    assert words in told and "small.py" in told


def test_unknown_lesson_says_which_there_are(course, capsys):
    assert build(["02_large"], root=course) == 2
    assert "01_small" in capsys.readouterr().err


def test_lesson_error_is_a_value_error():
    assert issubclass(LessonError, ValueError)
