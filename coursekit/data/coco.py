"""COCO annotation files (one JSON file per split) as records, and detection sets as COCO files.

A COCO box is xywh in float pixels from 0, so xyxy needs no correction: (x, y, x + w, y + h).
Source: the data format at https://cocodataset.org/#format-data.
"""

from pathlib import Path

from coursekit.data.records import Checker, entries, read_json, require, write_json


def read(path, folder=None, *, invalid="raise"):
    """The records of a COCO file, in the order of its images; images without objects are kept.

    `iscrowd` objects are marked `ignore`. Category ids may have gaps: records hold names.

    Args:
        path (path): the JSON file.
        folder (path): what its `file_name`s are relative to; the file's own folder if not given.
        invalid (str): "raise", "skip" or "clip"; see `coursekit.data.records.Checker`.

    Returns:
        list[Record]

    Raises:
        FileNotFoundError: if the file or (unless skipped) an image is missing.
        ValueError: if the file is malformed, or (unless skipped) an entry cannot be right. Both name the
            entry.
    """
    path = Path(path)
    folder = path.parent if folder is None else Path(folder)
    content = _content(path)
    names = _names(content, path)

    objects = {}
    for index, image in enumerate(content["images"]):
        entry = f"images[{index}]"
        identity = require(image, "id", (int, str), path, entry)
        if identity in objects:
            raise ValueError(
                f"{path}, {entry}: id {identity!r} stands there twice, expected an id of its own"
            )
        objects[identity] = []
    checker = Checker(invalid, names.values())
    for index, annotation in enumerate(content["annotations"]):
        entry = f"annotations[{index}]"
        category = require(annotation, "category_id", (int, str), path, entry)
        image = require(annotation, "image_id", (int, str), path, entry)
        x, y, w, h = require(annotation, "bbox", "numbers", path, entry, count=4)
        entry += f" (id {annotation['id']})" if "id" in annotation else ""
        if image not in objects:
            what = f"no image has the image_id {image!r}"
            checker.problem(path, entry, "image missing", what, FileNotFoundError)
        elif category not in names:
            what = f"no category has the category_id {category!r}, expected one of {sorted(names, key=str)}"
            checker.problem(path, entry, "unknown class", what)
        else:
            box = (x, y, x + w, y + h)
            objects[image].append((entry, box, names[category], annotation.get("iscrowd", 0) == 1))

    records = []
    for index, image in enumerate(content["images"]):
        entry = f"images[{index}]"
        name = require(image, "file_name", str, path, entry)
        size = tuple(require(image, side, int, path, entry) for side in ("width", "height"))
        records.append(checker.record(path, f"{entry} ({name})", folder / name, objects[image["id"]], size))
    return checker.finish(records)


def classes(path):
    """The category names of a COCO file (tuple[str, ...]), in the order of their ids: class 1 first."""
    return tuple(_names(_content(Path(path)), path).values())


def write(data, folder, classes=None):
    """Write a detection set as `annotations.json` and PNG images, for `read`, pycocotools and other tools.

    Class k gets category id k; `ignore` becomes `iscrowd`. The JSON file comes last and whole: where it is,
    all is. Of records only the JSON file is written: their images are in the folder.

    Args:
        data (DetectionData or list[Record]): images uint8 [N, 3, H, W], or records of images in `folder`.
        folder (path): is made if need be; files of the same names are replaced.
        classes (sequence of str): of records: the names of labels 1..K.

    Returns:
        Path: the JSON file.

    Raises:
        ValueError: if records come without classes, have a name that is none of them, or an image that is
            elsewhere.
    """
    path = Path(folder) / "annotations.json"
    found, classes = entries(data, path.parent, classes)
    if hasattr(data, "targets"):
        path.unlink(missing_ok=True)
    images, annotations = [], []
    for number, (image, width, height, boxes, labels, marks) in enumerate(found, start=1):
        images.append({"id": number, "file_name": image.name, "width": width, "height": height})
        for (x1, y1, x2, y2), label, ignored in zip(boxes, labels, marks, strict=True):
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": label,
                # differences of float32 in float64 are exact: x1 + w gives x2 back, bit for bit
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": int(ignored),
            })  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    return write_json(content, path)


def _content(path):
    """The file's content, with the three lists in place."""
    content = read_json(path)
    for key in ("images", "annotations", "categories"):
        require(content, key, list, path, "top level")
    return content


def _names(content, path):
    """{category id: name}, by id."""
    names = {}
    for index, category in enumerate(content["categories"]):
        entry = f"categories[{index}]"
        identity = require(category, "id", (int, str), path, entry)
        name = require(category, "name", str, path, entry)
        if identity in names or name in names.values():
            raise ValueError(f"{path}, {entry}: id {identity!r} or name {name!r} stands there twice")
        names[identity] = name
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))
