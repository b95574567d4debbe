"""Scenes: the same for the same numbers, boxes tight to what was painted, a mix of sizes and classes."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torchvision.ops import box_iou

from coursekit.data import DetectionData, scenes
from coursekit.data.scenes import CLASSES, COUNTS, Difficulty

PLAIN = Difficulty((1, 1), (12, 80), (0, 0), contrast=0.4, noise=0, clouds=0)  # one object on plain grey


def same(a, b):
    """Whether two sets are equal, image by image and box by box."""
    assert len(a) == len(b)
    return torch.equal(a.images, b.images) and all(
        torch.equal(s["boxes"], t["boxes"]) and torch.equal(s["labels"], t["labels"])
        for s, t in zip(a.targets, b.targets, strict=True)
    )


def painted(image):
    """Where something lies on plain grey (127 or 128; the least contrast here is .2 of 255): bool [H, W]."""
    return ((image.float() - 127.5).abs() > 5).any(0)


@pytest.fixture(scope="module")
def medium():
    return scenes("val", device="cpu")


# ---------------------------------------------------------------- what comes out
def test_a_set_is_uint8_images_float32_boxes_and_int64_labels(medium):
    assert isinstance(medium, DetectionData) and medium.classes == CLASSES
    assert medium.images.shape == (400, 3, 128, 128) and medium.images.dtype == torch.uint8
    for target in medium.targets:
        boxes, labels = target["boxes"], target["labels"]
        assert boxes.dtype == torch.float32 and boxes.shape == (len(labels), 4)
        assert labels.dtype == torch.int64 and labels.shape == (len(boxes),)
        assert (boxes[:, :2] < boxes[:, 2:]).all() and (boxes >= 0).all() and (boxes <= 128).all()


def test_the_sizes_of_the_splits_are_the_documented_ones():
    assert COUNTS == {"train": 4096, "val": 400, "test": 400}


@pytest.mark.parametrize("size", [64, 160, (192, 96)], ids=str)
def test_any_size_is_painted_and_objects_grow_with_it(size):
    width, height = (size, size) if isinstance(size, int) else size
    data = scenes("val", 60, size=size, device="cpu", difficulty=replace(PLAIN, beyond=0))
    assert data.images.shape == (60, 3, height, width)
    sides = torch.cat([target["boxes"] for target in data.targets])
    sides = (sides[:, 2:] - sides[:, :2]).amax(1)
    scale = min(width, height) / 128
    assert sides.max() <= 80 * scale + 1 and sides.max() > 55 * scale
    assert sides.min() >= 0.7 * 12 * scale - 1 and sides.min() < 18 * scale


def test_a_scene_without_any_object_has_an_empty_target_and_an_empty_set_has_no_scene():
    data = scenes("val", 3, difficulty=Difficulty((0, 0), distractors=(0, 0)), device="cpu")
    for target in data.targets:
        assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)
    (images, targets), = data.batches(3, flip=True)
    assert images.std() > 0.05, "the background is there all the same"
    assert scenes("val", 0, device="cpu").images.shape == (0, 3, 128, 128)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"split": "valid"}, "'valid', expected one of train, val, test"),
        ({"difficulty": "simple"}, "'simple', expected a Difficulty or one of easy, medium, hard, crowded"),
        ({"count": -1}, "count is -1"),
        ({"seed": -1}, "seed -1"),
        ({"size": 16}, "16 x 16, expected 32 x 32"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        scenes(**{"split": "val", "count": 1} | wrong)


def test_a_difficulty_with_a_range_backwards_is_refused():
    with pytest.raises(ValueError, match=r"objects is \(6, 1\)"):
        Difficulty(objects=(6, 1))


# ---------------------------------------------------------------- the same again
def test_the_same_numbers_give_the_same_scenes_and_others_do_not():
    first = scenes("val", 20, device="cpu")
    assert same(first, scenes("val", 20, device="cpu"))
    for other in (scenes("val", 20, seed=1, device="cpu"), scenes("test", 20, device="cpu")):
        assert not any(torch.equal(a, b) for a in first.images for b in other.images)


def test_another_process_makes_the_same_scenes():
    command = """
