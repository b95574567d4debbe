"""Wrong answers to the exercises of lesson 13."""

from . import Mistake

X_OF = "x = stride // 2 + stride * torch.arange(columns, dtype=torch.float32)"
Y_OF = "y = stride // 2 + stride * torch.arange(rows, dtype=torch.float32)"
MESH = 'y, x = torch.meshgrid(y, x, indexing="ij")'
POINTS = "return torch.stack([x, y], -1).reshape(-1, 2)"

LTRB = "ltrb = torch.stack([x - x1, y - y1, x2 - x, y2 - y], -1)"
INSIDE = "(ltrb.amin(-1) > 0)"
LOW_END = "(low[:, None] <= largest)"
HIGH_END = "(largest <= high[:, None])"
MINE = f"mine = {INSIDE} & {LOW_END} & {HIGH_END}"
AREA = "area = ((x2 - x1) * (y2 - y1)).expand(len(x), -1).masked_fill(~mine, math.inf)"
BEST = "best = area.argmin(1)"
POSITIVE = "positive = mine.any(1)"
TARGETS = "return torch.where(positive, labels[best], 0), torch.where(positive[:, None], ltrb[rows, best], 0.0)"
NO_BOXES = """    if len(boxes) == 0:
        return torch.zeros(len(x), dtype=torch.int64, device=x.device), x.new_zeros(len(x), 4)
"""
LOW = "low = torch.cat([xy.new_full((len(xy),), m) for xy, m in zip(locations, ranges[:-1])])"

UNBOUND = "left, top, right, bottom = ltrb.clamp(min=0).unbind(-1)"
ACROSS = "across = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=tiny)"
DOWN = "down = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=tiny)"
ROOT = "return (across * down).sqrt()"

STRIDES = "self.strides = [2**level for level in levels]"
BOX_TOWER = "self.box_tower = self.tower(channels, depth)"
CLASS_LAST = "self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)"
SCALES = "self.scales = nn.Parameter(torch.ones(len(levels)))"
NORMAL = "nn.init.normal_(layer.weight, std=0.01)"
ZEROS = "nn.init.zeros_(layer.bias)"
PRIOR = "nn.init.constant_(self.class_logits.bias, -math.log(99))"
HIDDEN = "layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(min(32, channels), channels), nn.ReLU()]"
DEPTH = "for _ in range(depth):"
BOX_MAP = "box_map = stride * torch.exp(scale * self.box_distances(self.box_tower(feature)))"
LOGITS = "logits.append(self.class_logits(class_feature).flatten(2).mT)"
DISTANCES = "distances.append(box_map.flatten(2).mT)"
CENTERS = "centers.append(self.center_logits(class_feature).flatten(1))"
JOINED = "return torch.cat(logits, 1), torch.cat(distances, 1), torch.cat(centers, 1)"
LEVELS = "for feature, stride, scale in zip(features, self.strides, self.scales):"

NUMBER = "number = positive.sum().clamp(min=1)"
CLASSES = "classes = torch.arange(1, logits.shape[-1] + 1, device=labels.device)"
CLASSIFICATION = "classification = focal_loss(logits, (labels[..., None] == classes).to(logits.dtype)).sum() / number"
SHARED = "shared = torch.minimum(said, true)"
OVERLAP = "overlap = (shared[:, 0] + shared[:, 2]) * (shared[:, 1] + shared[:, 3])"
AREAS = "areas = [(box[:, 0] + box[:, 2]) * (box[:, 1] + box[:, 3]) for box in (said, true)]"
IOU = "iou = overlap / (areas[0] + areas[1] - overlap)"
BOX_LOSS = "localisation = -iou.clamp(min=1e-6).log().sum() / number"
CENTER_LOSS = (
    'center = F.binary_cross_entropy_with_logits(center_logits[positive], centerness(true), reduction="sum") / number'
)
LOSSES = "return classification, localisation, center"

CORNERS = "corners = torch.cat([points[None] - ltrb[..., :2], points[None] + ltrb[..., 2:]], -1)"
CLIP = "corners = torch.minimum(corners.clamp(min=0), corners.new_tensor([width, height, width, height]))"
SCORE = "every_score = logits.sigmoid() * center_logits.sigmoid()[..., None]"
IF_ROOT = "    if sqrt:\n        every_score = every_score.sqrt()\n"
OVER = "(level_scores > score_threshold).nonzero(as_tuple=True)"
SORTED = "scores, order = level_scores[rows, classes].sort(descending=True, stable=True)"
CUT = "order = order[:candidates]"
PART = "parts.append((level_boxes[rows[order]], scores[:candidates], classes[order] + 1))"
SPLIT = "zip(image_scores.split(counts), image_boxes.split(counts))"
KEPT = "kept = batched_nms(boxes, scores, labels, iou_threshold)[:top_k]"
FOUND = 'found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]})'

REGION_ONLY = "inside = torch.cat([points - upper_left, lower_right - points], -1).amin(-1) > 0"
REGION = REGION_ONLY + "  # [P, M]"
OBJECT = "ltrb = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], -1)  # [P, M, 4], to the object's own sides"
UPPER = "upper_left = torch.maximum(boxes[:, :2], middle - reach[..., None])"
LOWER = "lower_right = torch.minimum(boxes[:, 2:], middle + reach[..., None])"
LARGEST = "largest = ltrb.amax(-1)"
AREA_OF = "area = (boxes[:, 2:] - boxes[:, :2]).prod(1).expand(len(points), -1).masked_fill(~mine, math.inf)"
RESULT = "return torch.where(positive, labels[best], 0), torch.where(positive[:, None], ltrb[rows, best], 0.0)"

