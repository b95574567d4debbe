"""The references of lesson 12 beside plain loops over cells that share nothing with them, by-hand numbers and torchvision."""

import math
from fractions import Fraction

import pytest
import torch
import torchvision

from autograder.experiment import experiment_cells
from autograder.judge import load_answer
from autograder.lessons import all_exercises, sources

EXERCISES = all_exercises()
NAMES = ("project_box", "shrink_box", "fsaf_class_targets", "fsaf_box_targets", "iou_loss", "select_level", "fsaf_decode")
project_box, shrink_box, fsaf_class_targets, fsaf_box_targets, iou_loss, select_level, fsaf_decode = (
    load_answer(EXERCISES[name], EXERCISES[name].reference) for name in NAMES
)
SIZE = (176, 104)
GRIDS = {3: (22, 13), 4: (11, 7), 5: (6, 4)}


def case(seed, count):
    """Boxes on half pixels, of all sizes, with labels 1..4 and levels 3..5; every third is a copy of its neighbour."""
    dice = torch.Generator().manual_seed(seed)
    width, height = (torch.randint(1, side // 2, (count,), generator=dice) for side in SIZE)
    x, y = ((torch.rand(count, generator=dice) * (side - part)).floor() for side, part in zip(SIZE, (width, height)))
    boxes = torch.stack([x, y, x + width, y + height], 1).double()
    boxes[::3] = boxes[1::3][: len(boxes[::3])] if count > 2 and len(boxes[1::3]) == len(boxes[::3]) else boxes[::3]
    return boxes, torch.randint(1, 5, (count,), generator=dice), torch.randint(3, 6, (count,), generator=dice)


def covers(low, high, fraction, level, cell):
    """Whether a region covers a column or row, in exact arithmetic."""
    low, high, stride = Fraction(low), Fraction(high), 2**level
    middle, half = (low + high) / 2 / stride, fraction * (high - low) / 2 / stride
    return middle - half < cell + 1 and middle + half > cell


def owner_of(cell, boxes, levels, level):
    """The object that has a cell, or None."""
    x, y = cell
    mine = [
        ((x2 - x1) * (y2 - y1), i)
        for i, (x1, y1, x2, y2) in enumerate(boxes)
        if levels[i] == level
        and covers(x1, x2, Fraction(1, 5), level, x)
        and covers(y1, y2, Fraction(1, 5), level, y)
    ]
    return min(mine)[1] if mine else None


def on_a_line(boxes, level):
    """Whether the end of some region is so near to a line between cells that rounding decides."""
    for fraction in (0.2, 0.5):
        ends = shrink_box(project_box(boxes, level), fraction)
        if ((ends - ends.round()).abs() < 1e-9).any():
            return True
    return False


@pytest.mark.parametrize("level", GRIDS)
def test_class_and_box_targets_are_those_of_a_loop_over_cells(level):
    grid, overlaps, compared = GRIDS[level], 0, 0
    for seed in range(12):
        boxes, labels, levels = case(seed, 10)
        keep = torch.tensor([not on_a_line(box[None], level) for box in boxes])
        boxes, labels, levels = boxes[keep], labels[keep], levels[keep]
        maps = fsaf_class_targets(boxes, labels, levels, level, grid, 4)
        offsets, inside = fsaf_box_targets(boxes, levels, level, grid)
        rows, numbers = boxes.tolist(), levels.tolist()
        for y in range(grid[1]):
            for x in range(grid[0]):
                owner = owner_of((x, y), rows, numbers, level)
                expected = [0.0] * 4
                for (x1, y1, x2, y2), label, own in zip(rows, labels.tolist(), numbers):
                    half = Fraction(1, 2)
                    if abs(own - level) <= 1 and covers(x1, x2, half, level, x) and covers(y1, y2, half, level, y):
                        expected[label - 1] = -1.0
                if owner is not None:
                    overlaps += expected.count(-1.0) > 1
                    expected[labels[owner] - 1] = 1.0
                    x1, y1, x2, y2 = rows[owner]
                    px, py, unit = (x + 0.5) * 2**level, (y + 0.5) * 2**level, 4 * 2**level
                    four = [(py - y1) / unit, (px - x1) / unit, (y2 - py) / unit, (x2 - px) / unit]
                    assert offsets[:, y, x].tolist() == pytest.approx(four)
                    compared += 1
                else:
                    assert not offsets[:, y, x].any()
                assert maps[:, y, x].tolist() == expected, (seed, x, y)
                assert bool(inside[y, x]) == (owner is not None)
    assert compared > 30 and overlaps > 5


def test_every_object_alone_has_a_cell_on_every_level():
    """And without "at least one cell" a third of the lesson's objects had none: what the lesson claims."""
    boxes, _, _ = case(0, 40)
    one = torch.ones(1, dtype=torch.int64)
    for level, grid in GRIDS.items():
        for box in boxes.float():
            assert (fsaf_class_targets(box[None], one, one * level, level, grid, 1) == 1).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_decoding_the_targets_gives_the_boxes_back(dtype, scale):
    for seed in range(10):
        boxes, labels, levels = case(seed, 9)
        boxes = boxes.to(dtype)
        for level, grid in GRIDS.items():
            offsets, inside = fsaf_box_targets(boxes, levels, level, grid, scale)
            decoded = fsaf_decode(offsets, level, scale)[inside.flatten()]
            assert decoded.dtype == dtype
            for box in decoded:
                near = (boxes - box).abs().amax(1)
                assert near.min() < 1e-3 and levels[near.argmin()] == level or (near < 1e-3).sum() > 1


def test_the_numbers_that_the_lesson_works_out_by_hand():
    box = torch.tensor([[4.0, 4, 68, 44]])
    assert project_box(box, 3).tolist() == [[0.5, 0.5, 8.5, 5.5]]
    torch.testing.assert_close(shrink_box(project_box(box, 3), 0.2), torch.tensor([[3.7, 2.5, 5.3, 3.5]]))
    offsets, _ = fsaf_box_targets(box, torch.tensor([3]), 3, (10, 7))
    assert offsets[:, 2, 3].tolist() == [0.5, 0.75, 0.75, 1.25]
    assert fsaf_decode(offsets, 3)[2 * 10 + 3].tolist() == [4, 4, 68, 44]
    loss = iou_loss(torch.ones(1, 4), torch.tensor([[1.0, 1, 1, 3]]))
    assert loss.item() == pytest.approx(math.log(2))
    focal, iou = torch.tensor([[0.2], [0.1], [0.4]]), torch.tensor([[0.3], [0.2], [0.5]])
    assert select_level(focal, iou).tolist() == [1]
    assert select_level(9 * focal * torch.tensor([[1], [4 / 9], [1 / 9]]), 9 * iou * torch.tensor([[1], [4 / 9], [1 / 9]])).tolist() == [2]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_iou_loss_is_the_logarithm_of_torchvisions_iou(dtype, tolerance):
    dice = torch.Generator().manual_seed(0)
    prediction, target = 0.05 + 5 * torch.rand(2, 500, 4, generator=dice, dtype=torch.float64).to(dtype)
    signs = torch.tensor([-1, -1, 1, 1], dtype=dtype)
    boxes = [(sides * signs)[:, [1, 0, 3, 2]] for sides in (prediction, target)]
    expected = -torchvision.ops.box_iou(*boxes).diagonal().log()
    torch.testing.assert_close(iou_loss(prediction, target), expected, rtol=tolerance, atol=tolerance)


def test_iou_loss_has_the_gradient_of_torchvisions_iou():
    dice = torch.Generator().manual_seed(1)
    leaves = [(0.05 + 5 * torch.rand(60, 4, generator=dice, dtype=torch.float64)).requires_grad_() for _ in range(2)]
    target = 0.05 + 5 * torch.rand(60, 4, generator=dice, dtype=torch.float64)
    leaves[1].data.copy_(leaves[0].data)
    signs = torch.tensor([-1.0, -1, 1, 1], dtype=torch.float64)
    boxes = [(sides * signs)[:, [1, 0, 3, 2]] for sides in (leaves[1], target)]
    iou_loss(leaves[0], target).sum().backward()
    (-torchvision.ops.box_iou(*boxes).diagonal().log()).sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_a_level_without_a_cell_is_chosen_only_where_no_level_has_one():
    dice = torch.Generator().manual_seed(2)
    focal, iou = torch.rand(2, 5, 400, generator=dice)
    holes = torch.rand(5, 400, generator=dice) < 0.5
    focal[holes] = iou[holes] = float("nan")
    chosen = select_level(focal, iou)
    lost = holes.all(0)
    assert lost.any() and not chosen[lost].any()
    assert not holes.gather(0, chosen[None])[0][~lost].any()


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """What the lesson's own cells define beside the exercises: the detector and its losses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSEKIT_GRADING", "1")  # earlier lessons' functions are the libraries'
        path = next(path for path in sources() if path.parent.name == "12_fsaf")
        namespace = {"__name__": "lesson"}
        for cell in experiment_cells(path)[0]:
            exec(compile(cell, "12_fsaf", "exec"), namespace)
    return namespace


def flat_maps(classes=2, side=128):
    """Logits of 0, and offsets of a square of 16 pixels around the middle of every cell, on P3 to P5."""
    cells = [side // 2**level for level in (3, 4, 5)]
    return (
        [torch.zeros(classes, n, n) for n in cells],
        [torch.full((4, n, n), 8 / 2**level / 4) for n, level in zip(cells, (3, 4, 5))],
    )


def test_the_choice_compares_means_not_sums(lesson):
    boxes, labels = torch.tensor([[4.0, 4, 124, 124], [40, 40, 56, 56]]), torch.tensor([1, 2])
    focal, iou = lesson["losses_of_objects"](*flat_maps(), boxes, labels)
    one_cell = (0.25 + 0.75) * 0.25 * math.log(2)  # one "yes" and one "no" at a probability of 1/2
    torch.testing.assert_close(focal, torch.full((3, 2), one_cell))
    assert iou[:, 0].amin() > 1.5 > iou[0, 1]  # 16 of 120 pixels against 16 of 16


def test_an_object_that_lost_all_its_cells_on_a_level_is_nan_there(lesson):
    boxes = torch.tensor([[20.0, 20, 108, 108], [58, 58, 70, 70], [58.25, 58.25, 70.25, 70.25]])
    focal, _ = lesson["losses_of_objects"](*flat_maps(), boxes, torch.tensor([1, 2, 2]))
    assert focal[:, 2].isnan().any() and not focal[:, 1].isnan().any()  # equally large: the first has the cells


def test_the_focal_loss_is_divided_by_the_effective_cells(lesson):
    boxes, labels = torch.tensor([[4.0, 4, 68, 44]]), torch.tensor([1])
    logits, offsets = [torch.zeros(2, 7, 10)], [torch.full((4, 7, 10), 0.5)]
    lesson["LEVELS"], kept = (3,), lesson["LEVELS"]
    try:
        classification, localisation = lesson["fsaf_losses"](logits, offsets, boxes, labels, torch.tensor([3]))
        nothing = lesson["fsaf_losses"](logits, offsets, boxes[:0], labels[:0], labels[:0])
    finally:
        lesson["LEVELS"] = kept
    yes, no = 0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)
    # 6 white cells; in their own map 14 of 20 are grey, so 50 black ones; all 70 of the other map are black
    assert classification.item() == pytest.approx((6 * yes + (50 + 70) * no) / 6, rel=1e-5)
    targets, inside = fsaf_box_targets(boxes, torch.tensor([3]), 3, (10, 7))
    expected = iou_loss(torch.full((6, 4), 0.5), targets[:, inside].T).mean()
    torch.testing.assert_close(localisation, expected)
    torch.testing.assert_close(nothing[0], torch.tensor(140 * no))
    assert nothing[1] == 0


def test_a_batch_side_by_side_has_the_loss_of_its_images(lesson):
    dice = torch.Generator().manual_seed(0)
    logits = [torch.randn(3, 2, 128 // 2**level, 128 // 2**level, generator=dice) for level in (3, 4, 5)]
    offsets = [torch.rand(3, 4, 128 // 2**level, 128 // 2**level, generator=dice) for level in (3, 4, 5)]
    targets = []
    for count in (3, 0, 2):
        corners = 60 * torch.rand(count, 2, generator=dice)
        boxes = torch.cat([corners, corners + 5 + 60 * torch.rand(count, 2, generator=dice)], 1)
        targets.append({"boxes": boxes, "labels": torch.randint(1, 3, (count,), generator=dice)})
    boxes, labels = lesson["strip_of_objects"](targets, 128)
    strips = [[lesson["strip"](maps) for maps in group] for group in (logits, offsets)]
    joint = lesson["losses_of_objects"](*strips, boxes, labels)
    alone = [
        lesson["losses_of_objects"]([maps[b] for maps in logits], [maps[b] for maps in offsets], *target.values())
        for b, target in enumerate(targets)
    ]
    for part in (0, 1):
        expected = torch.cat([one[part] for one in alone], 1)
        torch.testing.assert_close(joint[part], expected, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_the_detector_begins_as_the_slides_say_and_finds_what_its_maps_say(lesson):
    torch.manual_seed(0)
    model = lesson["RetinaNetFSAF"](lesson["small_trunk"](), 6, (128, 96)).eval()
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        logits, deltas, class_maps, offset_maps = model(images)
    assert [tuple(maps.shape) for maps in class_maps] == [(2, 6, 12, 16), (2, 6, 6, 8), (2, 6, 3, 4)]
    assert logits.shape == (2, 3 * (192 + 48 + 12), 6) and deltas.shape[:2] == logits.shape[:2]
    assert all((maps.sigmoid() - 0.01).abs().max() < 0.02 for maps in class_maps)
    assert all(0 <= maps.min() and abs(maps.mean() - 0.1) < 0.1 for maps in offset_maps)
    assert all(len(found["boxes"]) == 0 for found in model.detect(images))
    offsets, inside = fsaf_box_targets(torch.tensor([[20.0, 10, 60, 50]]), torch.tensor([4]), 4, (8, 6))
    maps = [torch.full_like(one, -9.0) for one in class_maps]
    maps[1][0, 2][inside] = torch.arange(int(inside.sum())) / 10.0
    four = [torch.zeros_like(one) for one in offset_maps]
    four[1][0] = offsets
    model.forward = lambda images: (torch.full_like(logits, -9.0), deltas, maps, four)
    found = model.detect(images)
    torch.testing.assert_close(found[0]["boxes"], torch.tensor([[20.0, 10, 60, 50]]))  # one of several equal ones
    assert found[0]["labels"].tolist() == [3] and len(found[1]["boxes"]) == 0
    assert len(model.detect(images, branches=("anchors",))[0]["boxes"]) == 0
