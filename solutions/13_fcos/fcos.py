# %% [markdown]
r"""
# 13 · FCOS: boxes without anchors
"""

# %% setup=true
import math

import torch
import torch.nn.functional as F
from torch import nn

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.earlier import earlier

focal_loss, batched_nms = earlier("focal_loss"), earlier("batched_nms")

# %% exercise="locations"
def locations(grid, stride):
    """The point of the image that each cell of a feature map stands for.

    Source: Tian et al., "FCOS", ICCV 2019, section 3.1.

    Args:
        grid (int, int): (columns, rows) of the feature map, W and H.
        stride (int): in pixels.

    Returns:
        Tensor[H·W, 2]: float32, (x, y) in pixels: (⌊stride / 2⌋ + column · stride, ⌊stride / 2⌋ + row · stride).
            Row by row: y outer, x inner.
    """
    ### BEGIN SOLUTION
    columns, rows = grid
    x = stride // 2 + stride * torch.arange(columns, dtype=torch.float32)  # [W]
    y = stride // 2 + stride * torch.arange(rows, dtype=torch.float32)  # [H]
    y, x = torch.meshgrid(y, x, indexing="ij")  # [H, W] each
    return torch.stack([x, y], -1).reshape(-1, 2)
    ### END SOLUTION

# %% check="locations" points=2
same(locations((3, 2), 8), [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]],
     "3 columns, 2 rows, stride 8: the first point is (4, 4), and x runs first")
