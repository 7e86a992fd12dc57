-- Where sources in warm-up stand at each group of sites (relayd.warmup.Standing).
CREATE TABLE warmups (
    source    TEXT NOT NULL,
    "group"   TEXT NOT NULL,
    day       INTEGER NOT NULL,            -- of the plan, from 1
    date      INTEGER NOT NULL,            -- days since 1970, UTC: the date of what follows
    used      INTEGER NOT NULL,            -- granted within the cap: all of it may have gone
    over      INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    deferred  INTEGER NOT NULL,
    blocked   INTEGER NOT NULL,
    other     INTEGER NOT NULL,
    complaint INTEGER NOT NULL,
    sent      INTEGER NOT NULL,            -- the last date with a delivery
    stopped   INTEGER NOT NULL,
    note      TEXT NOT NULL,
    PRIMARY KEY (source, "group")
) STRICT, WITHOUT ROWID;
