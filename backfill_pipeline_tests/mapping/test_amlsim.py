"""The real input: what the source's stages make of AMLSim's 120,558 transfers."""

import os
from pathlib import Path

import pytest

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.mapping.accounts import read_accounts
from backfill_pipeline.mapping.references import OccurrenceIndex, read_occurrences
from backfill_pipeline.mapping.transform import compile_mapping, generated_reference_columns
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline.sources.headers import check_header
from backfill_pipeline.sources.open import open_source

DATA = Path(
    os.environ.get("AMLSIM_DIR") or Path(__file__).resolve().parents[3] / "shared" / "data" / "amlsim"
)

YAML = f"""
id: amlsim
type: csv
file: {DATA}/transactions.csv
fields:
  ledger_id: {{constant: MASTER}}
  debit_account_id: targetNodeId
  credit_account_id: sourceNodeId
  amount: value
  currency_code: {{constant: USD}}
  transaction_type: {{constant: TRANSFER}}
  reference_id: {{generate: true}}
  timestamp_utc: {{column: time, format: epoch_days, epoch: 2019-01-01}}
accounts:
  file: {DATA}/nodes.csv
  fields: {{id: nodeid, currency_code: {{constant: USD}}, opening_balance: init_balance}}
  opening: {{ledger_id: MASTER, as_of: 2018-12-31T23:59:59Z}}
"""


@pytest.mark.skipif(
    not DATA.is_dir(), reason=f"AMLSim's data is not at {DATA}; set AMLSIM_DIR to where it is"
)
def test_amlsim_gives_distinct_references_for_repeats_and_rejects_only_self_transfers(tmp_path: Path) -> None:
    path = tmp_path / "amlsim.yaml"
    path.write_text(YAML)
    definition = load_definition(path)
    reader, mapping = open_source(definition, tmp_path), compile_mapping(definition)
    with OccurrenceIndex(tmp_path, generated_reference_columns(definition)[1]) as index:
        manifest = reader.survey(50_000, visit=index.add)
        assert index.finish(tmp_path / "occurrences.parquet") == 1_684
    check_header(definition, manifest.header)
    assert manifest.row_count == 120_558
    references: set[str] = set()
    valid, codes = 0, []
    for chunk in manifest.chunks:
        repeats = read_occurrences(tmp_path / "occurrences.parquet", chunk.first_row, chunk.row_count)
        entries = mapping.transform(reader.read_chunk(chunk, manifest.header), repeats)
        references.update(entries["reference_id"])
        result = validate(entries)
        valid += len(result.valid)
        codes += result.failures["code"].tolist()
    assert len(references) == 120_558
    assert valid == 120_543
    assert codes == ["same_account"] * 15
    book = read_accounts(definition)
    assert book is not None
    assert book.accounts.num_rows == 20_000
    assert book.equity_accounts["id"].to_pylist() == ["OPENING-BALANCE-EQUITY-USD"]
