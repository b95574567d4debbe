"""The badge and the first cell of every lesson: in an empty folder, without coursekit, on Colab and elsewhere."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from autograder import build as building
from autograder.lessons import ROOT, LessonError, sources
from coursekit import start

LESSONS = [path.parent.name for path in sources()]
ADDRESS, BRANCH = building.repository()


def release_of(lesson):
    return nbformat.read(ROOT / "course" / lesson / f"{lesson[3:]}.ipynb", as_version=4)


def cell(lesson, id_):
    return next(cell for cell in release_of(lesson).cells if cell.id == id_).source


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_lesson_begins_with_badge_and_first_cell(lesson):
    badge, first = release_of(lesson).cells[:2]
    page = f"{ADDRESS.removeprefix('https://github.com/')}/blob/{BRANCH}/course/{lesson}/{lesson[3:]}.ipynb"
    assert f"https://colab.research.google.com/github/{page}" in badge.source
    assert f"{ADDRESS}/archive/{BRANCH}.zip" in first.source and f'start("{lesson}")' in first.source
    assert "nbgrader" not in first.metadata and "torch" not in first.source


def test_the_address_stands_in_one_place():
    """Everything else that names it was made by the build."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    found = {
        file
        for file in listed.stdout.split()
        if (ROOT / file).is_file() and ADDRESS.encode() in (ROOT / file).read_bytes()
    }
    assert {file for file in found if not file.endswith(".ipynb")} == {"pyproject.toml"}


# A small course whose address changes

SMALL = '''# %% [markdown]
r"""
# Small
"""

# %% setup=true
from coursekit.checks import check, passed, same

# %% exercise="twice"
def twice(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

# %% check="twice" points=2
same(twice(2.0), 4.0, "two times two")
'''
SETTINGS = '[tool.autograder]\nrepository = "https://github.com/{}/course"\nbranch = "term"\n'


def test_another_word_runs_no_lesson_again_and_another_line_of_code_does(tmp_path, monkeypatch):
    folder = tmp_path / "solutions" / "01_small"
    folder.mkdir(parents=True)
    runs = []

    def executed(notebook, folder):
        runs.append(1)
        for one in notebook.cells:
            if one.cell_type == "code":
                one.execution_count = len(runs)
        return notebook

    monkeypatch.setattr(building, "execute", executed)
    for source, count in ((SMALL, 1), (SMALL.replace("# Small", "# Tiny"), 1), (SMALL.replace("twice(2.0), 4.0", "twice(3.0), 6.0"), 2)):
        (folder / "small.py").write_text(source)
        assert building.build(root=tmp_path) == 0 and building.build(root=tmp_path, check=True) == 0
        built = nbformat.read(folder / "small.ipynb", 4)
        assert built.cells[0].source == ("# Tiny" if "Tiny" in source else "# Small")
        assert {one.execution_count for one in built.cells if one.cell_type == "code"} == {count}
    assert len(runs) == 2


def test_another_address_changes_every_badge_and_runs_no_lesson_again(tmp_path, monkeypatch):
    folder = tmp_path / "solutions" / "01_small"
    folder.mkdir(parents=True)
    (folder / "small.py").write_text(SMALL)

    def executed(notebook, folder):  # a kernel takes seconds
        for one in notebook.cells:
            if one.cell_type == "code":
                one.execution_count = 1
        return notebook

    monkeypatch.setattr(building, "execute", executed)
    assert building.build(root=tmp_path) == 0, "a course without an address has no badge"
    assert nbformat.read(folder / "small.ipynb", 4).cells[0].source == "# Small"
    monkeypatch.setattr(building, "execute", lambda *_: pytest.fail("executed again"))
    for owner in ("ada", "bob"):
        (tmp_path / "pyproject.toml").write_text(SETTINGS.format(owner))
        assert building.build(root=tmp_path, check=True) == 1
        assert building.build(root=tmp_path) == 0 and building.build(root=tmp_path, check=True) == 0
        for file in (folder / "small.ipynb", tmp_path / "course" / "01_small" / "small.ipynb"):
            badge, first, title = nbformat.read(file, 4).cells[:3]
            assert f"/github/{owner}/course/blob/term/course/01_small/small.ipynb" in badge.source
            assert f"https://github.com/{owner}/course/archive/term.zip" in first.source
            assert title.source == "# Small"
        assert nbformat.read(folder / "small.ipynb", 4).cells[3].execution_count == 1


@pytest.mark.parametrize("address", ["https://gitlab.com/a/b", "github.com/a/b", "https://github.com/a"])
def test_an_address_that_colab_cannot_open_is_refused(tmp_path, address):
    (tmp_path / "pyproject.toml").write_text(f'[tool.autograder]\nrepository = "{address}"\n')
    with pytest.raises(LessonError, match="expected https://github.com/OWNER/NAME"):
        building.repository(tmp_path)


