"""A definition compiled to SQL: what the fields of an entry are made of, for rows that need no more than that.

Belongs here: which rules have an expression in SQL that means exactly the same, and for which values of a row it does.
Does not: the statement that they become part of (`ledger/taken_rows.py`), the rules themselves (`transform.py`).

An expression need not serve every row, since rows are told apart by `plain`: those for which one of its conditions does
not hold go through the mapping itself. So the conditions are strict, and whatever is unusual (a text that is not ASCII,
a number with a sign, a fault of any kind) is left to it. A rule that has no such expression is named, with why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from backfill_pipeline.definition.fields import ConstantRule, TemplateRule, Value
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.names import text_fields
from backfill_pipeline.definition.numbers import NumberRule
from backfill_pipeline.definition.steps import Steps, template_parts
from backfill_pipeline.definition.times import ISO_FORMAT, TimeRule
from backfill_pipeline.money import AMOUNT_SCALE
from backfill_pipeline.schemas.ledger_entry import ASSET_TYPES, LENGTH_MAX, TIME_END, TIME_FIRST

TEXT_TYPES: Final = frozenset(
    {
        "text",
        "varchar",
        "bpchar",
        "name",
        "int2",
        "int4",
        "int8",
        "numeric",
        "bool",
        "uuid",
        "json",
        "jsonb",
        "date",
    }
)
"""Types whose text the database writes as the pipeline reads it."""

_NUMBERS: Final = frozenset({"int2", "int4", "int8", "numeric"})
_INTEGERS: Final = frozenset({"int2", "int4", "int8"})
_WRITTEN: Final = frozenset({"text", "varchar", "bpchar"})
_UTC: Final = frozenset({"UTC", "Etc/UTC", "GMT", "Etc/GMT"})
_WHITE: Final = " \t\n\r\f\v"
_PLAIN_NUMBER: Final = r"^[0-9]{1,20}(\.[0-9]{1,18})?$"


class NotInSqlError(Exception):
    """A rule has no expression in SQL. `key` is its place in the definition, the message says why."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key} {why}")
        self.key = key


@dataclass(frozen=True, slots=True)
class SqlMapping:
    """A definition in SQL.

    Attributes:
        columns: field of an entry → its expression.
        plain: conditions on columns of the table; where one of them is not true, the expressions do not count.
        checks: likewise, on the fields by their names.
    """

    columns: Mapping[str, sql.Composable]
    plain: tuple[sql.Composable, ...]
    checks: tuple[sql.Composable, ...]


def compile_sql(definition: SourceDefinition, types: Mapping[str, str], alias: str) -> SqlMapping:
    """Compiles a definition.

    Args:
        definition: of a table.
        types: column of the table → the name of its type in PostgreSQL.
        alias: what the statement calls the table.

    Raises:
        NotInSqlError: a part of it has no expression in SQL.
    """
    for key, words in (
        ("columns", "derives columns"),
        ("rules", "says which rows are what"),
        ("transactions", "makes entries of several rows"),
        ("stated_balances", "reads balances"),
    ):
        if getattr(definition, key):
            raise NotInSqlError(key, f"{words}, which is done by the pipeline alone")
    return _Compiler(types, alias).compiled(definition)


