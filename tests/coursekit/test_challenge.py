"""The challenge as students meet it: pictures, the file that is written, what its cell and check-in say of it."""

import copy
import importlib
import json

import nbformat
import pytest
import torch

from coursekit import challenge, checkin
from coursekit.checks import CheckFailed
from coursekit.data import scenes

make_class = importlib.import_module("tests.class.make_class")  # a class is a keyword
GIVEN = challenge.Given([101, 205], ("disk", "square"), False, [])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of its own, and no challenge in coursekit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(challenge, "ARCHIVE", tmp_path / "challenge.zip")
    return tmp_path


def found(*boxes, scores=(0.5,), labels=(1,)):
    return {"boxes": torch.tensor(boxes), "scores": torch.tensor(scores), "labels": torch.tensor(labels)}


NOTHING = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}


def test_detections_are_written_as_coco_has_results():
    boxes = found([10.0, 20, 40, 60], [1.0, 2, 3, 5], scores=(0.25, 0.75), labels=(2, 1))
    path = challenge.write([NOTHING, boxes], GIVEN)
    assert path.name == "detections.json" and json.loads(path.read_text()) == [
        {"image_id": 205, "category_id": 1, "bbox": [1, 2, 2, 3], "score": 0.75},
        {"image_id": 205, "category_id": 2, "bbox": [10, 20, 30, 40], "score": 0.25},
    ]
    assert len(challenge.parse(path.read_bytes(), GIVEN.ids, 2)) == 2


def test_the_best_hundred_of_a_picture_are_written():
    many = found(*[[0.0, 0, 1, 1]] * 300, scores=torch.linspace(0, 1, 300).tolist(), labels=[1] * 300)
    entries = json.loads(challenge.write([many, NOTHING], GIVEN).read_text())
    assert len(entries) == 100 and min(one["score"] for one in entries) > 0.66


@pytest.mark.parametrize(
    "detections, words",
    [
        ([NOTHING], "detections of 1 images, expected 2"),
        ([NOTHING, found([0.0, 0, 1, 1], labels=(3,))], "image 1: label 3, expected 1..2"),
        ([found([0.0, 0, 1, float("nan")]), NOTHING], "image 0: boxes hold nan"),
        ([found([0.0, 0, 1, 1], scores=(0.5, 0.4)), NOTHING], "expected .N, 4., .N,., .N,."),
    ],
)
def test_what_is_no_detection_is_refused_and_the_file_that_is_there_stays(here, detections, words):
    (here / "detections.json").write_text("[]")
    with pytest.raises(ValueError, match=words):
        challenge.write(detections, GIVEN)
    assert (here / "detections.json").read_text() == "[]"


def test_without_a_challenge_there_are_pictures_to_practise_with():
    given = challenge.load()
    assert given.practice and given.ids == list(range(1, 201)) and len(given.classes) == 6
    assert torch.equal(torch.stack(given.images[:3]), scenes("test", 3, device="cpu").images)
    assert challenge.load(images=False).images == []


def test_cell_says_what_which_ap_is_worth(capsys):
    given = challenge.load(images=False)
    challenge.write([found([0.0, 0, 9, 9])] * 3 + [NOTHING] * 197, given)
    challenge.look(points=10, zero=0.1, full=0.5)
    told = capsys.readouterr().out
    assert "well formed: 3 detections in 3 of 200 pictures" in told
    assert "0.10 or less earns nothing, 0.50 or more all 10 points" in told and "practice pictures, which earn nothing" in told


@pytest.mark.parametrize("text, words", [(None, "there is no detections.json"), ("{}", "expected a list"), ("[", "not JSON")])
def test_cell_of_a_file_that_is_wrong_fails_with_its_reason(here, text, words):
    if text:
        (here / "detections.json").write_text(text)
    with pytest.raises(CheckFailed, match=words):
        challenge.look(points=10, zero=0.1, full=0.5)


@pytest.mark.parametrize(
    "AP, points", [(0, 0), (0.1, 0), (0.2, 2.5), (0.2999, 5), (0.3, 5), (0.31234, 5.31), (0.5, 10), (1, 10)]
)
def test_points_rise_in_a_straight_line(AP, points):
    assert challenge.mark(AP, 10, 0.1, 0.5) == points


@pytest.fixture
def lesson(here):
    """A released notebook with a challenge; the folder for `--released`."""
    from tests.grading.conftest import LESSON
    from tests.grading.test_challenge import CELL

    path = here / "solutions/01_small/small.py"
    path.parent.mkdir(parents=True)
    path.write_text((LESSON + CELL).lstrip(), encoding="utf-8")
    lesson = make_class.Lesson(path)
    (here / "given").mkdir()
    nbformat.write(lesson.release, here / "given/01_small.ipynb")
    return lesson


@pytest.mark.parametrize(
    "text, state, words",
    [
        (None, "note", "detections.json is not beside the notebook (10 points)"),
        ("[]", "ok", "well formed: 0 detections"),
        ("[1]", "WRONG", "earns nothing: detection 0 is 1 (int)"),
    ],
)
def test_check_in_looks_at_the_file_too(here, lesson, text, state, words):
    (here / "small.ipynb").write_text(make_class.text_of(copy.deepcopy(lesson.answered())))
    if text:
        (here / "detections.json").write_text(text)
    report = checkin.check_in(here / "small.ipynb", released=here / "given")
    assert any(one.state == state and words in one.what for one in report.findings), report.findings
    assert report.wrong == (state == "WRONG") and report.repaired is None
    assert any("3 of 3 answers are there, for 10 of 10 points" in one.what for one in report.findings)
    assert (text is None) != any("practice pictures" in one.what for one in report.findings)
