"""The verbs of senders under suspicion: who they are and why, and letting one off.

In: the running relay's suspicion.  Out: JSON-able rows.
"""

from concurrent.futures import Future
from typing import Any

import msgspec

from relayd.control.accounts import known
from relayd.control.verb import REASON, Arg, Relay, Scope, Verb, then
from relayd.errors import InputError
from relayd.identity import DAY
from relayd.suspicion import Dismissal, Finding, Suspicion

_MOST = 20  # senders of an account that are shown


def _list(relay: Relay) -> list[dict[str, Any]]:
    findings = sorted(_suspicion(relay).findings.values(), key=lambda finding: (-finding.score, finding.key))
    return [_row(finding) for finding in findings]


def _show(relay: Relay, account: str) -> dict[str, Any]:
    known(relay, account)
    suspicion, now = _suspicion(relay), relay.now()
    findings = [finding for finding in suspicion.findings.values() if finding.key.account == account]
    dismissed = [row for row in suspicion.dismissals.values() if row.account == account and row.until > now]
    return {
        "account": account,
        "suspects": [
            {**_row(finding), "told": finding.noticed} for finding in sorted(findings, key=lambda finding: finding.key)
        ],
        "signals": [
            {"kind": key.kind, "name": key.name, "score": score, "part": part.name, "points": points, "why": part.words}
            for key, score, found in suspicion.senders(account, now, _MOST)
            for part in found
            if (points := round(part.points))
        ],
        "dismissed": [msgspec.to_builtins(row) for row in dismissed],
    }


def _dismiss(relay: Relay, account: str, client: str | None, reason: str, who: str, **given: float | None) -> Any:
    known(relay, account)
    _suspicion(relay)
    now, period = relay.now(), given["for"] or 7 * DAY
    row = Dismissal(account, client or "", reason, who, now, now + period)
    done: Future[Dismissal] = relay.dismiss(row)
    return then(done, msgspec.to_builtins)


def _suspicion(relay: Relay) -> Suspicion:
    if relay.suspicion is None:
        raise InputError("", "nobody is suspected: [suspicion] of the configuration has enabled = false")
    return relay.suspicion


def _row(finding: Finding) -> dict[str, Any]:
    key = finding.key
    return {
        "account": key.account,
        "kind": key.kind,
        "name": key.name,
        "score": finding.score,
        "worst": finding.worst,
        "since": finding.since,
        "by": list(finding.leaders),
        "why": "; ".join(part.words for part in finding.parts),
    }


_ACCOUNT = Arg("account", "the account's name", "name", positional=True, required=True)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="suspects list",
        help="the senders that look bad by what they submit: who, how much, since when and why",
        handler=_list,
        example="suspects list",
    ),
    Verb(
        name="suspects show",
        help="what speaks against an account and those who send by it, in parts",
        handler=_show,
        args=(_ACCOUNT,),
        example="suspects show crm",
        scope=Scope("account"),
    ),
    Verb(
        name="suspects dismiss",
        help="let an account off, or a client of it: what was found is over, and nothing is found for a time",
        handler=_dismiss,
        args=(
            _ACCOUNT,
            Arg("client", "only this one of its clients"),
            REASON,
            Arg("for", "how long; without it, a week", "duration"),
        ),
        role="operate",
        effect="change",
        signed=True,
        example='suspects dismiss --client shop17 --reason "its yearly sale" --for 3d crm',
    ),
)
