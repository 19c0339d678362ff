"""Conditional rules, compiled: which rule a row is for, and what it makes of the row.

Belongs here: conditions as masks over whole columns, the first rule that matches, and merging what rules set.
Does not: value expressions themselves (`text.py`).

Every condition is evaluated for all rows of a chunk at once; what a rule sets is made of its own rows only. So the cost
is that of the conditions, and setting costs the same however many rules there are.
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.names import text_fields
from backfill_pipeline.definition.numbers import NumberRule
from backfill_pipeline.definition.rules import Condition, Conditions, Rule
from backfill_pipeline.mapping.amounts import Numbers, read_numbers, settled_numbers
from backfill_pipeline.mapping.lookups import Lookups
from backfill_pipeline.mapping.number_text import parse_numbers
from backfill_pipeline.mapping.rows import Rows, trim
from backfill_pipeline.mapping.text import TextCompiled, compile_text
from backfill_pipeline.money import AMOUNT_TYPE
from backfill_pipeline.schemas.extracted import ERROR_CODE
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.schemas.row_errors import Positions, RowErrors

Mask = npt.NDArray[np.bool_]
_TextTest = Callable[[pa.Array], pa.Array]

FIELD: Final = "rules"
"""What rejects of rules name as their field."""


class CompiledRules:
    """The rules of a definition. Use `decide` once per chunk."""

    def __init__(self, definition: SourceDefinition, lookups: Lookups) -> None:
        fields = text_fields(definition.fields)
        self._columns = tuple(definition.columns)
        self._rules = [
            _CompiledRule(number, rule, tuple(fields), lookups)
            for number, rule in enumerate(definition.rules)
        ]
        self._amount = definition.fields.amount
        self._currency = compile_text(definition.fields.currency_code, "currency_code", lookups, None)

    def decide(self, rows: Rows) -> "Decision":
        """Finds the rule of each row, filters and rejects rows, and sets derived columns."""
        decision = Decision(rows)
        if not self._rules or not len(rows):
            return decision
        texts, numbers = _Texts(rows), _Numbers(rows, decision, self._amount, self._currency)
        # A malformed record has no texts that a condition could hold for.
        undecided = pc.is_null(rows.raw(ERROR_CODE)).to_numpy(zero_copy_only=False).copy()
        for rule in self._rules:
            chosen = rule.matches(undecided, texts, numbers)
            if chosen.any():
                undecided &= ~chosen
                rule.act(rows, chosen, decision)
        # All are made before the first is put: they see the columns as they were before the rules.
        columns = {
            name: decision.value(name, _unchanged(name))
            for name in self._columns
            if name in decision.set_by_rules
        }
        for name, values in columns.items():
            rows.put(name, values)
        return decision


class Decision:
    """What rules set: target → the rows concerned and how their value is made."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._signed_amounts: tuple[Numbers, RowErrors] | None = None
        self._set: dict[str, list[tuple[Positions, TextCompiled]]] = {}

    @property
    def set_by_rules(self) -> frozenset[str]:
        """The targets that some row of this chunk gets from a rule."""
        return frozenset(self._set)

    def amounts(self, rule: NumberRule, missing: str, currency: Callable[[], pa.Array]) -> Numbers:
        """The amounts of the chunk. What conditions have read is not read again."""
        rows = self._rows
        # In minor units, the currency that a rule sets decides what the number is.
        if (
            self._signed_amounts is None
            or rule.minor_units is not None
            or not self._set.keys().isdisjoint(rule.columns_read())
        ):
            return read_numbers(rows, rule, "amount", missing, currency)
        numbers, errors = self._signed_amounts
        rows.errors.add_from(errors, np.arange(len(rows)))
        return settled_numbers(rows, rule, numbers)

    def read_amounts(self, rule: NumberRule, missing: str, currency: Callable[[], pa.Array]) -> pa.Array:
        """The amounts with their signs, for conditions. What is wrong with them is told with the amount."""
        signed = rule.model_copy(update={"absolute": False, "zero": "reject"})
        kept, self._rows.errors = self._rows.errors, RowErrors()
        try:
            numbers = read_numbers(self._rows, signed, "amount", missing, currency)
            self._signed_amounts = numbers, self._rows.errors
        finally:
            self._rows.errors = kept
        return numbers.values

    def add(self, target: str, positions: Positions, value: TextCompiled) -> None:
        """Rows at these positions get their value from here."""
        self._set.setdefault(target, []).append((positions, value))

    def value(self, target: str, own: TextCompiled) -> pa.Array:
        """The target's column: from rules where they set it, elsewhere from its own rule."""
        rows, count = self._rows, len(self._rows)
        chosen = self._set.get(target)
        if chosen is None:
            return own(rows)
        if len(chosen[0][0]) == count:  # of one rule that is for every row
            return chosen[0][1](rows)
        left = np.ones(count, dtype=bool)
        for positions, _ in chosen:
            left[positions] = False
        places = np.empty(count, dtype=np.int64)
        parts: list[pa.Array] = []
        done = 0
        for positions, value in [(np.flatnonzero(left), own), *chosen]:
            if not len(positions):
                continue
            part = rows.at(positions)
            parts.append(value(part))
            rows.errors.add_from(part.errors, positions)
            places[positions] = np.arange(done, done + len(positions))
            done += len(positions)
        return pa.concat_arrays(parts).take(pa.array(places))


