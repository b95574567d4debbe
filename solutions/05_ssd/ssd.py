# %% [markdown]
r"""
# SSD, the whole detector
"""

# %% setup=true
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
    """For logits and for deltas: the (image, row) of every output that changes when one cell of one map changes."""
    changed = [feature.clone() for feature in features]
    changed[level][image, :, y, x] += 1.0
    with torch.no_grad():
        pairs = zip(head(features), head(changed))
    return [[tuple(row) for row in (a != b).any(-1).nonzero().tolist()] for a, b in pairs]

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
features = [torch.randn(2, 8, 2, 3), torch.randn(2, 5, 1, 2)]
head = middle_only(SSDHead([8, 5], [2, 3], num_classes=6))
logits, deltas = head(features)
same(list(logits.shape), [2, 18, 7], "2·3 cells with 2 anchors, then 1·2 cells with 3; 6 classes and background")
same(list(deltas.shape), [2, 18, 4], "as many rows as the logits, with 4 offsets each")
fine = rows_that_change(head, features, level=0, image=1, y=1, x=2)
same(fine[0], [(1, 10), (1, 11)], "logits: cell y = 1, x = 2 of a map 3 wide, 2 anchors: rows (1·3 + 2)·2 and the next")
same(fine[1], [(1, 10), (1, 11)], "deltas: cell y = 1, x = 2 of a map 3 wide, 2 anchors: rows (1·3 + 2)·2 and the next")
coarse = rows_that_change(head, features, level=1, image=0, y=0, x=1)
same(coarse[0], [(0, 15), (0, 16), (0, 17)], "logits: the second map comes after the 12 rows of the first")
same(coarse[1], [(0, 15), (0, 16), (0, 17)], "deltas: the second map comes after the 12 rows of the first")
### BEGIN HIDDEN TESTS
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

# %% check="ssd_predict" points=3
anchors = torch.tensor([[10.0, 10, 30, 30], [12, 10, 32, 30], [70, 20, 110, 50]])
logits = torch.tensor([[[0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6]]]).log()
found = ssd_predict(logits, torch.zeros(1, 3, 4), anchors, (100, 60), 0.3, 0.5, 10)
same(found, [{"boxes": [[10, 10, 30, 30], [70, 20, 100, 50]], "scores": [0.8, 0.6], "labels": [1, 2]}],
     "boxes overlap")  # fmt: skip
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS
