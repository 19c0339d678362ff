"""CSV for spreadsheets: what they must not run.

Belongs here: cells that would be read as formulas, and back.
Does not: files.

A spreadsheet runs cells that begin with = + - @ as formulas. Such a cell gets an apostrophe in front, and so does one
with apostrophes before such a character: so taking one away gives every cell back exactly, -12.50 as well as '=x.
"""

from __future__ import annotations

import re
from typing import Final

FORMULA: Final = r"^('*[=+\-@\t\r])"
"""What gets an apostrophe in front; in the syntax of both RE2 and Python."""


def spreadsheet_safe(value: object) -> object:
    """Text that a spreadsheet would run as a formula, with an apostrophe in front; everything else as it is."""
    return re.sub(FORMULA, r"'\1", value) if isinstance(value, str) else value
