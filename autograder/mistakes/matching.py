from . import Mistake

FORCING = """    for index in range(objects):
        overlap = torch.where(free, iou[index], 0)  # [A]
        best = overlap.argmax()
        if overlap[best] > 0:
            matches[best] = index
            free[best] = False
"""
SECOND = "    matches = torch.where(best_iou > threshold, best_object, matches)\n"
SHIFTS = "(boxes[:, :2] - anchors[:, :2]) / anchors[:, 2:]  # [A, 2]"
STRETCHES = "torch.log(boxes[:, 2:] / anchors[:, 2:])  # [A, 2]"
ENCODED = "torch.cat((shifts, stretches), dim=1) / boxes.new_tensor(stds)"
CENTERS = "anchors[:, :2] + deltas[:, :2] * anchors[:, 2:]  # [A, 2]"
SIZES = "anchors[:, 2:] * deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp()  # [A, 2]"
BY_HALVES = """def decode_boxes(deltas, anchors, stds=(0.1, 0.1, 0.2, 0.2)):
    shifts, stretches = deltas[:, :2]{shift}, deltas[:, 2:]{stretch}
    anchors = xyxy_to_cxcywh(anchors)
    centers = anchors[:, :2] + shifts * anchors[:, 2:]
    sizes = anchors[:, 2:] * stretches.clamp(max=math.log(1000 / 16)).exp()
    return cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1))
"""
MATCHED = "    matches = match_anchors(box_iou(boxes, anchors), threshold)  # [A]\n"
CLASSES = "    classes[positive] = labels[matches[positive]].to(torch.int64)\n"
OWN_MATCHING = """    iou = box_iou(boxes, anchors)
    matches = torch.full((len(anchors),), -1)
    if iou.numel():
        best, nearest = iou.max(dim=0)
{steps}"""
SECOND_CHANCE = "        matches = torch.where(best > threshold, nearest, matches)\n"
FIRST_CHANCE = """        free = torch.ones(len(anchors))
        for index, row in enumerate(iou):
            anchor = (row * free).argmax()
            if row[anchor] > 0 and free[anchor]:
                matches[anchor], free[anchor] = index, 0
"""
DELTAS = "    deltas[positive] = encode_boxes(boxes[matches[positive]], anchors[positive])\n"

