"""What Canvas and Moodle hand out becomes submitted/STUDENT/NN_topic/topic.ipynb; what would do harm is left out."""

import os
import stat
import struct
import zipfile

import pytest

from autograder import collect, handin
from autograder.cli import main

from .conftest import make_class


@pytest.fixture(scope="module")
def notebook(small):
    return make_class.text_of(small.release)


def zipped(path, entries):
    """A zip of name -> text (or bytes), in order; an entry may be a (ZipInfo, text) too."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(name, text)
    return path


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text(errors="replace")
        for path in folder.rglob("*")
        if path.is_file()
    }


def collected(course, source, tmp_path, lesson="01_small", **options):
    """(files below submitted, notes) after collecting."""
    _, notes = collect.collect(source, lesson, tmp_path / "submitted", course, **options)
    return tree(tmp_path / "submitted"), notes


CANVAS = {
    "doejane_501_9001_small.ipynb": ["doejane_501"],
    "roerick_LATE_502_9002_small-2.ipynb": ["roerick_502"],
    "o_brian_503_9003_small (1).ipynb": ["o_brian_503"],
    "müllerjörg_504_9004_My Small.ipynb": ["müllerjörg_504"],
    "anon_x7Gh2_9005_small.ipynb": ["anon_x7Gh2"],
}


def test_canvas_zip(course, notebook, tmp_path):
    files, notes = collected(
        course, zipped(tmp_path / "s.zip", {name: notebook for name in CANVAS}), tmp_path
    )
    assert files == {
        f"{student}/01_small/small.ipynb": notebook for names in CANVAS.values() for student in names
    }
    assert notes == ["roerick_LATE_502_9002_small-2.ipynb: handed in late"]


def test_canvas_zip_with_several_files_of_one_student(course, notebook, tmp_path):
    entries = {
        "doejane_501_9001_small.ipynb": "first",
        "doejane_501_9002_small-1.ipynb": "second",
        "doejane_501_9003_notes.ipynb": "other",
        "doejane_501_9004_scan.pdf": "%PDF",
        "poepam_502_9005_essay.pdf": "%PDF",
    }
    files, notes = collected(course, zipped(tmp_path / "s.zip", entries), tmp_path)
    assert files == {"doejane_501/01_small/small.ipynb": "second"}
    assert (
        "2 files that are no notebooks, left out: doejane_501_9004_scan.pdf, poepam_502_9005_essay.pdf"
        in notes
    )
    assert any(
        note.startswith("doejane_501_9002_small-1.ipynb: taken as the hand-in, and not") for note in notes
    )


@pytest.mark.parametrize(
    "name",
    [
        "Jane Doe_11_assignsubmission_file/small.ipynb",
        "Jane Doe_11_assignsubmission_file_/small.ipynb",
        "Jane Doe_11_assignsubmission_file_small.ipynb",
        "Jane Doe_11_assignsubmission_file_/sub/folder/small.ipynb",
    ],
)
def test_moodle_zip(course, notebook, tmp_path, name):
    files, notes = collected(course, zipped(tmp_path / "s.zip", {name: notebook}), tmp_path)
    assert files == {"Jane Doe_11/01_small/small.ipynb": notebook} and notes == []


def test_folders_and_lessons_by_name(course, notebook, tmp_path):
    """nbgrader's tree with its time stamp, a folder a student, a folder of notebooks; also what was unpacked by hand."""
    source = tmp_path / "source"
    for name in ("ada/01_small/small.ipynb", "bob/small.ipynb", "roerick_502_9002_small.ipynb", "loose/cyd.ipynb", "loose/dan.ipynb",
                 "ada/01_small/.ipynb_checkpoints/small-checkpoint.ipynb", "Eve E_7_assignsubmission_file_/small.ipynb"):  # fmt: skip
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(notebook)
    (source / "ada" / "01_small" / "timestamp.txt").write_text("2026-06-01 10:00:00 UTC\n")
    files, notes = collected(course, source, tmp_path)
    students = ["ada", "bob", "roerick_502", "cyd", "dan", "Eve E_7"]
    assert {name.split("/")[0] for name in files} == set(students) and notes == []
    assert files["ada/01_small/timestamp.txt"] == "2026-06-01 10:00:00 UTC\n"
    assert len(files) == len(students) + 1


def test_lesson_is_known_by_folder_or_notebook(course, notebook, tmp_path):
    entries = {
        "doe_1_2_small.ipynb": notebook,
        "roe_3_4_other.ipynb": notebook,
        "ada/01_small/x.ipynb": notebook,
    }
    files, notes = collected(course, zipped(tmp_path / "s.zip", entries), tmp_path, lesson=None)
    assert set(files) == {"doe_1/01_small/small.ipynb", "ada/01_small/small.ipynb"}
    assert notes == ["roe_3_4_other.ipynb: of no lesson of the course; left out"]


