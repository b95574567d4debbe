"""Wrong answers to the exercises of lesson 05."""

from . import Mistake

SCORES = "score_map = scores(feature).permute(0, 2, 3, 1)"
OFFSETS = "offset_map = offsets(feature).permute(0, 2, 3, 1)"
LOGITS = "logits.append(score_map.reshape(len(feature), -1, self.outputs))"
DELTAS = "deltas.append(offset_map.reshape(len(feature), -1, 4))"
CAT = "return torch.cat(logits, 1), torch.cat(deltas, 1)"
SCORE_LAYERS = "self.scores = nn.ModuleList(nn.Conv2d(c, a * self.outputs, 3, padding=1) for c, a in levels)"
OFFSET_LAYERS = "self.offsets = nn.ModuleList(nn.Conv2d(c, a * 4, 3, padding=1) for c, a in levels)"

PROBABILITIES = "logits.softmax(-1)[..., 1:]"
DECODED = "boxes = decode_boxes(delta, anchors)"
CLIPPED = "boxes = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], -1).flatten(1)"
CANDIDATES = "candidates = (scores[:, k] > score_threshold).nonzero().squeeze(1)"
KEPT = "kept = candidates[nms(boxes[candidates], scores[candidates, k], iou_threshold)]"
SORTED = "best, order = scores[rows, labels - 1].sort(descending=True, stable=True)"
APPENDED = 'detections.append({"boxes": boxes[rows[order]], "scores": best[:top_k], "labels": labels[order]})'
LOOP = """rows, labels = [], []
        for k in range(scores.shape[1]):
            candidates = (scores[:, k] > score_threshold).nonzero().squeeze(1)
            kept = candidates[nms(boxes[candidates], scores[candidates, k], iou_threshold)]
            rows.append(kept)
            labels.append(torch.full_like(kept, k + 1))
        rows, labels = torch.cat(rows), torch.cat(labels)
"""

CORNER = 'corner = target["boxes"].new_tensor([left, top])'
SCALE = 'scale = target["boxes"].new_tensor([size[1] / width, size[0] / height])'
MOVED = 'boxes = target["boxes"] * scale.repeat(2) + corner.repeat(2)'

