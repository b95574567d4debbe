"""Each line of the isolation, tried from inside a real student process. `inside(source)` is what it found there."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from autograder.doctor import LIGHT
from autograder.sandbox import Limits, Sandbox, SandboxError

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
SMALL = Limits(memory=256 * MIB, disk=8 * MIB, files=64, processes=16, descriptors=64, cpu=60)
C = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


@pytest.fixture(scope="module", params=["namespaces", "bubblewrap"])
def sandbox(request):
    """Under either backend, without torch: what isolates is the same."""
    os.environ["SECRET_OF_THE_GRADER"] = "gradebook password"
    one = Sandbox(backend=request.param, limits=SMALL, student=LIGHT)
    try:
        one.open()
    except SandboxError as error:
        pytest.skip(f"{request.param}: {error}")
    yield one
    one.close()
    del os.environ["SECRET_OF_THE_GRADER"]


@pytest.fixture
def inside(sandbox):
    def run(source):
        found = sandbox.probe(source)
        assert "error" not in found, found["error"]
        return found

    return run


def ended(sandbox, source, seconds=20.0):
    """How a student process that runs `source` ends by itself."""
    process = sandbox.start()
    process.socket.sendall(source.encode())
    process.socket.shutdown(socket.SHUT_WR)
    process.socket.settimeout(seconds)
    with contextlib.suppress(OSError):
        while process.socket.recv(4096):
            pass
    return process.end()


def serves_the_next(sandbox):
    return sandbox.probe("found['sum'] = 1 + 1") == {"sum": 2}


# --------------------------------------------------------------------------- who it is


def test_it_has_no_capability_and_cannot_get_one(inside):
    found = inside(
        "fields = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "found.update({name: int(fields[name], 16) for name in "
        "('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp')})"
    )
    assert found == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0) | {"NoNewPrivs": 1, "Seccomp": 2}


def test_it_is_nobody_with_no_groups_and_stays_so(inside):
    found = inside(
        "import os\n"
        "found['ids'] = [*os.getresuid(), *os.getresgid()]\n"
        "found['groups'] = os.getgroups()\n"
        "found['became'] = []\n"
        "for name, value in [('setuid', 0), ('setgid', 0), ('setgroups', [0])]:\n"
        "    try:\n"
        "        getattr(os, name)(value); found['became'].append(name)\n"
        "    except OSError: pass"
    )
    assert found["ids"] == [1000] * 6 and not found["became"]
    assert not found["groups"] or os.geteuid()  # an ordinary user cannot leave its own


def test_two_at_once_have_host_uids_of_their_own(sandbox):
    if not sandbox._zygote.uids:
        pytest.skip("only a root with all uids has some to give")
    with sandbox.start() as one, sandbox.start() as two:
        uids = {_host_uid(_pid(process)) for process in (one, two)}
    assert len(uids) == 2 and 0 not in uids


def _pid(process):
    """The host's pid of a student process: it sends a word, to which the kernel adds who sent it."""
    process.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    process.socket.sendall(b"import os, time\nos.write(3, b'up')\ntime.sleep(60)")
    process.socket.shutdown(socket.SHUT_WR)
    _, ancillary, _, _ = process.socket.recvmsg(2, 100)
    return int.from_bytes(ancillary[0][2][:4], sys.byteorder)


def _host_uid(pid):
    return int(Path(f"/proc/{pid}/status").read_text().split("Uid:")[1].split()[0])


# --------------------------------------------------------------------------- files


def test_its_folder_is_the_only_place_it_can_write_to(inside):
    found = inside(
        "import os\n"
        "found['cwd'], found['wrote'] = os.getcwd(), []\n"
        "open('mine', 'w').close()\n"
        "for place, folders, _ in os.walk('/'):\n"
        "    folders[:] = [f for f in folders if os.path.join(place, f) != '/proc' and place.count('/') < 9]\n"
        "    try:\n"
        "        open(os.path.join(place, 'canary'), 'w').close()\n"
        "        found['wrote'].append(place)\n"
        "    except OSError: pass"
    )
    assert found == {"cwd": "/student", "wrote": ["/student"]}


