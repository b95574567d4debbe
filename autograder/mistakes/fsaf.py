"""Wrong answers to the exercises of lesson 12."""

from . import Mistake

COVERED = "region = shrink_box(project_box(boxes, level), fraction)"
FIRST = "first = region[:, :2].floor().long()  # [M, 2]"
END = "end = torch.maximum(region[:, 2:].ceil().long(), first + 1)  # one behind the last"
SLICES = "[(slice(y1, y2), slice(x1, x2)) for (x1, y1), (x2, y2) in zip(first.tolist(), end.tolist())]"
NEAR = "if abs(own - level) <= 1:"
IGNORED = "            maps[label - 1][region] = -1\n"
AREAS = "areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)  # [M]"
ORDER = "areas.argsort(stable=True).flip(0).tolist()"
OWN = "regions, here = covered(effective), (levels == level).tolist()"
PAINT = "        if here[i]:\n            owner[regions[i]] = i\n"
ONES = "maps[labels[owner[y, x]] - 1, y, x] = 1"
MAPS = "maps = boxes.new_zeros(num_classes, rows, columns)"

MINE = "mine = fsaf_class_targets(boxes, each, levels, level, grid, len(boxes)) == 1  # [M, H, W]"
PROJECTED = "x1, y1, x2, y2 = project_box(boxes, level)[i].unbind(1)"
FOUR = "torch.stack([y + 0.5 - y1, x + 0.5 - x1, y2 - y - 0.5, x2 - x - 0.5]) / scale"
GIVEN = "return offsets, mine.any(0)"

SHARED = "shared = area(torch.minimum(prediction, target))"
AREA = "return (top + bottom).clamp(min=0) * (left + right).clamp(min=0)"
IOU = "iou = shared / union.clamp(min=torch.finfo(union.dtype).tiny)"
LOG = "return -iou.clamp(min=1e-6).log()"

SUM = "total = focal + iou  # [L, N]"
CHOICE = "total.masked_fill(total.isnan(), math.inf).argmin(0)"

SCALED = "top, left, bottom, right = scale * offsets"
COLUMN = "x = torch.arange(columns, dtype=offsets.dtype, device=offsets.device) + 0.5  # [W]"
ROW = "y = torch.arange(rows, dtype=offsets.dtype, device=offsets.device)[:, None] + 0.5  # [H, 1]"
STACK = "boxes = torch.stack([x - left, y - top, x + right, y + bottom], -1) * 2**level  # [H, W, 4]"
FLAT = "return boxes.reshape(-1, 4)"

