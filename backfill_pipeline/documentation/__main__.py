"""`make reference`: writes the pages that are made from the code.

Belongs here: a ledger for them to be made from, writing, what is printed.
Does not: what is on them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from backfill_pipeline.documentation.pages import made_pages, outdated
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.local.embedded import embedded_server
from backfill_pipeline.settings import checkout_dir

# On a disk, and as root not in a home, which the server's user could not enter.
_SCRATCH = Path("/var/tmp")  # noqa: S108 - a directory of our own is made in it


def main() -> int:
    """Writes what is out of date, and says which pages that were.

    Returns:
        0, or 1 with a sentence.
    """
    checkout = checkout_dir()
    if checkout is None:
        sys.stderr.write("There is no checkout to write pages into: run it in one.\n")
        return 1
    docs = checkout / "docs"
    try:
        pages = _pages(docs)
    except BackfillError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name in outdated(pages, docs):
        place = docs / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(pages[name], encoding="utf-8")
        sys.stdout.write(f"docs/{name}\n")
    return 0


def _pages(docs: Path) -> dict[str, str]:
    with tempfile.TemporaryDirectory(dir=_SCRATCH, prefix="ledger-backfill-") as scratch:
        Path(scratch).chmod(0o711)
        with embedded_server(Path(scratch) / "home") as server, connect(server.url("postgres")) as connection:
            migrate(connection)
            return made_pages(connection, docs)


if __name__ == "__main__":
    sys.exit(main())
