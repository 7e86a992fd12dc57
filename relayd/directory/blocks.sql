-- What operators stopped: client networks, accounts, connections, sources, recipient domains, the whole relay.
CREATE TABLE blocks (
    kind   TEXT NOT NULL,
    value  TEXT NOT NULL,
    reason TEXT NOT NULL,
    by     TEXT NOT NULL,
    since  REAL NOT NULL,                 -- unix seconds
    until  REAL NOT NULL,                 -- 0: until it is removed
    PRIMARY KEY (kind, value)
) STRICT, WITHOUT ROWID;