MISTAKES = {
    "SSDHead": [
        Mistake(
            "view instead of permute, both",
            "a row takes its numbers from many cells: reshape reads memory in order, and channels lie before "
            "y and x there; bring the channels behind the cells first",
            edits=((SCORES, "score_map = scores(feature)"), (OFFSETS, "offset_map = offsets(feature)")),
        ),
        Mistake(
            "view instead of permute, offsets",
            "the logits are in order, the offsets are not: their channels still lie before y and x when they "
            "are reshaped",
            edits=((OFFSETS, "offset_map = offsets(feature)"),),
        ),
        Mistake(
            "view instead of permute, scores",
            "the offsets are in order, the logits are not: their channels still lie before y and x when they "
            "are reshaped",
            edits=((SCORES, "score_map = scores(feature)"),),
        ),
        Mistake(
            "anchors outermost",
            "rows run through the whole map for the first anchor, then for the second: in this course the anchors of "
            "a cell stand beside each other, as the anchor boxes do",
            edits=(
                (LOGITS, "b, h, w, c = score_map.shape\n            logits.append(score_map.reshape(b, h, w, -1, "
                 "self.outputs).permute(0, 3, 1, 2, 4).reshape(b, -1, self.outputs))"),
                (DELTAS, "deltas.append(offset_map.reshape(b, h, w, -1, 4).permute(0, 3, 1, 2, 4).reshape(b, -1, 4))"),
            ),
        ),  # fmt: skip
        Mistake(
            "x outer, y inner",
            "cells are read column by column: this course reads them row by row, y outer and x inner",
            edits=(
                (SCORES, "score_map = scores(feature).permute(0, 3, 2, 1)"),
                (OFFSETS, "offset_map = offsets(feature).permute(0, 3, 2, 1)"),
            ),
        ),
        Mistake(
            "x outer in the offsets only",
            "logits are read row by row, offsets column by column: row i of both must be the same anchor",
            edits=((OFFSETS, "offset_map = offsets(feature).permute(0, 3, 2, 1)"),),
        ),
        Mistake(
            "coarse level first",
            "the last map's rows come first: levels are put together from fine to coarse, in the order they come in",
            edits=((CAT, "return torch.cat(logits[::-1], 1), torch.cat(deltas[::-1], 1)"),),
        ),
        Mistake(
            "no background column",
            "there are K columns of logits: background is a class too, so a softmax needs K + 1",
            edits=(("self.outputs = num_classes + 1", "self.outputs = num_classes"),),
        ),
        Mistake(
            "the first level's anchors everywhere",
            "every level has as many anchors a cell as the first: each has its own number",
            edits=(
                ("levels = list(zip(channels, anchors_per_cell))", "levels = [(c, anchors_per_cell[0]) for c in channels]"),
            ),
        ),
        Mistake(
            "layers in a plain list",
            "the layers stand in a Python list, where the module does not see them: they would be neither trained "
            "nor saved nor moved to a GPU",
            edits=(
                ("self.scores = nn.ModuleList(nn.Conv2d(c, a * self.outputs, 3, padding=1) for c, a in levels)",
                 "self.scores = [nn.Conv2d(c, a * self.outputs, 3, padding=1) for c, a in levels]"),
                ("self.offsets = nn.ModuleList(nn.Conv2d(c, a * 4, 3, padding=1) for c, a in levels)",
                 "self.offsets = [nn.Conv2d(c, a * 4, 3, padding=1) for c, a in levels]"),
            ),
        ),  # fmt: skip
        Mistake(
            "one layer for all levels",
            "all levels share one layer: SSD gives each level its own, as their features and channels differ",
            edits=(
                (SCORE_LAYERS, "self.scores = nn.ModuleList([nn.Conv2d(*levels[0][:1], levels[0][1] * self.outputs, 3, "
                 "padding=1)] * len(levels))"),
                (OFFSET_LAYERS, "self.offsets = nn.ModuleList([nn.Conv2d(*levels[0][:1], levels[0][1] * 4, 3, "
                 "padding=1)] * len(levels))"),
            ),
        ),  # fmt: skip
        Mistake(
            "no padding",
            "the outputs have fewer cells than the maps: a 3×3 kernel loses the border unless the map is padded",
            edits=(
                (SCORE_LAYERS, SCORE_LAYERS.replace(", padding=1", "")),
                (OFFSET_LAYERS, OFFSET_LAYERS.replace(", padding=1", "")),
            ),
        ),
        Mistake(
            "softmax in the head",
            "the logits are probabilities already: cross entropy takes the softmax itself, and twice is too much",
            edits=((CAT, "return torch.cat(logits, 1).softmax(-1), torch.cat(deltas, 1)"),),
        ),
        Mistake(
            "ReLU on the offsets",
            "no offset is negative: a box may lie to the left of its anchor and be smaller",
            edits=((CAT, "return torch.cat(logits, 1), torch.cat(deltas, 1).relu()"),),
        ),
        Mistake(
            "offsets and logits swapped",
            "the first result has 4 columns: the logits come first, then the offsets",
            edits=((CAT, "return torch.cat(deltas, 1), torch.cat(logits, 1)"),),
        ),
        Mistake(
            "images put after each other",
            "the rows of all images stand in one long list: keep the batch as the first dimension",
            edits=(
                (LOGITS, "logits.append(score_map.reshape(-1, self.outputs))"),
                (DELTAS, "deltas.append(offset_map.reshape(-1, 4))"),
                (CAT, "return torch.cat(logits, 0), torch.cat(deltas, 0)"),
            ),
        ),
        Mistake(
            "x outer in the scores only",
            "offsets are read row by row, logits column by column: row i of both must be the same anchor",
            edits=((SCORES, "score_map = scores(feature).permute(0, 3, 2, 1)"),),
        ),
        Mistake(
            "anchors outermost in the scores",
            "the logits run through the whole map for the first anchor, then for the second; the offsets do not",
            edits=((LOGITS, "b, h, w, c = score_map.shape\n            logits.append(score_map.reshape(b, h, w, -1, "
                    "self.outputs).permute(0, 3, 1, 2, 4).reshape(b, -1, self.outputs))"),),
        ),
        Mistake(
            "anchors outermost in the offsets",
            "the offsets run through the whole map for the first anchor, then for the second; the logits do not",
            edits=((DELTAS, "b, h, w, c = offset_map.shape\n            deltas.append(offset_map.reshape(b, h, w, -1, "
                    "4).permute(0, 3, 1, 2, 4).reshape(b, -1, 4))"),),
        ),
        Mistake(
            "coarse level first in the offsets",
            "the last map's offsets come first, its logits last: both go from fine to coarse",
            edits=((CAT, "return torch.cat(logits, 1), torch.cat(deltas[::-1], 1)"),),
        ),
        Mistake(
            "coarse level first in the scores",
            "the last map's logits come first, its offsets last: both go from fine to coarse",
            edits=((CAT, "return torch.cat(logits[::-1], 1), torch.cat(deltas, 1)"),),
        ),
        Mistake(
            "offsets in a plain list",
            "the layers of the offsets stand in a Python list, where the module does not see them: they would be "
            "neither trained nor saved nor moved to a GPU",
            edits=((OFFSET_LAYERS, "self.offsets = [nn.Conv2d(c, a * 4, 3, padding=1) for c, a in levels]"),),
        ),
        Mistake(
            "one output for all anchors of a cell",
            "the anchors of a cell all get the same numbers: each has logits and offsets of its own, A times as many "
            "channels",
            edits=(
                ("self.outputs = num_classes + 1", "self.outputs, self.counts = num_classes + 1, anchors_per_cell"),
                (SCORE_LAYERS, SCORE_LAYERS.replace("a * self.outputs", "self.outputs")),
                (OFFSET_LAYERS, OFFSET_LAYERS.replace("a * 4", "4")),
                (CAT, "logits = [one.repeat_interleave(a, 1) for one, a in zip(logits, self.counts)]\n        "
                 "deltas = [one.repeat_interleave(a, 1) for one, a in zip(deltas, self.counts)]\n        " + CAT),
            ),
        ),
        Mistake(
            "results detached",
            "no gradient leads from logits and deltas back to the layers: nothing would learn",
            edits=((CAT, "return torch.cat(logits, 1).detach(), torch.cat(deltas, 1).detach()"),),
        ),
        Mistake(
            "offsets detached",
            "no gradient leads from the deltas back to the layers: those of the offsets would never learn",
            edits=((CAT, "return torch.cat(logits, 1), torch.cat(deltas, 1).detach()"),),
        ),
        Mistake(
            "softmax in evaluation",
            "in evaluation the logits are probabilities: ssd_predict takes the softmax itself, and twice is too much",
            edits=((CAT, "logits = torch.cat(logits, 1)\n        "
                    "return logits if self.training else logits.softmax(-1), torch.cat(deltas, 1)"),),
        ),
        Mistake(
            "sigmoid in the head",
            "the logits lie between 0 and 1, as after a sigmoid: the loss and the prediction want the plain numbers",
            edits=((CAT, "return torch.cat(logits, 1).sigmoid(), torch.cat(deltas, 1)"),),
        ),
        Mistake(
            "tanh on the offsets",
            "no offset is above 1: an offset is any number, for boxes far from their anchor too",
            edits=((CAT, "return torch.cat(logits, 1), torch.cat(deltas, 1).tanh()"),),
        ),
        Mistake(
            "features changed in place",
            "the maps that came in were changed: the backbone's next layers use them as well",
            edits=(("        logits, deltas = [], []\n",
                    "        logits, deltas = [], []\n        for feature in features:\n            "
                    "feature.detach().relu_()\n"),),
        ),
        Mistake(
            "float64",
            "the answers are float64 though the features are float32",
            edits=((CAT, "return torch.cat(logits, 1).double(), torch.cat(deltas, 1).double()"),),
        ),
        Mistake(
            "a dict",
            "a dict came back: return two tensors, logits and deltas",
            edits=((CAT, 'return {"logits": torch.cat(logits, 1), "deltas": torch.cat(deltas, 1)}'),),
        ),
        Mistake(
            "a list of levels",
            "each level's answers stand apart: join them to one tensor of logits and one of deltas",
            edits=((CAT, "return logits, deltas"),),
        ),
        Mistake(
            "features detached for the offsets",
            "no gradient reaches the feature maps from the deltas: the backbone would learn classes and no boxes",
            edits=(("offsets(feature)", "offsets(feature.detach())"),),
        ),
        Mistake(
            "features detached",
            "the feature maps are detached, so no gradient of the logits reaches them: the backbone would never learn from it",
            edits=(("scores(feature)", "scores(feature.detach())"), ("offsets(feature)", "offsets(feature.detach())")),
        ),
    ],
    "ssd_predict": [
        Mistake(
            "sigmoid for softmax",
            "each logit was squashed by itself: the K + 1 columns share one probability, so they pass a softmax",
            edits=((PROBABILITIES, "logits.sigmoid()[..., 1:]"),),
        ),
        Mistake(
            "softmax over the anchors",
            "the softmax runs over the anchors: the scores of one anchor sum to 1, not those of one class",
            edits=((PROBABILITIES, "logits.softmax(1)[..., 1:]"),),
        ),
        Mistake(
            "softmax without background",
            "background left before the softmax, so the objects' classes share the whole probability even where "
            "there is nothing: drop its column afterwards",
            edits=((PROBABILITIES, "logits[..., 1:].softmax(-1)"),),
        ),
        Mistake(
            "background kept",
            "background is reported as a class, and the labels are one too high: drop its column first",
            edits=((PROBABILITIES, "logits.softmax(-1)"),),
        ),
        Mistake(
            "background reported",
            "background is reported as an object of label 0: its column is no class to find",
            edits=(
                (PROBABILITIES, "logits.softmax(-1)"),
                ("torch.full_like(kept, k + 1)", "torch.full_like(kept, k)"),
                ("scores[rows, labels - 1]", "scores[rows, labels]"),
            ),
        ),
        Mistake(
            "labels from 0",
            "the labels are one too low: without the background column, column 0 is class 1",
            edits=(
                ("torch.full_like(kept, k + 1)", "torch.full_like(kept, k)"),
                ("scores[rows, labels - 1]", "scores[rows, labels]"),
            ),
        ),
        Mistake(
            "last column dropped",
            "the last class is missing and background counts as a class: background is column 0",
            edits=((PROBABILITIES, "logits.softmax(-1)[..., :-1]"),),
        ),
        Mistake(
            "logits as scores",
            "the scores are no probabilities: take the softmax before the threshold",
            edits=((PROBABILITIES, "logits[..., 1:]"),),
        ),
        Mistake(
            "at the threshold",
            "a score equal to the threshold was kept: it must be above it",
            edits=((CANDIDATES, CANDIDATES.replace("> score", ">= score")),),
        ),
        Mistake(
            "no score threshold",
            "detections that score below the threshold are reported",
            edits=((CANDIDATES, "candidates = torch.arange(len(scores), device=scores.device)"),),
        ),
        Mistake(
            "only the best class of an anchor",
            "an anchor gave at most one detection: every class above the threshold is one",
            edits=((CANDIDATES, CANDIDATES.replace("(scores[:, k] > score_threshold)",
                    "((scores[:, k] > score_threshold) & (scores.argmax(1) == k))")),),
        ),  # fmt: skip
        Mistake(
            "only where a class beats background",
            "anchors whose best score is background's were left out: only the threshold decides",
            edits=(
                ("zip(logits.softmax(-1)[..., 1:], deltas)",
                 "zip(logits.softmax(-1)[..., 1:] * (logits.argmax(-1, keepdim=True) > 0), deltas)"),
            ),
        ),  # fmt: skip
        Mistake(
            "not decoded",
            "the boxes are the anchors: the offsets say how far the objects are from them",
            edits=((DECODED, "boxes = anchors"),),
        ),
        Mistake(
            "offsets added to the corners",
            "the offsets were added to the anchors' corners: they are shifts in sizes of the anchor and logarithms",
            edits=((DECODED, "boxes = anchors + delta"),),
        ),
        Mistake(
            "decoded without the variances",
            "the boxes are moved ten times too far: encode_boxes divided by 0.1 and 0.2, decode_boxes must know it",
            edits=((DECODED, "boxes = decode_boxes(delta, anchors, (1, 1, 1, 1))"),),
        ),
        Mistake(
            "the first image's offsets",
            "all images have the boxes of the first one: each has offsets of its own",
            edits=((DECODED, "boxes = decode_boxes(deltas[0], anchors)"),),
        ),
        Mistake(
            "not clipped",
            "boxes reach beyond the image: nothing can be seen there, so clip them",
            edits=((CLIPPED, "pass"),),
        ),
        Mistake(
            "clipped after NMS",
            "boxes were clipped after NMS: NMS compared the parts outside of the image, and near repeats survived",
            edits=(
                (CLIPPED, "clipped = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], -1).flatten(1)"),
                (APPENDED, APPENDED.replace("boxes[rows[order]]", "clipped[rows[order]]")),
            ),
        ),
        Mistake(
            "width and height swapped",
            "x was clipped to the image's height and y to its width: image_size is (width, height)",
            edits=(("width, height = image_size", "height, width = image_size"),),
        ),
        Mistake(
            "clipped below only",
            "boxes reach beyond the right and lower border: clip to width and height too",
            edits=((CLIPPED, "boxes = boxes.clamp(min=0)"),),
        ),
        Mistake(
            "clipped above only",
            "boxes reach beyond the left and upper border: clip to 0 too",
            edits=((CLIPPED, CLIPPED.replace("clamp(0, ", "clamp(max=")),),
        ),
        Mistake(
            "no NMS",
            "echoes of the same object are all reported: NMS keeps the best of them",
            edits=((KEPT, "kept = candidates"),),
        ),
        Mistake(
            "NMS over all classes",
            "a box of another class pushed a detection out: NMS runs within each class",
            edits=(
                ("for k in range(scores.shape[1]):",
                 "winners = nms(boxes, scores.amax(1), iou_threshold)\n        for k in range(scores.shape[1]):"),
                (KEPT, "kept = candidates[torch.isin(candidates, winners)]"),
            ),
        ),  # fmt: skip
        Mistake(
            "class-agnostic NMS at the end",
            "a box of another class pushed a detection out: NMS runs within each class, not over what all of them left",
            edits=((APPENDED, "alone = nms(boxes[rows[order]], best[:top_k], iou_threshold)\n        "
                    'detections.append({"boxes": boxes[rows[order]][alone], "scores": best[:top_k][alone], "labels": labels[order][alone]})'),),
        ),  # fmt: skip
        Mistake(
            "one NMS for all classes",
            "one NMS ran over all classes together, so a class pushed another out, even on the same anchor: an anchor may "
            "give several classes, and NMS runs within each",
            edits=((LOOP, "top, column = scores.max(1)\n        candidates = (top > score_threshold).nonzero().squeeze(1)\n"
                    "        rows = candidates[nms(boxes[candidates], top[candidates], iou_threshold)]\n"
                    "        labels = column[rows] + 1\n"),),
        ),
        Mistake(
            "NMS on the anchors",
            "NMS compared the anchors: what may repeat each other are the decoded and clipped boxes",
            edits=((KEPT, KEPT.replace("boxes[candidates]", "anchors[candidates]")),),
        ),
        Mistake(
            "the two thresholds swapped",
            "scores were compared with iou_threshold and overlaps with score_threshold",
            edits=(("    width, height = image_size", "    score_threshold, iou_threshold = iou_threshold, score_threshold\n"
                    "    width, height = image_size"),),
        ),
        Mistake(
            "labels not in the order of the scores",
            "scores and boxes are sorted, the labels are not: one order for all three",
            edits=((APPENDED, APPENDED.replace("labels[order]", "labels[:top_k]")),),
        ),
        Mistake(
            "boxes as centre and size",
            "the boxes are centre, width and height: give x1, y1, x2, y2",
            edits=((APPENDED, "found = boxes[rows[order]]\n        found = torch.cat([(found[:, :2] + found[:, 2:]) / 2, "
                    "found[:, 2:] - found[:, :2]], 1)\n        " + APPENDED.replace("boxes[rows[order]]", "found")),),
        ),
        Mistake(
            "boxes as shares of the image",
            "the boxes are shares of the image's width and height: give pixels",
            edits=((APPENDED, APPENDED.replace("boxes[rows[order]]",
                    "boxes[rows[order]] / boxes.new_tensor([width, height, width, height])")),),
        ),  # fmt: skip
        Mistake(
            "NMS at exactly the threshold",
            "a box whose IoU equals the threshold was dropped: it must overlap by more",
            edits=((KEPT, KEPT.replace("iou_threshold", "iou_threshold - 1e-6")),),
        ),
        Mistake(
            "variances swapped",
            "0.1 and 0.2 changed places: 0.1 belongs to the centre, 0.2 to the size",
            edits=((DECODED, "boxes = decode_boxes(delta, anchors, (0.2, 0.2, 0.1, 0.1))"),),
        ),
        Mistake(
            "sizes without a limit",
            "a size offset of 50 makes the box grow without limit: decode_boxes keeps it at 1000 / 16",
            edits=((DECODED, "side = anchors[:, 2:] - anchors[:, :2]\n        centre = anchors[:, :2] + side * (0.5 + 0.1 * delta[:, :2])\n"
                    "        half = side * (0.2 * delta[:, 2:]).exp() / 2\n        boxes = torch.cat([centre - half, centre + half], 1)"),),
        ),
        Mistake(
            "softmax by exp and sum",
            "exp of a logit of 100 is too large for float32: torch's softmax takes the largest logit off first",
            edits=((PROBABILITIES, "(logits.exp() / logits.exp().sum(-1, keepdim=True))[..., 1:]"),),
        ),
        Mistake(
            "no more than 400 candidates",
            "of 1100 separate boxes not all are left: nothing but top_k limits their number",
            edits=((KEPT, "candidates = candidates[scores[candidates, k].argsort(descending=True)[:400]]\n            " + KEPT),),
        ),
        Mistake(
            "an equal share of top k for each class",
            "a class got no more than its share of the top_k places: the best ones count, whatever their class",
            edits=((KEPT, KEPT + "[: max(top_k // scores.shape[1], 1)]"),),
        ),
        Mistake(
            "tuples for dicts",
            "tuples came back: each image has a dict with boxes, scores and labels",
            edits=(("    return detections", '    return [(one["boxes"], one["scores"], one["labels"]) for one in detections]'),),
        ),
        Mistake(
            "NMS at the score threshold",
            "NMS used the score threshold: it has a threshold of its own, of IoU",
            edits=((KEPT, KEPT.replace("iou_threshold", "score_threshold")),),
        ),
        Mistake(
            "NMS before the threshold of scores, on the wrong scores",
            "NMS ranked the boxes of every class by the first class's scores: each class has its own",
            edits=((KEPT, KEPT.replace("scores[candidates, k]", "scores[candidates, 0]")),),
        ),
        Mistake(
            "top k before NMS",
            "the best top_k were chosen before NMS, so echoes used up the places: choose among those that NMS left",
            edits=((CANDIDATES, CANDIDATES + "\n            candidates = candidates[scores[candidates, k].argsort(descending=True)[:top_k]]"),),
        ),
        Mistake(
            "top k of each class",
            "there are top_k detections of each class: top_k counts those of the whole image",
            edits=(
                (KEPT, KEPT + "[:top_k]"),
                ("order = order[:top_k]", "pass"),
                ('"scores": best[:top_k]', '"scores": best'),
            ),
        ),
        Mistake(
            "top k forgotten",
            "more than top_k detections are reported",
            edits=(("order = order[:top_k]", "pass"), ('"scores": best[:top_k]', '"scores": best')),
        ),
        Mistake(
            "not sorted",
            "the detections stand class by class: the best one comes first, whatever its class",
            edits=((SORTED, "best = scores[rows, labels - 1]\n        order = torch.arange(len(best), device=best.device)"),),
        ),
        Mistake(
            "worst first",
            "the worst detection comes first, and top_k kept the worst",
            edits=((SORTED, SORTED.replace("descending=True", "descending=False")),),
        ),
        Mistake(
            "scores sorted, boxes not",
            "the scores are sorted but boxes and labels are not: one order for all three",
            edits=((APPENDED, 'detections.append({"boxes": boxes[rows[:top_k]], "scores": best[:top_k], "labels": labels[:top_k]})'),),
        ),
        Mistake(
            "all images in one list",
            "the detections of all images stand in one dict: give a list with one dict for each image",
            edits=(("    return detections", "    return {key: torch.cat([one[key] for one in detections]) "
                    'for key in ("boxes", "scores", "labels")}'),),
        ),  # fmt: skip
    ],
    "repaired_batch": [
        Mistake(
            "not repaired",
            "these are the values of the colleague's function: the boxes still go elsewhere than the picture where a "
            "frame's left and top differ",
            edits=((CORNER, CORNER.replace("[left, top]", "[top, left]")),),
        ),
        Mistake(
            "scale in the order of rows and columns",
            "boxes shrink across by what the picture shrinks down: the two differ where a frame has another shape than "
            "the image",
            edits=((SCALE, SCALE.replace("size[1] / width, size[0] / height", "size[0] / height, size[1] / width")),),
        ),
        Mistake(
            "corner shrunk too",
            "boxes are moved first and shrunk then, so the move shrinks too: they come too near to the upper left",
            edits=((MOVED, 'boxes = (target["boxes"] + corner.repeat(2)) * scale.repeat(2)'),),
        ),
        Mistake(
            "not moved",
            "boxes shrink but stay at the upper left of the canvas, wherever the picture lies",
            edits=((MOVED, 'boxes = target["boxes"] * scale.repeat(2)'),),
        ),
        Mistake(
            "not shrunk",
            "boxes are moved but keep their size, though the picture has become smaller",
            edits=((MOVED, 'boxes = target["boxes"] + corner.repeat(2)'),),
        ),
        Mistake(
            "left for both",
            "boxes move down by as much as they move to the right",
            edits=((CORNER, CORNER.replace("[left, top]", "[left, left]")),),
        ),
        Mistake(
            "top for both",
            "boxes move to the right by as much as they move down",
            edits=((CORNER, CORNER.replace("[left, top]", "[top, top]")),),
        ),
        Mistake(
            "one corner moved",
            "only the upper left corner of each box is moved, the lower right one is not: boxes change their size",
            edits=((MOVED, 'boxes = target["boxes"] * scale.repeat(2) + torch.cat([corner, 0 * corner])'),),
        ),
        Mistake(
            "from the frame's other corner",
            "boxes are counted from the frame's lower right corner, the picture from its upper left",
            edits=((CORNER, CORNER.replace("[left, top]", "[right, bottom]")),),
        ),
        Mistake(
            "boxes changed in place",
            "the boxes that came in have other values after the call: the next batch would shrink them again",
            edits=((MOVED, 'boxes = target["boxes"].mul_(scale.repeat(2)).add_(corner.repeat(2))'),),
        ),
        Mistake(
            "black canvas",
            "around the picture it is black (0), expected grey (0.5)",
            edits=(("torch.full_like(images, 0.5)", "torch.zeros_like(images)"),),
        ),
        Mistake(
            "the old pictures",
            "the boxes are zoomed out, but the pictures that come back are the old ones",
            edits=(("return canvases, torch.stack(labels)", "return images, torch.stack(labels)"),),
        ),
    ],
}
