"""The clean process that student processes are forked from: `Sandbox` starts it, a socket commands it.

It imports what student code needs and nothing else of the grader: a fork holds all its memory. It has one thread,
because a fork copies no other. Each request is one byte, `s` for a student or `p` for a probe (`doctor`), with
two descriptors: the student's end of its socket, and a line on which start and end are told, as JSON lines.
When that line is closed, the student process and all that it started are killed; when the last grader has closed
the request socket, the zygote ends, and with it every student process.
"""

import array
import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback

WATCH = 0.05  # seconds between two looks at what the students use


def main(requests):
    """Prepare as the first line on the request socket says, tell there how that went, serve until it closes.

    Args:
        requests (int): a descriptor. The line: backend, limits, student (module), environment, packages, hide, path,
            home; see `Sandbox`.
    """
    config = b""
    while not config.endswith(b"\n"):
        more = os.read(requests, 65536)
        if not more:
            sys.exit(3)
        config += more
    try:
        zygote = Zygote(requests, json.loads(config))
    except Exception as error:
        told = str(error) if isinstance(error, (OSError, Unprepared)) else repr(error)
        _tell(requests, error=told, isolates=isinstance(error, Unprepared))
        sys.exit(3)
    _tell(requests, uids=zygote.uids)
    zygote.serve()


def probe(sock):
    """Run the Python that comes down the socket and send back what it leaves in `found`, as JSON."""
    with sock.makefile("rb") as file:
        source = file.read()
    namespace = {"__name__": "probe", "found": {}}
    try:
        exec(source, namespace)
    except BaseException as error:
        namespace["found"]["error"] = f"{type(error).__name__}: {error}"
    sock.sendall(json.dumps(namespace["found"]).encode())


def prepare():
    """This module in the place of `autograder.student`, where nothing but probes is wanted."""


serve = probe


class Unprepared(Exception):
    """What student code needs cannot be imported; isolation has nothing to do with it."""


class Student:
    """A student process, as the zygote knows it."""

    def __init__(self, line, slot, home):
        self.line, self.slot, self.home = line, slot, home
        self.reason = None  # why the zygote killed it, where nobody asked


