"""Right answers in other forms for `01_boxes`."""

import itertools

import numpy
import torch
import torchvision

# xyxy_to_cxcywh


def xyxy_to_cxcywh__halves(boxes):
    size = boxes[:, 2:] - boxes[:, :2]
    return torch.cat([boxes[:, :2] + size / 2, size], dim=1)


def xyxy_to_cxcywh__loop(boxes):
    rows = [
        [x1 + 0.5 * (x2 - x1), y1 + 0.5 * (y2 - y1), x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.tolist()
    ]
    return torch.tensor(rows, dtype=boxes.dtype).reshape(len(boxes), 4)


def xyxy_to_cxcywh__matrix(boxes):
    to_centre = torch.tensor(
        [[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]], dtype=boxes.dtype
    )
    return boxes @ to_centre


def xyxy_to_cxcywh__written_into_an_empty_tensor(boxes):
    result = torch.empty_like(boxes)
    result[:, :2] = boxes.reshape(-1, 2, 2).mean(1)
    result[:, 2:] = boxes[:, 2:] - boxes[:, :2]
    return result


# cxcywh_to_xyxy


def cxcywh_to_xyxy__halves(boxes):
    centre, half = boxes.split(2, dim=1)[0], boxes[:, 2:] / 2
    return torch.cat([centre - half, centre + half], dim=1)


def cxcywh_to_xyxy__clone(boxes):
    result = boxes.clone()
    result[:, :2] -= result[:, 2:] * 0.5
    result[:, 2:] += result[:, :2]
    return result


def cxcywh_to_xyxy__numpy(boxes):
    values = boxes.numpy()
    low = values[:, :2] - values[:, 2:] / 2
    return torch.from_numpy(numpy.concatenate([low, low + values[:, 2:]], axis=1))


# box_area


def box_area__product(boxes):
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def box_area__loop(boxes):
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes.tolist()]
    return torch.tensor(areas, dtype=boxes.dtype)


def box_area__diagonal(boxes):
    sides = boxes.view(-1, 2, 2).diff(dim=1)[:, 0]
    return torch.linalg.det(torch.diag_embed(sides)) if len(boxes) else boxes.new_zeros(0)


# box_iou


def box_iou__loops(boxes1, boxes2):
    result = boxes1.new_zeros(len(boxes1), len(boxes2))
    for i, j in itertools.product(range(len(boxes1)), range(len(boxes2))):
        a, b = boxes1[i], boxes2[j]
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        if width > 0 and height > 0:
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
            result[i, j] = width * height / union
    return result


def box_iou__one_coordinate_at_a_time(boxes1, boxes2):
    x1, y1, x2, y2 = (column[:, None] for column in boxes1.unbind(1))
    u1, v1, u2, v2 = boxes2.unbind(1)
    shared = (torch.min(x2, u2) - torch.max(x1, u1)).clamp_(min=0)
    shared = shared * (torch.min(y2, v2) - torch.max(y1, v1)).clamp_(min=0)
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared
    return (shared / union).nan_to_num(0)


def box_iou__small_number_in_the_denominator(boxes1, boxes2):
    corner = torch.max(boxes1.unsqueeze(1)[..., :2], boxes2.unsqueeze(0)[..., :2])
    other = torch.min(boxes1.unsqueeze(1)[..., 2:], boxes2.unsqueeze(0)[..., 2:])
    shared = torch.relu(other - corner).prod(dim=-1)
    area1, area2 = torchvision.ops.box_area(boxes1), torchvision.ops.box_area(boxes2)
    return shared / (area1.unsqueeze(1) + area2 - shared + 1e-6)


