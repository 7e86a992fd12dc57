"""The pack of rules that relayd brings: it loads, each rule meets what it is for and nothing like it, and on real
replies it stops nobody for a mailbox that is not there.

The samples are of our own writing, after what the providers publish.  Real ones are other people's: they are read where
RELAYD_CORPORA or ../shared/corpora has them.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd import config
from relayd.shaping.reactions import Reactions
from relayd.shaping.rules import Providers, Rules, Seen

ROOT = Path(__file__).parent.parent
PACK = ROOT / "etc" / "relayd" / "shaping.d"
FILES = sorted(PACK.glob("*.toml"))
PROVIDERS, RULES = config.load_rules([(str(file), file.read_text("utf-8")) for file in FILES], {})
ALL = Rules(RULES.values())

# Rule: replies that fire it, and near misses that do not ("code enhanced text", "-" for no enhanced code).
SAMPLES: dict[str, tuple[list[str], list[str]]] = {
    "too-many-connections": (
        [
            "421 4.7.0 mx.a.example Error: too many connections from 192.0.2.1",
            "421 - Too many concurrent SMTP sessions",
        ],
        ["452 4.5.3 Error: too many recipients", "421 4.4.2 Error: timeout exceeded"],
    ),
    "too-fast": (
        ["451 4.7.1 You are sending too fast, wait", "450 - 192.0.2.10 has exceeded the hourly rate limit"],
        ["450 4.2.1 This mailbox receives mail too quickly now", "550 5.7.1 rate limited for good"],
    ),
    "greylisting": (
        ["450 4.2.0 <a@a.example>: Recipient address rejected: Greylisted", "451 - gray-listing in action"],
        ["550 5.7.1 greylist says never", "450 4.2.0 Mailbox is busy"],
    ),
    "blocklist": (
        ["554 5.7.1 Service unavailable; Client host [192.0.2.10] blocked using dnsbl.example; see dnsbl.example/q"],
        ["550 5.7.1 The recipient has blocked you", "554 5.7.1 blocked using content filter"],
    ),
    "blocklisted-address": (
        ["550 - Your IP address 192.0.2.10 is blacklisted here", "421 4.7.0 client IP is on our block list"],
        ["550 5.7.1 the sender's domain is blacklisted", "550 5.1.1 address a@a.example is not listed"],
    ),
    "blocklist-page": (
        ["550 5.7.1 see https://www.spamhaus.org/query/ip/192.0.2.10", "553 - http://spamhaus.org/sbl?192.0.2.10"],
        ["550 5.7.1 domain listed, see https://www.spamhaus.org/query/dbl?domain=a.example"],
    ),
    "no-reverse-dns": (
        [
            "450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.10]",
            "554 5.7.1 your server must have a PTR record",
        ],
        ["450 4.1.8 Sender address rejected: Domain not found", "550 5.1.2 no such host"],
    ),
    "gmail-address-rate": (
        [
            "421 4.7.28 [192.0.2.10] Gmail has detected an unusual rate of\nunsolicited email originating from your IP "
            "address. Mail sent from your IP address has been temporarily\nrate limited - gsmtp"
        ],
        ["421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating from your SPF domain"],
    ),
    "gmail-address-rate-again": (
        ["421 4.7.0 an unusual rate of unsolicited mail originating from your IP address"],
        ["421 4.7.0 an unusual rate of mail"],
    ),
    "gmail-domain-rate": (
        [
            "421 4.7.28 an unusual rate of unsolicited mail originating from your DKIM domain",
            "421 4.7.28 an unusual rate of unsolicited email containing one of your URL domains",
        ],
        ["421 4.7.28 an unusual rate of unsolicited mail originating from your IP address"],
    ),
    "gmail-address-blocked": (
        ["550 5.7.28 unusual rate of unsolicited mail. Mail sent from your IP address has been blocked."],
        ["421 4.7.28 mail sent from your IP address has been temporarily rate limited"],
    ),
    "gmail-address-reputation": (
        ["421 4.7.0 this message is suspicious due to the very low reputation of the sending IP address"],
        ["421 4.7.0 this message is suspicious due to the nature of the content"],
    ),
    "gmail-domain-reputation": (
        ["550 5.7.1 likely suspicious due to the very low reputation of the sending domain"],
        ["550 5.7.26 This mail is unauthenticated"],
    ),
    "gmail-unauthenticated": (
        ["421 4.7.26 This mail has been rate limited because it is unauthenticated"],
        ["550 5.7.26 This mail has been blocked because the sender is unauthenticated"],
    ),
    "gmail-mailbox-rate": (
        ["450 4.2.1 The user you are trying to contact is receiving email too quickly"],
        ["450 4.2.1 The user is over quota", "550 5.2.1 The account is inactive"],
    ),
    "gmail-busy": (
        ["421 4.7.0 Try again later, closing connection.", "421 4.4.5 Server busy, try again later."],
        ["421 4.3.0 Temporary System Problem."],
    ),
    "outlook-rate": (
        [
            "451 4.7.651 The mail server [192.0.2.10] has been temporarily rate limited due to IP reputation. (S3114)",
            "421 - RP-001 (X) some messages weren't sent: we have limits for how many messages",
        ],
        ["451 4.7.0 Temporary server error. Please try again later."],
    ),
    "outlook-rate-again": (
        ["451 4.7.650 The mail server [192.0.2.10] has been temporarily rate limited due to IP reputation. (S775)"],
        ["451 4.4.0 Message failed to be replicated"],
    ),
    "outlook-connections": (
        [
            "421 - RP-003 too many connections are open",
            "451 4.7.652 it exceeded the maximum number of connections",
        ],
        ["421 - RP-001 limits for messages"],
    ),
    "outlook-blocked": (
        ["550 5.7.1 Unfortunately, messages from [192.0.2.10] weren't sent. Part of their network is listed (S3150)."],
        ["550 5.5.0 Requested action not taken: mailbox unavailable"],
    ),
    "microsoft365-busy": (
        ["451 4.7.500 Server busy. Please try again later from [192.0.2.10]. (AS77712)"],
        ["451 4.7.0 Temporary server error. Please try again later. PRX4"],
    ),
    "microsoft365-rate": (
        ["451 4.7.650 The mail server [192.0.2.10] has been temporarily rate limited due to IP reputation."],
        ["451 4.4.4 Mail received as unauthenticated"],
    ),
    "microsoft365-connections": (
        ["421 4.3.2 The maximum number of concurrent connections per forest has exceeded a limit, closing"],
        ["421 4.3.2 Service not available, closing transmission channel"],
    ),
    "microsoft365-banned": (
        ["550 5.7.606 Access denied, banned sending IP [192.0.2.10]", "550 5.7.511 Access denied, banned sender"],
        [
            "550 5.4.1 [a@a.example]: Recipient address rejected: Access denied",
            "550 5.7.509 Access denied, no DMARC",
        ],
    ),
    "microsoft365-blocklist": (
        ["550 5.7.1 Service unavailable, Client host [192.0.2.10] blocked using Spamhaus. (AS160)"],
        ["550 5.7.1 Service unavailable, MailFrom domain is listed in Spamhaus."],
    ),
    "yahoo-deferred": (
        [
            "421 4.7.0 [TSS04] Messages from 192.0.2.10 temporarily deferred due to unexpected volume",
            "421 - [IPTS05] Messages deferred",
            "421 4.7.0 [GL01] Message from (192.0.2.10) temporarily deferred",
        ],
        ["421 - Service not available, closing transmission channel"],
    ),
    "yahoo-deferred-again": (
        ["421 4.7.0 [TS02] Messages deferred"],
        ["421 4.7.0 temporarily deferred"],
    ),
    "yahoo-address-refused": (
        ["421 4.7.1 [TS03] All messages from 192.0.2.10 will be permanently deferred"],
        ["421 4.7.0 [TSS04] Messages from 192.0.2.10 temporarily deferred"],
    ),
    "yahoo-blocklist": (
        ["553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.10, because the ip is in Spamhaus's list"],
        ["554 5.7.9 Message not accepted for policy reasons", "553 5.3.5 system config error"],
    ),
    "yahoo-mailbox-rate": (["450 - User is receiving mail too quickly"], ["452 - User is over quota"]),
    "mailru-later": (
        ["421 - Try again later (192.0.2.10). Please contact abuse@corp.mail.ru."],
        ["451 - Try again later, the mailbox is busy"],
    ),
    "mailru-later-again": (
        ["451 - Try again later. Please contact abuse@corp.mail.ru."],
        ["550 - spam. Contact abuse@corp.mail.ru"],
    ),
    "mailru-spam": (
        ["550 - spam message rejected. Please visit http://help.mail.ru/notspam-support/id?c=x for help"],
        ["550 - Message was not accepted -- invalid mailbox. Local mailbox a@mail.ru is unavailable: user not found"],
    ),
    "yandex-later": (
        ["451 4.7.1 Sorry, the service is currently unavailable. Please come back later. 8ohq-x"],
        ["451 4.5.1 The recipient has exceeded message rate limit."],
    ),
    "yandex-blocked": (
        [
            "554 5.7.1 Client host [192.0.2.10] blocked using a list",
            "550 5.7.1 Blocked by spam statistics - see x",
        ],
        ["550 5.7.1 No such user!", "550 5.7.1 Policy rejection on the target address"],
    ),
    "yandex-spam": (
        ["554 5.7.1 [2] Message rejected under suspicion of SPAM; https://ya.example/1"],
        ["554 5.7.1 Message infected by virus"],
    ),
    "rambler-rate": (["452 4.5.3 rate limit exceeded"], ["452 4.2.2 quota exceeded"]),
    "icloud-mailbox-rate": (
        ["421 4.7.1 Messages to a@icloud.com deferred due to excessive volume. Try again later"],
        ["450 4.2.2 a@icloud.com: user is overquota"],
    ),
    "icloud-busy": (["451 4.7.1 Service unavailable - try again later"], ["451 4.3.0 queue file write error"]),
    "icloud-refused": (
        ["554 - p00-smtpin001.me.com ESMTP not accepting connections", "421 4.7.0 p00.me.com Error: too many errors"],
        ["554 5.7.1 <a@a.example>: Relay access denied"],
    ),
    "icloud-policy": (
        ["554 5.7.1 [CS02] Message rejected due to local policy", "550 5.7.1 [HM08] Message rejected"],
        ["550 5.7.1 Your message was rejected due to a.example's DMARC policy"],
    ),
    "gmx-rate": (
        [
            "421 - web.de (mxweb001) Nemesis ESMTP Service not available\nService unavailable\nReject due to policy "
            "restrictions\nToo many messages have been received in a short period of time",
            "421 - Rate limit reached. Please try again later",
        ],
        ["450 - Requested mail action not taken: mailbox unavailable"],
    ),
    "gmx-rate-again": (["450 - Rate limit reached"], ["421 - Service closing transmission channel - command timeout"]),
    "gmx-violations": (
        ["421 - Reject due to policy violations"],
        ["550 - Reject due to policy restrictions (header based)"],
    ),
    "gmx-blocked": (
        [
            "554 - gmx.net (mxgmx001) Nemesis ESMTP Service not there\nNo SMTP service\nIP address is block listed.",
            "550 - Reject due to policy restrictions (IP based)",
        ],
        ["550 - Reject due to SPF policy. The originating IP of the message is not permitted by the domain owner"],
    ),
    "gmx-name": (["554 - No SMTP service\nBad DNS PTR resource record."], ["550 - mailbox unavailable"]),
    "orange-connections": (
        ["421 - mwinf5c01 ME Trop de connexions, verifiez. Too many connections, slow down. OFR004_104 [104]"],
        ["421 4.4.2 timeout"],
    ),
    "orange-refused": (
        ["421 - mwinf5c01 ME Service refuse. Service refused, please try later. OFR_109 [109]"],
        ["421 - mwinf5c01 ME Trop de connexions. Too many connections, slow down. OFR_104 [104]"],
    ),
    "orange-blocked": (
        ["550 5.2.0 mwinf5c01 ME Adresse IP source bloquee. Client host blocked for spamming issues. OFR006_102 [102]"],
        ["550 5.1.1 Adresse d au moins un destinataire invalide. Invalid recipient. OFR_416 [416]"],
    ),
    "libero-blocked": (
        ["550 - smtp-01.iol.local smtp-01.iol.local IP blacklisted by CSI. [smtp-01.iol.local; LIB_102]"],
        ["550 - RCPT TO a@libero.it mailbox unknown"],
    ),
}


def said(sample: str, provider: str, **more: Any) -> Seen:
    code, enhanced, text = sample.split(" ", 2)
    values: dict[str, Any] = {"group": provider or "site", "domain": "a.example", "source": "t1", "account": "crm"}
    values |= {"mx": "mx.a.example", "stage": "rcpt", "time": 1.7e9, **more}
    return Seen(provider=provider, code=int(code), enhanced=enhanced.strip("-"), text=text, **values)


def test_every_file_is_of_one_provider_or_of_all():
    assert len(FILES) == 11 and {rule.provider for rule in RULES.values()} - {""} == set(PROVIDERS)
    for file in FILES:
        providers, rules = config.load_rules([(str(file), file.read_text("utf-8"))], {})
        assert (not providers) == (file.name == "general.toml")
        assert {rule.provider for rule in rules.values()} == (set(providers) or {""}), file.name


def test_the_pack_loads_beside_a_configuration_and_that_overrides_it_key_by_key(tmp_path):
    (tmp_path / "shaping.d").symlink_to(PACK)
    (tmp_path / "relayd.toml").write_text(
        '[node]\nname = "mx1.relay.example"\nspool = "spool"\ncontrol = "c.sock"\n'
        "[reaction.gmail-busy]\nconnections = 9\n[reaction.greylisting]\nenabled = false\n"
    )
    loaded = config.load(tmp_path / "relayd.toml")
    assert set(loaded.reaction) == set(RULES) and set(loaded.provider) == set(PROVIDERS)
    changed = {name for name, rule in loaded.reaction.items() if rule != RULES[name]}
    assert changed == {"gmail-busy", "greylisting"}
    assert (loaded.reaction["gmail-busy"].limits.connections, loaded.reaction["gmail-busy"].duration) == (9, 900)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_every_rule_says_where_it_is_from_and_is_conservative(rule):
    assert re.fullmatch(r"https://\S+", rule.origin)
    assert rule.codes and rule.text and rule.enabled and rule.on != "source"
    assert rule.duration <= 6 * 3600 and rule.action != "bounce"
    # A 5yz that is about us must not bounce the mail of others while the path is suspended.
    assert rule.action != "suspend" or rule.defer or not any(code.startswith("5") for code in rule.codes)


def test_every_rule_has_samples():
    assert set(SAMPLES) == set(RULES)
    assert all(fires and misses for fires, misses in SAMPLES.values())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_rule_meets_what_it_is_for_and_nothing_like_it(name):
    fires, misses = SAMPLES[name]
    provider = RULES[name].provider
    for sample in fires:
        assert name in [rule.name for rule in ALL.matching(said(sample, provider))], sample
    for sample in misses:
        assert name not in [rule.name for rule in ALL.matching(said(sample, provider))], sample


@pytest.mark.parametrize("name", SAMPLES)
def test_a_rule_acts_on_its_samples_as_often_as_it_asks_for(name):
    rule = RULES[name]
    reactions = Reactions(Rules([rule]))
    needed = rule.after.count if rule.after else 1
    for n in range(needed):
        verdict = reactions.seen(said(SAMPLES[name][0][0], rule.provider, time=1.7e9 + n))
        acted = bool(verdict.began) or verdict.keep
        assert acted == (n == needed - 1)


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("gmail-smtp-in.l.google.com", "gmail"),
        ("aspmx2.googlemail.com", "gmail"),
        ("hotmail-com.olc.protection.outlook.com", "outlook"),
        ("crm-example.mail.protection.outlook.com", "microsoft365"),
        ("crm-example.a-v1.mx.microsoft", "microsoft365"),
        ("mta7.am0.yahoodns.net", "yahoo"),
        ("mx-aol.mail.gm0.yahoodns.net", "yahoo"),
        ("mxs.mail.ru", "mailru"),
        ("emx.mail.ru", "mailru"),
        ("mx.yandex.ru", "yandex"),
        ("mx.yandex.net", "yandex"),
        ("inmx.rambler.ru", "rambler"),
        ("mx01.mail.icloud.com", "icloud"),
        ("mx00.gmx.net", "gmx"),
        ("mx-ha02.web.de", "gmx"),
        ("smtp-in.orange.fr", "orange"),
        ("smtp-in.libero.it", "libero"),
        ("smtp-in.virgilio.it", "libero"),
        ("mx.google.com.example", ""),
    ],
)
def test_the_hosts_of_a_provider_are_its_own(host, provider):
    assert Providers({name: table.match for name, table in PROVIDERS.items()}).of(host) == provider


# Real replies.

CORPORA = Path(os.environ.get("RELAYD_CORPORA") or ROOT.parent / "shared" / "corpora") / "replies.jsonl"
OURS = {
    "google": ["gmail"],
    "microsoft": ["outlook", "microsoft365"],
    "yahoo": ["yahoo"],
    "mail.ru": ["mailru"],
    "yandex": ["yandex"],
    "rambler": ["rambler"],
    "apple": ["icloud"],
    "gmx/web.de": ["gmx"],
    "orange": ["orange"],
}


def replies() -> Iterator[tuple[dict[str, Any], list[Seen]]]:
    """Each row, and its reply as each of the providers that it may be of would have said it."""
    if not CORPORA.exists():
        pytest.skip(f"{CORPORA} is not here: RELAYD_CORPORA names the folder of real replies")
    for line in CORPORA.read_text("utf-8").splitlines():
        row = json.loads(line)
        found = re.match(r"\d{3}[ -]?(?:([245]\.\d{1,3}\.\d{1,3})\s+)?(.*)", row["text"], re.DOTALL)
        enhanced, text = (found[1] or "", found[2]) if found else ("", row["text"])
        places = OURS.get(row.get("provider") or "", [""])
        yield row, [said(f"{row['code']} {enhanced or '-'} {text or '-'}", provider) for provider in places]


def test_no_reply_about_a_mailbox_stops_or_slows_anybody():
    about_mailboxes = {"recipient_unknown", "mailbox_full", "mailbox_disabled", "domain_unknown"}
    looked_at = 0
    for row, said_by in replies():
        if row["category"] in about_mailboxes:
            looked_at += 1
            for seen in said_by:
                assert [rule.name for rule in ALL.matching(seen)] == [], row["id"]
    assert looked_at > 80


def test_most_of_what_our_providers_say_about_us_is_heard():
    about_us = {"rate_limited", "ip_blocked", "greylist", "reputation", "ip_ptr"}
    rows = [(row, said_by) for row, said_by in replies() if row["category"] in about_us and row.get("provider") in OURS]
    heard = sum(any(ALL.matching(seen) for seen in said_by) for _, said_by in rows)
    assert len(rows) > 20 and heard >= 0.8 * len(rows)  # 22 of 27; what is left is of mailboxes and domains
