"""The references of lesson 08 beside torchvision, and what the lesson builds from them."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads

from autograder.judge import load_answer
from autograder.lessons import all_exercises, read_cells, sources

EXERCISES = all_exercises()
roi_pool, roi_align, label_proposals, fast_rcnn_loss, selective_search = (
    load_answer(EXERCISES[name], EXERCISES[name].reference)
    for name in ("roi_pool", "roi_align", "label_proposals", "fast_rcnn_loss", "selective_search")
)


def lesson(*names):
    """Functions and classes of the lesson's cells that its detector is made of, with the references as the exercises."""
    path = next(path for path in sources() if path.parent.name == "08_fast_rcnn")
    space = {"__name__": "lesson"}
    for cell in read_cells(path):
        meta = cell.metadata.get("nbgrader", {})
        wanted = "experiment" in cell.metadata.get("tags", ()) or meta and not meta["grade"]
        if cell.cell_type == "code" and wanted:
            exec(compile(cell.source, "lesson 08", "exec"), space)
    return [space[name] for name in names]


def case(seed, dtype=torch.float32, grid=None):
    """A batch of 2 maps, and 0 to 19 regions, some reaching out of them; with `grid`, corners are multiples of it."""
    dice = torch.Generator().manual_seed(seed)
    height, width, count = (
        int(torch.randint(low, high, (1,), generator=dice)) for low, high in ((3, 20), (3, 25), (0, 20))
    )
    maps = torch.randn(2, 3, height, width, generator=dice, dtype=torch.float64)
    corners = (
        torch.rand(count, 2, generator=dice, dtype=torch.float64) * torch.tensor([width, height]) * 10 - 16
    )
    sides = torch.rand(count, 2, generator=dice, dtype=torch.float64) ** 2 * 150
    boxes = torch.cat([corners, corners + sides], 1)
    boxes = (boxes / grid).round() * grid if grid else boxes
    rois = torch.cat([torch.randint(0, 2, (count, 1), generator=dice), boxes], 1)
    return maps.to(dtype), rois.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grid", [None, 1, 4], ids=["anywhere", "whole pixels", "halves of cells"])
def test_roi_pool_is_torchvisions_to_the_last_bit(grid, dtype):
    empty = 0
    for seed in range(25):
        maps, rois = case(seed, dtype, grid)
        for size, scale in (((7, 7), 1 / 8), ((2, 3), 1 / 8), ((5, 1), 1 / 4)):
            ours = roi_pool(maps, rois, size, scale)
            assert torch.equal(ours, torchvision.ops.roi_pool(maps, rois, size, scale)), (seed, size)
            empty += int((ours == 0).sum())
    assert empty > 100, "the cases have no empty bins"


def test_roi_pool_is_torchvisions_where_float32_has_a_cell_too_many():
    maps = torch.arange(70.0 * 70).reshape(1, 1, 70, 70)
    rois = torch.tensor(
        [[0.0, 0, 0, 56, 28], [0, 3, 2, 59, 58]]
    )  # 57 cells in 7 bins: 7·(57/7) is over 57 in float32
    ours = roi_pool(maps, rois, (7, 7), 1.0)
    assert torch.equal(ours, torchvision.ops.roi_pool(maps, rois, (7, 7), 1.0))
    assert ours[0, 0, 0, -1] % 70 == 57, "one cell beyond the region"


