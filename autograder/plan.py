"""A term's plan: hours and points of each lesson, read from the lessons' sources, put into the instructors' page."""

import re
from pathlib import Path

from .lessons import ROOT, exercises_of, read_cells, sources

PAGE = "autograder/docs/plan.md"
PLACE = re.compile(r"(<!-- plan -->\n).*?(<!-- /plan -->)", re.DOTALL)
NUMBERS = dict(zip("an one two three four five six seven eight nine ten".split(), (1, *range(1, 11))))
PARTS = {"a quarter": 0.25, "one quarter": 0.25, "a half": 0.5, "three quarter": 0.75, "three quarters": 0.75}


def minutes(text):
    """How long a lesson says that it takes, in minutes: "takes about two and a half hours" is 150; None if nowhere.

    The first "about ... hours" or "about ... minutes" behind "Time:" or "takes" counts.
    """
    flat = " ".join(text.replace("*", "").split())
    found = re.search(r"(?:Time:|takes) about ([\w. ]{1,40}?) (hour|minute)s?\b", flat)
    if not found:
        return None
    whole, _, part = found[1].partition(" and ")
    try:
        number = float(NUMBERS.get(whole) or whole) + (PARTS[part] if part else 0)
    except (ValueError, KeyError):
        return None
    return round(number * (60 if found[2] == "hour" else 1))


def rows(root=ROOT):
    """For each lesson: name, title, minutes (or None), points of exercises and of written answers, the exercises' names."""
    for path in sources(root):
        cells, exercises = read_cells(path), exercises_of(path)
        texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
        graded = [meta for cell in cells if (meta := cell.metadata.get("nbgrader", {})).get("grade")]
        written = sum(meta["points"] for meta in graded if meta["solution"])
        checked = sum(meta["points"] for meta in graded) - written
        title = re.sub(r"^#+\s*(\d+ · )?", "", texts[0].strip().splitlines()[0]) if texts else path.stem
        yield path.parent.name, title, minutes(texts[0] if texts else ""), checked, written, list(exercises)


def table(root=ROOT):
    """The plan as a Markdown table with a row of sums."""
    lines, sums = ["| lesson | hours | exercises | points, by checks | points, by hand |", "| --- | ---: | ---: | ---: | ---: |"], [0] * 4
    for name, title, took, checked, written, exercises in rows(root):
        lines.append(f"| {name[:2]} {title} | {hours(took)} | {len(exercises)} | {checked} | {written} |")
        sums = [one + more for one, more in zip(sums, (took or 0, len(exercises), checked, written))]
    return "\n".join([*lines, f"| all | {hours(sums[0])} | {' | '.join(map(str, sums[1:]))} |"])


def hours(took):
    """Minutes as hours to the quarter, such as 1¾; "not said" for None."""
    if took is None:
        return "not said"
    whole, quarters = divmod(round(took / 15), 4)
    return f"{whole or ''}{' ¼½¾'[quarters]}".strip() or "0"


def renew(*, check=False, root=ROOT):
    """Put today's table between the markers of the page, where there is one; its name if it was out of date."""
    from .build import write

    page = Path(root) / PAGE
    if not page.exists():
        return []
    shown = PLACE.sub(lambda found: f"{found[1]}\n{table(root)}\n\n{found[2]}", page.read_text(encoding="utf-8"))
    return write({page: shown}, check=check, root=root)
