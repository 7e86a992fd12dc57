-- Sources that operators drained: they take no new deliveries.
CREATE TABLE drains (
    source TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    by     TEXT NOT NULL,
    since  REAL NOT NULL                  -- unix seconds
) STRICT, WITHOUT ROWID;