def test_nothing_that_is_mounted_is_writable_or_gives_rights(inside):
    found = inside("found['lines'] = open('/proc/self/mounts').read().splitlines()")
    for line in found["lines"]:
        _, place, kind, options, *_ = line.split()
        options = options.split(",")
        assert "nosuid" in options and ("nodev" in options or place.startswith("/dev/")), line
        assert "ro" in options or place == "/student", line


def test_coursekit_can_be_read_but_not_changed(inside):
    found = inside(
        "import importlib.util\n"
        "found['file'] = importlib.util.find_spec('coursekit').origin\n"
        "assert open(found['file']).read()\n"
        "try: open(found['file'], 'a')\n"
        "except OSError as error: found['refused'] = error.errno\n"
    )
    assert found["file"] == str(ROOT / "coursekit" / "__init__.py") and found["refused"] in (1, 13, 30)


def test_of_the_checkout_there_is_nothing_but_coursekit(inside):
    found = inside(
        "import os\n"
        f"found['files'] = [os.path.join(p, n) for p, _, names in os.walk({str(ROOT)!r}) for n in names]"
    )
    assert found["files"]
    venv = [str(Path(sys.prefix)) + "/"] if sys.prefix.startswith(str(ROOT)) else []
    for path in found["files"]:
        assert path.startswith((f"{ROOT}/coursekit/", *venv)), path


def test_no_home_no_other_temporary_file_no_host_file(inside, tmp_path):
    hand_in = tmp_path / "submitted" / "mallory" / "boxes.ipynb"
    hand_in.parent.mkdir(parents=True)
    hand_in.write_text("{}")
    for folder in [*hand_in.parents][:-1]:
        with contextlib.suppress(OSError):
            folder.chmod(0o755)
    paths = [str(hand_in), "/etc/shadow", "/etc/hostname", "/etc/machine-id", "/sys/kernel", "/home", "/run", "/boot"]
    found = inside(f"import os\nfound['there'] = [path for path in {paths!r} if os.path.exists(path)]")
    assert found["there"] == []


def test_hidden_folders_inside_python_look_empty(tmp_path):
    """A course that lies inside a folder which must be shown."""
    import coursekit

    place = Path(coursekit.__file__).parent / "data"
    try:
        with Sandbox(limits=SMALL, student=LIGHT, hide=[place]) as one:
            found = one.probe(f"import os\nfound['files'] = os.listdir({str(place)!r})")
    except SandboxError as error:
        pytest.skip(str(error))
    assert found == {"files": []}


def test_a_full_disk_is_its_own_alone(inside, sandbox):
    found = inside(
        "import os\n"
        "size, files = 0, 0\n"
        "try:\n"
        "    for n in range(40):\n"
        "        with open(f'big{n}', 'wb', buffering=0) as file:\n"
        "            for _ in range(7): size += file.write(bytes(2**20))\n"
        "except OSError: pass\n"
        "for n in range(40):\n"
        "    if os.path.exists(f'big{n}'): os.remove(f'big{n}')\n"
        "try:\n"
        "    for files in range(5000): open(f'small{files}', 'w').close()\n"
        "except OSError: pass\n"
        "found.update(size=size, files=files)"
    )
    assert 4 * MIB <= found["size"] <= SMALL.disk and 30 <= found["files"] <= SMALL.files
    assert sandbox.probe("import os\nfound['files'] = os.listdir()") == {"files": []}


def test_shared_memory_files_count_as_disk(inside):
    found = inside(
        "import os\n"
        "size = 0\n"
        "try:\n"
        "    with open('/dev/shm/x', 'wb', buffering=0) as file:\n"
        "        for _ in range(100): size += file.write(bytes(2**20))\n"
        "except OSError: pass\n"
        "found['size'] = size"
    )
    assert 0 < found["size"] <= SMALL.disk


# --------------------------------------------------------------------------- network, processes, environment


def test_no_network(inside):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0sandbox-test")
        unix.listen()
        found = inside(
            "import socket\n"
            "found['reached'] = []\n"
            "for family, address in [(socket.AF_INET, ('127.0.0.1', %d)), (socket.AF_UNIX, '\\0sandbox-test'),\n"
            "                        (socket.AF_INET, ('192.0.2.1', 80)), (socket.AF_INET6, ('::1', 80))]:\n"
            "    with socket.socket(family) as sock:\n"
            "        sock.settimeout(2)\n"
            "        try:\n"
            "            sock.connect(address); found['reached'].append(str(address))\n"
            "        except OSError: pass\n"
            "found['interfaces'] = [name for _, name in socket.if_nameindex()]\n"
            "try: socket.getaddrinfo('example.org', 80); found['reached'].append('names')\n"
            "except OSError: pass" % server.getsockname()[1]
        )
    assert found["reached"] == [] and set(found["interfaces"]) <= {"lo", "sit0", "tunl0", "ip6tnl0"}


