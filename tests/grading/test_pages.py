"""What people read, made from results that no grading run had to make first."""

import base64
import csv
import hashlib
import html.parser
import re

import pytest

from autograder import gradebook, handin, pages, results
from autograder.grade import Job, _result, _save
from autograder.judge import Verdict, judge_source
from coursekit.checks import known_mistakes

from .conftest import Graded, changed, make_class

SCRIPT = "<script>alert(1)</script>"
SECRET = "0.125 at [0, 0], expected 0: secret of disjoint boxes"


def verdict(exercise, score=None, seconds=0.01, visible="", hidden="", mistake=None, **more):
    score = (0 if visible or hidden else exercise.points) if score is None else score
    parts = {check.grade_id: visible or hidden or None for check in exercise.checks}
    made = Verdict(
        exercise.name,
        exercise.points,
        score,
        {"passed": not visible, "message": visible},
        {"passed": not hidden, "message": hidden},
        mistake,
        {**parts, **more.pop("parts", {})},
        told=more.pop("told", {exercise.checks[0].grade_id: visible} if visible else {}),
        seconds=seconds,
    )
    assert not more
    return made


@pytest.fixture(scope="module")
def written(course, small, tmp_path_factory):
    """Pages of a class: student -> changes of verdicts, as if graded."""
    folder = tmp_path_factory.mktemp("written")
    lesson = handin.load_lesson(course / "solutions" / "01_small" / "small.py")
    area, iou = lesson.exercises["box_area"], lesson.exercises["box_iou"]
    hand_in = handin.restore(lesson, *handin.read(make_class.text_of(changed(small)).encode()))
    known = known_mistakes()["box_iou"][0]["name"]
    cases = {
        "right": {},
        "visible": {"box_area": verdict(area, visible="1 at [0], expected 1200: 30 wide and 40 high")},
        "hidden": {"box_iou": verdict(iou, hidden=SECRET, parts={"test_box_iou__empty": None}, score=1)},
        "known": {"box_iou": verdict(iou, hidden=SECRET, mistake=known)},
        "both parts": {
            "box_iou": verdict(
                iou,
                visible="9 at [0]\nThis is a known mistake",
                told={"test_box_iou": "9 at [0]", "test_box_iou__empty": "two"},
            )
        },
        "slow": {"box_iou": verdict(iou, seconds=12.3)},
        "endless": {"box_iou": verdict(iou, visible="not done after 30 s: is there a loop that never ends?")},
        "<img src=x> \u202e<script>alert(1)": {
            "box_area": verdict(area, visible=f"ValueError: {SCRIPT}\x00\x1b[2J\u202e")
        },
    }
    for student, changes in cases.items():
        verdicts = {"box_area": verdict(area), "box_iou": verdict(iou), **changes}
        job = Job(student, lesson, "k" * 32, 4.0, b"")
        hand_in.findings = [f"a note with {SCRIPT}"] if "<" in student else []
        _save(
            folder,
            job,
            _result(job, hand_in, verdicts, None, 1.0),
            "none (--unsafe)" if student == "slow" else "namespaces",
        )
    lessons = {lesson.name: lesson}
    everything, _ = results.load_all(folder)
    pages.write(folder, everything, gradebook.fold(folder, lessons, everything), lessons, [f"left {SCRIPT}"])
    return Graded(folder)


def all_pages(written):
    return [*(written.output / "feedback").rglob("*.html"), written.output / "report.html"]


