"""The detectors that the lessons train beside torchvision's: the same trunk, data, rate and decay, several seeds.

Two comparisons: at equal steps, and at equal seconds, where torchvision's is trained for as many steps as it does in the
time that ours needed. Each run is kept in `build/bench` as it ends, so that an interrupted bench goes on where it was.
"""

import json
import os
import statistics
from dataclasses import dataclass
from typing import Callable

import torch
from torch import nn

from autograder.experiment import experiment_names, machine
from autograder.lessons import sources
from coursekit.backbones import small_trunk
from coursekit.data import scenes
from coursekit.evaluation import evaluate
from coursekit.training import fit

from .frame import ROOT, beside

SIDE, STEPS, SEEDS = 96, 500, (0, 1, 2)
TRAIN, TEST = 4096, 400  # easy scenes
CLASSES = 6
KEPT = ROOT / "build" / "bench"


@dataclass
class Contender:
    """A detector, how it is trained, and how it detects; `make()` gives a new model."""

    make: Callable
    loss: Callable
    detect: Callable
    rate: float
    decay: float
    batch: int

    def train(self, model, data, steps, seed):
        options = {"peak_rate": self.rate, "weight_decay": self.decay, "batch_size": self.batch}
        return fit(model, self.loss, data, steps=steps, seed=seed, progress=False, **options)


def pair(ours, theirs, loss, rate, decay, batch=32):
    """Our contender and torchvision's, which computes its loss itself."""
    same = (rate, decay, batch)
    return (
        Contender(ours, loss, lambda model: model.detect, *same),
        Contender(theirs, lambda model, images, targets: model(list(images), targets), lambda model: lambda x: model(list(x)), *same),
    )


def ssd(names):
    """The SSD of lesson 05. torchvision's has its trunk, its fourth level, its anchors and its thresholds."""
    from torchvision.models.detection import ssd

    def ours():
        return names["SSD"](small_trunk(), CLASSES, (SIDE, SIDE))

    class Trunk(nn.Module):
        def __init__(self, whole):
            super().__init__()
            self.trunk, self.extra = whole.backbone, whole.extra

        def forward(self, images):
            maps = self.trunk(images)
            return {**maps, "extra": self.extra(maps["c5"])}

    class Anchors(nn.Module):
        def __init__(self, anchors):
            super().__init__()
            self.register_buffer("anchors", anchors)

        def forward(self, images, maps):
            return [self.anchors] * len(images.image_sizes)

    def theirs():
        whole = ours()
        channels = [layer.in_channels for layer in whole.head.scores]
        head = ssd.SSDHead(channels, [len(names["RATIOS"]) + 1] * len(channels), CLASSES + 1)
        head.register_forward_hook(as_float)
        return ssd.SSD(
            Trunk(whole), Anchors(whole.anchors), (SIDE, SIDE), CLASSES + 1, [0.0] * 3, [1.0] * 3, head,
            score_thresh=0.02, nms_thresh=0.5, detections_per_img=100,
        )  # fmt: skip

    def loss(model, images, targets):
        labels, deltas = names["batch_targets"](model.anchors, targets)
        return dict(zip(("class", "box"), names["ssd_loss"](*model(images), labels, deltas)))

    return pair(ours, theirs, loss, 1.2e-2, 0.3)


def faster_rcnn(names):
    """The Faster R-CNN of lesson 09 and the twin of its experiment, in mixed precision too."""
    names["SIZE"] = (SIDE, SIDE)

    def theirs():
        model = names["torchvisions"]()
        for part in (model.backbone, model.rpn.head, model.roi_heads.box_predictor):
            part.register_forward_hook(as_float)
        return model

    return pair(names["FasterRCNN"], theirs, names["joint_loss"], names["RATE"], names["DECAY"], names["BATCH"])


def retinanet(names):
    """The RetinaNet of lesson 11 and the twin of its experiment."""
    names["SMALL"] = SIDE
    return pair(
        lambda: names["RetinaNet"](small_trunk(), CLASSES, (SIDE, SIDE)), lambda: names["Theirs"](CLASSES).model,
        names["loss"], names["RATE"], names["DECAY"],
    )  # fmt: skip


def fcos(names):
    """The FCOS of lesson 13 and the twin of its experiment."""
    names["SMALL"] = SIDE
    return pair(
        lambda: names["FCOS"](small_trunk(), CLASSES, (SIDE, SIDE), depth=1), lambda: names["Theirs"](CLASSES).model,
        names["loss"], names["RATE"], names["DECAY"],
    )  # fmt: skip


def as_float(module, arguments, output):
    """A forward hook: losses are not for bfloat16's 8 bits, and torchvision's do not all take them."""
    if isinstance(output, torch.Tensor):
        return output.float()
    if isinstance(output, dict):
        return {key: as_float(module, arguments, value) for key, value in output.items()}
    return type(output)(as_float(module, arguments, value) for value in output)


DETECTORS = {"05_ssd": ssd, "09_faster_rcnn": faster_rcnn, "11_retinanet": retinanet, "13_fcos": fcos}
NAMES = {"05_ssd": "SSD", "09_faster_rcnn": "Faster R-CNN", "11_retinanet": "RetinaNet", "13_fcos": "FCOS"}


