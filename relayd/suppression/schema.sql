-- A list without a name has been removed; its row stays until the last of its entries is gone.
CREATE TABLE lists (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    name    TEXT UNIQUE,
    created INTEGER NOT NULL,
    entries INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Times are unix seconds, expires 0 is never.  mark: see filter.py; patterns have none.
CREATE TABLE entries (
    list     INTEGER NOT NULL,
    value    TEXT NOT NULL,
    kind     TEXT NOT NULL,
    mark     INTEGER,
    reason   TEXT NOT NULL,
    evidence TEXT NOT NULL,
    added    INTEGER NOT NULL,
    expires  INTEGER NOT NULL,
    author   TEXT NOT NULL,
    PRIMARY KEY (list, value, kind)
) STRICT, WITHOUT ROWID;

CREATE INDEX patterns ON entries (list) WHERE kind = 'pattern';
CREATE INDEX expiring ON entries (expires) WHERE expires > 0;
