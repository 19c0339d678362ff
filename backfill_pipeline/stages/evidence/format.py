"""What an evidence pack is made of: the names of its files, and what identifies its form.

Belongs here: what writing and checking must agree on.
Does not: either of them. Checking needs nothing of the pipeline but this.
"""

from __future__ import annotations

from typing import Final

FORMAT: Final = "ledger-backfill-evidence/1"
SUMMARY: Final = "summary.json"
PAGE: Final = "index.html"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "signature.json"
DEFINITION: Final = "definition.yaml"

COUNTS: Final = ("read", "posted", "duplicates", "conflicts", "rejected", "filtered")
"""The first one is the sum of the others."""
