"""Wrong answers to the exercises of lesson 10."""

from . import Mistake

LATERAL = "self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)"
SMOOTH = "self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)"
OWN = "merged = [lateral(feature) for lateral, feature in zip(self.lateral, features)]"
LOOP = "for level in range(len(merged) - 2, -1, -1):"
SIZE = "            size = merged[level].shape[-2:]\n"
ABOVE = 'above = F.interpolate(merged[level + 1], size=size, mode="nearest")  # [B, channels, H_l, W_l]'
SUM = "merged[level] = merged[level] + above"
GIVEN = "return [smooth(level) for smooth, level in zip(self.smooth, merged)]"

SIDES = "sides = boxes[:, 2:] - boxes[:, :2]  # [N, 2]"
LEVELS = "levels = k0 + torch.log2(sides.prod(1).sqrt() / 224)"
WHOLE = "return levels.floor().clamp(smallest, largest).to(torch.int64)"

IMAGES = "rois = [F.pad(boxes, (1, 0), value=image) for image, boxes in enumerate(boxes_per_image)]"
JOINED = "rois = torch.cat(rois)"
RANGE = "finest, coarsest = (round(math.log2(strides[end])) for end in (0, -1))"
ASSIGNED = "levels = assign_level(rois[:, 1:], smallest=finest, largest=coarsest)"
WALK = "for level, (feature, stride) in enumerate(zip(features, strides), finest):"
POOLED = "pooled.append(roi_align(feature, rois[mine], output_size, 1 / stride))"
ORDERED = "return torch.cat(pooled)[torch.cat(rows).argsort()]"

