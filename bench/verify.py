"""Whether signatures do arrive: a few messages through each system into a sink that keeps them, checked with dkimpy."""

import base64
from pathlib import Path

import dkim
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from bench import load, postfix, relay
from bench.load import System
from bench.tools import Tools

_SAMPLE = 5


def make_key(path: Path) -> Path:
    """A new RSA-2048 key in a PEM file, for both systems."""
    relay.write_key(path, rsa.generate_private_key(65537, 2048))
    return path


def signatures(tools: Tools, home: Path, key: Path) -> list[str]:
    """What is wrong with the signatures of either system, in words; nothing if all verify."""
    faults: list[str] = []
    record = _record(key)
    home.mkdir()
    dkim_of = (relay.DOMAIN, relay.SELECTOR, key)
    with load.own_sink(home / "sink0") as sink, postfix.started(tools, home / "postfix", sink.port, dkim_of) as mailer:
        faults += _sampled(tools, mailer, sink, record)
    with load.own_sink(home / "sink1") as sink, relay.started(home / "relayd", sink.port, dkim=key) as node:
        faults += _sampled(tools, node, sink, record)
    return faults


def _sampled(tools: Tools, system: System, sink: load.OwnSink, record: bytes) -> list[str]:
    load.run(tools, system, sink, _SAMPLE, 4096, kept=True, signed=True)
    messages = [path.read_bytes() for path in sink.directory.glob("*.eml")]
    good = sum(dkim.verify(message, dnsfunc=lambda *_, **__: record) for message in messages)
    return [] if good == _SAMPLE else [f"{system.name}: {good} of {_SAMPLE} messages have a good signature"]


def _record(key: Path) -> bytes:
    """What DNS would say of the key."""
    private = load_pem_private_key(key.read_bytes(), None)
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
