# %% [markdown]
r"""
# SSD, the whole detector
"""

# %% setup=true
import math

import torch
from torch import nn
from torchvision.ops import nms

from coursekit.checks import check, passed, raises, same, untouched
from coursekit.earlier import earlier

decode_boxes = earlier("decode_boxes")

# %% setup=true
def middle_only(head):
    """Set every kernel of `head` to zero but for its middle, so that a cell's outputs depend on that cell alone."""
    state = {}
    for name, weight in head.state_dict().items():
        state[name] = weight.clone()
        if weight.ndim == 4:
            y, x = weight.shape[2] // 2, weight.shape[3] // 2
            state[name].zero_()[:, :, y, x] = weight[:, :, y, x]
    head.load_state_dict(state)
    return head.eval()


def rows_that_change(head, features, level, image, y, x):
    """For logits and for deltas: [image, row] of every output that changes when one cell of one map changes."""
    changed = [feature.clone() for feature in features]
    changed[level][image, :, y, x] += 10.0
    with torch.no_grad():
        pairs = zip(head(features), head(changed))
        return [((after - before).abs().amax(-1) > 1e-4).nonzero().tolist() for before, after in pairs]

# %% exercise="SSDHead"
class SSDHead(nn.Module):
    """Class scores and box offsets for every anchor of every cell, from several feature maps.

    Each level has layers of its own: a 3×3 convolution for the scores and one for the offsets.

    Args:
        channels (list of int): of each level's feature map, from fine to coarse.
        anchors_per_cell (list of int): likewise, A_l of each level.
        num_classes (int): K, without background.
    """

    def __init__(self, channels, anchors_per_cell, num_classes):
        super().__init__()
        ### BEGIN SOLUTION
        self.outputs = num_classes + 1
        levels = list(zip(channels, anchors_per_cell))
        self.scores = nn.ModuleList(nn.Conv2d(c, a * self.outputs, 3, padding=1) for c, a in levels)
        self.offsets = nn.ModuleList(nn.Conv2d(c, a * 4, 3, padding=1) for c, a in levels)
        ### END SOLUTION

    def forward(self, features):
        """List of Tensor[B, C_l, H_l, W_l], fine to coarse -> (logits Tensor[B, A, K + 1], deltas Tensor[B, A, 4]).

        A counts all anchors of all levels, level by level; within a level the order is (y·W + x)·A_l + a.
        """
        ### BEGIN SOLUTION
        logits, deltas = [], []
        for feature, scores, offsets in zip(features, self.scores, self.offsets):
            score_map = scores(feature).permute(0, 2, 3, 1)  # [B, H, W, A_l·(K + 1)]
            offset_map = offsets(feature).permute(0, 2, 3, 1)  # [B, H, W, A_l·4]
            logits.append(score_map.reshape(len(feature), -1, self.outputs))
            deltas.append(offset_map.reshape(len(feature), -1, 4))
        return torch.cat(logits, 1), torch.cat(deltas, 1)
        ### END SOLUTION

# %% check="SSDHead" points=2
generator = torch.Generator().manual_seed(0)
features = [torch.randn(2, 8, 2, 3, generator=generator), torch.randn(2, 5, 1, 2, generator=generator)]
head = middle_only(SSDHead([8, 5], [2, 3], 6))
logits, deltas = head(features)
same(list(logits.shape), [2, 18, 7], "2·3 cells with 2 anchors, then 1·2 cells with 3; 6 classes and background")
same(list(deltas.shape), [2, 18, 4], "as many rows as the logits, with 4 offsets each")
fine = rows_that_change(head, features, level=0, image=1, y=1, x=2)
same(fine[0], [[1, 10], [1, 11]], "logits of the cell y = 1, x = 2 in the first map, 3 cells wide with 2 anchors each")
same(fine[1], [[1, 10], [1, 11]], "deltas of the cell y = 1, x = 2 in the first map, 3 cells wide with 2 anchors each")
coarse = rows_that_change(head, features, level=1, image=0, y=0, x=1)
same(coarse[0], [[0, 15], [0, 16], [0, 17]], "logits of the second map come after the 12 rows of the first")
same(coarse[1], [[0, 15], [0, 16], [0, 17]], "deltas of the second map come after the 12 rows of the first")
### BEGIN HIDDEN TESTS
sizes, channels, counts = [(3, 4), (2, 3), (2, 1)], [4, 7, 3], [2, 5, 3]
maps = [torch.randn(2, c, h, w, generator=generator) for c, (h, w) in zip(channels, sizes)]
coded = middle_only(SSDHead(channels, counts, 4))
row, expected, found = 0, [], ([], [])
for level, (h, w) in enumerate(sizes):
    for y in range(h):
        for x in range(w):
            expected += [[level, y, x, 1, row + a] for a in range(counts[level])]
            row += counts[level]
            for part, changed in zip(found, rows_that_change(coded, maps, level, 1, y, x)):
                part += [[level, y, x, *place] for place in changed]
