"""The directory: who may submit mail.  Accounts and their submission connections, the check of
passwords, the keys that sign, plans and balances."""

from relayd.directory.balances import Balances
from relayd.directory.domains import DomainKey
from relayd.directory.passwords import Verdict, Verifier, hash_password, verify_password
from relayd.directory.store import Account, Directory, NewConnection, SubmissionConnection, domain_name

__all__ = [
    "Account",
    "Balances",
    "Directory",
    "DomainKey",
    "NewConnection",
    "SubmissionConnection",
    "Verdict",
    "Verifier",
    "domain_name",
    "hash_password",
    "verify_password",
]
