"""Files of detections: the mark follows from AP, what is malformed or hostile costs its own points and no others."""

import contextlib
import csv
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch

from autograder import challenge, collect, handin
from autograder.cli import main
from autograder.grade import grade
from autograder.lessons import ROOT, LessonError, read_cells
from coursekit import challenge as students

from .conftest import LESSON, Graded, automatic_marks, changed, hand_in, make_class, shared

CELL = '''
# %% [markdown]
r"""
An AP of 0.10 earns nothing, one of 0.60 all points.
"""

# %% detections="challenge" points=10 zero=0.10 full=0.60
'''
FILE = "detections.json"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course of one lesson with a challenge, and the challenge of twelve scenes that its instructor made."""
    root = tmp_path_factory.mktemp("course")
    folder = root / "solutions" / "01_small"
    folder.mkdir(parents=True)
    before, after = LESSON.split('# %% exercise="box_iou"')  # among the exercises: none is disturbed
    (folder / "small.py").write_text(f'{before.lstrip()}{CELL.lstrip()}\n# %% exercise="box_iou"{after}', encoding="utf-8")
    assert main(["challenge", "--seed", "5", "--count", "12", "--course", str(root)]) == 0
    return root


@pytest.fixture(scope="module")
def small(course):
    return make_class.Lesson(course / "solutions" / "01_small" / "small.py")


@pytest.fixture(scope="module")
def truth(course):
    return challenge.read_truth(course / "truth")


def right(truth, **changes):
    """The truth as detections, with other values for some keys: key -> value, or function of the entry's number."""
    keys = ("image_id", "category_id", "bbox")
    entries = [{key: one[key] for key in keys} | {"score": 0.9} for one in truth["annotations"]]
    for number, entry in enumerate(entries):
        entry.update({key: value(number) if callable(value) else value for key, value in changes.items()})
    return entries


