# %% [markdown]
r"""
# 14 · Your detector
"""

# %% setup=true
import functools
import math
import re
import statistics

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models import resnet50, vgg16
from torchvision.ops import FrozenBatchNorm2d

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.earlier import earlier

cell_anchors, grid_anchors = earlier("cell_anchors"), earlier("grid_anchors")
nms, batched_nms, TopDown, assign_level = (earlier(name) for name in ("nms", "batched_nms", "TopDown", "assign_level"))
SSDHead, RetinaNetHead, RPNHead = earlier("SSDHead"), earlier("RetinaNetHead"), earlier("RPNHead")
locations, FCOSHead = earlier("locations"), earlier("FCOSHead")

# %% exercise="rename_keys"
def rename_keys(state, rules, shapes):
    """A state dictionary under other names, strictly: nothing is left over, nothing is missing, everything fits.

    Args:
        state (dict of str: Tensor): as in the file.
        rules (list of (str, str)): a name that begins with the first text begins with the second one instead. Of
            several rules that apply, the one with the longest first text counts.
        shapes (dict of str: tuple of int): what the module wants: each name and its shape.

    Returns:
        dict of str: Tensor: the tensors of `state`, under the names of `shapes`.

    Raises:
        ValueError: if no rule applies to a name of the file; if two names become one; if a new name is not wanted; if
            one that is wanted does not come; or if a shape is another. The message has the name that is at fault (for
            a shape the new one), and for a shape both shapes.
    """
    ### BEGIN SOLUTION
    renamed = {}
    for name, tensor in state.items():
        fitting = [rule for rule in rules if name.startswith(rule[0])]
        if not fitting:
            raise ValueError(f"no rule for {name!r}: is this the file of another detector?")
        before, after = max(fitting, key=lambda rule: len(rule[0]))
        new = after + name[len(before) :]
        if new in renamed:
            raise ValueError(f"{name!r} becomes {new!r}, and so does another name")
        if new not in shapes:
            raise ValueError(f"{name!r} becomes {new!r}, which the module does not have")
        if tuple(tensor.shape) != tuple(shapes[new]):
            raise ValueError(f"{new!r} has the shape {tuple(tensor.shape)} in the file, expected {tuple(shapes[new])}")
        renamed[new] = tensor
    missing = [name for name in shapes if name not in renamed]
    if missing:
        raise ValueError(f"nothing in the file for {missing[0]!r} and {len(missing) - 1} others")
    return renamed
    ### END SOLUTION

# %% exercise="library_anchors"
def library_anchors(sizes, ratios, grid, padded):
    """The anchors of one level as torchvision lays them.

    Args:
        sizes (list of S numbers): the side of the square with the anchor's area, in pixels.
        ratios (list of R numbers): height / width.
        grid (int, int): (columns, rows) of the feature map.
        padded (int, int): (width, height) of the padded image, in pixels.

    Returns:
        Tensor[rows · columns · R · S, 4]: float32, xyxy in pixels; row by row; in a cell ratio by ratio, and for each of
            them size by size. Around its location, an anchor's corners are whole numbers (rounded, halves to even). The location
            of cell (x, y) is (x · (width // columns), y · (height // rows)).
    """
    ### BEGIN SOLUTION
    cell = cell_anchors(sizes, [1 / ratio for ratio in ratios])  # [S·R, 4], sizes outside
    cell = cell.unflatten(0, (len(sizes), len(ratios))).transpose(0, 1).flatten(0, 1).round()
    (columns, rows), (width, height) = grid, padded
    across, down = width // columns, height // rows
    x = grid_anchors(cell, grid, across) - across // 2  # right in x
    y = grid_anchors(cell, grid, down) - down // 2  # right in y
    return torch.stack([x[:, 0], y[:, 1], x[:, 2], y[:, 3]], 1)
    ### END SOLUTION

