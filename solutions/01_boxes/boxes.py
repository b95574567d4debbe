# %% [markdown]
r"""
# 1 · Boxes

Coordinates, overlap, flipping and annotation files.
"""

# %% setup=true
import json
import math
import tempfile

import torch

from coursekit.checks import check, passed, raises, same, untouched
from coursekit.data import scenes, via
from coursekit.plot import curve, figure, show_boxes, show_image, table

# %% exercise="xyxy_to_cxcywh"
def xyxy_to_cxcywh(boxes):
    """The same boxes by centre and size.

    Args:
        boxes (Tensor[N, 4]): (x1, y1, x2, y2), in pixels.

    Returns:
        Tensor[N, 4]: (cx, cy, w, h), in pixels; a new tensor.
    """
    ### BEGIN SOLUTION
    x1, y1, x2, y2 = boxes.unbind(1)  # [N] each
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1)
    ### END SOLUTION

# %% check="xyxy_to_cxcywh" points=2
can = torch.tensor([[400.0, 120, 540, 400]])
same(xyxy_to_cxcywh(can), [[470, 260, 140, 280]], "the can: its centre is (470, 260), it is 140 wide and 280 high")
tile = torch.tensor([[0.0, 0, 9, 9]])
same(xyxy_to_cxcywh(tile), [[4.5, 4.5, 9, 9]], "9 pixels from 0 to 9, half of that is 4.5: nothing is rounded, no 1 is added")
### BEGIN HIDDEN TESTS
from torchvision.ops import box_convert

generator = torch.Generator().manual_seed(1)
many = torch.rand(7, 4, generator=generator) * torch.tensor([300.0, 200, 90, 250])
many[:, 2:] += many[:, :2]
same(xyxy_to_cxcywh(many), box_convert(many, "xyxy", "cxcywh"), "seven random boxes, one a row")
same(xyxy_to_cxcywh(many.double()), box_convert(many.double(), "xyxy", "cxcywh"), "boxes in float64 give float64")
same(xyxy_to_cxcywh(torch.zeros(0, 4)), torch.zeros(0, 4), "no box in, no box out: shape [0, 4]")
same(xyxy_to_cxcywh(torch.tensor([[-30.0, 5, -10, 5]])), [[-20.0, 5, 20, 0]], "a box left of the image, without height")
untouched(xyxy_to_cxcywh, many)
### END HIDDEN TESTS

# %% exercise="cxcywh_to_xyxy"
def cxcywh_to_xyxy(boxes):
    """The same boxes by their corners.

    Args:
        boxes (Tensor[N, 4]): (cx, cy, w, h), in pixels.

    Returns:
        Tensor[N, 4]: (x1, y1, x2, y2), in pixels; a new tensor.
    """
    ### BEGIN SOLUTION
    cx, cy, w, h = boxes.unbind(1)  # [N] each
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    ### END SOLUTION

# %% check="cxcywh_to_xyxy" points=2
can = torch.tensor([[470.0, 260, 140, 280]])
same(cxcywh_to_xyxy(can), [[400, 120, 540, 400]], "the can again: 70 to either side of 470, 140 above and below 260")
tile = torch.tensor([[4.5, 4.5, 9, 9]])
same(cxcywh_to_xyxy(tile), [[0, 0, 9, 9]], "half of 9 is 4.5: nothing is rounded")
### BEGIN HIDDEN TESTS
from torchvision.ops import box_convert

generator = torch.Generator().manual_seed(2)
many = torch.rand(7, 4, generator=generator) * torch.tensor([300.0, 200, 90, 250])
same(cxcywh_to_xyxy(many), box_convert(many, "cxcywh", "xyxy"), "seven random boxes, one a row")
same(cxcywh_to_xyxy(many.double()), box_convert(many.double(), "cxcywh", "xyxy"), "boxes in float64 give float64")
same(cxcywh_to_xyxy(torch.zeros(0, 4)), torch.zeros(0, 4), "no box in, no box out: shape [0, 4]")
same(cxcywh_to_xyxy(torch.tensor([[3.0, -8, 0, 5]])), [[3.0, -10.5, 3, -5.5]], "a box above the image, without width")
untouched(cxcywh_to_xyxy, many)
### END HIDDEN TESTS

