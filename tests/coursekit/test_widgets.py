"""Explorers and the annotator without a browser: their state, their read-out, what they leave where nothing can move."""

import json

import nbformat
import pytest
import torch

from coursekit import widgets
from coursekit.data import coco, load, via
from coursekit.widgets import Annotator
from tests.coursekit import widget_answers as my
from tests.coursekit.widget_show import SHOWS


@pytest.mark.parametrize(
    "name, values, expected",
    [
        ("iou", {"boxes": [[0, 0, 10, 10], [5, 0, 15, 10]]}, "Intersection 50, union 150, IoU 0.333."),
        ("iou", {"boxes": [[0, 0, 10, 10], [10, 0, 20, 10]]}, "Intersection 0, union 200, IoU 0.000."),
        ("nms", {"step": 0}, "7 boxes wait."),
        ("nms", {"step": 1}, "Pick 1 of 4: box 0, score 0.95. It removes boxes 1 and 2 (IoU above 0.50). Kept so far: 0."),
        ("nms", {"step": 3}, "Pick 3 of 4: box 4, score 0.70. It removes box 5"),
        ("nms", {"step": 8}, "Nothing is left to pick: 4 of 7 boxes are kept."),
        ("nms", {"step": 1, "threshold": 0.95}, "It changes no other box."),
        ("nms", {"step": 1, "method": "Soft-NMS"}, "It lowers box 1 to "),
        ("average_precision", {"detections": 0}, "0 of 4 detections. AP: VOC, 11 points 0.0000, area 0.0000"),
        ("average_precision", {}, "AP: VOC, 11 points 0.6136, area 0.6250, COCO, 101 points 0.6287."),
        ("average_precision", {"detections": 2}, "is wrong: precision 1/2 = 0.500, recall 1/4 = 0.250"),
        ("roi", {"boxes": [[16, 16, 64, 48]]}, "The region is (1.00, 1.00, 4.00, 3.00) in cells. RoIPool reads columns 1 to 4"),
        ("focal_loss", {"gamma": 0.0, "alpha": 0.5}, "an object at p = 0.1 costs 1.151, background at p = 0.01 costs 0.00503"),
        ("level", {"boxes": [[0, 0, 112, 112]]}, "√(wh) = 112.0: level P3, of stride 8. There it is 14.0 × 14.0 cells."),
        ("level", {"boxes": [[0, 0, 111, 112]]}, "level P2"),
        ("anchors", {"level": 6, "shape": "1"}, "Level 6 of 6: 2 × 1 cells, scale 0.900, cell (1, 0), anchors 9642 to 9647"),
        ("anchors", {"level": 5, "across": 0.0, "down": 0.99}, "3 × 2 cells, scale 0.760, cell (0, 1), anchors 9618 to 9623"),
        ("proposals", {"before": 10, "after": 1}, "The 10 anchors of highest objectness give 1 proposals"),
        ("fcos", {"boxes": [[0, 0, 40, 40], [64, 64, 128, 128]]}, "ambiguous 0."),
        ("fsaf", {"level": 3}, "A 0 effective, 24 ignored; B 6 effective, 14 ignored."),
        ("fsaf", {"level": 5}, "B 0 effective, 0 ignored."),
    ],
)  # fmt: skip
def test_the_read_out_says_what_the_functions_give(name, values, expected):
    explorer = SHOWS[name]()
    explorer.set(**values)
    assert expected in explorer.text
    assert "nan" not in explorer.text


def test_a_wrong_iou_is_seen_in_the_areas():
    def without_clamp(a, b):
        sides = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
        shared = sides.prod(1)
        return (shared / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared))[None]

    explorer = widgets.explore_iou(without_clamp, boxes=((0, 0, 10, 10), (20, 20, 30, 30)))
    assert "Intersection 100, union 100, IoU 1.000" in explorer.text


def test_forced_anchors_stay_and_second_chances_go_as_the_threshold_rises():
    explorer = SHOWS["matching"]()
    assert "3 forced (the best of an object), 2 by second chance (IoU above 0.50)" in explorer.text
    explorer.set(threshold=0.95)
    assert "3 forced (the best of an object), 0 by second chance (IoU above 0.95)" in explorer.text


