"""Returned mail of every form, in samples of our own writing; what is found in them, and what is not taken for more."""

import pytest

from relayd.envelope import Envelope, Recipient
from relayd.feedback import Clue, Report, read
from relayd.message import dsn
from relayd.outcome import Evidence
from relayd.reply import Reply

HEAD = "Return-Path: <>\nFrom: Mail Delivery System <MAILER-DAEMON@mx.reporter.example>\nTo: b-token@bounce.example\n"


def report(body: str, *, subject: str = "Undelivered Mail Returned to Sender", head: str = HEAD) -> Report:
    return read(f"{head}Subject: {subject}\n{body}".encode())


def status_report(
    fields: str, *, words: str = "Not delivered.", original: str = "Message-ID: <1@crm.example>"
) -> Report:
    return report(
        'MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary="=_b"\n\n'
        f"--=_b\nContent-Type: text/plain\n\n{words}\n"
        f"--=_b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.reporter.example\n\n{fields}\n"
        f"--=_b\nContent-Type: text/rfc822-headers\n\n{original}\n\n--=_b--\n"
    )


def test_a_status_report_tells_recipient_status_and_what_the_server_said() -> None:
    found = status_report(
        "Original-Recipient: rfc822;anna@client.example\nFinal-Recipient: rfc822; anna@inner.client.example\n"
        "Action: failed\nStatus: 5.1.1\nRemote-MTA: dns; mx.client.example\n"
        "Diagnostic-Code: smtp; 550 5.1.1 <anna@inner.client.example>: no\n such user here\n"
    )
    one = found.recipients[0]
    assert (found.kind, found.reporter, len(found.recipients)) == ("bounce", "mx.reporter.example", 1)
    assert (one.address, one.final) == ("anna@client.example", "anna@inner.client.example")
    assert (one.status, one.code, one.action, one.remote_mta) == ("5.1.1", 550, "failed", "mx.client.example")
    assert one.diagnostic == "550 5.1.1 <anna@inner.client.example>: no such user here"


def test_several_recipients_are_told_apart_even_without_empty_lines() -> None:
    group = "Final-Recipient: rfc822; {}\nAction: {}\nStatus: {}\n"
    found = status_report(
        group.format("a@one.example", "failed", "5.2.2") + group.format("b@two.example", "delayed", "4.4.1")
    )
    assert [(one.final, one.action, one.status) for one in found.recipients] == [
        ("a@one.example", "failed", "5.2.2"),
        ("b@two.example", "delayed", "4.4.1"),
    ]
    assert found.kind == "bounce"


@pytest.mark.parametrize(
    ("action", "status", "kind"),
    [
        ("delayed", "4.4.7", "delay"),
        ("delivered", "2.0.0", "success"),
        ("relayed", "2.0.0", "success"),
        ("expanded", "2.0.0", "success"),
        ("failed", "5.0.0", "bounce"),
        ("failed (spam)", "4.0.0", "bounce"),
    ],
)
def test_the_action_decides_what_kind_of_report_it_is(action: str, status: str, kind: str) -> None:
    fields = f"Final-Recipient: rfc822; a@one.example\nAction: {action}\nStatus: {status}\n"
    assert status_report(fields).kind == kind


def test_the_server_s_own_status_goes_before_the_sum_that_the_report_gives() -> None:
    fields = "Final-Recipient: rfc822; a@one.example\nAction: failed\nStatus: {}\nDiagnostic-Code: smtp; {}\n"
    for status, said in (("5.0.0", "550 5.2.1 off"), ("4.5.0", "550 5.2.1 off"), ("", "550-5.2.1 off 550 5.2.1 off")):
        assert status_report(fields.format(status, said)).recipients[0].status == "5.2.1"
    assert status_report(fields.format("4.4.7", "421 4.2.1 busy")).recipients[0].status == "4.2.1"
    assert status_report(fields.format("5.1.1", "450 5.2.1 odd")).recipients[0].status == "5.2.1"
    assert status_report(fields.format("5.1.1", "no word of a code")).recipients[0].status == "5.1.1"