# %% exercise="box_area"
def box_area(boxes):
    """The area of each box.

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels.

    Returns:
        Tensor[N]: in square pixels; 0 for a box without width or height.
    """
    ### BEGIN SOLUTION
    x1, y1, x2, y2 = boxes.unbind(1)  # [N] each
    return (x2 - x1) * (y2 - y1)
    ### END SOLUTION

# %% check="box_area" points=1
two = torch.tensor([[400.0, 120, 540, 400], [0, 0, 0.5, 0.25]])
same(box_area(two), [39200, 0.125], "the can is 140 x 280 = 39200; boxes may be smaller than a pixel")
### BEGIN HIDDEN TESTS
import torchvision

generator = torch.Generator().manual_seed(3)
many = torch.rand(7, 4, generator=generator) * torch.tensor([300.0, 200, 90, 250])
many[:, 2:] += many[:, :2]
same(box_area(many), torchvision.ops.box_area(many), "seven random boxes, one number for each")
same(box_area(many.double()), torchvision.ops.box_area(many.double()), "boxes in float64 give float64")
same(box_area(torch.zeros(0, 4)), torch.zeros(0), "no box, no area: shape [0]")
same(box_area(torch.tensor([[5.0, 7, 5, 30], [-9, 4, -2, 4]])), [0, 0], "a line has no area")
untouched(box_area, many)
### END HIDDEN TESTS

# %% exercise="box_iou"
def box_iou(boxes1, boxes2):
    """Intersection over union of every pair: how much of what two boxes cover, both cover.

    Args:
        boxes1 (Tensor[N, 4]): xyxy, in pixels.
        boxes2 (Tensor[M, 4]): likewise.

    Returns:
        Tensor[N, M]: in 0..1; row i, column j is for boxes1[i] and boxes2[j]. 0 for boxes that are apart or only
            touch, and where either has no area.
    """
    ### BEGIN SOLUTION
    top_left = torch.maximum(boxes1[:, None, :2], boxes2[None, :, :2])  # [N, M, 2]
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])  # [N, M, 2]
    width, height = (bottom_right - top_left).clamp(min=0).unbind(2)  # [N, M] each
    intersection = width * height
    union = box_area(boxes1)[:, None] + box_area(boxes2)[None, :] - intersection
    return intersection / torch.where(union > 0, union, 1)  # 0 / 0 becomes 0 / 1
    ### END SOLUTION

# %% check="box_iou" points=3
box = torch.tensor([[0.0, 0, 10, 10]])
same(box_iou(box, torch.tensor([[3.0, 3, 13, 13]])), [[49 / 151]], "7 x 7 shared of 100 + 100 - 49")
same(box_iou(box, box), [[1]], "a box and itself")
same(box_iou(box, torch.tensor([[2.0, 4, 7, 8]])), [[20 / 100]], "5 x 4 inside of 10 x 10")
two, three = torch.tensor([[0.0, 0, 4, 2], [2, 1, 6, 3]]), torch.tensor([[0.0, 0, 4, 2], [0, 1, 4, 3], [2, 0, 4, 2]])
same(box_iou(two, three), [[1, 4 / 12, 4 / 8], [2 / 14, 4 / 12, 2 / 10]], "2 boxes against 3: a row for each of the first")
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(4)
corners, sizes = torch.rand(12, 2, generator=generator) * 60, torch.rand(12, 2, generator=generator) * torch.tensor([80.0, 40]) + 1
many = torch.cat([corners, corners + sizes], 1)
seven, five = many[:7], many[7:]
oracle = [
    [
        (shared := max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1])))
        / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
        for b in five.tolist()
    ]
    for a in seven.tolist()
]
same(box_iou(seven, five), torch.tensor(oracle), "seven random boxes against five")
same(box_iou(seven.double(), five.double()), torch.tensor(oracle, dtype=torch.float64), "boxes in float64 give float64")
unit = torch.tensor([[0.0, 0, 0.5, 0.5]])
same(box_iou(unit, unit + torch.tensor([0.25, 0, 0.25, 0])), [[1 / 3]], "boxes smaller than a pixel: half shared")
untouched(box_iou, seven, five)
### END HIDDEN TESTS