def test_soft_nms_steps_end_at_the_scores_that_soft_nms_returns():
    boxes, scores = my.crowd()
    explorer = widgets.explore_nms(my.nms, boxes, scores, soft_nms=my.soft_nms)
    for step, (pick, score) in enumerate(zip(*my.soft_nms(boxes, scores)), start=1):
        explorer.set(method="Soft-NMS", step=step)
        assert f"box {int(pick)}, score {float(score):.2f}." in explorer.text


def test_ambiguous_locations_are_those_that_both_objects_would_get():
    explorer = SHOWS["fcos"]()
    assert "P4" in explorer.text and "ambiguous 4" in explorer.text
    same = [[20, 20, 84, 84], [22, 22, 82, 82]]
    explorer.set(boxes=same, level="P4")
    points = my.locations((8, 8), 16)
    inner = my.fcos_targets([points], torch.tensor(same[1:]).float(), torch.tensor([1]), (32, 64))[0].sum()
    outer = my.fcos_targets([points], torch.tensor(same[:1]).float(), torch.tensor([1]), (32, 64))[0].sum()
    assert f"B {int(inner)}; ambiguous {int(min(inner, outer))}" in explorer.text


@pytest.mark.parametrize(
    "values, error",
    [
        ({"step": 99}, "step=99, expected 0 to 8"),
        ({"method": "best"}, "method='best', expected one of 'NMS', 'Soft-NMS'"),
        ({"boxes": [[0, 0, 1, 1]]}, "1 boxes, expected 0"),
        ({"colour": 1}, "no value 'colour'"),
    ],
)
def test_values_that_cannot_be_are_refused(values, error):
    with pytest.raises((ValueError, KeyError), match=error):
        SHOWS["nms"]().set(**values)


def test_where_nothing_moves_each_run_leaves_the_same_figure_and_text_and_no_widget(photos, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("COURSEKIT_QUIET", "1")
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    tool = Annotator(photos, ("cup",))
    tool.add([2, 3, 20, 40])
    tool.save()
    sources = {
        "SHOWS['iou']()": SHOWS["iou"]().text,
        "SHOWS['nms']()": SHOWS["nms"]().text,
        f"Annotator({str(photos)!r}, ('cup',))": tool.text,
    }
    setup = (
        "import sys\nfrom coursekit.widgets import Annotator\nfrom tests.coursekit.widget_show import SHOWS"
    )
    last = "print('ipywidgets' in sys.modules, 'anywidget' in sys.modules)"
    cells = [nbformat.v4.new_code_cell(text) for text in (setup, *sources, *sources, last)]
    book = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(book, timeout=120, kernel_name="python3", coalesce_streams=True).execute()
    _, *shown, told = [cell.outputs for cell in cells]
    assert told[0].text == "False False\n"
    assert shown[:3] == shown[3:]
    for (picture, text), expected in zip(shown, sources.values()):
        assert set(picture.data) == {"image/png", "text/plain"}
        assert set(text.data) == {"text/html", "text/plain"} and expected in text.data["text/plain"]


@pytest.mark.parametrize("name", SHOWS)
def test_an_explorer_draws_and_says_the_same_each_time(name):
    first, again = SHOWS[name](), SHOWS[name]()
    assert first.text == again.text and first.alt
    assert first.picture(with_handles=True) == again.picture(with_handles=True)


@pytest.fixture
def board_of():
    """The board in an explorer's panel, with `press(boxes=...)` as the browser would send it."""
    pytest.importorskip("anywidget")

    def find(shown):
        panel = shown.panel()
        return panel, panel.children[-1]

    return find


def test_a_dragged_box_comes_back_as_picture_and_read_out(board_of):
    explorer = SHOWS["iou"]()
    _, board = board_of(explorer)
    before = board.picture
    board._handle_custom_msg({"boxes": [[0, 0, 10, 10], [5, 0, 15, 10]], "count": 7}, [])
    assert board.scene["text"].endswith("IoU 0.333.") and board.scene["count"] == 7
    assert board.picture != before and board.scene["boxes"][1] == [5, 0, 15, 10]


def test_the_frame_says_where_the_axes_lie_in_the_picture():
    explorer = widgets.Explorer(
        lambda values: (
            "",
            lambda ax: (ax.set(xlim=(0, 20), ylim=(10, 0)), ax.axis("off"), ax.axvspan(0, 20, color="red")),
        ),
        alt="red",
    )
    import io

    import numpy
    from PIL import Image

    png, place = explorer.picture(with_handles=True)
    pixels = numpy.array(Image.open(io.BytesIO(png)).convert("RGB"))
    assert [pixels.shape[1], pixels.shape[0]] == place["size"] and place["view"] == [0, 0, 20, 10]
    ys, xs = numpy.nonzero((pixels == [255, 0, 0]).all(-1))
    assert numpy.allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], place["frame"], atol=1.5)


