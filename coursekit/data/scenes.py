"""Generated scenes: shapes of six classes on a cloudy background, as many as a lesson wants, each with its boxes.

A scene is a matter of numbers only: they are drawn on the CPU from (seed, split, index), so scene 17 of a split is the
same scene whatever the count, the batch it is made in or the device; the device then paints whole batches at once.

How a batch is painted: every object has a window of pixels; all windows together make one flat list; a pixel of it is
painted if it lies inside the object's outline, a radius for every angle. Where objects overlap, the one painted later
(the smaller) has the larger code, and the larger code stays. No loop runs over scenes or objects.

Words: `B` scenes of a batch, `S` slots of a scene (places for objects and distractors), `P` pixels of a flat list.
"""

import dataclasses
import functools
import math

import numpy
import torch

from coursekit.data.batches import DetectionData, best_device, storage_device

CLASSES = ("disk", "square", "triangle", "star", "cross", "ring")
COUNTS = {"train": 4096, "val": 400, "test": 400}
VISIBLE = 0.3  # an object of which less can be seen is taken out of the scene


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """What scenes are made of. Ranges are (from, to), both included; lengths are pixels of a 128-pixel image.

    Attributes:
        objects: how many objects, before the hidden ones are taken out.
        diameters: of the circle around an object; drawn log-uniformly. They grow with the shorter side of the image.
        distractors: how many strips and blobs, which are no class and have no box.
        contrast: largest difference of an object's main colour from the background there, of 1, in any channel.
        noise: standard deviation of the pixel noise, of 1.
        clouds: how far the background strays from grey, of 1; 0 is plain grey.
        beyond: share of the diameter that may lie outside of the image, for objects at the border.
        company: probability that an object stands close to the one before it, as one of its class and size:
            their boxes overlap by an IoU of .3 to .7. What Soft-NMS is for.
    """

    objects: tuple[int, int] = (1, 6)
    diameters: tuple[float, float] = (12.0, 80.0)
    distractors: tuple[int, int] = (2, 3)
    contrast: float = 0.25
    noise: float = 0.05
    clouds: float = 0.3
    beyond: float = 0.1
    company: float = 0.0


DIFFICULTIES = {
    "easy": Difficulty((1, 3), (24.0, 80.0), (0, 1), contrast=0.45, noise=0.02, clouds=0.2, beyond=0.0),
    "medium": Difficulty(),
    "hard": Difficulty((1, 8), (10.0, 80.0), (3, 5), contrast=0.18, noise=0.08, clouds=0.4, beyond=0.25),
    "crowded": Difficulty((8, 14), (20.0, 44.0), (0, 1), contrast=0.35, noise=0.03, company=0.7),
}


def scenes(split="train", count=None, *, size=128, difficulty="medium", seed=0, device=None):
    """A generated detection set of six classes: disk, square, triangle, star, cross, ring.

    A box is the extent of the pixels that were painted for its object: columns c to d give x1 = c, x2 = d + 1. Pixels
    that a later object covered count; what lies outside of the image does not. An object less than 30 % visible is
    taken out, picture and box, so every box belongs to something that can be seen; a scene may end up with none.

    Args:
        split (str): "train", "val" or "test"; no two share a scene.
        count (int, optional): how many; by default 4096, 400 and 400. Fewer are the first of more.
        size (int or (int, int)): side, or width and height, in pixels; at least 32. Objects grow with it.
        difficulty (str or Difficulty): "easy", "medium", "hard", "crowded" (many of a kind that overlap), or your own:
            `dataclasses.replace(DIFFICULTIES["medium"], noise=0.1)`.
        seed (int): another seed, other scenes; 0 or more.
        device (optional): where to paint and to keep them; a CUDA device if there is one, else the CPU.

    Returns:
        DetectionData: images [count, 3, H, W]; labels 1..6 in the order above. CPU and CUDA give the same objects;
        a pixel on an outline may differ, and with it a box by that pixel.

    Raises:
        ValueError: for an unknown split or difficulty, a negative count or seed, a size under 32.
    """
    from tqdm.auto import tqdm

    width, height = (size, size) if isinstance(size, int) else size
    count, level = _checked(split, count, width, height, difficulty, seed)
    device = best_device() if device is None else torch.empty(0, device=device).device
    place = storage_device(count * 3 * height * width, device)
    images = torch.empty(count, 3, height, width, dtype=torch.uint8, device=place)
    targets = []
    step = 32 if device.type == "cpu" else 1024  # a batch of windows should stay in the CPU's cache
    with tqdm(total=count, desc=f"{split} scenes", unit=" scenes", delay=2, leave=False) as bar:
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
            raise ValueError(f"difficulty is {difficulty!r}, expected a Difficulty or one of {', '.join(DIFFICULTIES)}")
        difficulty = DIFFICULTIES[difficulty]
    count = COUNTS[split] if count is None else count
    if count < 0 or seed < 0:
        raise ValueError(f"count is {count} and seed {seed}, expected 0 or more")
    if min(width, height) < 32:
        raise ValueError(f"size is {width} x {height}, expected at least 32 x 32: shapes would be a few pixels")
    return count, difficulty


