"""Right answers to the exercises of lesson 10, in other forms."""

import math

import numpy
import torch
import torch.nn.functional as F
import torchvision
from torch import nn


class TopDown__recursion(nn.Module):
    """From the top by recursion; layers in a ModuleDict; the size by index tables."""

    def __init__(self, in_channels, channels):
        super().__init__()
        self.layers = nn.ModuleDict()
        for level, c in enumerate(in_channels):
            self.layers[f"smooth{level}"] = nn.Conv2d(channels, channels, kernel_size=3, padding="same")
            self.layers[f"side{level}"] = nn.Conv2d(c, channels, kernel_size=1)

    def sums(self, features, level=0):
        own = self.layers[f"side{level}"](features[level])
        if level == len(features) - 1:
            return [own]
        above = self.sums(features, level + 1)
        rows = torch.arange(own.shape[2]) * above[0].shape[2] // own.shape[2]
        columns = torch.arange(own.shape[3]) * above[0].shape[3] // own.shape[3]
        return [own + above[0][:, :, rows[:, None], columns], *above]

    def forward(self, features):
        return tuple(self.layers[f"smooth{level}"](one) for level, one in enumerate(self.sums(features)))


class TopDown__as_torchvision_does(nn.Module):
    """Names and loop like the library's, from the coarsest on; layers listed from coarse to fine."""

    def __init__(self, in_channels, channels):
        super().__init__()
        self.inner = nn.ModuleList([nn.Conv2d(c, channels, 1) for c in reversed(in_channels)])
        self.outer = nn.ModuleList([nn.Conv2d(channels, channels, 3, 1, 1) for _ in in_channels])
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)

    def forward(self, features):
        last, results = None, []
        for inner, outer, x in zip(self.inner, self.outer, features[::-1]):
            x = inner(x)
            if last is not None:
                x = x + nn.Upsample(size=tuple(x.shape[2:]))(last)
            last = x
            results.insert(0, outer(x))
        return results


class TopDown__one_module_a_level(nn.Module):
    """A level is a module with its two layers, by unfold and matrix products; sums in place on a copy."""

    class Level(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(after, before, 1, 1) / before**0.5)
            self.bias = nn.Parameter(torch.zeros(after))
            self.kernel = nn.Parameter(torch.randn(after, after, 3, 3) / (3 * after**0.5))
            self.shift = nn.Parameter(torch.zeros(after))

        def own(self, x):
            return torch.einsum("oc,bchw->bohw", self.weight[:, :, 0, 0], x) + self.bias[:, None, None]

        def out(self, x):
            patches = F.unfold(x, 3, padding=1)  # [B, C·9, H·W]
            return (self.kernel.flatten(1) @ patches + self.shift[:, None]).unflatten(2, x.shape[2:])

    def __init__(self, in_channels, channels):
        super().__init__()
        self.levels = nn.ModuleList(self.Level(c, channels) for c in in_channels)

    def forward(self, features):
        maps = [level.own(x) for level, x in zip(self.levels, features)]
        for i in reversed(range(1, len(maps))):
            h, w = maps[i - 1].shape[2:]
            maps[i - 1] = maps[i - 1].clone().add_(F.interpolate(maps[i], (h, w)))
        return [level.out(x) for level, x in zip(self.levels, maps)]