def test_words_for_people_complete_fields_that_lack_them() -> None:
    found = status_report(
        "Final-Recipient: rfc822; a@one.example\nAction: failed\nStatus: 5.0.0\n",
        words="These failed:\n\na@one.example: 552 5.2.2 <a@one.example> the box is full\n",
    )
    assert (found.recipients[0].status, found.recipients[0].code) == ("5.2.2", 552)
    assert "the box is full" in found.recipients[0].diagnostic


def test_an_address_beyond_ascii_is_read_from_its_embedded_form() -> None:
    fields = "Final-Recipient: utf-8; \\x{438}\\x{432}@one.example\nAction: failed\nStatus: 5.1.1\n"
    assert status_report(fields).recipients[0].final == "ив@one.example"


def test_a_report_without_mime_is_read_all_the_same() -> None:
    found = report(
        "\nThis did not work.\n\nReporting-MTA: dns; old.example\n\nFinal-Recipient: RFC822; <a@one.example>\n"
        "Action: failed\nStatus: 5.5.0\n\nReceived: from x by y\nTo: a@one.example\n"
    )
    assert [(one.final, one.status) for one in found.recipients] == [("a@one.example", "5.5.0")]


def test_a_report_within_a_report_is_read() -> None:
    inner = (
        "Content-Type: multipart/report; boundary=in\n\n--in\nContent-Type: message/delivery-status\n\n"
        "Final-Recipient: rfc822; a@one.example\nAction: failed\nStatus: 5.1.1\n--in--\n"
    )
    found = report(
        f"Content-Type: multipart/mixed; boundary=out\n\n--out\nContent-Type: message/rfc822\n\n{inner}--out--\n"
    )
    assert [one.final for one in found.recipients] == ["a@one.example"]


