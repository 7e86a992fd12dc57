-- The spool: what a relay has promised to deliver, and the ledger that proves it.  One writer, WAL.
CREATE TABLE message (
    id         INTEGER PRIMARY KEY,
    recipients INTEGER NOT NULL,          -- deliveries are id + 1 .. id + recipients
    size       INTEGER NOT NULL,
    meta       TEXT    NOT NULL,          -- envelope, account, edits ...: JSON
    head       BLOB    NOT NULL,          -- the original header section
    body       BLOB                       -- NULL: in the file bodies/<id>
);
CREATE TABLE delivery (
    id        INTEGER PRIMARY KEY,
    message   INTEGER NOT NULL,
    queue     TEXT    NOT NULL,
    due       REAL    NOT NULL,
    attempts  INTEGER NOT NULL DEFAULT 0,
    recipient TEXT    NOT NULL,           -- address and DSN wishes: JSON
    last      TEXT    NOT NULL DEFAULT '',-- the last attempt in words
    source    TEXT    NOT NULL DEFAULT '',-- the last attempt's source: greylisting wants the same again
    told      INTEGER NOT NULL DEFAULT 0  -- 1: its sender has been told of the delay
);
CREATE INDEX delivery_due ON delivery (queue, due);
CREATE TABLE queue (
    name     TEXT    PRIMARY KEY,         -- account/stream/domain
    count    INTEGER NOT NULL,
    next_due REAL    NOT NULL             -- never later than the earliest due of its deliveries
) WITHOUT ROWID;
CREATE INDEX queue_due ON queue (next_due, name);
CREATE TABLE tally (                      -- the ledger; day is of the reception
    day INTEGER NOT NULL, account TEXT NOT NULL, stream TEXT NOT NULL, term TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (day, account, stream, term)
) WITHOUT ROWID;
CREATE TABLE outbox (                     -- the records of one commit, until the mover has copied them
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    lines   BLOB NOT NULL,
    entries TEXT NOT NULL                 -- [[day, account, stream, term, count] ...]
);
CREATE TABLE segment (
    name   TEXT    PRIMARY KEY,
    bytes  INTEGER NOT NULL,              -- what is known to be in the file; anything behind it is cut at start
    sealed INTEGER NOT NULL DEFAULT 0     -- unix seconds
);
CREATE TABLE segment_total (
    segment TEXT NOT NULL, day INTEGER NOT NULL, account TEXT NOT NULL, stream TEXT NOT NULL, term TEXT NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (segment, day, account, stream, term)
) WITHOUT ROWID;
CREATE TABLE checkpoint (                 -- how far each feed has read
    feed TEXT PRIMARY KEY, segment TEXT NOT NULL, offset INTEGER NOT NULL
) WITHOUT ROWID;
