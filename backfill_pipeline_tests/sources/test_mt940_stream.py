"""Every :61: of an MT940 file is a record, good or malformed, and no statement that does not hold lets one through."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import mt940
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.statements import Mt940Format
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.files.compressed import content_of
from backfill_pipeline.sources.statements.mt940_fields import balance_of, description_of, statement_line_of
from backfill_pipeline.sources.statements.mt940_stream import COLUMNS, Mt940Stream
from backfill_pipeline_tests.sources.streams import raw_of, read_all

EXAMPLE = Path(__file__).resolve().parents[2] / "data" / "examples" / "mt940" / "statements.sta"


def stream_of(tmp_path: Path, text: str | bytes, **section: str) -> Mt940Stream:
    file = tmp_path / "statements.sta"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Mt940Stream(content_of(file, None), Mt940Format.model_validate(section))


def rows(tmp_path: Path, text: str | bytes, **section: str) -> list[dict[str, str | None]]:
    found: list[dict[str, str | None]] = read_all(
        stream_of(tmp_path, text, **section), tmp_path / "captures"
    ).to_pylist()
    return found


def statement(
    *lines: str,
    opening: str = "C240229EUR100,",
    closing: str = "C240301EUR100,",
    number: str = "1/1",
    account: str = "A",
) -> str:
    return "\n".join(
        [":20:R", f":25:{account}", f":28C:{number}", f":60F:{opening}", *lines, f":62F:{closing}", "-", ""]
    )


def test_the_example_says_all_that_its_lines_say(tmp_path: Path) -> None:
    found = rows(tmp_path, EXAMPLE.read_bytes())
    assert [row["signed_amount"] for row in found] == [
        "1250.00",
        "-80.00",
        "-2.50",
        "80.00",
        "-300.00",
        "-50.00",
    ]
    assert [row["balance"] for row in found] == [
        "2250.00",
        "2170.00",
        "2167.50",
        "2247.50",
        "1947.50",
        "1897.50",
    ]
    assert [row["__source_line"] for row in found] == [6, 9, 11, 21, 24, 27]
    assert all(row["__error_code"] is None for row in found)
    first = {name: text for name, text in found[0].items() if name in COLUMNS and text}
    assert first == {
        "account": "37040044/0532013000", "statement_reference": "STMT-2024-366", "statement_number": "366",
        "sequence_number": "1", "currency": "EUR", "opening_balance": "1000.00", "opening_date": "2024-12-30",
        "closing_balance": "2167.50", "closing_date": "2024-12-31", "line_number": "1", "value_date": "2024-12-31",
        "entry_date": "2024-12-31", "booking_date": "2024-12-31", "sign": "C", "amount": "1250.00",
        "signed_amount": "1250.00", "balance": "2250.00", "type": "NTRF", "customer_reference": "SALARY-12",
        "bank_reference": "B24366-1", "transaction_code": "166", "posting_text": "GUTSCHRIFT",
        "journal_number": "9310", "purpose": "EREF+SALARY-12SVWZ+Salary December 2024",
        "counterparty_bank": "SAMPDEFF", "counterparty_account": "DE02120300000000202051",
        "counterparty_name": "Example Works Ltd", "end_to_end_id": "SALARY-12", "remittance": "Salary December 2024",
        "description": "166?00GUTSCHRIFT?109310?20EREF+SALARY-12?21SVWZ+Salary December\n?22 2024?30SAMPDEFF?31DE02120300000000202051"
        "?32Example Works?33 Ltd",
    }  # fmt: skip
    # A value date of December that is booked in January.
    assert (found[3]["value_date"], found[3]["entry_date"], found[3]["sign"]) == (
        "2024-12-31",
        "2025-01-02",
        "RD",
    )
    assert found[3]["details"] == "Returned direct debit"
    assert found[4]["description"] == "Rent January\nhouse 7"


def test_another_parser_reads_the_same(tmp_path: Path) -> None:
    """The package mt-940, on lines that it does read as they are written."""
    theirs = mt940.parse(EXAMPLE.read_text(), options=mt940.Options.all()).transactions
    ours = rows(tmp_path, EXAMPLE.read_bytes())
    assert len(theirs) == len(ours)
    for row, one in zip(ours, theirs, strict=True):
        data = one.data
        assert Decimal(str(row["signed_amount"])) == data["amount"].amount
        assert (row["value_date"], row["entry_date"]) == (str(data["date"]), str(data["entry_date"]))
        assert (row["sign"], row["type"], row["currency"]) == (data["status"], data["id"], data["currency"])
        assert row["bank_reference"] == data["bank_reference"]
        if row["transaction_code"]:
            assert row["transaction_code"] == data["transaction_code"]
            assert row["posting_text"] == data["posting_text"]
            assert row["end_to_end_id"] == (data.get("end_to_end_reference") or "")


def test_raw_text_is_that_of_the_line_with_its_description(tmp_path: Path) -> None:
    assert raw_of(stream_of(tmp_path, EXAMPLE.read_bytes()), tmp_path / "captures")[3:5] == [
        ":61:2412310102RD80,00NRTINONREF//B25002-1\nReturned direct debit\n:86:109?00RUECKLASTSCHRIFT?20EREF+4711"
        "?21SVWZ+Return Electricity?31DE02500105170137075030?32City Power",
        ":61:2501020102D300,00NTRFRENT-01//B25002-2\n:86:Rent January\nhouse 7",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2403010301C100,NTRFREF", ("2024-03-01", "2024-03-01", "C", "", "100", "NTRF", "REF", "")),
        ("240301D1,5S103REF//BANK", ("2024-03-01", "", "D", "", "1.5", "S103", "REF", "BANK")),
        ("240301    DR1,50NMSC", ("2024-03-01", "", "D", "R", "1.50", "NMSC", "", "")),
        (
            "2301021231CR0,01FCHGa/b//c//d",
            ("2023-01-02", "2022-12-31", "C", "R", "0.01", "FCHG", "a/b", "c//d"),
        ),
        ("991231RC1,00NTRFx", ("1999-12-31", "", "RC", "", "1.00", "NTRF", "x", "")),
        ("2412310102RDR1,00NTRFx", ("2024-12-31", "2025-01-02", "RD", "R", "1.00", "NTRF", "x", "")),
    ],
)
def test_a_line_is_read_as_the_format_has_it(line: str, expected: tuple[str, ...]) -> None:
    parsed = statement_line_of([line])
    assert not isinstance(parsed, str)
    assert (
        parsed.value_date, parsed.entry_date, parsed.sign, parsed.funds_code, parsed.amount, parsed.type,
        parsed.customer_reference, parsed.bank_reference,
    ) == expected  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "",
        "240301C100NTRF",
        "240301C1.00NTRF",
        "240301X1,00NTRF",
        "C1,00NTRF",
        "240301C1,00",
        "240301C1,0,0NTRF",
        "240301C-1,00NTRF",
        "240301c1,00NTRF",
        "2403010C1,00NTRF",
    ],
)
def test_a_line_that_is_none_is_one_reject_with_its_text(tmp_path: Path, line: str) -> None:
    text = statement(f":61:{line}", ":86:what", ":61:240301C5,00NTRFgood", closing="C240301EUR105,")
    found = rows(tmp_path, text)
    assert [row["__error_code"] for row in found] == ["record_malformed", "statement_unbalanced"]
    assert "the line 5 of the file cannot be read" in str(found[1]["__error_reason"])
    assert raw_of(stream_of(tmp_path, text), tmp_path / "other")[0] == f":61:{line}\n:86:what"
    alone = rows(tmp_path, text, control="none")
    assert [row["__error_code"] for row in alone] == ["record_malformed", None]


def test_whether_there_is_such_a_day_is_left_to_the_rule_for_times() -> None:
    parsed = statement_line_of(["240230C1,00NTRF"])
    assert not isinstance(parsed, str)
    assert parsed.value_date == "2024-02-30"


@pytest.mark.parametrize(
    ("text", "amount"),
    [("C240301EUR1234,56", "1234.56"), ("D240301EUR0,5", "-0.5"), ("C240301JPY100,", "100")],
)
def test_balances(text: str, amount: str) -> None:
    balance = balance_of(text)
    assert balance is not None
    assert balance.amount == Decimal(amount)


@pytest.mark.parametrize(
    "text", ["", "240301EUR1,00", "C240301EUR1.00", "C240301eur1,00", "CR240301EUR1,00", "C240301EUR"]
)
def test_what_is_no_balance(text: str) -> None:
    assert balance_of(text) is None


def test_descriptions_without_codes_have_no_parts() -> None:
    assert description_of(["Rent ?20 what"]) == {}
    assert description_of(["/EREF/1/REMI/x"]) == {}
    assert description_of([]) == {}
    assert description_of(["105?20SVWZ+a?", "21b?22 c?99z?2"])["remittance"] == "ab c"


OK = ":61:240301C5,00NTRFx"


@pytest.mark.parametrize(
    ("text", "codes", "words"),
    [
        (statement(OK, closing="C240301EUR105,"), [None], ""),
        (statement(OK), ["statement_unbalanced"], "opens with 100 EUR; with its 1 line that makes 105.00, but it closes with 100 EUR"),
        (statement(OK, closing="C240301USD105,"), ["statement_unbalanced"], "opens with 100 EUR and closes with 105 USD"),
        (statement(OK, closing="105,"), ["statement_unbalanced"], ":62F: in line 6 of the file is no balance"),
        (statement(OK).replace(":62F:C240301EUR100,\n", ""), ["statement_unbalanced"], "no closing balance: was the file cut short"),
        (statement(OK).replace(":60F:C240229EUR100,\n", ""), ["statement_unbalanced"], "has no opening balance"),
        (statement(":60F:C240229EUR100,", OK), ["statement_unbalanced"], "is the second of its kind"),
        (OK, ["statement_unbalanced"], "has no opening balance"),
        # After the closing balance, a line still belongs to its statement.
        (statement(OK, closing="C240301EUR105,").replace("-\n", OK), [*["statement_unbalanced"] * 2], "2 lines"),
        # What follows the closing balance without an envelope is a statement of its own.
        (":25:A\n:60F:C240229EUR1,\n:62F:C240229EUR1,\n:60F:C240229EUR1,\n" + OK + "\n:62F:C240301EUR6,", [None], ""),
        # Parts of one statement, and another account in between.
        (
            statement(OK, closing="C240301EUR105,", number="7/1").replace("62F", "62M")
            + statement(OK, account="B", closing="C240301EUR105,")
            + statement(OK, opening="C240301EUR105,", closing="C240301EUR110,", number="7/2").replace("60F", "60M"),
            [None] * 3, "",
        ),
        # The newest first is a chain as well.
        (
            statement(OK, opening="C240301EUR105,", closing="C240302EUR110,", number="8")
            + statement(OK, closing="C240301EUR105,", number="7"),
            [None] * 2, "",
        ),
        # A statement is missing.
        (
            statement(OK, closing="C240301EUR105,", number="7")
            + statement(OK, opening="C240302EUR205,", closing="C240303EUR210,", number="9"),
            [None, "statement_gap"], "the statement 9 of account A from line 8 on opens with 205 EUR, but the statement 7",
        ),
    ],
)  # fmt: skip
def test_statements_are_controlled(tmp_path: Path, text: str, codes: list[str | None], words: str) -> None:
    found = rows(tmp_path, text)
    assert [row["__error_code"] for row in found] == codes
    assert words in str(found[-1]["__error_reason"] or "")


def test_how_much_is_controlled_is_stated(tmp_path: Path) -> None:
    gap = statement(OK, closing="C240301EUR105,") + statement(
        OK, opening="C240302EUR205,", closing="C240303EUR210,"
    )
    codes = {
        control: [row["__error_code"] for row in rows(tmp_path, gap, control=control)]
        for control in ("chain", "balance", "none")
    }
    assert codes == {"chain": [None, "statement_gap"], "balance": [None] * 2, "none": [None] * 2}
    assert [row["__error_code"] for row in rows(tmp_path, statement(OK), control="balance")] == [
        "statement_unbalanced"
    ]
    assert [row["__error_code"] for row in rows(tmp_path, statement(OK), control="none")] == [None]


def test_a_line_that_is_not_in_the_encoding_costs_one_line(tmp_path: Path) -> None:
    text = statement(OK, ":86:B\u00fcro", OK, ":86:Buero", closing="C240301EUR110,")
    found = rows(tmp_path, text.encode("latin-1"))
    assert [row["__error_code"] for row in found] == ["encoding_invalid", None]
    assert rows(tmp_path, text.encode("latin-1"), encoding="latin-1")[0]["description"] == "B\u00fcro"
    assert raw_of(stream_of(tmp_path, text.encode("latin-1")), tmp_path / "other")[0].endswith(":86:B\\xfcro")
    assert [row["__error_code"] for row in rows(tmp_path, text.replace("\u00fc", "\0"))] == ["nul_byte", None]
    account = statement(OK, closing="C240301EUR105,", account="B\u00fc").encode("latin-1")
    assert [row["__error_code"] for row in rows(tmp_path, account)] == ["statement_unbalanced"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b"ABNANL2A\n940\nABNANL2A\n", b"\n\n"])
def test_lines_end_as_they_may(tmp_path: Path, end: str, begin: bytes) -> None:
    text = EXAMPLE.read_bytes().decode().replace("\n", end)
    found = rows(tmp_path, begin + text.encode())
    assert [row["signed_amount"] for row in found] == [
        "1250.00",
        "-80.00",
        "-2.50",
        "80.00",
        "-300.00",
        "-50.00",
    ]


def test_what_banks_do_to_the_format(tmp_path: Path) -> None:
    """Zeros in front, types with a space, marks of their own, messages that begin where the one before ends."""
    text = (
        ":940:\n:20:R\n:25:A\n:28:0\n:60F:C240229EUR000000000100,00 \n:61:240301D000000000025,50NOV NONREF          \nNL70\n"
        ":86:000>100987>20GENERAL AC\n>21COUNT>310390\n:61:240301C0,5N062x\n:86: 020?00Card?20one ?\n21two?32X \n:62F:C240301EUR75,\n-XXX\n"
        "-}{1:F01}{2:I940}{4::20:R2\n:25:A\n:28C:1\n:60F:C240301EUR75,\n:61:2403020302C1,NTRFx\n:62F:C240302EUR76,\n-}{5:{MAC:0}}\n"
    )
    found = rows(tmp_path, text)
    assert [row["__error_code"] for row in found] == [None] * 3
    assert [(row["amount"], row["type"], row["statement_reference"]) for row in found] == [
        ("25.50", "NOV", "R"), ("0.5", "N062", "R"), ("1", "NTRF", "R2"),
    ]  # fmt: skip
    assert (found[0]["customer_reference"], found[0]["details"]) == ("NONREF", "NL70")
    assert (found[0]["purpose"], found[0]["counterparty_account"]) == ("GENERAL ACCOUNT", "0390")
    assert (found[1]["purpose"], found[1]["counterparty_name"]) == ("one two", "X ")


@pytest.mark.parametrize("content", [b"", b"a;b\n1;2\n", b"\x00\xff" * 100, b":99:x\n"])
def test_a_file_without_statements_is_told(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceFileError, match="holds no MT940 statement"):
        rows(tmp_path, content)


def test_a_file_without_lines_and_a_field_without_an_end(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="line 1 is longer than 1 MiB"):
        rows(tmp_path, b"x" * (3 << 20))
    text = statement(OK, ":86:" + "\n".join(["x" * 1000] * 1200), OK, closing="C240301EUR110,")
    assert [row["__error_code"] for row in rows(tmp_path, text)] == ["record_too_long", None]


def test_a_statement_without_lines_has_no_records(tmp_path: Path) -> None:
    assert rows(tmp_path, statement()) == []


NASTY = st.lists(
    st.sampled_from(
        [":20:", ":25:A", ":28C:1/1", ":60F:C240229EUR1,", ":62F:C240301EUR2,", ":61:", ":86:", "-", "-}", "{1:F}{4:", "{4:",
         "240301C1,00NTRFx", ":61:240301C1,00NTRFx", "\n", "\r\n", "\r", "x", "é", "\0", "?20", ":NS:"]
    )
    | st.text(max_size=4),
    max_size=40,
).map("".join)  # fmt: skip


def _behind_envelopes(line: bytes) -> bytes:
    """What a line holds behind the end of a message and the headers of the next."""
    while line.startswith(b"-}") or re.match(rb"\{[0-9A-Z]:", line):
        line = line.partition(b"{4:")[2]
    return line


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=NASTY)
@example(text="-}{1:F}{4::61:240301C1,00NTRFx")
@example(text="{1:F}{4:{1:F}{4::61:240301C1,00NTRFx")
def test_whatever_a_file_holds_every_line_of_it_is_a_record(tmp_path: Path, text: str) -> None:
    data = text.encode(errors="surrogatepass")
    lines = data.removeprefix(b"\xef\xbb\xbf").splitlines()
    expected = sum(_behind_envelopes(line).startswith(b":61:") for line in lines)
    try:
        found = rows(tmp_path, data)
    except SourceFileError:
        assert expected == 0
        return
    assert len(found) == expected
    good = [row for row in found if row["__error_code"] is None]
    if good:
        assert b":62" in data


@pytest.mark.slow
def test_a_long_statement_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    import tracemalloc

    def peak_of(count: int) -> int:
        lines = [
            ":61:2403010301C1,00NTRFNONREF//B\n:86:166?00X?20SVWZ+a long text that goes on?32Somebody"
        ] * count
        stream = stream_of(tmp_path, statement(*lines, closing=f"C240301EUR{100 + count},"))
        del lines
        tracemalloc.start()
        try:
            assert (
                sum(piece.fields.num_rows - (~piece.problems.none()).sum() for piece in stream.records())
                == count
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_of(60_000) < 1.5 * peak_of(12_000)
