"""A stand-in gives what its exercise gives, and differs only where its docstring says so.

It is a student's `earlier` function while theirs does not pass, and everyone's while grading.
"""

import inspect
from pathlib import Path

import pytest
import torch

from autograder.judge import load_answer
from autograder.lessons import all_exercises
from coursekit.standins import LIBRARY, STANDINS

EXERCISES = all_exercises()
GRIDS = [(40, 30), (20, 15), (10, 8), (5, 4), (3, 2), (2, 1)]
RATIOS = [1, 2, 3, 1 / 2, 1 / 3]


def both(name):
    """The stand-in and the reference of an exercise."""
    if name not in EXERCISES:
        pytest.skip(f"{name} has no lesson yet")
    return STANDINS[name], load_answer(EXERCISES[name], EXERCISES[name].reference)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_boxes(count, seed=0, dtype=torch.float32):
    """Boxes of 2 to 62 by 2 to 42 pixels in an image of 160 by 112."""
    numbers = random(count, 4, seed=seed, dtype=dtype) * torch.tensor([98, 70, 60, 40])
    return torch.cat((numbers[:, :2], numbers[:, :2] + numbers[:, 2:] + 2), dim=1)


@pytest.mark.parametrize("name", [name for name in STANDINS if name in EXERCISES])
def test_signature_is_the_exercises(name):
    standin, reference = both(name)
    parameters = inspect.signature(reference).parameters.values()
    assert [(p.name, p.default) for p in inspect.signature(standin).parameters.values()] == [
        (p.name, p.default) for p in parameters
    ]


@pytest.mark.parametrize("name", [name for name in STANDINS if name in EXERCISES])
def test_standin_is_held_here(name):
    assert f'"{name}"' in Path(__file__).read_text(), "write its test below"


@pytest.mark.parametrize("dotted", [dotted for functions in LIBRARY.values() for dotted in functions])
def test_library_function_is_there(dotted):
    from coursekit.checks import _resolve

    if dotted.startswith("faster_coco_eval"):
        pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    assert _resolve(dotted) is not None, f"{dotted} names nothing: an answer that calls it would not be noticed"


