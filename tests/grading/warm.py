"""`autograder` and `nbgrader` for a test that types them often: each call is forked from a process that has imported torch.

A call does what the installed program does, in the caller's folder, with its environment and its input and outputs.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

SHIM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = [os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)]
    socket.send_fds(server, [json.dumps(call).encode()], [0, 1, 2])
    sys.exit(int(server.recv(9) or 1))
"""


@contextlib.contextmanager
def programs(folder, environment):
    """A folder with the two programs, to stand first in PATH; they work while the context is open."""
    bin = Path(folder) / "bin"
    bin.mkdir()
    address = str(bin / "socket")
    for name in ("autograder", "nbgrader"):
        (bin / name).write_text(SHIM.format(python=sys.executable, address=address))
        (bin / name).chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, address], env=environment)
    try:
        while not Path(address).exists():
            if server.poll() is not None:
                raise RuntimeError(f"the warm process ended with {server.returncode}")
            time.sleep(0.05)
        yield bin
    finally:
        server.kill()
        server.wait()


def serve(address):
    import nbgrader.apps
    import torch

    import autograder.cli
    import autograder.export
    import autograder.grade
    import autograder.pages

    torch.set_num_threads(1)
    entries = {"autograder": autograder.cli.main, "nbgrader": nbgrader.apps.NbGraderApp.launch_instance}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the calls
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        while True:
            caller, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                answer(caller, entries)
            caller.close()


def answer(caller, entries):
    status = 1
    try:
        call, files, _, _ = socket.recv_fds(caller, 2**20, 3)
        name, arguments, folder, environment = json.loads(call)
        for number, file in enumerate(files):
            os.dup2(file, number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [name, *arguments]
        status = entries[name]() or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        caller.send(str(status).encode())
        os._exit(0)


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # its `conftest` is nobody's
    serve(sys.argv[1])
