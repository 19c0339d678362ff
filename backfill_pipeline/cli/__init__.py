"""The `backfill` command.

Belongs here: arguments, output, exit codes. Imports are light on purpose: everything heavy is imported by the command
that needs it, so that `backfill --help` answers at once.
Does not: the work.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point: runs the command, turns errors into one sentence and an exit code."""
    from backfill_pipeline.cli.app import app
    from backfill_pipeline.cli.exit_codes import ExitCode
    from backfill_pipeline.errors import BackfillError, UsageError

    try:
        app()
    except UsageError as error:
        print(f"backfill: {error}", file=sys.stderr)
        sys.exit(ExitCode.USAGE)
    except BackfillError as error:
        print(f"backfill: {error}", file=sys.stderr)
        sys.exit(ExitCode.FAILED)
    except KeyboardInterrupt:
        print(
            "backfill: interrupted; what is committed stays, backfill resume SOURCE carries on",
            file=sys.stderr,
        )
        sys.exit(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) went away: nothing to tell anybody.
        sys.stderr.close()
        sys.exit(ExitCode.CLEAN)
