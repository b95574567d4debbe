# %% [markdown]
r"""
# 8 · Fast R-CNN: look only where something may be
"""

# %% setup=true
import math

import torch
from torch import nn

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.earlier import earlier

box_iou, smooth_l1_loss = earlier("box_iou"), earlier("smooth_l1_loss")

# %% setup=true
def describe(segments, image):
    """Every segment as a region, in the order of their numbers.

    Args:
        segments (Tensor[H, W]): int64, the number of each pixel's segment: 0..N-1, each of which occurs.
        image (Tensor[3, H, W]): in 0..1.

    Returns:
        list of N dicts: `size` in pixels, `box` [x1, y1, x2, y2] in pixels, and two histograms that sum to 1, of the
            dtype of the image: `colour` Tensor[75] (25 bins for each of R, G, B) and `texture` Tensor[240] (slopes of
            each of R, G, B in 8 directions, 10 bins for each).
    """
    count, flat = int(segments.max()) + 1, segments.flatten()

    def histogram(channels, bins):  # [C, H, W] in 0..1 -> [N, C·bins]
        level = (channels * bins).long().clamp(0, bins - 1)
        place = (segments * len(channels) + torch.arange(len(channels))[:, None, None]) * bins + level
        table = torch.bincount(place.flatten(), minlength=count * len(channels) * bins).reshape(count, -1)
        return table.to(image.dtype) / table.sum(1, keepdim=True)

    def extent(positions):  # [H, W] -> first, and one past the last, of each segment
        start = torch.full((count,), positions.numel()).scatter_reduce(0, flat, positions.flatten(), "amin")
        return start, torch.zeros_like(start).scatter_reduce(0, flat, positions.flatten(), "amax") + 1

    y, x = torch.meshgrid(*(torch.arange(side) for side in segments.shape), indexing="ij")
    (x1, x2), (y1, y2) = extent(x), extent(y)
    down, right = torch.gradient(image, dim=(1, 2))
    angles = [turn * math.pi / 4 for turn in range(8)]
    slopes = torch.cat([right * math.cos(angle) + down * math.sin(angle) for angle in angles])  # [24, H, W]
    parts = {
        "size": torch.bincount(flat).tolist(),
        "box": torch.stack([x1, y1, x2, y2], 1).tolist(),
        "colour": histogram(image, 25),
        "texture": histogram(4 * slopes.clamp(min=0), 10),
    }
    return [dict(zip(parts, values)) for values in zip(*parts.values())]


def neighbours(segments):
    """The pairs (i, j), i < j, of segments that touch along an edge of a pixel; in order."""
    beside = torch.stack([segments[:, :-1], segments[:, 1:]], -1).reshape(-1, 2)
    below = torch.stack([segments[:-1], segments[1:]], -1).reshape(-1, 2)
    pairs = torch.cat([beside, below]).sort(1).values
    return [tuple(pair) for pair in pairs[pairs[:, 0] != pairs[:, 1]].unique(dim=0).tolist()]

# %% exercise="region_similarity"
def region_similarity(a, b, image_size):
    """How well two regions fit together: the sum of four similarities, of colour, texture, size and shape.

    Source: Uijlings et al., "Selective Search for Object Recognition", IJCV 2013, section 3.2.

    Args:
        a, b (dict): regions with `size` (pixels), `box` [x1, y1, x2, y2] (pixels), and `colour` and `texture`,
            Tensors [C] and [T]: histograms that sum to 1.
        image_size (int, int): (width, height) in pixels.

    Returns:
        scalar: 0..4; the same for (b, a).
    """
    ### BEGIN SOLUTION
    pixels = image_size[0] * image_size[1]
    colour = torch.minimum(a["colour"], b["colour"]).sum()
    texture = torch.minimum(a["texture"], b["texture"]).sum()
    together = a["size"] + b["size"]
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a["box"], b["box"]
    around = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return colour + texture + (1 - together / pixels) + (1 - (around - together) / pixels)
    ### END SOLUTION

# %% check="region_similarity" points=2
def region(size, box, colour, texture, dtype=torch.float32):
    """A region as `describe` gives it."""
    return {"size": size, "box": box, "colour": torch.tensor(colour, dtype=dtype), "texture": torch.tensor(texture, dtype=dtype)}


roof = region(12, [0, 0, 4, 3], [0.5, 0.5, 0, 0], [0.75, 0.25])
wall = region(6, [2, 3, 5, 6], [0.25, 0.25, 0.5, 0], [0.25, 0.75])
same(region_similarity(roof, wall, (8, 6)), 2.375, "0.5 of colour, 0.5 of texture, 0.625 of size, 0.75 of shape")
same(region_similarity(wall, roof, (8, 6)), 2.375, "the same pair in the other order: the same value")
untouched(region_similarity, roof, wall, (8, 6))
painted = {**roof, "colour": torch.tensor([0, 0, 0.25, 0.75])}
same(region_similarity(painted, wall, (8, 6)), 2.125, "other colours: 0.25 in common instead of 0.5, the rest as before")
smooth = {**roof, "texture": torch.tensor([1.0, 0])}
same(region_similarity(smooth, wall, (8, 6)), 2.125, "another texture: 0.25 in common instead of 0.5, the rest as before")
same(region_similarity({**roof, "size": 9}, wall, (8, 6)), 2.375,
     "three pixels fewer in the same box: more of size, as much less of shape")
apart = {**wall, "box": [4, 3, 8, 6]}
same(region_similarity(roof, apart, (8, 6)), 2.0, "a box farther right: 48 pixels around both, so 30 of them in neither")
### BEGIN HIDDEN TESTS
def plain_similarity(a, b, image_size):
    """The same by loops over plain numbers."""
    pixels, total = image_size[0] * image_size[1], 0.0
    for name in ("colour", "texture"):
        total += sum(min(one, other) for one, other in zip(a[name].tolist(), b[name].tolist()))
    left, top = min(a["box"][0], b["box"][0]), min(a["box"][1], b["box"][1])
    right, bottom = max(a["box"][2], b["box"][2]), max(a["box"][3], b["box"][3])
    hole = (right - left) * (bottom - top) - a["size"] - b["size"]
    return total + 1 - (a["size"] + b["size"]) / pixels + 1 - hole / pixels