def by_pycocotools(truth, entries):
    """AP as its own documentation does it: from files, by `loadRes` and `summarize`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO()
        real.dataset = json.loads(json.dumps(truth))
        real.createIndex()
        evaluation = COCOeval(real, real.loadRes([dict(entry) for entry in entries]), "bbox")
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    return evaluation.stats[0]


@pytest.fixture(scope="module")
def graded(course, small, truth, tmp_path_factory):
    """A class: who handed in what, graded once."""
    folder = tmp_path_factory.mktemp("graded")
    moved = right(truth, bbox=lambda n: [value + 3 * (n % 3) for value in truth["annotations"][n]["bbox"]])
    files = {"right": right(truth), "moved": moved, "empty": [], "malformed": "[", "no notebook": right(truth)}
    for student in (*files, "nothing", "linked", "hard", "pipe", "folder", "large"):
        path = hand_in(folder, student, "" if student == "no notebook" else changed(small)).with_name(FILE)
        if student in files:
            path.write_text(files[student] if isinstance(files[student], str) else json.dumps(files[student]))
    place = folder / "submitted"
    secret = challenge.truth_file(course / "truth")
    (place / "linked/01_small" / FILE).symlink_to(secret)
    os.link(secret, place / "hard/01_small" / FILE)
    os.mkfifo(place / "pipe/01_small" / FILE)
    (place / "folder/01_small" / FILE).mkdir()
    with open(place / "large/01_small" / FILE, "wb") as file:
        file.truncate(10**9)
    graded = Graded(grade(course, place, folder, timeout=4.0, run=shared).parent)
    graded.moved = moved
    return graded


@pytest.mark.parametrize(
    "student, points, message",
    [
        ("right", 10, "AP 1.000 (AP50 1.000) of"),
        ("empty", 0, "AP 0.000 (AP50 0.000) of 0 detections in 12 pictures"),
        ("nothing", 0, "there is no detections.json; no file of detections was handed in"),
        ("malformed", 0, "it is not JSON"),
        ("linked", 0, "is a link"),
        ("hard", 0, "is a file of the course under another name"),
        ("pipe", 0, "is no regular file"),
        ("folder", 0, "is no regular file"),
        ("large", 0, "has 1000 MB, at most 10 MB are read"),
    ],
)
def test_file_earns_its_points_and_no_others(graded, student, points, message):
    row = graded.marks(student)
    assert (row["box_area"], row["box_iou"], row["challenge"]) == ("2", "4", str(points)) and row["max_score"] == "20"
    assert message in graded.page(student) and row["notes"] == ""


def test_mark_lies_on_the_line_between_the_two_ap(graded, truth):
    AP = by_pycocotools(truth, graded.moved)
    assert 0.15 < AP < 0.55, "the example says nothing"
    assert float(graded.marks("moved")["challenge"]) == round(10 * (AP - 0.1) / 0.5, 2)


def test_broken_notebook_costs_no_detections(graded):
    row = graded.marks("no notebook")
    assert (row["status"], row["challenge"], row["box_area"]) == ("not graded", "10", "0")
    assert "AP 1.000" in graded.page("no notebook")


def test_gradebook_and_nbgrader_have_the_same_points(graded, course):
    import nbformat
    from nbgrader.utils import determine_grade

    marks = automatic_marks(graded.output, "01_small")
    for student in ("right", "moved", "malformed"):
        notebook = nbformat.read(graded.output / "autograded" / student / "01_small" / "small.ipynb", 4)
        nbformat.validate(notebook)
        [cell] = [one for one in notebook.cells if one.metadata.get("nbgrader", {}).get("grade_id") == "test_challenge"]
        score = float(graded.marks(student)["challenge"])
        assert determine_grade(cell) == (score, 10) and marks[student, "test_challenge"] == (score, False)


def test_report_and_exports_have_it(graded, course, capsys):
    text = (graded.output / "report.html").read_text()
    assert "<code>challenge</code> of 01_small: AP of 4 files of detections, lowest 0.000" in text
    assert main(["export", "gradescope", "--course", str(course), "--output", str(graded.output)]) == 0
    told = json.loads((graded.output / "exports/gradescope/moved/01_small/results.json").read_text())
    test = next(one for one in told["tests"] if one["name"] == "challenge")
    assert test["score"] == float(graded.marks("moved")["challenge"]) and "AP 0." in test["output"]
    assert told["score"] == 6 + test["score"] and "challenge" not in told["output"]
    (graded.output / "worksheet.csv").write_text("Identifier,Full name,Grade,Maximum Grade,Feedback comments\n1,right,,20,\n")
    template = ["--template", str(graded.output / "worksheet.csv")]
    assert main(["export", "moodle", "--course", str(course), "--output", str(graded.output), *template]) == 0
    [row] = csv.DictReader(open(graded.output / "exports/moodle-01_small.csv", newline=""))
    assert row["Grade"] == "16" and "AP 1.000" in row["Feedback comments"]


def test_without_truth_files_wait_and_are_scored_when_it_comes(course, small, truth, tmp_path):
    for student, text in (("ada", json.dumps(right(truth))), ("bob", None)):
        path = hand_in(tmp_path, student, changed(small)).with_name(FILE)
        if text:
            path.write_text(text)
    options = dict(timeout=4.0, run=shared)
    waits = Graded(grade(course, tmp_path / "submitted", tmp_path, truth=tmp_path / "none", **options).parent)
    assert "no truth in" in (tmp_path / "report.html").read_text()
    assert waits.marks("ada")["waiting"] == "14" and "waits to be scored" in waits.page("ada")
    assert waits.marks("bob")["waiting"] == "4"
    now = Graded(grade(course, tmp_path / "submitted", tmp_path, **options).parent)
    assert now.marks("ada")["challenge"] == "10" and now.marks("ada")["waiting"] == "4"
    (tmp_path / "submitted/ada/01_small" / FILE).write_text("[]")
    again = Graded(grade(course, tmp_path / "submitted", tmp_path, **options).parent)
    assert again.marks("ada")["challenge"] == "0"


def entry(**changes):
    return json.dumps([{"image_id": ..., "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5} | changes], default=lambda _: "ID")


# What is handed in (ID is an image's), and a word of the message.
MALFORMED = {
    "empty": ("", "not JSON"),
    "spaces": (" " * 10**6, "not JSON"),
    "zero bytes": ("\0" * 1000, "not JSON"),
    "no UTF-8": (b"[\xff]", "byte 1 is not UTF-8"),
    "UTF-16": ("[]".encode("utf-16"), "is not UTF-8"),
    "pickle": (pickle.dumps([os.getcwd]), "byte 0 is not UTF-8"),
    "numpy": (b"\x93NUMPY\x01\x00", "byte 0 is not UTF-8"),
    "python": ("[dict(image_id=1)]", "not JSON"),
    "lines of JSON": ("{}\n{}\n", "not JSON"),
    "cut off": (entry()[:-3], "not JSON"),
    "null": ("null", "None (NoneType), expected a list"),
    "an object": ('{"detections": []}', "expected a list of detections"),
    "a truth": ('{"images": [], "annotations": []}', "expected a list of detections"),
    "numbers": ("[1, 2]", "detection 0 is 1 (int)"),
    "lists": ("[[]]", "detection 0 is [] (list)"),
    "deep lists": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "deep objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
    "deep value": (entry(score=json.loads("[" * 500 + "]" * 500)), "...]]]]]]] (list), expected a finite number"),
    "NaN": (entry(score=float("nan")), "it holds NaN"),
    "infinite": (entry(score=float("-inf")), "it holds -Infinity"),
    "too large": (entry().replace("0.5", "1e999"), "score is inf"),
    "5,000 digits": (entry().replace("0.5", "9" * 5000), "not JSON"),
    "500 digits": (entry().replace("0.5", "9" * 500), "score is 999"),
    "huge box": (entry(bbox=[0, 0, 1e300, 1e300]), "bbox is [0, 0, 1e+300, 1e+300]"),
    "true": (entry(score=True), "score is True (bool)"),
    "true as class": (entry(category_id=True), "category_id is True (bool)"),
    "words": (entry(score="0.5"), "score is '0.5' (str)"),
    "script": (entry(score="<script>alert(1)</script>"), "(str), expected a finite number"),
    "class 0": (entry(category_id=0), "category_id is 0 (int), expected a whole number from 1 to 6"),
    "class 7": (entry(category_id=7), "category_id is 7"),
    "class by name": (entry(category_id="disk"), "category_id is 'disk' (str)"),
    "image 1": (entry(image_id=1), "image_id is 1 (int), expected one of the challenge's 12 pictures"),
    "image by name": (entry(image_id="7.webp"), "image_id is '7.webp'"),
    "image as list": (entry(image_id=[]), "image_id is [] (list)"),
    "three numbers": (entry(bbox=[1, 2, 3]), "bbox is [1, 2, 3] (list)"),
    "a box in a list": (entry(bbox=[[1, 2, 3, 4]]), "expected four finite numbers"),
    "a box as an object": (entry(bbox={"0": 1}), "bbox is {'0': 1} (dict)"),
    "null in a box": (entry(bbox=[1, 2, None, 3]), "bbox is [1, 2, None, 3]"),
    "x2 before x1": (entry(bbox=[9, 9, -3, 4]), "negative size, expected [x, y, width, height]"),
    "no score": ('[{"image_id": ID, "category_id": 1, "bbox": [1, 2, 3, 4]}]', "detection 0 has no score"),
    "a key twice": (entry().replace('"score"', '"score": 0.9, "score"'), "a key twice"),
    "half a letter": (entry(image_id="\ud800"), r"'\ud800'"),
    "colours of a terminal": (entry(image_id="\x1b[31m"), r"'\x1b[31m'"),
    "second is wrong": (entry()[:-1] + ", 3]", "detection 1 is 3"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_file_is_told_what_is_wrong(truth, name):
    content, words = MALFORMED[name]
    if isinstance(content, str):
        content = content.replace('"ID"', "ID").replace("ID", str(truth["images"][0]["id"])).encode()
    with pytest.raises(students.Malformed) as caught:
        challenge.scored(content, truth)
    assert words in str(caught.value) and len(str(caught.value)) < 500


def test_file_that_takes_much_memory_is_malformed_and_no_more(truth):
    program = (  # a process of its own: what this one has freed before would count for nothing
        "import json, sys\nfrom autograder import challenge\nchallenge.MEMORY = 10**8\n"
        "told = challenge.score(b'[' + b'{},' * 3_000_000 + b'[]]', json.load(sys.stdin))\nprint(json.dumps(told))"
    )
    done = subprocess.run([sys.executable, "-c", program], input=json.dumps(truth), capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert list(told) == ["malformed"] and "memory" in told["malformed"]


def test_forms_that_are_right(truth):
    for text in (
        "\ufeff" + json.dumps(right(truth)),  # with a mark of byte order
        json.dumps(right(truth, segmentation=[], id=7, note="mine"), indent=4),
        json.dumps(right(truth, score=-3)),
        json.dumps(right(truth, score=lambda n: 10**6 - n)),
    ):
        assert challenge.scored(text.encode(), truth)["AP"] == pytest.approx(1)
    assert challenge.scored(json.dumps(right(truth, bbox=[1, 1, 0, 0])).encode(), truth)["AP"] == 0


def test_more_than_a_hundred_detections_a_picture_earn_no_more(truth):
    filled = [dict(one, score=0.95, bbox=[0, 0, 1, 1]) for one in right(truth) for _ in range(101)]
    assert challenge.scored(json.dumps(filled + right(truth)).encode(), truth)["AP"] == 0
    twice = right(truth) + right(truth)
    assert challenge.scored(json.dumps(twice).encode(), truth)["AP"] == pytest.approx(by_pycocotools(truth, twice))


def test_as_many_detections_as_a_file_may_have_are_scored_in_time(truth):
    one = json.dumps(right(truth)[0] | {"bbox": [1, 2, 3, 4]})
    text = "[" + ",".join([one] * (students.LARGEST // (len(one) + 1))) + "]"
    told = challenge.score(text.encode(), truth)
    assert told.get("detections", 0) > 100_000, told


def test_process_that_ends_or_hangs_costs_only_this_part(truth, monkeypatch):
    monkeypatch.setattr(challenge.threading, "active_count", lambda: 1)  # as in a worker: it forks
    monkeypatch.setattr(challenge, "scored", lambda *_: os._exit(3))
    assert challenge.score(b"[]", truth) == {"malformed": "the process that scored it ended"}
    monkeypatch.setattr(challenge, "scored", lambda *_: __import__("time").sleep(60))
    assert "not scored after 0.2 s" in challenge.score(b"[]", truth, limit=0.2)["malformed"]


def test_same_seed_makes_the_same_challenge_and_another_another(course, truth, tmp_path):
    archive, place = challenge.make(tmp_path, seed=5, count=12)
    assert archive.read_bytes() == (course / "coursekit/challenge.zip").read_bytes()
    assert json.loads(place.read_text()) == truth
    with pytest.raises(challenge.ChallengeError, match="is there already; --replace"):
        challenge.make(tmp_path, count=3)
    _, place = challenge.make(tmp_path, count=12, replace=True)
    other = json.loads(place.read_text())
    assert other["info"]["seed"] > 2**40 and not {one["id"] for one in other["images"]} & {one["id"] for one in truth["images"]}


def test_what_students_get_holds_no_truth(course, truth):
    archive = course / "coursekit/challenge.zip"
    given = students.load(archive)
    assert given.ids == [one["id"] for one in truth["images"]] and not given.practice
    with zipfile.ZipFile(archive) as file:
        about = json.loads(file.read("images.json"))
        assert about.keys() == {"images", "categories"} and about["images"][0].keys() == {"id", "file_name"}
        assert len(file.namelist()) == 13 and str(truth["info"]["seed"]) not in about
    from coursekit.data import scenes

    data = scenes("test", 12, seed=5, device="cpu")
    apart = torch.stack(given.images).int() - data.images.int()
    assert apart.abs().max() <= 16 and apart.float().abs().mean() < 6
    boxes = [one["bbox"] for one in truth["annotations"] if one["image_id"] == given.ids[3]]
    assert boxes == [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in data.targets[3]["boxes"].tolist()]


def test_own_images_with_their_truth(tmp_path):
    from PIL import Image

    (tmp_path / "mine").mkdir()
    sizes = [(30, 20), (16, 24)]
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (10 * number, 200, 0)).save(tmp_path / f"mine/street{number}.png")
    images = [{"id": n, "file_name": f"street{n}.png", "width": w, "height": h} for n, (w, h) in enumerate(sizes)]
    categories = [{"id": 90, "name": "tram"}, {"id": 17, "name": "bus"}]
    annotations = [{"id": 1, "image_id": 1, "category_id": 90, "bbox": [1, 2, 10, 12], "area": 100, "iscrowd": 0}]
    own = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "own.json").write_text(json.dumps(own))
    options = ["--images", str(tmp_path / "mine"), "--truth", str(tmp_path / "own.json"), "--course", str(tmp_path)]
    assert main(["challenge", *options]) == 0
    given, truth = students.load(tmp_path / "coursekit/challenge.zip"), challenge.read_truth(tmp_path / "truth")
    assert given.classes == ("bus", "tram") and [tuple(one.shape) for one in given.images] == [(3, 20, 30), (3, 24, 16)]
    assert "street" not in str(zipfile.ZipFile(tmp_path / "coursekit/challenge.zip").namelist())
    found = [{"image_id": given.ids[1], "category_id": 2, "bbox": [1, 2, 10, 12], "score": 1}]
    assert challenge.score(json.dumps(found).encode(), truth)["AP"] == pytest.approx(1)
    assert main(["challenge", *options[:2]]) == 2
    (tmp_path / "own.json").write_text(json.dumps(own | {"annotations": []}))
    assert main(["challenge", *options, "--replace"]) == 2


@pytest.mark.parametrize("text", ["[]", "{", '{"images": [], "categories": [], "annotations": []}'])
def test_file_that_is_no_truth_is_told_before_grading(course, small, tmp_path, text, capsys):
    hand_in(tmp_path, "ada", small.release)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth/challenge.json").write_text(text)
    options = ["--course", str(course), "--submitted", str(tmp_path / "submitted"), "--output", str(tmp_path / "out")]
    assert main(["grade", *options, "--truth", str(tmp_path / "truth")]) == 2
    assert "is no truth" in capsys.readouterr().err


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("full=0.60", "", "needs zero=0.10 full=0.45"),
        ("full=0.60", "full=0.05", "needs zero=0.10 full=0.45"),
        ("full=0.60", "full=0.605", "of two decimals"),
        ("full=0.60", "full=0.60\n1 + 1", "no body"),
        (" points=10", "", "needs points=N"),
        ("one of 0.60", "one of 0.70", "no text says 0.60"),
        ("full=0.60\n", 'full=0.60\n\n# %% detections="b" points=1 zero=0.10 full=0.60\n', "2 cells of detections"),
    ],
)
def test_lesson_that_tells_it_wrongly_is_not_built(tmp_path, old, new, told):
    path = tmp_path / "solutions/01_small/small.py"
    path.parent.mkdir(parents=True)
    assert (LESSON + CELL).count(old) == 1
    path.write_text((LESSON + CELL).replace(old, new).lstrip(), encoding="utf-8")
    with pytest.raises(LessonError, match=told):
        read_cells(path)


def test_cell_is_released_locked_and_scores_nothing_in_plain_nbgrader(small, monkeypatch):
    cell = make_class.find(small.release, "test_challenge")
    assert cell.source.endswith("look(points=10, zero=0.10, full=0.60)")
    assert cell.metadata.nbgrader.locked and cell.metadata.nbgrader.points == 10
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(RuntimeError, match="autograder grade"):
        exec(cell.source, {})


@pytest.mark.parametrize("command, released", [("collect", False), ("generate_assignment", True), ("release_assignment", True)])
def test_nbgrader_collects_the_file_and_releases_none(monkeypatch, command, released):
    from traitlets.config import PyFileConfigLoader

    monkeypatch.setattr("sys.argv", ["nbgrader", command, "14_your_detector", "--update"])
    config = PyFileConfigLoader("nbgrader_config.py", path=str(ROOT / "autograder")).load_config()
    assert ("*.json" in config.CourseDirectory.ignore) == released and "*.py" in config.CourseDirectory.ignore


CANVAS = {"doejane_501_9001_small.ipynb": "doejane_501", "doejane_501_9002_detections.json": "doejane_501"}
MOODLE = {f"Ada B_11_assignsubmission_file/{name}": "Ada B_11" for name in ("small.ipynb", FILE)}
OTHERS = {"eve/small.ipynb": "eve", "eve/detections.json": "eve", "eve/settings.json": None}


@pytest.mark.parametrize("names", [CANVAS, MOODLE, OTHERS], ids=["canvas", "moodle", "folders"])
def test_file_is_collected_with_the_notebook(course, small, tmp_path, names):
    notebook = make_class.text_of(small.release)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in names:
            archive.writestr(name, notebook if name.endswith("ipynb") else "[]")
    hand_ins, _ = collect.collect(tmp_path / "all.zip", None, tmp_path / "submitted", course)
    [student] = {student for student in names.values() if student}
    assert hand_ins == [(student, "01_small")]
    assert sorted(path.name for path in (tmp_path / "submitted" / student / "01_small").iterdir()) == [FILE, "small.ipynb"]
    with zipfile.ZipFile(tmp_path / "again.zip", "w") as archive:
        archive.writestr(f"{student}/detections (2).json", "[3]")
    collect.collect(tmp_path / "again.zip", None, tmp_path / "submitted", course, replace=True)
    assert (tmp_path / "submitted" / student / "01_small" / FILE).read_text() == "[3]"


def test_files_are_not_collected_for_other_lessons_or_from_nobody(tmp_path, course, small):
    other = tmp_path / "other/solutions/01_small"
    other.mkdir(parents=True)
    (other / "small.py").write_text(LESSON.lstrip())
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("eve/small.ipynb", "eve/detections.json"):
            archive.writestr(name, make_class.text_of(small.release))
    _, notes = collect.collect(tmp_path / "all.zip", None, tmp_path / "submitted", tmp_path / "other")
    assert [path.name for path in (tmp_path / "submitted/eve/01_small").iterdir()] == ["small.ipynb"]
    assert notes == ["eve/detections.json: of no lesson of the course; left out"]
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        archive.writestr("eve.ipynb", make_class.text_of(small.release))
        archive.writestr("detections.json", "[]")
    _, notes = collect.collect(tmp_path / "flat.zip", "01_small", tmp_path / "flat", course)
    assert [path.name for path in (tmp_path / "flat").iterdir()] == ["eve"] and "whose it is" in notes[0]


def test_sample_class_has_files_of_detections(course, tmp_path, monkeypatch):
    monkeypatch.setattr(make_class, "MISTAKES", {})  # those of the real lesson's exercises
    expected = make_class.make(tmp_path, course, kinds=["all right", "half right", "all wrong", "not a notebook", "untouched"])
    grade(course, tmp_path / "submitted", tmp_path, truth=tmp_path / "truth", timeout=4.0, run=shared)
    graded = Graded(tmp_path)
    found = {student: float(graded.marks(student)["challenge"]) for student in expected}
    assert found == {student: points["01_small"]["challenge"] for student, points in expected.items()}
    assert found == {"all-right": 10, "half-right": 0, "all-wrong": 0, "not-a-notebook": 10, "untouched": 0}
