"""Named real sets: found on disk or downloaded once, checked, and given as a `DetectionData`.

A set is looked for in `$COURSEKIT_DATA`, then in the cache (`$COURSEKIT_CACHE`, or `~/.cache/coursekit`), and
is downloaded into the cache only when asked. `sets()` shows what there is, with licences and sources.
"""

import hashlib
import http.client
import json
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from coursekit.data import coco, voc
from coursekit.data.batches import load
from coursekit.data.records import SkippedWarning, summary


class DownloadError(OSError):
    """A download that did not work out; the message says what to do."""


@dataclass(frozen=True)
class Archive:
    """A zip or tar file on the internet, and the part of it that becomes one folder of the cache."""

    url: str
    checksum: str | None  # "md5:..." or "sha256:..." of the archive; None where only its files have one
    prefix: str  # the folder inside the archive
    place: str  # the folder in the cache that it becomes
    files: dict | None = None  # {path below prefix: sha256 or None}: these and no others; None: all


@dataclass(frozen=True)
class RealSet:
    """A real detection set, where it may lie and where it comes from."""

    name: str
    classes: tuple
    splits: tuple
    licence: str
    source: str
    note: str
    megabytes: int  # to download
    layouts: (
        tuple  # (folder, what must be in it, reader(folder, split) -> list[Record]); with "{split}" in names
    )
    archives: Callable | None  # split -> list[Archive]; None: a person has to download it


def real(name, split, *, size, device=None, download=False):
    """A named real set, ready for training.

    Boxes of the published annotations that cannot be right are left out or cut to the image; one printed line
    says so.

    Args:
        name (str): "bccd", "aquarium", "voc2007" or "coco_val2017"; `sets()` describes them.
        split (str): "train", "val" or "test" of bccd and aquarium, "trainval" or "test" of voc2007,
            "val" of coco_val2017.
        size (int or (int, int)): side, or width and height in pixels, of the images the network sees;
            photographs are letterboxed into it (see `load`).
        device (optional): where batches are wanted (see `load`).
        download (bool): download the set if it is not on this machine yet. What was cut off goes on where it
            stopped.

    Returns:
        DetectionData

    Raises:
        FileNotFoundError: if the set is not here and `download` is False, or cannot be downloaded by a
            program.
        DownloadError: if the download fails; says why and what to do.
        ValueError: if the name or the split is unknown, or files of the set are missing or damaged.
    """
    chosen = _chosen(name, split)
    return load(records(name, split, download=download), chosen.classes, size, device=device)


def records(name, split, *, download=False):
    """What `real` loads, as a list of `Record`: files, and boxes in pixels of the original photographs."""
    chosen = _chosen(name, split)
    found = _find(chosen, split)
    if not found and download and chosen.archives:
        for archive in chosen.archives(split):
            _install(archive, cache_folder())
        found = _find(chosen, split)
        if not found:
            place = cache_folder() / chosen.layouts[0][0].format(split=split)
            raise DownloadError(
                f"{place} exists, but is not complete: move it away, then run the same line again"
            )
    if not found:
        raise FileNotFoundError(_advice(chosen, split))
    folder, reader = found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = reader(folder, split)
    for warning in caught:
        if isinstance(warning.message, SkippedWarning):
            _report(f"{name} {split}", warning.message.problems)
        else:
            warnings.warn(warning.message, stacklevel=2)
    return read


def sets():
    """The named sets, {name: RealSet}; shown as a table with sizes, licences and sources."""
    return _Table({chosen.name: chosen for chosen in SETS})


class _Table(dict):
    def __repr__(self):
        return "\n\n".join(
            f"{s.name}: {s.note}\n"
            f"    splits: {', '.join(s.splits)}; {len(s.classes)} classes\n"
            f"    {f'{s.megabytes} MB to download' if s.archives else 'downloaded by hand'}\n"
            f"    licence: {s.licence}\n"
            f"    source: {s.source}"
            for s in self.values()
        )


def cache_folder():
    """Where downloads go: `$COURSEKIT_CACHE`, or `.cache/coursekit` in the home folder."""
    return Path(os.environ.get("COURSEKIT_CACHE") or Path.home() / ".cache" / "coursekit")