dice = torch.Generator().manual_seed(8)
for number in range(6):
    pair = []
    for _ in range(2):
        x1, y1 = torch.randint(0, 20, (2,), generator=dice).tolist()
        w, h = torch.randint(2, 12, (2,), generator=dice).tolist()
        colours, textures = torch.rand(75, generator=dice), torch.rand(240, generator=dice) ** 4
        pair.append({"size": int(w * h * 0.6) + 1, "box": [x1, y1, x1 + w, y1 + h],
                     "colour": colours / colours.sum(), "texture": textures / textures.sum()})
    same(region_similarity(*pair, (33, 40)), plain_similarity(*pair, (33, 40)), f"two random regions, pair {number}")
same(region_similarity(*pair, (400, 100)), plain_similarity(*pair, (400, 100)), "the last pair in an image of 400 × 100")
double = [{name: value.double() if name in ("colour", "texture") else value for name, value in one.items()} for one in pair]
same(region_similarity(*double, (33, 40)), plain_similarity(*pair, (33, 40)), "histograms of float64")
nested = region(20, [0, 0, 7, 6], [1.0, 0], [0.0, 1]), region(4, [2, 2, 4, 4], [1.0, 0], [0.0, 1])
same(region_similarity(*nested, (8, 6)), 1 + 1 + 0.5 + 0.625, "one region lies in a hole of the other one")
whole = region(24, [0, 0, 4, 6], [1.0], [1.0]), region(24, [4, 0, 8, 6], [1.0], [1.0])
same(region_similarity(*whole, (8, 6)), 3.0, "two halves of an image, alike: 1 + 1 + 0 + 1")
far = region(1, [0, 0, 1, 1], [1.0, 0], [1.0, 0]), region(1, [7, 5, 8, 6], [0.0, 1], [0.0, 1])
same(region_similarity(*far, (8, 6)), 0 + 0 + (1 - 2 / 48) + (1 - 46 / 48), "two corners with nothing in common")
### END HIDDEN TESTS

# %% exercise="selective_search"
def selective_search(segments, image):
    """The boxes of all regions of a hierarchy: the segments, and each union on the way to the whole image.

    Of all pairs of regions that touch, the most similar one becomes a new region, until one is left. Of pairs that are
    equally similar the one with the smaller first number is taken, then that with the smaller second one; a new region
    gets the next number.
    Source: Uijlings et al., IJCV 2013, algorithm 1.

    Args:
        segments (Tensor[H, W]): int64, the number of each pixel's segment: 0..N-1, each of which occurs.
        image (Tensor[3, H, W]): in 0..1.

    Returns:
        Tensor[2N - 1, 4]: xyxy in pixels, of the dtype of the image: those of the segments in the order of their
            numbers, then those of the new regions as they were made; the last one is the whole image.
    """
    ### BEGIN SOLUTION
    regions = describe(segments, image)
    image_size = (segments.shape[1], segments.shape[0])

    def similarity(i, j):
        return float(region_similarity(regions[i], regions[j], image_size))

    similar = {pair: similarity(*pair) for pair in neighbours(segments)}
    while similar:
        i, j = min(similar, key=lambda pair: (-similar[pair], pair))
        a, b, new = regions[i], regions[j], len(regions)
        size = a["size"] + b["size"]
        low, high = (list(map(f, a["box"], b["box"])) for f in (min, max))
        merged = {"size": size, "box": low[:2] + high[2:]}
        for name in ("colour", "texture"):
            merged[name] = (a["size"] * a[name] + b["size"] * b[name]) / size
        regions.append(merged)
        touching = {k for pair in similar if i in pair or j in pair for k in pair} - {i, j}
        similar = {pair: value for pair, value in similar.items() if i not in pair and j not in pair}
        similar |= {(k, new): similarity(k, new) for k in touching}
    return torch.tensor([region["box"] for region in regions], dtype=image.dtype, device=image.device)
    ### END SOLUTION

# %% check="selective_search" points=3
house = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [3, 3, 3, 3, 2, 2], [3, 3, 3, 3, 2, 2]])
paint = torch.tensor([[0.9, 0.1, 0.1], [0.9, 0.1, 0.1], [0.2, 0.3, 0.9], [0.5, 0.8, 0.3]])[house].permute(2, 0, 1)
found = selective_search(house, paint)
same(list(found.shape), [7, 4], "4 segments and 3 unions: 7 boxes")
same(found[:4], [[0, 0, 2, 2], [2, 0, 4, 2], [4, 0, 6, 4], [0, 2, 4, 4]], "first the segments, in the order of their numbers")
same(found[4], [0, 0, 4, 2], "segments 0 and 1 have the same colours: they come together first")
same(found[5], [0, 0, 4, 4], "the next union is that of region 4 and segment 3: their box has no pixel of others")
same(found[6], [0, 0, 6, 4], "the last union is the whole image, 6 wide and 4 high")
untouched(selective_search, house.clone(), paint.clone())
### BEGIN HIDDEN TESTS
def plain_search(segments, image):
    """The same with all pairs looked at each round, by plain numbers and sets of pixels."""
    regions = describe(segments, image.double())
    pixels = segments.numel()
    state = {
        i: {"size": r["size"], "box": r["box"], "bins": r["colour"].tolist() + r["texture"].tolist()}
        for i, r in enumerate(regions)
    }
    touch = {frozenset(pair) for pair in neighbours(segments)}
    boxes, number = [r["box"] for r in regions], len(regions)
    while len(state) > 1:
        best = None
        for i, j in sorted(tuple(sorted(pair)) for pair in touch):
            a, b = state[i], state[j]
            around = [*map(min, a["box"][:2], b["box"][:2]), *map(max, a["box"][2:], b["box"][2:])]
            size = a["size"] + b["size"]
            value = sum(map(min, a["bins"], b["bins"])) + 2 - (around[2] - around[0]) * (around[3] - around[1]) / pixels
            if best is None or value > best[0] + 1e-9:
                best = value, i, j, around, size
        _, i, j, around, size = best
        a, b = state.pop(i), state.pop(j)
        bins = [(a["size"] * p + b["size"] * q) / size for p, q in zip(a["bins"], b["bins"])]
        state[number] = {"size": size, "box": around, "bins": bins}
        touch = {frozenset(number if k in (i, j) else k for k in pair) for pair in touch}
        touch = {pair for pair in touch if len(pair) == 2}
        boxes.append(around)
        number += 1
    return image.new_tensor(boxes)