def test_hand_in_that_is_there_stays_unless_replaced(course, notebook, tmp_path):
    zipped(tmp_path / "one.zip", {"doe_1_2_small.ipynb": "one"})
    zipped(tmp_path / "two.zip", {"doe_1_5_small.ipynb": "two"})
    collected(course, tmp_path / "one.zip", tmp_path)
    assert collected(course, tmp_path / "one.zip", tmp_path) == ({"doe_1/01_small/small.ipynb": "one"}, [])
    files, notes = collected(course, tmp_path / "two.zip", tmp_path)
    assert files == {"doe_1/01_small/small.ipynb": "one"} and "--replace takes this one" in notes[0]
    assert collected(course, tmp_path / "two.zip", tmp_path, replace=True)[0] == {
        "doe_1/01_small/small.ipynb": "two"
    }


def link(name, target):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry, target


@pytest.mark.parametrize(
    "name, told",
    [
        ("../../evil_1_2_small.ipynb", "a name that leads out of the folder"),
        ("a/../../../x/small.ipynb", "a name that leads out of the folder"),
        ("/etc/cron.d/small.ipynb", "a name that leads out of the folder"),
        ("C:\\x\\small.ipynb", "a name that leads out of the folder"),
        ("..\\..\\x\\small.ipynb", "a name that leads out of the folder"),
        (link("doe_1_2_small.ipynb", "/etc/passwd"), "a link"),
        (link("../x_1_assignsubmission_file_/small.ipynb", "../../../gradebook.db"), "a name that leads out"),
    ],
    ids=str,
)
def test_entries_that_lead_out_are_left_out(course, notebook, tmp_path, name, told):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    entry = name if isinstance(name, tuple) else (name, notebook)
    files, notes = collected(
        course, zipped(inside / "s.zip", [entry, ("good_1_2_small.ipynb", notebook)]), inside
    )
    assert set(files) == {"good_1/01_small/small.ipynb"} and any(told in note for note in notes)
    assert sorted(tree(tmp_path)) == ["a/b/s.zip", "a/b/submitted/good_1/01_small/small.ipynb"]


def test_bombs_are_left_out(course, notebook, tmp_path, monkeypatch):
    bomb = zipped(
        tmp_path / "s.zip", {"doe_1_2_small.ipynb": b" " * 90_000_000, "roe_3_4_small.ipynb": notebook}
    )
    files, notes = collected(course, bomb, tmp_path)
    assert set(files) == {"roe_3/01_small/small.ipynb"} and "90 MB packed into" in notes[0]
    monkeypatch.setattr(collect, "TOTAL", 1_000)
    with pytest.raises(collect.CollectError, match="GB together, at most"):
        collected(course, bomb, tmp_path)
    monkeypatch.setattr(collect, "MOST", 1)
    with pytest.raises(collect.CollectError, match="2 files in the zip, at most 1 are taken"):
        collected(course, bomb, tmp_path)


def test_entry_that_lies_about_its_size_is_left_out(course, notebook, tmp_path):
    path = zipped(tmp_path / "s.zip", {"doe_1_2_small.ipynb": "x" * 5000, "roe_3_4_small.ipynb": notebook})
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"doe_1_2_small.ipynb")  # in the central directory, 46 bytes behind its beginning
    assert struct.unpack("<I", raw[at - 22 : at - 18]) == (5000,)
    raw[at - 22 : at - 18] = struct.pack("<I", 100)
    path.write_bytes(raw)
    files, notes = collected(course, path, tmp_path)
    assert set(files) == {"roe_3/01_small/small.ipynb"} and notes[0].startswith("doe_1_2_small.ipynb: ")


def test_names_that_clash_get_a_folder_each(course, notebook, tmp_path):
    names = ["Ada_1_assignsubmission_file_/small.ipynb", "ada_1_assignsubmission_file_/small.ipynb"]
    files, notes = collected(
        course, zipped(tmp_path / "s.zip", {name: f"of {name}" for name in names}), tmp_path
    )
    assert sorted(files.values()) == [f"of {name}" for name in names] and set(files) == {
        "Ada_1/01_small/small.ipynb",
        "ada_1-2/01_small/small.ipynb",
    }
    assert notes == ["ada_1: collected as ada_1-2"]