# The cell itself, in a Python that has all packages but coursekit, with a pip that only notes what it is asked for

PIP = """
import shutil, sys
from pathlib import Path
here = Path(__file__).parent.parent
with open(here / "pip.log", "a") as log:
    print(*sys.argv[1:], file=log)
for wanted in sys.argv[1:]:
    if wanted.startswith("https://"):
        shutil.copytree({kit!r}, here / "coursekit", ignore=shutil.ignore_patterns("__pycache__"))
        module = here / "coursekit" / "start.py"
        text = module.read_text()
        assert 'Path("/content")' in text
        module.write_text(text.replace('Path("/content")', "Path({content!r})"))
        about = here / "coursekit-0.1.0.dist-info"
        about.mkdir()
        needs = "torch>=99 torchvision numpy lacking>=2".split()
        lines = [f"Requires-Dist: {{one}}" for one in needs] + ['Requires-Dist: jupyterlab; extra == "notebooks"',
            'Requires-Dist: shown; extra == "notebooks"', 'Requires-Dist: graded; extra == "instructor"']
        (about / "METADATA").write_text("\\n".join(["Metadata-Version: 2.1", "Name: coursekit", "Version: 0.1.0", *lines]))
    elif not wanted.startswith("-") and wanted != "install":
        about = here / f"{{wanted.split('>')[0]}}-9.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {{wanted.split('>')[0]}}\\nVersion: 9.0")
"""
DRIVE = """
import os
def mount(place):
    os.makedirs(os.path.join(place, "MyDrive"), exist_ok=True)
"""