dice = torch.Generator().manual_seed(4)
for number, (h, w, n) in enumerate([(12, 17, 14), (20, 11, 18), (16, 24, 30)]):
    seeds = torch.rand(n, 2, generator=dice) * torch.tensor([float(h), float(w)])
    spots = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).reshape(-1, 1, 2)
    mosaic = ((spots - seeds) ** 2).sum(-1).argmin(1).unique(return_inverse=True)[1].reshape(h, w)
    tones = torch.rand(n, 3, generator=dice)[mosaic].permute(2, 0, 1)
    picture = (0.8 * tones + 0.2 * torch.rand(3, h, w, generator=dice)).clamp(0, 1)
    same(selective_search(mosaic, picture), plain_search(mosaic, picture), f"a random mosaic, picture {number}, float32")
    same(selective_search(mosaic, picture.double()), plain_search(mosaic, picture.double()),
         f"a random mosaic, picture {number}, float64")
ring = torch.zeros(7, 9, dtype=torch.int64)
ring[2:5, 3:6] = 1
shade = torch.where(ring == 1, 0.9, 0.2).expand(3, 7, 9).clone()
same(selective_search(ring, shade), [[0, 0, 9, 7], [3, 2, 6, 5], [0, 0, 9, 7]],
     "one segment inside of another: two regions may have the same box, and both are given")
same(selective_search(torch.zeros(3, 5, dtype=torch.int64), torch.zeros(3, 3, 5)), torch.tensor([[0.0, 0, 5, 3]]),
     "a single segment: its box alone")
### END HIDDEN TESTS

# %% check="selective_search" part="ties" points=1
stripes = torch.arange(5).repeat_interleave(2).expand(6, 10).clone()
grey = torch.full((3, 6, 10), 0.5)
same(selective_search(stripes, grey)[5:], [[0, 0, 4, 6], [4, 0, 8, 6], [4, 0, 10, 6], [0, 0, 10, 6]],
     "five equal stripes: 0 and 1 first, then 2 and 3 (two small ones), then 4 joins them, being next to the second pair")
### BEGIN HIDDEN TESTS
tiles = (torch.arange(4)[:, None] * 4 + torch.arange(4)).repeat_interleave(2, 0).repeat_interleave(2, 1)
plain = torch.full((3, 8, 8), 0.25)
same(selective_search(tiles, plain)[16:20], [[0, 0, 4, 2], [4, 0, 8, 2], [0, 2, 4, 4], [4, 2, 8, 4]],
     "sixteen equal tiles: the pair of the smallest numbers first, then row by row")
flags = torch.tensor([[0, 1, 2], [3, 4, 5]]).repeat_interleave(4, 0).repeat_interleave(2, 1)
same(selective_search(flags, torch.full((3, 8, 6), 0.25, dtype=torch.float64))[6:9],
     torch.tensor([[0, 0, 4, 4], [4, 0, 6, 8], [0, 4, 4, 8]], dtype=torch.float64),
     "six equal flags in two rows: (0, 1), then (2, 5), then (3, 4)")
### END HIDDEN TESTS

# %% setup=true
def nearest(x):
    """The nearest whole number; a half goes away from 0, as in C++: 0.5 -> 1, 2.5 -> 3, -0.5 -> -1."""
    return x.trunc() + x.sign() * (x.frac().abs() >= 0.5)

# %% exercise="roi_pool"
def roi_pool(features, rois, output_size, spatial_scale):
    """The largest value in each bin of each region, borders moved to whole cells.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.1; quantised as `torchvision.ops.roi_pool`.

    Args:
        features (Tensor[B, C, H, W]): maps of a batch.
        rois (Tensor[R, 5]): (number of the image in the batch, x1, y1, x2, y2), box in pixels of the image.
        output_size (int, int): (h, w) bins.
        spatial_scale (float): cells for each pixel, 1 / stride.

    Returns:
        Tensor[R, C, h, w]: 0 in bins that hold no cell of the map.
    """
    ### BEGIN SOLUTION
    def spans(first, last, bins, limit):
        """The cells of each bin: where it begins, and one past its end."""
        size = features.new_tensor(max(last - first + 1, 1)) / bins
        index = torch.arange(bins + 1, dtype=features.dtype, device=features.device)
        starts = (first + (index[:-1] * size).floor()).clamp(0, limit)
        ends = (first + (index[1:] * size).ceil()).clamp(0, limit)
        return list(zip(starts.int().tolist(), ends.int().tolist()))

    height, width = features.shape[-2:]
    pooled = []
    for image, *corners in torch.cat([rois[:, :1], nearest(rois[:, 1:] * spatial_scale)], 1).tolist():
        x1, y1, x2, y2 = corners
        for top, bottom in spans(y1, y2, output_size[0], height):
            for left, right in spans(x1, x2, output_size[1], width):
                cells = features[int(image), :, top:bottom, left:right].flatten(1)  # [C, cells of the bin]
                pooled.append(cells.amax(1) if cells.shape[1] else features.new_zeros(len(cells)))
    if not pooled:
        return features.new_zeros(len(rois), features.shape[1], *output_size)
    return torch.stack(pooled).reshape(len(rois), *output_size, -1).permute(0, 3, 1, 2)
    ### END SOLUTION