def _unchanged(column: str) -> TextCompiled:
    return lambda rows: rows.raw(column)


class _CompiledRule:
    """One rule: its conditions, and what it does."""

    def __init__(self, number: int, rule: Rule, fields: Sequence[str], lookups: Lookups) -> None:
        self._rule = rule
        self._name = rule.name or f"rule {number + 1}"
        self._when = [_Group(rule.when)] if rule.when is not None else []
        self._any = [_Group(group) for group in rule.any or ()]
        self._unless = [_Group(rule.unless)] if rule.unless is not None else []
        self._set = {
            target: compile_text(
                value, target, lookups, RejectCode(f"{target}_missing") if target in fields else None
            )
            for target, value in (rule.set or {}).items()
        }

    def matches(self, undecided: Mask, texts: "_Texts", numbers: "_Numbers") -> Mask:
        chosen = undecided
        for group in self._when:
            chosen = group.holds(chosen, texts, numbers)
        if self._any and chosen.any():
            found = np.zeros(len(chosen), dtype=bool)
            for group in self._any:
                found |= group.holds(chosen & ~found, texts, numbers)
            chosen = found
        for group in self._unless:
            chosen = chosen & ~group.holds(chosen, texts, numbers)
        return chosen.copy()

    def act(self, rows: Rows, chosen: Mask, decision: Decision) -> None:
        rule = self._rule
        if rule.filter is not None:
            rows.filter_where(pa.array(chosen), rule.filter)
        elif rule.reject is not None:
            reason = f"{rule.reject} ({self._name})"
            rows.errors.add(np.flatnonzero(chosen), RejectCode.RULE_REJECTED, FIELD, reason)
        else:
            positions = np.flatnonzero(chosen)
            for target, value in self._set.items():
                decision.add(target, positions, value)


# --- conditions -------------------------------------------------------------------------------------------------


class _Group:
    """Conditions that must all hold."""

    def __init__(self, conditions: Conditions) -> None:
        self._texts = [(column, _text_tests(condition)) for column, condition in conditions.items()]
        self._numbers = [(column, one) for column, one in conditions.items() if one.compares]

    def holds(self, among: Mask, texts: "_Texts", numbers: "_Numbers") -> Mask:
        """Where all hold, among the rows that are still in question."""
        chosen = among
        for column, tests in self._texts:
            for test in tests:
                chosen = chosen & texts.where(column, test)
                if not chosen.any():
                    return chosen
        # Last, because a text that is no number is an error of the rows that all else holds for, and of no others.
        for column, condition in self._numbers:
            chosen = chosen & numbers.compare(column, condition, chosen)
        return chosen


def _text_tests(condition: Condition) -> list[_TextTest]:
    """What a condition says about the text itself."""
    tests: list[_TextTest] = []
    if condition.equals is not None:
        tests.append(_test(pc.equal, condition.equals))
    if condition.not_equals is not None:
        tests.append(_test(pc.not_equal, condition.not_equals))
    if condition.in_ is not None:
        tests.append(_among(condition.in_))
    if condition.not_in is not None:
        within = _among(condition.not_in)
        tests.append(lambda text: pc.invert(within(text)))
    if condition.regex is not None:
        tests.append(_test(pc.match_substring_regex, condition.regex))
    if condition.starts_with is not None:
        tests.append(_test(pc.starts_with, condition.starts_with))
    for wanted, given in ((True, condition.empty), (False, condition.not_empty)):
        if given is not None:
            tests.append(_test(pc.equal if given is wanted else pc.not_equal, ""))
    return tests


