-- The keys of the tokens in return paths and unsubscribe addresses; the newest makes those of new mail.
CREATE TABLE tokens (
    id     INTEGER PRIMARY KEY,           -- 0 .. 65535, stands in every token
    secret BLOB NOT NULL,
    made   REAL NOT NULL                  -- unix seconds
) STRICT;
