"""On a Dask cluster: the marks of one machine, also when workers die; what is lost is told, what is done is kept."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from autograder import results
from autograder.cli import main
from autograder.cluster import Cluster, differences
from autograder.grade import GradingError

from .conftest import changed, grade_class, hand_in

psutil = pytest.importorskip("psutil", reason="Dask is not installed (the extra `cluster`)")
pytest.importorskip("distributed", reason="Dask is not installed (the extra `cluster`)")
pytestmark = pytest.mark.slow
WRONG = "def box_iou(boxes1, boxes2):\n    return 1"
SLOW = "import time\n\ndef box_area(boxes):\n    time.sleep(0.1)\n    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)"


@pytest.fixture(scope="module")
def local():
    with Cluster("local", processes=2) as cluster:
        yield cluster


def found(output):
    """The results in `output`, but for what differs from run to run: times and what depends on them."""
    everything, notes = results.load_all(output)
    assert notes == []
    for result in everything:
        for of_time in ("seconds", "when", "key", "isolation"):
            result.pop(of_time)
        for exercise in result["exercises"].values():
            exercise.pop("seconds", None)
    return {result["student"]: result for result in everything}


def graded_notebooks(output):
    return {path.parts[-3]: path.read_text(encoding="utf-8") for path in output.glob("autograded/*/*/*.ipynb")}


def test_results_are_those_of_one_machine(course, small, tmp_path, local):
    notebooks = {
        "right": changed(small),
        "half": changed(small, box_iou=WRONG),
        "untouched": small.release,
        "broken": changed(small, box_iou="def box_iou(:"),
        "kills": changed(small, box_iou="import os\n\ndef box_iou(boxes1, boxes2):\n    os.kill(os.getpid(), 9)"),
        "hangs": changed(small, box_iou="def box_iou(boxes1, boxes2):\n    while True:\n        pass"),
        "no notebook": "%PDF-1.7",
    }
    grade_class(course, tmp_path / "one", notebooks, timeout=10.0)
    many = grade_class(course, tmp_path / "many", notebooks, timeout=10.0, run=local)
    assert many.scores("right") == (2, 4) and many.scores("half") == (2, 0)
    assert found(tmp_path / "one") == found(tmp_path / "many")
    assert graded_notebooks(tmp_path / "one") == graded_notebooks(tmp_path / "many")


def busy(cluster):
    """The process ids of the Dask workers that are grading."""
    processing = {worker for worker, tasks in cluster._client.processing().items() if tasks}
    pids = cluster._client.run(os.getpid)
    return [pid for worker, pid in pids.items() if worker in processing]


def when_some_are_done(output, count, action):
    """Call `action` in a thread when so many results are there."""

    def watch():
        until = time.monotonic() + 120
        while len(list(output.glob("results/*/*.json"))) < count and time.monotonic() < until:
            time.sleep(0.05)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_worker_killed_in_the_middle_loses_nothing(course, small, tmp_path, local):
    notebooks = {f"s{number:02}": changed(small, box_area=SLOW) for number in range(10)}
    killed = []

    def kill():
        killed.extend(busy(local)[:1])
        os.kill(killed[0], signal.SIGKILL)

    thread = when_some_are_done(tmp_path, 2, kill)
    graded = grade_class(course, tmp_path, notebooks, run=local)
    thread.join()
    assert killed and killed[0] not in local._client.run(os.getpid).values()
    assert {graded.scores(student) for student in notebooks} == {(2, 4)}


def test_a_grading_process_that_dies_is_replaced(course, small, tmp_path, local):
    notebooks = {f"s{number}": changed(small, box_area=SLOW) for number in range(6)}

    def kill():
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # some end meanwhile
                if "autograder.cluster" in process.cmdline():
                    process.kill()

    thread = when_some_are_done(tmp_path, 1, kill)
    graded = grade_class(course, tmp_path, notebooks, run=local)
    thread.join()
    assert {graded.scores(student) for student in notebooks} == {(2, 4)}


@pytest.fixture
def started(tmp_path):
    """Starts `dask scheduler` and `dask worker` as a person would; `started(environment)` gives address, processes."""
    processes = []

    def start(**environment):
        file = tmp_path / "scheduler.json"
        env = {**os.environ, **environment}
        dask = [sys.executable, "-m", "dask"]
        common = {"env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        options = ["--port", "0", "--no-dashboard", "--scheduler-file", file]
        processes.append(subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", *options], **common))
        options = ["--scheduler-file", file, "--nthreads", "2", "--no-dashboard", "--local-directory", tmp_path / "dask"]
        processes.append(subprocess.Popen([*dask, "worker", *options], **common))
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.1)
        return json.loads(file.read_text())["address"], processes

    yield start
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.wait(30)


def test_a_lost_scheduler_is_told_and_what_is_done_stays_done(course, small, tmp_path, started, monkeypatch):
    monkeypatch.setattr("autograder.cluster.PATIENCE", 5.0)
    address, (scheduler, _) = started()
    notebooks = {f"s{number:02}": changed(small, box_area=SLOW) for number in range(12)}
    with pytest.raises(GradingError, match="(?s)scheduler .* lost.*kept in results/"):
        with Cluster(address) as cluster:
            thread = when_some_are_done(tmp_path, 2, scheduler.kill)
            grade_class(course, tmp_path, notebooks, run=cluster)
    thread.join()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/*/*.json")}
    assert 2 <= len(done) < 12
    graded = grade_class(course, tmp_path, notebooks)
    assert {graded.scores(student) for student in notebooks} == {(2, 4)}
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_a_worker_that_cannot_isolate_is_told_before_anything_is_graded(started):
    address, _ = started(AUTOGRADER_SANDBOX="bubblewrap", PATH="/nowhere")
    with pytest.raises(GradingError, match="the worker tcp://.* cannot grade: .*no program bwrap"):
        with Cluster(address):
            pass


def test_where_no_scheduler_answers_the_commands_to_start_one_are_told(monkeypatch):
    monkeypatch.setattr("autograder.cluster.PATIENCE", 1.0)
    with pytest.raises(GradingError, match="no Dask scheduler .* tcp://127.0.0.1:9 .*`dask scheduler`.*--cluster local"):
        with Cluster("tcp://127.0.0.1:9"):
            pass


def test_what_a_worker_has_otherwise_is_told():
    here = {"versions": ["Python 3.12.1", "torch 2.15.0"], "code": "a"}
    assert differences("tcp://w:1", here, here) == []
    [told] = differences("tcp://w:1", {"versions": ["Python 3.12.1", "torch 2.11.0"], "code": "b"}, here)
    assert told == (
        "the worker tcp://w:1 is not like this machine: torch 2.11.0 there, torch 2.15.0 here; "
        "another version of coursekit or autograder than here; marks may differ"
    )


def test_without_dask_the_command_says_what_to_install(course, small, tmp_path, monkeypatch, capsys):
    hand_in(tmp_path, "ada", changed(small))
    monkeypatch.setitem(sys.modules, "distributed", None)
    paths = ["--course", course, "--submitted", tmp_path / "submitted", "--output", tmp_path]
    assert main(["grade", *map(str, paths), "--cluster", "local"]) == 2
    assert "pip install -e '.[cluster]'" in capsys.readouterr().err


def test_dask_is_imported_only_when_asked_for():
    code = "import sys, autograder.cli, autograder.grade, autograder.cluster; sys.exit('distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_dask_worker_itself_imports_no_torch():
    code = "import sys, autograder.cluster; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
