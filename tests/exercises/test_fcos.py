"""The references of lesson 13 beside torchvision's FCOS, with its choices put in where they differ from the slides'."""

import math
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import fcos
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from autograder.judge import load_answer
from autograder.lessons import all_exercises, read_cells, sources

EXERCISES = all_exercises()
locations, fcos_targets, centerness, FCOSHead, fcos_loss, fcos_predict = (
    load_answer(EXERCISES[name], EXERCISES[name].reference)
    for name in ("locations", "fcos_targets", "centerness", "FCOSHead", "fcos_loss", "fcos_predict")
)
LEVELS, CHANNELS, CLASSES = (3, 4, 5), 64, 5
RANGES = (0, 64, 128, math.inf)
WIDTH, HEIGHT = 344, 216
GRIDS = [(math.ceil(WIDTH / 2**level), math.ceil(HEIGHT / 2**level)) for level in LEVELS]
POINTS = [locations(grid, 2**level) for grid, level in zip(GRIDS, LEVELS)]


def maps(seed=0, batch=2):
    dice = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, CHANNELS, rows, columns, generator=dice) for columns, rows in GRIDS]


def anchors_at(points=POINTS):
    """torchvision's anchors: squares as wide as the stride; their centres are the locations."""
    half = torch.cat([torch.full((len(xy), 2), 2 ** (level - 1)) for xy, level in zip(points, LEVELS)])
    return torch.cat([torch.cat(points) - half, torch.cat(points) + half], 1)


def truth(seed, count, size=300):
    dice = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=dice) * torch.tensor([WIDTH - 20.0, HEIGHT - 20])
    sides = 4 + torch.rand(count, 2, generator=dice) ** 2 * torch.tensor([size, 0.6 * size])
    return {"boxes": torch.cat([corner, corner + sides], 1), "labels": torch.randint(1, CLASSES, (count,), generator=dice)}


def their_matches(targets, points=POINTS, radius=1e9):
    """The box of each location by torchvision, -1 for none; without centre sampling, unless a radius is given."""
    stage = SimpleNamespace(
        center_sampling_radius=radius,
        head=SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matches: matches),
    )
    anchors = [anchors_at(points)] * len(targets)
    return fcos.FCOS.compute_loss(stage, targets, {}, anchors, [len(xy) for xy in points])


def lesson_cells(*first_words):
    """Names defined by cells of the lesson that hold one of these texts."""
    path = next(path for path in sources() if path.parent.name == "13_fcos")
    names = {"torch": torch, "math": math, "locations": locations, "fcos_targets": fcos_targets}
    for cell in read_cells(path):
        if cell.cell_type == "code" and any(words in cell.source for words in first_words):
            exec(cell.source.split("\n\n\nlarge = ")[0], names)
    return names