MISTAKES = {
    "project_box": [
        Mistake(
            "divided by the level",
            "the boxes are divided by the number of the level: a cell of level 3 is 2³ = 8 pixels wide",
            edits=(("boxes / 2**level", "boxes / level"),),
        ),
        Mistake(
            "multiplied",
            "the boxes are larger than before: a box has fewer cells than pixels",
            edits=(("boxes / 2**level", "boxes * 2**level"),),
        ),
        Mistake(
            "rounded down",
            "fractions of cells are lost: nothing is rounded here, or a small box has no size at all",
            edits=(("boxes / 2**level", "(boxes / 2**level).floor()"),),
        ),
        Mistake(
            "rounded",
            "the boxes end on whole cells: nothing is rounded here",
            edits=(("boxes / 2**level", "(boxes / 2**level).round()"),),
        ),
        Mistake(
            "only the first corner",
            "the upper left corner is projected, the lower right one is still in pixels",
            edits=(("return boxes / 2**level", "return torch.cat([boxes[:, :2] / 2**level, boxes[:, 2:]], 1)"),),
        ),
        Mistake(
            "always level 3",
            "every level is treated as level 3, with cells of 8 pixels",
            edits=(("boxes / 2**level", "boxes / 8"),),
        ),
        Mistake(
            "centre and size",
            "the numbers are those of (x, y, w, h), the centre and the size: the course keeps xyxy",
            edits=(
                (
                    "return boxes / 2**level",
                    "b = boxes / 2**level\n    return torch.cat([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], 1)",
                ),
            ),
        ),
        Mistake(
            "counted from 1 pixel",
            "the lower right corner is one pixel further out: there is no + 1 in this course",
            edits=(("return boxes / 2**level", "return (boxes + torch.tensor([0.0, 0, 1, 1]).to(boxes)) / 2**level"),),
        ),
    ],
    "shrink_box": [
        Mistake(
            "coordinates scaled",
            "all four numbers are multiplied, so the box has moved towards (0, 0): its centre has to stay",
            code="def shrink_box(boxes, fraction):\n    return boxes * fraction\n",
        ),
        Mistake(
            "shrunk towards the upper left corner",
            "the upper left corner stays where it was: the centre should",
            code="def shrink_box(boxes, fraction):\n    sizes = boxes[:, 2:] - boxes[:, :2]\n"
            "    return torch.cat([boxes[:, :2], boxes[:, :2] + fraction * sizes], 1)\n",
        ),
        Mistake(
            "half too small",
            "the boxes have half the size they should: from the centre to a side it is half of the width",
            edits=(("half = fraction * (boxes[:, 2:] - boxes[:, :2]) / 2", "half = fraction * (boxes[:, 2:] - boxes[:, :2]) / 4"),),
        ),
        Mistake(
            "twice too large",
            "the boxes have twice the size they should: from the centre to a side it is half of the width",
            edits=(("half = fraction * (boxes[:, 2:] - boxes[:, :2]) / 2", "half = fraction * (boxes[:, 2:] - boxes[:, :2])"),),
        ),
        Mistake(
            "read as centre and size",
            "only the last two numbers are scaled, as of (x, y, w, h): here they are the lower right corner",
            code="def shrink_box(boxes, fraction):\n"
            "    return torch.cat([boxes[:, :2], fraction * boxes[:, 2:]], 1)\n",
        ),
        Mistake(
            "given as centre and size",
            "these are centre and size: give both corners",
            edits=(("torch.cat([centres - half, centres + half], 1)", "torch.cat([centres, 2 * half], 1)"),),
        ),
        Mistake(
            "fraction of the area",
            "the fraction is taken of the area here: it is of the width and of the height",
            edits=(("half = fraction *", "half = fraction**0.5 *"),),
        ),
        Mistake(
            "fraction taken away",
            "this is what is left after the fraction is taken away: the fraction is what stays",
            edits=(("half = fraction *", "half = (1 - fraction) *"),),
        ),
        Mistake(
            "always square",
            "the width is used for the height as well",
            edits=(("half = fraction * (boxes[:, 2:] - boxes[:, :2]) / 2", "half = fraction * (boxes[:, 2:3] - boxes[:, :1]) / 2"),),
        ),
        Mistake(
            "centre from the sizes",
            "the centre is half of the lower right corner: that holds only for boxes that begin at (0, 0)",
            edits=(("centres = (boxes[:, :2] + boxes[:, 2:]) / 2  # [N, 2]", "centres = boxes[:, 2:] / 2"),),
        ),
        Mistake(
            "changes the boxes",
            "the boxes that came in are changed themselves: work on a copy",
            code="def shrink_box(boxes, fraction):\n    centres = (boxes[:, :2] + boxes[:, 2:]) / 2\n"
            "    half = fraction * (boxes[:, 2:] - boxes[:, :2]) / 2\n"
            "    boxes[:, :2] = centres - half\n    boxes[:, 2:] = centres + half\n    return boxes\n",
        ),
    ],
    "fsaf_class_targets": [
        Mistake(
            "regions of no cell",
            "small regions cover no cell here: round their beginning down and their end up, so that each has one at least",
            edits=((FIRST, "first = region[:, :2].round().long()"), (END, "end = region[:, 2:].round().long()")),
        ),
        Mistake(
            "cells whose middle is inside",
            "only cells whose middle lies in a region are covered, so small objects have none: a cell counts as soon as "
            "the region overlaps it",
            edits=((FIRST, "first = (region[:, :2] - 0.5).ceil().long()"), (END, "end = (region[:, 2:] - 0.5).floor().long() + 1")),
        ),
        Mistake(
            "rounded down at both ends",
            "the last column and row of the regions are missing: the end is rounded up",
            edits=((END, "end = torch.maximum(region[:, 2:].floor().long(), first + 1)"),),
        ),
        Mistake(
            "one cell too many",
            "a region that ends on the line between two cells covers the next cell too: it only touches it",
            edits=((END, "end = region[:, 2:].floor().long() + 1"),),
        ),
        Mistake(
            "a point has no cell",
            "a region of no size has no cell: it has the cell that it lies in",
            edits=((END, "end = region[:, 2:].ceil().long()"), (FIRST, "first = (region[:, :2] + (fraction == 0)).floor().long()")),
        ),
        Mistake(
            "larger wins",
            "where two regions overlap the larger object has the cells: the smaller one should",
            edits=((ORDER, "(-areas).argsort(stable=True).flip(0).tolist()"),),
        ),
        Mistake(
            "last wins",
            "where two regions overlap the object that comes last has the cells, whatever its size",
            edits=((ORDER, "range(len(boxes))"),),
        ),
        Mistake(
            "first wins",
            "where two regions overlap the object that comes first has the cells, whatever its size",
            edits=((ORDER, "reversed(range(len(boxes)))"),),
        ),
        Mistake(
            "ties to the last",
            "of equally large objects the one with the larger index has the cells: the smaller index should",
            edits=((ORDER, "areas.argsort(stable=True, descending=True).tolist()"),),
        ),
        Mistake(
            "narrower wins",
            "where two regions overlap the narrower object has the cells: compare areas",
            edits=((AREAS, "areas = boxes[:, 2] - boxes[:, 0]"),),
        ),
        Mistake(
            "smaller by its border",
            "where two regions overlap the object with the shorter border has the cells: compare areas",
            edits=((AREAS, "areas = (boxes[:, 2:] - boxes[:, :2]).sum(1)"),),
        ),
        Mistake(
            "a line has no cell",
            "a region without width on the line between two cells covers no cell: it covers the one that begins there",
            edits=((END, "end = region[:, 2:].ceil().long()"),),
        ),
        Mistake(
            "both have the cell",
            "where the regions of two classes overlap, both maps have a 1: the cell is the smaller object's alone",
            edits=((PAINT, "        if here[i]:\n            owner[regions[i]] = i\n            maps[labels[i] - 1][regions[i]] = 1\n"),),
        ),
        Mistake(
            "lost cells are background",
            "a cell that the larger object lost is 0 in its map: it lies in its ignoring region",
            edits=((ONES, "maps[:, y, x] = 0\n    " + ONES),),
        ),
        Mistake(
            "ignored beats effective",
            "the ignoring regions hide effective cells: effective ones beat them",
            edits=(
                (ONES, ONES + "\n    for own, label, region in zip(levels.tolist(), labels.tolist(), covered(ignoring)):\n"
                 "        if abs(own - level) <= 1:\n            maps[label - 1][region] = -1"),
            ),
        ),
        Mistake(
            "a neighbour's ignoring region hides effective cells",
            "an object of the next level hides effective cells of this one: effective cells beat ignored ones",
            edits=(
                (ONES, ONES + "\n    for own, label, region in zip(levels.tolist(), labels.tolist(), covered(ignoring)):\n"
                 "        if abs(own - level) == 1:\n            maps[label - 1][region] = -1"),
            ),
        ),
        Mistake(
            "painted object by object",
            "each object paints its ignoring region over the effective cells of the ones before it: first all that is "
            "ignored, then all that is effective",
            edits=(
                (ONES, "for i in areas.argsort(stable=True).flip(0).tolist():\n"
                 "        if abs(int(levels[i]) - level) <= 1:\n            maps[labels[i] - 1][covered(ignoring)[i]] = -1\n"
                 "        if here[i]:\n            maps[:, owner == i] = maps[:, owner == i].clamp(max=0)\n"
                 "            maps[labels[i] - 1][owner == i] = 1"),
            ),
        ),
        Mistake(
            "neighbours not ignored",
            "objects of the levels next to this one leave nothing here: their ignoring regions lie here too",
            edits=((NEAR, "if own == level:"),),
        ),
        Mistake(
            "ignored on all levels",
            "objects that live two levels away are ignored here too: only neighbours are",
            edits=((NEAR, "if True:"),),
        ),
        Mistake(
            "only the level below ignores",
            "an object is ignored on its own level and on one neighbour: it should be on both",
            edits=((NEAR, "if 0 <= own - level <= 1:"),),
        ),
        Mistake(
            "only the level above ignores",
            "an object is ignored on its own level and on one neighbour: it should be on both",
            edits=((NEAR, "if -1 <= own - level <= 0:"),),
        ),
        Mistake(
            "not ignored at home",
            "around the effective cells everything is background: the ignoring region lies on the object's own level too",
            edits=((NEAR, "if abs(own - level) == 1:"),),
        ),
        Mistake(
            "effective on every level",
            "every object has effective cells here, wherever it lives: only those of this level have",
            edits=((OWN, "regions, here = covered(effective), [True] * len(boxes)"),),
        ),
        Mistake(
            "ignored in all classes",
            "the ignoring region is in every map: an object writes to the map of its class alone",
            edits=((IGNORED, "            maps[:, region[0], region[1]] = -1\n"),),
        ),
        Mistake(
            "effective in all classes",
            "effective cells are 1 in every map: an object writes to the map of its class alone",
            edits=((ONES, "maps[:, y, x] = 1"),),
        ),
        Mistake(
            "map of the next class",
            "class k writes to map k: labels begin at 1 and maps at 0",
            edits=((IGNORED, "            maps[label % num_classes][region] = -1\n"), (ONES, "maps[labels[owner[y, x]] % num_classes, y, x] = 1")),
        ),
        Mistake(
            "coordinates scaled",
            "the regions lie towards (0, 0): shrink a box about its centre",
            edits=((COVERED, "region = fraction * project_box(boxes, level)"),),
        ),
        Mistake(
            "not projected",
            "the regions are in pixels: project the boxes onto the map first",
            edits=((COVERED, "region = shrink_box(boxes, fraction).clamp(max=float(max(columns, rows)))"),),
        ),
        Mistake(
            "columns and rows swapped",
            "x and y are swapped: columns are x, and a map is [rows, columns]",
            edits=((SLICES, "[(slice(x1, x2), slice(y1, y2)) for (x1, y1), (x2, y2) in zip(first.tolist(), end.tolist())]"),),
        ),
        Mistake(
            "grid read as rows and columns",
            "the maps have the wrong shape: grid is (columns, rows), a map is [K, rows, columns]",
            edits=(("columns, rows = grid", "rows, columns = grid"),),
        ),
        Mistake(
            "the whole box is effective",
            "the whole box is effective: shrink it by `effective`",
            edits=((OWN, "regions, here = covered(1.0), (levels == level).tolist()"),),
        ),
        Mistake(
            "fractions fixed",
            "the regions are 0.2 and 0.5 of the box, whatever was asked for",
            edits=(("zip(levels.tolist(), labels.tolist(), covered(ignoring))", "zip(levels.tolist(), labels.tolist(), covered(0.5))"), (OWN, "regions, here = covered(0.2), (levels == level).tolist()")),
        ),
        Mistake(
            "ignored is 0",
            "what is not asked is 0, as background is: it should be -1",
            edits=((IGNORED, "            maps[label - 1][region] = 0\n"),),
        ),
        Mistake(
            "whole numbers",
            "the maps are whole numbers: give them the dtype of the boxes, as the loss wants",
            edits=((MAPS, "maps = labels.new_zeros(num_classes, rows, columns)"),),
        ),
        Mistake(
            "a background map",
            "there is a map too many: background has none",
            edits=((MAPS, "maps = boxes.new_zeros(num_classes + 1, rows, columns)"),),
        ),
    ],
    "fsaf_box_targets": [
        Mistake(
            "not divided by S",
            "the distances are in cells: they are divided by S",
            edits=((FOUR, FOUR.replace(" / scale", "")),),
        ),
        Mistake(
            "multiplied by S",
            "the distances are multiplied by S: they are divided",
            edits=((FOUR, FOUR.replace("/ scale", "* scale")),),
        ),
        Mistake(
            "S fixed",
            "S is 4 here, whatever was asked for",
            edits=((FOUR, FOUR.replace("/ scale", "/ 4.0")),),
        ),
        Mistake(
            "in pixels",
            "the sides of the boxes are in pixels and the cells are not: project the boxes first",
            edits=((PROJECTED, "x1, y1, x2, y2 = boxes[i].unbind(1)"),),
        ),
        Mistake(
            "distances in pixels",
            "these are distances in pixels: they are in cells of this level",
            edits=((FOUR, "2**level * " + FOUR),),
        ),
        Mistake(
            "from the corner of the cell",
            "the distances start at the upper left corner of the cell: they start at its middle, half a cell further",
            edits=((FOUR, "torch.stack([y - y1, x - x1, y2 - y, x2 - x]) / scale"),),
        ),
        Mistake(
            "left before top",
            "the order is left, top, right, bottom, FCOS's: the slides' FSAF has top, left, bottom, right",
            edits=((FOUR, "torch.stack([x + 0.5 - x1, y + 0.5 - y1, x2 - x - 0.5, y2 - y - 0.5]) / scale"),),
        ),
        Mistake(
            "top, left, right, bottom",
            "bottom and right are swapped: the order is top, left, bottom, right",
            edits=((FOUR, "torch.stack([y + 0.5 - y1, x + 0.5 - x1, x2 - x - 0.5, y2 - y - 0.5]) / scale"),),
        ),
        Mistake(
            "x and y swapped",
            "rows are used for x and columns for y",
            edits=((FOUR, "torch.stack([x + 0.5 - y1, y + 0.5 - x1, y2 - x - 0.5, x2 - y - 0.5]) / scale"),),
        ),
        Mistake(
            "signs of top and left",
            "top and left have the wrong sign: distances inside of a box are positive",
            edits=((FOUR, "torch.stack([y1 - y - 0.5, x1 - x - 0.5, y2 - y - 0.5, x2 - x - 0.5]) / scale"),),
        ),
        Mistake(
            "negative distances cut off",
            "a negative distance has become 0: where the middle of the cell is outside of the box it stays negative",
            edits=((FOUR, "(" + FOUR + ").clamp(min=0)"),),
        ),
        Mistake(
            "sides of the effective box",
            "these are the distances to the effective box: it says where, but the sides are those of the whole box",
            edits=((PROJECTED, "x1, y1, x2, y2 = shrink_box(project_box(boxes, level), 0.2)[i].unbind(1)"),),
        ),
        Mistake(
            "holds everywhere in the box",
            "the offsets hold in the whole box: only its effective region counts",
            edits=((MINE, "mine = fsaf_class_targets(boxes, each, levels, level, grid, len(boxes), 1.0, 1.0) == 1"),),
        ),
        Mistake(
            "holds in the ignoring region",
            "the offsets hold in the ignoring region too: only effective cells count",
            edits=((MINE, "mine = fsaf_class_targets(boxes, each, levels, level, grid, len(boxes), 0.5, 0.5) == 1"),),
        ),
        Mistake(
            "objects of all levels",
            "objects of other levels are here too: only those of this level count",
            edits=((MINE, MINE.replace("each, levels,", "each, torch.full_like(levels, level),")),),
        ),
        Mistake(
            "larger wins",
            "a cell in two regions has the larger object's distances: it is the smaller one's",
            edits=(
                (MINE, "mine = torch.stack([fsaf_class_targets(boxes[[k]], each[:1], levels[[k]], level, grid, 1)[0] == 1 "
                 "for k in range(len(boxes))]) if len(boxes) else torch.zeros(0, rows, columns, dtype=torch.bool)"),
                ("i, y, x = mine.nonzero(as_tuple=True)",
                 "order = (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort(stable=True)\n    i, y, x = mine[order].nonzero(as_tuple=True)\n"
                 "    i = order[i]"),
            ),
        ),
        Mistake(
            "last wins",
            "a cell in two regions has the distances of the object that comes last: it is the smaller one's",
            edits=(
                (MINE, "mine = torch.stack([fsaf_class_targets(boxes[[k]], each[:1], levels[[k]], level, grid, 1)[0] == 1 "
                 "for k in range(len(boxes))]) if len(boxes) else torch.zeros(0, rows, columns, dtype=torch.bool)"),
            ),
        ),
        Mistake(
            "ignored cells count as inside",
            "the second map is True on ignored cells too: the offsets hold in effective cells",
            edits=((GIVEN, "return offsets, (fsaf_class_targets(boxes, each, levels, level, grid, len(boxes)) != 0).any(0)"),),
        ),
        Mistake(
            "inside where an offset is positive",
            "the second map is True where some number is positive, or nowhere that it should: it is True in effective cells",
            edits=((GIVEN, "return offsets, (offsets > 0).all(0)"),),
        ),
        Mistake(
            "grid read as rows and columns",
            "the maps have the wrong shape: grid is (columns, rows), a map is [rows, columns]",
            edits=(
                ("columns, rows = grid", "rows, columns = grid"),
                (MINE, "mine = fsaf_class_targets(boxes, each, levels, level, (columns, rows), len(boxes)) == 1"),
            ),
        ),
        Mistake(
            "float32 always",
            "the maps are float32 whatever the boxes are",
            edits=(("offsets = boxes.new_zeros(4, rows, columns)", "offsets = torch.zeros(4, rows, columns)"),
                   ("offsets[:, y, x] = " + FOUR, "offsets[:, y, x] = (" + FOUR + ").float()")),
        ),
    ],
    "iou_loss": [
        Mistake(
            "1 - IoU",
            "these are 1 - IoU: the loss is the negative logarithm of it",
            edits=((LOG, "return 1 - iou"),),
        ),
        Mistake(
            "IoU itself",
            "these are the IoU itself: a loss is small where it is large",
            edits=((LOG, "return iou"),),
        ),
        Mistake(
            "wrong sign",
            "the loss is negative: the logarithm of a number below 1 is",
            edits=((LOG, "return iou.clamp(min=1e-6).log()"),),
        ),
        Mistake(
            "logarithm to base 2",
            "the logarithm is the one to base 2: an IoU of 1/2 costs 0.6931",
            edits=((LOG, "return -iou.clamp(min=1e-6).log2()"),),
        ),
        Mistake(
            "logarithm to base 10",
            "the logarithm is the one to base 10: an IoU of 1/2 costs 0.6931",
            edits=((LOG, "return -iou.clamp(min=1e-6).log10()"),),
        ),
        Mistake(
            "infinite where nothing overlaps",
            "the loss is infinite where nothing overlaps: clamp the IoU before the logarithm",
            edits=((LOG, "return -iou.log()"),),
        ),
        Mistake(
            "one added above and below",
            "a 1 is added above and below the line, so small boxes look nearly right: give the exact value",
            edits=((IOU, "iou = (shared + 1) / (union + 1)"),),
        ),
        Mistake(
            "negative sides not clamped",
            "two negative sides have a positive area: clamp width and height at 0 before you multiply",
            edits=((AREA, "return (top + bottom) * (left + right)"),),
        ),
        Mistake(
            "negative distances cut off",
            "a negative distance of the target has become 0: that is another box",
            edits=((SHARED, "prediction, target = prediction.clamp(min=0), target.clamp(min=0)\n    " + SHARED),),
        ),
        Mistake(
            "shared part not taken off",
            "the shared part is counted twice in the union",
            edits=(("- shared\n", "\n"),),
        ),
        Mistake(
            "larger distances",
            "the smaller of two distances bounds what is shared, not the larger one",
            edits=((SHARED, "shared = area(torch.maximum(prediction, target))"),),
        ),
        Mistake(
            "enclosing box",
            "below the line stands the box around both: it is the union",
            edits=((IOU, "iou = shared / area(torch.maximum(prediction, target)).clamp(min=1e-30)"),),
        ),
        Mistake(
            "generalised IoU",
            "this is the loss of the generalised IoU, another one",
            edits=((LOG, "hull = area(torch.maximum(prediction, target)).clamp(min=1e-30)\n    return 1 - iou + (hull - union) / hull"),),
        ),
        Mistake(
            "wrong pairs of sides",
            "the pairs are wrong: first and third are top and bottom, second and fourth left and right",
            edits=((AREA, "return (top + left).clamp(min=0) * (bottom + right).clamp(min=0)"),),
        ),
        Mistake(
            "read as corners",
            "the numbers are read as the corners of boxes: they are distances from a point inside",
            edits=((AREA, "return (bottom - top).clamp(min=0) * (right - left).clamp(min=0)"),
                   (SHARED, "shared = (torch.minimum(prediction, target)[..., 2:] - torch.maximum(prediction, target)[..., :2]).clamp(min=0).prod(-1)")),
        ),
        Mistake(
            "a mean",
            "this is one number, the mean: give the loss of each pair",
            edits=((LOG, "return -iou.clamp(min=1e-6).log().mean()"),),
        ),
        Mistake(
            "NaN for two boxes of no size",
            "the loss of two boxes of no size is no number: the union is 0 there",
            edits=((IOU, "iou = shared / union"),),
        ),
        Mistake(
            "no gradient",
            "the loss has no slope, or not the right one: nothing may be detached",
            edits=((IOU, "iou = shared / union.detach().clamp(min=torch.finfo(union.dtype).tiny)"),),
        ),
        Mistake(
            "squared error",
            "this is the squared error of the four distances, UnitBox's l2: the loss is that of the box",
            code="def iou_loss(prediction, target):\n    return (prediction - target).square().sum(-1)\n",
        ),
    ],
    "select_level": [
        Mistake(
            "largest loss",
            "these are the levels with the largest loss: the best one has the smallest",
            edits=((CHOICE, "total.masked_fill(total.isnan(), -math.inf).argmax(0)"),),
        ),
        Mistake(
            "NaN is the smallest",
            "a level without a cell is chosen: NaN is not a small loss",
            edits=((CHOICE, "total.argmin(0)"),),
        ),
        Mistake(
            "a level without a cell costs nothing",
            "a level without a cell is chosen: its loss is not 0 but as bad as can be",
            edits=((CHOICE, "total.nan_to_num(0).argmin(0)"),),
        ),
        Mistake(
            "over the objects",
            "the smallest loss of each level is searched: search over the levels for each object, along the first axis",
            edits=((CHOICE, "total.masked_fill(total.isnan(), math.inf).argmin(-1)"),),
        ),
        Mistake(
            "only the class",
            "only the focal loss decides: the sum of both does",
            edits=((SUM, "total = focal"),),
        ),
        Mistake(
            "only the box",
            "only the IoU loss decides: the sum of both does",
            edits=((SUM, "total = iou"),),
        ),
        Mistake(
            "product",
            "the product of both losses decides: the sum does",
            edits=((SUM, "total = focal * iou"),),
        ),
        Mistake(
            "smaller of the two",
            "the smaller of both losses decides: the sum does",
            edits=((SUM, "total = torch.minimum(focal, iou)"),),
        ),
        Mistake(
            "counted from 3",
            "the numbers are those of P3 and on: give the place in the list, from 0",
            edits=((CHOICE, CHOICE + " + 3"),),
        ),
        Mistake(
            "the last of equals",
            "of equally good levels the last is chosen: the first should be",
            edits=((CHOICE, "len(total) - 1 - total.masked_fill(total.isnan(), math.inf).flip(0).argmin(0)"),),
        ),
        Mistake(
            "the loss itself",
            "these are the smallest losses: give the levels that have them",
            edits=((CHOICE, "total.masked_fill(total.isnan(), math.inf).amin(0)"),),
        ),
        Mistake(
            "one level for all",
            "one level is chosen for all objects: each has its own",
            edits=((CHOICE, "total.nan_to_num(99).sum(1).argmin().expand(total.shape[1])"),),
        ),
        Mistake(
            "a large number for no cell",
            "a level without a cell counts as a loss of 1, and then it may be the best: it never is",
            edits=((CHOICE, "total.nan_to_num(1.0).argmin(0)"),),
        ),
    ],
    "fsaf_decode": [
        Mistake(
            "not multiplied by S",
            "the boxes are too small: the offsets are in units of S cells",
            edits=((SCALED, "top, left, bottom, right = offsets"),),
        ),
        Mistake(
            "divided by S",
            "the boxes are too small: the offsets are multiplied by S here",
            edits=((SCALED, "top, left, bottom, right = offsets / scale"),),
        ),
        Mistake(
            "S fixed",
            "S is 4 here, whatever was asked for",
            edits=((SCALED, "top, left, bottom, right = 4.0 * offsets"),),
        ),
        Mistake(
            "in cells",
            "the boxes are in cells of the map: they are wanted in pixels",
            edits=((STACK, STACK.replace(" * 2**level", "")),),
        ),
        Mistake(
            "only the middles in pixels",
            "the middles are in pixels and the distances in cells: both are multiplied by the stride",
            edits=((STACK, "x, y = x * 2**level, y * 2**level\n    " + STACK.replace(" * 2**level", "")),),
        ),
        Mistake(
            "only the distances in pixels",
            "the distances are in pixels and the middles in cells: both are multiplied by the stride",
            edits=((SCALED, "top, left, bottom, right = 2**level * scale * offsets"), (STACK, STACK.replace(" * 2**level", ""))),
        ),
        Mistake(
            "multiplied by the level",
            "the boxes are multiplied by the number of the level: a cell of level 3 is 2³ = 8 pixels",
            edits=((STACK, STACK.replace("2**level", "level")),),
        ),
        Mistake(
            "corner of the cell",
            "the boxes are half a cell off: the point of a cell is its middle",
            edits=((COLUMN, COLUMN.replace(" + 0.5", "")), (ROW, ROW.replace(" + 0.5", ""))),
        ),
        Mistake(
            "slides' order",
            "the rows are (top, left, bottom, right), as the slide gives them: the course has x first",
            edits=((STACK, "boxes = torch.stack([y - top, x - left, y + bottom, x + right], -1) * 2**level"),),
        ),
        Mistake(
            "left, top, right, bottom read",
            "the offsets are read as left, top, right, bottom: they are top, left, bottom, right",
            edits=((SCALED, "left, top, right, bottom = scale * offsets"),),
        ),
        Mistake(
            "x and y swapped",
            "x runs with the rows and y with the columns: it is the other way round",
            edits=((STACK, "boxes = torch.stack([y - left, x - top, y + right, x + bottom], -1) * 2**level"),),
        ),
        Mistake(
            "columns first",
            "the boxes come column by column: they come row by row",
            edits=((FLAT, "return boxes.transpose(0, 1).reshape(-1, 4)"),),
        ),
        Mistake(
            "viewed, not moved",
            "the four numbers of a row belong to different cells: bring the axis of the four sides to the end first",
            edits=((STACK, STACK.replace("], -1)", "])")),),
        ),
        Mistake(
            "signs of the first corner",
            "the upper left corner lies on the wrong side of the cell",
            edits=((STACK, "boxes = torch.stack([x + left, y + top, x + right, y + bottom], -1) * 2**level"),),
        ),
        Mistake(
            "clipped at 0",
            "boxes that reach out of the image are cut: nothing is clipped here",
            edits=((FLAT, "return boxes.reshape(-1, 4).clamp(min=0)"),),
        ),
        Mistake(
            "left as maps",
            "the boxes are still in rows and columns: give one list of them",
            edits=((FLAT, "return boxes"),),
        ),
    ],
}
