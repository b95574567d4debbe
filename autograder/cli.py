"""`autograder build | challenge | judge | collect | grade | export | experiment | curves | doctor`: what an instructor types."""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

# One thread a process: judges and kernels run side by side, and a fork of a many-threaded torch can hang.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    commands = {"build": (_build_options, _build), "judge": (_judge_options, _judge), "grade": (_grade_options, _grade),
                "experiment": (_experiment_options, _experiment), "curves": (_curves_options, _curves),
                "doctor": (_doctor_options, _doctor),
                "collect": (_collect_options, _collect), "export": (_export_options, _export),
                "challenge": (_challenge_options, _challenge)}
    overview = argparse.ArgumentParser(prog="autograder", description=__doc__)
    overview.add_argument("command", choices=commands, help="`autograder COMMAND --help` tells more")
    command = overview.parse_args(arguments[:1]).command
    add_options, run = commands[command]
    parser = argparse.ArgumentParser(prog=f"autograder {command}", description=add_options.__doc__)
    add_options(parser)
    # Intermixed, so that options may stand between the files too.
    return run(parser.parse_intermixed_args(arguments[1:]), parser)


def _build_options(parser):
    """Lesson sources -> solutions/*.ipynb (executed), course/*.ipynb (released) and fingerprints of mistakes."""
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="such as 01_boxes; all unless given")
    parser.add_argument("--force", action="store_true", help="execute also lessons whose source did not change")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 and say what is out of date")
    parser.add_argument("--language", metavar="CODE", help="such as de: only releases with text in this language, in course-de/")


def _judge_options(parser):
    """Run one exercise's visible and hidden checks against answers; print a JSON object a line for each file."""
    parser.add_argument("exercise", nargs="?", metavar="EXERCISE")
    parser.add_argument("files", nargs="*", metavar="FILE.py", type=Path)
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for each file (default: 30)")
    parser.add_argument("--unsafe", action="store_true", help="also where this machine cannot isolate the answers")
    parser.add_argument("--list", action="store_true", help="every exercise with its lesson and points, as JSON")


def _grade_options(parser):
    """Grade submitted/STUDENT/NN_topic/topic.ipynb: gradebook.db, feedback pages, marks.csv and report.html."""
    parser.add_argument("source", nargs="?", type=Path, metavar="ZIP_OR_FOLDER",
                        help="collect this first, as `autograder collect` does (default: what is in `submitted`)")
    parser.add_argument("--course", type=Path, metavar="ROOT", help="the folder with solutions/ (default: this checkout)")
    parser.add_argument("--submitted", type=Path, metavar="DIR", help="the hand-ins (default: ROOT/submitted)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the results go (default: ROOT)")
    parser.add_argument("--lesson", action="append", default=[], metavar="NN_topic", help="only this one; may be repeated")
    parser.add_argument("--student", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--truth", type=Path, metavar="DIR", help="where `autograder challenge` left its truth (default: ROOT/truth)")
    parser.add_argument("-j", "--processes", type=int, metavar="N", help="hand-ins at a time (default: one a core)")
    parser.add_argument("--cluster", metavar="ADDRESS", help="a Dask scheduler's, such as tcp://10.0.0.1:8786; `local` starts "
                        "one here with N workers")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS",
                        help="for a cell or an exercise's checks; a hand-in has four times that (default: 30)")
    parser.add_argument("--unsafe", action="store_true", help="grade also where this machine cannot isolate hand-ins")
    parser.add_argument("--force", action="store_true", help="grade also what did not change since it was graded")
    parser.add_argument("--gradescope", nargs="?", type=Path, const=Path("/autograder"), metavar="DIR",
                        help="grade DIR/submission into DIR/results/results.json, as Gradescope wants it (default: /autograder)")
    parser.add_argument("--sample", action="store_true", help="make the bundled sample class in build/class and grade it")


def _collect_options(parser):
    """A zip of Canvas or Moodle, or a folder of notebooks -> submitted/STUDENT/NN_topic/topic.ipynb."""
    parser.add_argument("source", type=Path, metavar="ZIP_OR_FOLDER")
    parser.add_argument("--lesson", metavar="NN_topic", help="whose hand-ins these are (default: by the notebooks' names)")
    parser.add_argument("--course", type=Path, metavar="ROOT", help="the folder with solutions/ (default: this checkout)")
    parser.add_argument("--submitted", type=Path, metavar="DIR", help="where the hand-ins go (default: ROOT/submitted)")
    parser.add_argument("--replace", action="store_true", help="write over other hand-ins that are there")


def _challenge_options(parser):
    """Pictures for students, in coursekit/challenge.zip, and their truth, by which files of detections are scored, in truth/."""
    parser.add_argument("--seed", type=int, metavar="N", help="make the same challenge again (default: a secret one, drawn now)")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="generated scenes (default: 200)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="your own images instead, with --truth")
    parser.add_argument("--truth", type=Path, metavar="FILE", help="their COCO JSON; file names are relative to --images")
    parser.add_argument("--course", type=Path, metavar="ROOT", help="the checkout (default: this one)")
    parser.add_argument("--replace", action="store_true", help="also where there is a truth already: it is lost then")


def _challenge(options, _):
    from .challenge import main

    return main(options)


def _collect(options, _):
    from .collect import main

    return main(options)


