-- Webhooks, whose events go where.  ``webhook`` is JSON: read whole, with its row, at start and after each change.  It
-- holds the secrets as they are: they sign.
CREATE TABLE webhooks (
    name    TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (name),
    webhook TEXT NOT NULL
) STRICT, WITHOUT ROWID;