# %% check="roi_pool" points=2
ramp = (10.0 * torch.arange(6)[:, None] + torch.arange(8)).reshape(1, 1, 6, 8)
rois = torch.tensor([[0.0, 24, 8, 120, 72]])
same(roi_pool(ramp, rois, (2, 3), 1 / 16), [[[[34, 36, 37], [54, 56, 57]]]],
     "columns 2 to 8 (the map ends at 7) in three bins, rows 1 to 5 in two: the largest value of each")
untouched(roi_pool, ramp.clone(), rois.clone(), (2, 3), 1 / 16)
same(roi_pool(ramp, torch.tensor([[0.0, 16, 32, 16, 32]]), (1, 1), 1 / 16), [[[[21]]]],
     "a region of no size still has the one cell where it lies: row 2, column 1")
same(roi_pool(ramp, torch.tensor([[0.0, 0, 0, 3, 3]]), (2, 2), 1.0), [[[[11, 13], [31, 33]]]],
     "both borders belong to the region: columns and rows 0 to 3 are four cells")
pair = torch.cat([ramp, -ramp])
same(roi_pool(pair, torch.tensor([[1.0, 0, 0, 3, 3], [0, 0, 0, 3, 3]]), (1, 1), 1.0).flatten(), [0, 33],
     "the first column is the number of the image: here the second image, then the first")
