"""Right hand-ins but for one exercise that takes the machine, or its own process, down: that exercise is lost, alone.

What is bounded here is bounded for the sake of a machine whose sandbox does not hold: an attack stops, and says that
it escaped, well above what the sandbox allows and well below what hurts.
"""

import nbformat

from .course import POINTS, Attack, added, fair, harm

AREA = "    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])\n"
LATE, DIED = "not done after", "in the middle|was ended"


def inside(name, why, body, trace=DIED, costs=("area",), before="", **options):
    """`body` runs in each call of area, before it gives the right areas."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    code = f"note('ran')\n{before}\ndef area(boxes):\n    safe()\n{lines}{AREA}"
    return harm(name, why, code, costs=costs, trace=trace, **options)


def cell(name, why, source, costs=(), trace="noted:", **options):
    """`source` stands in an added cell: it costs nothing but time."""
    return harm(name, why, f"safe()\n{source}", costs=costs, where=None, trace=trace, **options)


def sleepy_cells(notebook):
    for number in range(100):
        added(notebook, f"import time\ntime.sleep(0.9)  # {number}", 2)


def many(count):
    def change(notebook):
        notebook.cells += [nbformat.v4.new_code_cell(f"x{n} = {n}", id=f"many-{n}") for n in range(count)]

    return change


def large_cell(text):
    def change(notebook):
        added(notebook, text, 2)

    return change


def demonstration(text):
    """The lesson's own demonstration, edited: of it only definitions are run, and the grader parses it."""

    def change(notebook):
        cell = next(cell for cell in notebook.cells if "SystemError" in cell.source)
        cell.source = text

    return change


BOUND = "5 * 2**30"  # the sandbox allows 2 GiB
BOMB = f"""
held = []
for _ in range({BOUND} // 2**26):
    {{take}}
note("ESCAPED:{{name}}")
"""


def memory(name, why, take, before=""):
    lines = BOMB.format(take=take, name=name.split()[-1])
    return inside(
        f"memory {name}",
        why,
        lines,
        before=before,
        trace="Memory|memory|in the middle|was ended|not done after",
    )