def test_sockets_that_no_network_namespace_holds_are_refused(inside):
    found = inside(
        "import socket\n"
        "found['made'] = []\n"
        "for family in (40, 38, 17, 29, 31):\n"  # vsock, kernel crypto, raw packets, CAN, Bluetooth
        "    try:\n"
        "        socket.socket(family, socket.SOCK_STREAM).close(); found['made'].append(family)\n"
        "    except OSError as error:\n"
        "        found.setdefault('errors', []).append(error.errno)"
    )
    assert found == {"made": [], "errors": [97] * 5}


def test_it_sees_no_process_but_its_own(inside):
    found = inside(
        "import os\nfound['pids'] = [n for n in os.listdir('/proc') if n.isdigit()]\n"
        "found['me'] = os.getpid(), os.getppid()"
    )
    assert found["pids"] in ([], ["1"]) and found["me"] == [1, 0]


def test_the_environment_is_the_list_we_gave(inside):
    found = inside(
        "import os\nfound['environ'] = dict(os.environ)\n"
        "found['block'] = open('/proc/self/environ').read()"
    )
    assert set(found["environ"]) == {
        "PATH", "LANG", "HOME", "TMPDIR", "MPLCONFIGDIR", "IPYTHONDIR", "MPLBACKEND", "NBGRADER_EXECUTION",
        "COURSEKIT_GRADING", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY",
    }  # fmt: skip
    assert found["environ"]["HOME"] == "/student" and found["environ"]["NBGRADER_EXECUTION"] == "autograde"
    assert "SECRET_OF_THE_GRADER" not in found["block"] and os.path.expanduser("~/") not in found["block"]


def test_it_holds_no_descriptor_but_its_socket(inside):
    found = inside(
        "import os\n"
        "found['open'] = {}\n"
        "for n in range(1024):\n"
        "    try: found['open'][n] = os.readlink(f'/proc/self/fd/{n}') if os.fstat(n) else ''\n"
        "    except OSError: pass"
    )["open"]
    assert [found.get(str(n)) for n in range(3)] == ["/dev/null"] * 3
    assert list(found) == ["0", "1", "2", "3"] and found["3"].startswith("socket:")


SECRET = "what only the grader knows: 7f3a"  # the zygote is another program: nothing of ours is in its memory


def test_its_memory_holds_nothing_of_the_graders(inside):
    found = inside(
        "import re\n"
        "pattern = re.compile(b'[w]hat only the grader [k]nows: 7f3[a]')\n"
        "count, size = 0, 0\n"
        "with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', buffering=0) as memory:\n"
        "    for line in maps:\n"
        "        begin, end = (int(n, 16) for n in line.split()[0].split('-'))\n"
        "        if line.split()[1].startswith('rw'):\n"
        "            memory.seek(begin)\n"
        "            part = memory.read(end - begin)\n"
        "            size += len(part)\n"
        "            count += len(pattern.findall(part))\n"
        "            del part\n"
        "found.update(count=count, size=size)"
    )
    assert found["count"] == 0 and found["size"] > MIB


@pytest.mark.parametrize("who", ["-1", "0", "os.getppid()", "2", "this test"])
def test_its_signals_reach_nobody(sandbox, who):
    who = os.getpid() if who == "this test" else who
    source = f"import os, signal\ntry: os.kill({who}, signal.SIGKILL)\nexcept OSError: pass\nfound['alive'] = True"
    assert sandbox.probe(source) in ({"alive": True}, {"error": "ended by the grader"})
    assert serves_the_next(sandbox)
    assert sandbox.probe("import os\nos.killpg(0, 9)\nfound['x'] = 1") in ({"x": 1}, {"error": "signal 9 (SIGKILL)"})
    assert serves_the_next(sandbox)


# --------------------------------------------------------------------------- the kernel


