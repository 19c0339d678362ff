"""A first draft of a source definition, from a profile.

Belongs here: the draft's text; every line that the file does not settle says what is to be decided.
Does not: finding anything out (`profile.py`).

A decision that the file leaves open is a comment and not a key: the draft does not load before it is made, and
`backfill sources check` names what is missing.
"""

import os
import re
from pathlib import Path
from typing import Final

import yaml

from backfill_pipeline.definition.formats import CsvDialect, XlsxFormat
from backfill_pipeline.profiling.candidates import Candidate
from backfill_pipeline.profiling.evidence import MOST
from backfill_pipeline.profiling.profile import FileProfile

_SURE: Final = ("high", "medium")


def draft(profile: FileProfile, folder: Path) -> str:
    """The text of a source file.

    Args:
        profile: of the export.
        folder: where the draft will lie; its path to the export starts there.
    """
    made = _Draft(profile)
    fields = made.fields()
    lines = [
        '# A first draft by backfill profile. Every line with "decide" waits for somebody who knows the bank.',
        "# Then: backfill sources check, backfill sources preview, backfill plan, backfill run.",
        f"id: {source_id(profile.file)}",
        f"type: {'csv' if profile.written.workbook is None else 'xlsx'}",
        f"file: {_quoted(_path(profile.file, folder))}",
        *_section(profile),
        "",
        "fields:",
        *(f"  {line}" for line in fields),
    ]
    if rest := made.unused():
        lines.append(f"metadata: [{', '.join(_quoted(name) for name in rest)}]")
    if made.signed_column is not None:
        below = f"{{{_quoted(made.signed_column)}: {{below: 0}}}}"
        lines += [
            "",
            "# decide: what an amount below zero is; with absolute: true in amount, a rule can exchange the accounts",
            '# (see "A bank statement" in docs/source-definition.md):',
            "# rules:",
            f"#   - when: {below}",
            "#     set: {debit_account_id: …, credit_account_id: …}",
        ]
    lines += [
        "",
        "# decide: accounts and opening balances come from a file (see accounts), or are in the ledger already, or are",
        "# opened as they occur (unknown_accounts: create).",
        "unknown_accounts: reject",
    ]
    return "\n".join(lines) + "\n"


def source_id(file: Path) -> str:
    """An id that is allowed, from a file's name."""
    name = re.sub(r"[^a-z0-9_]+", "_", file.stem.casefold()).strip("_")
    return (name if re.match("[a-z]", name) else f"source_{name}".rstrip("_"))[:63]


