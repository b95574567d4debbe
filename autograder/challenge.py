"""`autograder challenge`: pictures for students, their truth for the instructor; and the score of a file of detections.

Pictures go to `coursekit/challenge.zip`, so that students have them wherever they have coursekit. The truth goes to
`truth/challenge.json`, which git ignores, and stays where you grade: whoever has it, or the seed, has all points.
"""

import copy
import json
import math
import multiprocessing
import os
import secrets
import sys
import threading
import time
import zipfile
from io import BytesIO
from pathlib import Path

from coursekit import challenge
from coursekit.challenge import FILE, Malformed
from coursekit.handin import memory

from .lessons import ROOT
from .results import write_text

STEP = 16  # of a channel's 256 values: a tenth of AP's noise, and a third of the bytes
LIMIT = 45.0  # seconds for a file of detections; a worker is given more (`grade.PATIENCE`)
MEMORY = 10**9  # bytes


class ChallengeError(ValueError):
    """A challenge that cannot be made or scored with; says what was found and what is expected."""


def make(root=ROOT, *, seed=None, count=challenge.COUNT, images=None, truth=None, replace=False):
    """Write the pictures and their truth; their paths.

    Args:
        root (path): the checkout.
        seed (int): the same seed makes the same challenge again; a random one of 63 bits unless given, as a small one
            can be found by trying.
        count (int): generated scenes.
        images, truth (path): a folder of your own images and their COCO JSON, instead of scenes.
        replace (bool): also where there is a truth already; what was handed in for it is worth nothing then.

    Raises:
        ChallengeError: if there is a truth already, or nothing to find in the pictures. What `coursekit.data.coco.read` raises.
    """
    archive, place = Path(root) / "coursekit" / challenge.ARCHIVE.name, truth_file(Path(root) / "truth")
    if place.exists() and not replace:
        raise ChallengeError(f"{place} is there already; --replace makes another, for which no file handed in so far is worth anything")
    seed = secrets.randbits(63) if seed is None else seed
    pictures, targets, classes = of_scenes(seed, count) if images is None else of_own(images, truth)
    made = truth_of(targets, classes, seed)
    if not made["annotations"]:
        raise ChallengeError(f"no object in {len(pictures)} pictures: there is no AP without one")
    about = {"images": [], "categories": made["categories"]}
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_suffix(".part")
    with zipfile.ZipFile(part, "w") as file:  # stored: pictures are packed already
        for image, (suffix, content) in zip(made["images"], pictures):
            about["images"].append({**image, "file_name": f"{image['id']}{suffix}"})
            file.writestr(zipfile.ZipInfo(f"{image['id']}{suffix}"), content)
        file.writestr(zipfile.ZipInfo("images.json"), json.dumps(about))
    write_text(place, json.dumps(made) + "\n")
    part.replace(archive)  # last: no pictures without their truth
    return archive, place


def truth_file(folder):
    return Path(folder) / "challenge.json"


def truth_of(targets, classes, seed):
    """The truth as COCO JSON, with ids of six digits that the seed gives: those of another challenge are others."""
    import numpy

    from coursekit.evaluation import coco_truths

    made = coco_truths(targets, classes)
    digits = max(6, len(str(10 * len(targets))))
    ids = numpy.random.default_rng(seed).choice(9 * 10 ** (digits - 1), len(targets), replace=False) + 10 ** (digits - 1)
    for image in made["images"]:
        image["id"] = int(ids[image["id"] - 1])
    for annotation in made["annotations"]:
        annotation["image_id"] = int(ids[annotation["image_id"] - 1])
    return {"info": {"seed": seed}, **made}