# Reports that were written for people: (what it is like, body, recipients, status, word of the diagnostic).
PROSE = {
    "qmail": (
        "\nHi. This is the qmail-send program at mx.reporter.example.\nI wasn't able to deliver your message.\n\n"
        "<a@one.example>:\n192.0.2.7 does not like recipient.\nRemote host said: 550 5.1.1 nobody of that name\n"
        "Giving up on 192.0.2.7.\n\n--- Below this line is a copy of the message.\n\nReturn-Path: <x@crm.example>\n",
        ["a@one.example"],
        "5.1.1",
        "nobody of that name",
    ),
    "exim, two recipients": (
        "\nA message that you sent could not be delivered to one or more of its recipients.\n\n"
        "  a@one.example\n    host mx.one.example [192.0.2.7]\n    SMTP error from remote mail server after "
        "RCPT TO:<a@one.example>:\n"
        "    550 5.1.1 unknown here\n  b@two.example\n    552 5.2.2 box is full\n\n"
        "------ This is a copy of the message, including all the headers. ------\n\nFrom: x@crm.example\n"
        "To: c@three.example\n",
        ["a@one.example", "b@two.example"],
        "5.1.1",
        "unknown here",
    ),
    "postfix, folded": (
        "\nYour message could not\nbe delivered. Please write to postmaster.\n\n                   The mail system\n\n"
        "<a@one.example>: host mx.one.example[192.0.2.7] said: 550\n    5.7.1 we do not take this (in reply to DATA)\n",
        ["a@one.example"],
        "5.7.1",
        "we do not take this",
    ),
    "sendmail transcript": (
        "\n   ----- Transcript of session follows -----\nwhile talking to mx.one.example:\n"
        ">>> RCPT To:<a@one.example>\n"
        "<<< 550 5.1.1 never heard of\n550 <a@one.example>... User unknown\n\n   ----- Unsent message "
        "follows -----\nFrom: x\n",
        ["a@one.example"],
        "5.1.1",
        "never heard of",
    ),
    "exchange": (
        "\nDelivery has failed to these recipients or groups:\n\na@one.example<mailto:a@one.example>\nThe "
        "address wasn't found.\n\n"
        "Diagnostic information for administrators:\n\nGenerating server: x.example\n\na@one.example\n"
        "Remote Server returned '550 5.1.10 RESOLVER; recipient not found'\n\nOriginal message headers:\n\n"
        "Received: from x\n",
        ["a@one.example"],
        "5.1.10",
        "recipient not found",
    ),
    "google": (
        "\nDelivery to the following recipient failed permanently:\n\n     a@one.example\n\nTechnical "
        "details of permanent failure:\n"
        "We tried. The other server returned:\n550 5.2.1 this account is off\n\n----- Original message "
        "-----\n\nReceived: by x\n",
        ["a@one.example"],
        "5.2.1",
        "this account is off",
    ),
    "reason first": (
        "\nYour message:\n   From:    x@crm.example\n   Subject: hello\n\nCould not be delivered because of\n"
        "\n550 5.1.1 no user\n\n"
        "The following recipients were affected:\n    a@one.example\n\nAdditional Information\n======\n"
        "Sender: <x@crm.example>\n",
        ["a@one.example"],
        "5.1.1",
        "no user",
    ),
    "label": ("\nDelivery failed 20 attempts: a@one.example\n\nOriginal message follows.\n", ["a@one.example"], "", ""),
    "in a sentence": ("\nWe were unable to deliver your letter to <a@one.example>.\n", ["a@one.example"], "", ""),
    "mail.ru": (
        "\nК сожалению, Ваше письмо не может быть доставлено одному или нескольким получателям:\n\n"
        "  a@one.example\n    host mx.one.example [192.0.2.7]: 550 5.1.1 такого адреса нет\n",
        ["a@one.example"],
        "5.1.1",
        "такого адреса нет",
    ),
    "german": (
        "\nIhre Nachricht konnte nicht zugestellt werden.\n\nEmpfänger: a@one.example\nGrund: Das Postfach ist voll\n",
        ["a@one.example"],
        "",
        "Das Postfach ist voll",
    ),
    "japanese": (
        "\n以下のメールアドレスへの送信ができませんでした。\n\n<a@one.example>: 550 5.1.1 宛先が見つかりません\n",
        ["a@one.example"],
        "5.1.1",
        "宛先が見つかりません",
    ),
}


@pytest.mark.parametrize("name", PROSE)
def test_a_report_written_for_people_tells_recipient_and_reason(name: str) -> None:
    body, recipients, status, words = PROSE[name]
    found = report("Content-Type: text/plain; charset=utf-8\n" + body)
    assert found.kind == "bounce"
    assert [one.final for one in found.recipients] == recipients
    assert found.recipients[0].status == status
    assert words in found.recipients[0].diagnostic


@pytest.mark.parametrize("ends", ["\r\n", "\r", "\n"])
def test_line_ends_do_not_matter(ends: str) -> None:
    raw = f"{HEAD}Subject: failure notice\n{PROSE['qmail'][0]}".replace("\n", ends).encode()
    assert [one.final for one in read(raw).recipients] == ["a@one.example"]


def test_a_report_that_lost_its_header_section_is_read() -> None:
    found = read(PROSE["postfix, folded"][0].lstrip().encode())
    assert (found.kind, found.recipients[0].final, found.recipients[0].status) == ("bounce", "a@one.example", "5.7.1")


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("koi8-r", "Письмо не доставлено"),
        ("windows-1251", "Письмо не доставлено"),
        ("iso-2022-jp", "配信できませんでした"),
        ("gbk", "投递失败"),
        ("iso-8859-15", "n'a pas pu être remis"),
    ],
)
def test_every_charset_is_read(charset: str, text: str) -> None:
    head = f"{HEAD}Subject: x\nContent-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: 8bit\n\n"
    found = read(head.encode() + f"{text}:\n\n<a@one.example>: {text}\n".encode(charset))
    assert [one.final for one in found.recipients] == ["a@one.example"]
    assert text in found.recipients[0].diagnostic


