"""What a bank calls our accounts: the account map of its definition, read backwards.

Belongs here: finding the one name that stands for an account at the bank, and saying why there is none.
Does not: from the bank's names to ours (`mapping/`).
"""

from __future__ import annotations

from typing import Final

from backfill_pipeline.definition.fields import AccountRule
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.mapping.lookups import read_lookups

_COLUMNS: Final = frozenset(("debit_account", "credit_account"))
_FIELDS: Final = ("debit_account_id", "credit_account_id")


class AccountNames:
    """The bank's names of our accounts."""

    def __init__(self, definition: SourceDefinition) -> None:
        """
        Args:
            definition: of type scb.

        Raises:
            SourceDefinitionError: accounts are made in a way that cannot be read backwards.
            SourceFileError: the account map cannot be read.
        """
        rules = [_rule(definition, field) for field in _FIELDS]
        columns = (rules[0].column, rules[1].column)
        mapped = {rule.map for rule in rules}
        if set(columns) != _COLUMNS or len(mapped) > 1 or definition.fields.account_id is not None:
            raise _refused(
                definition, "both accounts of an entry are not read alike from its two account columns"
            )
        self.columns: Final = columns
        self._of: dict[str, list[str]] | None = None
        self._keeps_others = True
        self._theirs: frozenset[str] = frozenset()
        if mapped == {"accounts"}:
            table = read_lookups(definition).accounts
            assert table is not None, "checked when the definition was read"
            pairs = list(zip(table.sources.to_pylist(), table.targets.to_pylist(), strict=True))
            self._keeps_others = table.keep_missing
            self._theirs = frozenset(source for source, _ in pairs)
            self._of = {}
            for source, target in pairs:
                self._of.setdefault(target, []).append(source)

    def of(self, account: str) -> str:
        """The bank's name of an account of ours.

        Raises:
            LookupError: there is none, or more than one; its text says why.
        """
        if self._of is None:
            return account
        names = self._of.get(account, [])
        if len(names) == 1:
            return names[0]
        if names:
            shown = ", ".join(sorted(names)[:3])
            raise LookupError(
                f"account {account} stands for {len(names)} accounts of the bank ({shown}) in account_map, so nobody"
                " knows which one is meant: give the bank's entries one account each, or do not post to it here"
            )
        if self._keeps_others and account not in self._theirs:
            return account
        raise LookupError(
            f"account {account} is not among those that account_map leads to, so the bank's name of it is not known:"
            " add it"
        )


def _rule(definition: SourceDefinition, field: str) -> AccountRule:
    rule = getattr(definition.fields, field)
    plain = isinstance(rule, AccountRule) and rule == AccountRule(column=rule.column, map=rule.map)
    set_by_rules = any(field in (one.set or {}) for one in definition.rules)
    if not isinstance(rule, AccountRule) or not plain or rule.column in definition.columns or set_by_rules:
        raise _refused(definition, f"fields.{field} is more than a column of the bank with account_map")
    return rule


def _refused(definition: SourceDefinition, reason: str) -> SourceDefinitionError:
    return SourceDefinitionError(
        f"{definition.path}: entries that were posted here cannot be sent to the bank, because {reason}: use"
        " account_map alone, or set scb.send_entries to false."
    )