@pytest.mark.parametrize(
    "dtype, most", [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=["float32", "float64"]
)
def test_roi_align_is_torchvisions_forward_and_backward(dtype, most):
    for seed in range(25):
        maps, rois = case(seed, dtype)
        maps = maps.tanh()
        for size, scale, ratio in (((7, 7), 1 / 8, 2), ((2, 3), 1 / 4, 1), ((5, 1), 1 / 8, 3)):
            leaves = [maps.clone().requires_grad_() for _ in range(2)]
            ours = roi_align(leaves[0], rois, size, scale, ratio)
            theirs = torchvision.ops.roi_align(leaves[1], rois, size, scale, ratio, aligned=True)
            # positions of about 20 cells have an error of 2e-6 in float32, in either program
            torch.testing.assert_close(ours, theirs, rtol=0, atol=5 * most)
            weights = torch.rand(ours.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
            (ours * weights).sum().backward()
            (theirs * weights).sum().backward()
            torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-4, atol=50 * most)


def test_roi_align_without_the_half_pixel_differs():
    maps, rois = case(1)
    theirs = torchvision.ops.roi_align(maps, rois, (3, 3), 1 / 8, 2, aligned=False)
    assert (roi_align(maps, rois, (3, 3), 1 / 8) - theirs).abs().max() > 0.1
    shifted = rois + torch.tensor([0.0, 4, 4, 4, 4])  # half a cell
    large = (rois[:, 3:] - rois[:, 1:3]).amin(1) >= 8  # unaligned, a region has at least one cell
    assert large.sum() >= 3
    torch.testing.assert_close(
        roi_align(maps, shifted[large], (3, 3), 1 / 8), theirs[large], rtol=0, atol=1e-5
    )


def test_fast_forms_of_the_lesson_give_the_same():
    (fast_roi_align,) = lesson("fast_roi_align")
    for seed in range(15):
        maps, rois = case(seed, torch.float64)
        for size, ratio in (((7, 7), 2), ((2, 3), 1)):
            leaves = [maps.clone().requires_grad_() for _ in range(2)]
            plain, fast = (
                roi_align(leaves[0], rois, size, 1 / 8, ratio),
                fast_roi_align(leaves[1], rois, size, 1 / 8, ratio),
            )
            torch.testing.assert_close(fast, plain)
            for pooled in (plain, fast):
                pooled.square().sum().backward()
            torch.testing.assert_close(leaves[1].grad, leaves[0].grad)


def test_labels_are_those_of_the_slides_rule_in_random_cases():
    met = set()
    for seed in range(50):
        dice = torch.Generator().manual_seed(seed)
        iou = torch.rand(3, 40, generator=dice) ** 3
        labels = torch.randint(1, 6, (3,), generator=dice)
        for j, label in enumerate(label_proposals(iou, labels).tolist()):
            best = iou[:, j].max()
            expected = labels[iou[:, j].argmax()].item() if best >= 0.5 else 0 if best >= 0.1 else -1
            assert label == expected
            met.add(min(label, 1))
    assert met == {-1, 0, 1}


def test_a_second_stage_detects_what_torchvisions_does():
    """Random weights, 2 images that are wider than high, and an image without proposals that score."""
    FastRCNN, with_image_numbers = lesson("FastRCNN", "with_image_numbers")
    torch.manual_seed(3)

    class Backbone(nn.Module):
        channels, strides = {"c3": 5}, {"c3": 8}

        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 5, 9, stride=8, padding=4)

        def forward(self, images):
            return {"c3": self.layer(images)}

    ours = FastRCNN(Backbone(), "c3", 4, pool=(3, 2)).eval()
    with torch.no_grad():
        for weight in ours.head.parameters():
            weight.mul_(3)
    box_head, predictor = TwoMLPHead(5 * 3 * 2, 256), FastRCNNPredictor(256, 5)
    state = list(ours.head.state_dict().values())
    box_head.load_state_dict(dict(zip(box_head.state_dict(), state[:4], strict=True)))
    offsets = [
        torch.cat([torch.zeros(4, *weight.shape[1:]), weight]) for weight in state[6:]
    ]  # background's box
    predictor.load_state_dict(dict(zip(predictor.state_dict(), [*state[4:6], *offsets], strict=True)))

    class Pool(nn.Module):
        def forward(self, features, boxes, sizes):
            return torchvision.ops.roi_align(features["0"], boxes, (3, 2), 1 / 8, 2, aligned=True)

    theirs = RoIHeads(
        Pool(), box_head, predictor, 0.5, 0.5, 64, 0.25, (10.0, 10.0, 5.0, 5.0), 0.02, 0.5, 100
    ).eval()
    images = torch.rand(2, 3, 64, 104)
    proposals = []
    for count in (40, 25):
        corners = torch.rand(count, 2) * torch.tensor([70.0, 35])
        proposals.append(torch.cat([corners, corners + 10 + 25 * torch.rand(count, 2)], 1))
    with torch.no_grad():
        found = ours.detect(images, proposals)
        expected, _ = theirs({"0": ours.backbone(images)["c3"]}, proposals, [(64, 104)] * 2)
    for one, other in zip(found, expected, strict=True):
        assert 10 < len(one["scores"]) <= 100
        assert torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-4, atol=1e-3)


def test_sampled_regions_are_of_their_image_and_learn_the_offsets_to_their_object():
    sample_regions, with_image_numbers = lesson("sample_regions", "with_image_numbers")
    torch.manual_seed(0)
    box = torch.tensor([[10.0, 10, 30, 40]])
    near, far = torch.tensor([[12.0, 10, 32, 40]]), torch.tensor([[80.0, 80, 90, 90]])
    touching = torch.tensor([[20.0, 20, 45, 60]])
    full = {
        "boxes": box,
        "labels": torch.tensor([3]),
        "proposals": torch.cat([near, far.expand(50, 4), touching]),
    }
    empty = {"boxes": box[:0], "labels": torch.zeros(0, dtype=torch.int64), "proposals": far.expand(5, 4)}
    rois, labels, deltas = sample_regions([full, empty], count=8)
    assert rois[:, 0].tolist() == [0] * 8 + [1] * 5
    assert labels.tolist() == [3, 3, *[0] * 11]
    assert (rois[:8, 1:] == touching).all(1).sum() == 1, "background that touches an object comes first"
    moved = (rois[:2, 1:] == near).all(1)
    torch.testing.assert_close(deltas[:2][moved], torch.tensor([[-2 / 20 / 0.1, 0, 0, 0]]))
    assert not deltas[:2][~moved].any() and not deltas[2:].any()


def test_selective_search_finds_the_objects_of_scenes():
    pytest.importorskip("skimage")
    from skimage.segmentation import felzenszwalb

    from coursekit.data import scenes

    data, best = scenes("test", 12), []
    for image, target in zip(data.images.cpu(), data.targets):
        pieces = torch.from_numpy(
            felzenszwalb(image.permute(1, 2, 0).numpy(), scale=100, sigma=0.5, min_size=12)
        ).long()
        boxes = selective_search(pieces, image / 255)
        assert len(boxes) == 2 * (int(pieces.max()) + 1) - 1 and boxes[-1].tolist() == [0, 0, 128, 128]
        best.append(torchvision.ops.box_iou(target["boxes"].cpu(), boxes).amax(1))
    assert (torch.cat(best) >= 0.5).float().mean() > 0.85
