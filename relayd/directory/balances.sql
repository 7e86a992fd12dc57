-- Plans, balances and the ledger that proves them.  Units pay for recipients; times are unix seconds.
CREATE TABLE plans (
    name        TEXT PRIMARY KEY,
    renews      TEXT NOT NULL,
    units       INTEGER NOT NULL,
    overage     INTEGER NOT NULL,
    steps       TEXT NOT NULL,            -- [[units before it, "price of a unit"] ...]: JSON
    trial_units INTEGER NOT NULL,
    trial_days  INTEGER NOT NULL,
    low         INTEGER NOT NULL,
    refunds     TEXT NOT NULL,            -- terms: JSON
    created     REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE balances (
    account TEXT PRIMARY KEY REFERENCES accounts (name),
    plan    TEXT NOT NULL REFERENCES plans (name),
    trial   INTEGER NOT NULL,
    since   REAL NOT NULL,                -- the period
    until   REAL,                         -- NULL: no end
    units   INTEGER NOT NULL,             -- what the period offers
    used    INTEGER NOT NULL              -- of them, as far as the spool has told
) STRICT, WITHOUT ROWID;

CREATE TABLE leases (                     -- relayd/lease.py; outlive the balance, as the spool's do
    account  TEXT PRIMARY KEY,
    granted  INTEGER NOT NULL,
    charged  INTEGER NOT NULL,
    refunded INTEGER NOT NULL,
    returned INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE movements (                  -- of an account they add up to units - used of its balance
    id      INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    time    REAL NOT NULL,
    kind    TEXT NOT NULL,
    units   INTEGER NOT NULL,
    by      TEXT NOT NULL,
    note    TEXT NOT NULL
) STRICT;
CREATE INDEX movements_account ON movements (account, id, units);
-- What was charged and refunded is one row a UTC day each.
CREATE UNIQUE INDEX movements_day ON movements (account, kind, time) WHERE kind IN ('charge', 'refund');
