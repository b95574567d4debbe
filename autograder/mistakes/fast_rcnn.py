from . import Mistake

COLOUR = 'colour = torch.minimum(a["colour"], b["colour"]).sum()'
TEXTURE = 'texture = torch.minimum(a["texture"], b["texture"]).sum()'
FOUR = "colour + texture + (1 - together / pixels) + (1 - (around - together) / pixels)"
AROUND = "around = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))"
BEST = "i, j = min(similar, key=lambda pair: (-similar[pair], pair))"
WEIGHTED = '(a["size"] * a[name] + b["size"] * b[name]) / size'
TOUCHING = "touching = {k for pair in similar if i in pair or j in pair for k in pair} - {i, j}"
GONE = "similar = {pair: value for pair, value in similar.items() if i not in pair and j not in pair}"
NEW = "similar |= {(k, new): similarity(k, new) for k in touching}"
BOXES = 'torch.tensor([region["box"] for region in regions], dtype=image.dtype, device=image.device)'
ROUNDED = "nearest(rois[:, 1:] * spatial_scale)"
EXTENT = "max(last - first + 1, 1)"
STARTS = "starts = (first + (index[:-1] * size).floor()).clamp(0, limit)"
ENDS = "ends = (first + (index[1:] * size).ceil()).clamp(0, limit)"
LARGEST = "cells.amax(1) if cells.shape[1] else features.new_zeros(len(cells))"
CELLS = "features[int(image), :, top:bottom, left:right].flatten(1)"
BACK = "torch.stack(pooled).reshape(len(rois), *output_size, -1).permute(0, 3, 1, 2)"
NOTHING_POOLED = "    if not pooled:\n        return features.new_zeros(len(rois), features.shape[1], *output_size)\n"
SHIFTED = "(rois[:, 1:] * spatial_scale - 0.5)"
STEP = "step = (end - start) / bins / sampling_ratio"
MIDDLES = "(torch.arange(bins * sampling_ratio).to(rois) + 0.5)"
COUNTS = "counts = (points >= -1) & (points <= limit)"
CLAMPED = "points = points.clamp(0, limit - 1)"
FIRST = "first = points.floor().long()"
TAPS = "return first, (first + 1).clamp(max=limit - 1), points - first, counts"
READ = "table[image, y[:, :, None], x[:, None]]"
IMAGE = "image, table = rois[:, 0].long()[:, None, None], features.permute(0, 2, 3, 1)"
MEAN = "value.mean((2, 4))"
NO_OBJECTS = "    if len(labels) == 0:\n        return labels.new_zeros(iou.shape[1])\n"
MOST = "best, which = iou.max(0)"
BACKGROUND = "background = torch.where(best >= 0.1, 0, -1)"
CHOSEN = "torch.where(best >= 0.5, labels[which], background)"
COUNTED = "counted, positive = labels >= 0, labels > 0"
COUNT = "count = counted.sum().clamp(min=1)"
ENTROPY = "-logits.log_softmax(-1)[counted, labels[counted]]"
ERROR = "smooth_l1_loss(deltas[positive, labels[positive] - 1], target_deltas[positive])"
LOSSES = "return entropy.sum() / count, alpha * error.sum() / count"
SCORES, OFFSETS = "self.scores(vectors)", "self.offsets(vectors).unflatten(1, (-1, 4))"

