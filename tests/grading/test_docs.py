"""Every command of README.md, CONTRIBUTING.md and the instructors' pages is typed, as it stands there, in one small course."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from autograder.lessons import ROOT
from autograder.plan import hours, rows

from .conftest import make_class
from .warm import programs

DOCS = "autograder/docs"
# In the order in which they are typed: as the index leads, README and CONTRIBUTING where they fit.
PAGES = ["autograder/README.md", f"{DOCS}/start.md", "docs/labs.md", f"{DOCS}/collect.md", "README.md",
         *(f"{DOCS}/{name}.md" for name in ("grade", "marks", "feedback", "export", "regrade", "gradescope", "cluster", "language", "plan", "challenge")),
         "CONTRIBUTING.md", f"{DOCS}/lessons.md"]  # fmt: skip
# Blocks that cannot be typed here. Another one is a change of this table, so that nobody hides a command in one.
NOT_RUN = {"README.md": 1, "CONTRIBUTING.md": 2, f"{DOCS}/start.md": 1, f"{DOCS}/marks.md": 1, f"{DOCS}/gradescope.md": 2,
           "docs/labs.md": 1, f"{DOCS}/cluster.md": 1, f"{DOCS}/lessons.md": 1}  # fmt: skip
PROGRAMS = "autograder|nbgrader|coursekit|python3?|pip|jupyter|make|git|conda|dask|docker"
ANSWER = "def box_iou(boxes1, boxes2):\n    return torch.zeros(len(boxes1), len(boxes2))\n"


def blocks(page):
    """`(info, text)` of each fenced block of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(info.strip(), body) for info, body in re.findall(r"^```(.*?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def link_of(page):
    return [target for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8"))]


def test_every_page_is_known_here_and_leads_on():
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "autograder").rglob("*.md")}
    assert pages == {page for page in PAGES if page.startswith("autograder")}
    reached = {(ROOT / "autograder" / target).resolve() for target in link_of("autograder/README.md")}
    assert {ROOT / page for page in pages} == reached | {ROOT / "autograder/README.md"}
    numbered = [f"{name}.md" for name in ("start", "collect", "grade", "marks", "feedback", "export", "regrade")]
    for page, following in zip(numbered, [*numbered[1:], "../README.md"]):
        assert link_of(f"{DOCS}/{page}")[-1] == following


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    missing = [target for target in link_of(page) if not ((ROOT / page).parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_typed_or_say_why_not(page):
    kinds = [info for info, _ in blocks(page)]
    assert all(re.fullmatch(r"sh|sh in home|sh not-run: \w.{10,}|python append to \S+|python|toml|text", info) for info in kinds), kinds
    assert sum("not-run" in info for info in kinds) == NOT_RUN.get(page, 0)
    hidden = [body for info, body in blocks(page) if not info.startswith("sh") and re.search(rf"(?m)^\s*({PROGRAMS}) ", body)]
    assert not hidden, "a command in a block that is not typed"


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_sentences_exist(page):
    """`make X` is a target, `autograder X --option` a command with that option."""
    text = re.sub(r"(?ms)^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text()
    from autograder import cli

    for span in re.findall(r"`([^`\n]+)`", text):
        if found := re.fullmatch(r"make (\w+)", span):
            assert re.search(rf"^{found[1]}:", makefile, re.MULTILINE), span
        elif found := re.match(r"autograder (\w+)\b(.*)", span):
            source = Path(cli.__file__).read_text()
            options = source.partition(f"def _{found[1]}_options(")[2].partition("\ndef ")[0]
            assert options and all(f'"{option}"' in options for option in re.findall(r"--\w+", found[2])), span


def small_course(root):
    """A checkout with one lesson: setup, text, two exercises and the questions of 01_boxes."""
    for name in ("autograder", "coursekit", "tests/exercises"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "test_*.py"))
    for folder in ("autograder/mistakes", "tests/exercises/forms"):  # of other lessons
        for path in (root / folder).glob("*.py"):
            if path.name not in ("__init__.py", "boxes.py"):
                path.unlink()
    shutil.copytree(ROOT / "docs", root / "docs")
    for name in ("pyproject.toml", "environment.yml", "Makefile", "README.md", "tests/__init__.py", *(f"tests/exercises/test_{name}.py" for name in ("answers", "mistakes", "sandboxed"))):
        shutil.copy(ROOT / name, root / name)
    cells = re.split(r"(?m)^(?=# %%)", (ROOT / "solutions/01_boxes/boxes.py").read_text(encoding="utf-8"))
    wanted = re.compile(r'# %% (\[markdown\]|setup=|written=|(exercise|check)="box_(area|iou)")')
    (root / "solutions/01_boxes").mkdir(parents=True)
    (root / "solutions/01_boxes/boxes.py").write_text("".join(cell for cell in cells if wanted.match(cell)), encoding="utf-8")
    for path in (root, *root.rglob("*")):  # student processes run as another user
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


def what_the_reader_has(root, lesson):
    """The files that the pages start from: what Canvas and Moodle gave, an answer to judge, a hand-in to try."""
    notebooks = {"doejane_501": lesson.answered(), "roerick_502": lesson.answered(box_iou=ANSWER)}
    with zipfile.ZipFile(root / "submissions.zip", "w") as archive:
        for number, (student, notebook) in enumerate(notebooks.items()):
            archive.writestr(f"{student}_900{number}_boxes.ipynb", make_class.text_of(notebook))
    (root / "grades.csv").write_text(
        "Student,ID,SIS Login ID,Section,Boxes (1234)\n    Points Possible,,,,10\nJane Doe,501,jane,A,\nRick Roe,502,rick,A,\n"
    )
    (root / "worksheet.csv").write_text(
        "Identifier,Full name,Grade,Maximum Grade,Feedback comments\nParticipant 501,Jane,,10,\nParticipant 502,Rick,,10,\n"
    )
    (root / "answer.py").write_text("import torch\n\n" + ANSWER)
    (root / "try/submission").mkdir(parents=True)
    (root / "try/submission/boxes.ipynb").write_text(make_class.text_of(lesson.answered()))


@pytest.fixture(scope="module")
def walked(isolated, tmp_path_factory):
    """The folder in which all pages were typed, and what each block printed."""
    base = tmp_path_factory.mktemp("walk")
    base.chmod(0o755)
    root, home = base / "course", base / "home"
    for folder in (root, home, base / "exchange", base / "config"):
        folder.mkdir()
    (base / "exchange").chmod(0o777)
    (base / "config/nbgrader_config.py").write_text(f"c = get_config()\nc.Exchange.root = {str(base / 'exchange')!r}\n")
    small_course(root)
    environment = {
        **os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "JUPYTER_CONFIG_DIR": str(base / "config"),
        "JUPYTER_DATA_DIR": str(base / "data"), "IPYTHONDIR": str(base / "ipython"),
    }  # fmt: skip
    printed = {}
    with programs(base, environment) as bin:
        environment["PATH"] = os.pathsep.join([str(bin), str(Path(sys.executable).parent), environment["PATH"]])
        for page in PAGES:
            for number, (info, text) in enumerate(blocks(page)):
                if info.startswith("python append to "):
                    with open(root / info.split()[-1], "a", encoding="utf-8") as file:
                        file.write(text)
                elif info in ("sh", "sh in home"):
                    if page == "docs/labs.md":  # a fork, committed
                        git = "git init -q && git add -A && git -c user.name=A -c user.email=a@b.c commit -qm fork"
                        subprocess.run(git, shell=True, cwd=root, check=True)
                    if page.endswith("collect.md") and number == 0:
                        what_the_reader_has(root, make_class.Lesson(root / "solutions/01_boxes/boxes.py"))
                    done = subprocess.run(
                        ["bash", "-e", "-c", text], cwd=home if "home" in info else root, env=environment,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
                    )  # fmt: skip
                    assert done.returncode == 0, f"{page}:\n{text}\n{done.stdout[-3000:]}"
                    printed[page, number] = done.stdout
    return root, printed


@pytest.mark.slow
def test_students_folder_has_no_solutions(walked):
    root, _ = walked
    assert (root.parent / "students/course/01_boxes/boxes.ipynb").exists()
    assert not list((root.parent / "students").rglob("solutions")) and not list((root.parent / "students").rglob("autograder"))


def of_page(printed, name):
    return [text for (page, _), text in printed.items() if page.endswith(name)]


@pytest.mark.slow
def test_build_and_release(walked):
    root, printed = walked
    assert re.search(r"01_boxes: [1-9] files changed", "".join(of_page(printed, "start.md")))
    outbound = root.parent / "exchange/object-detection/outbound/01_boxes"
    assert [path.name for path in outbound.iterdir()] == ["boxes.ipynb"]


@pytest.mark.slow
def test_zip_and_exchange_are_collected_and_graded(walked):
    root, _ = walked
    with open(root / "marks.csv", newline="") as file:
        marks = {row["student"]: (row["box_iou"], row["score"]) for row in csv.DictReader(file)}
    from_exchange = marks.keys() - {"doejane_501", "roerick_502"}
    assert marks["doejane_501"] == ("5", "6") and float(marks["roerick_502"][0]) < 5 and len(from_exchange) == 1


@pytest.mark.slow
def test_exchange_hands_back_the_page_of_ours(walked):
    root, _ = walked
    [page] = (root.parent / "home/01_boxes/feedback").rglob("*.html")
    [student] = {path.name for path in (root / "submitted").iterdir()} - {"doejane_501", "roerick_502"}
    assert page.read_text() == (root / "feedback" / student / "01_boxes/boxes.html").read_text()
    assert "files beside the notebook" not in (root / "report.html").read_text()  # the exchange's own are none of the student's


@pytest.mark.slow
def test_exports_hold_the_marks(walked):
    root, _ = walked
    canvas = list(csv.reader(open(root / "exports/canvas-01_boxes.csv", newline="")))
    assert {row[0]: row[-1] for row in canvas}["Jane Doe"] == "6"
    moodle = list(csv.DictReader(open(root / "exports/moodle-01_boxes.csv", newline="")))
    assert moodle[0]["Grade"] == "6" and "box_iou" in moodle[1]["Feedback comments"]
    theirs = {row["student_id"]: row["score"] for row in csv.DictReader(open(root / "grades-nbgrader.csv", newline=""))}
    assert float(theirs["doejane_501"]) == 6
    gradescope = json.loads((root / "try/results/results.json").read_text())
    assert gradescope["score"] == 6


@pytest.mark.slow
def test_unchanged_hand_ins_are_not_graded_again_unless_forced(walked):
    _, printed = walked
    [marks], [regrade] = of_page(printed, "marks.md"), of_page(printed, "regrade.md")
    assert "0 graded, 3 unchanged" in marks
    assert "3 graded, 0 unchanged" in regrade


@pytest.mark.slow
def test_challenge_is_for_students_and_its_truth_is_ignored_by_git(walked):
    root, printed = walked
    assert (root / "coursekit/challenge.zip").exists() and (root / "truth/challenge.json").exists()
    assert "of pictures: commit it" in of_page(printed, "challenge.md")[0]
    ignored = subprocess.run(["git", "check-ignore", "--no-index", "truth/challenge.json", "coursekit/challenge.zip"], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout.split() == ["truth/challenge.json"]


@pytest.mark.slow
def test_exercise_of_the_page_is_built_and_held_by_tests(walked):
    root, printed = walked
    assert "passed" in of_page(printed, "lessons.md")[-1] and "failed" not in of_page(printed, "lessons.md")[-1]
    names = json.loads((root / "coursekit/fingerprints/01_boxes.json").read_text())["box_centers"]
    assert [row["name"] for row in names] == ["corner for centre", "half the size"]


@pytest.mark.slow
def test_translated_lesson_lies_beside(walked):
    root, printed = walked
    assert (root / "course-de/01_boxes/boxes.ipynb").exists() and (root / "solutions/01_boxes/boxes.de.po").exists()
    assert "01_boxes in de: 0 of" in of_page(printed, "language.md")[0]


def test_readme_lists_every_lesson_with_the_hours_that_it_says():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, _, took, *_ in rows(ROOT):
        topic = name[3:]
        row = re.search(rf"^\| \[{name[:2]} .*\]\(course/{name}/{topic}\.ipynb\) \|.*\| (.+) \|$", text, re.MULTILINE)
        assert row and row[1] == f"{hours(took)} hours", f"{name}: the lesson says {hours(took)} hours"


def test_versions_and_licence_agree():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {project['version']}\n" in citation and f"\nlicense: {project['license']}\n" in citation
    assert project["version"] in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "LICENSE").read_text().startswith(f"{project['license']} License")
