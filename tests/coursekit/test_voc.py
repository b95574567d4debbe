"""Pascal VOC XML: what is read, and what is said when it cannot be."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from coursekit.data import coco, via, voc
from coursekit.data.records import SkippedWarning

REAL = Path(os.environ.get("COURSEKIT_DATA") or "no COURSEKIT_DATA") / "bccd"
real = pytest.mark.skipif(not REAL.is_dir(), reason="needs $COURSEKIT_DATA/bccd")


def xml(*objects, size=(40, 30), filename="a.jpg"):
    """An annotation; each object is (name, difficult, xmin, ymin, xmax, ymax)."""
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>".format(*box)
        for name, difficult, *box in objects
    )
    width, height = size
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{filename}</filename>\n{size}\n{body}\n</annotation>"


@pytest.fixture
def folder(tmp_path):
    """A VOC folder with one 40 x 30 image and no annotation yet."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages" / "a.jpg")
    return tmp_path


def write(folder, text, name="a"):
    (folder / "Annotations" / f"{name}.xml").write_text(text)
    return folder


def test_first_pixel_alone_is_the_box_from_0_to_1(folder):
    write(folder, xml(("dog", 0, 1, 1, 2, 3), ("cat", 0, 11, 12, 40, 30)))
    (record,) = voc.read(folder)
    assert record.boxes.tolist() == [[0, 0, 2, 3], [10, 11, 40, 30]]
    assert record.boxes.dtype == torch.float32
    assert record.names == ["dog", "cat"]
    assert (record.width, record.height) == (40, 30)
    assert record.image == folder / "JPEGImages" / "a.jpg"


def test_files_that_count_from_0_are_read_as_they_are(folder):
    write(folder, xml(("dog", 0, 0, 0, 2, 3)))
    (record,) = voc.read(folder, first_pixel=0)
    assert record.boxes.tolist() == [[0, 0, 2, 3]]
    with pytest.raises(
        ValueError, match=r"a\.xml, object 0 \(dog\), with a corner at 0 .*first_pixel=0.*outside"
    ):
        voc.read(folder)


def test_difficult_objects_are_ignored(folder):
    write(folder, xml(("dog", 1, 1, 1, 9, 9), ("dog", 0, 1, 1, 9, 9)))
    assert voc.read(folder)[0].ignore.tolist() == [True, False]


def test_image_without_objects_is_kept(folder):
    (record,) = voc.read(write(folder, xml()))
    assert record.boxes.shape == (0, 4) and record.ignore.shape == (0,) and record.names == []


def test_parts_of_an_object_are_not_objects(folder):
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
    part = f"<part><name>head</name>{box}</part>"
    write(folder, xml(("person", 0, 1, 1, 9, 9)).replace("</object>", f"{part}</object>"))
    assert voc.read(folder)[0].boxes.tolist() == [[0, 0, 9, 9]]


def test_split_gives_the_images_in_its_order(folder):
    (folder / "ImageSets" / "Main" / "val.txt").write_text("c\na\n")
    for letter in "abc":
        Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / f"{letter}.jpg")
        write(folder, xml(filename=f"{letter}.jpg"), letter)
    for split, expected in (("val", "ca"), (["b"], "b"), (None, "abc")):
        assert "".join(record.image.stem for record in voc.read(folder, split)) == expected
    with pytest.raises(FileNotFoundError, match=r"no split .*train\.txt, found there: val"):
        voc.read(folder, "train")


WRONG = {
    "not XML": ("<annotation>\n<filename>a.jpg", r"a\.xml, line 2, column 16: not valid XML"),
    "another XML": (
        "<html/>",
        r"a\.xml: the outermost element is <html>, expected Pascal VOC's <annotation>",
    ),
    "no file name": (xml(filename=""), r"a\.xml, annotation: no <filename>"),
    "no corner": (
        xml(("dog", 0, 1, 1, 9, 9)).replace("<xmin>1</xmin>", ""),
        r"object 0 \(dog\): no <bndbox/xmin>",
    ),
    "a word for a number": (
        xml(("dog", 0, "one", 1, 9, 9)),
        r"object 0 \(dog\): <bndbox/xmin> is 'one', expected a num",
    ),
    "no number": (xml(("dog", 0, "nan", 1, 9, 9)), r"<bndbox/xmin> is 'nan', expected a number"),
}


