"""Lesson 14: the four detectors beside torchvision's, bit for bit; strict loading; the package in a Python of its own."""

import contextlib
import os
import subprocess
import sys

import pytest
import torch

from autograder.lessons import read_cells, sources
from coursekit.package import write_package

KINDS = ("FCOS", "RetinaNet", "FasterRCNN", "SSD300")


def definitions():
    """What the lesson's setup, exercises and cells tagged `detectors` define."""
    path = next(path for path in sources() if path.parent.name == "14_your_detector")
    parts = [cell for cell in read_cells(path) if cell.cell_type == "code"]
    names = {"__name__": "lesson", "__cells__": []}
    with contextlib.chdir(path.parent):
        for cell in parts:
            meta = cell.metadata.get("nbgrader", {})
            wanted = "detectors" in cell.metadata.get("tags", ()) or (meta and not meta["grade"]) or 'earlier("' in cell.source
            if wanted or "def both(" in cell.source:
                names["__cells__"].append(cell.source)
                exec(compile(cell.source, "lesson 14", "exec"), names)
    return names


@pytest.fixture(scope="module")
def lesson():
    """The lesson with the references of the earlier lessons."""
    torch.set_num_threads(1)
    return definitions()


def photographs(*sizes, seed=0):
    dice = torch.Generator().manual_seed(seed)
    return [torch.rand(3, height, width, generator=dice) for height, width in sizes]


@torch.no_grad()
def compare(lesson, kind, seed, images, least, **sizes):
    """Bit equality of all detections, of which there are at least so many."""
    mine, theirs = lesson["both"](kind, seed, **sizes)
    found, expected = mine(images), theirs(images)
    assert sum(len(one["boxes"]) for one in expected) >= least
    assert len(found) == len(images) and lesson["equal"](found, expected)
    assert lesson["equal"](mine.quick()(images), expected)
    return found


@pytest.mark.parametrize("seed, sizes, least", [(0, ((120, 190), (200, 141)), 200), (1, ((97, 64), (64, 131)), 100)])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_detections_are_torchvisions_bit_for_bit(lesson, kind, seed, sizes, least):
    shape = {"shorter": 160, "longer": 224} if seed == 0 else {"shorter": 128, "longer": 200}
    compare(lesson, kind, seed, photographs(*sizes, seed=seed), least, **shape)


def test_ssd300_is_torchvisions_bit_for_bit(lesson):
    found = compare(lesson, "SSD300", 2, photographs((120, 190), (333, 201)), 300)
    assert found[0]["boxes"].max() <= 190 and found[1]["labels"].min() >= 1


def test_a_few_detections_and_none(lesson):
    """Where few candidates pass, all classes go through one NMS; where none pass, the answer is empty."""
    state = lesson["random_state"]("FCOS", 0)
    mine = lesson["FCOS"](shorter=128, longer=160).load(state)
    theirs = lesson["torchvisions"]("FCOS", state, min_size=128, max_size=160)
    images = photographs((90, 120))
    with torch.no_grad():
        levels = sorted(theirs(images)[0]["scores"].tolist())
        for threshold, count in ((levels[-7], 6), (1.0, 0)):
            mine.threshold = theirs.score_thresh = threshold
            found, expected = mine(images), theirs(images)
            assert len(found[0]["boxes"]) == count and lesson["equal"](found, expected)
            assert found[0]["labels"].dtype == torch.int64 and found[0]["boxes"].shape == (count, 4)


