"""coursekit.evaluation: COCO's documented scores through our path, and sense at the edges."""

import functools
import json
import math
import os
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
import torch

from coursekit import evaluation
from coursekit.data import DetectionData
from coursekit.evaluation import coco_dict, evaluate, evaluate_detections, plot_precision_recall

COCO = Path(os.environ.get("COURSEKIT_DATA", "nowhere")) / "metrics" / "coco_val2014_fakebbox100"
CLASSES = ("cat", "dog")
TRUTHS = [
    {"boxes": torch.tensor([[0.0, 0, 10, 20], [30, 30, 80, 90]]), "labels": torch.tensor([1, 2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    {"boxes": torch.tensor([[5.0, 5, 40, 25]]), "labels": torch.tensor([1])},
]
NOTHING = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}


def as_found(target, scores=None):
    """A target as if a detector had found just that."""
    scores = torch.ones(len(target["labels"])) if scores is None else torch.tensor(scores)
    return {"boxes": target["boxes"], "labels": target["labels"], "scores": scores}


PERFECT = [as_found(target) for target in TRUTHS]


def make_data():
    return DetectionData(torch.zeros(3, 3, 96, 100, dtype=torch.uint8), TRUTHS, CLASSES)


def test_all_found_and_nothing_else_scores_one():
    scores = evaluate_detections(PERFECT, TRUTHS, CLASSES)
    assert scores.AP == scores.AP50 == scores.AP75 == scores.AR == pytest.approx(1)
    assert scores.per_class == {"cat": pytest.approx(1), "dog": pytest.approx(1)} and scores.counts == {
        "cat": 2,
        "dog": 1,
    }


def test_nothing_found_scores_zero():
    scores = evaluate_detections([NOTHING] * 3, TRUTHS, CLASSES)
    assert scores.AP == scores.AR == scores.APs == 0


def test_the_worked_example_of_the_slides_is_0_6287():
    """TP, FP, TP, TP of 4 objects, at falling scores: COCO's 101 recall levels."""
    truths = [
        {
            "boxes": torch.tensor([[40.0 * i, 0, 40 * i + 20, 10] for i in range(4)]),
            "labels": torch.ones(4).long(),
        }
    ]
    boxes = torch.tensor([[0.0, 0, 20, 10], [0, 50, 20, 60], [40, 0, 60, 10], [80, 0, 100, 10]])
    found = [{"boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]), "labels": torch.ones(4).long()}]
    assert evaluate_detections(found, truths, ("cat",)).AP50 == pytest.approx(0.6287, abs=5e-5)


def test_a_class_that_is_not_there_counts_nowhere_and_shows_as_a_dash():
    found = [
        as_found(TRUTHS[0]),
        {"boxes": torch.tensor([[0.0, 0, 5, 5]]), "scores": [0.9], "labels": [3]},
        PERFECT[2],
    ]
    scores = evaluate_detections(found, TRUTHS, (*CLASSES, "owl"))
    assert scores.AP == pytest.approx(1) and math.isnan(scores.per_class["owl"])
    assert "owl        –      –        0" in repr(scores)


def test_data_without_any_object_has_no_score():
    scores = evaluate_detections([NOTHING], [TRUTHS[1]], CLASSES)
    assert math.isnan(scores.AP) and math.isnan(scores.AR) and "–" in repr(scores)


@pytest.mark.parametrize(
    "small, large, kinds",
    [(32, 96, "APs APm"), (16, 40, "APs APm APl"), (8, 15, "APm APl"), (5, 14, "APl")],
)
def test_sizes_are_parted_by_area_at_the_given_sides(small, large, kinds):
    """The objects have 200 (14.1²), 700 (26.5²) and 3,000 (54.8²) square pixels."""
    scores = evaluate_detections(PERFECT, TRUTHS, CLASSES, small=small, large=large)
    assert " ".join(name for name in ("APs", "APm", "APl") if not math.isnan(getattr(scores, name))) == kinds
    assert f"under {small}² pixels" in repr(scores) and f"from {large}² pixels on" in repr(scores)


def test_an_ignored_object_may_be_missed_or_found():
    truths = [dict(TRUTHS[0], ignore=torch.tensor([False, True])), *TRUTHS[1:]]
    missed = [{name: value[:1] for name, value in PERFECT[0].items()}, *PERFECT[1:]]
    for found in (PERFECT, missed):
        scores = evaluate_detections(found, truths, CLASSES)
        assert scores.AP == pytest.approx(1) and math.isnan(scores.per_class["dog"])
        assert scores.counts == {"cat": 2, "dog": 0}
    # the same box where nothing is ignored is a false alarm
    shifted = [dict(PERFECT[0], labels=torch.tensor([1, 1]), scores=torch.tensor([0.5, 0.9])), *PERFECT[1:]]
    assert evaluate_detections(shifted, truths, CLASSES).AP < 1


def test_at_most_so_many_detections_count():
    many = [dict(PERFECT[0], scores=torch.tensor([0.5, 0.4])), NOTHING, PERFECT[2]]
    truths = [dict(TRUTHS[0], labels=torch.tensor([1, 1])), *TRUTHS[1:]]
    many[0]["labels"] = truths[0]["labels"]
    assert evaluate_detections(many, truths, CLASSES, most=1).AR == pytest.approx(2 / 3)
    assert evaluate_detections(many, truths, CLASSES).AR == pytest.approx(1)


def test_nothing_is_printed(capsys):
    evaluate_detections(PERFECT, TRUTHS, CLASSES)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"labels": torch.tensor([0, 1])}, r"image 0: label 0, expected 1\.\.2: 0 is background"),
        ({"labels": torch.tensor([1, 3])}, r"image 0: label 3, expected 1\.\.2$"),
        ({"scores": torch.tensor([0.5])}, r"image 0: boxes, scores and labels are \(2, 4\), \(1,\), \(2,\)"),
        ({"scores": torch.tensor([0.5, float("nan")])}, "image 0: scores hold nan"),
        ({"boxes": torch.full((2, 4), float("inf"))}, "image 0: boxes hold inf"),
    ],
    ids=["background", "beyond", "lengths", "nan", "inf"],
)
def test_a_malformed_detection_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        evaluate_detections([PERFECT[0] | wrong, *PERFECT[1:]], TRUTHS, CLASSES)


