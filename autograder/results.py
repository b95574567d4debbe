"""What grading found, one file a hand-in: `results/STUDENT/NN_topic.KEY.json`.

KEY is a hash of all that decides the marks: the hand-in, the lesson's checks, the packages that judge, the
environment. A hand-in whose file is there need not be graded again. Each file is written whole or not at all,
so a run that is killed goes on where it was. Gradebook, pages and exports are made from these files alone.
"""

import functools
import hashlib
import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).parent
# What only orders, stores or shows results decides no mark.
PRESENTS = {"cli", "cluster", "collect", "doctor", "experiment", "export", "gradebook", "pages", "results"}


def key(lesson, hand_in, environment):
    """The hash of everything that decides the marks of one hand-in.

    Args:
        lesson (str): what `lesson_hash` gave.
        hand_in: bytes or strings: the notebook, and what else of the folder is told in the result.
        environment (str): what `environment` gave.
    """
    parts = (_deciding(), lesson, environment, *hand_in)
    return _hash(part if isinstance(part, bytes) else part.encode() for part in parts)


def lesson_hash(lesson):
    """The hash of a `handin.Lesson`: its exercises with references and checks, its cells as released."""
    exercises = [asdict(exercise) for exercise in lesson.exercises.values()]
    return _hash([json.dumps([lesson.name, exercises, lesson.cells, lesson.released]).encode()])


def environment(isolation, **limits):
    """Versions, isolation and limits in words."""
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", "torchvision", "numpy", "ipython"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    told = [f"{name} {value}" for name, value in sorted(limits.items())]
    return ", ".join([*versions, f"isolation {isolation}", *told])


@functools.cache
def _deciding():
    """The hash of the sources that decide a mark: the packages' code and the fingerprints of mistakes."""
    import coursekit

    kit = Path(coursekit.__file__).parent
    files = [path for path in PACKAGE.glob("*.py") if path.stem not in PRESENTS]
    files += [*kit.rglob("*.py"), *(kit / "fingerprints").glob("*.json")]
    return _hash(part for path in sorted(files) for part in (path.name.encode(), path.read_bytes())).encode()


def _hash(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part))  # so that no two lists of parts look alike
        digest.update(part)
    return digest.hexdigest()[:32]


def text_hash(text):
    return bytes_hash(text.encode())


def bytes_hash(content):
    return _hash([content])


def path_of(output, student, lesson, key):
    """Where the result of one hand-in lies."""
    return Path(output) / "results" / student / f"{lesson}.{key}.json"


def save(output, result):
    """Write one result, then forget those of the student's earlier hand-ins of the lesson."""
    path = path_of(output, result["student"], result["lesson"], result["key"])
    write_text(path, json.dumps(result, indent=1) + "\n")
    for other in path.parent.glob(f"{result['lesson']}.*.json"):
        if other != path:
            other.unlink(missing_ok=True)


def load(path):
    """The result in a file.

    Raises:
        ValueError: if it is none, or another's.
    """
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        if not Path(path).match(f"{result['student']}/{result['lesson']}.{result['key']}.json"):
            raise ValueError("it lies where another hand-in's result belongs")
        return result
    except (KeyError, TypeError, OSError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def load_all(output):
    """Every result in `output`, by student and lesson; and notes on files that are none."""
    newest, notes = {}, []
    for path in sorted((Path(output) / "results").glob("*/*.*.json")):
        try:
            result = load(path)
        except ValueError as error:
            notes.append(f"{path.parent.name}/{path.name}: no result ({error}); left out, delete it")
            continue
        place, when = (result["student"], result["lesson"]), path.stat().st_mtime_ns
        if (
            place not in newest or when > newest[place][0]
        ):  # two, where a run was killed between save and forget
            newest[place] = when, result
    return [result for _, (_, result) in sorted(newest.items())], notes


def write_text(path, text):
    """Write a file whole or not at all, with the folders it lies in."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    part.replace(path)