MISTAKES = {
    "TopDown": [
        Mistake(
            "no top-down path",
            "each level holds its own map only: what the coarser levels know does not come down",
            edits=((SUM, "merged[level] = merged[level] + 0 * above"),),
        ),
        Mistake(
            "no lateral connection",
            "the finer levels hold only what came from above: their own map's lateral layer is missing in the sum",
            edits=((SUM, "merged[level] = 0 * merged[level] + above"),),
        ),
        Mistake(
            "only one level down",
            "each level gets the lateral map just above it, not that map's sum: what stands two levels above is missing",
            edits=(
                (OWN, OWN + "\n        lateral = list(merged)"),
                (ABOVE, ABOVE.replace("merged[level + 1]", "lateral[level + 1]")),
            ),
        ),
        Mistake(
            "smoothed on the way down",
            "the smoothed level goes down, so what comes from the top is smoothed again at each level: smoothing "
            "belongs after the whole sum, for the output only",
            edits=(
                (OWN, OWN + "\n        merged[-1] = self.smooth[-1](merged[-1])"),
                (SUM, "merged[level] = self.smooth[level](merged[level] + above)"),
                (GIVEN, "return merged"),
            ),
        ),
        Mistake(
            "smoothed before the sum",
            "the lateral map is smoothed and then what comes from above is added: the sum itself is what is to be smoothed",
            edits=(
                (OWN, "lateral = [lateral(feature) for lateral, feature in zip(self.lateral, features)]\n"
                 "        merged = [smooth(one) for smooth, one in zip(self.smooth, lateral)]"),
                (GIVEN, "return merged"),
            ),
        ),
        Mistake(
            "what comes from above is smoothed",
            "what comes from above is smoothed and then added to the lateral map, which is not: the sum is what is to "
            "be smoothed",
            edits=(
                (OWN, OWN + "\n        answers = [self.smooth[-1](merged[-1])]"),
                (SUM, "answers.insert(0, merged[level] + self.smooth[level](above))\n            " + SUM),
                (GIVEN, "return answers"),
            ),
        ),
        Mistake(
            "no smoothing",
            "the sums are given as they are: the 3×3 layers are not used",
            edits=((GIVEN, "return merged"),),
        ),
        Mistake(
            "coarsest level not smoothed",
            "the coarsest level is given as its lateral layer left it: it has a smoothing layer too",
            edits=((GIVEN, "return [smooth(level) for smooth, level in zip(self.smooth, merged[:-1])] + merged[-1:]"),),
        ),
        Mistake(
            "twice the size",
            "this fails on odd maps: twice the size of the coarser map is not always the size of the finer one "
            "(85 rows above 43); the lateral map says how large it has to be",
            edits=((ABOVE, 'above = F.interpolate(merged[level + 1], scale_factor=2, mode="nearest")'),),
        ),
        Mistake(
            "twice the size, cut off",
            "this works where the coarser map was rounded up; where it was rounded down (15 rows above 7) twice its "
            "size is too small",
            edits=(
                (ABOVE, 'above = F.interpolate(merged[level + 1], scale_factor=2, mode="nearest")[..., : size[0], : size[1]]'),
            ),
        ),
        Mistake(
            "the lateral map is cut to twice the size",
            "the finer map was made smaller or larger to fit the coarser one: each level keeps the size of its own map",
            edits=(
                (SIZE, ""),
                (ABOVE, 'above = F.interpolate(merged[level + 1], scale_factor=2, mode="nearest")\n'
                 "            merged[level] = F.interpolate(merged[level], size=above.shape[-2:])"),
            ),
        ),
        Mistake(
            "bilinear",
            "the values from above are mixed with their neighbours: nearest up-sampling repeats a cell as it is",
            edits=((ABOVE, ABOVE.replace('"nearest"', '"bilinear"')),),
        ),
        Mistake(
            "nearest by the centres",
            "at odd sizes some cells take from another neighbour: cell y of H takes from row ⌊y·h/H⌋, as "
            'mode="nearest" does; "nearest-exact" counts from the centres of the cells',
            edits=((ABOVE, ABOVE.replace('"nearest"', '"nearest-exact"')),),
        ),
        Mistake(
            "bottom-up",
            "the information goes the other way: the coarse levels get what the fine ones hold, and the finest gets nothing",
            edits=(
                (LOOP, "for level in range(1, len(merged)):"),
                (ABOVE, ABOVE.replace("level + 1", "level - 1")),
            ),
        ),
        Mistake(
            "coarsest level twice",
            "the coarsest level was added to itself: nothing comes from above it",
            edits=(
                (LOOP, "for level in range(len(merged) - 1, -1, -1):"),
                (ABOVE, ABOVE.replace("merged[level + 1]", "merged[min(level + 1, len(merged) - 1)]")),
            ),
        ),
        Mistake(
            "mean instead of sum",
            "the lateral map and what comes from above are averaged: they are added",
            edits=((SUM, "merged[level] = (merged[level] + above) / 2"),),
        ),
        Mistake(
            "one smoothing layer for all levels",
            "the levels share one smoothing layer: each has its own; what is shared is the detector's head",
            edits=(
                (SMOOTH, "self.smooth = nn.Conv2d(channels, channels, 3, padding=1)"),
                (GIVEN, "return [self.smooth(level) for level in merged]"),
            ),
        ),
        Mistake(
            "lateral 3×3, smoothing 1×1",
            "the kernels are the other way round: 1×1 for the lateral layers, 3×3 for smoothing",
            edits=(
                (LATERAL, LATERAL.replace("channels, 1)", "channels, 3, padding=1)")),
                (SMOOTH, SMOOTH.replace("3, padding=1", "1")),
            ),
        ),
        Mistake(
            "no padding",
            "each level has lost a row and a column on each side: a 3×3 layer needs a padding of 1 to keep the size",
            edits=((SMOOTH, SMOOTH.replace(", padding=1", "")),),
        ),
        Mistake(
            "no biases",
            "the layers have no bias: Conv2d's own default has one",
            edits=(
                (LATERAL, LATERAL.replace("channels, 1)", "channels, 1, bias=False)")),
                (SMOOTH, SMOOTH.replace("padding=1", "padding=1, bias=False")),
            ),
        ),
        Mistake(
            "ReLU behind the lateral layers",
            "what is below zero is lost: there is no ReLU in the pyramid, the heads have theirs",
            edits=((OWN, OWN.replace("[lateral(feature)", "[torch.relu(lateral(feature))")),),
        ),
        Mistake(
            "ReLU at the end",
            "the pyramid has no value below zero: smoothing is its last step, no ReLU follows",
            edits=((GIVEN, GIVEN.replace("smooth(level)", "torch.relu(smooth(level))")),),
        ),
        Mistake(
            "batch norm in the pyramid",
            "there are more weights than those of the 1×1 and 3×3 layers: this pyramid has no norm",
            edits=(
                (SMOOTH, SMOOTH.replace("nn.Conv2d(channels, channels, 3, padding=1)",
                 "nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))")),
            ),
        ),
        Mistake(
            "coarse to fine",
            "the list begins with the coarsest level: give them from fine to coarse, as they came in",
            edits=((GIVEN, GIVEN + "[::-1]"),),
        ),
        Mistake(
            "finest level only",
            "only the finest level is given: every level is an output",
            edits=((GIVEN, GIVEN + "[:1]"),),
        ),
        Mistake(
            "layers in a Python list",
            "the module does not know its layers: PyTorch sees those in an nn.ModuleList, not those in a list",
            edits=(
                (LATERAL, "self.lateral = [nn.Conv2d(c, channels, 1) for c in in_channels]"),
                (SMOOTH, "self.smooth = [nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels]"),
            ),
        ),
        Mistake(
            "the top-down path is detached",
            "no gradient goes up through the sum: the coarser maps do not learn from what the finer levels need",
            edits=((ABOVE, ABOVE.replace("merged[level + 1]", "merged[level + 1].detach()")),),
        ),
        Mistake(
            "the caller's list is changed",
            "the maps of the caller were changed: make a list of your own",
            edits=((OWN, OWN + "\n        for feature in features:\n            feature.mul_(1.5)"),),
        ),
    ],
    "assign_level": [
        Mistake(
            "natural logarithm",
            "twice the side is one level more in base 2; these values come from the natural logarithm",
            edits=((LEVELS, LEVELS.replace("log2", "log")),),
        ),
        Mistake(
            "logarithm of base 10",
            "twice the side is one level more in base 2; these values come from the logarithm of base 10",
            edits=((LEVELS, LEVELS.replace("log2", "log10")),),
        ),
        Mistake(
            "rounded",
            "the levels were rounded to the nearest whole number: a level begins at its size, so take the floor",
            edits=((WHOLE, WHOLE.replace("floor", "round")),),
        ),
        Mistake(
            "rounded up",
            "the levels were rounded up: take the floor",
            edits=((WHOLE, WHOLE.replace("floor", "ceil")),),
        ),
        Mistake(
            "area instead of its root",
            "the level depends on the area wh here: the formula wants √(wh), a length in pixels",
            edits=((LEVELS, LEVELS.replace(".sqrt()", "")),),
        ),
        Mistake(
            "area over 224²",
            "twice the side is two levels more here: log2 of wh / 224² is twice that of √(wh) / 224",
            edits=((LEVELS, LEVELS.replace(".sqrt() / 224", " / 224**2")),),
        ),
        Mistake(
            "the slide's formula",
            "the slide leaves out the 224 and the floor: the size is counted in units of 224 pixels",
            edits=((LEVELS, LEVELS.replace(" / 224", "")),),
        ),
        Mistake(
            "normalised boxes",
            "the boxes are in pixels already and 224 is a number of pixels; were they divided by a size?",
            edits=((LEVELS, LEVELS.replace(" / 224", "")), (SIDES, "sides = (boxes[:, 2:] - boxes[:, :2]) / 800")),
        ),
        Mistake(
            "longer side",
            "long boxes got too high a level: the size is √(wh), not the longer side",
            edits=((LEVELS, LEVELS.replace("sides.prod(1).sqrt()", "sides.amax(1)")),),
        ),
        Mistake(
            "shorter side",
            "long boxes got too low a level: the size is √(wh), not the shorter side",
            edits=((LEVELS, LEVELS.replace("sides.prod(1).sqrt()", "sides.amin(1)")),),
        ),
        Mistake(
            "mean of the sides",
            "the size is √(wh), the geometric mean of the sides, not (w + h) / 2",
            edits=((LEVELS, LEVELS.replace("sides.prod(1).sqrt()", "sides.mean(1)")),),
        ),
        Mistake(
            "last two numbers as width and height",
            "boxes away from the origin get too high a level: x2 and y2 are corners, not width and height",
            edits=((SIDES, "sides = boxes[:, 2:]"),),
        ),
        Mistake(
            "one pixel added",
            "a box of 223.9 pixels reached level 4: the sides are x2 − x1 and y2 − y1, no + 1",
            edits=((SIDES, "sides = boxes[:, 2:] - boxes[:, :2] + 1"),),
        ),
        Mistake(
            "not clamped",
            "levels below the smallest or above the largest came out: the pyramid does not have them",
            edits=((WHOLE, "return levels.floor().clamp(-60, 60).to(torch.int64)"),),
        ),
        Mistake(
            "clamped below only",
            "levels above the largest came out: the pyramid does not have them",
            edits=((WHOLE, "return levels.floor().clamp(min=smallest).to(torch.int64)"),),
        ),
        Mistake(
            "clamped above only",
            "levels below the smallest came out: the pyramid does not have them",
            edits=((WHOLE, "return levels.floor().clamp(-60, largest).to(torch.int64)"),),
        ),
        Mistake(
            "levels counted from 0",
            "these are places in the list of levels: the names of the levels are wanted, from smallest to largest",
            edits=((WHOLE, "return levels.floor().clamp(smallest, largest).to(torch.int64) - smallest"),),
        ),
        Mistake(
            "k0 is always 4",
            "the argument k0 changes nothing: it is the level of a box of 224×224 pixels",
            edits=((LEVELS, LEVELS.replace("k0 +", "4 +")),),
        ),
        Mistake(
            "always levels 2 to 5",
            "the arguments smallest and largest change nothing: they are the ends of the pyramid",
            edits=((WHOLE, "return levels.floor().clamp(2, 5).to(torch.int64)"),),
        ),
        Mistake(
            "larger boxes to finer levels",
            "large boxes got fine levels: the sign of the logarithm is the other way round",
            edits=((LEVELS, LEVELS.replace("k0 +", "k0 -")),),
        ),
        Mistake(
            "levels as floats",
            "the levels are floating-point numbers: they are to be int64",
            edits=((WHOLE, "return levels.floor().clamp(smallest, largest)"),),
        ),
        Mistake(
            "whole numbers before the clamp",
            "a box without area has log2(0) = −∞, which is no whole number: clamp first, or see to it otherwise",
            edits=(
                (WHOLE, "levels = levels.floor().to(torch.int32).to(torch.int64) & 0x7FFFFFFF\n"
                 "    return levels.clamp(smallest, largest)"),
            ),
        ),
        Mistake(
            "boxes without area to the largest level",
            "a box without area came to the largest level: it is the smallest of all",
            edits=((WHOLE, "return levels.nan_to_num(neginf=99).floor().clamp(smallest, largest).to(torch.int64)"),),
        ),
        Mistake(
            "no answer without boxes",
            "no boxes: this fails. The answer is an empty tensor of int64",
            code="def assign_level(boxes, k0=4, smallest=2, largest=5):\n"
            "    sides = boxes[:, 2:] - boxes[:, :2]\n"
            "    levels = k0 + torch.log2(sides.prod(1).sqrt() / 224)\n"
            "    levels.max()\n"
            "    return levels.floor().clamp(smallest, largest).to(torch.int64)\n",
        ),
    ],
    "pool_from_pyramid": [
        Mistake(
            "level-major order",
            "the rows stand level by level: they are right, but not those of the boxes beside which they will be laid. "
            "Whatever is matched to them next, labels or deltas, meets the wrong box",
            edits=((ORDERED, "return torch.cat(pooled)"),),
        ),
        Mistake(
            "the order undone the wrong way",
            "the rows were rearranged, but not back: `rows` says which box each pooled row belongs to, and what is "
            "wanted says which pooled row each box has",
            edits=((ORDERED, "return torch.cat(pooled)[torch.cat(rows)]"),),
        ),
        Mistake(
            "level-major within each image",
            "the images are in order, but within an image the rows stand level by level",
            edits=(
                (ORDERED, "rows = torch.cat(rows)\n"
                 "    return torch.cat(pooled)[rois[rows, 0].argsort(stable=True)]"),
            ),
        ),
        Mistake(
            "all from image 0",
            "every box was pooled from the first image: column 0 of the rois says which image a box belongs to",
            edits=((IMAGES, IMAGES.replace("value=image", "value=0")),),
        ),
        Mistake(
            "images counted from 1",
            "every box was pooled from the image after its own: images are counted from 0",
            edits=((IMAGES, IMAGES.replace("value=image", "value=min(image + 1, len(boxes_per_image) - 1)")),),
        ),
        Mistake(
            "empty images are not counted",
            "behind an image without boxes, boxes are pooled from the image before theirs: it counts, though it has none",
            edits=(
                (IMAGES, "full = [boxes for boxes in boxes_per_image if len(boxes)] or boxes_per_image[:1]\n    "
                 + IMAGES.replace("enumerate(boxes_per_image)", "enumerate(full)")),
            ),
        ),
        Mistake(
            "always from the finest level",
            "all boxes were pooled from the finest level: large ones have a coarser level",
            edits=((ASSIGNED, "levels = torch.full_like(rois[:, 0], finest)"),),
        ),
        Mistake(
            "levels in reverse",
            "large boxes were pooled from fine levels and small ones from coarse levels",
            edits=((ASSIGNED, "levels = coarsest + finest - assign_level(rois[:, 1:], smallest=finest, largest=coarsest)"),),
        ),
        Mistake(
            "one level too fine",
            "boxes were pooled one level too fine: stride 4 is level 2, since 2² = 4",
            edits=((ASSIGNED, "levels = (assign_level(rois[:, 1:], smallest=finest, largest=coarsest) - 1).clamp(finest)"),),
        ),
        Mistake(
            "the pyramid always begins at level 2",
            "the levels were counted from 2 whatever the strides are: where the finest stride is 8, the finest level is 3",
            edits=((RANGE, "finest, coarsest = 2, 1 + len(strides)"),),
        ),
        Mistake(
            "stride instead of scale",
            "coordinates were multiplied by the stride: RoIAlign wants cells for each pixel, 1 / stride",
            edits=((POOLED, POOLED.replace("1 / stride", "stride")),),
        ),
        Mistake(
            "the finest level's scale for all",
            "boxes of the coarser levels were looked for in the wrong place: each level has its own stride",
            edits=((POOLED, POOLED.replace("1 / stride", "1 / strides[0]")),),
        ),
        Mistake(
            "boxes in cells",
            "boxes were divided by the stride and then scaled again: they are in pixels, RoIAlign scales them",
            edits=(
                (POOLED, "scaled = rois[mine] / rois.new_tensor([1, stride, stride, stride, stride])\n        "
                 + POOLED.replace("rois[mine]", "scaled")),
            ),
        ),
        Mistake(
            "not aligned",
            "all bins lie half a cell off: the centre of a cell is at half a stride, as in your roi_align",
            edits=(
                (POOLED, "shift = rois.new_tensor([0, stride / 2, stride / 2, stride / 2, stride / 2])\n        "
                 + POOLED.replace("rois[mine]", "rois[mine] + shift")),
            ),
        ),
        Mistake(
            "one sample a bin",
            "the bins are near, but not what 2×2 samples a bin give",
            edits=((POOLED, POOLED.replace("1 / stride)", "1 / stride, 1)")),),
        ),
        Mistake(
            "bins as (w, h)",
            "rows and columns of the bins are swapped: output_size is (h, w)",
            edits=((POOLED, POOLED.replace("output_size", "output_size[::-1]")),),
        ),
        Mistake(
            "a list of levels",
            "a list came back, with an entry for each level: one tensor is wanted, a row for each box",
            edits=((ORDERED, "return pooled"),),
        ),
        Mistake(
            "a list of images",
            "a list came back, with an entry for each image: one tensor is wanted, a row for each box",
            edits=(
                (ORDERED, "counts = [len(boxes) for boxes in boxes_per_image]\n"
                 "    return list(torch.cat(pooled)[torch.cat(rows).argsort()].split(counts))"),
            ),
        ),
        Mistake(
            "no gradient",
            "no gradient reaches the pyramid: look for detach, no_grad or a way through numpy",
            edits=((ORDERED, "return torch.cat(pooled).detach()[torch.cat(rows).argsort()]"),),
        ),
        Mistake(
            "no answer without boxes",
            "no boxes at all: this fails. The answer has no row, but its channels and bins",
            edits=((RANGE, "rois[:, 1:].max()\n    " + RANGE),),
        ),
        Mistake(
            "the boxes of the caller are changed",
            "the boxes of the caller were changed: work on a copy",
            edits=(
                (IMAGES, "for boxes in boxes_per_image:\n        boxes.mul_(1.0).clamp_(0, 450)\n    " + IMAGES),
            ),
        ),
    ],
}  # fmt: skip