def test_a_detection_without_scores_says_so():
    with pytest.raises(ValueError, match="image 1 have no scores"):
        evaluate_detections([PERFECT[0], TRUTHS[1], PERFECT[2]], TRUTHS, CLASSES)


def test_boxes_in_another_order_are_suspected():
    found = [dict(found, boxes=found["boxes"][:, [2, 1, 0, 3]]) for found in PERFECT]
    with pytest.warns(UserWarning, match="3 of 3 detected boxes end before they start.*xywh"):
        assert evaluate_detections(found, TRUTHS, CLASSES).AP == 0


@pytest.mark.filterwarnings("ignore:1 of 1 detected boxes end")
def test_a_box_that_ends_before_it_starts_matches_nothing():
    truths = [{"boxes": torch.tensor([[40.0, 5, 75, 25]]), "labels": torch.tensor([1])}]
    found = [
        {
            "boxes": torch.tensor([[40.0, 5, 5, 25]]),
            "labels": torch.tensor([1]),
            "scores": torch.tensor([0.9]),
        }
    ]
    assert evaluate_detections(found, truths, CLASSES).AP == 0


@pytest.mark.parametrize("sides", [(0, 10), (96, 32)])
def test_limits_of_size_must_rise(sides):
    with pytest.raises(ValueError, match="expected 0 < small < large"):
        evaluate_detections(PERFECT, TRUTHS, CLASSES, small=sides[0], large=sides[1])


