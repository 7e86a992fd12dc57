-- What operators do to what is queued, and how old that is.
ALTER TABLE delivery ADD COLUMN held INTEGER;  -- the job that holds it, and its due time does not come; NULL: none does
ALTER TABLE delivery ADD COLUMN job INTEGER;   -- the last that changed it, unless it was tried since
ALTER TABLE delivery ADD COLUMN was TEXT;      -- due, held, queue and source before that: JSON
CREATE INDEX delivery_held ON delivery (held) WHERE held IS NOT NULL;
CREATE INDEX delivery_job ON delivery (job) WHERE job IS NOT NULL;
DROP INDEX delivery_ends;
CREATE INDEX delivery_ends ON delivery (ends) WHERE ends IS NOT NULL AND held IS NULL;
CREATE TABLE recycled (                        -- deliveries that were cancelled, while that can be undone
    id        INTEGER PRIMARY KEY,
    cancelled INTEGER NOT NULL,                -- the job that did
    message INTEGER NOT NULL, queue TEXT NOT NULL, due REAL NOT NULL, attempts INTEGER NOT NULL, recipient TEXT NOT NULL,
    last TEXT NOT NULL, source TEXT NOT NULL, told INTEGER NOT NULL, begins REAL NOT NULL, ends REAL, held INTEGER
);
CREATE INDEX recycled_job ON recycled (cancelled);
CREATE TABLE job (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    action  TEXT    NOT NULL,
    who     TEXT    NOT NULL,
    reason  TEXT    NOT NULL,
    filter  TEXT    NOT NULL,                  -- JSON
    target  TEXT    NOT NULL,                  -- where a move goes
    notify  INTEGER NOT NULL,
    undoes  INTEGER,                           -- the job
    most    INTEGER NOT NULL,                  -- of deliveries with higher ids it knows nothing
    created REAL    NOT NULL,
    about   INTEGER NOT NULL DEFAULT 0,        -- deliveries there are to look at, by the counters
    seen    INTEGER NOT NULL DEFAULT 0,
    done    INTEGER NOT NULL DEFAULT 0,
    due     INTEGER NOT NULL DEFAULT 0,        -- of a retry: those that were due already
    busy    INTEGER NOT NULL DEFAULT 0,        -- under way, and left to end
    at      TEXT    NOT NULL DEFAULT '',       -- how far it is: JSON
    state   TEXT    NOT NULL DEFAULT 'running',
    fault   TEXT    NOT NULL DEFAULT '',
    ended   REAL    NOT NULL DEFAULT 0,
    until   REAL    NOT NULL DEFAULT 0,        -- when it cannot be undone any more
    noted   INTEGER NOT NULL DEFAULT 0         -- 1: its end is in the trail of changes
);
CREATE INDEX job_open ON job (id) WHERE state = 'running' OR noted = 0;
CREATE TABLE aged (                            -- how many of a queue were received in which two minutes, how many are held
    queue TEXT NOT NULL, slot INTEGER NOT NULL, count INTEGER NOT NULL, held INTEGER NOT NULL,
    PRIMARY KEY (queue, slot)
) WITHOUT ROWID;
INSERT INTO aged SELECT queue, (id >> 20) / 120000, count(*), 0 FROM delivery GROUP BY 1, 2;
CREATE TRIGGER delivery_comes AFTER INSERT ON delivery BEGIN
    INSERT INTO aged VALUES (new.queue, (new.id >> 20) / 120000, 1, new.held IS NOT NULL)
    ON CONFLICT DO UPDATE SET count = count + 1, held = held + excluded.held;
END;
CREATE TRIGGER delivery_leaves AFTER DELETE ON delivery BEGIN
    UPDATE aged SET count = count - 1, held = held - (old.held IS NOT NULL)
    WHERE queue = old.queue AND slot = (old.id >> 20) / 120000;
    DELETE FROM aged WHERE queue = old.queue AND slot = (old.id >> 20) / 120000 AND count = 0;
END;
CREATE TRIGGER delivery_changes AFTER UPDATE OF queue, held ON delivery
WHEN new.queue <> old.queue OR (new.held IS NULL) <> (old.held IS NULL) BEGIN
    INSERT INTO aged VALUES (new.queue, (new.id >> 20) / 120000, 1, new.held IS NOT NULL)
    ON CONFLICT DO UPDATE SET count = count + 1, held = held + excluded.held;
    UPDATE aged SET count = count - 1, held = held - (old.held IS NOT NULL)
    WHERE queue = old.queue AND slot = (old.id >> 20) / 120000;
    DELETE FROM aged WHERE queue = old.queue AND slot = (old.id >> 20) / 120000 AND count = 0;
END;