def of_scenes(seed, count):
    """`((suffix, bytes) of each picture, targets, classes)` of generated scenes."""
    import torch
    from PIL import Image

    from coursekit.data.scenes import scenes

    data, pictures = scenes("test", count, seed=seed, device="cpu"), []
    for image in (data.images.to(torch.int16) + STEP // 2) // STEP * STEP:
        content = BytesIO()
        shown = image.clamp(max=255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(shown).save(content, "WEBP", lossless=True, quality=25, method=2)
        pictures.append((".webp", content.getvalue()))
    return pictures, data.targets, data.classes


def of_own(folder, truth):
    """The same of an instructor's images: their bytes as they are, under other names."""
    import torch

    from coursekit.data import coco

    classes = coco.classes(truth)
    records = coco.read(truth, folder)
    targets = [
        {"boxes": one.boxes, "labels": torch.tensor([classes.index(name) + 1 for name in one.names]), "ignore": one.ignore}
        for one in records
    ]
    return [(one.image.suffix, one.image.read_bytes()) for one in records], targets, classes


def read_truth(folder):
    """The truth in a folder; None where there is none.

    Raises:
        ChallengeError: if the file is no truth.
    """
    path = truth_file(folder)
    if not path.exists():
        return None
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
        if all(truth[key] for key in ("images", "categories", "annotations")):
            return truth
        reason = "it holds no object"
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise ChallengeError(f"{path} is no truth ({reason}); `autograder challenge --seed N` makes it again")


def score(content, truth, limit=LIMIT):
    """What a file of detections is worth, found in a process of its own.

    Args:
        content (bytes): the file as it was handed in: nothing of it is trusted.
        truth (dict): as `truth_of` gives it.
        limit (float): seconds.

    Returns:
        dict: `AP`, `AP50`, `pictures` and `detections`, or `malformed`, in words.
    """
    forks = hasattr(os, "fork") and threading.active_count() == 1  # a fork of many threads can hang
    context = multiprocessing.get_context("fork" if forks else "spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_score, args=(theirs, content, truth))
    process.start()
    theirs.close()
    try:
        if ours.poll(limit):
            return json.loads(ours.recv_bytes())
        return {"malformed": f"it was not scored after {limit:g} s, expected at most {challenge.MOST} detections a picture"}
    except (EOFError, OSError):
        return {"malformed": "the process that scored it ended"}
    finally:
        process.kill()
        process.join()
        ours.close()


def _score(pipe, content, truth):
    import pycocotools.cocoeval  # noqa: F401: imports are not what is limited

    import coursekit.evaluation  # noqa: F401

    with memory(MEMORY):
        try:
            told = scored(content, truth)
        except Malformed as error:
            told = {"malformed": str(error)}
        except MemoryError:
            told = {"malformed": "it takes too much memory"}
    pipe.send_bytes(json.dumps(told).encode())


def scored(content, truth):
    """As `score`, in this process.

    Raises:
        Malformed: what is wrong with the file.
    """
    from coursekit.evaluation import IOUS, mean_where_known, run_pycocotools

    entries = challenge.parse(content, [image["id"] for image in truth["images"]], len(truth["categories"]))
    answers = [
        {**entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0}
        for number, entry in enumerate(entries, 1)
    ]
    truth = copy.deepcopy(truth)  # pycocotools writes into it
    precision = run_pycocotools(truth, answers, (32, 96), challenge.MOST)["precision"][:, :, :, 0, -1]
    AP, AP50 = mean_where_known(precision), mean_where_known(precision[IOUS.index(0.5)])
    assert math.isfinite(AP)
    return {"AP": AP, "AP50": AP50, "pictures": len(truth["images"]), "detections": len(entries)}


def judge(content, trouble, truth, ramp):
    """The mark of a hand-in's file of detections.

    Args:
        content (bytes): the file, or None; `trouble` then says why there is none to score.
        truth (dict): or None where there is none here: then a person has to look.
        ramp (dict): `handin.Lesson.challenge`.

    Returns:
        dict: `name`, `score` (None: not yet), `message` for the student, `AP` (None: not scored), `seconds`.
    """
    began = time.monotonic()
    found = {"malformed": trouble} if content is None else {} if truth is None else score(content, truth)
    AP, points = found.get("AP"), ramp["points"]
    if content is not None and truth is None:
        mark, message = None, f"{FILE} is there, and waits to be scored."
    elif AP is None:
        mark, message = 0, f"{FILE} earns nothing: {found['malformed']}."
    else:
        mark = challenge.mark(AP, points, ramp["zero"], ramp["full"])
        message = (
            f"AP {AP:.3f} (AP50 {found['AP50']:.3f}) of {found['detections']:,} detections in {found['pictures']} pictures. "
            f"An AP of {ramp['zero']:.2f} or less earns nothing, {ramp['full']:.2f} or more all {points:g} points."
        )
    return {"name": ramp["name"], "score": mark, "message": message, "AP": AP, "seconds": round(time.monotonic() - began, 3)}


def main(options):
    """`autograder challenge`."""
    if (options.images is None) != (options.truth is None):
        print("autograder: --images FOLDER and --truth FILE go together: your own images and their COCO JSON", file=sys.stderr)
        return 2
    try:
        archive, place = make(
            options.course or ROOT, seed=options.seed, count=options.count, images=options.images, truth=options.truth,
            replace=options.replace,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        print(f"autograder: {error}", file=sys.stderr)
        return 2
    print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB of pictures: commit it, and release the lesson")
    print(f"{place}: their truth, with the seed: keep it, and keep it to yourself")
    return 0
