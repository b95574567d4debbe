"""`coursekit coco`: a detector on the 5,000 photographs of COCO val2017, its AP beside the published one.

What was detected goes to a file of lines as it is found, so a run that is stopped goes on where it was, and ends
with the same numbers. The published AP is that of torchvision's weights, read from torchvision.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import sys
from pathlib import Path

DETECTORS = {
    "fcos": "fcos_resnet50_fpn",
    "retinanet": "retinanet_resnet50_fpn",
    "faster_rcnn": "fasterrcnn_resnet50_fpn",
    "ssd300": "ssd300_vgg16",
}
ANNOTATIONS, IMAGES = "annotations/instances_val2017.json", "val2017"
COUNT = 5000
NEEDS = (
    f"It needs FOLDER/{ANNOTATIONS} and FOLDER/{IMAGES}/ with {COUNT:,} photographs: --download gets them (1.1 GB, and as much "
    "again while they are unpacked), or https://cocodataset.org/#download. All of them take minutes on a GPU, and hours on a CPU"
)


def add_options(parser):
    parser.add_argument("--detector", choices=DETECTORS, default="fcos", help="whose published AP is shown (default: fcos)")
    parser.add_argument("--detect", metavar="MODULE:FUNCTION", help="your own: FUNCTION() gives a detector, which gives for a list "
                        "of images [3, H, W] in 0..1 a list of dicts, labels being COCO's category ids (default: torchvision's own)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="state dict for torchvision's own (default: its official one)")
    parser.add_argument("--folder", type=Path, default=Path.home() / "coco", metavar="DIR", help="where COCO lies (default: ~/coco)")
    parser.add_argument("--download", action="store_true", help="download what the folder lacks")
    parser.add_argument("--output", type=Path, metavar="FILE", help="what is detected, a line an image (default: coco-DETECTOR.jsonl)")
    parser.add_argument("--images", type=int, metavar="N", help="only the first N photographs: quick, but not the published AP")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images at a time (default: 1, as published)")
    parser.add_argument("--device", help="such as cuda:1 (default: a CUDA device if there is one)")


def main(options):
    """The command: 0 if all is done, 2 if something is missing, 130 if it was stopped."""
    output = options.output or Path(f"coco-{options.detector}{'-own' if options.detect else ''}.jsonl")
    try:
        truth = annotations(options.folder, options.download, options.images)
        detect = own(options.detect) if options.detect else torchvisions(options.detector, options.weights)
        about = {"detector": options.detect or options.detector, "weights": str(options.weights or "official"),
                 "images": len(truth["images"]), "batch_size": options.batch_size}  # fmt: skip
        answers = run(detect, truth, options.folder / IMAGES, output, about, batch_size=options.batch_size, device=options.device)
    except KeyboardInterrupt:
        print(f"\nstopped; what was detected is kept in {output}: the same command goes on from there", file=sys.stderr)
        return 130
    except (OSError, ValueError, ImportError, AttributeError) as error:
        print(f"coursekit coco: {error}", file=sys.stderr)
        return 2
    AP = table(truth, answers)
    weights = official(options.detector)
    print(f"\nbox AP {100 * AP:.1f} on {len(truth['images']):,} photographs; published for {weights}: {published(weights)}")
    if len(truth["images"]) != COUNT:
        print(f"The published one is of all {COUNT:,}.")
    return 0


def annotations(folder, download=False, first=None):
    """The content of val2017's annotation file, its images by id, all of them there.

    Args:
        folder (path): with `annotations/` and `val2017/`.
        download (bool): download what it lacks.
        first (int, optional): only so many images.

    Raises:
        FileNotFoundError: says what is missing and what it takes.
        ValueError: if the file is not COCO's.
    """
    from coursekit.data import coco, download as downloads

    folder = Path(folder).expanduser()
    if download:
        for archive in downloads.sets()["coco_val2017"].archives("val"):
            downloads._install(dataclasses.replace(archive, place=Path(archive.place).name), folder)
    path = folder / ANNOTATIONS
    if not path.exists():
        raise FileNotFoundError(f"no {path}. {NEEDS}")
    truth = coco._content(path)
    coco._names(truth, path)
    images = sorted(truth["images"], key=lambda image: image["id"])[:first]
    missing = [image["file_name"] for image in images if not (folder / IMAGES / image["file_name"]).exists()]
    if missing or not images:
        raise FileNotFoundError(f"{len(missing):,} of {len(images):,} images are not in {folder / IMAGES}, such as "
                                f"{(missing or ['any'])[0]}. {NEEDS}")  # fmt: skip
    ids = {image["id"] for image in images}
    kept = [one for one in truth["annotations"] if one["image_id"] in ids]
    return {"images": images, "annotations": kept, "categories": truth["categories"]}


def official(detector):
    """torchvision's weights, as its enum has them."""
    from torchvision.models import get_model_weights

    return get_model_weights(DETECTORS[detector]).DEFAULT


