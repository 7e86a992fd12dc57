-- Senders under suspicion, and those whom an operator let off; the columns before the last say whose row it is.
CREATE TABLE suspects (account TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, finding TEXT NOT NULL,
                       PRIMARY KEY (account, kind, name)) WITHOUT ROWID;
CREATE TABLE dismissals (account TEXT NOT NULL, client TEXT NOT NULL, dismissal TEXT NOT NULL,
                         PRIMARY KEY (account, client)) WITHOUT ROWID;
