"""The JSON Schema of a source definition: what editors need to complete keys and to underline mistakes.

Belongs here: making it from the models, and a line of help per key.
Does not: what is allowed (the models), reading definitions. Rules between keys are not in it: `sources check` has them.
"""

import json
from collections.abc import Callable
from typing import Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from backfill_pipeline.definition.models import SourceDefinition

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_TEXT: Final = ["string", "number", "boolean"]
"""The product reads every value as text, and an editor thinks that 4711 is a number: both are right."""

_SHORT_FORMS: Final[dict[str, JsonSchemaValue]] = {
    "_column_rule": {"type": "string", "description": "the name of a column, short for {column: name}"},
    "_one_or_more": {"type": _TEXT, "description": "one text, short for a list of it"},
    "_short_condition": {
        "anyOf": [{"type": _TEXT}, {"type": "array", "items": {"type": _TEXT}, "minItems": 1}],
        "description": "a text, short for equals, or a list, short for in",
    },
    "_metadata_keys": {
        "type": "array",
        "items": {"type": "string"},
        "description": "columns, each under its own name",
    },
    "_minor_units": {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0}]},
}
"""Short forms that a model accepts, by the name of the function that makes the long form of them."""

_HELP: Final[dict[str, dict[str, str]]] = {
    "SourceDefinition": {
        "id": "the name of the source everywhere",
        "type": "the kind of source",
        "description": "for people",
        "file": "the export; relative to this file; ${NAME} and ${NAME:-default} come from the environment",
        "files": "patterns of several files that are one source, instead of file",
        "member": "which file inside a .zip",
        "csv": "how a delimited file is written",
        "fixed": "how a fixed-width file is written",
        "parquet": "what a Parquet file does not say itself",
        "columns": "columns made of others, by name",
        "rules": "what rows that meet conditions become, or that they are left out",
        "lookups": "tables that replace texts by others, by name",
        "fields": "which rule feeds which field of an entry",
        "metadata": "columns that become a JSON object: a list, or JSON key: column",
        "account_map": "from the source's account ids to the ledger's, for rules with map: accounts",
        "accounts": "accounts and opening balances",
        "unknown_accounts": "reject: a row that names an account the ledger lacks is rejected; create: it is opened",
        "partition_rows": "rows per partition, 1 to 10,000,000; 100,000 unless given",
        "max_error_rate": "0 to 1; a partition with a larger share of rejects fails",
        "online": "true: live postings go on while this source is posted",
        "config": "the settings of this source's runs",
    },
    "CsvDialect": {
        "delimiter": "one ASCII character",
        "quote": "one ASCII character, or null for a file without quoting",
        "encoding": "utf-8, latin-1, cp1252, …",
        "header": "whether the first line names the columns",
        "columns": "the names in file order, with header: false",
        "skip_lines": "lines before the table",
        "skip_footer_lines": "lines after the table",
    },
    "EntryFields": {
        "ledger_id": "at most 64 characters",
        "debit_account_id": "the account that is debited; at most 255 characters",
        "credit_account_id": "the account that is credited; must differ from the other",
        "amount": "above zero, not finer than the currency",
        "currency_code": "ISO 4217, in capitals",
        "asset_type": "fiat, cbdc, commodity or security",
        "transaction_type": "at most 64 characters",
        "reference_id": "unique within the ledger; generate: true makes one from the row",
        "timestamp_utc": "when it happened; never taken as now",
        "fx_rate": "units of the other account's currency per unit of the entry's",
    },
    "TimeRule": {
        "format": "iso8601, epoch_seconds, epoch_milliseconds, epoch_days, or such as %d.%m.%Y %H:%M",
        "timezone": "an IANA name such as Europe/Berlin, for times without an offset",
        "pivot": "the first year that two digits (%y) can mean",
        "epoch": "day 0 of epoch_days; 1970-01-01 unless given",
    },
    "NumberRule": {
        "decimal_mark": "what stands before the decimals",
        "thousands_mark": "what stands between groups of digits",
        "in": "the column of amounts that come in, with out",
        "out": "the column of amounts that go out, with in",
        "minus": "how a minus is written: leading, trailing, parentheses",
        "symbols": "texts beside a number that mean nothing, such as a currency sign",
        "zero": "what an amount of zero becomes",
    },
    "GeneratedReferenceRule": {"columns": "the columns that identify a booking; all unless given"},
    "AccountMap": {
        "inline": "source id: ledger id",
        "file": "a CSV file with the columns from and to",
        "missing": "reject: an id that is not in the map rejects its row; keep: it stays as it is",
    },
    "Accounts": {"file": "a CSV file with one row per account", "opening": "the opening entries"},
    "Opening": {"as_of": "when the opening entries happened, with an offset; before the first entry"},
}
"""Model → key → help, for keys whose model says nothing itself."""


def schema_text() -> str:
    """The schema as a file for editors."""
    return json.dumps(source_schema(), indent=2, ensure_ascii=False) + "\n"


def source_schema() -> JsonSchemaValue:
    """The JSON Schema (draft 2020-12) of a source definition."""
    schema = SourceDefinition.model_json_schema(schema_generator=_ForEditors)
    _add_help(schema, "SourceDefinition")
    for name, part in schema.get("$defs", {}).items():
        _add_help(part, name)
    _tidy(schema)
    return {"$schema": _DIALECT, "title": "Source definition of the ledger backfill", **schema}


class _ForEditors(GenerateJsonSchema):
    """What may be written, short forms included, instead of what the models hold."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """A value, or its short form."""
        inner = super().function_before_schema(schema)
        function: Callable[..., object] = schema["function"]["function"]
        short = _SHORT_FORMS.get(getattr(function, "__name__", ""))
        return inner if short is None else {"anyOf": [dict(short), inner]}

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        """Texts, also those that look like numbers to an editor."""
        made = super().str_schema(schema)
        return made if "pattern" in made else {**made, "type": _TEXT}


def _add_help(part: JsonSchemaValue, model: str) -> None:
    for key, text in _HELP.get(model, {}).items():
        if (found := part.get("properties", {}).get(key)) is not None:
            found.setdefault("description", text)


def _tidy(part: object) -> None:
    """Takes out what is noise in an editor: titles made of names, defaults of whole sections, formats of one's own."""
    if isinstance(part, list):
        for one in part:
            _tidy(one)
    if not isinstance(part, dict):
        return
    if isinstance(part.get("title"), str):
        del part["title"]
    if isinstance(part.get("default"), dict | list) or part.get("default", "") is None:
        del part["default"]
    if part.get("format") == "path":
        del part["format"]
    for key, one in part.items():
        # Below these, keys are names of a definition's own keys and say nothing about the schema.
        _tidy(list(one.values()) if key in ("properties", "$defs") else one)
