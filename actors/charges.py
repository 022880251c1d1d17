"""The part of Context that says what a turn has spent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from decimal import Decimal

from actors.branch import Branch
from actors.journal import Journal
from actors.spending import CHARGE, Charge
from bus.amount import exact
from bus.errors import InvalidMessage

TOO_MANY = 10**15  # tokens, of which a column has room for the sums


class Charges(ABC):
    """Counts for the task, and for the one at the top of those that have started it."""

    __slots__ = ()

    def charge(self, *, tokens: int = 0, cost: Decimal | float = 0, key: str | None = None) -> None:
        """Charge the task with what was spent for it. It is recorded, so that a turn that runs again charges nothing
        twice, and commits with the next step, wait or the turn's end.

        In a step's function that is tried again it counts once, as what the first attempt has said: the next one comes to
        the same place, and finds it. Where each attempt costs, give each charge a `key` that no other attempt has.

        It never refuses, for the money is gone: what would spend more is refused once the task is above its limit.
        A cost is rounded to 12 places after the point, and its sums are exact. Raises InvalidMessage for what is below
        zero, not finite, or 10^15 and more, and for tokens that are no whole number.
        """
        try:
            spent = exact(cost)
        except ValueError:
            spent = Decimal(-1)
        if not (isinstance(tokens, int) and 0 <= tokens < TOO_MANY) or spent < 0:
            raise InvalidMessage(f"Nobody can spend {tokens} tokens and {cost}.", fix="Give what was used.")
        journal = self._journal()
        place = self._branch().place(key)
        if journal.recorded(place, CHARGE, CHARGE, inner=True) is None:
            journal.record(place, CHARGE, CHARGE, Charge(tokens=tokens, cost=spent).to_json())

    # -- what Context brings -------------------------------------------------------------------------

    @abstractmethod
    def _journal(self) -> Journal: ...

    @abstractmethod
    def _branch(self) -> Branch: ...
