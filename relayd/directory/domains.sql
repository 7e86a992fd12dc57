-- Signing keys.  A domain may have several, of one account or of more; a selector names one in DNS.
CREATE TABLE domains (
    domain    TEXT NOT NULL,
    account   TEXT NOT NULL REFERENCES accounts (name),
    selector  TEXT NOT NULL,
    pem       BLOB NOT NULL,
    algorithm TEXT NOT NULL,
    bits      INTEGER NOT NULL,
    created   REAL NOT NULL,
    PRIMARY KEY (domain, selector)
) STRICT, WITHOUT ROWID;