def _export_options(parser):
    """The marks of the last grading run for another system, in OUTPUT/exports."""
    parser.add_argument("kind", choices=["canvas", "moodle", "gradescope", "csv"])
    parser.add_argument("--lesson", metavar="NN_topic", help="whose marks (default: the only one graded)")
    parser.add_argument("--template", type=Path, metavar="FILE", help="the CSV file that Canvas or Moodle exported; it is filled")
    parser.add_argument("--column", metavar="TITLE", help="canvas: the assignment's column (default: the one with the lesson's name)")
    parser.add_argument("--scale", action="store_true", help="bring points to the maximum of the template where these differ")
    for what, name in (("id", "Identifier"), ("grade", "Grade"), ("feedback", "Feedback comments")):
        parser.add_argument(f"--{what}-column", metavar="TITLE", help=f"moodle: in another language (default: {name})")
    parser.add_argument("--course", type=Path, metavar="ROOT", help="the folder with solutions/ (default: this checkout)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where grading put its results (default: ROOT)")


def _export(options, _):
    from .export import main

    return main(options)


def _experiment_options(parser):
    """Run a lesson's long experiment; its numbers go to coursekit/results/NN_topic.json. Goes on where it stopped."""
    parser.add_argument("lesson", metavar="LESSON", help="such as 05_ssd")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED", help="default: 0 1 2")
    parser.add_argument("--forms", nargs="+", metavar="FORM", help="only these; all unless given")
    parser.add_argument("--part", metavar="NAME", help="the experiment of cells tagged experiment-NAME, such as bug")


def _curves_options(parser):
    """Train a lesson's solutions; their losses go to coursekit/curves/NN_topic.json, for students to compare with."""
    parser.add_argument("lesson", metavar="LESSON", help="such as 05_ssd")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED", help="default: 0 1 2")


def _curves(options, _):
    from .curves import main

    return main(options)


def _doctor_options(parser):
    """What this machine keeps student code from: tried from inside. Exit status 0 where grading is isolated, else 1."""
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _doctor(options, _):
    from .doctor import doctor

    return doctor(options.json)


def _experiment(options, _):
    from .experiment import main

    return main(options)


def _grade(options, parser):
    from . import grade, pages
    from .challenge import ChallengeError
    from .lessons import ROOT, LessonError
    from .sandbox import SandboxError

    if options.gradescope:
        from .export import run_in_gradescope

        lesson = options.lesson[0] if options.lesson else None
        return run_in_gradescope(options.course or ROOT, options.gradescope, lesson, options.timeout, options.unsafe)
    if options.source is not None:
        lesson = options.lesson[0] if len(options.lesson) == 1 else None
        if _collect(argparse.Namespace(**{**vars(options), "lesson": lesson, "replace": False}), parser):
            return 2
    root, submitted, output, timeout = options.course or ROOT, options.submitted, options.output, options.timeout
    truth = options.truth
    try:
        if options.sample:
            made = grade.sample(root)
            submitted, output, truth, timeout = made / "submitted", made, made / "truth", min(timeout, 10.0)
        with _cluster(options) as run:
            report = grade.grade(
                root, submitted, output,
                lessons=options.lesson, students=options.student, processes=options.processes, timeout=timeout,
                force=options.force, unsafe=options.unsafe, run=run, truth=truth,
            )
    except KeyboardInterrupt:
        print("autograder: stopped; what was graded is kept. The same command goes on from here", file=sys.stderr)
        return 130
    except (grade.GradingError, ChallengeError, LessonError, SandboxError) as error:
        return _error(error)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    print(pages.table(report.with_name("marks.csv")))
    print(f"report: {report}")
    return 0


def _cluster(options):
    if not options.cluster:
        return contextlib.nullcontext()
    from .cluster import Cluster

    return Cluster(options.cluster, processes=options.processes, unsafe=options.unsafe)


def _build(options, _):
    from .build import build

    return build(options.lessons, force=options.force, check=options.check, language=options.language)


def _judge(options, parser):
    from concurrent.futures import ThreadPoolExecutor

    from .judge import judge_answer, warm
    from .lessons import LessonError, all_exercises
    from .sandbox import Sandbox, SandboxError

    try:
        exercises = all_exercises()
    except LessonError as error:
        return _error(error)
    if options.list:
        rows = [{"exercise": e.name, "lesson": e.lesson, "points": e.points} for e in exercises.values()]
        print(json.dumps(rows, indent=1))
        return 0
    if options.exercise is None or not options.files:
        parser.error("judge needs an EXERCISE and one or more files, or --list")
    if options.exercise not in exercises:
        import difflib

        near = difflib.get_close_matches(options.exercise, exercises, 1)
        hint = f"did you mean {near[0]}?" if near else "`autograder judge --list` prints them"
        return _error(f"no exercise {options.exercise!r}: {hint}")
    sources = []
    for path in options.files:
        try:
            sources.append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            return _error(f"cannot read {path}: {error}; expected a Python file that defines {options.exercise}")
    try:
        with Sandbox(unsafe=options.unsafe) as sandbox, ThreadPoolExecutor(1) as beside:
            opened = beside.submit(sandbox.open)  # its process imports what this one does, at the same time
            warm()
            opened.result()
            for path, source in zip(options.files, sources):
                verdict = judge_answer(exercises[options.exercise], source, sandbox, str(path), options.timeout)
                print(json.dumps({"file": str(path), **verdict.as_json()}), flush=True)
    except SandboxError as error:
        return _error(error)
    return 0


def _error(message):
    print(f"autograder: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
