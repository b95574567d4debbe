"""Pascal VOC annotation files (one XML file per image) as records.

A VOC box counts pixels from 1 and names the last pixel inside: the top left pixel alone is (1, 1, 1, 1). The
course's boxes are edges, from 0: that pixel is (0, 0, 1, 1). So x1 and y1 lose 1, x2 and y2 stay.
Source: Everingham et al., The PASCAL VOC Challenge 2007 Development Kit, section 9.1.
"""

import math
from pathlib import Path
from xml.etree import ElementTree

from coursekit.data.records import Checker

CLASSES = (  # of VOC 2007 to 2012, in the alphabetical order that everybody uses
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read(folder, split=None, *, classes=None, first_pixel=1, invalid="raise"):
    """The records of a folder with `Annotations/*.xml` and `JPEGImages/`, in the order of the split.

    `difficult` objects are marked `ignore`. Parts of objects (VOC's `<part>`) are not read.

    Args:
        folder (path): holds Annotations and JPEGImages.
        split (str, or list of str): "train" reads the names in `ImageSets/Main/train.txt`; a list gives the
            names themselves (without ending); None takes every XML file, by name.
        classes (optional): the class names that may occur; None allows any.
        first_pixel (int): 1 as in Pascal VOC, where corners name pixels; 0 for tools that write edges
            counted from 0 into the same XML: nothing is subtracted then.
        invalid (str): "raise", "skip" or "clip"; see `coursekit.data.records.Checker`.

    Returns:
        list[Record]

    Raises:
        FileNotFoundError: if the split, an annotation file or (unless skipped) an image is missing.
        ValueError: if a file is malformed (with line and column), or (unless skipped) an entry cannot be
            right.
    """
    folder = Path(folder)
    annotations = folder / "Annotations"
    if not annotations.is_dir():
        raise FileNotFoundError(f"no folder {annotations}, expected a folder with Annotations and JPEGImages")
    if split is None:
        names = sorted(path.stem for path in annotations.glob("*.xml"))
    elif isinstance(split, str):
        names = _split(folder / "ImageSets" / "Main" / f"{split}.txt")
    else:
        names = list(split)
    checker = Checker(invalid, classes)
    records = [
        _record(annotations / f"{name}.xml", folder / "JPEGImages", first_pixel, checker) for name in names
    ]
    return checker.finish(records)


def _split(path):
    """The names in a split's text file; the second column of VOC's per-class files is left out."""
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"no split {path}, found there: {known}")
    return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]


def _record(path, images, first_pixel, checker):
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(f"no annotation file {path}") from None
    except ElementTree.ParseError as error:
        line, column = error.position
        raise ValueError(f"{path}, line {line}, column {column + 1}: not valid XML ({error})") from error
    if root.tag != "annotation":
        raise ValueError(f"{path}: the outermost element is <{root.tag}>, expected Pascal VOC's <annotation>")
    image = images / _text(root, "filename", path, "annotation")
    size = None
    if root.find("size") is not None:
        size = tuple(int(_number(root, f"size/{side}", path, "size")) for side in ("width", "height"))
    if size == (0, 0):  # some tools write this for unknown
        size = None

    objects = []
    for index, element in enumerate(root.findall("object")):
        entry = f"object {index}"
        name = (element.findtext("name") or "").strip() or None
        entry += f" ({name})" if name else ""
        corners = [
            _number(element, f"bndbox/{side}", path, entry) for side in ("xmin", "ymin", "xmax", "ymax")
        ]
        box = (corners[0] - first_pixel, corners[1] - first_pixel, corners[2], corners[3])
        if first_pixel == 1 and 0 in corners[:2]:
            entry += ", with a corner at 0 (if all of the set counts from 0, read it with first_pixel=0)"
        if corners[0] == corners[2] or corners[1] == corners[3]:
            box = corners  # a click, as tools write it: no area, though by VOC's letter it is one pixel
        objects.append((entry, box, name, (element.findtext("difficult") or "0").strip() == "1"))
    return checker.record(path, "", image, objects, size)


def _text(element, tag, path, entry):
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise ValueError(f"{path}, {entry}: no <{tag}> in it")
    return text


def _number(element, tag, path, entry):
    text = _text(element, tag, path, entry)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{path}, {entry}: <{tag}> is {text!r}, expected a number")
    return number
