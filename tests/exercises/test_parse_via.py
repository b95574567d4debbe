"""The reference of `parse_via` on files that VIA and our own writer made, beside `coursekit.data.via.read`."""

import json
import os
from pathlib import Path

import pytest
import torch

from autograder.judge import load_answer
from autograder.lessons import all_exercises
from coursekit.data import scenes, via

EXERCISE = all_exercises()["parse_via"]
parse_via = load_answer(EXERCISE, EXERCISE.reference)


def real(*parts):
    """A project from the test data, and its path."""
    folder = os.environ.get("COURSEKIT_DATA")
    if not folder:
        pytest.skip("COURSEKIT_DATA does not name the folder of the test data")
    path = Path(folder, *parts)
    if not path.exists():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text(encoding="utf-8")), path


def test_scenes_written_as_a_project_come_back(tmp_path):
    data = scenes("val", 12, size=(96, 64), device="cpu")
    parsed = parse_via(json.loads(via.write(data, tmp_path).read_text(encoding="utf-8")))
    assert len(parsed) == 12
    for (boxes, names), target in zip(parsed.values(), data.targets, strict=True):
        assert torch.equal(boxes, target["boxes"])
        assert names == [data.classes[label - 1] for label in target["labels"]]


@pytest.mark.parametrize("shape", [{"name": "ellipse", "cx": 50, "cy": 40, "rx": 30, "ry": 10, "theta": 0.5}])
def test_turned_ellipse_is_bounded_by_its_outline(shape):
    region = {"shape_attributes": shape, "region_attributes": {"class": "pond"}}
    boxes, _ = parse_via({"a": {"filename": "a.png", "regions": [region]}})["a.png"]
    angle = torch.linspace(0, 2 * torch.pi, 100_000)
    turn = torch.tensor(shape["theta"])
    x = shape["cx"] + shape["rx"] * angle.cos() * turn.cos() - shape["ry"] * angle.sin() * turn.sin()
    y = shape["cy"] + shape["rx"] * angle.cos() * turn.sin() + shape["ry"] * angle.sin() * turn.cos()
    torch.testing.assert_close(boxes[0], torch.stack([x.min(), y.min(), x.max(), y.max()]))


def test_genuine_via2_export():
    project, _ = real("via_official", "via2_basic_demo.json")
    parsed = parse_via(project)
    assert [*parsed] == ["adutta_swan.jpg", "wikimedia_death_of_socrates.jpg"]
    swan, socrates = parsed.values()
    assert swan[1] == ["Swan"] and socrates[1] == ["Plato", "Socrates", "Hemlock"]
    assert swan[0].tolist() == [[94, 124, 406, 273]]  # a polygon
    assert socrates[0].tolist() == [[174, 139, 282, 366], [347, 114, 438, 323], [299, 168, 333, 192]]


def test_genuine_via1_export_has_regions_without_a_class():
    project, _ = real("via_official", "unit_test_annotation2.json")
    with pytest.raises(ValueError, match="test_pattern_qbist.jpg"):
        parse_via(project)


def test_genuine_via1_export_where_every_region_has_a_class():
    project, _ = real("via_official", "unit_test_annotation2.json")
    for image in project.values():
        regions = image["regions"]
        image["regions"] = {key: region for key, region in regions.items() if region["region_attributes"]}
    parsed = parse_via(project)
    assert [len(names) for _, names in parsed.values()] == [5, 1, 3]
    boxes, names = parsed["test_pattern_qbist.jpg"]
    assert names[:2] == ['ellipse "red"', "rectangle 'black'"] and names[4] == "1564865"
    assert boxes[:3].tolist() == [[225, 164, 279, 216], [290, 208, 417, 321], [51, 37, 51, 37]]
    assert parsed["sinus_test_pattern.jpg"][0].tolist() == [[105, 135, 428, 299]]  # a polygon


@pytest.mark.parametrize("attribute", ["name", "type"])
def test_genuine_via2_export_agrees_with_the_reader(attribute):
    project, path = real("via_official", "via2_basic_demo.json")
    for image in project.values():
        for region in image["regions"]:
            region["region_attributes"] = {attribute: region["region_attributes"][attribute]}
    agree(parse_via(project), via.read(path, attribute=attribute))


@pytest.mark.parametrize("split", ["train", "test"])
def test_blood_cells_agree_with_the_reader(split):
    project, path = real("bccd", f"{split}_via.json")
    agree(parse_via(project), via.read(path, path.parent / "JPEGImages"))


def agree(parsed, records):
    assert len(parsed) == len(records) > 0
    for (file, (boxes, names)), record in zip(parsed.items(), records, strict=True):
        assert file == record.image.name and names == record.names
        assert torch.equal(boxes, record.boxes)
