"""Right answers of lesson 07 in other forms."""

import numpy
import torch
from torchvision.ops import box_iou


def mean_iou__loop(truth, detections):
    total, count = 0.0, 0
    for one, found in zip(truth, detections):
        for box in one["boxes"]:
            values = box_iou(box[None], found["boxes"]).nan_to_num(0)[0].tolist()
            total, count = total + max(values, default=0.0), count + 1
    return total / count if count else 0


def mean_iou__padded(truth, detections):
    """A zero column saves the case without detections."""
    best = [torch.zeros(0)]
    for one, found in zip(truth, detections):
        iou = box_iou(one["boxes"], found["boxes"]).nan_to_num(0)
        best.append(torch.cat([iou, iou.new_zeros(len(iou), 1)], dim=1).max(dim=1).values)
    best = torch.cat(best)
    return best.sum() / max(1, len(best))


def mean_iou__one_table(truth, detections):
    """All boxes at once, with a mask for those of the same image."""
    if not truth:
        return torch.tensor(0.0)
    boxes = torch.cat([one["boxes"] for one in truth])
    found = torch.cat([one["boxes"] for one in detections])
    mine = torch.cat([torch.full((len(one["boxes"]),), i) for i, one in enumerate(truth)])
    theirs = torch.cat([torch.full((len(one["boxes"]),), i) for i, one in enumerate(detections)])
    iou = box_iou(boxes, found) * (mine[:, None] == theirs)
    if iou.numel() == 0:
        return 0.0
    return iou.max(1)[0].mean().item()


