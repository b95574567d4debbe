"""Wrong answers to the exercises of lesson 09."""

from . import Mistake

OWN_PAIRS = " * (object_of[:, None] == region_of)"

MISTAKES = {
    "cell_anchors": [
        Mistake(
            "ratio without its root",
            "widths and heights carry the whole ratio: with a = 4 an anchor becomes sixteen times as wide as high; its "
            "area stays, but its ratio is a² instead of a",
            edits=((".sqrt()", ""),),
        ),
        Mistake(
            "height over width",
            "ratio 4 gives a box four times as high as wide: this course's ratio is width / height, other libraries' "
            "the opposite",
            edits=(("(scales * roots).flatten(), (scales / roots).flatten()", "(scales / roots).flatten(), (scales * roots).flatten()"),),
        ),
        Mistake(
            "area not kept",
            "the width grows with the ratio while the height stays at the scale: all ratios of a scale have one area",
            edits=(("(scales * roots).flatten(), (scales / roots).flatten()", "(scales * roots**2).flatten(), (scales * roots / roots).flatten()"),),
        ),
        Mistake(
            "ratios in the outer loop",
            "all scales of the first ratio come first: row i·R + j has scale i and ratio j",
            edits=(
                ("dtype=torch.float32)[:, None]", "dtype=torch.float32)"),
                (".sqrt()", ".sqrt()[:, None]"),
            ),
        ),
        Mistake(
            "corner at the origin",
            "the rows are (0, 0, w, h): the anchors of a cell lie around (0, 0), with half of each side on either side of it",
            edits=(("torch.stack([-widths, -heights, widths, heights], 1) / 2", "torch.stack([0 * widths, 0 * heights, widths, heights], 1)"),),
        ),
        Mistake(
            "half sides not halved",
            "the boxes are twice as wide and high as they should be: the sides reach w/2 and h/2 from the centre",
            edits=(("heights], 1) / 2", "heights], 1)"),),
        ),
        Mistake(
            "rounded to whole pixels",
            "the corners are whole numbers: torchvision and the paper's code round them, this course does not",
            edits=(("heights], 1) / 2", "heights], 1).div(2).round()"),),
        ),
        Mistake(
            "legacy last pixel",
            "the boxes are one pixel smaller: that is the paper's code, where x2 is the last pixel inside; no + 1 or − 1 here",
            edits=(("return torch.stack([-widths, -heights, widths, heights], 1) / 2", "return torch.stack([1 - widths, 1 - heights, widths - 1, heights - 1], 1) / 2"),),
        ),
        Mistake(
            "scale as the area",
            "the scale is taken as the area: 16 then means a square of 4×4; the slides' 128², 256², 512² are areas whose "
            "sides are 128, 256, 512",
            edits=(("torch.tensor(scales, dtype=torch.float32)[:, None]", "torch.tensor(scales, dtype=torch.float32)[:, None].sqrt()"),),
        ),
    ],
    "grid_anchors": [
        Mistake(
            "location at the cell's corner",
            "the first location is (0, 0), the corner of its cell: the course puts it half a stride in; torchvision does not",
            edits=(("x = stride // 2 + ", "x = "), ("y = stride // 2 + ", "y = ")),
        ),
        Mistake(
            "half a stride not rounded down",
            "with a stride of 7 the first location is at 3.5: it is ⌊7/2⌋ = 3 here",
            edits=(("x = stride // 2 + ", "x = stride / 2 + "), ("y = stride // 2 + ", "y = stride / 2 + ")),
        ),
        Mistake(
            "x outer, y inner",
            "the anchors go down the first column, then down the second: rows come first, y outer and x inner",
            edits=(('indexing="ij")', 'indexing="xy")'),),
        ),
        Mistake(
            "columns and rows swapped",
            "the grid is read as (rows, columns): it is (columns, rows), W before H",
            edits=(("columns, rows = grid", "rows, columns = grid"),),
        ),
        Mistake(
            "all locations for the first anchor, then for the second",
            "the anchor is the outer loop: the anchors of a cell stand beside each other, (y·W + x)·A + a, as the outputs "
            "of the head do",
            edits=(("(locations[:, :, None] + cell).reshape(-1, 4)", "(locations.reshape(1, -1, 4) + cell[:, None]).reshape(-1, 4)"),),
        ),
        Mistake(
            "grid of the first call",
            "a second map got the anchors of the first one: another image size has another grid, so make them anew",
            edits=(
                ("columns, rows = grid", 'grid_anchors.grid = getattr(grid_anchors, "grid", grid)\n    columns, rows = grid_anchors.grid'),
            ),
        ),
        Mistake(
            "no stride",
            "the locations are one pixel apart: a cell of the map stands for `stride` pixels of the image",
            edits=(("x = stride // 2 + stride * ", "x = stride // 2 + "), ("y = stride // 2 + stride * ", "y = stride // 2 + ")),
        ),
        Mistake(
            "x and y of the location swapped",
            "y was added to the x coordinates: a location is (x, y, x, y) for a box's (x1, y1, x2, y2)",
            edits=(("torch.stack([x, y, x, y], -1)", "torch.stack([y, x, y, x], -1)"),),
        ),
        Mistake(
            "only the first corner moved",
            "x2 and y2 did not move with the location: add it to both corners",
            edits=(("torch.stack([x, y, x, y], -1)", "torch.stack([x, y, 0 * x, 0 * y], -1)"),),
        ),
        Mistake(
            "order (x1, x2, y1, y2)",
            "the location was added as (x, x, y, y): that is the slides' order for SSD; boxes are (x1, y1, x2, y2)",
            edits=(("torch.stack([x, y, x, y], -1)", "torch.stack([x, x, y, y], -1)"),),
        ),
        Mistake(
            "float32 always",
            "the anchors are float32 whatever the cell is: keep its dtype",
            edits=(("return (locations[:, :, None] + cell).reshape(-1, 4)", "return (locations[:, :, None] + cell).reshape(-1, 4).float()"),),
        ),
    ],
    "inside_image": [
        Mistake(
            "the border is outside",
            "an anchor that touches the image's border is called outside: its border still counts as inside",
            edits=(
                ("[:, :2] >= 0", "[:, :2] > 0"), ("[:, 2] <= width", "[:, 2] < width"), ("[:, 3] <= height", "[:, 3] < height"),
            ),
        ),
        Mistake(
            "last pixel",
            "anchors may reach to W − 1 and H − 1 only: that is a pixel's index, the image ends at W and H",
            edits=(("[:, 2] <= width", "[:, 2] <= width - 1"), ("[:, 3] <= height", "[:, 3] <= height - 1")),
        ),
        Mistake(
            "width and height swapped",
            "x was compared with the height and y with the width: image_size is (width, height)",
            edits=(("width, height = image_size", "height, width = image_size"),),
        ),
        Mistake(
            "centre inside",
            "anchors whose centre lies in the image are called inside: all of the anchor must",
            edits=(
                ("return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)",
                 "x, y = (anchors[:, 0::2].mean(1), anchors[:, 1::2].mean(1))\n"
                 "    return (x >= 0) & (y >= 0) & (x <= width) & (y <= height)"),
            ),
        ),
        Mistake(
            "meets the image",
            "anchors that meet the image at all are called inside: all of the anchor must lie in it",
            edits=(
                ("(anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)",
                 "(anchors[:, 2:] >= 0).all(1) & (anchors[:, 0] <= width) & (anchors[:, 1] <= height)"),
            ),
        ),
        Mistake(
            "far edges forgotten",
            "anchors over the right or the bottom edge pass: compare x2 with the width and y2 with the height too",
            edits=((" & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)", ""),),
        ),
        Mistake(
            "near edges forgotten",
            "anchors over the left or the top edge pass: x1 and y1 may not be below 0",
            edits=(("(anchors[:, :2] >= 0).all(1) & ", ""),),
        ),
        Mistake(
            "bottom forgotten",
            "anchors over the bottom edge pass: y2 may not exceed the height",
            edits=((" & (anchors[:, 3] <= height)", ""),),
        ),
        Mistake(
            "any instead of all",
            "an anchor over the left or the top edge passes if it is over one of them only: both x1 and y1 count",
            edits=((".all(1)", ".any(1)"),),
        ),
        Mistake(
            "the other way round",
            "True and False are exchanged: True is for anchors inside",
            edits=(("return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)",
                    "return ~((anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height))"),),
        ),
        Mistake(
            "indices instead of a mask",
            "these are the indices of the inside anchors: a bool for every anchor is asked for",
            edits=(("return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)",
                    "return ((anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)).nonzero().squeeze(1)"),),
        ),
    ],
    "label_rpn_anchors": [
        Mistake(
            "no best anchor",
            "an object whose best anchor has an IoU of 0.4 has no positive anchor: each object's best ones are positive "
            "whatever their IoU",
            edits=(("labels[((iou == top) & (top > 0)).any(0)] = 1", "pass"),),
        ),
        Mistake(
            "thresholds after the best anchors",
            "the rule for negatives has overwritten an object's best anchor: that one has the last word",
            edits=(
                ("    labels[best < negative] = 0\n    labels[best > positive] = 1\n", ""),
                ("labels[((iou == top) & (top > 0)).any(0)] = 1",
                 "labels[((iou == top) & (top > 0)).any(0)] = 1\n    labels[best > positive] = 1\n    labels[best < negative] = 0"),
            ),
        ),
        Mistake(
            "one best anchor only",
            "of anchors that share an object's best IoU only the first is positive: all of them are",
            edits=(("labels[((iou == top) & (top > 0)).any(0)] = 1", "labels[iou.argmax(1)[top[:, 0] > 0]] = 1"),),
        ),
        Mistake(
            "an object without overlap forces anchors",
            "an object that no anchor meets has a best IoU of 0, and all anchors that equal it became positive",
            edits=((" & (top > 0)", ""),),
        ),
        Mistake(
            "between is background",
            "anchors between the thresholds are 0: they are neither object nor background and take no part, −1",
            edits=(("torch.full((anchors,), -1,", "torch.full((anchors,), 0,"), ("return labels + 1", "return labels")),
        ),
        Mistake(
            "background is −1",
            "background and ignored anchors have each other's number: 0 is background, −1 takes no part",
            edits=(
                ("torch.full((anchors,), -1,", "torch.full((anchors,), 0,"),
                ("return labels + 1", "return labels"),
                ("labels[best < negative] = 0", "labels[best < negative] = -1"),
            ),
        ),
        Mistake(
            "at the upper threshold",
            "an IoU that equals the positive threshold was positive: the slides ask for more than 0.7",
            edits=(("best > positive", "best >= positive"),),
        ),
        Mistake(
            "at the lower threshold",
            "an IoU that equals the negative threshold was negative: the slides ask for less than 0.3",
            edits=(("best < negative", "best <= negative"),),
        ),
        Mistake(
            "below for some object",
            "an anchor that overlaps one object by less than 0.3 was negative, though it overlaps another one more: it must "
            "be below for all objects",
            edits=(("labels[best < negative] = 0", "labels[iou.amin(0) < negative] = 0"),),
        ),
        Mistake(
            "maximum along the wrong axis",
            "the best was taken for each anchor where it is asked for each object: rows are objects, columns anchors",
            edits=(("top = iou.amax(1, keepdim=True)", "top = iou.amax(0, keepdim=True)"), ("(top > 0)", "(top >= positive)")),
        ),
        Mistake(
            "only the best object's claim",
            "an object's best anchor was left out because it overlaps another object more: each object has its best",
            edits=(("labels[((iou == top) & (top > 0)).any(0)] = 1", "labels[((iou == top) & (top > 0) & (iou == best)).any(0)] = 1"),),
        ),
        Mistake(
            "ties by nearness",
            "an anchor whose IoU is only nearly an object's best became positive: a tie is an equal IoU",
            edits=(("iou == top", "(iou - top).abs() < 0.01"),),
        ),
        Mistake(
            "fails without objects",
            "an image without objects has no maximum to take: there every anchor is background",
            edits=(("objects == 0 or anchors == 0", "anchors == 0"),),
        ),
        Mistake(
            "ignored without objects",
            "without an object all anchors are −1: an image of background is good for learning what background is, 0",
            edits=(("return labels + 1", "return labels"),),
        ),
        Mistake(
            "fixed thresholds",
            "the thresholds are 0.7 and 0.3 whatever was asked for",
            edits=(("best < negative", "best < 0.3"), ("best > positive", "best > 0.7")),
        ),
    ],
    "sample_anchors": [
        Mistake(
            "no cap on positives",
            "more than half of the sample is positive: positive_fraction is the most they may take",
            edits=(("positives[shuffled[: int(count * positive_fraction)]]", "positives[shuffled[:count]]"),),
        ),
        Mistake(
            "not padded",
            "half of the places stay empty where positives are rare: negatives fill them",
            edits=(("shuffled[: count - len(positives)]", "shuffled[: count - int(count * positive_fraction)]"),),
        ),
        Mistake(
            "as many negatives as positives",
            "there are as many negatives as positives, however few: the sample has `count` anchors where there are enough",
            edits=(("shuffled[: count - len(positives)]", "shuffled[: len(positives)]"),),
        ),
        Mistake(
            "count of each kind",
            "there are `count` negatives beside the positives: `count` is for both together",
            edits=(("shuffled[: count - len(positives)]", "shuffled[:count]"),),
        ),
        Mistake(
            "with repetition",
            "an anchor was chosen twice: draw without putting back",
            edits=(
                ("    shuffled = torch.randperm(len(negatives), generator=generator, device=labels.device)\n",
                 "    shuffled = torch.randint(max(len(negatives), 1), (len(negatives),), generator=generator, device=labels.device)\n"),
            ),
        ),
        Mistake(
            "positives with repetition",
            "a positive anchor was chosen twice: draw without putting back",
            edits=(
                ("    shuffled = torch.randperm(len(positives), generator=generator, device=labels.device)\n",
                 "    shuffled = torch.randint(max(len(positives), 1), (len(positives),), generator=generator, device=labels.device)\n"),
            ),
        ),
        Mistake(
            "always the first",
            "the first anchors of each kind are taken: the choice is random, or the rest of the image never counts",
            edits=(
                ("    shuffled = torch.randperm(len(positives), generator=generator, device=labels.device)\n",
                 "    shuffled = torch.arange(len(positives))\n"),
                ("    shuffled = torch.randperm(len(negatives), generator=generator, device=labels.device)\n",
                 "    shuffled = torch.arange(len(negatives))\n"),
            ),
        ),
        Mistake(
            "negatives always the first",
            "the negatives are always the first ones, the image's upper edge: they are drawn at random too",
            edits=(
                ("    shuffled = torch.randperm(len(negatives), generator=generator, device=labels.device)\n",
                 "    shuffled = torch.arange(len(negatives))\n"),
            ),
        ),
        Mistake(
            "ignored anchors among the negatives",
            "anchors labelled −1 were drawn as negatives: they take no part",
            edits=(("((labels == value).nonzero().squeeze(1) for value in (1, 0))",
                    "(labels == 1).nonzero().squeeze(1), (labels < 1).nonzero().squeeze(1)"),),
        ),
        Mistake(
            "generator not used",
            "the same generator gives another choice: the random numbers come from torch's own one",
            edits=(
                ("torch.randperm(len(positives), generator=generator,", "torch.randperm(len(positives),"),
                ("torch.randperm(len(negatives), generator=generator,", "torch.randperm(len(negatives),"),
            ),
        ),
        Mistake(
            "positions among the chosen kind",
            "the indices count among the positives, or negatives, alone: they are to count among all anchors",
            edits=(
                ("positives = positives[shuffled[: int(count * positive_fraction)]]", "positives = shuffled[: int(count * positive_fraction)]"),
                ("return positives, negatives[shuffled[: count - len(positives)]]", "return positives, shuffled[: count - len(positives)]"),
            ),
        ),
        Mistake(
            "negatives first",
            "the two results are exchanged: positives come first",
            edits=(("return positives, negatives[shuffled[: count - len(positives)]]",
                    "return negatives[shuffled[: count - len(positives)]], positives"),),
        ),
        Mistake(
            "positives fill up too",
            "where negatives are rare, positives took their places: they have at most their fraction",
            edits=(("    shuffled = torch.randperm(len(positives)", "    positive_fraction = max(positive_fraction, 1 - len(negatives) / max(count, 1))\n    shuffled = torch.randperm(len(positives)"),),
        ),
        Mistake(
            "fraction always a half",
            "half of the sample is positive whatever positive_fraction says",
            edits=(("int(count * positive_fraction)", "count // 2"),),
        ),
        Mistake(
            "fraction rounded up",
            "the positives' share was rounded up: at most ⌊count · positive_fraction⌋",
            edits=(("int(count * positive_fraction)", "-int(-count * positive_fraction // 1)"),),
        ),
    ],
    "RPNHead": [
        Mistake(
            "reshaped without permute",
            "a row takes its numbers from many cells: channels lie before y and x in memory; put them last first",
            edits=(
                ("objectness = self.objectness(code).permute(0, 2, 3, 1)", "objectness = self.objectness(code)"),
                ("offsets = self.offsets(code).permute(0, 2, 3, 1)", "offsets = self.offsets(code)"),
            ),
        ),
        Mistake(
            "offsets reshaped without permute",
            "the scores are in order, the offsets are not: their channels still lie before y and x when they are reshaped",
            edits=(("offsets = self.offsets(code).permute(0, 2, 3, 1)", "offsets = self.offsets(code)"),),
        ),
        Mistake(
            "scores reshaped without permute",
            "the offsets are in order, the scores are not: their channels still lie before y and x when they are flattened",
            edits=(("objectness = self.objectness(code).permute(0, 2, 3, 1)", "objectness = self.objectness(code)"),),
        ),
        Mistake(
            "x outer, y inner",
            "cells are read column by column: the anchors lie row by row, y outer and x inner",
            edits=(
                ("self.objectness(code).permute(0, 2, 3, 1)", "self.objectness(code).permute(0, 3, 2, 1)"),
                ("self.offsets(code).permute(0, 2, 3, 1)", "self.offsets(code).permute(0, 3, 2, 1)"),
            ),
        ),
        Mistake(
            "2k scores",
            "there are two scores for each anchor, as on the slides: of two, only their difference counts, so this course's "
            "code has one logit",
            edits=(("nn.Conv2d(channels, anchors_per_cell, 1)", "nn.Conv2d(channels, 2 * anchors_per_cell, 1)"),),
        ),
        Mistake(
            "no window",
            "a cell answers from its own features alone: the first layer slides a 3×3 window",
            edits=(("nn.Conv2d(channels, channels, 3, padding=1)", "nn.Conv2d(channels, channels, 1)"),),
        ),
        Mistake(
            "windows in all layers",
            "the answers of a cell depend on 5×5 cells: after the 3×3 window the outputs are 1×1 convolutions",
            edits=(
                ("nn.Conv2d(channels, anchors_per_cell, 1)", "nn.Conv2d(channels, anchors_per_cell, 3, padding=1)"),
                ("nn.Conv2d(channels, anchors_per_cell * 4, 1)", "nn.Conv2d(channels, anchors_per_cell * 4, 3, padding=1)"),
            ),
        ),
        Mistake(
            "no padding",
            "there are fewer rows than anchors: without padding a 3×3 window loses the cells at the border",
            edits=(("3, padding=1)", "3)"),),
        ),
        Mistake(
            "no ReLU",
            "window and outputs are one linear map together: a ReLU stands between them",
            edits=(("torch.relu(self.window(feature))", "self.window(feature)"),),
        ),
        Mistake(
            "sigmoid in the head",
            "the scores lie between 0 and 1: the head gives logits, the sigmoid belongs to the loss",
            edits=(("return objectness.flatten(1), ", "return objectness.flatten(1).sigmoid(), "),),
        ),
        Mistake(
            "scores keep a last dimension",
            "the scores have a last dimension of their own: [B, A], one number an anchor",
            edits=(("return objectness.flatten(1), ", "return objectness.reshape(len(feature), -1, 1), "),),
        ),
        Mistake(
            "offsets first",
            "the first result has four columns: scores come first, then offsets",
            edits=(("return objectness.flatten(1), offsets.reshape(len(feature), -1, 4)",
                    "return offsets.reshape(len(feature), -1, 4), objectness.flatten(1)"),),
        ),
        Mistake(
            "images put after each other",
            "the rows of all images stand in one long list: keep the batch as the first dimension",
            edits=(("return objectness.flatten(1), offsets.reshape(len(feature), -1, 4)",
                    "return objectness.flatten(), offsets.reshape(-1, 4)"),),
        ),
        Mistake(
            "offsets of one anchor for all",
            "all anchors of a cell have the same offsets: each has four of its own",
            edits=(
                ("nn.Conv2d(channels, anchors_per_cell * 4, 1)", "nn.Conv2d(channels, 4, 1)"),
                ("offsets.reshape(len(feature), -1, 4)", "offsets.reshape(len(feature), -1, 1, 4).expand(-1, -1, self.objectness.out_channels, 4).reshape(len(feature), -1, 4)"),
            ),
        ),
        Mistake(
            "coordinates outermost in a cell",
            "the offsets of a cell are spread over the rows of other cells: each row has the four of one anchor",
            edits=(("offsets.reshape(len(feature), -1, 4)", "offsets.permute(0, 3, 1, 2).reshape(len(feature), 4, -1).transpose(1, 2)"),),
        ),
        Mistake(
            "offsets read without the window",
            "the deltas come from the features directly: both outputs read the code of the window",
            edits=(("self.offsets(code)", "self.offsets(feature)"),),
        ),
    ],
    "rpn_loss": [
        Mistake(
            "ignored anchors are background",
            "anchors labelled −1 are counted as background: they take no part",
            edits=(("sampled, positive = labels >= 0, labels == 1", "sampled, positive = labels >= -1, labels == 1"), ("labels[sampled].to(", "labels[sampled].clamp(min=0).to(")),
        ),
        Mistake(
            "ignored anchors with a target of −1",
            "anchors labelled −1 enter the cross entropy with −1 as their truth: they take no part",
            edits=(("labels >= 0", "labels >= -1"),),
        ),
        Mistake(
            "mean over the sampled",
            "the cross entropy is averaged over the anchors that take part: its sum is divided by N_cls, the number asked for",
            edits=(("return entropy / n_cls", "return entropy / sampled.sum().clamp(min=1)"),),
        ),
        Mistake(
            "localisation over all sampled",
            "negatives pay for their offsets: the bracket [u ≥ 1] leaves positives only",
            edits=(("labels >= 0, labels == 1", "labels >= 0, labels >= 0"),),
        ),
        Mistake(
            "localisation divided by the positives",
            "the offsets' loss is divided by the number of positives: this loss divides by N_reg",
            edits=(("weight * error / n_reg", "weight * error / positive.sum().clamp(min=1)"),),
        ),
        Mistake(
            "N_cls and N_reg exchanged",
            "each part is divided by the other's number: N_cls belongs to the classification, N_reg to the localisation",
            edits=(("return entropy / n_cls, weight * error / n_reg", "return entropy / n_reg, weight * error / n_cls"),),
        ),
        Mistake(
            "no λ",
            "the localisation lacks λ",
            edits=(("weight * error", "error"),),
        ),
        Mistake(
            "λ on the classification",
            "λ weighs the classification: it belongs to the localisation",
            edits=(("return entropy / n_cls, weight * error / n_reg", "return weight * entropy / n_cls, error / n_reg"),),
        ),
        Mistake(
            "λ always 10",
            "λ is 10 whatever was asked for",
            edits=(("weight * error", "10.0 * error"),),
        ),
        Mistake(
            "mean of the four offsets",
            "the four offsets of an anchor are averaged: they are added",
            edits=(("target_deltas[positive]).sum()", "target_deltas[positive]).sum() / 4"),),
        ),
        Mistake(
            "squared error",
            "the offsets' loss is ½x² everywhere: smooth L1 is a straight line beyond 1",
            edits=(("smooth_l1_loss(deltas[positive], target_deltas[positive]).sum()", "((deltas[positive] - target_deltas[positive]) ** 2 / 2).sum()"),),
        ),
        Mistake(
            "L1",
            "the offsets' loss is |x|: smooth L1 is ½x² up to 1 and |x| − ½ beyond",
            edits=(("smooth_l1_loss(deltas[positive], target_deltas[positive]).sum()", "(deltas[positive] - target_deltas[positive]).abs().sum()"),),
        ),
        Mistake(
            "probabilities instead of logits",
            "the sigmoid was taken twice: objectness holds logits, and the cross entropy with logits has its own",
            edits=(("(objectness[sampled], truth", "(objectness[sampled].sigmoid(), truth"),),
        ),
        Mistake(
            "log of a rounded probability",
            "the logarithm of a sigmoid that has become 0 or 1: infinite, or cut off; take the cross entropy from the logits",
            edits=(("F.binary_cross_entropy_with_logits(objectness[sampled], truth", "F.binary_cross_entropy(objectness[sampled].sigmoid(), truth"),),
        ),
        Mistake(
            "object and background exchanged",
            "the truth is 1 for background: label 1 is an object",
            edits=(("labels[sampled].to(objectness.dtype)", "1 - labels[sampled].to(objectness.dtype)"),),
        ),
        Mistake(
            "mask by multiplication",
            "an infinite target of a background anchor, times 0, is NaN: choose the positives, do not multiply by 0",
            edits=(("smooth_l1_loss(deltas[positive], target_deltas[positive]).sum()", "(smooth_l1_loss(deltas, target_deltas) * positive[..., None]).sum()"),),
        ),
        Mistake(
            "mean over the images",
            "the sum of the batch is divided by its images as well: n_cls and n_reg are for the whole batch already",
            edits=(("return entropy / n_cls, weight * error / n_reg", "images = max(len(labels), 1)\n    return entropy / n_cls / images, weight * error / n_reg / images"),),
        ),
        Mistake(
            "positives only",
            "background adds nothing to the classification: label 0 counts, −1 does not",
            edits=(("labels >= 0, labels == 1", "labels > 0, labels == 1"),),
        ),
        Mistake(
            "localisation first",
            "the two results are exchanged: classification first, then localisation",
            edits=(("return entropy / n_cls, weight * error / n_reg", "return weight * error / n_reg, entropy / n_cls"),),
        ),
        Mistake(
            "one sum",
            "one number came back: the two parts are asked for, each by itself",
            edits=(("return entropy / n_cls, weight * error / n_reg", "return entropy / n_cls + weight * error / n_reg"),),
        ),
        Mistake(
            "detached",
            "the losses have no gradient: .item(), .detach() or a new tensor has cut them off",
            edits=(("return entropy / n_cls, weight * error / n_reg", "return entropy.detach() / n_cls, weight * error.detach() / n_reg"),),
        ),
    ],
    "propose": [
        Mistake(
            "SSD's stds",
            "the boxes have moved a tenth, and grown a fifth, of what they should: decode_boxes divides by its stds unless "
            "it is told that they are 1",
            edits=((", (1.0, 1.0, 1.0, 1.0))", ")"),),
        ),
        Mistake(
            "not clipped",
            "boxes reach out of the image: clip x to the width and y to the height",
            edits=(("torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], -1).flatten(1)", "boxes + 0"),),
        ),
        Mistake(
            "clipped last",
            "boxes were clipped after NMS: what lies outside told two equal boxes apart, and specks have passed min_size",
            edits=(
                ("        boxes = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], -1).flatten(1)\n", ""),
                ("proposals.append(boxes[nms(boxes, scores, iou_threshold)[:post_nms]])",
                 "boxes = boxes[nms(boxes, scores, iou_threshold)[:post_nms]]\n        proposals.append(torch.stack([boxes[:, "
                 "0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], -1).flatten(1))"),
            ),
        ),
        Mistake(
            "width and height swapped",
            "x was clipped to the height and y to the width: image_size is (width, height)",
            edits=(("width, height = image_size", "height, width = image_size"),),
        ),
        Mistake(
            "small boxes kept",
            "boxes narrower or lower than min_size are there: drop them after clipping",
            edits=((">= min_size).all(1)", ">= min_size).all(1) | True"),),
        ),
        Mistake(
            "one side is enough",
            "a box passes min_size with one of its sides: both must be long enough",
            edits=((">= min_size).all(1)", ">= min_size).any(1)"),),
        ),
        Mistake(
            "more than min_size",
            "a box of exactly min_size was dropped: it is large enough",
            edits=((">= min_size", "> min_size"),),
        ),
        Mistake(
            "small boxes dropped after NMS",
            "a speck removed its neighbours and was then dropped itself: min_size comes before NMS",
            edits=(
                ("        boxes, scores = boxes[large], scores[large]\n", ""),
                ("proposals.append(boxes[nms(boxes, scores, iou_threshold)[:post_nms]])",
                 "kept = nms(boxes, scores, iou_threshold)\n        proposals.append(boxes[kept[large[kept]][:post_nms]])"),
            ),
        ),
        Mistake(
            "no pre_nms",
            "all anchors took part: only the pre_nms best of an image do",
            edits=(("scores[:pre_nms], order[:pre_nms]", "scores, order"),),
        ),
        Mistake(
            "pre_nms first ones",
            "the first pre_nms anchors took part: it is the best that do",
            edits=(
                ("scores, order = scores.sort(descending=True, stable=True)", "order = torch.arange(len(scores), device=scores.device)"),
            ),
        ),
        Mistake(
            "no post_nms",
            "there are more than post_nms proposals",
            edits=(("[:post_nms]", ""),),
        ),
        Mistake(
            "post_nms before NMS",
            "the best post_nms were chosen before NMS, so echoes took the places of others",
            edits=(("scores[:pre_nms], order[:pre_nms]", "scores[: min(pre_nms, post_nms)], order[: min(pre_nms, post_nms)]"),),
        ),
        Mistake(
            "top over the batch",
            "the best anchors were chosen over all images together: an image with surer scores leaves nothing to the others",
            edits=(
                ("    proposals = []\n", "    proposals = []\n    least = objectness.detach().flatten().sort(descending=True).values[: pre_nms * len(objectness)]\n"
                 "    least = least[-1] if len(least) else 0\n"),
                ("scores, order = scores[:pre_nms], order[:pre_nms]", "order = order[scores >= least]\n        scores = scores[scores >= least]"),
            ),
        ),
        Mistake(
            "not detached",
            "the proposals carry a gradient: the second stage takes them as plain numbers",
            edits=(("deltas.detach()", "deltas"),),
        ),
        Mistake(
            "anchors not put in the scores' order",
            "offsets and anchors do not belong together: the order of the scores applies to both",
            edits=(("anchors[order]", "anchors[: len(order)]"),),
        ),
        Mistake(
            "offsets not put in the scores' order",
            "offsets and anchors do not belong together: the order of the scores applies to the offsets too",
            edits=(("delta[order]", "delta[: len(order)]"),),
        ),
        Mistake(
            "worst first",
            "the lowest scores were taken: best first means descending",
            edits=(("descending=True", "descending=False"),),
        ),
        Mistake(
            "no NMS",
            "echoes are there: boxes that overlap a better one by more than iou_threshold go",
            edits=(("boxes[nms(boxes, scores, iou_threshold)[:post_nms]]", "boxes[:post_nms]"),),
        ),
        Mistake(
            "anchors instead of boxes",
            "the proposals are anchors, clipped: the offsets were not applied",
            edits=(("decode_boxes(delta[order], anchors[order], (1.0, 1.0, 1.0, 1.0))", "anchors[order].clone()"),),
        ),
        Mistake(
            "only boxes wholly inside",
            "boxes that reach over the edge were dropped: in training such *anchors* are left out, but proposals are clipped",
            edits=(("        large = ", "        inside = ((decode_boxes(delta[order], anchors[order], (1.0, 1.0, 1.0, 1.0)) - boxes).abs() < 1e-6).all(1)\n        large = "),
                   (">= min_size).all(1)", ">= min_size).all(1) & inside")),
        ),
        Mistake(
            "scores below 0 dropped",
            "anchors with negative logits were dropped: a proposal needs to be among the best, not to pass a threshold",
            edits=((">= min_size).all(1)", ">= min_size).all(1) & (scores > 0)"),),
        ),
        Mistake(
            "fixed IoU threshold",
            "NMS used 0.7 whatever was asked for",
            edits=(("nms(boxes, scores, iou_threshold)", "nms(boxes, scores, 0.7)"),),
        ),
    ],
    "alternating_training": [
        Mistake(
            "step 2 begins with the backbone of step 1",
            "step 2 began with the backbone that the RPN has trained: it is a separate network, which begins with `start`",
            edits=(("detector = train_detector(start,", "detector = train_detector({**start, **part(rpn, \"backbone\")},"),),
        ),
        Mistake(
            "backbone learns in steps 3 and 4",
            "steps 3 and 4 trained the backbone as well: it is shared by now, and stays",
            edits=(
                ('train_rpn(shared, ["rpn"], ["backbone"])', 'train_rpn(shared, ["backbone", "rpn"])'),
                ('propose(shared), ["head"], ["backbone"])', 'propose(shared), ["backbone", "head"])'),
            ),
        ),
        Mistake(
            "backbone learns in step 3",
            "step 3 trained the backbone: it is shared by now, and stays",
            edits=(('train_rpn(shared, ["rpn"], ["backbone"])', 'train_rpn(shared, ["backbone", "rpn"])'),),
        ),
        Mistake(
            "backbone learns in step 4",
            "step 4 trained the backbone: the RPN of step 3 was made for the one that was there",
            edits=(('propose(shared), ["head"], ["backbone"])', 'propose(shared), ["backbone", "head"])'),),
        ),
        Mistake(
            "batch norm still moves",
            "the backbone's parameters stayed, but its batch norms took new statistics: without a gradient they still "
            "move in training mode",
            edits=(
                ('train_rpn(shared, ["rpn"], ["backbone"])', 'train_rpn(shared, ["rpn"])'),
                ('propose(shared), ["head"], ["backbone"])', 'propose(shared), ["head"])'),
            ),
        ),
        Mistake(
            "batch norm moves in step 3",
            "step 3 gave the backbone's batch norms new statistics: without a gradient they still move in training mode",
            edits=(('train_rpn(shared, ["rpn"], ["backbone"])', 'train_rpn(shared, ["rpn"])'),),
        ),
        Mistake(
            "batch norm moves in step 4",
            "step 4 gave the backbone's batch norms new statistics: without a gradient they still move in training mode",
            edits=(('propose(shared), ["head"], ["backbone"])', 'propose(shared), ["head"])'),),
        ),
        Mistake(
            "batch norm fixed from the beginning",
            "steps 1 and 2 ran the backbone in evaluation mode: there it learns, and so do its statistics",
            edits=(
                ('train_rpn(start, ["backbone", "rpn"])', 'train_rpn(start, ["backbone", "rpn"], ["backbone"])'),
                ('propose(rpn), ["backbone", "head"])', 'propose(rpn), ["backbone", "head"], ["backbone"])'),
            ),
        ),
        Mistake(
            "own part in evaluation mode",
            "in steps 3 and 4 the part that learns was in evaluation mode too: only the backbone is to stay",
            edits=(
                ('["rpn"], ["backbone"])', '["rpn"], ["backbone", "rpn"])'),
                ('["head"], ["backbone"])', '["head"], ["backbone", "head"])'),
            ),
        ),
        Mistake(
            "old proposals in step 4",
            "step 4 used the proposals of step 1: the RPN of step 3 makes new ones",
            edits=(("propose(shared), [\"head\"]", "propose(rpn), [\"head\"]"),),
        ),
        Mistake(
            "proposals before step 3",
            "the proposals of step 4 come from an RPN that has not seen the shared backbone: propose after step 3",
            edits=(("    shared = train_rpn(", "    regions = propose(shared)\n    shared = train_rpn("), ("propose(shared), [\"head\"]", "regions, [\"head\"]")),
        ),
        Mistake(
            "backbone of step 1 shared",
            "steps 3 and 4 share the backbone of step 1: the one that the detector has trained, in step 2, is shared",
            edits=(("{**detector, **part(rpn, \"rpn\")}", "{**detector, **part(rpn, \"rpn\"), **part(rpn, \"backbone\")}"),),
        ),
        Mistake(
            "RPN anew in step 3",
            "step 3 began with an untrained RPN: it goes on from step 1's",
            edits=(("{**detector, **part(rpn, \"rpn\")}", "{**detector, **part(start, \"rpn\")}"),),
        ),
        Mistake(
            "head anew in step 4",
            "step 4 began with an untrained head: it goes on from step 2's",
            edits=(("return train_detector(shared,", "return train_detector({**shared, **part(start, \"head\")},"),),
        ),
        Mistake(
            "stops after step 2",
            "there are two trainings: after step 2 RPN and detector have backbones of their own, steps 3 and 4 make it one",
            edits=(
                ('    shared = train_rpn(shared, ["rpn"], ["backbone"])\n', ""),
                ('return train_detector(shared, propose(shared), ["head"], ["backbone"])', "return shared"),
            ),
        ),
        Mistake(
            "stops after step 3",
            "there are three trainings: the detector has not been trained on the last RPN's proposals",
            edits=(('return train_detector(shared, propose(shared), ["head"], ["backbone"])', "return shared"),),
        ),
        Mistake(
            "step 2 leaves the backbone",
            "step 2 trained the head alone: steps 1 and 2 train the backbone too, each its own",
            edits=(('propose(rpn), ["backbone", "head"])', 'propose(rpn), ["head"])'),),
        ),
        Mistake(
            "proposals of an untrained RPN",
            "the proposals of step 2 come from the weights at the start: step 1's RPN makes them",
            edits=(("propose(rpn), [\"backbone\", \"head\"]", "propose(start), [\"backbone\", \"head\"]"),),
        ),
        Mistake(
            "RPN left out of the result",
            "the RPN in the result is the untrained one: copy the RPN of step 3 into the network",
            edits=(('return train_detector(shared, propose(shared), ["head"], ["backbone"])',
                    'return {**train_detector(shared, propose(shared), ["head"], ["backbone"]), **part(start, "rpn")}'),),
        ),
    ],
    "repaired_regions": [
        Mistake(
            "not repaired",
            "these are the values of the colleague's function: a region also gets objects of other images",
            edits=((OWN_PAIRS, ""),),
        ),
        Mistake(
            "labels repaired, deltas not",
            "the labels are right, but the offsets of some regions lead to an object of another image",
            edits=(("best = iou[:, positive].argmax(0)", "best = box_iou(truth, boxes)[:, positive].argmax(0)"),),
        ),
        Mistake(
            "deltas repaired, labels not",
            "the offsets lead to the own image's objects, but labels still come from all images",
            edits=(("label_proposals(iou, names)", "label_proposals(box_iou(truth, boxes), names)"),),
        ),
        Mistake(
            "a neighbour's objects",
            "the regions of an image are labelled by the objects of the image before it",
            edits=((OWN_PAIRS, " * ((object_of[:, None] + 1) % len(regions) == region_of)"),),
        ),
        Mistake(
            "the first image's objects",
            "only the objects of the first image count, for all regions",
            edits=((OWN_PAIRS, " * (object_of[:, None] == 0)"),),
        ),
        Mistake(
            "other images' objects only",
            "a region gets objects of other images and none of its own",
            edits=((OWN_PAIRS, " * (object_of[:, None] != region_of)"),),
        ),
        Mistake(
            "ignored regions kept",
            "regions that touch nothing have the label -1: here they are background",
            edits=((".clamp(min=0)  # [R]", ""),),
        ),
        Mistake(
            "offsets the wrong way",
            "the offsets lead from the object to the region: they lead from the region to its object",
            edits=(("encode_boxes(truth[best], boxes[positive])", "encode_boxes(boxes[positive], truth[best])"),),
        ),
        Mistake(
            "offsets with the RPN's stds",
            "the offsets are those of the RPN, with stds of 1: the head's are divided by 0.1 and 0.2",
            edits=(("encode_boxes(truth[best], boxes[positive])", "encode_boxes(truth[best], boxes[positive], (1.0, 1.0, 1.0, 1.0))"),),
        ),
        Mistake(
            "offsets of background too",
            "background regions have offsets: they have zeros",
            edits=(("if positive.any():", "if len(truth):"), ("best = iou[:, positive].argmax(0)", "best = iou.argmax(0)"),
                   ("deltas[positive] = encode_boxes(truth[best], boxes[positive])", "deltas = encode_boxes(truth[best], boxes)")),
        ),
        Mistake(
            "a threshold of 0.7",
            "regions with an IoU between 0.5 and 0.7 are background: from 0.5 on they are objects",
            edits=(("positive = labels > 0", "labels = torch.where(iou.amax(0) < 0.7, 0, labels) if len(iou) else labels\n    positive = labels > 0"),),
        ),
        Mistake(
            "object or not",
            "all positive regions have the label 1, as for the RPN: the head wants the class",
            edits=(("return labels, deltas", "return labels.clamp(max=1), deltas"),),
        ),
        Mistake(
            "objects in the order of the batch reversed",
            "labels belong to other objects than boxes: both go image after image",
            edits=(('names = torch.cat([target["labels"] for target in targets])', 'names = torch.cat([target["labels"] for target in targets]).flip(0)'),),
        ),
    ],
}