same(list(roi_pool(ramp, torch.zeros(0, 5), (2, 3), 1 / 16).shape), [0, 1, 2, 3], "no regions")
### BEGIN HIDDEN TESTS
def plain_pool(features, rois, output_size, scale):
    """The same by loops over single numbers."""
    (h, w), (height, width) = output_size, features.shape[-2:]
    values, out = features.tolist(), []
    for number, *box in rois.tolist():
        x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(v * scale) + 0.5), v)) for v in box)
        for image in values[int(number)]:
            for i in range(h):
                tall, wide = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
                for j in range(w):
                    rows = range(max(y1 + i * tall // h, 0), min(y1 - (-(i + 1) * tall // h), height))
                    columns = range(max(x1 + j * wide // w, 0), min(x1 - (-(j + 1) * wide // w), width))
                    out.append(max((image[y][x] for y in rows for x in columns), default=0.0))
    return torch.tensor(out, dtype=features.dtype).reshape(len(rois), features.shape[1], h, w)


dice = torch.Generator().manual_seed(1)
maps = torch.randn(2, 3, 9, 14, generator=dice, dtype=torch.float64)
corners = torch.rand(30, 2, generator=dice, dtype=torch.float64) * torch.tensor([90.0, 60]) - 6
boxes = torch.cat([corners, corners + 60 * torch.rand(30, 2, generator=dice, dtype=torch.float64)], 1)
many = torch.cat([torch.randint(0, 2, (30, 1), generator=dice).double(), boxes], 1)
for size, scale in (((3, 2), 0.125), ((2, 5), 0.125), ((4, 4), 0.25)):
    same(roi_pool(maps.float(), many.float(), size, scale), plain_pool(maps.float(), many.float(), size, scale),
         f"30 random regions of two images, {size} bins, scale {scale}, float32")
same(roi_pool(maps, many, (3, 4), 0.125), plain_pool(maps, many, (3, 4), 0.125), "30 random regions, float64")
whole = torch.cat([many[:, :1], (0.25 * many[:, 1:]).round() * 2 + 2], 1)
same(roi_pool(maps, whole, (2, 3), 0.25), plain_pool(maps, whole, (2, 3), 0.25), "corners that lie between two cells: a half goes up")
odd = torch.tensor([[0.0, 1, 1, 9, 5], [1, 3, 1, 5, 7]])
same(roi_pool(maps.float(), odd, (1, 2), 0.5), plain_pool(maps.float(), odd, (1, 2), 0.5),
     "borders are rounded after the scale, not before: pixels 1, 3, 5 at a scale of 0.5")
outside = torch.tensor([[0.0, 200, 200, 240, 230], [0, -90, -80, -60, -50], [1, 90, 10, 200, 40]])
same(roi_pool(maps.float(), outside, (2, 3), 0.125), plain_pool(maps.float(), outside, (2, 3), 0.125),
     "regions outside of the map, or half outside: bins without a cell are 0")
same(roi_pool(-maps.float().abs() - 1, many.float(), (3, 2), 0.125),
     plain_pool(-maps.float().abs() - 1, many.float(), (3, 2), 0.125), "all values are negative: 0 stands in empty bins only")
backwards = torch.tensor([[0.0, 60, 40, 20, 16]])
same(roi_pool(maps.float(), backwards, (1, 1), 0.125), plain_pool(maps.float(), backwards, (1, 1), 0.125),
     "a box that ends before it starts has one cell")
leaf = maps.float().clone().requires_grad_()
roi_pool(leaf, torch.tensor([[1.0, 8, 8, 40, 40]]), (1, 1), 0.125).sum().backward()
best = torch.zeros_like(maps).float()
for c in range(3):
    window = maps[1, c, 1:6, 1:6]
    best[1, c, 1 + int(window.argmax()) // 5, 1 + int(window.argmax()) % 5] = 1
same(leaf.grad, best, "the gradient goes to the largest cell of the bin alone")
same(list(roi_pool(maps, many[:0], (3, 2), 0.125).shape), [0, 3, 3, 2], "no regions in a batch of two images")
same(roi_pool(maps.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), many, (3, 4), 0.125),
     plain_pool(maps, many, (3, 4), 0.125), "maps that lie in memory with their channels last")
### END HIDDEN TESTS

# %% exercise="roi_align"
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2):
    """The mean of a few interpolated values in each bin of each region; nothing is rounded.

    Source: He et al., "Mask R-CNN", ICCV 2017, section 3; half-pixel aligned, as
    `torchvision.ops.roi_align(..., aligned=True)`.

    Args:
        features (Tensor[B, C, H, W]): maps of a batch; the value of cell (y, x) lies in its centre.
        rois (Tensor[R, 5]): (number of the image in the batch, x1, y1, x2, y2), box in pixels of the image.
        output_size (int, int): (h, w) bins.
        spatial_scale (float): cells for each pixel, 1 / stride.
        sampling_ratio (int): points along each side of a bin, 1 or more.

    Returns:
        Tensor[R, C, h, w]
    """
    ### BEGIN SOLUTION
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - 0.5).unbind(1)  # cells; the centre of the first one is 0

    def taps(start, end, bins, limit):
        """The two cells beside each point [R, S], the share of the second one, and whether the point counts."""
        step = (end - start) / bins / sampling_ratio
        points = start[:, None] + step[:, None] * (torch.arange(bins * sampling_ratio).to(rois) + 0.5)
        counts = (points >= -1) & (points <= limit)
        points = points.clamp(0, limit - 1)
        first = points.floor().long()
        return first, (first + 1).clamp(max=limit - 1), points - first, counts

    (h, w), (height, width) = output_size, features.shape[-2:]
    top, bottom, down, tall = taps(y1, y2, h, height)
    left, right, across, wide = taps(x1, x2, w, width)
    image, table = rois[:, 0].long()[:, None, None], features.permute(0, 2, 3, 1)  # [B, H, W, C]
    value = 0
    for y, share_y in ((top, 1 - down), (bottom, down)):
        for x, share_x in ((left, 1 - across), (right, across)):
            share = (share_y * tall)[:, :, None] * (share_x * wide)[:, None]  # [R, S_h, S_w]
            value = value + share[..., None].to(table.dtype) * table[image, y[:, :, None], x[:, None]]
    value = value.reshape(len(rois), h, sampling_ratio, w, sampling_ratio, table.shape[-1])
    return value.mean((2, 4)).permute(0, 3, 1, 2)
    ### END SOLUTION

# %% check="roi_align" points=2
ramp = (10.0 * torch.arange(6)[:, None] + torch.arange(8)).reshape(1, 1, 6, 8)
rois = torch.tensor([[0.0, 24, 8, 120, 72]])
same(roi_align(ramp, rois, (2, 3), 1 / 16), [[[[12, 14, 16], [32, 34, 36]]]],
     "in cells 1.5 to 7.5 and 0.5 to 4.5; the first bin's middle is (2.5, 1.5), the centre of row 1, column 2")
untouched(roi_align, ramp.clone(), rois.clone(), (2, 3), 1 / 16)
same(roi_align(ramp, torch.tensor([[0.0, 0, 0, 128, 96]]), (6, 8), 1 / 16, 1), ramp,
     "the whole image with a bin for each cell and one point in it: the map itself")
same(roi_align(ramp, torch.tensor([[0.0, 68, 40, 72, 44]]), (1, 1), 1 / 16), [[[[10 * 2.125 + 3.875]]]],
     "a region of a quarter of a cell is read where it lies, row 2.125, column 3.875: it is not made larger")
bump = torch.zeros(1, 1, 3, 4)
bump[0, 0, 1, 2] = 8
same(roi_align(bump, torch.tensor([[0.0, 2, 1, 4, 2]]), (1, 1), 1.0, 1), [[[[4]]]],
     "one point between columns 2 and 3, in the middle of row 1: half of each")
pair = torch.cat([ramp, -ramp])
same(roi_align(pair, torch.tensor([[1.0, 0, 0, 128, 96], [0, 0, 0, 128, 96]]), (1, 1), 1 / 16).flatten(), [-28.5, 28.5],
     "the first column is the number of the image: here the second image, then the first")
same(list(roi_align(ramp, torch.zeros(0, 5), (2, 3), 1 / 16).shape), [0, 1, 2, 3], "no regions")
### BEGIN HIDDEN TESTS
def plain_align(features, rois, output_size, scale, ratio=2):
    """The same by loops over single numbers."""
    (h, w), (height, width) = output_size, features.shape[-2:]
    values, out = features.tolist(), []

    def read(image, y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return 0.0
        y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
        a, b = int(y), int(x)
        c, d, v, u = min(a + 1, height - 1), min(b + 1, width - 1), y - a, x - b
        above = image[a][b] * (1 - u) + image[a][d] * u
        return above * (1 - v) + (image[c][b] * (1 - u) + image[c][d] * u) * v

    for number, *box in rois.tolist():
        x1, y1, x2, y2 = (value * scale - 0.5 for value in box)
        for image in values[int(number)]:
            for i in range(h):
                for j in range(w):
                    points = [
                        read(image, y1 + (y2 - y1) * (i + (p + 0.5) / ratio) / h, x1 + (x2 - x1) * (j + (q + 0.5) / ratio) / w)
                        for p in range(ratio)
                        for q in range(ratio)
                    ]
                    out.append(sum(points) / len(points))
    return torch.tensor(out, dtype=features.dtype).reshape(len(rois), features.shape[1], h, w)


dice = torch.Generator().manual_seed(2)
maps = torch.randn(2, 3, 9, 14, generator=dice, dtype=torch.float64)
corners = torch.rand(30, 2, generator=dice, dtype=torch.float64) * torch.tensor([90.0, 60]) - 6
boxes = torch.cat([corners, corners + 60 * torch.rand(30, 2, generator=dice, dtype=torch.float64)], 1)
many = torch.cat([torch.randint(0, 2, (30, 1), generator=dice).double(), boxes], 1)
for size, scale, ratio in (((3, 2), 0.125, 2), ((2, 5), 0.125, 3), ((4, 4), 0.25, 1)):
    same(roi_align(maps.float(), many.float(), size, scale, ratio), plain_align(maps.float(), many.float(), size, scale, ratio),
         f"30 random regions of two images, {size} bins, scale {scale}, sampling ratio {ratio}, float32")
same(roi_align(maps, many, (3, 4), 0.125), plain_align(maps, many, (3, 4), 0.125), "30 random regions, float64, sampling ratio 2")
outside = torch.tensor([[0.0, 200, 200, 240, 230], [0, -90, -80, -60, -50], [1, 90, 10, 200, 40], [1, -30, 20, 40, 60]])
same(roi_align(maps.float(), outside, (2, 3), 0.125), plain_align(maps.float(), outside, (2, 3), 0.125),
     "points more than a cell outside of the map are 0; those nearer take the cell at the border")
edges = torch.tensor([[0.0, -4, -4, -4, -4], [0, 116, 76, 116, 76], [1, -5, 30, -5, 30], [1, 30, 77, 30, 77]])
same(roi_align(maps.float(), edges, (1, 1), 0.125), plain_align(maps.float(), edges, (1, 1), 0.125),
     "regions without size on the edge of what counts, and just beyond")
tiny = torch.cat([many[:, :3], many[:, 1:3] + 0.3], 1)
same(roi_align(maps, tiny, (2, 2), 0.125), plain_align(maps, tiny, (2, 2), 0.125), "regions of 0.3 pixel keep their size")
slope = torch.arange(14.0).expand(1, 1, 9, 14)
same(roi_align(slope, torch.tensor([[0.0, 12, 8, 92, 64]]), (2, 5), 0.125), [[[[2, 4, 6, 8, 10]] * 2]],
     "a map that rises to the right only")
leaf = maps.float().clone().requires_grad_()
roi_align(leaf, torch.tensor([[1.0, 12, 20, 12, 20]]), (1, 1), 0.125, 1).sum().backward()
share = torch.zeros_like(maps).float()
share[1, :, 2, 1] = 1
same(leaf.grad, share, "the gradient reaches the cells that were read, by their shares: here one cell, exactly")
leaf.grad = None
roi_align(leaf, torch.tensor([[0.0, 18, 22, 18, 22]]), (1, 1), 0.125, 1).sum().backward()
quarter = torch.zeros_like(maps).float()
quarter[0, :, 2:4, 1:3] = torch.tensor([[0.1875, 0.5625], [0.0625, 0.1875]])
same(leaf.grad, quarter, "the gradient is shared by the four cells around a point")
same(list(roi_align(maps, many[:0], (3, 2), 0.125).shape), [0, 3, 3, 2], "no regions in a batch of two images")
same(roi_align(maps.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), many, (3, 4), 0.125),
     plain_align(maps, many, (3, 4), 0.125), "maps that lie in memory with their channels last")
### END HIDDEN TESTS

# %% exercise="label_proposals"
def label_proposals(iou, labels):
    """What each proposal is to learn.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.3.

    Args:
        iou (Tensor[M, N]): of the M objects of an image with its N proposals.
        labels (Tensor[M]): int64, the class of each object, 1..K.

    Returns:
        Tensor[N]: int64. With an IoU of at least 0.5, the class of the object that the proposal overlaps most, the
            first one in a tie; 0 for background, where the largest IoU is in [0.1, 0.5); -1 for the rest, which is
            ignored. In an image without objects (M = 0) everything is background.
    """
    ### BEGIN SOLUTION
    if len(labels) == 0:
        return labels.new_zeros(iou.shape[1])
    best, which = iou.max(0)  # [N]
    background = torch.where(best >= 0.1, 0, -1)
    return torch.where(best >= 0.5, labels[which], background)
    ### END SOLUTION

# %% check="label_proposals" points=2
iou = torch.tensor([[0.7, 0.3, 0.05, 0.5, 0.0, 0.1], [0.2, 0.45, 0.02, 0.6, 0.0, 0.0]])
same(label_proposals(iou, torch.tensor([4, 2])), torch.tensor([4, 0, -1, 2, -1, 0]),
     "0.7 of the first object; 0.45 is background; 0.05 is ignored; 0.6 of the second beats 0.5; 0 is ignored; 0.1 is background")
untouched(label_proposals, iou.clone(), torch.tensor([4, 2]))
same(label_proposals(torch.tensor([[0.5, 0.4999]]), torch.tensor([3])), [3, 0], "an IoU of exactly 0.5 is enough")
same(label_proposals(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), torch.tensor([0, 0, 0]),
     "no objects, three proposals: all of them are background")
same(label_proposals(torch.zeros(2, 0), torch.tensor([1, 2])), torch.zeros(0, dtype=torch.int64), "two objects, no proposals")
### BEGIN HIDDEN TESTS
def plain_labels(iou, labels):
    """The same, one proposal at a time."""
    found = []
    for column in range(iou.shape[1]):
        values = iou[:, column].tolist()
        best = max(values, default=0.1)
        found.append(labels[values.index(best)].item() if best >= 0.5 else 0 if best >= 0.1 else -1)
    return torch.tensor(found, dtype=torch.int64)


dice = torch.Generator().manual_seed(3)
for objects, proposals in ((3, 40), (7, 5), (1, 30)):
    table, classes = torch.rand(objects, proposals, generator=dice) ** objects, torch.randint(1, 9, (objects,), generator=dice)
    same(label_proposals(table, classes), plain_labels(table, classes), f"{objects} objects and {proposals} proposals at random")
    same(label_proposals(table.double(), classes), plain_labels(table, classes),
         f"{objects} objects and {proposals} proposals at random, float64")
same(label_proposals(torch.tensor([[0.0, 0.09], [0.09, 0.0]]), torch.tensor([5, 6])), [-1, -1], "0.09 with either object is less than 0.1")
same(label_proposals(torch.tensor([[0.75, 0.5], [0.75, 0.5], [0.25, 0.5]]), torch.tensor([8, 1, 3])), [8, 8],
     "two objects overlap a proposal alike: the first one")
same(label_proposals(torch.tensor([[0.25, 0.125]], dtype=torch.float64), torch.tensor([1])), [0, 0], "0.25 and 0.125 are background, float64")
same(label_proposals(torch.tensor([[1.0], [0.2]]), torch.tensor([6, 2])), [6], "a proposal that is an object's own box")
same(label_proposals(torch.tensor([[0.3], [0.3]]), torch.tensor([6, 2])), [0],
     "0.3 with each of two objects is not 0.6: the largest IoU decides")
same(label_proposals(torch.tensor([[0.1, 0.49, 0.2]]), torch.tensor([1])), [0, 0, 0], "the best proposal of an object is not forced: 0.49 is background")
wide = torch.tensor([[0.6, 0.2, 0.55, 0.05], [0.1, 0.8, 0.52, 0.0]]).T.contiguous().T
same(label_proposals(wide, torch.tensor([7, 3])), [7, 3, 7, -1], "a table that lies in memory column by column")
same(label_proposals(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)), torch.zeros(0, dtype=torch.int64), "no objects, no proposals")
### END HIDDEN TESTS

# %% setup=true
def random_weights(head):
    """Give `head` random weights, and biases too."""
    dice, state = torch.Generator().manual_seed(0), head.state_dict()
    if not state:
        raise LookupError("the head's state_dict is empty: the module does not know its layers")
    for name, weight in state.items():
        if weight.is_floating_point():
            state[name] = torch.randn(weight.shape, generator=dice) / max(weight[0].numel(), 1) ** 0.5
    head.load_state_dict(state)
    return head.eval()

# %% exercise="FastRCNNHead"
class FastRCNNHead(nn.Module):
    """Class scores, and a box for each class, for every pooled region: fully connected layers, then two siblings.

    Args:
        channels (int): C of the pooled maps.
        pool (int, int): their (h, w).
        num_classes (int): K, without background.
    """

    def __init__(self, channels, pool, num_classes):
        super().__init__()
        ### BEGIN SOLUTION
        self.shared = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * pool[0] * pool[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
        )
        self.scores = nn.Linear(256, num_classes + 1)
        self.offsets = nn.Linear(256, num_classes * 4)
        ### END SOLUTION

    def forward(self, pooled):
        """Logits Tensor[R, K + 1] and deltas Tensor[R, K, 4], from Tensor[R, C, h, w]; R may be 0."""
        ### BEGIN SOLUTION
        vectors = self.shared(pooled)  # [R, 256]
        return self.scores(vectors), self.offsets(vectors).unflatten(1, (-1, 4))
        ### END SOLUTION

# %% check="FastRCNNHead" points=2
pooled = torch.randn(5, 6, 2, 3, generator=torch.Generator().manual_seed(0))
head = FastRCNNHead(6, (2, 3), 4)
logits, deltas = head(pooled)
same(list(logits.shape), [5, 5], "4 classes and background for each of 5 regions")
same(list(deltas.shape), [5, 4, 4], "four offsets for each of 4 classes, background has no box")
same([str(logits.dtype), str(deltas.dtype)], ["torch.float32"] * 2, "logits and deltas have the dtype of the features")
untouched(head, pooled.clone())
same(len(head.state_dict()) > 0, True, "the module knows its layers (in a Python list it does not see them)")
head = random_weights(head)
same([head(pooled[1:3])[0], head(pooled[1:3])[1]], [head(pooled)[0][1:3], head(pooled)[1][1:3]],
     "what is said of a region does not depend on the other regions")
same([list(output.shape) for output in head(pooled[:0])], [[0, 5], [0, 4, 4]], "no regions")
### BEGIN HIDDEN TESTS
wide = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(1))
other = random_weights(FastRCNNHead(3, (4, 5), 9))
same([list(output.shape) for output in other(wide)], [[7, 10], [7, 9, 4]], "7 regions, 3 channels, 4 × 5 bins, 9 classes")
single = FastRCNNHead(2, (1, 1), 1)(torch.ones(3, 2, 1, 1))
same([list(output.shape) for output in single], [[3, 2], [3, 1, 4]], "one class, one bin")
leaf = wide.clone().requires_grad_()
for part, name in ((0, "logits"), (1, "deltas")):
    leaf.grad = None
    other(leaf)[part].square().sum().backward()
    same(bool((leaf.grad.abs().sum((0,)) > 0).all()), True, f"every channel of every bin matters to the {name}")
