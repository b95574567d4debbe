"""What Linux offers to lock a process in: namespaces, a root of read-only folders, limits, a system call filter.

Two steps. `enter` and `build` happen once, in the zygote; `lock` in each student process after its fork.
Nothing here knows a lesson: the zygote imports this module, and its memory is the student's.
"""

import contextlib
import ctypes
import errno
import os
import platform
import re
import resource
import signal
import struct
import sys

HOME = "/student"  # the student's folder, the one place it may write to
UID, SLOTS = 61000, 180  # host uids of students where the grader is root; systemd leaves 61000 to 61183 alone

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DETACH = 2
SET_PDEATHSIG, SET_DUMPABLE, SET_KEEPCAPS, CAPBSET_DROP, SET_NO_NEW_PRIVS, CAP_AMBIENT = 1, 4, 8, 24, 38, 47
CLEAR_ALL = 4
SYS_ADMIN = 1 << 21

# Calls that no notebook needs, and that lead to memory which no limit counts, or deep into the kernel.
# x86_64, aarch64
DENIED = {
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "msgget": (68, 186), "semget": (64, 190), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "kcmp": (312, 272), "bpf": (321, 280),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "open_tree": (428, 428), "move_mount": (429, 429), "mount_setattr": (442, 442),
    "unshare": (272, 97), "setns": (308, 268), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "syslog": (103, 116),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "fanotify_init": (300, 262),
}  # fmt: skip
# Does nothing and says that it did: the kernel shares the processor between sessions, so that 64 processes in one
# slow nobody down, and programs that only want to be left alone go on.
SETSID = (112, 157)
CLONE, CLONE3, SOCKET, SECCOMP = (56, 220), (435, 435), (41, 198), (317, 277)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
# Unix, internet and netlink live in a network namespace; vsock, which reaches a virtual machine's host, does not.
FAMILIES = (1, 2, 10, 16)

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """A libc function with every number as a long; OSError says which one failed, and why."""
    arguments = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    if getattr(libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        words = [name, *(os.fsdecode(a) for a in arguments if isinstance(a, bytes) and a.isascii())]
        raise OSError(number, f"{' '.join(words)}: {os.strerror(number)}")


def prctl(option, *values):
    call("prctl", option, *(values + (0,) * (4 - len(values))))


def mount(source, target, kind=None, flags=0, options=None):
    source, target, kind, options = (
        None if text is None else os.fsencode(text) for text in (source, target, kind, options)
    )
    call("mount", source, target, kind, flags, options)


def die_with_parent():
    prctl(SET_PDEATHSIG, signal.SIGKILL)


def enter():
    """Go into own namespaces, with every capability there; the next fork is the first process of its own tree."""
    kinds = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS
    try:
        if os.geteuid():
            raise PermissionError
        call("unshare", kinds)
    except PermissionError:  # an ordinary user, or a root without CAP_SYS_ADMIN as in a container
        user, group, proc = os.geteuid(), os.getegid(), os.open("/proc", os.O_DIRECTORY)
        call("unshare", kinds | NEWUSER)
        _map_ids(proc, user, user, group, group)
        os.close(proc)
    alone()


def alone():
    """No mount made from here on is seen outside."""
    mount(None, "/", flags=REC | PRIVATE)


def _map_ids(proc, uid, host_uid, gid, host_gid):
    for name, text in [
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {host_uid} 1"),
        ("gid_map", f"{gid} {host_gid} 1"),
    ]:
        try:
            with _of_self(proc, name, "w") as file:
                file.write(text)
        except OSError as error:
            raise OSError(error.errno, f"write {text!r} to {name}: {os.strerror(error.errno)}") from None


def _of_self(proc, name, mode="r"):
    """`/proc/self/NAME` of the /proc that the descriptor `proc` is open on."""
    return open(f"self/{name}", mode, opener=lambda path, flags: os.open(path, flags, dir_fd=proc))


def many_ids():
    """Whether students can have host uids of their own here."""
    if os.geteuid():
        return False
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}") as file:
            ranges = [tuple(map(int, line.split())) for line in file]
        if not any(first <= UID and UID + SLOTS <= first + count for first, _, count in ranges):
            return False
    return True


# --------------------------------------------------------------------------- the root, once


