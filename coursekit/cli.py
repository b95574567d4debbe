"""The `coursekit` command.

`coursekit doctor`: what is installed, which device, does a training step run, and what to do if not.
`coursekit check-in NOTEBOOK`: what a grader would stumble over (see `coursekit.checkin`).
`coursekit coco`: a detector on COCO val2017, its AP beside the published one (see `coursekit.val2017`).
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

MODULES = {  # where the name to import is another
    "faster-coco-eval": "faster_coco_eval", "pillow": "PIL.Image", "pycocotools": "pycocotools.mask", "scikit-image": "skimage",
}  # fmt: skip
ROOM_NEEDED = 2  # GB free where downloads go: the largest set with its archive
EXTRAS = {"notebooks": "open the lessons", "instructor": "build and grade", "dev": "run the tests"}


@dataclass(frozen=True)
class Finding:
    """One line of the report. `state` is "ok", "note" (good to know) or "WRONG"; `todo` is what to do."""

    state: str
    what: str
    todo: str = ""

    def __str__(self):
        return f"{self.state:>5}  {self.what}" + (f"\n       -> {self.todo}" if self.todo else "")


def main(arguments=None):
    """The `coursekit` command. Returns the exit code: 0 if all is right, 1 if something is wrong, 2 if it cannot look."""
    parser = argparse.ArgumentParser(prog="coursekit", description="Looks at your machine or at a notebook to be handed in, or scores a detector on COCO.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="look at this machine: nothing is changed or downloaded")
    check = commands.add_parser(
        "check-in",
        help="say what a grader would stumble over, and write a repaired copy beside the notebook",
    )
    check.add_argument("notebook", help="the file that you are going to hand in")
    check.add_argument("--lesson", help="the lesson it is for, such as 01_boxes; by its name or folder unless given")
    check.add_argument("--released", help="the notebook as it was released, or a folder of NN_topic/topic.ipynb")
    check.add_argument("--in-place", action="store_true", help="repair the notebook itself instead of a copy")
    check.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    from coursekit import val2017

    val2017.add_options(commands.add_parser("coco", help="score a detector on COCO val2017, beside its published AP"))
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        return doctor()
    if options.command == "coco":
        return val2017.main(options)
    from coursekit import checkin

    return checkin.main(options)


def doctor():
    """Prints what is found, line by line as it is found; returns 0 if nothing is wrong, else 1."""
    wrong = 0
    for look in (
        look_at_python,
        look_at_packages,
        look_at_operators,
        look_at_devices,
        look_at_disk,
        look_at_data,
    ):
        try:
            for finding in look():
                print(finding, flush=True)
                wrong += finding.state == "WRONG"
        except Exception as error:  # a doctor that falls ill helps nobody: the other lines still come
            print(
                Finding(
                    "WRONG",
                    f"{look.__name__.replace('_', ' ')} failed: {said(error)}",
                    "see the lines above first",
                )
            )
            wrong += 1
    print(f"\n{wrong} thing{'s are' if wrong > 1 else ' is'} wrong." if wrong else "\nAll right.")
    return min(wrong, 1)


def look_at_python():
    """The interpreter: most trouble is a package that another Python has."""
    what = f"Python {platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 11):
        yield Finding("WRONG", what, "make an environment with Python 3.11 or later")
    else:
        yield Finding("ok", what)


def look_at_packages():
    """Every package that coursekit asks for: there, of a fitting version, importable; optional ones there."""
    try:
        asked = importlib.metadata.requires("coursekit") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "WRONG", "coursekit is not installed in this Python", "pip install -e . in the project's folder"
        )
        return
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Finding("WRONG", "packaging, which reads versions, is missing", "pip install packaging")
        return
    optional = {}
    for requirement in map(Requirement, asked):
        extra = next(
            (name for name in EXTRAS if requirement.marker and f'"{name}"' in str(requirement.marker)), None
        )
        if not extra:
            yield look_at_package(requirement)
        elif requirement.name != "coursekit" and look_at_version(requirement).state != "ok":
            optional.setdefault(extra, []).append(look_at_version(requirement).what)
    for extra, lacking in optional.items():
        yield Finding(
            "note", f"to {EXTRAS[extra]}: {'; '.join(lacking)}", f'pip install -e ".[{extra}]" if wanted here'
        )
    if not optional:
        yield Finding("ok", "what it takes to open lessons, to build, grade and test is installed too")


def look_at_version(requirement):
    """Whether a package is there in a version that fits."""
    install = f'pip install "{requirement.name}{requirement.specifier}"'
    wanted = f"(wanted: {requirement.specifier})" if requirement.specifier else ""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("WRONG", f"{requirement.name} is missing {wanted}".rstrip(), install)
    # local builds ("2.11.0+cu130") and pre-releases count as their release
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding("WRONG", f"{requirement.name} {version} {wanted}", install)
    return Finding("ok", f"{requirement.name} {version} {wanted}".rstrip())


def look_at_package(requirement):
    """As `look_at_version`, and that it can be imported."""
    finding = look_at_version(requirement)
    if finding.state != "ok":
        return finding
    try:
        importlib.import_module(MODULES.get(requirement.name, requirement.name))
    except Exception as error:  # broken binaries raise anything: OSError, RuntimeError, ValueError, ...
        again = f'pip install --force-reinstall --no-deps "{requirement.name}{requirement.specifier}"'
        return Finding(
            "WRONG", f"{requirement.name} is installed but cannot be imported: {said(error)}", again
        )
    return finding


def look_at_operators():
    """Whether torch and torchvision are of one release: if not, torchvision's operators are not there."""
    import torch

    together = "pip install --force-reinstall torch torchvision, in one command, so that their releases fit"
    try:
        import torchvision

        kept = torchvision.ops.nms(
            torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]]), torch.tensor([0.5, 0.9]), 0.5
        )
    except Exception as error:
        yield Finding(
            "WRONG",
            f"torchvision's operators do not run with torch {torch.__version__}: {said(error)}",
            together,
        )
        return
    pair = f"torch {torch.__version__} and torchvision {torchvision.__version__}"
    if kept.tolist() == [1]:
        yield Finding("ok", f"{pair} fit: nms runs")
    else:
        yield Finding("WRONG", f"{pair} do not fit: nms keeps {kept.tolist()}, expected [1]", together)


