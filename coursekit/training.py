"""`fit` trains a detector: progress, mixed precision, checkpoints that continue a run exactly.

    history = fit(model, loss, data, steps=1000, checkpoint="ssd.safetensors")
    history.plot()

`loss(model, images, targets)` gives a dict of scalars, which are summed: {"class": ..., "box": ...}.

What is shown: a progress bar where someone watches (see `coursekit.progress`), and in notebooks a loss curve
that grows, before the band in which the solution's own runs lie (see `coursekit.expected`).
"""

import atexit
import contextlib
import functools
import itertools
import json
import math
import os
import signal
import textwrap
import threading
import time
import traceback
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch

from coursekit.code import changed, code_digest
from coursekit.progress import audience, progress_bar

FORMAT = "coursekit.training 1"
WARM_UP = 0.1  # share of the steps in which the rate rises
LOOK_EVERY = 20  # steps between looks at the losses on a GPU: each look makes the GPU wait for Python
DRAW_EVERY = 5.0  # seconds between drawings of the live curve
FREE_MEMORY = "restart this kernel, and shut down other notebooks that hold the device's memory"


@dataclass
class History:
    """What a run did.

    Attributes:
        steps (list of int): 1, 2, ...; those that were done.
        losses (dict of lists of float): by name, one value a step.
        seconds (float): of training, resumed runs included.
        batch_size (int): images a step.
        wanted (int): the steps that were asked for.
        complete (bool): whether all of them are done.
        expected (coursekit.expected.Expected or None): the band in which the losses should lie.
    """

    steps: list = field(default_factory=list)
    losses: dict = field(default_factory=dict)
    seconds: float = 0.0
    batch_size: int = 0
    wanted: int = 0
    complete: bool = False
    expected: object = None

    @property
    def images_per_second(self):
        """Over the whole run, the first slow steps included; 0 for a run that did nothing."""
        return len(self.steps) * self.batch_size / self.seconds if self.seconds else 0.0

    @property
    def total(self):
        """The sum of the losses at each step: list of float."""
        return [sum(parts) for parts in zip(*self.losses.values())]

    def plot(self, ax=None):
        """Draws the losses over the steps, before the band that is expected, if there is one."""
        from coursekit.plot import show_loss

        show_loss(self, ax)

    def is_normal(self):
        """Is this loss normal? The answer in words; "" where nothing is known of what to expect."""
        return self.expected.verdict(self) if self.expected and self.steps else ""

    def __repr__(self):
        if not self.steps:
            return "no step done"
        tenth = max(1, len(self.steps) // 10)
        first, last = (sum(part) / len(part) for part in (self.total[:tenth], self.total[-tenth:]))
        return (
            f"{len(self.steps):,} steps of {self.batch_size} images in {self.seconds:.0f} s "
            f"({self.images_per_second:,.0f} images/s): loss {first:.3g} in the first tenth, "
            f"{last:.3g} in the last"
        )


class TrainingError(RuntimeError):
    """A run that cannot go on: the loss or its gradient is no number, or memory is out."""


def fit(model, loss, data, *, steps, batch_size=32, peak_rate=8e-3, weight_decay=0.01, clip=10.0, flip=True,
        seed=0, device=None, bf16=None, slower=None, checkpoint=None, save_every=60.0,
        expected=None, progress=True):  # fmt: skip
    """Trains a model by AdamW at a learning rate that rises over a tenth of the steps, then falls.

    The batches depend on `seed` and the step alone, and random numbers drawn from torch inside of the loss
    too. So a run that was interrupted and goes on from its checkpoint ends with the very weights of one that
    was not. On exit the model is in evaluation mode. An interrupt (Ctrl-C, the stop button) ends the run
    after the step at hand; press twice to stop at once. While nbgrader grades, nothing is trained.

    Under `torchrun --nproc-per-node=2 train.py` the processes train together, by DistributedDataParallel: each takes its
    part of every batch, and their gradients are averaged. So a loss that is a mean over images gives what one process
    gives; one divided by the positives of its images differs a little, as everywhere. Batch norm counts the images of one
    process, and those of the first stay; with CUDA, `SyncBatchNorm.convert_sync_batchnorm(model)` before
    counts all. Every process must bring the same model and data. The first one alone prints, and writes the checkpoint,
    which all must be able to read.

    Args:
        model (Module): trained in place, moved to the device. What it returns reaches the loss as float32.
        loss (callable): `loss(model, images, targets) -> dict of str: scalar Tensor`; images float32 [B, 3,
            H, W] in 0..1, targets a list of B dicts with `boxes` [M, 4] in pixels and `labels` [M], M may be
            0.
        data (DetectionData): what to train on.
        steps (int): batches in all, earlier ones of a resumed run included.
        batch_size (int): images a step, of all processes together; no more than there are.
        peak_rate (float): the highest learning rate.
        weight_decay (float): AdamW's.
        clip (float): the gradient's norm is scaled down to this.
        flip (bool): mirror half of the images, drawn anew each time.
        seed (int): of batches, flips and torch's random numbers; not of the model's weights, which exist
            already.
        device (optional): a CUDA device if there is one, else the CPU; under torchrun each process has its own.
        bf16 (bool, optional): whether to use bfloat16 where autocast does; by default where it is faster.
        slower (dict, optional): part of the rate for some weights by the beginning of their name:
            `{"backbone": 0.1}`.
        checkpoint (path, optional): a `.safetensors` file, written every `save_every` seconds and at the end;
            if it is there already, the run goes on from it. If model or loss have become other code since, it
            is put aside and the training begins anew. With COURSEKIT_CHECKPOINTS=0 in the environment none is
            read or written: what executes a lesson to compare its outputs wants them the same each time.
        save_every (float): seconds.
        expected (str, optional): lesson and training, such as "05_ssd scenes": the losses are held beside those
            of the solution's own runs.
        progress (bool): show a bar, in a notebook with a curve, where someone watches.

    Returns:
        History: of all steps, those before a resume included.

    Raises:
        TrainingError: if a loss or gradient is infinite or no number, or memory is out. The last checkpoint
            stays as it is.
        ValueError: if the checkpoint belongs to another run, `loss` returns something else than named
            scalars, or a batch cannot be shared out evenly.
        LookupError: if nothing is known of the `expected` training.
    """
    if os.environ.get("NBGRADER_EXECUTION") == "autograde":
        print("training is skipped while grading")
        return History(batch_size=batch_size)
    if os.environ.get("COURSEKIT_CHECKPOINTS") == "0":
        checkpoint = None
    if steps < 1 or batch_size < 1 or not len(data):
        raise ValueError(f"{steps} steps of {batch_size} out of {len(data)} images: each must be at least 1")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    team = Team(device)
    device = torch.empty(0, device=team.device).device  # "cuda" becomes "cuda:0", as tensors there say
    batch_size = min(batch_size, len(data))
    if batch_size % team.size:
        raise ValueError(f"{batch_size} images a batch cannot be shared out evenly to {team.size} processes")
    layout = memory_format(model, device)
    band = load_expected(expected) if expected else None
    try:
        data = data if data.device == device else data.to(device)
        model.to(device, memory_format=layout).train()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise TrainingError(f"{device} has no memory left for the data and the model: {FREE_MEMORY}") from error
        raise
    optimizer, shares = make_optimizer(model, peak_rate, weight_decay, slower or {})
    run = Run(
        model, optimizer, History(batch_size=batch_size, wanted=steps, expected=band), checkpoint and Path(os.fspath(checkpoint)),
        settings={
            "steps": steps, "batch_size": batch_size, "peak_rate": peak_rate, "weight_decay": weight_decay,
            "clip": clip, "flip": flip, "seed": seed, "slower": slower or {}, "images": len(data),
            "image size": list(data.images.shape[2:]), "boxes": sum(len(t["labels"]) for t in data.targets),
        },
        bf16=bf16_pays(device) if bf16 is None else bool(bf16), code=code_digest(loss, model), first=team.first,
    )  # fmt: skip
    with team.first_last():  # it may put the file aside
        run.resume()
    history = run.history
    done = len(history.steps)
    if run.checkpoint and done and team.first:
        print(
            f"{run.checkpoint} holds step {done:,} of {steps:,}"
            + (": nothing left to do" if done == steps else "")
        )
    watch = Watch(history, steps, progress and team.first and done < steps)
    pending = []  # (step, names, values on the device)
    started, before = time.perf_counter(), history.seconds
    last_save = started
    batches = endless_batches(data, batch_size, flip, seed, done, layout == torch.channels_last)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    losses = team.share(model, loss)
    random_numbers = torch.random.fork_rng([device] if device.type == "cuda" else [])
    try:
        quick = quick_group_norms(model, device, layout)
        with Interrupts() as wish, random_numbers, fast_matrix_products(device), float_outputs(model), quick:
            for step in range(done + 1, steps + 1):
                torch.manual_seed(1_000_003 * seed + step + (team.rank << 40))
                images, targets = (part[team.part(batch_size)] for part in next(batches))
                for group, share in zip(optimizer.param_groups, shares):
                    group["lr"] = share * one_cycle(step - 1, steps, peak_rate)
                with torch.autocast(device.type, torch.bfloat16, enabled=run.bf16):
                    parts = losses(images, targets)
                parts = checked_parts(parts, list(history.losses) or (pending and pending[0][1]), step)
                optimizer.zero_grad(set_to_none=True)
                torch.stack([part.float() for part in parts.values()]).sum().backward()
                norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
                values = torch.stack([part.detach().float() for part in parts.values()] + [norm.float()])
                team.average(values)
                pending.append((step, list(parts), values))
                if device.type == "cpu":
                    run.look(pending, data)  # before the step: the weights are still good
                optimizer.step()
                stop = team.agree(wish.asked, step)
                if len(pending) >= LOOK_EVERY or step == steps or stop:
                    run.look(pending, data)
                now = time.perf_counter()
                history.seconds = before + now - started
                watch.update()
                if stop:
                    break
                if run.checkpoint and now - last_save > save_every:
                    run.look(pending, data)
                    run.save()
                    last_save = time.perf_counter()
    except KeyboardInterrupt:
        # the second one, or one outside of the main thread: the step at hand is half done
        run.tell_interrupted("at once; the weights are in the middle of a step")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        images = targets = parts = values = None  # what the next try needs must not lie here
        pending.clear()
        traceback.clear_frames(error.__traceback__)
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise TrainingError(out_of_memory(batch_size, device, run.checkpoint)) from error
    else:
        run.look(pending, data)
        history.complete = len(history.steps) == steps
        if run.checkpoint and len(history.steps) > done:
            run.save()
        if not history.complete:
            run.tell_interrupted("after the step at hand")
    finally:
        watch.close()
        model.eval()
    if watch.bar is not None and band:
        print(history.is_normal())
    return history


class Run:
    """The state of a training run, and its file."""

    def __init__(self, model, optimizer, history, checkpoint, settings, bf16, code, first=True):
        self.model, self.optimizer, self.history, self.first = model, optimizer, history, first
        self.checkpoint, self.settings, self.bf16, self.code = checkpoint, settings, bf16, code

    def look(self, pending, data):
        """Moves losses from the device into the history; raises where one is no number."""
        if not pending:
            return
        table = torch.stack([values for _, _, values in pending]).tolist()
        names = pending[0][1]
        first = pending[0][0]
        pending.clear()
        for step, row in enumerate(table, first):
            bad = [name for name, value in zip(names, row) if not math.isfinite(value)]
            if bad or not math.isfinite(row[-1]):
                raise TrainingError(self.no_number(step, bad, dict(zip(names, row)), data))
            self.history.steps.append(step)
            for name, value in zip(names, row):
                self.history.losses.setdefault(name, []).append(value)

    def no_number(self, step, bad, values, data):
        """What to say when a loss or gradient is no number."""
        shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        if bad:
            where = f"the loss {' and '.join(map(repr, bad))} is not finite at step {step} ({shown})"
            causes = "log, sqrt or a division at 0 (no positives in the batch?), exp of a large number"
        else:
            where = f"the losses are finite at step {step} ({shown}), but their gradient is not"
            causes = "the slope of sqrt, log or a norm at 0; a NaN that torch.where hides going forward"
        rate = self.settings["peak_rate"]
        told = [f"{where}. Look at: {causes}; or a peak_rate of {rate:g} that is too high, try {rate / 4:g}"]
        flat = [
            i
            for i, t in enumerate(data.targets)
            if len(t["boxes"]) and bool((t["boxes"][:, 2:] <= t["boxes"][:, :2]).any())
        ]
        if flat:
            told.append(
                f"{len(flat)} images of the data hold boxes without area, the first is image {flat[0]}"
            )
        if self.checkpoint and self.checkpoint.exists():
            told.append(f"{self.checkpoint} keeps the last good state")
        return ". ".join(told)

    def tell_interrupted(self, how):
        if not self.first:
            return
        done, steps = len(self.history.steps), self.settings["steps"]
        kept = 'nothing is saved: fit(..., checkpoint="run.safetensors") could go on another time'
        if self.checkpoint:
            kept = (
                f"run this again to go on from {self.checkpoint}"
                if self.checkpoint.exists()
                else "nothing is saved yet"
            )
        print(f"interrupted {how}, {done:,} of {steps:,} steps done; {kept}")

    def save(self):
        """Writes the checkpoint. The file is whole at any moment: a new one takes the old one's place."""
        if not self.first:
            return
        from safetensors.torch import save_file

        state = self.optimizer.state_dict()
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, values in state["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        for name, values in self.history.losses.items():
            tensors[f"history.{name}"] = torch.tensor(values, dtype=torch.float64)
        # copies, as the file's format wants neither channels-last memory nor two names for the same memory
        tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
        plain = {
            "step": len(self.history.steps), "seconds": self.history.seconds,
            "losses": list(self.history.losses), "bf16": self.bf16, "settings": self.settings, "code": self.code,
        }  # fmt: skip
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        part = self.checkpoint.with_name(self.checkpoint.name + ".part")
        save_file(tensors, part, metadata={"format": FORMAT, "run": json.dumps(plain)})
        os.replace(part, self.checkpoint)

    def resume(self):
        """Takes over the state of the checkpoint, if there is one, exactly."""
        if not self.checkpoint or not self.checkpoint.exists():
            return
        tensors, plain = read_checkpoint(self.checkpoint)
        differing = [
            f"{name} {plain['settings'].get(name)}, now {value}"
            for name, value in json.loads(json.dumps(self.settings)).items()
            if plain["settings"].get(name) != value
        ]
        if differing:
            raise ValueError(
                f"{self.checkpoint} comes from another run: {'; '.join(differing)}. "
                "Delete it, or name another checkpoint, to train anew"
            )
        if changed(plain.get("code"), self.code):
            if not self.first:
                return
            aside = self.checkpoint.with_name(f"{self.checkpoint.stem}.before{self.checkpoint.suffix}")
            os.replace(self.checkpoint, aside)
            print(f"the model or the loss has changed since {self.checkpoint}: training anew (the old one is {aside.name})")
            return
        load_model_state(self.model, tensors["model"], self.checkpoint)
        state = self.optimizer.state_dict()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for index, values in tensors["optimizer"].items():
            parameter = parameters[int(index)]
            # laid out in memory as the optimiser itself would have made them
            state["state"][int(index)] = {
                name: torch.empty_like(parameter).copy_(value)
                if value.shape == parameter.shape
                else value.clone()
                for name, value in values.items()
            }
        self.optimizer.load_state_dict(state)
        self.bf16 = plain["bf16"]
        self.history.steps = list(range(1, plain["step"] + 1))
        self.history.losses = {name: tensors["history"][name].tolist() for name in plain["losses"]}
        self.history.seconds = plain["seconds"]


class Team:
    """The processes that train together under torchrun; alone, a team of one, for which nothing is done."""

    def __init__(self, device):
        self.size, self.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
        if not torch.distributed.is_available() or "MASTER_ADDR" not in os.environ:
            self.size, self.rank = 1, 0
        self.first, self.device = self.rank == 0, device
        if self.size == 1:
            return
        if device.type == "cuda" and device.index is None:
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
            atexit.register(torch.distributed.destroy_process_group)

    @contextlib.contextmanager
    def first_last(self):
        """What stands inside the first process does when the others have done it."""
        if self.size > 1 and self.first:
            torch.distributed.barrier()
        yield
        if self.size > 1 and not self.first:
            torch.distributed.barrier()

    def share(self, model, loss):
        """`losses(images, targets)`, whose gradients are averaged over the processes.

        The loss runs inside of the wrapper, so it may use every part of the model.
        """
        if self.size == 1:
            return functools.partial(loss, model)
        # a batch without objects leaves weights unused
        return torch.nn.parallel.DistributedDataParallel(Step(model, loss), find_unused_parameters=True)

    def part(self, batch_size):
        """The rows of a batch that are this process's: slice."""
        count = batch_size // self.size
        return slice(self.rank * count, (self.rank + 1) * count)

    def average(self, values):
        """Replaces a tensor by its mean over the processes; so all see what is no number at the same step."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.size

    def agree(self, wish, step):
        """Whether to stop: if any process is asked to, all must stop at the same step, so they ask now and then."""
        if self.size == 1:
            return wish
        if step % LOOK_EVERY:
            return False
        wishes = torch.tensor(float(wish), device=self.device)
        torch.distributed.all_reduce(wishes)
        return bool(wishes > 0)


class Step(torch.nn.Module):
    """A model's losses as a module."""

    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, images, targets):
        return self.loss(self.model, images, targets)


def load_model(model, checkpoint):
    """Puts the weights of a checkpoint of `fit` into a model, and the model in evaluation mode.

    Args:
        model (Module): changed in place, where it is.
        checkpoint (path): a file that `fit` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of another kind or from another model; says which names differ.
    """
    load_model_state(model, read_checkpoint(checkpoint)[0]["model"], checkpoint)
    model.eval()


def read_checkpoint(path):
    """The content of a checkpoint: ({"model": ..., "optimizer": ..., "history": ...}, dict of plain data)."""
    from safetensors import SafetensorError, safe_open

    path = Path(os.fspath(path))
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}: fit(..., checkpoint=...) writes one")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}): is it whole? Delete it to train anew") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no checkpoint of fit: its format is {metadata.get('format')}, expected {FORMAT}"
        )
    groups = {"model": {}, "optimizer": defaultdict(dict), "history": {}}
    for name, value in tensors.items():
        group, _, rest = name.partition(".")
        if group == "optimizer":
            index, _, entry = rest.partition(".")
            groups[group][index][entry] = value
        else:
            groups[group][rest] = value
    return groups, json.loads(metadata["run"])