class Runs:
    """Results that are kept in a file, each made once for the same code, machine and size."""

    def __init__(self, path, size):
        self.path, self.size = path, size
        self.all = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def get(self, *what, make):
        """What the file has under this name, else what `make()` gives; a dict of numbers."""
        key = ", ".join(map(str, (*what, self.size, machine())))
        if key not in self.all:
            self.all[key] = make()
            print(f"{key}: {self.all[key]}", flush=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.all, indent=1), encoding="utf-8")
            os.replace(part, self.path)
        return self.all[key]


def trained(contender, train, test, steps, seed):
    """One run from its first weights to its score."""
    torch.manual_seed(seed)
    model = contender.make()
    history = contender.train(model, train, steps, seed)
    scores = evaluate(contender.detect(model), test, small=12, large=30)
    return {"steps": steps, "AP": scores.AP, "AP50": scores.AP50, "seconds": history.seconds}


def pace(ours, theirs, train, steps, seed):
    """Seconds a step of both, trained in turn, and how many times longer torchvision's takes: medians of pairs."""
    models = [one.make() for one in (ours, theirs)]
    turns = [lambda one=one, model=model: one.train(model, train, steps, seed) for one, model in zip((ours, theirs), models)]
    for turn in turns:
        turn()  # warms up
    mine, other, ratio = beside(*turns, 5)
    return {"ours": mine / steps, "torchvision": other / steps, "ratio": ratio}


def mean_and_deviation(values):
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def shown(values):
    return "{:.3f} ± {:.3f}".format(*mean_and_deviation(values))


def beyond_noise(ours, theirs):
    """ "above", "level" or "below": level where the means differ by less than two standard errors of their difference."""
    (mine, a), (other, b) = mean_and_deviation(ours), mean_and_deviation(theirs)
    noise = 2 * ((a * a + b * b) / len(ours)) ** 0.5
    return "level" if abs(mine - other) <= noise else "above" if mine > other else "below"


def test_training(table, request):
    share = request.config.getoption("--share")
    steps, seeds = max(2, round(share * STEPS)), SEEDS if share == 1 else SEEDS[:1]
    cuda = torch.cuda.is_available()
    place = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    result = table(
        "training_gpu" if cuda else "training",
        f"Training the lessons' detectors on easy scenes of {SIDE} px, {steps} steps, {place}",
        ["", "AP", "torchvision's", "torchvision's in our time", "its steps then", "ours beside that", "images/s", "torchvision's images/s"],
    )
    train, test = (
        scenes(split, max(32, round(share * count)), size=SIDE, difficulty="easy") for split, count in (("train", TRAIN), ("test", TEST))
    )
    paths = {path.parent.name: path for path in sources()}
    lessons = {lesson: experiment_names(paths[lesson]) for lesson in DETECTORS}
    contenders = {lesson: DETECTORS[lesson](names) for lesson, (names, _) in lessons.items()}
    kept = Runs(KEPT / f"training_of_{steps}_steps.json", f"{steps} steps, {len(train)} scenes of {SIDE} px")
    found = {lesson: [] for lesson in DETECTORS}
    for seed in seeds:
        for lesson, (ours, theirs) in contenders.items():
            about = (lesson, lessons[lesson][1], f"seed {seed}")
            speed = kept.get(
                *about, "pace", make=lambda: pace(ours, theirs, train, min(steps, 60 if cuda else 10), seed)
            )
            equal = max(1, round(steps / speed["ratio"]))
            found[lesson].append((
                speed,
                kept.get(*about, "ours", make=lambda: trained(ours, train, test, steps, seed)),
                kept.get(*about, "torchvision", make=lambda: trained(theirs, train, test, steps, seed)),
                kept.get(*about, "torchvision in our time", make=lambda: trained(theirs, train, test, equal, seed)),
            ))  # fmt: skip
    words = {}
    for lesson, runs in found.items():
        paces, *three = zip(*runs)
        mine, equal_steps, equal_time = ([run["AP"] for run in one] for one in three)
        words[NAMES[lesson]] = beyond_noise(mine, equal_time)
        batch = min(contenders[lesson][0].batch, len(train))
        rates = [batch / statistics.median(one[who] for one in paces) for who in ("ours", "torchvision")]
        later = round(statistics.mean(run["steps"] for run in three[2]))
        result.row(NAMES[lesson], shown(mine), shown(equal_steps), shown(equal_time), later, words[NAMES[lesson]], *rates)
    if share == 1:
        below = [name for name, word in words.items() if word == "below"]
        above = [name for name, word in words.items() if word == "above"]
        result.goal(
            not below,
            f"in equal time {len(above)} of {len(words)} are above torchvision's ({', '.join(above) or 'none'}) and "
            f"{len(below)} below ({', '.join(below) or 'none'}), the rest level; the goal is none below",
        )
    result.notes.append(
        f"AP on {len(test)} scenes that nobody trained on: mean and standard deviation of {len(seeds)} seeds; level means that the "
        "means differ by less than two standard errors of their difference. torchvision's models have the lesson's trunk, data, "
        "rate and decay, and matching, losses and prediction of their own; both compute in bfloat16 where autocast does. "
        "Its steps in our time follow from pairs of short trainings in turn, as do images per second."
    )
    result.about["runs"] = [
        {"lesson": lesson, "seed": seed, "pace": runs[0], "ours": runs[1], "torchvision": runs[2], "in our time": runs[3]}
        for lesson, several in found.items()
        for seed, runs in zip(seeds, several)
    ]
    kept.path.unlink()  # the table has them; the next bench measures anew
    assert not result.missed
