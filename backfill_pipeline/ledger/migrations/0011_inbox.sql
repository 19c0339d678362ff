-- What the inbox saw of each file, from one look to the next: a file that is as it was for a while is complete, and its
-- content is hashed once. Which files are processed is in backfill_source_files and backfill_registrations.
CREATE TABLE backfill_inbox_files (
    path        text COLLATE "C" PRIMARY KEY,
    size_bytes  bigint NOT NULL,
    modified_ns bigint NOT NULL,        -- since 1970
    since       timestamptz NOT NULL,   -- seen first with this size and time
    sha256      text                    -- once it was at rest
);