def load_model_state(model, state, path):
    """Copies a state into a model, or says what does not fit."""
    own = model.state_dict()
    differing = [f"{name} is missing" for name in own if name not in state]
    differing += [f"{name} is not expected" for name in state if name not in own]
    differing += [
        f"{name} is {list(state[name].shape)}, expected {list(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if differing:
        more = f", and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ValueError(
            f"{path} holds another model: {', '.join(differing[:4])}{more}. Has the model changed since?"
        )
    model.load_state_dict(state)


def one_cycle(step, steps, peak):
    """The learning rate: from peak/25 to the peak in a tenth of the steps, then to nearly 0, by cosines.

    Source: Smith and Topin, 2018 (arXiv:1708.07120); the numbers are those of torch's OneCycleLR.

    Args:
        step (int): 0 .. steps - 1.
        steps (int): in all.
        peak (float): the highest rate.
    """
    start, end = peak / 25, peak / 25e4
    top = max(WARM_UP * steps - 1, 0)  # the step of the peak
    if step < top:
        low, high, share = start, peak, step / top
    else:
        low, high, share = peak, end, (step - top) / max(steps - 1 - top, 1)
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2


def make_optimizer(model, rate, weight_decay, slower):
    """AdamW over what learns, and for each of its groups the share of the rate that it gets."""
    groups = defaultdict(list)
    used = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            prefix = max((p for p in slower if name.startswith(p)), key=len, default=None)
            used.add(prefix)
            groups[1.0 if prefix is None else float(slower[prefix])].append(parameter)
    unused = set(slower) - used
    if unused:
        some = ", ".join(dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters()))
        raise ValueError(
            f"slower={slower}: no weight that learns begins with {unused.pop()!r}, but with {some}"
        )
    if not groups:
        raise ValueError("the model has no weights that learn: is everything frozen?")
    made = [{"params": parameters} for parameters in groups.values()]
    return torch.optim.AdamW(made, lr=rate, weight_decay=weight_decay, fused=True), list(groups)


