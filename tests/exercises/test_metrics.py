"""Lesson 07 against pycocotools and against results that others published, beyond what its check cells do."""

import functools
import json
import os
from pathlib import Path

import numpy
import pytest
import torch

from autograder.judge import load_answer
from autograder.lessons import all_exercises
from coursekit import evaluation
from coursekit.evaluation import IOUS, coco_results, coco_truths, evaluate_detections, run_pycocotools

EXERCISES = all_exercises()
SAMPLES = Path(os.environ.get("COURSEKIT_DATA", "nowhere")) / "metrics"


@pytest.fixture(autouse=True)
def by_pycocotools_itself(monkeypatch):
    monkeypatch.setattr(evaluation, "run_fastest", run_pycocotools)


@functools.cache
def answer(name):
    return load_answer(EXERCISES[name], EXERCISES[name].reference)


def boxes_of(dice, count, size=90.0):
    corner = torch.rand(count, 2, generator=dice) * size
    return torch.cat([corner, corner + 6 + 40 * torch.rand(count, 2, generator=dice)], 1)


def whole(dice, low, high):
    return int(torch.randint(low, high, (), generator=dice))


def random_data(seed):
    """Detections and truths with duplicates, wrong classes, crowds, equal scores, and images that lack one or both."""
    dice = torch.Generator().manual_seed(seed)
    classes, found, truths = whole(dice, 1, 6), [], []
    for _ in range(whole(dice, 1, 25)):
        objects = whole(dice, 0, 12)
        boxes, labels = boxes_of(dice, objects), torch.randint(1, classes + 1, (objects,), generator=dice)
        truths.append({"boxes": boxes, "labels": labels})
        if seed % 2:
            truths[-1]["ignore"] = torch.rand(objects, generator=dice) < 0.2
        again = torch.randint(0, max(objects, 1), (whole(dice, 0, 15) if objects else 0,), generator=dice)
        junk = whole(dice, 0, 8)
        near = boxes[again] + 0.08 * (boxes[again, 2:] - boxes[again, :2]).repeat(1, 2) * torch.randn(len(again), 4, generator=dice)
        near = torch.cat([near, boxes_of(dice, junk)])
        kinds = torch.cat([labels[again], torch.randint(1, classes + 1, (junk,), generator=dice)])
        scores = torch.rand(len(near), generator=dice)
        if seed % 3 == 0:
            scores = (scores * 8).round() / 8
        found.append({"boxes": near, "labels": kinds, "scores": scores})
    return found, truths, [str(k) for k in range(classes)]