def look_at_devices():
    """Each device: what it is, whether a training step runs on it, whether bfloat16 makes it faster."""
    import torch

    devices = [torch.device("cpu")] + [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if len(devices) == 1 and shutil.which("nvidia-smi"):
        what = f"nvidia-smi is there, but torch {torch.__version__} sees no GPU"
        yield Finding(
            "note", what, "run nvidia-smi; if it shows the GPU, install the torch that fits its driver"
        )
    elif len(devices) == 1:
        yield Finding(
            "note", "no CUDA device: lessons are made for two CPU cores, each training takes minutes"
        )
    for device in devices:
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            name = f"{device} is {properties.name} with {properties.total_memory / 2**30:.0f} GiB"
        else:
            name = f"cpu has {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
        yield Finding("ok", name)
        yield from look_at_training(device)


def look_at_training(device):
    """Some real steps of `fit` on the device, and their times in float32 and in bfloat16."""
    from coursekit.training import bf16_pays

    try:
        seconds = training_seconds(device, bf16=False)
    except Exception as error:
        what = f"no training step runs on {device}: {said(error)}"
        if device.type == "cuda":
            todo = "restart the notebooks that hold its memory; else install the torch that fits its driver"
        else:
            todo = "pip install --force-reinstall torch torchvision"
        yield Finding("WRONG", what, todo)
        return
    yield Finding("ok", f"a training step runs on {device}: 8 images in {1000 * seconds:.0f} ms")
    if not bf16_pays(device):
        yield Finding("note", f"{device} does not multiply bfloat16 itself: fit uses float32 there")
        return
    faster = training_seconds(device, bf16=True)
    seconds = min(
        seconds, training_seconds(device, bf16=False)
    )  # before and after, as other programs disturb
    yield Finding(
        "ok",
        f"fit uses bfloat16 on {device}: this step takes {1000 * faster:.0f} ms, "
        f"in float32 {1000 * seconds:.0f}",
    )


def training_seconds(device, bf16):
    """The shortest of six training steps of a small trunk on 8 images of 128×128 pixels."""
    import torch

    from coursekit.backbones import small_trunk
    from coursekit.data.batches import DetectionData
    from coursekit.training import fit

    moments = []

    def loss(model, images, targets):
        if images.is_cuda:
            torch.cuda.synchronize(device)
        moments.append(time.perf_counter())
        return {"size": sum(maps.square().mean() for maps in model(images).values())}

    images = torch.randint(0, 256, (8, 3, 128, 128), dtype=torch.uint8)
    nothing = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)} for _ in images]
    data = DetectionData(images, nothing, ("object",), device=device)
    graded = os.environ.pop("NBGRADER_EXECUTION", None)
    try:
        history = fit(
            small_trunk(), loss, data, steps=8, batch_size=8, device=device, bf16=bf16, progress=False
        )
    finally:
        if graded is not None:
            os.environ["NBGRADER_EXECUTION"] = graded
    if not history.complete:
        raise RuntimeError(f"{len(history.steps)} of 8 steps done")
    return min(after - before for before, after in zip(moments[1:], moments[2:]))


def look_at_disk():
    """Where downloads go: can it be written, and is there room."""
    from coursekit.data.download import cache_folder

    cache = cache_folder()
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    what = f"downloads go to {cache}, {free:.0f} GB free"
    if not place.is_dir() or not os.access(place, os.W_OK):
        yield Finding(
            "WRONG", f"{what}, but {place} cannot be written", "set COURSEKIT_CACHE to a folder of yours"
        )
    elif free < ROOM_NEEDED:
        yield Finding(
            "WRONG", what, f"free {ROOM_NEEDED} GB, or set COURSEKIT_CACHE to a folder on another disk"
        )
    else:
        yield Finding("ok", what)


def look_at_data():
    """Which real sets are on this machine. None is needed to start: lessons generate their scenes."""
    from coursekit.data import download

    given = os.environ.get("COURSEKIT_DATA")
    if given and not Path(given).is_dir():
        yield Finding("WRONG", f"COURSEKIT_DATA is {given}, which is no folder", "correct or unset it")
    else:
        yield Finding(
            "ok",
            f"COURSEKIT_DATA is {given}" if given else "COURSEKIT_DATA is not set: sets come from the cache",
        )
    for name, chosen in download.sets().items():
        splits = [split for split in chosen.splits if download._find(chosen, split)]
        if splits:
            yield Finding("ok", f"{name}: {', '.join(splits)} found")
        else:
            yield Finding(
                "note",
                f"{name} is not on this machine",
                f'coursekit.data.real("{name}", ...) tells how to get it',
            )


def said(error):
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