class _Draft:
    """The fields of a draft, and the columns that they use."""

    def __init__(self, profile: FileProfile) -> None:
        self._profile = profile
        self._columns = {column.name: column for column in profile.columns}
        self._used: set[str] = set()
        self.signed_column: str | None = None

    def fields(self) -> list[str]:
        return [
            *self._ledger(),
            *self._accounts(),
            *self._amount(),
            *self._currency(),
            *self._type(),
            *self._reference(),
            *self._time(),
            *self._rate(),
        ]

    def unused(self) -> list[str]:
        """Columns that no field uses and that hold something."""
        return [
            column.name
            for column in self._profile.columns
            if column.name not in self._used and column.kind != "empty"
        ]

    def _of(self, field: str) -> tuple[Candidate, ...]:
        return tuple(one for one in self._profile.candidates.get(field, ()) if one.column not in self._used)

    def _best(self, field: str) -> tuple[Candidate | None, str]:
        """The surest candidate, and what to say of the others; none when two are equally sure."""
        able = [one for one in self._of(field) if one.confidence in _SURE]
        if not able:
            return None, ""
        others = ", ".join(one.column for one in able[1:])
        self._used.add(able[0].column)
        sure = able[0].confidence == "high" and not (len(able) > 1 and able[1].confidence == "high")
        if sure:
            return able[0], ""
        return able[0], _comment(f"decide: {able[0].why}" + (f"; or {others}" if others else ""))

    def _ledger(self) -> list[str]:
        found, note = self._best("ledger_id")
        if found is not None:
            return [f"ledger_id: {_quoted(found.column)}{note}"]
        return ["ledger_id: {constant: MASTER}  # decide: the ledger's name"]

    def _accounts(self) -> list[str]:
        lines = []
        for field, what in (
            ("debit_account_id", "the account that receives"),
            ("credit_account_id", "the account that pays"),
        ):
            found, note = self._best(field)
            if found is not None:
                lines.append(f"{field}: {_quoted(found.column)}{note}")
                continue
            others = ", ".join(one.column for one in self._of("account"))
            hint = f"; columns with accounts: {others}" if others else "; no column is surely one"
            lines.append(f"# {field}:{_comment(f'decide: {what}{hint}')}")
        return lines

    def _amount(self) -> list[str]:
        found, note = self._best("amount")
        if found is None:
            return ["# amount:  # decide: no column is surely an amount"]
        column = self._columns[found.column]
        number = column.number
        assert number is not None
        lines = []
        if number.readings:
            first, second = number.readings
            lines.append("# decide: no row tells which mark is which:")
            lines += [f"#   {_comment_text(one)}" for one in (first, second)]
            return [*lines, f"# amount: {{column: {_quoted(found.column)}, decimal_mark: …}}"]
        if number.decided_by is not None and (number.decimal_mark, number.thousands_mark) != (".", None):
            lines.append(f"# {_comment_text(f'{number.decided_by} decides which mark is which')}")
        if number.negative:
            said = f"decide: amounts below zero in the sample: {number.negative}; they are rejects, or see rules below"
            lines.append(f"# {said}")
            self.signed_column = found.column
        for sign in self._of("sign"):
            lines.append(
                f"# {_comment_text(f'decide: {sign.column} {sign.why}: it may tell the direction of the amount')}"
            )
        marks = "" if number.decimal_mark == "." else f', decimal_mark: "{number.decimal_mark}"'
        marks += f', thousands_mark: "{number.thousands_mark}"' if number.thousands_mark else ""
        rule = f"{{column: {_quoted(found.column)}{marks}}}" if marks else _quoted(found.column)
        return [*lines, f"amount: {rule}{note}"]

    def _currency(self) -> list[str]:
        found, note = self._best("currency_code")
        if found is None:
            return ["# currency_code: {constant: EUR}  # decide: no column holds it"]
        column = self._columns[found.column]
        if column.empty > (1 - MOST) * column.rows:
            rule = f"{{column: {_quoted(found.column)}}}"
            empty = f"decide: {column.empty} of {column.rows} values are empty, a default may be given"
            return [f"currency_code: {rule}{_comment(empty)}"]
        return [f"currency_code: {_quoted(found.column)}{note}"]

    def _type(self) -> list[str]:
        found, note = self._best("transaction_type")
        if found is None:
            return ["transaction_type: {constant: TRANSFER}  # decide: no column surely holds it"]
        if empty := self._columns[found.column].empty:
            note = _comment(f"decide: the default for empty values ({empty} in the sample)")
            return [f"transaction_type: {{column: {_quoted(found.column)}, default: TRANSFER}}{note}"]
        return [f"transaction_type: {_quoted(found.column)}{note}"]

    def _reference(self) -> list[str]:
        found, note = self._best("reference_id")
        if found is not None:
            return [f"reference_id: {_quoted(found.column)}{note}"]
        nearly = [
            one.name
            for one in self._profile.columns
            if one.kind == "text" and one.rows and not one.empty and one.distinct > 0.95 * one.rows
        ]
        hint = f"; {nearly[0]} nearly is" if nearly and nearly[0] not in self._used else ""
        said = f"decide: no column is surely unique{hint}; name the columns that identify a booking"
        return [f"reference_id: {{generate: true}}{_comment(said)}"]

    def _time(self) -> list[str]:
        able = self._of("timestamp_utc")
        if not able:
            return ["# timestamp_utc:  # decide: no column surely holds it"]
        chosen = self._columns[able[0].column]
        self._used.add(chosen.name)
        others = ", ".join(one.column for one in able[1:])
        lines = [f"# {_comment_text(f'decide: {chosen.name}, or {others}')}"] if others else []
        name = _quoted(chosen.name)
        if chosen.time is None:
            epoch = " and the day that is 0 (epoch)" if chosen.epoch == "epoch_days" else ""
            said = f"decide: whether its integers are {chosen.epoch}{epoch}"
            return [*lines, f"# timestamp_utc: {{column: {name}, format: {chosen.epoch}}}{_comment(said)}"]
        time = chosen.time
        if len(time.formats) > 1:
            said = f"decide: no row tells which of these it is: {', '.join(time.formats)}"
            return [*lines, f"# {_comment_text(said)}", f"# timestamp_utc: {{column: {name}, format: …}}"]
        if time.decided_by is not None:
            lines.append(f"# {_comment_text(f'{time.decided_by} decides between day and month')}")
        rule = f'column: {name}, format: "{time.formats[0]}"'
        undecided = []
        if time.two_digit_year:
            rule += ", pivot: …"
            undecided.append("the first year that its two digits can mean, such as 1970")
        if not time.has_offset:
            rule += ", timezone: …"
            undecided.append("the zone of these times, such as Europe/Berlin")
        if not undecided:
            return [*lines, f"timestamp_utc: {{{rule}}}"]
        return [*lines, f"# timestamp_utc: {{{rule}}}{_comment('decide: ' + '; '.join(undecided))}"]

    def _rate(self) -> list[str]:
        found, _ = self._best("fx_rate")
        if found is None or (number := self._columns[found.column].number) is None or number.readings:
            return []
        marks = "" if number.decimal_mark == "." else f', decimal_mark: "{number.decimal_mark}"'
        note = _comment("decide: whether it is units of the other account's currency per unit of the entry's")
        return [f"fx_rate: {{column: {_quoted(found.column)}{marks}}}{note}"]


