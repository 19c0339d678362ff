"""Every entry of a camt document is a record, or each of its details, and no statement that does not hold lets one
through.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.statements import CamtFormat
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.files.compressed import content_of
from backfill_pipeline.sources.statements import camt_stream
from backfill_pipeline.sources.statements.camt_entries import COLUMNS
from backfill_pipeline.sources.statements.camt_stream import CamtStream
from backfill_pipeline_tests.sources.streams import raw_of, read_all

EXAMPLE = Path(__file__).resolve().parents[2] / "data" / "examples" / "camt053" / "statements.xml"


def stream_of(tmp_path: Path, text: str | bytes, **section: str) -> CamtStream:
    file = tmp_path / "statements.xml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return CamtStream(content_of(file, None), CamtFormat.model_validate(section))


def rows(tmp_path: Path, text: str | bytes, **section: str) -> list[dict[str, str | None]]:
    found: list[dict[str, str | None]] = read_all(
        stream_of(tmp_path, text, **section), tmp_path / "captures"
    ).to_pylist()
    return found


def document(
    *statements: str, version: str = "053.001.08", message: str = "BkToCstmrStmt", prefix: str = ""
) -> str:
    mark = f":{prefix}" if prefix else ""
    text = (
        f"<Document><{message}><GrpHdr><MsgId>M</MsgId></GrpHdr>{''.join(statements)}</{message}></Document>"
    )
    if prefix:
        text = text.replace("</", "\0").replace("<", f"<{prefix}:").replace("\0", f"</{prefix}:")
    return text.replace(
        "Document>", f'Document xmlns{mark}="urn:iso:std:iso:20022:tech:xsd:camt.{version}">', 1
    )


def balance(
    code: str, amount: str, *, sign: str = "CRDT", day: str = "2024-03-01", currency: str = "EUR"
) -> str:
    return (
        f'<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp><Amt Ccy="{currency}">{amount}</Amt>'
        f"<CdtDbtInd>{sign}</CdtDbtInd><Dt><Dt>{day}</Dt></Dt></Bal>"
    )


def statement(
    *entries: str,
    opening: str = "100",
    closing: str = "100",
    identification: str = "S1",
    balances: str | None = None,
    kind: str = "Stmt",
) -> str:
    stated = (
        balance("OPBD", opening, day="2024-02-29") + balance("CLBD", closing)
        if balances is None
        else balances
    )
    return (
        f"<{kind}><Id>{identification}</Id><Acct><Id><IBAN>DE89</IBAN></Id><Ccy>EUR</Ccy></Acct>"
        f"{stated}{''.join(entries)}</{kind}>"
    )


def entry(
    amount: str = "5",
    *details: str,
    sign: str = "CRDT",
    status: str = "<Sts><Cd>BOOK</Cd></Sts>",
    currency: str = "EUR",
    more: str = "",
) -> str:
    inner = f"<NtryDtls>{''.join(details)}</NtryDtls>" if details else ""
    return (
        f'<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>{sign}</CdtDbtInd>{more}{status}'
        f"<BookgDt><Dt>2024-03-01</Dt></BookgDt>{inner}</Ntry>"
    )


def detail(
    amount: str = "", *, sign: str = "", more: str = "", currency: str = "EUR", inside: bool = False
) -> str:
    given = f'<Amt Ccy="{currency}">{amount}</Amt>' if amount else ""
    given = f"<AmtDtls><TxAmt>{given}</TxAmt></AmtDtls>" if inside else given
    return f"<TxDtls>{given}{f'<CdtDbtInd>{sign}</CdtDbtInd>' if sign else ''}{more}</TxDtls>"


def test_the_example_says_all_that_its_entries_say(tmp_path: Path) -> None:
    found = rows(tmp_path, EXAMPLE.read_bytes())
    assert [(row["entry_number"], row["detail_number"], row["signed_amount"], row["status"]) for row in found] == [
        ("1", "1", "1200.00", "BOOK"), ("2", "1", "-400.00", "BOOK"), ("2", "2", "-300.00", "BOOK"),
        ("2", "3", "-200.00", "BOOK"), ("3", "1", "-7.50", "BOOK"), ("4", "1", "-99.00", "PDNG"),
        ("1", "1", "200.00", "BOOK"), ("2", "1", "-1000.00", "BOOK"),
    ]  # fmt: skip
    assert [row["balance"] for row in found] == [
        "6200.00",
        "5800.00",
        "5500.00",
        "5300.00",
        "5292.50",
        "",
        "5492.50",
        "4492.50",
    ]
    assert all(row["__error_code"] is None for row in found)
    second = {name: text for name, text in found[2].items() if name in COLUMNS and text}
    assert second == {
        "account": "DE89370400440532013000", "account_currency": "EUR", "statement_id": "STMT-2024-061",
        "statement_number": "61", "opening_balance": "5000.00", "opening_date": "2024-02-29",
        "closing_balance": "5292.50", "closing_date": "2024-03-01", "entry_number": "2", "detail_number": "2",
        "detail_count": "3", "entry_reference": "E2", "servicer_reference": "E2-BANK", "status": "BOOK",
        "booking_date": "2024-03-01", "value_date": "2024-03-01", "sign": "DBIT", "reversal": "false",
        "amount": "300.00", "signed_amount": "-300.00", "currency": "EUR", "balance": "5500.00", "domain": "PMNT",
        "family": "ICDT", "subfamily": "ESCT", "end_to_end_id": "SAL-2", "counterparty_name": "Ben Baker",
        "counterparty_account": "DE88100900001234567892", "creditor_name": "Ben Baker",
        "creditor_account": "DE88100900001234567892", "remittance": "Salary February",
        "additional_information": "Batch of 3 payments",
    }  # fmt: skip
    # Of a reversed debit, the other party is still the one that it was paid to.
    assert (found[6]["reversal"], found[6]["counterparty_name"]) == ("true", "Cleo Carter")
    lines = EXAMPLE.read_text().splitlines()
    for row in found:
        assert lines[int(str(row["__source_line"])) - 1].strip() in ("<Ntry>", "<TxDtls>")


@pytest.mark.parametrize("version", [f"053.001.{number:02}" for number in range(2, 14)])
@pytest.mark.parametrize("prefix", ["", "ns2"])
def test_all_versions_are_read(tmp_path: Path, version: str, prefix: str) -> None:
    old = int(version[-2:]) < 8
    party = "<Nm>Ada</Nm>" if old else "<Pty><Nm>Ada</Nm></Pty>"
    more = (
        f"<RltdPties><Dbtr>{party}</Dbtr><DbtrAcct><Id><Othr><Id>4711</Id></Othr></Id></DbtrAcct></RltdPties>"
    )
    status = "<Sts>BOOK</Sts>" if old else "<Sts><Cd>BOOK</Cd></Sts>"
    text = document(
        statement(entry("5", detail(more=more), status=status), closing="105"), version=version, prefix=prefix
    )
    (found,) = rows(tmp_path, text)
    assert (found["counterparty_name"], found["counterparty_account"], found["status"]) == (
        "Ada",
        "4711",
        "BOOK",
    )
    assert found["__error_code"] is None


@pytest.mark.parametrize(
    ("details", "amounts"),
    [
        ([detail("3"), detail("2")], ["3", "2"]),
        ([detail("3", inside=True), detail("2", inside=True)], ["3", "2"]),
        ([detail("7"), detail("2", sign="DBIT")], ["7", "-2"]),
        ([detail("3"), detail("2.01")], ["5"]),  # they do not add up
        ([detail("3"), detail()], ["5"]),  # not all are given
        ([detail("3", currency="USD"), detail("2")], ["5"]),
        ([detail("3", sign="X"), detail("2")], ["5"]),
        ([detail("4")], ["5"]),  # one detail is the entry
        ([detail()], ["5"]),
        ([], ["5"]),
    ],
)
def test_details_are_records_when_they_add_up(tmp_path: Path, details: list[str], amounts: list[str]) -> None:
    found = rows(tmp_path, document(statement(entry("5", *details), closing="105")))
    assert [row["signed_amount"] for row in found] == amounts
    assert {row["detail_count"] for row in found} == {str(len(details))}
    assert found[-1]["balance"] == "105"


@pytest.mark.parametrize(
    ("text", "codes", "words"),
    [
        (document(statement(entry(), closing="105")), [None], ""),
        (document(statement(entry(sign="DBIT"), closing="95")), [None], ""),
        (document(statement(entry(), entry(status="<Sts>PDNG</Sts>"), entry(status="<Sts>INFO</Sts>"), closing="105")), [None] * 3, ""),
        (document(statement(entry())), ["statement_unbalanced"], "opens with 100 EUR; with its 1 line that makes 105, but it closes with 100 EUR"),
        (document(statement(entry(), balances="")), ["statement_unbalanced"], "has no opening balance"),
        (document(statement(entry(), balances=balance("PRCD", "1") + balance("CLBD", "6"))), [None], ""),
        (document(statement(entry(), balances=balance("ITBD", "1") + balance("ITBD", "6"))), [None], ""),
        (document(statement(entry(), balances=balance("CLBD", "6") + balance("CLAV", "9") + balance("OPBD", "1"))), [None], ""),
        (document(statement(entry("10", sign="DBIT"), balances=balance("OPBD", "4", sign="DBIT") + balance("CLBD", "14", sign="DBIT"))), [None], ""),
        (document(statement(entry(), balances=balance("OPBD", "x") + balance("CLBD", "6"))), ["statement_unbalanced"], "the balance OPBD in line 1 of the file has no amount"),
        (document(statement(entry(currency="USD"), closing="105")), ["statement_unbalanced"], "is in USD, the account in EUR"),
        (document(statement(entry("1e3"), entry(), closing="105")), ["record_malformed", "statement_unbalanced"], "the entry in line 1 of the file cannot be read"),
        (document(statement(entry("-5"), closing="105")), ["record_malformed"], "the entry has no amount"),
        (document(statement("<Ntry/>", closing="105")), ["record_malformed"], "the entry has no amount"),
        (
            document(statement(entry(), closing="105"), statement(entry(), opening="105", closing="110", identification="S2")),
            [None] * 2, "",
        ),
        (
            document(statement(entry(), closing="105"), statement(entry(), opening="106", closing="111", identification="S2")),
            [None, "statement_gap"], "opens with 106 EUR",
        ),
        # Reports and notifications state no balances of what is booked.
        (document(statement(entry(), balances="", kind="Rpt"), message="BkToCstmrAcctRpt", version="052.001.08"), [None], ""),
        (document(statement(entry(), balances="", kind="Ntfctn"), message="BkToCstmrDbtCdtNtfctn", version="054.001.08"), [None], ""),
    ],
)  # fmt: skip
def test_statements_are_controlled(tmp_path: Path, text: str, codes: list[str | None], words: str) -> None:
    found = rows(tmp_path, text)
    assert [row["__error_code"] for row in found] == codes
    assert words in str(found[-1]["__error_reason"] or "")


def test_a_document_in_an_envelope(tmp_path: Path) -> None:
    one = document(statement(entry(), closing="105"), prefix="d")
    two = document(statement(entry(), opening="105", closing="110", identification="S2"))
    text = f"<BizMsgEnvlp><AppHdr><Fr>X</Fr></AppHdr>{one}<AppHdr/>{two}</BizMsgEnvlp>"
    assert [(row["statement_id"], row["__error_code"]) for row in rows(tmp_path, text)] == [
        ("S1", None),
        ("S2", None),
    ]


def test_how_much_is_controlled_is_stated(tmp_path: Path) -> None:
    text = document(statement(entry()))
    assert [row["__error_code"] for row in rows(tmp_path, text, control="none")] == [None]
    assert [row["__error_code"] for row in rows(tmp_path, text, control="balance")] == [
        "statement_unbalanced"
    ]


def test_a_reject_shows_what_its_entry_says(tmp_path: Path) -> None:
    more = "<RmtInf><Ustrd>Rent</Ustrd><Ustrd>March</Ustrd></RmtInf>"
    (raw,) = raw_of(
        stream_of(tmp_path, document(statement(entry("5", detail(more=more))))), tmp_path / "captures"
    )
    assert raw.startswith('{"account": "DE89", "account_currency": "EUR", "statement_id": "S1"')
    assert '"remittance": "Rent March"' in raw


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a whole XML file"),
        ("a;b\n1;2\n", "is not a whole XML file"),
        (
            document(statement(entry(), closing="105"))[:-12],
            "is not a whole XML file .*was it cut short or damaged",
        ),
        (document(statement(entry(), closing="105")) + "<x/>", "is not a whole XML file"),
        ("<html/>", "is no camt document with a statement: its root is html, and it holds no Document"),
        ("<Document><CstmrCdtTrfInitn/></Document>", "is no bank statement: it holds CstmrCdtTrfInitn"),
        (document(), r"is no camt document with a statement\."),
        (f"<Envelope>{document(statement(entry(), closing='105'))}", "is not a whole XML file"),
        (
            '<?xml version="1.0" encoding="nonsense"?><Document/>',
            "cannot be read as XML|is not a whole XML file",
        ),
        (
            '<?xml version="1.0" encoding="utf-7"?><Document/>',
            "cannot be read as XML|is not a whole XML file",
        ),
        (
            "<!DOCTYPE x [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]><Document>&b;</Document>",
            "declares a document type",
        ),
        ("<!DOCTYPE x SYSTEM 'file:///etc/passwd'><Document/>", "declares a document type"),
        (
            "<!DOCTYPE x [<!ENTITY % p SYSTEM 'http://127.0.0.1/'> %p;]><Document/>",
            "declares a document type",
        ),
        ("<Document>&b;</Document>", "is not a whole XML file"),
        (document(statement(entry("5" * (2 << 20)))), "a value is longer than 1 MiB"),
        (
            document(statement("<Ntry>" + "<x>" * 100 + "</x>" * 100 + "</Ntry>")),
            "an entry is too large to be one",
        ),
    ],
)
def test_what_is_no_whole_statement_is_refused_as_a_whole(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SourceFileError, match=words) as caught:
        rows(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_tag_without_an_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    with pytest.raises(SourceFileError, match="holds a tag of more than 16 MiB"):
        rows(tmp_path, b"<Document a='" + b"x" * (18 << 20))


def test_an_entry_with_too_many_details_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camt_stream, "_ENTRY_DETAILS_MAX", 10)
    rows(tmp_path, document(*[statement(entry("5", *[detail("1")] * 5), closing="105")] * 4), control="none")
    with pytest.raises(SourceFileError, match="an entry is too large to be one"):
        rows(tmp_path, document(statement(entry("20", *[detail("1")] * 20), closing="120")))


def test_encodings_and_compression(tmp_path: Path) -> None:
    more = "<RmtInf><Ustrd>B\u00fcro</Ustrd></RmtInf>"
    text = document(statement(entry("5", detail(more=more)), closing="105"))
    for encoding in ("utf-8", "iso-8859-1", "windows-1252", "utf-16"):
        (found,) = rows(tmp_path, f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
        assert found["remittance"] == "B\u00fcro"
    file = tmp_path / "statements.xml.gz"
    file.write_bytes(gzip.compress(text.encode()))
    found = read_all(CamtStream(content_of(file, None), CamtFormat()), tmp_path / "captures").to_pylist()[0]
    assert found["signed_amount"] == "5"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, EXAMPLE.stat().st_size - 1), cut=st.integers(0, 30), put=st.binary(max_size=6))
def test_whatever_happens_to_a_document_nothing_is_lost_silently(
    tmp_path: Path, place: int, cut: int, put: bytes
) -> None:
    """A document that was changed anywhere is refused in one sentence, or gives its entries, and booked ones only
    where their statement adds up.
    """
    whole = EXAMPLE.read_bytes()
    try:
        found = rows(tmp_path, whole[:place] + put + whole[place + cut :])
    except SourceFileError as error:
        assert "\n" not in str(error)
        return
    sums: dict[object, float] = {}
    for row in found:
        if row["__error_code"] is None and row["status"] == "BOOK":
            sums[row["statement_id"]] = sums.get(row["statement_id"], 0) + float(str(row["signed_amount"]))
    for row in found:
        if row["__error_code"] is None and row["status"] == "BOOK":
            stated = float(str(row["closing_balance"])) - float(str(row["opening_balance"]))
            assert sums[row["statement_id"]] == pytest.approx(stated)


@pytest.mark.slow
def test_a_long_statement_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    import tracemalloc

    def peak_of(count: int) -> int:
        stream = stream_of(
            tmp_path, document(statement(*[entry("1", detail("1"))] * count, closing=str(100 + count)))
        )
        tracemalloc.start()
        try:
            assert sum(int(piece.problems.none().sum()) for piece in stream.records()) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_of(30_000) < 1.5 * peak_of(6_000)
