"""The pages of codes: what commands end with, why rows are rejected, and what errors there are.

Belongs here: exit codes, reject codes, families of errors.
Does not: examples of bad rows (`docs/bad-input.md`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from backfill_pipeline import errors
from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.documentation.markdown import code, page, plain, table
from backfill_pipeline.schemas.reject_hints import hint
from backfill_pipeline.schemas.rejects import RejectCode, Stage

_EXIT_CODES = """\
A command ends with one of these. They are part of the product's interface: their meaning does not change, and none of
them calls a loss a success. Where a command uses only some of them, or means something narrower, its
[help](commands.md) says so."""

_ERRORS = """\
## Errors

An error is one sentence for people: the thing, the place, the remedy. It holds no secret and no traceback. What a
program that uses the package catches is one of these classes of `backfill_pipeline.errors`. *Transient* errors are
tried again with growing pauses; *terminal* ones never are, because they would fail again until somebody changes
something."""

_REJECT_CODES = """\
A row that cannot be posted becomes a reject with one of these codes, and the others go on. The stage is where that is
found out: `extract` (reading the record), `transform` (mapping its columns), `validate` (checking the entry by
itself), `post` (asking the ledger). The first field that fails gives the code; the reasons of all fields are kept.
[Bad input](../bad-input.md) has an example of each, and [rejects](../rejects.md) says how rows are repaired.

Codes are part of the product's interface: they are not renamed."""


def exit_codes_page() -> str:
    """`docs/reference/exit-codes.md`."""
    rows = [(str(one.value), plain(one.meaning)) for one in ExitCode]
    return page(
        "Exit codes and errors",
        _EXIT_CODES,
        table(("code", "meaning"), rows),
        _ERRORS,
        table(("error", "tried again", ""), _errors()),
    )


def reject_codes_page() -> str:
    """`docs/reference/reject-codes.md`."""
    parts = [_REJECT_CODES]
    for stage in Stage:
        rows = [
            (code(one), plain(one.description), plain(hint(one))) for one in RejectCode if one.stage == stage
        ]
        parts += [f"## {stage}", table(("code", "what it means", "how a row is repaired"), rows)]
    return page("Reject codes", *parts)


def _errors() -> Iterator[tuple[str, str, str]]:
    families = (errors.TransientError, errors.TerminalError)
    for name, one in vars(errors).items():
        if not inspect.isclass(one) or one in (errors.BackfillError, *families):
            continue
        if issubclass(one, families):
            yield (
                code(name),
                "yes" if issubclass(one, errors.TransientError) else "no",
                plain(one.__doc__ or ""),
            )
