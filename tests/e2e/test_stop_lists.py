"""Stop-lists, end to end: who gets on one while his mail waits gets nothing, and it costs nothing."""

import time

import pytest

from .conftest import Stage
from .relay import SENDER, message, queue_id, until

PLAN = ("plan", "add", "--units", "10", "prepaid")


@pytest.mark.parametrize("reports", ["sender", "none"])
def test_who_gets_on_a_stop_list_while_his_mail_waits_gets_nothing_and_the_others_theirs(
    stage: Stage, reports: str
) -> None:
    sink = stage.sink()
    tables = f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n[stream.transactional]\nreports = "{reports}"\n'
    relay = stage.relay(tables).start()
    for words in (PLAN, ("balance", "set-plan", "crm", "prepaid"), ("list", "add", "account:crm/all")):
        code, said = relay.ctl(*words)
        assert code == 0, said
    due = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 4))
    with relay.client() as client:
        client.mail(SENDER)
        for recipient in ("early@example.net", "listed@example.net"):
            assert client.rcpt(recipient)[0] == 250
        code, answer = client.data(message(extra=b"X-Relayd-Send-At: %b\r\n" % due.encode()))
        assert code == 250, answer
    identity = queue_id(answer)
    assert relay.ask("/v1/balance/show", account="crm")["used"] == 2
    code, said = relay.ctl("suppression", "add", "--reason", "complaint", "account:crm/all", "listed@example.net")
    assert code == 0, said
    assert sink.messages() == []
    sink.wait("early@example.net", 20)
    until(lambda: not relay.queued(), 10, "the queue empties")
    assert sink.to("listed@example.net") == [] and len(sink.to(SENDER)) == (reports == "sender")
    early, listed = relay.ask("/v1/inspect", id=identity)["deliveries"]
    assert (early["state"], listed["state"], listed["attempts"]) == ("delivered", "suppressed", 0)
    assert listed["why"] == "at queue: listed@example.net is on the list account:crm/all: complaint"
    until(lambda: relay.ask("/v1/balance/show", account="crm")["used"] == 1, 10, "its unit comes back")
    relay.audited()
    with relay.client() as client:
        client.mail(SENDER)
        assert client.rcpt("listed@example.net") == (550, b"5.7.1 Email receiver unsubscribe or complaint")
