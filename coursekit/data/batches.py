"""Images as uint8 on the device, with their boxes: decoded once, resized once, flipped in batch.

Words: `N` images of a set, `B` images of a batch, `M` boxes of one image, `H, W` the size of every image, `K`
classes. A box is xyxy in pixels of these images, no `+ 1`; a label is 1..K, and label k is `classes[k - 1]`.
"""

import math
import os
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy
import torch

from coursekit.progress import progress_bar

PADDING = (124, 116, 104)  # ImageNet's mean colour: about 0 once a backbone has normalised it


class DetectionData:
    """A detection set that is ready for training: all images in one uint8 tensor, and a target for each.

    The images lie on the device where they take at most half of its free memory. Where they do not, they
    stay in main memory, a warning says so once, and every batch is copied to the device from pinned memory.
    Targets lie on the device in both cases, and so does every batch.

    Args:
        images (Tensor[N, 3, H, W]): uint8, RGB.
        targets (list of N dicts): `boxes` float32 [M, 4], xyxy in pixels of these images; `labels` int64 [M]
            in 1..K; where an image has boxes that no score may count, `ignore` bool [M]. M may be 0. Where a
            detector is given its regions, `proposals` float32 [P, 4], xyxy like the boxes; P may be 0.
        classes (sequence of str): the name of label k is `classes[k - 1]`.
        device (optional): where batches are wanted; where the images are, if not given.

    Raises:
        ValueError: if shapes, dtypes, lengths or labels are not those above.
    """

    def __init__(self, images, targets, classes, *, device=None):
        self.images, self.targets, self.classes = images, list(targets), tuple(classes)
        self._check()
        self.device = images.device if device is None else torch.empty(0, device=device).device
        if self.images.device != self.device:
            self.images = self.images.to(storage_device(self.images.nbytes, self.device))
        self.targets = _on(self.targets, self.device)

    def _check(self):
        images, targets = self.images, self.targets
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            found = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"images are {found}, expected torch.uint8 [N, 3, H, W]")
        if len(images) != len(targets):
            raise ValueError(f"{len(images)} images but {len(targets)} targets, expected one per image")
        for i, target in enumerate(targets):
            count = len(target["labels"])
            wanted = {"boxes": (torch.float32, (count, 4)), "labels": (torch.int64, (count,))}
            if "ignore" in target:
                wanted["ignore"] = (torch.bool, (count,))
            if "proposals" in target:
                wanted["proposals"] = (torch.float32, (len(target["proposals"]), 4))
            for name, (dtype, shape) in wanted.items():
                found = target[name]
                if found.dtype != dtype or found.shape != shape:
                    found = f"{found.dtype} {list(found.shape)}"
                    raise ValueError(f"{name} of target {i} are {found}, expected {dtype} {list(shape)}")
        labels = torch.cat([target["labels"] for target in targets]) if targets else torch.ones(0)
        bad = labels[(labels < 1) | (labels > len(self.classes))]
        if len(bad):
            raise ValueError(f"label {int(bad[0])}, expected 1 to {len(self.classes)}; 0 is background")

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        """Image (Tensor[3, H, W], uint8) and target number `index`, copied: changing them changes no data."""
        target = {name: value.clone() for name, value in self.targets[index].items()}
        return self.images[index].to(self.device, copy=True), target

    def __repr__(self):
        height, width = self.images.shape[2:]
        boxes = sum(len(target["labels"]) for target in self.targets)
        place = f"on {self.device}"
        if self.images.device != self.device:
            place = f"in main memory, batches {place}"
        return (
            f"{len(self)} images, {width} x {height} pixels, {self.images.nbytes / 2**20:.1f} MiB {place}; "
            f"{boxes} boxes of {len(self.classes)} classes ({', '.join(self.classes)})"
        )

    def to(self, device):
        """The same set with its images, if they fit, and its batches on `device`."""
        return DetectionData(self.images, self.targets, self.classes, device=device)

    def subset(self, indices):
        """The images number `indices` (slice, or sequence of int; in that order) as a set of their own."""
        if isinstance(indices, slice):
            indices = range(len(self))[indices]
        rows = torch.as_tensor(list(indices), dtype=torch.int64)
        targets = [self.targets[i] for i in rows.tolist()]
        images = self.images[rows.to(self.images.device)]
        return DetectionData(images, targets, self.classes, device=self.device)

    def with_proposals(self, proposals):
        """The same set, with regions beside the boxes of each image: flipped with them in batches.

        Args:
            proposals (list of N Tensor[P, 4]): float32, xyxy in pixels of these images; P may differ and be 0.
        """
        if len(proposals) != len(self):
            raise ValueError(f"{len(proposals)} sets of proposals, expected {len(self)}, one per image")
        targets = [{**target, "proposals": boxes} for target, boxes in zip(self.targets, proposals)]
        return DetectionData(self.images, targets, self.classes, device=self.device)

    def batches(
        self, batch_size, *, shuffle=False, flip=False, generator=None, drop_last=False, channels_last=False
    ):
        """One pass over the set, batch by batch.

        Args:
            batch_size (int): images a batch, at least 1; the last batch may be smaller.
            shuffle (bool): a random order. Otherwise the stored one.
            flip (bool): mirror each image, and its boxes, with probability 1/2.
            generator (torch.Generator, optional): draws the order and the flips; torch's own where not given.
            drop_last (bool): leave a smaller last batch out.
            channels_last (bool): memory format of the images, for convolutions that like it.

        Yields:
            (Tensor[B, 3, H, W], list of B dicts): float32 images in 0..1, and targets as in the class. Both
            are on `device`, and yours: nothing done to them reaches the stored data, and no later batch
            changes them. Memory of images that nobody holds any more is used again.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
        draws = generator.device if generator is not None else "cpu"
        if shuffle:
            order = torch.randperm(len(self), generator=generator, device=draws).cpu()
        else:
            order = torch.arange(len(self))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        memory = Memory()
        for rows in order.split(batch_size) if len(self) else ():
            if drop_last and len(rows) < batch_size:
                return
            targets = [self.targets[i] for i in rows.tolist()]
            mirrored = torch.zeros(len(rows), dtype=torch.bool)
            if flip:
                mirrored = (torch.rand(len(rows), generator=generator, device=draws) < 0.5).to(self.device)
                targets = flip_targets(targets, mirrored, self.images.shape[-1])
            else:
                targets = [{name: value.clone() for name, value in target.items()} for target in targets]
            if self.device.type == "cpu":
                yield float_images(self.images, rows, mirrored, channels_last, memory), targets
                continue
            images = self._rows(rows)
            if flip:
                images = flip_images(images, mirrored)
            yield images.to(torch.float32, memory_format=layout).div_(255), targets

    def _rows(self, rows):
        """The uint8 images number `rows` on `self.device`."""
        if self.images.device == self.device:
            return self.images[rows.to(self.device, non_blocking=True)]
        batch = torch.empty((len(rows), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=True)
        torch.index_select(self.images, 0, rows, out=batch)
        return batch.to(self.device, non_blocking=True)


def flip_batch(images, targets, mirrored):
    """Images and targets, those marked mirrored left to right: x becomes W - x, corners stay ordered.

    Args:
        images (Tensor[B, C, H, W]): any dtype.
        targets (list of B dicts): each with `boxes` [M, 4], xyxy in pixels, all or none with `proposals`
            [P, 4] likewise; other entries are copied.
        mirrored (Tensor[B]): bool, which images to mirror.

    Returns:
        (Tensor[B, C, H, W], list of B dicts): new ones; the arguments are unchanged.
    """
    return flip_images(images, mirrored), flip_targets(targets, mirrored, images.shape[-1])


def flip_images(images, mirrored):
    """The images of `flip_batch`."""
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def flip_targets(targets, mirrored, width):
    """The targets of `flip_batch`, of images that are `width` pixels wide."""
    turned = [{name: value.clone() for name, value in target.items()} for target in targets]
    for name in ("boxes", "proposals"):
        if targets and name in targets[0]:
            mirror_boxes(turned, name, width, mirrored)
    return turned


def mirror_boxes(targets, name, width, mirrored):
    """Puts the mirrored boxes of the images marked into `targets`, in place of those under `name`."""
    counts = [len(target[name]) for target in targets]
    boxes = torch.cat([target[name] for target in targets])  # [sum of M, 4]
    x1, y1, x2, y2 = boxes.unbind(1)
    turned = torch.stack([width - x2, y1, width - x1, y2], 1)
    # output_size keeps a GPU from waiting: without it, the length has to be read back
    chosen = mirrored.repeat_interleave(_on_device(counts, boxes.device), output_size=len(boxes))
    boxes = torch.where(chosen[:, None], turned, boxes).split(counts)
    for target, box in zip(targets, boxes, strict=True):
        target[name] = box


class Memory:
    """Memory for one batch after the other, used again once nobody holds the batch in it.

    Fresh memory costs a page fault for every 4 KiB: for a batch of photographs more time than to fill it.
    """

    def __init__(self):
        self.lent = []  # (memory, weak reference to the array that lies in it), the last few

    def array(self, shape, channels_last):
        """A float32 array of shape (B, C, H, W), not yet filled. A tensor made by `from_numpy` keeps it alive."""
        count = math.prod(shape)
        free = (block for block, user in self.lent if user() is None and len(block) >= count)
        block = next(free, None)
        if block is None:
            block = numpy.empty(count, numpy.float32)
        if channels_last:
            array = block[:count].reshape(shape[0], *shape[2:], shape[1]).transpose(0, 3, 1, 2)
        else:
            array = block[:count].reshape(shape)
        others = [pair for pair in self.lent if pair[0] is not block]
        self.lent = [*others[-2:], (block, weakref.ref(array))]
        return array


def float_images(images, rows, mirrored, channels_last, memory):
    """Some of the images as float32 in 0..1, those marked mirrored left to right, by one pass over their pixels.

    Args:
        images (Tensor[N, C, H, W]): uint8, on the CPU.
        rows (Tensor[B]): int64, which ones.
        mirrored (Tensor[B]): bool.
        channels_last (bool): memory format of the result.
        memory (Memory): where it is put.

    Returns:
        Tensor[B, C, H, W]: float32.
    """
    pixels = images.numpy()
    batch = memory.array((len(rows), *images.shape[1:]), channels_last)
    for place, row, turned in zip(batch, rows.tolist(), mirrored.tolist()):
        image = pixels[row, :, :, ::-1] if turned else pixels[row]
        numpy.divide(image, 255, out=place, dtype=numpy.float32)
    return torch.from_numpy(batch)


def load(records, classes, size, *, device=None):
    """Annotated photographs as a `DetectionData`, decoded in parallel once and for all.

    Every image is resized (antialiased, aspect kept) until it just fits `size`, laid against the top left
    corner and padded to the right or below with grey. Boxes are scaled with it, and stay where they are seen.

    Args:
        records (sequence of Record): image file, its width and height, boxes (xyxy, pixels of the file),
            names and `ignore`; what the readers of `coursekit.data` give.
        classes (sequence of str): every name that occurs, in the order of the labels 1..K.
        size (int or (int, int)): side, or width and height, of the images the network sees.
        device (optional): where batches are wanted; a CUDA device if there is one, else the CPU.

    Raises:
        FileNotFoundError: if an image is missing.
        ValueError: if a file cannot be decoded or is not of the recorded size, or a name is not in `classes`.
            All of them name the file.
    """
    width, height = (size, size) if isinstance(size, int) else size
    classes, records = tuple(classes), list(records)
    targets = [_target(record, classes) for record in records]
    images = torch.empty(len(records), 3, height, width, dtype=torch.uint8)
    images[:] = torch.tensor(PADDING, dtype=torch.uint8)[:, None, None]

    def fill(i):
        pixels = _decode(records[i], width, height)  # [3, h, w], h <= H, w <= W
        images[i, :, : pixels.shape[1], : pixels.shape[2]] = pixels
        return pixels.shape[2] / records[i].width, pixels.shape[1] / records[i].height

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        scales = pool.map(fill, range(len(records)))
        shown = progress_bar(scales, "images", len(records), unit=" images", delay=2, leave=False)
        for target, (x_scale, y_scale) in zip(targets, shown, strict=True):
            target["boxes"] *= torch.tensor([x_scale, y_scale, x_scale, y_scale])
    return DetectionData(images, targets, classes, device=best_device() if device is None else device)


def best_device():
    """A CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _target(record, classes):
    """A new target of one record, boxes still in pixels of its file."""
    unknown = [name for name in record.names if name not in classes]
    if unknown:
        raise ValueError(
            f"class {unknown[0]!r} in {record.image}, expected one of {', '.join(classes)}: "
            "give every class that occurs, or leave its boxes out of the records"
        )
    target = {
        "boxes": torch.as_tensor(record.boxes, dtype=torch.float32).reshape(-1, 4).clone(),
        "labels": torch.tensor([classes.index(name) + 1 for name in record.names], dtype=torch.int64),
    }
    if torch.as_tensor(record.ignore).any():
        target["ignore"] = torch.as_tensor(record.ignore).clone()
    return target


