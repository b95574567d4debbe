"""Files of the VGG Image Annotator (VIA 1.x and 2.x) as records, and detection sets as VIA projects.

Read are annotations exported as JSON or CSV and saved projects (`_via_img_metadata`). VIA's regions are in
pixels of the image as the browser shows it, counted from 0 at the top left corner, so they need no
correction. Source: Dutta and Zisserman, The VIA Annotation Software for Images, Audio and Video, ACM
Multimedia 2019 (arXiv:1904.10699), and the tool's own reading and writing of files.
"""

import csv
import io
import json
import math
from pathlib import Path

from coursekit.data.records import Checker, entries, read_json, read_text, require, write_json


def read(path, folder=None, *, attribute=None, classes=None, invalid="raise"):
    """The records of a VIA file, in its order; images without regions are kept.

    A region becomes the smallest upright box around its shape: rect, circle, ellipse (turned ones too),
    polygon or polyline. A point has no area, so it is an invalid box. The value of the class attribute is the
    name, as text; of a checkbox attribute, the one option that is ticked.

    Args:
        path (path): the JSON or (by its ending) CSV file.
        folder (path): where the images are; the file's own folder if not given.
        attribute (str): the region attribute that holds the class; may be left out if the regions have only
            one.
        classes (optional): the class names that may occur; None allows any.
        invalid (str): "raise", "skip" or "clip"; see `coursekit.data.records.Checker`.

    Returns:
        list[Record]

    Raises:
        FileNotFoundError: if the file or (unless skipped) an image is missing.
        ValueError: if the file is malformed or several attributes could be the class, or (unless skipped) an
            entry cannot be right, such as a region without a class. All name file and entry.
    """
    path = Path(path)
    folder = path.parent if folder is None else Path(folder)
    images = _read_csv(path) if path.suffix.lower() == ".csv" else _read_project(path)
    if attribute is None:
        attribute = _only_attribute(images, path)
    checker = Checker(invalid, classes)
    records = []
    for entry, name, regions in images:
        objects = []
        for where, shape, attributes in regions:
            box = _bounds(shape, path, f"{entry}, {where}")
            label, problem = _label(attributes, attribute)
            if problem:
                checker.problem(path, f"{entry}, {where}", "no class name", problem)
            else:
                objects.append((f"{where} ({shape['name']})", box, label, False))
        records.append(checker.record(path, entry, folder / name, objects))
    return checker.finish(records)


def write(data, folder, classes=None):
    """Write a detection set as `via_project.json` and PNG images, for `read` and for VIA 2 ("Open Project").

    Of records only the JSON file is written: their images are in the folder.

    The class is a drop-down attribute "class". VIA asks for the images once: "Add Files", then choose all of
    them. The JSON file comes last and whole: where it is, all is.

    Args:
        data (DetectionData or list[Record]): images uint8 [N, 3, H, W], or records of images in `folder`.
        folder (path): is made if need be; files of the same names are replaced.
        classes (sequence of str): of records: the names of labels 1..K.

    Returns:
        Path: the JSON file.

    Raises:
        ValueError: if a box is marked `ignore`, which VIA cannot say; `coco.write` can. If records come
            without classes, have a name that is none of them, or an image that is elsewhere.
    """
    path = Path(folder) / "via_project.json"
    if hasattr(data, "targets"):
        marks = [target.get("ignore") for target in data.targets]
    else:
        marks = [record.ignore for record in data]
    for index, mark in enumerate(marks):
        if mark is not None and mark.any():
            raise ValueError(
                f"image {index} has boxes marked ignore, which VIA files cannot hold: use coco.write"
            )
    found, classes = entries(data, path.parent, classes)
    if hasattr(data, "targets"):
        path.unlink(missing_ok=True)
    images = {}
    for image, _, _, boxes, labels, _ in found:
        size = image.stat().st_size
        regions = []
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            # the differences of these float32 are exact in float64
            shape = {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
            regions.append({"shape_attributes": shape, "region_attributes": {"class": classes[label - 1]}})
        # VIA knows an image by its name followed by its size in bytes
        images[f"{image.name}{size}"] = {
            "filename": image.name,
            "size": size,
            "regions": regions,
            "file_attributes": {},
        }
    names = {"type": "dropdown", "description": "class of the object", "default_options": {}}
    names["options"] = {name: name for name in classes}  # VIA's own COCO export takes the description
    content = {
        # what is left out here keeps VIA's own defaults
        "_via_settings": {"core": {"default_filepath": ""}, "project": {"name": path.parent.resolve().name}},
        "_via_img_metadata": images,
        "_via_attributes": {"region": {"class": names}, "file": {}},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(images),
    }
    return write_json(content, path)


def _read_project(path):
    """[(entry, file name, [(entry, shape, attributes)])] of a JSON file: project or export, VIA 1 or 2."""
    content = read_json(path)
    if isinstance(content, dict) and {"project", "metadata", "view"} <= content.keys():
        raise ValueError(
            f"{path}: a VIA 3 project, expected VIA 1 or 2: export it from VIA 3 as COCO, read it so"
        )
    if isinstance(content, dict) and "_via_img_metadata" in content:
        content = require(content, "_via_img_metadata", dict, path, "top level")
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: the top level is a {type(content).__name__}, expected VIA's object of images"
        )
    images = []
    for key in content:
        name = require(content[key], "filename", str, path, f"image {key!r}")
        entry = f"image {name}"
        regions = require(content[key], "regions", (list, dict), path, entry)
        pairs = regions.items() if isinstance(regions, dict) else enumerate(regions)  # VIA 1, VIA 2
        found = []
        for number, region in pairs:
            where = f"region {number}"
            shape = require(region, "shape_attributes", dict, path, f"{entry}, {where}")
            attributes = require(region, "region_attributes", dict, path, f"{entry}, {where}")
            found.append((where, shape, attributes))
        images.append((entry, name, found))
    return images


