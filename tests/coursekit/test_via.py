"""VIA files: both formats, all shapes, genuine exports, messages, and projects that VIA opens."""

import csv
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from coursekit.data import DetectionData, via
from coursekit.data.records import SkippedWarning

GENUINE = Path(os.environ.get("COURSEKIT_DATA") or "no COURSEKIT_DATA") / "via_official"
genuine = pytest.mark.skipif(not GENUINE.is_dir(), reason="needs $COURSEKIT_DATA/via_official")

RECT = {"name": "rect", "x": 3, "y": 4, "width": 10, "height": 20}


def region(shape=RECT, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def export(*regions, kind=list, name="a.png"):
    """An export with one image; `kind` dict gives VIA 1's regions, list VIA 2's."""
    regions = {str(number): r for number, r in enumerate(regions)} if kind is dict else list(regions)
    return {f"{name}99": {"filename": name, "size": 99, "regions": regions, "file_attributes": {}}}


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    return tmp_path


def written(folder, content, name="v.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def as_csv(folder, regions, header="filename"):
    path = folder / "v.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([header, *"file_size file_attributes region_count region_id".split()]
                       + ["region_shape_attributes", "region_attributes"])  # fmt: skip
        for number, r in enumerate(regions):
            cells = [json.dumps(r["shape_attributes"]), json.dumps(r["region_attributes"])]
            lines.writerow(["a.png", 99, "{}", len(regions), number, *cells])
        if not regions:
            lines.writerow(["a.png", 99, "{}", 0, 0, "{}", "{}"])
    return path


def same(records1, records2):
    for one, two in zip(records1, records2, strict=True):
        assert one.image == two.image and one.names == two.names
        assert torch.equal(one.boxes, two.boxes)


def test_all_forms_of_a_file_give_the_same_records(folder):
    regions = [region(cls='a "b", c'), region({"name": "circle", "cx": 20, "cy": 12, "r": 5}, cls="0")]
    two = export(*regions)
    forms = [
        written(folder, two, "2.json"),
        written(folder, export(*regions, kind=dict), "1.json"),
        written(
            folder, {"_via_settings": {}, "_via_img_metadata": two, "_via_attributes": {}}, "project.json"
        ),
        as_csv(folder, regions),
    ]
    records = [via.read(path) for path in forms]
    assert records[0][0].boxes.tolist() == [[3, 4, 13, 24], [15, 7, 25, 17]]
    assert records[0][0].names == ['a "b", c', "0"]
    for other in records[1:]:
        same(records[0], other)
    same(records[0], via.read(as_csv(folder, regions, header="#filename")))


POINTS = {"all_points_x": [9, 3, 5], "all_points_y": [8, 20, 2]}
SHAPES = {
    "rect": (RECT, [3, 4, 13, 24]),
    "circle": ({"name": "circle", "cx": 20, "cy": 12, "r": 5.5}, [14.5, 6.5, 25.5, 17.5]),
    "ellipse": ({"name": "ellipse", "cx": 20, "cy": 12, "rx": 5, "ry": 3}, [15, 9, 25, 15]),
    "ellipse, quarter turn": (
        {"name": "ellipse", "cx": 20, "cy": 12, "rx": 5, "ry": 3, "theta": math.pi / 2},
        [17, 7, 23, 17],
    ),
    "polygon": ({"name": "polygon", **POINTS}, [3, 2, 9, 20]),
    "polyline": ({"name": "polyline", **POINTS}, [3, 2, 9, 20]),
}


@pytest.mark.parametrize("shape, box", SHAPES.values(), ids=SHAPES.keys())
def test_shape_becomes_the_box_around_it(folder, shape, box):
    (record,) = via.read(written(folder, export(region(shape, c="x"))))
    torch.testing.assert_close(record.boxes, torch.tensor([box], dtype=torch.float32))


def test_box_around_a_turned_ellipse_touches_it_on_all_sides(folder):
    rx, ry, theta = 9, 4, 0.6
    shape = {"name": "ellipse", "cx": 20, "cy": 15, "rx": rx, "ry": ry, "theta": theta}
    (record,) = via.read(written(folder, export(region(shape, c="x"))))
    t = torch.linspace(0, 2 * math.pi, 10001)
    x = 20 + rx * t.cos() * math.cos(theta) - ry * t.sin() * math.sin(theta)
    y = 15 + rx * t.cos() * math.sin(theta) + ry * t.sin() * math.cos(theta)
    torch.testing.assert_close(record.boxes[0], torch.stack([x.min(), y.min(), x.max(), y.max()]))


def test_image_without_regions_is_kept(folder):
    for path in (written(folder, export()), written(folder, export(kind=dict)), as_csv(folder, [])):
        (record,) = via.read(path)
        assert record.boxes.shape == (0, 4) and (record.width, record.height) == (40, 30)


def test_class_is_the_attribute_that_is_named(folder):
    path = written(folder, export(region(kind="dog", quality={"good": True}), region(kind="cat", quality={})))
    with pytest.raises(
        ValueError, match=r"v\.json: regions have the attributes 'kind', 'quality': say which is"
    ):
        via.read(path)
    assert via.read(path, attribute="kind")[0].names == ["dog", "cat"]


def test_class_of_a_checkbox_is_the_option_that_is_ticked(folder):
    ticked = [{"dog": True}, {"dog": False, "cat": True}, {"dog": True, "cat": True}, {"dog": False}]
    path = written(folder, export(*(region(kind=boxes) for boxes in ticked)))
    with pytest.warns(SkippedWarning) as caught:
        (record,) = via.read(path, invalid="skip")
    assert record.names == ["dog", "cat"]
    first, second = (str(problem) for problem in caught[0].message.problems)
    assert "region 2: attribute 'kind' has 2 options ticked (dog, cat), expected one" in first
    assert "region 3: attribute 'kind' has 0 options ticked (), expected one" in second


def test_number_as_a_class_is_its_text(folder):
    path = written(folder, export(region(kind="0"), region(kind=0)))
    assert via.read(path, classes=["0"])[0].names == ["0", "0"]


def broken(**changes):
    shape = {key: value for key, value in {**RECT, **changes}.items() if value is not None}
    return export(region(shape, c="x"))


MALFORMED = {
    "cut off": ('{"a.png99":\n {', r"v\.json, line 2, column 3: not valid JSON"),
    "a list": ([1], r"v\.json: the top level is a list, expected VIA's object of images"),
    "VIA 3": ({"project": {}, "metadata": {}, "view": {}}, r"v\.json: a VIA 3 project, expected VIA 1 or 2"),
    "COCO": ({"images": []}, r"v\.json, image 'images': found \[\], expected an object with 'filename'"),
    "no regions": ({"k": {"filename": "a.png"}}, r"image a\.png: no 'regions' in it, found 'filename'"),
    "regions a text": (
        {"k": {"filename": "a.png", "regions": "x"}},
        r"'regions' is \"x\", expected a list or an object",
    ),
    "no shape": (export({"region_attributes": {}}), r"image a\.png, region 0: no 'shape_attributes' in it"),
    "no width": (broken(width=None), r"image a\.png, region 0 \(rect\): no 'width' in it"),
    "a word": (broken(x="left"), r"region 0 \(rect\): 'x' is \"left\", expected a number"),
    "another shape": (
        broken(name="star"),
        r"region 0: shape 'star', expected one of rect, circle, ellipse, point, pol",
    ),
    "x without y": (
        export(region({**POINTS, "name": "polygon", "all_points_y": [1]}, c="x")),
        r"\(polygon\): 3 x and 1 y",
    ),
}


@pytest.mark.parametrize("text, message", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_file_raises_whatever_is_asked(folder, text, message):
    for invalid in ("raise", "skip", "clip"):
        with pytest.raises(ValueError, match=message):
            via.read(written(folder, text), invalid=invalid)


def test_malformed_csv_names_line_and_column(folder):
    text = as_csv(folder, [region(c="x"), region(c="y")]).read_text()
    for old, new, message in [
        ("region_id", "number", r"v\.csv, line 1: no column 'region_id', expected VIA's filename,"),
        ('""y""}', '""y""', r"v\.csv, line 3, column 'region_attributes', character \d+: not valid JSON"),
        (
            '"{""c"": ""y""}"',
            "7",
            r"v\.csv, line 3, column 'region_attributes': found 7, expected a JSON object",
        ),
        (',"{""c"": ""y""}"', "", r"v\.csv, line 3: fewer columns than the 7 of line 1"),
    ]:
        assert old in text
        with pytest.raises(ValueError, match=message):
            via.read(written(folder, text.replace(old, new), "v.csv"))


INVALID = {  # content, message, boxes left by "skip", and by "clip"
    "point": (
        export(region({"name": "point", "cx": 5, "cy": 6}, c="x")),
        r"region 0 \(point\): box \(5, 6, 5, 6\) has no area",
        0,
        0,
    ),
    "beyond the edge": (
        export(region({**RECT, "width": 38}, c="x")),
        r"image a\.png, region 0 \(rect\): .* reaches outside of the 40×30",
        0,
        1,
    ),
    "no class": (
        export(region(c="x"), region()),
        r"image a\.png, region 1: no class: the region has no attributes",
        1,
        1,
    ),
    "empty class": (
        export(region(c="x"), region(c="")),
        r"region 1: no class: the attribute 'c' is not set",
        1,
        1,
    ),
    "unknown class": (
        export(region(c="x"), region(c="z")),
        r"region 1 \(rect\): unknown class 'z', expected one of x, y",
        1,
        1,
    ),
    "missing image": (
        export(region(c="x"), name="b.png"),
        r"v\.json, image b\.png: no image .*b\.png",
        None,
        None,
    ),
}


@pytest.mark.parametrize("text, message, skip, clip", INVALID.values(), ids=INVALID.keys())
def test_invalid_entry_raises_or_is_left_out_with_a_warning(folder, text, message, skip, clip):
    path = written(folder, text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        via.read(path, classes=("x", "y"))
    for invalid, left in (("skip", skip), ("clip", clip)):
        with pytest.warns(SkippedWarning, match=message):
            records = via.read(path, classes=("x", "y"), invalid=invalid)
        assert [len(record) for record in records] == ([] if left is None else [left])


def test_missing_file_is_named(folder):
    for name in ("none.json", "none.csv"):
        with pytest.raises(FileNotFoundError, match=f"no annotation file .*{name}"):
            via.read(folder / name)


@pytest.fixture
def via1(tmp_path):
    """The genuine VIA 1 exports beside their images, which are called there as in the exports."""
    names = ("test_pattern_qbist.jpg", "sinus_test_pattern.jpg", "a_swan_swimming_in_geneve_lake.jpg")
    for number, name in enumerate(names, start=1):
        shutil.copy(GENUINE / f"unit_test_img{number}.jpg", tmp_path / name)
    for name in ("unit_test_annotation2.json", "unit_test_annotation1.csv"):
        shutil.copy(GENUINE / name, tmp_path)
    return tmp_path


@genuine
@pytest.mark.parametrize("name", ["unit_test_annotation2.json", "unit_test_annotation1.csv"])
def test_genuine_via_1_export(via1, name):
    with pytest.raises(ValueError, match=r"image test_pattern_qbist\.jpg, region 5: no class"):
        via.read(via1 / name)
    with pytest.warns(SkippedWarning, match="3 × no class name, 4 × no area"):
        records = via.read(via1 / name, invalid="skip")
    assert [record.names for record in records] == [
        ['ellipse "red"', "rectangle 'black'"],
        ['a "white" swan, good fortune'],
        ['ellipse on "yellow"; background', "a 'rect' in \"blue\", background"],
    ]
    assert torch.cat([record.boxes for record in records]).tolist() == [
        [252 - 27, 190 - 26, 252 + 27, 190 + 26],
        [290, 208, 290 + 127, 208 + 113],
        [105, 135, 428, 299],
        [300 - 93, 223 - 56, 300 + 93, 223 + 56],
        [79, 310, 79 + 66, 310 + 62],
    ]
    assert [(record.width, record.height) for record in records] == [(640, 480), (640, 480), (640, 427)]


@genuine
def test_genuine_via_2_export():
    swan, socrates = via.read(GENUINE / "via2_basic_demo.json", attribute="name")
    assert swan.names == ["Swan"] and swan.boxes.tolist() == [[94, 124, 406, 273]]
    assert socrates.names == ["Plato", "Socrates", "Hemlock"]
    assert socrates.boxes.tolist() == [[174, 139, 282, 366], [347, 114, 438, 323], [299, 168, 333, 192]]
    kinds = via.read(GENUINE / "via2_basic_demo.json", attribute="type")
    assert [record.names for record in kinds] == [["bird"], ["human", "human", "cup"]]


@genuine
def test_genuine_via_2_csv_has_the_images_but_no_classes():
    with pytest.warns(SkippedWarning, match="4 × no class name"):
        records = via.read(GENUINE / "via2_basic_demo.csv", invalid="skip")
    assert [record.image.name for record in records] == ["adutta_swan.jpg", "wikimedia_death_of_socrates.jpg"]


def data():
    """Two 12 x 8 images of noise, with 2 and 0 boxes of numbers that decimals do not hold."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[0.1, 0.7, 11.3, 7.9], [1 / 3, 2 / 3, 12, 8]])
    targets = [
        {"boxes": boxes, "labels": torch.tensor([3, 1])},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return DetectionData(images, targets, ("cat", "no cat", 'dög "x"'))


def test_what_is_written_is_read_back(tmp_path):
    given = data()
    records = via.read(via.write(given, tmp_path / "new" / "folder"))
    for record, image, target in zip(records, given.images, given.targets, strict=True):
        assert torch.equal(record.boxes, target["boxes"])
        assert record.names == [given.classes[label - 1] for label in target["labels"]]
        pixels = torch.tensor(list(Image.open(record.image).tobytes()), dtype=torch.uint8)
        assert torch.equal(pixels.reshape(8, 12, 3).permute(2, 0, 1), image)


def test_project_has_what_the_tool_asks_for_when_it_opens_one(tmp_path):
    """What `project_open_parse_json_file` of VIA 2's via.js looks for."""
    given = data()
    path = via.write(given, tmp_path)
    project = json.loads(path.read_text())
    assert project["_via_settings"] and project["_via_img_metadata"] and project["_via_attributes"]
    assert project["_via_settings"]["core"]["default_filepath"] == ""
    assert project["_via_settings"]["project"]["name"] == tmp_path.name
    assert project["_via_image_id_list"] == list(project["_via_img_metadata"])
    assert list(project["_via_attributes"]["region"]["class"]["options"]) == list(given.classes)
    assert project["_via_attributes"]["file"] == {}
    for key, image in project["_via_img_metadata"].items():
        size = (tmp_path / image["filename"]).stat().st_size
        assert image["size"] == size and key == f"{image['filename']}{size}"
        assert isinstance(image["regions"], list) and image["file_attributes"] == {}


def test_ignored_boxes_are_refused(tmp_path):
    given = data()
    given.targets[0]["ignore"] = torch.tensor([False, True])
    with pytest.raises(ValueError, match="image 0 has boxes marked ignore.*coco.write"):
        via.write(given, tmp_path)
    assert not any(tmp_path.iterdir())


def test_interrupted_writing_leaves_no_project(tmp_path, monkeypatch):
    path = via.write(data(), tmp_path)

    def save(self, file, *args, **kwargs):
        file.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(KeyboardInterrupt):
        via.write(data(), tmp_path)
    assert not path.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["000000.png", "000001.png"]
    assert (tmp_path / "000000.png").read_bytes() != b"half a file"
