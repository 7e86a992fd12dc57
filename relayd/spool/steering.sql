-- Times that senders set for their messages, and the keys by which they send a message once.
ALTER TABLE delivery ADD COLUMN begins REAL NOT NULL DEFAULT 0;  -- when it may first go: its life counts from then
ALTER TABLE delivery ADD COLUMN ends REAL;                       -- when it is given up; NULL: as its stream says
CREATE INDEX delivery_ends ON delivery (ends) WHERE ends IS NOT NULL;
CREATE TABLE idempotency (                -- an account's keys, for a day
    account TEXT NOT NULL, key TEXT NOT NULL,
    message INTEGER NOT NULL,             -- the first that came with the key; its id tells when
    PRIMARY KEY (account, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_message ON idempotency (message);
