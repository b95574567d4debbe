from . import Mistake

CENTRES = "    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1)"
CORNERS = "    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)"
AREA = "    return (x2 - x1) * (y2 - y1)"
UNBIND = "x1, y1, x2, y2 = boxes.unbind(1)"
MIRROR = "    return torch.stack([width - x2, y1, width - x1, y2], 1)"
TOP_LEFT = "    top_left = torch.maximum(boxes1[:, None, :2], boxes2[None, :, :2])"
BOTTOM_RIGHT = "    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])"
SIDES = "    width, height = (bottom_right - top_left).clamp(min=0).unbind(2)"
UNION = "    union = box_area(boxes1)[:, None] + box_area(boxes2)[None, :] - intersection"
IOU = "    return intersection / torch.where(union > 0, union, 1)"
RECT = 'box = [x, y, x + shape["width"], y + shape["height"]]'
NAME = 'name = str(next(iter(attributes.values()), "")).strip()'
TENSOR = "torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)"
PIXELS = (
    "coordinates here are edges, not pixel indices: from 3 to 5 are two pixels, so nothing is added or"
    " taken off"
)
IN_PLACE = "the tensor that came in is changed: the caller still needs it, so make a new one"


def centres(first, second, third, fourth):
    return ((CENTRES, f"    return torch.stack([{first}, {second}, {third}, {fourth}], 1)"),)


def corners(first, second, third, fourth):
    return ((CORNERS, f"    return torch.stack([{first}, {second}, {third}, {fourth}], 1)"),)


def mirror(first, second, third, fourth):
    return ((MIRROR, f"    return torch.stack([{first}, {second}, {third}, {fourth}], 1)"),)


def row_by_row(answer, join):
    """The rows taken apart and joined again, which fails where there is none."""
    taken_apart = answer.replace("return torch", f"return torch.{join} for row in torch") + ".unbind(0)])"
    return ((answer, taken_apart),)