@pytest.mark.parametrize(
    "call",
    [
        "libc.unshare(0x10000000)",
        "libc.unshare(0x20000)",
        "libc.syscall(56 if os.uname().machine == 'x86_64' else 220, 0x10000000 | 17, 0, 0, 0, 0)",
        "libc.syscall(435, ctypes.create_string_buffer(88), 88)",
        "libc.ptrace(16, 1, None, None)",
        "libc.process_vm_readv(1, None, 0, None, 0, 0)",
        "libc.memfd_create(b'x', 0)",
        "libc.shmget(0, 4096, 0o1600)",
        "libc.msgget(0, 0o1600)",
        "libc.mount(b'tmpfs', b'/student', b'tmpfs', 0, None)",
        "libc.umount2(b'/proc', 2)",
        "libc.umount2(b'/student', 2)",
        "libc.chroot(b'/student')",
        "libc.setns(0, 0)",
        "libc.syscall(425, 8, ctypes.create_string_buffer(120))",  # io_uring_setup
        "libc.syscall(321 if os.uname().machine == 'x86_64' else 280, 0, None, 0)",  # bpf
        "libc.syscall(250 if os.uname().machine == 'x86_64' else 219, 0, -3, 1)",  # keyctl
        "libc.mq_open(b'/x', 0o102, 0o600, None)",
        "libc.mlock(ctypes.create_string_buffer(2**20), 2**20)",
        "libc.sethostname(b'x', 1)",
    ],
)
def test_a_system_call_is_refused(inside, call):
    found = inside(C + f"found['result'] = {call}")
    assert found["result"] == -1


def test_all_it_starts_stays_in_its_session_among_which_the_kernel_shares_the_processor(inside):
    found = inside(
        "import os\n"
        "reader, writer = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    os.write(writer, b'%d' % os.getsid(0)); os._exit(0)\n"
        "found['session'] = int(os.read(reader, 9)), os.getsid(0)"
    )
    assert found == {"session": [1, 1]}


def test_what_it_forks_cannot_answer_in_its_place(sandbox):
    source = "import os\nif os.fork() == 0: found['who'] = 'child'\nelse: os.wait(); found['who'] = 'parent'"
    with sandbox.start() as process:
        process.socket.sendall(source.encode())
        process.socket.shutdown(socket.SHUT_WR)
        with process.socket.makefile("rb") as file:
            assert json.loads(file.read()) == {"who": "parent"}


def test_its_command_line_names_no_folder_of_the_instructors(inside):
    found = inside("found['line'] = open('/proc/self/cmdline').read()")
    assert "solutions" not in found["line"] and "hide" not in found["line"]


def test_callbacks_threads_forks_and_subprocesses_go_on_working(inside):
    found = inside(
        "import ctypes, multiprocessing, os, subprocess, sys, threading\n"
        "numbers = (ctypes.c_int * 3)(3, 1, 2)\n"
        "kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))\n"
        "ctypes.CDLL(None).qsort(numbers, 3, 4, kind(lambda a, b: a[0] - b[0]))\n"
        "found['sorted'] = list(numbers)\n"
        "done = []\n"
        "threads = [threading.Thread(target=done.append, args=(n,)) for n in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "found['threads'] = sorted(done)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: found['pool'] = pool.map(abs, [-1, -2])\n"
        "found['shell'] = subprocess.run('echo $HOME; id -un', shell=True, capture_output=True, text=True).stdout\n"
        "found['python'] = subprocess.run([sys.executable, '-c', 'print(1 + 1)'], capture_output=True, text=True).stdout"
    )
    assert found == {"sorted": [1, 2, 3], "threads": [0, 1, 2, 3], "pool": [1, 2], "shell": "/student\nstudent\n", "python": "2\n"}


# --------------------------------------------------------------------------- limits


def test_memory_is_bounded(inside):
    found = inside(
        "kept = []\n"
        "try:\n"
        "    while len(kept) < 100: kept.append(b'x' * 2**24)\n"
        "except MemoryError: pass\n"
        "found['MiB'] = 16 * len(kept)\n"
        "del kept"
    )
    assert 128 <= found["MiB"] <= 256