# ---------------------------------------------------------------- outlines
ANGLES = 4096  # entries of an outline: a third of a pixel at a diameter of 400


def _outlines():
    """Squared radius of every kind's outline and hole by angle, circumscribed circle 1: two float32 [kinds, ANGLES].

    The first kinds are CLASSES; the others are distractors.
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
        return numpy.minimum(half_length / numpy.abs(numpy.cos(theta)), half_width / numpy.abs(numpy.sin(theta)))

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
    """Uniform float64 [stop - start, columns] in [0, 1): row i depends on (seed, split, start + i) and nothing else.

    Philox counts: its n-th block of four numbers is a function of key and n, so a row can be drawn without those before.
    """
    blocks = -(-columns // 4)
    key = numpy.array([seed, list(COUNTS).index(split)], dtype=numpy.uint64)
    numbers = numpy.random.Generator(numpy.random.Philox(key=key, counter=start * blocks))
    return numbers.random((stop - start, 4 * blocks))[:, :columns]


def _draw(start, stop, seed, split, level, width, height):
    """Everything random about scenes start..stop, as a dict of CPU tensors.

    By slot [B, S]: `kind` (row of the outlines), `label` (0 for a distractor), `used`, `order` (0 is painted first),
    `x`, `y`, `radius`, `cos`, `sin`, `stripes` [B, S, 4], `colours` [B, S, 2, 3]. By scene: `nodes` [B, 3, FINE, FINE],
    `noise` [B].
    """
    most = level.objects[1]
    slots = most + level.distractors[1]
    background = 3 * (COARSE**2 + FINE**2)
    u = _uniform(start, stop, seed, split, OF_SCENE + background + slots * OF_SLOT)
    scene, clouds, slot = numpy.split(u, [OF_SCENE, OF_SCENE + background], 1)
    slot = numpy.moveaxis(slot.reshape(-1, slots, OF_SLOT), 2, 0)  # [OF_SLOT, B, S]

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
    kinds = len(_OUTLINES[0])
    kind = numpy.where(distractor, integer(slot[0], len(CLASSES), kinds - 1), integer(slot[0], 0, len(CLASSES) - 1))
    scale = min(width, height) / 128
    low, high = level.diameters
    radius = scale / 2 * low * (high / low) ** slot[1]
    nearest = 1 - 2 * level.beyond  # of a centre to the border, in radii
    x = between(slot[2], nearest * radius, width - nearest * radius)
    y = between(slot[3], nearest * radius, height - nearest * radius)
    for j in range(1, most):  # an object in company copies the one before it and steps aside
        close = slot[4, :, j] < level.company
        angle, step = slot[5, :, j] * 2 * math.pi, between(slot[6, :, j], 0.35, 0.8) * radius[:, j - 1]
        least = nearest * radius[:, j - 1]
        beside = (
            kind[:, j - 1],
            radius[:, j - 1] * between(slot[1, :, j], 0.85, 1.0),
            numpy.clip(x[:, j - 1] + step * numpy.cos(angle), least, width - least),
            numpy.clip(y[:, j - 1] + step * numpy.sin(angle), least, height - least),
        )
        for values, value in zip((kind, radius, x, y), beside, strict=True):
            values[:, j] = numpy.where(close, value, values[:, j])
    turn = slot[7] * 2 * math.pi

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
    base, slope_x, slope_y = torch.from_numpy(2 * scene[:, 2:11] - 1).reshape(-1, 3, 3, 1, 1).unbind(1)  # [B, 3, 1, 1]
    nodes = 0.4 * base + 0.3 * (slope_x * line + slope_y * line[:, None]) + 0.5 * coarse
    nodes = 0.5 + level.clouds * (nodes + 0.25 * torch.from_numpy(fine).reshape(-1, 3, FINE, FINE))

    values = {"x": x, "y": y, "radius": radius, "cos": numpy.cos(turn), "sin": numpy.sin(turn)}
    values = {name: torch.from_numpy(value).float() for name, value in values.items()}
    return values | {
        "kind": torch.from_numpy(kind),
        "label": torch.from_numpy(numpy.where(distractor, 0, kind + 1)),
        "used": torch.from_numpy(used),
        "order": torch.from_numpy(numpy.argsort(numpy.argsort(-radius, 1, kind="stable"), 1, kind="stable")),
        "stripes": torch.from_numpy(stripes).float(),
        "colours": torch.from_numpy(tones).float(),
        "nodes": nodes.float().clamp(0.1, 0.9),
        "noise": torch.from_numpy(integer(scene[:, 11], 0, NOISE_WINDOWS - 1)),
    }


# ---------------------------------------------------------------- painting
def _paint(plan, level, width, height, device):
    """Images and targets of a plan: uint8 [B, 3, H, W] and a list of B dicts, on `device`."""
    plan = {name: value.to(device) for name, value in plan.items()}
    scenes, slots = plan["kind"].shape
    scene, slot = plan["used"].nonzero(as_tuple=True)  # one entry for each object or distractor
    part = {name: plan[name][scene, slot] for name in plan if name not in ("nodes", "noise", "used")}
    owner, column, row, tone = _painted_pixels(part, width, height)  # [P] each
    place = (scene[owner] * height + row) * width + column
    code = 2 * part["order"][owner] + tone + 1

    # what stays in sight of each; hidden objects go, picture and all
    top = _topmost(code, place, scenes * height * width)
    count = len(scene)
    painted = torch.bincount(owner, minlength=count)
    seen = torch.bincount(owner[top[place] == code], minlength=count)
    stays = (seen >= VISIBLE * painted) & (seen > 0) | (part["label"] == 0)
    if not stays.all():
        left = stays[owner]
        top = _topmost(code[left], place[left], len(top))

    background = torch.nn.functional.interpolate(
        plan["nodes"], size=(height, width), mode="bilinear", align_corners=True
    ).flatten(2)  # [B, 3, HW]
    centre = part["y"].long().clamp(0, height - 1) * width + part["x"].long().clamp(0, width - 1)
    behind = background[scene, :, centre]  # [objects, 3]
    colours = behind[:, None] + part["colours"]  # [objects, 2, 3]
    colours = torch.where((colours < 0) | (colours > 1), behind[:, None] - part["colours"], colours)
    palette = torch.zeros(scenes, 2 * slots + 1, 3, device=device)
    for tone in (0, 1):
        palette[scene, 2 * part["order"] + tone + 1] = colours[:, tone]
    top = top.view(scenes, 1, -1).expand(-1, 3, -1)  # [B, 3, HW]
    images = torch.where(top > 0, palette.transpose(1, 2).gather(2, top), background)
    if level.noise > 0:
        images += level.noise * _noise(width * height * 3, device)[plan["noise"]].view_as(images)
    images = images.mul_(255).round_().clamp_(0, 255).to(torch.uint8).view(scenes, 3, height, width)

    boxes = torch.stack(
        [
            _extreme(column, owner, count, "amin"),
            _extreme(row, owner, count, "amin"),
            _extreme(column, owner, count, "amax") + 1,
            _extreme(row, owner, count, "amax") + 1,
        ],
        1,
    ).float()  # [objects, 4]
    kept = stays & (part["label"] > 0)
    numbers = torch.bincount(scene[kept], minlength=scenes).tolist()
    pairs = zip(boxes[kept].split(numbers), part["label"][kept].split(numbers), strict=True)
    return images, [{"boxes": boxes, "labels": labels} for boxes, labels in pairs]


def _painted_pixels(part, width, height):
    """The pixels that objects paint, as one flat list: owner, column, row, tone (0 or 1), each int64 [P]."""
    device = part["x"].device
    x, y, radius = part["x"], part["y"], part["radius"]
    left, top = (x - radius).floor().clamp(min=0).long(), (y - radius).floor().clamp(min=0).long()
    columns = ((x + radius).ceil().clamp(max=width).long() - left).clamp(min=0)
    rows = ((y + radius).ceil().clamp(max=height).long() - top).clamp(min=0)
    areas = columns * rows
    owner = torch.arange(len(x), device=device).repeat_interleave(areas)
    number = torch.arange(len(owner), device=device) - (areas.cumsum(0) - areas)[owner]
    row = number // columns[owner]
    column = number - row * columns[owner] + left[owner]
    row += top[owner]

    # into the object's own frame: turned, the circle around it at radius 1
    u_x, u_y = part["cos"] / radius, part["sin"] / radius
    right, down = column + 0.5 - x[owner], row + 0.5 - y[owner]
    u = u_x[owner] * right + u_y[owner] * down
    v = u_x[owner] * down - u_y[owner] * right
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
    """The largest code at every place, 0 where none is: int64 [size]. The order of the list does not matter."""
    return torch.zeros(size, dtype=torch.int64, device=code.device).scatter_reduce_(0, place, code, "amax")


def _extreme(values, owner, count, reduce):
    """Smallest or largest of each owner's values: int64 [count], 0 for one without any."""
    zeros = torch.zeros(count, dtype=torch.int64, device=values.device)
    return zeros.scatter_reduce_(0, owner, values, reduce, include_self=False)


@functools.lru_cache(2)
def _noise(length, device):
    """Windows of one long Gaussian noise: float32 [NOISE_WINDOWS, length], a view; row i starts at number i."""
    numbers = numpy.random.Generator(numpy.random.Philox(key=0)).standard_normal(length + NOISE_WINDOWS - 1, "float32")
    return torch.from_numpy(numbers).to(device).unfold(0, length, 1)
