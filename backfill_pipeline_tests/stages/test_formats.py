"""Every kind of file goes all the way: posted, rejected with its raw text, reconciled."""

from __future__ import annotations

import gzip
import json
import zipfile
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backfill_pipeline.errors import SourceChangedError, SourceDefinitionError, SourceFileError
from backfill_pipeline_tests.stages.world import FIELDS, HEADER, World, entries, entry

GOOD, BAD = 25, 2
ROWS = [*entries(GOOD), entry(26, amount="1e3"), entry(27, time="yesterday")]


def raw_of_rejects(world: World) -> list[str]:
    return [str(raw) for (raw,) in world.query("SELECT raw FROM backfill_rejects ORDER BY source_row")]


def check(world: World, path: Path) -> list[str]:
    """Posts and reconciles ROWS; the raw text of the rejects."""
    world.post(path)
    assert world.references() == [row[0] for row in ROWS[:GOOD]]
    assert [(row, code) for row, _, code, _ in world.rejects()] == [
        (26, "amount_malformed"),
        (27, "time_malformed"),
    ]
    report = world.reconcile(path)
    assert report.matches, report
    assert (report.read, report.posted, report.rejected) == (GOOD + BAD, GOOD, BAD)
    world.post(path)  # again: nothing changes
    assert len(world.references()) == GOOD
    return raw_of_rejects(world)


def objects() -> list[dict[str, object]]:
    return [dict(zip(HEADER, row, strict=True)) for row in ROWS]


def test_a_compressed_csv(world: World) -> None:
    path = world.write("bank", ROWS, file="bank.csv.gz", max_error_rate="1")
    plain = path.with_suffix(".csv")
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert check(world, path)[0].startswith("R000026,A,B,1e3,USD,")


def test_a_member_of_a_zip(world: World) -> None:
    path = world.write("bank", ROWS, file="bank.zip", member="bank.csv", max_error_rate="1")
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path.with_suffix(".csv"), "bank.csv")
        archive.writestr("readme.txt", "hello")
    check(world, path)


def test_a_damaged_archive_registers_nothing(world: World) -> None:
    path = world.write("bank", ROWS, file="bank.csv.gz")
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.with_suffix(".csv").read_bytes())[:-12])
    with pytest.raises(SourceFileError, match="not a whole gzip file"):
        world.register(path)
    assert world.query("SELECT * FROM backfill_registrations") == []


def test_several_files(world: World) -> None:
    path = world.write("bank", ROWS, file=None, files="part-*.csv", max_error_rate="1", partition_rows="10")
    header, *lines = path.with_suffix(".csv").read_text().splitlines(keepends=True)
    for name, part in (("part-2", lines[12:]), ("part-1", lines[:12])):
        (path.parent / f"{name}.csv").write_text(header + "".join(part))
    raw = check(world, path)
    assert raw[0].startswith("[part-2.csv] R000026,")
    assert world.query("SELECT source_line FROM backfill_rejects ORDER BY 1") == [(15,), (16,)]
    # One more file belongs to the source when it is registered again (test_growth.py has more of that).
    (path.parent / "part-3.csv").write_text(header + lines[0].replace("R000001", "R000099"))
    world.post(path, register=False)
    assert world.references() == [row[0] for row in ROWS[:GOOD]]
    world.post(path)
    assert world.references() == [*(row[0] for row in ROWS[:GOOD]), "R000099"]
    # A registered one that is another now is a change.
    (path.parent / "part-3.csv").write_text(header + lines[0].replace("R000001", "R000098"))
    with pytest.raises(SourceChangedError, match="the content of part-1.csv and 2 more"):
        world.run(path, register=False)


