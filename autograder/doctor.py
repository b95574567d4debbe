"""`autograder doctor`: what this machine keeps student code from, found by trying it in a real student process."""

import contextlib
import glob
import inspect
import json
import os
import platform
import socket
import sys
import tempfile
import time

from .sandbox import BACKENDS, CHECKOUT, HERE, Limits, Sandbox, SandboxError, _packages

# --------------------------------------------------------------------------- run in the student process
# Each gets `given`, see `_given`, and returns None where it is kept out, else what it reached, in words.


def files_outside_its_folder(given):
    for place in [*given["folders"], "/", "/usr", "/etc", "/dev"]:
        path = os.path.join(place, f"canary-{os.getpid()}")
        try:
            open(path, "w").close()
        except OSError:
            continue
        os.remove(path)
        return f"could write in {place}"


def answers_and_other_hand_ins(given):
    for path in given["files"]:
        try:
            open(path, "rb").close()
        except OSError:
            continue
        return f"could read {path}"


def network(given):
    for family, address in ((socket.AF_INET, ("127.0.0.1", given["port"])), (socket.AF_UNIX, given["unix"])):
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(1)
            try:
                sock.connect(address)
            except OSError:
                continue
            return f"could connect to {address}"
    try:
        socket.socket(40, socket.SOCK_STREAM).close()  # vsock: to the host of a virtual machine
    except OSError:
        return None
    return "could open a socket to the virtual machine's host"


