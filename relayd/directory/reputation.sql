-- Where accounts, clients, connections, sender domains and sources stand (relayd.reputation.Standing, as JSON).
CREATE TABLE reputations (
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,
    standing TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
