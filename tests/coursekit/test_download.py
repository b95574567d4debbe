"""Downloads from a server on this machine: whole, cut off, resumed, refused, wrong; unpacking; named sets."""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from coursekit.data import download, voc
from coursekit.data.download import Archive, DownloadError, fetch, unpack

DATA = os.environ.get("COURSEKIT_DATA")
local_sets = pytest.mark.skipif(not DATA, reason="needs $COURSEKIT_DATA")

CONTENT = bytes(range(256)) * 1000


def md5(content):
    return f"md5:{hashlib.md5(content).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves `files` by name; `cuts` answers break off half-way; `seen` has the Range of each request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.ranges, self.status, self.seen = {}, 0, True, None, []

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.seen.append(asked)
        content = server.files.get(self.path[1:])
        if content is None or server.status:
            return self.send_error(server.status or 404)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        if server.cuts:
            server.cuts -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_arrives_and_is_not_fetched_twice(server, tmp_path):
    server.files["a.bin"] = CONTENT
    for _ in range(2):
        path = fetch(server.url("a.bin"), tmp_path / "new" / "a.bin", checksum=md5(CONTENT))
        assert path.read_bytes() == CONTENT and names(path.parent) == ["a.bin"]
    assert server.seen == [None]


def test_broken_connection_goes_on_where_it_stopped(server, tmp_path):
    server.files["a.bin"], server.cuts = CONTENT, 2
    fetch(server.url("a.bin"), tmp_path / "a.bin", checksum=md5(CONTENT), pause=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert server.seen == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_next_run_goes_on_where_the_last_one_gave_up(server, tmp_path):
    server.files["a.bin"], server.cuts = CONTENT, 1
    with pytest.raises(
        DownloadError, match=r"failed 1 times .*0\.1 MB are kept in .*a\.bin\.part, run the same line"
    ):
        fetch(server.url("a.bin"), tmp_path / "a.bin", attempts=1)
    assert names(tmp_path) == ["a.bin.part"]
    fetch(server.url("a.bin"), tmp_path / "a.bin", checksum=md5(CONTENT))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and names(tmp_path) == ["a.bin"]
    assert server.seen == [None, f"bytes={len(CONTENT) // 2}-"]


def test_server_that_refuses_ranges_sends_all_again(server, tmp_path):
    server.files["a.bin"], server.cuts, server.ranges = CONTENT, 1, False
    fetch(server.url("a.bin"), tmp_path / "a.bin", pause=0)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.seen[1] is not None


def test_part_that_is_complete_is_taken(server, tmp_path):
    server.files["a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    fetch(server.url("a.bin"), tmp_path / "a.bin", checksum=md5(CONTENT))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and len(server.seen) == 1


@pytest.mark.parametrize("part", [b"another beginning", CONTENT + b"longer"], ids=["other bytes", "too long"])
def test_part_of_another_file_is_thrown_away(server, tmp_path, part):
    server.files["a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(part)
    fetch(server.url("a.bin"), tmp_path / "a.bin", checksum=md5(CONTENT))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and names(tmp_path) == ["a.bin"]


def test_damaged_file_of_an_earlier_run_is_replaced(server, tmp_path):
    server.files["a.bin"] = CONTENT
    (tmp_path / "a.bin").write_bytes(b"damaged")
    fetch(server.url("a.bin"), tmp_path / "a.bin", checksum=md5(CONTENT))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_wrong_checksum_is_told_and_nothing_is_left(server, tmp_path):
    server.files["a.bin"] = CONTENT[:-1] + b"x"
    found, expected = md5(server.files["a.bin"]), md5(CONTENT)
    with pytest.raises(DownloadError, match=f"a.bin has {found}, expected {expected}"):
        fetch(server.url("a.bin"), tmp_path / "a.bin", checksum=expected)
    assert names(tmp_path) == []


def test_sha256_is_a_checksum_too(server, tmp_path):
    server.files["a.bin"] = CONTENT
    fetch(server.url("a.bin"), tmp_path / "a.bin", checksum=f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")


@pytest.mark.parametrize(
    "status, message", [(404, "the file has moved"), (403, "not public"), (429, "try again later")]
)
def test_refusal_is_told_at_once(server, tmp_path, status, message):
    server.files["a.bin"], server.status = CONTENT, status
    with pytest.raises(DownloadError, match=rf"a\.bin answered {status} \(.*\): .*{message}"):
        fetch(server.url("a.bin"), tmp_path / "a.bin")
    assert len(server.seen) == 1 and names(tmp_path) == []


def test_busy_server_is_asked_again(server, tmp_path):
    server.files["a.bin"], server.status = CONTENT, 503
    with pytest.raises(DownloadError, match="failed 3 times .*0.0 MB are kept"):
        fetch(server.url("a.bin"), tmp_path / "a.bin", attempts=3, pause=0)
    assert len(server.seen) == 3


def test_no_server_is_told_as_being_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as gone:
        url = gone.url("a.bin")
    with pytest.raises(DownloadError, match=f"cannot reach {url} .*is this machine online"):
        fetch(url, tmp_path / "a.bin")


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(files, link=None):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo("top/link")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return file.getvalue()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_folder_of_an_archive_is_unpacked(tmp_path, pack):
    (tmp_path / "a").write_bytes(pack({"top/x.txt": b"1", "top/deep/y.txt": b"2", "other/z.txt": b"3"}))
    place = unpack(tmp_path / "a", tmp_path / "set", "top/")
    assert (place / "deep" / "y.txt").read_bytes() == b"2" and names(place) == ["deep", "x.txt"]
    assert names(tmp_path) == ["a", "set"]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil", "top/../../evil", "/evil", "top\\..\\evil", "C:evil"])
def test_path_out_of_the_archive_is_refused_and_nothing_is_left(tmp_path, pack, name):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "a").write_bytes(pack({"top/x.txt": b"1", name: b"2"}))
    with pytest.raises(ValueError, match="would be written outside of the folder"):
        unpack(tmp_path / "cache" / "a", tmp_path / "cache" / "set", "top/")
    assert names(tmp_path) == ["cache"] and names(tmp_path / "cache") == ["a"]


def test_link_in_an_archive_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(tarred({"top/x.txt": b"1"}, link="/etc"))
    with pytest.raises(ValueError, match="top/link is a link or device"):
        unpack(tmp_path / "a", tmp_path / "set", "top/")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_damaged_archive_is_told_and_nothing_is_left(tmp_path, pack):
    whole = pack({f"top/{i}.txt": hashlib.sha256(bytes([i])).digest() * 50 for i in range(50)})
    for damaged in (whole[: len(whole) // 2], b"no archive"):
        (tmp_path / "a").write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            unpack(tmp_path / "a", tmp_path / "set", "top/")
        assert names(tmp_path) == ["a"]


def test_unpacking_that_was_killed_is_done_anew(tmp_path):
    (tmp_path / "a").write_bytes(zipped({"x.txt": b"1"}))
    left = tmp_path / ".set.unpacking"
    left.mkdir()
    (left / "half.txt").write_text("half")
    assert names(unpack(tmp_path / "a", tmp_path / "set")) == ["x.txt"]
    assert names(tmp_path) == ["a", "set"]


@pytest.mark.parametrize(
    "files, message",
    [
        ({"x.txt": "0" * 64}, r"x\.txt has sha256:6b86.*, expected sha256:000"),
        ({"x.txt": None, "y.txt": None}, r"no top/y\.txt in it"),
    ],
)
def test_file_missing_or_changed_in_an_archive_is_named(tmp_path, files, message):
    (tmp_path / "a").write_bytes(zipped({"top/x.txt": b"1"}))
    with pytest.raises(ValueError, match=message):
        unpack(tmp_path / "a", tmp_path / "set", "top/", files)
    assert names(tmp_path) == ["a"]


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "JPEG")
    return file.getvalue()


XML = """<annotation><filename>{}.jpg</filename><size><width>40</width><height>30</height></size>
<object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>30</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def pets(server, tmp_path, monkeypatch):
    """A set "pets" of two images on the server, the only one that is known; nothing is on this machine."""
    monkeypatch.delenv("COURSEKIT_DATA", raising=False)
    monkeypatch.setenv("COURSEKIT_CACHE", str(tmp_path / "cache"))
    files = {"top/ImageSets/Main/train.txt": b"a\nb\n"}
    for name, width, colour in (("a", 20, "red"), ("b", 1, "blue")):
        files[f"top/Annotations/{name}.xml"] = XML.format(name, width).encode()
        files[f"top/JPEGImages/{name}.jpg"] = jpeg(colour)
    server.files["pets.zip"] = content = zipped(files)
    pets = download.RealSet(
        name="pets",
        classes=("dog",),
        splits=("train",),
        licence="CC0",
        source="https://example.org/pets",
        note="two pets",
        megabytes=1,
        layouts=(("pets", ("Annotations", "JPEGImages"), lambda f, s: voc.read(f, s, invalid="clip")),),
        archives=lambda split: [Archive(server.url("pets.zip"), md5(content), "top/", "pets")],
    )
    monkeypatch.setattr(download, "SETS", (pets,))
    return pets


def test_set_is_downloaded_once_and_then_found(server, pets, tmp_path, capsys):
    expected = (
        r"no images of 'pets' \(train\) in .*cache.pets: "
        r"run coursekit\.data\.real\('pets', 'train', size=\.\.\., download=True\) once, online "
        r"\(1 MB, licence CC0, https://example\.org/pets\)"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        download.real("pets", "train", size=20)
    assert server.seen == []
    for wanted in (True, True, False):
        data = download.real("pets", "train", size=20, download=wanted)
        assert data.images.shape == (2, 3, 20, 20) and data.classes == ("dog",)
        assert data.targets[0]["boxes"].tolist() == [[0, 0, 10, 15]]
        assert data.targets[1]["boxes"].shape == (0, 4)
        said = capsys.readouterr().out
        assert said.startswith("pets train: boxes left out or cut, as they cannot be right: 1 × no area")
        assert "(the first is b.xml, object 0 (dog))" in said
    assert len(server.seen) == 1 and names(tmp_path / "cache") == ["pets"]


def test_set_of_the_data_folder_comes_first(server, pets, tmp_path, monkeypatch):
    download.real("pets", "train", size=20, download=True)
    shutil.copytree(tmp_path / "cache" / "pets", tmp_path / "data" / "pets")
    monkeypatch.setenv("COURSEKIT_DATA", str(tmp_path / "data"))
    assert {record.image.parents[2] for record in download.records("pets", "train")} == {tmp_path / "data"}
    shutil.rmtree(tmp_path / "data" / "pets" / "JPEGImages")
    assert {record.image.parents[2] for record in download.records("pets", "train")} == {tmp_path / "cache"}
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match=r"in .*data.pets nor in .*cache.pets: run"):
        download.records("pets", "train")


def test_set_that_lost_an_image_is_not_taken_for_whole(pets, tmp_path):
    download.real("pets", "train", size=20, download=True)
    (tmp_path / "cache" / "pets" / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(
        ValueError, match=r"a\.xml: no image .*a\.jpg for its 1 boxes; the copy of pets train is not complete"
    ):
        download.real("pets", "train", size=20)


def test_archive_that_is_another_one_is_told_and_removed(server, pets, tmp_path, monkeypatch):
    def other(split):
        return [Archive(server.url("pets.zip"), None, "elsewhere/", "pets")]

    monkeypatch.setattr(download, "SETS", (dataclasses.replace(pets, archives=other),))
    with pytest.raises(DownloadError, match=r"nothing below 'elsewhere/' in it.*; from http"):
        download.real("pets", "train", size=20, download=True)
    assert names(tmp_path / "cache") == []


def test_folder_in_the_way_is_not_touched(server, pets, tmp_path):
    (tmp_path / "cache" / "pets").mkdir(parents=True)
    (tmp_path / "cache" / "pets" / "mine.txt").write_text("mine")
    with pytest.raises(DownloadError, match="cache.pets exists, but is not complete: move it away"):
        download.real("pets", "train", size=20, download=True)
    assert names(tmp_path / "cache" / "pets") == ["mine.txt"]


def test_set_for_a_person_to_download_says_from_where(tmp_path, monkeypatch):
    monkeypatch.delenv("COURSEKIT_DATA", raising=False)
    monkeypatch.setenv("COURSEKIT_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"download the COCO export by hand.*CC BY 4\.0.*source https://"
    ):
        download.real("aquarium", "train", size=64, download=True)


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("dogs", "train", r"no set 'dogs', expected one of bccd, aquarium, voc2007, coco_val2017"),
        ("voc2007", "train", r"no split 'train' of voc2007, expected one of trainval, test"),
    ],
)
def test_unknown_name_or_split_is_told(name, split, message):
    with pytest.raises(ValueError, match=message):
        download.real(name, split, size=64)


def test_table_shows_licence_and_source_of_every_set():
    shown = repr(download.sets())
    for chosen in download.sets().values():
        assert chosen.name in shown and chosen.licence in shown and chosen.source in shown


def test_every_archive_has_a_checksum_of_its_own_or_of_its_files():
    for chosen in download.SETS:
        for split in chosen.splits if chosen.archives else ():
            for archive in chosen.archives(split):
                if archive.checksum is None:
                    assert archive.files and all(len(digest) == 64 for digest in archive.files.values())
                else:
                    method, digest = archive.checksum.split(":")
                    assert len(digest) == {"md5": 32, "sha256": 64}[method]


@local_sets
@pytest.mark.parametrize(
    "name, split, images, boxes",
    [("bccd", "train", 205, 2804), ("bccd", "val", 87, 1137), ("bccd", "test", 72, 945)]
    + [("aquarium", "train", 448, 3323), ("aquarium", "val", 127, 909), ("aquarium", "test", 63, 582)],
)
def test_splits_of_the_real_sets(name, split, images, boxes):
    records = download.records(name, split)
    assert len(records) == images and sum(map(len, records)) == boxes
    assert {n for record in records for n in record.names} <= set(download.sets()[name].classes)


@local_sets
def test_bccd_of_the_data_folder_is_the_one_of_the_manifest():
    manifest = download._bccd_manifest()
    folder = Path(DATA) / "bccd"
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    for split, listed in manifest["splits"].items():
        assert (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split() == listed
    assert len(manifest["files"]) == 2 * sum(map(len, manifest["splits"].values())) == 728


@local_sets
def test_bccd_is_installed_from_an_archive_as_github_makes_it(server, tmp_path, monkeypatch):
    manifest = download._bccd_manifest()
    top = f"BCCD_Dataset-{manifest['commit']}"
    files = {f"{top}/BCCD/{name}": (Path(DATA) / "bccd" / name).read_bytes() for name in manifest["files"]}
    server.files["bccd.zip"] = zipped({f"{top}/README.md": b"", f"{top}/BCCD/.DS_Store": b"", **files})
    (archive,) = download._bccd_archives("test")
    assert archive.url == f"https://github.com/Shenggan/BCCD_Dataset/archive/{manifest['commit']}.zip"
    here = dataclasses.replace(archive, url=server.url("bccd.zip"))
    bccd = dataclasses.replace(download.sets()["bccd"], archives=lambda split: [here])
    monkeypatch.setattr(download, "SETS", (bccd,))
    monkeypatch.delenv("COURSEKIT_DATA")
    monkeypatch.setenv("COURSEKIT_CACHE", str(tmp_path))
    records = download.records("bccd", "test", download=True)
    assert len(records) == 72 and names(tmp_path / "bccd") == ["Annotations", "JPEGImages"]


@local_sets
def test_names_of_coco_are_those_of_its_files():
    truth = json.loads(
        (Path(DATA) / "metrics/coco_val2014_fakebbox100/gt_100images_bboxarea.json").read_text()
    )
    assert download.COCO_CLASSES == tuple(category["name"] for category in truth["categories"])


def test_aquarium_as_roboflow_exports_it_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSEKIT_DATA", str(tmp_path))
    folder = tmp_path / "aquarium" / "valid"
    folder.mkdir(parents=True)
    (folder / "x.jpg").write_bytes(jpeg("red"))
    export = {
        "images": [{"id": 0, "file_name": "x.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 0, "name": "creatures"}, {"id": 5, "name": "shark"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 5, "bbox": [1, 2, 3, 4], "iscrowd": 0}],
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(export))
    (tmp_path / "aquarium" / "train").mkdir()
    (tmp_path / "aquarium" / "train" / "_annotations.coco.json").write_text("{}")
    data = download.real("aquarium", "val", size=40)
    assert data.targets[0]["labels"].tolist() == [5]
    assert torch.equal(data.targets[0]["boxes"], torch.tensor([[1.0, 2, 4, 6]]))
