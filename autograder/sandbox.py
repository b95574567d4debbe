"""Where student code runs: processes without network, without answers, with limits.

A `Sandbox` starts one clean process, the zygote (`zygote.py`), which imports torch once; each `start` forks a
student process from it and locks that in (`jail.py`). What cannot be locked in is not started, unless asked for.
"""

import contextlib
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass

BACKENDS = {
    "namespaces": "namespaces",
    "bubblewrap": "namespaces inside bubblewrap",
    "none": "none (--unsafe)",
}
ENDED = "ended by the grader"


class SandboxError(RuntimeError):
    """Student code cannot be run as asked; says what is missing and which ways out there are."""


class _Unprepared(SandboxError):
    """The zygote lacks something that no other way to isolate would give it."""


@dataclass(frozen=True)
class Limits:
    """What one student process, with everything it starts, may use.

    memory: bytes beyond what the zygote holds. disk: bytes of its folder, and of any file. files: in its folder.
    processes: with their threads. descriptors: open at a time, of each process. cpu: seconds, of each process.
    """

    memory: int = 2 * 2**30
    disk: int = 64 * 2**20
    files: int = 4096
    processes: int = 64
    descriptors: int = 256
    cpu: int = 900


class Sandbox:
    """Starts student processes; forked workers may share one, best opened (`open`) before they are forked.

    Args:
        unsafe (bool): do without isolation: limits and a clean end, as far as the system has them.
        limits (Limits): of each student process.
        hide: folders that student code shall not see even where they lie inside Python's own; this checkout is among
            them anyhow.
        backend (str): "namespaces" or "bubblewrap"; the first that isolates unless given, here or by the environment
            variable AUTOGRADER_SANDBOX.
        student (str): the module whose `prepare()` and `serve(socket)` the zygote calls.
        checked (bool): try from inside what isolation keeps out (`doctor`), and use none that lets something through.

    Raises (all from `open`, or the first `start`):
        SandboxError: where nothing isolates.
    """

    def __init__(self, *, unsafe=False, limits=Limits(), hide=(), backend=None,
                 student="autograder.student", checked=True):  # fmt: skip
        backend = backend or os.environ.get("AUTOGRADER_SANDBOX")
        if backend is not None and backend not in ("namespaces", "bubblewrap"):
            raise SandboxError(f"no sandbox {backend!r}; there are namespaces and bubblewrap")
        self._candidates = ["none"] if unsafe else [backend] if backend else ["namespaces", "bubblewrap"]
        self._limits, self._hide, self._student = limits, [os.path.abspath(path) for path in hide], student
        self._zygote, self._checked = None, checked
        self._lock = threading.RLock()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def open(self):
        """Start the zygote, if there is none yet; `self`."""
        with self._lock:
            if self._zygote is None:
                self._zygote = self._first()
        return self

    @property
    def isolation(self):
        """What isolates, in words for the report: "namespaces", "namespaces inside bubblewrap", "none (--unsafe)"."""
        return BACKENDS[self.open()._zygote.backend]

    def start(self):
        """A new `StudentProcess`, in which `student.serve` listens.

        Raises:
            SandboxError: if it could not be started.
        """
        return self._start(b"s")

    def _start(self, kind):
        with self._lock:
            zygote = self.open()._zygote
            try:
                return zygote.start(kind)
            except ConnectionError:  # the zygote is gone; another can be had
                zygote.close()
                self._zygote = None
        try:
            return self.open()._zygote.start(kind)
        except ConnectionError as error:
            raise SandboxError(f"the process that student processes are forked from ended twice: {error}") from None

    def probe(self, source, timeout=60.0):
        """What Python code finds inside: it runs in a student process of its own and fills the dict `found`."""
        return self.open()._zygote.probe(source, timeout)

    def close(self):
        """End the zygote, and with it every student process."""
        with self._lock:
            if self._zygote is not None:
                self._zygote.close()
                self._zygote = None

    def _first(self):
        if not hasattr(os, "fork"):
            raise SandboxError(f"student code cannot be run on {sys.platform} itself: no fork. {WAYS_OUT}")
        if sys.platform != "linux" and self._candidates != ["none"]:
            raise SandboxError(f"student code cannot be isolated on {sys.platform} itself. {WAYS_OUT}")
        from . import doctor

        troubles = []
        for backend in self._candidates:
            try:
                zygote = _Zygote(backend, self._limits, self._hide, self._student)
                if backend == "none" or not self._checked:
                    return zygote
                leaks = doctor.leaks(zygote.probe, self._limits)
                if not leaks:
                    return zygote
                zygote.close()
                raise SandboxError("not isolated: " + "; ".join(f"{name}: {leak}" for name, leak in leaks.items()))
            except _Unprepared:
                raise
            except SandboxError as error:
                troubles.append(f"{BACKENDS[backend]}: {error}")
        raise SandboxError("nothing isolates student code here. " + "; ".join(troubles) + f". {WAYS_OUT}")