ATTACKS = [
    # Memory
    memory("on the heap", "lists of bytes", "held.append(b'x' * 2**26)"),
    memory("of tensors", "zeros that are written to", "held.append(torch.ones(2**24))"),
    memory("of numpy", "another allocator", "held.append(numpy.ones(2**23))", before="import numpy"),
    memory(
        "shared by mmap",
        "which no limit of data counts",
        "one = mmap.mmap(-1, 2**26); one.write(b'x' * 2**26); held.append(one)",
        before="import mmap",
    ),
    memory(
        "in memfd",
        "files that lie in no folder",
        "one = os.memfd_create('x'); [os.write(one, b'x' * 2**20) for _ in range(64)]; held.append(one)",
        before="import os",
    ),
    memory(
        "in files of tmp",
        "a folder that is memory",
        "one = open(f'/tmp/{len(held)}', 'wb'); one.write(b'x' * 2**26); one.flush(); held.append(one)",
    ),
    memory(
        "in files of shm",
        "another",
        "one = open(f'/dev/shm/{len(held)}', 'wb'); one.write(b'x' * 2**26); one.flush(); held.append(one)",
    ),
    memory(
        "in deleted files",
        "which no listing shows",
        "one = open('gone', 'wb'); os.unlink('gone'); one.write(b'x' * 2**26); one.flush(); held.append(one)",
        before="import os",
    ),
    memory("in one call", "a single allocation", "held.append(bytearray(5 * 2**30)); break"),
    inside(
        "memory of children",
        "each of them below the limit",
        """
pids = []
for number in range(5):
    pid = os.fork()
    if pid == 0:
        held = [b'x' * 2**26 for _ in range(16)]
        time.sleep(60)
        os._exit(0)
    pids.append(pid)
time.sleep(2.5)
if all(os.waitpid(pid, os.WNOHANG)[0] == 0 for pid in pids): note("ESCAPED:children")
time.sleep(60)
""",
        before="import os, time",
        trace=DIED + "|" + LATE,
    ),
    inside(
        "memory of sockets",
        "buffers of the kernel's",
        """
sent = 0
for _ in range(40):
    if os.fork() == 0:
        held = []
        try:
            while True:
                pair = socket.socketpair(); held.append(pair)
                for one in pair:
                    one.setblocking(False)
                    try:
                        while True: sent += one.send(bytes(2**17))
                    except BlockingIOError: pass
        except OSError: pass
        open(f"sent-{os.getpid()}", "w").write(str(sent))
        time.sleep(60)
        os._exit(0)
time.sleep(1.5)
total = sum(int(open(name).read() or 0) for name in glob.glob("sent-*"))
if total > 2**30: note("ESCAPED:sockets")
raise MemoryError(total)
""",
        before="import os, socket, time, glob",
        trace="Memory|" + DIED + "|" + LATE,
    ),
    # Disk
    inside(
        "disk filler",
        "one large file",
        """
with open("large", "wb") as file:
    for _ in range(1024): file.write(bytes(2**20))
note("ESCAPED:disk")
""",
        trace="OSError|No space|too large|" + DIED,
    ),
    inside(
        "disk filler of many files",
        "each of them small enough",
        """
for number in range(64):
    with open(f"large-{number}", "wb") as file: file.write(bytes(2**24))
note("ESCAPED:disk")
""",
        trace="OSError|No space|" + DIED,
    ),
    inside(
        "inode filler",
        "a hundred thousand empty files",
        """
for number in range(100_000): open(f"empty-{number}", "w").close()
note("ESCAPED:inodes")
""",
        trace="OSError|No space|" + DIED + "|" + LATE,
    ),
    inside(
        "sparse file",
        "a terabyte of nothing",
        """
with open("sparse", "wb") as file: file.truncate(2**40)
note("ESCAPED:sparse")
""",
        trace="OSError|too large|" + DIED,
    ),
    inside(
        "core dump",
        "as large as the process",
        "os.chdir('/tmp'); os.abort()",
        before="import os, resource\nsafe()\nattempt('core', lambda: resource.setrlimit(resource.RLIMIT_CORE, (2**40, 2**40)))",
    ),
    inside(
        "limits raised",
        "by the process itself",
        """
for name in ("DATA", "AS", "FSIZE", "NPROC", "NOFILE", "CPU"):
    which = getattr(resource, "RLIMIT_" + name)
    soft, hard = resource.getrlimit(which)
    def more(): resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if hard == resource.RLIM_INFINITY: note("ESCAPED:no-limit-" + name)
    else: attempt("limit-" + name, more)
""",
        before="import resource",
        costs=(),
        trace="noted:.*Error",
    ),
    # Output
    inside(
        "output of two hundred megabytes",
        "in one line; the answers are right",
        "LINES and print('x' * LINES.pop())",
        before="LINES = [200_000_000]",
        costs=(),
        trace="noted: ran",
    ),
    inside(
        "output to the descriptors",
        "past Python's own streams",
        """
for number in (1, 2):
    for _ in range(50): os.write(number, b'y' * 2**20)
""",
        before="import os",
        costs=(),
        trace="noted: ran",
    ),
    inside("endless output", "line by line", "while True: print('x' * 1000)", trace=LATE),
    inside(
        "endless output of errors",
        "to stderr",
        "while True: print('x' * 1000, file=sys.stderr)",
        before="import sys",
        trace=LATE,
    ),
    cell(
        "output of pictures",
        "displayed, a hundred megabytes",
        "from IPython.display import HTML, display\ndisplay(HTML('<script>alert(1)</script>' + 'x' * 100_000_000))",
    ),
    cell("last value without end", "the cell's last expression has a long text", "'x' * 50_000_000"),
    # Time
    inside("endless loop", "plain", "while True: pass", trace=LATE),
    inside(
        "endless loop that catches all",
        "every exception and every signal",
        """
for number in range(1, 65):
    try: signal.signal(number, lambda *_: None)
    except (OSError, ValueError): pass
while True:
    try:
        while True: pass
    except BaseException: pass
""",
        before="import signal",
        trace=LATE,
    ),
    inside(
        "endless loop in C",
        "no bytecode in between",
        "sum(itertools.repeat(0))",
        before="import itertools",
        trace=LATE,
    ),
    inside("endless power", "one instruction", "9 ** 9 ** 9", trace=LATE),
    inside(
        "endless regex",
        "catastrophic backtracking",
        "re.match('(a+)+$', 'a' * 60 + 'b')",
        before="import re",
        trace=LATE,
    ),
    inside("endless sleep", "no work at all", "time.sleep(10_000)", before="import time", trace=LATE),
    inside(
        "endless wait",
        "for input that never comes",
        "sys.stdin.read() or select.select([], [], [])",
        before="import sys, select",
        trace=LATE,
    ),
    inside(
        "endless threads",
        "a lock taken twice",
        "lock = threading.Lock(); lock.acquire(); lock.acquire()",
        before="import threading",
        trace=LATE,
    ),
    inside(
        "endless product",
        "a matrix product of hours",
        "a = torch.ones(8000, 8000)\nwhile True: a = a @ a",
        trace=LATE + "|emory",
    ),
    inside(
        "stopped",
        "SIGSTOP to itself: as the first process of its tree it does not obey",
        "os.kill(os.getpid(), 19)",
        before="import os",
        costs=(),
        unsure=("area",),
        trace=LATE + "|" + DIED + "|noted: ran",
    ),
    Attack(
        "sleep in each of a hundred cells",
        "each below the limit of a cell; the hand-in has one too",
        right=True,
        change=sleepy_cells,
        scores=dict.fromkeys(POINTS, 0),
        trace="not reached",
    ),
    harm(
        "slow in every call",
        "each below its limit, together above the exercise's",
        """
        import time
        def area(boxes):
            time.sleep(1)
            return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        """,
        trace=LATE,
    ),
    cell(
        "endless cell",
        "an added cell that never ends",
        "while True: pass",
        trace="was not run to its end|noted:",
    ),
    # The process
    inside(
        "deep recursion",
        "beyond any stack",
        "sys.setrecursionlimit(10**9)\ndef down(n): return down(n + 1) + 1\ndown(0)",
        before="import sys",
        trace=DIED + "|Recursion|" + LATE,
    ),
    inside(
        "deep recursion of a repr",
        "in C",
        "x = []\nfor _ in range(10**6): x = [x]\nsys.setrecursionlimit(10**8); repr(x)",
        before="import sys",
        trace=DIED + "|Recursion|" + LATE,
    ),
    inside("exits", "os._exit, as if all were well", "os._exit(0)", before="import os"),
    inside("raises SystemExit", "an exit that can be caught", "raise SystemExit(0)", trace="SystemExit"),
    inside("aborts", "SIGABRT", "os.abort()", before="import os"),
    inside("segfaults", "reads address 0", "ctypes.string_at(0)", before="import ctypes"),
    inside(
        "kills itself",
        "SIGKILL: likewise",
        "os.kill(os.getpid(), 9)",
        before="import os",
        costs=(),
        unsure=("area",),
        trace=DIED + "|noted: ran",
    ),
    cell(
        "exits in a cell",
        "the hand-in's cells are run again without it",
        "import os\nos._exit(0)",
        trace="was not run to its end",
    ),
    cell(
        "segfaults in a cell",
        "likewise",
        "import ctypes\nctypes.string_at(0)",
        trace="was not run to its end",
    ),
    inside(
        "kills its parent",
        "and everybody else that it can reach",
        """
os.kill(os.getppid(), 9) if os.getppid() > 1 else note("alone")
""",
        before="import os",
        costs=(),
        trace="noted:",
    ),
    inside(
        "kills its group",
        "and session",
        "os.killpg(0, 9)",
        before="import os",
        costs=(),
        unsure=("area",),
        trace=DIED + "|noted: ran",
    ),
    inside(
        "kills all",
        "every process that it may signal",
        "os.kill(-1, 9)",
        before="import os",
        costs=(),
        unsure=("area",),
        trace="noted:|" + DIED,
    ),
    inside(
        "signals every number",
        "of the first three thousand",
        """
for pid in range(2, 3000):
    for number in (19, 9):
        try:
            if pid != os.getpid(): os.kill(pid, number); note("killed")
        except OSError: pass
""",
        before="import os",
        costs=(),
        trace="noted:",
    ),
    inside(
        "fork bomb",
        "children without end",
        "while True: os.fork()",
        before="import os",
        trace=DIED + "|" + LATE + "|BlockingIOError|unavailable",
    ),
    inside(
        "fork bomb that catches all",
        "and goes on",
        """
while True:
    try: os.fork()
    except OSError: pass
""",
        before="import os",
        trace=DIED + "|" + LATE,
    ),
    inside(
        "thread bomb",
        "threads without end",
        """
while True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
""",
        before="import threading, time",
        trace=DIED + "|" + LATE + "|thread",
    ),
    inside(
        "descriptor bomb",
        "open files without end",
        "held = []\nwhile True: held.append(open('/dev/null'))",
        trace="OSError|open files|" + DIED,
    ),
    inside(
        "orphan",
        "a process in a session of its own, that waits and writes later",
        """
if os.fork() == 0:
    try: os.setsid()
    except OSError: pass
    if os.fork() == 0:
        for number in range(3, 1000):
            try: os.close(number)
            except OSError: pass
        open("/proc/self/comm", "w").write("@MARK@")
        for _ in range(600):
            time.sleep(0.1)
            for path in ("@CANARY@/precious.txt", "@OUTPUT@/marks.csv", "@OUTPUT@/gradebook.db", "@HOME@/precious.txt"):
                try: open(path, "a").write("orphan")
                except OSError: pass
        os._exit(0)
    os._exit(0)
os.wait()
""",
        before="import os, time",
        costs=(),
        trace="noted: ran",
    ),
    inside(
        "orphans of a daemon",
        "started by a program, not by fork",
        """
try: subprocess.Popen(["sh", "-c", "exec sleep 4321"], start_new_session=True)
except OSError: subprocess.Popen(["sh", "-c", "exec sleep 4321"])
""",
        before="import subprocess",
        costs=(),
        trace="noted: ran",
    ),
    inside(
        "busy threads",
        "which go on computing; the answers are right",
        """
for _ in range(2): threading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start()
""",
        before="import threading",
        costs=(),
        unsure=tuple(POINTS),
        trace="noted:|" + LATE,
    ),
    inside(
        "switch interval",
        "no other thread gets a turn",
        "sys.setswitchinterval(1e6); gc.disable(); sys.settrace(lambda *_: None)",
        before="import sys, gc",
        costs=(),
        trace="noted: ran",
    ),
    inside(
        "works elsewhere",
        "the working folder is left, and deleted",
        "os.chdir('/')\nshutil.rmtree(HOME, ignore_errors=True)",
        before="import os, shutil\nsafe()\nHOME = os.getcwd()\nattempt('home', lambda: '@SUBMITTED@' in HOME or '@COURSE@' in HOME)\n",
        costs=(),
        trace="noted:",
    ),
    inside(
        "modules emptied",
        "Python without its libraries, after the right answer",
        "threading.Timer(0.2, lambda: (sys.modules.clear(), vars(torch).clear())).start()",
        before="import sys, threading",
        costs=(),
        unsure=tuple(POINTS),
        trace=None,
    ),
    # Rights
    inside(
        "network",
        "servers on this machine, by every way",
        """
for name, family, kind, address in [("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", @TCP@)), ("tcp", socket.AF_INET, socket.SOCK_STREAM, ("localhost", @TCP@)),
        ("unix", socket.AF_UNIX, socket.SOCK_STREAM, "@UNIX@"), ("abstract", socket.AF_UNIX, socket.SOCK_STREAM, "\\0@MARK@")]:
    def connect():
        one = socket.socket(family, kind)
        one.settimeout(0.5)
        one.connect(address)
    attempt(name, connect)
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", @UDP@)) and False)
""",
        before="import socket",
        costs=(),
        trace="noted:.*(Error|nothing)",
    ),
    inside(
        "names and outside",
        "DNS, the internet, the local network",
        """
socket.setdefaulttimeout(0.5)
attempt("dns", lambda: socket.getaddrinfo("pypi.org", 443))
for address in ("1.1.1.1", "10.0.0.1", "192.168.0.1", "169.254.169.254"):
    attempt("internet", lambda: socket.create_connection((address, 80), 0.3))
attempt("ipv6", lambda: socket.create_connection(("2606:4700:4700::1111", 80), 0.3))
attempt("proxy", lambda: __import__("urllib.request").request.urlopen("http://example.com", timeout=0.5))
""",
        before="import socket",
        costs=(),
        unsure=("area",),
        trace="noted:.*(rror|herror)|" + LATE,
    ),
    cell(
        "listens",
        "opens a port that others could reach",
        """
import socket, threading
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("0.0.0.0", @OPEN@))
server.listen()
note("ran")
import time; time.sleep(0.5)
""",
    ),
    inside(
        "becomes root",
        "and other users",
        """
for number in (0, 1, 65534, 12345):
    attempt("setuid", lambda: os.setuid(number) if os.getuid() != number else 1 / 0)
    attempt("setresuid", lambda: os.setresuid(number, number, number) if os.getuid() != number else 1 / 0)
    attempt("setgroups", lambda: os.setgroups([number]))
attempt("sudo", lambda: subprocess.run(["sudo", "-n", "id"], check=True, capture_output=True))
attempt("su", lambda: subprocess.run(["su", "-c", "id"], check=True, capture_output=True, stdin=subprocess.DEVNULL))
""",
        before="import os, subprocess",
        costs=(),
        trace="noted:.*Error",
    ),
    inside(
        "changes the machine",
        "mounts, namespaces, devices, kernel settings",
        """
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result != 0: raise OSError(ctypes.get_errno(), "refused")
attempt("mount", lambda: must(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None)))
attempt("umount", lambda: must(libc.umount2(b"/proc", 2)))
attempt("unshare", lambda: must(libc.unshare(0x10000000 | 0x20000)))
attempt("userns", lambda: must(libc.unshare(0x10000000)))
attempt("setns", lambda: must(libc.setns(os.open("/proc/1/ns/mnt", 0), 0)))
attempt("chroot", lambda: os.chroot("/usr"))
attempt("mknod", lambda: os.mknod("device", 0o60666, os.makedev(8, 0)))
attempt("hostname", lambda: must(libc.sethostname(b"x", 1)))
attempt("clock", lambda: __import__("time").clock_settime(0, 0))
attempt("nice", lambda: os.nice(-20))
attempt("priority", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)))
attempt("reboot", lambda: must(libc.reboot(0x89ABCDEF)))
attempt("swapoff", lambda: must(libc.swapoff(b"/nowhere")))
for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/sys/fs/cgroup/cgroup.procs", "/dev/mem", "/dev/kmsg", "/etc/passwd", "/proc/1/oom_score_adj"):
    attempt(path[-9:], lambda: open(path, "r+b", 0).close())
""",
        before="import os, ctypes",
        costs=(),
        trace="noted:.*Error",
    ),
    inside(
        "reads the machine",
        "what belongs to no hand-in",
        """
import pathlib
for path in ("/etc/shadow", *("/".join(("", "root", name)) for name in (".bashrc", ".ssh")), "@HOME@/precious.txt", "@CANARY@/precious.txt", "/var/log", "/home", "/run/secrets", "/proc/1/root@CANARY@", "/proc/kcore", "/dev/sda", "/dev/vda"):
    def read():
        found = pathlib.Path(path)
        return [*found.iterdir()] or False if found.is_dir() else found.open("rb").read(1) or False
    attempt(path[-12:].replace(" ", ""), read)
users = [line for line in open("/etc/passwd") if not line.startswith(("student:", "root:", "nobody:"))] if os.path.exists("/etc/passwd") else []
if users: note("ESCAPED:passwd")
""",
        before="import os",
        costs=(),
        trace="noted:.*Error",
    ),
    inside(
        "terminal",
        "writes and types into the grader's",
        """
attempt("tty", lambda: open("/dev/tty", "r+b", 0).close())
attempt("type", lambda: [fcntl.ioctl(number, termios.TIOCSTI, b"x") for number in (0, 1, 2)])
""",
        before="import fcntl, termios",
        costs=(),
        trace="noted:.*Error",
    ),
    # The text of cells
    Attack(
        "a cell of five megabytes",
        "that does nothing",
        right=True,
        change=large_cell("x = 1\n" * 800_000),
        unsure=tuple(POINTS),
        trace=None,
    ),
    Attack(
        "a line of five megabytes",
        "one number",
        right=True,
        change=large_cell("x = '" + "a" * 5_000_000 + "'"),
        unsure=tuple(POINTS),
        trace=None,
    ),
    Attack(
        "nested parentheses",
        "beyond what parsers bear",
        right=True,
        change=large_cell("(" * 100_000 + ")" * 100_000),
        trace="noted:",
    ),
    Attack(
        "nested operators",
        "recursion in the compiler",
        right=True,
        change=large_cell("-" * 200_000 + "1"),
        trace="noted:",
    ),
    Attack(
        "nested attributes",
        "a chain of them",
        right=True,
        change=large_cell("x" + ".a" * 100_000),
        trace="noted:",
    ),
    Attack(
        "nested parentheses in a demonstration",
        "which the grader parses itself",
        right=True,
        change=demonstration("(" * 100_000 + ")" * 100_000),
        trace="noted:",
    ),
    Attack(
        "nested operators in a demonstration",
        "likewise",
        right=True,
        change=demonstration("def f():\n    return " + "-" * 3_000 + "1\n" + "-" * 200_000 + "1"),
        trace="noted:",
    ),
    Attack(
        "sums in a demonstration",
        "a syntax tree as deep as it is long",
        right=True,
        change=demonstration("def f():\n    return " + " + ".join(["1"] * 20_000)),
        trace="noted:",
    ),
    harm(
        "nested operators in an exercise",
        "it is not defined then",
        "def area(boxes):\n    return " + "-" * 200_000 + "1",
        trace="area",
    ),
    Attack(
        "magics in great number",
        "twenty thousand lines for the transformers",
        right=True,
        change=large_cell("!true\n" * 20_000),
        trace="noted:",
    ),
    Attack("many cells", "a thousand small ones", right=True, change=many(1000), trace="noted:"),
    Attack("too many cells", "a hundred thousand", change=many(100_000), trace="cells"),
    fair("slow but sure", "a second for its cell", "import time\ntime.sleep(1)", where=None),
]