def fetch(url, path, *, checksum=None, attempts=5, timeout=30, pause=1.0):
    """Download a file, with a progress bar, and check it.

    What has arrived is kept in `path` + ".part", and the next attempt or run asks the server only for the
    rest; a server that cannot do that sends all again.

    Args:
        url (str), path (path): from where, to where.
        checksum (str): "md5:..." or "sha256:..." of the whole file; None checks its length only.
        attempts (int): how often to go on after a connection broke off.
        timeout (float): seconds without a byte after which a connection counts as broken.
        pause (float): seconds before the second attempt, twice that before the third, and so on.

    Returns:
        Path: of the file, complete and checked.

    Raises:
        DownloadError: if the server cannot be reached or refuses, breaks off too often, or the checksum is
            wrong.
    """
    path = Path(path)
    if path.is_file() and (checksum is None or _digest(path, checksum) == checksum):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    resumed = part.exists()
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            _continue(url, part, timeout)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500:
                advice = (
                    "the file has moved or is not public"
                    if error.code in (403, 404, 410)
                    else "try again later"
                )
                raise DownloadError(f"{url} answered {error.code} ({error.reason}): {advice}") from error
            reason = error
        except (OSError, http.client.HTTPException) as error:
            if not part.exists():
                raise DownloadError(
                    f"cannot reach {url} ({_reason(error)}): is this machine online?"
                ) from error
            reason = error
    else:
        kept = part.stat().st_size if part.exists() else 0
        raise DownloadError(
            f"{url} failed {attempts} times ({_reason(reason)}): {kept / 1e6:.1f} MB are kept in {part}, "
            "run the same line again to go on from there"
        ) from reason
    if checksum is not None and (found := _digest(part, checksum)) != checksum:
        part.unlink()
        if resumed:  # the beginning may have come from another version of the file
            return fetch(url, path, checksum=checksum, attempts=attempts, timeout=timeout, pause=pause)
        raise DownloadError(
            f"{url} has {found}, expected {checksum}: it came damaged or is another file; it was deleted, "
            "run the same line again, and tell the course's authors if it stays so"
        )
    part.replace(path)
    return path


def unpack(archive, place, prefix="", files=None):
    """Unpack the folder `prefix` of a zip or tar archive, so that it becomes `place`: whole, or not at all.

    Files go to a folder beside `place` that is renamed at the end; what a killed run left there is removed.

    Args:
        archive (path), place (path): from where, to where; `place` must not exist yet.
        prefix (str): the folder inside the archive; "" for all.
        files (dict): {path below prefix: sha256 or None}, these and no others; None for all.

    Returns:
        Path: `place`.

    Raises:
        ValueError: if the archive is damaged, names a path outside of itself or holds a link, or if a file is
            missing in it or has another checksum.
    """
    from coursekit.progress import progress_bar

    archive, place = Path(archive), Path(place)
    if place.exists():
        raise ValueError(f"{place} exists already, expected a folder to be made: move it away")
    beside = place.with_name(f".{place.name}.unpacking")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    missing = None if files is None else dict(files)
    count = 0
    try:
        with _members(archive) as members:
            for name, opened in progress_bar(
                members, f"unpacking {archive.name}", unit=" files", delay=1, leave=False
            ):
                inside = _below(name, prefix, archive)
                if inside is None or (missing is not None and inside not in missing):
                    continue
                target = beside / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened() as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
                count += 1
                expected = missing.pop(inside) if missing is not None else None
                if expected is not None and (found := _digest(target, "sha256")) != f"sha256:{expected}":
                    raise ValueError(f"{archive}: {name} has {found}, expected sha256:{expected}")
        if missing or not count:
            what = f"no {prefix}{next(iter(missing))}" if missing else f"nothing below {prefix!r}"
            raise ValueError(f"{archive}: {what} in it, is it another version?")
        beside.rename(place)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive} is damaged ({error})") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return place


def _chosen(name, split):
    known = sets()
    if name not in known:
        raise ValueError(f"no set {name!r}, expected one of {', '.join(known)}: sets() describes them")
    if split not in known[name].splits:
        raise ValueError(f"no split {split!r} of {name}, expected one of {', '.join(known[name].splits)}")
    return known[name]


def _roots():
    """Folders that may hold sets, first choice first."""
    given = os.environ.get("COURSEKIT_DATA")
    return [Path(given), cache_folder()] if given else [cache_folder()]