def test_html_base64_and_quoted_printable_are_read_broken_as_they_come() -> None:
    html = (
        "Content-Type: text/html\n\n<style>x{}</style><p>could not be delivered to:<br>\n"
        "<b>a@one.example</b><br>550 5.1.1 gone</p>"
    )
    based = (
        "Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\nPGFAb25lLmV4YW1wbGU+OiA1NTAgNS4xLjEgZ29uZQ=!"
    )
    quoted = (
        "Content-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n<a@one.exam=\nple>: 550 5.1.1 gone=ZZ"
    )
    for body in (html, based, quoted):
        found = report(body)
        assert [(one.final, one.status) for one in found.recipients] == [("a@one.example", "5.1.1")]


DELAYS = {
    "warning": "\nA message that you sent has not yet been delivered after more than 24 hours.\n\n "
    " a@one.example\n    450 4.2.0 busy\n\n"
    "No action is required on your part. Delivery attempts will continue for some time.\n",
    "incomplete": "\n** Delivery incomplete **\n\nThere was a temporary problem delivering your message to "
    "a@one.example. It will be retried.\n",
    "russian": "\nДоставка отложена, попытки продолжаются:\n\n  a@one.example\n    451 4.7.1 позже\n",
    "german": "\nIhre Nachricht ist verzögert und konnte noch nicht zugestellt werden:\n\n<a@one.example>\n",
}


@pytest.mark.parametrize("name", DELAYS)
def test_a_delay_is_no_bounce(name: str) -> None:
    found = report("Content-Type: text/plain; charset=utf-8\n" + DELAYS[name], subject="Delivery Status Notification")
    assert found.kind == "delay"
    assert [(one.final, one.action) for one in found.recipients] == [("a@one.example", "delayed")]


PERSON = "From: Anna <anna@client.example>\nTo: b-token@bounce.example\n"
GONE = (
    "\nI am away. My address anna@old.example does not exist any more: 550 5.1.1 user unknown. Write to "
    "bob@client.example.\n"
)
AUTOMATIC = {
    "auto-submitted": (PERSON + "Auto-Submitted: auto-replied\n", "Re: your offer"),
    "auto-submitted, null path": ("Return-Path: <>\n" + PERSON + "Auto-Submitted: auto-replied (vacation)\n", "hello"),
    "precedence": (PERSON + "Precedence: auto_reply\n", "Anna"),
    "field": (PERSON + "X-Autoreply: yes\n", "Anna"),
    "english": (PERSON, "Automatic reply: your offer"),
    "out of office": ("Return-Path: <>\n" + PERSON, "Out of Office: your offer"),
    "german": (PERSON, "Abwesenheitsnotiz: Angebot"),
    "french": (PERSON, "Réponse automatique : votre offre"),
    "russian": (PERSON, "Автоответ: Ваше предложение"),
    "japanese": (PERSON, "自動応答: ご提案"),
    "chinese": (PERSON, "自动回复: 你好"),
    "spanish": (PERSON, "Respuesta automática: oferta"),
    "ukrainian": (PERSON, "Відсутній до понеділка"),
    "dutch": (PERSON, "Afwezig: uw aanbod"),
    "of a ticket system": (PERSON, "Your request has been received [#12]"),
    "from a postmaster": (HEAD, "Automatic reply: your offer"),
}


@pytest.mark.parametrize("name", AUTOMATIC)
def test_an_automatic_answer_is_no_bounce_whatever_it_says(name: str) -> None:
    head, subject = AUTOMATIC[name]
    found = report("Content-Type: text/plain; charset=utf-8\n" + GONE, subject=subject, head=head)
    assert (found.kind, found.recipients) == ("auto-reply", ())