def test_an_error_of_the_students_function_is_said_in_the_read_out(board_of):
    def fragile(a, b):
        if a[0, 0] > 50:
            raise NotImplementedError("YOUR CODE HERE")
        return my.box_iou(a, b)

    explorer = widgets.explore_iou(fragile)
    _, board = board_of(explorer)
    board._handle_custom_msg({"boxes": [[60, 0, 90, 10], [5, 0, 15, 10]], "count": 1}, [])
    assert board.scene["text"] == "Your function stopped with NotImplementedError: YOUR CODE HERE"
    board._handle_custom_msg({"boxes": [[0, 0, 10, 10], [5, 0, 15, 10]], "count": 2}, [])
    assert board.scene["text"].endswith("IoU 0.333.")


def test_buttons_step_to_the_ends_and_no_further(board_of):
    explorer = SHOWS["average_precision"]()
    panel, board = board_of(explorer)
    slider, back, on = panel.children[0].children[0].children
    on.click()
    assert slider.value == 4
    back.click()
    assert "3 of 4 detections" in board.scene["text"]


def test_shown_in_a_notebook_it_leaves_a_picture_for_viewers_without_widgets(board_of, monkeypatch):
    shown = []
    monkeypatch.setattr("coursekit.widgets.explorer.audience", lambda: "notebook")
    monkeypatch.setattr("IPython.display.display", lambda content, **_: shown.append(content))
    explorer = SHOWS["iou"]()
    explorer.show()
    (content,) = shown
    assert content["image/png"].startswith(b"\x89PNG") and explorer.text in content["text/plain"]
    assert content["application/vnd.jupyter.widget-view+json"]["model_id"]


@pytest.fixture
def photos(tmp_path):
    from PIL import Image

    for name, size in (("b.png", (64, 40)), ("a.jpg", (30, 50)), ("c.png", (20, 20))):
        Image.new("RGB", size, "teal").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_annotations_are_saved_for_via_and_coco_and_load_again(photos):
    tool = Annotator(photos, ("cup", "plate"))
    tool.add([2, 3, 20, 40])
    tool.go(1)
    tool.add([-5, 10, 30, 90], "plate")
    tool.add()
    tool.rename("cup")
    assert (
        "b.png, image 2 of 3, 64 × 40 pixels, 2 boxes: 1: plate (0, 10, 30, 40); 2: cup (21, 13, 43, 27)."
        in tool.text
    )
    assert tool.text.endswith("Not saved yet.")
    project, annotations = tool.save()
    assert tool.text.endswith("Saved.")
    for records in (via.read(project), coco.read(annotations), Annotator(photos, ("cup", "plate")).records()):
        assert [record.image.name for record in records] == ["a.jpg", "b.png", "c.png"]
        assert [record.names for record in records] == [["cup"], ["plate", "cup"], []]
        assert records[1].boxes.tolist() == [[0, 10, 30, 40], [21, 13, 43, 27]]
    data = load(tool.records(), tool.classes, 64)
    assert [target["labels"].tolist() for target in data.targets] == [[1], [2, 1], []]


def test_what_was_annotated_saved_and_loaded_is_trained_on(tmp_path):
    """Annotate, save, load, and some steps of `fit`, as lesson 05 says."""
    from PIL import Image

    from coursekit.training import fit

    for i, place in enumerate(([4, 4], [20, 9], [11, 30], [25, 22])):
        picture = Image.new("RGB", (64, 48), "navy")
        picture.paste("gold", (*place, place[0] + 16, place[1] + 12))
        picture.save(tmp_path / f"{i}.png")
    tool = Annotator(tmp_path, ("cup", "plate"))
    for x, y in ([4, 4], [20, 9], [11, 30], [25, 22]):
        tool.add([x, y, x + 16, y + 12], "plate")
        tool.go(1)
    project, annotations = tool.save()
    data = load(via.read(project), tool.classes, (32, 24))
    assert [target["boxes"].tolist() for target in data.targets[:2]] == [[[2, 2, 10, 8]], [[10, 4.5, 18, 10.5]]]
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in
               zip(data.targets, load(coco.read(annotations), tool.classes, (32, 24)).targets))  # fmt: skip
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=8), torch.nn.Flatten(), torch.nn.LazyLinear(4))
    model(torch.zeros(1, 3, 24, 32))

    def loss(model, images, targets):
        wanted = torch.cat([target["boxes"][:1] for target in targets]) / 32
        return {"box": (model(images) - wanted).abs().mean()}

    history = fit(model, loss, data, steps=40, batch_size=4, flip=False, peak_rate=3e-2, progress=False)
    assert history.total[-1] < 0.5 * history.total[0]