def _section(profile: FileProfile) -> list[str]:
    """How the file is written, and what is to be known of it."""
    name, keys = "csv", _csv(profile.written.dialect)
    if profile.written.workbook is not None:
        name, keys = "xlsx", _xlsx(profile.written.workbook)
    lines = [f"# {_comment_text(note)}" for note in profile.written.notes]
    return [*lines, *([f"{name}: {{{', '.join(keys)}}}"] if keys else [])]


def _xlsx(section: XlsxFormat) -> list[str]:
    keys = [] if section.sheet is None else [f"sheet: {_quoted(section.sheet)}"]
    if section.columns is not None:
        keys += [f"columns: [{', '.join(section.columns)}]", f"first_row: {section.begins_in()}"]
    elif section.named_in() != 1:
        keys.append(f"header_row: {section.named_in()}")
    return keys if section.first_column == 1 else [*keys, f"first_column: {section.first_column}"]


def _csv(dialect: CsvDialect) -> list[str]:
    keys = []
    if dialect.delimiter != ",":
        keys.append('delimiter: "\\t"' if dialect.delimiter == "\t" else f'delimiter: "{dialect.delimiter}"')
    if dialect.quote is None:
        keys.append("quote: null")
    if dialect.encoding != "utf-8":
        keys.append(f"encoding: {dialect.encoding}")
    if dialect.columns is not None:
        keys += ["header: false", f"columns: [{', '.join(dialect.columns)}]"]
    if dialect.skip_lines:
        keys.append(f"skip_lines: {dialect.skip_lines}")
    return keys


def _path(file: Path, folder: Path) -> str:
    """Relative to the draft where that is no long way; `$` begins no variable in it."""
    whole, start = file.resolve(), folder.resolve()
    near = os.path.relpath(whole, start)
    return str(whole) if near.count("..") > 2 else near


def _quoted(text: str) -> str:
    """A text as a YAML scalar that can stand in braces, whatever it holds."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_ .-]*[A-Za-z0-9_]|[A-Za-z_]", text) and text.casefold() != "null":
        return text
    return str(
        yaml.safe_dump(text, default_style='"', allow_unicode=text.isprintable(), width=10_000)
    ).strip()


def _comment(text: str) -> str:
    return f"  # {_comment_text(text)}"


def _comment_text(text: str) -> str:
    """Text of the file as a comment: on one line, whatever it holds."""
    return "".join(one if one.isprintable() else " " for one in text)
