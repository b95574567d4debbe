"""`Record`, one annotated image on disk, and the checks that all readers of annotation files share."""

import json
import math
import os
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

INVALID = ("raise", "skip", "clip")


@dataclass(eq=False)
class Record:
    """One image on disk and what is annotated in it.

    Attributes:
        image (Path): the image file; it existed when the record was read.
        width (int), height (int): pixels of that image, as a viewer shows it (EXIF rotation applied).
        boxes (Tensor[M, 4]): float32 xyxy, pixels of that image, inside it, each with an area.
        names (list[str]): M class names.
        ignore (Tensor[M]): bool; objects to leave out of training and scoring (VOC difficult, COCO crowd).
    """

    image: Path
    width: int
    height: int
    boxes: torch.Tensor
    names: list[str]
    ignore: torch.Tensor

    def __len__(self):
        return len(self.names)


class Problem(NamedTuple):
    """One entry that cannot be right: the file, the entry in it, and what is wrong (`kind` for counting)."""

    file: Path
    entry: str
    kind: str
    what: str

    def __str__(self):
        return f"{self.file}, {self.entry}: {self.what}" if self.entry else f"{self.file}: {self.what}"


class SkippedWarning(UserWarning):
    """A reader left something out or cut it. `problems` (list[Problem]) names every case."""

    def __init__(self, problems, shown=5):
        self.problems = problems
        lines = [f"  {problem}" for problem in problems[:shown]]
        if len(problems) > shown:
            lines.append(f"  and {len(problems) - shown} more (all of them: .problems of this warning)")
        super().__init__("\n".join([summary(problems), *lines]))


def summary(problems):
    """How many problems of which kind, in one line: "2 × no area, 1 × image missing"."""
    counts = Counter(problem.kind for problem in problems)
    return ", ".join(f"{count} × {kind}" for kind, count in counts.items())


class Checker:
    """Turns what a reader found into records, and does with wrong entries what `invalid` says.

    Wrong are: an image that is missing or whose size is not the one in the annotation, and a box without
    area, reaching outside of its image, without a class or of a class that is not among `classes`.

    - `"raise"`: the first of these raises (FileNotFoundError for the image, otherwise ValueError).
    - `"skip"`: a wrong box is left out; a wrong image is left out with all its boxes.
    - `"clip"`: like `"skip"`, but a box that reaches outside is cut to the image, and left out only if no
      area is left.

    After `"skip"` and `"clip"`, `finish` gives one `SkippedWarning` that counts and names all that was left
    out or cut. A file that cannot be understood raises whatever `invalid` says.
    """

    def __init__(self, invalid, classes=None):
        if invalid not in INVALID:
            raise ValueError(f"invalid={invalid!r}, expected one of {', '.join(map(repr, INVALID))}")
        self.invalid = invalid
        self.classes = None if classes is None else tuple(classes)
        self.problems = []

    def problem(self, file, entry, kind, what, error=ValueError):
        """Raise, or note that `entry` was left out or cut."""
        problem = Problem(Path(file), entry, kind, what)
        if self.invalid == "raise":
            raise error(f'{problem}; correct it, or read with invalid="skip" to leave such entries out')
        self.problems.append(problem)

    def record(self, file, entry, image, objects, size=None):
        """The `Record` of one image, or None where the image is left out.

        Args:
            file (Path), entry (str): where the image is named, for messages; entry may be empty.
            image (Path): the image file.
            objects: tuples (entry, box as four floats xyxy, class name or None, ignore).
            size: (width, height) that the annotation states, or None.
        """
        if not image.is_file():
            what = f"no image {image} for its {len(objects)} boxes"
            return self.problem(file, entry, "image missing", what, FileNotFoundError)
        width, height = found = image_size(image)
        if size is not None and tuple(size) != found:
            what = f"the annotation says {size[0]}×{size[1]} pixels, {image} has {width}×{height}"
            return self.problem(file, entry, "image of another size", what)

        limits = torch.tensor([width, height, width, height], dtype=torch.float32)
        kept = []
        for where, corners, name, ignored in objects:
            box = torch.tensor(corners, dtype=torch.float32)
            shown = "({:g}, {:g}, {:g}, {:g})".format(*box.tolist())
            where = f"{entry}, {where}" if entry else where
            if name is None or (self.classes is not None and name not in self.classes):
                known = "" if self.classes is None else f", expected one of {', '.join(self.classes)}"
                what = "no class name" if name is None else f"unknown class {name!r}"
                self.problem(file, where, what if name is None else "unknown class", what + known)
                continue
            if not (box[2:] > box[:2]).all():
                self.problem(file, where, "no area", f"box {shown} has no area, expected x1 < x2 and y1 < y2")
                continue
            inside = box.clamp(min=0).minimum(limits)
            if not torch.equal(inside, box):
                cut = self.invalid == "clip" and bool((inside[2:] > inside[:2]).all())
                kind = "reached outside, cut" if cut else "outside the image"
                self.problem(file, where, kind, f"box {shown} reaches outside of the {width}×{height} image")
                if not cut:
                    continue
            kept.append((inside, name, bool(ignored)))
        return Record(
            image=image,
            width=width,
            height=height,
            boxes=torch.stack([box for box, _, _ in kept]) if kept else torch.zeros(0, 4),  # [M, 4]
            names=[name for _, name, _ in kept],
            ignore=torch.tensor([ignored for _, _, ignored in kept], dtype=torch.bool),  # [M]
        )

    def finish(self, records):
        """The records without the gaps that `record` left; warns of all that was left out or cut."""
        if self.problems:
            warnings.warn(SkippedWarning(self.problems), stacklevel=3)
        return [record for record in records if record is not None]


