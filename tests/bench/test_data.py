"""Batches from memory beside torchvision's way: a data set of files, v2 transforms, a DataLoader."""

import os
import statistics
from pathlib import Path

import torch
from torchvision import tv_tensors
from torchvision.io import decode_image
from torchvision.transforms import v2

from coursekit import data
from coursekit.data import coco

from .frame import timed

WORKERS = (0, 1, 2)
BATCH = 32
GOAL = 5


class Folder(torch.utils.data.Dataset):
    """Images and boxes of a COCO file, as torchvision's tutorials read them: decoded each time, transformed one by one."""

    def __init__(self, records, classes, size):
        self.records, self.classes = records, list(classes)
        self.transforms = v2.Compose([
            v2.Resize(size=None, max_size=size), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
        ])  # fmt: skip
        self.size = size

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        record = self.records[index]
        image = tv_tensors.Image(decode_image(str(record.image), mode="RGB"))
        frame = {"format": "XYXY", "canvas_size": tuple(image.shape[-2:])}
        target = {
            "boxes": tv_tensors.BoundingBoxes(record.boxes.clone(), **frame),
            "labels": torch.tensor([1 + self.classes.index(name) for name in record.names], dtype=torch.int64),
        }
        image, target = self.transforms(image, target)
        height, width = image.shape[-2:]
        return torch.nn.functional.pad(image, (0, self.size - width, 0, self.size - height)), target


def together(samples):
    images, targets = zip(*samples)
    return torch.stack([image.as_subclass(torch.Tensor) for image in images]), list(targets)


def epoch(batches, device):
    """Takes all batches to the device; how many images came."""
    count = 0
    for images, targets in batches:
        images = images.to(device, non_blocking=True)
        targets = [{name: value.to(device, non_blocking=True) for name, value in target.items()} for target in targets]
        count += len(targets)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return count


def compare(result, what, ours, records, size):
    """A row: our images a second, those of a DataLoader by its workers, and how many times the best we are."""
    device = ours.device
    mine = ours.batches(BATCH, shuffle=True, flip=True)
    assert epoch(mine, device) == len(ours) == len(records)
    sets = Folder(records, ours.classes, size)

    def loader(workers):
        return torch.utils.data.DataLoader(
            sets, BATCH, shuffle=True, num_workers=workers, collate_fn=together, pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )  # fmt: skip

    loaders = {workers: loader(workers) for workers in WORKERS}
    for one in loaders.values():
        epoch(one, device)  # workers start, files come to the system's cache
    rounds = [
        (timed(lambda: epoch(ours.batches(BATCH, shuffle=True, flip=True), device)),
         [timed(lambda one=one: epoch(one, device)) for one in loaders.values()])
        for _ in range(3)
    ]  # fmt: skip
    median = statistics.median
    seconds = median(one for one, _ in rounds)
    theirs = [median(times) for times in zip(*(times for _, times in rounds))]
    ratio = median(min(times) / one for one, times in rounds)
    result.row(what, len(ours) / seconds, *(len(ours) / one for one in theirs), ratio)
    return ratio


def test_data(table, request, tmp_path):
    """Scenes, written as PNG for the DataLoader, and photographs where this machine has them."""
    share = request.config.getoption("--share")
    result = table(
        "data",
        f"Images a second to the device, flipped, in batches of {BATCH}",
        ["", "from memory", *(f"DataLoader, {workers} workers" for workers in WORKERS), "times its best"],
    )
    scenes = data.scenes("train", max(BATCH, round(share * 2048)))
    records = coco.read(coco.write(scenes, tmp_path))
    least = compare(result, f"{len(scenes):,} scenes, 128 px, PNG", scenes, records, 128)
    real = Path(os.environ.get("COURSEKIT_DATA", tmp_path), "aquarium512", "train.json")
    if real.exists():
        records = coco.read(real, invalid="skip")[: max(BATCH, round(share * 448))]
        photographs = data.load(records, coco.classes(real), 320)
        least = min(least, compare(result, f"{len(records)} photographs (aquarium), 320 px", photographs, records, 320))
    if share == 1:
        result.goal(least >= GOAL, f"at least {least:.0f} times torchvision's best, the goal is {GOAL}")
    result.notes.append(
        "Each epoch is timed whole, in turn; workers run on and files lie in the system's cache. The DataLoader decodes "
        "and resizes in every epoch; ours did so once, before."
    )
    assert not result.missed