def _inside(boxes, regions):
    shared = (torch.min(boxes[:, None, 2:], regions[None, :, 2:]) - torch.max(boxes[:, None, :2], regions[None, :, :2])).clamp(min=0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return shared[..., 0] * shared[..., 1] / area.clamp(min=1e-9)[:, None]


def match_detections__one_list(detections, truths, iou_threshold=0.5):
    """Sort all detections first, and serve them in the order of the list."""
    rows = [(i, k) for i, one in enumerate(detections) for k in range(len(one["scores"]))]
    rows.sort(key=lambda row: -float(detections[row[0]]["scores"][row[1]]))
    tables = [box_iou(one["boxes"], truth["boxes"]).nan_to_num(0) for one, truth in zip(detections, truths)]
    inside = [_inside(one["boxes"], truth["boxes"]) for one, truth in zip(detections, truths)]
    taken, scores, tp = set(), [], []
    for i, k in rows:
        ignore = truths[i].get("ignore")
        best, best_iou = None, 0
        for j, iou in enumerate(tables[i][k]):
            if (i, j) in taken or (ignore is not None and ignore[j]) or iou < iou_threshold:
                continue
            if best is None or iou > best_iou:
                best, best_iou = (i, j), iou
        if best is None and ignore is not None and bool(((inside[i][k] >= iou_threshold) & ignore).any()):
            continue
        taken.add(best)
        scores.append(detections[i]["scores"][k])
        tp.append(best is not None)
    if not scores:
        return torch.zeros(0), torch.zeros(0, dtype=torch.bool)
    return torch.stack(scores), torch.tensor(tp)


def match_detections__as_pycocotools(detections, truths, iou_threshold=0.5):
    """Objects first, then ignored boxes, in one table; as pycocotools walks it, but the first of equal IoUs."""
    scores, marks = [], []
    for one, truth in zip(detections, truths):
        ignore = truth["ignore"] if "ignore" in truth else torch.zeros(len(truth["boxes"])).bool()
        order = torch.argsort(ignore.int(), stable=True)
        boxes, ignore = truth["boxes"][order], ignore[order].tolist()
        table = torch.where(torch.tensor(ignore, dtype=torch.bool), _inside(one["boxes"], boxes), box_iou(one["boxes"], boxes).nan_to_num(0))
        matched = [False] * len(boxes)
        for d in torch.argsort(-one["scores"], stable=True).tolist():
            best, limit = -1, iou_threshold
            for g in range(len(boxes)):
                if matched[g] and not ignore[g]:
                    continue
                if best > -1 and not ignore[best] and ignore[g]:
                    break
                value = table[d, g]
                if value < limit or (best > -1 and value == limit):
                    continue
                best, limit = g, value
            if best > -1:
                matched[best] = True
            scores.append(one["scores"][d : d + 1])
            marks.append(-1 if best > -1 and ignore[best] else int(best > -1))
    marks = torch.tensor(marks, dtype=torch.long)
    scores = torch.cat(scores) if scores else torch.zeros(0)
    scores, marks = scores[marks >= 0], marks[marks >= 0]
    scores, order = torch.sort(scores, descending=True, stable=True)
    return scores, marks[order] == 1


def match_detections__numpy(detections, truths, iou_threshold=0.5):
    out_scores, out_tp = [numpy.zeros(0, numpy.float32)], [numpy.zeros(0, bool)]
    if detections:
        out_scores = [numpy.zeros(0, detections[0]["scores"].numpy().dtype)]
    for one, truth in zip(detections, truths):
        ignored = truth["ignore"].numpy() if "ignore" in truth else numpy.zeros(len(truth["boxes"]), bool)
        s = one["scores"].numpy()
        iou = numpy.nan_to_num(box_iou(one["boxes"], truth["boxes"]).numpy())
        iou[:, ignored] = -1
        share = _inside(one["boxes"], truth["boxes"][torch.from_numpy(ignored)]).numpy()
        for d in numpy.argsort(-s, kind="stable"):
            hit = False
            if iou.shape[1]:
                g = iou[d].argmax()
                hit = bool(iou[d, g] >= iou_threshold)
                if hit:
                    iou[:, g] = -1
            if not hit and (share[d] >= iou_threshold).any():
                continue
            out_scores.append(s[d : d + 1])
            out_tp.append(numpy.array([hit]))
    scores, tp = numpy.concatenate(out_scores), numpy.concatenate(out_tp)
    order = numpy.argsort(-scores, kind="stable")
    return torch.from_numpy(scores[order]), torch.from_numpy(tp[order])


def precision_recall__loop(scores, tp, truths):
    pairs = sorted(zip(scores.tolist(), tp.tolist()), key=lambda pair: -pair[0])
    hits, precision, recall = 0, [], []
    for rank, (_, hit) in enumerate(pairs, 1):
        hits += hit
        precision.append(hits / rank)
        recall.append(hits / truths if truths else 0.0)
    return torch.tensor(precision, dtype=scores.dtype), torch.tensor(recall, dtype=scores.dtype)


def precision_recall__counts(scores, tp, truths):
    order = torch.sort(scores, descending=True, stable=True).indices
    right = torch.cumsum(tp[order].to(scores.dtype), 0)
    wrong = torch.cumsum((~tp[order]).to(scores.dtype), 0)
    return right / (right + wrong), right / truths if truths > 0 else torch.zeros_like(right)


def precision_recall__numpy(scores, tp, truths):
    order = numpy.argsort(-scores.numpy(), kind="stable")
    hits = numpy.cumsum(tp.numpy()[order].astype(float))
    ranks = numpy.arange(len(hits)) + 1.0
    return [torch.from_numpy(part).to(scores.dtype) for part in (hits / ranks, hits / max(1, truths))]


def voc11_ap__python(precision, recall):
    pairs = list(zip(precision.tolist(), recall.to(torch.float64).tolist()))
    slack = 0 if recall.dtype == torch.float64 else 1e-7  # 0.7 as float32 is below 0.7
    return sum(max((p for p, r in pairs if r >= i / 10 - slack), default=0) for i in range(11)) / 11


def voc11_ap__searched(precision, recall):
    envelope = torch.cat([precision, precision.new_zeros(1)]).flip(0).cummax(0).values.flip(0)
    levels = torch.tensor([i / 10 for i in range(11)], dtype=recall.dtype)
    return envelope[torch.searchsorted(recall.contiguous(), levels)].mean()


def voc11_ap__one_level_at_a_time(precision, recall):
    total = 0.0
    for level in range(11):
        above = precision[recall >= torch.tensor(level, dtype=recall.dtype) / 10]
        total += above.max().item() if above.numel() else 0.0
    return total / 11


def area_ap__strips(precision, recall):
    area, before = 0.0, 0.0
    precision, recall = precision.tolist(), recall.tolist()
    for i in range(len(recall)):
        area += (recall[i] - before) * max(precision[i:])
        before = recall[i]
    return area


def area_ap__only_where_recall_rises(precision, recall):
    """As VOC's program: padded at both ends, summed where recall changes."""
    r = numpy.concatenate([[0.0], recall.numpy(), [1.0]])
    p = numpy.concatenate([[0.0], precision.numpy(), [0.0]])
    for i in range(len(p) - 2, -1, -1):
        p[i] = max(p[i], p[i + 1])
    changes = numpy.nonzero(r[1:] != r[:-1])[0]
    return float(numpy.sum((r[changes + 1] - r[changes]) * p[changes + 1]))


def area_ap__integral(precision, recall):
    if not recall.numel():
        return torch.tensor(0.0)
    envelope = torch.stack([precision[i:].max() for i in range(len(precision))])
    return torch.dot(envelope, recall - torch.cat([torch.zeros_like(recall[:1]), recall[:-1]]))


def coco101_ap__hundredths(precision, recall):
    """Levels i/100: at ten of them, in float64, not those of pycocotools."""
    levels = torch.arange(101, dtype=recall.dtype) / 100
    best = [precision[recall >= level].max() if (recall >= level).any() else precision.new_zeros(()) for level in levels]
    return torch.stack(best).mean()


def coco101_ap__as_pycocotools(precision, recall):
    p, r = precision.tolist(), recall.numpy()
    for i in range(len(p) - 1, 0, -1):
        p[i - 1] = max(p[i - 1], p[i])
    q = numpy.zeros(101)
    for level, i in enumerate(numpy.searchsorted(r, numpy.linspace(0, 1, 101).astype(r.dtype), side="left")):
        q[level] = p[i] if i < len(p) else 0
    return q.mean()


def coco101_ap__padded(precision, recall):
    envelope = torch.cat([precision, precision.new_zeros(1)]).flip(0).cummax(0).values.flip(0)
    levels = torch.linspace(0, 1, 101, dtype=recall.dtype)
    return envelope[torch.searchsorted(recall.contiguous(), levels)].mean()


def mean_ap__pooled(detections, truths, iou_thresholds, ap=None):
    """Without the lesson's other functions; numbers as tensors."""
    ap = ap or coco101_ap__as_pycocotools
    labels = torch.cat([one["labels"][~one["ignore"]] if "ignore" in one else one["labels"] for one in truths] or [torch.zeros(0)])
    classes, counts = labels.unique(return_counts=True)
    table = torch.zeros(len(classes), len(iou_thresholds), dtype=torch.float64)
    for row, (label, count) in enumerate(zip(classes, counts)):
        ours = [{k: v[one["labels"] == label] for k, v in one.items()} for one in detections]
        theirs = [{k: v[one["labels"] == label] for k, v in one.items()} for one in truths]
        for column, threshold in enumerate(iou_thresholds):
            scores, tp = match_detections__as_pycocotools(ours, theirs, threshold)
            hits = tp.double().cumsum(0)
            table[row, column] = ap(hits / torch.arange(1, len(tp) + 1), hits / count)
    return {
        "AP": table.mean() if len(classes) else 0.0,
        "per_threshold": table.mean(0).tolist() if len(classes) else [0.0] * len(iou_thresholds),
        "per_class": dict(zip(classes.tolist(), table.mean(1).tolist())),
    }


def mean_ap__recursive(detections, truths, iou_thresholds, ap=coco101_ap__as_pycocotools):
    """Threshold by threshold; the dict is made of the parts."""
    known = sorted({int(k) for t in truths for k, skip in zip(t["labels"], t.get("ignore", t["labels"] < 0)) if not skip})

    def one(label, threshold):
        ours = [{"boxes": d["boxes"][d["labels"] == label], "scores": d["scores"][d["labels"] == label]} for d in detections]
        theirs, total = [], 0
        for t in truths:
            mine = t["labels"] == label
            ignore = t.get("ignore", torch.zeros_like(mine))[mine]
            theirs.append({"boxes": t["boxes"][mine], "ignore": ignore})
            total += int((~ignore).sum())
        scores, tp = match_detections__one_list(ours, theirs, threshold)
        return float(ap(*precision_recall__counts(scores.double(), tp, total)))

    values = {t: {label: one(label, t) for label in known} for t in iou_thresholds}
    per_threshold = [sum(values[t].values()) / (len(known) or 1) for t in iou_thresholds]
    per_class = {label: sum(values[t][label] for t in iou_thresholds) / len(iou_thresholds) for label in known}
    return dict(AP=sum(per_threshold) / len(per_threshold), per_threshold=per_threshold, per_class=per_class)


def mean_ap__skips_images_without_the_class(detections, truths, iou_thresholds, ap=coco101_ap__as_pycocotools):
    counts, table = {}, {}
    for truth in truths:
        for i, label in enumerate(truth["labels"].tolist()):
            if "ignore" not in truth or not truth["ignore"][i]:
                counts[label] = counts.get(label, 0) + 1
    for label in counts:
        pairs = []
        for found, truth in zip(detections, truths):
            a, b = found["labels"] == label, truth["labels"] == label
            if a.any() or b.any():
                pairs.append(({k: v[a] for k, v in found.items()}, {k: v[b] for k, v in truth.items()}))
        ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
        table[label] = []
        for threshold in iou_thresholds:
            scores, tp = match_detections__numpy(ours, theirs, threshold)
            table[label].append(float(ap(*precision_recall__loop(scores.double(), tp, counts[label]))))
    if not table:
        return {"per_class": {}, "AP": 0, "per_threshold": [0 for _ in iou_thresholds]}
    values = numpy.array(list(table.values()))
    return {
        "per_class": {label: float(numpy.mean(row)) for label, row in table.items()},
        "AP": float(values.mean()),
        "per_threshold": [float(v) for v in values.mean(axis=0)],
    }