same([output.requires_grad for output in other(wide)], [True, True], "training reaches the layers: logits and deltas require a gradient")
large = [output.detach() for output in other(50 * wide)]
signs = [[bool((output < 0).any()), bool((output > 1).any())] for output in large]
same(signs, [[True, True]] * 2, "logits and offsets are any numbers, below 0 and above 1 too: the softmax comes later")
apart = [len({round(value, 5) for value in large[1][0, k].tolist()}) for k in range(9)]
same(apart, [4] * 9, "the four offsets of a class are four different numbers")
same(len({tuple(row) for row in large[1][0].tolist()}), 9, "every class has offsets of its own")
same(len(set(large[0][0].tolist())), 10, "every class has a score of its own, and background too")
state = {name: weight.clone() for name, weight in other.state_dict().items()}
twin = FastRCNNHead(3, (4, 5), 9)
twin.load_state_dict(state)
twin.eval()
same([bool(torch.allclose(*pair)) for pair in zip(twin(wide), other(wide))], [True, True],
     "a second head with the same state_dict gives the same answers: does the module know all its layers")
(other(wide)[0].square().sum() + other(wide)[1].square().sum()).backward()
learns = [weight.grad is not None and bool((weight.grad != 0).any()) for weight in other.parameters()]
same(all(learns), True, "every parameter gets a gradient from logits and deltas")
for part, name in ((0, "logits"), (1, "deltas")):
    three = [other(x)[part] for x in (wide, -wide, 0 * wide)]
    same(bool(torch.allclose(three[0] + three[1], 2 * three[2], atol=1e-3)), False,
         f"between the fully connected layers stand non-linear ones: the {name} are no linear function of the features")