same(locations((2, 1), 5), torch.tensor([[2.0, 2], [7, 2]]), "stride 5: half of it is rounded down to 2; float32")
### BEGIN HIDDEN TESTS
for columns, rows, stride in ((7, 4, 16), (4, 7, 32), (1, 5, 9), (6, 1, 1), (5, 3, 128)):
    points = [[stride // 2 + x * stride, stride // 2 + y * stride] for y in range(rows) for x in range(columns)]
    same(locations((columns, rows), stride), torch.tensor(points, dtype=torch.float32),
         f"{columns} columns, {rows} rows, stride {stride}")
same(locations((0, 3), 8), torch.zeros(0, 2), "no columns, no points")
same(locations((3, 0), 8), torch.zeros(0, 2), "no rows, no points")
### END HIDDEN TESTS

# %% exercise="fcos_targets"
def fcos_targets(locations, boxes, labels, ranges):
    """What each location of an image is to say: the class of its object, and how far that object's sides are.

    A location belongs to an object if it lies inside of the box (on a side is not inside) and its largest distance to
    a side is in the range of its level, both ends included. Of several such objects the one with the smallest area
    has it; of equal areas, the first.

    Source: Tian et al., "FCOS", ICCV 2019, sections 3.1 and 3.2.

    Args:
        locations (list of L Tensor[P_l, 2]): (x, y) in pixels, of each level, from fine to coarse.
        boxes (Tensor[M, 4]): true boxes, xyxy in pixels.
        labels (Tensor[M]): their classes, int64, 1..K.
        ranges (L + 1 numbers): m_2, m_3, ...; level number l of the list has the range ranges[l]..ranges[l + 1] in
            pixels. The last may be infinite.

    Returns:
        (Tensor[P], Tensor[P, 4]): P counts the locations of all levels. Labels int64, 0 for background; and (l, t, r,
            b), the distances in pixels to the left, top, right and bottom side, 0 for background, of the dtype of
            the locations.
    """
    ### BEGIN SOLUTION
    low = torch.cat([xy.new_full((len(xy),), m) for xy, m in zip(locations, ranges[:-1])])  # [P]
    high = torch.cat([xy.new_full((len(xy),), m) for xy, m in zip(locations, ranges[1:])])
    x, y = torch.cat(locations)[:, :, None].unbind(1)  # [P, 1] each
    if len(boxes) == 0:
        return torch.zeros(len(x), dtype=torch.int64, device=x.device), x.new_zeros(len(x), 4)
    x1, y1, x2, y2 = boxes.unbind(1)
    ltrb = torch.stack([x - x1, y - y1, x2 - x, y2 - y], -1)  # [P, M, 4]
    largest = ltrb.amax(-1)
    mine = (ltrb.amin(-1) > 0) & (low[:, None] <= largest) & (largest <= high[:, None])  # [P, M]
    area = ((x2 - x1) * (y2 - y1)).expand(len(x), -1).masked_fill(~mine, math.inf)
    best = area.argmin(1)  # [P]
    positive = mine.any(1)
    rows = torch.arange(len(x), device=x.device)
    return torch.where(positive, labels[best], 0), torch.where(positive[:, None], ltrb[rows, best], 0.0)
    ### END SOLUTION

# %% check="fcos_targets" points=2
points = [torch.tensor([[4.0, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]), torch.tensor([[8.0, 8], [24, 8]])]
one = (torch.tensor([[2.0, 1, 23, 14]]), torch.tensor([3]))
found = fcos_targets(points, *one, (0, 16, math.inf))
same(found[0], [0, 3, 0, 0, 3, 0, 0, 0],
     "level 0 takes distances up to 16: at (4, 4) the right side is 19 away, at (12, 4) 11 at most; (8, 8) has 15")
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS

# %% exercise="centerness"
def centerness(ltrb):
    """How near to the middle of its box each location is.

    Source: Tian et al., "FCOS", ICCV 2019, equation 3.

    Args:
        ltrb (Tensor[P, 4]): distances to the left, top, right and bottom side.

    Returns:
        Tensor[P]: 1 in the middle, towards 0 near the sides; 0 on a side or outside, so where a distance is 0 or less.
    """
    ### BEGIN SOLUTION
    left, top, right, bottom = ltrb.clamp(min=0).unbind(-1)
    tiny = torch.finfo(ltrb.dtype).tiny
    across = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=tiny)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=tiny)
    return (across * down).sqrt()
    ### END SOLUTION

# %% check="centerness" points=1
same(centerness(torch.tensor([[20.0, 25, 70, 75]])), [0.308607], "l = 20, t = 25, r = 70, b = 75: √(20/70 · 25/75)")
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS

# %% exercise="FCOSHead"
class FCOSHead(nn.Module):
    """A class, a box and a centre-ness for every location; one head for all levels.

    Two towers, of classes and of boxes: `depth` times a 3×3 convolution, a group norm of 32 groups (of as many as
    there are channels, where there are fewer) and a ReLU. Then three 3×3 convolutions: on the tower of classes one
    for the class logits and one for the centre-ness, on the tower of boxes one for the four distances. All weights
    begin with σ = 0.01 and all biases with 0, but the bias of the class logits with -ln 99, lesson 11's prior of 0.01.

    Lesson 14 puts torchvision's weights into it, so names are fixed: `class_tower` and `box_tower` are
    `nn.Sequential`, `class_logits`, `box_distances` and `center_logits` the convolutions on them, `scales` one
    parameter of shape [L].

    Source: Tian et al., "FCOS", ICCV 2019, section 3 and figure 2.

    Args:
        channels (int): of every level's feature map, and of the towers.
        num_classes (int): K, without background.
        levels (list of int): such as [3, 4, 5, 6, 7]; level l has the stride 2^l.
        depth (int): convolutions in a tower.
    """

    def __init__(self, channels, num_classes, levels, depth=4):
        super().__init__()
        ### BEGIN SOLUTION
        self.strides = [2**level for level in levels]
        self.class_tower = self.tower(channels, depth)
        self.box_tower = self.tower(channels, depth)
        self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box_distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.center_logits = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(levels)))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        nn.init.constant_(self.class_logits.bias, -math.log(99))

    def tower(self, channels, depth):
        layers = []
        for _ in range(depth):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(min(32, channels), channels), nn.ReLU()]
        return nn.Sequential(*layers)
        ### END SOLUTION

    def forward(self, features):
        """Class logits Tensor[B, P, K], distances (l, t, r, b) in pixels Tensor[B, P, 4], centre-ness logits [B, P].

        From a list of Tensor[B, C, H_l, W_l], one for each level. P counts the locations of all levels, fine to
        coarse, in the order of `locations`. Distances are stride · exp(scale · x): x is what the convolution gives,
        scale is learnt, one for each level, and begins at 1.
        """
        ### BEGIN SOLUTION
        logits, distances, centers = [], [], []
        for feature, stride, scale in zip(features, self.strides, self.scales):
            class_feature = self.class_tower(feature)
            box_map = stride * torch.exp(scale * self.box_distances(self.box_tower(feature)))  # [B, 4, H, W]
            logits.append(self.class_logits(class_feature).flatten(2).mT)  # [B, H·W, K]
            distances.append(box_map.flatten(2).mT)
            centers.append(self.center_logits(class_feature).flatten(1))
        return torch.cat(logits, 1), torch.cat(distances, 1), torch.cat(centers, 1)
        ### END SOLUTION

