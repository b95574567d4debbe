"""Grades each family of attacks in one run, among bystanders and canaries, and keeps what was seen."""

import csv
import ctypes
import functools
import html
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from autograder.sandbox import Sandbox, SandboxError

from ..grading.conftest import Graded, hand_in, make_class
from . import cheats, files, harm, honest, library, protocol
from .course import LESSON, LIBRARY_LESSON, LIBRARY_POINTS, POINTS

FAMILIES = {
    "cheats": cheats.ATTACKS,
    "library": library.ATTACKS,
    "files": files.ATTACKS,
    "protocol": protocol.ATTACKS,
    "harm": harm.ATTACKS,
    "honest": honest.ATTACKS,
}
SECONDS = {"honest": 8.0, "library": 3.0, "harm": 3.0}  # for a cell or an exercise's checks; the others get
TIMEOUT = 2.0
RIGHT = [f"{place}-bystander" for place in ("!first", "library", "~last")]  # sorted: before, among, after
BLANK = [f"{place}-blank" for place in ("!first", "library", "~last")]


@pytest.fixture(scope="session", autouse=True)
def _isolated():
    """Attacks are run where they are locked in, or not at all."""
    try:
        with Sandbox() as sandbox:
            sandbox.open()
    except SandboxError as error:
        pytest.skip(f"nothing isolates hand-ins here: {error}")


class Places:
    """What attacks aim at, by the word that stands for it in their code; and whether it was touched."""

    def __init__(self, folder, text):
        self.folder = folder
        self.mark = f"atk{uuid.uuid4().hex[:8]}"  # names of processes, files and sockets that attacks make
        self.course, self.submitted, self.output = folder / "course", folder / "submitted", folder / "output"
        self.other, self.home, self.canary = folder / "other", folder / "home", folder / "canary"
        lesson = self.course / "solutions" / "01_small" / "small.py"
        for path, text in {
            lesson: text.lstrip(),
            self.course / "solutions" / "01_small" / "small.ipynb": '{"wolverine": 1}',
            self.other / "gradebook.db": "wolverine, not a database",
            self.other / "autograded" / "bob" / "01_small" / "small.ipynb": "wolverine",
            self.home / "precious.txt": "wolverine",
            self.canary / "precious.txt": "wolverine",
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.canary.chmod(0o777)  # permissions shall not be what protects it
        (self.canary / "precious.txt").chmod(0o666)
        self.lesson = make_class.Lesson(lesson)
        self.listener = Listener(folder, self.mark)

    def fill(self, text):
        words = {
            "COURSE": self.course,
            "SUBMITTED": self.submitted,
            "OUTPUT": self.output,
            "OTHER": self.other,
            "HOME": self.home,
            "CANARY": self.canary,
            "FOLDER": self.folder,
            "CHECKOUT": Path(__file__).resolve().parents[2],
            "MARK": self.mark,
            "TCP": self.listener.tcp,
            "UDP": self.listener.udp,
            "UNIX": self.listener.path,
            "OPEN": self.listener.closed,
        }
        return re.sub(r"@([A-Z]+)@", lambda found: str(words[found[1]]), text)

    def state(self):
        """Bytes and times of everything that no hand-in may touch."""
        kept = [self.course, self.submitted, self.other, self.home, self.canary]
        state = {}
        for folder in kept:
            for path in sorted(folder.rglob("*")):
                if "__pycache__" in path.parts or path.is_symlink() or not path.is_file():
                    continue
                about = path.stat()
                state[str(path)] = (about.st_size, about.st_mtime_ns, about.st_mode, about.st_uid)
        return state

    def litter(self):
        """Files that carry the mark, where an attack may have dropped them."""
        import sysconfig
        import tempfile

        homes = {Path.home(), Path("/root"), self.home, Path("/nonexistent")}
        folders = [
            tempfile.gettempdir(),
            "/dev/shm",
            "/var/tmp",
            "/",
            "/etc",
            "/run",
            sysconfig.get_path("purelib"),
        ]
        folders += [
            home / below for home in homes for below in ("", ".ipython/profile_default/startup", ".config")
        ]
        folders += [self.course, self.submitted, self.output, self.other, self.canary, self.folder]
        found = []
        for folder in map(Path, folders):
            try:
                found += [path for path in folder.iterdir() if self.mark in path.name]
            except OSError:
                continue
        return sorted(set(map(str, found)))


class Listener:
    """Servers of this machine that no hand-in may reach, and a port that none may open."""

    def __init__(self, folder, mark):
        self.heard, self.opened, self.path = [], False, str(folder / "unix.socket")
        kinds = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "unix": (socket.AF_UNIX, socket.SOCK_STREAM, self.path),
        }
        if sys.platform == "linux":
            kinds["abstract"] = (socket.AF_UNIX, socket.SOCK_STREAM, "\0" + mark)
        self.sockets = {}
        for name, (family, kind, address) in kinds.items():
            self.sockets[name] = server = socket.socket(family, kind)
            server.bind(address)
            if kind == socket.SOCK_STREAM:
                server.listen()
            server.settimeout(0.2)
            threading.Thread(target=self._serve, args=(name, server), daemon=True).start()
        self.tcp = self.sockets["tcp"].getsockname()[1]
        self.udp = self.sockets["udp"].getsockname()[1]
        os.chmod(self.path, 0o777)
        with socket.socket() as spare:
            spare.bind(("127.0.0.1", 0))
            self.closed = spare.getsockname()[1]
        threading.Thread(target=self._knock, daemon=True).start()

    def _serve(self, name, server):
        while server.fileno() >= 0:
            try:
                if server.type == socket.SOCK_STREAM:
                    server.accept()[0].close()
                else:
                    server.recvfrom(1000)
                self.heard.append(name)
            except TimeoutError:
                continue
            except OSError:
                return

    def _knock(self):
        while self.sockets["tcp"].fileno() >= 0:
            with socket.socket() as knock:
                self.opened = self.opened or knock.connect_ex(("127.0.0.1", self.closed)) == 0
            time.sleep(0.1)

    def close(self):
        for server in self.sockets.values():
            server.close()