MISTAKES = {
    "locations": [
        Mistake("the corner of the cell", "these are the upper left corners of the cells: half a stride is missing in x and y "
                "(torchvision takes these points, the slides do not)",
                edits=((X_OF, X_OF.replace("stride // 2 + ", "")), (Y_OF, Y_OF.replace("stride // 2 + ", "")))),
        Mistake("half a stride in x only", "half a stride is missing in y",
                edits=((Y_OF, Y_OF.replace("stride // 2 + ", "")),)),
        Mistake("half a stride in y only", "half a stride is missing in x",
                edits=((X_OF, X_OF.replace("stride // 2 + ", "")),)),
        Mistake("half a stride not rounded down", "half of an odd stride is rounded down, with //",
                edits=((X_OF, X_OF.replace("//", "/")), (Y_OF, Y_OF.replace("//", "/")))),
        Mistake("half a stride rounded up", "half of an odd stride is rounded down",
                edits=((X_OF, X_OF.replace("stride // 2", "(stride + 1) // 2")), (Y_OF, Y_OF.replace("stride // 2", "(stride + 1) // 2")))),
        Mistake("cells for pixels", "these are the numbers of cells plus half a stride: a cell is `stride` pixels wide",
                edits=((X_OF, X_OF.replace("stride * ", "")), (Y_OF, Y_OF.replace("stride * ", "")))),
        Mistake("cells only", "these are the numbers of the cells, not pixels of the image",
                edits=((X_OF, "x = torch.arange(columns, dtype=torch.float32)"), (Y_OF, "y = torch.arange(rows, dtype=torch.float32)"))),
        Mistake("half a cell", "half a pixel is added where half a stride belongs: add it after the multiplication, or multiply it as well",
                edits=((X_OF, X_OF.replace("stride // 2", "0.5")), (Y_OF, Y_OF.replace("stride // 2", "0.5")))),
        Mistake("y before x", "each row is (y, x): x comes first",
                edits=((POINTS, POINTS.replace("[x, y]", "[y, x]")),)),
        Mistake("column by column", "the points go down the columns: x is the inner one, it changes fastest",
                edits=((MESH, 'x, y = torch.meshgrid(x, y, indexing="ij")'),)),
        Mistake("rows and columns exchanged", "grid is (columns, rows): the first number counts to the right",
                edits=(("columns, rows = grid", "rows, columns = grid"),)),
        Mistake("not in one list", "the points are still a grid [H, W, 2]: one row for each cell is wanted",
                edits=((POINTS, "return torch.stack([x, y], -1)"),)),
        Mistake("whole numbers", "these are int64: float32 is asked for, since boxes are float32",
                edits=((POINTS, POINTS + ".long()"),)),
        Mistake("one column more", "there is a column and a row too many",
                edits=((X_OF, X_OF.replace("columns", "columns + 1")), (Y_OF, Y_OF.replace("rows", "rows + 1")))),
        Mistake("from the far corner", "these are the lower right corners of the cells less half a stride too little: a whole stride "
                "is added", edits=((X_OF, X_OF.replace("stride // 2", "stride")), (Y_OF, Y_OF.replace("stride // 2", "stride")))),
        Mistake("rows from below", "the first row of points is the lowest: y points down and begins at the top",
                edits=((Y_OF, Y_OF + ".flip(0)"),)),
        Mistake("centred on the whole grid", "the points are spread evenly from edge to edge: they lie a stride apart, from half a stride on",
                edits=((X_OF, "x = torch.linspace(0, columns * stride, columns)"), (Y_OF, "y = torch.linspace(0, rows * stride, rows)"))),
    ],  # fmt: skip
    "fcos_targets": [
        Mistake("on a side is inside", "a location on a side of a box is taken as inside: all four distances are to be above 0",
                edits=((INSIDE, "(ltrb.amin(-1) >= 0)"),)),
        Mistake("the slide's min in the range test", "the lower end of the range is compared with the smallest distance, as the slide "
                "prints it: read the erratum above", edits=((LOW_END, "(low[:, None] <= ltrb.amin(-1))"),)),
        Mistake("min at both ends", "the smallest distance is compared with the range: it is the largest one",
                edits=(("largest = ltrb.amax(-1)", "largest = ltrb.amin(-1)"),)),
        Mistake("both ends left out", "a largest distance equal to an end of the range is refused: both ends belong to the range",
                edits=((LOW_END, "(low[:, None] < largest)"), (HIGH_END, "(largest < high[:, None])"))),
        Mistake("upper end left out", "a largest distance equal to the upper end of the range is refused: it belongs to the range",
                edits=((HIGH_END, "(largest < high[:, None])"),)),
        Mistake("lower end left out", "a largest distance equal to the lower end of the range is refused: it belongs to the range",
                edits=((LOW_END, "(low[:, None] < largest)"),)),
        Mistake("no range", "every level takes every object: the largest distance has to be in the level's range",
                edits=((MINE, f"mine = {INSIDE}"),)),
        Mistake("no lower end", "levels take objects that are too small for them: a range has a lower end as well",
                edits=((MINE, f"mine = {INSIDE} & {HIGH_END}"),)),
        Mistake("no upper end", "levels take objects that are too large for them: a range has an upper end as well",
                edits=((MINE, f"mine = {INSIDE} & {LOW_END}"),)),
        Mistake("ranges from the coarse end", "the fine level has the range of the coarse one: level number l has ranges[l] to ranges[l + 1]",
                edits=((LOW, LOW.replace("ranges[:-1]", "ranges[:-1][::-1]")), ("zip(locations, ranges[1:])", "zip(locations, ranges[1:][::-1])"))),
        Mistake("the side of the box in the range", "the longer side of the box is compared with the range: it is the largest distance "
                "from the location to a side", edits=(("largest = ltrb.amax(-1)", "largest = torch.maximum(x2 - x1, y2 - y1).expand(len(x), -1)"),)),
        Mistake("the mean distance in the range", "the mean of the four distances is compared with the range: it is the largest one",
                edits=(("largest = ltrb.amax(-1)", "largest = ltrb.mean(-1)"),)),
        Mistake("first box wins", "of several boxes the first has the location: the one with the smallest area is to have it",
                edits=((BEST, "best = mine.int().argmax(1)"),)),
        Mistake("last box wins", "of several boxes the last has the location: the one with the smallest area is to have it",
                edits=((BEST, "best = len(boxes) - 1 - mine.flip(1).int().argmax(1)"),)),
        Mistake("largest box wins", "of several boxes the largest has the location: the smallest is to have it",
                edits=((AREA, AREA.replace("math.inf", "-1.0")), (BEST, "best = area.argmax(1)"))),
        Mistake("last of equal areas", "of boxes with equal areas the last has the location: the first is to have it",
                edits=((BEST, "best = len(boxes) - 1 - area.flip(1).argmin(1)"),)),
        Mistake("smallest of all boxes", "the smallest box that the location lies in is chosen first, and then its range is looked at: a box "
                "out of the range leaves the location to the others",
                edits=((AREA, AREA.replace("~mine", "ltrb.amin(-1) <= 0")), (POSITIVE, "positive = mine[torch.arange(len(x), device=x.device), best]"))),
        Mistake("smallest box of the image", "the smallest box of the whole image has every location: only boxes that the location lies in count",
                edits=((AREA, "area = ((x2 - x1) * (y2 - y1)).expand(len(x), -1)"),)),
        Mistake("nearest side decides", "the box with the smallest largest distance has the location: the area decides",
                edits=((AREA, "area = largest.masked_fill(~mine, math.inf)"),)),
        Mistake("sum of the sides decides", "the box with the smallest sum of its sides has the location: the area decides",
                edits=((AREA, AREA.replace("(x2 - x1) * (y2 - y1)", "(x2 - x1) + (y2 - y1)")),)),
        Mistake("nearest centre decides", "the box whose centre is nearest has the location: the area decides",
                edits=((AREA, "area = ((x - (x1 + x2) / 2) ** 2 + (y - (y1 + y2) / 2) ** 2).masked_fill(~mine, math.inf)"),)),
        Mistake("area subtracted from 1e8", "areas are taken from 10⁸ in float32, which has steps of 8 there: areas of 40000 and 40003 "
                "become equal, and those above 10⁸ negative",
                edits=((AREA, "area = -(mine.to(torch.float32) * (1e8 - (x2 - x1) * (y2 - y1)))"),)),
        Mistake("l and t exchanged", "left and top have changed places: the order is left, top, right, bottom",
                edits=((LTRB, LTRB.replace("x - x1, y - y1", "y - y1, x - x1")),)),
        Mistake("r and b exchanged", "right and bottom have changed places: the order is left, top, right, bottom",
                edits=((LTRB, LTRB.replace("x2 - x, y2 - y", "y2 - y, x2 - x")),)),
        Mistake("l, r, t, b", "the order is left, right, top, bottom here: left, top, right, bottom is asked for",
                edits=((LTRB, LTRB.replace("y - y1, x2 - x", "x2 - x, y - y1")),)),
        Mistake("t, l, b, r", "this is the order of lesson 12, top, left, bottom, right: FCOS has left, top, right, bottom",
                edits=((LTRB, "ltrb = torch.stack([y - y1, x - x1, y2 - y, x2 - x], -1)"),)),
        Mistake("left and right exchanged", "left and right have changed places: left is from the location to x1",
                edits=((LTRB, "ltrb = torch.stack([x2 - x, y2 - y, x - x1, y - y1], -1)"),)),
        Mistake("signs of right and bottom", "right and bottom are negative inside of the box: the side less the location",
                edits=((TARGETS, TARGETS.replace("ltrb[rows, best]", "ltrb[rows, best] * ltrb.new_tensor([1.0, 1, -1, -1])")),)),
        Mistake("x and y of the locations exchanged", "a location is (x, y): here it is read as (y, x)",
                edits=(("x, y = torch.cat(locations)", "y, x = torch.cat(locations)"),)),
        Mistake("the box for the distances", "these are the boxes themselves: the distances from the location to their sides are asked for",
                edits=((TARGETS, TARGETS.replace("ltrb[rows, best]", "boxes[best]")),)),
        Mistake("background keeps its distances", "background has distances to some box: it is to have zeros",
                edits=((TARGETS, "return torch.where(positive, labels[best], 0), ltrb[rows, best]"),)),
        Mistake("background is -1", "background has the label -1: it is 0 in this course",
                edits=((TARGETS, TARGETS.replace("labels[best], 0)", "labels[best], -1)")),)),
        Mistake("background keeps its label", "background has the label of some box: it is 0",
                edits=((TARGETS, TARGETS.replace("torch.where(positive, labels[best], 0)", "labels[best]")),)),
        Mistake("labels one too high", "labels have been raised by one: they are 1..K already", edits=((TARGETS, TARGETS.replace("labels[best], 0", "labels[best] + 1, 0")),)),
        Mistake("labels one too low", "labels have been lowered by one, so class 1 became background: they stay 1..K",
                edits=((TARGETS, TARGETS.replace("labels[best], 0", "labels[best] - 1, 0")),)),
        Mistake("the box's number for its label", "these are numbers of boxes: their labels are asked for",
                edits=((TARGETS, TARGETS.replace("labels[best], 0", "best + 1, 0")),)),
        Mistake("1 for every object", "every object has the label 1: its class is asked for",
                edits=((TARGETS, TARGETS.replace("torch.where(positive, labels[best], 0)", "positive.long()")),)),
        Mistake("labels as floats", "the labels are floating point: int64 is asked for",
                edits=((TARGETS, TARGETS.replace("torch.where(positive, labels[best], 0)", "torch.where(positive, labels[best], 0).float()")),)),
        Mistake("fails without objects", "an image without objects ends in an error: every location is background there",
                edits=((NO_BOXES, "    if len(boxes) == 0:\n        raise IndexError('argmin of an empty dimension')\n"),)),
        Mistake("float32 without objects", "without objects the distances are float32, whatever the locations are",
                edits=((NO_BOXES, NO_BOXES.replace("x.new_zeros(len(x), 4)", "torch.zeros(len(x), 4)")),)),
        Mistake("divided by the level", "distances are halved from level to level: they stay in pixels of the image",
                edits=((TARGETS, "shares = torch.cat([xy.new_full((len(xy), 1), 2.0**l) for l, xy in enumerate(locations)])\n    "
                        + TARGETS.replace("ltrb[rows, best]", "ltrb[rows, best] / shares")),)),
        Mistake("coarse level first", "the rows of the coarse levels come first: the levels go from fine to coarse, as they come in",
                edits=((TARGETS, "order = torch.cat(torch.arange(len(x)).split([len(xy) for xy in locations])[::-1])\n    "
                        "classes = torch.where(positive, labels[best], 0)[order]\n    "
                        "return classes, torch.where(positive[:, None], ltrb[rows, best], 0.0)[order]"),)),
        Mistake("a list for each level", "a list with a tensor for each level comes out: join the levels",
                edits=((TARGETS, "counts = [len(xy) for xy in locations]\n    classes = torch.where(positive, labels[best], 0)\n    "
                        "return classes.split(counts), torch.where(positive[:, None], ltrb[rows, best], 0.0).split(counts)"),)),
        Mistake("the middle of the box only", "only the middle half of each box has locations: the slides take the whole box",
                edits=((INSIDE, "(ltrb[..., :2] > ltrb[..., 2:] / 3).all(-1) & (ltrb[..., 2:] > ltrb[..., :2] / 3).all(-1) & (ltrb.amin(-1) > 0)"),)),
        Mistake("each object on one level only", "an object has locations on one level only, that of its size: here the distances of each "
                "location decide, so it may have some on two levels",
                edits=((MINE, "size = torch.maximum(x2 - x1, y2 - y1) / 2\n    "
                        f"mine = {INSIDE} & (low[:, None] <= size) & (size <= high[:, None])"),)),
    ],  # fmt: skip
    "centerness": [
        Mistake("no root", "this is the product of the two ratios: its root is asked for",
                edits=((ROOT, "return across * down"),)),
        Mistake("neighbours for opposites", "the ratios are of left with top, and right with bottom: opposite sides belong together",
                edits=((UNBOUND, UNBOUND.replace("left, top, right, bottom", "left, right, top, bottom")),)),
        Mistake("left with bottom", "the ratios are of left with bottom, and top with right: opposite sides belong together",
                edits=((UNBOUND, UNBOUND.replace("left, top, right, bottom", "left, top, bottom, right")),)),
        Mistake("the ratio upside down", "the ratios are of the larger to the smaller, so they are 1 or more",
                edits=((ACROSS, "across = torch.maximum(left, right) / torch.minimum(left, right).clamp(min=tiny)"),
                       (DOWN, "down = torch.maximum(top, bottom) / torch.minimum(top, bottom).clamp(min=tiny)"))),
        Mistake("one ratio upside down", "the ratio of top and bottom is of the larger to the smaller",
                edits=((DOWN, "down = torch.maximum(top, bottom) / torch.minimum(top, bottom).clamp(min=tiny)"),)),
        Mistake("mean of the ratios", "this is the mean of the two ratios: the root of their product is asked for",
                edits=((ROOT, "return (across + down) / 2"),)),
        Mistake("root of the sum", "this is the root of the sum of the ratios: the root of their product is asked for",
                edits=((ROOT, "return (across + down).sqrt()"),)),
        Mistake("root of the mean", "this is the root of the mean of the ratios: the root of their product is asked for",
                edits=((ROOT, "return ((across + down) / 2).sqrt()"),)),
        Mistake("the smaller ratio", "this is the smaller of the two ratios: the root of their product is asked for",
                edits=((ROOT, "return torch.minimum(across, down)"),)),
        Mistake("smallest over largest of all four", "this is the smallest of the four distances over the largest: each pair of opposite "
                "sides has a ratio of its own",
                edits=((ROOT, "return ltrb.clamp(min=0).amin(-1) / ltrb.amax(-1).clamp(min=tiny)"),)),
        Mistake("root of smallest over largest", "this is the root of the smallest of the four distances over the largest: each pair of "
                "opposite sides has a ratio of its own",
                edits=((ROOT, "return (ltrb.clamp(min=0).amin(-1) / ltrb.amax(-1).clamp(min=tiny)).sqrt()"),)),
        Mistake("across only", "only left and right count: top and bottom do as well",
                edits=((ROOT, "return across.sqrt()"),)),
        Mistake("down only", "only top and bottom count: left and right do as well",
                edits=((ROOT, "return down.sqrt()"),)),
        Mistake("a root of each, not multiplied", "this is the sum of the roots: the roots are multiplied",
                edits=((ROOT, "return across.sqrt() + down.sqrt()"),)),
        Mistake("fourth root", "the root is taken twice", edits=((ROOT, "return (across * down).sqrt().sqrt()"),)),
        Mistake("0 / 0", "a location with distances of 0 gives NaN, 0 divided by 0: it is to have 0",
                edits=((ACROSS, "across = torch.minimum(left, right) / torch.maximum(left, right)"),
                       (DOWN, "down = torch.minimum(top, bottom) / torch.maximum(top, bottom)"))),
        Mistake("root of a negative number", "a location outside gives NaN, the root of a negative number: it is to have 0",
                edits=((UNBOUND, "left, top, right, bottom = ltrb.unbind(-1)"),
                       (ACROSS, "across = torch.minimum(left, right) / torch.where(torch.maximum(left, right) == 0, 1, torch.maximum(left, right))"),
                       (DOWN, "down = torch.minimum(top, bottom) / torch.where(torch.maximum(top, bottom) == 0, 1, torch.maximum(top, bottom))"))),
        Mistake("product clamped", "a location outside, to the left and above, has two negative ratios whose product is above 0: look at "
                "each distance",
                edits=((UNBOUND, "left, top, right, bottom = ltrb.unbind(-1)"), (ROOT, "return (across * down).clamp(min=0).sqrt()"))),
        Mistake("absolute distances", "a negative distance counts as a positive one: the location is outside and is to have 0",
                edits=((UNBOUND, "left, top, right, bottom = ltrb.abs().unbind(-1)"),)),
        Mistake("one added to each", "one pixel is added to each distance: there is no + 1",
                edits=((UNBOUND, "left, top, right, bottom = (ltrb.clamp(min=0) + 1).unbind(-1)"),)),
        Mistake("distances kept above 0.01", "distances under a hundredth of a pixel are changed: the ratio does not depend on the unit",
                edits=((UNBOUND, "left, top, right, bottom = (ltrb.clamp(min=0) + 0.01).unbind(-1)"),)),
        Mistake("eps of 1e-6 in the denominator", "a number is added to the denominator that is not small beside the smallest distances",
                edits=((ACROSS, "across = torch.minimum(left, right) / (torch.maximum(left, right) + 1e-6)"),
                       (DOWN, "down = torch.minimum(top, bottom) / (torch.maximum(top, bottom) + 1e-6)"))),
        Mistake("a column", "the answer is a column [P, 1]: one dimension, [P], is asked for",
                edits=((ROOT, "return (across * down).sqrt()[:, None]"),)),
        Mistake("distance from the middle", "this is 1 less the distance from the middle in half sides: the ratio of the distances is "
                "asked for",
                edits=((ROOT, "return ((1 - (left - right).abs() / (left + right).clamp(min=tiny)) * (1 - (top - bottom).abs() / (top + bottom)"
                        ".clamp(min=tiny)) * (ltrb.amin(-1) > 0)).clamp(min=0).sqrt()"),)),
        Mistake("the mean of all", "this is one number, the mean: one for each location is asked for",
                edits=((ROOT, "return (across * down).sqrt().mean()"),)),
    ],  # fmt: skip
    "FCOSHead": [
        Mistake("reshaped at once", "class logits are mixed: put the channels last before you flatten",
                edits=((LOGITS, "logits.append(self.class_logits(class_feature).reshape(len(feature), -1, self.class_logits.out_channels))"),)),
        Mistake("distances reshaped at once", "distances are mixed: put the channels last before you flatten",
                edits=((DISTANCES, "distances.append(box_map.reshape(len(feature), -1, 4))"),)),
        Mistake("class logits column by column", "class logits are read column by column: y is the outer one",
                edits=((LOGITS, "logits.append(self.class_logits(class_feature).mT.flatten(2).mT)"),)),
        Mistake("distances column by column", "distances are read column by column: y is the outer one",
                edits=((DISTANCES, "distances.append(box_map.mT.flatten(2).mT)"),)),
        Mistake("centre-ness column by column", "centre-ness is read column by column: y is the outer one",
                edits=((CENTERS, "centers.append(self.center_logits(class_feature).mT.flatten(1))"),)),
        Mistake("coarse level first", "the last map's rows come first: levels go from fine to coarse, as they come in",
                edits=((JOINED, "return torch.cat(logits[::-1], 1), torch.cat(distances[::-1], 1), torch.cat(centers[::-1], 1)"),)),
        Mistake("only the last level", "the rows of one level only come out: join all of them",
                edits=((JOINED, "return logits[-1], distances[-1], centers[-1]"),)),
        Mistake("levels not joined", "lists with a tensor for each level come out: join them along the locations",
                edits=((JOINED, "return logits, distances, centers"),)),
        Mistake("centre-ness before distances", "centre-ness comes second: class logits, distances, centre-ness is the order",
                edits=((JOINED, "return torch.cat(logits, 1), torch.cat(centers, 1), torch.cat(distances, 1)"),)),
        Mistake("distances first", "distances come first: class logits, distances, centre-ness is the order",
                edits=((JOINED, "return torch.cat(distances, 1), torch.cat(logits, 1), torch.cat(centers, 1)"),)),
        Mistake("centre-ness as a column", "centre-ness is [B, P, 1]: one dimension less is asked for",
                edits=((CENTERS, "centers.append(self.center_logits(class_feature).flatten(2).mT)"),)),
        Mistake("background column", "there is an output for background: with a sigmoid for each class there is none",
                edits=((CLASS_LAST, CLASS_LAST.replace("num_classes", "num_classes + 1")),)),
        Mistake("no exp", "distances can be negative: exp comes last, before the stride",
                edits=((BOX_MAP, "box_map = stride * scale * self.box_distances(self.box_tower(feature))"),)),
        Mistake("relu for exp", "distances are cut off at 0: the slides end them with exp (torchvision takes relu)",
                edits=((BOX_MAP, "box_map = stride * torch.relu(scale * self.box_distances(self.box_tower(feature)))"),)),
        Mistake("softplus for exp", "distances end with a softplus: the slides end them with exp",
                edits=((BOX_MAP, "box_map = stride * F.softplus(scale * self.box_distances(self.box_tower(feature)))"),)),
        Mistake("powers of two for exp", "distances are powers of 2: exp has the base e",
                edits=((BOX_MAP, BOX_MAP.replace("torch.exp(", "torch.exp2(")),)),
        Mistake("no stride", "distances are counted in cells: times the stride they are pixels",
                edits=((BOX_MAP, BOX_MAP.replace("stride * ", "")),)),
        Mistake("stride inside of exp", "the stride stands inside of exp: it is multiplied after it",
                edits=((BOX_MAP, BOX_MAP.replace("stride * torch.exp(scale *", "torch.exp(stride * scale *")),)),
        Mistake("divided by the stride", "distances are divided by the stride: they are to be in pixels",
                edits=((BOX_MAP, BOX_MAP.replace("stride * torch.exp(scale * self.box_distances(self.box_tower(feature)))",
                        "torch.exp(scale * self.box_distances(self.box_tower(feature))) / stride")),)),
        Mistake("the level for the stride", "distances are multiplied by the number of the level: its stride is 2 to that power",
                edits=((STRIDES, "self.strides = list(levels)"),)),
        Mistake("8, 16, 32 whatever the levels", "the strides are 8, 16, 32, ... whatever the levels are",
                edits=((STRIDES, "self.strides = [8 * 2**i for i in range(len(levels))]"),)),
        Mistake("one stride for all", "all levels have the stride of the first one",
                edits=((STRIDES, "self.strides = [2**levels[0] for _ in levels]"),)),
        Mistake("scale outside of exp", "the scale is multiplied after exp: it stands inside",
                edits=((BOX_MAP, "box_map = stride * scale * torch.exp(self.box_distances(self.box_tower(feature)))"),)),
        Mistake("scale added", "the scale is added: it is multiplied",
                edits=((BOX_MAP, BOX_MAP.replace("scale * self", "scale - 1 + self")),)),
        Mistake("no scale", "the scales have no effect: x is multiplied by the scale of its level",
                edits=((BOX_MAP, BOX_MAP.replace("scale * ", "")),)),
        Mistake("one scale for all levels", "all levels share one scale: each has its own",
                edits=((BOX_MAP, BOX_MAP.replace("scale *", "self.scales[0] *")),)),
        Mistake("a single scale", "there is one scale in all: each level has its own",
                edits=((SCALES, "self.scales = nn.Parameter(torch.ones(1))"),
                       (LEVELS, "for feature, stride, scale in zip(features, self.strides, self.scales.expand(len(features))):"))),
        Mistake("scales for each side", "there are four scales for a level: one is asked for",
                edits=((SCALES, "self.scales = nn.Parameter(torch.ones(len(levels), 4, 1, 1))"),)),
        Mistake("scales that do not learn", "the scales are no parameters, so nothing learns them",
                edits=((SCALES, 'self.register_buffer("scales", torch.ones(len(levels)))'),)),
        Mistake("scales in a list", "the scales are unknown to the module: a plain tensor or list is not a parameter",
                edits=((SCALES, "self.scales = torch.ones(len(levels))"),)),
        Mistake("scales begin at 0", "the scales begin at 0: so every distance is the stride; they begin at 1",
                edits=((SCALES, "self.scales = nn.Parameter(torch.zeros(len(levels)))"),)),
        Mistake("scale on the class logits too", "the scales change the class logits: they are for the distances",
                edits=((LOGITS, LOGITS.replace("self.class_logits(class_feature)", "(scale * self.class_logits(class_feature))")),)),
        Mistake("centre-ness on the tower of boxes", "centre-ness stands on the tower of boxes, as in torchvision: the slides' figure has it "
                "on the tower of classes",
                edits=((CENTERS, "centers.append(self.center_logits(self.box_tower(feature)).flatten(1))"),)),
        Mistake("one tower for both", "classes and boxes share a tower: each has its own",
                edits=((BOX_TOWER, "self.box_tower = self.class_tower"),)),
        Mistake("a third tower", "centre-ness has a tower of its own: it stands on that of the classes",
                edits=((BOX_TOWER, BOX_TOWER + "\n        self.center_tower = self.tower(channels, depth)"),
                       (CENTERS, "centers.append(self.center_logits(self.center_tower(feature)).flatten(1))"))),
        Mistake("a head for each level", "there is a tower of classes for each level: all levels share one",
                edits=(("self.class_tower = self.tower(channels, depth)",
                        "self.class_tower = nn.ModuleList(self.tower(channels, depth) for _ in levels)"),
                       (LEVELS, "for level, (feature, stride, scale) in enumerate(zip(features, self.strides, self.scales)):"),
                       ("self.class_tower(feature)", "self.class_tower[level](feature)"))),
        Mistake("depth ignored", "the towers are four deep, whatever depth is", edits=((DEPTH, "for _ in range(4):"),)),
        Mistake("one layer more", "the towers have a layer too many", edits=((DEPTH, "for _ in range(depth + 1):"),)),
        Mistake("one layer less", "the towers have a layer too few", edits=((DEPTH, "for _ in range(depth - 1):"),)),
        Mistake("no norm", "there is no norm: each convolution of a tower has one behind it",
                edits=((HIDDEN, HIDDEN.replace("nn.GroupNorm(min(32, channels), channels), ", "")),)),
        Mistake("batch norm", "the norm is over the batch: an image's answers depend on the others, or training and evaluation differ",
                edits=((HIDDEN, HIDDEN.replace("nn.GroupNorm(min(32, channels), channels)", "nn.BatchNorm2d(channels)")),)),
        Mistake("one group", "the norm has one group: 32 are asked for",
                edits=((HIDDEN, HIDDEN.replace("min(32, channels)", "1")),)),
        Mistake("a group for each channel", "each channel has a norm of its own: 32 groups are asked for",
                edits=((HIDDEN, HIDDEN.replace("min(32, channels)", "channels")),)),
        Mistake("32 groups whatever the channels", "eight channels cannot make 32 groups: with fewer than 32, each is one",
                edits=((HIDDEN, HIDDEN.replace("min(32, channels)", "32")),)),
        Mistake("no ReLU", "no ReLU follows the norms",
                edits=((HIDDEN, HIDDEN.replace(", nn.ReLU()]", "]")),)),
        Mistake("ReLU before the norm", "the ReLU stands before the norm: it comes after it",
                edits=((HIDDEN, "layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.GroupNorm(min(32, channels), channels)]"),)),
        Mistake("1×1 convolutions", "the convolutions of the towers are 1×1: 3×3 are asked for",
                edits=((HIDDEN, HIDDEN.replace("channels, 3, padding=1", "channels, 1")),)),
        Mistake("no padding", "maps shrink in the towers: 3×3 convolutions need a padding of 1",
                edits=((HIDDEN, HIDDEN.replace(", padding=1", "")),)),
        Mistake("convolutions without bias", "the convolutions of the towers have no bias: they are to have one",
                edits=((HIDDEN, HIDDEN.replace("3, padding=1", "3, padding=1, bias=False")), (ZEROS, "layer.bias is None or nn.init.zeros_(layer.bias)"))),
        Mistake("layers in a plain list", "the towers stand in Python lists, which PyTorch does not look into",
                edits=((BOX_TOWER, "self.box_layers = [self.tower(channels, depth)]"), ("self.box_tower(feature)", "self.box_layers[0](feature)"))),
        Mistake("sigmoid on the class logits", "class logits lie in 0..1: the sigmoid comes later, in the loss and in prediction",
                edits=((LOGITS, LOGITS.replace(".flatten", ".sigmoid().flatten")),)),
        Mistake("sigmoid on the centre-ness", "centre-ness logits lie in 0..1: the sigmoid comes later, in the loss and in prediction",
                edits=((CENTERS, CENTERS.replace(".flatten", ".sigmoid().flatten")),)),
        Mistake("no prior", "all classes begin at a probability of 0.5: the bias of the class logits begins at -ln 99",
                edits=((PRIOR, "pass"),)),
        Mistake("prior with the wrong sign", "all classes begin at a probability of 0.99: the sign of the bias is wrong",
                edits=((PRIOR, PRIOR.replace("-math", "math")),)),
        Mistake("prior on the centre-ness too", "the prior stands in the bias of the centre-ness too: it is for the classes alone",
                edits=((PRIOR, PRIOR + "\n        nn.init.constant_(self.center_logits.bias, -math.log(99))"),)),
        Mistake("weights as PyTorch sets them", "the weights are those that PyTorch begins with: σ = 0.01 is asked for",
                edits=((NORMAL, "pass"),)),
        Mistake("biases as PyTorch sets them", "the biases are those that PyTorch begins with: 0 is asked for",
                edits=((ZEROS, "pass"),)),
        Mistake("σ of 0.1", "the weights have σ = 0.1: 0.01 is asked for", edits=((NORMAL, NORMAL.replace("0.01", "0.1")),)),
        Mistake("other names", "the layers have names of their own: lesson 14 looks for those of the docstring",
                edits=((CLASS_LAST, CLASS_LAST.replace("self.class_logits", "self.scores")), (PRIOR, PRIOR.replace("class_logits", "scores")),
                       (LOGITS, LOGITS.replace("self.class_logits", "self.scores")))),
    ],  # fmt: skip
    "fcos_loss": [
        Mistake("divided by all locations", "the losses are divided by the number of locations: by that of the positives",
                edits=((NUMBER, "number = max(labels.numel(), 1)"),)),
        Mistake("divided by the images", "the losses are divided by the number of images: by that of the positives",
                edits=((NUMBER, "number = max(len(labels), 1)"),)),
        Mistake("not divided", "the losses are sums: they are divided by the number of positives", edits=((NUMBER, "number = 1"),)),
        Mistake("each image by its own positives", "each image is divided by its own positives, and the mean is taken: the batch has one number",
                edits=((CLASSIFICATION, "classification = (focal_loss(logits, (labels[..., None] == classes).to(logits.dtype)).sum((1, 2)) / "
                        "positive.sum(1).clamp(min=1)).mean()"),)),
        Mistake("0 / 0 without positives", "without a positive the losses are NaN or infinite: divide by 1 then",
                edits=((NUMBER, "number = positive.sum()"),)),
        Mistake("boxes: the mean without positives", "without a positive the loss of the boxes is NaN, the mean of nothing",
                edits=((BOX_LOSS, "localisation = -iou.clamp(min=1e-6).log().mean()"),)),
        Mistake("centre-ness: the mean without positives", "without a positive the loss of the centre-ness is NaN, the mean of nothing",
                edits=((CENTER_LOSS, CENTER_LOSS.replace('reduction="sum") / number', 'reduction="mean")')),)),
        Mistake("no gradient without positives", "without a positive the losses are plain zeros: they are to have a slope of 0",
                edits=((NUMBER, NUMBER + "\n    if not positive.any():\n        zero = logits.new_zeros(())\n        return focal_loss(logits, "
                        "torch.zeros_like(logits)).sum(), zero, zero"),)),
        Mistake("1 - IoU", "this is 1 - IoU: -ln IoU is asked for", edits=((BOX_LOSS, "localisation = (1 - iou).sum() / number"),)),
        Mistake("IoU itself", "this is the IoU, which grows with the overlap: -ln of it is asked for",
                edits=((BOX_LOSS, "localisation = iou.sum() / number"),)),
        Mistake("sign of the logarithm", "the loss of the boxes is negative: it is minus the logarithm",
                edits=((BOX_LOSS, "localisation = iou.clamp(min=1e-6).log().sum() / number"),)),
        Mistake("logarithm to the base 2", "this is a logarithm to the base 2: the natural one is asked for",
                edits=((BOX_LOSS, BOX_LOSS.replace("log()", "log2()")),)),
        Mistake("logarithm of the mean IoU", "this is the logarithm of the mean IoU: the logarithm is taken of each",
                edits=((BOX_LOSS, "localisation = -(iou.sum() / number).clamp(min=1e-6).log() * positive.any()"),)),
        Mistake("IoU squared", "this is the loss 1 - IoU²: -ln IoU is asked for", edits=((BOX_LOSS, "localisation = (1 - iou**2).sum() / number"),)),
        Mistake("GIoU", "this is the loss 1 - GIoU, as in torchvision: the slides have -ln IoU",
                edits=((BOX_LOSS, "hull = torch.maximum(said, true)\n    hull = (hull[:, 0] + hull[:, 2]) * (hull[:, 1] + hull[:, 3])\n    "
                        "union = areas[0] + areas[1] - overlap\n    localisation = (1 - iou + (hull - union) / hull.clamp(min=1e-6)).sum() / number"),)),
        Mistake("L1 for IoU", "this is the difference of the distances: -ln IoU is asked for",
                edits=((BOX_LOSS, "localisation = (said - true).abs().sum() / number"),)),
        Mistake("enclosing box for the union", "the overlap is divided by the box around both: by their union",
                edits=((IOU, "hull = torch.maximum(said, true)\n    iou = overlap / ((hull[:, 0] + hull[:, 2]) * (hull[:, 1] + hull[:, 3]))"),)),
        Mistake("sum of areas for the union", "the overlap is divided by the sum of both areas: the union counts it once",
                edits=((IOU, "iou = overlap / (areas[0] + areas[1])"),)),
        Mistake("one added above and below", "1 is added to overlap and union, which changes small boxes a lot",
                edits=((IOU, "iou = (overlap + 1) / (areas[0] + areas[1] - overlap + 1)"),)),
        Mistake("larger distances for the overlap", "the overlap is made of the larger distances: of the smaller ones",
                edits=((SHARED, "shared = torch.maximum(said, true)"),)),
        Mistake("neighbours added", "l + t and r + b were multiplied: width is l + r, height is t + b",
                edits=((OVERLAP, "overlap = (shared[:, 0] + shared[:, 1]) * (shared[:, 2] + shared[:, 3])"),
                       (AREAS, "areas = [(box[:, 0] + box[:, 1]) * (box[:, 2] + box[:, 3]) for box in (said, true)]"))),
        Mistake("distances multiplied crosswise", "areas are l · t + r · b: width times height is asked for",
                edits=((OVERLAP, "overlap = shared[:, 0] * shared[:, 1] + shared[:, 2] * shared[:, 3]"),
                       (AREAS, "areas = [box[:, 0] * box[:, 1] + box[:, 2] * box[:, 3] for box in (said, true)]"))),
        Mistake("distances read as corners", "distances were read as corners (x1, y1, x2, y2): they are measured from the location",
                edits=((OVERLAP, "overlap = ((torch.minimum(said[:, 2], true[:, 2]) - torch.maximum(said[:, 0], true[:, 0])).clamp(min=0)\n"
                        "               * (torch.minimum(said[:, 3], true[:, 3]) - torch.maximum(said[:, 1], true[:, 1])).clamp(min=0))"),
                       (AREAS, "areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (said, true)]"))),
        Mistake("logarithm of 0", "a predicted box without area gives an infinite loss, or a slope that is no number: keep the IoU off 0",
                edits=((BOX_LOSS, "localisation = -iou.log().sum() / number"),)),
        Mistake("IoU kept above 0.01", "IoUs under 0.01 all cost the same: keep it off 0 by much less",
                edits=((BOX_LOSS, BOX_LOSS.replace("1e-6", "0.01")),)),
        Mistake("boxes of background too", "background counts in the loss of the boxes: positives alone do",
                edits=(("said, true = ltrb[positive], target_ltrb[positive]", "said, true = ltrb.flatten(0, 1), target_ltrb.flatten(0, 1)"),
                       (CENTER_LOSS, CENTER_LOSS.replace("centerness(true)", "centerness(target_ltrb[positive])")))),
        Mistake("boxes weighted by centre-ness", "the loss of each box is weighted by its centre-ness, as in later versions: the slides count all "
                "positives alike",
                edits=((BOX_LOSS, "localisation = -(iou.clamp(min=1e-6).log() * centerness(true)).sum() / number"),)),
        Mistake("gradient through the area only", "the overlap has no slope: it depends on the predicted distances",
                edits=((OVERLAP, OVERLAP.replace("shared[:, 0]", "shared.detach()[:, 0]").replace("shared[:, 2]", "shared.detach()[:, 2]")),)),
        Mistake("centre-ness: squared error", "this is a squared error: binary cross entropy is asked for",
                edits=((CENTER_LOSS, "center = ((center_logits[positive].sigmoid() - centerness(true)) ** 2).sum() / number"),)),
        Mistake("centre-ness: no sigmoid", "the centre-ness logits were taken for probabilities: they want a sigmoid",
                edits=((CENTER_LOSS, CENTER_LOSS.replace("F.binary_cross_entropy_with_logits(center_logits[positive]",
                        "F.binary_cross_entropy(center_logits[positive].clamp(1e-6, 1 - 1e-6)")),)),
        Mistake("centre-ness: sigmoid twice", "the sigmoid is taken twice: binary_cross_entropy_with_logits takes it itself",
                edits=((CENTER_LOSS, CENTER_LOSS.replace("center_logits[positive]", "center_logits[positive].sigmoid()")),)),
        Mistake("centre-ness: 1 for every positive", "the truth of the centre-ness is 1 for every positive: it is `centerness` of its distances",
                edits=((CENTER_LOSS, CENTER_LOSS.replace("centerness(true)", "torch.ones_like(true[:, 0])")),)),
        Mistake("centre-ness of the predicted box", "the truth of the centre-ness is made of the predicted distances: of the true ones",
                edits=((CENTER_LOSS, CENTER_LOSS.replace("centerness(true)", "centerness(said)")),)),
        Mistake("centre-ness of background too", "background counts in the loss of the centre-ness: positives alone do",
                edits=((CENTER_LOSS, CENTER_LOSS.replace("center_logits[positive], centerness(true)",
                        "center_logits, centerness(target_ltrb.flatten(0, 1)).reshape(labels.shape)")),)),
        Mistake("centre-ness not divided", "the loss of the centre-ness is not divided by the number of positives",
                edits=((CENTER_LOSS, CENTER_LOSS.replace(" / number", "")),)),
        Mistake("classes not divided", "the loss of the classes is not divided by the number of positives",
                edits=((CLASSIFICATION, CLASSIFICATION.replace(" / number", "")),)),
        Mistake("boxes not divided", "the loss of the boxes is not divided by the number of positives",
                edits=((BOX_LOSS, BOX_LOSS.replace(" / number", "")),)),
        Mistake("column k is class k", "column k was taken for class k: it is class k + 1, as there is no column for background",
                edits=((CLASSES, "classes = torch.arange(logits.shape[-1], device=labels.device)"),)),
        Mistake("classes: positives only", "background has no loss: it is most of what the classes learn from",
                edits=((CLASSIFICATION, "classification = focal_loss(logits[positive], (labels[positive][:, None] == classes).to(logits.dtype)).sum() / number"),)),
        Mistake("classes: the true class only", "only the column of the true class counts at a positive: all of them do",
                edits=((CLASSIFICATION, "hot = (labels[..., None] == classes)\n    classification = (focal_loss(logits, hot.to(logits.dtype)) * "
                        "(hot | ~positive[..., None])).sum() / number"),)),
        Mistake("cross entropy for focal loss", "this is plain cross entropy: focal loss is asked for",
                edits=((CLASSIFICATION, "classification = F.binary_cross_entropy_with_logits(logits, (labels[..., None] == classes).to(logits.dtype), "
                        'reduction="sum") / number'),)),
        Mistake("classes: mean over the columns", "the loss of the classes is averaged over the columns: it is summed",
                edits=((CLASSIFICATION, CLASSIFICATION.replace(").sum() / number", ").mean(-1).sum() / number")),)),
        Mistake("alpha of 0.5", "alpha is not lesson 11's 0.25", edits=((CLASSIFICATION, CLASSIFICATION.replace(".to(logits.dtype))", ".to(logits.dtype), 0.5)")),)),
        Mistake("boxes and centre-ness exchanged", "the loss of the centre-ness comes second: classes, boxes, centre-ness is the order",
                edits=((LOSSES, "return classification, center, localisation"),)),
        Mistake("one sum", "this is the sum of the losses: the three are asked for", edits=((LOSSES, "return classification + localisation + center"),)),
        Mistake("without centre-ness, as the slide's total", "two losses come out, as in the slide's total: the third is the centre-ness",
                edits=((LOSSES, "return classification, localisation"),)),
    ],  # fmt: skip
    "fcos_predict": [
        Mistake("no centre-ness", "the score is the class probability alone: it is multiplied by the centre-ness",
                edits=((SCORE, "every_score = logits.sigmoid()"),)),
        Mistake("centre-ness without its sigmoid", "the centre-ness logit is multiplied: its sigmoid is the centre-ness",
                edits=((SCORE, "every_score = logits.sigmoid() * center_logits[..., None]"),)),
        Mistake("sigmoid of the product", "the sigmoid is taken of the product of the logits: of each",
                edits=((SCORE, "every_score = (logits * center_logits[..., None]).sigmoid()"),)),
        Mistake("sum of the logits", "the logits are added before the sigmoid: the two probabilities are multiplied",
                edits=((SCORE, "every_score = (logits + center_logits[..., None]).sigmoid()"),)),
        Mistake("mean for product", "this is the mean of class probability and centre-ness: their product is asked for",
                edits=((SCORE, "every_score = (logits.sigmoid() + center_logits.sigmoid()[..., None]) / 2"),)),
        Mistake("centre-ness of the box", "the centre-ness is computed from the predicted distances: the head says it",
                edits=((SCORE, "every_score = logits.sigmoid() * centerness(ltrb.flatten(0, 1)).reshape(center_logits.shape)[..., None]"),)),
        Mistake("softmax over the classes", "classes compete in a softmax: each has a sigmoid of its own",
                edits=((SCORE, SCORE.replace("logits.sigmoid() *", "logits.softmax(-1) *")),)),
        Mistake("always the root", "the score is the root of the product, as in torchvision: only with sqrt=True",
                edits=((IF_ROOT, "    every_score = every_score.sqrt()\n"),)),
        Mistake("never the root", "with sqrt=True the score is the root of the product", edits=((IF_ROOT, ""),)),
        Mistake("root after the threshold", "with sqrt the threshold was compared with the product: it is for the score, so for the root",
                edits=((IF_ROOT, ""), (FOUND, FOUND.replace("scores[kept]", "(scores[kept].sqrt() if sqrt else scores[kept])")))),
        Mistake("threshold on the class alone", "the threshold was compared with the class probability: it is for the score, centre-ness included",
                edits=((SPLIT, SPLIT.replace("image_boxes.split(counts)", "image_boxes.split(counts), image_chances.split(counts)")),
                       ("for level_scores, level_boxes in", "for level_scores, level_boxes, level_chances in"),
                       ("for image_scores, image_boxes in zip(every_score, corners):",
                        "for image_scores, image_boxes, image_chances in zip(every_score, corners, logits.sigmoid()):"),
                       (OVER, OVER.replace("level_scores", "level_chances")))),
        Mistake("centre-ness for the order only", "scores come out as class probabilities, ranked by class · centre-ness: the product is the score",
                edits=((FOUND, "chance = torch.cat([c[r] for c, r in zip(logits.sigmoid()[len(found)].split(counts), chosen)])\n        "
                        + "found.append({'boxes': boxes[kept], 'scores': chance[torch.arange(len(labels)), labels - 1][kept], 'labels': labels[kept]})"),
                       ("parts = []", "parts, chosen = [], []"), (PART, PART + "\n            chosen.append(rows[order])"))),
        Mistake("the threshold itself is enough", "a score equal to the threshold was kept: it is to be above it",
                edits=((OVER, OVER.replace("> score_threshold", ">= score_threshold")),)),
        Mistake("no threshold", "candidates under the threshold are there", edits=((OVER, OVER.replace("> score_threshold", "> -1")),)),
        Mistake("threshold of 0.05 whatever is asked for", "the threshold is 0.05, whatever is asked for",
                edits=((OVER, OVER.replace("score_threshold", "0.05")),)),
        Mistake("IoU threshold of 0.6 whatever is asked for", "the threshold of NMS is 0.6, whatever is asked for",
                edits=((KEPT, KEPT.replace("iou_threshold", "0.6")),)),
        Mistake("labels one too low", "labels begin at 0: column k is class k + 1", edits=((PART, PART.replace("classes[order] + 1", "classes[order]")),)),
        Mistake("one class for each location", "a location reports its best class only: each pair of location and class is a candidate",
                edits=((SCORE, SCORE + "\n    every_score = every_score * (every_score == every_score.amax(-1, keepdim=True))"),)),
        Mistake("locations plus distances on all sides", "left and top were added to the location: they are subtracted",
                edits=((CORNERS, CORNERS.replace("points[None] - ltrb", "points[None] + ltrb")),)),
        Mistake("left and right exchanged", "right and bottom were subtracted, left and top added: it is the other way round",
                edits=((CORNERS, "corners = torch.cat([points[None] - ltrb[..., 2:], points[None] + ltrb[..., :2]], -1)"),)),
        Mistake("l and t exchanged", "distances were read as top, left, bottom, right: left, top, right, bottom is the order",
                edits=((CORNERS, "corners = torch.cat([points[None] - ltrb[..., [1, 0]], points[None] + ltrb[..., [3, 2]]], -1)"),)),
        Mistake("l, r, t, b", "distances were read as left, right, top, bottom: left, top, right, bottom is the order",
                edits=((CORNERS, "corners = torch.cat([points[None] - ltrb[..., [0, 2]], points[None] + ltrb[..., [1, 3]]], -1)"),)),
        Mistake("locations as (y, x)", "locations were read as (y, x): they are (x, y)",
                edits=(("points = torch.cat(locations)", "points = torch.cat(locations).flip(1)"),)),
        Mistake("distances for the box", "these are the distances: boxes are asked for", edits=((CORNERS, "corners = ltrb"),)),
        Mistake("not clipped", "boxes reach out of the image: clip them", edits=((CLIP, "pass"),)),
        Mistake("clipped at 0 only", "boxes reach out of the image to the right and below: clip them there too",
                edits=((CLIP, "corners = corners.clamp(min=0)"),)),
        Mistake("clipped at the far sides only", "boxes reach out of the image to the left and above: clip them there too",
                edits=((CLIP, CLIP.replace("corners.clamp(min=0)", "corners")),)),
        Mistake("width and height exchanged", "image_size is (width, height): here x is clipped at the height",
                edits=(("width, height = image_size", "height, width = image_size"),)),
        Mistake("clipped one pixel early", "boxes are clipped at width - 1: there is no + 1 and no - 1 in this course",
                edits=((CLIP, CLIP.replace("[width, height, width, height]", "[width - 1, height - 1, width - 1, height - 1]")),)),
        Mistake("NMS over all classes", "a box of one class removed one of another: NMS goes within each class",
                edits=((KEPT, KEPT.replace("labels, iou", "torch.zeros_like(labels), iou")),)),
        Mistake("NMS in each level", "an echo from another level stays: NMS goes over all levels together",
                edits=((KEPT, "levels = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(p[1]) for p in parts]))\n        "
                        "kept = batched_nms(boxes, scores, labels + 1000 * levels, iou_threshold)[:top_k]"),)),
        Mistake("no NMS", "echoes stay: NMS is missing", edits=((KEPT, "kept = scores.argsort(descending=True, stable=True)[:top_k]"),)),
        Mistake("top_k before NMS", "the best top_k were taken before NMS, so that echoes used up the places",
                edits=((KEPT, "best = scores.argsort(descending=True, stable=True)[:top_k]\n        "
                        "kept = best[batched_nms(boxes[best], scores[best], labels[best], iou_threshold)]"),)),
        Mistake("top_k ignored", "there are more than top_k detections", edits=((KEPT, KEPT.replace("[:top_k]", "")),)),
        Mistake("100 detections whatever is asked for", "top_k is 100, whatever is asked for", edits=((KEPT, KEPT.replace("[:top_k]", "[:100]")),)),
        Mistake("candidates ignored", "more than `candidates` pairs of a level go on", edits=((CUT, "pass"), (PART, PART.replace("scores[:candidates]", "scores")))),
        Mistake("1000 candidates whatever is asked for", "1000 pairs of a level go on, whatever is asked for",
                edits=((CUT, "order = order[:1000]"), (PART, PART.replace("scores[:candidates]", "scores[:1000]")))),
        Mistake("candidates over all levels", "the best `candidates` of all levels together go on: of each level",
                edits=((SPLIT, "zip([image_scores], [image_boxes])"),)),
        Mistake("candidates of each class", "the best `candidates` of each class go on: all classes of a level together",
                edits=((OVER, "((level_scores > score_threshold) & (level_scores.argsort(0, descending=True, stable=True).argsort(0) < candidates))"
                        ".nonzero(as_tuple=True)"), (CUT, "pass"), (PART, PART.replace("scores[:candidates]", "scores")))),
        Mistake("candidates by location", "the best `candidates` locations of a level go on, with all their classes: pairs of location and class "
                "are counted",
                edits=((OVER, "((level_scores > score_threshold) & (level_scores.amax(1).argsort(descending=True, stable=True).argsort() < candidates)"
                        "[:, None]).nonzero(as_tuple=True)"), (CUT, "pass"), (PART, PART.replace("scores[:candidates]", "scores")))),
        Mistake("candidates in the order of the locations", "the first `candidates` of a level go on, not the best",
                edits=((SORTED, "scores, order = level_scores[rows, classes], torch.arange(len(rows))"),)),
        Mistake("candidates from the bottom", "the worst candidates go on", edits=((SORTED, SORTED.replace("descending=True, ", "")),)),
        Mistake("levels in a list", "each image has a dict for each level: one for all levels is asked for",
                edits=((FOUND, "found.append([{'boxes': b, 'scores': s, 'labels': l} for b, s, l in parts])"),)),
        Mistake("the first image only", "only the first image has detections", edits=(("    return found", "    return found[:1]"),)),
        Mistake("all images together", "detections of all images are in one list: a dict for each image is asked for",
                edits=(("    return found", "    return [{key: torch.cat([one[key] for one in found]) for key in found[0]}]"),)),
        Mistake("sorted by label", "detections come class by class: best score first",
                edits=((FOUND, "kept = kept[labels[kept].argsort(stable=True)]\n        " + FOUND),)),
        Mistake("echoes of the last", "of equal scores the later location comes first",
                edits=((SORTED, "scores, order = (part.flip(0) for part in level_scores[rows, classes].sort(stable=True))"),)),
        Mistake("distances times stride", "distances were multiplied by a stride: they are in pixels already",
                edits=((CORNERS, "shares = torch.cat([xy.new_full((len(xy), 1), 2.0**l) for l, xy in enumerate(locations)])\n    "
                        + CORNERS.replace("ltrb[", "(ltrb * shares)[")),)),
        Mistake("fails on a level without candidates", "an image or level without a candidate ends in an error",
                edits=((SORTED, SORTED + "\n            scores[0]"),)),
    ],  # fmt: skip
    "repaired_targets": [
        Mistake(
            "not repaired",
            "these are the values of the colleague's function: the distances are those to the region around the middle, "
            "not to the object's sides",
            edits=((REGION, "ltrb = torch.cat([points - upper_left, lower_right - points], -1)"), (OBJECT, "inside = ltrb.amin(-1) > 0")),
        ),
        Mistake(
            "the level by the region",
            "what is learnt is right, but the level is still chosen by the distances to the region around the middle",
            edits=((REGION, "around = torch.cat([points - upper_left, lower_right - points], -1)\n    inside = around.amin(-1) > 0"),
                   (LARGEST, "largest = around.amax(-1)")),
        ),
        Mistake(
            "the region is learnt",
            "the level is right, but what is learnt are still the distances to the region around the middle",
            edits=((REGION, "around = torch.cat([points - upper_left, lower_right - points], -1)\n    inside = around.amin(-1) > 0"),
                   (RESULT, RESULT.replace("ltrb[rows", "around[rows"))),
        ),
        Mistake(
            "no centre sampling",
            "every location inside of the box counts, those far from its middle too",
            edits=((REGION_ONLY, "inside = True"), ("(low <= largest)", "(ltrb.amin(-1) > 0) & (low <= largest)")),
        ),
        Mistake(
            "the region leaves the box",
            "locations near the middle count though they lie outside of the box: their distances are negative",
            edits=((UPPER, "upper_left = middle - reach[..., None]"), (LOWER, "lower_right = middle + reach[..., None]")),
        ),
        Mistake(
            "radius in pixels",
            "radius counts in strides of the level; here it counted in pixels",
            edits=(("radius * each(strides)", "radius * each([1] * len(strides))"),),
        ),
        Mistake(
            "strides from coarse to fine",
            "the strides were taken in the reverse order: the first belongs to the first level",
            edits=(("radius * each(strides)", "radius * each(strides[::-1])"),),
        ),
        Mistake(
            "a radius of its own",
            "radius was not used: the region is 1.5 strides whatever the argument says",
            edits=(("radius * each(strides)", "1.5 * each(strides)"),),
        ),
        Mistake(
            "largest box wins",
            "of two objects the location took the larger one",
            edits=((AREA_OF, AREA_OF.replace("math.inf", "-math.inf")), ("area.argmin(1)", "area.argmax(1)")),
        ),
        Mistake(
            "smallest distance in the range",
            "the smallest distance was held against the range: the largest one decides the level",
            edits=((LARGEST, "largest = ltrb.amin(-1)"),),
        ),
        Mistake(
            "on the rim counts",
            "a location at exactly the radius, or on a side of the box, counted: both are outside",
            edits=((".amin(-1) > 0", ".amin(-1) >= 0"),),
        ),
        Mistake(
            "lesson 12's order",
            "the distances come as top, left, bottom, right: here it is left, top, right, bottom",
            edits=((RESULT, RESULT.replace("ltrb[rows, best]", "ltrb[rows, best][:, [1, 0, 3, 2]]")),),
        ),
        Mistake(
            "distances of background",
            "background has distances: it has four zeros",
            edits=((RESULT, "return torch.where(positive, labels[best], 0), ltrb[rows, best]"),),
        ),
    ],
}