same(found[0], expected, "logits, every cell of three maps: y outer, x inner, the anchors of a cell innermost")
same(found[1], expected, "deltas, every cell of three maps: y outer, x inner, the anchors of a cell innermost")
alone = [feature[1:] for feature in maps]
same(coded(alone)[0], coded(maps)[0][1:], "logits of an image do not depend on the other images of the batch")
same(coded(alone)[1], coded(maps)[1][1:], "deltas of an image do not depend on the other images of the batch")
larger = [torch.randn(3, c, h + 2, w + 5, generator=generator) for c, (h, w) in zip(channels, sizes)]
same([list(output.shape) for output in coded(larger)], [[3, 90 + 160 + 72, 5], [3, 90 + 160 + 72, 4]],
     "the same head on larger maps, 5·9, 4·8 and 4·6 cells")  # fmt: skip
single = SSDHead([6], [4], 1)([torch.randn(1, 6, 5, 2, generator=generator)])
same([list(output.shape) for output in single], [[1, 40, 2], [1, 40, 4]], "one level and one class")
### END HIDDEN TESTS

# %% check="SSDHead" part="layers" points=1
generator = torch.Generator().manual_seed(1)
features = [100 * torch.randn(2, 8, 4, 3, generator=generator), 100 * torch.randn(2, 8, 2, 5, generator=generator)]
head = SSDHead([8, 8], [2, 3], 6)
logits, deltas = head(features)
same([bool((logits < 0).any()), bool((logits > 1).any())], [True, True], "logits are any numbers: softmax comes later")
same([bool((deltas < 0).any()), bool((deltas > 1).any())], [True, True], "offsets are any numbers, of both signs")
blank = {name: torch.zeros_like(weight) for name, weight in head.state_dict().items()}
silent = SSDHead([8, 8], [2, 3], 6)
silent.load_state_dict(blank)
same(silent(features)[0], torch.zeros(2, 54, 7),
     "with all parameters zero the logits are zero: does the module know its layers (nn.ModuleList)")  # fmt: skip
same(silent(features)[1], torch.zeros(2, 54, 4),
     "with all parameters zero the deltas are zero: does the module know its layers (nn.ModuleList)")  # fmt: skip
### BEGIN HIDDEN TESTS
levels = [feature.clone().requires_grad_() for feature in features]
logits, deltas = head(levels)
(logits.square().sum() + deltas.square().sum()).backward()
same([bool(parameter.grad.abs().sum() > 0) for parameter in head.parameters()], [True] * len(list(head.parameters())),
     "every parameter gets a gradient")  # fmt: skip
same([bool((level.grad.abs().sum(1) > 0).all()) for level in levels], [True, True], "every cell of both maps gets a gradient")
torch.manual_seed(0)
twins = SSDHead([8, 8], [2, 2], 6)([features[0], features[0]])
same([bool(torch.allclose(output[:, :24], output[:, 24:])) for output in twins], [False, False],
     "each level has layers of its own, also where the channels are equal")  # fmt: skip
untouched(head, [feature.clone() for feature in features])
### END HIDDEN TESTS

# %% exercise="ssd_predict"
def ssd_predict(logits, deltas, anchors, image_size, score_threshold, iou_threshold, top_k):
    """The detections of each image of a batch.

    Args:
        logits (Tensor[B, A, K + 1]): scores before the softmax, background first.
        deltas (Tensor[B, A, 4]): normalised offsets, as `encode_boxes` makes them.
        anchors (Tensor[A, 4]): xyxy in pixels.
        image_size (int, int): (width, height) in pixels; boxes are clipped to it.
        score_threshold (float): a detection scores more than this.
        iou_threshold (float): of two boxes of a class that overlap by more, the better one stays.
        top_k (int): at most so many detections an image.

    Returns:
        list of B dicts: `boxes` [D, 4] xyxy in pixels, `scores` [D] best first, `labels` int64 [D] in 1..K.
    """
    ### BEGIN SOLUTION
    width, height = image_size
    detections = []
    for scores, delta in zip(logits.softmax(-1)[..., 1:], deltas):  # [A, K], [A, 4]
        boxes = decode_boxes(delta, anchors)  # [A, 4]
        boxes = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], -1).flatten(1)
        rows, labels = [], []
        for k in range(scores.shape[1]):
            candidates = (scores[:, k] > score_threshold).nonzero().squeeze(1)
            kept = candidates[nms(boxes[candidates], scores[candidates, k], iou_threshold)]
            rows.append(kept)
            labels.append(torch.full_like(kept, k + 1))
        rows, labels = torch.cat(rows), torch.cat(labels)
        best, order = scores[rows, labels - 1].sort(descending=True, stable=True)
        order = order[:top_k]
        detections.append({"boxes": boxes[rows[order]], "scores": best[:top_k], "labels": labels[order]})
    return detections
    ### END SOLUTION

