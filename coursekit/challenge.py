"""The challenge: pictures whose truth only the instructor has, and the file of detections that is handed in for them.

    given = load()
    write(detections, given)                   # detections.json, which is handed in beside the notebook
    look(points=10, zero=0.1, full=0.45)       # is it well formed? what is which AP worth?

`autograder challenge` makes the pictures. The file has COCO's form of results, a JSON list of objects with
`image_id`, `category_id`, `bbox` (x, y, width, height in pixels) and `score`. What the grader demands of it stands
in `parse`; nothing here knows the truth.
Source: https://cocodataset.org/#format-results.
"""

import json
import math
import os
import reprlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

from coursekit.handin import Unreadable, fetch

FILE = "detections.json"
ARCHIVE = Path(__file__).with_name("challenge.zip")  # made by `autograder challenge`; students get it with coursekit
COUNT = 200  # pictures, unless an instructor makes more
LARGEST = 10 * 10**6  # bytes of the file: a hundred detections in each of a thousand pictures
MOST = 100  # detections of a picture that count, the best ones
KEYS = ("image_id", "category_id", "bbox", "score")
EXAMPLE = '[{"image_id": 1, "category_id": 2, "bbox": [10, 20, 30, 40], "score": 0.9}, ...]'


class Malformed(ValueError):
    """A file of detections that cannot be scored; says what was found and what is expected."""


@dataclass(frozen=True)
class Given:
    """The pictures of the challenge.

    Attributes:
        ids (list of N int): the `image_id` of each picture.
        classes (tuple of K str): the name of label k, which is `category_id` k too, is `classes[k - 1]`.
        practice (bool): True where there is no challenge here: pictures of the same kind, which earn nothing.
        images (list of N uint8 Tensor[3, H, W]): empty where only the rest was asked for.
    """

    ids: list
    classes: tuple
    practice: bool
    images: list


def load(archive=None, *, images=True):
    """The pictures of the challenge, or practice pictures where there is none.

    Args:
        archive (path, optional): the zip file that `autograder challenge` made; the one in coursekit unless given.
        images (bool): False gives ids and classes only, which is quick.

    Returns:
        Given: N pictures; those for practice are `scenes("test", 200)`.
    """
    archive = Path(archive or ARCHIVE)
    if not archive.exists():
        from coursekit.data.scenes import CLASSES, scenes

        pictures = list(scenes("test", COUNT, device="cpu").images) if images else []
        return Given(list(range(1, COUNT + 1)), CLASSES, True, pictures)
    with zipfile.ZipFile(archive) as file:
        about = json.loads(file.read("images.json"))
        pictures = [_picture(file, image["file_name"]) for image in about["images"]] if images else []
    ids, classes = ([one[key] for one in about[part]] for part, key in (("images", "id"), ("categories", "name")))
    return Given(ids, tuple(classes), False, pictures)


def _picture(archive, name):
    import numpy
    import torch
    from PIL import Image

    with archive.open(name) as file, Image.open(file) as image:
        return torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def write(detections, given, path=FILE):
    """Write the file that is handed in, with the best 100 detections of each picture.

    Args:
        detections (list of N dicts): `boxes` [D, 4] (xyxy, pixels of the picture), `scores` [D], `labels` [D]
            in 1..K, a dict for each of `given.images`.
        given (Given): what `load` gave.
        path (path): where to.

    Returns:
        Path: of the file.

    Raises:
        ValueError: if the detections are not that; names the picture.
    """
    from coursekit.data.records import replacing
    from coursekit.evaluation import checked_detection, xywh

    if len(detections) != len(given.ids):
        raise ValueError(f"detections of {len(detections)} images, expected {len(given.ids)}, one for each picture")
    lines = []
    for number, (image, found) in enumerate(zip(given.ids, detections)):
        boxes, scores, labels = checked_detection(found, number, len(given.classes))
        best = scores.argsort(descending=True, stable=True)[:MOST]
        for box, score, label in zip(xywh(boxes[best])[0], scores[best].tolist(), labels[best].tolist()):
            bbox = [round(value, 2) for value in box]
            entry = {"image_id": image, "category_id": int(label), "bbox": bbox, "score": round(score, 6)}
            lines.append(json.dumps(entry, allow_nan=False))
    path = Path(path)
    with replacing(path) as part:
        part.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    return path


