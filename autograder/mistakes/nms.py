from . import Mistake

# The walk as most people write it. Its wrong forms are what students hand in; the reference takes fewer steps.
WALK = """def nms(boxes, scores, iou_threshold):
    order = scores.argsort(descending=True, stable=True)  # [N]
    iou = box_iou(boxes, boxes)  # [N, N]
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[iou[best, order] <= iou_threshold]
    return torch.stack(kept) if kept else order
"""
SORTED = "order = scores.argsort(descending=True, stable=True)  # [N]"
TABLE = "iou = box_iou(boxes, boxes)  # [N, N]"
REST = "        order = order[iou[best, order] <= iou_threshold]\n"
GIVEN = "return torch.stack(kept) if kept else order"
OWN_TABLE = """x1, y1, x2, y2 = boxes.unbind(1)
    width = (torch.minimum(x2[:, None], x2) - torch.maximum(x1[:, None], x1){more}).clamp(min=0)
    height = (torch.minimum(y2[:, None], y2) - torch.maximum(y1[:, None], y1){more}).clamp(min=0)
    shared = width * height
    area = (x2 - x1{more}) * (y2 - y1{more})
    iou = {ratio}"""
LOOP = """    for label in labels.unique():
        rows = (labels == label).nonzero().squeeze(1)
        keep[rows[nms(boxes[rows], scores[rows], iou_threshold)]] = True
"""
RANKED = "return kept[scores[kept].argsort(descending=True, stable=True)]"
MOVED = "def batched_nms(boxes, scores, labels, iou_threshold):\n{body}"
DECAY = "torch.exp(-(iou[best] ** 2) / sigma)"
BELOW = "        if current[best] < score_threshold:\n            break\n"
VALUES = "decayed.append(current[best].item())"
BEST = "best = current.where(left, -math.inf).argmax().item()"
ANSWER = "return torch.tensor(picked, dtype=torch.int64, device=boxes.device), scores.new_tensor(decayed)"
TOO_LITTLE = "\n    if len(boxes) == 0:\n        raise IndexError('empty')\n    "

