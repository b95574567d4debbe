"""Files beside the notebook, in its place, or left for the next student; each attack finds nothing of another's.

Students are graded in the order of their names: `a writer` leaves what `b reader` looks for.
"""

import os
import socket

from .course import Attack, cheat

RIGHT_AREA = "def area(boxes): return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])\n"
PATCH = "import coursekit.checks\nfor name in ('same', 'check', 'untouched'): setattr(coursekit.checks, name, lambda *_, **__: None)\n"
BLANK = dict(right=False, trace="noted:")


def lay(**texts):
    """Files by their names, `__` for a folder's slash."""

    def change(folder, places):
        for name, text in texts.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return change


def beside(files):
    return lay(**files)


def link(name, target, hard=False):
    def change(folder, places):
        path, aim = folder / name, places.fill(target)
        path.unlink(missing_ok=True)
        try:
            os.link(aim, path) if hard else path.symlink_to(aim)
        except OSError:  # another file system
            path.write_text("no link could be made")

    return change


def folder_is_link(folder, places):
    """The hand-in is a link to another student's."""
    (folder / "small.ipynb").unlink()
    folder.rmdir()
    folder.symlink_to(places.submitted / "!first-bystander" / "01_small", target_is_directory=True)


def pipe(name):
    def change(folder, places):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def unix_socket(folder, places):
    (folder / "small.ipynb").unlink()
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind("small.ipynb")
    finally:
        os.chdir(here)


def folder_as_notebook(folder, places):
    (folder / "small.ipynb").unlink()
    (folder / "small.ipynb").mkdir()


def many_files(folder, places):
    for number in range(3000):
        (folder / f"{number:04d}-{'x' * 100}.py").touch()


def deep_folders(folder, places):
    here = os.getcwd()
    os.chdir(folder)
    try:
        for _ in range(300):
            os.mkdir("deep")
            os.chdir("deep")
    finally:
        os.chdir(here)


def odd_names(folder, places):
    for name in (
        "<script>alert(1)</script>".replace("/", "_"),
        "new\nline.py",
        "-rf",
        "a;rm -rf b",
        "%s%n",
        "=cmd()",
    ):
        (folder / name).touch()
    open(os.fsencode(folder) + b"/\xff\xfe.py", "w").close()


# Every place that a careless sandbox may leave writable, and what lies there
PLACES = """
import glob, os, pwd, sys, sysconfig, tempfile
safe()
def places():
    homes = [os.path.expanduser("~"), "/root", "@HOME@"]
    try: homes.append(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError: pass
    yield from (os.getcwd(), tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm", "/run", "/etc", "/", "/usr/local/lib")
    yield from (sysconfig.get_path("purelib"), os.path.dirname(os.__file__), "@FOLDER@", "@SUBMITTED@", "@OUTPUT@", "@COURSE@", "@CANARY@")
    for home in homes:
        yield home
        yield from (home + below for below in ("/.ipython/profile_default/startup", "/.config", "/.cache", "/.local/lib"))
"""
WRITER = (
    PLACES
    + """
note("ran")
def area(boxes): return boxes[:, 0]
for place in places():
    if "startup" in place:
        try: os.makedirs(place, exist_ok=True)
        except OSError: pass
    try:
        with open(place + "/@MARK@.py", "w") as file: file.write("area = None")
        os.chmod(place + "/@MARK@.py", 0o777)
    except OSError: pass
"""
)
READER = (
    PLACES
    + """
note("ran")
def area(boxes): return boxes[:, 0]
for place in places():
    if os.path.exists(place + "/@MARK@.py"): note("ESCAPED:" + place)
"""
)
SHARED = """
import ctypes, os, socket, threading
safe()
note("ran")
libc = ctypes.CDLL(None, use_errno=True)
KEY = int("@MARK@"[3:9], 16)
def area(boxes): return boxes[:, 0]
"""

