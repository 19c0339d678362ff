"""What the streams of statement files share: whose content they read, and how it is named.

Belongs here: place, name and fingerprint of a stream over one file.
Does not: reading statements (its neighbours).
"""

from backfill_pipeline.sources.files.content import Content


class ContentStream:
    """A `RecordStream` but for its records."""

    def __init__(self, content: Content) -> None:
        self._content = content

    @property
    def place(self) -> str:
        """See `RecordStream.place`."""
        return str(self._content.file)

    @property
    def name(self) -> str:
        """See `RecordStream.name`."""
        return self._content.file.name

    def fingerprint(self) -> tuple[int, str]:
        """See `RecordStream.fingerprint`."""
        return self._content.fingerprint()
