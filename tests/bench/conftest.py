import os
from pathlib import Path

import pytest

from .frame import ROOT, Table, machine

HERE = Path(__file__).parent
OPTIONS = {
    "--hand-ins": (int, 40, "how many the grader and its peer both grade"),
    "--scale": (str, "10,100,200,1000", "how many the grader grades alone, on two processes"),
    "--share": (float, 1.0, "part of the full size of functions, data and evaluation; the goals hold for 1"),
    "--save": (str, str(ROOT / "build" / "bench"), "folder for the tables as JSON; `make bench` keeps them in the repository"),
}


def pytest_addoption(parser):
    for name, (kind, value, words) in OPTIONS.items():
        parser.addoption(name, type=kind, default=value, help=f"bench: {words} (default: {value})")


def pytest_ignore_collect(collection_path, config):
    """Benches run when they are asked for by their folder, never along with the tests."""
    asked = [Path(config.invocation_params.dir, argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(HERE in (path, *path.parents) for path in asked) else True


@pytest.fixture
def table(request):
    """Makes a `Table`; saves it and shows it after the tests, and fails the bench whose goals are missed."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    about, made = machine(), []

    def make(*arguments):
        made.append(Table(*arguments, about=about))
        return made[-1]

    yield make
    for one in made:
        if one.rows:
            one.save(request.config.getoption("--save"))
            request.config.stash.setdefault(SHOWN, []).append(one)


SHOWN = pytest.StashKey[list]()


def pytest_terminal_summary(terminalreporter, config):
    for one in config.stash.get(SHOWN, []):
        terminalreporter.write_line(f"\n{one.markdown()}")