def test_a_detector_is_run_over_all_images_in_order_without_gradient_in_evaluation_mode():
    class Detector(torch.nn.Module):
        seen = 0

        def detect(self, images):
            assert not self.training and not torch.is_grad_enabled()
            assert images.dtype == torch.float32 and images.shape[1:] == (3, 96, 100)
            first, self.seen = self.seen, self.seen + len(images)
            return PERFECT[first : self.seen]

    detector = Detector().train()
    assert evaluate(detector.detect, make_data(), batch_size=2).AP == pytest.approx(1)
    assert detector.seen == 3 and detector.training


@pytest.mark.parametrize("returned, message", [([], "0 entries for 3 images"), ({}, "a dict for 3 images")])
def test_a_detector_must_return_a_dict_an_image(returned, message):
    with pytest.raises(ValueError, match=message):
        evaluate(lambda images: returned, make_data())


def test_the_table_reads_as_text():
    lines = repr(evaluate_detections(PERFECT, TRUTHS, CLASSES)).splitlines()
    assert lines[0] == "COCO scores on 3 images with 3 objects; AR with 100 detections an image"
    assert lines[1].split() == ["AP", "AP50", "AP75", "AR"]
    assert lines[3].split() == ["all", "objects", "1.000", "1.000", "1.000", "1.000"]
    assert evaluate_detections(PERFECT, TRUTHS, CLASSES)._repr_html_().count("<table>") == 2


def test_coco_dict_has_xywh_boxes_sizes_and_names():
    content = coco_dict(make_data())
    assert content["images"][2] == {"id": 3, "width": 100, "height": 96}
    assert content["annotations"][2] == {
        "id": 3, "image_id": 3, "category_id": 1, "bbox": [5, 5, 35, 20], "area": 700, "iscrowd": 0,
    }  # fmt: skip
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


@pytest.mark.parametrize("count", [2, 12], ids=["named", "too many to name"])
def test_the_figure_draws_every_class_and_the_mean(count):
    classes = tuple(f"class {k}" for k in range(count))
    truths = [{"boxes": TRUTHS[0]["boxes"].repeat(6, 1), "labels": torch.arange(12) % count + 1}]
    _, ax = plt.subplots()
    assert plot_precision_recall(evaluate_detections([as_found(truths[0])], truths, classes), ax) is None
    assert len(ax.lines) == count + 1
    with pytest.raises(ValueError, match="expected one of 0.50, 0.55"):
        plot_precision_recall(evaluate_detections(PERFECT, TRUTHS, CLASSES), ax, iou=0.6123)
    plt.close("all")


def random_detections(seed, images=12, classes=3, most=20):
    """Truths with crowds, detections near them and elsewhere, tied scores, copies; images without one or the other."""
    dice = torch.Generator().manual_seed(seed)

    def whole(high):
        return int(torch.randint(0, high, (), generator=dice))

    def boxes(count):
        corners = 100 * torch.rand(count, 2, generator=dice)
        return torch.cat([corners, corners + 4 + 60 * torch.rand(count, 2, generator=dice) ** 2], 1)

    found, truths = [], []
    for _ in range(images):
        count = whole(9) * (whole(4) > 0)
        truth = {"boxes": boxes(count), "labels": torch.randint(1, classes + 1, (count,), generator=dice)}
        if seed % 2:
            truth["ignore"] = torch.rand(count, generator=dice) < 0.25
        again = torch.randint(0, max(count, 1), (whole(most) if count else 0,), generator=dice)
        near = truth["boxes"][again] + 4 * torch.randn(len(again), 4, generator=dice)
        every = torch.cat([near, truth["boxes"][again[:2]], boxes(whole(5))])
        labels = torch.randint(1, classes + 1, (len(every),), generator=dice)
        labels[: len(again)] = truth["labels"][again]
        scores = (torch.rand(len(every), generator=dice) * 12).round() / 12
        found.append({"boxes": every, "labels": labels, "scores": scores})
        truths.append(truth)
    return found, truths, [f"class {k}" for k in range(classes + 1)]  # the last is never there


def nothing_but(what, seed=1):
    """Random data of which every image lacks something: "detections", "truths", or both for ""."""
    found, truths, classes = random_detections(seed)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    if what != "detections":
        found = [NOTHING] * len(found)
    if what != "truths":
        truths = [none] * len(truths)
    return found, truths, classes