# %% check="box_iou" part="edges" points=2
a, b = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[1.0, 6, 3, 8]])
same(box_iou(a, b), [[0]], "side by side in x, apart in y: they share nothing")
same(box_iou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[5.0, 5, 6, 6]])), [[0]], "apart in x and in y: they share nothing")
same(box_iou(a, torch.tensor([[4.0, 0, 8, 4]])), [[0]], "boxes that touch along a side share no area")
### BEGIN HIDDEN TESTS
c, d = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[6.0, 1, 8, 3]])
same(box_iou(c, d), [[0]], "side by side in y, apart in x: they share nothing")
same(box_iou(d, c), [[0]], "apart in x, the left box second: they share nothing")
same(box_iou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 1, 3, 2]])), [[0]], "a corner's height shared, apart in x")
same(box_iou(a, torch.tensor([[4.0, 4, 6, 9]])), [[0]], "boxes that touch at a corner share no area")
lines = torch.tensor([[5.0, 5, 5, 5], [2, 1, 2, 3]])
same(box_iou(lines, lines), torch.zeros(2, 2), "boxes without area: 0, not 0 / 0")
same(box_iou(a, lines), torch.zeros(1, 2), "a line inside a box covers none of it")
same(box_iou(torch.zeros(0, 4), torch.zeros(3, 4)), torch.zeros(0, 3), "no boxes against 3")
same(box_iou(torch.zeros(2, 4), torch.zeros(0, 4)), torch.zeros(2, 0), "2 boxes against none")
same(box_iou(torch.zeros(0, 4), torch.zeros(0, 4)), torch.zeros(0, 0), "none against none")
### END HIDDEN TESTS

# %% exercise="flip_boxes"
def flip_boxes(boxes, width):
    """The boxes of an image's objects after the image is mirrored left to right.

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels.
        width (int or float): of the image, in pixels.

    Returns:
        Tensor[N, 4]: xyxy with x1 <= x2, in the order of `boxes`; a new tensor.
    """
    ### BEGIN SOLUTION
    x1, y1, x2, y2 = boxes.unbind(1)  # [N] each
    return torch.stack([width - x2, y1, width - x1, y2], 1)  # the right side becomes the left one
    ### END SOLUTION

# %% check="flip_boxes" points=2
can = torch.tensor([[400.0, 120, 540, 400]])
same(flip_boxes(can, 640), [[100, 120, 240, 400]], "the can on 640 pixels: 100 from the right border, then 100 from the left")
edge = torch.tensor([[540.0, 0, 640, 50]])
same(flip_boxes(edge, 640), [[0, 0, 100, 50]], "a box at the right border is then at the left one, from 0 on")
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(5)
many = torch.rand(7, 4, generator=generator) * torch.tensor([60.0, 50, 40, 90])
many[:, 2:] += many[:, :2]
oracle = [[101 - x2, y1, 101 - x1, y2] for x1, y1, x2, y2 in many.tolist()]
same(flip_boxes(many, 101), torch.tensor(oracle), "seven random boxes on 101 pixels")
same(flip_boxes(many.double(), 101), torch.tensor(oracle, dtype=torch.float64), "boxes in float64 give float64")
same(flip_boxes(torch.zeros(0, 4), 64), torch.zeros(0, 4), "no box in, no box out: shape [0, 4]")
same(flip_boxes(torch.tensor([[-4.0, 1, 3, 9]]), 32.5), [[29.5, 1, 36.5, 9]], "a box over the left border, width 32.5")
untouched(flip_boxes, many, 101)
### END HIDDEN TESTS