def image_size(path):
    """(width, height) of an image file in pixels, as a viewer shows it; reads the header only.

    Raises:
        ValueError: if the file is no image.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 swap the axes
            return image.size[::-1] if turned else image.size
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not an image that can be read: {error}") from error


def read_json(path):
    """The content of a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON; names the file, line and column.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})"
        ) from error


def read_text(path):
    """The text of a UTF-8 file; FileNotFoundError or ValueError name the file otherwise."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"no annotation file {path}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8 text; save it as UTF-8") from error


def require(holder, key, kind, file, entry, *, count=None):
    """`holder[key]`, if it is of the right kind.

    Args:
        kind: a type, several of them, "number", or "numbers" for a list of `count` (None: any count) numbers.

    Raises:
        ValueError: otherwise; names the file, the entry and the key.
    """
    if not isinstance(holder, dict):
        raise ValueError(f"{file}, {entry}: found {_brief(holder)}, expected an object with {key!r}")
    if key not in holder:
        raise ValueError(
            f"{file}, {entry}: no {key!r} in it, found {', '.join(map(repr, holder)) or 'nothing'}"
        )
    value = holder[key]
    if kind == "number":
        fits, wanted = _is_number(value), "a number"
    elif kind == "numbers":
        fits = isinstance(value, list) and all(map(_is_number, value)) and count in (None, len(value))
        wanted = f"a list of {count or ''} numbers".replace("  ", " ")
    else:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        wanted = " or ".join(
            {dict: "an object", list: "a list", str: "a text", int: "an integer"}[k] for k in kinds
        )
    if not fits:
        raise ValueError(f"{file}, {entry}: {key!r} is {_brief(value)}, expected {wanted}")
    return value


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _brief(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_images(data, folder):
    """Write the images of a `DetectionData` as `000000.png`, ...; yields (path, target) for each.

    A file is written beside its place and then moved there, so no half of one is ever left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(data)):
        image, target = data[index]
        path = folder / f"{index:06}.png"
        pixels = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())  # [H, W, 3]
        with replacing(path) as part:
            pixels.save(part, format="PNG")
        yield path, target


class Entry(NamedTuple):
    """An image as annotation files name it: xyxy boxes in float64, labels 1..K and `ignore` as lists."""

    image: Path
    width: int
    height: int
    boxes: list
    labels: list
    ignore: list


def entries(data, folder, classes=None):
    """(entries, class names) of a set for a file in `folder`.

    The images of a `DetectionData` are written there as its entries are taken.

    Args:
        data (DetectionData or list[Record]): the images of records are in `folder` already.
        classes (sequence of str): of records, in the order of labels 1..K.

    Raises:
        ValueError: if records come without classes, have a name that is none of them, or an image elsewhere.
    """
    if hasattr(data, "targets"):
        return _entries_of_data(data, folder), data.classes
    if classes is None:
        raise ValueError("records come without the order of their classes: give classes, label 1 first")
    classes, found = tuple(classes), []
    for record in data:
        if record.image.resolve().parent != folder.resolve():
            raise ValueError(
                f"{record.image} is not in {folder}: write the file into the folder of the images"
            )
        for name in record.names:
            if name not in classes:
                raise ValueError(
                    f"{record.image}: unknown class {name!r}, expected one of {', '.join(classes)}"
                )
        labels = [classes.index(name) + 1 for name in record.names]
        found.append(
            Entry(
                record.image,
                record.width,
                record.height,
                record.boxes.tolist(),
                labels,
                record.ignore.tolist(),
            )
        )
    return found, classes


def _entries_of_data(data, folder):
    height, width = data.images.shape[-2:]
    for image, target in write_images(data, folder):
        labels = target["labels"].tolist()
        ignore = target["ignore"].tolist() if "ignore" in target else [False] * len(labels)
        yield Entry(image, width, height, target["boxes"].tolist(), labels, ignore)


def write_json(content, path):
    """Write `content` as JSON, whole or not at all; returns the path."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return path


@contextmanager
def replacing(path):
    """Gives a path to write to; it takes the place of `path` at the end, or goes if something raises."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
