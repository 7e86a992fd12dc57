"""A customer's receiver of webhooks as a process: ``python receiver.py FILE PORT SECRET PAUSE`` (port 0: one of
the system's choice); prints ``listening on PORT``.

Each batch is verified, if there is a SECRET, and appended to FILE as a line of JSON {"id", "time", "body"}; when that
is on disk (fsync), and PAUSE seconds later, it is answered 204.  A signature that is wrong is answered 401.  Of the
standard library only.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any


def verified(headers: Any, body: bytes, secret: str) -> bool:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
    given = headers["webhook-signature"].split()
    return fresh and any(hmac.compare_digest(one, f"v1,{wanted}") for one in given)


def main(path: str, port: str, secret: str, pause: str) -> None:
    file, lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), Lock()
    os.write(file, b"\n")  # the line before may have been cut off

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            good = not secret or verified(self.headers, body, secret)
            if good:
                line = {"id": self.headers["webhook-id"], "time": time.time(), "body": body.decode()}
                with lock:
                    os.write(file, json.dumps(line).encode() + b"\n")
                    os.fsync(file)
                time.sleep(float(pause))
            self.send_response(204 if good else 401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who asks may be killed
    print(f"listening on {server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