def _decode(record, width, height):
    """The image of a record, upright, as large as fits: uint8 [3, h, w], h <= height, w <= width."""
    from PIL import Image, ImageOps

    try:
        with Image.open(record.image) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no image {record.image}: is its folder the one that the annotations mean?"
        ) from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and more for damaged files
        raise ValueError(
            f"cannot decode {record.image}: {error}; is the file damaged, or not an image?"
        ) from error
    if image.size != (record.width, record.height):
        raise ValueError(
            f"{record.image} is {image.width} x {image.height} pixels, but its boxes were made for "
            f"{record.width} x {record.height}: is it another version of the image?"
        )
    ratio = min(width / image.width, height / image.height)
    fitted = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    image = image.resize(fitted, Image.Resampling.BILINEAR)  # Pillow's resizing is antialiased
    return torch.from_numpy(numpy.array(image)).permute(2, 0, 1)


def _on(targets, device):
    """The targets on `device`, moved together: one copy for each entry, not one for each image."""
    moved = [dict(target) for target in targets]
    for name in ("boxes", "labels", "ignore", "proposals"):
        having = [target for target in moved if name in target and target[name].device != device]
        if having:
            counts = [len(target[name]) for target in having]
            together = torch.cat([target[name] for target in having]).to(device)
            for target, part in zip(having, together.split(counts), strict=True):
                target[name] = part
    return moved


def _on_device(numbers, device):
    """A list of int as a tensor on `device`, from pinned memory where that spares a wait."""
    tensor = torch.tensor(numbers, dtype=torch.int64, pin_memory=device.type == "cuda")
    return tensor.to(device, non_blocking=True)


def storage_device(size, device):
    """Where `size` bytes of images are kept: on `device`, or, with a warning, on the CPU if half of its free
    memory is too little for them."""
    if device.type != "cuda":
        return device
    free = torch.cuda.mem_get_info(device)[0]
    if size <= free / 2:
        return device
    warnings.warn(
        f"the images take {size / 2**30:.1f} GiB and {device} has {free / 2**30:.1f} GiB free: "
        "they stay in main memory and are copied batch by batch; a smaller `size` or a subset would fit",
        stacklevel=3,
    )
    return torch.device("cpu")