# %% exercise="library_decode"
def library_decode(deltas, anchors, weights):
    """`decode_boxes` as torchvision computes it, equal to the last bit.

    Args:
        deltas (Tensor[N, 4]): dx, dy, dw, dh.
        anchors (Tensor[N, 4]): xyxy in pixels.
        weights (4 floats): 1 / stds.

    Returns:
        Tensor[N, 4]: xyxy in pixels.
    """
    ### BEGIN SOLUTION
    x1, y1, x2, y2 = anchors.unbind(1)
    width, height = x2 - x1, y2 - y1
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(1), weights))
    most = math.log(1000 / 16)
    x, y = dx * width + (x1 + 0.5 * width), dy * height + (y1 + 0.5 * height)
    half_w, half_h = 0.5 * (dw.clamp(max=most).exp() * width), 0.5 * (dh.clamp(max=most).exp() * height)
    return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], 1)
    ### END SOLUTION

# %% exercise="to_original"
def to_original(boxes, network_size, image_size):
    """Boxes of the resized image as boxes of the image itself.

    Args:
        boxes (Tensor[N, 4]): xyxy in pixels of the image that the network saw, before padding.
        network_size (int, int): its (width, height).
        image_size (int, int): (width, height) of the original.

    Returns:
        Tensor[N, 4]: xyxy in pixels of the original.
    """
    ### BEGIN SOLUTION
    across, down = (image / network for image, network in zip(image_size, network_size))
    return boxes * boxes.new_tensor([across, down, across, down])
    ### END SOLUTION

# %% exercise="images_per_second"
def images_per_second(detect, images, clock, synchronize=None, warm_up=2, repeats=5):
    """How many images a detector looks at in a second.

    Args:
        detect (function): takes `images`.
        images (Tensor[B, 3, H, W] or list of B images): what it is called with, each time.
        clock (function): gives the time in seconds, such as `time.perf_counter`.
        synchronize (function): waits until the device has done its work, such as `torch.cuda.synchronize`; None on the CPU.
        warm_up (int): calls before anything is measured.
        repeats (int): calls that are measured, each on its own; at least 1.

    Returns:
        float: B divided by the median of the measured times.
    """
    ### BEGIN SOLUTION
    times = []
    for _ in range(warm_up):
        detect(images)
    for _ in range(repeats):
        if synchronize:
            synchronize()
        start = clock()
        detect(images)
        if synchronize:
            synchronize()
        times.append(clock() - start)
    return len(images) / statistics.median(times)
    ### END SOLUTION

# %% tags=["detectors"]
from coursekit.standins import STANDINS


def roles(module, inputs):
    """The parameters of a module in groups: those of one shape on which the same outputs depend. Dict of list of names."""
    outputs = []
    for output in module(*inputs):
        outputs += output if isinstance(output, list) else [output]
    names, parameters = zip(*module.named_parameters())
    slopes = [torch.autograd.grad(output.sum(), parameters, retain_graph=True, allow_unused=True) for output in outputs]
    groups = {}
    for name, parameter, *mine in zip(names, parameters, *slopes):
        group = tuple(parameter.shape), *(slope is not None for slope in mine)
        groups.setdefault(group, []).append(name)
    return groups


def pairs(exercise, mine, arguments, inputs):
    """Which of torchvision's parameters is which of mine: list of (its name, mine).

    Two small twins are made, of my class and of the library's. Parameters of one shape, on which the same outputs depend, play
    the same part; where there are several, as in a tower, their order in the module counts. Then the twins are compared.

    Args:
        exercise (str): such as "TopDown", for which the library has a stand-in.
        mine (type): my class.
        arguments, inputs (list): of the constructor, and of `forward`.

    Raises:
        ValueError: if my layers are of other shapes than torchvision's, or give other numbers with the same weights.
    """
    my_twin, their_twin = mine(*arguments), STANDINS[exercise](*arguments)
    my_groups, their_groups = roles(my_twin, inputs), roles(their_twin, inputs)
    if {key: len(names) for key, names in my_groups.items()} != {key: len(names) for key, names in their_groups.items()}:
        raise ValueError(f"the layers of this {exercise} differ from torchvision's, so its weights do not fit")
    found = [pair for key, names in their_groups.items() for pair in zip(names, my_groups[key])]
    weights = their_twin.state_dict()
    my_twin.load_state_dict({name: weights[their] for their, name in found}, strict=False)
    for one, other in zip(my_twin(*inputs), their_twin(*inputs)):
        if not torch.allclose(one, other, atol=1e-5):
            raise ValueError(f"with the same weights this {exercise} gives other numbers than torchvision's")
    return [(their.split(".", 1)[1], name) for their, name in found]