def build(packages, hide):
    """Leave the machine's files for a root that holds Python, its libraries and `packages`, all read-only.

    Args:
        packages: folders of importable packages and of more of them, shown at their own paths.
        hide: folders that shall look empty where one that is shown holds them.

    Returns:
        int: a descriptor of the /proc that was there before, for `lock`.
    """
    os.umask(0o022)
    proc = os.open("/proc", os.O_DIRECTORY)
    shown, links = _shown(packages)
    hidden = [path for path in map(os.path.realpath, hide) if os.path.isdir(path) and path != "/"]
    base = next(path for path in ("/tmp", "/run", "/mnt", "/var") if os.path.isdir(path))
    mount("tmpfs", base, "tmpfs", NOSUID | NODEV, "mode=755,size=4m,nr_inodes=4k")
    for name in ("old", "new"):
        os.mkdir(f"{base}/{name}")
    call("pivot_root", os.fsencode(base), os.fsencode(f"{base}/old"))
    os.chdir("/")
    mount("tmpfs", "/new", "tmpfs", NOSUID | NODEV, "mode=755,size=4m,nr_inodes=4k")
    # Parents first: what is hidden in a folder hides, and what is shown inside that is seen again.
    steps = [(path, False) for path in hidden] + [(path, True) for path in shown]
    seen = {"/": False}
    for path, visible in sorted(steps, key=lambda step: (step[0].count("/"), step)):
        above = next(seen[parent] for parent in _parents(path) if parent in seen)
        if visible and not above:
            _bind(path)
        elif above and not visible:
            mount("tmpfs", "/new" + path, "tmpfs", NOSUID | NODEV, "mode=755,size=64k,nr_inodes=64")
        seen[path] = visible
    for path, target in {
        **links,
        "/dev/fd": "/proc/self/fd",
        "/dev/stdin": "/proc/self/fd/0",
        "/dev/stdout": "/proc/self/fd/1",
        "/dev/stderr": "/proc/self/fd/2",
        "/dev/shm": HOME,
        "/tmp": HOME,
        "/var/tmp": HOME,
    }.items():
        if not os.path.lexists("/new" + path):
            os.makedirs(os.path.dirname("/new" + path), exist_ok=True)
            os.symlink(target, "/new" + path)
    for path in (HOME, "/proc", "/etc"):
        os.makedirs("/new" + path, exist_ok=True)
    for name, text in {
        "passwd": f"student:x:1000:1000::{HOME}:/bin/sh\n",
        "group": "student:x:1000:\n",
        "hosts": "127.0.0.1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }.items():
        with open(f"/new/etc/{name}", "w") as file:
            file.write(text)
    with contextlib.suppress(OSError):  # refused in a container that shows only a part of its own
        mount("proc", "/new/proc", "proc", NOSUID | NODEV | NOEXEC)
    _read_only(b"/new")
    os.chdir("/new")
    call("pivot_root", b".", b".")
    call("umount2", b".", DETACH)
    os.chdir("/")
    mount("tmpfs", HOME, "tmpfs", NOSUID | NODEV, "mode=700,size=64m,nr_inodes=4k")
    return proc


def _shown(packages):
    """What the root holds, each at its real place and nowhere else, and `{path: real place}` of links to it."""
    wanted = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"]
    wanted += [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]
    for name in ("alternatives", "fonts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime"):
        wanted.append(f"/etc/{name}")
    # Not the whole prefix: a virtual environment may be the checkout itself.
    parts = ("bin", "include", "lib", "lib32", "lib64", "libexec", "share", "ssl", "pyvenv.cfg")
    for prefix in {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix} - {"/"}:
        wanted += [f"{prefix}/{part}" for part in parts]
    wanted += map(os.path.abspath, packages)
    real = {path: os.path.realpath(path) for path in wanted if os.path.exists(path)}
    links = {path: place for path, place in real.items() if path != place}
    # What lies behind a link is reached through it.
    return set(real.values()), {path: links[path] for path in links if links.keys().isdisjoint(_parents(path))}


def _parents(path):
    while path != "/":
        path = os.path.dirname(path)
        yield path


def _bind(path):
    source, target = "/old" + path, "/new" + path
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass
    mount(source, target, flags=BIND | REC)


def _read_only(top):
    """Every mount from `top` down read-only, without devices and setuid; the few devices keep theirs."""
    with open("/old/proc/self/mountinfo", "rb") as file:
        lines = [line.split() for line in file]
    for fields in lines:
        path = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), fields[4])
        if path == top or path.startswith(top + b"/"):
            flags = RDONLY | NOSUID | (NOEXEC if b"noexec" in fields[5].split(b",") else 0)
            flags |= 0 if path.startswith(top + b"/dev/") else NODEV
            mount(None, path, flags=flags | BIND | REMOUNT)


def cover(path):
    """An empty folder over one that has done its work."""
    if os.path.isdir(path):
        mount("tmpfs", path, "tmpfs", RDONLY | NOSUID | NODEV, "mode=755,size=4k,nr_inodes=4")


