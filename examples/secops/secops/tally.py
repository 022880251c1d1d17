"""How many attempts failed in one connection, when sshd tells of the same attempt several times."""

from __future__ import annotations

from pydantic import BaseModel

from .record import Witness


class Tally(BaseModel):
    """What the lines of one connection told so far, by kind of statement; `last_s` in seconds."""

    told: dict[Witness, int] = {}
    last_s: int = 0

    def with_line(self, witness: Witness, count: int, at_s: int) -> Tally:
        told = {**self.told, witness: self.told.get(witness, 0) + count}
        return Tally(told=told, last_s=max(self.last_s, at_s))

    @property
    def attempts(self) -> int:
        """The failed attempts of this connection, never more than its strongest reading supports.

        `Failed ...` lines are one attempt each. With keyboard-interactive, PAM's error line and the
        `Failed keyboard-interactive` line tell of the same attempt, and sshd leaves out either at some log
        levels: the larger number holds. The other statements accompany those, and count only where they say
        more: a user name that does not exist, a barred user, a dismissal, a client that reports it failed.
        """
        told = self.told
        interactive = max(told.get(Witness.INTERACTIVE, 0), told.get(Witness.PAM_ERROR, 0))
        return max(
            told.get(Witness.FAILED, 0) + interactive,
            *(told.get(w, 0) for w in (Witness.NAMED, Witness.BARRED, Witness.DISMISSED, Witness.CLIENT)),
        )