# %% tags=["detectors"]
def prepare(images, shorter, longer, mean, std, fixed=None, multiple=32):
    """Images of any sizes as one batch: normalised, resized, padded with zeros at the right and below.

    Args:
        images (list of Tensor[3, H, W]): in 0..1.
        shorter, longer (int): the shorter side becomes `shorter` pixels, but the longer one at most `longer`.
        mean, std (3 floats): of the channels.
        fixed (int, int): (width, height) of all images instead, whatever their shape.
        multiple (int): both sides of the batch are multiples of this.

    Returns:
        (Tensor[B, 3, H, W], list of (int, int)): the batch, and the (width, height) of each image in it.
    """
    resized = []
    for image in images:
        image = (image - image.new_tensor(mean)[:, None, None]) / image.new_tensor(std)[:, None, None]
        if fixed:
            how = {"size": fixed[::-1]}
        else:
            sides = image.shape[-2:]
            how = {"scale_factor": min(shorter / min(sides), longer / max(sides)), "recompute_scale_factor": True}
        resized.append(F.interpolate(image[None], mode="bilinear", align_corners=False, **how)[0])
    height, width = (math.ceil(max(image.shape[axis] for image in resized) / multiple) * multiple for axis in (1, 2))
    batch = resized[0].new_zeros(len(images), 3, height, width)
    for place, image in zip(batch, resized):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch, [(image.shape[2], image.shape[1]) for image in resized]


def clip(boxes, size):
    """Boxes [..., 4] inside of (width, height)."""
    width, height = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def best_of(scores, threshold, most):
    """The best pairs of row and class over a threshold: rows, classes and scores, at most `most`. From scores [P, K]."""
    flat = scores.flatten()
    above = (flat > threshold).nonzero().squeeze(1)
    best, order = flat[above].topk(min(most, len(above)))
    return above[order] // scores.shape[1], above[order] % scores.shape[1], best


def suppress(boxes, scores, groups, iou_threshold):
    """NMS within each group, as torchvision does it: best first.

    Up to 1,000 boxes go into one NMS, each group moved to a place of its own. That is quick, but moved coordinates lose digits, and a
    pair whose IoU lies at the threshold may be decided otherwise. Above, each group has its own NMS.
    """
    if len(boxes) > 1000:
        kept = batched_nms(boxes, scores, groups, iou_threshold).sort().values
        return kept[scores[kept].sort(descending=True).indices]
    if len(boxes) == 0:
        return groups
    return nms(boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None], scores, iou_threshold)


class Detector(nn.Module):
    """What all four share: images in, detections out, and torchvision's weights by `load`.

    Args:
        num_classes (int): as torchvision counts, with background: 91 for COCO.
        shorter, longer (int): of the resized image, in pixels.
        threshold (float): a detection scores more than this.
    """

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
    fixed, multiple = None, 32

    def __init__(self, num_classes=91, shorter=800, longer=1333, threshold=0.05):
        super().__init__()
        self.num_classes, self.shorter, self.longer, self.threshold = num_classes, shorter, longer, threshold
        self.build()
        self.eval()

    def load(self, state):
        """Take torchvision's state dictionary: each of its tensors once, each of mine filled. Gives itself."""
        state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
        rules = self.rules()
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        self.load_state_dict(rename_keys(state, [*rules, *((older(name), mine) for name, mine in rules)], shapes))
        return self

    @torch.no_grad()
    def forward(self, images):
        """Images, a list of Tensor[3, H, W] in 0..1 -> a list of dicts of boxes, scores and labels, as torchvision's."""
        batch, sizes = prepare(images, self.shorter, self.longer, self.mean, self.std, self.fixed, self.multiple)
        found = self.find(batch, sizes)
        for one, size, image in zip(found, sizes, images):
            one["boxes"] = to_original(one["boxes"], size, (image.shape[2], image.shape[1]))
        return found


def older(name):
    """How files of before 2022 spell a name."""
    name = re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", name).replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    return re.sub(r"(head\.conv)\.(\d)\.0\.", lambda found: f"{found[1]}.{2 * int(found[2])}.", name)


