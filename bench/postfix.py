"""A private Postfix: own configuration, queue and log in one directory, loopback only, started from unpacked packages.

It is set as a careful operator sets a forwarding relay: nothing of its durability, its process limits or its flow
control is touched; DNS is not asked, because the next hop is a number; nothing is delivered locally.
Two doors: ``port``, and ``signing_port`` behind OpenDKIM where a milter is given.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench import processes
from bench.tools import GROUP, USER, Tools

_MAIN = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
daemon_directory = {root}/usr/lib/postfix/sbin
command_directory = {root}/usr/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {root}/etc/postfix
sendmail_path = {root}/usr/sbin/sendmail
newaliases_path = {root}/usr/sbin/sendmail
mailq_path = {root}/usr/sbin/sendmail
mail_owner = {user}
setgid_group = {group}
import_environment = MAIL_CONFIG MAIL_LOGTAG TZ LANG=C LD_LIBRARY_PATH POSTLOG_SERVICE POSTLOG_HOSTNAME
export_environment = TZ LANG LD_LIBRARY_PATH
maillog_file = {home}/mail.log
maillog_file_prefixes = {home}
myhostname = postfix.bench.example
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
mydestination =
local_transport = error:no local mail here
alias_maps =
alias_database =
relayhost = [127.0.0.1]:{next_hop}
smtp_dns_support_level = disabled
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = permit_mynetworks, reject
"""
_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{signing_port} inet n - n - - smtpd
  -o smtpd_milters={milter}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
_OPENDKIM = """\
Domain {domain}
Selector {selector}
KeyFile {key}
Socket inet:{port}@127.0.0.1
Mode s
Canonicalization relaxed/relaxed
OversignHeaders From
Syslog no
"""


class Postfix:
    """A running instance."""

    name = "Postfix"

    def __init__(self, home: Path, port: int, signing_port: int, extra: list[int]) -> None:
        self.home = home
        self.port = port
        self.signing_port = signing_port
        self._pids = [_master(home), *extra]

    def cpu(self) -> float:
        """Microseconds so far; with OpenDKIM where it runs."""
        return sum(map(processes.cpu, self._pids))

    def memory(self) -> float:
        """Megabytes of all its processes now."""
        return sum(map(processes.memory, self._pids))

    def delivered(self) -> int:
        """How many deliveries its log tells of."""
        return (self.home / "mail.log").read_bytes().count(b" status=sent ")


@contextlib.contextmanager
def started(tools: Tools, home: Path, next_hop: int, dkim: tuple[str, str, Path] | None = None) -> Iterator[Postfix]:
    """A fresh instance while the block lasts.  ``dkim``: domain, selector and key file for OpenDKIM."""
    for name in ("etc", "queue", "data"):
        (home / name).mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        milter, extra = "", []
        if dkim:
            milter_port = processes.free_port()
            milter = f"inet:127.0.0.1:{milter_port}"
            extra = [stack.enter_context(_opendkim(tools, home, milter_port, dkim)).pid]
        port, signing_port = processes.free_port(), processes.free_port()
        values = {"home": home, "root": tools.root, "user": USER, "group": GROUP, "next_hop": next_hop}
        (home / "etc/main.cf").write_text(_MAIN.format(**values))
        ports = {"port": port, "signing_port": signing_port, "milter": milter}
        (home / "etc/master.cf").write_text(_MASTER.format(**ports))
        _shown_to(USER, home)
        stack.callback(_stop, tools, home)
        _command(tools, home, "start")
        processes.until(lambda: _master(home) and processes.answers(port), 30, "Postfix starts")
        yield Postfix(home, port, signing_port, extra)


@contextlib.contextmanager
def _opendkim(tools: Tools, home: Path, port: int, dkim: tuple[str, str, Path]) -> Iterator["subprocess.Popen[bytes]"]:
    domain, selector, key = dkim
    (home / "opendkim.conf").write_text(_OPENDKIM.format(domain=domain, selector=selector, key=key, port=port))
    command = [tools.program("opendkim"), "-f", "-x", str(home / "opendkim.conf")]
    with processes.running(command, home / "opendkim.log", tools.environment) as process:
        processes.until(lambda: processes.answers(port), 10, "OpenDKIM starts")
        yield process


def _shown_to(user: str, home: Path) -> None:
    (home / "data").chmod(0o700)
    subprocess.run(["chown", user, str(home / "data")], check=True)


def _command(tools: Tools, home: Path, verb: str) -> None:
    command = [tools.program("postfix"), "-c", str(home / "etc"), verb]
    done = subprocess.run(command, env=tools.environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        log = home / "mail.log"
        said = log.read_text()[-1000:] if log.exists() else ""
        raise processes.Failed(f"postfix {verb}: {done.stderr.strip()[-1000:]}\n{said}")


def _master(home: Path) -> int:
    """The master's process id; 0 before it runs."""
    try:
        return int((home / "queue/pid/master.pid").read_text())
    except (OSError, ValueError):
        return 0


def _stop(tools: Tools, home: Path) -> None:
    pid = _master(home)
    members = processes.family(pid) if pid else []
    with contextlib.suppress(processes.Failed, subprocess.TimeoutExpired):
        _command(tools, home, "abort")
    for member in members:
        with contextlib.suppress(OSError):
            # Only those that still run these programs: a number may be somebody else's by now.
            if os.readlink(f"/proc/{member}/exe").startswith(str(tools.root)):
                os.kill(member, signal.SIGKILL)