def assign_level__thresholds(boxes, k0=4, smallest=2, largest=5):
    """Counts the borders that the area has reached."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    borders = [(224 * 2.0 ** (level - k0)) ** 2 for level in range(smallest + 1, largest + 1)]
    level = torch.full((len(boxes),), smallest, dtype=torch.int64)
    for border in borders:
        level += (area >= border).long()
    return level


def assign_level__plain_loop(boxes, k0=4, smallest=2, largest=5):
    levels = []
    for x1, y1, x2, y2 in boxes.tolist():
        size = math.sqrt((x2 - x1) * (y2 - y1))
        level = smallest if size == 0 else math.floor(k0 + math.log2(size / 224))
        levels.append(max(smallest, min(largest, level)))
    return torch.tensor(levels, dtype=torch.long)


def assign_level__torchvisions_formula(boxes, k0=4, smallest=2, largest=5):
    """With its small addition before the floor."""
    s = torch.sqrt(torchvision.ops.box_area(boxes))
    levels = torch.floor(k0 + torch.log2(s / 224) + 1e-6)
    return torch.clamp(levels, min=smallest, max=largest).to(torch.int64)


def assign_level__half_the_logarithm_of_the_area(boxes, k0=4, smallest=2, largest=5):
    area = torchvision.ops.box_area(boxes.double())
    level = (k0 + 0.5 * torch.log2(area / 224**2)).floor()
    return level.clip(smallest, largest).long()


def assign_level__numpy(boxes, k0=4, smallest=2, largest=5):
    b = boxes.numpy()
    with numpy.errstate(divide="ignore"):
        level = numpy.floor(k0 + numpy.log2(numpy.sqrt((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])) / 224))
    return torch.from_numpy(numpy.clip(level, smallest, largest).astype(numpy.int64))


def levels_of(boxes, strides):
    return assign_level__plain_loop(boxes, 4, strides[0].bit_length() - 1, strides[-1].bit_length() - 1)


def pool_from_pyramid__put_in_place(features, boxes_per_image, output_size, strides):
    """An empty result, into which each level writes its rows."""
    boxes = torch.cat(boxes_per_image)
    image = torch.cat([torch.full((len(b), 1), float(i)) for i, b in enumerate(boxes_per_image)])
    rois = torch.cat([image.to(boxes), boxes], 1)
    levels = levels_of(boxes, strides)
    result = torch.zeros(len(rois), features[0].shape[1], *output_size, dtype=features[0].dtype)
    for feature, stride in zip(features, strides):
        index = torch.where(levels == int(math.log2(stride)))[0]
        result[index] = torchvision.ops.roi_align(feature, rois[index], output_size, 1 / stride, 2, aligned=True)
    return result


def pool_from_pyramid__box_by_box(features, boxes_per_image, output_size, strides):
    rows = []
    for image, boxes in enumerate(boxes_per_image):
        for box, level in zip(boxes, levels_of(boxes, strides).tolist()):
            place = level - (strides[0].bit_length() - 1)
            rows.append(
                torchvision.ops.roi_align(
                    features[place][image][None], [box[None]], output_size, 1.0 / strides[place], 2, True
                )
            )
    if not rows:
        return features[0].new_zeros(0, features[0].shape[1], *output_size)
    return torch.cat(rows, dim=0)


def pool_from_pyramid__everything_from_every_level(features, boxes_per_image, output_size, strides):
    """Pools all boxes from all levels and picks; wasteful and right. The boxes go in as a list."""
    levels = torch.cat([levels_of(boxes, strides) for boxes in boxes_per_image]) - levels_of(torch.zeros(1, 4), strides)
    all_levels = torch.stack(
        [
            torchvision.ops.roi_align(x, list(boxes_per_image), tuple(output_size), 1 / s, sampling_ratio=2, aligned=True)
            for x, s in zip(features, strides)
        ]
    )
    return all_levels[levels, torch.arange(len(levels))]


def pool_from_pyramid__image_by_image(features, boxes_per_image, output_size, strides):
    """Sorted by level within an image, and unsorted there."""
    answers = []
    for image, boxes in enumerate(boxes_per_image):
        levels = levels_of(boxes, strides)
        order = levels.argsort(stable=True)
        parts = [
            torchvision.ops.roi_align(
                feature[image : image + 1], [boxes[levels == stride.bit_length() - 1]], output_size, 1 / stride, 2, True
            )
            for feature, stride in zip(features, strides)
        ]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        answers.append(torch.cat(parts)[back])
    return torch.cat(answers)