def box_iou__numpy(boxes1, boxes2):
    a, b = boxes1.numpy()[:, None], boxes2.numpy()[None]
    sides = numpy.clip(numpy.minimum(a[..., 2:], b[..., 2:]) - numpy.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = sides[..., 0] * sides[..., 1]
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return torch.from_numpy(numpy.divide(shared, union, out=numpy.zeros_like(shared), where=union > 0))


# flip_boxes


def flip_boxes__clone(boxes, width):
    flipped = boxes.clone()
    flipped[:, [0, 2]] = width - boxes[:, [2, 0]]
    return flipped


def flip_boxes__loop(boxes, width):
    rows = [[width - x2, y1, width - x1, y2] for x1, y1, x2, y2 in boxes.tolist()]
    return torch.tensor(rows, dtype=boxes.dtype).view(-1, 4)


def flip_boxes__sign_and_shift(boxes, width):
    sign = torch.tensor([-1, 1, -1, 1], dtype=boxes.dtype, device=boxes.device)
    return boxes[:, [2, 1, 0, 3]] * sign + (1 - sign) / 2 * width


def flip_boxes__through_the_centre(boxes, width):
    x = (boxes[:, 0] + boxes[:, 2]) / 2
    half = (boxes[:, 2] - boxes[:, 0]) / 2
    return torch.stack([width - x - half, boxes[:, 1], width - x + half, boxes[:, 3]], dim=-1)


# parse_via


def parse_via__helpers(project):
    def points(shape):
        if shape["name"] == "rect":
            return [shape["x"], shape["x"] + shape["width"]], [shape["y"], shape["y"] + shape["height"]]
        if shape["name"] == "circle":
            return [shape["cx"] + s * shape["r"] for s in (-1, 1)], [
                shape["cy"] + s * shape["r"] for s in (-1, 1)
            ]
        return shape["all_points_x"], shape["all_points_y"]

    result = {}
    if "_via_img_metadata" in project:
        project = project["_via_img_metadata"]
    for entry in project.values():
        regions = entry["regions"]
        if not isinstance(regions, list):
            regions = [regions[key] for key in regions]
        boxes = torch.zeros((len(regions), 4))
        names = []
        for row, region in enumerate(regions):
            xs, ys = points(region["shape_attributes"])
            boxes[row] = torch.tensor([min(xs), min(ys), max(xs), max(ys)], dtype=torch.float32)
            labels = [str(value) for value in region["region_attributes"].values() if value != ""]
            if len(labels) != 1:
                raise ValueError(f"image {entry['filename']}: a region has {len(labels)} class names")
            names += labels
        result[entry["filename"]] = boxes, names
    return result


def parse_via__by_keys_of_the_shape(project):
    def box_of(shape):
        if "r" in shape:
            return (
                shape["cx"] - shape["r"],
                shape["cy"] - shape["r"],
                shape["cx"] + shape["r"],
                shape["cy"] + shape["r"],
            )
        if "width" in shape:
            return (shape["x"], shape["y"], shape["x"] + shape["width"], shape["y"] + shape["height"])
        outline = numpy.array([shape["all_points_x"], shape["all_points_y"]])
        return (*outline.min(axis=1), *outline.max(axis=1))

    images = project["_via_img_metadata"] if "_via_img_metadata" in project else project
    answer = {}
    for image in images.values():
        regions = list(image["regions"].values() if hasattr(image["regions"], "values") else image["regions"])
        try:
            names = [
                next(value for value in region["region_attributes"].values() if value) for region in regions
            ]
        except StopIteration:
            raise ValueError("no class name in " + image["filename"]) from None
        boxes = numpy.array([box_of(region["shape_attributes"]) for region in regions], dtype=numpy.float32)
        answer[image["filename"]] = (torch.from_numpy(boxes.reshape(-1, 4)), names)
    return answer


def parse_via__class_by_a_list_of_likely_names(project):
    found = {}
    for entry in project.get("_via_img_metadata", project).values():
        found[entry["filename"]] = rows, names = [], []
        for region in (
            dict(enumerate(entry["regions"])).values()
            if isinstance(entry["regions"], list)
            else entry["regions"].values()
        ):
            attributes = region["region_attributes"]
            key = next((key for key in ("class", "name", "label", "type") if key in attributes), None)
            key = key if key is not None else next(iter(attributes), None)
            if key is None or not attributes[key]:
                raise ValueError(f"region {len(rows)} of {entry['filename']} has no class")
            shape = region["shape_attributes"]
            kind = shape["name"]
            if kind in ("polygon", "polyline"):
                xs, ys = sorted(shape["all_points_x"]), sorted(shape["all_points_y"])
                rows.append((xs[0], ys[0], xs[-1], ys[-1]))
            elif kind in ("circle", "ellipse", "point"):
                rx = shape.get("r", shape.get("rx", 0))
                ry = shape.get("r", shape.get("ry", 0))
                rows.append((shape["cx"] - rx, shape["cy"] - ry, shape["cx"] + rx, shape["cy"] + ry))
            else:
                rows.append(
                    (shape["x"], shape["y"], shape["x"] + shape["width"], shape["y"] + shape["height"])
                )
            names.append(attributes[key])
    return {file: (torch.tensor(rows).float().view(-1, 4), names) for file, (rows, names) in found.items()}