def test_room_for_shared_memory_is_bounded(inside):
    found = inside(
        "import mmap\n"
        "kept = []\n"
        "try:\n"
        "    while len(kept) < 100: kept.append(mmap.mmap(-1, 2**26))\n"
        "except OSError: pass\n"
        "found['MiB'] = 64 * len(kept)"
    )
    assert 256 <= found["MiB"] <= 256 + 1024


def test_memory_shared_between_its_processes_is_bounded(sandbox):
    """Limits of the kernel count each process alone, and shared memory hardly: the zygote looks at them together."""
    shared = (
        "import mmap, time\n"
        "kept = []\n"
        "while True:\n"
        "    kept.append(mmap.mmap(-1, 2**24))\n"
        "    kept[-1].write(b'x' * 2**24)\n"
        "    time.sleep(0.01)\n"
    )
    many = (
        "import os, time\n"
        "for _ in range(3): os.fork()\n"
        "kept = []\n"
        "for _ in range(6): kept.append(os.urandom(2**20) * 16)\n"
        "time.sleep(20)\n"
    )
    assert ended(sandbox, shared) == "more than 256 MiB of memory"
    begin = time.monotonic()
    assert ended(sandbox, many) == "more than 256 MiB of memory"
    assert time.monotonic() - begin < 10
    assert serves_the_next(sandbox)


def test_a_fork_bomb_stops_at_the_limit_and_ends_with_its_student(sandbox):
    before = _tasks(sandbox)
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    process = sandbox.start()
    process.socket.sendall(bomb.encode())
    process.socket.shutdown(socket.SHUT_WR)
    most = 0
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        most = max(most, _tasks(sandbox) - before)
        time.sleep(0.02)
    if sandbox._zygote.uids or os.geteuid():
        assert 8 <= most <= 4 * SMALL.processes  # without a limit it is thousands
        assert process.end() == "ended by the grader"
    else:  # the kernel does not limit this root; the zygote looks, twenty times a second
        assert process.end() == "more than 16 processes"
    assert _tasks(sandbox) == before
    assert serves_the_next(sandbox)


def _tasks(sandbox):
    """How many processes come from the zygote, itself among them."""
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = 0, [sandbox._zygote._process.pid]
    while waiting:
        found += 1
        waiting += children.get(waiting.pop(), [])
    return found


def test_descriptors_are_bounded(inside):
    found = inside(
        "import os\n"
        "count = 0\n"
        "try:\n"
        "    for count in range(5000): os.dup(0)\n"
        "except OSError: pass\n"
        "os.closerange(4, 5000)\n"
        "found['count'] = count"
    )
    assert 32 <= found["count"] <= SMALL.descriptors


def test_processor_time_is_bounded():
    try:
        with Sandbox(limits=Limits(cpu=1), student=LIGHT) as one:
            begin = time.monotonic()
            assert ended(one, "while True:\n    try:\n        while True: pass\n    except BaseException: pass") == "signal 9 (SIGKILL)"
            assert time.monotonic() - begin < 15
    except SandboxError as error:
        pytest.skip(str(error))


# --------------------------------------------------------------------------- its end


ORPHANS = """
import os, signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for _ in range(3):
    if os.fork() == 0:
        try: os.setsid()
        except OSError: pass
        if os.fork() == 0:
            while True:
                os.write(3, b"x")
                time.sleep(0.01)
        os._exit(0)
"""


@pytest.mark.parametrize("rest", ["time.sleep(60)", "os._exit(0)"], ids=["it goes on", "it has ended"])
def test_what_it_left_behind_dies_with_it(sandbox, rest):
    process = sandbox._start(b"p")
    sock = process.socket.dup()
    sock.settimeout(10)
    sock.sendall((ORPHANS + "time.sleep(0.3)\n" + rest).encode())
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b"x"
    process.end()
    sock.settimeout(2)
    until = time.monotonic() + 2
    while sock.recv(4096):  # what was written before; then the end, as nobody holds the other side
        assert time.monotonic() < until
    sock.close()
    assert serves_the_next(sandbox)


@pytest.mark.parametrize(
    "source, words",
    [
        ("import os; os._exit(3)", "exit code 3"),
        ("import os; os._exit(0)", "exit code 0"),
        ("import ctypes; ctypes.string_at(0)", "signal 11 (SIGSEGV)"),
        ("import os; os.abort()", "signal 11 (SIGSEGV)"),  # as process 1 it does not feel its own SIGABRT
    ],
    ids=["exit", "exit 0", "bad address", "abort"],
)
def test_how_it_ended_in_words(sandbox, source, words):
    assert ended(sandbox, source) == words