def _find(chosen, split):
    """(folder, reader) of the first place where the set lies, or None."""
    for root in _roots():
        for place, needed, reader in chosen.layouts:
            folder = root / place.format(split=split)
            if all((folder / path.format(split=split)).exists() for path in needed):
                return folder, reader
    return None


def _advice(chosen, split):
    places = " nor in ".join(str(root / chosen.layouts[0][0].format(split=split)) for root in _roots())
    missing = f"no images of {chosen.name!r} ({split}) in {places}"
    if chosen.archives is None:
        return f"{missing}: {chosen.note}; licence {chosen.licence}, source {chosen.source}"
    call = f"coursekit.data.real({chosen.name!r}, {split!r}, size=..., download=True)"
    about = f"{chosen.megabytes} MB, licence {chosen.licence}, {chosen.source}"
    return f"{missing}: run {call} once, online ({about})"


def _report(what, problems):
    """Print what was left out or cut of a set's boxes; raise if it is more than that."""
    for problem in problems:
        if problem.kind not in ("no area", "outside the image", "reached outside, cut"):
            raise ValueError(f"{problem}; the copy of {what} is not complete: copy or download it again")
    first = f"{problems[0].file.name}, {problems[0].entry}"
    print(
        f"{what}: boxes left out or cut, as they cannot be right: {summary(problems)} (the first is {first})"
    )


def _install(archive, cache):
    """Download and unpack one archive into the cache, unless that has been done."""
    place = cache / archive.place
    if place.exists():
        return
    path = cache / archive.url.rsplit("/", 1)[-1]
    fetch(archive.url, path, checksum=archive.checksum)
    try:
        unpack(path, place, archive.prefix, archive.files)
    except ValueError as error:
        raise DownloadError(f"{error}; from {archive.url}") from error
    finally:
        path.unlink(missing_ok=True)


def _continue(url, part, timeout):
    """Append to `part` what it lacks; raises where the connection ends before that."""
    from coursekit.progress import progress_bar

    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "coursekit", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # all had arrived
        part.unlink()
        return _continue(url, part, timeout)
    with response:
        if not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            have = 0  # the server sends all of it
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        name = part.name.removesuffix(".part")
        with (
            part.open("ab" if have else "wb") as file,
            progress_bar(desc=name, total=total, initial=have, unit="B", unit_scale=True, leave=False) as bar,
        ):
            while chunk := response.read(1 << 18):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"{part.stat().st_size} of {total} bytes came")


def _digest(path, checksum):
    """The checksum of a file by the method that `checksum` names, in the same form."""
    method = checksum.split(":")[0]
    with path.open("rb") as file:
        return f"{method}:{hashlib.file_digest(file, method).hexdigest()}"


def _reason(error):
    return getattr(error, "reason", None) or error


@contextmanager
def _members(archive):
    """[(name, function that opens it)] of the files in a zip or tar archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield [(m.filename, lambda m=m: file.open(m)) for m in file.infolist() if not m.is_dir()]
        return
    with tarfile.open(archive) as file:
        members = [member for member in file if not member.isdir()]
        for member in members:
            if not member.isfile():
                raise ValueError(f"{archive}: {member.name} is a link or device, expected files only")
        yield [(m.name, lambda m=m: file.extractfile(m)) for m in members]


def _below(name, prefix, archive):
    """The path of a member below `prefix`, None if it is elsewhere; ValueError if it leaves the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise ValueError(
            f"{archive}: {name!r} would be written outside of the folder, so nothing was unpacked"
        )
    path = path.as_posix()
    return path[len(prefix) :] if path.startswith(prefix) else None


def _bccd_manifest():
    return json.loads(Path(__file__).with_name("bccd.json").read_text())


def _read_bccd(folder, split):
    return voc.read(folder, _bccd_manifest()["splits"][split], classes=sets()["bccd"].classes, invalid="clip")


def _bccd_archives(split):
    # One archive, and not file by file: GitHub answers 429 to many small anonymous requests. GitHub makes
    # this archive anew when asked, so it has no lasting checksum; each file in it has one, in the manifest.
    manifest = _bccd_manifest()
    commit = manifest["commit"]
    url = f"{manifest['repository']}/archive/{commit}.zip"
    return [Archive(url, None, f"BCCD_Dataset-{commit}/BCCD/", "bccd", manifest["files"])]


def _read_aquarium(folder, split):
    return coco.read(folder / f"{split}.json", invalid="clip")


