"""The directory: who may submit mail.  Accounts and their submission connections, and the check of passwords."""

from relayd.directory.passwords import Verdict, Verifier, hash_password, verify_password
from relayd.directory.store import Account, Directory, NewConnection, SubmissionConnection

__all__ = [
    "Account",
    "Directory",
    "NewConnection",
    "SubmissionConnection",
    "Verdict",
    "Verifier",
    "hash_password",
    "verify_password",
]
