"""The references of lesson 09 beside torchvision's RegionProposalNetwork and FasterRCNN, on random weights.

torchvision's ways that are met here by hand: anchors rounded, at the corner of a cell, ratios outside and scales inside
(`rounded_cell`, `at_corners`); the best anchors and NMS level by level, then one ranking (`proposals_of_levels`);
a box for background too, and candidates of both stages dropped at fixed sizes.
"""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.rpn import RPNHead as TheirHead

from autograder.judge import load_answer
from autograder.lessons import all_exercises

EXERCISES = all_exercises()
NAMES = ("cell_anchors", "grid_anchors", "label_rpn_anchors", "rpn_loss", "propose", "RPNHead", "inside_image",
         "alternating_training", "sample_anchors")  # fmt: skip
ours = {name: load_answer(EXERCISES[name], EXERCISES[name].reference) for name in NAMES}
decode_boxes, batched_nms = (load_answer(EXERCISES[n], EXERCISES[n].reference) for n in ("decode_boxes", "batched_nms"))

SIZE = (160, 96)  # width, height
STRIDES, SCALES, RATIOS = (8, 16, 32), (12, 40, 90), (0.5, 1.0, 2.0)
GRIDS = [(SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rounded_cell(scales, ratios):
    """Ours as torchvision wants them: rounded, ratios (height / width) outside, scales inside."""
    cell = ours["cell_anchors"](scales, [1 / ratio for ratio in ratios])
    return cell.reshape(len(scales), len(ratios), 4).transpose(0, 1).reshape(-1, 4).round()


def at_corners(cell, grid, stride):
    return ours["grid_anchors"](cell, grid, stride) - stride // 2


def their_anchors(generator, images=2):
    maps = [torch.zeros(images, 1, rows, columns) for columns, rows in GRIDS]
    batch = ImageList(torch.zeros(images, 3, SIZE[1], SIZE[0]), [(SIZE[1], SIZE[0])] * images)
    return generator(batch, maps)[0]


@pytest.mark.parametrize("scales", [(128, 256, 512), (13, 37), (64,)])
def test_cell_anchors_rounded_are_torchvisions(scales):
    theirs = AnchorGenerator().generate_anchors(scales, RATIOS)
    assert torch.equal(rounded_cell(scales, RATIOS), theirs)


def test_anchors_of_several_levels_are_torchvisions():
    generator = AnchorGenerator(tuple((scale, 1.5 * scale) for scale in SCALES), (RATIOS,) * 3)
    mine = [at_corners(rounded_cell((s, 1.5 * s), RATIOS), *place) for s, *place in zip(SCALES, GRIDS, STRIDES)]
    assert torch.equal(torch.cat(mine), their_anchors(generator))


def test_the_slides_numbers():
    anchors = ours["grid_anchors"](ours["cell_anchors"](), (60, 40), 16)
    assert len(anchors) == 21600 and int(ours["inside_image"](anchors, (960, 640)).sum()) == 8268


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_are_torchvisions_matcher_in_100_random_cases_with_ties(dtype):
    matcher, forced = Matcher(0.7, 0.3, allow_low_quality_matches=True), 0
    for seed in range(100):
        iou = torch.rand(1 + seed % 5, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        iou = ((15 * iou**2 * (1 - 0.5 * (seed % 2))).floor() / 16 + 1 / 64).to(dtype)  # steps of 1/16, never at a threshold
        matches = matcher(iou)
        theirs = torch.where(matches >= 0, 1, torch.where(matches == Matcher.BETWEEN_THRESHOLDS, -1, 0))
        assert torch.equal(ours["label_rpn_anchors"](iou), theirs), seed
        forced += int(((theirs == 1) & (iou.amax(0) < 0.7)).sum())
    assert forced > 20


@pytest.mark.parametrize("count, fraction", [(256, 0.5), (64, 0.25), (7, 0.5), (1000, 0.5)])
def test_sample_has_torchvisions_numbers(count, fraction):
    for seed in range(20):
        labels = torch.randint(-1, 2, (300,), generator=torch.Generator().manual_seed(seed))
        positives, negatives = ours["sample_anchors"](labels, count, fraction)
        theirs = BalancedPositiveNegativeSampler(count, fraction)([labels])
        assert [len(positives), len(negatives)] == [int(mask[0].sum()) for mask in theirs]


def test_head_is_torchvisions():
    theirs, mine = TheirHead(12, 5).eval(), ours["RPNHead"](12, 5).eval()
    with torch.no_grad():
        for number, (target, source) in enumerate(zip(mine.parameters(), theirs.parameters(), strict=True)):
            source.copy_(0.3 * random(*source.shape, seed=number))
            target.copy_(source)
        feature = random(2, 12, 7, 4, seed=9)
        (scores,), (offsets,) = theirs([feature])
        objectness, deltas = mine(feature)
    assert torch.equal(objectness, scores.permute(0, 2, 3, 1).flatten(1))
    assert torch.equal(deltas, offsets.reshape(2, 5, 4, 7, 4).permute(0, 3, 4, 1, 2).reshape(2, -1, 4))


def test_loss_is_torchvisions_with_its_beta():
    """torchvision: both parts over the sampled anchors, smooth L1 with beta = 1/9, as of offsets nine times larger."""
    labels = torch.randint(-1, 2, (2, 50), generator=torch.Generator().manual_seed(1))
    objectness, deltas, wanted = random(2, 50), random(2, 50, 4, seed=2), random(2, 50, 4, seed=3)
    network = RegionProposalNetwork(None, None, 0.7, 0.3, 100, 0.5, {}, {}, 0.7)
    network.fg_bg_sampler = lambda labels: ([one == 1 for one in labels], [one == 0 for one in labels])
    theirs = network.compute_loss(objectness.reshape(-1, 1), deltas.reshape(-1, 4), list(labels.float()), list(wanted))
    sampled = int((labels >= 0).sum())
    mine = ours["rpn_loss"](objectness, 9 * deltas, labels, 9 * wanted, sampled, 9 * sampled, 1.0)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


LIMITS = {"pre_nms": 60, "post_nms": 25, "iou_threshold": 0.6, "min_size": 4}


def their_network(limits, cells=None, head=None):
    return RegionProposalNetwork(
        cells, head, 0.7, 0.3, 256, 0.5, *({"training": limits[n], "testing": limits[n]} for n in ("pre_nms", "post_nms")),
        limits["iou_threshold"],
    ).eval()  # fmt: skip


def proposals_of_levels(objectness, deltas, anchors, counts, limits):
    """`propose` level by level, then the best of all levels by their scores: torchvision's way.

    A proposal's score is found again by the box that has it.
    """
    width, height = SIZE
    levels = []
    for o, d, a in zip(objectness.split(counts, 1), deltas.split(counts, 1), anchors.split(counts)):
        found = ours["propose"](o, d, a, SIZE, limits["pre_nms"], len(a), limits["iou_threshold"], limits["min_size"])
        levels.append((o, d, a, found))
    result = []
    for image in range(len(objectness)):
        boxes, scores = [], []
        for o, d, a, found in levels:
            every = decode_boxes(d[image], a, (1.0, 1.0, 1.0, 1.0))
            every = torchvision.ops.clip_boxes_to_image(every, (height, width))
            equal = (every[None] == found[image][:, None]).all(-1)
            assert bool(equal.any(1).all()), "a proposal that no anchor gives"
            boxes.append(found[image])
            scores.append(torch.where(equal, o[image], -torch.inf).amax(1))
        boxes, scores = torch.cat(boxes), torch.cat(scores)
        result.append(boxes[scores.sigmoid().argsort(descending=True, stable=True)[: limits["post_nms"]]])
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
def test_propose_is_torchvisions_filter_on_one_level(seed, dtype):
    anchors = at_corners(rounded_cell((12, 40), RATIOS), GRIDS[0], 8).to(dtype)
    objectness, deltas = random(2, len(anchors), seed=seed, dtype=dtype), 0.4 * random(2, len(anchors), 4, seed=9, dtype=dtype)
    network = their_network(LIMITS)
    network.min_size = LIMITS["min_size"]
    boxes = torch.stack([decode_boxes(one, anchors, (1.0, 1.0, 1.0, 1.0)) for one in deltas])
    theirs, _ = network.filter_proposals(boxes, objectness, [SIZE[::-1]] * 2, [len(anchors)])
    mine = ours["propose"](objectness, deltas, anchors, SIZE, *LIMITS.values())
    assert all(map(torch.equal, mine, theirs)) and len(mine[0]) == LIMITS["post_nms"]


@pytest.mark.parametrize("seed", range(3))
def test_a_whole_rpn_on_three_levels_is_torchvisions(seed):
    """Batch 2, H != W, three levels with anchors of their own, the same random weights."""
    torch.manual_seed(seed)
    generator = AnchorGenerator(tuple((scale,) for scale in SCALES), (RATIOS,) * 3)
    theirs, mine = TheirHead(6, 3), ours["RPNHead"](6, 3)
    for number, (target, source) in enumerate(zip(mine.parameters(), theirs.parameters(), strict=True)):
        source.data = 0.4 * random(*source.shape, seed=10 * seed + number)
        target.data = source.data
    maps = [random(2, 6, rows, columns, seed=seed + n) for n, (columns, rows) in enumerate(GRIDS)]
    network = their_network(LIMITS, generator, theirs)
    network.min_size = LIMITS["min_size"]
    images = ImageList(torch.zeros(2, 3, SIZE[1], SIZE[0]), [SIZE[::-1]] * 2)
    with torch.no_grad():
        expected, _ = network(images, dict(enumerate(maps)))
        objectness, deltas = (torch.cat(part, 1) for part in zip(*map(mine, maps)))
    cells = [rounded_cell((scale,), RATIOS) for scale in SCALES]
    anchors = torch.cat([at_corners(*place) for place in zip(cells, GRIDS, STRIDES)])
    counts = [3 * rows * columns for columns, rows in GRIDS]
    found = proposals_of_levels(objectness, deltas, anchors, counts, LIMITS)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert len(found[0]) == LIMITS["post_nms"]


class Maps(nn.Module):
    """Three maps of strides 8, 16 and 32, by plain convolutions."""

    out_channels = 6

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 6, 3, stride=stride, padding=1) for stride in STRIDES)

    def forward(self, images):
        return {str(n): layer(images).tanh() for n, layer in enumerate(self.layers)}


@pytest.mark.parametrize("seed", range(3))
def test_the_whole_faster_rcnn_in_evaluation_is_torchvisions(seed):
    """Our RPN, proposals, decoding and NMS by class on torchvision's random weights: the same detections.

    Maps, pooling from three levels (lesson 10) and fully connected layers are torchvision's own.
    """
    torch.manual_seed(seed)
    generator = AnchorGenerator(tuple((scale,) for scale in SCALES), (RATIOS,) * 3)
    theirs = FasterRCNN(
        Maps(), 4, min_size=min(SIZE), max_size=max(SIZE), image_mean=[0.0] * 3, image_std=[1.0] * 3,
        rpn_anchor_generator=generator, rpn_pre_nms_top_n_test=60, rpn_post_nms_top_n_test=40, rpn_nms_thresh=0.6,
        box_score_thresh=0.15, box_nms_thresh=0.4, box_detections_per_img=30,
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0", "1", "2"], 3, 2),
    ).eval()  # fmt: skip
    for number, weight in enumerate(theirs.rpn.head.parameters()):
        weight.data = 0.4 * random(*weight.shape, seed=50 * seed + number)
    for number, weight in enumerate(theirs.roi_heads.box_predictor.parameters()):
        weight.data = 0.3 * random(*weight.shape, seed=100 * seed + number)
    images = torch.rand(2, 3, SIZE[1], SIZE[0])
    head = ours["RPNHead"](6, 3)
    for target, source in zip(head.parameters(), theirs.rpn.head.parameters(), strict=True):
        target.data = source.data
    cells = [rounded_cell((scale,), RATIOS) for scale in SCALES]
    anchors = torch.cat([at_corners(*place) for place in zip(cells, GRIDS, STRIDES)])
    counts = [3 * rows * columns for columns, rows in GRIDS]
    limits = {"pre_nms": 60, "post_nms": 40, "iou_threshold": 0.6, "min_size": 1e-3}
    with torch.no_grad():
        expected = theirs(list(images))
        maps = theirs.backbone(images)
        objectness, deltas = (torch.cat(part, 1) for part in zip(*map(head, maps.values())))
        regions = proposals_of_levels(objectness, deltas, anchors, counts, limits)
        pooled = theirs.roi_heads.box_roi_pool(maps, regions, [SIZE[::-1]] * 2)
        logits, offsets = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(pooled))
    found = []
    sizes = [len(one) for one in regions]
    for boxes, scores, delta in zip(regions, logits.softmax(-1).split(sizes), offsets.unflatten(1, (-1, 4)).split(sizes)):
        row, k = (scores[:, 1:] > 0.15).nonzero(as_tuple=True)
        boxes = decode_boxes(delta[row, k + 1], boxes[row])
        boxes = torchvision.ops.clip_boxes_to_image(boxes, SIZE[::-1])
        kept = batched_nms(boxes, scores[row, k + 1], k, 0.4)[:30]
        found.append({"boxes": boxes[kept], "scores": scores[row, k + 1][kept], "labels": k[kept] + 1})
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["labels"], other["labels"]) and len(one["labels"]) > 5
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=1e-5)
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=1e-3)