# %% check="ssd_predict" points=2
anchors = torch.tensor([[10.0, 10, 30, 30], [12, 10, 32, 30], [70, 20, 110, 50], [20, 10, 40, 50]])
deltas = torch.tensor([[[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, -0.5, 5 * math.log(1.5), 0]]])
probabilities = torch.tensor([[[0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6], [0.5, 0.1, 0.4]]])
found = ssd_predict(probabilities.log(), deltas, anchors, (100, 60), 0.3, 0.5, 10)
same(len(found), 1, "one dict for the one image")
same(found[0]["labels"], [1, 2, 2], "anchors 0, 2 and 3, best first: anchor 1 repeats anchor 0")
same(found[0]["scores"], [0.8, 0.6, 0.4], "the softmax of the logits gives back these probabilities")
same(found[0]["boxes"], [[10, 10, 30, 30], [70, 20, 100, 50], [17, 8, 47, 48]],
     "the second box is clipped to 100 × 60 pixels, the third is decoded")  # fmt: skip
### BEGIN HIDDEN TESTS
def plain(logits, deltas, anchors, image_size, score_threshold, iou_threshold, top_k):
    """The same by loops over plain numbers."""
    limits, results = (*image_size, *image_size), []
    for image_logits, image_deltas in zip(logits.tolist(), deltas.tolist()):
        candidates = []
        for (x1, y1, x2, y2), (dx, dy, dw, dh), row in zip(anchors.tolist(), image_deltas, image_logits):
            cx, cy = (x1 + x2) / 2 + 0.1 * dx * (x2 - x1), (y1 + y2) / 2 + 0.1 * dy * (y2 - y1)
            w, h = (x2 - x1) * math.exp(0.2 * dw), (y2 - y1) * math.exp(0.2 * dh)
            corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
            box = [min(max(corner, 0.0), limit) for corner, limit in zip(corners, limits)]
            total = sum(math.exp(value) for value in row)
            for label, value in enumerate(row):
                if label and math.exp(value) / total > score_threshold:
                    candidates.append((math.exp(value) / total, label, box))
        kept = []
        for score, label, box in sorted(candidates, reverse=True):
            free = True
            for _, other, (u1, v1, u2, v2) in kept:
                shared = max(0.0, min(box[2], u2) - max(box[0], u1)) * max(0.0, min(box[3], v2) - max(box[1], v1))
                union = (box[2] - box[0]) * (box[3] - box[1]) + (u2 - u1) * (v2 - v1) - shared
                free = free and not (other == label and shared > iou_threshold * union)
            if free:
                kept.append((score, label, box))
        kept = kept[:top_k]
        results.append({
            "boxes": logits.new_tensor([box for _, _, box in kept]).reshape(-1, 4),
            "scores": logits.new_tensor([score for score, _, _ in kept]),
            "labels": torch.tensor([label for _, label, _ in kept], dtype=torch.int64),
        })  # fmt: skip
    return results


generator = torch.Generator().manual_seed(0)
corners = torch.rand(60, 2, generator=generator, dtype=torch.float64) * torch.tensor([90.0, 40])
sides = 10 + 30 * torch.rand(60, 2, generator=generator, dtype=torch.float64)
many = torch.cat([corners, corners + sides], 1)
wild = torch.randn(2, 60, 4, generator=generator, dtype=torch.float64)
scores = 2 * torch.randn(2, 60, 4, generator=generator, dtype=torch.float64)
small = (scores.float(), wild.float(), many.float())
same(ssd_predict(*small, (97, 61), 0.2, 0.4, 200), plain(*small, (97, 61), 0.2, 0.4, 200),
     "60 random anchors, two images, three classes, float32")  # fmt: skip
large = (scores, wild, many)
same(ssd_predict(*large, (97, 61), 0.1, 0.6, 200), plain(*large, (97, 61), 0.1, 0.6, 200),
     "60 random anchors, two images, three classes, float64")  # fmt: skip
same(ssd_predict(*large, (97, 61), 0.05, 0.3, 7), plain(*large, (97, 61), 0.05, 0.3, 7),
     "the best 7 of many, over all classes")  # fmt: skip
tall = (scores, wild, many * torch.tensor([0.6, 1.8, 0.6, 1.8]))
same(ssd_predict(*tall, (62, 110), 0.2, 0.4, 200), plain(*tall, (62, 110), 0.2, 0.4, 200),
     "an image higher than wide")  # fmt: skip