class Outline(html.parser.HTMLParser):
    """Tags with attributes, headings by level, and whether every tag is closed in order."""

    VOID = {"meta", "br", "img", "link", "rect", "line"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.levels, self.open, self.wrong = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


def test_pages_are_sound_and_have_an_outline(written):
    for path in all_pages(written):
        page = Outline(path.read_text(encoding="utf-8"))
        names = [tag for tag, _ in page.tags]
        assert not page.wrong and not page.open, path
        assert names.count("main") == names.count("h1") == 1 and ("html", {"lang": "en"}) in page.tags
        assert all(after <= before + 1 for before, after in zip(page.levels, page.levels[1:])), page.levels
        cells = [attributes for tag, attributes in page.tags if tag == "th"]
        assert cells and all(attributes.get("scope") in ("row", "col") for attributes in cells)
        assert names.count("table") == names.count("caption")
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        links = [
            attributes["href"][1:]
            for _, attributes in page.tags
            if attributes.get("href", "").startswith("#")
        ]
        assert set(links) <= set(ids)


def test_pages_hold_no_script_and_allow_none(written):
    for path in all_pages(written):
        text = path.read_text(encoding="utf-8")
        page = Outline(text)
        assert not {"script", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
        assert not [
            name
            for _, attributes in page.tags
            for name in attributes
            if name.startswith("on") or name == "style"
        ]
        policy = next(
            a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"
        )
        style = re.search("<style>(.*?)</style>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert (
            policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'") and "unsafe" not in policy
        )
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", text)


def test_hidden_checks_are_told_by_name_only(written):
    page = written.page("hidden")
    assert 'Hidden checks: <span class="not">not passed</span>' in page
    assert '<th scope="row"><code>test_box_iou__empty</code></th><td class="number">1 of 1</td>' in page
    assert '<th scope="row"><code>test_box_iou</code></th><td class="number">0 of 3</td>' in page
    for path in all_pages(written):
        assert "secret" not in path.read_text(encoding="utf-8")


def test_each_check_cell_has_its_own_message(written):
    page = written.page("both parts")
    assert "<pre>9 at [0]\nThis is a known mistake</pre>" in page and page.count("9 at [0]") == 1
    assert (
        '<code>test_box_iou__empty</code></th><td class="number">0 of 1</td><td><span class="not">not passed</span>:<br>two</td>'
        in page
    )


def test_messages_of_check_cells_are_those_of_visible_statements(course):
    exercise = handin.load_lesson(course / "solutions" / "01_small" / "small.py").exercises["box_area"]
    right = exercise.reference
    hidden_only = right.replace(
        "    return", "    if len(boxes) and boxes[0, 0] == 1:\n        return boxes[:, 0]\n    return"
    )
    verdict = judge_source(exercise, hidden_only)
    assert "secret" in verdict.parts["test_box_area"] and verdict.told == {}
    verdict = judge_source(exercise, "def box_area(boxes):\n    return boxes[:, 0]")
    assert (
        "30 wide and 40 high" in verdict.told["test_box_area"]
        and "secret" not in verdict.told["test_box_area"]
    )


def test_mistake_found_by_hidden_checks_is_told_by_its_words(written):
    known = known_mistakes()["box_iou"][0]
    assert known["name"] in written.page(
        "known"
    ) and "These results are those of a known mistake" in written.page("known")


def test_time_is_told_where_it_was_long(written):
    assert "Its checks took 12 s" in written.page("slow") and "Its checks took" not in written.page("right")
    assert (
        "<bdi>endless</bdi> (30 s, ran out), <bdi>slow</bdi> (12 s)"
        in (written.output / "report.html").read_text()
    )


def test_report_tells_what_to_talk_about_and_how_it_was_graded(written):
    report, known = (written.output / "report.html").read_text(), known_mistakes()["box_iou"][0]
    lecture = report[report.index("What to talk about") : report.index('id="exercises-title"')]
    assert f'<span class="name">{known["name"]}</span>' in lecture and '<td class="number">1</td>' in lecture
    assert 'href="#01_small-box_iou"' in lecture and 'id="01_small-box_iou"' in report
    assert "Graded without isolation (--unsafe):</strong> in 1 of 8 hand-ins" in report
    assert "namespaces (7 hand-ins), none (--unsafe) (1 hand-in)" in report


def test_histogram_counts_every_hand_in_once(written):
    report = (written.output / "report.html").read_text()
    title = re.search("Hand-ins by share of their points:(.*?)</title>", report)[1]
    assert sum(int(number) for number in re.findall(r"percent: (\d+)", title)) == 8
    assert "90 to 100 percent: 2" in title and 'role="img"' in report  # right, slow
    counts = [bar["count"] for bar in pages.histogram([0, 0.1, 0.3, 0.55, 0.999, 1, 1])]
    assert counts == [1, 1, 0, 1, 0, 1, 0, 0, 0, 3]
    assert all(bar["height"] <= 100 and bar["y"] >= 20 for bar in pages.histogram([0.5] * 1000))


@pytest.mark.parametrize(
    "text, written",
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("＝1", "'＝1"),
        ("-2.5", "-2.5"),
        ("-", "-"),
        ("ada", "ada"),
        ("", ""),
    ],
)
def test_cells_are_no_formulas(text, written):
    assert pages.cell(text) == written


def test_marks_hold_no_formula_of_a_student(written, tmp_path):
    with open(written.output / "marks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    marked = [pages.Marked("=1+1", "01_small", "small", [], ["@x"], None, 0.0)]
    pages.write_marks(tmp_path / "marks.csv", marked, {})
    assert (
        "'=1+1,01_small" in (tmp_path / "marks.csv").read_text()
        and "'@x" in (tmp_path / "marks.csv").read_text()
    )
    assert len(rows) == 8


def test_colours_can_be_read(written):
    """Text against the page, at least 4.5 : 1 in both schemes (WCAG 2.2, 1.4.3); bars 3 : 1."""

    def luminance(colour):
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))

    style = (pages.FOLDER / "pages.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style)
    for scheme, page in ((light, "#ffffff"), (dark, "#1e1e1e")):
        for name, colour in re.findall(r"--(\w+): (#\w{6})", scheme):
            one, other = sorted((luminance(colour), luminance(page)))
            assert (other + 0.05) / (one + 0.05) >= (3 if name == "bar" else 4.5), (name, colour)
