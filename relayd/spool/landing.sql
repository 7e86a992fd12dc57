-- Where the contents of new mail lie.
ALTER TABLE message ADD COLUMN place INTEGER;  -- of head and body in the landing; NULL: they are in the row
CREATE INDEX message_place ON message (place) WHERE place IS NOT NULL;