# %% exercise="parse_via"
def parse_via(project):
    """Boxes and class names of a VGG Image Annotator file.

    Args:
        project (dict): what `json.load` gives, of an export or a project file, of VIA 1 or VIA 2.

    Returns:
        dict: for each file name (boxes, names): boxes Tensor[M, 4] float32, xyxy, in pixels, and names, a list of M
            strings, both in the order of the file. An image without regions has boxes [0, 4] and [].

    Raises:
        ValueError: if a region has no class name; says which image.
    """
    ### BEGIN SOLUTION
    found = {}
    for image in project.get("_via_img_metadata", project).values():
        regions = image["regions"]
        boxes, names = [], []
        for region in regions.values() if isinstance(regions, dict) else regions:
            shape, attributes = region["shape_attributes"], region["region_attributes"]
            if "all_points_x" in shape:  # polygon, polyline
                xs, ys = shape["all_points_x"], shape["all_points_y"]
                box = [min(xs), min(ys), max(xs), max(ys)]
            elif shape["name"] == "rect":
                x, y = shape["x"], shape["y"]
                box = [x, y, x + shape["width"], y + shape["height"]]
            else:  # circle, ellipse, point
                x, y, r = shape["cx"], shape["cy"], shape.get("r", 0)
                rx, ry, theta = shape.get("rx", r), shape.get("ry", r), shape.get("theta", 0)
                half_w = math.hypot(rx * math.cos(theta), ry * math.sin(theta))
                half_h = math.hypot(rx * math.sin(theta), ry * math.cos(theta))
                box = [x - half_w, y - half_h, x + half_w, y + half_h]
            name = str(next(iter(attributes.values()), "")).strip()
            if not name:
                raise ValueError(f"{image['filename']}, region {len(names)}: no class name in {attributes}")
            boxes.append(box)
            names.append(name)
        found[image["filename"]] = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), names
    return found
    ### END SOLUTION

# %% check="parse_via" points=3
car = {
    "shape_attributes": {"name": "rect", "x": 10, "y": 20, "width": 30, "height": 5},
    "region_attributes": {"class": "car"},
}
street = {"filename": "street.png", "size": 9001, "regions": [car], "file_attributes": {}}
boxes_of_street = {"street.png": (torch.tensor([[10.0, 20, 40, 25]]), ["car"])}
same(parse_via({"street.png9001": street}), boxes_of_street, "VIA 2, an export: regions is a list")
old_street = {**street, "regions": {"0": car}}
same(parse_via({"street.png9001": old_street}), boxes_of_street, "VIA 1: regions is a dict, its keys are '0', '1', ...")
project = {"_via_settings": {}, "_via_img_metadata": {"street.png9001": street}, "_via_attributes": {}}
same(parse_via(project), boxes_of_street, "a saved project: the images are one level further down")
### BEGIN HIDDEN TESTS
rows = [
    {
        "shape_attributes": {"name": "rect", "x": i, "y": 2 * i + 0.5, "width": 3 + i, "height": 40 - 3 * i},
        "region_attributes": {"Art": str(i % 3)},
    }
    for i in range(11)
]
images = {
    "b.png70": {"filename": "b.png", "size": 70, "regions": rows[:4]},
    "empty.png5": {"filename": "empty.png", "size": 5, "regions": []},
    "a.jpg-1": {"filename": "a.jpg", "size": -1, "regions": rows[4:]},
}
expected = {
    name: (torch.tensor([[i, 2 * i + 0.5, 2 * i + 3, 40.5 - i] for i in numbers]).reshape(-1, 4), [str(i % 3) for i in numbers])
    for name, numbers in (("b.png", range(4)), ("empty.png", ()), ("a.jpg", range(4, 11)))
}
same(parse_via(images), expected, "three images, one of them without regions; the classes are called '0', '1', '2'")
one_dict = {"many.png1": {"filename": "many.png", "regions": {str(i): row for i, row in enumerate(rows)}}}
same(
    parse_via(one_dict),
    {"many.png": ([[i, 2 * i + 0.5, 2 * i + 3, 40.5 - i] for i in range(11)], [str(i % 3) for i in range(11)])},
    "VIA 1 with eleven regions, in the order of the file",
)
gap = {"gap.png1": {"filename": "gap.png", "regions": {"0": rows[0], "2": rows[2]}}}
same(parse_via(gap), {"gap.png": ([[0, 0.5, 3, 40.5], [2, 4.5, 7, 38.5]], ["0", "2"])}, "VIA 1 after region '1' was deleted")
bare = {"_via_img_metadata": {"x.png9": {"filename": "x.png", "regions": {}}}}
same(parse_via(bare), {"x.png": (torch.zeros(0, 4), [])}, "VIA 1, an image without regions: boxes [0, 4] and no names")
same(parse_via({"_via_img_metadata": {}}), {}, "a project without images")
untouched(parse_via, {"_via_img_metadata": images}, hint="the project belongs to the caller: leave it as it is")
### END HIDDEN TESTS

