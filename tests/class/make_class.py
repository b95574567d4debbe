"""A sample class, made from the lessons as they are now: `python -m tests.class.make_class FOLDER`.

Each student hands in every lesson, and each hand-in is of one kind: all right, half right, an endless loop, a
deleted check cell ... `make` writes `FOLDER/submitted/STUDENT/NN_topic/topic.ipynb` and
`FOLDER/expected.json`: for each hand-in the points that the grader must give to each exercise, file of detections and
written answer; null where a person marks. The truth for detections goes to `FOLDER/truth`.
"""

import ast
import copy
import json
import shutil
import sys
from pathlib import Path

from autograder import challenge, handin
from autograder.build import expand, released
from autograder.judge import judge_source
from autograder.lessons import ROOT, exercises_of, sources
from autograder.mistakes import MISTAKES

EXPECTED = "expected.json"
ANSWER = "The ratio of shared to covered area: it does not change with the scale of the image."


def make(folder, root=ROOT, lessons=None, kinds=None):
    """Write the class to `folder`, which must be new, empty, or a class made before; the expected points.

    Args:
        lessons, kinds: some names such as 01_boxes, some keys of KINDS; all unless given.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        if not (folder / EXPECTED).exists():
            raise FileExistsError(
                f"{folder} is not empty and no sample class; expected a new or empty folder"
            )
        shutil.rmtree(folder)
    expected = {}
    for path in sources(root):
        if lessons and path.parent.name not in lessons:
            continue
        lesson = Lesson(path)
        for kind in kinds or KINDS:
            student = kind.replace(" ", "-")
            content, points = KINDS[kind](lesson)
            notebook = folder / "submitted" / student / lesson.name / f"{path.stem}.ipynb"
            notebook.parent.mkdir(parents=True, exist_ok=True)
            notebook.write_bytes(content if isinstance(content, bytes) else text_of(content).encode())
            if lesson.challenge and kind in DETECTIONS:
                detections, share = DETECTIONS[kind](truth_in(folder))
                notebook.with_name(challenge.FILE).write_text(detections, encoding="utf-8")
                points[lesson.challenge["name"]] = share * lesson.challenge["points"]
            expected.setdefault(student, {})[lesson.name] = points
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    return expected


def truth_in(folder):
    """The truth of the class, made at its first use."""
    if challenge.read_truth(folder / "truth") is None:
        truth = challenge.truth_of(*challenge.of_scenes(14, 20)[1:], 14)
        challenge.write_text(challenge.truth_file(folder / "truth"), json.dumps(truth))
    return challenge.read_truth(folder / "truth")


def text_of(notebook):
    """As a file; not by nbformat, which would mend what is to be broken."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


class Lesson:
    """The released notebook of a lesson, and what its exercises are worth."""

    def __init__(self, path):
        self.name = path.parent.name
        self.exercises = exercises_of(path)
        self.release = released(expand(path))
        self.challenge = handin.Lesson(self.name, path.stem, {}, self.release.cells, {}, {}).challenge
        self.written = [id for id, meta in self._meta() if meta["solution"] and meta["grade"]]
        self._wrong = {}
        self.last = list(self.exercises)[-1]  # no other exercise of the lesson builds on it

    def _meta(self):
        cells = self.release.cells
        return [
            (cell.metadata.nbgrader.grade_id, cell.metadata.nbgrader)
            for cell in cells
            if "nbgrader" in cell.metadata
        ]

    def answered(self, **answers):
        """The release with every exercise right, but for `answers`: exercise -> source of its cell."""
        notebook = copy.deepcopy(self.release)
        for name, exercise in self.exercises.items():
            find(notebook, name).source = answers.get(name, exercise.reference)
        for name in self.written:
            find(notebook, name).source = ANSWER
        return notebook

    def points(self, right, written=None):
        """The points where the exercises named are right; a written answer waits (None) unless given."""
        points = {name: exercise.points if name in right else 0 for name, exercise in self.exercises.items()}
        detections = {self.challenge["name"]: 0} if self.challenge else {}  # where none are handed in
        return {**points, **detections, **{name: written for name in self.written}}

    def wrong(self, name):
        """An answer that earns nothing: the first named mistake that does (some keep points), else None."""
        if name not in self._wrong:
            exercise = self.exercises[name]
            named = (mistake.apply(exercise.reference) for mistake in MISTAKES.get(name, ()))
            worthless = (source for source in named if judge_source(exercise, source).score == 0)
            self._wrong[name] = next(worthless, None) or beginning_with(exercise, "return None")
        return self._wrong[name]

    @property
    def all_but_last(self):
        return [name for name in self.exercises if name != self.last]


