"""The order in which entries go to a bank: for each account, as they were posted.

Belongs here: choosing which entries can go into the next delivery.
Does not: SQL, sending.

An entry waits as long as an earlier one that moves one of its accounts waits: for its time after a refusal, or behind
another one. Entries of one delivery are judged by the bank in their order.
"""

from __future__ import annotations

from collections.abc import Mapping

from backfill_pipeline.ledger.banks.outbox_deliveries import Candidate


class Queue:
    """Takes candidates in their order, and tells which can go."""

    def __init__(self, waiting: Mapping[str, int]) -> None:
        """
        Args:
            waiting: account → id of the first entry that moves it and is not due.
        """
        self._waiting = dict(waiting)

    def admit(self, candidate: Candidate) -> bool:
        """Whether it can go now; when not, whatever follows on its accounts waits behind it."""
        accounts = (candidate.debit_account, candidate.credit_account)
        if any(self._waiting.get(account, candidate.id) < candidate.id for account in accounts):
            self.hold(candidate)
            return False
        return True

    def hold(self, candidate: Candidate) -> None:
        """Makes what follows on the accounts of an entry wait for it."""
        for account in (candidate.debit_account, candidate.credit_account):
            self._waiting[account] = min(self._waiting.get(account, candidate.id), candidate.id)