# %% check="parse_via" part="shapes" points=2
park = {
    "filename": "park.png",
    "regions": [
        {
            "shape_attributes": {"name": "circle", "cx": 50, "cy": 30, "r": 8},
            "region_attributes": {"species": "oak"},
        },
        {
            "shape_attributes": {"name": "polygon", "all_points_x": [20, 35, 5], "all_points_y": [40, 52, 60]},
            "region_attributes": {"species": "pond"},
        },
    ],
}
boxes_of_park = {"park.png": ([[42, 22, 58, 38], [5, 40, 35, 60]], ["oak", "pond"])}
same(parse_via({"park.png1": park}), boxes_of_park, "a circle and a triangle: the smallest box around each")
### BEGIN HIDDEN TESTS
shapes = [
    {"name": "rect", "x": 1.5, "y": 2, "width": 7, "height": 3},
    {"name": "polygon", "all_points_x": [9, 3, 7, 4, 9], "all_points_y": [11, 12, 30, 13, 11]},
    {"name": "circle", "cx": 4, "cy": 90.5, "r": 6.5},
    {"name": "rect", "x": 60, "y": 70, "width": 2, "height": 9},
]
names = ["cat", "dog", "cat", "bird"]
zoo = [{"shape_attributes": shape, "region_attributes": {"tier": name}} for shape, name in zip(shapes, names)]
boxes = torch.tensor([[1.5, 2, 8.5, 5], [3, 11, 9, 30], [-2.5, 84, 10.5, 97], [60, 70, 62, 79]])
same(parse_via({"z": {"filename": "zoo.jpg", "regions": zoo}}), {"zoo.jpg": (boxes, names)}, "four regions of three shapes")
### END HIDDEN TESTS

# %% check="parse_via" part="errors" points=1
nameless = {"shape_attributes": {"name": "circle", "cx": 5, "cy": 5, "r": 2}, "region_attributes": {}}
lake = {"filename": "lake.png", "regions": [nameless]}
raises(ValueError, "lake.png", parse_via, {"lake.png1": lake}, hint="a region without attributes: say in which image")
### BEGIN HIDDEN TESTS
unset = {**nameless, "region_attributes": {"class": ""}}
harbour = {"filename": "harbour.png", "regions": {"0": {**nameless, "region_attributes": {"class": "ship"}}, "1": unset}}
raises(ValueError, "harbour.png", parse_via, {"l1": {**lake, "regions": []}, "h1": harbour}, hint="the class of a region left empty")
### END HIDDEN TESTS
