"""Legs: the rows of a transaction become entries, each of which debits one account and credits another.

Belongs here: which transactions are whole and sum to zero, and what each of their rows becomes.
Does not: how debits meet credits (`pairing.py`), what people are told (`leg_reasons.py`), bringing rows together
(`sources/grouping/grouped_reader.py`).

Every row stays one row: it carries an entry, is left out by name, or is rejected with all others of its transaction.
There is no loop over rows or transactions: all transactions of a chunk take each step at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.transactions import CURRENCY, UNIT, Transactions
from backfill_pipeline.mapping.exact import Integers, exact_amounts
from backfill_pipeline.mapping.leg_reasons import Transacted, why_incomplete, why_unbalanced
from backfill_pipeline.mapping.pairing import Legs, Sums, lay_out, pair
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.money import AMOUNT_TYPE
from backfill_pipeline.schemas.extracted import ERROR_CODE, SOURCE_LINE, SOURCE_ROW
from backfill_pipeline.schemas.ledger_entry import failing
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.schemas.row_errors import combined, positions_of
from backfill_pipeline.sources.grouping.transaction_ids import transaction_ids

PAIRED: Final = "paired_leg"
"""Why a row is left out whose leg is the other side of entries that other rows carry."""

OFFSET: Final = "offset_leg"
"""Why a row is left out that would carry an entry from an account to itself, which moves nothing."""

ZERO: Final = "zero_leg"
"""Why a row with an amount of zero is left out."""

FIELD: Final = "transaction_id"
"""What rejects of whole transactions name as their field."""

ACCOUNT: Final = "account_id"
"""The field of a leg that an entry does not have."""

_GROUPED_BY: Final = ("ledger_id", "currency_code", "asset_type")
"""An entry has one of each, so only legs that agree in them meet."""

_TIES_TOLD_BY: Final = (ACCOUNT, "reference_id", "timestamp_utc", "transaction_type", "metadata")
"""What tells legs of equal amounts apart, so that the order of the source does not."""

_NEAR: Final = 4

Mask = npt.NDArray[np.bool_]


class CompiledLegs:
    """The section `transactions` of a definition. Use `paired` once per chunk, then `whole`."""

    def __init__(self, transactions: Transactions, *, generated: bool) -> None:
        """
        Args:
            transactions: the section.
            generated: whether references are generated, and so differ from row to row.
        """
        self._section = transactions
        self._generated = generated

    def paired(self, rows: Rows, columns: Mapping[str, pa.Array]) -> tuple[dict[str, pa.Array], Transacted]:
        """What rows become.

        Args:
            rows: the chunk; takes what is wrong with transactions, and which rows are left out.
            columns: the fields of every row, `ACCOUNT` and signed amounts among them.

        Returns:
            Accounts, amounts and references of entries, null in rows that carry none; and the transactions.
        """
        transacted, zeros, at = self._legs_of_whole_transactions(rows, columns["amount"])
        codes, count = transacted.codes[at], len(transacted.ids)
        names = {*_TIES_TOLD_BY, *_GROUPED_BY, "amount", "amount_scale"}
        fields = {name: _taken(columns[name], at) for name in names}
        units = self._units(rows, fields["currency_code"], at)
        legs = self._legs(fields, units, codes)
        sums = lay_out(legs)
        owners = codes[sums.first]
        unbalanced, open_groups = self._balance(owners, sums, units.take(pa.array(sums.first)), count)
        pairs = pair(legs, sums, ~unbalanced[codes], open_groups)
        entries = _Entries(at[pairs.carrier], len(rows))
        added = self._conversion_accounts(fields["currency_code"], units, sums.first[open_groups])
        accounts = pa.concat_arrays([fields[ACCOUNT], added])
        debits, credits = (accounts.take(entries.spread(leg)) for leg in (pairs.debit, pairs.credit))
        moves = pc.not_equal(debits, credits)
        moves = moves.take(pa.array(entries.rows)).to_numpy(zero_copy_only=False)
        owner = codes[pairs.carrier]
        repeated = np.zeros(count, dtype=bool)
        references = columns["reference_id"]
        if self._section.references == "numbered":
            number = entries.spread(_numbers(owner, moves)).cast(pa.string())
            references = pc.binary_join_element_wise(references, number, "/")
        elif not self._generated:
            repeated = _repeated(references.take(pa.array(entries.rows[moves])), owner[moves], count)
        if unbalanced.any():
            shown = sums.balance if self._section.positive == "debit" else sums.credits.minus(sums.debits)
            reasons = why_unbalanced(transacted, owners, shown, units.take(pa.array(sums.first)))
            _reject(rows, transacted, (at, zeros), unbalanced, RejectCode.TRANSACTION_UNBALANCED, reasons)
        if repeated.any():
            words = "several entries of its transaction would get the reference that its rows share"
            _reject(rows, transacted, (at, zeros), repeated, RejectCode.TRANSACTION_REFERENCE_REPEATED, words)
        _leave_out(rows, zeros[~(unbalanced | repeated)[transacted.codes[zeros]]], ZERO)
        _leave_out(rows, at[pairs.left_over][~repeated[codes[pairs.left_over]]], PAIRED)
        _leave_out(rows, entries.rows[~moves & ~repeated[owner]], OFFSET)
        made = {
            "debit_account_id": debits,
            "credit_account_id": credits,
            "amount": pairs.amounts.amounts().take(entries.spread(np.arange(len(entries.rows)))),
            "amount_scale": entries.spread(pairs.scales).cast(pa.int8()),
            "reference_id": references,
        }
        return made, transacted

    def whole(self, table: pa.Table, transacted: Transacted) -> pa.Table:
        """The chunk without halves of transactions: where one entry cannot be posted, none of its transaction is.

        Args:
            table: ENTRY_SCHEMA, as `paired` left it.
            transacted: its transactions.
        """
        open_ = pc.is_null(table["error_code"]).to_numpy()
        carry = pc.and_(pc.is_valid(table["debit_account_id"]), pc.is_null(table["filter_reason"]))
        carry = np.flatnonzero(carry.to_numpy() & open_)
        wrong = carry[failing(table.take(pa.array(carry)))]
        if not len(wrong):
            return table
        source_rows = combined(table["source_row"])
        others = open_ & transacted.part & transacted.hit_by(wrong)[transacted.codes]
        others[wrong] = False
        positions = np.flatnonzero(others)
        places = np.full(table.num_rows, -1, dtype=np.int64)
        places[positions] = np.arange(len(positions))
        taken, hit = pa.array(places, mask=places < 0), pa.array(others)
        words = why_incomplete(transacted, wrong, positions, source_rows, None).take(taken)
        nothing = pa.scalar(None, pa.string())
        for name, values in (
            ("error_code", RejectCode.TRANSACTION_INCOMPLETE.value),
            ("error_field", FIELD),
            ("error_reason", words),
            ("filter_reason", nothing),
        ):
            column = pc.if_else(hit, values, combined(table[name]))
            table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
        return table

    # --- rows and transactions ----------------------------------------------------------------------------------

    def _legs_of_whole_transactions(
        self, rows: Rows, amounts: pa.Array
    ) -> tuple[Transacted, Integers, Integers]:
        """The transactions; of those in which no row is rejected by itself, the rows with zero, and the others."""
        ids = transaction_ids(rows.table, self._section.id)
        empty = positions_of(pc.equal(ids, ""))
        if len(empty):
            names = " or ".join(self._section.id)
            rows.errors.add(
                empty,
                RejectCode.TRANSACTION_ID_MISSING,
                FIELD,
                f"{FIELD} is missing: column {names} is empty",
            )
        encoded = ids.dictionary_encode()
        codes = pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int64)
        codes[empty] = -1
        absent = pc.or_(pc.is_valid(rows.filter_reasons), pc.is_valid(rows.raw(ERROR_CODE)))
        part = (codes >= 0) & ~absent.to_numpy(zero_copy_only=False)
        transacted = Transacted(codes, encoded.dictionary, part)
        wrong = np.zeros(len(rows), dtype=bool)
        wrong[rows.errors.merged()[0]] = True
        zero = pc.fill_null(pc.equal(amounts, pa.scalar(0, AMOUNT_TYPE)), False).to_numpy(
            zero_copy_only=False
        )
        zero = zero & part & ~wrong
        if self._section.zero_legs == "reject":
            rows.errors.add(np.flatnonzero(zero), RejectCode.LEG_AMOUNT_ZERO, "amount", "amount is zero")
            wrong |= zero
        bad = np.flatnonzero(part & wrong)
        hit = transacted.hit_by(bad)[codes]
        others = np.flatnonzero(part & ~wrong & hit)
        if len(others):
            reasons = why_incomplete(transacted, bad, others, rows.raw(SOURCE_ROW), rows.raw(SOURCE_LINE))
            rows.errors.add(others, RejectCode.TRANSACTION_INCOMPLETE, FIELD, reasons)
        whole = part & ~wrong & ~hit
        return transacted, np.flatnonzero(whole & zero), np.flatnonzero(whole & ~zero)

    def _units(self, rows: Rows, currencies: pa.Array, at: Integers) -> pa.Array:
        """What amounts count: the unit where there is one, else the currency."""
        if self._section.unit is None:
            return currencies
        own = _taken(rows.trimmed(self._section.unit), at)
        return pc.if_else(pc.equal(own, ""), currencies, own)

    def _legs(self, fields: Mapping[str, pa.Array], units: pa.Array, codes: Integers) -> Legs:
        amounts = fields["amount"]
        above = pc.greater(amounts, pa.scalar(0, AMOUNT_TYPE)).to_numpy(zero_copy_only=False)
        scales = fields["amount_scale"].to_numpy().astype(np.int64)
        group = codes
        for texts in (*(fields[name] for name in _GROUPED_BY), *([units] if self._section.unit else [])):
            group = _refined(group, texts)
        return Legs(
            group=group,
            is_credit=above if self._section.positive == "credit" else ~above,
            amounts=exact_amounts(pc.abs(amounts), scales, int(np.bincount(codes).max(initial=1))),
            scales=scales,
            ties=pa.table({name: fields[name] for name in _TIES_TOLD_BY}),
        )

    # --- what transactions come to ------------------------------------------------------------------------------

    def _balance(self, owners: Integers, sums: Sums, units: pa.Array, count: int) -> tuple[Mask, Integers]:
        """Which transactions do not sum to zero, and the groups that conversion accounts close.

        A conversion gives one currency away and takes another. Where all that is over lies on one side, something is
        missing, and no account makes that good. What counts is a unit as a whole, in whatever ledgers.

        Args:
            owners: per group, its transaction; in order.
            sums: of the groups.
            units: per group.
            count: of transactions.
        """
        open_ = sums.balance.signs() != 0
        unbalanced = np.zeros(count, dtype=bool)
        unbalanced[owners[open_]] = True
        if self._section.conversion_account is None:
            return unbalanced, np.zeros(0, dtype=np.int64)
        unit = _refined(owners, units)
        order = np.argsort(unit, kind="stable")
        ends = np.append(unit[order][1:] != unit[order][:-1], True)[: len(order)]
        signs = sums.balance.take(order).running(np.append(True, ends[:-1])[: len(order)]).take(ends).signs()
        owners_of_units = owners[order][ends]
        over, under = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        over[owners_of_units[signs > 0]] = True
        under[owners_of_units[signs < 0]] = True
        unbalanced &= over != under
        return unbalanced, np.flatnonzero(open_ & ~unbalanced[owners])

    def _conversion_accounts(self, currencies: pa.Array, units: pa.Array, first: Integers) -> pa.Array:
        """The account of each added leg; `first` has a leg of its group."""
        template = self._section.conversion_account
        if template is None or not len(first):
            return pa.array([], pa.string())
        parts: list[str | pa.Array] = []
        for place, text in enumerate(template.split(CURRENCY)):
            parts += [currencies.take(pa.array(first))] if place else []
            for number, rest in enumerate(text.split(UNIT)):
                parts += [units.take(pa.array(first))] if number else []
                parts.append(pa.repeat(pa.scalar(rest), len(first)))
        return pc.binary_join_element_wise(*parts, "")


@dataclass(frozen=True, slots=True)
class _Entries:
    """Where entries are: the row that carries each, among `count` rows."""

    rows: Integers
    count: int

    def spread(self, values: Integers) -> pa.Array:
        """Values of entries at their rows, int64; null in rows that carry none."""
        spread, empty = np.zeros(self.count, dtype=np.int64), np.ones(self.count, dtype=bool)
        spread[self.rows], empty[self.rows] = values, False
        return pa.array(spread, mask=empty)


# --- whole columns ----------------------------------------------------------------------------------------------


def _taken(column: pa.Array, at: Integers) -> pa.Array:
    """Some rows of a column, ascending and each once."""
    return column if len(at) == len(column) else column.take(pa.array(at))


def _numbers(owners: Integers, moves: Mask) -> Integers:
    """The number of each entry in its transaction, from 1, not counting those that move nothing; `owners` in order."""
    fresh = np.append(True, owners[1:] != owners[:-1])[: len(owners)]
    before: Integers = np.cumsum(moves) - moves
    first: Integers = before[np.maximum.accumulate(np.where(fresh, np.arange(len(owners)), 0))]
    return before - first + 1


def _repeated(references: pa.Array, owners: Integers, count: int) -> Mask:
    """Per transaction, whether two of its entries have one reference.

    Args:
        references: of each entry.
        owners: its transaction; in order.
        count: of transactions.
    """
    repeated = np.zeros(count, dtype=bool)
    # Few have more entries than this, and comparing texts in place is much cheaper than finding equal ones.
    for distance in range(1, _NEAR):
        near = np.flatnonzero(owners[distance:] == owners[:-distance])
        if len(near):
            same = pc.equal(references.take(pa.array(near)), references.take(pa.array(near + distance)))
            repeated[owners[near[same.to_numpy(zero_copy_only=False)]]] = True
    far = np.flatnonzero(np.bincount(owners, minlength=count)[owners] > _NEAR)
    encoded = references.take(pa.array(far)).dictionary_encode()
    different = max(1, len(encoded.dictionary))
    keys = np.sort(owners[far] * different + encoded.indices.to_numpy())
    repeated[keys[1:][keys[1:] == keys[:-1]] // different] = True
    return repeated


def _ranks(texts: pa.Array) -> tuple[Integers, int]:
    """The place of each text among all different ones, in their order; how many these are."""
    encoded = texts.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[encoded.indices.to_numpy()], len(order)


def _refined(group: Integers, texts: pa.Array) -> Integers:
    """Groups split by a text: in the order of the groups, then of the texts."""
    if not len(texts) or pc.all(pc.equal(texts, texts[0])).as_py():
        return group
    ranks, count = _ranks(texts)
    if count <= 1:
        return group
    if int(group.max(initial=0)) >= (1 << 62) // count:
        group = np.unique(group, return_inverse=True)[1].astype(np.int64)
    return group * count + ranks


def _leave_out(rows: Rows, positions: Integers, reason: str) -> None:
    if len(positions):
        where = np.zeros(len(rows), dtype=bool)
        where[positions] = True
        rows.filter_where(pa.array(where), reason)


def _reject(
    rows: Rows,
    transacted: Transacted,
    legs: tuple[Integers, ...],
    hit: Mask,
    code: RejectCode,
    reasons: pa.Array | str,
) -> None:
    """Rejects transactions: all of `legs`, which are rows, where `hit`; this and `reasons` are per transaction."""
    positions = np.sort(np.concatenate([one[hit[transacted.codes[one]]] for one in legs]))
    of = pa.array(transacted.codes[positions])
    rows.errors.add(positions, code, FIELD, reasons if isinstance(reasons, str) else reasons.take(of))