MISTAKES = {
    "region_similarity": [
        Mistake("no colour", "the colours are not part of it", edits=((FOUR, FOUR.removeprefix("colour + ")),)),
        Mistake("no texture", "the texture is not part of it", edits=((FOUR, FOUR.replace("texture + ", "")),)),
        Mistake("no size", "the sizes are not part of it: small regions are to come together first", edits=((FOUR, FOUR.replace(" + (1 - together / pixels)", "")),)),
        Mistake("no shape", "how well the boxes fit is not part of it", edits=((FOUR, FOUR.replace(" + (1 - (around - together) / pixels)", "")),)),
        Mistake("mean of four", "this is the mean of the four similarities: their sum is asked for", edits=((FOUR, f"({FOUR}) / 4"),)),
        Mistake("product of four", "the four similarities are multiplied: add them", edits=((FOUR, "colour * texture * (1 - together / pixels) * (1 - (around - together) / pixels)"),)),
        Mistake(
            "large regions first",
            "the share of the image stands here as it is: two small regions are to be more similar than two large ones",
            edits=((FOUR, FOUR.replace("(1 - together / pixels)", "together / pixels")),),
        ),
        Mistake(
            "holes are good",
            "the empty part of the common box raises the value: it is to lower it",
            edits=((FOUR, FOUR.replace("(1 - (around - together) / pixels)", "(around - together) / pixels")),),
        ),
        Mistake("whole common box", "the common box counts whole: only what neither region fills is a misfit", edits=((FOUR, FOUR.replace("(around - together)", "around")),)),
        Mistake("share of the common box", "what is empty is divided by the common box: divide by the whole image", edits=((FOUR, FOUR.replace("(1 - (around - together) / pixels)", "(1 - (around - together) / around)")),)),
        Mistake("+ 1 in the common box", "a pixel is added to the sides of the common box: boxes have no + 1 in this course", edits=((AROUND, "around = (max(ax2, bx2) - min(ax1, bx1) + 1) * (max(ay2, by2) - min(ay1, by1) + 1)"),)),
        Mistake("overlap of the boxes", "this is the overlap of the two boxes: take the box around both", edits=((AROUND, "around = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)"),)),
        Mistake("larger bins", "the larger value of each bin was taken: what two histograms share is the smaller one", edits=((COLOUR, COLOUR.replace("minimum", "maximum")), (TEXTURE, TEXTURE.replace("minimum", "maximum")))),
        Mistake("dot product", "the histograms are multiplied bin by bin: their intersection is asked for", edits=((COLOUR, '(colour := (a["colour"] * b["colour"]).sum())'), (TEXTURE, '(texture := (a["texture"] * b["texture"]).sum())'))),
        Mistake("distance of the histograms", "the distance of the histograms grows as they differ: a similarity falls", edits=((COLOUR, 'colour = (a["colour"] - b["colour"]).abs().sum()'), (TEXTURE, 'texture = (a["texture"] - b["texture"]).abs().sum()'))),
        Mistake("mean over bins", "the histograms' intersection is averaged over the bins: add the bins up", edits=((COLOUR, COLOUR.replace(".sum()", ".mean()")), (TEXTURE, TEXTURE.replace(".sum()", ".mean()")))),
        Mistake("colour twice", "the texture of a region is not looked at: its colour counts twice", edits=((TEXTURE, "texture = colour"),)),
        Mistake("width only", "the image is taken to be as high as wide", edits=(("image_size[0] * image_size[1]", "image_size[0] ** 2"),)),
        Mistake("box as (x, y, w, h)", "the last two numbers of a box were read as width and height: they are the right and the lower border", edits=((AROUND, "around = (max(ax1 + ax2, bx1 + bx2) - min(ax1, bx1)) * (max(ay1 + ay2, by1 + by2) - min(ay1, by1))"),)),
    ],
    "selective_search": [
        Mistake("the least similar first", "the least similar pair came together: take the most similar one", edits=((BEST, "i, j = min(similar, key=lambda pair: (similar[pair], pair))"),)),
        Mistake("the last of equal ones", "of equally similar pairs a later one came first: the smaller numbers win", edits=((BEST, "i, j = max(similar, key=lambda pair: (similar[pair], pair))"),)),
        Mistake("segments only", "these are the boxes of the segments alone: every union is a region, too", edits=((BOXES, BOXES + "[: int(segments.max()) + 1]"),)),
        Mistake("unions only", "the boxes of the segments themselves are missing", edits=((BOXES, BOXES + "[int(segments.max()) + 1 :]"),)),
        Mistake("largest first", "the last union comes first: segments first, then unions as they were made", edits=((BOXES, BOXES + ".flip(0)"),)),
        Mistake("without the whole image", "the last union, the whole image, is missing: go on until one region is left", edits=(("while similar:", "while len(similar) > 1:"),)),
        Mistake("plain mean of the histograms", "the histograms of both parts count alike: the larger part has more pixels in the union", edits=((WEIGHTED, "(a[name] + b[name]) / 2"),)),
        Mistake("sum of the histograms", "the histograms of a union do not sum to 1: they are shares of its pixels", edits=((WEIGHTED, "a[name] + b[name]"),)),
        Mistake("counts for shares", "the histograms of a union are counts of pixels: divide by its size", edits=((WEIGHTED, WEIGHTED.removesuffix(" / size")),)),
        Mistake("weights swapped", "each histogram is weighted by the size of the other part", edits=((WEIGHTED, '(b["size"] * a[name] + a["size"] * b[name]) / size'),)),
        Mistake("histograms of one part", "a union keeps the histograms of one of its parts", edits=((WEIGHTED, "a[name]"),)),
        Mistake("smaller histogram values", "a union keeps the smaller value of each bin: it has the pixels of both parts", edits=((WEIGHTED, "torch.minimum(a[name], b[name])"),)),
        Mistake("size of one part", "a union keeps the size of one of its parts: later similarities go wrong", edits=(('merged = {"size": size,', 'merged = {"size": a["size"],'),)),
        Mistake("size of the box", "the size of a union is the area of its box here: count the pixels of its parts", edits=(("        regions.append(merged)", '        merged["size"] = (merged["box"][2] - merged["box"][0]) * (merged["box"][3] - merged["box"][1])\n        regions.append(merged)'),)),
        Mistake("box of one part", "a union has the box of one of its parts: it reaches around both", edits=(("low[:2] + high[2:]", 'list(a["box"])'),)),
        Mistake("overlap of the boxes", "the box of a union is where its parts' boxes overlap: it reaches around both", edits=(("low[:2] + high[2:]", "high[:2] + low[2:]"),)),
        Mistake("neighbours of the first part only", "a union touches what either of its parts touched: neighbours of the second part are lost", edits=((TOUCHING, "touching = {k for pair in similar if i in pair for k in pair} - {i, j}"),)),
        Mistake("everything touches", "a union was compared with regions that do not touch it", edits=((TOUCHING, "touching = {k for pair in similar for k in pair} - {i, j}"),)),
        Mistake(
            "all pairs from the start",
            "regions that do not touch came together: only neighbours may",
            edits=(("for pair in neighbours(segments)}", "for pair in [(i, j) for j in range(len(regions)) for i in range(j)]}"),),
        ),
        Mistake("a part goes on alone", "a region that had become part of a union came together with another one again", edits=((GONE, "similar.pop((i, j))"), ("    return torch", "        if len(regions) >= 2 * (int(segments.max()) + 1) - 1:\n            break\n    return torch"))),
        Mistake("old similarities kept", "a union has the similarities of its first part: compute them anew", edits=((GONE, "old = similar\n        " + GONE), (NEW, "similar |= {(k, new): old.get((min(i, k), max(i, k)), old.get((min(j, k), max(j, k)))) for k in touching}"))),
        Mistake("no similarities of unions", "unions are compared with nothing, so the hierarchy stops early", edits=((NEW, "pass"),)),
        Mistake("boxes as (y1, x1, y2, x2)", "x and y changed places: boxes are (x1, y1, x2, y2)", edits=((BOXES, BOXES + "[:, [1, 0, 3, 2]]"),)),
        Mistake("boxes as (x, y, w, h)", "the last two numbers are width and height, as OpenCV has them: give the right and lower border", edits=((BOXES, BOXES + ".sub_(torch.tensor([[0, 0, 1, 1]]) * torch.tensor([region['box'][:2] * 2 for region in regions]))"),)),
        Mistake("last pixel instead of border", "boxes end at their last pixel: a box of w pixels ends at x1 + w", edits=((BOXES, BOXES + " - torch.tensor([0, 0, 1, 1])"),)),
        Mistake("each box once", "boxes that are equal were joined: two regions may have the same box, and both are given", edits=((BOXES, "torch.tensor(list(dict.fromkeys(tuple(region['box']) for region in regions)), dtype=image.dtype)"),)),
        Mistake("nothing from the regions", "the sizes of the image are swapped, or its similarity is of something else", code="def selective_search(segments, image):\n    regions = describe(segments, image)\n    boxes = [region['box'] for region in regions]\n    for i in range(1, len(boxes)):\n        a, b = boxes[-1] if i > 1 else boxes[0], boxes[i]\n        boxes.append([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])\n    return torch.tensor(boxes, dtype=image.dtype)\n"),
    ],
    "roi_pool": [
        Mistake("not rounded", "the borders were cut off, not rounded, to whole cells", edits=((ROUNDED, "(rois[:, 1:] * spatial_scale).floor()"),)),
        Mistake("rounded outwards", "the region was made larger to whole cells: each border goes to the nearest one", edits=((ROUNDED, "torch.cat([(rois[:, 1:3] * spatial_scale).floor(), (rois[:, 3:] * spatial_scale).ceil()], 1)"),)),
        Mistake("half to even", "a half went to the next even number: Python and torch.round do that; here it goes away from 0", edits=((ROUNDED, "(rois[:, 1:] * spatial_scale).round()"),)),
        Mistake("half upwards", "a negative half went up: away from 0 is down there", edits=((ROUNDED, "(rois[:, 1:] * spatial_scale + 0.5).floor()"),)),
        Mistake("rounded before the scale", "the corners were rounded in pixels, before the scale", edits=((ROUNDED, "(nearest(rois[:, 1:]) * spatial_scale).floor()"),)),
        Mistake("no scale", "the box is still in pixels: it must be projected to cells", edits=((ROUNDED, "nearest(rois[:, 1:])"),)),
        Mistake("divided by the scale", "the box was divided by spatial_scale: it is cells for each pixel, so multiply", edits=((ROUNDED, "nearest(rois[:, 1:] / spatial_scale)"),)),
        Mistake("last cell left out", "the last column and row of the region are missing: both borders belong to it", edits=((EXTENT, "max(last - first, 1)"),)),
        Mistake("no least size", "a region that ends before it starts must still have one cell", edits=((EXTENT, "(last - first + 1)"),)),
        Mistake("bins do not overlap", "the bins end where the next one starts: a cell that two bins share belongs to both, so round the ends up", edits=((ENDS, ENDS.replace("ceil", "floor")),)),
        Mistake("bins rounded", "the borders of the bins were rounded to the nearest cell: down at their start, up at their end", edits=((STARTS, STARTS.replace("floor", "round")), (ENDS, ENDS.replace("ceil", "round")))),
        Mistake("bins start too late", "the starts of the bins were rounded up: round them down", edits=((STARTS, STARTS.replace("floor", "ceil")),)),
        Mistake("size of a bin in whole cells", "bins have a whole number of cells each here: what remains at the end is lost", edits=(("size = features.new_tensor(max(last - first + 1, 1)) / bins", "size = (features.new_tensor(max(last - first + 1, 1)) / bins).floor().clamp(min=1)"),)),
        Mistake("mean", "this is the mean of the bin: the largest value is asked for", edits=((LARGEST, LARGEST.replace("cells.amax(1)", "cells.mean(1)")),)),
        Mistake("smallest value", "this is the smallest value of the bin", edits=((LARGEST, LARGEST.replace("amax", "amin")),)),
        Mistake("-inf in empty bins", "bins without a cell of the map hold 0 in this course, not -inf", edits=((LARGEST, LARGEST.replace("features.new_zeros(len(cells))", "features.new_full((len(cells),), -math.inf)")),)),
        Mistake("NaN in empty bins", "bins without a cell of the map are NaN: they hold 0", edits=((LARGEST, LARGEST.replace("features.new_zeros(len(cells))", "cells.mean(1)")),)),
        Mistake("nothing below 0", "negative values became 0: only bins without a cell are 0", edits=((LARGEST, f"({LARGEST}).clamp(min=0)"),)),
        Mistake("region clipped first", "the region was clipped to the map before it was divided: bins that lie outside are to stay empty", edits=(("        size = features", "        first, last = min(max(first, 0), limit - 1), min(max(last, 0), limit - 1)\n        size = features"),)),
        Mistake("always the first image", "every region was taken from the first image: the first column says from which", edits=((CELLS, CELLS.replace("int(image)", "0")),)),
        Mistake("x and y swapped", "x and y changed places: a map is [row, column], that is [y, x]", edits=((CELLS, "features[int(image), :, left:right, top:bottom].flatten(1)"),)),
        Mistake("output transposed", "rows and columns of the answer changed places: it is [R, C, h, w]", edits=((BACK, "torch.stack(pooled).reshape(len(rois), *output_size[::-1], -1).permute(0, 3, 2, 1)"),)),
        Mistake("channels mixed up", "values of different channels and bins are mixed: a reshape alone moves no axis", edits=((BACK, "torch.stack(pooled).reshape(len(rois), -1, *output_size)"),)),
        Mistake("square output", "the answer has as many columns as rows: output_size is (h, w)", edits=(("in spans(x1, x2, output_size[1], width)", "in spans(x1, x2, output_size[0], width)"), (BACK, BACK.replace("*output_size, -1", "output_size[0], output_size[0], -1")))),
        Mistake("fails without regions", "no regions are an ordinary case: the answer has 0 rows", edits=((NOTHING_POOLED, ""),)),
    ],
    "roi_align": [
        Mistake("half a pixel missing", "everything is read half a cell too far right and down: the value of a cell lies in its middle, so the first centre is at 0.5", edits=((SHIFTED, "(rois[:, 1:] * spatial_scale)"),)),
        Mistake("half a pixel twice", "everything is read half a cell too far left and up: half a cell comes off once", edits=((SHIFTED, "(rois[:, 1:] * spatial_scale - 1.0)"),)),
        Mistake("half a pixel of the image", "half a pixel was taken off before the scale: it is half a cell", edits=((SHIFTED, "((rois[:, 1:] - 0.5) * spatial_scale)"),)),
        Mistake("rounded", "the borders were rounded to whole cells: that is what RoIAlign is there to avoid", edits=((SHIFTED, "(nearest(rois[:, 1:] * spatial_scale) - 0.5)"),)),
        Mistake("at least one cell", "the region was made at least one cell large: aligned regions keep their size", edits=((STEP, "step = (end - start).clamp(min=1) / bins / sampling_ratio"),)),
        Mistake("one cell more", "the region is one cell too large: x2 - x1, without + 1", edits=((STEP, "step = (end - start + 1) / bins / sampling_ratio"),)),
        Mistake("no scale", "the box is still in pixels: it must be projected to cells", edits=((SHIFTED, "(rois[:, 1:] - 0.5)"),)),
        Mistake("divided by the scale", "the box was divided by spatial_scale: it is cells for each pixel, so multiply", edits=((SHIFTED, "(rois[:, 1:] / spatial_scale - 0.5)"),)),
        Mistake("points at the corners of their parts", "the points lie at the start of their part of the bin: they lie in its middle", edits=((MIDDLES, "torch.arange(bins * sampling_ratio).to(rois)"),)),
        Mistake("points from border to border", "the points go from one border of the region to the other: they lie in the middle of their parts", edits=((STEP, "step = (end - start) / max(bins * sampling_ratio - 1, 1)"), (MIDDLES, "torch.arange(bins * sampling_ratio).to(rois)"))),
        Mistake("largest value", "this is the largest value read in each bin: RoIAlign takes their mean", edits=((MEAN, "value.amax((2, 4))"),)),
        Mistake("sum", "this is the sum of what was read in each bin: divide by the number of points", edits=((MEAN, "value.sum((2, 4))"),)),
        Mistake("nearest cell", "the nearest cell was read at each point: interpolate between four of them", edits=((TAPS, "return (first := (points + 0.5).floor().long().clamp(max=limit - 1)), first, points * 0, counts"),)),
        Mistake("always the lower cell", "only the cell above and left of each point was read: interpolate between four of them", edits=((TAPS, "return first, first, points - first, counts"),)),
        Mistake("shares swapped", "the nearer cell got the smaller share", edits=((TAPS, "return first, (first + 1).clamp(max=limit - 1), 1 - (points - first), counts"),)),
        Mistake("points outside are read at the border", "points more than a cell outside of the map count as the border's value: they are 0", edits=((COUNTS, "counts = points == points"),)),
        Mistake("every point outside is 0", "points less than a cell outside of the map count as 0: they take the value at the border", edits=((COUNTS, "counts = (points >= 0) & (points <= limit - 1)"),)),
        Mistake("outer border by half a cell", "how far outside a point may lie is counted from the centres of the cells: -1 to W, not -0.5 to W - 0.5", edits=((COUNTS, "counts = (points >= -0.5) & (points <= limit - 0.5)"),)),
        Mistake("border excluded", "a point at exactly -1, or at exactly H or W, still counts", edits=((COUNTS, "counts = (points > -1) & (points < limit)"),)),
        Mistake("zeros around the map", "beyond the border the map was taken to be 0, so values fade there: take the value at the border", code="def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2):\n    (h, w), (height, width) = output_size, features.shape[-2:]\n    if not len(rois):\n        return features.new_zeros(0, features.shape[1], h, w)\n    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale).unbind(1)\n    across = (torch.arange(w * sampling_ratio).to(rois) + 0.5) / (w * sampling_ratio)\n    down = (torch.arange(h * sampling_ratio).to(rois) + 0.5) / (h * sampling_ratio)\n    x = (x1[:, None] + (x2 - x1)[:, None] * across) * 2 / width - 1\n    y = (y1[:, None] + (y2 - y1)[:, None] * down) * 2 / height - 1\n    grid = torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), -1)\n    maps = features[rois[:, 0].long()]\n    read = nn.functional.grid_sample(maps, grid, align_corners=False)\n    return nn.functional.avg_pool2d(read, sampling_ratio)\n"),
        Mistake("not divided among the points", "the points were counted without those outside: they count as 0", edits=(("    value = value.reshape(len(rois), h,", "    seen = (tall[:, :, None] & wide[:, None]).to(table.dtype).unflatten(1, (h, -1)).unflatten(3, (w, -1)).mean((2, 4))\n    value = value / seen.clamp(min=1e-9).repeat_interleave(sampling_ratio, 1).repeat_interleave(sampling_ratio, 2)[..., None]\n    value = value.reshape(len(rois), h,"),)),
        Mistake("sampling ratio ignored", "there are always two points along each side of a bin: sampling_ratio says how many", edits=(("    x1, y1, x2, y2 =", "    sampling_ratio = 2\n    x1, y1, x2, y2 ="),)),
        Mistake("always the first image", "every region was read in the first image: the first column says in which", edits=((IMAGE, IMAGE.replace("rois[:, 0].long()", "rois[:, 0].long().mul(0)")),)),
        Mistake("x and y swapped", "x and y changed places in the box", edits=((SHIFTED, "(rois[:, [2, 1, 4, 3]] * spatial_scale - 0.5)"),)),
        Mistake("output transposed", "rows and columns of the answer changed places: it is [R, C, h, w]", edits=((MEAN + ".permute(0, 3, 1, 2)", MEAN + ".permute(0, 3, 2, 1).reshape(len(rois), -1, h, w)"),)),
        Mistake("the region's middle alone", "each bin was read in its middle only: sampling_ratio points along each side, then their mean", edits=((MIDDLES, "(torch.arange(bins * sampling_ratio).to(rois).div(sampling_ratio, rounding_mode='floor') * sampling_ratio + sampling_ratio / 2)"),)),
        Mistake("RoIPool", "this is RoIPool: nothing is rounded here, and the mean is taken", code="def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2):\n    return roi_pool(features, rois, output_size, spatial_scale)\n"),
    ],
    "label_proposals": [
        Mistake("more than 0.5", "a proposal with an IoU of exactly 0.5 became background: 0.5 is enough", edits=((CHOSEN, CHOSEN.replace(">= 0.5", "> 0.5")),)),
        Mistake("more than 0.1", "a proposal with an IoU of exactly 0.1 is ignored: it is background", edits=((BACKGROUND, BACKGROUND.replace(">=", ">")),)),
        Mistake("everything below 0.5 is background", "proposals that hardly touch an object became background: below 0.1 they are ignored", edits=((BACKGROUND, "background = torch.zeros_like(which)"),)),
        Mistake("ignored and background swapped", "0 and -1 changed places", edits=((BACKGROUND, "background = torch.where(best >= 0.1, -1, 0)"),)),
        Mistake("everything below 0.5 is ignored", "there is no background here: from 0.1 on it is", edits=((BACKGROUND, "background = torch.full_like(which, -1)"),)),
        Mistake("RPN's thresholds", "these are the thresholds of lesson 9, 0.7 and 0.3: here they are 0.5 and 0.1", edits=((BACKGROUND, BACKGROUND.replace("0.1", "0.3")), (CHOSEN, CHOSEN.replace("0.5", "0.7")))),
        Mistake("0.3 for 0.1", "an IoU from 0.1 to 0.3 was ignored: it is background", edits=((BACKGROUND, BACKGROUND.replace("0.1", "0.3")),)),
        Mistake("object's number instead of its class", "this is which object it is: its class is asked for", edits=((CHOSEN, CHOSEN.replace("labels[which]", "which + 1")),)),
        Mistake("object's number from 0", "this is which object it is, counted from 0: its class is asked for", edits=((CHOSEN, CHOSEN.replace("labels[which]", "which")),)),
        Mistake("classes from 0", "the class is one too small: labels are 1..K already, 0 is background", edits=((CHOSEN, CHOSEN.replace("labels[which]", "labels[which] - 1")),)),
        Mistake("classes moved up", "the class is one too large: labels are 1..K already", edits=((CHOSEN, CHOSEN.replace("labels[which]", "labels[which] + 1")),)),
        Mistake("the last of equal objects", "of objects that overlap a proposal alike the last one won: the first one does", edits=((MOST, "best, which = iou.flip(0).max(0)\n    which = len(labels) - 1 - which"),)),
        Mistake("rows for columns", "the best proposal of each object was looked for: the best object of each proposal is asked for", edits=((MOST, "best, which = iou.max(1)\n    which = which.clamp(max=len(labels) - 1)"),)),
        Mistake("sum of the overlaps", "the overlaps with all objects were added up: the largest one decides", edits=((MOST, "best, which = iou.sum(0), iou.argmax(0)"),)),
        Mistake("mean of the overlaps", "the overlaps with all objects were averaged: the largest one decides", edits=((MOST, "best, which = iou.mean(0), iou.argmax(0)"),)),
        Mistake("first object over 0.5", "a proposal took the first object that it overlaps enough: it takes the one that it overlaps most", edits=((MOST, "best, which = iou.amax(0), (iou >= 0.5).int().argmax(0)"),)),
        Mistake("any object below 0.1 ignores", "a proposal was ignored since it hardly overlaps *one* of the objects: the largest IoU decides", edits=((BACKGROUND, "background = torch.where(iou.amin(0) >= 0.1, 0, -1)"),)),
        Mistake("best proposals forced", "the best proposal of each object became positive whatever its IoU: that is SSD's and the RPN's rule, here 0.5 decides", edits=((CHOSEN, "torch.where((best >= 0.5) | ((iou == iou.amax(1, keepdim=True)) & (iou > 0)).any(0) if iou.shape[1] else best >= 0.5, labels[which], background)"),)),
        Mistake("no objects: ignored", "in an image without objects all proposals were ignored: they are background, there is nothing else to learn from it", edits=((NO_OBJECTS, NO_OBJECTS.replace("new_zeros(iou.shape[1])", "new_full((iou.shape[1],), -1)")),)),
        Mistake("no objects: fails", "an image without objects is an ordinary image", edits=((NO_OBJECTS, ""),)),
        Mistake("no objects: nothing", "without objects there are still proposals: each has a label", edits=((NO_OBJECTS, NO_OBJECTS.replace("iou.shape[1]", "0")),)),
        Mistake("floating-point labels", "labels are whole numbers, int64", edits=((CHOSEN, CHOSEN + ".to(iou.dtype)"),)),
    ],
    "FastRCNNHead": [
        Mistake("one box for all classes", "there is one box for each region: each class has its own", edits=(("nn.Linear(256, num_classes * 4)", "nn.Linear(256, 4)"),)),
        Mistake("one box, repeated", "the offsets of all classes are the same: each class learns its own", edits=(("nn.Linear(256, num_classes * 4)", "nn.Linear(256, 4)"), ("self.scores = nn", "self.k = num_classes\n        self.scores = nn"), (OFFSETS, "self.offsets(vectors)[:, None].expand(-1, self.k, 4)"))),
        Mistake("a box for background", "there are offsets for background as well: it has no box, so K classes, not K + 1", edits=(("num_classes * 4", "(num_classes + 1) * 4"),)),
        Mistake("no score for background", "there is no score for background: K + 1 of them", edits=(("num_classes + 1", "num_classes"),)),
        Mistake("offsets not by class", "the offsets stand in one row of 4·K numbers: give [R, K, 4]", edits=((OFFSETS, "self.offsets(vectors)"),)),
        Mistake("offsets [R, 4, K]", "the last two axes changed places: [R, K, 4]", edits=((OFFSETS, OFFSETS + ".mT"),)),
        Mistake("offsets first", "the offsets come first: logits, then deltas", edits=((f"return {SCORES}, {OFFSETS}", f"return {OFFSETS}, {SCORES}"),)),
        Mistake("softmax in the head", "the scores are probabilities: the softmax belongs to the loss and to prediction", edits=((SCORES, SCORES + ".softmax(-1)"),)),
        Mistake("ReLU on the scores", "the scores are never negative: nothing stands behind the last layer", edits=((SCORES, SCORES + ".relu()"),)),
        Mistake("ReLU on the offsets", "the offsets are never negative, so no box could become smaller: nothing stands behind the last layer", edits=((OFFSETS, "self.offsets(vectors).relu().unflatten(1, (-1, 4))"),)),
        Mistake("sigmoid on the offsets", "the offsets lie in 0..1: nothing stands behind the last layer", edits=((OFFSETS, "self.offsets(vectors).sigmoid().unflatten(1, (-1, 4))"),)),
        Mistake("tanh on the offsets", "the offsets lie in -1..1: nothing stands behind the last layer", edits=((OFFSETS, "self.offsets(vectors).tanh().unflatten(1, (-1, 4))"),)),
        Mistake("no hidden layer", "there is nothing between the features and the answers that is not linear", edits=(("nn.Flatten(), nn.Linear(channels * pool[0] * pool[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()", "nn.Flatten(), nn.Linear(channels * pool[0] * pool[1], 256)"),)),
        Mistake("mean over the bins", "the bins are averaged before the layers: where in the region something lies is lost", edits=(("nn.Flatten(), nn.Linear(channels * pool[0] * pool[1], 256)", "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 256)"),)),
        Mistake("only the first bins", "not every bin of the region is used", edits=(("vectors = self.shared(pooled)", "vectors = self.shared(pooled * (torch.arange(pooled.shape[-1]) < 1))"),)),
        Mistake("layers in a list", "the layers stand in a Python list, so the module does not know them", edits=(("self.scores = nn.Linear(256, num_classes + 1)", "self.scores = [nn.Linear(256, num_classes + 1)]"), ("self.offsets = nn.Linear(256, num_classes * 4)", "self.offsets = [nn.Linear(256, num_classes * 4)]"), ("self.scores(vectors), self.offsets(vectors).unflatten(1, (-1, 4))", "self.scores[0](vectors), self.offsets[0](vectors).unflatten(1, (-1, 4))"))),
        Mistake("normalised over the regions", "what is said of a region depends on the others of the batch", edits=(("vectors = self.shared(pooled)", "vectors = self.shared(pooled - pooled.mean(0, keepdim=True) if len(pooled) else pooled)"),)),
        Mistake("regions as one vector", "all regions went into one vector: each is classified by itself", edits=((OFFSETS, "self.offsets(vectors).unflatten(1, (-1, 4)).mean(0, keepdim=True).expand(len(vectors), -1, -1)"),)),
        Mistake("square pools only", "the height of the pool was taken for its width, too", edits=(("channels * pool[0] * pool[1]", "channels * pool[0] ** 2"),)),
        Mistake("detached", "no gradient reaches the layers before the offsets", edits=((OFFSETS, "self.offsets(vectors.detach()).unflatten(1, (-1, 4))"),)),
    ],
    "fast_rcnn_loss": [
        Mistake("divided by the positives", "the sums are divided by the number of positives, as in SSD: here by the number of regions that count", edits=((COUNT, "count = positive.sum().clamp(min=1)"),)),
        Mistake("boxes divided by the positives", "the loss of the offsets is divided by the number of positives: by that of all regions that count", edits=((LOSSES, "return entropy.sum() / count, alpha * error.sum() / positive.sum().clamp(min=1)"),)),
        Mistake("divided by all rows", "ignored regions are in the number: divide by those that count", edits=((COUNT, "count = max(len(labels), 1)"),)),
        Mistake("not divided", "these are the sums: divide by the number of regions that count", edits=((LOSSES, "return entropy.sum(), alpha * error.sum()"),)),
        Mistake("mean over the offsets", "the four offsets are averaged: their losses are added up", edits=((LOSSES, "return entropy.sum() / count, alpha * error.sum() / 4 / count"),)),
        Mistake("ignored regions are background", "regions with a label of -1 were counted as background: they count nowhere", edits=((COUNTED, "labels = labels.clamp(min=0)\n    " + COUNTED),)),
        Mistake("ignored regions by Python's -1", "a label of -1 was used as an index, which is the last class: such regions count nowhere", edits=((COUNTED, "counted, positive = labels == labels, labels > 0"),)),
        Mistake("background left out", "only positives are classified: background has a cross entropy, too", edits=((ENTROPY, "-logits.log_softmax(-1)[positive, labels[positive]]"),)),
        Mistake("box of the next class", "the box of another class was compared: the boxes of class k are row k - 1, background has none", edits=((ERROR, "smooth_l1_loss(torch.cat([deltas, deltas[:, -1:]], 1)[positive, labels[positive]], target_deltas[positive])"),)),
        Mistake("box of the first class", "the box of class 1 was compared, whatever the class", edits=((ERROR, ERROR.replace("labels[positive] - 1", "0")),)),
        Mistake("boxes of all classes", "the boxes of all classes are trained: only that of the true class is", edits=((ERROR, "smooth_l1_loss(deltas[positive], target_deltas[positive][:, None].expand_as(deltas[positive]))"),)),
        Mistake("mean box of the classes", "the boxes of all classes are averaged: only that of the true class learns", edits=((ERROR, ERROR.replace("deltas[positive, labels[positive] - 1]", "deltas[positive].mean(1)")),)),
        Mistake("box of the best class", "the box of the class that scores best was compared: that of the true class learns", edits=((ERROR, ERROR.replace("deltas[positive, labels[positive] - 1]", "deltas[positive, logits[positive, 1:].argmax(1)]")),)),
        Mistake("boxes of background", "background regions learn offsets too: only positives have a box", edits=((ERROR, "smooth_l1_loss(deltas[counted, (labels[counted] - 1).clamp(min=0)], target_deltas[counted])"),)),
        Mistake("L1", "this is plain L1: below 1 smooth L1 is a half of the square", edits=((ERROR, "(deltas[positive, labels[positive] - 1] - target_deltas[positive]).abs()"),)),
        Mistake("squared error", "the squares of all errors: smooth L1 grows in a straight line from 1 on", edits=((ERROR, "(deltas[positive, labels[positive] - 1] - target_deltas[positive]) ** 2 / 2"),)),
        Mistake("torchvision's break point", "smooth L1 breaks at 1/9, as in torchvision's: here σ is 1, so it breaks at 1", edits=((ERROR, ERROR.removesuffix(")") + ", 3.0)"),)),
        Mistake("alpha forgotten", "alpha changes nothing: it weighs the offsets", edits=((LOSSES, LOSSES.replace("alpha * ", "")),)),
        Mistake("alpha on the classes", "alpha weighs the classification: it belongs to the offsets", edits=((LOSSES, "return alpha * entropy.sum() / count, error.sum() / count"),)),
        Mistake("alpha on both", "alpha weighs both losses: it belongs to the offsets", edits=((LOSSES, "return alpha * entropy.sum() / count, alpha * error.sum() / count"),)),
        Mistake("one number", "the two losses were added up: give both", edits=((LOSSES, "return (entropy.sum() + alpha * error.sum()) / count"),)),
        Mistake("offsets first", "the loss of the offsets comes first: classification, then localisation", edits=((LOSSES, "return alpha * error.sum() / count, entropy.sum() / count"),)),
        Mistake("logits as probabilities", "the logits were used as probabilities: a softmax comes first", edits=((ENTROPY, "-logits.clamp(min=1e-9).log()[counted, labels[counted]]"),)),
        Mistake("log of a softmax", "softmax and log one after the other give infinity for logits far apart: take both in one", edits=((ENTROPY, "-logits.softmax(-1).log()[counted, labels[counted]]"),)),
        Mistake("p instead of -log p", "this is 1 - p of the true class: its logarithm is asked for", edits=((ENTROPY, "1 - logits.softmax(-1)[counted, labels[counted]]"),)),
        Mistake("binary logarithm", "the logarithm has base 2: the natural one is meant", edits=((ENTROPY, ENTROPY + " / 0.6931472"),)),
        Mistake("0 / 0", "without a region that counts the sums are divided by 0", edits=((COUNT, "count = counted.sum()"),)),
        Mistake("a constant without positives", "without positives the second loss is a constant: training breaks, since it reaches no weight", edits=((LOSSES, "if not positive.any():\n        return entropy.sum() / count, torch.zeros((), dtype=deltas.dtype)\n    " + LOSSES),)),
        Mistake("hard negatives mined", "only the hardest background regions are counted, as in SSD: here the sampled regions all count", edits=(("return entropy", "hard = entropy.detach().argsort(descending=True)[: 4 * int(positive.sum())]\n    entropy = entropy[hard]\n    return entropy"),)),
    ],
}
