"""The clients: for each, the recipe of ``docs/clients.md`` that it runs and what is particular to it.

A recipe is called with the addresses TO, COPY and HIDDEN.  It writes the letter itself or, where it does not compose,
is given it.  A recipe that is only settings of a CRM is read by a file of ``hosts`` that sends as that CRM does.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from functools import cache
from pathlib import Path

import pytest

from tests.e2e.relay import ROOT

HERE = Path(__file__).parent
BUILT = ROOT / "build" / "clients"

NAME = "Отдел продаж"
SUBJECT = "Счёт № 42 за апрель: оплатите, пожалуйста, до пятницы"
TEXT = "Здравствуйте!\n.\nСчёт во вложении.\n"
FILE, TABLE = "счёт.csv", "Итого;42\n"


@dataclass(frozen=True)
class Client:
    """``command`` runs it; ``probe`` ends with 0 where it is installed.  ``smtps``: it can speak TLS at once on any
    port.  ``tells_id``: it shows the queue id.  ``dsn``: what it asks for, as the next server is to hear it.
    ``login_failed``: what its user reads then.  ``temporary``: its exit code for a 4xx.  ``spares``: when one recipient
    is refused, the others get the letter."""

    name: str
    command: tuple[str, ...]
    probe: tuple[str, ...]
    composes: bool = True
    smtps: bool = True
    tells_id: bool = True
    dsn: tuple[str, ...] = ()
    login_failed: str = "535 5.7.8 Incorrect login or password"
    temporary: int = 75
    spares: bool = False


_MAILER = ("php", "-r", "require 'libphp-phpmailer/autoload.php';")
_WORDPRESS = ("php", "-r", "require getenv('WORDPRESS') . '/wp-includes/version.php';")
_NODEMAILER = ("node", "-e", "require('nodemailer')")
_PERL = ("perl", "-MNet::SMTP", "-MIO::Socket::SSL", "-MAuthen::SASL", "-e1")
_RUBY = ("ruby", "-rnet/smtp", "-e1")
_JAVA = (
    "java",
    "-XX:TieredStopAtLevel=1",
    "-cp",
    "/usr/share/java/jakarta-mail.jar:/usr/share/java/jakarta-activation.jar",
)
_SILENT = "SMTP connect() failed"  # PHPMailer, where it does not throw
_NOTIFY = "NOTIFY=FAILURE,DELAY"
_BOTH = (_NOTIFY, "RET=HDRS")

CLIENTS = [
    Client("smtplib", (sys.executable, "recipes/python_smtplib.py"), (sys.executable, "-c0"), dsn=_BOTH, spares=True),
    Client("PHPMailer", ("php", "recipes/phpmailer.php"), _MAILER, dsn=(_NOTIFY,), spares=True),
    Client("WordPress", ("php", "hosts/wordpress.php"), _WORDPRESS, tells_id=False, temporary=1, spares=True),
    Client(
        "Moodle", ("php", "hosts/moodle.php"), _MAILER, tells_id=False, temporary=1, spares=True, login_failed=_SILENT
    ),
    Client(
        "Bitrix",
        ("php", "hosts/bitrix.php"),
        _MAILER,
        tells_id=False,
        temporary=1,
        spares=True,
        login_failed=_SILENT,
        smtps=False,
    ),
    Client("nodemailer", ("node", "recipes/nodemailer.js"), _NODEMAILER, dsn=_BOTH, spares=True),
    Client("Perl Net::SMTP", ("perl", "recipes/perl_net_smtp.pl"), _PERL, composes=False, dsn=_BOTH),
    Client("Ruby net-smtp", ("ruby", "recipes/ruby_net_smtp.rb"), _RUBY, composes=False, dsn=_BOTH),
    Client("Ruby mail", ("ruby", "recipes/ruby_mail.rb"), ("ruby", "-rmail", "-e1")),
    Client("msmtp", ("sh", "recipes/msmtp.sh"), ("msmtp", "--version"), composes=False, dsn=_BOTH),
    Client("curl", ("sh", "recipes/curl.sh"), ("curl", "--version"), composes=False),
    Client("swaks", ("sh", "recipes/swaks.sh"), ("swaks", "--version"), composes=False, temporary=23, spares=True),
    Client("Jakarta Mail", (*_JAVA, "recipes/JakartaMail.java"), (*_JAVA, "hosts/Probe.java"), dsn=_BOTH),
]


def environment(**more: str) -> dict[str, str]:
    """A client's: nothing of ours but the way to its libraries."""
    given = {"NODE_PATH": str(BUILT / "node_modules"), "WORDPRESS": str(BUILT / "wordpress")}
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **given, **more}


@cache
def missing(probe: tuple[str, ...]) -> str:
    """Why a client cannot be had here, "" if it can."""
    try:
        done = subprocess.run(probe, cwd=HERE, env=environment(), capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return f"there is no {probe[0]}"
    return (done.stderr or done.stdout).strip()[-200:] or "not here" if done.returncode else ""


def letter(author: str, to: str, copy: str, hidden: str) -> bytes:
    """The letter as recipes write it, in 8 bits and with the line ends of a file."""
    made = EmailMessage(policy=SMTP.clone(cte_type="8bit", linesep="\n"))
    made["From"] = Address(NAME, addr_spec=author)
    made["To"], made["Cc"], made["Bcc"] = to, copy, hidden
    made["Subject"] = SUBJECT
    made.set_content(TEXT, cte="8bit")
    made.add_attachment(TABLE, subtype="csv", filename=FILE)
    return bytes(made)


def each(*, given: bool = False) -> pytest.MarkDecorator:
    """Runs a test with every client; ``given``: with those that are given the letter."""
    fit = [client for client in CLIENTS if not (given and client.composes)]
    return pytest.mark.parametrize("client", fit, ids=lambda client: client.name)
