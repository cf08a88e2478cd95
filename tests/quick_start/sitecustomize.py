"""Has a server run what an interpreter with this folder in its PYTHONPATH was started for: see fork_server.py."""

import os
import sys

words = [word for word in sys.orig_argv[1:] if word != "-u"]
if words and (words[0] == "-m" or not words[0].startswith("-")):
    import json
    import socket

    request = json.dumps({"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ["FORK_SERVER"])
        socket.send_fds(server, [b"%9d" % len(request)], [0, 1, 2])
        server.sendall(request)
        os._exit(int(server.recv(9) or 1))