from coursekit.data import scenes
print(scenes('test', 5, device='cpu').images.long().sum().item())
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert int(done.stdout) == scenes("test", 5, device="cpu").images.long().sum()


@pytest.mark.parametrize("count", [1, 7, 16, 17, 45], ids=str)
@pytest.mark.parametrize("difficulty", ["medium", "crowded"])
def test_fewer_scenes_are_the_first_of_more(count, difficulty):
    """Painted sixteen at a time at this size: counts that end in, at and after a batch."""
    more = scenes("train", 50, difficulty=difficulty, device="cpu")
    assert same(scenes("train", count, difficulty=difficulty, device="cpu"), more.subset(slice(0, count)))


def test_a_larger_image_shows_the_same_scenes():
    """Painted sixteen or four at a time: the numbers of scene i do not depend on that either."""
    small, large = (scenes("val", 40, size=size, difficulty=PLAIN, device="cpu") for size in (128, 256))
    differences = []
    for a, b in zip(small.targets, large.targets, strict=True):
        assert torch.equal(a["labels"], b["labels"])
        differences.append(2 * a["boxes"] - b["boxes"])
    assert torch.cat(differences).abs().max() <= 5, "the finer resolution shows a little more of a tip"
    assert torch.cat(differences).mean() == pytest.approx(0, abs=0.25), "but nothing moves"


def test_no_scene_of_a_split_is_in_another():
    images = torch.cat([scenes(split, 100, size=64, device="cpu").images for split in COUNTS])
    seen = [image.numpy().tobytes() for image in images]
    assert len(set(seen)) == len(seen) == 300


# ---------------------------------------------------------------- boxes and pixels
@pytest.mark.parametrize("beyond", [0.0, 0.25], ids=["whole", "cut by the border"])
def test_a_box_is_exactly_the_extent_of_the_painted_pixels(beyond):
    data = scenes("train", 300, difficulty=replace(PLAIN, beyond=beyond), device="cpu")
    at_border = 0
    for image, target in zip(data.images, data.targets, strict=True):
        rows, columns = painted(image).nonzero().unbind(1)
        x1, y1, x2, y2 = target["boxes"][0].tolist()
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)
        at_border += x1 == 0 or y1 == 0 or x2 == 128 or y2 == 128
    assert (at_border > 30) == (beyond > 0)


# area of each shape in a circle of radius 1; the square's side is the root of 2, the triangle's of 3; the star is
# ten triangles with its notches at .42, the cross two bars of half width .32 less the middle, which both have,
# the ring the disk less its hole of radius .55
AREAS = {
    "disk": 3.1416,
    "square": 2.0,
    "triangle": 1.2990,
    "star": 5 * 0.5878 * 0.42,
    "cross": 2 * 4 * 0.32 * 0.9474 - 4 * 0.32**2,
    "ring": 3.1416 * (1 - 0.55**2),
}


def test_every_shape_fills_the_area_that_it_should():
    """One diameter, 60 px, so 900 px for an area of 1 at radius 1; turned at random."""
    data = scenes("train", 240, difficulty=replace(PLAIN, diameters=(60, 60), beyond=0), device="cpu")
    for label, name in enumerate(CLASSES, 1):
        counts = [
            painted(image).sum().item()
            for image, target in zip(data.images, data.targets, strict=True)
            if target["labels"][0] == label
        ]
        assert len(counts) > 15
        assert sum(counts) / len(counts) / 900 == pytest.approx(AREAS[name], rel=0.02), name