def test_json_lines(world: World) -> None:
    path = world.write(
        "bank",
        ROWS,
        type="jsonl",
        file="bank.jsonl",
        max_error_rate="1",
        fields={**FIELDS, "debit_account_id": "parties.debit", "credit_account_id": "parties.credit"},
    )
    lines = []
    for one in objects():
        parties = {"debit": one.pop("debit"), "credit": one.pop("credit")}
        text = json.dumps({**one, "parties": parties, "tags": ["a", {"b": 1}]})
        lines.append(text.replace(f'"amount": "{one["amount"]}"', f'"amount": {one["amount"]}'))  # a number
    path.with_suffix(".jsonl").write_text("\n".join(lines))
    raw = check(world, path)
    assert raw == lines[GOOD:]
    # Never a float: the zeros of the file are those of the ledger.
    assert world.value("SELECT amount::text FROM ledger_entries WHERE reference_id = 'R000001'") == "2.00"


def test_a_bad_json_line_is_one_reject(world: World) -> None:
    path = world.write("bank", ROWS[:5], type="jsonl", file="bank.jsonl", max_error_rate="1")
    lines = [json.dumps(one) for one in objects()[:5]]
    lines[2] = lines[2][:-1]
    lines[3] = lines[3][:-1] + ', "ref": "again"}'
    path.with_suffix(".jsonl").write_text("\n".join(lines))
    world.post(path)
    assert world.references() == ["R000001", "R000002", "R000005"]
    assert raw_of_rejects(world) == lines[2:4]
    reasons = [reason for (reason,) in world.query("SELECT reason FROM backfill_rejects ORDER BY source_row")]
    assert "no JSON" in str(reasons[0])
    assert reasons[1] == "ref is given 2 times"


def test_several_compressed_files_of_json_lines_with_generated_references(world: World) -> None:
    path = world.write(
        "bank", ROWS[:GOOD], type="jsonl", file=None, files=["part-*.gz"],
        fields={**FIELDS, "reference_id": {"generate": "true", "columns": ["time", "amount"]}},
    )  # fmt: skip
    lines = [json.dumps(one).encode() + b"\n" for one in objects()[:GOOD]]
    for name, part in (("part-1", lines[:14]), ("part-2", lines[14:])):
        (path.parent / f"{name}.jsonl.gz").write_bytes(gzip.compress(b"".join(part)))
    assert len(world.post(path)) == 4  # 10 + 4 and 10 + 1: no partition spans two files
    assert len(world.references()) == GOOD
    assert world.reconcile(path).matches


def test_parquet(world: World) -> None:
    path = world.write("bank", ROWS, type="parquet", file="bank.parquet", max_error_rate="1")
    found = objects()
    found[25]["amount"] = "-1"
    columns = {name: pa.array([one[name] for one in found]) for name in HEADER}
    columns["amount"] = pa.array([Decimal(str(one["amount"])) for one in found], pa.decimal128(38, 18))
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"), row_group_size=7)
    assert len(world.post(path)) == 3
    assert world.references() == [row[0] for row in ROWS[:GOOD]]
    assert [(row, code) for row, _, code, _ in world.rejects()] == [
        (26, "amount_not_positive"),
        (27, "time_malformed"),
    ]
    assert json.loads(raw_of_rejects(world)[1])["ref"] == "R000027"
    assert world.reconcile(path).matches


def test_floats_are_money_only_with_their_decimals(world: World) -> None:
    path = world.write("bank", ROWS[:5], type="parquet", file="bank.parquet", max_error_rate="1")
    columns = {name: pa.array([one[name] for one in objects()[:5]]) for name in HEADER}
    columns["amount"] = pa.array([0.1, 0.29, 1e15, 0.30000000000000004, float("nan")])
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"))
    with pytest.raises(
        SourceFileError, match=r"column 'amount', which fields.amount reads, is a float .*float_decimals"
    ):
        world.register(path)
    path = world.write(
        "bank", ROWS[:5], type="parquet", file="bank.parquet", max_error_rate="1",
        parquet={"float_decimals": {"amount": "2"}},
    )  # fmt: skip
    world.post(path)
    amounts = "SELECT amount::text FROM ledger_entries WHERE reference_id LIKE 'R%' ORDER BY reference_id"
    assert world.query(amounts) == [("0.10",), ("0.29",), ("1000000000000000",)]
    assert [code for _, _, code, _ in world.rejects()] == ["amount_too_many_decimals", "amount_malformed"]