@pytest.mark.parametrize("seed", range(60))
def test_mean_ap_is_that_of_pycocotools(seed):
    found, truths, classes = random_data(seed)
    ours, theirs = answer("mean_ap")(found, truths, IOUS), evaluate_detections(found, truths, classes)
    known = {k for k, name in enumerate(classes, 1) if theirs.counts[name]}
    assert set(ours["per_class"]) == known
    if not known:
        assert ours["AP"] == 0 and ours["per_threshold"] == [0] * 10
        return
    assert ours["AP"] == pytest.approx(theirs.AP, abs=1e-6)
    assert ours["per_threshold"][0] == pytest.approx(theirs.AP50, abs=1e-6)
    assert ours["per_threshold"][5] == pytest.approx(theirs.AP75, abs=1e-6)
    for k in known:
        assert ours["per_class"][k] == pytest.approx(theirs.per_class[classes[k - 1]], abs=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_matches_are_those_of_pycocotools(seed):
    """By recall: pycocotools' recall at the end of the list is the share of objects that were found."""
    found, truths, _ = random_data(seed)
    alone = [{**one, "labels": torch.ones_like(one["labels"])} for one in found]
    single = [{**one, "labels": torch.ones_like(one["labels"])} for one in truths]
    recall = run_pycocotools(coco_truths(single, ["a"]), coco_results(alone, 1), (32, 96), 100)["recall"][:, 0, 0, -1]
    objects = sum(int((~one["ignore"]).sum()) if "ignore" in one else len(one["boxes"]) for one in truths)
    for threshold, expected in zip(IOUS, recall.tolist()):
        if expected >= 0:
            _, tp = answer("match_detections")(alone, single, threshold)
            assert int(tp.sum()) / objects == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("objects", [7, 10, 20, 33, 50, 100])
def test_coco101_ap_takes_pycocotools_levels(objects):
    """Every number of found objects, without a mistake: also where recall is one of the ten levels a rounding too high."""
    levels = numpy.linspace(0, 1, 101)
    for hits in range(1, objects + 1):
        recall = torch.arange(1, hits + 1, dtype=torch.float64) / objects
        expected = (levels <= hits / objects).sum() / 101
        assert float(answer("coco101_ap")(torch.ones_like(recall), recall)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objects", [10, 20, 70])
def test_voc11_ap_reaches_a_level_exactly(objects, dtype):
    for hits in range(1, objects + 1):
        recall = torch.arange(1, hits + 1).to(dtype) / objects
        expected = (hits * 10 // objects + 1) / 11  # in whole numbers
        assert float(answer("voc11_ap")(torch.ones_like(recall), recall)) == pytest.approx(expected, abs=1e-6)


def padilla(kind, plus=0.0):
    images = []
    for path in sorted((SAMPLES / "odm_sample2" / kind).glob("*.txt")):
        rows = torch.tensor([[float(word) for word in line.split()[1:]] for line in path.read_text().splitlines() if line.strip()],
                            dtype=torch.float64)  # fmt: skip
        corner = rows[:, -4:-2]
        images.append({"boxes": torch.cat([corner, corner + rows[:, -2:] + plus], 1), "scores": rows[:, 0]})
    return images


@pytest.mark.skipif(not (SAMPLES / "odm_sample2").is_dir(), reason="COURSEKIT_DATA has no metrics/odm_sample2")
@pytest.mark.parametrize(
    "threshold, plus, area, points",
    [
        (0.1, 0, 0.2801328502, 0.3024538867),
        (0.3, 0, 0.2253968254, 0.2683982684),
        (0.5, 0, 0.0222222222, 0.0303030303),
        (0.75, 0, 0, 0),
        (0.3, 1, 0.24568668, 0.26839827),  # what its own pages round to 24.56 % and 26.84 %
    ],
)
def test_published_voc_sample(threshold, plus, area, points):
    truths = [{"boxes": one["boxes"]} for one in padilla("groundtruths", plus)]
    found = padilla("detections", plus)
    assert (len(truths), sum(len(one["boxes"]) for one in truths), sum(len(one["boxes"]) for one in found)) == (7, 15, 24)
    curve = answer("precision_recall")(*answer("match_detections")(found, truths, threshold), 15)
    assert float(answer("area_ap")(*curve)) == pytest.approx(area, abs=1e-8)
    assert float(answer("voc11_ap")(*curve)) == pytest.approx(points, abs=1e-8)


@pytest.mark.skipif(not (SAMPLES / "coco_val2014_fakebbox100").is_dir(), reason="COURSEKIT_DATA has no metrics/coco_val2014_fakebbox100")
def test_published_coco_sample():
    folder = SAMPLES / "coco_val2014_fakebbox100"
    truth = json.loads((folder / "gt_100images_bboxarea.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    found, truths = [], []
    for number in sorted(image["id"] for image in truth["images"]):
        for rows, images in ((results, found), (truth["annotations"], truths)):
            mine = [row for row in rows if row["image_id"] == number]
            boxes = torch.tensor([row["bbox"] for row in mine], dtype=torch.float64).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            image = {"boxes": boxes, "labels": torch.tensor([row["category_id"] for row in mine], dtype=torch.int64)}
            if rows is results:
                image["scores"] = torch.tensor([row["score"] for row in mine], dtype=torch.float64)
            else:
                image["ignore"] = torch.tensor([bool(row["iscrowd"]) for row in mine], dtype=torch.bool)
            images.append(image)
    ours = answer("mean_ap")(found, truths, IOUS)
    assert ours["AP"] == pytest.approx(0.503647, abs=1e-6)
    assert ours["per_threshold"][0] == pytest.approx(0.696973, abs=1e-6)
    assert ours["per_threshold"][5] == pytest.approx(0.571667, abs=1e-6)