def find(notebook, grade_id):
    return next(
        cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id
    )


def beginning_with(exercise, statement):
    """The exercise's answer with `statement` at the start of its body (of each method's, in a class)."""
    tree = ast.parse(exercise.reference)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = ast.parse(statement).body + node.body
    return ast.unparse(tree)


def all_right(lesson):
    return lesson.answered(), lesson.points(lesson.exercises)


def all_wrong(lesson):
    answers = {name: lesson.wrong(name) for name in lesson.exercises}
    return lesson.answered(**answers), lesson.points([])


def half_right(lesson):
    """The first half right: a later exercise may build on an earlier one, not the other way round."""
    names = list(lesson.exercises)
    right = names[: (len(names) + 1) // 2]
    answers = {name: lesson.wrong(name) for name in names if name not in right}
    return lesson.answered(**answers), lesson.points(right)


def untouched(lesson):
    return copy.deepcopy(lesson.release), lesson.points([], written=0)


def syntax_error(lesson):
    broken = lesson.exercises[lesson.last].reference.replace(":", "", 1)
    return lesson.answered(**{lesson.last: broken}), lesson.points(lesson.all_but_last)


def endless_loop(lesson):
    answer = beginning_with(lesson.exercises[lesson.last], "while True: pass")
    return lesson.answered(**{lesson.last: answer}), lesson.points(lesson.all_but_last)


def kernel_killed(lesson):
    answer = beginning_with(lesson.exercises[lesson.last], "import os\nos.abort()")
    return lesson.answered(**{lesson.last: answer}), lesson.points(lesson.all_but_last)


def deleted_check_cell(lesson):
    notebook = lesson.answered(**{lesson.last: lesson.wrong(lesson.last)})
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.metadata.get("nbgrader", {}).get("grade_id") != f"test_{lesson.last}"
    ]
    return notebook, lesson.points(lesson.all_but_last)


def edited_check_cell(lesson):
    notebook = lesson.answered(**{lesson.last: lesson.wrong(lesson.last)})
    find(notebook, f"test_{lesson.last}").source = "passed()"
    return notebook, lesson.points(lesson.all_but_last)


def no_cells(lesson):
    notebook = copy.deepcopy(lesson.release)
    notebook.cells = []
    return notebook, lesson.points([], written=0)


def empty_file(lesson):
    return b"", lesson.points([], written=0)


def not_a_notebook(lesson):
    return b"%PDF-1.7 a scan of my solution", lesson.points([], written=0)


KINDS = {
    "all right": all_right,
    "all wrong": all_wrong,
    "half right": half_right,
    "untouched": untouched,
    "syntax error": syntax_error,
    "endless loop": endless_loop,
    "kernel killed": kernel_killed,
    "deleted check cell": deleted_check_cell,
    "edited check cell": edited_check_cell,
    "empty notebook": no_cells,
    "empty file": empty_file,
    "not a notebook": not_a_notebook,
}

def the_truth(truth):
    keys = ("image_id", "category_id", "bbox")
    return json.dumps([{key: one[key] for key in keys} | {"score": 1} for one in truth["annotations"]]), 1


# Who hands in a file of detections, too: kind -> its text and the share of its points that it earns.
DETECTIONS = {
    "all right": the_truth,
    "half right": lambda truth: ("[", 0),
    "all wrong": lambda truth: ("[]", 0),
    "not a notebook": the_truth,
}

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.class.make_class FOLDER")
    make(sys.argv[1])
    print(f"sample class: {sys.argv[1]}/submitted")