def test_fixed_width(world: World) -> None:
    widths = dict(zip(HEADER, (8, 3, 3, 12, 3, 21, 10), strict=True))
    path = world.write(
        "bank", ROWS, type="fixed", file="bank.txt", max_error_rate="1",
        fixed={
            "encoding": "latin-1", "skip_lines": "1", "skip_footer_lines": "1",
            "columns": [{"name": name, "width": str(width)} for name, width in widths.items()],
        },
    )  # fmt: skip
    lines = ["".join(str(value).ljust(widths[name]) for name, value in one.items()) for one in objects()]
    text = "\n".join(["export of the bünk", *lines, "27 rows", ""])
    path.with_suffix(".txt").write_bytes(text.encode("latin-1"))
    assert check(world, path) == lines[GOOD:]


def test_a_line_that_is_too_short_is_one_reject(world: World) -> None:
    columns = [{"name": name, "width": "20"} for name in HEADER]
    path = world.write(
        "bank", ROWS[:2], type="fixed", file="bank.txt", max_error_rate="1", fixed={"columns": columns}
    )
    lines = ["".join(str(value).ljust(20) for value in row) for row in ROWS[:2]]
    path.with_suffix(".txt").write_text("\n".join([lines[0], lines[1][:100]]))
    world.post(path)
    assert world.references() == ["R000001"]
    assert raw_of_rejects(world) == [lines[1][:100]]


def test_a_csv_with_lines_around_it(world: World) -> None:
    path = world.write(
        "bank", ROWS, max_error_rate="1", csv={"skip_lines": "2", "skip_footer_lines": "1", "comment": "#"}
    )
    header, *lines = path.with_suffix(".csv").read_text().splitlines()
    lines.insert(5, "# the bank was closed")
    content = ["Bank AG", '"an open quote', header, *lines, "Total;27"]
    path.with_suffix(".csv").write_text("\n".join(content))
    check(world, path)
    assert world.query("SELECT source_line FROM backfill_rejects ORDER BY 1") == [(30,), (31,)]


def test_how_a_file_is_written_is_part_of_the_mapping(world: World) -> None:
    columns = [{"name": name, "width": "20"} for name in HEADER]
    path = world.write("bank", ROWS[:1], type="fixed", file="bank.txt", fixed={"columns": columns})
    path.with_suffix(".txt").write_text("".join(str(value).ljust(20) for value in ROWS[0]))
    world.register(path)
    columns[0] = {"name": "ref", "from": "1", "to": "20"}
    world.write("bank", ROWS[:1], type="fixed", file="bank.txt", fixed={"columns": columns})
    with pytest.raises(SourceChangedError, match="the mapping section 'fixed'"):
        world.run(path, register=False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"file": None}, "file is missing: name the export with file, or several with files"),
        ({"files": "*.csv"}, "files is given beside file"),
        ({"member": "a.csv"}, "member is 'a.csv', which is only for a file whose name ends in .zip"),
        ({"type": "jsonl", "csv": {"delimiter": ";"}}, "csv is given, but type is jsonl"),
        ({"type": "fixed"}, "fixed is needed with type fixed"),
        ({"type": "fixed", "fixed": {"columns": [{"name": "a"}]}}, "needs either to or width"),
        ({"type": "fixed", "fixed": {"columns": [{"name": "a", "to": "3"}]}}, "from is needed with to"),
        ({"type": "fixed", "fixed": {"columns": []}}, "fixed.columns"),
        (
            {
                "type": "fixed",
                "fixed": {"columns": [{"name": "a", "width": "1"}, {"name": "a", "width": "1"}]},
            },
            "names a column twice",
        ),
        ({"csv": {"comment": ","}}, "must differ from delimiter and quote"),
    ],
)
def test_a_definition_that_cannot_be_meant_is_told(
    world: World, settings: dict[str, object], words: str
) -> None:
    path = world.write("bank", ROWS[:1], **settings)
    with pytest.raises(SourceDefinitionError) as caught:
        world.register(path)
    assert words in str(caught.value)