def test_only_the_ring_is_hollow():
    data = scenes("train", 120, difficulty=replace(PLAIN, diameters=(60, 60), beyond=0), device="cpu")
    for image, target in zip(data.images, data.targets, strict=True):
        rows, columns = painted(image).nonzero().unbind(1)
        middle = rows.float().mean().round().int(), columns.float().mean().round().int()
        hollow = not painted(image)[middle]
        assert hollow == (CLASSES[target["labels"][0] - 1] == "ring")


def test_an_object_stands_out_from_its_background_by_the_contrast():
    """In the channel that differs most, the main tone by .4 of 255 and the other by .2 to .6."""
    data = scenes("train", 100, difficulty=PLAIN, device="cpu")
    differences = [(image.float() - 127.5).abs().amax(0)[painted(image)] / 255 for image in data.images]
    assert all((d > 0.19).all() and (d < 0.61).all() for d in differences)
    assert all(((d - 0.4).abs() < 0.01).any() for d in differences)


@pytest.fixture(scope="module")
def pile():
    """Scenes of 14 objects that cover each other: the targets, and by hand what each object paints.

    By hand is, for every scene, labels [S], pixels of each object [S, H, W], share of them in sight [S].
    """
    module = sys.modules["coursekit.data.scenes"]  # `coursekit.data.scenes` itself is the function
    level = Difficulty((14, 14), (30, 60), (0, 0), company=0.5)
    plan = module._draw(0, 30, 0, "train", level, 128, 128)
    _, targets = module._paint(plan, level, 128, 128, torch.device("cpu"))
    by_hand = []
    for i in range(30):
        part = {name: plan[name][i] for name in plan if name not in ("nodes", "noise", "used")}
        owner, column, row, _ = module._painted_pixels(part, 128, 128)
        alone = torch.zeros(14, 128, 128, dtype=torch.bool)
        alone[owner, row, column] = True
        canvas = torch.full((128, 128), -1)
        for k in part["radius"].argsort(descending=True).tolist():
            canvas[alone[k]] = k
        seen = torch.stack([(canvas == k).sum() / alone[k].sum() for k in range(14)])
        by_hand.append((part["label"], alone, seen))
    return targets, by_hand


def test_objects_less_than_30_percent_visible_are_taken_out_and_no_others(pile):
    targets, by_hand = pile
    expected = [labels[seen >= 0.3].tolist() for labels, _, seen in by_hand]
    assert [target["labels"].tolist() for target in targets] == expected
    assert 0.5 < sum(map(len, expected)) / (30 * 14) < 0.9, "the rule had something to do, and to leave"


def test_covered_pixels_count_for_the_box(pile):
    for target, (_, alone, seen) in zip(*pile, strict=True):
        for box, mask in zip(target["boxes"], alone[seen >= 0.3], strict=True):
            rows, columns = mask.nonzero().unbind(1)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_what_was_taken_out_is_not_in_the_picture():
    """Piles on plain grey: nothing is painted outside of all boxes."""
    level = replace(PLAIN, objects=(14, 14), diameters=(30, 60), company=0.5)
    data = scenes("train", 60, difficulty=level, device="cpu")
    assert sum(len(target["labels"]) for target in data.targets) < 0.9 * 60 * 14
    for image, target in zip(data.images, data.targets, strict=True):
        outside = painted(image)
        for x1, y1, x2, y2 in target["boxes"].int().tolist():
            outside[y1:y2, x1:x2] = False
        assert not outside.any()