# %% check="FCOSHead" points=2
head = FCOSHead(32, 5, [3, 4])
features = [torch.rand(2, 32, 2, 3), torch.rand(2, 32, 1, 2)]
same([list(output.shape) for output in head(features)], [[2, 8, 5], [2, 8, 4], [2, 8]],
     "2·3 cells and 1·2 cells: class logits, distances, centre-ness logits")
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS

# %% exercise="fcos_loss"
def fcos_loss(logits, ltrb, center_logits, labels, target_ltrb):
    """The three losses of FCOS over a batch: of the classes, of the boxes, of the centre-ness.

    Source: Tian et al., "FCOS", ICCV 2019, equation 2 and section 3.3; IoU loss: Yu et al., "UnitBox", 2016.

    Args:
        logits (Tensor[B, P, K]): class scores before the sigmoid; column k is class k + 1.
        ltrb (Tensor[B, P, 4]): predicted distances in pixels, 0 or more.
        center_logits (Tensor[B, P]): centre-ness before the sigmoid.
        labels (Tensor[B, P]): int64; 1..K for positives, 0 for background.
        target_ltrb (Tensor[B, P, 4]): true distances; only those of positives count.

    Returns:
        (Tensor[], Tensor[], Tensor[]): classification: the focal loss summed over all classes of all locations.
        Localisation: -ln IoU of predicted and true box, summed over the positives; finite also for a predicted box
        without area. Centre-ness: binary cross entropy with the true centre-ness, summed over the positives. Each is
        divided by the number of positives in the batch, or by 1 if there is none.
    """
    ### BEGIN SOLUTION
    positive = labels > 0  # [B, P]
    number = positive.sum().clamp(min=1)
    classes = torch.arange(1, logits.shape[-1] + 1, device=labels.device)
    classification = focal_loss(logits, (labels[..., None] == classes).to(logits.dtype)).sum() / number

    said, true = ltrb[positive], target_ltrb[positive]  # [N, 4]
    shared = torch.minimum(said, true)  # both boxes hold the location
    overlap = (shared[:, 0] + shared[:, 2]) * (shared[:, 1] + shared[:, 3])  # [N]
    areas = [(box[:, 0] + box[:, 2]) * (box[:, 1] + box[:, 3]) for box in (said, true)]
    iou = overlap / (areas[0] + areas[1] - overlap)
    localisation = -iou.clamp(min=1e-6).log().sum() / number

    center = F.binary_cross_entropy_with_logits(center_logits[positive], centerness(true), reduction="sum") / number
    return classification, localisation, center
    ### END SOLUTION

# %% check="fcos_loss" points=2
labels = torch.tensor([[0, 2, 0]])
same(fcos_loss(torch.zeros(1, 3, 2), torch.ones(1, 3, 4), torch.zeros(1, 3), labels, torch.ones(1, 3, 4)),
     (torch.tensor(0.693147 * (5 * 0.1875 + 0.0625)), torch.tensor(0.0), torch.tensor(0.693147)), "one positive of three")
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS

