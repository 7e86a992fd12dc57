-- Tokens of the control API: who may ask over the network, and as whom.
CREATE TABLE api_tokens (
    name      TEXT PRIMARY KEY,
    id        TEXT NOT NULL UNIQUE,       -- stands in the token
    digest    BLOB NOT NULL,              -- SHA-256 of its secret
    role      TEXT NOT NULL,
    account   TEXT NOT NULL,              -- of the role customer, else ''
    networks  TEXT NOT NULL,              -- JSON; [] is anywhere
    note      TEXT NOT NULL,
    by        TEXT NOT NULL,
    created   REAL NOT NULL,              -- unix seconds
    expires   REAL NOT NULL,              -- 0: never
    used      REAL NOT NULL,              -- 0: not yet; within a minute
    used_from TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What customers changed, like the table changes: apart, so that none of them pushes out what operators did.
CREATE TABLE customer_changes (
    id        INTEGER PRIMARY KEY,
    time      REAL NOT NULL,
    who       TEXT NOT NULL,
    verb      TEXT NOT NULL,
    arguments TEXT NOT NULL,
    result    TEXT NOT NULL
) STRICT;
