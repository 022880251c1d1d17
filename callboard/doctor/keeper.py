"""The embedded services that have died, whether anybody starts them again, and how often that was needed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from callboard.died import died_services_text
from callboard.doctor.finding import Finding, fail, good, warn
from callboard.services import Instance, Keeper


def examine_keeper(instance: Instance | None) -> list[Finding]:
    """Says nothing where no embedded services were started."""
    if instance is None:
        return []
    keeper = Keeper(home=instance.home)
    return [_finding(instance, keeper), *_revivals(keeper)]


def _finding(instance: Instance, keeper: Keeper) -> Finding:
    kept = keeper.running() is not None
    if instance.died:
        mend = f"If it does not succeed, {keeper.log} says why." if kept else "`callboard up`."
        return fail("keeper", died_services_text(instance.died, kept=kept), mend)
    if not kept:
        return warn(
            "keeper", "nobody starts the embedded services again when they die", "`callboard up` does."
        )
    return good("keeper", f"process {keeper.running()} starts the embedded services again when they die")


def _revivals(keeper: Keeper) -> list[Finding]:
    from callboard.cli.terminal import count

    logs = {"Postgres": keeper.home / "postgres.log", "NATS": keeper.home / "nats" / "nats.log"}
    revivals = keeper.revivals(datetime.now(UTC) - timedelta(hours=1))
    return [
        warn(
            "died",
            f"{name} died and was started again {count(len(times), 'time')} in the last hour, last at {times[-1]:%H:%M:%S} ({keeper.log.name})",
            f"{logs[name]} may say why; of what the kernel has ended for want of memory, `dmesg` does.",
        )
        for name, times in revivals.items()
    ]
