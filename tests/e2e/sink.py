"""A recording mail server as a process: ``python sink.py DIRECTORY [--utf8] [--hold FILE] [--moody] ADDRESS:PORT ...``.

All addresses share the port of the first (0: one of the system's choice); prints ``listening on ADDRESS:PORT``.  What
comes is written before it is answered: its content (up to 20 MB) to DIRECTORY/contents, then a line of JSON to
DIRECTORY/messages: time, peer, ehlo, mail, rcpt, recipients, size, the X-Test field, where its content is, and the
hash of all from the From field on, which is what the client sent if the relay only added fields in front.
``--utf8`` offers SMTPUTF8; ``--hold FILE`` answers no final dot while FILE exists; ``--moody`` goes by the last digit
of the recipient's local part: 3 is unknown, 5 is greylisted once, at 7 the first final dot ends the connection.
Of the standard library only.
"""

import argparse
import asyncio
import hashlib
import json
import os
import re
import time
from pathlib import Path

KEPT = 20 << 20
_TEST = re.compile(rb"^X-Test: ([^\r\n]+)", re.MULTILINE)
_ADDRESS = re.compile(r"<([^>]*)>")


class Recorder:
    """The two files, and whom moods have met."""

    def __init__(self, directory: Path) -> None:
        self._lines = open(directory / "messages", "ab", 0)  # noqa: SIM115
        self._contents = open(directory / "contents", "ab", 0)  # noqa: SIM115
        self._at = self._contents.tell()
        self.met: set[str] = set()

    def keep(self, found: dict[str, object], content: bytes) -> None:
        test = _TEST.search(content[:4096])
        view = memoryview(content if len(content) <= KEPT else b"")
        written = len(view)
        while view:
            view = view[self._contents.write(view) :]
        found |= {
            "time": time.time(),
            "size": len(content),
            "sha256": hashlib.sha256(memoryview(content)[max(0, content.find(b"From: <")) :]).hexdigest(),
            "test": test[1].decode() if test else "",
            "at": self._at,
        }
        self._at += written
        self._lines.write(json.dumps(found).encode() + b"\n")


class Session(asyncio.Protocol):
    def __init__(self, recorder: Recorder, options: argparse.Namespace) -> None:
        self._recorder = recorder
        self._options = options
        self._buffer = bytearray()
        self._looked = 0
        self._data = False
        self._ehlo = ""
        self._reset()

    def _reset(self) -> None:
        self._mail = ""
        self._rcpt: list[str] = []
        self._recipients: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._transport.write(b"220 sink.example ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._step():
            pass

    def _step(self) -> bool:
        """Takes one line, or one whole content; False if it is not all there."""
        if self._data:
            return self._content()
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line = self._buffer[:end].decode("utf-8", "replace")
        del self._buffer[: end + 2]
        self._transport.write(self._command(line))
        return True

    def _command(self, line: str) -> bytes:
        verb = line[:4].upper()
        if verb == "EHLO":
            self._ehlo = line[5:]
            more = b"250-SMTPUTF8\r\n" if self._options.utf8 else b""
            return b"250-sink.example\r\n250-PIPELINING\r\n250-SIZE 0\r\n250-8BITMIME\r\n" + more + b"250 DSN\r\n"
        if verb == "MAIL":
            self._mail = line
        elif verb == "RCPT":
            self._rcpt.append(line)
            return self._recipient(_ADDRESS.findall(line)[0])
        elif verb == "DATA" and not self._recipients:
            return b"554 5.5.1 no recipients\r\n"
        elif verb == "DATA":
            self._data = True
            return b"354 go ahead\r\n"
        elif verb == "RSET":
            self._reset()
        elif verb == "QUIT":
            asyncio.get_running_loop().call_soon(self._transport.close)
            return b"221 bye\r\n"
        return b"250 2.0.0 ok\r\n"

    def _recipient(self, address: str) -> bytes:
        if self._options.moody and "3@" in address:
            return b"550 5.1.1 no such user\r\n"
        if self._options.moody and "5@" in address and self._first(address):
            return b"451 4.7.1 greylisted\r\n"
        self._recipients.append(address)
        return b"250 2.1.5 ok\r\n"

    def _first(self, address: str) -> bool:
        first = address not in self._recorder.met
        self._recorder.met.add(address)
        return first

    def _content(self) -> bool:
        if self._buffer.startswith(b".\r\n"):
            end = -2
        else:
            end = self._buffer.find(b"\r\n.\r\n", max(0, self._looked - 4))
            self._looked = len(self._buffer)
            if end < 0:
                return False
        content = bytes(self._buffer[: end + 2])
        del self._buffer[: end + 5]
        self._looked = 0
        self._data = False
        if b"\r\n.." in content:
            content = content.replace(b"\r\n..", b"\r\n.")
        self._record(content[1:] if content.startswith(b"..") else content)
        return True

    def _record(self, content: bytes) -> None:
        found = {
            "peer": self._transport.get_extra_info("peername")[0],
            "local": self._transport.get_extra_info("sockname")[0],
            "ehlo": self._ehlo,
            "mail": self._mail,
            "rcpt": self._rcpt,
            "recipients": self._recipients,
        }
        self._recorder.keep(found, content)
        if self._options.moody and any("7@" in to and self._first(to) for to in self._recipients):
            self._transport.abort()
        self._reset()
        self._answer()

    def _answer(self) -> None:
        if self._options.hold and os.path.exists(self._options.hold):
            asyncio.get_running_loop().call_later(0.02, self._answer)
        elif not self._transport.is_closing():
            self._transport.write(b"250 2.0.0 taken\r\n")


async def main(options: argparse.Namespace) -> None:
    recorder = Recorder(Path(options.directory))
    loop = asyncio.get_running_loop()
    said = ""
    port = 0
    servers = []
    for address in options.addresses:
        host, _, wanted = address.rpartition(":")
        server = await loop.create_server(lambda: Session(recorder, options), host, port or int(wanted), backlog=1000)
        port = server.sockets[0].getsockname()[1]
        said = said or f"{host}:{port}"
        servers.append(server)
    print(f"listening on {said}", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("addresses", nargs="+")
    parser.add_argument("--utf8", action="store_true")
    parser.add_argument("--hold", default="")
    parser.add_argument("--moody", action="store_true")
    asyncio.run(main(parser.parse_args()))