MISTAKES = {
    "match_anchors": [
        Mistake(
            "no first chance",
            "only anchors above the threshold are positive here: an object that no anchor covers well gets none, "
            "though its best anchor should be forced",
            edits=((FORCING, ""),),
        ),
        Mistake(
            "no second chance",
            "only each object's best anchor is positive here: the others above the threshold are to be "
            "positive too",
            edits=((SECOND, ""),),
        ),
        Mistake(
            "the threshold step overwrites forced anchors",
            "a forced anchor went to the object it overlaps most; it is the one anchor its own object is "
            "sure of",
            edits=(
                (SECOND, ""),
                (FORCING, FORCING + SECOND),
            ),
        ),
        Mistake(
            "forced only above the threshold",
            "objects whose best IoU is below the threshold have no anchor here: the first chance knows no "
            "threshold",
            edits=(("if overlap[best] > 0:", "if overlap[best] > threshold:"),),
        ),
        Mistake(
            "the last object takes a shared anchor",
            "two objects have the same best anchor, and the later one took it: who is served first, and what "
            "is free then?",
            edits=(("            free[best] = False\n", ""),),
        ),
        Mistake(
            "no next best for a shared anchor",
            "an object whose best anchor was taken got none: it is to have the best of those still free",
            edits=(
                ("overlap = torch.where(free, iou[index], 0)  # [A]", "overlap = iou[index]"),
                ("if overlap[best] > 0:", "if overlap[best] > 0 and free[best]:"),
            ),
        ),
        Mistake(
            "the best pairs first",
            "objects were served by their IoU, the largest first; they are to be served in the order of the "
            "rows",
            edits=(
                (
                    "for index in range(objects):",
                    "for index in iou.amax(dim=1).argsort(descending=True).tolist():",
                ),
            ),
        ),
        Mistake(
            "the last object first",
            "objects were served from the last to the first; they are to be served in the order of the rows",
            edits=(("for index in range(objects):", "for index in reversed(range(objects)):"),),
        ),
        Mistake(
            "those who came too late served last",
            "objects whose best anchor was taken waited until all others had theirs: each is served in its turn",
            edits=(
                (
                    "    for index in range(objects):",
                    "    order, served = list(range(objects)), 0\n    for index in order:",
                ),
                (
                    "        best = overlap.argmax()\n",
                    "        best, served = overlap.argmax(), served + 1\n"
                    "        if served <= objects and not free[iou[index].argmax()]:\n"
                    "            order.append(index)\n"
                    "            continue\n",
                ),
            ),
        ),
        Mistake(
            "second chance with the first object",
            "an anchor above the threshold with two objects took the first one: it takes the one it overlaps most",
            edits=(
                (
                    "best_iou, best_object = iou.max(dim=0)  # [A], [A]",
                    "best_iou, best_object = iou.amax(dim=0), (iou > threshold).int().argmax(dim=0)",
                ),
            ),
        ),
        Mistake(
            "all equal best anchors forced",
            "several anchors with the object's best IoU were forced: of equal ones only the first is",
            edits=(
                (
                    "            matches[best] = index\n",
                    "            matches[overlap == overlap[best]] = index\n",
                ),
                ("            free[best] = False\n", "            free[overlap == overlap[best]] = False\n"),
            ),
        ),
        Mistake(
            "the last of equal anchors",
            "of anchors with the same IoU the last one was forced: the smaller index wins",
            edits=(("best = overlap.argmax()", "best = len(overlap) - 1 - overlap.flip(0).argmax()"),),
        ),
        Mistake(
            "the last of equal objects",
            "an anchor that overlaps two objects alike went to the later one: the smaller index wins",
            edits=(
                (
                    "best_iou, best_object = iou.max(dim=0)  # [A], [A]",
                    "best_iou, best_object = iou.flip(0).max(dim=0)\n    best_object = objects - 1 - best_object",
                ),
            ),
        ),
        Mistake(
            "nearly equal taken as equal",
            "the IoUs differ in the seventh digit, and the larger one is the best: no rounding is needed "
            "here",
            edits=(("best = overlap.argmax()", "best = (overlap > 0.999 * overlap.max()).int().argmax()"),),
        ),
        Mistake(
            "the threshold itself is enough",
            "an anchor whose IoU equals the threshold became positive: it needs more than that",
            edits=(("best_iou > threshold", "best_iou >= threshold"),),
        ),
        Mistake(
            "the threshold is always 0.5",
            "the answer is the one for a threshold of 0.5, whatever was asked for",
            edits=(("best_iou > threshold", "best_iou > 0.5"),),
        ),
        Mistake(
            "an IoU of 0 forces",
            "an object that overlaps no free anchor forced one all the same: look at the IoU before you "
            "force",
            edits=(("if overlap[best] > 0:", "if True:"),),
        ),
        Mistake(
            "an IoU of 0 forces a free anchor",
            "an object that overlaps no free anchor forced one all the same: look at the IoU before you "
            "force",
            edits=(
                ("overlap = torch.where(free, iou[index], 0)", "overlap = iou[index].masked_fill(~free, -1)"),
                ("if overlap[best] > 0:", "if overlap[best] >= 0:"),
            ),
        ),
        Mistake(
            "0 for background",
            "anchors without an object have 0 here, which is the first object: background is -1",
            edits=(("torch.full((anchors,), -1,", "torch.full((anchors,), 0,"),),
        ),
        Mistake(
            "objects counted from 1",
            "these are the objects' numbers plus 1: the first object is 0, and background is -1",
            edits=(
                (
                    "            free[best] = False\n    return matches",
                    "            free[best] = False\n    return matches + 1",
                ),
            ),
        ),
        Mistake(
            "labels instead of indices",
            "positive anchors have a 1 here, whatever their object is: the object's index is wanted",
            edits=(
                (
                    "            free[best] = False\n    return matches",
                    "            free[best] = False\n    return torch.where(matches >= 0, 1, 0)",
                ),
            ),
        ),
        Mistake(
            "rows are anchors",
            "the table was read with a row for each anchor: its rows are objects, its columns anchors",
            edits=(("objects, anchors = iou.shape", "iou = iou.T\n    objects, anchors = iou.shape"),),
        ),
        Mistake(
            "the best of the wrong axis",
            "the largest of each row was taken where the largest of each column is needed: one answer for "
            "each anchor",
            edits=(("iou.max(dim=0)", "iou.max(dim=1)"),),
        ),
        Mistake(
            "the best of the wrong axis, by a mask",
            "the largest of each row was taken where the largest of each column is needed: one answer for "
            "each anchor",
            edits=(
                ("iou.max(dim=0)", "iou.max(dim=1)"),
                (
                    SECOND,
                    "    second = best_iou > threshold\n    matches[second] = best_object[second]\n",
                ),
            ),
        ),
        Mistake(
            "one answer for each object",
            "this is the best anchor of each object: the question is which object each anchor answers for, "
            "so there is one answer for each column",
            code="def match_anchors(iou, threshold=0.5):\n"
            "    best_iou, best_anchor = iou.max(dim=1)\n"
            "    return torch.where(best_iou > threshold, best_anchor, -1)\n",
        ),
        Mistake(
            "no answer from an empty table",
            "a table without rows or without columns fails here: max has nothing to choose from, and every "
            "anchor is background",
            edits=(("    if objects == 0 or anchors == 0:\n        return matches\n", ""),),
        ),
        Mistake(
            "no objects, no answer",
            "an image without objects fails here: max has nothing to choose from, and every anchor is "
            "background",
            edits=(("if objects == 0 or anchors == 0:", "if anchors == 0:"),),
        ),
        Mistake(
            "no anchors, no answer",
            "a table without columns fails here: the answer is empty",
            edits=(("if objects == 0 or anchors == 0:", "if objects == 0:"),),
        ),
        Mistake(
            "indices as floats",
            "these are floating-point numbers: indices of objects are whole numbers, int64",
            edits=(
                (
                    "dtype=torch.int64, device=iou.device)\n    if",
                    "dtype=iou.dtype, device=iou.device)\n    if",
                ),
            ),
        ),
        Mistake(
            "the caller's table is crossed out",
            "the table of IoUs was changed: strike out taken anchors in a copy, or remember them elsewhere",
            edits=(("            free[best] = False\n", "            iou[:, best] = 0\n"),),
        ),
    ],
    "corner_offsets": [
        Mistake(
            "the order of the corners",
            "these are x1, y1, x2, y2: the slides put both x first, then both y",
            edits=(("[:, [0, 2, 1, 3]]", ""),),
        ),
        Mistake(
            "both y first",
            "these are y1, y2, x1, x2: the slides begin with x",
            edits=(("[0, 2, 1, 3]", "[1, 3, 0, 2]"),),
        ),
        Mistake(
            "anchor minus box",
            "all signs are turned: where the box lies to the right of its anchor the offset is positive",
            edits=(("(boxes - anchors)", "(anchors - boxes)"),),
        ),
        Mistake(
            "without signs",
            "these are distances without signs: left and right of the anchor must differ",
            edits=(("(boxes - anchors)", "(boxes - anchors).abs()"),),
        ),
        Mistake(
            "already normalised",
            "these are parts of the anchor's size; here pixels are wanted, normalising comes next",
            edits=(
                ("(boxes - anchors)", "((boxes - anchors) / (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2))"),
            ),
        ),
        Mistake(
            "centre and size",
            "these are differences of centres and sizes: differences of corners are wanted",
            edits=(
                ("(boxes - anchors)[:, [0, 2, 1, 3]]", "xyxy_to_cxcywh(boxes) - xyxy_to_cxcywh(anchors)"),
            ),
        ),
        Mistake(
            "every box with every anchor",
            "each box was compared with every anchor: row i of the boxes belongs to row i of the anchors",
            edits=(("(boxes - anchors)[:, [0, 2, 1, 3]]", "(boxes[:, None] - anchors)[..., [0, 2, 1, 3]]"),),
        ),
        Mistake(
            "subtracted in place",
            "the boxes changed during the call: they belong to the caller",
            edits=(("(boxes - anchors)", "boxes.sub_(anchors)"),),
        ),
    ],
    "encode_boxes": [
        Mistake(
            "no deviation for the sizes",
            "dw and dh are not divided by their deviation: the slides' formula leaves it out, and that is "
            "its erratum",
            edits=((ENCODED, "torch.cat((shifts / boxes.new_tensor(stds[:2]), stretches), dim=1)"),),
        ),
        Mistake(
            "no deviation for the shifts",
            "dx and dy are not divided by their deviation",
            edits=((ENCODED, "torch.cat((shifts, stretches / boxes.new_tensor(stds[2:])), dim=1)"),),
        ),
        Mistake(
            "no deviations",
            "these are the offsets before they are divided by the deviations",
            edits=((" / boxes.new_tensor(stds)", ""),),
        ),
        Mistake(
            "multiplied by the deviations",
            "the offsets were multiplied by the deviations: dividing makes small numbers larger",
            edits=((" / boxes.new_tensor(stds)", " * boxes.new_tensor(stds)"),),
        ),
        Mistake(
            "divided by the squares",
            "the offsets were divided by the squares of the deviations: 0.1 and 0.2 are deviations, whatever "
            "they are called",
            edits=(("boxes.new_tensor(stds)", "boxes.new_tensor(stds) ** 2"),),
        ),
        Mistake(
            "deviations exchanged",
            "shifts were divided by the deviations of the sizes, and sizes by those of the shifts",
            edits=(("boxes.new_tensor(stds)", "boxes.new_tensor(stds)[[2, 3, 0, 1]]"),),
        ),
        Mistake(
            "always the usual deviations",
            "the answer uses 0.1 and 0.2, whatever deviations were asked for",
            edits=(("boxes.new_tensor(stds)", "boxes.new_tensor((0.1, 0.1, 0.2, 0.2))"),),
        ),
        Mistake(
            "one deviation for both",
            "dx and dy, or dw and dh, share a deviation here: there are four, one for each number",
            edits=(("boxes.new_tensor(stds)", "boxes.new_tensor((stds[0], stds[0], stds[2], stds[2]))"),),
        ),
        Mistake(
            "logarithm of the inverse",
            "dw and dh have the wrong sign: a box wider than its anchor has a positive dw",
            edits=((STRETCHES, "torch.log(anchors[:, 2:] / boxes[:, 2:])"),),
        ),
        Mistake(
            "no logarithm",
            "dw and dh are made from the ratio of the sizes itself: twice as wide should be log 2",
            edits=((STRETCHES, "boxes[:, 2:] / anchors[:, 2:]"),),
        ),
        Mistake(
            "difference of sizes",
            "dw and dh are made from the difference of the sizes in parts of the anchor: twice as wide "
            "should be log 2",
            edits=((STRETCHES, "boxes[:, 2:] / anchors[:, 2:] - 1"),),
        ),
        Mistake(
            "logarithm to base 2",
            "dw and dh are logarithms to base 2: twice as wide should be 0.6931 before the deviation",
            edits=((STRETCHES, "torch.log2(boxes[:, 2:] / anchors[:, 2:])"),),
        ),
        Mistake(
            "logarithm to base 10",
            "dw and dh are logarithms to base 10: twice as wide should be 0.6931 before the deviation",
            edits=((STRETCHES, "torch.log10(boxes[:, 2:] / anchors[:, 2:])"),),
        ),
        Mistake(
            "corners instead of centres",
            "dx and dy compare the upper left corners: the centres are meant",
            edits=(
                (
                    "boxes, anchors = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(anchors)  # [A, 4]",
                    "boxes = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1)\n"
                    "    anchors = torch.cat((anchors[:, :2], anchors[:, 2:] - anchors[:, :2]), dim=1)",
                ),
            ),
        ),
        Mistake(
            "corners taken as centre and size",
            "the formula was fed with corners as they are: turn both boxes into centre and size first",
            edits=(("    boxes, anchors = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(anchors)  # [A, 4]\n", ""),),
        ),
        Mistake(
            "shifts in pixels",
            "dx and dy are in pixels: they are to be parts of the anchor's size",
            edits=((SHIFTS, "boxes[:, :2] - anchors[:, :2]"),),
        ),
        Mistake(
            "parts of the box",
            "dx and dy are parts of the box's own size: at test time only the anchor's size is known",
            edits=((SHIFTS, "(boxes[:, :2] - anchors[:, :2]) / boxes[:, 2:]"),),
        ),
        Mistake(
            "width and height exchanged",
            "dx was divided by the height and dy by the width",
            edits=((SHIFTS, "(boxes[:, :2] - anchors[:, :2]) / anchors[:, [3, 2]]"),),
        ),
        Mistake(
            "width for both",
            "dy was divided by the width: it is a part of the anchor's height",
            edits=((SHIFTS, "(boxes[:, :2] - anchors[:, :2]) / anchors[:, 2:3]"),),
        ),
        Mistake(
            "sizes of at least 1",
            "sizes below 1 were raised to 1: boxes may be smaller than a pixel, and their logarithm is fine",
            edits=((STRETCHES, "torch.log(boxes[:, 2:].clamp(min=1) / anchors[:, 2:].clamp(min=1))"),),
        ),
        Mistake(
            "cut at zero",
            "boxes and anchors were cut at the image's border: here they are measured whole",
            edits=(
                (
                    "xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(anchors)",
                    "xyxy_to_cxcywh(boxes.clamp(min=0)), xyxy_to_cxcywh(anchors.clamp(min=0))",
                ),
            ),
        ),
        Mistake(
            "the anchor seen from the box",
            "boxes and anchors are exchanged: the box is described as seen from its anchor",
            edits=(
                (
                    "boxes, anchors = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(anchors)",
                    "anchors, boxes = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(anchors)",
                ),
            ),
        ),
        Mistake(
            "plus 1",
            "sizes are one pixel too large: in this course a box from 30 to 70 is 40 wide",
            edits=(
                (
                    "xyxy_to_cxcywh(anchors)  # [A, 4]\n",
                    "xyxy_to_cxcywh(anchors)\n    boxes, anchors = (one + one.new_tensor([0, 0, 1, 1]) for one in (boxes, anchors))\n",
                ),
            ),
        ),
        Mistake(
            "dx, dw, dy, dh",
            "the columns are dx, dw, dy, dh: both shifts come first",
            edits=((ENCODED, "(" + ENCODED + ")[:, [0, 2, 1, 3]]"),),
        ),
        Mistake(
            "converted in place",
            "boxes and anchors changed during the call: they belong to the caller",
            edits=(
                (
                    "    boxes, anchors = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(anchors)  # [A, 4]\n",
                    "    for one in (boxes, anchors):\n"
                    "        one[:, 2:] -= one[:, :2]\n"
                    "        one[:, :2] += one[:, 2:] / 2\n",
                ),
            ),
        ),
    ],
    "decode_boxes": [
        Mistake(
            "no clamp",
            "a large dw gives an infinite box: clamp before exp",
            edits=((".clamp(max=math.log(1000 / 16))", ""),),
        ),
        Mistake(
            "clamped before the deviation",
            "dw and dh were clamped as they came: clamp behind the multiplication with the deviations",
            edits=(
                (".clamp(max=math.log(1000 / 16))", ""),
                (
                    "    deltas = deltas * deltas.new_tensor(stds)\n",
                    "    sizes = deltas[:, 2:].clamp(max=math.log(1000 / 16))\n"
                    "    deltas = torch.cat((deltas[:, :2], sizes), dim=1) * deltas.new_tensor(stds)\n",
                ),
            ),
        ),
        Mistake(
            "clamped on both sides",
            "small boxes were made larger: only large ones are clamped",
            edits=((".clamp(max=math.log(1000 / 16))", ".clamp(-math.log(1000 / 16), math.log(1000 / 16))"),),
        ),
        Mistake(
            "shifts clamped too",
            "dx and dy were clamped as well: only the sizes go through exp",
            edits=(
                (
                    "    deltas = deltas * deltas.new_tensor(stds)\n",
                    "    deltas = (deltas * deltas.new_tensor(stds)).clamp(max=math.log(1000 / 16))\n",
                ),
            ),
        ),
        Mistake(
            "clamped without the logarithm",
            "dw and dh were clamped at 62.5, where the box is to be 62.5 times as wide: what goes into exp "
            "is a logarithm",
            edits=((".clamp(max=math.log(1000 / 16))", ".clamp(max=1000 / 16)"),),
        ),
        Mistake(
            "no exp",
            "sizes were multiplied by dw and dh themselves: zero deltas should give the anchor",
            edits=((SIZES, "anchors[:, 2:] * deltas[:, 2:].clamp(max=math.log(1000 / 16))"),),
        ),
        Mistake(
            "1 + d for exp(d)",
            "sizes grew by the part d where they are to grow by the factor exp(d)",
            edits=((SIZES, "anchors[:, 2:] * (1 + deltas[:, 2:].clamp(max=math.log(1000 / 16)))"),),
        ),
        Mistake(
            "powers of 2",
            "sizes are powers of 2: the logarithm was the natural one",
            edits=((".exp()", ".exp2()"),),
        ),
        Mistake(
            "exp of the negative",
            "boxes shrink where they should grow: a positive dw means a box wider than its anchor",
            edits=((SIZES, "anchors[:, 2:] / deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp()"),),
        ),
        Mistake(
            "exp without the anchor's size",
            "sizes are exp(d) pixels: they are that many times the anchor's",
            edits=((SIZES, "deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp()"),),
        ),
        Mistake(
            "no deviations",
            "the deltas were used as they are: encode_boxes had divided them by the deviations",
            edits=(("    deltas = deltas * deltas.new_tensor(stds)\n", ""),),
        ),
        Mistake(
            "divided by the deviations",
            "the deltas were divided by the deviations once more: decoding undoes the division",
            edits=(("deltas * deltas.new_tensor(stds)", "deltas / deltas.new_tensor(stds)"),),
        ),
        Mistake(
            "no deviation for the sizes",
            "dw and dh were not multiplied by their deviation",
            code=BY_HALVES.format(shift=" * deltas.new_tensor(stds[:2])", stretch=""),
        ),
        Mistake(
            "no deviation for the shifts",
            "dx and dy were not multiplied by their deviation",
            code=BY_HALVES.format(shift="", stretch=" * deltas.new_tensor(stds[2:])"),
        ),
        Mistake(
            "deviations exchanged",
            "shifts were multiplied by the deviations of the sizes, and sizes by those of the shifts",
            edits=(("deltas.new_tensor(stds)", "deltas.new_tensor(stds)[[2, 3, 0, 1]]"),),
        ),
        Mistake(
            "always the usual deviations",
            "the answer uses 0.1 and 0.2, whatever deviations were asked for",
            edits=(("deltas.new_tensor(stds)", "deltas.new_tensor((0.1, 0.1, 0.2, 0.2))"),),
        ),
        Mistake(
            "one deviation for both",
            "dx and dy, or dw and dh, share a deviation here: there are four, one for each number",
            edits=(("deltas.new_tensor(stds)", "deltas.new_tensor((stds[0], stds[0], stds[2], stds[2]))"),),
        ),
        Mistake(
            "shifts in pixels",
            "dx and dy were taken as pixels: they are parts of the anchor's size",
            edits=((CENTERS, "anchors[:, :2] + deltas[:, :2]"),),
        ),
        Mistake(
            "parts of the new size",
            "dx and dy were taken as parts of the decoded box: they are parts of the anchor",
            edits=(
                (f"    centers = {CENTERS}\n", ""),
                (
                    f"    sizes = {SIZES}\n",
                    f"    sizes = {SIZES}\n    centers = anchors[:, :2] + deltas[:, :2] * sizes\n",
                ),
            ),
        ),
        Mistake(
            "shifted the other way",
            "boxes moved left and up where dx and dy are positive",
            edits=((CENTERS, CENTERS.replace("+", "-")),),
        ),
        Mistake(
            "width and height exchanged",
            "dx was multiplied by the height and dy by the width",
            edits=((CENTERS, "anchors[:, :2] + deltas[:, :2] * anchors[:, [3, 2]]"),),
        ),
        Mistake(
            "centre and size returned",
            "these are centres and sizes: corners are wanted, x1, y1, x2, y2",
            edits=(
                ("cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1))", "torch.cat((centers, sizes), dim=1)"),
            ),
        ),
        Mistake(
            "the centre as a corner",
            "the box begins at its centre: go back by half its size",
            edits=(
                (
                    "cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1))",
                    "torch.cat((centers, centers + sizes), dim=1)",
                ),
            ),
        ),
        Mistake(
            "the whole size to each side",
            "boxes are twice as large as they should be: half the size lies on each side of the centre",
            edits=(
                (
                    "cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1))",
                    "torch.cat((centers - sizes, centers + sizes), dim=1)",
                ),
            ),
        ),
        Mistake(
            "anchor's corner shifted",
            "the shift was added to the anchor's upper left corner: dx and dy are between centres",
            edits=((CENTERS, "anchors[:, :2] - anchors[:, 2:] / 2 + deltas[:, :2] * anchors[:, 2:]"),),
        ),
        Mistake(
            "cut at zero",
            "boxes were cut at the image's border: decoding leaves them as they are",
            edits=(
                (
                    "cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1))",
                    "cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1)).clamp(min=0)",
                ),
            ),
        ),
        Mistake(
            "plus 1",
            "the anchor's sizes were taken one pixel too large: from 30 to 70 it is 40 wide",
            edits=(
                (
                    "xyxy_to_cxcywh(anchors)  # [A, 4]",
                    "xyxy_to_cxcywh(anchors) + anchors.new_tensor([0, 0, 1, 1])",
                ),
            ),
        ),
        Mistake(
            "multiplied in place",
            "the deltas changed during the call: they belong to the caller",
            edits=(("deltas = deltas * deltas.new_tensor(stds)", "deltas *= deltas.new_tensor(stds)"),),
        ),
    ],
    "anchor_targets": [
        Mistake(
            "-1 for background",
            "anchors without an object have class -1 here: background is 0, -1 will mean ignored",
            edits=(("torch.zeros_like(matches)", "torch.full_like(matches, -1)"),),
        ),
        Mistake(
            "the object's index for its class",
            "these are the objects' indices: look up the label of each",
            edits=((CLASSES, "    classes[positive] = matches[positive]\n"),),
        ),
        Mistake(
            "the object's number for its class",
            "these are the objects' indices plus 1: look up the label of each",
            edits=((CLASSES, "    classes[positive] = matches[positive] + 1\n"),),
        ),
        Mistake(
            "labels plus 1",
            "labels were raised by 1: they begin at 1 already, 0 is background",
            edits=((CLASSES, "    classes[positive] = labels[matches[positive]] + 1\n"),),
        ),
        Mistake(
            "labels minus 1",
            "labels were lowered by 1: an object of class 1 became background",
            edits=((CLASSES, "    classes[positive] = labels[matches[positive]] - 1\n"),),
        ),
        Mistake(
            "1 for every object",
            "positive anchors have class 1, whatever their object is",
            edits=((CLASSES, "    classes[positive] = 1\n"),),
        ),
        Mistake(
            "-1 looked up",
            "background anchors have the class of the last object: an index of -1 means the last one",
            edits=((CLASSES, "    classes = labels[matches]\n"),),
        ),
        Mistake(
            "deltas of background",
            "background rows have deltas to some object: they are to be 0",
            edits=(
                (
                    DELTAS,
                    "    if len(boxes):\n        deltas = encode_boxes(boxes[matches], anchors)\n",
                ),
            ),
        ),
        Mistake(
            "deltas of background, to the first object",
            "background rows have deltas to some object: they are to be 0",
            edits=(
                (
                    DELTAS,
                    "    if len(boxes):\n        deltas = encode_boxes(boxes[matches.clamp(min=0)], anchors)\n",
                ),
            ),
        ),
        Mistake(
            "multiplied by 0",
            "a background row is NaN: infinity times 0; encode the positive rows only",
            edits=(
                (
                    DELTAS,
                    "    if len(boxes):\n        deltas = encode_boxes(boxes[matches], anchors) * positive[:, None]\n",
                ),
            ),
        ),
        Mistake(
            "the anchor seen from the box",
            "boxes and anchors are exchanged in the deltas: the box is described as seen from its anchor",
            edits=(
                (
                    DELTAS,
                    "    deltas[positive] = encode_boxes(anchors[positive], boxes[matches[positive]])\n",
                ),
            ),
        ),
        Mistake(
            "offsets in pixels",
            "these are corner offsets in pixels: the normalised ones are wanted",
            edits=(
                (
                    DELTAS,
                    "    deltas[positive] = corner_offsets(boxes[matches[positive]], anchors[positive])\n",
                ),
            ),
        ),
        Mistake(
            "boxes instead of deltas",
            "these are the objects' boxes: their offsets from the anchors are wanted",
            edits=((DELTAS, "    deltas[positive] = boxes[matches[positive]]\n"),),
        ),
        Mistake(
            "without deviations",
            "the deltas are not divided by the deviations 0.1 and 0.2",
            edits=(("anchors[positive])\n", "anchors[positive], (1, 1, 1, 1))\n"),),
        ),
        Mistake(
            "always the first object's box",
            "all deltas lead to one object: each anchor has one of its own",
            edits=(("boxes[matches[positive]]", "boxes[:1].expand(int(positive.sum()), 4)"),),
        ),
        Mistake(
            "objects in the order of the anchors",
            "boxes were handed out in the order of the positive anchors: matches says which object is whose",
            edits=(
                (
                    "labels[matches[positive]]",
                    "labels[torch.arange(int(positive.sum())) % max(len(labels), 1)]",
                ),
                (
                    "boxes[matches[positive]]",
                    "boxes[torch.arange(int(positive.sum())) % max(len(labels), 1)]",
                ),
            ),
        ),
        Mistake(
            "the threshold stays at home",
            "the threshold was not passed on: the answer is the one for 0.5",
            edits=(("box_iou(boxes, anchors), threshold)", "box_iou(boxes, anchors))"),),
        ),
        Mistake(
            "rows are anchors",
            "the table of IoUs has a row for each anchor here: match_anchors wants a row for each object",
            edits=(
                ("box_iou(boxes, anchors)", "box_iou(anchors, boxes)"),
                ("torch.zeros_like(matches)", "torch.zeros(len(anchors), dtype=torch.int64)"),
            ),
        ),
        Mistake(
            "rows are anchors, and as many classes as columns",
            "the table of IoUs has a row for each anchor here: match_anchors wants a row for each object",
            edits=(("box_iou(boxes, anchors)", "box_iou(anchors, boxes)"),),
        ),
        Mistake(
            "object 0 left out",
            "the anchors of the first object are background here: 0 is an object's index, -1 means none",
            edits=(("positive = matches >= 0", "positive = matches > 0"),),
        ),
        Mistake(
            "no second chance",
            "only each object's best anchor is positive: the others above the threshold are to be positive too",
            edits=(("box_iou(boxes, anchors), threshold)", "box_iou(boxes, anchors), 1.0)"),),
        ),
        Mistake(
            "forced on every level",
            "anchors of each size were matched by themselves, so an object forces one of each size: match "
            "over all at once",
            edits=(
                (
                    MATCHED,
                    "    iou, area = box_iou(boxes, anchors), (anchors[:, 2:] - anchors[:, :2]).prod(dim=1)\n"
                    "    matches = torch.full((len(anchors),), -1)\n"
                    "    for size in area.unique():\n"
                    "        matches[area == size] = match_anchors(iou[:, area == size], threshold)\n",
                ),
            ),
        ),
        Mistake(
            "no first chance",
            "only anchors above the threshold are positive: every object is to force its best one",
            edits=(
                (
                    MATCHED,
                    "    best, matches = torch.cat((box_iou(boxes, anchors), torch.zeros(1, len(anchors)))).max(dim=0)\n"
                    "    matches[best <= threshold] = -1\n",
                ),
            ),
        ),
        Mistake(
            "the last object takes a shared anchor",
            "two objects have the same best anchor, and the later one took it: use your match_anchors",
            edits=(
                (
                    MATCHED,
                    OWN_MATCHING.format(
                        steps=SECOND_CHANCE
                        + "        for index, row in enumerate(iou):\n"
                        + "            if row.max() > 0:\n"
                        + "                matches[row.argmax()] = index\n"
                    ),
                ),
            ),
        ),
        Mistake(
            "no next best for a shared anchor",
            "an object whose best anchor was taken got none: use your match_anchors",
            edits=(
                (
                    MATCHED,
                    OWN_MATCHING.format(steps=SECOND_CHANCE + FIRST_CHANCE.replace("(row * free)", "row")),
                ),
            ),
        ),
        Mistake(
            "the threshold step overwrites forced anchors",
            "a forced anchor went to the object it overlaps most: use your match_anchors",
            edits=((MATCHED, OWN_MATCHING.format(steps=FIRST_CHANCE + SECOND_CHANCE)),),
        ),
        Mistake(
            "the threshold itself is enough",
            "an anchor whose IoU equals the threshold became positive: it needs more than that",
            edits=(
                (
                    MATCHED,
                    OWN_MATCHING.format(steps=SECOND_CHANCE.replace(">", ">=") + FIRST_CHANCE),
                ),
            ),
        ),
        Mistake(
            "a class as a float",
            "classes are floating-point numbers: they are whole ones, int64",
            edits=(("return classes, deltas", "return classes.float(), deltas"),),
        ),
        Mistake(
            "no objects, no answer",
            "an image without objects fails here: it is an ordinary image, all background",
            edits=(
                (
                    MATCHED,
                    OWN_MATCHING.format(steps=SECOND_CHANCE + FIRST_CHANCE).replace(
                        "if iou.numel()", "if True"
                    ),
                ),
            ),
        ),
    ],
}
