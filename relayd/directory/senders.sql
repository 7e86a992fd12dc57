-- Sender domains: whose they are and what the DNS said of them; findings is a JSON array.  What has keys is registered.
CREATE TABLE senders (
    domain   TEXT PRIMARY KEY,
    account  TEXT NOT NULL REFERENCES accounts (name),
    state    TEXT NOT NULL,
    since    REAL NOT NULL,
    checked  REAL NOT NULL,
    due      REAL NOT NULL,
    doubt    REAL NOT NULL,
    findings TEXT NOT NULL,
    created  REAL NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO senders
SELECT domain, account, 'unverified', created, 0, 0, 0, '[]', created
FROM domains GROUP BY domain HAVING min(created) IS NOT NULL; -- the row of the oldest key
