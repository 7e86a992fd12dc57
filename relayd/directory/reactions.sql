-- Reactions that hold, return or are watched (shaping.reactions.Active), as JSON.
CREATE TABLE reactions (
    id     INTEGER PRIMARY KEY,
    active TEXT NOT NULL
) STRICT;
