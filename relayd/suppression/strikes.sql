-- What was said against an address that is not enough yet, in the session or later; times are unix seconds, after "until"
-- it is forgotten.
CREATE TABLE strikes (
    list   TEXT NOT NULL,
    value  TEXT NOT NULL,
    reason TEXT NOT NULL,
    late   INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    until  INTEGER NOT NULL,
    PRIMARY KEY (list, value, reason, late)
) STRICT, WITHOUT ROWID;

CREATE INDEX fading ON strikes (until);
CREATE INDEX struck ON strikes (value);

-- What has come back of a delivery: each kind counts once.
CREATE TABLE heard (
    delivery INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    PRIMARY KEY (delivery, kind)
) STRICT, WITHOUT ROWID;
