"""The fields of an MT940 message: what stands between two tags, and what the single ones mean.

Belongs here: lines, tags and envelopes; balances, statement lines (:61:) and structured descriptions (:86:).
Does not: which fields make a statement (`mt940_stream.py`).

The format is that of SWIFT's category 9 handbook. Why the package mt-940 is not used is in
docs/decisions/kinds-of-files.md.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.sources.files.csv_records import RECORD_BYTES_MAX
from backfill_pipeline.sources.statements.statement_control import Balance

_TAG: Final = re.compile(r":([0-9]{2}[A-Z]?|NS):")
_ENVELOPE: Final = re.compile(r"\{[0-9A-Z]:")
_AMOUNT: Final = r"([0-9]{1,15},[0-9]{0,15})"
_BALANCE: Final = re.compile(rf"([CD])([0-9]{{6}})([A-Z]{{3}}){_AMOUNT}")
_LINE: Final = re.compile(
    rf"([0-9]{{6}})([0-9]{{4}}|    )?(R?[CD])([A-Z]?){_AMOUNT}([A-Z][A-Z0-9 ]{{3}})(.*)"
)
_STRUCTURED: Final = re.compile(r" *([0-9]{3})([?>])(?=[0-9]{2})")
_KEYWORD: Final = re.compile(r"(EREF|KREF|MREF|CRED|DEBT|COAM|OAMT|SVWZ|ABWA|ABWE|IBAN|BIC)\+")
_CENTURY_PIVOT: Final = 80
"""Two digits of a year: 80 to 99 are of the twentieth century, as SWIFT has it."""


@dataclass(slots=True)
class Field:
    """What stands between a tag and the next one.

    Attributes:
        tag: such as "61" or "60F"; "" for the end of a message.
        line: of the file, where it begins.
        lines: its text.
        flaw: what makes its bytes unfit.
    """

    tag: str
    line: int
    lines: list[str] = field(default_factory=list)
    flaw: tuple[RejectCode, str] | None = None
    size_bytes: int = 0

    def add(self, text: str, flaw: tuple[RejectCode, str] | None) -> None:
        """One more line; more than a record may hold is cut off, and told."""
        self.size_bytes += len(text) + 1
        if self.size_bytes > RECORD_BYTES_MAX:
            flaw = RejectCode.RECORD_TOO_LONG, f"the field :{self.tag}: is longer than 1 MiB"
        else:
            self.lines.append(text)
        self.flaw = self.flaw or flaw

    @property
    def text(self) -> str:
        """Its lines as one text."""
        return "\n".join(self.lines)

    @property
    def raw(self) -> str:
        """As in the file, tag included."""
        return f":{self.tag}:{self.text}"


@dataclass(frozen=True, slots=True)
class StatementLine:
    """A :61: field."""

    value_date: str
    entry_date: str
    sign: str
    funds_code: str
    amount: str
    type: str
    customer_reference: str
    bank_reference: str
    details: str

    @property
    def movement(self) -> Decimal:
        """What it does to the account: credits and reversed debits are money in."""
        amount = Decimal(self.amount)
        return amount if self.sign in ("C", "RD") else -amount


def fields_of(lines: Iterable[tuple[int, bytes]], encoding: str) -> Iterator[Field]:
    """The fields of a file, and an empty tag at the end of each message.

    Args:
        lines: with their numbers, without what ends them.
        encoding: of the file.
    """
    current: Field | None = None
    for number, data in lines:
        text, flaw = _decoded(number, data, encoding)
        is_end = text.rstrip() == "-" or text.startswith("-}")
        if is_end or _ENVELOPE.match(text):
            if current is not None:
                yield current
                current = None
            yield Field("", number)
            text = text.partition("{4:")[2]
            while text.startswith("-}") or _ENVELOPE.match(text):  # several messages begin on one line
                text = text.partition("{4:")[2]
        if match := _TAG.match(text):
            if current is not None:
                yield current
            current = Field(match[1], number)
            current.add(text[match.end() :], flaw)
        elif current is not None and text.strip():
            current.add(text, flaw)
    if current is not None:
        yield current


def balance_of(text: str) -> Balance | None:
    """The balance of a :60: or :62: field; None when it is written in another way."""
    match = _BALANCE.fullmatch(text.strip())
    if match is None:
        return None
    sign, day, currency, amount = match.groups()
    value = Decimal(_decimal(amount))
    return Balance(-value if sign == "D" else value, currency, _date(day))


def statement_line_of(lines: list[str]) -> StatementLine | str:
    """A :61: field, or what is wrong with it."""
    match = _LINE.fullmatch(lines[0].rstrip()) if lines else None
    if match is None:
        return ":61: is not a date, C, D, RC or RD, an amount with a comma, a type of four characters, and references"
    value, entry, sign, funds, amount, kind, references = match.groups()
    customer, _, bank = references.partition("//")
    return StatementLine(
        value_date=_date(value),
        entry_date=_entry_date(value, (entry or "").strip()),
        sign=sign,
        funds_code=funds,
        amount=_decimal(amount),
        type=kind.strip(),
        customer_reference=customer.strip(),
        bank_reference=bank.strip(),
        details="\n".join(lines[1:]),
    )


def description_of(lines: list[str]) -> dict[str, str]:
    """What a structured :86: field says: two-digit codes behind ? or >, as German banks write it; else nothing.

    Texts that are cut into several codes are joined as they are cut.
    """
    whole = "".join(lines)
    match = _STRUCTURED.match(whole)
    if match is None:
        return {}
    parts = {"transaction_code": match[1]}
    keyword: str | None = None
    for part in whole[match.end() :].split(match[2]):
        code, text = part[:2], part[2:]
        name = _CODES.get(code)
        if name is None:
            continue
        parts[name] = parts.get(name, "") + text
        if name == "purpose":
            # A keyword of SEPA stands at the beginning of a code; its text may go on in the next ones.
            if begins := _KEYWORD.match(text):
                keyword, text = _KEYWORDS.get(begins[1]), text[begins.end() :]
            if keyword is not None:
                parts[keyword] = parts.get(keyword, "") + text
    return parts


_CODES: Final = {
    "00": "posting_text",
    "10": "journal_number",
    **{str(code): "purpose" for code in (*range(20, 30), *range(60, 64))},
    "30": "counterparty_bank",
    "31": "counterparty_account",
    "32": "counterparty_name",
    "33": "counterparty_name",
    "34": "text_key",
}
_KEYWORDS: Final = {
    "EREF": "end_to_end_id",
    "MREF": "mandate_id",
    "CRED": "creditor_id",
    "SVWZ": "remittance",
}


def _decoded(number: int, data: bytes, encoding: str) -> tuple[str, tuple[RejectCode, str] | None]:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode(encoding, errors="backslashreplace")
        return text, (RejectCode.ENCODING_INVALID, f"line {number} of the file is not {encoding}")
    if "\0" in text:
        return text, (RejectCode.NUL_BYTE, f"line {number} of the file holds a NUL byte")
    return text, None


def _decimal(amount: str) -> str:
    """With a point, and without the zeros that some banks put in front."""
    return f"{Decimal(amount.replace(',', '.')):f}"


def _date(day: str) -> str:
    """ISO from YYMMDD; whether there is such a day is left to who reads it."""
    century = "19" if int(day[:2]) >= _CENTURY_PIVOT else "20"
    return f"{century}{day[:2]}-{day[2:4]}-{day[4:]}"


def _entry_date(value: str, entry: str) -> str:
    """ISO from MMDD, in the year that is nearest to the value date."""
    if not entry:
        return ""
    year = int(_date(value)[:4])
    months_later = int(entry[:2]) - int(value[2:4])
    if months_later > 6:
        year -= 1
    elif months_later < -6:
        year += 1
    return f"{year}-{entry[:2]}-{entry[2:]}"