WAYS_OUT = (
    "`autograder doctor` tells more; the Dockerfile has a machine where it works; "
    "`--unsafe` runs student code without isolation"
)


class StudentProcess:
    """An isolated process: talk to it by `socket`; `end` it."""

    def __init__(self, ours, line):
        self.socket = ours
        self._line, self._words = line, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self, timeout=10.0):
        """Kill it and everything it started, and wait for that.

        Returns:
            str: how it had ended: "exit code 3", "signal 9 (SIGKILL)", "more than 2048 MiB of memory", "ended with the
            zygote"; "ended by the grader" where it had not.
        """
        if self._words is None:
            # Its end of the socket is closed: it is about to end by itself, and how is worth a moment.
            try:
                told = self._line.read(0.2 if _closed(self.socket) else 0.0)
                asked = told is None
                if asked:
                    self._line.ask()
                    told = self._line.read(timeout)
                killed = told is None or asked and told == {"ended": -signal.SIGKILL, "reason": None}
                self._words = ENDED if killed else _how(**told)
            except ConnectionError:
                self._words = "ended with the zygote"
            self.socket.close()
            self._line.close()
        return self._words


def _closed(sock):
    """Whether the other side of the socket is closed, whatever still lies in it."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))


def _how(ended, reason):
    if reason:
        return reason
    if ended >= 0:
        return f"exit code {ended}"
    with contextlib.suppress(ValueError):
        return f"signal {-ended} ({signal.Signals(-ended).name})"
    return f"signal {-ended}"


class _Line:
    """JSON objects, one a line, from a socket."""

    def __init__(self, sock):
        self._socket, self._rest = sock, b""

    def read(self, timeout):
        """The next object, or None after `timeout` seconds.

        Raises:
            ConnectionError: when the other side has closed.
        """
        until, poll = time.monotonic() + timeout, select.poll()
        poll.register(self._socket, select.POLLIN)
        while b"\n" not in self._rest:
            if not poll.poll(1000 * max(0, until - time.monotonic())):
                return None
            more = self._socket.recv(4096)
            if not more:
                raise ConnectionError("the zygote has closed its line")
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)

    def ask(self):
        """For the end of the student process."""
        with contextlib.suppress(OSError):
            self._socket.send(b"e")

    def close(self):
        self._socket.close()


class _Zygote:
    """The grader's side of a zygote."""

    def __init__(self, backend, limits, hide, student):
        self.backend, self._owner = backend, os.getpid()
        self._home = tempfile.mkdtemp(prefix="autograder-") if backend == "none" else None
        self._requests, theirs = socket.socketpair()
        config = {
            "backend": backend,
            "limits": asdict(limits),
            "student": student,
            "environment": ENVIRONMENT,
            "packages": _packages(),
            "hide": [*filter(None, [CHECKOUT]), *hide],
            "path": _path(),
            "home": self._home,
        }
        start = "import sys; sys.path.append(sys.argv[1]); from autograder.zygote import main; main(int(sys.argv[2]))"
        # Students can read this command line; the rest goes through the socket.
        command = [sys.executable, "-I", "-c", start, os.path.dirname(HERE), str(theirs.fileno())]
        self._errors = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                [*_before(backend), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                cwd="/",
                env={**ENVIRONMENT, **{name: os.environ[name] for name in KEPT if name in os.environ}},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is the grader's to handle
            )
        except OSError as error:
            self._requests.close()
            raise SandboxError(f"{command[0]} cannot be started: {error}") from None
        finally:
            theirs.close()
        try:
            self._requests.sendall(json.dumps(config).encode() + b"\n")
            told = _Line(self._requests).read(START)
            if told is None:
                raise SandboxError(f"not ready after {START:g} s")
            if "error" in told:
                if told["isolates"]:
                    raise _Unprepared(f"what student code needs is not there: {told['error']}")
                raise SandboxError(_with_hint(told["error"]))
            self.uids = told["uids"]  # whether each student has a host uid of its own
        except (OSError, SandboxError) as error:
            if isinstance(error, OSError):
                error = SandboxError(self._last_words())
            self.close()
            raise error from None

    def _last_words(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return _with_hint(lines[-1] if lines else f"it ended with exit code {self._process.returncode}")

    def start(self, kind):
        ours, theirs = socket.socketpair()
        line, their_line = socket.socketpair()
        try:
            with theirs, their_line:
                socket.send_fds(self._requests, [kind], [theirs.fileno(), their_line.fileno()])
            told = _Line(line)
            first = told.read(START / 5)
            if first is None or "error" in first:
                trouble = f"not ready after {START / 5:g} s" if first is None else first["error"]
                raise SandboxError(f"a student process could not be started: {trouble}")
            if "ended" in first:
                raise SandboxError(f"a student process ended before it was ready: {_how(**first)}")
        except BaseException:
            ours.close()
            line.close()
            raise
        return StudentProcess(ours, told)

    def probe(self, source, timeout=60.0):
        with self.start(b"p") as process:
            try:
                process.socket.settimeout(timeout)
                process.socket.sendall(source.encode())
                process.socket.shutdown(socket.SHUT_WR)
                with process.socket.makefile("rb") as file:
                    return json.loads(file.read())
            except (OSError, ValueError):
                return {"error": process.end()}

    def close(self):
        self._requests.close()
        self._errors.close()
        if os.getpid() == self._owner:
            self._process.kill()
            self._process.wait()
            if self._home:
                shutil.rmtree(self._home, ignore_errors=True)


HERE = os.path.dirname(os.path.abspath(__file__))
# The course that this package lies in, where it was not installed apart from it
CHECKOUT = os.path.dirname(HERE) if os.path.isdir(os.path.join(os.path.dirname(HERE), "solutions")) else None
START = 300.0  # seconds for the zygote's imports: from a lab's network drive they take minutes
KEPT = ("LD_LIBRARY_PATH", "PYTHONHASHSEED")  # of the grader's environment, for the zygote
ENVIRONMENT = {
    "PATH": os.pathsep.join([os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin"]),
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "NBGRADER_EXECUTION": "autograde",
    "COURSEKIT_GRADING": "1",
    # macOS stops a fork of a process that has used its own frameworks
    "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",
}


def _packages():
    """The folder of `coursekit`, and this user's own site-packages where Python was started with them."""
    found = importlib.util.find_spec("coursekit")
    return [*(found.submodule_search_locations if found else ()), *_path()]


def _path():
    return [
        path for path in sys.path if os.path.isabs(path) and path.rstrip("/").endswith(("site-packages", "dist-packages"))
    ]


def _before(backend):
    """What comes before the zygote's own command line."""
    if backend != "bubblewrap":
        return []
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError("no program bwrap on the PATH (install the package bubblewrap)")
    # A root keeps its uids: with a user namespace it would have only its own. The rest each student gets anyhow.
    spaces = ["--unshare-pid", *(["--unshare-user"] if os.geteuid() else [])]
    return [program, *spaces, "--die-with-parent", "--cap-add", "ALL", "--dev-bind", "/", "/", "--proc", "/proc", "--"]


def _with_hint(words):
    """`words`, and what this system's settings have to do with it."""
    for path, off, hint in (
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor restricts them to programs with a profile"),
        ("kernel/unprivileged_userns_clone", "0", "they are switched off for ordinary users"),
        ("user/max_user_namespaces", "0", "they are switched off"),
    ):
        with contextlib.suppress(OSError), open(f"/proc/sys/{path}") as file:
            if file.read().strip() == off:
                words += f"; user namespaces: {hint} ({path.replace('/', '.')} = {off})"
    return words