far = torch.tensor([[[0.0, 0, 50, 50]]])
same(ssd_predict(torch.tensor([[[0.0, 2.0]]]), far, anchors[:1], (100, 60), 0.1, 0.5, 5)[0]["boxes"],
     [[0, 0, 100, 60]], "size offsets of 50: the box is huge, finite, and clipped")  # fmt: skip
untouched(ssd_predict, *small, (97, 61), 0.2, 0.4, 200)
### END HIDDEN TESTS

# %% check="ssd_predict" part="choice" points=2
two = torch.tensor([[10.0, 10, 30, 30], [12, 10, 32, 30]])
still = torch.zeros(1, 2, 4)
classes = torch.tensor([[[0.1, 0.8, 0.1], [0.2, 0.1, 0.7]]]).log()
same(ssd_predict(classes, still, two, (100, 60), 0.3, 0.5, 10)[0]["labels"], [1, 2],
     "boxes of different classes do not push each other out")  # fmt: skip
double = torch.tensor([[[0.1, 0.35, 0.55], [0.9, 0.05, 0.05]]]).log()
same(ssd_predict(double, still, two, (100, 60), 0.3, 0.5, 10)[0]["labels"], [2, 1],
     "an anchor may give a detection for each class that scores above the threshold")  # fmt: skip
edge = torch.tensor([[80.0, 0, 100, 20], [80, 0, 140, 20]])
bright = torch.tensor([[[0.1, 0.9], [0.4, 0.6]]]).log()
same(ssd_predict(bright, still, edge, (100, 60), 0.3, 0.5, 10)[0]["scores"], [0.9],
     "clipped to the image the second box equals the first, so NMS drops it")  # fmt: skip
three = torch.tensor([[10.0, 10, 30, 30], [12, 10, 32, 30], [60, 10, 90, 30]])
ranked = torch.tensor([[[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]]).log()
same(ssd_predict(ranked, torch.zeros(1, 3, 4), three, (100, 60), 0.3, 0.5, 2)[0]["scores"], [0.9, 0.7],
     "the best two of those that NMS left")  # fmt: skip
### BEGIN HIDDEN TESTS
crowd = torch.tensor([[[0.1, 0.2, 0.7], [0.05, 0.15, 0.8], [0.1, 0.6, 0.3]]]).log()
spread = torch.tensor([[0.0, 0, 20, 20], [30, 0, 50, 20], [60, 10, 90, 30]])
best = ssd_predict(crowd, torch.zeros(1, 3, 4), spread, (100, 60), 0.25, 0.5, 2)[0]
same([best["labels"], best["boxes"]], [[2, 2], [[30, 0, 50, 20], [0, 0, 20, 20]]],
     "top_k counts over all classes, not in each")  # fmt: skip
same(ssd_predict(torch.zeros(1, 2, 2), still, two, (100, 60), 0.5, 0.9, 10)[0]["labels"], [],
     "a score that equals the threshold is not above it")  # fmt: skip
halves = torch.tensor([[0.0, 0, 20, 10], [0, 0, 10, 10]])
same(ssd_predict(bright, still, halves, (100, 60), 0.3, 0.5, 10)[0]["scores"], [0.9, 0.6],
     "an IoU of exactly 0.5 is not more than 0.5: both stay")  # fmt: skip
### END HIDDEN TESTS

# %% check="ssd_predict" part="empty" points=1
two = torch.tensor([[10.0, 10, 30, 30], [12, 10, 32, 30]])
dark = torch.tensor([[[0.9, 0.05, 0.05], [0.8, 0.1, 0.1]], [[0.1, 0.2, 0.7], [0.9, 0.05, 0.05]]]).log()
found = ssd_predict(dark, torch.zeros(2, 2, 4), two, (100, 60), 0.3, 0.5, 10)
same(found[0], {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)},
     "nothing scores above the threshold: empty tensors of the usual shapes and types")  # fmt: skip
same(found[1]["boxes"], [[10, 10, 30, 30]], "the second image has its own detections")
### BEGIN HIDDEN TESTS
none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
same(ssd_predict(torch.zeros(2, 0, 3), torch.zeros(2, 0, 4), torch.zeros(0, 4), (100, 60), 0.3, 0.5, 10), [none, none],
     "two images and no anchors")  # fmt: skip
same(ssd_predict(dark[:0], torch.zeros(0, 2, 4), two, (100, 60), 0.3, 0.5, 10), [], "a batch without images")
same(ssd_predict(dark, torch.zeros(2, 2, 4), two, (100, 60), 0.3, 0.5, 0), [none, none], "top_k = 0")
bare = {name: value.double() if value.is_floating_point() else value for name, value in none.items()}
same(ssd_predict(dark[:1].double(), torch.zeros(1, 2, 4).double(), two.double(), (100, 60), 0.3, 0.5, 10), [bare],
     "nothing found, float64")  # fmt: skip
### END HIDDEN TESTS
