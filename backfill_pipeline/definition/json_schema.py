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
    "_column_number": {
        "type": "string",
        "pattern": "^[A-Za-z]{1,3}$",
        "description": "a letter, as in a sheet",
    },
    "_minor_units": {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 0}]},
}
"""Short forms that a model accepts, by the name of the function that makes the long form of them."""

_HELP: Final[dict[str, dict[str, str]]] = {
    "SourceDefinition": {
        "id": "the name of the source everywhere",
        "type": "the kind of source",
        "description": "for people",
        "owners": "whom to ask about it: e-mail addresses, or team:name; shown on its assets",
        "file": "the export; relative to this file; ${NAME} and ${NAME:-default} come from the environment",
        "files": "patterns of several files that are one source, instead of file",
        "member": "which file inside a .zip",
        "csv": "how a delimited file is written",
        "fixed": "how a fixed-width file is written",
        "parquet": "what a Parquet file does not say itself",
        "database": "which rows of which database, with type: database",
        "xlsx": "where the table is in an Excel workbook",
        "mt940": "how an MT940 file is written, and what is controlled",
        "camt": "what is controlled of a camt.052, camt.053 or camt.054 file",
        "api": "where an HTTP API is, and how it is asked",
        "scb": "the Sovereign Central Bank that keeps the ledger too, with type: scb; its days are synchronised",
        "columns": "columns made of others, by name",
        "transactions": "which rows are the legs of one transaction; they become pairs of a debit and a credit",
        "rules": "what rows that meet conditions become, or that they are left out",
        "lookups": "tables that replace texts by others, by name",
        "fields": "which rule feeds which field of an entry",
        "metadata": "columns that become a JSON object: a list, or JSON key: column",
        "account_map": "from the source's account ids to the ledger's, for rules with map: accounts",
        "accounts": "accounts and opening balances",
        "stated_balances": "running balances that the source states: compared with the ledger's, and reported",
        "unknown_accounts": "reject: a row that names an account the ledger lacks is rejected; create: it is opened",
        "partition_rows": "rows per partition, 1 to 10,000,000; 100,000 unless given",
        "max_error_rate": "0 to 1; a partition with a larger share of rejects fails",
        "freshness": "how long ago it may have been proven equal to the ledger: then a check warns",
        "online": "true: live postings go on while this source is posted",
        "config": "the settings of this source's runs",
    },
    "Freshness": {
        "at_most_hours": "hours since the latest reconciliation without a break of all of it, 1 to 8,784",
    },
    "CsvDialect": {
        "delimiter": "one ASCII character",
        "quote": "one ASCII character, or null for a file without quoting",
        "escape": "one ASCII character: what follows it means itself, such as \\ in MySQL's exports",
        "encoding": "utf-8, latin-1, cp1252, …",
        "header": "whether the first line names the columns",
        "columns": "the names in file order, with header: false",
        "skip_lines": "lines before the table",
        "skip_footer_lines": "lines after the table",
    },
    "XlsxFormat": {
        "sheet": "its name, or its number from 1; needed when there are several",
        "header_row": "the row that names the columns; 1 unless given",
        "columns": "the names from left to right, when no row holds them",
        "first_row": "the first row that may hold a record; below the names unless given",
        "first_column": "where the table begins, as a letter or number; A unless given",
        "skip_footer_rows": "records at the end that are passed over",
        "float_decimals": "column: how many decimals its numbers stand for",
    },
    "Mt940Format": {
        "encoding": "utf-8, latin-1, cp1252, …",
        "control": "chain: a statement must add up and follow the one before; balance: add up; none",
    },
    "CamtFormat": {
        "control": "chain: a statement must add up and follow the one before; balance: add up; none",
    },
    "DatabaseSection": {
        "url_env": "the environment variable that holds the database's URL, such as LEGACY_DATABASE_URL",
        "sqlite": "a SQLite file instead; relative to this file",
        "table": "table or schema.table; a view is one too",
        "query": "a SELECT of one's own instead of a table",
        "key": "the columns, unique and never NULL, in whose order rows are read",
        "columns": "the columns of the table that are read; all unless given",
        "where": "a condition of SQL on the rows of the table",
        "float_decimals": "column: how many decimals its floats stand for",
        "connect_timeout_s": "1 to 600; 10 unless given",
        "statement_timeout_s": "1 to 86,400; 600 unless given",
    },
    "ApiSource": {
        "base_url": "begins every address; ${NAME} and ${NAME:-default} come from the environment",
        "path": "what follows base_url",
        "params": "parameters of every request; no secrets",
        "headers": "headers of every request; no secrets",
        "auth": "credentials: bearer, api_key, basic or oauth2; secrets come from environment variables",
        "allow_http": "true: credentials may travel unencrypted",
        "ca_file": "certificates (PEM) of an authority of your own",
        "format": "json: one document; jsonl: every line is a record",
        "records": "dotted path of the list of records; without it, the body is the list",
        "pagination": "how pages follow each other: page, offset, cursor, link or none",
        "windows": "asks for spans of days, one after the other",
        "total": "dotted path of the number of records, which must add up",
        "total_header": "header that holds the number of records",
        "key": "dotted path of what identifies a record, to count those that come twice",
        "requests_per_second": "at most so many",
        "connect_timeout_s": "10 unless given",
        "read_timeout_s": "longest silence; 60 unless given",
        "answer_timeout_s": "for a whole answer; 300 unless given",
        "max_attempts": "tries per request, 1 to 20; 5 unless given",
        "backoff_s": "pause before the second try, doubled each time; 1 unless given",
        "retry_after_max_s": "longest pause that a server may ask for; 120 unless given",
        "max_page_bytes": "largest answer, unpacked; 16 MiB unless given",
        "max_pages": "most pages of one question; 100,000 unless given",
    },
    "ScbSection": {
        "base_url": "begins every address; ${NAME} and ${NAME:-default} come from the environment",
        "bank_id": "the sovereign bank's id: the origin of its entries, and where ours are sent",
        "ledger": "what the bank calls the ledger in its addresses; bank_id unless given",
        "auth": "credentials: bearer, api_key, basic or oauth2; secrets come from environment variables",
        "timezone": "of the bank: where its days begin and end, such as Europe/Paris",
        "start": "the first day that is synchronised, such as 2024-03-01",
        "nightly": "when days are fetched without anybody asking for it",
        "send_entries": "false: the bank is not sent what is posted here first; true unless given",
        "digest": "false: days are proven by count and sums alone, for a bank that has no digests",
        "fetch_workers": "days that are fetched at once, 1 to 16; 4 unless given",
        "page_size": "entries that are asked for at once; 1000 unless given",
        "batch_size": "items that are sent at once, 1 to 10,000; 1000 unless given",
        "send_attempts": "tries until an item that the bank refuses is given up; 10 unless given",
        "headers": "headers of every request; no secrets",
        "allow_http": "true: credentials may travel unencrypted",
        "ca_file": "certificates (PEM) of an authority of your own",
        "requests_per_second": "at most so many",
        "connect_timeout_s": "10 unless given",
        "read_timeout_s": "longest silence; 60 unless given",
        "answer_timeout_s": "for a whole answer; 300 unless given",
        "max_attempts": "tries per request, 1 to 20; 5 unless given",
        "backoff_s": "pause before the second try, doubled each time; 1 unless given",
        "retry_after_max_s": "longest pause that a server may ask for; 120 unless given",
        "max_page_bytes": "largest answer, unpacked; 16 MiB unless given",
    },
    "NightlySync": {
        "enabled": "false: no schedule; true unless given",
        "cron": "minute, hour, day of the month, month, day of the week; 0 3 * * * unless given",
        "timezone": "in which cron is read; the bank's unless given",
        "lookback_days": "days before the last one that are looked at again, 0 to 366; 3 unless given",
    },
    "Windows": {
        "from": "the parameter for the beginning; from unless given",
        "to": "the parameter for the end; to unless given",
        "start": "the first day, such as 2024-01-31",
        "end": "the day after the last one, or today",
        "days": "length of a span",
        "format": "date, iso8601, iso8601_utc, epoch_seconds, epoch_milliseconds, or such as %d.%m.%Y",
        "timezone": "in which days begin; UTC unless given",
        "to_inclusive": "true: the API takes the end as a day that is included",
    },
    "PageNumbers": {
        "param": "page unless given",
        "first": "the number of the first page, 1 or 0",
        "size_param": "the parameter for how many records to give",
        "size": "how many records to ask for",
        "end": "what the last page is told by; empty_page unless given",
        "has_more": "dotted path of true or false, which tells the end instead",
    },
    "Offsets": {
        "param": "offset unless given",
        "size_param": "the parameter for how many records to give, often limit",
        "size": "how many records to ask for",
        "end": "what the last page is told by; empty_page unless given",
        "has_more": "dotted path of true or false, which tells the end instead",
    },
    "Cursors": {
        "param": "cursor unless given",
        "next": "dotted path of the next cursor in the answer",
        "last_record": "dotted path of the cursor in the last record of a page",
        "size_param": "the parameter for how many records to give",
        "size": "how many records to ask for",
        "has_more": "dotted path of true or false, which tells the end",
    },
    "Links": {
        "next": "dotted path of the next address in the answer; without it, the Link header",
        "size_param": "the parameter for how many records to give",
        "size": "how many records to ask for",
        "has_more": "dotted path of true or false, which tells the end",
    },
    "BearerAuth": {"token_env": "environment variable that holds the token"},
    "ApiKeyAuth": {
        "value_env": "environment variable that holds the key",
        "header": "the header that it goes into",
        "param": "the parameter that it goes into",
    },
    "BasicAuth": {
        "user_env": "environment variable that holds the user",
        "password_env": "environment variable that holds the password",
    },
    "ClientCredentialsAuth": {
        "token_url": "where tokens are given",
        "client_id_env": "environment variable that holds the client's id",
        "client_secret_env": "environment variable that holds the client's secret",
        "client_in": "header: as user and password (RFC 6749); body: as fields of the form",
    },
    "EntryFields": {
        "ledger_id": "at most 64 characters",
        "debit_account_id": "the account that is debited; at most 255 characters",
        "credit_account_id": "the account that is credited; must differ from the other",
        "account_id": "the account of a leg, in place of the other two; needs transactions",
        "amount": "above zero, not finer than the currency; of legs, with its sign",
        "currency_code": "ISO 4217, in capitals",
        "asset_type": "fiat, cbdc, commodity or security",
        "transaction_type": "at most 64 characters",
        "reference_id": "unique within the ledger; generate: true makes one from the row",
        "timestamp_utc": "when it happened; never taken as now",
        "fx_rate": "units of the other account's currency per unit of the entry's",
    },
    "Transactions": {
        "id": "the source's columns whose texts together tell which rows are one transaction",
        "positive": "the side of legs with an amount above zero",
        "zero_legs": "what becomes of legs with an amount of zero",
        "references": "row: each row has its own; numbered: the transaction's, with the entry's number behind it",
        "unit": "a column that tells what is counted where the currency does not, such as shares",
        "conversion_account": "per {currency_code} or {unit}: balances transactions that change one into another",
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
    "StatedBalance": {
        "balance": "the balance after each row, written as any number",
        "account": "the account that it is of",
        "side": "the side on which a balance above zero stands; the account's normal side unless given",
        "order": "descending: each file begins with its latest row",
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
        if function.__name__ == "_one_or_several":  # one mapping, short for a list of it
            return {"anyOf": [inner["items"], inner]}
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
