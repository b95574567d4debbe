"""COCO JSON: reading, messages, and that what is written is read back the same, by us and by pycocotools."""

import contextlib
import io
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from coursekit.data import DetectionData, coco
from coursekit.data.records import SkippedWarning

DATA = Path(os.environ.get("COURSEKIT_DATA") or "no COURSEKIT_DATA")
real = pytest.mark.skipif(not DATA.is_dir(), reason="needs $COURSEKIT_DATA")


def content():
    """Two images of 40 x 30; a dog and a crowd of cats in the first. Category ids have gaps."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 3, "file_name": "b.png", "width": 40, "height": 30},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 18, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [2, 3, 10, 20.5], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 18, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        ],
    }


@pytest.fixture
def folder(tmp_path):
    for name in "ab":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    return tmp_path


def written(folder, content):
    path = folder / "c.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_boxes_become_corners_and_crowds_are_ignored(folder):
    first, second = coco.read(written(folder, content()))
    assert first.image == folder / "a.png"
    assert first.boxes.tolist() == [[2, 3, 12, 23.5], [0, 0, 40, 30]]
    assert first.names == ["dog", "cat"]
    assert first.ignore.tolist() == [False, True]
    assert second.boxes.shape == (0, 4) and second.image.name == "b.png"


def test_classes_are_in_the_order_of_their_ids(folder):
    assert coco.classes(written(folder, content())) == ("cat", "dog")


def test_images_may_lie_elsewhere(folder, tmp_path_factory):
    path = written(tmp_path_factory.mktemp("labels"), content())
    assert len(coco.read(path, folder)) == 2
    with pytest.raises(FileNotFoundError, match=r"c\.json, images\[0\] \(a\.png\): no image .*a\.png"):
        coco.read(path)


def changed(path, value):
    """`content()` with the entry at `path` replaced, or removed where value is None."""
    changed = holder = content()
    *parents, last = path
    for key in parents:
        holder = holder[key]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return changed


MALFORMED = {
    "cut off": ('{"images": [\n  {"id": 1,', r"c\.json, line 2, column 12: not valid JSON"),
    "a list": ([], r"c\.json, top level: found \[\], expected an object with 'images'"),
    "no categories": (changed(["categories"], None), r"top level: no 'categories' in it, found 'images'"),
    "images no list": (changed(["images"], {}), r"top level: 'images' is \{\}, expected a list"),
    "no width": (changed(["images", 1, "width"], None), r"images\[1\]: no 'width' in it"),
    "no id": (changed(["images", 0, "id"], None), r"images\[0\]: no 'id' in it"),
    "id twice": (changed(["images", 1, "id"], 7), r"images\[1\]: id 7 stands there twice"),
    "class twice": (
        changed(["categories", 1, "name"], "dog"),
        r"categories\[1\]: id 18 or name 'dog' .* twice",
    ),
    "no box": (changed(["annotations", 1, "bbox"], None), r"annotations\[1\]: no 'bbox' in it"),
    "three numbers": (
        changed(["annotations", 1, "bbox"], [1, 2, 3]),
        r"\[1\]: 'bbox' is \[1, 2, 3\], expected a list of 4 n",
    ),
    "a word": (
        changed(["annotations", 0, "bbox", 2], "wide"),
        r"annotations\[0\]: 'bbox' is .*, expected a list of 4 numbers",
    ),
    "no number": (changed(["annotations", 0, "bbox", 2], float("nan")), r"annotations\[0\]: 'bbox' is .*NaN"),
    "another thing": (changed(["annotations", 0], 5), r"annotations\[0\]: found 5, expected an object"),
}


@pytest.mark.parametrize("text, message", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_file_raises_whatever_is_asked(folder, text, message):
    for invalid in ("raise", "skip", "clip"):
        with pytest.raises(ValueError, match=message):
            coco.read(written(folder, text), invalid=invalid)


INVALID = {  # content, message, boxes of the images left by "skip", and by "clip"
    "no width": (
        changed(["annotations", 0, "bbox"], [2, 3, 0, 5]),
        r"annotations\[0\] \(id 1\): .* has no area",
        [1, 0],
        [1, 0],
    ),
    "beyond the edge": (
        changed(["annotations", 0, "bbox"], [2, 3, 39, 5]),
        r"reaches outside of the 40×30",
        [1, 0],
        [2, 0],
    ),
    "unknown class": (
        changed(["annotations", 0, "category_id"], 1),
        r"no category has the category_id 1, expected one of \[18, 90\]",
        [1, 0],
        [1, 0],
    ),
    "no such image": (
        changed(["annotations", 0, "image_id"], 1),
        r"annotations\[0\] \(id 1\): no image has the image_id 1",
        [1, 0],
        [1, 0],
    ),
    "missing image": (
        changed(["images", 1, "file_name"], "z.png"),
        r"images\[1\] \(z\.png\): no image",
        [2],
        [2],
    ),
    "another size": (
        changed(["images", 0, "width"], 41),
        r"images\[0\] \(a\.png\): the annotation says 41×30 pixels, .* has 40×30",
        [0],
        [0],
    ),
}


@pytest.mark.parametrize("text, message, skip, clip", INVALID.values(), ids=INVALID.keys())
def test_invalid_entry_raises_or_is_left_out_with_a_warning(folder, text, message, skip, clip):
    path = written(folder, text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        coco.read(path)
    for invalid, left in (("skip", skip), ("clip", clip)):
        with pytest.warns(SkippedWarning, match=message):
            assert [len(record) for record in coco.read(path, invalid=invalid)] == left


def test_box_up_to_the_edge_is_inside_though_decimals_round(folder, recwarn):
    x = 28.66
    assert x + (40 - x) >= 40
    coco.read(written(folder, changed(["annotations", 0, "bbox"], [x, 0.1, 40 - x, 29.9])))
    assert not recwarn.list


def data():
    """Three 12 x 8 images of noise with 2, 0 and 1 boxes, at places no short decimal has; one is ignored."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 8, 12), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[0.1, 0.7, 11.3, 7.9], [1 / 3, 2 / 3, 12, 8], [5, 1, 6, 2.2]])
    targets = [
        {"boxes": boxes[:2], "labels": torch.tensor([3, 1]), "ignore": torch.tensor([False, True])},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)},
        {"boxes": boxes[2:], "labels": torch.tensor([1])},
    ]
    return DetectionData(images, targets, ("cat", "no cat", "dög"))