# 01_boxes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [7, 1, 0])
@pytest.mark.parametrize("name", ["xyxy_to_cxcywh", "cxcywh_to_xyxy", "box_area"])
def test_box_function(name, count, dtype):
    standin, reference = both(name)
    boxes = random_boxes(count, dtype=dtype)
    torch.testing.assert_close(standin(boxes), reference(boxes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows, columns", [(7, 5), (1, 40), (0, 5), (7, 0), (0, 0)])
def test_box_iou(rows, columns, dtype):
    standin, reference = both("box_iou")
    boxes, others = random_boxes(rows, dtype=dtype), random_boxes(columns, seed=1, dtype=dtype)
    torch.testing.assert_close(standin(boxes, others), reference(boxes, others))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_box_iou_of_boxes_apart_touching_equal_and_without_area(dtype):
    standin, reference = both("box_iou")
    edges = torch.tensor([[0, 0, 4, 3], [4, 0, 8, 3], [9, 9, 9, 9], [2, 1, 2, 3], [0, 0, 4, 3]], dtype=dtype)
    torch.testing.assert_close(standin(edges, edges[:4]), reference(edges, edges[:4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count, width", [(7, 160), (1, 333), (0, 160)])
def test_flip_boxes(count, width, dtype):
    standin, reference = both("flip_boxes")
    boxes = random_boxes(count, dtype=dtype)
    torch.testing.assert_close(standin(boxes, width), reference(boxes, width))


# 02_anchors


@pytest.mark.parametrize("arguments", [(1,), (2,), (6,), (3, 0.1, 0.5)])
def test_linear_scales(arguments):
    standin, reference = both("linear_scales")
    torch.testing.assert_close(standin(*arguments), reference(*arguments))


@pytest.mark.parametrize("ratios", [RATIOS, [1, 2], [0.4], []], ids=str)
@pytest.mark.parametrize(
    "grids, scales, size",
    [
        (GRIDS, [(1 / columns, 1 / rows) for columns, rows in GRIDS], (640, 480)),
        (GRIDS[2:], [(s, s) for s in (0.2, 0.4, 0.6, 0.9)], (300, 500)),
        ([(3, 2)], [(0.3, 0.5)], (128, 96)),
        ([(4, 3), (1, 2)], [(0.9, 1.2), (0.1, 0.3)], (77, 33)),
    ],
    ids=["slides", "linear", "one level", "larger than the image"],
)
def test_ssd_anchors(grids, scales, size, ratios):
    standin, reference = both("ssd_anchors")
    arguments = (grids, scales, ratios, size)
    torch.testing.assert_close(standin(*arguments), reference(*arguments), rtol=1e-5, atol=1e-3)


# 03_matching

STDS = (0.3, 0.7, 0.5, 0.9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [40, 1, 0])
def test_encode_boxes(count, dtype):
    standin, reference = both("encode_boxes")
    boxes, anchors = random_boxes(count, dtype=dtype), random_boxes(count, seed=1, dtype=dtype)
    torch.testing.assert_close(standin(boxes, anchors), reference(boxes, anchors))
    torch.testing.assert_close(standin(boxes, anchors, STDS), reference(boxes, anchors, STDS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [40, 1, 0])
@pytest.mark.parametrize("size", [3, 300], ids=["ordinary", "beyond the clamp"])
def test_decode_boxes(count, size, dtype):
    standin, reference = both("decode_boxes")
    deltas, anchors = size * (random(count, 4, dtype=dtype) - 0.5), random_boxes(count, dtype=dtype)
    torch.testing.assert_close(standin(deltas, anchors), reference(deltas, anchors))
    torch.testing.assert_close(standin(deltas, anchors, STDS), reference(deltas, anchors, STDS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count, objects", [(300, 5), (40, 1), (300, 0), (0, 3), (0, 0)])
def test_anchor_targets(count, objects, dtype):
    standin, reference = both("anchor_targets")
    anchors, boxes = random_boxes(count, dtype=dtype), random_boxes(objects, seed=1, dtype=dtype)
    labels = torch.arange(1, objects + 1)
    for threshold in (0.5, 0.25):
        arguments = (anchors, boxes, labels, threshold)
        torch.testing.assert_close(standin(*arguments), reference(*arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anchor_targets_at_the_threshold_without_overlap_and_without_area(dtype):
    standin, reference = both("anchor_targets")
    anchors = torch.tensor([[0, 0, 40, 20], [0, 0, 20, 20], [60, 0, 60, 9], [0, 40, 60, 60]], dtype=dtype)
    boxes, labels = torch.tensor([[80, 80, 90, 99], [0, 0, 40, 20]], dtype=dtype), torch.tensor([4, 2])
    classes, deltas = standin(anchors, boxes, labels, 0.5)
    assert classes.tolist() == [2, 0, 0, 0]  # the second anchor's IoU is .5, not more
    torch.testing.assert_close((classes, deltas), reference(anchors, boxes, labels, 0.5))


def test_anchor_targets_agrees_wherever_no_two_objects_have_one_best_anchor():
    standin, reference = both("anchor_targets")
    agreed = shared = 0
    for seed in range(0, 400, 2):
        boxes, anchors = random_boxes(1 + seed % 9, seed=seed), random_boxes(30, seed=seed + 1)
        iou = STANDINS["box_iou"](boxes, anchors)
        best = iou.argmax(dim=1)[iou.amax(dim=1) > 0]
        if len(best.unique()) < len(best):
            shared += 1
            continue
        arguments = (anchors, boxes, torch.arange(1, len(boxes) + 1), 0.4)
        torch.testing.assert_close(standin(*arguments), reference(*arguments))
        agreed += 1
    assert agreed > 100 and shared > 10, (agreed, shared)


def test_anchor_targets_differs_where_two_objects_have_one_best_anchor():
    standin, reference = both("anchor_targets")
    anchors = torch.tensor([[0.0, 0, 20, 20], [0, 0, 60, 30], [50, 50, 90, 70]])
    boxes, labels = torch.tensor([[0.0, 0, 21, 20], [0, 0, 20, 22]]), torch.tensor([1, 2])
    ours, theirs = (function(anchors, boxes, labels) for function in (reference, standin))
    assert ours[0].tolist() == [1, 2, 0], "the first object has its best anchor, the second the next best"
    assert theirs[0].tolist() == [2, 0, 0], "the last object has it, the first has none"


# 04_losses


@pytest.mark.parametrize("sigma", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smooth_l1_loss(sigma, dtype):
    standin, reference = both("smooth_l1_loss")
    prediction, target = 8 * random(50, 4, dtype=dtype) - 4, random(50, 4, seed=1, dtype=dtype)
    torch.testing.assert_close(standin(prediction, target, sigma), reference(prediction, target, sigma))


def loss_inputs(positives, anchors=40, classes=3, dtype=torch.float64):
    """Random arguments of `ssd_loss`; `positives`: how many in each image."""
    images = len(positives)
    labels = torch.zeros(images, anchors, dtype=torch.int64)
    for row, count in zip(labels, positives):
        row[torch.randperm(anchors, generator=torch.Generator().manual_seed(count))[:count]] = 1 + count % classes
    logits = (4 * random(images, anchors, classes + 1, dtype=dtype)).requires_grad_()
    deltas = (3 * random(images, anchors, 4, seed=1, dtype=dtype)).requires_grad_()
    return logits, deltas, labels, 3 * random(images, anchors, 4, seed=2, dtype=dtype)


def losses_and_gradients(function, arguments, **named):
    losses = function(*arguments, **named)
    return [*losses, *torch.autograd.grad(sum(losses), arguments[:2])]


@pytest.mark.parametrize("positives, alpha", [((1,), 1.0), ((4, 1, 10), 1.0), ((7, 2), 0.25)])
def test_ssd_loss_where_negatives_are_plenty(positives, alpha):
    standin, reference = both("ssd_loss")
    arguments = loss_inputs(positives)
    ours, theirs = (losses_and_gradients(function, arguments, alpha=alpha) for function in (reference, standin))
    torch.testing.assert_close(theirs, ours)


def test_ssd_loss_differs_on_an_image_without_positives():
    standin, reference = both("ssd_loss")
    logits, deltas, labels, targets = loss_inputs((4, 0))
    entropy = torch.nn.functional.cross_entropy(logits[1], labels[1], reduction="none")
    three_negatives = entropy.topk(3).values.sum() / 4
    ours, theirs = (function(logits, deltas, labels, targets) for function in (reference, standin))
    torch.testing.assert_close(ours[0] - theirs[0], three_negatives)
    torch.testing.assert_close(ours[1], theirs[1])


def test_ssd_loss_differs_where_negatives_are_too_few():
    standin, reference = both("ssd_loss")
    logits, deltas, labels, targets = loss_inputs((4,), anchors=15)  # 12 negatives wanted, 11 there
    ours, theirs = (function(logits, deltas, labels, targets) for function in (reference, standin))
    entropy = torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="none")
    again = (theirs[0] - ours[0]) * 4
    assert torch.isclose(entropy[labels[0] > 0], again).any(), "one positive counts twice"
    torch.testing.assert_close(ours[1], theirs[1])


def test_ssd_loss_differs_on_an_ignored_anchor():
    standin, reference = both("ssd_loss")
    logits, deltas, labels, targets = loss_inputs((2,))
    background = labels.clone()
    ignored = labels.clone()
    ignored[0, (labels[0] == 0).nonzero()[5]] = -1
    torch.testing.assert_close(
        standin(logits, deltas, ignored, targets), standin(logits, deltas, background, targets)
    )
    logits = logits.detach().clone()
    logits[ignored == -1] = torch.tensor([-50.0, 50, 0, 0], dtype=logits.dtype)  # surely wrong, if it counted
    ours, theirs = (function(logits, deltas, ignored, targets) for function in (reference, standin))
    assert ours[0] < 20 < theirs[0] - ours[0]
    torch.testing.assert_close(ours[1], theirs[1])


# 05_ssd


def test_SSDHead():
    standin, reference = both("SSDHead")
    arguments = ([8, 5], [2, 3], 6)
    theirs, ours = standin(*arguments), reference(*arguments)
    layers = [weight for weight in theirs.state_dict().values()]
    # both have weight and bias of the scores of each level, then of the offsets of each level
    ours.load_state_dict(dict(zip(ours.state_dict(), layers, strict=True)))
    maps = [random(2, 8, 3, 4), random(2, 5, 2, 1)]
    torch.testing.assert_close(theirs(maps), ours(maps))
    assert [tuple(output.shape) for output in theirs(maps)] == [(2, 30, 7), (2, 30, 4)]


# 06_nms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [120, 1, 0])
def test_nms(count, dtype):
    standin, reference = both("nms")
    boxes, scores = random_boxes(count, dtype=dtype) / 2 - 20, (8 * random(count, seed=1, dtype=dtype)).floor()
    for threshold in (0.0, 0.25, 0.5, 1.0):
        assert torch.equal(standin(boxes, scores, threshold), reference(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count, classes", [(1500, 3), (120, 4), (120, 1), (1, 1), (0, 1)])
def test_batched_nms(count, classes, dtype):
    standin, reference = both("batched_nms")
    boxes, scores = random_boxes(count, dtype=dtype) / 2 - 40, (8 * random(count, seed=1, dtype=dtype)).floor()
    labels = (classes * random(count, seed=2)).long()
    assert torch.equal(standin(boxes, scores, labels, 0.4), reference(boxes, scores, labels, 0.4))


def test_batched_nms_of_negative_coordinates_and_of_small_boxes_with_large_labels():
    standin, reference = both("batched_nms")
    ends = torch.tensor([[90.0, 90, 110, 110], [-21, -21, -1, -1]])
    specks = torch.tensor([[0.0, 0, 1, 1], [0.25, 0, 1.25, 1], [0.375, 0, 1.375, 1], [2**18, 0, 2**18 + 64, 64]]) / 64
    for boxes, labels in ((ends, torch.tensor([1, 2])), (specks, torch.tensor([90, 90, 90, 1]))):
        scores = torch.linspace(0.9, 0.6, len(boxes))
        kept = standin(boxes, scores, labels, 0.5)
        assert torch.equal(kept, reference(boxes, scores, labels, 0.5))
        assert kept.tolist() == {2: [0, 1], 4: [0, 2, 3]}[len(boxes)]


# 08_fast_rcnn


def rois_of(count, dtype):
    """Regions of two images of 160 by 112, some of them reaching out of it."""
    boxes = 1.4 * random_boxes(count, dtype=dtype) - 20
    return torch.cat([(2 * random(count, 1, seed=1)).floor().to(dtype), boxes], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [60, 1, 0])
@pytest.mark.parametrize("size, scale", [((7, 7), 1 / 8), ((2, 5), 1 / 4)])
def test_roi_pool(count, size, scale, dtype):
    standin, reference = both("roi_pool")
    maps = random(2, 3, 15, 22, dtype=dtype)
    arguments = (maps, rois_of(count, dtype), size, scale)
    assert torch.equal(standin(*arguments), reference(*arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [60, 1, 0])
@pytest.mark.parametrize("size, scale, ratio", [((7, 7), 1 / 8, 2), ((2, 5), 1 / 4, 3)])
def test_roi_align(count, size, scale, ratio, dtype):
    standin, reference = both("roi_align")
    maps = random(2, 3, 15, 22, dtype=dtype)
    arguments = (maps, rois_of(count, dtype), size, scale, ratio)
    torch.testing.assert_close(standin(*arguments), reference(*arguments), rtol=1e-6, atol=1e-6)
    assert torch.equal(standin(*arguments[:4]), standin(*arguments[:4], 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objects, count", [(5, 300), (1, 40), (0, 30), (3, 0), (0, 0)])
def test_label_proposals(objects, count, dtype):
    standin, reference = both("label_proposals")
    iou = (16 * random(objects, count, dtype=dtype) ** 2).floor() / 16  # ties, and an IoU of exactly .5
    labels = torch.arange(1, objects + 1)
    assert torch.equal(standin(iou, labels), reference(iou, labels))
    assert torch.equal(standin(iou * 0.2, labels), reference(iou * 0.2, labels))


def test_FastRCNNHead():
    standin, reference = both("FastRCNNHead")
    theirs, ours = standin(5, (3, 4), 6), reference(5, (3, 4), 6)
    layers = list(theirs.state_dict().values())  # two shared layers, then scores, then offsets, as ours
    layers[-2:] = [layer[4:] for layer in layers[-2:]]  # without the box of background
    ours.load_state_dict(dict(zip(ours.state_dict(), layers, strict=True)))
    for count in (7, 0):
        pooled = random(count, 5, 3, 4)
        torch.testing.assert_close(theirs(pooled), ours(pooled))
    assert [tuple(output.shape) for output in theirs(random(7, 5, 3, 4))] == [(7, 7), (7, 6, 4)]


def region_losses(function, arguments, alpha):
    scores, offsets = (tensor.clone().requires_grad_() for tensor in arguments[:2])
    losses = function(scores, offsets, *arguments[2:], alpha)
    return [*losses, *torch.autograd.grad(sum(losses), (scores, offsets))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low, high", [(-1, 5), (0, 5), (0, 1), (-1, 0)], ids=["all", "counted", "background", "ignored"])
def test_fast_rcnn_loss(low, high, dtype):
    standin, reference = both("fast_rcnn_loss")
    labels = low + ((high - low) * random(40)).floor().long()
    inputs = (random(40, 5, dtype=dtype), 3 * random(40, 4, 4, seed=1, dtype=dtype), labels)
    arguments = (*inputs, 3 * random(40, 4, seed=2, dtype=dtype))
    for alpha in (1.0, 0.25):
        theirs, ours = (region_losses(function, arguments, alpha) for function in (standin, reference))
        torch.testing.assert_close(theirs, ours)
    empty = [tensor[:0] for tensor in arguments]
    torch.testing.assert_close(standin(*empty), reference(*empty))


def test_fast_rcnn_loss_differs_from_torchvisions_own_break_point():
    from torchvision.models.detection.roi_heads import fastrcnn_loss

    standin, _ = both("fast_rcnn_loss")
    deltas = torch.tensor([[[0.0, 0, 0, 0]]])
    one, target = torch.tensor([1]), torch.tensor([[0.5, 0, 0, 0]])
    theirs = fastrcnn_loss(torch.zeros(1, 2), torch.zeros(1, 8), [one], [target])[1]
    torch.testing.assert_close(theirs, torch.tensor(0.5 - 0.5 / 9))
    torch.testing.assert_close(standin(torch.zeros(1, 2), deltas, one, target)[1], torch.tensor(0.125))


# 09_faster_rcnn


@pytest.mark.parametrize("arguments", [(), ((16, 20.5), (1, 4, 0.3)), ((7,), (1,)), ((), (1,)), ((3,), ())], ids=str)
def test_cell_anchors(arguments):
    standin, reference = both("cell_anchors")
    torch.testing.assert_close(standin(*arguments), reference(*arguments), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grid, stride, count", [((5, 4), 8, 3), ((1, 7), 7, 1), ((3, 2), 16, 0), ((0, 3), 8, 2)], ids=str)
def test_grid_anchors(grid, stride, count, dtype):
    standin, reference = both("grid_anchors")
    cell = random_boxes(count, dtype=dtype) - 50
    torch.testing.assert_close(standin(cell, grid, stride), reference(cell, grid, stride))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objects, anchors", [(4, 60), (1, 9), (9, 4), (0, 5), (3, 0)])
def test_label_rpn_anchors(objects, anchors, dtype):
    standin, reference = both("label_rpn_anchors")
    for seed in range(20):
        iou = random(objects, anchors, seed=seed, dtype=dtype).mul(10).floor().sub(1).clamp(min=0).div(10)
        if objects:
            iou[seed % objects] *= seed % 3  # now and then an object that nothing meets
        assert torch.equal(standin(iou.clamp(max=1)), reference(iou.clamp(max=1)))
    nothing = torch.zeros(2, 3, dtype=dtype)
    assert torch.equal(standin(nothing), reference(nothing))


def test_sample_anchors():
    """Both draw: the same numbers of the same kinds, none twice, and the same again from the same generator."""
    standin, reference = both("sample_anchors")
    for seed in range(20):
        labels = torch.randint(-1, 2, (7 * seed,), generator=torch.Generator().manual_seed(seed))
        for count, share in ((256, 0.5), (16, 0.25), (5, 0.5)):
            ours, theirs = (
                f(labels, count, share, torch.Generator().manual_seed(1)) for f in (reference, standin)
            )
            for value, one, other in zip((1, 0), ours, theirs):
                assert len(one) == len(other) == len(set(other.tolist()))
                assert bool((labels[other] == value).all())
            again = standin(labels, count, share, torch.Generator().manual_seed(1))
            assert all(map(torch.equal, theirs, again))


def test_rpn_head():
    standin, reference = both("RPNHead")
    theirs, ours = standin(6, 3).eval(), reference(6, 3).eval()
    with torch.no_grad():
        for target, source in zip(ours.parameters(), theirs.parameters(), strict=True):
            target.copy_(source)
        feature = random(2, 6, 4, 5)
        torch.testing.assert_close(theirs(feature), ours(feature))
    assert "RPNHead" in STANDINS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limits", [(60, 40, 0.5, 3), (1000, 1000, 0.7, 1), (20, 5, 0.3, 9.5), (9, 9, 0.7, 500)], ids=str)
def test_propose(limits, dtype):
    standin, reference = both("propose")
    anchors = random_boxes(80, dtype=dtype)
    objectness, deltas = random(2, 80, seed=1, dtype=dtype) - 0.5, 0.5 * random(2, 80, 4, seed=2, dtype=dtype)
    for case in ((objectness, deltas, anchors), (objectness[:, :0], deltas[:, :0], anchors[:0]), (objectness[:0], deltas[:0], anchors)):
        torch.testing.assert_close(standin(*case, (150, 97), *limits), reference(*case, (150, 97), *limits))


# 10_fpn


def test_TopDown():
    standin, reference = both("TopDown")
    theirs, ours = standin([3, 7, 5], 4), reference([3, 7, 5], 4)
    # both have weight and bias of the lateral layers, from fine to coarse, then of the smoothing layers
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    for sizes in ([(16, 24), (8, 12), (4, 6)], [(21, 13), (11, 7), (6, 4)], [(15, 9), (7, 4), (3, 1)]):
        maps = [random(2, c, *size, seed=c) for c, size in zip((3, 7, 5), sizes)]
        torch.testing.assert_close(theirs(maps), ours(maps), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [300, 1, 0])
def test_assign_level(count, dtype):
    standin, reference = both("assign_level")
    boxes = random_boxes(count, dtype=dtype) * 12
    for arguments in ((), (4, 3, 7), (7, 3, 5), (2, 0, 9)):
        assert torch.equal(standin(boxes, *arguments), reference(boxes, *arguments))


def test_assign_level_at_the_borders_and_without_area():
    standin, reference = both("assign_level")
    sides = [7.0 * 2**i for i in range(9)] + [0.0]
    boxes = torch.tensor([[3.0, 5, 3 + w, 5 + h] for w in sides for h in sides])
    assert torch.equal(standin(boxes, 4, -1, 8), reference(boxes, 4, -1, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("counts", [(30, 0, 12), (0, 0, 0), (1, 0, 0)])
def test_pool_from_pyramid(counts, dtype):
    standin, reference = both("pool_from_pyramid")
    for strides in ([4, 8, 16, 32], [8, 16], [16]):
        maps = [random(3, 5, -(-500 // s), -(-700 // s), seed=s, dtype=dtype) for s in strides]
        boxes = [random_boxes(count, seed=i, dtype=dtype) * 7 for i, count in enumerate(counts)]
        for group in boxes:
            group[:, 2:] += 32  # the library widens boxes under a cell
        arguments = (maps, boxes, (3, 2), strides)
        torch.testing.assert_close(standin(*arguments), reference(*arguments), rtol=1e-4, atol=1e-4)


def test_pool_from_pyramid_differs_on_boxes_smaller_than_a_cell():
    standin, reference = both("pool_from_pyramid")
    maps, boxes = [random(1, 1, 9, 9), random(1, 1, 5, 5)], [torch.tensor([[9.0, 9, 11, 10], [9, 9, 17, 17]])]
    ours, theirs = (function(maps, boxes, (1, 1), [4, 8]) for function in (reference, standin))
    torch.testing.assert_close(ours[1], theirs[1])
    assert (ours[0] - theirs[0]).abs() > 1e-3


# 11_retinanet


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-7), (torch.float64, 1e-12)])
@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.75, 1.0), (0.5, 0.0), (0.25, 5.0)])
def test_focal_loss(alpha, gamma, dtype, tolerance):
    standin, reference = both("focal_loss")
    logits, targets = 8 * random(7, 50, 3, dtype=dtype) - 4, (random(7, 50, 3, seed=1) < 0.2).to(dtype)
    arguments = (logits, targets, alpha, gamma)
    torch.testing.assert_close(standin(*arguments), reference(*arguments), rtol=tolerance, atol=tolerance)


def test_RetinaNetHead():
    standin, reference = both("RetinaNetHead")
    theirs, ours = standin(8, 3, 5), reference(8, 3, 5)
    # both have the hidden layers and the last one of the classes, then those of the boxes
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    maps = [random(2, 8, 3, 4), random(2, 8, 2, 1)]
    torch.testing.assert_close(theirs(maps), ours(maps))
    assert [tuple(output.shape) for output in theirs(maps)] == [(2, 42, 5), (2, 42, 4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positives", [(1,), (4, 1, 10), (3, 0), (0, 0)])
def test_retinanet_loss(positives, dtype):
    standin, reference = both("retinanet_loss")
    logits, deltas, labels, targets = loss_inputs(positives, dtype=dtype)
    labels[:, ::7] = -1
    arguments = (logits, deltas, labels, targets)
    ours, theirs = (losses_and_gradients(function, arguments) for function in (reference, standin))
    torch.testing.assert_close(theirs, ours)