@pytest.mark.parametrize("text, message", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("invalid", ["raise", "skip", "clip"])
def test_malformed_file_raises_whatever_is_asked(folder, text, message, invalid):
    with pytest.raises(ValueError, match=message):
        voc.read(write(folder, text), invalid=invalid)


DOG = ("dog", 0, 1, 1, 9, 9)
INVALID = {  # annotation, message, boxes left by "skip", boxes left by "clip"
    "no width": (xml(DOG, ("cat", 0, 5, 5, 5, 9)), r"object 1 \(cat\): box \(5, 5, 5, 9\) has no area", 1, 1),
    "turned round": (
        xml(("cat", 0, 9, 5, 3, 9), DOG),
        r"object 0 \(cat\): box .* has no area, expected x1 < x2",
        1,
        1,
    ),
    "beyond the edge": (
        xml(("cat", 0, 30, 5, 41, 9)),
        r"box \(29, 4, 41, 9\) reaches outside of the 40×30 image",
        0,
        1,
    ),
    "below the edge": (
        xml(("cat", 0, 5, 5, 9, 31)),
        r"box \(4, 4, 9, 31\) reaches outside of the 40×30 image",
        0,
        1,
    ),
    "far outside": (xml(("cat", 0, 50, 5, 60, 9)), r"box \(49, 4, 60, 9\) reaches outside", 0, 0),
    "unknown class": (
        xml(("fox", 0, 1, 1, 9, 9)),
        r"object 0 \(fox\): unknown class 'fox', expected one of dog, cat",
        0,
        0,
    ),
    "no class": (xml(("", 0, 1, 1, 9, 9)), r"object 0: no class name, expected one of dog, cat", 0, 0),
    "missing image": (xml(DOG, filename="b.jpg"), r"a\.xml: no image .*b\.jpg", None, None),
    "another size": (
        xml(DOG, size=(30, 40)),
        r"a\.xml: the annotation says 30×40 pixels, .*a\.jpg has 40×30",
        None,
        None,
    ),
}


@pytest.mark.parametrize("text, message, skip, clip", INVALID.values(), ids=INVALID.keys())
def test_invalid_entry_raises_or_is_left_out_with_a_warning(folder, text, message, skip, clip):
    write(folder, text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        voc.read(folder, classes=("dog", "cat"))
    for invalid, left in (("skip", skip), ("clip", clip)):
        with pytest.warns(SkippedWarning, match=message) as caught:
            records = voc.read(folder, classes=("dog", "cat"), invalid=invalid)
        assert [len(record) for record in records] == ([] if left is None else [left])
        assert len(caught[0].message.problems) == 1


def test_clip_cuts_a_box_to_the_image(folder):
    write(folder, xml(("cat", 0, 30, -5, 60, 9)))
    with pytest.warns(SkippedWarning, match="1 × reached outside, cut"):
        (record,) = voc.read(folder, invalid="clip")
    assert record.boxes.tolist() == [[29, 0, 40, 9]]


@pytest.mark.parametrize("size", [(0, 0), None])
def test_size_that_is_not_known_is_that_of_the_image(folder, size):
    text = xml(DOG, size=size or (0, 0))
    if size is None:
        text = text.replace("<size><width>0</width><height>0</height><depth>3</depth></size>", "")
        assert "<size>" not in text
    (record,) = voc.read(write(folder, text))
    assert (record.width, record.height) == (40, 30)


def test_right_files_warn_of_nothing(folder, recwarn):
    voc.read(write(folder, xml(DOG)), classes=["dog"], invalid="skip")
    assert not recwarn.list


def test_invalid_is_one_of_three(folder):
    with pytest.raises(ValueError, match="invalid='ignore', expected one of 'raise', 'skip', 'clip'"):
        voc.read(folder, invalid="ignore")


def test_photograph_that_is_shown_turned_has_its_shown_size(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / "a.jpg", exif=exif)
    (record,) = voc.read(write(folder, xml(DOG, size=(30, 40))))
    assert (record.width, record.height) == (30, 40)


def test_damaged_image_is_named(folder):
    (folder / "JPEGImages" / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.jpg is not an image that can be read"):
        voc.read(write(folder, xml(DOG)))


@real
def test_the_two_boxes_without_area_of_bccd_are_named_and_survived():
    with pytest.raises(ValueError, match=r"BloodImage_00338\.xml, object 12 \(RBC\): .* has no area"):
        voc.read(REAL)
    with pytest.warns(SkippedWarning, match=r"2 × no area") as caught:
        records = voc.read(REAL, classes=("RBC", "WBC", "Platelets"), invalid="skip")
    assert [problem.file.stem for problem in caught[0].message.problems] == [
        "BloodImage_00338",
        "BloodImage_00343",
    ]
    assert len(records) == 364 and sum(map(len, records)) == 4886


@real
@pytest.mark.filterwarnings("ignore::coursekit.data.records.SkippedWarning")
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_bccd_is_the_same_in_xml_coco_and_via(split):
    """COCO and VIA files were converted without VOC's shift by one pixel: first_pixel=0 reads the XML so."""
    images = REAL / "JPEGImages"
    others = [
        coco.read(REAL / f"{split}_coco.json"),
        via.read(REAL / f"{split}_via.json", images),
        via.read(REAL / f"{split}_via.csv", images),
    ]
    unshifted = voc.read(REAL, split, first_pixel=0, invalid="skip")
    shifted = voc.read(REAL, split, invalid="skip")
    for other in others:
        for mine, moved, theirs in zip(unshifted, shifted, other, strict=True):
            assert mine.image == theirs.image and mine.names == theirs.names
            assert torch.equal(mine.boxes, theirs.boxes)
            assert torch.equal(moved.boxes, theirs.boxes - torch.tensor([1.0, 1, 0, 0]))


@real
@pytest.mark.filterwarnings("ignore::coursekit.data.records.SkippedWarning")
def test_corners_of_bccd_run_from_1_to_the_last_pixel():
    """As Pascal VOC counts: none is at 0, and whole edges are reached on both sides."""
    boxes = torch.cat([record.boxes for record in voc.read(REAL, first_pixel=0, invalid="skip")])
    assert boxes.amin(0)[:2].tolist() == [1, 1] and boxes.amax(0)[2:].tolist() == [640, 480]