def test_one_that_lives_is_ended_by_the_grader(sandbox):
    process = sandbox.start()
    assert process.end() == "ended by the grader"
    assert process.end() == "ended by the grader"  # again: the same words
    with pytest.raises(OSError):
        process.socket.send(b"x")


# --------------------------------------------------------------------------- the zygote


def test_two_workers_forked_from_one_sandbox(sandbox):
    """Each gets its own students, at the same time, from the one zygote."""
    sandbox.open()
    lines = []
    for worker in range(2):
        ours, theirs = os.pipe()
        if os.fork() == 0:
            good = True
            for n in range(10):
                good &= sandbox.probe(f"found['x'] = {worker * 100 + n}") == {"x": worker * 100 + n}
            os.write(theirs, b"good" if good else b"bad")
            os._exit(0)
        os.close(theirs)
        lines.append(ours)
    for line in lines:
        assert os.read(line, 10) == b"good"
        os.close(line)
        os.wait()
    assert serves_the_next(sandbox)


def test_a_student_of_a_worker_that_was_killed_dies(sandbox):
    ours, theirs = os.pipe()
    worker = os.fork()
    if worker == 0:
        process = sandbox.start()
        os.write(theirs, str(_pid(process)).encode())
        time.sleep(60)
        os._exit(0)
    pid = int(os.read(ours, 20))
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    until = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert serves_the_next(sandbox)


def test_a_killed_zygote_takes_its_students_along_and_the_next_start_makes_another():
    try:
        one = Sandbox(limits=SMALL, student=LIGHT).open()
    except SandboxError as error:
        pytest.skip(str(error))
    with one:
        process = one.start()
        pid = _pid(process)
        zygote = one._zygote._process
        zygote.kill()
        zygote.wait()
        until = time.monotonic() + 5
        while os.path.exists(f"/proc/{pid}"):
            assert time.monotonic() < until
            time.sleep(0.01)
        with one.start() as other:
            assert _pid(other) != pid
        assert process.end() == "ended with the zygote"


def test_the_zygote_dies_with_the_grader():
    grader = (
        "import os, sys, time\n"
        "from autograder.sandbox import Sandbox\n"
        f"sandbox = Sandbox(student={LIGHT!r})\n"
        "sandbox.start()\n"
        "print(sandbox._zygote._process.pid, flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", grader], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    line = process.stdout.readline()
    if not line:
        pytest.skip(process.communicate()[1].decode().strip().splitlines()[-1])
    pid = int(line)
    process.kill()
    process.communicate()
    until = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1][:3]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_many_at_once(sandbox):
    processes = [sandbox.start() for _ in range(30)]
    assert {process.end() for process in processes} == {"ended by the grader"}


def test_a_zygote_that_cannot_prepare_says_why():
    words = "not there: no_such_module: ModuleNotFoundError: No module named 'no_such_module'"
    with pytest.raises(SandboxError, match=words) as caught:
        Sandbox(student="no_such_module").open()
    assert "--unsafe" not in str(caught.value)  # that would not help


def test_where_nothing_isolates_the_ways_out_are_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match="(?s)no program bwrap.*autograder doctor.*Dockerfile.*--unsafe"):
        Sandbox(backend="bubblewrap", student=LIGHT).open()


def test_an_unknown_backend_is_named():
    with pytest.raises(SandboxError, match="no sandbox 'chroot'; there are namespaces and bubblewrap"):
        Sandbox(backend="chroot")


# --------------------------------------------------------------------------- what lessons need


@pytest.fixture(scope="module")
def grading():
    """With all that student code has: torch, matplotlib, IPython."""
    try:
        one = Sandbox().open()
    except SandboxError as error:
        pytest.skip(str(error))
    with one:
        yield one


