"""python3 python_smtplib.py TO COPY HIDDEN"""

import smtplib
import ssl
import sys
from email.headerregistry import Address
from email.message import EmailMessage
from os import environ as env


class Answering:
    """Keeps the answer to the message, which has the queue id; smtplib itself drops it."""

    def data(self, content):
        self.answer = super().data(content)
        return self.answer


class SMTPS(Answering, smtplib.SMTP_SSL): ...


class SMTP(Answering, smtplib.SMTP): ...


to, copy, hidden = sys.argv[1:]
message = EmailMessage()
message["From"] = Address("Отдел продаж", addr_spec=env["RELAYD_SENDER"])
message["To"], message["Cc"], message["Bcc"] = to, copy, hidden
message["Subject"] = "Счёт № 42 за апрель: оплатите, пожалуйста, до пятницы"
message.set_content("Здравствуйте!\n.\nСчёт во вложении.\n")
message.add_attachment("Итого;42\n", subtype="csv", filename="счёт.csv")

server, tls = (env["RELAYD_HOST"], int(env["RELAYD_PORT"])), ssl.create_default_context()
try:
    if env["RELAYD_TLS"] == "implicit":
        client = SMTPS(*server, timeout=60, context=tls)
    else:
        client = SMTP(*server, timeout=60)
        client.starttls(context=tls)
    with client:
        client.login(env["RELAYD_LOGIN"], env["RELAYD_PASSWORD"])
        refused = client.send_message(message, mail_options=["RET=HDRS"], rcpt_options=["NOTIFY=FAILURE,DELAY"])
    print(client.answer[1].decode())
except smtplib.SMTPRecipientsRefused as error:
    refused = error.recipients  # all of them; where some are taken, send_message returns the others
except smtplib.SMTPResponseException as error:
    refused = {"message": (error.smtp_code, error.smtp_error)}
except OSError as error:  # no connection, a wrong certificate
    refused = {"message": (421, str(error).encode())}

for what, (code, text) in refused.items():
    print(f"{what} refused: {code} {text.decode()}", file=sys.stderr)
sys.exit(75 if any(code < 500 for code, _ in refused.values()) else 1 if refused else 0)
