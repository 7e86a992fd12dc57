"""The peers: each mail server with the configuration that tests need, every variant on a port of its own.

All of them take mail of the ``USERS`` at every domain into Maildirs, one for each user.  Exim and OpenSMTPD refuse
``later...`` for now.
"""

import os
from pathlib import Path

from tests.e2e.relay import free_port

from .authority import Authority
from .machine import INSIDE, MAIL, UIDS, Machine

NAME = "mx.peer.example"
USERS = [f"u{n}" for n in range(100)]
FULL = 20_000  # bytes that those variants take which take little

# The doors of Postfix: what differs from the plain one.
POSTFIX: dict[str, dict[str, object]] = {
    "plain": {},
    "clear": {"smtpd_tls_security_level": "none"},
    "required": {"smtpd_tls_security_level": "encrypt"},
    "seven": {"smtpd_discard_ehlo_keywords": "8bitmime"},
    "ascii": {"smtputf8_enable": "no"},
    "plodding": {"smtpd_discard_ehlo_keywords": "pipelining"},
    "small": {"message_size_limit": FULL},
    "silent": {"message_size_limit": FULL, "smtpd_discard_ehlo_keywords": "size"},
    "reportless": {"smtpd_discard_ehlo_keywords": "dsn"},
    "two": {"smtpd_client_connection_count_limit": 2},
    # A process for each connection: each reads anew what is refused.
    "moody": {"smtpd_recipient_restrictions": f"check_recipient_access,texthash:{INSIDE}/moods", "max_use": 1},
}

_MAIN = f"""
compatibility_level = 3.6
myhostname = {NAME}
mydestination =
mynetworks =
inet_protocols = ipv4
maillog_file = {INSIDE}/maillog
maillog_file_prefixes = {INSIDE}
alias_maps =
alias_database =
local_recipient_maps =
virtual_mailbox_domains = regexp:{INSIDE}/domains
virtual_mailbox_maps = regexp:{INSIDE}/boxes
virtual_mailbox_base = {INSIDE}/mail
virtual_mailbox_limit = 0
virtual_uid_maps = static:{UIDS}
virtual_gid_maps = static:{UIDS}
message_size_limit = 20000000
smtpd_tls_security_level = may
smtpd_tls_chain_files = {INSIDE}/{NAME}.key, {INSIDE}/{NAME}.pem
smtpd_tls_received_header = yes
smtpd_client_event_limit_exceptions =
smtputf8_enable = yes
smtpd_error_sleep_time = 0
"""

_MASTER = """
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
proxymap  unix  - - n - - proxymap
error     unix  - - n - - error
retry     unix  - - n - - error
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""

_POSTFIX = f"""
cp {INSIDE}/main.cf {INSIDE}/master.cf /etc/postfix/
groupadd -f -g {UIDS + 50} postdrop
mkdir -p /var/spool/postfix /var/lib/postfix
chown postfix /var/lib/postfix
exec postfix start-fg
"""


class Postfix(Machine):
    """``port`` by the names of ``POSTFIX``, and "grey", which asks the policy service at the port ``policy``."""

    def __init__(self, home: Path, authority: Authority, policy: int) -> None:
        home.mkdir()
        asks = {"smtpd_recipient_restrictions": f"check_policy_service,inet:127.0.0.1:{policy}"}
        doors = POSTFIX | {"grey": asks}
        self.port = _ports(*doors)
        master = [_MASTER]
        for name, port in self.port.items():
            options = "".join(f"  -o {key}={value}\n" for key, value in doors[name].items())
            master.append(f"127.0.0.1:{port} inet n - n - - smtpd\n{options}")
        authority.sign(home, NAME)
        super().__init__(
            home,
            "postfix",
            users=("postfix",),
            files={
                "main.cf": _MAIN,
                "master.cf": "".join(master),
                "domains": "/./ any\n",
                "boxes": "".join(f"/^{user}@/ {user}/\n" for user in USERS),
                "moods": "",
            },
            start=_POSTFIX,
        )
        self.listens(*self.port.values())

    def moods(self, **replies: str) -> None:
        """What "moody" answers to the recipients of these domains (".example" is added)."""
        lines = "".join(f"{domain}.example {reply}\n" for domain, reply in replies.items())
        fresh = self.home / "moods.new"
        fresh.write_text(lines)
        os.utime(fresh, (0, 0))  # a file that was written just now Postfix waits for to cool down
        fresh.rename(self.home / "moods")

    def maillog(self) -> str:
        file = self.home / "maillog"
        return file.read_text("utf-8", "replace") if file.exists() else ""


class Postgrey(Machine):
    """A policy service: a triplet of client address, sender and recipient may pass after ``delay`` s."""

    def __init__(self, home: Path, port: int, delay: int) -> None:
        self.port = port
        home.mkdir()
        start = f"mkdir {INSIDE}/db; chown postgrey {INSIDE}/db; exec postgrey --inet=127.0.0.1:{port} --delay={delay} "
        start += f"--lookup-by-host --auto-whitelist-clients=0 --dbdir={INSIDE}/db --pidfile=/run/postgrey.pid"
        super().__init__(home, "postgrey", users=("postgrey",), files={}, start=start)
        self.listens(self.port)


_EXIM = f"""
primary_hostname = {NAME}
local_interfaces = 127.0.0.1
daemon_smtp_ports = PORT
log_file_path = {INSIDE}/exim-%slog
tls_advertise_hosts = *
tls_certificate = {INSIDE}/{NAME}.pem
tls_privatekey = {INSIDE}/{NAME}.key
dsn_advertise_hosts = *
chunking_advertise_hosts = *
message_size_limit = 20M
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = recipient
acl_smtp_data = content
rfc1413_query_timeout = 0s
host_lookup =
begin acl
recipient:
  defer local_parts = ^later
        message = 4.2.1 come back later
  deny  !local_parts = lsearch;{INSIDE}/users
        message = 5.1.1 no such mailbox here
  accept