class Zygote:
    def __init__(self, requests, config):
        self.requests, self.limits, self.isolated = requests, config["limits"], config["backend"] != "none"
        self.students, self.uids, self.home = {}, False, config["home"]
        here = os.path.dirname(os.path.abspath(__file__))
        sys.path += [path for path in config["path"] if path not in sys.path]
        if self.isolated:
            from . import jail

            self.jail = jail
            if config["backend"] == "namespaces":
                jail.enter()
                self._be_first()
            jail.alone()
            self.uids = jail.many_ids()
            self.proc = jail.build([*config["packages"], here], config["hide"])
            self.tree = os.open("self/ns/pid", os.O_RDONLY, dir_fd=self.proc)
            self.home = jail.HOME
        os.environ.clear()
        os.environ.update(config["environment"])
        self._settle(self.home)
        try:
            student = importlib.import_module(config["student"])
            student.prepare()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{os.path.basename(where.filename)}, line {where.lineno}"
            raise Unprepared(f"{config['student']}: {type(error).__name__}: {error} ({place})") from error
        gc.collect()
        self.modules = {b"s": student.serve, b"p": probe}
        if self.isolated:
            jail.cover(here)
            for path in getattr(student, "masked_files", list)():
                jail.mount("/dev/null", path, flags=jail.BIND)
            jail.prctl(jail.SET_DUMPABLE, 0)  # the grader's user owns students too
            # Where a container refuses a new /proc, students are looked for in that of all.
            self.look = os.open("/proc", os.O_DIRECTORY) if os.path.isdir("/proc/self") else self.proc
            jail.huge_pages(self.proc)
            self.base, threads, _, self.level = self._use("self")
            if threads != 1:
                raise Unprepared(f"{config['student']}.prepare left {threads - 1} threads behind; a fork has none of them")
        gc.freeze()

    def _be_first(self):
        """Go on as process 1 of the new tree: when it ends, the kernel ends everything in the tree."""
        child = os.fork()
        if child:
            os.close(self.requests)
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        self.jail.die_with_parent()

    @staticmethod
    def _settle(home):
        for name in ("HOME", "TMPDIR", "MPLCONFIGDIR", "IPYTHONDIR"):
            os.environ[name] = home
        os.chdir(home)

    # ----------------------------------------------------------------------- the loop

    def serve(self):
        wake, self.wake = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.poll = select.poll()
        self.poll.register(self.requests, select.POLLIN)
        self.poll.register(wake, select.POLLIN)
        due = 0.0
        while True:
            for descriptor, _ in self.poll.poll(1000 * WATCH if self.students else None):
                if descriptor == self.requests:
                    self._answer()
                elif descriptor == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake, 4096)
                else:  # a word, or the line was closed: either means the end
                    self.poll.unregister(descriptor)
                    self._kill(next(pid for pid, one in self.students.items() if one.line == descriptor))
            self._reap()
            if self.students and self.isolated and time.monotonic() >= due:
                self._watch()
                due = time.monotonic() + WATCH

    def _answer(self):
        kind, descriptors = _receive(self.requests)
        if not kind:
            if not self.isolated:
                shutil.rmtree(self.home, ignore_errors=True)
            os._exit(0)
        sock, line = descriptors
        slots = {one.slot for one in self.students.values()}
        slot = next(n for n in range(len(slots) + 1) if n not in slots)
        try:
            if self.uids and slot >= self.jail.SLOTS:
                raise OSError(f"{slot} student processes live already, no more have a uid of their own")
            pid, home = self._fork(kind, sock, line, slot)
        except OSError as error:
            _tell(line, error=str(error))
            os.close(line)
        else:
            self.students[pid] = Student(line, slot, home)
            self.poll.register(line, select.POLLIN)
        finally:
            os.close(sock)

    def _fork(self, kind, sock, line, slot):
        home = self.home if self.isolated else tempfile.mkdtemp(prefix="student-", dir=self.home)
        if self.isolated:
            self.jail.call("unshare", self.jail.NEWPID)  # for the next fork
        pid = None
        try:
            pid = os.fork()
        finally:
            if self.isolated and pid != 0:
                self.jail.call("setns", self.tree, self.jail.NEWPID)
        if pid == 0:
            try:
                self._be_student(kind, sock, line, slot, home)
            finally:
                os._exit(1)
        return pid, home

    def _be_student(self, kind, sock, line, slot, home):
        """In the child: lock the door, say so, serve."""
        try:
            os.setsid()  # signals to its group stay in it
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            null = os.open(os.devnull, os.O_RDWR)
            kept = [null, null, null, sock, line, *([self.proc] if self.isolated else [])]
            # First out of the way of each other's places
            kept = [fcntl.fcntl(one, fcntl.F_DUPFD, 64) for one in kept]
            for place, descriptor in enumerate(kept):
                os.dup2(descriptor, place, inheritable=place < 3)
            os.closerange(len(kept), 4096)  # the kernel gives the lowest free number, and the zygote has few
            sock, line, proc = 3, 4, 5
            if self.isolated:
                self.jail.lock(self.limits, self.jail.UID + slot if self.uids else None, proc)
                os.close(proc)
            else:
                _limit_what_can_be(self.limits)
            self._settle(home)
            _tell(line, ready=True)
        except BaseException as error:
            _tell(line, error=str(error))
            os._exit(1)
        os.close(line)
        if kind == b"s":  # what it forks shall not answer in its place; 0 is /dev/null
            os.register_at_fork(after_in_child=lambda: os.dup2(0, sock))
        try:
            with socket.socket(fileno=sock) as ours:
                self.modules[kind](ours)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)

    def _kill(self, pid, reason=None):
        self.students[pid].reason = reason
        if not self.isolated:  # else its tree ends with it
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)

    def _reap(self):
        while self.students:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            student = self.students.pop(pid, None)
            if student is None:
                continue
            if not self.isolated:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # what it left behind
                shutil.rmtree(student.home, ignore_errors=True)
            with contextlib.suppress(KeyError):
                self.poll.unregister(student.line)
            _tell(student.line, ended=os.waitstatus_to_exitcode(status), reason=student.reason)
            os.close(student.line)

    # ----------------------------------------------------------------------- what students use

    def _watch(self):
        """Kill whose processes together hold more memory, or are more, than the limits say: those are per process."""
        use, parents, total = {}, {}, {}
        for name in filter(str.isdigit, os.listdir(self.look)):
            with contextlib.suppress(OSError, KeyError):  # it has ended
                memory, threads, parents[name], pids = self._use(name)
                if len(pids) >= len(self.level):  # else it is no descendant
                    use[name] = memory, threads
                    student = int(pids[len(self.level) - 1])
                    if student in self.students:
                        total[name] = [student, -self.base, 0, []]
        for name, (memory, threads) in use.items():
            top = name
            while top in parents and top not in total:
                top = parents[top]
            if top in total:
                total[top][1] += memory
                total[top][2] += threads
                total[top][3].append(name)
        most, processes = self.limits["memory"], self.limits["processes"]
        for student, memory, threads, names in total.values():
            if threads > processes:  # the kernel's limit does not hold for a root that has no other uids
                self._kill(student, f"more than {processes} processes")
            elif memory > most and sum(self._share(name, use[name][0], 1 + len(use)) for name in names) > most:
                self._kill(student, f"more than {most >> 20} MiB of memory")

    def _fields(self, pid, name):
        opener = lambda path, flags: os.open(path, flags, dir_fd=self.look)  # noqa: E731
        with open(f"{pid}/{name}", opener=opener) as file:
            return dict(line.split(":", 1) for line in file if ":" in line)

    def _use(self, pid):
        """A process's memory that is in no file, with what a fork shares with its parent; threads; parent; its pids."""
        fields = self._fields(pid, "status")
        memory = sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))
        return memory << 10, int(fields["Threads"]), fields["PPid"].strip(), fields["NSpid"].split()

    def _share(self, pid, memory, sharers):
        """A process's memory that is in no file, shared pages by their share, without what was the zygote's."""
        try:
            fields = self._fields(pid, "smaps_rollup")
            return (sum(int(fields[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem")) << 10) - self.base // sharers
        except (OSError, KeyError):  # no capability for that: shared pages count in full
            return memory - self.base


def _limit_what_can_be(limits):
    """Without isolation: the limits that this system knows. Memory's is Linux's alone."""
    import resource

    if sys.platform == "linux":
        from . import jail

        jail.die_with_parent()
        jail.prctl(jail.SET_NO_NEW_PRIVS, 1)
        proc = os.open("/proc", os.O_DIRECTORY)
        # Here the user's other processes and those of all students would count.
        jail.set_limits({**limits, "processes": None}, proc)
        os.close(proc)
        return
    for name, value in [("FSIZE", "disk"), ("NOFILE", "descriptors"), ("CPU", "cpu")]:
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limits[value], limits[value]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _tell(descriptor, **words):
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(descriptor, json.dumps(words).encode() + b"\n")


def _receive(requests):
    """One request and its descriptors; `(b"", [])` when every grader has gone."""
    with socket.socket(fileno=os.dup(requests)) as sock:
        kind, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(8))
    descriptors = array.array("i")
    for level, name, data in ancillary:
        if (level, name) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % 4])
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return kind, descriptors.tolist()