# %% tags=["detectors"]
class ResNet(nn.Module):
    """ResNet-50's maps C2 to C5, of strides 4 to 32, with batch norms that do not learn."""

    def __init__(self, eps):
        super().__init__()
        self.body = resnet50(norm_layer=functools.partial(FrozenBatchNorm2d, eps=eps))
        del self.body.avgpool, self.body.fc

    def forward(self, batch):
        x = self.body.maxpool(self.body.relu(self.body.bn1(self.body.conv1(batch))))
        maps = []
        for stage in (self.body.layer1, self.body.layer2, self.body.layer3, self.body.layer4):
            maps.append(x := stage(x))
        return maps


class WithPyramid(Detector):
    """A detector on ResNet-50 and a pyramid of 256 channels."""

    eps, finest = 0.0, 1

    def build(self):
        self.trunk = ResNet(self.eps)
        self.pyramid = TopDown([256, 512, 1024, 2048][self.finest :], 256)

    def pyramid_rules(self):
        counts = [3, 5, 7, 6][self.finest :]
        maps = [torch.rand(1, count, 32 >> level, 32 >> level) for level, count in enumerate(counts)]
        found = pairs("TopDown", TopDown, [counts, 4], [maps])
        return [("backbone.body.", "trunk.body."), *(("backbone.fpn." + its, "pyramid." + mine) for its, mine in found)]


class P6P7(nn.Module):
    """Two more levels."""

    def __init__(self):
        super().__init__()
        self.p6 = nn.Conv2d(256, 256, 3, 2, 1)
        self.p7 = nn.Conv2d(256, 256, 3, 2, 1)

    def forward(self, feature):
        p6 = self.p6(feature)
        return [p6, self.p7(torch.relu(p6))]


class FCOS(WithPyramid):
    eps = 1e-5

    def __init__(self, num_classes=91, shorter=800, longer=1333, threshold=0.2):
        super().__init__(num_classes, shorter, longer, threshold)

    def build(self):
        super().build()
        self.more = P6P7()
        self.head = FCOSHead(256, self.num_classes, [3, 4, 5, 6, 7])
        self.head.scales = None  # torchvision has none

    def rules(self):
        names = {
            "classification_head.conv.": "class_tower.",
            "classification_head.cls_logits.": "class_logits.",
            "regression_head.conv.": "box_tower.",
            "regression_head.bbox_reg.": "box_distances.",
            "regression_head.bbox_ctrness.": "center_logits.",
        }
        rules = [("head." + its, "head." + mine) for its, mine in names.items()]
        return [*self.pyramid_rules(), ("backbone.fpn.extra_blocks.", "more."), *rules]

    def find(self, batch, sizes):
        levels = self.pyramid(self.trunk(batch)[1:])
        levels += self.more(levels[-1])
        said = []
        for feature, stride in zip(levels, (8, 16, 32, 64, 128)):
            classes, boxes = self.head.class_tower(feature), self.head.box_tower(feature)
            logits = self.head.class_logits(classes).flatten(2).mT.contiguous()  # [B, H·W, K]
            ltrb = stride * torch.relu(self.head.box_distances(boxes)).flatten(2).mT  # [B, H·W, 4]
            centers = self.head.center_logits(boxes).flatten(2).mT.contiguous()  # [B, H·W, 1]
            (rows, columns), (height, width) = feature.shape[-2:], batch.shape[-2:]
            points = locations((columns, rows), 1) * torch.tensor([width // columns, height // rows])
            said.append((logits, ltrb, centers, points))
        found = []
        for i, size in enumerate(sizes):
            parts = []
            for logits, ltrb, centers, points in said:
                scores = (logits[i].sigmoid() * centers[i].sigmoid()).sqrt()
                rows, labels, scores = best_of(scores, self.threshold, 1000)
                points, ltrb = points[rows], ltrb[i, rows]
                boxes = torch.cat([points - ltrb[:, :2], points + ltrb[:, 2:]], 1)
                parts.append((clip(boxes, size), scores, labels))
            boxes, scores, labels = (torch.cat(part) for part in zip(*parts))
            kept = suppress(boxes, scores, labels, 0.6)[:100]
            found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]})
        return found