def test_what_is_written_is_read_back(tmp_path):
    given = data()
    path = coco.write(given, tmp_path / "new" / "folder")
    records = coco.read(path)
    assert coco.classes(path) == given.classes
    for record, image, target in zip(records, given.images, given.targets, strict=True):
        assert torch.equal(record.boxes, target["boxes"])
        assert record.names == [given.classes[label - 1] for label in target["labels"]]
        assert torch.equal(record.ignore, target.get("ignore", torch.zeros(len(record), dtype=torch.bool)))
        pixels = torch.tensor(list(Image.open(record.image).tobytes()), dtype=torch.uint8)
        assert torch.equal(pixels.reshape(8, 12, 3).permute(2, 0, 1), image)


def test_pycocotools_loads_what_is_written(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    given = data()
    path = coco.write(given, tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        perfect = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
            for a in truth.dataset["annotations"]
        ]
        evaluation = COCOeval(truth, truth.loadRes(perfect), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert truth.getImgIds() == [1, 2, 3] and truth.getCatIds(catNms=["dög"]) == [3]
    assert evaluation.stats[0] == pytest.approx(1)


def test_interrupted_writing_leaves_no_file_that_could_be_read(tmp_path, monkeypatch):
    path = coco.write(data(), tmp_path)
    calls = []

    def save(self, file, *args, **kwargs):
        calls.append(file)
        file.write_bytes(b"half a file")
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(KeyboardInterrupt):
        coco.write(data(), tmp_path)
    assert not path.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["000000.png", "000001.png", "000002.png"]
    assert (tmp_path / "000001.png").read_bytes() != b"half a file"


@real
@pytest.mark.parametrize("split, images, boxes", [("train", 448, 3323), ("val", 127, 909), ("test", 63, 582)])
def test_aquarium_is_right_as_it_is(split, images, boxes, recwarn):
    records = coco.read(DATA / "aquarium512" / f"{split}.json")
    assert len(records) == images and sum(map(len, records)) == boxes
    assert not recwarn.list


@real
def test_boxes_of_aquarium_are_those_that_pycocotools_reads():
    from pycocotools.coco import COCO

    path = DATA / "aquarium512" / "val.json"
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(path)
    for record, image in zip(coco.read(path), theirs.dataset["images"], strict=True):
        x, y, w, h = torch.tensor([a["bbox"] for a in theirs.imgToAnns[image["id"]]]).reshape(-1, 4).unbind(1)
        torch.testing.assert_close(record.boxes, torch.stack([x, y, x + w, y + h], 1), rtol=0, atol=1e-3)