MISTAKES = {
    "nms": [
        Mistake(
            "nothing is removed",
            "all boxes stay here, sorted by their scores: those that overlap a kept one too much are to go",
            edits=((REST, ""),),
        ),
        Mistake(
            "only the best box removes",
            "what overlaps the very best box went, and no other kept box removed anything: each one that is kept "
            "removes its echoes",
            code="def nms(boxes, scores, iou_threshold):\n"
            "    order = scores.argsort(descending=True, stable=True)\n"
            "    iou = box_iou(boxes, boxes)\n"
            "    return torch.cat((order[:1], order[1:][iou[order[:1], order[1:]].flatten() <= iou_threshold]))\n",
        ),
        Mistake(
            "removed boxes remove too",
            "boxes went that overlap only a box which had gone before them: what is removed has no say any more",
            edits=(
                (
                    "    kept = []\n    while len(order):\n        best, order = order[0], order[1:]\n"
                    "        kept.append(best)\n" + REST + "    " + GIVEN,
                    "    above = (iou[order][:, order] > iou_threshold).triu(1)  # [N, N]\n"
                    "    return order[~above.any(0)]",
                ),
            ),
        ),
        Mistake(
            "compared with the last kept box only",
            "each box was compared with the box kept just before it: any kept one may remove it",
            code="def nms(boxes, scores, iou_threshold):\n"
            "    kept = []\n"
            "    for i in scores.argsort(descending=True, stable=True):\n"
            "        if not kept or box_iou(boxes[i][None], boxes[kept[-1]][None]) <= iou_threshold:\n"
            "            kept.append(i)\n"
            "    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)\n",
        ),
        Mistake(
            "compared with its neighbour in the ranking",
            "each box was compared with the one just before it in the ranking, whether that was kept or not",
            code="def nms(boxes, scores, iou_threshold):\n"
            "    order = scores.argsort(descending=True, stable=True)\n"
            "    iou = box_iou(boxes, boxes)\n"
            "    near = iou[order[1:], order[:-1]] > iou_threshold\n"
            "    return torch.cat((order[:1], order[1:][~near]))\n",
        ),
        Mistake(
            "the threshold itself removes",
            "a box went whose IoU equals the threshold: this course and the libraries ask for more than that (the "
            "slides print the other sign, see the erratum)",
            edits=(("<= iou_threshold", "< iou_threshold"),),
        ),
        Mistake(
            "far boxes are removed",
            "the boxes that overlap the kept one stayed, and the others went: it is the other way round",
            edits=(("<= iou_threshold", "> iou_threshold"),),
        ),
        Mistake(
            "the threshold is always 0.5",
            "these are the boxes for a threshold of 0.5, whatever was asked for",
            edits=(("<= iou_threshold", "<= 0.5"),),
        ),
        Mistake(
            "the worst box first",
            "the walk began at the lowest score: of two echoes the better one is to stay",
            edits=(("descending=True, ", ""),),
        ),
        Mistake(
            "in the order of the rows",
            "the boxes were visited in the order of their rows: their scores decide",
            edits=((SORTED, "order = torch.arange(len(boxes))"),),
        ),
        Mistake(
            "indices sorted",
            "the right boxes, in the order of their rows: the best score is to be first",
            edits=((GIVEN, "return torch.stack(kept).sort().values if kept else order"),),
        ),
        Mistake(
            "places in the ranking",
            "these are places in the sorted list, not rows of the boxes that came in",
            edits=((SORTED, SORTED + "\n    boxes, scores = boxes[order], scores[order]\n    order = torch.arange(len(boxes))"),),
        ),
        Mistake(
            "the last of equal scores",
            "of boxes with the same score the later one came first: in a tie the smaller index wins",
            edits=((SORTED, "order = scores.argsort(stable=True).flip(0)"),),
        ),
        Mistake(
            "a sort that is not stable",
            "of boxes with the same score another one than the first came first: a sort may mix equal values unless it "
            "is told to be stable",
            edits=((SORTED, "order = scores.argsort(descending=True)"),),
        ),
        Mistake(
            "the larger of equal scores",
            "of boxes with the same score the larger one came first: the smaller index wins, sizes do not matter",
            edits=(
                (
                    SORTED,
                    "order = (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort(descending=True, stable=True)\n"
                    "    order = order[scores[order].argsort(descending=True, stable=True)]",
                ),
            ),
        ),
        Mistake(
            "equal scores all at once",
            "boxes that score as much as the best one all stayed: they are visited one after the other, too",
            edits=((REST, "        order = order[(iou[best, order] <= iou_threshold) | (scores[order] == scores[best])]\n"),),
        ),
        Mistake(
            "a mask",
            "this says for each box whether it stays: the indices of those that stay are wanted, best first",
            edits=(
                (
                    GIVEN,
                    "return torch.zeros(len(boxes), dtype=torch.bool).index_fill_(0, torch.stack(kept), True) if kept else order",
                ),
            ),
        ),
        Mistake(
            "boxes instead of indices",
            "these are the boxes themselves: their indices are wanted, so that scores and labels can be looked up",
            edits=((GIVEN, "return boxes[torch.stack(kept)] if kept else order"),),
        ),
        Mistake(
            "scores instead of indices",
            "these are the scores of the boxes that stay: their indices are wanted",
            edits=((GIVEN, "return scores[torch.stack(kept)] if kept else order"),),
        ),
        Mistake(
            "indices as int32",
            "the indices are int32: torch indexes with int64, and so do the libraries",
            edits=((GIVEN, "return (torch.stack(kept) if kept else order).int()"),),
        ),
        Mistake(
            "a pixel is added to widths",
            "these IoUs count one pixel more in width and height: boxes of this course have no + 1",
            edits=((TABLE, OWN_TABLE.format(more=" + 1", ratio="shared / (area[:, None] + area - shared)")),),
        ),
        Mistake(
            "shared area over the smaller box",
            "the shared area was divided by the smaller box's area: IoU divides by the union, and a small box inside "
            "of a large one shares little of it",
            edits=((TABLE, OWN_TABLE.format(more="", ratio="(shared / torch.minimum(area[:, None], area)).nan_to_num()")),),
        ),
        Mistake(
            "boxes without area are no number",
            "0 / 0 is no number, and every comparison with it is false: boxes without area overlap nothing",
            edits=((TABLE, OWN_TABLE.format(more="", ratio="shared / (area[:, None] + area - shared)")),),
        ),
        Mistake(
            "boxes without area are left out",
            "boxes without area are missing: they overlap nothing, so nothing removes them",
            edits=(
                (
                    SORTED,
                    SORTED + "\n    order = order[((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)[order]]",
                ),
            ),
        ),
        Mistake(
            "a score of 0 means removed",
            "boxes that score 0 or less are missing: scores may be any numbers, remember what is removed elsewhere",
            edits=((SORTED, SORTED + "\n    order = order[scores[order] > 0]"),),
        ),
        Mistake(
            "a score of -1 means removed",
            "boxes that score -1 or less are missing: scores may be any numbers, remember what is removed elsewhere",
            edits=((SORTED, SORTED + "\n    order = order[scores[order] > -1]"),),
        ),
        Mistake(
            "at most 100 or 200 boxes",
            "boxes are missing where many stay: nothing here limits their number",
            edits=((GIVEN, "return torch.stack(kept)[:200] if kept else order"),),
        ),
        Mistake(
            "low scores are left out",
            "boxes with a low score are missing: what overlaps no better box stays, however low it scores",
            edits=((SORTED, SORTED + "\n    order = order[(scores[order] >= 0.05) | (scores[order] <= 0)]"),),
        ),
        Mistake(
            "equal boxes always removed",
            "equal boxes went though the threshold is 1: no IoU is more than 1",
            edits=((REST, REST.replace("]\n", " - (iou[best, order] == 1).float()]\n")),),
        ),
        Mistake(
            "negative coordinates cut off",
            "negative coordinates were set to 0: boxes may reach out of the image",
            edits=((TABLE, "iou = box_iou(boxes.clamp(min=0), boxes.clamp(min=0))"),),
        ),
        Mistake(
            "computed in float32",
            "boxes that differ in float64 are one here: compute in the dtype of the boxes",
            edits=((TABLE, "iou = box_iou(boxes.float(), boxes.float())"),),
        ),
        Mistake(
            "rounded scores",
            "scores that differ by little were taken as equal: no rounding is needed here",
            edits=((SORTED, "order = scores.mul(1e4).round().argsort(descending=True, stable=True)"),),
        ),
        Mistake(
            "no answer without boxes",
            "no boxes: this fails. The answer is an empty tensor of int64",
            edits=((GIVEN, "return torch.stack(kept)"),),
        ),
        Mistake(
            "no boxes, floats",
            "no boxes: the empty answer has floating-point numbers; indices are int64",
            edits=((GIVEN, "return torch.stack(kept) if kept else torch.tensor([])"),),
        ),
        Mistake(
            "the caller's scores are crossed out",
            "the scores were changed: cross out in a copy, or remember elsewhere what is removed",
            edits=((GIVEN, "scores.fill_(-1)\n    " + GIVEN),),
        ),
    ],
    "batched_nms": [
        Mistake(
            "without classes",
            "this is nms over all boxes: a box may remove only boxes of its own class",
            edits=((LOOP, "    keep[nms(boxes, scores, iou_threshold)] = True\n"),),
        ),
        Mistake(
            "class by class",
            "the right boxes, one class after the other: the best score over all classes is to be first",
            edits=(
                ("    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)\n", "    keep = []\n"),
                (
                    "        keep[rows[nms(boxes[rows], scores[rows], iou_threshold)]] = True\n",
                    "        keep.append(rows[nms(boxes[rows], scores[rows], iou_threshold)])\n",
                ),
                ("    kept = keep.nonzero().squeeze(1)\n    " + RANKED, "    return torch.cat(keep) if keep else labels.clone()"),
            ),
        ),
        Mistake(
            "in the order of the rows",
            "the right boxes, in the order of their rows: the best score is to be first",
            edits=((RANKED, "return kept"),),
        ),
        Mistake(
            "places within the class",
            "these are places within each class: nms counts the rows it was given, look up which rows those were",
            edits=(
                (
                    "keep[rows[nms(boxes[rows], scores[rows], iou_threshold)]] = True",
                    "keep[nms(boxes[rows], scores[rows], iou_threshold)] = True",
                ),
            ),
        ),
        Mistake(
            "places among those that stay",
            "these are places among the boxes that stay, not rows of the boxes that came in",
            edits=((RANKED, "return scores[kept].argsort(descending=True, stable=True)"),),
        ),
        Mistake(
            "the worst first",
            "the lowest score is first here: the best is to be",
            edits=((RANKED, "return kept[scores[kept].argsort(stable=True)]"),),
        ),
        Mistake(
            "the last of equal scores",
            "of equal scores in different classes the later one came first: in a tie the smaller index wins",
            edits=((RANKED, "return kept[scores[kept].argsort(stable=True).flip(0)]"),),
        ),
        Mistake(
            "a sort that is not stable",
            "of boxes with the same score another one than the first came first: a sort may mix equal values unless it "
            "is told to be stable",
            edits=((RANKED, "return kept[scores[kept].argsort(descending=True)]"),),
        ),
        Mistake(
            "equal scores in the order of the classes",
            "of equal scores the smaller class came first: in a tie the smaller index wins",
            edits=((RANKED, "kept = kept[labels[kept].argsort(stable=True)]\n    " + RANKED),),
        ),
        Mistake(
            "classes 1 to K without gaps",
            "boxes of class 0, or of a class after a gap in the numbers, are missing: labels are any whole numbers",
            edits=(("labels.unique():", "range(1, len(labels.unique()) + 1):"),),
        ),
        Mistake(
            "class 0 left out",
            "boxes of class 0 are missing: nothing here says that 0 is background",
            edits=(("labels.unique():", "range(1, int(labels.max()) + 1 if len(labels) else 1):"),),
        ),
        Mistake(
            "only the largest class number is missing",
            "boxes of the highest class are missing: range leaves out its end",
            edits=(("labels.unique():", "range(int(labels.max()) if len(labels) else 0):"),),
        ),
        Mistake(
            "runs of a class",
            "each run of neighbours of one class was taken as a class of its own: the boxes of a class may stand anywhere",
            edits=(
                ("labels.unique():", "range(len(labels.unique_consecutive())):"),
                ("(labels == label)", "(labels.unique_consecutive(return_inverse=True)[1] == label)"),
            ),
        ),
        Mistake(
            "the best of each class only",
            "of each class one box stayed: a class may have several objects",
            edits=(("iou_threshold)]] = True", "iou_threshold)[:1]]] = True"),),
        ),
        Mistake(
            "other classes remove",
            "boxes of other classes were removed, and those of the same class stayed",
            edits=(
                (
                    LOOP,
                    "    iou = box_iou(boxes, boxes)\n    for i in scores.argsort(descending=True, stable=True):\n"
                    "        keep[i] = not ((iou[i] > iou_threshold) & keep & (labels != labels[i])).any()\n",
                ),
            ),
        ),
        Mistake(
            "moved apart by the largest coordinate",
            "boxes that lie far apart removed each other: the classes were moved apart by the largest coordinate, "
            "which is too little where coordinates are negative",
            code=MOVED.format(body="    if len(boxes) == 0:\n        return torch.zeros(0, dtype=torch.int64)\n"
            "    return nms(boxes + (labels * (boxes.max() + 1))[:, None], scores, iou_threshold)\n"),
        ),
        Mistake(
            "moved apart by a number",
            "the classes were moved apart by a fixed number of pixels: boxes that lie as far from each other meet",
            code=MOVED.format(body="    return nms(boxes + 4096 * labels[:, None], scores, iou_threshold)\n"),
        ),
        Mistake(
            "moved apart by a smaller number",
            "the classes were moved apart by a fixed number of pixels: boxes that lie as far from each other meet",
            code=MOVED.format(body="    return nms(boxes + 1000 * labels[:, None], scores, iou_threshold)\n"),
        ),
        Mistake(
            "moved apart, digits lost",
            "the classes were moved so far apart that float32 has no digits left for the boxes themselves: small "
            "boxes change their shape",
            code=MOVED.format(body="    if len(boxes) == 0:\n        return torch.zeros(0, dtype=torch.int64)\n"
            "    low = boxes.min()\n"
            "    return nms(boxes - low + (labels * (boxes.max() - low + 1))[:, None], scores, iou_threshold)\n"),
        ),
        Mistake(
            "moved apart by the label alone",
            "the classes were moved by one pixel each: they still lie on each other",
            code=MOVED.format(body="    return nms(boxes + labels[:, None], scores, iou_threshold)\n"),
        ),
        Mistake(
            "the threshold is always 0.5",
            "these are the boxes for a threshold of 0.5, whatever was asked for",
            edits=(("scores[rows], iou_threshold)", "scores[rows], 0.5)"),),
        ),
        Mistake(
            "negative scores are left out",
            "boxes with negative scores are missing: scores may be any numbers",
            edits=((RANKED, "kept = kept[scores[kept] >= 0]\n    " + RANKED),),
        ),
        Mistake(
            "a mask",
            "this says for each box whether it stays: the indices of those that stay are wanted, best first",
            edits=((RANKED, "return keep"),),
        ),
        Mistake(
            "indices as int32",
            "the indices are int32: torch indexes with int64, and so do the libraries",
            edits=((RANKED, RANKED + ".int()"),),
        ),
        Mistake(
            "at most 100 boxes",
            "boxes are missing where many stay: nothing here limits their number",
            edits=((RANKED, RANKED + "[:100]"),),
        ),
        Mistake(
            "no answer without boxes",
            "no boxes: this fails. The answer is an empty tensor of int64",
            edits=(("    kept = keep.nonzero()", "    labels.max()\n    kept = keep.nonzero()"),),
        ),
        Mistake(
            "the caller's boxes are moved",
            "the boxes were changed: moving the classes apart needs a copy",
            edits=((RANKED, "boxes += labels[:, None] * 1000\n    " + RANKED),),
        ),
    ],
    "soft_nms": [
        Mistake(
            "the scores as they came",
            "these are the original scores: the decayed ones are wanted, as they were when each box was picked",
            edits=((VALUES, "decayed.append(scores[best].item())"),),
        ),
        Mistake(
            "linear decay",
            "these scores are multiplied by 1 - IoU: that is the paper's linear form, the Gaussian is wanted",
            edits=((DECAY, "(1 - iou[best])"),),
        ),
        Mistake(
            "linear decay above a threshold",
            "these scores are multiplied by 1 - IoU above an IoU of 0.3: that is the paper's linear form, the "
            "Gaussian is wanted, and it has no threshold",
            edits=((DECAY, "torch.where(iou[best] >= 0.3, 1 - iou[best], 1)"),),
        ),
        Mistake(
            "Gaussian above a threshold only",
            "boxes that overlap little kept their scores: the Gaussian has no threshold, it decays them a little",
            edits=((DECAY, "torch.where(iou[best] > 0.3, torch.exp(-(iou[best] ** 2) / sigma), 1)"),),
        ),
        Mistake(
            "IoU not squared",
            "this is exp(-IoU / sigma): the IoU is squared",
            edits=(("-(iou[best] ** 2)", "-iou[best]"),),
        ),
        Mistake(
            "two sigma squared",
            "this is exp(-IoU² / (2 sigma²)), a statistician's Gaussian: the slides divide by sigma",
            edits=(("** 2) / sigma", "** 2) / (2 * sigma**2)"),),
        ),
        Mistake(
            "sigma squared",
            "this is exp(-IoU² / sigma²): the slides divide by sigma",
            edits=(("** 2) / sigma", "** 2) / sigma**2"),),
        ),
        Mistake(
            "two sigma",
            "this is exp(-IoU² / (2 sigma)): the slides divide by sigma",
            edits=(("** 2) / sigma", "** 2) / (2 * sigma)"),),
        ),
        Mistake(
            "times sigma",
            "this is exp(-IoU² · sigma): the slides divide by sigma",
            edits=(("** 2) / sigma", "** 2) * sigma"),),
        ),
        Mistake(
            "sigma is always 0.5",
            "these are the scores for sigma = 0.5, whatever was asked for",
            edits=(("** 2) / sigma", "** 2) / 0.5"),),
        ),
        Mistake(
            "a power of two",
            "this is a power of 2: the decay is a power of e",
            edits=(("torch.exp(", "torch.exp2("),),
        ),
        Mistake(
            "one less the decay",
            "scores of boxes that overlap nothing became 0, those of echoes stayed: this is 1 - exp(...)",
            edits=((DECAY, "(1 - torch.exp(-(iou[best] ** 2) / sigma))"),),
        ),
        Mistake(
            "echoes removed",
            "this is hard NMS at 0.5: nothing is removed for its overlap alone, its score decays",
            edits=((DECAY, "(iou[best] <= 0.5)"),),
        ),
        Mistake(
            "the ranking is not made anew",
            "the boxes were visited in the order of the scores that came in: after each pick the best is another one",
            edits=((BEST, "best = scores.where(left, -math.inf).argmax().item()"),),
        ),
        Mistake(
            "the ranking is not made anew, sorted at the end",
            "each box decayed by all that scored better at first, and the result was sorted once: look for the best "
            "anew after each pick",
            code="def soft_nms(boxes, scores, sigma=0.5, score_threshold=0.001):\n"
            "    order = scores.argsort(descending=True, stable=True)\n"
            "    iou = box_iou(boxes, boxes)[order][:, order].triu(1)\n"
            "    now = scores[order] * torch.exp(-(iou**2) / sigma).prod(0)\n"
            "    order, now = order[now >= score_threshold], now[now >= score_threshold]\n"
            "    now, places = now.sort(descending=True, stable=True)\n"
            "    return order[places], now\n",
        ),
        Mistake(
            "only the strongest overlap counts",
            "a box that overlaps two picks decayed once, by the larger IoU: each pick decays it",
            edits=(
                ("    picked, decayed = [], []\n", "    picked, decayed = [], []\n    most = torch.zeros_like(scores)\n"),
                ("        current *= " + DECAY, "        most = torch.maximum(most, iou[best])\n        current = scores * torch.exp(-(most**2) / sigma)"),
            ),
        ),
        Mistake(
            "only the last pick counts",
            "a box that overlaps two picks decayed by the last one only: the decays multiply",
            edits=(("current *= ", "current = scores * "),),
        ),
        Mistake(
            "only the first pick decays",
            "only the very best box decayed the others: every pick does",
            edits=(("        current *= ", "        if len(picked) == 1:\n            current *= "),),
        ),
        Mistake(
            "picked boxes decay too",
            "these scores were read at the end: a picked box is out of the game, later picks leave it alone",
            edits=((ANSWER, "return torch.tensor(picked, dtype=torch.int64), current[picked]"),),
        ),
        Mistake(
            "scores in the order of the rows",
            "the scores stand in the order of the rows, the indices in that of the picks: they belong together",
            edits=((ANSWER, ANSWER.replace("scores.new_tensor(decayed)", "scores.new_tensor([decayed[i] for i in torch.tensor(picked).argsort()])")),),
        ),
        Mistake(
            "in the order of the rows",
            "boxes and scores stand in the order of the rows: the best is to be first",
            edits=(
                (
                    ANSWER,
                    "order = torch.tensor(picked, dtype=torch.int64).argsort()\n"
                    "    return torch.tensor(picked, dtype=torch.int64)[order], scores.new_tensor(decayed)[order]",
                ),
            ),
        ),
        Mistake(
            "nothing is left out",
            "boxes that score less than the threshold are there: they are to be left out",
            edits=((BELOW, ""),),
        ),
        Mistake(
            "the threshold itself is left out",
            "a box is missing that scores exactly the threshold: only what is below it is left out",
            edits=(("current[best] < score_threshold", "current[best] <= score_threshold"),),
        ),
        Mistake(
            "the threshold looks at the scores as they came",
            "a box is there that decayed below the score threshold: its decayed score counts, not the one it came with",
            edits=(("current[best] < score_threshold:\n            break", "scores[best] < score_threshold:\n            left[best] = False\n            continue"),),
        ),
        Mistake(
            "only decayed boxes are left out",
            "a box is there that was below the score threshold from the start: it is to be left out as well",
            edits=(
                (
                    "current[best] < score_threshold:\n            break",
                    "current[best] < score_threshold and current[best] < scores[best]:\n            left[best] = False\n            continue",
                ),
            ),
        ),
        Mistake(
            "the score threshold is always 0.001",
            "these are the boxes for a score threshold of 0.001, whatever was asked for",
            edits=(("current[best] < score_threshold", "current[best] < 0.001"),),
        ),
        Mistake(
            "scores of 0 left out",
            "boxes that score 0 are missing though the threshold is 0: 0 is not below 0",
            edits=(("current[best] < score_threshold", "current[best] < score_threshold or current[best] == 0"),),
        ),
        Mistake(
            "the last of equal scores",
            "of equal scores the later one was picked first: in a tie the smaller index wins",
            edits=((BEST, "best = len(current) - 1 - current.where(left, -math.inf).flip(0).argmax().item()"),),
        ),
        Mistake(
            "the worst first",
            "the lowest score was picked first: the best is to be",
            edits=((BEST, "best = current.where(left, math.inf).argmin().item()"), (BELOW, "")),
        ),
        Mistake(
            "decay by area shared of the smaller box",
            "the shared area was divided by the smaller box's area: IoU divides by the union",
            edits=(("iou = box_iou(boxes, boxes)  # [N, N]", OWN_TABLE.format(more="", ratio="(shared / torch.minimum(area[:, None], area)).nan_to_num()")),),
        ),
        Mistake(
            "a pixel is added to widths",
            "these IoUs count one pixel more in width and height: boxes of this course have no + 1",
            edits=(("iou = box_iou(boxes, boxes)  # [N, N]", OWN_TABLE.format(more=" + 1", ratio="shared / (area[:, None] + area - shared)")),),
        ),
        Mistake(
            "boxes without area are no number",
            "0 / 0 is no number, and one such box spoils all scores: boxes without area overlap nothing",
            edits=(("iou = box_iou(boxes, boxes)  # [N, N]", OWN_TABLE.format(more="", ratio="shared / (area[:, None] + area - shared)")),),
        ),
        Mistake(
            "a threshold on the boxes' number",
            "boxes are missing where many stay: nothing here limits their number",
            edits=((ANSWER, ANSWER.replace("picked,", "picked[:100],").replace("(decayed)", "(decayed[:100])")),),
        ),
        Mistake(
            "scores in float32",
            "the scores are float32 whatever came in: they have the dtype of the input",
            edits=(("scores.new_tensor(decayed)", "torch.tensor(decayed)"),),
        ),
        Mistake(
            "indices as floats",
            "the indices are floating-point numbers: int64 is wanted",
            edits=(("dtype=torch.int64", "dtype=scores.dtype"),),
        ),
        Mistake(
            "indices only",
            "only one of the two results is there: the indices and the decayed scores are wanted",
            edits=((ANSWER, "return torch.tensor(picked, dtype=torch.int64)"),),
        ),
        Mistake(
            "scores first",
            "the two results are swapped: the indices come first",
            edits=((ANSWER, "return scores.new_tensor(decayed), torch.tensor(picked, dtype=torch.int64)"),),
        ),
        Mistake(
            "boxes instead of indices",
            "the first result holds boxes: their indices are wanted",
            edits=((ANSWER, "return boxes[picked], scores.new_tensor(decayed)"),),
        ),
        Mistake(
            "the caller's scores decay",
            "the scores of the caller were changed: decay a copy",
            edits=(("current = scores.clone()", "current = scores"),),
        ),
        Mistake(
            "no answer without boxes",
            "no boxes: this fails. The answer is two empty tensors",
            edits=(("    picked, decayed = [], []\n", "    picked, decayed = [scores.argmax().item()][:0], []\n"),),
        ),
        Mistake(
            "no boxes, floats",
            "no boxes: the empty indices are floating-point numbers; they are int64",
            edits=(("torch.tensor(picked, dtype=torch.int64, device=boxes.device)", "torch.tensor(picked, device=boxes.device)"),),
        ),
    ],
}
MISTAKES["nms"] = [Mistake(one.name, one.message, code=one.apply(WALK)) for one in MISTAKES["nms"]]