double = FastRCNNHead(3, (4, 5), 9).double()
same([str(output.dtype) for output in double(wide.double())], ["torch.float64"] * 2, "a head of float64")
### END HIDDEN TESTS

# %% exercise="fast_rcnn_loss"
def fast_rcnn_loss(logits, deltas, labels, target_deltas, alpha=1.0):
    """Both losses of the regions of a batch.

    Source: the slides' multi-task loss; Girshick, "Fast R-CNN", ICCV 2015, equations 1 to 3.

    Args:
        logits (Tensor[R, K + 1]): background first.
        deltas (Tensor[R, K, 4]): offsets for each class; those of class 1 first.
        labels (Tensor[R]): int64, the class 1..K, 0 for background, -1 for a region that counts nowhere.
        target_deltas (Tensor[R, 4]): offsets to learn; any finite numbers where the label is not positive.
        alpha (float): weight of the offsets.

    Returns:
        (scalar, scalar): the sums over all regions with a label of 0 or more, divided by their number (by 1 where
            there is none): of -log p of the true class; and of smooth L1, alpha times, over the four offsets of the
            true class of the positives.
    """
    ### BEGIN SOLUTION
    counted, positive = labels >= 0, labels > 0
    count = counted.sum().clamp(min=1)
    entropy = -logits.log_softmax(-1)[counted, labels[counted]]
    error = smooth_l1_loss(deltas[positive, labels[positive] - 1], target_deltas[positive])
    return entropy.sum() / count, alpha * error.sum() / count
    ### END SOLUTION