def endless_batches(data, batch_size, flip, seed, skip, channels_last):
    """Batch after batch without the first `skip`, each pass in an order drawn from seed and pass number."""
    passes = len(data) // batch_size
    for number in itertools.count(skip // passes):
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        batches = data.batches(
            batch_size,
            shuffle=True,
            flip=flip,
            generator=generator,
            drop_last=True,
            channels_last=channels_last,
        )
        yield from itertools.islice(batches, skip % passes if number == skip // passes else 0, None)


def checked_parts(parts, names, step):
    """The dict that a loss returned, if it holds scalars by name, by the same names as before."""
    if isinstance(parts, torch.Tensor):
        parts = {"loss": parts}
    if (
        not isinstance(parts, dict)
        or not parts
        or not all(isinstance(v, torch.Tensor) for v in parts.values())
    ):
        raise ValueError(
            f"loss returned {type(parts).__name__} {parts!r:.80}, expected a dict of names and scalar tensors"
        )
    for name, value in parts.items():
        if value.numel() != 1:
            raise ValueError(
                f"the loss {name!r} has shape {tuple(value.shape)}, expected a scalar: sum or mean is missing"
            )
    if names and list(parts) != names:
        raise ValueError(f"loss returned {list(parts)} at step {step}, expected {names} as before")
    if not any(value.requires_grad for value in parts.values()):
        raise ValueError(
            f"at step {step} no loss depends on the model's weights: return predictions.sum() * 0 where "
            "nothing is to be learnt, and look for detach, no_grad or item"
        )
    return {name: value.reshape(()) for name, value in parts.items()}


def memory_format(model, device):
    """Channels last, except on a CPU for a model with a narrow 1×1 convolution of stride 2.

    The weight gradient of such a convolution in float32 has corrupted the heap (4, 8 and 12 channels in, not 16).
    """
    narrow = any(
        isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1) and max(m.stride) > 1 and m.in_channels < 16
        for m in model.modules()
    )
    return torch.contiguous_format if narrow and device.type == "cpu" else torch.channels_last


@contextlib.contextmanager
def quick_group_norms(model, device, layout):
    """While it lasts, group norms on a CPU see their maps channel by channel, whatever the layout around them.

    There a group norm takes up to 16 times as long in bfloat16 and channels last ([32, 64, 16, 16], 32 groups: 14.8
    instead of 0.9 ms forward and backward, torch 2.15, one thread); two copies are cheaper. Convolutions without channels
    last make a detector's step a fifth longer. In the end a model with group norms is laid out plainly, as they like it.
    """
    slow = device.type == "cpu" and layout == torch.channels_last
    norms = [m for m in model.modules() if slow and isinstance(m, torch.nn.GroupNorm)]

    def last(maps):
        return maps.contiguous(memory_format=torch.channels_last) if maps.ndim == 4 else maps

    def plain(norm, inputs):
        return tuple(maps.contiguous() for maps in inputs)  # empty where they are given by name: slower, and right

    hooks = [norm.register_forward_pre_hook(plain) for norm in norms]
    hooks += [norm.register_forward_hook(lambda _, inputs, output: last(output)) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        if norms:
            model.to(memory_format=torch.contiguous_format)


def bf16_pays(device):
    """Whether bfloat16 is faster than float32: only where the processor multiplies it itself.

    True for CUDA devices since Ampere, and CPUs with avx512_bf16 or AMX; elsewhere bfloat16 is emulated and
    slower.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


@contextlib.contextmanager
def fast_matrix_products(device):
    """On CUDA: TF32 for float32 products, and the fastest convolution for the sizes seen, for a while."""
    if device.type != "cuda":
        yield
        return
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark


@contextlib.contextmanager
def float_outputs(model):
    """While it lasts, bfloat16 in what the model returns becomes float32: losses are not for 8 bits."""

    def to_float(value):
        if isinstance(value, torch.Tensor):
            return value.float() if value.dtype == torch.bfloat16 else value
        if isinstance(value, dict):
            return {key: to_float(inner) for key, inner in value.items()}
        if type(value) in (list, tuple):
            return type(value)(to_float(inner) for inner in value)
        return value

    hook = model.register_forward_hook(lambda module, arguments, output: to_float(output))
    try:
        yield
    finally:
        hook.remove()


class Interrupts:
    """Makes the first interrupt a wish (`asked`), so that no step stays half done; the second one acts."""

    def __init__(self):
        self.asked = False
        self.in_main_thread = threading.current_thread() is threading.main_thread()

    def __enter__(self):
        if self.in_main_thread:
            self.before = signal.signal(signal.SIGINT, self.ask)
        return self

    def ask(self, *_):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_):
        if self.in_main_thread:
            signal.signal(signal.SIGINT, self.before)


class Watch:
    """What the one who waits sees: a bar, and in a notebook a curve. Nothing where nobody watches."""

    def __init__(self, history, steps, wanted):
        self.history, self.bar, self.figure, self.drawn = history, None, None, time.perf_counter()
        where = audience() if wanted else None
        if where:
            self.bar = progress_bar(
                total=steps, initial=len(history.steps), unit="step", desc="training", mininterval=0.3
            )
        self.curve = where == "notebook"

    def update(self):
        if self.bar is None or not self.history.steps:
            return
        last = list(zip(*(values[-20:] for values in self.history.losses.values())))
        mean = sum(map(sum, last)) / len(last)
        speed = f"{self.history.images_per_second:,.0f} images/s"
        self.bar.set_postfix_str(f"loss {mean:.3f}, {speed}", refresh=False)
        self.bar.update(self.history.steps[-1] - self.bar.n)
        if self.curve and time.perf_counter() - self.drawn > DRAW_EVERY:
            self.draw(self.history.is_normal())

    def draw(self, verdict=""):
        """Draws the curve, over the one before, and what there is to say of it so far."""
        import matplotlib.pyplot as plt
        from IPython.display import display

        from coursekit.plot import show_loss

        canvas, ax = plt.subplots(figsize=(6, 3.2), dpi=80, layout="constrained")
        show_loss(self.history, ax)
        ax.set_title("\n".join(textwrap.wrap(verdict, 82)), fontsize=8, loc="left")
        plt.close(canvas)
        if self.figure is None:
            self.figure = display(canvas, display_id=True)
        else:
            self.figure.update(canvas)
        self.drawn = time.perf_counter()

    def close(self):
        if self.figure is not None:
            self.draw()  # the verdict comes below, as text
        if self.bar is not None:
            self.bar.close()


def is_out_of_memory(error):
    """Whether an error says that memory is out: torch's allocators each have words of their own."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "bad_alloc")
    memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return memory or any(word in str(error) for word in words)


def out_of_memory(batch_size, device, checkpoint=None):
    """What to say when memory is out."""
    what = f"out of memory on {device} with {batch_size} images a batch: "
    if batch_size == 1:
        return f"{what}try smaller images or a smaller backbone; {FREE_MEMORY}"
    other = f", with another checkpoint than {checkpoint}" if checkpoint and checkpoint.exists() else ""
    return f"{what}try batch_size={batch_size // 2}{other}; if that is no help, {FREE_MEMORY}"


def load_expected(name):
    """The band of a training, by its name."""
    from coursekit.expected import load

    return load(name)