# %% tags=["detectors"]
class RetinaNet(WithPyramid):
    def build(self):
        super().build()
        self.more = P6P7()
        self.head = RetinaNetHead(256, 9, self.num_classes)

    def rules(self):
        found = pairs("RetinaNetHead", RetinaNetHead, [8, 3, 5], [[torch.rand(1, 8, 4, 3)]])
        rules = [("head." + its, "head." + mine) for its, mine in found]
        return [*self.pyramid_rules(), ("backbone.fpn.extra_blocks.", "more."), *rules]

    def find(self, batch, sizes):
        levels = self.pyramid(self.trunk(batch)[1:])
        levels += self.more(levels[-1])
        said = []
        for feature, side in zip(levels, (32, 64, 128, 256, 512)):
            sides = [int(side * 2 ** (third / 3)) for third in range(3)]
            grid, padded = (feature.shape[3], feature.shape[2]), (batch.shape[3], batch.shape[2])
            said.append((*self.head([feature]), library_anchors(sides, [0.5, 1.0, 2.0], grid, padded)))
        found = []
        for i, size in enumerate(sizes):
            parts = []
            for logits, deltas, anchors in said:
                rows, labels, scores = best_of(logits[i].sigmoid(), self.threshold, 1000)
                boxes = library_decode(deltas[i, rows], anchors[rows], (1.0, 1.0, 1.0, 1.0))
                parts.append((clip(boxes, size), scores, labels))
            boxes, scores, labels = (torch.cat(part) for part in zip(*parts))
            kept = suppress(boxes, scores, labels, 0.5)[:300]
            found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]})
        return found


# %% tags=["detectors"]
class RegionHead(nn.Module):
    """Lesson 8's `FastRCNNHead` in torchvision's size: 1,024 hidden numbers, and a box for background too."""

    def __init__(self, num_classes):
        super().__init__()
        self.fc6, self.fc7 = nn.Linear(256 * 7 * 7, 1024), nn.Linear(1024, 1024)
        self.cls_score, self.bbox_pred = nn.Linear(1024, num_classes), nn.Linear(1024, num_classes * 4)

    def forward(self, pooled):
        vectors = torch.relu(self.fc7(torch.relu(self.fc6(pooled.flatten(1)))))
        return self.cls_score(vectors), self.bbox_pred(vectors).unflatten(1, (-1, 4))


class FasterRCNN(WithPyramid):
    finest = 0

    def build(self):
        super().build()
        self.rpn = RPNHead(256, 3)
        self.head = RegionHead(self.num_classes)

    def rules(self):
        found = pairs("RPNHead", RPNHead, [8, 3], [torch.rand(1, 8, 4, 3)])
        rules = [("rpn.head." + its, "rpn." + mine) for its, mine in found]
        return [*self.pyramid_rules(), *rules, ("roi_heads.box_head.", "head."), ("roi_heads.box_predictor.", "head.")]

    def find(self, batch, sizes):
        levels = self.pyramid(self.trunk(batch))
        regions = self.propose(levels, batch, sizes)
        logits, deltas = self.head(self.pool(levels, regions))
        counts = [len(boxes) for boxes in regions]
        found = []
        for scores, delta, boxes, size in zip(logits.softmax(-1).split(counts), deltas.split(counts), regions, sizes):
            classes = scores.shape[1]
            boxes = boxes.repeat_interleave(classes, 0)  # a row for each pair of region and class
            boxes = clip(library_decode(delta.flatten(0, 1), boxes, (10.0, 10.0, 5.0, 5.0)), size)
            labels = torch.arange(classes).repeat(len(scores))
            scores = scores.flatten()
            good = (labels > 0) & (scores > self.threshold) & (boxes[:, 2:] - boxes[:, :2] >= 1e-2).all(1)
            boxes, scores, labels = boxes[good], scores[good], labels[good]
            kept = suppress(boxes, scores, labels, 0.5)[:100]
            found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]})
        return found

    def propose(self, levels, batch, sizes):
        """The regions in which the RPN suspects an object: a list of Tensor[N, 4], for each image."""
        parts = []
        levels = [*levels, F.max_pool2d(levels[-1], 1, 2)]  # P6, for the largest anchors
        for number, (feature, side) in enumerate(zip(levels, (32, 64, 128, 256, 512))):
            objectness, deltas = self.rpn(feature)
            grid, padded = (feature.shape[3], feature.shape[2]), (batch.shape[3], batch.shape[2])
            anchors = library_anchors([side], [0.5, 1.0, 2.0], grid, padded)
            best, order = objectness.topk(min(1000, objectness.shape[1]), 1)  # [B, n]
            deltas = deltas.gather(1, order[..., None].expand(-1, -1, 4)).flatten(0, 1)
            boxes = library_decode(deltas, anchors[order.flatten()], (1.0, 1.0, 1.0, 1.0)).unflatten(0, order.shape)
            parts.append((boxes, best, torch.full_like(order, number)))
        found = []
        boxes, scores, numbers = (torch.cat(part, 1) for part in zip(*parts))
        for box, score, number, size in zip(boxes, scores.sigmoid(), numbers, sizes):
            box = clip(box, size)
            large = (box[:, 2:] - box[:, :2] >= 1e-3).all(1)
            box = box[large]
            found.append(box[suppress(box, score[large], number[large], 0.7)[:1000]])
        return found

    def pool(self, levels, regions):
        """Every region's 7×7 bins, from the level that fits its size, by torchvision's RoIAlign."""
        numbers = torch.cat([assign_level(boxes) for boxes in regions])
        rois = torch.cat([F.pad(boxes, (1, 0), value=image) for image, boxes in enumerate(regions)])
        pooled = rois.new_zeros(len(rois), 256, 7, 7)
        for number, feature in enumerate(levels, 2):
            mine = numbers == number
            pooled[mine] = torchvision.ops.roi_align(feature, rois[mine], (7, 7), 1 / 2**number, sampling_ratio=2)
        return pooled