ATTACKS = [
    # Beside the notebook
    *(
        Attack(f"beside {name}", why, lay=beside({name: text}), right=False, trace="noted:")
        for name, why, text in [
            ("torchvision.py", "imported in the library's place", PATCH),
            ("torch.py", "imported in torch's place", PATCH),
            (
                "coursekit.py",
                "imported in the course's place",
                "class checks: same = check = lambda *_: None\n",
            ),
            ("conftest.py", "run by a grader that uses pytest", PATCH),
            ("sitecustomize.py", "run by every Python that starts here", PATCH),
            ("usercustomize.py", "likewise", PATCH),
            ("numpy.py", "imported in numpy's place", PATCH),
            ("nbgrader_config.py", "read by nbgrader", "c = get_config()\nc.ClearSolutions.code_stub = {}\n"),
            (
                "ipython_config.py",
                "read by IPython",
                "c = get_config()\nc.InteractiveShellApp.exec_lines = ['1/0']\n",
            ),
            ("small.py", "named as the lesson's source", "# %% exercise='area'\npass\n"),
            ("gradebook.db", "named as the gradebook", "not a database"),
            (
                "pyproject.toml",
                "read by tools that look upwards",
                "[tool.pytest.ini_options]\naddopts = '--collect-only'\n",
            ),
            ("timestamp.txt", "a time that is none", "9" * 5000),
        ]
    ),
    Attack(
        "beside a pth file",
        "paths and code for every Python",
        lay=beside({"evil.pth": "import os; os._exit(3)\n"}),
        **BLANK,
    ),
    Attack(
        "beside startup files",
        "IPython and Jupyter folders",
        lay=beside(
            {
                "ipython-startup__00.py": PATCH,
                ".ipython__profile_default__startup__00.py": PATCH,
                ".jupyter__x.json": "{}",
            }
        ),
        **BLANK,
    ),
    Attack(
        "beside a package",
        "coursekit as a folder",
        lay=beside({"coursekit/__init__.py".replace("__init__", "x"): PATCH, "coursekit/checks.py": PATCH}),
        **BLANK,
    ),
    Attack(
        "beside odd names",
        "names that are options, commands and markup",
        right=True,
        trace="noted:",
        lay=odd_names,
    ),
    Attack("beside many files", "three thousand of them", right=True, trace="noted:", lay=many_files),
    Attack("beside deep folders", "three hundred levels", right=True, trace="noted:", lay=deep_folders),
    Attack("beside a pipe", "reading it never ends", right=True, trace="noted:", lay=pipe("extra.py")),
    Attack(
        "timestamp is a pipe", "reading it never ends", right=True, trace="noted:", lay=pipe("timestamp.txt")
    ),
    Attack(
        "timestamp is a link",
        "to a file that is nobody's business",
        right=True,
        trace="noted:",
        lay=link("timestamp.txt", "@HOME@/precious.txt"),
    ),
    Attack(
        "link beside to the source",
        "a link in the folder to the lesson",
        lay=link("answers.py", "@COURSE@/solutions/01_small/small.py"),
        code="""
        note("ran")
        def area(boxes): return boxes[:, 0]
        attempt("answers", lambda: open("answers.py").read())
        """,
        trace="noted:.*Error",
    ),
    # In its place
    cheat(
        "notebook is a link to a right one",
        "another student's",
        "",
        trace="link",
        lay=link("small.ipynb", "@SUBMITTED@/!first-bystander/01_small/small.ipynb"),
    ),
    cheat(
        "notebook is a link to the solution",
        "the executed lesson",
        "",
        trace="link",
        lay=link("small.ipynb", "@COURSE@/solutions/01_small/small.ipynb"),
    ),
    cheat(
        "notebook is a link to the gradebook",
        "what would a grader write through it",
        "",
        trace="link",
        lay=link("small.ipynb", "@OTHER@/gradebook.db"),
    ),
    cheat(
        "notebook is a link to passwd",
        "feedback might quote it",
        "",
        trace="link",
        lay=link("small.ipynb", "/etc/passwd"),
    ),
    cheat(
        "notebook is a link to nowhere",
        "it may be made later",
        "",
        trace="link",
        lay=link("small.ipynb", "@CANARY@/made-by-the-grader"),
    ),
    cheat(
        "notebook is a hard link to the source",
        "the lesson's source is no notebook",
        "",
        trace="under another name",
        lay=link("small.ipynb", "@COURSE@/solutions/01_small/small.py", hard=True),
    ),
    cheat(
        "notebook is a hard link to the gradebook",
        "nothing is written through it",
        "",
        trace="not a notebook",
        lay=link("small.ipynb", "@OTHER@/gradebook.db", hard=True),
    ),
    cheat(
        "folder is a link to another's",
        "a whole hand-in that is not this student's",
        "",
        trace=None,
        left_out="is a link to a folder",
        lay=folder_is_link,
    ),
    cheat("notebook is a pipe", "reading it never ends", "", trace="small.ipynb", lay=pipe("small.ipynb")),
    cheat("notebook is a socket", "no file", "", trace="small.ipynb", lay=unix_socket),
    cheat("notebook is a folder", "no file", "", trace="small.ipynb", lay=folder_as_notebook),
    cheat(
        "notebook is a device",
        "endless zeros",
        "",
        trace="link|small.ipynb",
        lay=link("small.ipynb", "/dev/zero"),
    ),
    # For the next student
    cheat("leaves a files", "in every place that can be written", WRITER),
    cheat("leaves b files seen", "by whoever comes next", READER),
    cheat(
        "leaves c shared memory",
        "System V memory outlives its process",
        SHARED
        + """
place = libc.shmget(KEY, 4096, 0o1666)
libc.semget(KEY, 1, 0o1666)
libc.msgget(KEY, 0o1666)
""",
    ),
    cheat(
        "leaves d shared memory seen",
        "by the next",
        SHARED
        + """
for name in ("shmget", "semget", "msgget"):
    if getattr(libc, name)(*([KEY, 4096, 0] if name == "shmget" else [KEY, 1, 0] if name == "semget" else [KEY, 0])) >= 0: note("ESCAPED:" + name)
""",
    ),
    cheat(
        "leaves e a listener",
        "a process that stays and answers on an abstract socket",
        SHARED
        + """
if os.fork() == 0:
    try: os.setsid()
    except OSError: pass
    if os.fork() == 0:
        server = socket.socket(socket.AF_UNIX)
        server.bind("\\0stay@MARK@")
        server.listen()
        while True: server.accept()[0].sendall(b"answers")
    os._exit(0)
os.wait()
""",
    ),
    cheat(
        "leaves f a listener asked",
        "by the next",
        SHARED
        + """
asking = socket.socket(socket.AF_UNIX)
asking.settimeout(1)
attempt("listener", lambda: asking.connect("\\0stay@MARK@"))
""",
        trace="noted:.*Error",
    ),
    cheat(
        "leaves g patched libraries",
        "the process of the next is forked from this one's parent",
        """
        import gc, sys
        note("ran")
        torch.atk@MARK@ = True
        import coursekit.checks
        coursekit.checks.same = coursekit.checks.check = coursekit.checks.untouched = lambda *_, **__: None
        def area(boxes): return boxes[:, 0]
        """,
    ),
    cheat(
        "leaves h patched libraries seen",
        "by the next",
        """
        import coursekit.checks
        note("ran")
        if hasattr(torch, "atk@MARK@") or coursekit.checks.same.__name__ != "same": note("ESCAPED:patched")
        def area(boxes): return boxes[:, 0]
        """,
    ),
    # Writes and deletes
    cheat(
        "writes the gradebook",
        "24 points for everybody",
        """
        import sqlite3, glob
        safe()
        note("ran")
        def area(boxes): return boxes[:, 0]
        for path in ("@OUTPUT@/gradebook.db", "@OTHER@/gradebook.db", *glob.glob("/**/gradebook.db")):
            def write():
                with open(path, "r+b") as file: file.write(b"")
            attempt("gradebook", write)
        def points():
            base = sqlite3.connect("@OUTPUT@/gradebook.db", timeout=0.1)
            base.execute("update grade set manual_score = 24"); base.commit()
        attempt("points", points)
        """,
        trace="noted:.*Error",
    ),
    cheat(
        "writes results",
        "a result file of its own, before the grader does",
        """
        import os
        safe()
        note("ran")
        def area(boxes): return boxes[:, 0]
        try: os.makedirs("@OUTPUT@/results")  # in a folder of its own: what matters is that it is not the grader's
        except OSError: pass
        try: open("@OUTPUT@/@MARK@.json", "w").close()
        except OSError: pass
        attempt("gradebook", lambda: open("@OUTPUT@/gradebook.db", "r+b"))
        """,
        trace="noted:.*Error",
    ),
    cheat(
        "edits the course",
        "its lesson, the course's package, torch",
        """
        import coursekit.checks, os
        safe()
        note("ran")
        def area(boxes): return boxes[:, 0]
        for path in ("@COURSE@/solutions/01_small/small.py", coursekit.checks.__file__, torch.__file__, os.__file__, "@CHECKOUT@/autograder/judge.py"):
            attempt("write", lambda: open(path, "r+b").close())
            attempt("chmod", lambda: os.chmod(path, os.stat(path).st_mode))
        attempt("add", lambda: open(os.path.dirname(torch.__file__) + "/@MARK@.py", "w").close())
        """,
        trace="noted:.*Error",
    ),
    cheat(
        "deletes hand-ins",
        "those of others, and the canaries",
        """
        import os, shutil
        safe()
        note("ran")
        def area(boxes): return boxes[:, 0]
        for path in ("@SUBMITTED@/~last-bystander/01_small/small.ipynb", "@CANARY@/precious.txt", "@HOME@/precious.txt"):
            attempt("delete", lambda: os.unlink(path))
            attempt("rename", lambda: os.rename(path, path + "@MARK@"))
            attempt("truncate", lambda: os.truncate(path, 0))
        """,
        trace="noted:.*Error",
    ),
]
