"""Interpreters that a command starts, such as those of a recipe, forked from one that has imported fairseq already.

A recipe starts ten and more, and each would take three seconds to import the same. An interpreter with the folder
quick_start in its PYTHONPATH hands its arguments, environment and open files over to the server, and ends as the
process does that the server forks. A signal that ends the one ends the other.
"""

import contextlib
import importlib
import json
import logging
import os
import runpy
import select
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from forking import ended, fork, run_command

QUICK_START = Path(__file__).resolve().parent / "quick_start"


@contextlib.contextmanager
def fork_server(folder: Path) -> Iterator[dict[str, str]]:
    """A server at work, with its socket in ``folder``; what the environment of the interpreters must have."""
    for name in ("fairseq_cli.train", "fairseq_infformer.plugin", "torch._dynamo"):
        importlib.import_module(name)
    address = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        server = fork(partial(_serve, listener, os.getpid()))
    try:
        path = os.environ.get("PYTHONPATH")
        yield {"FORK_SERVER": address, "PYTHONPATH": f"{QUICK_START}{f':{path}' if path else ''}"}
    finally:
        os.kill(server, signal.SIGTERM)
        ended(server)


def _serve(listener: socket.socket, parent: int) -> None:
    signal.alarm(0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        while os.getppid() == parent:
            if select.select([listener], [], [], 1)[0]:
                connection, _ = listener.accept()
                fork(partial(_answer, connection))
                connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    finally:
        with contextlib.suppress(ChildProcessError):
            while os.wait():
                pass


def _answer(connection: socket.socket) -> None:
    """Run what is asked for in a process of its own, and send its exit code."""
    signal.alarm(0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    length, files, *_ = socket.recv_fds(connection, 9, 3)
    request = b""
    while len(request) < int(length):
        request += connection.recv(1 << 20)
    child = fork(partial(_run, files, **json.loads(request)))
    process = os.pidfd_open(child)
    # The connection can be read when the interpreter that asked has been killed.
    if process not in select.select([connection, process], [], [])[0]:
        os.kill(child, signal.SIGTERM)
    code = ended(child)
    connection.sendall(b"%d" % (code if code >= 0 else 128 - code))


def _run(files: list[int], words: list[str], folder: str, environment: dict[str, str]) -> None:
    signal.alarm(0)
    os.dup2(files[0], 0)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    logging.root.setLevel("INFO")  # as fairseq does where it is imported, for what is logged to a file
    module = words[0] == "-m"
    words = words[module:]
    sys.path.insert(0, folder if module else str(Path(words[0]).resolve().parent))

    def main() -> None:
        if module:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")

    run_command(words, main, files[1], files[2])