class Tiny(nn.Module):
    """Three parts with a batch norm each, as a network that `alternating_training` gets by its weights."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.rpn, self.head = (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)) for _ in range(2))


def test_steps_3_and_4_leave_the_shared_weights_bit_identical():
    """Real networks with real gradients: after step 2 the backbone stays, statistics and counters included."""
    torch.manual_seed(0)
    backbones = []

    def train(weights, own, learn, evaluate):
        model = Tiny()
        model.load_state_dict(weights)
        for name, part in model.named_children():
            part.requires_grad_(name in learn).train(name not in evaluate)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            images, wanted = torch.randn(2, 3, 6, 5), torch.randn(2, 2, 4, 3)
            loss = (getattr(model, own)(model.backbone(images)) - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        backbones.append({name: value for name, value in weights.items() if name.startswith("backbone")})
        return weights

    def train_rpn(weights, learn, evaluate=()):
        return train(weights, "rpn", learn, evaluate)

    def train_detector(weights, proposals, learn, evaluate=()):
        return train(weights, "head", learn, evaluate)

    start = Tiny().state_dict()
    before = {name: value.clone() for name, value in start.items()}
    result = ours["alternating_training"](start, train_rpn, train_detector, lambda weights: [])
    assert all(torch.equal(start[name], before[name]) for name in before)
    first, second, third, fourth = backbones
    assert all(torch.equal(second[name], third[name]) and torch.equal(second[name], fourth[name]) for name in second)
    assert all(torch.equal(result[name], second[name]) for name in second)
    assert not any(torch.equal(first[name], second[name]) for name in first if "num_batches" not in name)
    assert not any(torch.equal(result[name], before[name]) for name in before)
    parts = {name.split(".")[0] for name in before}
    assert parts == {"backbone", "rpn", "head"}