MISTAKES = {
    "xyxy_to_cxcywh": [
        Mistake(
            "corner as centre",
            "the first two numbers are still the upper left corner; the centre lies half the size further",
            centres("x1", "y1", "x2 - x1", "y2 - y1"),
        ),
        Mistake(
            "one added to the sizes",
            f"width and height are 1 too large: {PIXELS}",
            centres("(x1 + x2) / 2", "(y1 + y2) / 2", "x2 - x1 + 1", "y2 - y1 + 1"),
        ),
        Mistake(
            "one added to the sizes, centre from them",
            f"width and height are 1, the centre 0.5 too large: {PIXELS}",
            centres("x1 + (x2 - x1 + 1) / 2", "y1 + (y2 - y1 + 1) / 2", "x2 - x1 + 1", "y2 - y1 + 1"),
        ),
        Mistake(
            "centre of inclusive pixels",
            f"the centre is half a pixel off: {PIXELS}",
            centres("(x1 + x2 - 1) / 2", "(y1 + y2 - 1) / 2", "x2 - x1", "y2 - y1"),
        ),
        Mistake(
            "half the sizes",
            "the last two numbers are half of the width and height; they should span the whole box",
            centres("(x1 + x2) / 2", "(y1 + y2) / 2", "(x2 - x1) / 2", "(y2 - y1) / 2"),
        ),
        Mistake(
            "half the size as centre",
            "half the size is where the centre would be if the corner were at (0, 0); the box does not "
            "start there",
            centres("(x2 - x1) / 2", "(y2 - y1) / 2", "x2 - x1", "y2 - y1"),
        ),
        Mistake(
            "centre not halved",
            "the first two numbers are sums of the two corners; the centre lies in the middle between them",
            centres("x1 + x2", "y1 + y2", "x2 - x1", "y2 - y1"),
        ),
        Mistake(
            "centre rounded",
            "the centre is rounded to a whole number; it may lie between two pixels",
            centres("(x1 + x2) // 2", "(y1 + y2) // 2", "x2 - x1", "y2 - y1"),
        ),
        Mistake(
            "read as (xmin, xmax, ymin, ymax)",
            "the columns are read in the order (xmin, xmax, ymin, ymax); here they are (x1, y1, x2, y2)",
            ((UNBIND, "x1, x2, y1, y2 = boxes.unbind(1)"),),
        ),
        Mistake(
            "x and y exchanged",
            "x and y have changed places: x comes first, and the width lies along x",
            centres("(y1 + y2) / 2", "(x1 + x2) / 2", "y2 - y1", "x2 - x1"),
        ),
        Mistake(
            "width twice",
            "the height is a copy of the width; a box need not be square",
            centres("(x1 + x2) / 2", "(y1 + y2) / 2", "x2 - x1", "x2 - x1"),
        ),
        Mistake(
            "columns (cx, w, cy, h)",
            "the columns are cx, w, cy, h; both centre coordinates come first",
            centres("(x1 + x2) / 2", "x2 - x1", "(y1 + y2) / 2", "y2 - y1"),
        ),
        Mistake(
            "size as x1 - x2",
            "the sizes are negative: the right and lower sides have the larger coordinates",
            centres("(x1 + x2) / 2", "(y1 + y2) / 2", "x1 - x2", "y1 - y2"),
        ),
        Mistake(
            "one row for each number",
            "the result has a row for cx, one for cy and so on; it should have one row for each box",
            ((CENTRES, CENTRES.replace("], 1)", "])")),),
        ),
        Mistake(
            "rounded",
            "the centre is rounded to a whole number; it may lie between two pixels",
            ((CENTRES, CENTRES + ".round()"),),
        ),
        Mistake(
            "empty input fails",
            "with no boxes there is nothing to stack; the answer is a tensor of shape [0, 4]",
            row_by_row(CENTRES, "stack([row"),
        ),
        Mistake(
            "shape lost on empty input",
            "with no boxes the four columns are lost: no boxes are a tensor of shape [0, 4]",
            ((CENTRES, "    if not len(boxes):\n        return boxes.new_zeros(0)\n" + CENTRES),),
        ),
        Mistake(
            "empty input in float32",
            "without boxes the result is float32 whatever came in; it should have the dtype of the input",
            ((CENTRES, "    if not len(boxes):\n        return torch.zeros(0, 4)\n" + CENTRES),),
        ),
        Mistake(
            "changes its argument",
            IN_PLACE,
            (
                (
                    CENTRES,
                    "    boxes[:, 2:] -= boxes[:, :2]\n    boxes[:, :2] += boxes[:, 2:] / 2\n    return boxes",
                ),
            ),
        ),
    ],
    "cxcywh_to_xyxy": [
        Mistake(
            "centre as corner",
            "the box starts at the given centre; that point lies in its middle",
            corners("cx", "cy", "cx + w", "cy + h"),
        ),
        Mistake(
            "whole size to either side",
            "the box is twice as large as it should be: how much of the width lies left of the centre?",
            corners("cx - w", "cy - h", "cx + w", "cy + h"),
        ),
        Mistake(
            "whole size from the centre",
            "the second corner is the centre plus the whole size; it lies half as far",
            corners("cx - w / 2", "cy - h / 2", "cx + w", "cy + h"),
        ),
        Mistake(
            "size as second corner",
            "the last two numbers are still a width and a height; they should be the lower right corner",
            corners("cx - w / 2", "cy - h / 2", "w", "h"),
        ),
        Mistake(
            "half sizes rounded",
            "half of the size is rounded to a whole number; half of 9 is 4.5",
            corners("cx - w // 2", "cy - h // 2", "cx + w // 2", "cy + h // 2"),
        ),
        Mistake(
            "one taken off the second corner",
            f"the second corner is 1 too small: {PIXELS}",
            corners("cx - w / 2", "cy - h / 2", "cx + w / 2 - 1", "cy + h / 2 - 1"),
        ),
        Mistake(
            "one taken off the sizes",
            f"the sizes are 1 too small, half on either side: {PIXELS}",
            corners("cx - (w - 1) / 2", "cy - (h - 1) / 2", "cx + (w - 1) / 2", "cy + (h - 1) / 2"),
        ),
        Mistake(
            "width and height exchanged",
            "the width is laid along y and the height along x",
            corners("cx - h / 2", "cy - w / 2", "cx + h / 2", "cy + w / 2"),
        ),
        Mistake(
            "x and y exchanged",
            "x and y have changed places: the first number of a corner is its x",
            corners("cy - h / 2", "cx - w / 2", "cy + h / 2", "cx + w / 2"),
        ),
        Mistake(
            "width twice",
            "the height is a copy of the width; a box need not be square",
            corners("cx - w / 2", "cy - w / 2", "cx + w / 2", "cy + w / 2"),
        ),
        Mistake(
            "columns (xmin, xmax, ymin, ymax)",
            "the columns are xmin, xmax, ymin, ymax; here a box is written corner by corner",
            corners("cx - w / 2", "cx + w / 2", "cy - h / 2", "cy + h / 2"),
        ),
        Mistake(
            "corners exchanged",
            "the lower right corner comes first; the upper left one should",
            corners("cx + w / 2", "cy + h / 2", "cx - w / 2", "cy - h / 2"),
        ),
        Mistake(
            "one row for each number",
            "the result has a row for x1, one for y1 and so on; it should have one row for each box",
            ((CORNERS, CORNERS.replace("], 1)", "])")),),
        ),
        Mistake(
            "overwritten before use",
            "x1 and y1 replace the centre before x2 and y2 are computed from it: keep the old values, or"
            " compute all four first",
            (
                (
                    CORNERS,
                    "    boxes = boxes.clone()\n    boxes[:, :2] -= boxes[:, 2:] / 2\n"
                    "    boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:] / 2\n    return boxes",
                ),
            ),
        ),
        Mistake(
            "empty input fails",
            "with no boxes there is nothing to stack; the answer is a tensor of shape [0, 4]",
            row_by_row(CORNERS, "stack([row"),
        ),
        Mistake(
            "empty input fails, nothing to join",
            "with no boxes there is nothing to join; the answer is a tensor of shape [0, 4]",
            row_by_row(CORNERS, "cat([row[None]"),
        ),
        Mistake(
            "shape lost on empty input",
            "with no boxes the four columns are lost: no boxes are a tensor of shape [0, 4]",
            ((CORNERS, "    if not len(boxes):\n        return boxes.new_zeros(0)\n" + CORNERS),),
        ),
        Mistake(
            "empty input in float32",
            "without boxes the result is float32 whatever came in; it should have the dtype of the input",
            ((CORNERS, "    if not len(boxes):\n        return torch.zeros(0, 4)\n" + CORNERS),),
        ),
        Mistake(
            "changes its argument",
            IN_PLACE,
            (
                (
                    CORNERS,
                    "    boxes[:, :2] -= boxes[:, 2:] / 2\n    boxes[:, 2:] += boxes[:, :2]\n    return boxes",
                ),
            ),
        ),
    ],
    "box_area": [
        Mistake(
            "one added to the sides",
            f"both sides are 1 too long: {PIXELS}",
            ((AREA, "    return (x2 - x1 + 1) * (y2 - y1 + 1)"),),
        ),
        Mistake(
            "second corner as size",
            "this multiplies x2 and y2 as if they were width and height; they are the lower right corner",
            ((AREA, "    return x2 * y2"),),
        ),
        Mistake(
            "width twice",
            "this is the width times itself; a box need not be square",
            ((AREA, "    return (x2 - x1) * (x2 - x1)"),),
        ),
        Mistake(
            "read as (xmin, xmax, ymin, ymax)",
            "the columns are read in the order (xmin, xmax, ymin, ymax); here they are (x1, y1, x2, y2)",
            ((UNBIND, "x1, x2, y1, y2 = boxes.unbind(1)"),),
        ),
        Mistake(
            "perimeter",
            "this adds the four sides; the area multiplies two",
            ((AREA, "    return 2 * (x2 - x1) + 2 * (y2 - y1)"),),
        ),
        Mistake(
            "sides added",
            "this adds width and height; the area multiplies them",
            ((AREA, "    return (x2 - x1) + (y2 - y1)"),),
        ),
        Mistake(
            "half the area",
            "this is half the area: that of the triangle below a diagonal",
            ((AREA, "    return (x2 - x1) * (y2 - y1) / 2"),),
        ),
        Mistake(
            "negative area",
            "one side is taken the wrong way round: right minus left, lower minus upper",
            ((AREA, "    return (x2 - x1) * (y1 - y2)"),),
        ),
        Mistake(
            "sum over all boxes",
            "this is one number for all boxes together; each box has its own",
            ((AREA, "    return ((x2 - x1) * (y2 - y1)).sum()"),),
        ),
        Mistake(
            "a column of areas",
            "the result has shape [N, 1]; a number for each box is shape [N]",
            ((AREA, "    return ((x2 - x1) * (y2 - y1))[:, None]"),),
        ),
        Mistake(
            "at least a pixel",
            "sides shorter than a pixel are made longer; boxes may be as small as they like, and a line "
            "has area 0",
            ((AREA, "    return (x2 - x1).clamp(min=1) * (y2 - y1).clamp(min=1)"),),
        ),
        Mistake(
            "rounded",
            "the area is rounded to a whole number; boxes may be smaller than a pixel",
            ((AREA, "    return ((x2 - x1) * (y2 - y1)).round()"),),
        ),
        Mistake(
            "empty input fails",
            "with no boxes there is nothing to stack; the answer is a tensor of shape [0]",
            ((AREA, "    return torch.stack([w * h for w, h in zip(x2 - x1, y2 - y1)])"),),
        ),
        Mistake(
            "shape lost on one box",
            "with a single box the result is a number; it should have shape [1]",
            ((AREA, AREA.replace("return ", "return (") + ").squeeze()"),),
        ),
        Mistake(
            "changes its argument",
            IN_PLACE,
            ((AREA, "    boxes[:, 2:] -= boxes[:, :2]\n    return boxes[:, 2] * boxes[:, 3]"),),
        ),
    ],
    "box_iou": [
        Mistake(
            "no clamp",
            "these are the values of IoU without clamping: the sides of a missing overlap are negative, "
            "and two "
            "negative sides even have a positive product",
            ((".clamp(min=0)", ""),),
        ),
        Mistake(
            "product clamped, not the sides",
            "the product of the sides is clamped: where both are negative it is positive and stays",
            ((".clamp(min=0)", ""), ("width * height", "(width * height).clamp(min=0)")),
        ),
        Mistake(
            "product of the sides clamped",
            "the product of the sides is clamped: where both are negative it is positive and stays",
            (
                (".clamp(min=0)", ""),
                ("width * height", "(width * height).clamp(min=0)"),
                (IOU, "    return torch.where(union > 0, intersection / union, 0)"),
            ),
        ),
        Mistake(
            "product clamped, and the union",
            "the product of the sides is clamped: where both are negative it is positive and stays",
            (
                (".clamp(min=0)", ""),
                ("width * height", "(width * height).clamp(min=0)"),
                (IOU, "    return intersection / union.clamp(min=1e-12)"),
            ),
        ),
        Mistake(
            "only the width clamped",
            "the overlap's width is clamped, its height is not: boxes one below the other come out negative",
            ((".clamp(min=0)", ""), ("width * height", "width.clamp(min=0) * height")),
        ),
        Mistake(
            "only the height clamped",
            "the overlap's height is clamped, its width is not: boxes side by side come out negative",
            ((".clamp(min=0)", ""), ("width * height", "width * height.clamp(min=0)")),
        ),
        Mistake(
            "abs instead of clamp",
            "a negative side is turned into a positive one, so boxes that are apart seem to share the gap "
            "between them",
            ((".clamp(min=0)", ".abs()"),),
        ),
        Mistake(
            "abs, and 0 without a union",
            "a negative side is turned into a positive one, so boxes that are apart seem to share the gap "
            "between them",
            (
                (".clamp(min=0)", ".abs()"),
                (IOU, "    return torch.where(union > 0, intersection / union, 0)"),
            ),
        ),
        Mistake(
            "clip with its limits crossed",
            "where boxes are apart the lower limit of clip is above its upper one, and clip then gives "
            "the upper one: "
            "the side stays negative for some pairs",
            (
                (
                    BOTTOM_RIGHT,
                    "    bottom_right = torch.clip(boxes1[:, None, 2:], top_left, boxes2[None, :, "
                    "2:].expand_as(top_left))",
                ),
                (".clamp(min=0)", ""),
            ),
        ),
        Mistake(
            "enclosing box as union",
            "the intersection is divided by the box around both; that box has corners that neither of the "
            "two covers",
            (
                (
                    UNION,
                    "    hull = torch.maximum(boxes1[:, None, 2:], boxes2[:, 2:]) - torch.minimum(boxes1[:, None, :2], boxes2[:, :2])\n"
                    "    union = hull[..., 0] * hull[..., 1]",
                ),
            ),
        ),
        Mistake(
            "enclosing box as intersection",
            "the box around both is taken for the one they share: which left side begins the overlap, the "
            "smaller or the larger?",
            (
                (TOP_LEFT, TOP_LEFT.replace("maximum", "minimum")),
                (BOTTOM_RIGHT, BOTTOM_RIGHT.replace("minimum", "maximum")),
            ),
        ),
        Mistake(
            "one added to all sides",
            f"every side is 1 too long: {PIXELS}. It shows in small boxes and where they touch",
            (
                (SIDES, "    width, height = (bottom_right - top_left + 1).clamp(min=0).unbind(2)"),
                (
                    UNION,
                    "    area1, area2 = ((b[:, 2] - b[:, 0] + 1) * (b[:, 3] - b[:, 1] + 1) for b in (boxes1, boxes2))\n"
                    "    union = area1[:, None] + area2[None, :] - intersection",
                ),
            ),
        ),
        Mistake(
            "one added to the intersection",
            f"the overlap's sides are 1 too long: {PIXELS}. Boxes that touch share nothing",
            ((SIDES, "    width, height = (bottom_right - top_left + 1).clamp(min=0).unbind(2)"),),
        ),
        Mistake(
            "one added to the areas only",
            f"the sides of both areas are 1 too long: {PIXELS}",
            (
                (
                    UNION,
                    "    area1, area2 = ((b[:, 2:] - b[:, :2] + 1).prod(1) for b in (boxes1, boxes2))\n"
                    "    union = area1[:, None] + area2[None, :] - intersection",
                ),
            ),
        ),
        Mistake(
            "intersection counted twice",
            "the union is the sum of both areas; what both cover is then counted twice",
            ((UNION, UNION.replace(" - intersection", "")),),
        ),
        Mistake(
            "Dice",
            "these are the values of the Dice coefficient, twice the intersection over the sum of the "
            "areas; IoU divides by the union",
            (
                (UNION, UNION.replace(" - intersection", "")),
                ("return intersection", "return 2 * intersection"),
            ),
        ),
        Mistake(
            "share of the first box",
            "the intersection is divided by the area of the first box alone; a small box inside of a "
            "large one is then a perfect match",
            ((UNION, "    union = box_area(boxes1)[:, None].expand_as(intersection)"),),
        ),
        Mistake(
            "share of the smaller box",
            "the intersection is divided by the smaller of the two areas; it should be divided by all "
            "that the two cover",
            ((UNION, "    union = torch.minimum(box_area(boxes1)[:, None], box_area(boxes2)[None, :])"),),
        ),
        Mistake(
            "share of the larger box",
            "the intersection is divided by the larger of the two areas; it should be divided by all that "
            "the two cover",
            ((UNION, "    union = torch.maximum(box_area(boxes1)[:, None], box_area(boxes2)[None, :])"),),
        ),
        Mistake(
            "NaN without area",
            "two boxes without area give 0 / 0, which is NaN; the answer there is 0",
            (("torch.where(union > 0, union, 1)", "union"),),
        ),
        Mistake(
            "one added to both areas",
            "1 is added above and below the fraction to avoid 0 / 0; that changes every other value too, "
            "small boxes most",
            ((IOU, "    return (intersection + 1) / (union + 1)"),),
        ),
        Mistake(
            "one added to the union",
            "1 is added to the union to avoid 0 / 0; that changes every other value too, small boxes most",
            ((IOU, "    return intersection / (union + 1)"),),
        ),
        Mistake(
            "union at least a pixel",
            "the union is taken to be at least 1; boxes smaller than a pixel then share too little",
            ((IOU, "    return intersection / union.clamp(min=1)"),),
        ),
        Mistake(
            "rows and columns exchanged",
            "the result is transposed: its rows belong to boxes1, its columns to boxes2",
            (
                ("torch.where(union > 0, union, 1)", "torch.where(union > 0, union, 1)).T"),
                ("return intersection", "return (intersection"),
            ),
        ),
        Mistake(
            "one total for all pairs",
            "areas are added up over all boxes; each pair has its own union",
            ((UNION, "    union = box_area(boxes1).sum() + box_area(boxes2).sum() - intersection"),),
        ),
        Mistake(
            "row by row",
            "box i of the first is compared with box i of the second only; every pair is asked for",
            code="def box_iou(boxes1, boxes2):\n"
            "    top_left = torch.maximum(boxes1[:, :2], boxes2[:, :2])\n"
            "    bottom_right = torch.minimum(boxes1[:, 2:], boxes2[:, 2:])\n"
            "    intersection = (bottom_right - top_left).clamp(min=0).prod(1)\n"
            "    union = box_area(boxes1) + box_area(boxes2) - intersection\n"
            "    return intersection / torch.where(union > 0, union, 1)\n",
        ),
        Mistake(
            "read as (xmin, xmax, ymin, ymax)",
            "the columns are read in the order (xmin, xmax, ymin, ymax); here they are (x1, y1, x2, y2)",
            (
                (
                    TOP_LEFT,
                    "    boxes1, boxes2 = boxes1[:, [0, 2, 1, 3]], boxes2[:, [0, 2, 1, 3]]\n" + TOP_LEFT,
                ),
            ),
        ),
        Mistake(
            "read as (x, y, w, h)",
            "the last two columns are read as width and height; they are the lower right corner",
            (
                (
                    TOP_LEFT,
                    "    boxes1 = torch.cat([boxes1[:, :2], boxes1[:, :2] + boxes1[:, 2:]], 1)\n"
                    "    boxes2 = torch.cat([boxes2[:, :2], boxes2[:, :2] + boxes2[:, 2:]], 1)\n" + TOP_LEFT,
                ),
            ),
        ),
        Mistake(
            "width twice",
            "the overlap's height is a copy of its width; it need not be square",
            (("width * height", "width * width"),),
        ),
        Mistake(
            "distance from 1",
            "this is 1 - IoU, large where boxes differ; IoU is 1 where they are equal",
            (("return intersection", "return 1 - intersection"),),
        ),
        Mistake(
            "empty input fails",
            "with no boxes on one side there is nothing to stack; the answer is a tensor with no rows or "
            "no columns",
            (
                (
                    IOU,
                    "    return torch.stack([torch.stack([i / u if u > 0 else 0 * i for i, u in "
                    "zip(*row)]) for row in zip(intersection, union)])",
                ),
            ),
        ),
        Mistake(
            "shape lost on empty input",
            "with no boxes on one side the shape is lost: 0 boxes against 3 is shape [0, 3]",
            (
                (
                    TOP_LEFT,
                    "    if not len(boxes1) or not len(boxes2):\n        return torch.zeros(0)\n" + TOP_LEFT,
                ),
            ),
        ),
        Mistake(
            "changes its arguments",
            IN_PLACE,
            (
                (
                    UNION,
                    "    for boxes in (boxes1, boxes2):\n        boxes[:, 2:] -= boxes[:, :2]\n"
                    "    union = boxes1[:, 2:].prod(1)[:, None] + boxes2[:, 2:].prod(1)[None, :] - "
                    "intersection",
                ),
            ),
        ),
        Mistake(
            "changes its second argument",
            IN_PLACE,
            ((UNION, UNION + "\n    boxes2[:, 2:] -= boxes2[:, :2]"),),
        ),
        Mistake(
            "changes its first argument",
            IN_PLACE,
            ((UNION, UNION + "\n    boxes1[:, 2:] -= boxes1[:, :2]"),),
        ),
    ],
    "flip_boxes": [
        Mistake(
            "W - x - 1",
            "everything is 1 too far left: W - 1 - x is for pixel indices, and coordinates here are "
            "edges. "
            "The right border of the image, x = W, becomes 0",
            mirror("width - x2 - 1", "y1", "width - x1 - 1", "y2"),
        ),
        Mistake(
            "corners in the wrong order",
            "x1 is larger than x2: what was the right side of the box is now its left side",
            mirror("width - x1", "y1", "width - x2", "y2"),
        ),
        Mistake(
            "upside down",
            "y is mirrored; a horizontal flip changes x and leaves y as it is",
            mirror("x1", "width - y2", "x2", "width - y1"),
        ),
        Mistake(
            "both axes",
            "y is mirrored as well; a horizontal flip leaves it as it is",
            mirror("width - x2", "width - y2", "width - x1", "width - y1"),
        ),
        Mistake(
            "the rule for centres",
            "only the first number is mirrored; that is right for (cx, cy, w, h), but these boxes have "
            "two corners",
            mirror("width - x1", "y1", "x2", "y2"),
        ),
        Mistake(
            "x1 mirrored with the old width",
            "the left side is mirrored and the box laid to its right; mirrored, the box lies to its left",
            mirror("width - x1", "y1", "width - x1 + (x2 - x1)", "y2"),
        ),
        Mistake(
            "not flipped",
            "the boxes are as before, but the image is mirrored",
            ((MIRROR, "    return boxes.clone()"),),
        ),
        Mistake(
            "x - W",
            "the sign is wrong: distances from the right border are W - x",
            mirror("x1 - width", "y1", "x2 - width", "y2"),
        ),
        Mistake(
            "moved to the other side",
            "the box is moved by the width, not mirrored",
            mirror("x1 + width", "y1", "x2 + width", "y2"),
        ),
        Mistake(
            "overwritten before use",
            "x1 is replaced before x2 is computed from it: keep the old value, or compute both first",
            (
                (
                    MIRROR,
                    "    boxes = boxes.clone()\n    boxes[:, 0] = width - boxes[:, 2]\n    boxes[:, 2] = width - boxes[:, 0]\n    return boxes",
                ),
            ),
        ),
        Mistake(
            "numbers of a box reversed",
            "the four numbers of each box are reversed; mirror the picture, not the tensor",
            ((MIRROR, "    return boxes.flip(1)"),),
        ),
        Mistake(
            "boxes in reverse order",
            "the boxes are in reverse order; each must stay in its row, where its label is",
            ((MIRROR, MIRROR + ".flip(0)"),),
        ),
        Mistake(
            "W - x + 1",
            f"everything is 1 too far right: {PIXELS}",
            mirror("width - x2 + 1", "y1", "width - x1 + 1", "y2"),
        ),
        Mistake(
            "empty input fails",
            "with no boxes there is nothing to stack; the answer is a tensor of shape [0, 4]",
            row_by_row(MIRROR, "stack([row"),
        ),
        Mistake(
            "shape lost on empty input",
            "with no boxes the four columns are lost: no boxes are a tensor of shape [0, 4]",
            ((MIRROR, "    if not len(boxes):\n        return boxes.new_zeros(0)\n" + MIRROR),),
        ),
        Mistake(
            "empty input in float32",
            "without boxes the result is float32 whatever came in; it should have the dtype of the input",
            ((MIRROR, "    if not len(boxes):\n        return torch.zeros(0, 4)\n" + MIRROR),),
        ),
        Mistake(
            "read as (xmin, xmax, ymin, ymax)",
            "the columns are read in the order (xmin, xmax, ymin, ymax); here they are (x1, y1, x2, y2)",
            mirror("width - y1", "width - x1", "x2", "y2"),
        ),
        Mistake(
            "cut at the border",
            "a box over the border is cut there; a flip changes where a box is, not what it covers",
            (
                (
                    MIRROR,
                    MIRROR.replace("width - x2", "(width - x2).clamp(0, width)").replace(
                        "width - x1", "(width - x1).clamp(0, width)"
                    ),
                ),
            ),
        ),
        Mistake(
            "changes its argument",
            IN_PLACE,
            ((MIRROR, "    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]\n    return boxes"),),
        ),
    ],
    "parse_via": [
        Mistake(
            "only VIA 1",
            "regions is taken for a dict; VIA 2 writes a list",
            (("regions.values() if isinstance(regions, dict) else regions:", "regions.values():"),),
        ),
        Mistake(
            "only VIA 2",
            "regions is taken for a list; VIA 1 writes a dict, and a loop over a dict gives its keys",
            (("regions.values() if isinstance(regions, dict) else regions:", "regions:"),),
        ),
        Mistake(
            "only exports",
            "the top level is taken for the images; in a saved project they stand under '_via_img_metadata'",
            (('project.get("_via_img_metadata", project)', "project"),),
        ),
        Mistake(
            "only projects",
            "'_via_img_metadata' is asked for always; an export has the images at its top level",
            (('project.get("_via_img_metadata", project)', 'project["_via_img_metadata"]'),),
        ),
        Mistake(
            "regions counted from 0",
            "the regions of VIA 1 are looked up as '0', '1', '2', ...; after one was deleted, a number is "
            "missing",
            (
                (
                    "regions.values() if isinstance(regions, dict) else regions:",
                    "[regions[str(i)] for i in range(len(regions))] if isinstance(regions, dict) else "
                    "regions:",
                ),
            ),
        ),
        Mistake(
            "regions sorted as text",
            "the regions of VIA 1 are sorted by their keys, which are text: '10' comes before '2'",
            (
                (
                    "regions.values() if isinstance(regions, dict) else regions:",
                    "[regions[key] for key in sorted(regions)] if isinstance(regions, dict) else regions:",
                ),
            ),
        ),
        Mistake(
            "only rectangles",
            "every region is read as a rect; a circle has cx, cy, r, and a polygon lists of its points",
            (
                ('elif shape["name"] == "rect":', "else:"),
                ('if "all_points_x" in shape:', "if False:"),
                ("            else:  # circle", "            if False:  # circle"),
            ),
        ),
        Mistake(
            "other shapes left out",
            "only rect regions are kept; objects drawn as circles or polygons count too",
            (
                (
                    "shape, attributes = region",
                    'if region["shape_attributes"]["name"] != "rect":\n                continue\n            shape, attributes = region',
                ),
            ),
        ),
        Mistake(
            "width and height as second corner",
            "the box ends with width and height; it should end with the lower right corner",
            ((RECT, 'box = [x, y, shape["width"], shape["height"]]'),),
        ),
        Mistake(
            "one taken off the second corner",
            f"a rectangle's second corner is 1 too small: {PIXELS}",
            ((RECT, 'box = [x, y, x + shape["width"] - 1, y + shape["height"] - 1]'),),
        ),
        Mistake(
            "one added to the second corner",
            f"a rectangle's second corner is 1 too large: {PIXELS}",
            ((RECT, 'box = [x, y, x + shape["width"] + 1, y + shape["height"] + 1]'),),
        ),
        Mistake(
            "rectangles as (xmin, xmax, ymin, ymax)",
            "the numbers of a box are xmin, xmax, ymin, ymax; here it is written corner by corner",
            ((RECT, 'box = [x, x + shape["width"], y, y + shape["height"]]'),),
        ),
        Mistake(
            "all boxes as (xmin, xmax, ymin, ymax)",
            "the numbers of a box are xmin, xmax, ymin, ymax; here it is written corner by corner",
            ((TENSOR, TENSOR + "[:, [0, 2, 1, 3]]"),),
        ),
        Mistake(
            "width and height exchanged",
            "a rectangle's width is laid along y and its height along x",
            ((RECT, 'box = [x, y, x + shape["height"], y + shape["width"]]'),),
        ),
        Mistake(
            "x and y exchanged",
            "a rectangle's x and y have changed places",
            ((RECT, 'box = [y, x, y + shape["height"], x + shape["width"]]'),),
        ),
        Mistake(
            "radius as diameter",
            "a circle's box is half as large as it should be: from the centre it reaches the whole radius "
            "to every side",
            (('shape.get("r", 0)', 'shape.get("r", 0) / 2'),),
        ),
        Mistake(
            "circle from its centre",
            "a circle's box starts at its centre; the circle reaches to all sides of it",
            (
                (
                    "box = [x - half_w, y - half_h, x + half_w, y + half_h]",
                    "box = [x, y, x + half_w, y + half_h]",
                ),
            ),
        ),
        Mistake(
            "polygon from first to last point",
            "a polygon's box spans its first and last point; others may lie further out",
            (("box = [min(xs), min(ys), max(xs), max(ys)]", "box = [xs[0], ys[0], xs[-1], ys[-1]]"),),
        ),
        Mistake(
            "polygon's corners from single points",
            "a polygon's corner is taken from the point with the smallest x, its y included; the smallest "
            "y may be another point's",
            (("box = [min(xs), min(ys), max(xs), max(ys)]", "box = [*min(zip(xs, ys)), *max(zip(xs, ys))]"),),
        ),
        Mistake(
            "polygon's x and y exchanged",
            "a polygon's x and y have changed places",
            (("box = [min(xs), min(ys), max(xs), max(ys)]", "box = [min(ys), min(xs), max(ys), max(xs)]"),),
        ),
        Mistake(
            "attribute 'class' only",
            "the class is looked for under 'class'; whoever annotates chooses the attribute's name",
            ((NAME, 'name = attributes.get("class", "")'),),
        ),
        Mistake(
            "attribute 'class' only, as a key",
            "the class is looked for under 'class'; whoever annotates chooses the attribute's name",
            ((NAME, 'name = attributes["class"]'),),
        ),
        Mistake(
            "attribute 'name' only",
            "the class is looked for under 'name'; whoever annotates chooses the attribute's name",
            ((NAME, 'name = attributes["name"]'),),
        ),
        Mistake(
            "name of the attribute",
            "these are the names of the attributes, not their values: {'class': 'car'} means car",
            ((NAME, 'name = next(iter(attributes), "")'),),
        ),
        Mistake(
            "class as a number",
            "a class that is written '0' has become a number; names stay text",
            (
                (
                    "            names.append(name)",
                    "            names.append(int(name) if name.isdigit() else name)",
                ),
            ),
        ),
        Mistake(
            "'0' taken for no class",
            "a class called '0' is taken for a missing one",
            (("if not name:", 'if not name.strip("0"):'),),
        ),
        Mistake(
            "nameless regions left out",
            "a region without a class is left out in silence; the file has an error, and its author "
            "should hear of it",
            (
                (
                    "raise ValueError(f\"{image['filename']}, region {len(names)}: no class name in "
                    "{attributes}\")",
                    "continue",
                ),
            ),
        ),
        Mistake(
            "nameless regions kept",
            "a region without a class is kept with an empty name; the file has an error, and its author "
            "should hear of it",
            (("if not name:", "if False:"),),
        ),
        Mistake(
            "error without the image",
            "the error does not say in which image the region is; with a thousand images that is what one "
            "must know",
            (("{image['filename']}, region", "region"),),
        ),
        Mistake(
            "another kind of error",
            "a region without a class ends in an error that says nothing about the file; raise a "
            "ValueError that does",
            ((NAME, "name = list(attributes.values())[0]"), ("if not name:", "if False:")),
        ),
        Mistake(
            "empty name accepted",
            "a region whose class was left empty is kept; an empty text is no class name",
            ((NAME, "name = next(iter(attributes.values()), None)"), ("if not name:", "if name is None:")),
        ),
        Mistake(
            "images without regions left out",
            "an image without regions is missing; a picture of nothing is an answer too, and a detector "
            "must learn it",
            (("        found[image", "        if boxes:\n            found[image"),),
        ),
        Mistake(
            "no boxes without their four columns",
            "an image without regions has boxes of shape [0]; it should be [0, 4]: no rows, four columns",
            ((TENSOR, "torch.tensor(boxes, dtype=torch.float32)"),),
        ),
        Mistake(
            "nothing to stack",
            "an image without regions has nothing to stack; its boxes are a tensor of shape [0, 4]",
            ((TENSOR, "torch.stack([torch.tensor(box, dtype=torch.float32) for box in boxes])"),),
        ),
        Mistake(
            "whole numbers",
            "the boxes have the dtype of the file's numbers; they should always be float32",
            ((TENSOR, "torch.tensor(boxes).reshape(-1, 4)"),),
        ),
        Mistake(
            "float64",
            "the boxes are float64; they should be float32",
            (("dtype=torch.float32", "dtype=torch.float64"),),
        ),
        Mistake(
            "VIA's keys",
            "the keys are VIA's, a file name followed by a size in bytes; asked for is the file name",
            (
                ("for image in project", "for key, image in project"),
                (".values():\n        regions =", ".items():\n        regions ="),
                ('found[image["filename"]]', "found[key]"),
            ),
        ),
        Mistake(
            "boxes of all images together",
            "boxes of earlier images come back in later ones: begin a new list for each image",
            (
                ("        boxes, names = [], []\n", ""),
                ("    found = {}\n", "    found, boxes, names = {}, [], []\n"),
            ),
        ),
        Mistake(
            "changes its argument",
            "the project that came in is changed: the caller still needs it",
            (('image["regions"]', 'image.pop("regions")'),),
        ),
        Mistake(
            "turns regions into a list",
            "the regions of the project that came in are a list afterwards: the caller still needs the dict",
            (
                (
                    'regions = image["regions"]',
                    'if isinstance(image["regions"], dict):\n'
                    '            image["regions"] = list(image["regions"].values())\n'
                    '        regions = image["regions"]',
                ),
            ),
        ),
    ],
}