def look(points, zero, full, path=FILE):
    """What the cell of the challenge does: say whether the file is well formed, and what is which AP worth.

    Args:
        points (float): that the file can earn.
        zero, full (float): the AP up to which it earns nothing, and from which on it earns all.

    Raises:
        CheckFailed: if the file is not there or malformed.
    """
    if os.environ.get("NBGRADER_EXECUTION") == "autograde":
        raise RuntimeError(f"there is no truth here to score {path} with: `autograder grade` does it")
    from coursekit.checks import CheckFailed

    try:
        lines = tell(path, points, zero, full)
    except Malformed as error:
        raise CheckFailed(str(error)) from None
    print("\n".join(lines))


def tell(path, points, zero, full):
    """What there is to say of a well-formed file: list of lines.

    Raises:
        Malformed: if it is not there, or not well formed.
    """
    given, path = load(images=False), Path(path)
    entries = parse(content_of(path), given.ids, len(given.classes))
    shown = len({entry["image_id"] for entry in entries})
    return [
        f"{path.name} is well formed: {len(entries):,} detections in {shown} of {len(given.ids)} pictures.",
        f"An AP of {zero:.2f} or less earns nothing, {full:.2f} or more all {points:g} points, between them in proportion.",
        "These are practice pictures, which earn nothing: the challenge comes from your instructor."
        if given.practice
        else "Its AP is told with your marks: the truth is not here.",
    ]


def content_of(path, protected=frozenset()):
    """The bytes of a file of detections; see `handin.fetch`.

    Raises:
        Malformed: if there is no such file, or it is a link, no regular file or too large.
    """
    try:
        return fetch(path, protected, LARGEST, what="file of detections")
    except Unreadable as error:
        raise Malformed(str(error)) from None


def mark(ap, points, zero, full):
    """The points of an AP: 0 up to `zero`, all from `full` on, a straight line between; to two decimals."""
    return round(points * min(max((ap - zero) / (full - zero), 0.0), 1.0), 2)


def parse(content, ids, classes):
    """The detections in the bytes of a file, with nothing taken for granted.

    Args:
        content (bytes): JSON in UTF-8, a list of objects with KEYS; other keys are passed over.
        ids (collection of int): that `image_id` may be.
        classes (int): K; `category_id` lies in 1..K.

    Returns:
        list of dict: KEYS and no others; numbers finite, width and height not negative.

    Raises:
        Malformed: names the first entry that is not so.
    """
    try:
        entries = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise Malformed(f"byte {error.start} is not UTF-8, expected JSON such as {EXAMPLE}") from None
    except Malformed:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error) or "it is too much for the memory"
        raise Malformed(f"it is not JSON ({reason}), expected {EXAMPLE}") from None
    if not isinstance(entries, list):
        raise Malformed(f"it holds {_a(entries)}, expected a list of detections: {EXAMPLE}")
    ids = frozenset(ids)
    return [_entry(entry, f"detection {number}", ids, classes) for number, entry in enumerate(entries)]


def _entry(entry, where, ids, classes):
    if not isinstance(entry, dict):
        raise Malformed(f"{where} is {_a(entry)}, expected an object with {', '.join(KEYS)}")
    if missing := [key for key in KEYS if key not in entry]:
        raise Malformed(f"{where} has no {' and no '.join(missing)}, expected {', '.join(KEYS)}")
    image, category, box, score = (entry[key] for key in KEYS)
    if type(image) is not int or image not in ids:
        expected = f"one of the challenge's {len(ids)} pictures, such as {min(ids)}"
        raise Malformed(f"{where}: image_id is {_a(image)}, expected {expected}: was the file made from these pictures?")
    if type(category) is not int or not 1 <= category <= classes:
        raise Malformed(f"{where}: category_id is {_a(category)}, expected a whole number from 1 to {classes}")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise Malformed(f"{where}: bbox is {_a(box)}, expected four finite numbers [x, y, width, height]")
    if box[2] < 0 or box[3] < 0:
        raise Malformed(f"{where}: bbox {box} has a negative size, expected [x, y, width, height]: is it x1, y1, x2, y2?")
    if not _is_number(score):
        raise Malformed(f"{where}: score is {_a(score)}, expected a finite number")
    return {"image_id": image, "category_id": category, "bbox": [float(value) for value in box], "score": float(score)}


def _is_number(value):
    """Neither bool nor NaN, and no larger than pixels can be, so that nothing made of it overflows."""
    return type(value) in (int, float) and abs(value) < 1e9


def _object(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Malformed(f"an object has a key twice among {reprlib.repr([key for key, _ in pairs])}, expected each once")
    return found


def _no_number(name):
    raise Malformed(f"it holds {name}, which is no JSON, expected finite numbers")


def _a(value):
    return f"{reprlib.repr(value)} ({type(value).__name__})"  # short, whatever it is
