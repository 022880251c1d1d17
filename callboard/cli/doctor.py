"""`callboard doctor`."""

from __future__ import annotations

from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.table import Beside
from callboard.cli.terminal import console, emit, plain

_MARKS = {"good": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}


@asynchronous
async def doctor(as_json: Json = False) -> int:
    """Check this machine and this deployment, and say how to mend what is wrong.

    The exit code is 1 when a check fails; warnings leave it 0.
    """
    from callboard.doctor import (
        FAIL,
        WARN,
        examine_data_folder,
        examine_deployment,
        examine_external,
        examine_gateway,
        examine_keeper,
        examine_machine,
        examine_ray,
    )
    from callboard.doctor.finding import warn
    from callboard.ray_head import RayHead
    from callboard.services import find_instance, recorded_instance, running_endpoints
    from callboard.settings import load_settings

    settings = load_settings()
    found = examine_machine(settings, find_instance(settings))
    if settings.ray_address is not None:
        found.append(await examine_ray(settings.ray_address))
    endpoints = running_endpoints(settings)
    instance = recorded_instance(settings)
    found += examine_keeper(instance)
    if endpoints is None:
        if instance is None:
            found.append(
                warn("services", f"nothing runs in {settings.home}", "Start it with `callboard up`.")
            )
        found += await examine_external(settings)
        found += examine_data_folder(settings)
    else:
        ray_runs = (
            settings.ray_address is not None or RayHead(folder=settings.home / "ray").running() is not None
        )
        found += await examine_deployment(endpoints, expects_hosts=ray_runs)
    if settings.ray_address is None:
        found += await examine_gateway(settings)
    failed = sum(finding.status == FAIL for finding in found)
    warned = sum(finding.status == WARN for finding in found)
    if as_json:
        emit({"healthy": not failed, "findings": found})
        return int(failed > 0)
    out = console()
    width = max(len(finding.check) for finding in found)
    for finding in found:
        mark, style = _MARKS[finding.status]
        head = plain(f"{mark} ", style)
        head.append(f"{finding.check:<{width}}  ", "bold")
        out.print(Beside(head, plain(finding.detail)))
        if finding.mend:
            out.print(Beside(plain(f"  {'':<{width}}  → ", style), plain(finding.mend, style)))
    verdict = (
        "Everything is in order." if not failed and not warned else f"{failed} failed, {warned} to look at."
    )
    out.print(plain(verdict, "bold"))
    return int(failed > 0)
