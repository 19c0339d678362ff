-- Sources that grow. One that only got more rows behind those that were registered stays the same registration, with its
-- partitions as they are and new ones after them. These tables say which files it is made of, and what it was before.

-- The files of a source of several, in the order in which they are read. A file that was registered keeps its place, so
-- that a new one, whatever its name, shifts no rows.
CREATE TABLE backfill_source_files (
    registration_id bigint NOT NULL REFERENCES backfill_registrations (id),
    number          integer NOT NULL,           -- from 0
    name            text COLLATE "C" NOT NULL,
    size_bytes      bigint NOT NULL,
    sha256          text NOT NULL,
    row_count       bigint NOT NULL,
    registered_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (registration_id, number)
);

-- What a registration was before it grew.
CREATE TABLE backfill_growths (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    registration_id bigint NOT NULL REFERENCES backfill_registrations (id),
    size_bytes      bigint NOT NULL,
    sha256          text NOT NULL,
    row_count       bigint NOT NULL,
    partitions      integer NOT NULL,
    completed_at    timestamptz,
    grown_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX backfill_growths_registration_idx ON backfill_growths (registration_id);
