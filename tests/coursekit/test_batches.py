"""Batches: boxes stay on their objects through letterbox and flip, and no batch reaches the stored data."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image

from coursekit.data import batches as module
from coursekit.data.batches import PADDING, DetectionData, flip_batch, load

RED, BLUE = (220, 30, 40), (20, 60, 200)


@dataclass
class Record:
    """What the readers give, without them."""

    image: Path
    width: int
    height: int
    boxes: torch.Tensor
    names: list
    ignore: torch.Tensor = field(default=None)

    def __post_init__(self):
        if self.ignore is None:
            self.ignore = torch.zeros(len(self.names), dtype=torch.bool)


def picture(folder, name="picture.png", size=(60, 40), box=(12, 8, 36, 20), label="cat"):
    """A blue picture with one red rectangle and its record."""
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, box)
    image.save(folder / name)
    return Record(folder / name, *size, torch.tensor([box], dtype=torch.float32), [label])


def bars(count=6, width=20, height=12):
    """Image i is black but for a white bar in columns i..i+3, its box; the last image is empty."""
    images = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    targets = []
    for i in range(count - 1):
        images[i, :, 2:7, i : i + 3] = 255
        targets.append({"boxes": torch.tensor([[i, 2.0, i + 3, 7]]), "labels": torch.tensor([1 + i % 2])})
    targets.append({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)})
    return DetectionData(images, targets, ("odd", "even"))


def colours_inside_and_around(image, box):
    """Mean colour inside a box, one pixel in, and the mean colour of the ring one pixel outside."""
    x1, y1, x2, y2 = (round(v) for v in box.tolist())
    inside = image[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].flatten(1).float().mean(1)
    window = image[:, y1 - 2 : y2 + 2, x1 - 2 : x2 + 2].float()
    ring = torch.ones(window.shape[1:], dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    return inside, window[:, ring].mean(1)


# ---------------------------------------------------------------- flips
def test_a_box_at_the_right_edge_of_640_pixels_flips_to_the_left_edge():
    image = torch.zeros(1, 3, 8, 640)
    target = [{"boxes": torch.tensor([[540.0, 1, 640, 5]]), "labels": torch.tensor([2])}]
    _, flipped = flip_batch(image, target, torch.tensor([True]))
    assert flipped[0]["boxes"].tolist() == [[0, 1, 100, 5]]
    assert flipped[0]["labels"].tolist() == [2]


def test_only_the_marked_images_flip_and_the_arguments_stay():
    data = bars()
    before = [target["boxes"].clone() for target in data.targets]
    marked = torch.tensor([True, False, False, True, False, True])
    images, targets = flip_batch(data.images, data.targets, marked)
    for i, mirrored in enumerate(marked.tolist()):
        expected = data.images[i].flip(-1) if mirrored else data.images[i]
        assert torch.equal(images[i], expected)
        assert torch.equal(targets[i]["boxes"], before[i]) != mirrored or len(before[i]) == 0
        assert torch.equal(data.targets[i]["boxes"], before[i])


def test_flipping_twice_changes_nothing():
    data, all_of_them = bars(), torch.ones(6, dtype=torch.bool)
    images, targets = flip_batch(*flip_batch(data.images, data.targets, all_of_them), all_of_them)
    assert torch.equal(images, data.images)
    for target, original in zip(targets, data.targets, strict=True):
        assert torch.equal(target["boxes"], original["boxes"])


def test_proposals_flip_with_the_boxes_of_their_image():
    data = bars()
    right = [torch.cat([target["boxes"], torch.tensor([[1.0, 0, 5, 12]])]) for target in data.targets]
    data = data.with_proposals([*right[:-1], torch.zeros(0, 4)])
    assert "proposals" not in bars().targets[0] and len(data.subset([5])[0][1]["proposals"]) == 0
    moved = 0
    for images, targets in data.batches(4, shuffle=True, flip=True, generator=torch.Generator().manual_seed(3)):
        for image, target in zip(images, targets, strict=True):
            assert torch.equal(target["proposals"][: len(target["boxes"])], target["boxes"])
            moved += target["proposals"][1:].tolist() == [[15, 0, 19, 12]]
    assert 0 < moved < 5


def test_proposals_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 sets of proposals, expected 6"):
        bars().with_proposals([torch.zeros(3, 4)] * 2)
    with pytest.raises(ValueError, match="proposals of target 0 are torch.float64"):
        bars().with_proposals([torch.zeros(3, 4, dtype=torch.float64)] * 6)


def test_boxes_stay_on_their_objects_in_flipped_batches():
    sides = set()
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        for images, targets in bars().batches(4, shuffle=True, flip=True, generator=generator):
            for image, target in zip(images, targets, strict=True):
                painted = torch.zeros_like(image)
                for x1, y1, x2, y2 in target["boxes"].int().tolist():
                    painted[:, y1:y2, x1:x2] = 1
                    sides.add(x1 < 10)
                assert torch.equal(image, painted)
    assert sides == {True, False}


# ---------------------------------------------------------------- batches
def test_a_pass_gives_every_image_once_in_float_0_to_1():
    sizes, found = [], []
    for images, targets in bars().batches(4):
        assert images.dtype == torch.float32 and images.min() == 0 and images.max() <= 1
        sizes.append(len(images))
        found += [target["boxes"] for target in targets]
    assert sizes == [4, 2]
    assert all(torch.equal(a, b["boxes"]) for a, b in zip(found, bars().targets, strict=True))
    assert [len(images) for images, _ in bars().batches(4, drop_last=True)] == [4]
    assert [len(images) for images, _ in bars().batches(7, drop_last=True)] == []


def test_shuffling_keeps_images_and_targets_together_and_follows_the_generator():
    def order(seed):
        generator = torch.Generator().manual_seed(seed)
        return [
            target["boxes"].tolist()
            for images, targets in bars().batches(2, shuffle=True, generator=generator)
            for target in targets
        ]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == sorted(target["boxes"].tolist() for target in bars().targets)


@pytest.mark.parametrize("flip", [False, True])
def test_what_is_done_to_a_batch_does_not_reach_the_data(flip):
    data = bars()
    for images, targets in data.batches(6, flip=flip):
        images.zero_()
        for target in targets:
            target["boxes"].mul_(0)
            target["labels"].mul_(0)
    image, target = data[0]
    image.zero_()
    target["boxes"].zero_()
    assert torch.equal(data.images, bars().images)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(data.targets, bars().targets, strict=True))
    assert data.targets[0]["labels"].tolist() == [1]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_are_the_stored_ones_over_255_to_the_last_bit(flip, channels_last):
    dice = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 3, 13, 18), dtype=torch.uint8, generator=dice)
    data = DetectionData(images, [bars().targets[0]] * 7, ("odd",))
    turned, start = torch.zeros(7, dtype=torch.bool), 0
    again = torch.Generator().manual_seed(1)
    for batch, _ in data.batches(3, flip=flip, generator=torch.Generator().manual_seed(1), channels_last=channels_last):
        rows = slice(start, start := start + len(batch))
        if flip:
            turned[rows] = torch.rand(len(batch), generator=again) < 0.5
        expected = torch.where(turned[rows, None, None, None], images[rows].flip(-1), images[rows]).float() / 255
        assert torch.equal(batch, expected)
        assert batch.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert start == 7 and turned.any() == flip


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "part", [lambda images: images, lambda images: images[1, 2:], lambda images: images.numpy()], ids=["batch", "slice", "array"]
)
def test_a_batch_that_is_kept_stays_as_it_was(part, flip):
    """Memory is used again, but never while anybody has a way to it."""
    data, kept = bars(24), []
    for images, _ in data.batches(2, flip=flip):
        kept.append((part(images), part(images.clone())))
    assert len(kept) == 12
    for held, expected in kept:
        assert torch.equal(torch.as_tensor(held), torch.as_tensor(expected))


def test_memory_of_dropped_batches_is_used_again():
    places = {images.data_ptr() for images, _ in bars(60).batches(2)}
    assert len(places) == 2, "the one that the caller still holds, and the next"


def test_a_batch_without_any_box_keeps_the_shapes():
    (images, targets), = bars().subset([5]).batches(1, flip=True)
    assert targets[0]["boxes"].shape == (0, 4) and targets[0]["labels"].shape == (0,)


def test_channels_last_changes_the_layout_only():
    (plain, _), = bars().batches(6)
    (images, _), = bars().batches(6, channels_last=True)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, plain)


def test_subset_takes_order_slices_and_nothing():
    data = bars()
    assert [t["boxes"][0, 0].item() for t in data.subset([3, 1]).targets] == [3, 1]
    assert len(data.subset(slice(1, 4))) == 3
    assert torch.equal(data.subset(torch.tensor([2])).images[0], data.images[2])
    assert len(data.subset([])) == 0 and list(data.subset([]).batches(4, flip=True)) == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": torch.tensor([0])}, "label 0"),
        ({"labels": torch.tensor([3])}, "label 3"),
        ({"boxes": torch.ones(2, 4)}, r"\[2, 4\]"),
        ({"boxes": torch.ones(1, 4).int()}, "int32"),
    ],
    ids=["background label", "label too large", "more boxes than labels", "int boxes"],
)
def test_a_wrong_target_is_refused_with_what_was_found(change, message):
    data = bars()
    targets = [data.targets[0] | change, *data.targets[1:]]
    with pytest.raises(ValueError, match=message):
        DetectionData(data.images, targets, data.classes)


def test_wrong_images_are_refused_with_what_was_found():
    data = bars()
    with pytest.raises(ValueError, match="torch.float32"):
        DetectionData(data.images.float(), data.targets, data.classes)
    with pytest.raises(ValueError, match="2 images but 6 targets"):
        DetectionData(data.images[:2], data.targets, data.classes)


# ---------------------------------------------------------------- loading
@pytest.mark.parametrize(
    "size, expected, seen",
    [
        (120, [24, 16, 72, 40], (80, 120)),  # twice as large
        (30, [6, 4, 18, 10], (20, 30)),  # half
        ((90, 40), [12, 8, 36, 20], (40, 60)),  # the height decides
    ],
    ids=["enlarged", "reduced", "not square"],
)
def test_letterbox_keeps_the_box_on_its_object(tmp_path, size, expected, seen):
    data = load([picture(tmp_path)], ["cat"], size, device="cpu")
    box, image = data.targets[0]["boxes"][0], data.images[0]
    assert box.tolist() == expected
    inside, around = colours_inside_and_around(image, box)
    torch.testing.assert_close(inside, torch.tensor(RED, dtype=torch.float32), atol=1, rtol=0)
    torch.testing.assert_close(around, torch.tensor(BLUE, dtype=torch.float32), atol=1, rtol=0)
    height, width = seen
    grey = torch.tensor(PADDING, dtype=torch.uint8)[:, None]
    assert (image[:, height:].flatten(1) == grey).all() and (image[:, :, width:].flatten(1) == grey).all()
    assert not (image[:, :height, :width] == grey[..., None]).all(0).any()


def test_uneven_scaling_by_rounding_is_followed_by_the_boxes(tmp_path):
    """100 x 33 onto 50: the height is 16.5, drawn as 16, so y shrinks by 16/33 and x by 1/2."""
    data = load([picture(tmp_path, size=(100, 33), box=(0, 0, 100, 33))], ["cat"], 50, device="cpu")
    assert data.targets[0]["boxes"].tolist() == [[0, 0, 50, 16]]


def test_reducing_averages_instead_of_skipping_pixels(tmp_path):
    stripes = Image.new("L", (64, 64))
    stripes.putdata([255 * (x % 2) for _ in range(64) for x in range(64)])
    stripes.save(tmp_path / "stripes.png")
    record = Record(tmp_path / "stripes.png", 64, 64, torch.zeros(0, 4), [])
    image = load([record], ["cat"], 16, device="cpu").images[0]
    assert (image.float() - 127.5).abs()[:, 1:-1, 1:-1].max() < 6


def test_many_images_keep_their_order_labels_and_ignored_boxes(tmp_path):
    names = ["dog" if i % 3 else "cat" for i in range(12)]
    records = [picture(tmp_path, f"{i}.png", (60, 40), (i, 8, i + 20, 20), names[i]) for i in range(12)]
    records[4].ignore = torch.tensor([True])
    records.append(Record(records[0].image, 60, 40, torch.zeros(0, 4), []))
    data = load(records, ["cat", "dog"], 120, device="cpu")
    assert [t["boxes"][0, 0].item() for t in data.targets[:12]] == list(range(0, 24, 2))
    assert [t["labels"].item() for t in data.targets[:12]] == [2 if i % 3 else 1 for i in range(12)]
    assert [i for i, t in enumerate(data.targets) if "ignore" in t] == [4]
    assert data.targets[12]["boxes"].shape == (0, 4) and data.targets[12]["labels"].dtype == torch.int64
    for _, targets in data.batches(13, flip=True):
        assert targets[4]["ignore"].tolist() == [True]
    assert records[0].boxes.tolist() == [[0, 8, 20, 20]], "the records must stay as they were"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    name = "picture.jpg" if mode == "CMYK" else "picture.png"
    Image.new("RGB", (8, 6), RED).convert(mode).save(tmp_path / name)
    data = load([Record(tmp_path / name, 8, 6, torch.zeros(0, 4), [])], ["cat"], 8, device="cpu")
    assert data.images.shape == (1, 3, 8, 8)
    if mode != "L":
        assert (data.images[0, :, 2, 2] - torch.tensor(RED)).abs().max() < 40


def test_a_photograph_taken_on_its_side_is_turned_upright(tmp_path):
    """EXIF orientation 6: the camera was turned, viewers turn the picture by 90 degrees clockwise."""
    image, exif = Image.new("RGB", (60, 40), BLUE), Image.Exif()
    image.paste(RED, (0, 30, 20, 40))  # bottom left as stored, top left as seen
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    record = Record(tmp_path / "turned.png", 40, 60, torch.tensor([[0.0, 0, 10, 20]]), ["cat"])
    data = load([record], ["cat"], 60, device="cpu")
    red = (data.images[0] == torch.tensor(RED)[:, None, None]).all(0).nonzero()
    assert (red.amin(0).tolist(), red.amax(0).tolist()) == ([0, 0], [19, 9])  # rows, columns
    assert data.targets[0]["boxes"].tolist() == [[0, 0, 10, 20]]


def test_no_records_give_an_empty_set():
    data = load([], ["cat"], 32, device="cpu")
    assert data.images.shape == (0, 3, 32, 32) and len(data) == 0


def test_errors_name_the_file(tmp_path):
    good = picture(tmp_path)
    (tmp_path / "text.jpg").write_text("no image")
    whole = (tmp_path / "picture.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    for name in ("text.jpg", "torn.png"):
        with pytest.raises(ValueError, match=f"cannot decode .*{name}"):
            load([good, Record(tmp_path / name, 60, 40, torch.zeros(0, 4), [])], ["cat"], 32)
    with pytest.raises(FileNotFoundError, match="absent.png"):
        load([Record(tmp_path / "absent.png", 60, 40, torch.zeros(0, 4), [])], ["cat"], 32)
    with pytest.raises(ValueError, match="picture.png is 60 x 40 pixels, .* 40 x 60"):
        load([Record(good.image, 40, 60, torch.zeros(0, 4), [])], ["cat"], 32)
    with pytest.raises(ValueError, match="class 'cat' in .*picture.png, expected one of dog, eel"):
        load([good], ["dog", "eel"], 32)


# ---------------------------------------------------------------- devices
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("fits", [True, False])
def test_batches_arrive_on_the_gpu_whether_or_not_the_images_fit(monkeypatch, fits):
    if not fits:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (100, 1000))
        with pytest.warns(UserWarning, match="stay in main memory"):
            data = bars().to("cuda")
        assert data.images.device.type == "cpu"
    else:
        data = bars().to("cuda")
        assert data.images.device.type == "cuda"
    for images, targets in data.batches(4, shuffle=True, flip=True):
        assert {value.device.type for value in (images, *targets[0].values())} == {"cuda"}
    (expected, _), = bars().batches(6)
    (images, targets), = data.batches(6)
    assert torch.equal(images.cpu(), expected)
    assert data.subset([1, 0])[0][0].device.type == "cuda"


def test_images_that_would_not_fit_stay_in_main_memory_and_say_so(monkeypatch):
    """The decision alone, with a GPU of 1,000 bytes that is only pretended."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    device = torch.device("cuda", 0)
    assert module.storage_device(500, device) == device
    with pytest.warns(UserWarning, match="stay in main memory and are copied batch by batch"):
        assert module.storage_device(501, device) == torch.device("cpu")
