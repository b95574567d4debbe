from . import Mistake

COLLECTED = "        best.append(iou.amax(dim=1) if iou.shape[1] else iou.new_zeros(len(iou)))\n"
SCORED = "        best.append(iou.amax(dim=1) if iou.shape[1] else iou.new_zeros(len(iou)))"
JOINED = "    best = torch.cat(best) if best else torch.zeros(0)\n"
MEAN = "    return best.mean() if len(best) else best.sum()"
NEAR = "near = free & (iou[index] >= iou_threshold)  # [M]"
TAKES = "                tp[index], free[best] = True, False\n"
STAYS = "        stays = tp | ~excused\n"
ORDERED = "    order = scores.argsort(descending=True, stable=True)\n    return scores[order], hits[order]"
ENVELOPE = "    envelope = precision.flip(0).cummax(dim=0).values.flip(0)  # [D]\n"
STEPS = "    steps = torch.diff(recall, prepend=recall.new_zeros(1))  # [D]\n"
VOC_LEVELS = "levels = torch.arange(11, dtype=recall.dtype, device=recall.device) / 10"
COCO_LEVELS = "levels = torch.from_numpy(numpy.linspace(0, 1, 101)).to(recall)"
AVERAGED = "return torch.where(reached, precision, 0).amax(dim=1).mean()"
GUARD = "    if len(recall) == 0:\n        return precision.sum()\n"
FIRST_REACHED = (
    "first = torch.searchsorted(recall, levels)\n"
    "    padded = torch.cat([precision, precision.new_zeros(1)])\n"
    "    return padded[first].mean()"
)
COUNTED = (
    'counted = ~truth["ignore"] if "ignore" in truth else torch.ones_like(truth["labels"], dtype=torch.bool)'
)
ALL_COUNTED = 'counted = torch.ones_like(truth["labels"], dtype=torch.bool)'
MATCHED = "scores, tp = match_detections(ours, theirs, threshold)"
APPENDED = "            row.append(float(ap(*precision_recall(scores.double(), tp, objects[label]))))"
PER_CLASS = "    per_class = {label: mean(row) for label, row in table.items()}\n"
RETURNED = 'return {"AP": mean(per_threshold), "per_threshold": per_threshold, "per_class": per_class}'