class Run(Graded):
    """One grading run of a family of attacks."""

    def __init__(self, family, attacks, folder):
        library = family == "library"
        self.every = LIBRARY_POINTS if library else POINTS
        self.places = places = Places(folder, LIBRARY_LESSON if library else LESSON)
        super().__init__(places.output)
        for student in RIGHT:
            hand_in(folder, student, places.lesson.answered())
        for student in BLANK:
            hand_in(folder, student, places.lesson.release)
        for attack in attacks:
            notebook = attack.notebook(places.lesson)
            if isinstance(notebook, bytes):
                path = hand_in(folder, attack.student, "")
                path.write_bytes(notebook)
            else:
                hand_in(folder, attack.student, places.fill(make_class.text_of(notebook)))
            if attack.lay:
                attack.lay(places.submitted / attack.student / "01_small", places)
        self.before = places.state()
        self.limit = SECONDS.get(family, TIMEOUT)
        self._grade(self.limit)
        self.after, self.litter = places.state(), places.litter()
        places.listener.close()
        for path in self.litter:  # what an attack left is not left by its test
            Path(path).unlink()

    def _grade(self, seconds):
        """Run the command in a process of its own; whatever it leaves running becomes our child."""
        _adopt_orphans()
        before = set(_children())
        command = [
            sys.executable,
            "-m",
            "autograder.cli",
            "grade",
            "--processes",
            "2",
            "--timeout",
            str(seconds),
        ]
        for option in ("course", "submitted", "output"):
            command += [f"--{option}", str(getattr(self.places, option))]
        environment = {
            **os.environ,
            "HOME": str(self.places.home),
            "MPLCONFIGDIR": str(self.places.folder / "matplotlib"),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
        }
        environment.pop("IPYTHONDIR", None)
        started = time.monotonic()
        told = self.places.folder / "told.txt"
        with open(told, "wb") as file:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=Path(__file__).resolve().parents[2],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                _, self.status, used = _wait(process, 600)
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                self.status, used = None, None
        self.seconds, self.peak = time.monotonic() - started, used and used.ru_maxrss * 1024
        self.told = told.read_text(encoding="utf-8", errors="replace")
        latest = time.monotonic() + 2
        while (left := set(_children()) - before) and time.monotonic() < latest:
            _reap(left)
            time.sleep(0.05)
        self.left_running = [_command(pid) for pid in left]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def marks(self, student, lesson="01_small"):
        return super().marks(student if student in self.students() else "'" + student, lesson)

    def page(self, student, lesson="01_small"):
        return html.unescape(super().page(student, lesson))

    def students(self):
        with open(self.output / "marks.csv", newline="", encoding="utf-8") as file:
            return {row["student"] for row in csv.DictReader(file)}

    def report(self):
        return html.unescape((self.output / "report.html").read_text(encoding="utf-8"))

    def times(self):
        results = map(json.loads, (path.read_text() for path in (self.output / "results").glob("*/*.json")))
        return {result["student"]: result["seconds"] for result in results}

    def points(self, student):
        row = self.marks(student)
        return {name: float(row[name]) for name in self.every}

    def files(self):
        return [path for path in self.output.rglob("*") if path.is_file()]


def _adopt_orphans():
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _children():
    tasks = Path("/proc/self/task")
    return [int(pid) for task in tasks.glob("*/children") for pid in task.read_text().split()]


def _command(pid):
    try:
        return (
            f"{pid}: "
            + Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
        )
    except OSError:
        return str(pid)


def _reap(pids):
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def _wait(process, seconds):
    latest = time.monotonic() + seconds
    while time.monotonic() < latest:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return pid, process.returncode, used
        time.sleep(0.02)
    raise TimeoutError


@pytest.fixture(scope="session")
def run_of(tmp_path_factory):
    """family -> its Run, graded when first asked for."""

    @functools.cache
    def run(family):
        return Run(family, FAMILIES[family], tmp_path_factory.mktemp(family))

    return run
