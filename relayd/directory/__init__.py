"""The directory: who may submit mail.  Accounts and their submission connections, the check of
passwords, the keys that sign, and the domains that mail is sent from."""

from relayd.directory.apitokens import ApiToken, ApiTokens, NewToken
from relayd.directory.balances import Balances
from relayd.directory.blocks import Block, Blocks
from relayd.directory.domains import DomainKey
from relayd.directory.drains import Drain, Drains
from relayd.directory.hashes import EXTERNAL
from relayd.directory.passwords import Ask, Done, Verdict, Verifier, hash_password, verify_password
from relayd.directory.reactions import StoredReactions
from relayd.directory.rows import Account, AccountStream, Change, SubmissionConnection, domain_name
from relayd.directory.senders import SenderDomain, Senders, State, judged
from relayd.directory.store import Directory, NewConnection
from relayd.directory.suspects import StoredSuspects
from relayd.directory.tokens import Tokens
from relayd.directory.warmups import Warmups
from relayd.directory.webhooks import StoredWebhooks, Webhook

__all__ = [
    "EXTERNAL",
    "Account",
    "AccountStream",
    "ApiToken",
    "ApiTokens",
    "Ask",
    "Balances",
    "Block",
    "Blocks",
    "Change",
    "Directory",
    "DomainKey",
    "Done",
    "Drain",
    "Drains",
    "NewConnection",
    "NewToken",
    "SenderDomain",
    "Senders",
    "State",
    "StoredReactions",
    "StoredSuspects",
    "StoredWebhooks",
    "SubmissionConnection",
    "Tokens",
    "Verdict",
    "Verifier",
    "Warmups",
    "Webhook",
    "domain_name",
    "hash_password",
    "judged",
    "verify_password",
]