def test_the_same_name_twice_in_a_zip_is_noted(course, notebook, tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zipped(tmp_path / "s.zip", [("doe_1_2_small.ipynb", "one"), ("doe_1_2_small.ipynb", "two")])
    files, notes = collected(course, path, tmp_path)
    assert len(files) == 1 and "taken as the hand-in, and not" in notes[0]


def test_names_of_other_encodings_are_put_right_or_kept(course, notebook, tmp_path):
    """Without the flag a name is cp437 by the standard; many programs write UTF-8 all the same."""
    path = zipped(tmp_path / "s.zip", {"m__ller_1_2_small.ipynb": notebook, "r__e_3_4_small.ipynb": notebook})
    raw = path.read_bytes().replace(b"m__ller", "müller".encode()).replace(b"r__e", b"r\xff\xfee")
    path.write_bytes(raw)
    files, _ = collected(course, path, tmp_path)
    assert "müller_1/01_small/small.ipynb" in files and len(files) == 2


@pytest.mark.parametrize(
    "name, safe",
    [
        ("ada", "ada"), ("名前 😀", "名前 😀"), ("a/b\\c:d", "a_b_c_d"), ("..", None), (". .", None), ("a. ", "a"), ("new\nline\x00", "newline"),
        ("\u202eevil", "evil"), ("CON", "_CON"), ("nul.txt", "_nul.txt"), ("e\u0301", "é"), ("x" * 500, "x" * 100), ("é" * 100, "é" * 50),
        ("", None), ("\udc80a", "_a"), ("-rf", "-rf"),
    ],
)  # fmt: skip
def test_names_of_folders_are_safe_everywhere(name, safe):
    found = collect.safe_name(name)
    assert found == safe
    if found:
        assert collect.safe_name(found) == found and os.sep not in found


def test_missing_source_is_told(course, tmp_path):
    with pytest.raises(collect.CollectError, match="missing.zip: .*expected a zip file or a folder"):
        collect.collect(tmp_path / "missing.zip", None, tmp_path, course)


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip", b"PK\x03\x04" + b"\0" * 50])
def test_what_is_no_zip_is_refused(course, tmp_path, content):
    (tmp_path / "s.zip").write_bytes(content)
    with pytest.raises(collect.CollectError, match="expected a zip file or a folder"):
        collected(course, tmp_path / "s.zip", tmp_path)


def test_empty_zip_is_told(course, tmp_path):
    with pytest.raises(collect.CollectError, match="no notebook to collect .*1 files that are no notebooks"):
        collected(course, zipped(tmp_path / "s.zip", {"readme.txt": ""}), tmp_path)


def test_links_in_folders_are_left_out(course, notebook, tmp_path):
    source = tmp_path / "source"
    (source / "ada").mkdir(parents=True)
    (source / "ada" / "small.ipynb").write_text(notebook)
    (source / "bob").mkdir()
    (source / "bob" / "small.ipynb").symlink_to("/etc/passwd")
    (source / "cyd").symlink_to(source / "ada")
    files, notes = collected(course, source, tmp_path)
    assert set(files) == {"ada/01_small/small.ipynb"}
    assert any("bob/small.ipynb: small.ipynb is a link" in note for note in notes) and any(
        "cyd: a link" in note for note in notes
    )


def test_link_where_hand_ins_go_is_not_followed(course, notebook, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "submitted").mkdir()
    (tmp_path / "submitted" / "doe_1").symlink_to(tmp_path / "elsewhere")
    entries = {"doe_1_2_small.ipynb": notebook, "roe_3_4_small.ipynb": notebook}
    _, notes = collected(course, zipped(tmp_path / "s.zip", entries), tmp_path)
    assert os.listdir(tmp_path / "elsewhere") == [] and any("is a link; left out" in note for note in notes)


def test_command_collects(course, notebook, tmp_path, capsys):
    zipped(tmp_path / "s.zip", {"doe_1_2_small.ipynb": notebook, "roe_LATE_3_4_small.ipynb": notebook})
    command = [
        "collect",
        str(tmp_path / "s.zip"),
        "--course",
        str(course),
        "--submitted",
        str(tmp_path / "in"),
    ]
    assert main(command) == 0
    told = capsys.readouterr()
    assert f"2 hand-ins collected in {tmp_path / 'in'}" in told.err
    assert "roe_LATE_3_4_small.ipynb: handed in late" in told.err
    assert handin.fetch(tmp_path / "in" / "doe_1" / "01_small" / "small.ipynb") == notebook.encode()
    assert main([*command, "--lesson", "77_none"]) == 2
    assert "no lesson '77_none'; there are 01_small" in capsys.readouterr().err


def test_grade_takes_a_zip_too(course, notebook, tmp_path, capsys):
    zipped(tmp_path / "s.zip", {"doe_1_2_small.ipynb": notebook})
    folders = [
        "--course",
        str(course),
        "--submitted",
        str(tmp_path / "in"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(["grade", str(tmp_path / "s.zip"), "--lesson", "01_small", *folders]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["doe_1", "01_small", "0", "of", "10", "marked"]
    assert main(["grade", str(tmp_path / "none.zip"), *folders]) == 2
