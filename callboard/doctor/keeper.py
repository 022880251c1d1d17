"""The embedded services that have died, and whether anybody starts them again."""

from __future__ import annotations

from callboard.died import died_services_text
from callboard.doctor.finding import Finding, fail, good, warn
from callboard.services import Instance, Keeper


def examine_keeper(instance: Instance | None) -> list[Finding]:
    """Says nothing where no embedded services were started."""
    if instance is None:
        return []
    keeper = Keeper(home=instance.home)
    kept = keeper.running() is not None
    if instance.died:
        mend = f"If it does not succeed, {keeper.log} says why." if kept else "`callboard up`."
        return [fail("keeper", died_services_text(instance.died, kept=kept), mend)]
    if not kept:
        return [
            warn("keeper", "nobody starts the embedded services again when they die", "`callboard up` does.")
        ]
    return [good("keeper", f"process {keeper.running()} starts the embedded services again when they die")]