def test_the_libraries_of_the_lessons_work_inside(grading):
    found = grading.probe(
        "import torch, torchvision, numpy\n"
        "layer = torch.nn.Conv2d(3, 4, 3)\n"
        "layer(torch.ones(1, 3, 8, 8)).sum().backward()\n"
        "found['gradient'] = layer.bias.grad.tolist()\n"
        "torch.optim.AdamW(layer.parameters()).step()\n"
        "torch.set_num_threads(2)\n"
        "found['matmul'] = (torch.ones(300, 300) @ torch.ones(300, 300)).mean().item()\n"
        "data = torch.utils.data.DataLoader(torch.arange(8.0), batch_size=4, num_workers=2)\n"
        "found['loader'] = [batch.sum().item() for batch in data]\n"
        "import torchvision.models.detection, coursekit.data, coursekit.data.voc, coursekit.training, coursekit.cli\n"
        "found['scenes'] = len(coursekit.data.scenes(count=2))\n"
        "import matplotlib.pyplot as plt\n"
        "fig, ax = plt.subplots(); ax.set_title('$x^2$ in a box'); ax.plot([1, 2]); fig.savefig('figure.png')\n"
        "import os; found['figure'] = os.path.getsize('figure.png') > 1000\n"
        "torch.save(layer.state_dict(), 'w.pt'); torch.load('w.pt')\n"
        "import tempfile; tempfile.TemporaryFile().write(b'x')"
    )
    assert found == {"gradient": [36.0] * 4, "matmul": 300.0, "loader": [6.0, 22.0], "scenes": 2, "figure": True}


def test_each_student_begins_with_the_same_chance_and_an_empty_folder(grading):
    source = "import os, torch\nfound['draw'] = torch.rand(2).tolist()\nfound['files'] = os.listdir()\nopen('mine', 'w')"
    first, second = grading.probe(source), grading.probe(source)
    assert first == second and first["files"] == []


def test_a_student_process_is_quick_to_start_and_small(grading):
    """Bounds with room for a busy machine; `pytest -s` prints what was measured."""
    took = []
    for _ in range(10):
        begin = time.perf_counter()
        process = grading.start()
        took.append(time.perf_counter() - begin)
        process.end()
    memory = grading.probe(
        "fields = dict(line.split(':', 1) for line in open('/proc/self/smaps_rollup') if ':' in line)\n"
        "found['MiB'] = sum(int(fields[f'Private_{kind}'].split()[0]) for kind in ('Clean', 'Dirty')) / 1024"
    )["MiB"]
    print(f"start {1000 * sorted(took)[5]:.1f} ms (median of 10), {memory:.1f} MiB of its own")
    assert sorted(took)[5] < 0.5 and memory < 25


# --------------------------------------------------------------------------- without isolation


def test_without_isolation_it_is_still_forked_limited_and_ended():
    with Sandbox(unsafe=True, limits=SMALL, student=LIGHT) as one:
        assert one.isolation == "none (--unsafe)"
        found = one.probe("import os\nfound.update(cwd=os.getcwd(), home=os.environ['HOME'], secret=os.environ.get('SECRET'))")
        assert found["cwd"] == os.path.realpath(found["home"]) != os.getcwd() and not os.path.exists(found["cwd"])
        assert ended(one, "import os; os._exit(4)") == "exit code 4"
        process = one._start(b"p")
        sock = process.socket.dup()
        sock.sendall(b"import os, time\nos.fork()\nos.write(3, b'x')\ntime.sleep(60)")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"x"
        assert process.end() == "ended by the grader"
        sock.settimeout(2)
        while sock.recv(4096):
            pass
        if sys.platform == "linux":
            found = one.probe("try: x = bytearray(2**31)\nexcept MemoryError: found['bounded'] = True")
            assert found == {"bounded": True}


def test_isolation_in_words():
    for backend, words in {"namespaces": "namespaces", "bubblewrap": "namespaces inside bubblewrap"}.items():
        with contextlib.suppress(SandboxError), Sandbox(backend=backend, student=LIGHT) as one:
            assert one.isolation == words


# --------------------------------------------------------------------------- where Python and the course may lie

LOOK = """
import json, sys, autograder
from autograder import doctor
from autograder.sandbox import Sandbox
found = doctor.examine("namespaces")
if not found["trouble"]:
    source = "import os, coursekit, subprocess, sys\\n"
    source += f"found['seen'] = [p for p, _, n in os.walk({sys.argv[1]!r}) if n]\\n"
    source += "found['python'] = subprocess.run([sys.executable, '-c', 'print(6)'], capture_output=True, text=True).stdout"
    with Sandbox(student=doctor.LIGHT) as sandbox:
        found |= sandbox.probe(source)
print(json.dumps({"package": autograder.__file__, **found}))
"""