def levels_mistakes(count, levels):
    """What goes wrong with 11 and with 101 levels alike."""
    steps = count - 1
    return [
        Mistake(
            "no envelope",
            "at each level this takes the precision of the first recall that reaches it: a higher recall may have a "
            "higher precision, and then that one counts",
            edits=((AVERAGED, FIRST_REACHED),),
        ),
        Mistake(
            "the precision before the level",
            "at each level this takes the highest precision up to there: what counts is this recall or a higher one",
            edits=((f"reached = recall >= levels[:, None]  # [{count}, D]", "reached = recall <= levels[:, None]"),),
        ),
        Mistake(
            "more than the level",
            "a recall that equals the level has reached it",
            edits=((f"reached = recall >= levels[:, None]  # [{count}, D]", "reached = recall > levels[:, None]"),),
        ),
        Mistake(
            "divided by one too few",
            f"the sum was divided by {steps}: from 0 to 1 there are {count} levels",
            edits=((AVERAGED, AVERAGED.replace("mean()", f"sum() / {steps}")),),
        ),
        Mistake(
            "without level 0",
            "recall 0 is a level too: its envelope is the highest precision of all",
            edits=((levels, levels + "\n    levels = levels[1:]"),),
        ),
        Mistake(
            "without level 1",
            "the last level is recall 1, where all objects are found",
            edits=((levels, levels + "\n    levels = levels[:-1]"),),
        ),
        Mistake(
            "unreached levels left out",
            "the mean is over the reached levels only: a level that is never reached has precision 0, and counts",
            edits=((AVERAGED, "return precision.new_tensor([precision[row].max() for row in reached if row.any()]).mean()"),),
        ),
        Mistake(
            "the last precision beyond the highest recall",
            "beyond the highest recall the envelope was continued: nothing was found there, so it is 0",
            edits=((AVERAGED, "best = torch.where(reached, precision, 0).amax(dim=1)\n"
                              "    return torch.where(reached.any(dim=1), best, precision[-1]).mean()"),),
        ),
        Mistake(
            "the mean of the precisions",
            "this is the mean precision of the detections: AP is a mean over levels of recall",
            edits=((AVERAGED, "return precision.mean()"),),
        ),
        Mistake(
            "the last precision",
            "this is the precision of the whole list: AP goes through all its cuts",
            edits=((AVERAGED, "return precision[-1]"),),
        ),
        Mistake(
            "mean instead of maximum",
            "at each level this averages the precisions of this recall and higher ones: the highest of them counts",
            edits=((AVERAGED, "total = torch.where(reached, precision, 0).sum(dim=1)\n"
                              "    return (total / reached.sum(dim=1).clamp(min=1)).mean()"),),
        ),
        Mistake(
            "minimum instead of maximum",
            "at each level this takes the lowest precision of this recall and higher ones: the highest counts",
            edits=((AVERAGED, "return precision.new_tensor([precision[row].min() if row.any() else 0 for row in reached]).mean()"),),
        ),
        Mistake(
            "the area",
            "this is the area under the envelope, a definition of its own: here it is sampled at levels",
            edits=((AVERAGED, "envelope = precision.flip(0).cummax(dim=0).values.flip(0)\n"
                              "    return (envelope * torch.diff(recall, prepend=recall.new_zeros(1))).sum()"),),
        ),
        Mistake(
            "precision and recall exchanged",
            "precision and recall were taken for each other",
            edits=((GUARD, GUARD + "    precision, recall = recall, precision\n"),),
        ),
        Mistake(
            "a tolerance at the level",
            "a recall a little below the level was taken to reach it: make the levels so that no tolerance is needed",
            edits=((f"reached = recall >= levels[:, None]  # [{count}, D]", "reached = recall >= levels[:, None] - 1e-6"),),
        ),
        Mistake(
            "no answer without detections",
            "an empty list fails here, or gives NaN: no detections, AP 0",
            edits=((GUARD, ""),),
        ),
        Mistake(
            "1 without detections",
            "no detections gave an AP of 1: without a mistake, but nothing was found",
            edits=(("        return precision.sum()\n", "        return precision.sum() + 1\n"),),
        ),
    ]  # fmt: skip


