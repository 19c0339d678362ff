"""Rules for texts: from columns to one column, through the steps of the definition.

Belongs here: the compilers of value expressions: constants, columns, templates, and their steps in order.
Does not: which rows a rule is for (`rules.py`), numbers and times.

A value expression is compiled once, into a list of operations on whole columns. There is no loop over rows.
"""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.fields import ColumnRule, ConstantRule, TemplateRule, Value
from backfill_pipeline.definition.steps import VALUE_GROUP, Steps, capturing, template_parts
from backfill_pipeline.mapping.lookups import Lookups, LookupTable
from backfill_pipeline.mapping.rows import Rows, trim
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.schemas.row_errors import positions_of

TextCompiled = Callable[[Rows], pa.Array]
_Step = Callable[[Rows, pa.Array], pa.Array]


def compile_text(rule: Value, field: str, lookups: Lookups, missing: str | None) -> TextCompiled:
    """A rule for text → one string column; null where there is an error and in malformed records.

    Args:
        rule: constant, column or template, with its steps.
        field: for errors.
        lookups: what `lookup` and `map` refer to.
        missing: the code of rows without a value; None when that is no error.
    """
    if isinstance(rule, ConstantRule):
        constant = pa.scalar(rule.constant.strip(), pa.string())
        return lambda rows: pa.repeat(constant, len(rows))
    read = _template(rule) if isinstance(rule, TemplateRule) else _column(rule)
    steps = _steps(rule, field, lookups)
    default = getattr(rule, "default", None)
    account_map = lookups.accounts if getattr(rule, "map", None) is not None else None
    absent = f"{field} is missing: {_says_empty(rule, bool(steps))}"

    def text(rows: Rows) -> pa.Array:
        values = read(rows)
        for step in steps:
            values = step(rows, values)
        if default is not None or missing is not None:
            empty = pc.fill_null(pc.equal(values, ""), False)
            if pc.any(empty).as_py():
                if default is not None:
                    values = pc.if_else(empty, default, values)
                elif missing is not None:
                    rows.errors.add(positions_of(empty), missing, field, absent)
        if account_map is None:
            return values
        noun = field.removesuffix("_id")
        return _looked_up(
            rows, values, account_map, RejectCode.ACCOUNT_UNMAPPED, field, noun, "is not in the account map"
        )

    return text


def _says_empty(rule: ColumnRule | TemplateRule, has_steps: bool) -> str:
    if isinstance(rule, TemplateRule):
        return f'a column of the template "{rule.template}" is empty'
    return f"column {rule.column} is empty{', or nothing is left of it' if has_steps else ''}"


def _column(rule: ColumnRule) -> TextCompiled:
    return lambda rows: rows.trimmed(rule.column) if rule.trim else rows.raw(rule.column)


def _template(rule: TemplateRule) -> TextCompiled:
    """The parts joined. Where a column is empty, all is: "{branch}-{account}" is never "-4711"."""
    parts = template_parts(rule.template)

    def joined(rows: Rows) -> pa.Array:
        filled: list[str | pa.Array] = []
        empty: pa.Array | None = None
        for text, is_column in parts:
            if not is_column:
                filled.append(text)
                continue
            values = rows.trimmed(text) if rule.trim else rows.raw(text)
            filled.append(values)
            lacking = pc.equal(values, "")
            empty = lacking if empty is None else pc.or_kleene(empty, lacking)
        whole = pc.binary_join_element_wise(*filled, "")
        return pc.if_else(pc.fill_null(empty, False), "", whole)

    return joined


# --- steps ------------------------------------------------------------------------------------------------------


def _steps(rule: Steps, field: str, lookups: Lookups) -> list[_Step]:
    """The steps that a rule states, in the order in which they are taken, whatever their order in the file."""
    steps: list[_Step] = []
    if rule.case is not None:
        change = pc.utf8_upper if rule.case == "upper" else pc.utf8_lower
        steps.append(lambda rows, values: change(values))
    if rule.slice is not None:
        first, end = rule.slice
        steps.append(lambda rows, values: pc.utf8_slice_codeunits(values, first, end))
    if rule.strip_leading is not None:
        leading = rule.strip_leading
        steps.append(lambda rows, values: pc.utf8_ltrim(values, characters=leading))
    if rule.regex is not None:
        steps.append(_found(rule.regex, field, reject=rule.unmatched == "reject"))
    if rule.replace is not None:
        steps.extend(_replaced(before, after) for before, after in rule.replace.items())
    if steps and rule.trim:
        steps.append(lambda rows, values: trim(values))  # a part of a text may start or end with a space
    if rule.lookup is not None:
        steps.append(_lookup(lookups.named[rule.lookup], rule.lookup, field))
    return steps


def _replaced(before: str, after: str) -> _Step:
    return lambda rows, values: pc.replace_substring(values, before, after)


def _found(pattern: str, field: str, *, reject: bool) -> _Step:
    """What the pattern finds; empty, or an error, where it finds nothing in a text."""
    group = capturing(pattern)

    def found(rows: Rows, values: pa.Array) -> pa.Array:
        matches = pc.extract_regex(values, group)
        result = pc.struct_field(matches, VALUE_GROUP)
        unmatched = pc.and_(pc.is_null(matches), pc.is_valid(values))
        if not pc.any(unmatched).as_py():
            return result
        if not reject:
            return pc.if_else(unmatched, "", result)
        written = pc.and_(unmatched, pc.not_equal(values, ""))
        rows.errors.add_where(
            written, RejectCode.VALUE_UNMATCHED, field, field, values, f"does not match {pattern}"
        )
        return pc.if_else(pc.and_not(unmatched, written), "", result)

    return found


def _lookup(table: LookupTable, name: str, field: str) -> _Step:
    words = f"is not in the lookup {name}"
    return lambda rows, values: _looked_up(
        rows, values, table, RejectCode.LOOKUP_MISSING, field, field, words
    )


def _looked_up(
    rows: Rows, values: pa.Array, table: LookupTable, code: RejectCode, field: str, noun: str, words: str
) -> pa.Array:
    targets, lacking = table.look_up(values)
    if lacking is not None:
        rows.errors.add_where(lacking, code, field, noun, values, words)
    return targets
