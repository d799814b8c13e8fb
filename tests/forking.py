"""``embedmig`` as a process that need not import everything anew: forked from one that has done so.

It is a child of the test as any other: its own environment, folder, streams, signals and exit code. Where the start of Python
itself is the subject, or the environment speaks to it, the installed command is run.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

SUBREAPER = 36  # prctl(2): orphans among its descendants become its children
HEAVY = ("alembic.command", "alembic.context", "sqlalchemy.dialects.postgresql.psycopg", "wordllama")
SPEAKS_TO_PYTHON = ("PYTHON", "LC_", "LANG", "LD_", "OMP_", "OPENBLAS_", "TOKENIZERS_")
ADAPTED = ("PYTHONPATH", "PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE")
ENOUGH = 1 << 20


class Forked(subprocess.Popen[str]):
    """``Popen`` of the installed command; ``args``, ``cwd`` and ``env`` are needed."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any, *more: Any) -> None:  # fmt: skip
        pipes = more[3:9]
        if not possible(env):
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more)  # type: ignore[misc]
            return
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        streams = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        try:
            self.pid = parent().fork({"args": args, "cwd": str(cwd), "env": env}, streams)
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def possible(env: dict[str, str]) -> bool:
    """On Linux, where nothing in the environment that Python or its libraries read at their start differs from here."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(SPEAKS_TO_PYTHON)}
    theirs = {name: value for name, value in env.items() if name.startswith(SPEAKS_TO_PYTHON)}
    for name in ADAPTED:
        ours.pop(name, None), theirs.pop(name, None)
    return sys.platform == "linux" and ours == theirs


class Parent:
    """The process that has imported everything. It ends with the socket that it is asked through."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-P", __file__, str(theirs.fileno())]
            environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        atexit.register(self.close)

    def fork(self, order: dict[str, Any], streams: list[int]) -> int:
        """The new process, which is this one's child when its parent, a process between the two, has ended."""
        with self.lock, self._adopting():
            socket.send_fds(self.socket, [json.dumps(order).encode()], streams)
            return int(self.socket.recv(ENOUGH))

    def close(self) -> None:
        self.socket.close()
        self.process.wait()

    @staticmethod
    @contextlib.contextmanager
    def _adopting() -> Any:
        prctl = ctypes.CDLL(None).prctl
        prctl(SUBREAPER, 1, 0, 0, 0)
        try:
            yield
        finally:
            prctl(SUBREAPER, 0, 0, 0, 0)


_parents: dict[int, Parent] = {}


def parent() -> Parent:
    """This process' own, started when it is first needed."""
    if os.getpid() not in _parents:
        _parents[os.getpid()] = Parent()
    return _parents[os.getpid()]


def serve(asked: socket.socket) -> None:
    """Forks for every order; returns in the new process alone, which is then like one just started."""
    base = sys.path[1:]  # but for PYTHONPATH, which everyone has of their own
    import_everything()
    gc.freeze()
    while True:
        message, streams, *_ = socket.recv_fds(asked, ENOUGH, 3)
        if not message:
            os._exit(0)
        read, write = os.pipe()
        between = os.fork()
        if between == 0:
            if child := os.fork():
                os.write(write, str(child).encode())
                os._exit(0)
            for number in (read, write, asked.detach()):
                os.close(number)
            become(json.loads(message), streams, base)
            return
        os.waitpid(between, 0)
        asked.send(os.read(read, 32))
        for number in (read, write, *streams):
            os.close(number)


def import_everything() -> None:
    """embedmig whole, and the libraries that it imports when a command needs them."""
    import embedmig

    named = [
        module.name for module in pkgutil.walk_packages(embedmig.__path__, "embedmig.") if "__main__" not in module.name
    ]
    for name in (*named, *HEAVY):
        with contextlib.suppress(ImportError):  # a library that is not installed here
            importlib.import_module(name)
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)  # wordllama has its say in this


def become(order: dict[str, Any], streams: list[int], base: list[str]) -> None:
    """What Python does at its start: streams, environment, folder, arguments and the path of imports."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        if stream > 2:
            os.close(stream)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    if action := order["env"].get("PYTHONWARNINGS"):
        warnings.simplefilter(action)
    sys.argv = order["args"]
    given = [path for path in order["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [str(Path(sys.argv[0]).parent), *given, *base]


def run() -> int:
    """The installed command to its end, but for taking apart what was imported, which would copy most of the memory: the exit code."""
    code: Any = None
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except Exception:  # noqa: BLE001  shown as Python shows it
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(run())