def _read_roboflow(folder, split):
    part = "valid" if split == "val" else split
    return coco.read(folder / part / "_annotations.coco.json", invalid="clip")


def _read_voc2007(folder, split):
    return voc.read(folder, split, classes=voc.CLASSES, invalid="clip")


def _voc2007_archives(split):
    from torchvision.datasets.voc import DATASET_YEAR_DICT  # URL and MD5 as torchvision keeps them

    known = DATASET_YEAR_DICT["2007-test" if split == "test" else "2007"]
    return [Archive(known["url"], f"md5:{known['md5']}", "VOCdevkit/VOC2007/", f"voc2007-{split}")]


def _read_coco_val2017(folder, split):
    return coco.read(folder / "annotations" / "instances_val2017.json", folder / "val2017", invalid="clip")


def _coco_val2017_archives(split):
    # cocodataset.org publishes no checksums. These are the MD5 that PaddleDetection (ppdet/utils/download.py)
    # checks the same two files against.
    site = "http://images.cocodataset.org"
    labels = {"instances_val2017.json": None}
    return [
        Archive(
            f"{site}/annotations/annotations_trainval2017.zip",
            "md5:f4bbac642086de4f52a3fdda2de5fa2c",
            "annotations/",
            "coco_val2017/annotations",
            labels,
        ),
        Archive(
            f"{site}/zips/val2017.zip",
            "md5:442b8da7639aecaf257c1dceb8ba8c80",
            "val2017/",
            "coco_val2017/val2017",
        ),
    ]


_VOC_FOLDERS = ("Annotations", "JPEGImages", "ImageSets/Main/{split}.txt")
_COCO_FILES = ("annotations/instances_val2017.json", "val2017")
COCO_CLASSES = tuple(
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,"
    "fire hydrant,stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,"
    "bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,"
    "sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,"
    "wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,"
    "hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,"
    "mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,"
    "vase,scissors,teddy bear,hair drier,toothbrush".split(",")
)

SETS = (
    RealSet(
        name="bccd",
        classes=("RBC", "WBC", "Platelets"),
        splits=("train", "val", "test"),
        licence="MIT",
        source="https://github.com/Shenggan/BCCD_Dataset",
        note="364 microscope images of blood cells, 640 x 480; clumped red cells are often unlabelled",
        megabytes=8,
        layouts=(("bccd", ("Annotations", "JPEGImages"), _read_bccd),),
        archives=_bccd_archives,
    ),
    RealSet(
        name="aquarium",
        classes=("fish", "jellyfish", "penguin", "puffin", "shark", "starfish", "stingray"),
        splits=("train", "val", "test"),
        licence="CC BY 4.0 (Roboflow, Aquarium)",
        source="https://public.roboflow.com/object-detection/aquarium",
        note="638 photographs from two aquariums; download the COCO export by hand and unpack it into a "
        'folder "aquarium" there, so that aquarium/train/_annotations.coco.json exists',
        megabytes=0,
        layouts=(
            ("aquarium", ("train/_annotations.coco.json",), _read_roboflow),
            ("aquarium", ("{split}.json", "{split}"), _read_aquarium),
            ("aquarium512", ("{split}.json", "{split}"), _read_aquarium),
        ),
        archives=None,
    ),
    RealSet(
        name="voc2007",
        classes=voc.CLASSES,
        splits=("trainval", "test"),
        licence="the photographs keep Flickr's terms of use; for research",
        source="http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
        note="Pascal VOC 2007, 9,963 photographs",
        megabytes=450,
        layouts=(
            ("voc2007-{split}", _VOC_FOLDERS, _read_voc2007),
            ("VOCdevkit/VOC2007", _VOC_FOLDERS, _read_voc2007),
        ),
        archives=_voc2007_archives,
    ),
    RealSet(
        name="coco_val2017",
        classes=COCO_CLASSES,
        splits=("val",),
        licence="annotations CC BY 4.0; the photographs keep Flickr's terms of use",
        source="https://cocodataset.org/#download",
        note="the validation set of COCO 2017, 5,000 photographs",
        megabytes=1070,
        layouts=(
            ("coco_val2017", _COCO_FILES, _read_coco_val2017),
            ("coco", _COCO_FILES, _read_coco_val2017),
        ),
        archives=_coco_val2017_archives,
    ),
)
