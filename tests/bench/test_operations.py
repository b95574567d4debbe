"""What a training step of the lessons' detectors computes and moves, and what it would take at least on named GPUs."""

import contextlib
import statistics
import time

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from autograder.curves import cells_to_run
from autograder.lessons import sources
from coursekit import training

LESSONS = {"05_ssd": "SSD", "09_faster_rcnn": "Faster R-CNN", "11_retinanet": "RetinaNet", "12_fsaf": "RetinaNet + FSAF", "13_fcos": "FCOS"}
# Peaks by NVIDIA's data sheets: 10^12 operations a second (T4: float32, for it has no bfloat16; H200: bfloat16, dense),
# 10^9 bytes a second. Small layers reach a part of them.
CARDS = {"T4": (8.1, 320), "H200": (989, 4800)}
REACHED = 0.25, 0.5
GOALS = {"T4": 180, "H200": 30}  # seconds for a lesson's training


class Found(BaseException):
    """The training that a lesson is known by has been reached."""


def named_training(path):
    """`(model, loss, data, options)` of a lesson's first training that has a name; those before it take one step."""
    fit = training.fit

    def reached(model, loss, data, **options):
        if options.get("expected"):
            raise Found(model, loss, data, options)
        return fit(model, loss, data, **{**options, "steps": 1, "checkpoint": None, "progress": False})

    namespace = {"__name__": "bench"}
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(path.parent):
        patch.setattr(training, "fit", reached)
        try:
            for source in cells_to_run(path):
                exec(compile(source, str(path), "exec"), namespace)
        except Found as found:
            return found.args
    raise LookupError(f"{path} has no training with a name")


class Traffic(TorchDispatchMode):
    """Counts operations that touch memory, and the bytes of the tensors that they read and write."""

    def __init__(self):
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        written = [one for one in torch.utils._pytree.tree_leaves(result) if isinstance(one, torch.Tensor)]
        read = [one for one in torch.utils._pytree.tree_leaves((arguments, options)) if isinstance(one, torch.Tensor)]
        memory = {one.untyped_storage().data_ptr() for one in read}
        if written and not (function.is_view or all(one.untyped_storage().data_ptr() in memory and one._is_view() for one in written)):
            self.operations += 1
            self.bytes += sum(one.numel() * one.element_size() for one in [*read, *written])
        return result


def counted(model, loss, data, options, *, bf16):
    """`(flops, bytes, operations)` of one step, the difference between three steps and one."""
    found = []
    for steps in (1, 3):
        flops, traffic = FlopCounterMode(display=False), Traffic()
        with flops, traffic:
            training.fit(model, loss, data, **options, steps=steps, bf16=bf16, progress=False)
        found.append((flops.get_total_flops(), traffic.bytes, traffic.operations))
    return [(three - one) / 2 for one, three in zip(*found)]


def seconds_of_the_host(model, loss, data, options, steps=20):
    """A step with one image: what Python and the calls of operations take, and a little arithmetic, median of three."""
    times = []
    for _ in range(3):
        history = training.fit(model, loss, data, **{**options, "batch_size": 1}, steps=steps, bf16=False, progress=False)
        times.append(history.seconds / steps)
    return statistics.median(times)


def test_operations(table):
    """Counted on the CPU; the cards' times are estimates, which say what they take for granted."""
    result = table(
        "operations", "A training step of the lessons' detectors, and the whole training on two cards, estimated",
        ["", "steps", "images", "10⁹ operations", "MB", "calls", "host, ms", *(f"{card}, ms" for card in CARDS),
         *(f"all on {card}, s" for card in CARDS)],
    )  # fmt: skip
    torch.set_num_threads(1)
    longest = dict.fromkeys(CARDS, 0.0)
    for path in sources():
        if path.parent.name not in LESSONS:
            continue
        model, loss, data, options = named_training(path)
        steps, batch = options.pop("steps"), options.get("batch_size", 32)
        for name in ("expected", "checkpoint"):
            options.pop(name, None)
        flops, plain, calls = counted(model, loss, data, options, bf16=False)
        _, mixed, _ = counted(model, loss, data, options, bf16=True)
        host = seconds_of_the_host(model, loss, data, options)
        part = {
            card: flops / (speed * 1e12 * REACHED[0]) + (plain if card == "T4" else mixed) / (width * 1e9 * REACHED[1])
            for card, (speed, width) in CARDS.items()
        }
        whole = {card: steps * max(host, seconds) for card, seconds in part.items()}
        longest = {card: max(longest[card], seconds) for card, seconds in whole.items()}
        in_ms = (1000 * seconds for seconds in (host, *part.values()))
        result.row(LESSONS[path.parent.name], steps, batch, flops / 1e9, plain / 1e6, round(calls), *in_ms, *whole.values())
    for card, goal in GOALS.items():
        result.notes.append(f"Longest on {card}: {longest[card]:.0f} s, the aim is {goal}.")
    result.notes.append(
        f"Counted: operations, and the bytes that calls read and write in float32. A card is taken to reach {REACHED[0]:.0%} of its "
        f"peak of operations and {REACHED[1]:.0%} of that of memory (T4 in float32, H200 in bfloat16), while the host makes the calls: "
        "the slower of the two counts. The host is the one of this measurement, with one image; on another one it may be half as fast. "
        "Estimates, not measurements."
    )