def test_what_was_annotated_in_via_is_where_the_annotator_begins(photos):
    shape = {"name": "polygon", "all_points_x": [3, 12, 5], "all_points_y": [4, 9, 18]}
    regions = [{"shape_attributes": shape, "region_attributes": {"kind": "cup"}}]
    export = {"a.jpg9": {"filename": "a.jpg", "size": 9, "regions": regions, "file_attributes": {}}}
    (photos / "elsewhere.json").write_text(json.dumps(export))
    tool = Annotator(photos, ("cup",), project=photos / "elsewhere.json")
    assert "1 box: 1: cup (3, 4, 12, 18)." in tool.text
    with pytest.raises(ValueError, match="unknown class 'cup', expected one of spoon"):
        Annotator(photos, ("spoon",), project=photos / "elsewhere.json")


def test_boxes_are_moved_chosen_renamed_and_deleted(photos):
    tool = Annotator(photos, ("cup", "plate"))
    tool.add([1, 1, 9, 9])
    tool.add([5, 5, 20, 20])
    tool.choose(0)
    tool.rename("plate")
    tool.move([[2, 2, 9, 9], [5, 5, 20, 21]])
    tool.delete(1)
    assert "1 box: 1: plate (2, 2, 9, 9)." in tool.text
    tool.add()
    assert tool.names["a.jpg"] == ["plate", "plate"], "a new box is what the last one was"
    with pytest.raises(ValueError, match="no area within the 30×50 image"):
        tool.add([40, 3, 60, 20])
    with pytest.raises(ValueError, match="unknown class 'fork', expected one of cup, plate"):
        tool.add(name="fork")


def test_records_of_images_elsewhere_are_refused(photos, tmp_path_factory):
    records = Annotator(photos, ("cup",)).records()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for write in (via.write, coco.write):
        with pytest.raises(ValueError, match="write the file into the folder of the images"):
            write(records, elsewhere, ("cup",))
        with pytest.raises(ValueError, match="give classes, label 1 first"):
            write(records, photos)


def test_an_annotator_without_images_or_classes_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="no image in .*expected some of .*.jpg"):
        Annotator(tmp_path, ("cup",))
    with pytest.raises(FileNotFoundError, match="make it and put your images into it"):
        Annotator(tmp_path / "none", ("cup",))
    with pytest.raises(ValueError, match="no classes"):
        Annotator(tmp_path, ())


def test_the_annotators_board_draws_deletes_and_says_what_went_wrong(photos, board_of):
    tool = Annotator(photos, ("cup", "plate"))
    _, board = board_of(tool)
    board._handle_custom_msg({"event": "draw", "box": [1, 2, 11, 12], "boxes": [], "count": 1}, [])
    assert board.scene["boxes"] == [[1, 2, 11, 12]] and board.scene["focus"] == 0
    board._handle_custom_msg({"boxes": [[1, 2, 12, 12]], "count": 2}, [])
    assert board.scene["looks"][0]["name"] == "1 cup" and "(1, 2, 12, 12)" in board.scene["text"]
    press = {"event": "draw", "boxes": [[1, 2, 12, 12]], "count": 3}
    board._handle_custom_msg(press | {"box": [1, 2, 1, 12]}, [])
    assert board.scene["text"].startswith("ValueError: box [1.0, 2.0, 1.0, 12.0] has no area")
    tool.go(1)
    tool.add([3, 3, 9, 9])
    board._handle_custom_msg({"boxes": [[1, 2, 13, 13]], "count": 4, "key": "a.jpg"}, [])
    assert tool.boxes["a.jpg"] == [[1, 2, 13, 13]] and tool.boxes["b.png"] == [[3, 3, 9, 9]], "a late move"
    tool.go(-1)
    board._handle_custom_msg({"event": "delete", "index": 0, "boxes": [[1, 2, 13, 13]], "count": 5}, [])
    assert board.scene["boxes"] == [] and tool.records()[0].names == []
