-- Sub-accounts, several streams and lists of a connection, limits; what an account makes of a stream; who changed what.
-- ``settings`` is JSON: what is read whole, with its row, and never searched by.
ALTER TABLE accounts ADD COLUMN parent TEXT NOT NULL DEFAULT '';
ALTER TABLE accounts ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';

ALTER TABLE connections RENAME COLUMN stream TO streams;
UPDATE connections SET streams = iif(streams = '', '[]', json_array(streams));
ALTER TABLE connections ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';

CREATE TABLE streams (
    account   TEXT NOT NULL REFERENCES accounts (name),
    name      TEXT NOT NULL,
    template  TEXT NOT NULL,
    overrides TEXT NOT NULL,
    PRIMARY KEY (account, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE changes (
    id        INTEGER PRIMARY KEY,
    time      REAL NOT NULL,
    who       TEXT NOT NULL,
    verb      TEXT NOT NULL,
    arguments TEXT NOT NULL,  -- JSON, without secrets
    result    TEXT NOT NULL   -- "done", or why not
) STRICT;
