"""`autograder build | judge | grade`: what an instructor types."""

import argparse
import json
import os
import sys
from pathlib import Path

# One thread a process: judges and kernels run side by side, and a fork of a many-threaded torch can hang.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    commands = {"build": (_build_options, _build), "judge": (_judge_options, _judge)}
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


def _judge_options(parser):
    """Run one exercise's visible and hidden checks against answers; print a JSON object a line for each file."""
    parser.add_argument("exercise", nargs="?", metavar="EXERCISE")
    parser.add_argument("files", nargs="*", metavar="FILE.py", type=Path)
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for each file (default: 30)")
    parser.add_argument("--list", action="store_true", help="every exercise with its lesson and points, as JSON")


def _build(options, _):
    from .build import build

    return build(options.lessons, force=options.force, check=options.check)


def _judge(options, parser):
    from .judge import judge_apart
    from .lessons import LessonError, all_exercises

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
    for path, source in zip(options.files, sources):
        verdict = judge_apart(exercises[options.exercise], source, str(path), options.timeout)
        print(json.dumps({"file": str(path), **verdict.as_json()}), flush=True)
    return 0


def _error(message):
    print(f"autograder: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
