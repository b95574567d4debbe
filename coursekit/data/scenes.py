"""Generated scenes: shapes of six classes on a cloudy background, as many as a lesson wants, with boxes.

A scene is a matter of numbers only. They are drawn on the CPU from (seed, split, index), so scene 17 of a
split is the same scene whatever the count, the batch it is made in or the device; the device then paints
whole batches.

How a batch is painted: every object has a window of pixels; all windows together make one flat list; a pixel
of it is painted if it lies inside the object's outline, a radius for every angle. Where objects overlap, the
one painted later (the smaller) has the larger code, and the larger code stays. No loop runs over scenes.

Words: `B` scenes of a batch, `S` slots of a scene (places for objects and distractors), `P` pixels of a flat
list.
"""

import dataclasses
import functools
import math

import numpy
import torch

from coursekit.data.batches import DetectionData, best_device, storage_device
from coursekit.progress import progress_bar

CLASSES = ("disk", "square", "triangle", "star", "cross", "ring")
COUNTS = {"train": 4096, "val": 400, "test": 400}
VISIBLE = 0.3  # an object of which less can be seen is taken out of the scene


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """What scenes are made of. Ranges are (from, to), both included; lengths are for an image of 128 pixels.

    Attributes:
        objects: how many objects, before the hidden ones are taken out.
        diameters: of the circle around an object, log-uniform; they grow with the image's shorter side.
        distractors: how many strips and blobs, which are no class and have no box.
        contrast: of an object's main colour to the background there, of 1, in the channel that differs most.
        noise: standard deviation of the pixel noise, of 1.
        clouds: how far the background strays from grey, of 1; 0 is plain grey.
        beyond: share of the diameter that may lie outside of the image, for objects at the border.
        company: probability that an object is the next of a row: of the class and about the size of the one
            before it, which it partly covers. Such boxes overlap by an IoU around .5: what Soft-NMS is for.
    """

    objects: tuple[int, int] = (1, 6)
    diameters: tuple[float, float] = (12.0, 80.0)
    distractors: tuple[int, int] = (2, 3)
    contrast: float = 0.25
    noise: float = 0.05
    clouds: float = 0.3
    beyond: float = 0.1
    company: float = 0.0

    def __post_init__(self):
        for name, least in (("objects", 0), ("diameters", 2), ("distractors", 0)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise ValueError(f"{name} is ({low}, {high}), expected (from, to) with {least} <= from <= to")


DIFFICULTIES = {
    "easy": Difficulty((1, 3), (24.0, 80.0), (0, 1), contrast=0.45, noise=0.02, clouds=0.2, beyond=0.0),
    "medium": Difficulty(),
    "hard": Difficulty((1, 8), (10.0, 80.0), (3, 5), contrast=0.18, noise=0.08, clouds=0.4, beyond=0.25),
    "crowded": Difficulty((6, 12), (20.0, 44.0), (0, 1), contrast=0.35, noise=0.03, company=0.6),
}


def scenes(split="train", count=None, *, size=128, difficulty="medium", seed=0, device=None):
    """A generated detection set of six classes: disk, square, triangle, star, cross, ring.

    A box is the extent of the pixels painted for its object: columns c to d give x1 = c, x2 = d + 1. Pixels
    that a later object covered count; what lies outside of the image does not. An object less than 30 %
    visible is taken out, picture and box, so every box has something to see; a scene may end up with none.

    Args:
        split (str): "train", "val" or "test"; no two share a scene.
        count (int, optional): how many; by default 4096, 400 and 400. Fewer are the first of more.
        size (int or (int, int)): side, or width and height, in pixels; at least 32. Objects grow with it.
        difficulty (str or Difficulty): "easy", "medium", "hard", "crowded" (rows of a kind that overlap), or
            your own: `dataclasses.replace(DIFFICULTIES["medium"], noise=0.1)`.
        seed (int): another seed, other scenes; 0 or more.
        device (optional): where to paint and keep them; a CUDA device if there is one, else the CPU.

    Returns:
        DetectionData: images [count, 3, H, W]; labels 1..6 in the order above. CPU and CUDA give the same
        objects; a pixel on an outline may differ, and with it a box by that pixel.

    Raises:
        ValueError: for an unknown split or difficulty, a negative count or seed, a size under 32.
    """
    width, height = (size, size) if isinstance(size, int) else size
    count, level = _checked(split, count, width, height, difficulty, seed)
    device = best_device() if device is None else torch.empty(0, device=device).device
    place = storage_device(count * 3 * height * width, device)
    images = torch.empty(count, 3, height, width, dtype=torch.uint8, device=place)
    targets = []
    room = 2**18 if device.type == "cpu" else 2**22  # pixels painted at once: 16 scenes stay in a CPU's cache
    step = max(1, room // (height * width))
    with progress_bar(total=count, desc=f"{split} scenes", unit=" scenes", delay=2, leave=False) as bar:
        for start in range(0, count, step):
            stop = min(start + step, count)
            plan = _draw(start, stop, seed, split, level, width, height)
            images[start:stop], made = _paint(plan, level, width, height, device)
            targets += made
            bar.update(stop - start)
    return DetectionData(images, targets, CLASSES, device=device)


def _checked(split, count, width, height, difficulty, seed):
    """Count and Difficulty that are meant, or a ValueError."""
    if split not in COUNTS:
        raise ValueError(f"split is {split!r}, expected one of {', '.join(COUNTS)}")
    if not isinstance(difficulty, Difficulty):
        if difficulty not in DIFFICULTIES:
            names = ", ".join(DIFFICULTIES)
            raise ValueError(f"difficulty is {difficulty!r}, expected a Difficulty or one of {names}")
        difficulty = DIFFICULTIES[difficulty]
    count = COUNTS[split] if count is None else count
    if count < 0 or seed < 0:
        raise ValueError(f"count is {count} and seed {seed}, expected 0 or more")
    if min(width, height) < 32:
        raise ValueError(f"size is {width} x {height}, expected 32 x 32 or more: shapes have to be seen")
    return count, difficulty


# ---------------------------------------------------------------- outlines
ANGLES = 4096  # entries of an outline: a third of a pixel at a diameter of 400


def _outlines():
    """Squared radius of every kind's outline and of its hole, by angle; 1 is the circle around it.

    Two float32 [kinds, ANGLES]. The first kinds are CLASSES; the others, strips and blobs, are distractors.
    """
    theta = (numpy.arange(ANGLES) + 0.5) / ANGLES * 2 * math.pi

    def fold(sides):
        """Angle from the nearest corner of a regular figure, in 0..pi / sides."""
        sector = 2 * math.pi / sides
        return numpy.abs((theta + sector / 2) % sector - sector / 2)

    def polygon(sides):
        return math.cos(math.pi / sides) / numpy.cos(math.pi / sides - fold(sides))

    def star(points, inner):
        """Straight edges from the tips at radius 1 to the notches at radius `inner`."""
        x, y = inner * math.cos(math.pi / points), inner * math.sin(math.pi / points)
        return y / (y * numpy.cos(fold(points)) + (1 - x) * numpy.sin(fold(points)))

    def bar(half_width):
        """A rectangle along the angle 0, its corners at radius 1."""
        half_length = math.sqrt(1 - half_width**2)
        x, y = numpy.abs(numpy.cos(theta)), numpy.abs(numpy.sin(theta))  # neither is ever 0
        return numpy.minimum(half_length / x, half_width / y)

    def blob(*waves):
        """A circle bent by (waves around, amplitude, phase)."""
        radius = 1 + sum(amplitude * numpy.cos(k * theta + phase) for k, amplitude, phase in waves)
        return radius / radius.max()

    cross = numpy.maximum(bar(0.32), numpy.roll(bar(0.32), ANGLES // 4))
    kinds = [numpy.ones(ANGLES), polygon(4), polygon(3), star(5, 0.42), cross, numpy.ones(ANGLES)]
    kinds += [bar(0.12), bar(0.2)]
    kinds += [blob((2, 0.35, 0.0), (3, 0.3, 1.0)), blob((1, 0.3, 0.0), (2, 0.3, 2.0), (4, 0.15, 0.5))]
    holes = numpy.zeros((len(kinds), ANGLES))
    holes[CLASSES.index("ring")] = 0.55
    return (torch.tensor(numpy.stack(kinds) ** 2).float(), torch.tensor(holes**2).float())


_OUTLINES = _outlines()


# ---------------------------------------------------------------- numbers
COARSE, FINE = 5, 9  # nodes a side of the background's two octaves; FINE = 2 * COARSE - 1
OF_SCENE, OF_SLOT = 12, 18  # random numbers of each kind
NOISE_WINDOWS = 1 << 16  # how many stretches of the shared noise a scene can get


def _uniform(start, stop, seed, split, columns):
    """Uniform float64 [stop - start, columns] in [0, 1); row i depends on seed, split and start + i alone.

    Philox counts: its n-th block of four numbers is a function of key and n, so no row needs those before it.
    """
    blocks = -(-columns // 4)
    key = numpy.array([seed, list(COUNTS).index(split)], dtype=numpy.uint64)
    numbers = numpy.random.Generator(numpy.random.Philox(key=key, counter=start * blocks))
    return numbers.random((stop - start, 4 * blocks))[:, :columns]


def _draw(start, stop, seed, split, level, width, height):
    """Everything random about scenes start..stop, as a dict of CPU tensors.

    By slot [B, S]: `kind` (row of the outlines), `label` (0 for a distractor), `used`, `order` (0 is painted
    first), `x`, `y`, `radius`, `cos`, `sin`, `stripes` [B, S, 4], `colours` [B, S, 2, 3]. By scene:
    `nodes` [B, 3, FINE, FINE], the background, and `noise` [B], where its noise starts.
    """
    most = level.objects[1]
    slots = most + level.distractors[1]
    background = 3 * (COARSE**2 + FINE**2)
    u = _uniform(start, stop, seed, split, OF_SCENE + background + slots * OF_SLOT)
    scene, clouds, slot = numpy.split(u, [OF_SCENE, OF_SCENE + background], 1)
    slot = numpy.moveaxis(slot.reshape(len(u), slots, OF_SLOT), 2, 0)  # [OF_SLOT, B, S]

    def between(numbers, low, high):
        return low + numbers * (high - low)

    def integer(numbers, low, high):
        return low + (numbers * (high + 1 - low)).astype(int)

    index = numpy.arange(slots)
    distractor = numpy.broadcast_to(index >= most, slot[0].shape)
    used = numpy.where(
        distractor,
        index - most < integer(scene[:, :1], *level.distractors),
        index < integer(scene[:, 1:2], *level.objects),
    )
    classes, kinds = len(CLASSES), len(_OUTLINES[0])
    kind = numpy.where(distractor, integer(slot[0], classes, kinds - 1), integer(slot[0], 0, classes - 1))
    scale = min(width, height) / 128
    low, high = level.diameters
    radius = scale / 2 * low * (high / low) ** slot[1]
    nearest = 1 - 2 * level.beyond  # of a centre to the border, in radii
    x = between(slot[2], nearest * radius, width - nearest * radius)
    y = between(slot[3], nearest * radius, height - nearest * radius)
    turn = slot[7] * 2 * math.pi
    heading = numpy.arctan2(height / 2 - y, width / 2 - x) + between(slot[5], -1, 1)  # of a row: inwards
    for j in range(1, most):  # an object in company: like the one before it, a step further
        close = slot[4, :, j] < level.company
        step = between(slot[6, :, j], 0.45, 0.7) * radius[:, j - 1]
        least = nearest * radius[:, j - 1]
        beside = [
            (kind, kind[:, j - 1]),
            (radius, radius[:, j - 1] * between(slot[1, :, j], 0.9, 1.0)),
            (x, numpy.clip(x[:, j - 1] + step * numpy.cos(heading[:, j - 1]), least, width - least)),
            (y, numpy.clip(y[:, j - 1] + step * numpy.sin(heading[:, j - 1]), least, height - least)),
            (turn, turn[:, j - 1] + between(slot[7, :, j], -0.3, 0.3)),
            (heading, heading[:, j - 1] + between(slot[5, :, j], -0.5, 0.5)),
        ]
        for values, value in beside:
            values[:, j] = numpy.where(close, value, values[:, j])

    # stripes or chequers, as (waves a radius, phase) along and across; a wave is 3 pixels at least
    waves = numpy.minimum(between(slot[8], 0.8, 2.0), radius / 3)
    across = numpy.where(slot[9] < 0.5, waves, 0)
    stripes = numpy.stack([waves, slot[10], across, numpy.where(across > 0, slot[11], 0)], -1)

    # two tones as differences from the background: the second strays from the first by half the contrast
    tones = 2 * slot[12:18].reshape(2, 3, *slot[0].shape).transpose(2, 3, 0, 1) - 1  # [B, S, 2, 3]
    tones = level.contrast * tones / numpy.maximum(numpy.abs(tones).max(-1, keepdims=True), 1e-3)
    tones[:, :, 1] = tones[:, :, 0] + 0.5 * tones[:, :, 1]

    # a ramp, slow clouds and quick ones; the coarse octave and the ramp are exact on the fine nodes
    coarse, fine = numpy.split(2 * clouds - 1, [3 * COARSE**2], 1)
    coarse = torch.from_numpy(coarse).reshape(-1, 3, COARSE, COARSE)
    coarse = torch.nn.functional.interpolate(coarse, size=(FINE, FINE), mode="bilinear", align_corners=True)
    line = torch.linspace(-1, 1, FINE, dtype=torch.float64)
    ramp = torch.from_numpy(2 * scene[:, 2:11] - 1).reshape(-1, 3, 3, 1, 1)
    base, slope_x, slope_y = ramp.unbind(1)  # [B, 3, 1, 1]
    nodes = 0.4 * base + 0.3 * (slope_x * line + slope_y * line[:, None]) + 0.5 * coarse
    nodes = 0.5 + level.clouds * (nodes + 0.25 * torch.from_numpy(fine).reshape(-1, 3, FINE, FINE))

    values = {"x": x, "y": y, "radius": radius, "cos": numpy.cos(turn), "sin": numpy.sin(turn)}
    values = {name: torch.from_numpy(value).float() for name, value in values.items()}
    return values | {
        "kind": torch.from_numpy(kind),
        "label": torch.from_numpy(numpy.where(distractor, 0, kind + 1)),
        "used": torch.from_numpy(used),
        "order": torch.from_numpy(numpy.argsort(-radius, 1, kind="stable").argsort(1)),
        "stripes": torch.from_numpy(stripes).float(),
        "colours": torch.from_numpy(tones).float(),
        "nodes": nodes.float().clamp(0.1, 0.9),
        "noise": torch.from_numpy(integer(scene[:, 11], 0, NOISE_WINDOWS - 1)),
    }


# ---------------------------------------------------------------- painting
def _paint(plan, level, width, height, device):
    """Images and targets of a plan: uint8 [B, 3, H, W] and a list of B dicts, on `device`."""
    plan = {name: value.to(device) for name, value in plan.items()}
    count, slots = plan["kind"].shape
    scene, slot = plan["used"].nonzero(as_tuple=True)  # a part: one object or distractor
    part = {name: plan[name][scene, slot] for name in plan if name not in ("nodes", "noise", "used")}
    owner, column, row, tone = _painted_pixels(part, width, height)  # [P] each
    place = (scene[owner] * height + row) * width + column
    code = 2 * part["order"][owner] + tone + 1

    # what stays in sight of each; hidden objects go, picture and all
    top = _topmost(code, place, count * height * width)
    parts = len(scene)
    painted = torch.bincount(owner, minlength=parts)
    seen = torch.bincount(owner[top[place] == code], minlength=parts)
    stays = (seen >= VISIBLE * painted) & (seen > 0) | (part["label"] == 0)
    if not stays.all():
        left = stays[owner]
        top = _topmost(code[left], place[left], len(top))

    background = torch.nn.functional.interpolate(
        plan["nodes"], size=(height, width), mode="bilinear", align_corners=True
    ).flatten(2)  # [B, 3, HW]
    centre = part["y"].long().clamp(0, height - 1) * width + part["x"].long().clamp(0, width - 1)
    behind = background[scene, :, centre]  # [parts, 3]
    colours = behind[:, None] + part["colours"]  # [parts, 2, 3]
    colours = torch.where((colours < 0) | (colours > 1), behind[:, None] - part["colours"], colours)
    palette = torch.zeros(count, 2 * slots + 1, 3, device=device)
    for tone in (0, 1):
        palette[scene, 2 * part["order"] + tone + 1] = colours[:, tone]
    top = top.view(count, 1, -1).expand(-1, 3, -1)  # [B, 3, HW]
    images = torch.where(top > 0, palette.transpose(1, 2).gather(2, top), background).mul_(255)
    if level.noise > 0:
        images += _noise(3 * height * width, 255 * level.noise, device)[plan["noise"]].view_as(images)
    images = images.round_().clamp_(0, 255).to(torch.uint8).view(count, 3, height, width)

    boxes = torch.stack(
        [
            _extreme(column, owner, parts, "amin"),
            _extreme(row, owner, parts, "amin"),
            _extreme(column, owner, parts, "amax") + 1,
            _extreme(row, owner, parts, "amax") + 1,
        ],
        1,
    ).float()  # [parts, 4]
    kept = stays & (part["label"] > 0)
    numbers = torch.bincount(scene[kept], minlength=count).tolist()
    pairs = zip(boxes[kept].split(numbers), part["label"][kept].split(numbers), strict=True)
    return images, [{"boxes": boxes, "labels": labels} for boxes, labels in pairs]


def _painted_pixels(part, width, height):
    """The pixels that all parts paint, in one flat list: owner, column, row, tone (0 or 1); int64 [P]."""
    device = part["x"].device
    x, y, radius = part["x"], part["y"], part["radius"]
    left, top = (x - radius).floor().clamp(min=0).long(), (y - radius).floor().clamp(min=0).long()
    columns = ((x + radius).ceil().clamp(max=width).long() - left).clamp(min=0)
    rows = ((y + radius).ceil().clamp(max=height).long() - top).clamp(min=0)
    areas = columns * rows
    owner = torch.arange(len(x), device=device).repeat_interleave(areas)
    windows = torch.stack([areas.cumsum(0) - areas, columns, left, top], 1)  # gathering rows is the quicker
    first, columns, left, top = windows[owner].unbind(1)
    number = torch.arange(len(owner), device=device) - first
    row = number // columns
    column = number - row * columns + left
    row += top

    # into the object's own frame: turned, the circle around it at radius 1
    frames = torch.stack([x, y, part["cos"] / radius, part["sin"] / radius], 1)
    x, y, cos, sin = frames[owner].unbind(1)
    right, down = column + 0.5 - x, row + 0.5 - y
    u, v = cos * right + sin * down, cos * down - sin * right
    angle = ((torch.atan2(v, u) / (2 * math.pi) + 1) * ANGLES).long() % ANGLES
    outline, hole = (table.to(device).flatten() for table in _OUTLINES)
    entry = part["kind"][owner] * ANGLES + angle
    squared = u * u + v * v
    inside = ((squared <= outline[entry]) & (squared >= hole[entry])).nonzero().squeeze(1)
    owner, column, row, u, v = (value[inside] for value in (owner, column, row, u, v))

    along, phase, across, phase_across = part["stripes"][owner].unbind(1)
    tone = ((u * along + phase) % 1 < 0.5) ^ ((v * across + phase_across) % 1 < 0.5)
    return owner, column, row, tone.long()


def _topmost(code, place, size):
    """The largest code at every place, 0 where none is: int64 [size]; in whatever order the list comes."""
    return torch.zeros(size, dtype=torch.int64, device=code.device).scatter_reduce_(0, place, code, "amax")


def _extreme(values, owner, count, reduce):
    """Smallest or largest of each owner's values: int64 [count], 0 for one without any."""
    zeros = torch.zeros(count, dtype=torch.int64, device=values.device)
    return zeros.scatter_reduce_(0, owner, values, reduce, include_self=False)


@functools.lru_cache(2)
def _noise(length, deviation, device):
    """Windows of one long Gaussian noise: float32 [NOISE_WINDOWS, length], a view; row i starts at i."""
    generator = numpy.random.Generator(numpy.random.Philox(key=2**127))  # the key of no (seed, split)
    numbers = generator.standard_normal(length + NOISE_WINDOWS - 1, "float32")
    return torch.from_numpy(deviation * numbers).to(device).unfold(0, length, 1)
