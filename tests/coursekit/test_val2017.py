"""coursekit coco: resumes exactly, says what it needs, and agrees with pycocotools; on five pictures."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from coursekit import cli, val2017
from coursekit.data import download
from coursekit.data.download import DownloadError

REAL = Path(os.environ.get("COURSEKIT_DATA", "nowhere")) / "metrics" / "coco_val2014_fakebbox100"
SIZES = [(40, 30), (30, 40), (50, 20), (64, 64), (33, 21)]
PACKAGE = '''
import pathlib, torch

def detector():
    calls = []
    def detect(images):
        calls.append(len(images))
        stop = pathlib.Path("stop")
        if stop.exists() and len(calls) > 2:
            raise KeyboardInterrupt
        return [
            {"boxes": torch.tensor([[1.0, 2, 11, 14], [0, 0, w / 2, h / 3]]), "scores": image.mean() * torch.tensor([1, 0.5]) / len(images),
             "labels": torch.tensor([90, 7])} for image in images for h, w in [image.shape[1:]]
        ]
    return detect
'''


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """A folder like COCO's, with five pictures, and a module `ada`; the working folder is beside it."""
    folder = tmp_path / "coco"
    (folder / "val2017").mkdir(parents=True), (folder / "annotations").mkdir()
    images, annotations = [], []
    for number, size in enumerate(SIZES):
        name = f"{number:012}.png"
        Image.new("RGB", size, (40 * number, 90, 10)).save(folder / "val2017" / name)
        images.insert(0, {"id": 7 * number, "file_name": name, "width": size[0], "height": size[1]})
        annotations.append({"id": number + 1, "image_id": 7 * number, "category_id": 90, "bbox": [1, 2, 10, 12 - number], "area": 100, "iscrowd": 0})
    categories = [{"id": 7, "name": "train"}, {"id": 90, "name": "toothbrush"}]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(truth))
    (tmp_path / "ada.py").write_text(PACKAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def command(folder, *more):
    return cli.main(["coco", "--folder", str(folder), "--detect", "ada:detector", "--device", "cpu", *more])


@pytest.mark.parametrize("batch", ["1", "2"])
def test_run_that_is_stopped_goes_on_and_ends_with_the_same_file(coco, tmp_path, capsys, batch):
    assert command(coco, "--output", "whole.jsonl", "--batch-size", batch) == 0
    whole = capsys.readouterr().out
    (tmp_path / "stop").touch()
    assert command(coco, "--output", "cut.jsonl", "--batch-size", batch) == 130
    assert "cut.jsonl: the same command goes on" in capsys.readouterr().err
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    done = 1 + 2 * int(batch)
    assert (tmp_path / "cut.jsonl").read_text() == "".join(lines[:done])
    (tmp_path / "stop").unlink()
    # torn in the middle of a line, or of a batch
    (tmp_path / "cut.jsonl").write_text("".join(lines[: done - 1]) + lines[done - 1][:9])
    assert command(coco, "--output", "cut.jsonl", "--batch-size", batch) == 0
    assert (tmp_path / "cut.jsonl").read_text() == "".join(lines)
    assert capsys.readouterr().out == whole
    assert command(coco, "--output", "cut.jsonl", "--batch-size", batch) == 0  # nothing left to do
    assert capsys.readouterr().out == whole


def test_ap_is_that_of_coco_and_stands_beside_the_published_one(coco, capsys):
    assert command(coco, "--detector", "retinanet") == 0
    told = capsys.readouterr().out
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    real = COCO(str(coco / val2017.ANNOTATIONS))
    lines = [json.loads(line) for line in open("coco-retinanet-own.jsonl")][1:]
    entries = [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, *rest in lines for b, s, c in zip(*rest)]
    evaluation = COCOeval(real, real.loadRes(entries), "bbox")
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    AP = evaluation.stats[0]
    assert 0.2 < AP < 0.9 and len(entries) == 10
    assert f"box AP {100 * AP:.1f} on 5 photographs; published for RetinaNet_ResNet50_FPN_Weights.COCO_V1: 36.4" in told
    assert "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]" in told and "of all 5,000" in told


@pytest.mark.skipif(not REAL.is_dir(), reason="no metrics/coco_val2014_fakebbox100 in COURSEKIT_DATA")
def test_table_has_cocos_documented_scores(capsys):
    truth = json.loads((REAL / "gt_100images_bboxarea.json").read_text())
    results = json.loads((REAL / "instances_val2014_fakebbox100_results.json").read_text())
    assert val2017.table(truth, results) == pytest.approx(0.503647, abs=1e-6)
    assert "area= large | maxDets=100 ] = 0.554" in capsys.readouterr().out


@pytest.mark.parametrize("detector, AP", [("fcos", 39.2), ("retinanet", 36.4), ("faster_rcnn", 37.0), ("ssd300", 25.1)])
def test_published_ap_are_those_of_the_issue(detector, AP):
    assert val2017.published(val2017.official(detector)) == AP


def test_a_file_of_another_run_is_left_alone(coco, capsys):
    assert command(coco, "--output", "a.jsonl", "--images", "2") == 0
    before = open("a.jsonl").read()
    assert command(coco, "--output", "a.jsonl") == 2 and open("a.jsonl").read() == before
    assert "is of another run" in capsys.readouterr().err
    open("b.jsonl", "w").write("mine")
    assert command(coco, "--output", "b.jsonl") == 2 and open("b.jsonl").read() == "mine"


def test_without_files_it_says_what_it_takes(coco, tmp_path, capsys):
    assert command(tmp_path / "none") == 2
    told = capsys.readouterr().err
    assert "no " + str(tmp_path / "none" / val2017.ANNOTATIONS) in told and "1.1 GB" in told and "--download" in told
    (coco / "val2017" / "000000000003.png").unlink()
    assert command(coco) == 2
    assert "1 of 5 images are not in" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.jsonl"))


def test_download_asks_for_the_two_archives_and_tells_why_it_failed(tmp_path, monkeypatch, capsys):
    asked = []

    def unreachable(url, path, **_):
        asked.append(url)
        raise DownloadError(f"cannot reach {url}: is this machine online?")

    monkeypatch.setattr(download, "fetch", unreachable)
    assert command(tmp_path / "coco", "--download") == 2
    assert asked == ["http://images.cocodataset.org/annotations/annotations_trainval2017.zip"]
    assert "is this machine online?" in capsys.readouterr().err


def test_download_that_is_there_is_not_asked_for_again(coco, monkeypatch):
    monkeypatch.setattr(download, "fetch", lambda *_, **__: pytest.fail("downloads"))
    assert command(coco, "--download", "--images", "1") == 0


@pytest.mark.parametrize("text, words", [("[", "not valid JSON"), ('{"images": []}', "annotations")])
def test_annotations_that_are_not_coco_are_told(coco, capsys, text, words):
    (coco / val2017.ANNOTATIONS).write_text(text)
    assert command(coco) == 2 and words in capsys.readouterr().err


def test_an_image_of_another_size_is_told(coco, capsys):
    Image.new("RGB", (8, 9)).save(coco / "val2017" / "000000000002.png")
    assert command(coco) == 2
    assert "has (8, 9) pixels, its annotation says (50, 20)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, words",
    [("ada", "expected MODULE:FUNCTION"), ("nobody:detector", "No module named 'nobody'"), ("ada:nothing", "has no attribute 'nothing'")],
)
def test_a_detector_that_is_not_there_is_told(coco, capsys, name, words):
    assert cli.main(["coco", "--folder", str(coco), "--detect", name]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("what, words", [("[]", "0 entries for 1 images"), ("[{}]", "image 0 have no boxes")])
def test_what_is_no_detection_is_told(coco, tmp_path, capsys, what, words):
    module = f"bad{len(what)}"  # each is imported once
    (tmp_path / f"{module}.py").write_text(f"def detector():\n    return lambda images: {what}\n")
    assert cli.main(["coco", "--folder", str(coco), "--detect", f"{module}:detector", "--device", "cpu"]) == 2
    assert words in capsys.readouterr().err


def test_torchvisions_own_with_weights_of_a_file_and_without_network(coco, tmp_path, monkeypatch, capsys):
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: (_ for _ in ()).throw(OSError("offline")))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", torch.hub.load_state_dict_from_url)
    assert cli.main(["coco", "--folder", str(coco), "--detector", "ssd300"]) == 2
    told = capsys.readouterr().err
    assert "ssd300_vgg16_coco-b556d3b4.pth (136 MB)" in told and "--weights FILE" in told
    torch.manual_seed(0)
    model = torchvision.models.get_model("ssd300_vgg16", weights=None, weights_backbone=None)
    torch.save(model.state_dict(), tmp_path / "ssd.pth")
    options = ["coco", "--folder", str(coco), "--weights", str(tmp_path / "ssd.pth"), "--device", "cpu", "--images", "1"]
    assert cli.main([*options, "--detector", "ssd300"]) == 0
    assert "published for SSD300_VGG16_Weights.COCO_V1: 25.1" in capsys.readouterr().out
    assert cli.main([*options, "--detector", "fcos"]) == 2
    assert "no weights of fcos_resnet50_fpn" in capsys.readouterr().err