MISTAKES = {
    "mean_iou": [
        Mistake(
            "averaged inside each image first",
            "each image was averaged on its own, then the images: an object then weighs more where it is alone. "
            "Every object counts alike",
            edits=(
                (COLLECTED, COLLECTED + "        best[-1] = best[-1].mean()[None] if len(best[-1]) else best[-1]\n"),
            ),
        ),
        Mistake(
            "images without detections left out",
            "the objects of images without any detection are missing from the mean: each of them counts as 0",
            edits=((SCORED, "        best.append(iou.amax(dim=1) if iou.shape[1] else iou.new_zeros(0))"),),
        ),
        Mistake(
            "objects without a detection left out",
            "objects that no detection touches are missing from the mean: each of them counts as 0",
            edits=((JOINED, JOINED + "    best = best[best > 0]\n"),),
        ),
        Mistake(
            "the best object of each detection",
            "this is the mean over detections: the sum goes over the true boxes, the maximum over the detections",
            edits=((SCORED, "        best.append(iou.amax(dim=0) if len(iou) else iou.new_zeros(iou.shape[1]))"),),
        ),
        Mistake(
            "mean of all pairs",
            "this averages over all pairs: for each true box only the best detection counts",
            edits=((SCORED, "        best.append(iou.mean(dim=1) if iou.shape[1] else iou.new_zeros(len(iou)))"),),
        ),
        Mistake(
            "the sum",
            "this is the sum over the true boxes, not divided by their number",
            edits=((MEAN, "    return best.sum()"),),
        ),
        Mistake(
            "divided by the number of detections",
            "the sum was divided by the number of detections: divide by the number of true boxes",
            edits=(
                (MEAN, '    return best.sum() / max(sum(len(found["boxes"]) for found in detections), 1)'),
            ),
        ),
        Mistake(
            "divided by the number of images",
            "the sum was divided by the number of images: divide by the number of true boxes",
            edits=((MEAN, "    return best.sum() / max(len(truth), 1)"),),
        ),
        Mistake(
            "images mixed up",
            "a detection of one image counted for an object of another: compare boxes of the same image only",
            edits=(
                (
                    'iou = box_iou(one["boxes"], found["boxes"])  # [M, N]',
                    'iou = box_iou(one["boxes"], torch.cat([other["boxes"] for other in detections]))',
                ),
            ),
        ),
        Mistake(
            "the surest detection instead of the nearest",
            "each object was compared with the detection of the highest score: the highest IoU counts",
            edits=(
                (
                    SCORED,
                    "        best.append(iou[:, found['scores'].argmax()] if iou.shape[1] else iou.new_zeros(len(iou)))",
                ),
            ),
        ),
        Mistake(
            "a detection for one object each",
            "each image was given one IoU, that of its best pair: every object has a best IoU of its own",
            edits=(
                (
                    SCORED,
                    "        best.append(iou.max()[None] if iou.numel() else iou.new_zeros(min(len(iou), 1)))",
                ),
            ),
        ),
        Mistake(
            "only IoUs of 0.5 and more",
            "small IoUs were taken for 0: mIoU knows no threshold",
            edits=((JOINED, JOINED + "    best = torch.where(best >= 0.5, best, 0)\n"),),
        ),
        Mistake(
            "fails without detections",
            "an image without detections fails here: amax has nothing to choose from, and the objects count as 0",
            edits=((SCORED, "        best.append(iou.amax(dim=1))"),),
        ),
        Mistake(
            "NaN without objects",
            "without any object this divides 0 by 0: the answer is 0",
            edits=((MEAN, "    return best.mean()"),),
        ),
        Mistake(
            "1 without objects",
            "without any object this gives 1; by the contract it is 0",
            edits=((MEAN, "    return best.mean() if len(best) else best.sum() + 1"),),
        ),
    ],
    "match_detections": [
        Mistake(
            "duplicates left out",
            "a second detection of an object left the list: it is a false positive and stays",
            edits=(
                (
                    STAYS,
                    STAYS + "        stays &= tp | ~((iou >= iou_threshold) & ~ignore).any(dim=1)\n",
                ),
            ),
        ),
        Mistake(
            "duplicates are right",
            "a second detection of an object counts as right: an object is found once",
            edits=((TAKES, "                tp[index] = True\n"),),
        ),
        Mistake(
            "sorted in each image only",
            "the list goes image by image: one list over the whole data set is sorted by score",
            edits=((ORDERED, "    return scores, hits"),),
        ),
        Mistake(
            "not sorted before matching",
            "detections were served in the order of their rows: the surest chooses first",
            edits=(('found["scores"].argsort(descending=True, stable=True).tolist()', 'range(len(found["scores"]))'),),
        ),
        Mistake(
            "the least sure first",
            "detections were served from the lowest score up: the surest chooses first",
            edits=(('found["scores"].argsort(descending=True, stable=True)', 'found["scores"].argsort(stable=True)'),),
        ),
        Mistake(
            "sorted upwards",
            "the list begins with the lowest score: the surest comes first",
            edits=((ORDERED, ORDERED.replace("descending=True, ", "")),),
        ),
        Mistake(
            "only scores sorted",
            "the scores are sorted and the marks are not: they belong together",
            edits=((ORDERED, ORDERED.replace("hits[order]", "hits")),),
        ),
        Mistake(
            "IoU above the threshold only",
            "an IoU that equals the threshold is enough",
            edits=((NEAR, NEAR.replace(">=", ">")),),
        ),
        Mistake(
            "any overlap is enough",
            "a detection that only touches an object's area counts as right: the IoU must reach the threshold",
            edits=((NEAR, "near = free & (iou[index] > 0)"),),
        ),
        Mistake(
            "the threshold is always 0.5",
            "the answer is the one for a threshold of 0.5, whatever was asked for",
            edits=((NEAR, NEAR.replace("iou_threshold", "0.5")),),
        ),
        Mistake(
            "VOC's rule for a taken object",
            "a detection whose nearest object is taken counts as wrong, though another is near enough and free (VOC's "
            "program does so; here the best that is free counts)",
            edits=(
                ("            if near.any():\n", "            if len(free) and (~ignore).any() and near[torch.where(ignore, -1, iou[index]).argmax()]:\n"),
            ),
        ),
        Mistake(
            "the first object that is near enough",
            "a detection took the first object that is near enough: it takes the nearest of them",
            edits=(("best = torch.where(near, iou[index], -1).argmax()", "best = near.int().argmax()"),),
        ),
        Mistake(
            "the last of equal objects",
            "of two equally near objects the second was taken: the first of them is",
            edits=(
                (
                    "best = torch.where(near, iou[index], -1).argmax()",
                    "best = len(near) - 1 - torch.where(near, iou[index], -1).flip(0).argmax()",
                ),
            ),
        ),
        Mistake(
            "each object picks its nearest detection",
            "each object took the detection with the highest IoU: the detections choose, the surest first",
            edits=(
                (
                    "        stays = tp | ~excused\n",
                    "        tp[:] = False\n"
                    "        for row in iou.T[~ignore]:\n"
                    "            if len(row) and row.max() >= iou_threshold:\n"
                    "                tp[row.argmax()] = True\n"
                    "        stays = tp | ~excused\n",
                ),
            ),
        ),
        Mistake(
            "a taken object stays taken in the next image",
            "images share what is taken: every image has objects of its own",
            edits=(
                ("        free = ~ignore\n", "        free = ~ignore & (torch.arange(len(boxes)) >= sum(map(int, (h.any() for h in hits))))\n"),
            ),
        ),
        Mistake(
            "wrong detections left out",
            "only the right detections are in the list: the wrong ones belong there too, as false",
            edits=((STAYS, "        stays = tp\n"),),
        ),
        Mistake(
            "images without objects left out",
            "the detections of images without objects are missing: they are all wrong, and count",
            edits=((STAYS, STAYS + "        stays &= len(boxes) > 0\n"),),
        ),
        Mistake(
            "the class of detections is looked at",
            "detections were compared with the objects by label: all that is given is of one class",
            edits=(
                (NEAR, 'near = free & (iou[index] >= iou_threshold)\n            if "labels" in found:\n'
                       '                near &= truth["labels"] == found["labels"][index]'),
            ),
        ),
        Mistake(
            "equal scores in another order",
            "detections with the same score changed their order: they stay in the order of images and rows",
            edits=((ORDERED, "    order = scores.flip(0).argsort(descending=True, stable=True)\n"
                             "    return scores.flip(0)[order], hits.flip(0)[order]"),),
        ),
        Mistake(
            "no answer without images",
            "a data set without images fails here: two empty tensors",
            edits=(("    if not scores:\n        return torch.zeros(0), torch.zeros(0, dtype=torch.bool)\n", ""),),
        ),
        Mistake(
            "numbers for yes and no",
            "tp holds numbers: it is bool",
            edits=((ORDERED, ORDERED.replace("hits[order]", "hits[order].float()")),),
        ),
        Mistake(
            "ignored boxes are objects",
            "ignored boxes were found like objects: no detection takes them",
            edits=((
                'ignore = truth.get("ignore", torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device))',
                "ignore = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)",
            ),),
        ),
        Mistake(
            "hits of ignored boxes are wrong",
            "a detection in an ignored box counts as wrong: it leaves the list",
            edits=((STAYS, "        stays = torch.ones_like(tp)\n"),),
        ),
        Mistake(
            "ignored once",
            "only one detection was excused by an ignored box: it excuses any number of them",
            edits=((STAYS, STAYS + "        stays |= (torch.cumsum(excused & ~tp, 0) > 1)\n"),),
        ),
        Mistake(
            "IoU with the crowd",
            "a small detection in a large crowd has a small IoU: what counts is the part of the detection inside",
            edits=(
                ('inside = share_inside(found["boxes"], boxes[ignore])  # [N, ignored]',
                 'inside = box_iou(found["boxes"], boxes[ignore])'),
            ),
        ),
        Mistake(
            "any overlap with a crowd excuses",
            "a detection that only reaches into an ignored box left the list: so much of it as the threshold says must lie "
            "inside",
            edits=(("(inside >= iou_threshold)", "(inside > 0)"),),
        ),
        Mistake(
            "half inside, whatever the threshold",
            "for ignored boxes the threshold stayed at 0.5: it is the same as for objects",
            edits=(("(inside >= iou_threshold)", "(inside >= 0.5)"),),
        ),
        Mistake(
            "more than the threshold inside",
            "a detection of which exactly as much as the threshold lies inside is excused too",
            edits=(("(inside >= iou_threshold)", "(inside > iou_threshold)"),),
        ),
        Mistake(
            "the crowd before the objects",
            "a detection that found an object left the list, since it lies in an ignored box too: objects come first",
            edits=((STAYS, "        stays = ~excused\n"),),
        ),
        Mistake(
            "the part of the crowd inside the detection",
            "this is the part of the ignored box that lies in the detection: the part of the detection that lies in the box "
            "counts",
            edits=(
                ('inside = share_inside(found["boxes"], boxes[ignore])  # [N, ignored]',
                 'inside = share_inside(boxes[ignore], found["boxes"]).T'),
            ),
        ),
    ],
    "precision_recall": [
        Mistake(
            "not sorted",
            "the detections were counted in the order they came in: count from the highest score down",
            edits=(("tp[order]", "tp"),),
        ),
        Mistake(
            "sorted upwards",
            "the detections were counted from the lowest score up",
            edits=(("descending=True, ", ""),),
        ),
        Mistake(
            "equal scores in another order",
            "detections with the same score changed their order: the first comes first",
            edits=(
                (
                    "order = scores.argsort(descending=True, stable=True)",
                    "order = len(scores) - 1 - scores.flip(0).argsort(descending=True, stable=True)",
                ),
            ),
        ),
        Mistake(
            "divided by all detections",
            "precision was divided by the number of all detections: after rank k there are k of them",
            edits=(("hits / ranks,", "hits / max(len(ranks), 1),"),),
        ),
        Mistake(
            "ranks from 0",
            "the ranks begin with 0, and the first precision is a division by 0: after the first detection there is one",
            edits=(("torch.arange(1, len(scores) + 1,", "torch.arange(0, len(scores),"),),
        ),
        Mistake(
            "recall by what was found",
            "recall was divided by the right detections: it is divided by all objects, found or not",
            edits=(("hits / max(truths, 1)", "hits / hits.amax().clamp(min=1) if len(hits) else hits"),),
        ),
        Mistake(
            "recall by the detections",
            "recall was divided by the number of detections: it is divided by the number of objects",
            edits=(("hits / max(truths, 1)", "hits / max(len(hits), 1)"),),
        ),
        Mistake(
            "recall and precision exchanged",
            "recall came first: precision, then recall",
            edits=(("return hits / ranks, hits / max(truths, 1)", "return hits / max(truths, 1), hits / ranks"),),
        ),
        Mistake(
            "already the envelope",
            "this is the envelope already: here the precision after each detection is wanted, with its teeth",
            edits=(("hits / ranks,", "(hits / ranks).flip(0).cummax(0).values.flip(0) if len(hits) else hits,"),),
        ),
        Mistake(
            "wrong ones instead of right ones",
            "the wrong detections were counted: tp is true for the right ones",
            edits=(("tp[order]", "(~tp[order])"),),
        ),
        Mistake(
            "not cumulative",
            "each detection was taken alone: count the right ones of all ranks down to this one",
            edits=((".cumsum(dim=0)", ".long()"),),
        ),
        Mistake(
            "NaN without objects",
            "without objects recall is 0 / 0 here: it is 0",
            edits=(("max(truths, 1)", "truths"),),
        ),
        Mistake(
            "one cut only",
            "this is precision and recall of the whole list: a value after each detection is wanted",
            edits=(("return hits / ranks, hits / max(truths, 1)", "return (hits / ranks)[-1:], (hits / max(truths, 1))[-1:]"),),
        ),
        Mistake(
            "a point at recall 0 added",
            "there is a value too many: a point at recall 0 was put in front; one value for each detection is wanted",
            edits=(
                (
                    "return hits / ranks, hits / max(truths, 1)",
                    "return torch.cat([hits.new_ones(1), hits / ranks]), torch.cat([hits.new_zeros(1), hits / max(truths, 1)])",
                ),
            ),
        ),
        Mistake(
            "counted in 8 bits",
            "the count of right detections runs over beyond 127",
            edits=((".cumsum(dim=0)", ".to(torch.int8).cumsum(dim=0, dtype=torch.int8)"),),
        ),
    ],
    "voc11_ap": [
        *levels_mistakes(11, VOC_LEVELS),
        Mistake(
            "levels by arange with a step of 0.1",
            "the levels 0.3, 0.6 and 0.7 are a rounding too high, and a recall of exactly 0.3 does not reach them: make "
            "them from whole numbers",
            edits=((VOC_LEVELS, "levels = torch.arange(0, 1.1, 0.1, dtype=recall.dtype, device=recall.device)"),),
        ),
        Mistake(
            "levels by linspace",
            "the level 0.3 is a rounding too high, and a recall of exactly 0.3 does not reach it: make the levels from whole "
            "numbers",
            edits=((VOC_LEVELS, "levels = torch.linspace(0, 1, 11, dtype=recall.dtype, device=recall.device)"),),
        ),
        Mistake(
            "levels in float32",
            "the levels are float32 and the recall is float64: 0.7 as float32 is another number. Make the levels in the dtype "
            "of recall",
            edits=((VOC_LEVELS, "levels = (torch.arange(11, device=recall.device) / 10).double()"),),
        ),
        Mistake(
            "101 levels",
            "these are COCO's 101 levels: VOC 2007 has 11",
            edits=((VOC_LEVELS, "levels = torch.arange(101, dtype=recall.dtype, device=recall.device) / 100"),),
        ),
    ],
    "area_ap": [
        Mistake(
            "no envelope",
            "this is the area under the line with its teeth: at each recall the highest precision at this recall or a higher "
            "one counts",
            edits=((ENVELOPE, "    envelope = precision\n"),),
        ),
        Mistake(
            "envelope from the left",
            "the running maximum goes from the first detection down: what counts is this recall or a higher one",
            edits=((ENVELOPE, "    envelope = precision.cummax(dim=0).values\n"),),
        ),
        Mistake(
            "the first strip is missing",
            "the strip from recall 0 to the first recall is missing",
            edits=((STEPS, "    steps = torch.diff(recall)\n"), ("(envelope * steps)", "(envelope[1:] * steps)")),
        ),
        Mistake(
            "trapezoids",
            "the points were joined by slanting lines: the envelope has steps",
            edits=((
                "    return (envelope * steps).sum()",
                "    before = torch.cat([envelope.new_ones(1), envelope[:-1]])\n"
                "    return ((envelope + before) / 2 * steps).sum()",
            ),),
        ),
        Mistake(
            "trapezoids under the teeth",
            "the area under the slanting line through all points: take the envelope, and steps",
            edits=(("    return (envelope * steps).sum()", "    return torch.trapezoid(precision, recall)"),),
        ),
        Mistake(
            "filled up to recall 1",
            "the envelope was continued to recall 1: beyond the highest recall it is 0",
            edits=(("(envelope * steps).sum()", "(envelope * steps).sum() + envelope[-1] * (1 - recall[-1])"),),
        ),
        Mistake(
            "divided by the highest recall",
            "the area was divided by the highest recall: objects that were missed must cost something",
            edits=(("(envelope * steps).sum()", "(envelope * steps).sum() / recall[-1].clamp(min=1e-12)"),),
        ),
        Mistake(
            "11 levels",
            "this is the mean at VOC's 11 levels: the area is wanted",
            edits=(("return (envelope * steps).sum()",
                    "return torch.where(recall >= (torch.arange(11, dtype=recall.dtype) / 10)[:, None], precision, 0)"
                    ".amax(dim=1).mean()"),),
        ),
        Mistake(
            "101 levels",
            "this is the mean at COCO's 101 levels: the area is wanted",
            edits=(("return (envelope * steps).sum()",
                    "return torch.where(recall >= (torch.arange(101, dtype=recall.dtype) / 100)[:, None], precision, 0)"
                    ".amax(dim=1).mean()"),),
        ),
        Mistake(
            "the mean of the envelope",
            "the envelope was averaged over the detections: each strip counts by its width",
            edits=(("(envelope * steps).sum()", "envelope.mean()"),),
        ),
        Mistake(
            "precision and recall exchanged",
            "precision and recall were taken for each other",
            edits=((ENVELOPE, "    precision, recall = recall, precision\n" + ENVELOPE),),
        ),
        Mistake(
            "the largest rectangle",
            "this is the largest rectangle under the line: the whole area is wanted",
            edits=(("(envelope * steps).sum()", "(envelope * recall).max()"),),
        ),
        Mistake(
            "no answer without detections",
            "an empty list fails here: no detections, AP 0",
            edits=((GUARD, "    precision[0]\n"),),
        ),
        Mistake(
            "1 without detections",
            "no detections gave an AP of 1: without a mistake, but nothing was found",
            edits=(("        return precision.sum()\n", "        return precision.sum() + 1\n"),),
        ),
    ],
    "coco101_ap": [
        *levels_mistakes(101, COCO_LEVELS),
        Mistake(
            "11 levels",
            "these are VOC's 11 levels: COCO has 101",
            edits=((COCO_LEVELS, "levels = torch.arange(11, dtype=recall.dtype, device=recall.device) / 10"),),
        ),
        Mistake(
            "100 levels",
            "these are 100 levels from 0 to 1, none of which is 0.01: COCO has 101",
            edits=((COCO_LEVELS, "levels = torch.from_numpy(numpy.linspace(0, 1, 100)).to(recall)"),),
        ),
    ],
    "mean_ap": [
        Mistake(
            "a class without objects counts as 0",
            "classes that are only detected, or only ignored, are in the mean, with 0: without objects they are left out",
            edits=(
                (
                    "    table = {label: [] for label in sorted(objects)}\n",
                    '    for one in [*detections, *truths]:\n        for label in one["labels"].tolist():\n'
                    "            objects.setdefault(label, 0)\n"
                    "    table = {label: [] for label in sorted(objects)}\n",
                ),
            ),
        ),
        Mistake(
            "an undetected class is left out",
            "a class that has objects and was never detected is missing: its AP is 0",
            edits=(
                (
                    "    table = {label: [] for label in sorted(objects)}\n",
                    '    said = {label for one in detections for label in one["labels"].tolist()}\n'
                    "    table = {label: [] for label in sorted(objects) if label in said}\n",
                ),
            ),
        ),
        Mistake(
            "objects of images without detections not counted",
            "the objects of images without detections are missing: recall is divided by all objects",
            edits=(
                ("    for truth in truths:\n", '    for truth, one in zip(truths, detections):\n        if not len(one["labels"]):\n'
                                               "            continue\n"),
            ),
        ),
        Mistake(
            "ignored boxes counted as objects",
            "recall was divided by the ignored boxes too: nobody needs to find them",
            edits=((COUNTED, ALL_COUNTED),),
        ),
        Mistake(
            "`ignore` lost on the way",
            "the marks of ignored boxes were not passed on: a detection in a crowd counts as wrong, or as right",
            edits=((MATCHED, 'theirs = [{"boxes": one["boxes"]} for one in theirs]\n            ' + MATCHED),),
        ),
        Mistake(
            "a crowd of any class excuses",
            "a detection in a crowd of another class was excused: take the class's own boxes only",
            edits=(
                (
                    MATCHED,
                    'theirs = [{"boxes": torch.cat([own["boxes"], image["boxes"][image["ignore"]]]),\n'
                    '                       "ignore": torch.cat([own["ignore"], image["ignore"][image["ignore"]]])}\n'
                    '                      if "ignore" in image else own for own, image in zip(of_class(truths, label), truths)]\n'
                    "            " + MATCHED,
                ),
            ),
        ),
        Mistake(
            "classes not looked at",
            "a box in the right place with the wrong class was taken as right: match class by class",
            edits=(("ours, theirs = of_class(detections, label), of_class(truths, label)", "ours, theirs = detections, of_class(truths, label)"),),
        ),
        Mistake(
            "all classes as one",
            "all classes were put into one list: AP belongs to one class, and the mean is over classes",
            edits=(("ours, theirs = of_class(detections, label), of_class(truths, label)", "ours, theirs = detections, truths"),
                   ("tp, objects[label]", "tp, sum(objects.values())")),
        ),
        Mistake(
            "mean over objects",
            "classes with more objects weigh more here: each class counts alike",
            edits=((RETURNED, 'weights = sum(objects.values())\n'
                              '    AP = sum(per_class[label] * objects[label] for label in table) / max(weights, 1)\n'
                              '    return {"AP": AP, "per_threshold": per_threshold, "per_class": per_class}'),),
        ),
        Mistake(
            "the first threshold for all",
            "every threshold has the value of the first one",
            edits=((MATCHED, MATCHED.replace("threshold)", "iou_thresholds[0])")),),
        ),
        Mistake(
            "always IoU 0.5",
            "the threshold was not passed on: this is AP at 0.5",
            edits=((MATCHED, MATCHED.replace(", threshold)", ")")),),
        ),
        Mistake(
            "thresholds sorted",
            "the thresholds were sorted: the list keeps the order in which they are given",
            edits=(("for threshold in iou_thresholds:", "for threshold in sorted(iou_thresholds):"),),
        ),
        Mistake(
            "AP at the first threshold",
            "`AP` is the one of the first threshold: it is the mean over all of them",
            edits=((RETURNED, RETURNED.replace("mean(per_threshold)", "per_threshold[0]")),),
        ),
        Mistake(
            "the best threshold",
            "each class has its best threshold's AP: the mean over thresholds is wanted",
            edits=((PER_CLASS, PER_CLASS.replace("mean(row)", "max(row)")),),
        ),
        Mistake(
            "`ap` not used",
            "`ap` was not called: whatever was given, this is COCO's",
            edits=((APPENDED, APPENDED.replace("ap(*", "coco101_ap(*")),),
        ),
        Mistake(
            "precision and recall exchanged",
            "`ap` was called with recall first: precision, then recall",
            edits=((APPENDED, "            precision, recall = precision_recall(scores.double(), tp, objects[label])\n"
                              "            row.append(float(ap(recall, precision)))"),),
        ),
        Mistake(
            "AP of each image averaged",
            "AP was computed image by image: one list over all images is ranked",
            edits=(
                (MATCHED, "pairs = [match_detections([a], [b], threshold) for a, b in zip(ours, theirs)]\n"
                          '            known = [(s, t, len(b["boxes"])) for (s, t), b in zip(pairs, theirs) if len(b["boxes"])]\n'
                          "            values = [float(ap(*precision_recall(s.double(), t, n))) for s, t, n in known]"),
                (APPENDED, "            row.append(sum(values) / max(len(values), 1))"),
            ),
        ),
        Mistake(
            "the mean precision",
            "this is the precision of all detections, not the average over recall",
            edits=((APPENDED, "            row.append(float(tp.double().mean()) if len(tp) else 0.0)"),),
        ),
        Mistake(
            "recall by the objects of all classes",
            "recall was divided by the objects of all classes: each class has its own number",
            edits=((APPENDED, APPENDED.replace("objects[label]", "sum(objects.values())")),),
        ),
        Mistake(
            "classes numbered from 1 without gaps",
            "the classes were renumbered 1, 2, …: `per_class` has the labels themselves",
            edits=((PER_CLASS, "    per_class = {number: mean(row) for number, row in enumerate(table.values(), 1)}\n"),),
        ),
        Mistake(
            "division by zero without objects",
            "a data set without objects fails here: 0, zeros and an empty dict",
            edits=(("max(len(values), 1)", "len(values)"),),
        ),
        Mistake(
            "no zeros without objects",
            "without objects the list is empty: it has a 0 for each threshold",
            edits=(("list(zip(*table.values())) or [()] * len(iou_thresholds)", "list(zip(*table.values()))"),),
        ),
        Mistake(
            "in per cent",
            "these are per cent: a share of 1 is wanted",
            edits=((APPENDED, APPENDED.replace("row.append(float(", "row.append(100 * float(")),),
        ),
    ],
}  # fmt: skip