def test_the_colours_in_a_box_are_those_of_its_object_not_of_the_background(medium):
    """Isolated objects of the real recipe: the middle of a box differs from the frame around it."""
    checked = 0
    for image, target in zip(medium.images.float(), medium.targets, strict=True):
        for k, (box, label) in enumerate(zip(target["boxes"], target["labels"], strict=True)):
            x1, y1, x2, y2 = box.int().tolist()
            others = torch.cat([target["boxes"][:k], target["boxes"][k + 1 :]])
            wider = box + torch.tensor([-4.0, -4, 4, 4])
            alone = not len(others) or box_iou(wider[None], others).max() == 0
            framed = min(x1, y1) >= 4 and max(x2, y2) <= 124
            if not alone or not framed or CLASSES[label - 1] not in ("disk", "square"):
                continue
            inset = (x2 - x1) // 4
            inside = image[:, y1 + inset : y2 - inset, x1 + inset : x2 - inset].flatten(1)
            window = image[:, y1 - 4 : y2 + 4, x1 - 4 : x2 + 4]
            frame = torch.ones(window.shape[1:], dtype=torch.bool)
            frame[4:-4, 4:-4] = False
            checked += 1
            assert (inside.mean(1) - window[:, frame].mean(1)).abs().max() > 0.05 * 255
    assert checked > 30


# ---------------------------------------------------------------- the mix
def test_small_medium_and_large_objects_and_all_classes_are_there(medium):
    boxes = torch.cat([target["boxes"] for target in medium.targets])
    labels = torch.cat([target["labels"] for target in medium.targets])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for share in (area < 16**2, (area >= 16**2) & (area < 40**2), area >= 40**2):
        assert share.float().mean() > 0.1
    assert (labels.bincount(minlength=7)[1:] > 0.12 * len(labels)).all()
    counts = torch.tensor([len(target["labels"]) for target in medium.targets]).bincount(minlength=7)
    assert len(counts) == 7 and (counts[1:] > 20).all(), "1 to 6 objects"


def test_distractors_are_painted_but_have_no_box():
    level = Difficulty((0, 0), distractors=(2, 3), contrast=0.4, noise=0, clouds=0)
    data = scenes("val", 50, difficulty=level, device="cpu")
    assert all(len(target["labels"]) == 0 for target in data.targets)
    assert all(painted(image).any() for image in data.images)


def test_the_noise_has_its_deviation_and_is_not_the_same_in_every_scene():
    level = Difficulty((0, 0), distractors=(0, 0), clouds=0, noise=0.05)
    images = scenes("val", 20, difficulty=level, device="cpu").images.float() / 255
    assert images.std().item() == pytest.approx(0.05, rel=0.03)
    assert images.mean().item() == pytest.approx(0.5, abs=0.005)
    patterns = torch.corrcoef(images.flatten(1))
    assert (patterns - torch.eye(20)).abs().max() < 0.05


def test_a_crowd_has_neighbours_of_one_class_that_overlap_by_half():
    """What Soft-NMS needs: objects whose own boxes overlap by more than the usual threshold."""
    overlaps = {}
    for difficulty in ("medium", "crowded"):
        found = []
        for target in scenes("val", 100, difficulty=difficulty, device="cpu").targets:
            alike = target["labels"][:, None] == target["labels"]
            iou = box_iou(target["boxes"], target["boxes"]) * alike
            found.append(iou.fill_diagonal_(0).amax(1))
        overlaps[difficulty] = (torch.cat(found) > 0.5).float().mean()
    assert overlaps["crowded"] > 0.2 > 0.03 > overlaps["medium"]


# ---------------------------------------------------------------- devices
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_paints_the_same_scenes():
    here, there = scenes("val", 300, device="cpu"), scenes("val", 300, device="cuda")
    assert there.images.device.type == there.targets[0]["boxes"].device.type == "cuda"
    differing = (here.images.int() - there.images.cpu().int()).abs() > 1
    assert differing.any(1).float().mean() < 1e-3, "rounding decides few pixels of an outline"
    boxes = 0
    for a, b in zip(here.targets, there.targets, strict=True):
        if a["labels"].tolist() == b["labels"].tolist():
            assert (a["boxes"] - b["boxes"].cpu()).abs().max() <= 1
            boxes += 1
    assert boxes >= 297
    assert same(scenes("val", 40, device="cuda"), there.subset(slice(0, 40)))
