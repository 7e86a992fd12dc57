-- Units of prepaid balances and plans that the directory has granted to this spool (relayd/lease.py).  Totals: they only
-- rise, and the rows stay, so that the ledger's terms "charged" and "refunded" can be proved by them.
CREATE TABLE lease (
    account  TEXT    PRIMARY KEY,
    granted  INTEGER NOT NULL DEFAULT 0,
    charged  INTEGER NOT NULL DEFAULT 0,
    refunded INTEGER NOT NULL DEFAULT 0,
    returned INTEGER NOT NULL DEFAULT 0,
    CHECK (charged + returned <= granted + refunded)
) WITHOUT ROWID;