def test_an_answer_with_a_null_path_and_no_other_mark_is_no_bounce() -> None:
    assert report(GONE, subject="your offer", head="Return-Path: <>\n" + PERSON).kind == "other"


@pytest.mark.parametrize("subject", ["Re: Mail delivery failed: your offer", "Question", "Fwd: Undelivered Mail"])
def test_a_person_who_writes_about_a_bounce_has_not_bounced(subject: str) -> None:
    quoted = "\nWhy did I get this?\n\n> <anna@old.example>: 550 5.1.1 user unknown\n"
    assert report(quoted, subject=subject, head=PERSON).kind == "other"


def test_a_read_receipt_is_an_automatic_answer() -> None:
    body = (
        "Content-Type: multipart/report; report-type=disposition-notification; boundary=b\n\n--b\n"
        "Content-Type: text/plain\n\n"
        "Your message was read.\n--b\nContent-Type: message/disposition-notification\n\n"
        "Final-Recipient: rfc822; a@one.example\n"
        "Disposition: manual-action/MDN-sent-manually; displayed\n--b--\n"
    )
    assert report(body, subject="Read: offer", head=PERSON).kind == "auto-reply"


def test_challenges_and_unsubscribe_mails_are_told_apart() -> None:
    assert report("\nClick here.\n", subject="Please confirm your message", head=PERSON).kind == "challenge"
    found = report("\n", subject="unsubscribe", head=PERSON)
    assert (found.kind, found.recipients[0].final) == ("unsubscribe", "anna@client.example")


def test_what_may_hold_a_token_of_ours_is_given_with_where_it_stood() -> None:
    original = (
        "Return-Path: <b-token@bounce.example>\nMessage-ID: <1@crm.example>\n"
        "List-Unsubscribe: <mailto:u-token@bounce.example>\n"
        "Feedback-ID: a:b:c:relayd\nX-Relayd-Ref: token\nSubject: offer"
    )
    fields = "Final-Recipient: rfc822; a@one.example\nAction: failed\nStatus: 5.1.1\n"
    clues = {clue.where: clue.value for clue in status_report(fields, original=original).clues}
    assert clues == {
        "to": "b-token@bounce.example",
        "return-path": "<b-token@bounce.example>",
        "message-id": "<1@crm.example>",
        "list-unsubscribe": "<mailto:u-token@bounce.example>",
        "feedback-id": "a:b:c:relayd",
        "x-relayd-ref": "token",
    }
    assert read(b"x", "b-token@bounce.example").clues[0].where == "envelope"


def test_nothing_of_a_report_can_steer_a_terminal() -> None:
    fields = (
        "Final-Recipient: rfc822; a@one.example\nAction: failed\nStatus: 5.1.1\n"
        "Diagnostic-Code: smtp; 550 \x1b[2J\u202e gone\n"
    )
    assert status_report(fields).recipients[0].diagnostic == "550 \\x1b[2J\\x202e gone"


@pytest.mark.parametrize(
    ("kind", "told"), [("failed", "bounce"), ("expired", "bounce"), ("delayed", "delay"), ("delivered", "success")]
)
@pytest.mark.parametrize("address", ["anna@client.example", "анна@client.example"])
def test_our_own_reports_are_understood(kind: dsn.Kind, told: str, address: str) -> None:
    answer = Reply(450 if kind == "delayed" else 550, "4.2.1" if kind == "delayed" else "5.2.1", "off")
    made = dsn.report(
        kind,
        node="mx.relay.example",
        message_id="<report@relay.example>",
        now=2e9,
        envelope=Envelope("x@crm.example", smtputf8=True),
        recipient=Recipient(address),
        original_head=b"Message-ID: <1@crm.example>\r\nX-Relayd-Ref: token\r\n\r\n",
        original_body=None,
        evidence=Evidence("rcpt", answer if kind != "delivered" else Reply(250, "2.1.5", "ok"), mx="mx.client.example"),
        received=2e9 - 60,
        attempts=1,
    )
    found = read(made)
    assert (found.kind, found.reporter) == (told, "mx.relay.example")
    assert (found.recipients[0].final, found.recipients[0].remote_mta) == (address, "mx.client.example")
    assert Clue("x-relayd-ref", "token") in found.clues
    if kind in ("failed", "delayed"):
        assert (found.recipients[0].status, found.recipients[0].code) == (answer.enhanced, answer.code)