def test_files_of_before_2022_load_too(lesson):
    """Older spellings of the pyramid, of RetinaNet's towers and of the RPN; and what batch norms have counted is no weight."""
    for kind, names in (
        ("RetinaNet", ["backbone.fpn.inner_blocks.2.weight", "head.classification_head.conv.6.bias"]),
        ("FasterRCNN", ["rpn.head.conv.weight", "backbone.fpn.layer_blocks.0.bias"]),
    ):
        state = lesson["random_state"](kind, 0)
        old = {lesson["older"](name): tensor for name, tensor in state.items()}
        assert set(names) <= set(old) and len(old) == len(state)
        detector, again = lesson[kind]().load(state), lesson[kind]()
        again.load({**old, "backbone.body.bn1.num_batches_tracked": torch.tensor(3)})
        assert all(torch.equal(one, again.state_dict()[name]) for name, one in detector.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_loading_uses_every_tensor_once_and_fills_every_weight(lesson, kind):
    state = lesson["random_state"](kind, 0)
    detector = lesson[kind]().load(state)
    mine = detector.state_dict()
    assert len(mine) == len(state)
    assert sorted(tensor.double().sum().item() for tensor in mine.values()) == sorted(tensor.double().sum().item() for tensor in state.values())
    name = next(reversed(state))
    with pytest.raises(ValueError, match="nothing for"):
        detector.load({key: tensor for key, tensor in state.items() if key != name})
    with pytest.raises(ValueError, match="roi_tail"):
        detector.load({**state, "roi_tail.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="expected"):
        detector.load({**state, name: torch.ones(3, 1, 4)})


def test_a_file_of_another_detector_or_for_other_classes_is_refused(lesson):
    for kind in KINDS[1:]:
        with pytest.raises(ValueError, match=r"no rule for|does not have|expected|nothing for"):
            lesson["FCOS"]().load(lesson["random_state"](kind, 0))
    with pytest.raises(ValueError, match=r"class_logits.*91.*expected.*21"):
        lesson["FCOS"](num_classes=21).load(lesson["random_state"]("FCOS", 0))


def test_layers_of_other_names_and_order_find_their_weights(lesson):
    """Pairs by shape and by the outputs that depend on a parameter: towers first or last, names of any kind."""
    from torch import nn

    class Mine(nn.Module):
        def __init__(self, channels, anchors, classes):
            super().__init__()
            self.n = classes
            self.z_boxes = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4))
            self.to_boxes = nn.Conv2d(channels, 4 * anchors, 3, padding=1)
            self.to_classes = nn.Conv2d(channels, classes * anchors, 3, padding=1)
            self.a_classes = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4))

        def forward(self, features):
            said = []
            for layers, last, width in ((self.a_classes, self.to_classes, self.n), (self.z_boxes, self.to_boxes, 4)):
                rows = []
                for x in features:
                    for layer in layers:
                        x = layer(x).relu()
                    rows.append(last(x).permute(0, 2, 3, 1).reshape(len(x), -1, width))
                said.append(torch.cat(rows, 1))
            return tuple(said)

    found = dict(lesson["pairs"]("RetinaNetHead", Mine, [8, 3, 5], [[torch.rand(1, 8, 4, 3)]]))
    assert found["classification_head.conv.2.0.weight"] == "a_classes.2.weight"
    assert found["regression_head.bbox_reg.bias"] == "to_boxes.bias" and len(set(found.values())) == len(found) == 20

    class Shallow(Mine):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            del self.z_boxes[3]

    with pytest.raises(ValueError, match="other layers"):
        lesson["pairs"]("RetinaNetHead", Shallow, [8, 3, 5], [[torch.rand(1, 8, 4, 3)]])

    class Unlike(Mine):
        def forward(self, features):
            return super().forward([feature + 1 for feature in features])

    with pytest.raises(ValueError, match="other numbers"):
        lesson["pairs"]("RetinaNetHead", Unlike, [8, 3, 5], [[torch.rand(1, 8, 4, 3)]])


def test_own_pooling_is_torchvisions_up_to_rounding(lesson):
    dice = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 256, 96 >> level, 64 >> level, generator=dice) for level in range(4)]
    regions = []
    for count in (30, 0):
        corner = torch.rand(count, 2, generator=dice) * torch.tensor([250.0, 380])
        regions.append(torch.cat([corner, corner + 300 * torch.rand(count, 2, generator=dice) ** 4], 1))
    regions[0][:2, 2:] = regions[0][:2, :2] + 0.01  # far smaller than a cell
    torch.testing.assert_close(lesson["pool_yours"](maps, regions), lesson["pool_torchvisions"](maps, regions), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def package(lesson, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anywhere")
    return write_package("ada_detectors", "Ada", [lesson[name] for name in (*KINDS, "official")], folder)


def outside(package, code):
    """What a fresh Python prints, started beside the package, where no lesson and no notebook is."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_gives_the_same_detections_in_another_python(lesson, package, tmp_path):
    state, images = lesson["random_state"]("FCOS", 3), photographs((80, 120), (110, 70))
    torch.save({"state": state, "images": images}, tmp_path / "given.pt")
    code = f"""
import torch, ada_detectors
torch.set_num_threads(1)
given = torch.load({str(tmp_path / "given.pt")!r}, weights_only=True)
found = ada_detectors.FCOS(shorter=96, longer=160).load(given["state"])(given["images"])
torch.save(found, {str(tmp_path / "found.pt")!r})
print(ada_detectors.__author__, *ada_detectors.__all__)
"""
    assert outside(package, code).split() == ["Ada", *KINDS, "official"]
    with torch.no_grad():
        here = lesson["FCOS"](shorter=96, longer=160).load(state)(images)
    assert sum(len(one["boxes"]) for one in here) > 50
    assert lesson["equal"](torch.load(tmp_path / "found.pt", weights_only=True), here)


def test_the_package_holds_the_students_code_by_lesson(package):
    files = {file.name: file.read_text(encoding="utf-8") for file in package.glob("*.py")}
    assert {"__init__.py", "detectors.py", "boxes.py", "nms.py", "fcos.py", "fpn.py", "retinanet.py", "ssd.py"} <= set(files)
    assert "def locations(" in files["fcos.py"] and "class TopDown" in files["fpn.py"] and "class FCOS(" in files["detectors.py"]
    text = "\n".join(files.values())
    assert "BEGIN SOLUTION" not in text and "earlier(" not in text and "checks" not in text
    assert "FCOSHead: yours, from 13_fcos" in files["__init__.py"]


def test_who_has_finished_no_other_lesson_has_three_detectors_of_library_parts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("coursekit.earlier._students", lambda *_: (None, None, "as no notebook beside this one holds yours"))
    names = definitions()
    assert list(names["DETECTORS"]) == list(KINDS[1:]) and "FCOSHead: as no notebook" in capsys.readouterr().out
    compare(names, "RetinaNet", 0, photographs((70, 110)), 100, shorter=96, longer=160)
    place = write_package("ada_detectors", "Ada", [names["RetinaNet"]], tmp_path)
    assert [file.name for file in sorted(place.glob("*.py"))] == ["__init__.py", "detectors.py"]
    assert "TopDown: the library's" in (place / "__init__.py").read_text(encoding="utf-8")
