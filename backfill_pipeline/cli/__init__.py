"""The `backfill` command.

Belongs here: arguments, output, exit codes. Imports are light on purpose: everything heavy is imported by the command
that needs it, so that `backfill --help` answers at once.
Does not: the work.
"""

from __future__ import annotations

import sys

_INTERRUPTED = "backfill: interrupted; what is committed stays, backfill resume SOURCE carries on"
_SYNC_INTERRUPTED = "backfill: interrupted; what is committed stays, the same command carries on"
_PLAN_INTERRUPTED = "backfill: interrupted; a plan leaves nothing behind"
# Characters of an unforeseen error's own text.
_UNEXPECTED_SHOWN = 300


def main() -> None:
    """Entry point: runs the command, turns errors into one sentence and an exit code."""
    from backfill_pipeline.cli.preload import import_mostly
    from backfill_pipeline.cli.signals import treat_sigterm_as_ctrl_c

    treat_sigterm_as_ctrl_c()
    import_mostly()

    from backfill_pipeline.cli.app import app
    from backfill_pipeline.cli.exit_codes import ExitCode
    from backfill_pipeline.errors import BackfillError, UsageError

    try:
        app(prog_name="backfill")
    except UsageError as error:
        print(f"backfill: {error}", file=sys.stderr)
        sys.exit(ExitCode.USAGE)
    except BackfillError as error:
        print(f"backfill: {error}", file=sys.stderr)
        sys.exit(ExitCode.FAILED)
    except KeyboardInterrupt:
        print(_interrupted(), file=sys.stderr)
        sys.exit(ExitCode.INTERRUPTED)
    except SystemExit as end:
        if end.code == ExitCode.INTERRUPTED:  # typer turned Ctrl-C into an exit code without a word
            print(_interrupted(), file=sys.stderr)
        raise
    except BrokenPipeError:
        # The reader (head, less) went away: nothing to tell anybody.
        sys.stderr.close()
        sys.exit(ExitCode.CLEAN)
    except Exception as error:  # a bug, or a server that went away under somebody else's library
        print(f"backfill: {_unexpected(error)}", file=sys.stderr)
        sys.exit(ExitCode.FAILED)


def _interrupted() -> str:
    if sys.argv[1:2] in (["sync"], ["outbox"], ["alerts"]):
        return _SYNC_INTERRUPTED
    return _PLAN_INTERRUPTED if sys.argv[1:2] == ["plan"] else _INTERRUPTED


def _unexpected(error: Exception) -> str:
    """A failure that nobody foresaw, in a sentence; its traceback goes to a file for whoever has to find the cause."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="backfill-error-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exception(error, file=file)
    text = " ".join(str(error).split())
    shown = text if len(text) <= _UNEXPECTED_SHOWN else f"{text[:_UNEXPECTED_SHOWN]}…"
    return (
        f"unexpected {type(error).__name__}: {shown}; what is committed stays, so the command can be run again;"
        f" details for a bug report: {file.name}"
    )
