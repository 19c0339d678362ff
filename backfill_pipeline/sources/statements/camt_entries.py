"""The entries of a camt document, as records.

Belongs here: the columns of a record, and where in an entry each is; balances.
Does not: documents and statements (`camt_stream.py`).

All versions that are in use, camt.05x.001.02 to .13, are read by the names of their elements: what later ones moved is
looked for at both places.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.sources.statements.statement_control import EXACT, Balance

COLUMNS: Final = (
    *("account", "account_currency", "statement_id", "statement_number"),
    *("opening_balance", "opening_date", "closing_balance", "closing_date"),
    *("entry_number", "detail_number", "detail_count", "entry_reference", "servicer_reference"),
    *(
        "status",
        "booking_date",
        "value_date",
        "sign",
        "reversal",
        "amount",
        "signed_amount",
        "currency",
        "balance",
    ),
    *("domain", "family", "subfamily", "proprietary_code"),
    *("end_to_end_id", "instruction_id", "transaction_id", "mandate_id", "payment_id"),
    *("counterparty_name", "counterparty_account", "debtor_name", "debtor_account"),
    *("creditor_name", "creditor_account", "remittance", "creditor_reference", "additional_information"),
    *("instructed_amount", "instructed_currency", "return_reason"),
)

_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_AMOUNT: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{0,18})?")


@dataclass(slots=True)
class Node:
    """An element with what it holds.

    Attributes:
        line: of the file, where it begins.
        currency: its attribute Ccy.
        detail: what a TxDtls element says, in place of its children.
    """

    name: str
    line: int
    currency: str = ""
    text: str = ""
    children: list["Node"] = field(default_factory=list)
    detail: "Detail | None" = None

    def all(self, *path: str) -> Iterator["Node"]:
        """The elements at a path of names."""
        for child in self.children:
            if child.name == path[0]:
                if len(path) == 1:
                    yield child
                else:
                    yield from child.all(*path[1:])

    def first(self, *path: str) -> "Node | None":
        """The first element at a path."""
        return next(self.all(*path), None)

    def find(self, *path: str) -> str:
        """The text of the first element at a path; "" where there is none."""
        node = self.first(*path)
        return "" if node is None else node.text.strip()

    def fold(self) -> int:
        """Keeps of a TxDtls element what becomes a record; the number of elements that it held."""
        self.detail = _detail_of(self)
        waiting, count = self.children, 0
        while waiting:
            count += len(waiting)
            waiting = [child for one in waiting for child in one.children]
        self.children = []
        return count


@dataclass(frozen=True, slots=True)
class Detail:
    """A TxDtls element.

    Attributes:
        sign: CdtDbtInd; "" when it is that of the entry.
        amounts: what may be its share of the entry, with its currency; the surest first.
        values: column → text, where there is any.
    """

    line: int
    sign: str
    amounts: tuple[tuple[str, str], ...]
    values: dict[str, str]


@dataclass(slots=True)
class CamtRecord:
    """A record.

    Attributes:
        movement: what it does to the account; None when that cannot be read.
        is_booked: whether it is a part of the booked balance.
        problem: why it is malformed.
    """

    line: int
    values: dict[str, str]
    movement: Decimal | None
    currency: str
    is_booked: bool
    problem: tuple[RejectCode, str] | None = None


def balance_of(node: Node) -> Balance | str:
    """A Bal element, or what is wrong with it, behind its name."""
    amount = node.first("Amt")
    value = None if amount is None else _signed(amount.text.strip(), node.find("CdtDbtInd"))
    if amount is None or value is None or not _CURRENCY.fullmatch(amount.currency):
        return "has no amount with its currency, or not CRDT or DBIT"
    return Balance(value, amount.currency, (node.find("Dt", "Dt") or node.find("Dt", "DtTm"))[:10])


def records_of(entry: Node, number: int) -> list[CamtRecord]:
    """An entry as one record; or each of its details as one, when their amounts are given and add up to the entry.

    Args:
        entry: an Ntry element.
        number: of the entry in its statement, from 1.
    """
    amount = entry.first("Amt")
    sign = entry.find("CdtDbtInd")
    movement = None
    if amount is not None and _CURRENCY.fullmatch(amount.currency):
        movement = _signed(amount.text.strip(), sign)
    status = entry.find("Sts", "Cd") or entry.find("Sts")
    whole = CamtRecord(
        entry.line,
        _of_entry(entry, number, status),
        movement,
        "" if amount is None else amount.currency,
        is_booked=status == "BOOK",
    )
    if amount is None or movement is None:
        whole.problem = (
            RejectCode.RECORD_MALFORMED,
            "the entry has no amount with its currency, or not CRDT or DBIT",
        )
        return [whole]
    details = [one.detail for one in entry.all("NtryDtls", "TxDtls") if one.detail is not None]
    whole.values["detail_count"] = str(len(details))
    parts = _parts(details, amount.currency, sign, movement) if len(details) > 1 else None
    if parts is None:
        one = details[0] if len(details) == 1 else None
        return [_with(whole, one, movement, amount.currency, 1)]
    return [
        _with(whole, detail, part, amount.currency, place)
        for place, (detail, part) in enumerate(zip(details, parts, strict=True), start=1)
    ]


def _parts(details: list[Detail], currency: str, sign: str, movement: Decimal) -> list[Decimal] | None:
    """What each detail does to the account; None unless all say so, and add up to the entry."""
    parts = []
    total = Decimal()
    for detail in details:
        text = next((text for text, of in detail.amounts if of == currency), "")
        part = _signed(text, detail.sign or sign)
        if part is None:
            return None
        parts.append(part)
        total = EXACT.add(total, part)
    return parts if total == movement else None


def _with(
    whole: CamtRecord, detail: Detail | None, movement: Decimal, currency: str, place: int
) -> CamtRecord:
    """The record of an entry, or of one of its details."""
    is_out = movement < 0 or (not movement and whole.values["sign"] == "DBIT")
    values = {
        **whole.values,
        "detail_number": str(place),
        "amount": f"{abs(movement):f}",
        "signed_amount": f"{movement:f}",
        "sign": "DBIT" if is_out else "CRDT",
        "currency": currency,
    }
    line = whole.line
    if detail is not None:
        values.update(detail.values)
        # Of a reversal, the parties are those of what is reversed.
        other = "creditor" if is_out != (values["reversal"] == "true") else "debtor"
        for what in ("name", "account"):
            values[f"counterparty_{what}"] = values.get(f"{other}_{what}", "")
        line = line if place == 1 else detail.line
    return CamtRecord(line, values, movement, currency, whole.is_booked)


def _of_entry(entry: Node, number: int, status: str) -> dict[str, str]:
    code = entry.first("BkTxCd")
    return {
        "entry_number": str(number),
        "entry_reference": entry.find("NtryRef"),
        "servicer_reference": entry.find("AcctSvcrRef"),
        "status": status,
        "booking_date": entry.find("BookgDt", "Dt") or entry.find("BookgDt", "DtTm"),
        "value_date": entry.find("ValDt", "Dt") or entry.find("ValDt", "DtTm"),
        "sign": entry.find("CdtDbtInd"),
        "reversal": "true" if entry.find("RvslInd") in ("true", "1") else "false",
        "additional_information": entry.find("AddtlNtryInf"),
        **({} if code is None else _of_code(code)),
    }


def _of_code(code: Node) -> dict[str, str]:
    return {
        "domain": code.find("Domn", "Cd"),
        "family": code.find("Domn", "Fmly", "Cd"),
        "subfamily": code.find("Domn", "Fmly", "SubFmlyCd"),
        "proprietary_code": code.find("Prtry", "Cd"),
    }


def _detail_of(detail: Node) -> Detail:
    amounts = []
    for path in (("Amt",), ("AmtDtls", "TxAmt", "Amt")):
        if (amount := detail.first(*path)) is not None:
            amounts.append((amount.text.strip(), amount.currency))
    instructed = detail.first("AmtDtls", "InstdAmt", "Amt")
    code = detail.first("BkTxCd")
    values = {
        **({} if code is None else _of_code(code)),
        "servicer_reference": detail.find("Refs", "AcctSvcrRef"),
        "end_to_end_id": detail.find("Refs", "EndToEndId"),
        "instruction_id": detail.find("Refs", "InstrId"),
        "transaction_id": detail.find("Refs", "TxId"),
        "mandate_id": detail.find("Refs", "MndtId"),
        "payment_id": detail.find("Refs", "PmtInfId"),
        "debtor_name": _party(detail, "Dbtr"),
        "debtor_account": _account(detail, "DbtrAcct"),
        "creditor_name": _party(detail, "Cdtr"),
        "creditor_account": _account(detail, "CdtrAcct"),
        "remittance": " ".join(one.text.strip() for one in detail.all("RmtInf", "Ustrd")),
        "creditor_reference": detail.find("RmtInf", "Strd", "CdtrRefInf", "Ref"),
        "additional_information": detail.find("AddtlTxInf"),
        "instructed_amount": "" if instructed is None else instructed.text.strip(),
        "instructed_currency": "" if instructed is None else instructed.currency,
        "return_reason": detail.find("RtrInf", "Rsn", "Cd"),
    }
    given = {name: text for name, text in values.items() if text}
    return Detail(detail.line, detail.find("CdtDbtInd"), tuple(amounts), given)


def _party(detail: Node, name: str) -> str:
    """Since camt.053.001.08, a party is in an element of its own."""
    return detail.find("RltdPties", name, "Pty", "Nm") or detail.find("RltdPties", name, "Nm")


def _account(detail: Node, name: str) -> str:
    return detail.find("RltdPties", name, "Id", "IBAN") or detail.find("RltdPties", name, "Id", "Othr", "Id")


def _signed(text: str, sign: str) -> Decimal | None:
    """An amount with the sign of CdtDbtInd, which says what happens to the account; for reversals, too."""
    if sign not in ("CRDT", "DBIT") or not _AMOUNT.fullmatch(text):
        return None
    value = Decimal(text)
    return -value if sign == "DBIT" else value