class _Compiler:
    def __init__(self, types: Mapping[str, str], alias: str) -> None:
        self._types = types
        self._alias = alias
        self._plain: list[sql.Composable] = []
        self._checks: list[sql.Composable] = []
        self._ascii_columns: set[str] = set()

    def compiled(self, definition: SourceDefinition) -> SqlMapping:
        fields = definition.fields
        columns: dict[str, sql.Composable] = {}
        for name, rule in text_fields(fields).items():
            columns[name] = self._text(name, f"fields.{name}", rule)
        if "reference_id" not in columns:
            raise NotInSqlError("fields.reference_id", "is generated, which is done by the pipeline alone")
        columns["amount"] = self._number("fields.amount", fields.amount)
        if fields.amount.absolute:
            columns["amount"] = sql.SQL("abs({})").format(columns["amount"])
        columns["fx_rate"] = sql.SQL("NULL::numeric")
        if fields.fx_rate is not None:
            columns["fx_rate"] = self._rate("fields.fx_rate", fields.fx_rate)
        columns["timestamp_utc"] = self._time("fields.timestamp_utc", fields.timestamp_utc)
        columns["metadata"] = self._metadata(definition.metadata)
        self._check()
        return SqlMapping(columns, tuple(self._plain), tuple(self._checks))

    def _check(self) -> None:
        """What an entry must be (`schemas/ledger_entry.py`), but for its currency and decimals."""
        for name, limit in LENGTH_MAX.items():
            self._checks.append(
                sql.SQL("length({}) BETWEEN 1 AND {}").format(sql.Identifier(name), sql.Literal(limit))
            )
        self._checks += [
            sql.SQL("debit_account_id <> credit_account_id"),
            sql.SQL("asset_type IN ({})").format(sql.SQL(", ").join(map(sql.Literal, ASSET_TYPES))),
            sql.SQL("timestamp_utc >= {} AND timestamp_utc < {}").format(
                sql.Literal(TIME_FIRST), sql.Literal(TIME_END)
            ),
            _fitting("amount"),
        ]

    def _column(self, key: str, name: str) -> sql.Composable:
        if name not in self._types:
            raise NotInSqlError(key, f"reads the column {name}, which the table does not have")
        return sql.Identifier(self._alias, name)

    def _written(self, key: str, name: str) -> sql.Composable:
        """A column's text, "" for NULL."""
        column = self._column(key, name)
        if self._types[name] not in TEXT_TYPES:
            raise NotInSqlError(key, f"reads the column {name} of type {self._types[name]} as a text")
        return sql.SQL("coalesce({}::text, '')").format(column)

    # --- texts --------------------------------------------------------------------------------------------------

    def _text(self, field: str, key: str, rule: Value) -> sql.Composable:
        if isinstance(rule, ConstantRule):
            return sql.SQL("{}::text").format(sql.Literal(rule.constant.strip()))
        for name in ("slice", "regex", "lookup", "map"):
            if getattr(rule, name, None) is not None:
                raise NotInSqlError(key, f"has {name}, which is done by the pipeline alone")
        if not rule.trim:
            raise NotInSqlError(key, "has trim: false, which is done by the pipeline alone")
        text = self._stepped(
            self._template(key, rule) if isinstance(rule, TemplateRule) else self._ascii(key, rule.column),
            rule,
        )
        if (default := getattr(rule, "default", None)) is not None:
            text = sql.SQL("coalesce(nullif({}, ''), {})").format(text, sql.Literal(default))
        return text

    def _stepped(self, text: sql.Composable, rule: Steps) -> sql.Composable:
        """A trimmed text after the steps of a rule, trimmed again where they may leave white space."""
        if rule.case is not None:
            change = sql.SQL("upper" if rule.case == "upper" else "lower")
            text = sql.SQL('{}({} COLLATE "C")').format(change, text)
        if rule.strip_leading is not None:
            text = sql.SQL("ltrim({}, {})").format(text, sql.Literal(rule.strip_leading))
        for before, after in (rule.replace or {}).items():
            text = sql.SQL("replace({}, {}, {})").format(text, sql.Literal(before), sql.Literal(after))
        # The columns of a template are trimmed already, and none is empty.
        has_ends = isinstance(rule, TemplateRule) and rule.template != rule.template.strip(_WHITE)
        if has_ends or rule.strip_leading is not None or rule.replace is not None:
            return self._trim(text)
        return text

    @staticmethod
    def _trim(text: sql.Composable) -> sql.Composable:
        return sql.SQL("btrim({}, {})").format(text, sql.Literal(_WHITE))

    def _ascii(self, key: str, name: str) -> sql.Composable:
        """A column's text without white space around it; rows in which it is not ASCII are not plain."""
        text = self._written(key, name)
        if self._types[name] not in _WRITTEN | {"name", "json", "jsonb"}:  # nothing else, and no white space
            return text
        if name not in self._ascii_columns:
            self._ascii_columns.add(name)
            self._plain.append(sql.SQL("octet_length({}) = length({})").format(text, text))
        return self._trim(text)

    def _template(self, key: str, rule: TemplateRule) -> sql.Composable:
        """The parts joined; empty where a column is. NULL stands for it meanwhile, so that each column is made once."""
        parts: list[sql.Composable] = []
        for text, is_column in template_parts(rule.template):
            if not is_column:
                if not text.isascii():
                    raise NotInSqlError(key, "has a template that is not ASCII")
                parts.append(sql.Literal(text))
                continue
            parts.append(sql.SQL("nullif({}, '')").format(self._ascii(key, text)))
        return sql.SQL("coalesce({}, '')").format(sql.SQL(" || ").join(parts))

    # --- numbers ------------------------------------------------------------------------------------------------

    def _number(self, key: str, rule: NumberRule) -> sql.Composable:
        """A number's column as numeric; NULL where it is not written plainly."""
        said = rule.model_fields_set - {"column", "absolute", "minor_units"}
        if rule.column is None or any(
            getattr(rule, name) != type(rule).model_fields[name].default for name in said
        ):
            raise NotInSqlError(
                key, "says more than a column, absolute or minor_units, which the pipeline alone reads"
            )
        column, kind = self._column(key, rule.column), self._types[rule.column]
        if rule.minor_units is not None:
            if kind not in _INTEGERS or not isinstance(rule.minor_units, int):
                raise NotInSqlError(key, "has minor_units, which need a number and a column of integers here")
            unit = sql.Literal(f"1e-{rule.minor_units}")
            return sql.SQL("({} * {}::numeric)").format(column, unit)
        if kind in _NUMBERS:
            return sql.SQL("{}::numeric").format(column)
        if kind not in _WRITTEN:
            raise NotInSqlError(key, f"reads the column {rule.column} of type {kind} as a number")
        text = self._trim(self._written(key, rule.column))
        return sql.SQL("CASE WHEN {} <> '' AND {} ~ {} THEN {}::numeric END").format(
            text, text, sql.Literal(_PLAIN_NUMBER), text
        )

    def _rate(self, key: str, rule: NumberRule) -> sql.Composable:
        """A rate may be missing; one that is written and cannot be read is not plain."""
        rate = self._number(key, rule)
        assert rule.column is not None
        column = self._column(key, rule.column)
        empty = sql.SQL("{} IS NULL").format(column)
        if self._types[rule.column] in _WRITTEN:
            empty = sql.SQL("{} = ''").format(self._trim(self._written(key, rule.column)))
        self._plain.append(sql.SQL("({} OR {} IS NOT NULL)").format(empty, rate))
        self._checks.append(sql.SQL("(fx_rate IS NULL OR {})").format(_fitting("fx_rate")))
        return rate

    # --- times and metadata -------------------------------------------------------------------------------------

    def _time(self, key: str, rule: TimeRule) -> sql.Composable:
        if rule.column is None or rule.format != ISO_FORMAT or rule.timezone_column is not None:
            raise NotInSqlError(
                key, "is more than one column of dates or times, which the pipeline alone reads"
            )
        column, kind = self._column(key, rule.column), self._types[rule.column]
        if kind == "timestamptz":
            return column
        if kind not in ("timestamp", "date"):
            raise NotInSqlError(key, f"reads the column {rule.column} of type {kind} as a time")
        if rule.timezone not in _UTC:
            raise NotInSqlError(key, "is local time of another zone than UTC, which the pipeline alone reads")
        return sql.SQL("({}::timestamp AT TIME ZONE 'UTC')").format(column)

    def _metadata(self, metadata: Mapping[str, str]) -> sql.Composable:
        if not metadata:
            return sql.SQL("NULL::jsonb")
        texts = {name: self._written(f"metadata.{name}", column) for name, column in metadata.items()}
        filled = sql.SQL(" AND ").join(sql.SQL("{} <> ''").format(text) for text in texts.values())
        pairs = sql.SQL(", ").join(
            sql.SQL("{}, nullif({}, '')").format(sql.Literal(name), text) for name, text in texts.items()
        )
        # Of texts alone: jsonb_build_object takes twice as long. Leaving out what is empty costs as much again.
        return sql.SQL(
            "CASE WHEN {filled} THEN jsonb_object(ARRAY[{pairs}])"
            " ELSE nullif(jsonb_strip_nulls(jsonb_object(ARRAY[{pairs}])), '{{}}'::jsonb) END"
        ).format(filled=filled, pairs=pairs)


def _fitting(field: str) -> sql.Composable:
    """Whether a number is above zero and fits; NaN and infinity are greater than every number."""
    return sql.SQL("{} > 0 AND {} < 1e20 AND scale({}) <= {}").format(
        *[sql.Identifier(field)] * 3, sql.Literal(AMOUNT_SCALE)
    )