# %% tags=["detectors"]
class VGG(nn.Module):
    """The maps of SSD300: conv4_3 of VGG-16, fc7 as a convolution, and four more. Names as in torchvision's file."""

    def __init__(self):
        super().__init__()
        layers = list(vgg16().features)
        layers[16].ceil_mode = True  # 75 cells become 38
        self.scale_weight = nn.Parameter(torch.full((512,), 20.0))
        self.features = nn.Sequential(*layers[:23])
        fc = nn.Sequential(
            nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(),
            nn.Conv2d(1024, 1024, 1), nn.ReLU(),
        )  # fmt: skip
        self.extra = nn.ModuleList([nn.Sequential(*layers[23:30], fc)])
        for channels, hidden, out, stride, padding in (
            (1024, 256, 512, 2, 1), (512, 128, 256, 2, 1), (256, 128, 256, 1, 0), (256, 128, 256, 1, 0),
        ):  # fmt: skip
            second = nn.Conv2d(hidden, out, 3, stride, padding)
            self.extra.append(nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), second, nn.ReLU()))

    def forward(self, batch):
        x = self.features(batch)
        maps = [self.scale_weight[:, None, None] * F.normalize(x)]
        for block in self.extra:
            maps.append(x := block(x))
        return maps


def ssd300_anchors(grids):
    """The 8,732 anchors of SSD300 as torchvision lays them, xyxy in pixels of 300×300."""
    scales = [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    levels = []
    for level, ((columns, rows), step) in enumerate(zip(grids, (8, 16, 32, 64, 100, 300))):
        scale, between = scales[level], math.sqrt(scales[level] * scales[level + 1])
        shapes = [[scale, scale], [between, between]]
        for ratio in (2,) if level in (0, 4, 5) else (2, 3):
            w, h = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            shapes += [[w, h], [h, w]]
        shapes = torch.tensor(shapes).clamp(0, 1)  # [A, 2], in images
        centres = (locations((columns, rows), 1) + 0.5) / (300 / step)  # [H·W, 2], in images
        corners = [(centres[:, None] - 0.5 * shapes) * 300, (centres[:, None] + 0.5 * shapes) * 300]
        levels.append(torch.cat(corners, -1).reshape(-1, 4))
    return torch.cat(levels)


class SSD300(Detector):
    mean, std = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)
    fixed, multiple = (300, 300), 1
    channels, per_cell = [512, 1024, 512, 256, 256, 256], [4, 6, 6, 6, 4, 4]

    def __init__(self, num_classes=91, threshold=0.01):
        super().__init__(num_classes, threshold=threshold)

    def build(self):
        self.trunk = VGG()
        self.head = SSDHead(self.channels, self.per_cell, self.num_classes - 1)

    def rules(self):
        channels = [3, 4, 5, 6, 7, 8]
        maps = [torch.rand(1, count, 2, 3) for count in channels]
        found = pairs("SSDHead", SSDHead, [channels, self.per_cell, 4], [maps])
        return [("backbone.", "trunk."), *(("head." + its, "head." + mine) for its, mine in found)]

    def find(self, batch, sizes):
        maps = self.trunk(batch)
        logits, deltas = self.head(maps)
        anchors = ssd300_anchors([(feature.shape[3], feature.shape[2]) for feature in maps])
        found = []
        for scores, delta in zip(logits.softmax(-1), deltas):
            boxes = clip(library_decode(delta, anchors, (10.0, 10.0, 5.0, 5.0)), self.fixed)
            parts = []
            for label in range(1, scores.shape[1]):
                rows, _, best = best_of(scores[:, label, None], self.threshold, 400)
                parts.append((boxes[rows], best, torch.full_like(rows, label)))
            boxes, best, labels = (torch.cat(part) for part in zip(*parts))
            kept = suppress(boxes, best, labels, 0.45)[:200]
            found.append({"boxes": boxes[kept], "scores": best[kept], "labels": labels[kept]})
        return found