class Machine:
    """A Python with every package of this one but coursekit; `run(code)` in a new process of it."""

    def __init__(self, folder, content, colab):
        self.site, self.content = folder / "site", content
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        self.site.mkdir()
        for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            for package in Path(place).iterdir():
                if not package.name.startswith(("coursekit", "__editable__", "pip", "google")):
                    (self.site / package.name).symlink_to(package)
        (self.site / "pip").mkdir()
        (self.site / "pip" / "__init__.py").touch()
        (self.site / "pip" / "__main__.py").write_text(PIP.format(kit=str(ROOT / "coursekit"), content=str(content)))
        if colab:
            (self.site / "google" / "colab").mkdir(parents=True)
            (self.site / "google" / "colab" / "__init__.py").write_text("")
            (self.site / "google" / "colab" / "drive.py").write_text(DRIVE)
        self.colab = colab

    def run(self, code):
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
        if self.colab:
            kept["COLAB_RELEASE_TAG"] = "release"
        done = subprocess.run(
            [sys.executable, "-S", "-c", code], cwd=self.work, capture_output=True, text=True, timeout=120,
            env={**kept, "PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def asked(self):
        log = self.site / "pip.log"
        return log.read_text().splitlines() if log.exists() else []


def test_alone_in_an_empty_folder_it_installs_what_is_missing_and_the_lessons_open(tmp_path):
    machine = Machine(tmp_path, tmp_path / "content", colab=False)
    setups = {lesson: [c.source for c in release_of(lesson).cells if c.id.startswith("setup")] for lesson in LESSONS}
    code = cell("01_boxes", "start") + "\n" + "\n".join(
        f"names = {{'__name__': {lesson!r}}}\nfor source in {sources!r}: exec(source, names)\nprint('opened', {lesson!r})"
        for lesson, sources in setups.items()
    )  # fmt: skip
    shown = machine.run(code)
    assert machine.asked == [
        f"install --quiet --no-deps {ADDRESS}/archive/{BRANCH}.zip",
        "install --quiet lacking>=2 shown",
    ], "never torch, not even where another version is wanted"
    assert "device: " in shown and all(f"opened {lesson}" in shown for lesson in LESSONS)
    assert "box_iou: the library's, as no notebook beside this one holds yours" in shown
    assert list(machine.work.iterdir()) == [], "nothing is left in the folder"
    again = machine.run(cell("01_boxes", "start"))
    assert len(machine.asked) == 2 and again.splitlines()[-1].startswith("device: ") and "installing" not in again


TRAINING = """
import signal, torch
from coursekit.data import DetectionData
from coursekit.training import fit
torch.manual_seed(0)
model = torch.nn.Conv2d(3, 16, 3)
data = DetectionData(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}] * 4, ("a",))
calls = []
def loss(model, images, targets):
    calls.append(1)
    if len(calls) == stop: signal.raise_signal(signal.SIGINT)
    return model(images).square().mean()
history = fit(model, loss, data, steps=5, batch_size=2, checkpoint="run.safetensors", device="cpu")
print("steps", len(history.steps), "run here", len(calls))
"""


def test_on_colab_the_folder_is_on_drive_and_a_training_goes_on_after_a_disconnect(tmp_path):
    content = tmp_path / "content"
    folder = content / "drive" / "MyDrive" / start.COURSE / "05_ssd"
    first = cell("05_ssd", "start")
    before = Machine(tmp_path / "before", content, colab=True)
    shown = before.run(first + "\nstop = 2" + TRAINING)
    assert f"your folder is {folder}: checkpoints stay there" in shown and "steps 2 run here 2" in shown
    assert (folder / "run.safetensors").exists()
    assert {path.parent.name for path in folder.parent.glob("*/*.ipynb")} == set(LESSONS)
    mine = folder / "ssd.ipynb"
    mine.write_text(mine.read_text().replace("raise NotImplementedError", "return 1"))
    written = mine.read_text()

    after = Machine(tmp_path / "after", content, colab=True)  # a new session: nothing is left but Drive
    shown = after.run(first + "\nstop = -1" + TRAINING)
    assert "run.safetensors holds step 2 of 5" in shown and "steps 5 run here 3" in shown
    assert mine.read_text() == written, "the student's notebook stays as it is"


def test_on_colab_without_drive_the_session_serves_and_says_so(tmp_path, monkeypatch, capsys):
    def declined(place):
        raise ValueError("mount failed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "CONTENT", tmp_path)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=SimpleNamespace(mount=declined)))
    start.start("01_boxes")
    shown = capsys.readouterr().out
    assert "Drive was not mounted (ValueError: mount failed)" in shown
    assert f"your folder is {tmp_path / start.COURSE / '01_boxes'}; without Drive it is gone" in shown
    assert Path.cwd() == tmp_path / start.COURSE / "01_boxes" and "device: " in shown


def test_a_whole_repository_on_drive_is_used_as_it_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(start, "CONTENT", tmp_path)
    course = tmp_path / "drive" / "MyDrive" / start.COURSE / "course"
    (course / "01_boxes").mkdir(parents=True)
    (course / "01_boxes" / "boxes.ipynb").write_text("mine")
    assert f"your folder is {course / '02_anchors'}: checkpoints stay there" in start.colab_folder("02_anchors")
    assert Path.cwd() == course / "02_anchors" and (course / "01_boxes" / "boxes.ipynb").read_text() == "mine"


def test_without_torch_it_says_how_to_get_it(tmp_path, monkeypatch):
    find = start.importlib.util.find_spec
    monkeypatch.setattr(start.importlib.util, "find_spec", lambda name: None if name == "torchvision" else find(name))
    with pytest.raises(ImportError, match="pip install torch torchvision, in one command"):
        start.install_missing()


def test_while_grading_it_does_nothing(monkeypatch, capsys):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    monkeypatch.setattr(start, "install_missing", lambda: pytest.fail("installed"))
    start.start("01_boxes")
    assert capsys.readouterr().out == ""


def test_earlier_finds_an_answer_in_a_copy_that_colab_saved(tmp_path, monkeypatch, capsys):
    from coursekit import earlier

    copies = tmp_path / "Colab Notebooks"
    copies.mkdir()
    (tmp_path / "course" / "01_boxes").mkdir(parents=True)
    (tmp_path / "course" / "02_anchors").mkdir()
    released = ROOT / "course" / "01_boxes" / "boxes.ipynb"
    shutil.copy(released, tmp_path / "course" / "01_boxes")  # untouched: nothing is answered in it
    solved = json.loads((ROOT / "solutions" / "01_boxes" / "boxes.ipynb").read_text("utf-8"))
    (copies / "Copy of boxes.ipynb").write_text(json.dumps(solved), "utf-8")
    monkeypatch.setattr(earlier, "COPIES", copies)
    function = earlier.earlier("box_area", tmp_path / "course" / "02_anchors")
    assert "box_area: yours, from Colab Notebooks" in capsys.readouterr().out
    assert function.__code__.co_filename.startswith("Colab Notebooks")


def test_the_students_folder_of_the_docs_has_the_course_and_no_solution(tmp_path):
    """The command of docs/labs.md, run as written."""
    text = (ROOT / "docs" / "labs.md").read_text("utf-8")
    commands = [line for line in text.splitlines() if line.startswith(("mkdir ../students", "git archive"))]
    assert len(commands) == 2
    inside = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True)
    if inside.returncode:
        pytest.skip("no git checkout")
    script = " && ".join(commands).replace("../students", str(tmp_path / "students"))
    subprocess.run(script, shell=True, cwd=ROOT, check=True)
    files = {path.relative_to(tmp_path / "students") for path in (tmp_path / "students").rglob("*") if path.is_file()}
    assert Path("coursekit/start.py") in files and Path("course/01_boxes/boxes.ipynb") in files
    assert not [file for file in files if file.parts[0] in ("solutions", "autograder", "tests")]
