"""The names by which sections of a definition refer to each other: columns, lookups, and the targets of rules.

Belongs here: what must hold between derived columns, rules, lookups and fields, and which columns the source must have.
Does not: what each section is (the other modules of this package).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

from backfill_pipeline.definition.base import problem
from backfill_pipeline.definition.fields import (
    AnyRule,
    ConstantRule,
    EntryFields,
    GeneratedReferenceRule,
    TemplateRule,
    Value,
    rule_columns,
)
from backfill_pipeline.definition.lookups import Lookup
from backfill_pipeline.definition.rules import Rule
from backfill_pipeline.definition.stated_balances import StatedBalance
from backfill_pipeline.definition.steps import template_parts

RESERVED_PREFIX: Final = "__"
"""Of the columns that the reader adds."""


def check_names(
    columns: Mapping[str, Value],
    rules: Sequence[Rule],
    lookups: Mapping[str, Lookup],
    fields: EntryFields,
    account_fields: Mapping[str, AnyRule],
    stated: Sequence[StatedBalance] = (),
    *,
    has_account_map: bool,
) -> None:
    """Raises the first problem: an unknown lookup or target, a missing account map, a column used too early."""
    _check_order(columns)
    for place, value in values_of(columns, rules, fields, account_fields, stated):
        lookup = getattr(value, "lookup", None)
        if lookup is not None and lookup not in lookups:
            known = (
                f": the lookups are {', '.join(lookups)}" if lookups else ", and there is no section lookups"
            )
            raise problem(f"is no lookup of this definition{known}", f"{place}.lookup", lookup)
        if getattr(value, "map", None) is not None and not has_account_map:
            raise problem("needs an account_map, which is not defined", f"{place}.map", "accounts")
        if place.endswith("reference_id") and isinstance(value, TemplateRule):
            _check_reference_template(place, value.template)
    for number, rule in enumerate(rules):
        _check_targets(f"rules.{number}.set", rule, columns, fields)


def _check_order(columns: Mapping[str, Value]) -> None:
    names = list(columns)
    for number, (name, value) in enumerate(columns.items()):
        if name.startswith(RESERVED_PREFIX):
            raise problem(
                f"starts with {RESERVED_PREFIX}, which only the product's own columns do", f"columns.{name}"
            )
        for read in value.columns_read():
            if read in names[number + 1 :]:
                raise problem(f"uses {read}, which is defined after it: move {read} up", f"columns.{name}")


def _check_reference_template(place: str, template: str) -> None:
    """Columns side by side make "1" + "23" and "12" + "3" the same reference."""
    parts = template_parts(template)
    for (first, is_column), (second, is_too) in pairwise(parts):
        if is_column and is_too:
            raise problem(
                f"puts {first} and {second} side by side, so that different rows may get the same reference:"
                " write something between them",
                f"{place}.template",
                template,
            )


def _check_targets(place: str, rule: Rule, columns: Mapping[str, Value], fields: EntryFields) -> None:
    texts = text_fields(fields)
    for target in rule.set or {}:
        if target in texts or target in columns:
            continue
        if target in type(fields).model_fields and not target.endswith("account_id"):
            raise problem(
                "cannot be set by a rule: set a derived column, and let the field read that",
                f"{place}.{target}",
            )
        allowed = ", ".join([*texts, *columns])
        raise problem(f"is neither a field nor a derived column: allowed are {allowed}", f"{place}.{target}")


def text_fields(fields: EntryFields) -> dict[str, Value]:
    """Field → rule of the fields that are texts, in the order of the ENTRY frame."""
    return {name: rule for name, rule in fields.rules().items() if isinstance(rule, Value)}


def values_of(
    columns: Mapping[str, Value],
    rules: Sequence[Rule],
    fields: EntryFields,
    account_fields: Mapping[str, AnyRule],
    stated: Sequence[StatedBalance] = (),
) -> Iterator[tuple[str, AnyRule]]:
    """Every place that holds a rule for a value, by its dotted key."""
    yield from ((f"columns.{name}", value) for name, value in columns.items())
    yield from ((f"fields.{name}", value) for name, value in fields.rules().items())
    yield from ((f"accounts.fields.{name}", value) for name, value in account_fields.items())
    for number, rule in enumerate(rules):
        yield from ((f"rules.{number}.set.{name}", value) for name, value in (rule.set or {}).items())
    for number, one in enumerate(stated):
        yield f"stated_balances.{number}.account", one.account


def _read_last(
    rules: Sequence[Rule], metadata: Mapping[str, str], stated: Sequence[StatedBalance]
) -> Iterator[tuple[str, Sequence[str]]]:
    """Keys and the columns that they read, of the sections that see all derived columns."""
    for number, rule in enumerate(rules):
        yield from ((f"rules.{number}.{key}", [column]) for column, key in rule.columns_read().items())
    yield "metadata", list(metadata.values())
    for number, one in enumerate(stated):
        yield f"stated_balances.{number}", one.columns_read()


def source_columns(
    columns: Mapping[str, Value],
    rules: Sequence[Rule],
    fields: EntryFields,
    metadata: Mapping[str, str],
    stated: Sequence[StatedBalance] = (),
) -> dict[str, str]:
    """Column that the source must have → the key that reads it (the first one).

    A derived column hides a source column of its name from everything that comes after it. Generated references are
    made of what the source holds, whatever is derived from it.
    """
    found: dict[str, str] = {}
    derived: set[str] = set()

    def read(names: Sequence[str], key: str) -> None:
        for name in names:
            if name not in derived:
                found.setdefault(name, key)

    reference = fields.reference_id
    if isinstance(reference, GeneratedReferenceRule):
        read(rule_columns(reference), "fields.reference_id")
    for name, value in columns.items():
        read(rule_columns(value), f"columns.{name}")
        derived.add(name)
    for field, rule in fields.rules().items():
        if not isinstance(rule, ConstantRule | GeneratedReferenceRule):
            read(rule_columns(rule), f"fields.{field}")
    for key, columns_read in _read_last(rules, metadata, stated):
        read(columns_read, key)
    return found