def test_locations_are_torchvisions_half_a_stride_further():
    images = ImageList(torch.zeros(1, 3, 256, 352), [(256, 352)])  # sizes that every stride divides
    grids = [(352 // 2**level, 256 // 2**level) for level in LEVELS]
    generator = AnchorGenerator(tuple((2**level,) for level in LEVELS), ((1.0,),) * 3)
    anchors = generator(images, [torch.zeros(1, 1, rows, columns) for columns, rows in grids])[0]
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2).split([c * r for c, r in grids])
    for level, grid, theirs in zip(LEVELS, grids, centres):
        assert torch.equal(locations(grid, 2**level) - 2**level // 2, theirs)


def test_slides_count_17064_locations_at_1024_by_800():
    grids = [(math.ceil(1024 / 2**level), math.ceil(800 / 2**level)) for level in range(3, 8)]
    assert sum(len(locations(grid, 8)) for grid in grids) == 17_064


@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_targets_are_torchvisions_without_centre_sampling(count):
    for seed in range(6):
        target = truth(seed, count)
        labels, ltrb = fcos_targets(POINTS, target["boxes"], target["labels"], RANGES)
        match = their_matches([target])[0]
        positive = match >= 0
        assert torch.equal(labels > 0, positive)
        if count:
            assert torch.equal(labels[positive], target["labels"][match[positive]])
            boxes, xy = target["boxes"][match[positive]], torch.cat(POINTS)[positive]
            assert torch.equal(ltrb[positive], torch.cat([xy - boxes[:, :2], boxes[:, 2:] - xy], 1))


def test_centre_sampling_keeps_fewer_positives_and_no_other():
    target = truth(3, 12)
    labels = fcos_targets(POINTS, target["boxes"], target["labels"], RANGES)[0]
    sampled = their_matches([target], radius=1.5)[0] >= 0
    assert 0 < sampled.sum() < (labels > 0).sum()
    assert (labels > 0)[sampled].all()


def test_targets_find_the_smallest_box_where_torchvisions_float32_cannot():
    point = [torch.tensor([[100.0, 100]])] + [torch.zeros(0, 2)] * 2
    boxes = torch.tensor([[0.0, 0, 200.015, 200], [0, 0, 200, 200]])
    assert fcos_targets(point, boxes, torch.tensor([1, 2]), (0, math.inf, math.inf, math.inf))[0].tolist() == [2]
    assert (1e8 - torch.tensor([40003.0, 40000.0])).unique().numel() == 1


def their_head(ours):
    """torchvision's head with the weights of ours, and what our choices change: exp with a scale, centre-ness beside the classes."""

    class Head(fcos.FCOSHead):
        def forward(self, features):
            classes, boxes = self.classification_head, self.regression_head
            distances, centers = [], []
            for level, feature in enumerate(features):
                x = boxes.bbox_reg(boxes.conv(feature))
                distances.append(torch.exp(ours.scales[level] * x).permute(0, 2, 3, 1).reshape(len(feature), -1, 4))
                centers.append(boxes.bbox_ctrness(classes.conv(feature)).permute(0, 2, 3, 1).reshape(len(feature), -1, 1))
            return {"cls_logits": classes(features), "bbox_regression": torch.cat(distances, 1), "bbox_ctrness": torch.cat(centers, 1)}

    theirs, state = Head(CHANNELS, 1, CLASSES), {}
    for name, weight in ours.state_dict().items():
        layer, _, rest = name.partition(".")
        place = {
            "class_tower": "classification_head.conv.", "class_logits": "classification_head.cls_logits.",
            "box_tower": "regression_head.conv.", "box_distances": "regression_head.bbox_reg.",
            "center_logits": "regression_head.bbox_ctrness.",
        }  # fmt: skip
        if layer in place:
            state[place[layer] + rest] = weight
    theirs.load_state_dict(state)
    return theirs


def random_head(seed=0):
    torch.manual_seed(seed)
    head = FCOSHead(CHANNELS, CLASSES, LEVELS)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.05 if parameter.ndim > 1 else 0.5)
    return head


def test_head_is_torchvisions_on_random_weights():
    head, features = random_head(), maps()
    logits, distances, centers = head(features)
    theirs = their_head(head)(features)
    torch.testing.assert_close(logits, theirs["cls_logits"])
    torch.testing.assert_close(centers[..., None], theirs["bbox_ctrness"])
    strides = torch.cat([torch.full((len(xy), 1), 2.0**level) for xy, level in zip(POINTS, LEVELS)])
    torch.testing.assert_close(distances / strides, theirs["bbox_regression"])


def test_torchvisions_choices_come_from_the_parts_of_the_head():
    """What lesson 14 does: ReLU times stride, and centre-ness on the tower of boxes, from the named layers."""
    head, features = random_head(1), maps(1)
    theirs = fcos.FCOSHead(CHANNELS, 1, CLASSES)
    theirs.load_state_dict(their_head(head).state_dict())
    expected = theirs(features)
    towers = [head.box_tower(feature) for feature in features]
    distances = torch.cat([torch.relu(head.box_distances(x)).flatten(2).mT for x in towers], 1)
    centers = torch.cat([head.center_logits(x).flatten(2).mT for x in towers], 1)
    assert torch.equal(distances, expected["bbox_regression"])
    assert torch.equal(centers, expected["bbox_ctrness"])
    assert torch.equal(head(features)[0], expected["cls_logits"])


@pytest.mark.parametrize("counts", [(6, 11), (5, 0), (0, 0)])
def test_losses_are_torchvisions_but_for_giou(counts):
    head, features = random_head(2), maps(2)
    logits, distances, centers = head(features)
    targets = [truth(seed, count) for seed, count in enumerate(counts)]
    pairs = [fcos_targets(POINTS, target["boxes"], target["labels"], RANGES) for target in targets]
    labels, ltrb = (torch.stack(part) for part in zip(*pairs))
    ours = fcos_loss(logits, distances, centers, labels, ltrb)
    theirs = their_head(head).compute_loss(
        # torchvision's column is the label itself, with a column for background that never is one
        [{"boxes": target["boxes"], "labels": target["labels"] - 1} for target in targets],
        their_head(head)(features), [anchors_at()] * 2, their_matches(targets),
    )  # fmt: skip
    torch.testing.assert_close(ours[0], theirs["classification"])
    torch.testing.assert_close(ours[2], theirs["bbox_ctrness"])
    positive = labels > 0
    said, true = (torch.cat([-part[positive][:, :2], part[positive][:, 2:]], 1) for part in (distances, ltrb))
    giou = torchvision.ops.generalized_box_iou_loss(said, true, reduction="sum") / positive.sum().clamp(min=1)
    torch.testing.assert_close(giou, theirs["bbox_regression"])  # the same boxes
    iou = torchvision.ops.box_iou(said, true).diagonal()
    torch.testing.assert_close(ours[1], -iou.log().sum() / positive.sum().clamp(min=1))


@pytest.mark.parametrize("threshold, candidates, top_k", [(0.2, 1000, 100), (0.05, 50, 30), (0.99, 1000, 100)])
def test_detections_are_torchvisions_with_the_root(threshold, candidates, top_k):
    head = random_head(3)
    nn.init.normal_(head.class_logits.bias, -1.0)
    features = maps(3)
    logits, distances, centers = head(features)
    stage = SimpleNamespace(
        score_thresh=threshold, nms_thresh=0.6, detections_per_img=top_k, topk_candidates=candidates,
        box_coder=torchvision.models.detection._utils.BoxLinearCoder(normalize_by_size=True),
    )  # fmt: skip
    counts = [len(xy) for xy in POINTS]
    outputs = {name: list(part.split(counts, 1)) for name, part in their_head(head)(features).items()}
    anchors = [list(anchors_at().split(counts))] * 2
    theirs = fcos.FCOS.postprocess_detections(stage, outputs, anchors, [(HEIGHT, WIDTH)] * 2)
    ours = fcos_predict(logits, distances, centers, POINTS, (WIDTH, HEIGHT), threshold, 0.6, candidates, top_k, sqrt=True)
    assert threshold > 0.9 or all(len(one["scores"]) > 10 for one in ours)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one["labels"], other["labels"] + 1)
        torch.testing.assert_close(one["scores"], other["scores"])
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-4, atol=1e-3)