# %% exercise="fcos_predict"
def fcos_predict(logits, ltrb, center_logits, locations, image_size, score_threshold=0.05, iou_threshold=0.6,
                 candidates=1000, top_k=100, sqrt=False):
    """Detections of each image, from what the head says of every location.

    Each pair of location and class is a candidate, with the score class probability · centre-ness. Of each level the
    best candidates over the threshold are taken, their boxes are clipped to the image, and NMS goes over all levels
    together, within each class.

    Source: Tian et al., "FCOS", ICCV 2019, sections 3.1 (inference) and 3.3.

    Args:
        logits (Tensor[B, P, K]): class scores before the sigmoid; column k is class k + 1.
        ltrb (Tensor[B, P, 4]): distances to the sides, in pixels.
        center_logits (Tensor[B, P]): centre-ness before the sigmoid.
        locations (list of L Tensor[P_l, 2]): (x, y) in pixels, of each level; the P_l add up to P.
        image_size (number, number): (width, height) in pixels.
        score_threshold (float): candidates with this score or less are dropped.
        iou_threshold (float): for NMS.
        candidates (int): at most as many pairs of each level go on to NMS, the best ones; all classes together.
        top_k (int): at most as many detections are given for an image.
        sqrt (bool): the score is the root of that product.

    Returns:
        list of B dict: `boxes` Tensor[N, 4] xyxy in pixels, `scores` Tensor[N], `labels` int64 Tensor[N] in 1..K, best
            score first; of equal scores the finer level first, then the smaller location, then the smaller class.
    """
    ### BEGIN SOLUTION
    counts = [len(points) for points in locations]
    points = torch.cat(locations)  # [P, 2]
    corners = torch.cat([points[None] - ltrb[..., :2], points[None] + ltrb[..., 2:]], -1)  # [B, P, 4]
    width, height = image_size
    corners = torch.minimum(corners.clamp(min=0), corners.new_tensor([width, height, width, height]))
    every_score = logits.sigmoid() * center_logits.sigmoid()[..., None]  # [B, P, K]
    if sqrt:
        every_score = every_score.sqrt()
    found = []
    for image_scores, image_boxes in zip(every_score, corners):
        parts = []
        for level_scores, level_boxes in zip(image_scores.split(counts), image_boxes.split(counts)):
            rows, classes = (level_scores > score_threshold).nonzero(as_tuple=True)
            scores, order = level_scores[rows, classes].sort(descending=True, stable=True)
            order = order[:candidates]
            parts.append((level_boxes[rows[order]], scores[:candidates], classes[order] + 1))
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts))
        kept = batched_nms(boxes, scores, labels, iou_threshold)[:top_k]
        found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]})
    return found
    ### END SOLUTION

# %% check="fcos_predict" points=2
points = [torch.tensor([[4.0, 4], [12, 4]])]
sides = torch.tensor([[[2.0, 3, 4, 5], [1, 1, 1, 1]]])
found = fcos_predict(torch.tensor([[[0.0, -9], [-9, -9]]]), sides, torch.zeros(1, 2), points, (16, 8))
same(found[0], {"boxes": torch.tensor([[2.0, 1, 8, 8]]), "scores": torch.tensor([0.25]), "labels": torch.tensor([1])},
     "p = 0.5 times centre-ness 0.5; the box is clipped at y = 8")
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS

# %% tags=["experiment"]
from coursekit.backbones import small_trunk

TopDown = earlier("TopDown")

LEVELS = (3, 4, 5)
RANGES = (0, 32, 64, math.inf)


class FCOS(nn.Module):
    """Images [B, 3, H, W] in 0..1 -> what `FCOSHead` gives for the locations `self.points()`."""

    def __init__(self, backbone, num_classes, image_size, channels=64, depth=2):
        super().__init__()
        width, height = self.image_size = image_size
        grids = [(math.ceil(width / 2**level), math.ceil(height / 2**level)) for level in LEVELS]
        self.counts = [columns * rows for columns, rows in grids]
        self.backbone = backbone
        self.pyramid = TopDown(list(backbone.channels.values()), channels)
        self.head = FCOSHead(channels, num_classes, LEVELS, depth)
        self.register_buffer("every_point", torch.cat([locations(g, 2**l) for g, l in zip(grids, LEVELS)]))

    def points(self):
        """The locations of each level: list of Tensor[P_l, 2]."""
        return list(self.every_point.split(self.counts))

    def forward(self, images):
        return self.head(self.pyramid(list(self.backbone(images).values())))

    def detect(self, images, score_threshold=0.01):
        """Images -> a list of dicts with boxes, scores and labels."""
        return fcos_predict(*self(images), self.points(), self.image_size, score_threshold)


def batch_targets(points, targets, ranges=RANGES):
    """`fcos_targets` of each image of a batch: labels [B, P], distances [B, P, 4]."""
    pairs = [fcos_targets(points, target["boxes"], target["labels"], ranges) for target in targets]
    return torch.stack([labels for labels, _ in pairs]), torch.stack([ltrb for _, ltrb in pairs])


def loss(model, images, targets):
    labels, target_ltrb = batch_targets(model.points(), targets)
    classification, box, center = fcos_loss(*model(images), labels, target_ltrb)
    return {"class": classification, "box": box, "centre-ness": center}