def published(weights):
    return weights.meta["_metrics"]["COCO-val2017"]["box_map"]


def torchvisions(detector, file=None):
    """torchvision's own detector with its official weights, or those of a file."""
    import torch
    from torchvision.models import get_model

    weights, place = official(detector), Path(torch.hub.get_dir()) / "checkpoints"
    if file is not None:
        state = torch.load(file, map_location="cpu", weights_only=True)
    else:
        try:
            state = weights.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:  # no network; damaged
            raise OSError(f"no weights ({error}): it needs {weights.url} ({weights.meta['_file_size']:.0f} MB), in {place} "
                          "or by --weights FILE") from None  # fmt: skip
    model = get_model(DETECTORS[detector], weights=None, weights_backbone=None)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{file}: no weights of {DETECTORS[detector]} ({str(error).splitlines()[0]})") from None
    return model


def own(name):
    """What `MODULE:FUNCTION` gives, the module found from here or installed."""
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"--detect {name}: expected MODULE:FUNCTION, such as ada_detectors:coco_fcos")
    sys.path.insert(0, os.getcwd())
    return getattr(importlib.import_module(module), function)()


def run(detect, truth, folder, output, about, *, batch_size=1, device=None):
    """Detect in all images, going on with what `output` holds already.

    Args:
        detect (callable or Module): list of images [3, H, W] in 0..1 -> list of dicts with `boxes` [N, 4] (xyxy,
            pixels), `scores` [N], `labels` [N], COCO's category ids.
        truth (dict): as `annotations` gives it.
        folder (path): of the images.
        output (path): a line of JSON about the run, then one an image.
        about (dict): what the lines depend on: they are not taken over by a run of which something else is said.

    Returns:
        list of dict: COCO's results.

    Raises:
        ValueError: if `output` is of another run, an image is not of its size, or what `detect` returns is not that.
    """
    import torch

    from coursekit.data.batches import best_device
    from coursekit.evaluation import checked_detection, evaluation_mode, xywh
    from coursekit.progress import progress_bar

    images, categories = truth["images"], max(one["id"] for one in truth["categories"])
    done = _kept(output, about, len(images), batch_size)
    device = torch.device(device or best_device())
    if isinstance(detect, torch.nn.Module):
        detect.to(device)
    bar = progress_bar(total=len(images), initial=len(done), desc="detecting", unit=" images")
    with bar, open(output, "a", encoding="utf-8") as file, torch.inference_mode(), evaluation_mode(detect):
        for start in range(len(done), len(images), batch_size):
            batch = images[start : start + batch_size]
            found = detect([_image(folder / one["file_name"], one).to(device) for one in batch])
            if len(found) != len(batch):
                raise ValueError(f"the detector returned {len(found)} entries for {len(batch)} images, expected a dict for each")
            for number, (image, one) in enumerate(zip(batch, found), start):
                boxes, scores, labels = checked_detection(one, number, categories)
                line = [image["id"], xywh(boxes)[0], scores.tolist(), labels.tolist()]
                file.write(json.dumps(line) + "\n")
                done.append(line)
            file.flush()
            bar.update(len(batch))
    return [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for image, *columns in done
        for box, score, label in zip(*columns)
    ]


def _kept(output, about, count, batch_size):
    """The lines of an earlier run, whole batches only, and the file without the rest: a batch is detected together."""
    header, output = json.dumps(about) + "\n", Path(output)
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(header, encoding="utf-8")
        return []
    first, *lines = [line for line in output.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")] or [""]
    if first != header:
        raise ValueError(f"{output} is of another run, {first.strip()[:200] or 'or empty'}, expected {header.strip()}: "
                         "move it away, or name another --output")  # fmt: skip
    lines = lines if len(lines) == count else lines[: len(lines) // batch_size * batch_size]
    os.truncate(output, len("".join([first, *lines]).encode()))
    return [json.loads(line) for line in lines]


def _image(path, about):
    import numpy
    import torch
    from PIL import Image

    with Image.open(path) as image:
        if image.size != (about["width"], about["height"]):
            raise ValueError(f"{path} has {image.size} pixels, its annotation says {(about['width'], about['height'])}: is it damaged?")
        pixels = torch.from_numpy(numpy.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).contiguous().float() / 255


def table(truth, answers):
    """Print COCO's own table; the AP."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    real, found = COCO(), COCO()
    real.dataset = truth
    answers = [{**one, "id": number, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0} for number, one in enumerate(answers, 1)]
    found.dataset = {**truth, "annotations": answers}
    with contextlib.redirect_stdout(io.StringIO()):  # stages and seconds
        real.createIndex()
        found.createIndex()
        evaluation = COCOeval(real, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])
