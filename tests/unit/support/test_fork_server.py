"""What a forked interpreter shows of itself is what one of its own would."""

import json
import os
import signal
import subprocess
import sys
import time

from command_line import ENVIRONMENT
from fork_server import fork_server

SHOW = """import json, os, sys
print(json.dumps([sys.argv, sys.path[0], os.getcwd(), os.environ["OWN"], sys.stdin.read()]))
print("to stderr", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
WAIT = """import os, sys, time
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_fork_server_runs_what_an_interpreter_would(tmp_path):
    (tmp_path / "show.py").write_text(SHOW)
    with fork_server(tmp_path) as environment:
        for start in (["show.py"], ["-u", "-m", "show"]):
            shown = []
            for own in ({}, environment):
                done = subprocess.run(
                    [sys.executable, *start, "7"],
                    cwd=tmp_path,
                    env=ENVIRONMENT | own | {"OWN": "é"},
                    input="typed",
                    text=True,
                    capture_output=True,
                )
                shown.append((done.returncode, json.loads(done.stdout), done.stderr))
            assert shown[0] == shown[1] and shown[0][0] == 7


def test_fork_server_ends_what_an_interpreter_that_was_killed_had_started(tmp_path):
    (tmp_path / "wait.py").write_text(WAIT)
    with fork_server(tmp_path) as environment:
        command = [sys.executable, tmp_path / "wait.py"]
        started = subprocess.Popen(command, env=ENVIRONMENT | environment, text=True, stdout=subprocess.PIPE)
        child = int(started.stdout.readline())
        assert child != started.pid and os.path.exists(f"/proc/{child}")
        started.send_signal(signal.SIGTERM)
        assert started.wait() == -signal.SIGTERM
        deadline = time.monotonic() + 20
        while os.path.exists(f"/proc/{child}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