content:
  accept
begin routers
everyone:
  driver = accept
  local_parts = lsearch;{INSIDE}/users
  transport = store
begin transports
store:
  driver = appendfile
  maildir_format
  directory = {INSIDE}/mail/$local_part_data
  create_directory
  return_path_add
  user = {MAIL}
  group = {MAIL}
"""

_START_EXIM = f"""
mkdir -p /etc/exim4 /var/spool/exim4
cp {INSIDE}/exim.conf /etc/exim4/exim4.conf
chown -R Debian-exim:Debian-exim /var/spool/exim4
touch {INSIDE}/exim-mainlog {INSIDE}/exim-paniclog {INSIDE}/exim-rejectlog
chown Debian-exim {INSIDE}/exim-*log
chmod 644 {INSIDE}/{NAME}.key
exec exim4 -bdf
"""


class Exim(Machine):
    """Offers TLS, DSN, CHUNKING, PIPELINING at ``port``."""

    def __init__(self, home: Path, authority: Authority) -> None:
        self.port = free_port("127.0.0.1")
        home.mkdir()
        authority.sign(home, NAME)
        files = {"exim.conf": _EXIM.replace("PORT", str(self.port)), "users": "".join(f"{u}: {u}\n" for u in USERS)}
        super().__init__(home, "exim4-daemon-light", users=("Debian-exim",), files=files, start=_START_EXIM)
        self.listens(self.port)


_OPENSMTPD = f"""
pki peer cert "{INSIDE}/{NAME}.pem"
pki peer key "{INSIDE}/{NAME}.key"
smtp max-message-size 20M
table boxes file:{INSIDE}/boxes
filter later phase rcpt-to match rcpt-to regex {{ "^later" }} reject "451 4.2.1 come back later"
listen on 127.0.0.1 port PORT tls pki peer hostname {NAME} filter later
action store maildir "{INSIDE}/mail/%{{rcpt.user}}" virtual <boxes>
match from any for any action store
"""

_START_OPENSMTPD = f"""
mkdir -p /var/lib/opensmtpd/empty /run/opensmtpd /var/spool
chmod 600 {INSIDE}/{NAME}.key {INSIDE}/smtpd.conf
exec smtpd -d -f {INSIDE}/smtpd.conf
"""


class OpenSMTPD(Machine):
    """Offers TLS, DSN, but no PIPELINING, at ``port``."""

    def __init__(self, home: Path, authority: Authority) -> None:
        self.port = free_port("127.0.0.1")
        home.mkdir()
        authority.sign(home, NAME)
        boxes = "".join(f"{user}: {MAIL}\n" for user in USERS)
        files = {"smtpd.conf": _OPENSMTPD.replace("PORT", str(self.port)), "boxes": boxes}
        super().__init__(home, "opensmtpd", users=("opensmtpd", "opensmtpq"), files=files, start=_START_OPENSMTPD)
        self.listens(self.port)


def _ports(*names: str) -> dict[str, int]:
    ports: set[int] = set()
    while len(ports) < len(names):
        ports.add(free_port("127.0.0.1"))
    return dict(zip(names, sorted(ports), strict=True))