COLUMNS = ("filename", "region_count", "region_id", "region_shape_attributes", "region_attributes")


def _read_csv(path):
    """What `_read_project` gives, of a CSV file: one line a region, images without regions have one line."""
    # VIA 1 starts the first line with "#"
    lines = csv.DictReader(io.StringIO(read_text(path).removeprefix("#"), newline=""))
    missing = [column for column in COLUMNS if column not in (lines.fieldnames or ())]
    if missing:
        raise ValueError(f"{path}, line 1: no column {missing[0]!r}, expected VIA's {', '.join(COLUMNS)}")
    images = {}
    for row in lines:
        line = f"line {lines.line_num}"
        if any(row[column] is None for column in COLUMNS):
            raise ValueError(f"{path}, {line}: fewer columns than the {len(lines.fieldnames)} of line 1")
        key = row["filename"] + (row.get("file_size") or "")
        _, _, regions = images.setdefault(key, (f"image {row['filename']}", row["filename"], []))
        shape = _cell(row, "region_shape_attributes", path, line)
        if shape:
            attributes = _cell(row, "region_attributes", path, line)
            regions.append((f"region {row['region_id']}", shape, attributes))
    return list(images.values())


def _cell(row, column, path, line):
    try:
        value = json.loads(row[column] or "{}")
    except json.JSONDecodeError as error:
        where = f"{line}, column {column!r}, character {error.pos + 1}"
        raise ValueError(f"{path}, {where}: not valid JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}, {line}, column {column!r}: found {row[column]}, expected a JSON object")
    return value


def _only_attribute(images, path):
    """The one attribute that the regions have; None where there is none at all."""
    found = list(
        dict.fromkeys(name for _, _, regions in images for _, _, attributes in regions for name in attributes)
    )
    if len(found) > 1:
        names = ", ".join(map(repr, found))
        raise ValueError(
            f"{path}: regions have the attributes {names}: say which is the class, for example "
            f"attribute={found[0]!r}"
        )
    return found[0] if found else None


def _label(attributes, attribute):
    """(class name, None), or (None, what is wrong)."""
    if not attributes:
        return None, "no class: the region has no attributes"
    value = attributes.get(attribute)
    if isinstance(value, dict):  # a checkbox: {option: ticked}
        ticked = [option for option, on in value.items() if on]
        if len(ticked) == 1:
            return ticked[0], None
        return (
            None,
            f"attribute {attribute!r} has {len(ticked)} options ticked ({', '.join(ticked)}), expected one",
        )
    if value is None or str(value).strip() == "":
        has = ", ".join(map(repr, attributes))
        return None, f"no class: the attribute {attribute!r} is not set, attributes found: {has}"
    return str(value), None


def _bounds(shape, path, entry):
    """The box (x1, y1, x2, y2) around a shape."""
    name = require(shape, "name", str, path, entry)
    where = f"{entry} ({name})"
    if name in ("polygon", "polyline"):
        xs, ys = (require(shape, f"all_points_{axis}", "numbers", path, where) for axis in "xy")
        if not xs or len(xs) != len(ys):
            raise ValueError(
                f"{path}, {where}: {len(xs)} x and {len(ys)} y, expected as many and at least one"
            )
        return min(xs), min(ys), max(xs), max(ys)
    keys = {
        "rect": ("x", "y", "width", "height"),
        "circle": ("cx", "cy", "r"),
        "ellipse": ("cx", "cy", "rx", "ry"),
        "point": ("cx", "cy"),
    }
    if name not in keys:
        raise ValueError(
            f"{path}, {entry}: shape {name!r}, expected one of {', '.join(keys)}, polygon, polyline"
        )
    x, y, *sizes = (require(shape, key, "number", path, where) for key in keys[name])
    if name == "rect":
        return x, y, x + sizes[0], y + sizes[1]
    if name == "ellipse":
        rx, ry = sizes
        theta = (
            require(shape, "theta", "number", path, where) if "theta" in shape else 0
        )  # radians; only newer VIA 2
        cosine, sine = math.cos(theta), math.sin(theta)
        half_width, half_height = math.hypot(rx * cosine, ry * sine), math.hypot(rx * sine, ry * cosine)
    else:
        half_width = half_height = sizes[0] if sizes else 0
    return x - half_width, y - half_height, x + half_width, y + half_height
