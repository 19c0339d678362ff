"""The error families of the product.

Belongs here: the classes that every layer raises, and nothing about how they are shown or retried.
Does not: data errors. A bad row is not an exception; it becomes a reject row with a code (`schemas/rejects.py`).

A message is one sentence for the operator: it names the thing, the place and the remedy, and holds no secret.
"""


class BackfillError(Exception):
    """Any failure that the product explains to its user without a traceback."""


class TransientError(BackfillError):
    """May succeed when tried again: connection lost, deadlock, server starting. Retried with backoff and jitter."""


class TerminalError(BackfillError):
    """Will fail again until somebody changes something. Never retried."""


class UsageError(TerminalError):
    """The command was asked for something that does not exist or cannot be meant (exit code 2)."""


class SettingsError(UsageError):
    """An environment variable is missing or has a value that cannot be used."""


class SourceDefinitionError(UsageError):
    """A source definition (YAML) is wrong; the message names file, key, value and what is allowed."""


class SourceFileError(TerminalError):
    """The file of a source is missing, unreadable or not shaped as its definition says."""


class SourceChangedError(TerminalError):
    """The source's content or mapping differs from what its checkpoint is bound to."""


class TooManyRejectsError(TerminalError):
    """A partition holds more rejects than `max_error_rate` allows; nothing of it was posted."""


class LedgerError(TerminalError):
    """The ledger refuses something that no retry will change."""


class TransientLedgerError(TransientError):
    """Connection lost, deadlock, serialization failure, lock timeout. Either nothing was posted or everything was."""


class TransientSourceError(TransientError):
    """A database or an API that a source is read from does not answer as it should, but may when tried again."""


class SourceBusyError(TerminalError):
    """Another run holds the single-writer lock of this source."""


class EmbeddedServerError(TerminalError):
    """The embedded PostgreSQL cannot be initialised or started."""


class AlertError(TerminalError):
    """A channel of alerts (webhook, Slack, mail) refuses what it is sent, and will until somebody changes something."""


class TransientAlertError(TransientError):
    """A channel of alerts does not answer as it should, but may when tried again."""