# %% tags=["experiment"]
import os
import time
from pathlib import Path

from coursekit.backbones import mobilenet_v2
from coursekit.data import real
from coursekit.earlier import names_of
from coursekit.evaluation import evaluate
from coursekit.training import fit

FORMS = ("SSD", "Faster R-CNN", "RetinaNet", "RetinaNet + FSAF", "FCOS")
BLOOD = (256, 192)  # pixels


def pretrained_trunk():
    """MobileNetV2 with ImageNet's weights, as in lesson 5."""
    file = Path(os.environ.get("COURSEKIT_DATA", ".")) / "weights" / "mobilenet_v2_imagenet_fp16.pth"
    if file.exists():
        return mobilenet_v2(file, mean=0.5, std=0.5, train_from="c4")
    return mobilenet_v2("imagenet", train_from="c4")


def detector_and_loss(form):
    """The detector of a lesson on the pretrained trunk, and its loss as `fit` takes it."""
    if form == "SSD":
        names = names_of("05_ssd")

        def ssd_losses(model, images, targets):
            labels, deltas = names["batch_targets"](model.anchors, targets)
            return dict(zip(("class", "box"), names["ssd_loss"](*model(images), labels, deltas)))

        return names["SSD"](pretrained_trunk(), 3, BLOOD), ssd_losses
    if form == "Faster R-CNN":
        names = names_of("09_faster_rcnn")
        names["SIZE"], names["small_trunk"] = BLOOD, pretrained_trunk
        return names["FasterRCNN"](3), names["joint_loss"]
    lesson, kind = {
        "RetinaNet": ("11_retinanet", "RetinaNet"),
        "RetinaNet + FSAF": ("12_fsaf", "RetinaNetFSAF"),
        "FCOS": ("13_fcos", "FCOS"),
    }[form]
    names = names_of(lesson)
    return names[kind](pretrained_trunk(), 3, BLOOD), names["loss"]


def experiment(form, seed, steps=300):
    """Train and score one detector on blood cells."""
    torch.manual_seed(seed)
    train, test = (real("bccd", split, size=BLOOD, download=True) for split in ("train", "test"))
    model, loss = detector_and_loss(form)
    parts = [name for name, _ in model.named_modules() if name in ("backbone", "backbone.trunk")]
    fit(model, loss, train, steps=steps, batch_size=16, peak_rate=4e-3, slower={parts[-1]: 0.1}, seed=seed, progress=False)
    model.eval()
    scores = evaluate(model.detect, test, batch_size=16, small=24, large=56)
    images = next(test.batches(1))[0]
    with torch.no_grad():
        speed = images_per_second(model.detect, images, time.perf_counter, repeats=15)
    return {
        "AP": scores.AP, "AP50": scores.AP50, "APs": scores.APs, "APm": scores.APm, "APl": scores.APl,
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "images per second": speed,
    }  # fmt: skip