def coco_sample():
    """The detections of COCO's own example, and its truth."""
    truth = json.loads((COCO / "gt_100images_bboxarea.json").read_text())
    results = json.loads((COCO / "instances_val2014_fakebbox100_results.json").read_text())
    label = {category["id"]: k for k, category in enumerate(truth["categories"], 1)}

    def per_image(entries, number):
        mine = [entry for entry in entries if entry["image_id"] == number]
        boxes = torch.tensor([entry["bbox"] for entry in mine], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([label[entry["category_id"]] for entry in mine], dtype=torch.int64)
        return {"boxes": boxes, "labels": labels}, mine

    targets, detections = [], []
    for image in sorted(truth["images"], key=lambda image: image["id"]):  # the order decides between equal scores
        target, entries = per_image(truth["annotations"], image["id"])
        crowds = torch.tensor([entry["iscrowd"] == 1 for entry in entries], dtype=torch.bool)
        targets.append(target | {"ignore": crowds})
        found, entries = per_image(results, image["id"])
        scores = torch.tensor([entry["score"] for entry in entries], dtype=torch.float64)
        detections.append(found | {"scores": scores})
    return detections, targets, [category["name"] for category in truth["categories"]]


needs_coco = pytest.mark.skipif(not COCO.is_dir(), reason="no metrics/coco_val2014_fakebbox100 in COURSEKIT_DATA")


@pytest.mark.filterwarnings("ignore:.*boxes end before they start")
@pytest.mark.parametrize(
    "data, sides, most",
    [
        *((functools.partial(random_detections, seed), (16, 40), 100) for seed in range(12)),
        (functools.partial(random_detections, 12), (20, 20.5), 1),
        (functools.partial(random_detections, 13, most=40), (16, 40), 5),
        (functools.partial(random_detections, 15, 4, 1, most=400), (16, 40), 100),
        (functools.partial(nothing_but, "detections"), (16, 40), 100),
        (functools.partial(nothing_but, "truths"), (16, 40), 100),
        (functools.partial(nothing_but, ""), (16, 40), 100),
        pytest.param(coco_sample, (32, 96), 100, marks=needs_coco),
    ],
    ids=[*(f"random {seed}" for seed in range(12)), "one detection counts", "five count", "more than count",
         "no truth", "no detection", "nothing", "COCO's sample"],
)  # fmt: skip
def test_the_fast_evaluator_is_equal_to_pycocotools(data, sides, most):
    """Not only the scores: every precision and recall, of each class, size and limit."""
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed: pycocotools scores alone")
    found, truths, classes = data()
    fast, slow = (
        how(evaluation.coco_truths(truths, classes), evaluation.coco_results(found, len(classes)), sides, most)
        for how in (evaluation.run_fastest, evaluation.run_pycocotools)
    )
    for name in ("precision", "recall"):
        torch.testing.assert_close(fast[name], slow[name], rtol=0, atol=1e-12)


def test_pycocotools_scores_where_the_fast_evaluator_cannot_be_imported(monkeypatch):
    expected = evaluate_detections(*random_detections(3))
    called = []
    real = evaluation.run_pycocotools
    monkeypatch.setattr(evaluation, "run_pycocotools", lambda *given: called.append(1) or real(*given))
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    actual = evaluate_detections(*random_detections(3))
    assert called and repr(actual) == repr(expected) and actual.AP == pytest.approx(expected.AP, abs=1e-12)


@needs_coco
def test_cocos_documented_scores_come_out():
    scores = evaluate_detections(*coco_sample())
    documented = {
        "AP": 0.503647, "AP50": 0.696973, "AP75": 0.571667, "APs": 0.593252, "APm": 0.557991, "APl": 0.489363,
        "AR1": 0.386813, "AR10": 0.593680, "AR": 0.595353, "ARs": 0.654764, "ARm": 0.603130, "ARl": 0.553744,
    }  # fmt: skip
    assert {name: getattr(scores, name) for name in documented} == pytest.approx(documented, abs=1e-6)