def test_a_bounce_that_names_nobody_still_tells_why() -> None:
    found = report("\nYour message was not delivered.\n\n552 5.2.2 the mailbox is full\n")
    one = found.recipients[0]
    assert (found.kind, len(found.recipients)) == ("bounce", 1)
    assert (one.final, one.status, one.diagnostic) == ("", "5.2.2", "552 5.2.2 the mailbox is full")


@pytest.mark.parametrize(
    "words", ["Съобщението ви не можа да бъде доставено:", "تعذر تسليم رسالتك:", "Nepavyko pristatyti:"]
)
def test_a_mail_system_that_names_somebody_is_understood_in_any_language(words: str) -> None:
    found = report(f"Content-Type: text/plain; charset=utf-8\n\n{words}\n\n  anna@one.example\n", subject="x")
    assert (found.kind, [one.final for one in found.recipients]) == ("bounce", ["anna@one.example"])


def test_names_without_a_domain_are_the_reporter_s_own() -> None:
    found = report("\nThe following recipients could not be reached:\n\tanna\n\tbob\n")
    assert [one.final for one in found.recipients] == ["anna@mx.reporter.example", "bob@mx.reporter.example"]


def test_a_bounce_that_names_nobody_is_taken_to_be_of_the_original_s_recipient() -> None:
    found = report("\nThis was not delivered.\n\nReceived: from x\nTo: Anna <anna@client.example>\nSubject: offer\n")
    assert [one.final for one in found.recipients] == ["anna@client.example"]


def test_a_report_that_a_person_forwards_within_the_text_is_read() -> None:
    quoted = "Final-Recipient: rfc822; anna@client.example\nAction: failed\nStatus: 5.1.1\n"
    text = "Look at this:\n\n" + "".join(f"> {line}\n" for line in f"From: x\nTo: y\nDate: z\n\n{quoted}".split("\n"))
    found = report(
        f"\n{text}", subject="Fwd: Undelivered mail", head="From: Bob <bob@crm.example>\nTo: us@relay.example\n"
    )
    assert (found.kind, [one.final for one in found.recipients]) == ("bounce", ["anna@client.example"])


def test_an_address_that_is_only_the_name_of_another_is_no_recipient() -> None:
    found = report("\nThese addresses failed:\n\n  bob@crm.example <anna@client.example>: malformed address\n")
    assert [one.final for one in found.recipients] == ["anna@client.example"]


def test_the_number_of_a_name_is_no_reply_while_there_is_one() -> None:
    found = report("\nThese addresses failed:\n\n  anna@client.example\n    222: host mx.one.example: 550 no\n")
    assert found.recipients[0].code == 550


def test_a_transcript_tells_which_command_was_answered() -> None:
    lines = "While talking to mx.one.example:\n>>> RCPT To:<anna@client.example>\n<<< 550 nobody\n"
    found = report(f"\n   ----- Transcript of session follows -----\n{lines}")
    assert (found.recipients[0].final, found.recipients[0].stage) == ("anna@client.example", "rcpt")


def test_the_only_recipient_s_reason_is_found_under_another_name_of_it() -> None:
    fields = "Final-Recipient: rfc822; anna@host.client.example\nAction: failed\nStatus: 5.0.0\n"
    found = status_report(
        fields, words="The following addresses failed:\n\n<anna@client.example>\n    550 5.2.2 full\n"
    )
    (one,) = found.recipients
    assert (one.final, one.code, one.status) == ("anna@host.client.example", 550, "5.2.2")