def _test(operation: Callable[[pa.Array, str], pa.Array], value: str) -> _TextTest:
    return lambda text: operation(text, value)


def _among(texts: Sequence[str]) -> _TextTest:
    known = pa.array(texts, pa.string())
    return lambda text: pc.is_in(text, value_set=known)


class _Texts:
    """Columns of a chunk for tests. A test sees each different text once: columns that rules look at have few."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._encoded: dict[str, tuple[pa.Array, Positions]] = {}

    def where(self, column: str, test: _TextTest) -> Mask:
        """Where the test holds for a column."""
        if column not in self._encoded:
            # A derived column is null where its row is rejected anyway.
            encoded = pc.fill_null(self._rows.raw(column), "").dictionary_encode()
            # Indices as numpy takes them: each test would convert them anew, which takes longer than the test.
            self._encoded[column] = trim(encoded.dictionary), encoded.indices.to_numpy().astype(np.intp)
        dictionary, indices = self._encoded[column]
        holds: Mask = test(dictionary).to_numpy(zero_copy_only=False)
        return holds.take(indices)


class _Numbers:
    """Columns of a chunk read as numbers, written as the amount is; each is read once.

    The amount's own column is the amount with its sign, wherever that is told, also where the amount takes magnitudes.
    """

    def __init__(self, rows: Rows, decision: Decision, amount: NumberRule, currency: TextCompiled) -> None:
        self._rows = rows
        self._decision = decision
        self._amount = amount
        self._marks = amount.model_copy(update={"sign": None, "minor_units": None})
        self._currency = currency
        self._read: dict[str, pa.Array] = {}
        self._malformed: dict[str, tuple[Mask, Positions, pa.Array]] = {}

    def compare(self, column: str, condition: Condition, among: Mask) -> Mask:
        """Where a number meets a condition. A text that is no number is an error of its row; an empty one is none."""
        values = self._values(column)
        self._report(column, among)
        found: Mask = np.ones(len(self._rows), dtype=bool)
        low, high = condition.between or (None, None)
        for operation, limit in (
            (pc.greater, condition.above),
            (pc.less, condition.below),
            (pc.greater_equal, condition.at_least),
            (pc.less_equal, condition.at_most),
            (pc.greater_equal, low),
            (pc.less_equal, high),
        ):
            if limit is not None:
                met = pc.fill_null(operation(values, _decimal(limit)), False)
                found &= met.to_numpy(zero_copy_only=False)
        return found

    def _values(self, column: str) -> pa.Array:
        if column not in self._read and column == self._amount.column:
            self._read[column] = self._decision.read_amounts(
                self._amount, RejectCode.AMOUNT_MISSING, lambda: self._currency(self._rows)
            )
        elif column not in self._read:
            errors = RowErrors()
            text = pc.fill_null(self._rows.trimmed(column), "")
            self._read[column] = parse_numbers(text, self._marks, "amount", errors).values
            if errors:
                positions, _, _, reasons = errors.merged()
                open_ = np.zeros(len(self._rows), dtype=bool)
                open_[positions] = True
                self._malformed[column] = (open_, positions, reasons)
        return self._read[column]

    def _report(self, column: str, among: Mask) -> None:
        """Adds errors of rows that were not told yet."""
        if column not in self._malformed:
            return
        open_, positions, reasons = self._malformed[column]
        told = open_ & among
        at = np.flatnonzero(told[positions])
        texts = pc.replace_substring(reasons.take(pa.array(at)), "amount", column, max_replacements=1)
        self._rows.errors.add(positions[at], RejectCode.VALUE_MALFORMED, column, texts)
        open_ &= ~told


def _decimal(number: Decimal) -> pa.Scalar:
    return pa.scalar(number, AMOUNT_TYPE)


def derive_columns(rows: Rows, columns: Mapping[str, TextCompiled]) -> None:
    """Makes the derived columns of a chunk, each of which may use those before it."""
    for name, value in columns.items():
        rows.put(name, value(rows))