def test_true_distances_give_back_the_true_boxes():
    """Targets said by a perfect head: each object that has a positive is detected, and nothing else."""
    targets = [truth(seed, 8, 120) for seed in (4, 5)]
    pairs = [fcos_targets(POINTS, target["boxes"], target["labels"], RANGES) for target in targets]
    labels, ltrb = (torch.stack(part) for part in zip(*pairs))
    logits = torch.where(labels[..., None] == torch.arange(1, CLASSES + 1), 20.0, -20.0)
    found = fcos_predict(logits, ltrb, torch.full(labels.shape, 20.0), POINTS, (10**4, 10**4), 0.5, 0.999, 5000, 5000)
    for one, target, names, sides in zip(found, targets, labels, ltrb):
        met = torchvision.ops.box_iou(one["boxes"], target["boxes"])
        assert (met.amax(1) > 0.998).all()
        xy = torch.cat(POINTS)[names > 0]
        boxes = torch.cat([xy - sides[names > 0][:, :2], xy + sides[names > 0][:, 2:]], 1)
        assert ((torchvision.ops.box_iou(target["boxes"], boxes).amax(1) > 0.998) == (met.amax(0) > 0.998)).all()


def test_fast_targets_of_the_lesson_are_the_plain_ones():
    fast = lesson_cells("def fast_targets")["fast_targets"]
    for counts in ((9, 0, 30), (0, 0), (1,)):
        targets = [truth(seed, count) for seed, count in enumerate(counts)]
        targets[0]["boxes"] = torch.cat([targets[0]["boxes"], targets[0]["boxes"]])  # equal areas: the first wins
        targets[0]["labels"] = torch.cat([targets[0]["labels"], 5 - targets[0]["labels"]])
        plain = [fcos_targets(POINTS, target["boxes"], target["labels"], RANGES) for target in targets]
        labels, ltrb = fast(POINTS, targets, RANGES)
        assert torch.equal(labels, torch.stack([names for names, _ in plain]))
        assert torch.equal(ltrb, torch.stack([sides for _, sides in plain]))


def test_centerness_has_a_floor_and_its_gradient_vanishes_there():
    ltrb = torch.tensor([[4.0, 4, 12, 4], [1, 2, 9, 8]])
    said = centerness(ltrb).logit().requires_grad_()
    labels = torch.tensor([[1, 2]])
    loss = fcos_loss(torch.zeros(1, 2, 2), ltrb[None], said[None], labels, ltrb[None])[2]
    entropy = -(centerness(ltrb) * centerness(ltrb).log() + (1 - centerness(ltrb)) * (1 - centerness(ltrb)).log())
    torch.testing.assert_close(loss, entropy.mean())
    loss.backward()
    torch.testing.assert_close(said.grad, torch.zeros(2))