# %% check="fast_rcnn_loss" points=2
chances = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.25, 0.5, 0.25]])
offsets = torch.tensor([[[9.0, 9, 9, 9], [0, 0, 0, 0]], [[9, 9, 9, 9], [9, 9, 9, 9]], [[9, 9, 9, 9], [9, 9, 9, 9]], [[1, 0, 0, 0], [9, 9, 9, 9]]])
labels, wanted = torch.tensor([2, 0, -1, 1]), torch.tensor([[0.5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0.5, 0]])
losses = fast_rcnn_loss(chances.log(), offsets, labels, wanted)
same(losses[0], (math.log(4) + math.log(2) + math.log(2)) / 3,
     "p of the true classes: 1/4, 1/2 and 1/2; the third region counts nowhere, so divide by 3")
same(losses[1], (0.125 + 1.5 + 0.125) / 3,
     "the first region learns 0.5 in class 2, the last one 2 and 0.5 in class 1; the others have no box; divide by 3")
same(fast_rcnn_loss(chances.log(), offsets, labels, wanted, 4.0)[1], 4 * 1.75 / 3, "alpha = 4 makes the second loss 4 times as large")
same(fast_rcnn_loss(chances.log(), offsets, labels, wanted, 4.0)[0], 4 * math.log(2) / 3, "alpha leaves the first loss as it is")
untouched(fast_rcnn_loss, chances.log(), offsets.clone(), labels.clone(), wanted.clone())
same(fast_rcnn_loss(chances.log(), offsets, torch.zeros(4, dtype=torch.int64), wanted)[1], torch.tensor(0.0),
     "background only: there is no box to learn, and the loss is 0")
### BEGIN HIDDEN TESTS
def plain_losses(logits, deltas, labels, targets, alpha=1.0):
    """The same by loops over plain numbers."""
    first = second = count = 0.0
    for row, boxes, label, target in zip(logits.tolist(), deltas.tolist(), labels.tolist(), targets.tolist()):
        if label >= 0:
            count += 1
            first += math.log(sum(math.exp(value - row[label]) for value in row))
            for a, b in zip(boxes[label - 1], target) if label else ():
                second += (a - b) ** 2 / 2 if abs(a - b) < 1 else abs(a - b) - 0.5
    return [logits.new_tensor(first / max(count, 1)), logits.new_tensor(alpha * second / max(count, 1))]


dice = torch.Generator().manual_seed(5)
scores = 3 * torch.randn(40, 6, generator=dice, dtype=torch.float64)
boxes = 2 * torch.randn(40, 5, 4, generator=dice, dtype=torch.float64)
goals = 2 * torch.randn(40, 4, generator=dice, dtype=torch.float64)
kinds = torch.randint(-1, 6, (40,), generator=dice)
for dtype, name in ((torch.float32, "float32"), (torch.float64, "float64")):
    case = (scores.to(dtype), boxes.to(dtype), kinds, goals.to(dtype))
    same(fast_rcnn_loss(*case)[0], plain_losses(*case)[0], f"classification of 40 random regions, {name}")
    same(fast_rcnn_loss(*case, 0.5)[1], plain_losses(*case, 0.5)[1], f"localisation of 40 random regions, {name}")
far = 40 * scores.float()
same(fast_rcnn_loss(far, boxes.float(), kinds, goals.float())[0], plain_losses(far, boxes, kinds, goals)[0],
     "logits around ±100: finite")
nobody = torch.full((40,), -1)
same(fast_rcnn_loss(scores.float(), boxes.float(), nobody, goals.float()), [torch.tensor(0.0)] * 2, "every region is ignored: 0 and 0")
nothing = (torch.zeros(0, 6), torch.zeros(0, 5, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
same(fast_rcnn_loss(*nothing), [torch.tensor(0.0)] * 2, "no regions: 0 and 0")
one = torch.tensor([3])
same(fast_rcnn_loss(scores[:1], boxes[:1], one, goals[:1]), plain_losses(scores[:1], boxes[:1], one, goals[:1]), "a single region of class 3")
for given, name in ((kinds, "labels of all kinds"), (nobody, "nothing but ignored regions")):
    leaves = [scores.clone().requires_grad_(), boxes.clone().requires_grad_()]
    sum(fast_rcnn_loss(*leaves, given, goals)).backward()
    same(leaves[0].grad.isfinite().all().item(), True, f"a finite gradient of the logits: {name}")
    reached = (leaves[1].grad != 0).any(-1)
    slot = torch.zeros(40, 6, dtype=torch.bool)
    slot[torch.arange(40), given.clamp(min=0)] = True
    same(reached, slot[:, 1:], f"only the box of the true class learns: {name}")
leaves = [scores.clone().requires_grad_(), boxes.clone()]
fast_rcnn_loss(*leaves, kinds, goals)[0].backward()
same(leaves[0].grad, ((scores.softmax(-1) - torch.eye(6).double()[kinds.clamp(min=0)]) * (kinds >= 0)[:, None]) / (kinds >= 0).sum(),
     "the gradient of the logits is p minus one-hot, over the number of regions that count")
### END HIDDEN TESTS
