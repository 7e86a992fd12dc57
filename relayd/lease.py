"""Units of balances, as they pass from the directory to a spool and back.

A unit pays for one recipient.  The directory grants units to a spool ahead of their use; receptions are charged to what
was granted, and what is not used returns.  Directory and spool both keep these four totals for each payer.  They only
rise, so the larger one is the later one: a step that a crash cut off between the two stores is finished by telling the
totals again, as often as one likes.
"""

import msgspec


class Charge(msgspec.Struct, frozen=True, gc=False):
    """Units that a reception costs its payer, an account, or that a departure gives back to him."""

    payer: str
    units: int


class Lease(msgspec.Struct, frozen=True):
    """A payer's totals since the spool was made."""

    granted: int = 0
    charged: int = 0
    refunded: int = 0
    returned: int = 0

    @property
    def left(self) -> int:
        """Units that the spool may still charge."""
        return self.granted + self.refunded - self.charged - self.returned


def odd(before: dict[str, Lease], spool: dict[str, Lease], after: dict[str, Lease]) -> list[str]:
    """Sentences that name the payers of whom the spool and the directory tell different things.  The directory's leases
    are those before and after the spool's were read: it may know less than the spool, and may have granted more."""
    faults = []
    for account in sorted({*before, *spool}):
        earlier, told, later = (leases.get(account, _NONE) for leases in (before, spool, after))
        for term, one, other in (
            ("granted", told.granted, later.granted),
            ("charged", earlier.charged, told.charged),
            ("refunded", earlier.refunded, told.refunded),
            ("returned", earlier.returned, told.returned),
        ):
            if one > other:
                faults.append(f"payer {account}: {one} units {term}, but the other store knows of {other}")
    return faults


_NONE = Lease()
