"""The fast forms on the lessons' last pages give the answers of the plain ones: ties, crowds and empty input too."""

import pytest
import torch
import torchvision

from ..lesson_code import function_of


def boxes(count, side=100.0, seed=0, grid=None, sizes=(5, 45)):
    """Random xyxy boxes; with a `grid`, corners are multiples of it, so that equal IoUs and touching sides occur."""
    dice = torch.Generator().manual_seed(seed)
    corners = side * torch.rand(count, 2, generator=dice)
    made = torch.cat([corners, corners + sizes[0] + (sizes[1] - sizes[0]) * torch.rand(count, 2, generator=dice)], 1)
    return (made / grid).round() * grid if grid else made


def scores(count, seed=1, steps=None):
    values = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    return (values * steps).round() / steps if steps else values


@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (0, 0), (70, 33), (1, 9)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_box_iou(counts, dtype):
    plain, fast = (function_of("01_boxes", name) for name in ("box_iou", "fast_box_iou"))
    first, second = boxes(counts[0], grid=5).to(dtype), boxes(counts[1], seed=1).to(dtype)
    first[:1, 2:] = first[:1, :2]  # no area
    second[-1:] = first[-1:].clone() if len(first) else second[-1:]
    both = plain(first, second), fast(first, second)
    torch.testing.assert_close(*both, rtol=0, atol=0)
    assert counts != (1, 9) or both[1].isfinite().all()


@pytest.mark.parametrize("objects, anchors", [(0, 4), (3, 0), (1, 1), (9, 5), (40, 300)])
def test_match_anchors(objects, anchors):
    """More objects than anchors, equal IoUs, objects that overlap nothing."""
    plain, fast = (function_of("03_matching", name) for name in ("match_anchors", "fast_match_anchors"))
    for seed in range(20):
        iou = torch.rand(objects, anchors, generator=torch.Generator().manual_seed(seed))
        iou = (iou * 10).round() / 10 * (iou > 0.3)
        assert torch.equal(fast(iou, 0.5), plain(iou, 0.5))


CROWDS = {
    "nothing": boxes(0), "one": boxes(1), "spread out": boxes(700, 3000.0), "crowded": boxes(700, 60.0),
    "on a grid": boxes(300, 900.0, grid=10), "dense grid": boxes(300, 60.0, grid=10), "equal": boxes(1).repeat(40, 1),
    "no area": boxes(50, 400.0, sizes=(0, 0)), "objects": boxes(9, 700.0).repeat_interleave(60, 0) + boxes(540, 4.0)[:, :1],
}  # fmt: skip


@pytest.mark.parametrize("name", ["nms_in_blocks", "fast_nms"])
@pytest.mark.parametrize("crowd", CROWDS)
def test_nms(name, crowd):
    plain, fast = function_of("06_nms", "nms"), function_of("06_nms", name)
    some = CROWDS[crowd]
    for limit in (0.0, 0.5, 0.7):
        for ranks in (scores(len(some)), scores(len(some), steps=5), scores(len(some)).zero_()):
            assert torch.equal(fast(some, ranks, limit), plain(some, ranks, limit))


@pytest.mark.parametrize("name", ["roi_pool", "roi_align"])
@pytest.mark.parametrize("count", [0, 40])
def test_roi(name, count):
    """Regions inside, outside, across the border and without area, of two images."""
    plain, fast = (function_of("08_fast_rcnn", each) for each in (name, f"fast_{name}"))
    maps = torch.randn(2, 5, 9, 13, generator=torch.Generator().manual_seed(0))
    some = boxes(count, 130.0, sizes=(0, 90)) - 20
    some[::7, 2:] = some[::7, :2]
    rois = torch.cat([torch.arange(count)[:, None] % 2, some], 1)
    torch.testing.assert_close(fast(maps, rois, (3, 2), 0.125), plain(maps, rois, (3, 2), 0.125), rtol=0, atol=1e-5)


def test_fcos_targets():
    """No object, one, crowds on a grid: sides that touch locations, equal areas."""
    plain, fast = function_of("13_fcos", "fcos_targets"), function_of("13_fcos", "fast_targets")
    places = function_of("13_fcos", "locations")
    levels = [places((24 // 2**level, 16 // 2**level), 8 * 2**level) for level in range(3)]
    batch = [{"boxes": boxes(n, 150.0, n, grid=4, sizes=(8, 90)), "labels": torch.arange(1, n + 1)} for n in (0, 1, 25, 60)]
    found = fast(levels, batch, (0, 32, 64, float("inf")))
    for row, target in enumerate(batch):
        expected = plain(levels, target["boxes"], target["labels"], (0, 32, 64, float("inf")))
        assert all(torch.equal(part[row], other) for part, other in zip(found, expected))


def detected(images, seed, crowd):
    """Objects of four classes (one only ignored), detections near them and elsewhere, with equal scores and IoUs."""
    found, truths = [], []
    for number in range(images):
        dice = torch.Generator().manual_seed(1000 * seed + number)
        objects = int(torch.randint(0, 7, (), generator=dice))
        truth = boxes(objects, 80.0, 1000 * seed + number, grid=5)
        labels = torch.randint(1, 4, (objects,), generator=dice)
        near = truth.repeat(3, 1) + 5 * torch.randint(-1, 2, (3 * objects, 4), generator=dice)
        near = torch.cat([near, boxes(number % 3, seed=number)])
        kinds = torch.cat([labels.repeat(3), torch.randint(1, 6, (number % 3,), generator=dice)])
        found.append({"boxes": near, "labels": kinds, "scores": scores(len(near), number, steps=6)})
        truths.append({"boxes": truth, "labels": labels})
        if crowd and number % 2:
            truths[-1]["ignore"] = (torch.rand(objects, generator=dice) < 0.4) | (labels == 3)
    return found, truths


@pytest.mark.parametrize("images, crowd", [(0, False), (1, False), (12, False), (12, True), (13, True)])
def test_mean_ap(images, crowd):
    plain, fast = (function_of("07_metrics", name) for name in ("mean_ap", "fast_mean_ap"))
    cases = [detected(images, seed, crowd) for seed in range(3)]
    nothing = [{"boxes": boxes(0), "labels": torch.zeros(0, dtype=torch.int64), "scores": scores(0)}] * images
    cases += [(nothing, cases[0][1]), (cases[0][0], nothing)]
    for found, truths in cases:
        for limits in ([0.5], [0.3, 0.5, 0.75]):
            expected, actual = plain(found, truths, limits), fast(found, truths, limits)
            assert expected["per_class"].keys() == actual["per_class"].keys()
            for name, value in expected.items():
                assert actual[name] == pytest.approx(value, abs=1e-12)
    if images > 1:  # neither all right nor all wrong
        assert 0.1 < plain(*cases[0], [0.5])["AP"] < 1


def test_library_agrees():
    """The crowds tell an IoU above the limit from one at it: torchvision's answers are those, too."""
    some, ranks = CROWDS["objects"], scores(540)
    fast = function_of("06_nms", "fast_nms")
    assert torch.equal(fast(some, ranks, 0.5), torchvision.ops.nms(some, ranks, 0.5))