def huge_pages(proc):
    """Put this process's memory into pages of 2 MiB where the kernel can: a fork copies its table of pages.

    With torch that is 100 000 small pages; forking and ending took less than half of the time with large ones.
    """
    size, collapse = 2**21, 25
    with _of_self(proc, "maps") as file:
        lines = [line.split() for line in file]
    for fields in lines:
        if fields[1].startswith("rw") and (len(fields) == 5 or fields[5] == "[heap]"):
            begin, end = (int(address, 16) for address in fields[0].split("-"))
            for place in range(-(-begin // size) * size, end - size + 1, size):
                libc.madvise(ctypes.c_ulong(place), ctypes.c_ulong(size), collapse)  # older kernels refuse


# --------------------------------------------------------------------------- a student process, each time


def lock(limits, uid, proc):
    """Take everything from this process that it does not need; it is the first one of its own process tree.

    Args:
        limits (dict): as `sandbox.Limits`.
        uid (int): its host uid, or None to keep the grader's.
        proc (int): what `build` gave.
    """
    call("unshare", NEWNS | NEWNET | NEWIPC | NEWUTS | NEWCGROUP)
    owner = os.geteuid() if uid is None else uid
    group = os.getegid() if uid is None else uid
    room = f"mode=700,uid={owner},gid={group},size={limits['disk']},nr_inodes={limits['files']}"
    mount("tmpfs", HOME, "tmpfs", NOSUID | NODEV, room)
    try:
        mount("proc", "/proc", "proc", RDONLY | NOSUID | NODEV | NOEXEC)
    except OSError:  # see `build`
        mount("tmpfs", "/proc", "tmpfs", RDONLY | NOSUID | NODEV, "mode=555,size=4k,nr_inodes=4")
    call("sethostname", b"sandbox", 7)
    if uid is not None:
        os.setgroups([])
        # An AppArmor that restricts user namespaces asks for the capability at the moment of making one.
        prctl(SET_KEEPCAPS, 1)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        _capabilities(SYS_ADMIN)
    prctl(SET_DUMPABLE, 1)  # else its own /proc/self is root's; of itself it has nothing to hide
    with contextlib.suppress(OSError), _of_self(proc, "oom_score_adj", "w") as file:
        file.write("1000")
    call("unshare", NEWUSER)
    _map_ids(proc, 1000, owner, 1000, group)
    for number in range(64):
        try:
            prctl(CAPBSET_DROP, number)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            break  # past the kernel's last one
    prctl(CAP_AMBIENT, CLEAR_ALL)
    _capabilities(0)
    prctl(SET_NO_NEW_PRIVS, 1)
    kernel = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    if uid is None and kernel < (5, 14):  # all of the user's processes would count, not these alone
        limits = {**limits, "processes": None}
    set_limits(limits, proc)
    _filter()


def _capabilities(mask):
    header = struct.pack("=II", 0x20080522, 0)
    call("capset", header, struct.pack("=6I", mask, mask, 0, 0, 0, 0))


def set_limits(limits, proc):
    """Resource limits of this process and its children, None for no limit; memory counts from what it holds now."""
    with _of_self(proc, "statm") as file:
        pages = [int(field) for field in file.read().split()]
    total, data = pages[0] * resource.getpagesize(), pages[5] * resource.getpagesize()
    for name, value in {
        "RLIMIT_DATA": data + limits["memory"],
        # Shared anonymous memory is not in DATA. Each thread sets aside up to 136 MiB that it does not use.
        "RLIMIT_AS": total + limits["memory"] + 2**30,
        "RLIMIT_FSIZE": limits["disk"],
        "RLIMIT_NPROC": limits["processes"],
        "RLIMIT_NOFILE": limits["descriptors"],
        "RLIMIT_CPU": limits["cpu"],
        "RLIMIT_CORE": 1,  # not 0: with 1 the kernel calls no crash reporter either
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_SIGPENDING": 1024,
        "RLIMIT_RTPRIO": 0,
    }.items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        if value is not None:
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))


def _filter():
    """A seccomp filter that refuses `DENIED`, new namespaces and sockets that no namespace holds."""
    if platform.machine() not in MACHINES:
        return
    column, architecture = MACHINES[platform.machine()]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow = (give, 0, 0, 0x7FFF0000)

    def refuse(number):
        return give, 0, 0, 0x50000 | number

    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), refuse(errno.EPERM), (load, 0, 0, 0)]
    if platform.machine() == "x86_64":  # x32: the same calls by other numbers
        program += [(at_least, 0, 1, 0x40000000), refuse(errno.EPERM)]
    for numbers in DENIED.values():
        program += [(equal, 0, 1, numbers[column]), refuse(errno.EPERM)]
    program += [(equal, 0, 1, SETSID[column]), refuse(0)]
    # libc falls back to clone, whose flags can be seen
    program += [(equal, 0, 1, CLONE3[column]), refuse(errno.ENOSYS)]
    spaces = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
    program += [(equal, 0, 4, CLONE[column]), (load, 0, 0, 16), (any_bit, 0, 1, spaces)]
    program += [refuse(errno.EPERM), allow]
    program += [(equal, 0, len(FAMILIES) + 2, SOCKET[column]), (load, 0, 0, 16)]
    program += [(equal, len(FAMILIES) - n, 0, family) for n, family in enumerate(FAMILIES)]
    program += [refuse(errno.EAFNOSUPPORT), allow]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))

    class Program(ctypes.Structure):
        _fields_ = [("count", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    filters = Program(len(program), ctypes.addressof(code))
    # Flag 4: older kernels would slow the process down against Spectre; it holds no secret.
    call("syscall", SECCOMP[column], 1, 4, ctypes.byref(filters))