@pytest.mark.parametrize("place", ["in the checkout", "is the checkout", "behind a link", "apart, packages installed in it"])
def test_wherever_the_virtual_environment_lies(place, tmp_path):
    course = tmp_path / "my course"
    answers = course / "solutions" / "01_boxes"
    answers.mkdir(parents=True)
    (answers / "boxes.py").write_text("the answers")
    environment = {"is the checkout": course, "apart, packages installed in it": tmp_path / "venv"}.get(place, course / ".venv")
    venv.create(environment, symlinks=True)
    packages = next(environment.glob("lib/python3*/site-packages"))
    home = packages if place.startswith("apart") else course
    for name in ("autograder", "coursekit"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    (packages / "torch.py").write_text("")
    (packages / "course.pth").write_text(f"{home}\n")
    python = environment / "bin" / "python"
    if place == "behind a link":
        (tmp_path / "link").symlink_to(course)
        python = tmp_path / "link" / ".venv" / "bin" / "python"
    result = subprocess.run([python, "-c", LOOK, tmp_path], capture_output=True, text=True, cwd="/", timeout=60)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    if found["trouble"]:
        pytest.skip(found["trouble"])
    assert found["leaks"] == {} and found["python"] == "6\n" and found["package"].startswith(str(home))
    assert not [path for path in found["seen"] if "solutions" in path or Path(path).name == "autograder"]


# --------------------------------------------------------------------------- as an ordinary user

# Root's Python may lie where others cannot go; in a mount namespace of its own it can be shown to them there.
AS_USER = """
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def mount(*a):
    if libc.mount(*[x.encode() if isinstance(x, str) else x for x in a[:3]], a[3], a[4]):
        raise OSError(ctypes.get_errno(), f"mount {a}")
def closed(path):
    while path != "/":
        path, last = os.path.dirname(path), path
        if not os.stat(path).st_mode & 1: return path
root, prefixes, command = json.loads(sys.argv[1])
if libc.unshare(0x20000): raise OSError(ctypes.get_errno(), "unshare")
mount(None, "/", None, 0x44000, None)
for prefix in prefixes:
    top = closed(os.path.realpath(prefix) + "/x")
    if top:
        os.makedirs("/tmp/held-by-a-test", exist_ok=True)
        mount(prefix, "/tmp/held-by-a-test", None, 0x5000, None)
        mount("tmpfs", top, "tmpfs", 0, b"mode=755")
        os.makedirs(prefix)
        mount("/tmp/held-by-a-test", prefix, None, 0x5000, None)
        libc.umount2(b"/tmp/held-by-a-test", 2)
os.setgroups([12345, 12346])  # as a login gives them
os.setresgid(12345, 12345, 12345); os.setresuid(12345, 12345, 12345)
os.environ["HOME"] = "/nonexistent"
os.chdir("/")
os.execv(command[0], command)
"""


def as_ordinary_user(source):
    """What `source` prints, run by uid 12345; skips where root cannot be left so."""
    if os.geteuid() != 0:
        pytest.skip("is an ordinary user already")
    command = [sys.executable, "-c", source]
    plan = json.dumps([str(ROOT), sorted({sys.base_prefix, sys.prefix, str(ROOT)}), command])
    result = subprocess.run([sys.executable, "-c", AS_USER, plan], capture_output=True, text=True, timeout=120)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        if "unshare" in last or "mount" in last or "not permitted" in last:
            pytest.skip(f"an ordinary user cannot reach this Python here: {last}")
        pytest.fail(result.stderr)
    return result.stdout


@pytest.mark.parametrize("backend", ["namespaces", "bubblewrap"])
def test_an_ordinary_user_isolates_as_well(backend):
    found = json.loads(
        as_ordinary_user(
            "import json, os\n"
            "assert os.getuid() == 12345\n"
            "from autograder import doctor\n"
            f"print(json.dumps(doctor.examine({backend!r})))"
        )
    )
    if found["trouble"]:
        pytest.skip(found["trouble"])
    assert found["leaks"] == {}
