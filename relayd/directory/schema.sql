-- Lists (senders, clients) are JSON arrays: they are read whole, with their row, at start and after each change.
CREATE TABLE accounts (
    name         TEXT PRIMARY KEY,
    state        TEXT NOT NULL,
    domain_check TEXT NOT NULL,
    created      REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE connections (
    login    TEXT PRIMARY KEY,
    account  TEXT NOT NULL REFERENCES accounts (name),
    password TEXT NOT NULL,
    senders  TEXT NOT NULL,
    clients  TEXT NOT NULL,
    stream   TEXT NOT NULL,
    state    TEXT NOT NULL,
    reason   TEXT NOT NULL,
    created  REAL NOT NULL,
    version  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