def other_processes(given):
    pids = [name for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc") else []
    others = sorted(set(map(int, pids)) - {os.getpid()})
    if others:
        return f"could see processes {others[:3]}"
    try:
        os.kill(given["pid"], 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return f"could see process {given['pid']}"
    return f"could send signals to process {given['pid']}" if given["pid"] != os.getpid() else None


def environment_of_the_grader(given):
    texts = [repr(dict(os.environ))]
    for pid in (given["pid"], "self", "1"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ") as file:
            texts.append(file.read())
    leaked = [name for name in given["variables"] if any(name in text for text in texts)]
    return f"could read the variable {leaked[0]}" if leaked else None


def memory_of_the_grader(given):
    import ctypes

    with contextlib.suppress(OSError):
        open(f"/proc/{given['pid']}/mem", "rb").close()
        return "could open the grader's memory" if given["pid"] != os.getpid() else None
    libc = ctypes.CDLL(None, use_errno=True)
    if given["pid"] != os.getpid() and libc.ptrace(16, given["pid"], None, None) == 0:
        libc.ptrace(17, given["pid"], None, None)
        return "could attach to the grader as a debugger"


def privileges(given):
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    sets = ctypes.create_string_buffer(24)
    libc.capget(struct.pack("=II", 0x20080522, 0), sets)
    if any(sets.raw) or any(libc.prctl(23, number, 0, 0, 0) > 0 for number in range(64)):  # now, or after an exec
        return "has capabilities"
    # An ordinary user's other groups cannot be left in a user namespace; what they open is tried by the other probes.
    groups = os.getgroups() if given["root"] else []
    if libc.prctl(39, 0, 0, 0, 0) != 1 or 0 in os.getresuid() + os.getresgid() or groups:
        return f"can become another user (uid {os.getuid()}, groups {groups})"
    if libc.unshare(0x10000000) == 0:
        return "could make a user namespace, in which it is root"


def open_files_of_the_grader(given):
    found = []
    for number in range(256):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.append(number)
    return f"has descriptors {found}" if len(found) > 4 else None  # 0, 1, 2 on /dev/null, and the socket


def memory_no_limit_counts(given):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.memfd_create(b"canary", 0)
    if descriptor >= 0:
        os.close(descriptor)
        return "could make a file in memory"
    if libc.shmget(0, 4096, 0o1600) >= 0:
        return "could make System V shared memory"


def memory(given):
    kept = []
    for _ in range(given["memory"] // 2**24 + 4):
        try:
            kept.append(b"x" * 2**24)
        except MemoryError:
            return None
    return f"could use {16 * len(kept)} MiB, more than the limit of {given['memory'] >> 20} MiB"


def disk(given):
    written, block = 0, bytes(2**20)
    with contextlib.suppress(OSError):
        for number in range(4):
            with open(f"filler-{number}", "wb", buffering=0) as file:
                for _ in range(given["disk"] // len(block)):
                    written += file.write(block)
    for number in range(4):
        with contextlib.suppress(OSError):
            os.remove(f"filler-{number}")
    return f"could write {written >> 20} MiB, the limit is {given['disk'] >> 20} MiB" if written > given["disk"] else None


def processes(given):
    import signal
    import time

    made, most = [], given["processes"] + 8
    try:
        while len(made) < most:
            made.append(os.fork())
            if made[-1] == 0:
                time.sleep(60)
                os._exit(0)
        time.sleep(1)
    except OSError:
        return None
    finally:
        for pid in made:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    return f"could start {most} processes, the limit is {given['processes']}"


def python_and_coursekit(given):
    """The other way round: what it needs must be there."""
    import importlib.util

    for name in ("sched", "coursekit", "torch"):
        spec = importlib.util.find_spec(name)
        if spec is None:
            return f"cannot find {name}"
        try:
            open(spec.origin, "rb").close()
        except OSError as error:
            return f"cannot read {name}: {error}; other users need to be allowed to: chmod -R a+rX"


# --------------------------------------------------------------------------- run in the grader

QUICK = (
    files_outside_its_folder,
    answers_and_other_hand_ins,
    network,
    other_processes,
    environment_of_the_grader,
    memory_of_the_grader,
    open_files_of_the_grader,
    privileges,
    memory_no_limit_counts,
    python_and_coursekit,
)
SLOW = (memory, disk, processes)
SMALL = Limits(memory=256 * 2**20, disk=8 * 2**20, processes=16)  # enough for the probes, quick to fill
LIGHT = "autograder.zygote"  # in the place of autograder.student: the same process without torch
GRADING = {}  # what the grader asks of its sandbox
LEFT_BEHIND = """
import os, signal, time
if os.fork() == 0:
    try:
        os.setsid()
    except OSError:
        pass
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    if os.fork() == 0:
        while True:
            os.write(3, b"x")
            time.sleep(0.01)
    os._exit(0)
time.sleep(60)
"""


def leaks(probe, limits, probes=QUICK):
    """What a student process reached that it should not: `{name of the probe: words}`, empty where it is isolated.

    Args:
        probe: `Sandbox.probe` or the like: source -> what the student process found.
    """
    with _given(limits) as given:
        found = probe(_source(probes, given))
    if found.get("error", "").startswith("more than "):  # the zygote ended it, as it shall
        return {}
    if "error" in found:
        return {words(one): found["error"] for one in probes}
    return {words(one): found[one.__name__] for one in probes if found[one.__name__]}


def what_it_leaves_behind(sandbox):
    """Whether something that a student process started goes on after `end`; words, or None."""
    process = sandbox._start(b"p")
    with process.socket.dup() as sock:
        sock.settimeout(10)
        try:
            sock.sendall(LEFT_BEHIND.encode())
            sock.shutdown(socket.SHUT_WR)
            if not sock.recv(1):
                return f"the probe failed: {process.end()}"
            process.end()
            until = time.monotonic() + 3
            while sock.recv(4096):
                if time.monotonic() > until:
                    return "went on for 3 s after its end"
        except OSError as error:
            return f"the probe failed: {error}"
        finally:
            process.end()


def examine(backend):
    """All probes under one backend: `{"trouble": why it does not run, or None, "leaks": {...}}`."""
    try:
        with Sandbox(backend=backend, limits=SMALL, student=LIGHT, checked=False) as sandbox:
            found = leaks(sandbox.probe, SMALL)
            for probe in SLOW:
                found |= leaks(sandbox.probe, SMALL, [probe])
            left = what_it_leaves_behind(sandbox)
            return {"trouble": None, "leaks": found | ({words(what_it_leaves_behind): left} if left else {})}
    except SandboxError as error:
        return {"trouble": str(error), "leaks": {}}


def doctor(as_json=False):
    """Print what each backend keeps student code from and what grading will use; 0 where it can isolate, else 1."""
    # Something of the grader's own to be found
    os.environ.setdefault("AUTOGRADER_CANARY", "in the grader's environment")
    backends = [backend for backend in BACKENDS if backend != "none"]
    found = {backend: examine(backend) for backend in backends}
    report = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "user": _user(),
        "backends": found,
        "grading": None,
        "trouble": None,
    }
    try:
        begin = time.monotonic()
        with Sandbox(**GRADING) as sandbox:
            report["grading"] = sandbox.isolation
            report["seconds_to_open"] = round(time.monotonic() - begin, 2)
            begin = time.monotonic()
            sandbox.start().end()
            report["seconds_per_student"] = round(time.monotonic() - begin, 4)
    except SandboxError as error:
        report["trouble"] = str(error)
    print(json.dumps(report, indent=1) if as_json else _table(report))
    return 0 if report["grading"] else 1


def _user():
    if not hasattr(os, "geteuid"):
        return "unknown"
    return "root" if os.geteuid() == 0 else f"an ordinary user (uid {os.geteuid()})"


def _table(report):
    lines = [f"{report['system']}, Python {report['python']}, as {report['user']}", ""]
    backends, notes = report["backends"], []
    names = [words(probe) for probe in (*QUICK, *SLOW, what_it_leaves_behind)]
    width = max(map(len, names)) + 2
    columns = [max(len(BACKENDS[backend]), len("NOT isolated")) + 2 for backend in backends]
    lines.append(" " * width + "".join(BACKENDS[b].ljust(w) for b, w in zip(backends, columns)).rstrip())
    for name in names:
        row = name.ljust(width)
        for (backend, one), column in zip(backends.items(), columns):
            good = WORDS.get(name, "isolated")
            word = "does not run" if one["trouble"] else f"NOT {good}" if name in one["leaks"] else good
            row += word.ljust(column)
            if name in one["leaks"]:
                notes.append(f"{BACKENDS[backend]}, {name}: {one['leaks'][name]}")
        lines.append(row.rstrip())
    notes += [one["trouble"] for one in backends.values() if one["trouble"]]
    lines += ["", *dict.fromkeys(notes)] if notes else []
    if report["grading"]:
        lines += ["", f"Grading isolates student code: {report['grading']}. "
                  f"It is ready in {report['seconds_to_open']:.1f} s, then a student process takes "
                  f"{1000 * report['seconds_per_student']:.0f} ms."]  # fmt: skip
    else:
        lines += ["", "Grading is refused here: student code would NOT be isolated.", report["trouble"], "", CONTAINER]
    return "\n".join(lines)


CONTAINER = """\
In a container it works on Linux, macOS and Windows; the Dockerfile says what the options are for:
  docker build -t autograder .
  docker run --rm --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined \\
    -v "$PWD:/class" autograder
grades the folder submitted/ of the one you are in. For hand-ins that you trust: autograder grade --unsafe runs them
without isolation, and says so in the report."""


def words(probe):
    return probe.__name__.replace("_", " ")


WORDS = {words(python_and_coursekit): "readable", **{words(one): "limited" for one in SLOW}}


def _source(probes, given):
    parts = ["import contextlib, os, socket", f"given = {given!r}"]
    parts += [inspect.getsource(probe) for probe in probes]
    for probe in probes:
        parts.append(
            f"try:\n    found[{probe.__name__!r}] = {probe.__name__}(given)\n"
            f"except Exception as error:\n    found[{probe.__name__!r}] = f'the probe failed: {{error!r}}'"
        )
    return "\n".join(parts)


@contextlib.contextmanager
def _given(limits):
    """What is there to be found: a listening port, an abstract socket, a hand-in, this process."""
    home = os.path.expanduser("~")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="autograder-doctor-"))
        os.chmod(folder, 0o755)
        hand_in = os.path.join(folder, "hand-in.ipynb")
        open(hand_in, "w").close()
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        name = f"\0{folder}"
        if sys.platform == "linux":
            unix.bind(name)
            unix.listen()
        files = [hand_in, os.path.join(HERE, "judge.py"), "/etc/shadow", "/etc/hostname"]
        if CHECKOUT:
            files += [os.path.join(CHECKOUT, "README.md"), *glob.glob(os.path.join(CHECKOUT, "solutions", "*", "*.py"))]
        # A home may be a system's folder, or Python's own, which student code needs.
        if not home.startswith(("/usr/", "/bin", "/sbin", sys.prefix, sys.base_prefix)):
            files += [entry for entry in glob.glob(os.path.join(home, "*")) if os.path.isfile(entry)][:3]
        yield {
            "port": port.getsockname()[1],
            "unix": name,
            "folders": [folder, HERE, home, *filter(None, [CHECKOUT]), *_packages()],
            "files": files,
            "pid": os.getpid(),
            "root": os.geteuid() == 0,
            "variables": [name for name in os.environ if name.startswith("AUTOGRADER_CANARY")],
            "memory": limits.memory,
            "disk": limits.disk,
            "processes": limits.processes,
        }
