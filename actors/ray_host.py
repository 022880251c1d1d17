"""A host as a Ray actor: the incarnation runs on an event loop of its own, in a thread beside Ray's."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time

import ray
import uvloop
from ray._raylet import IMPLICIT_RESOURCE_PREFIX  # type: ignore[attr-defined]

from actors.agent import Agent
from actors.incarnation import Equip, HostSettings, run_incarnation
from bus.errors import CallboardError, InvalidDomainFile

IMPLICIT = str(IMPLICIT_RESOURCE_PREFIX)  # every node has 1 of each resource that is called so, for nothing
_LEAST = 0.0001  # of a resource, in Ray
LINGER_S = 5.0  # a host whose epoch has ended leaves time for its coordinator to take the actor away


class HostActor:
    """Runs one incarnation. It is started detached with max_restarts=0: a dead host is never restarted, its
    partitions go to another epoch, and a new actor takes its place."""

    def __init__(
        self, settings: HostSettings, system_kinds: tuple[type[Agent], ...], equip: Equip, log_level: str
    ) -> None:
        configure_logging(log_level)
        self._refusal: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._main, args=(settings, system_kinds, equip), name="host", daemon=True
        )
        self._thread.start()

    def _main(self, settings: HostSettings, system_kinds: tuple[type[Agent], ...], equip: Equip) -> None:
        try:
            uvloop.run(run_incarnation(settings, system_kinds=system_kinds, equip=equip))
        except CallboardError as error:
            logging.getLogger("callboard.host").error("the host cannot run: %s", error)
            if isinstance(error, InvalidDomainFile):
                self._refusal = str(error)
        except BaseException:
            logging.getLogger("callboard.host").exception("the host failed")
        self._ended.set()
        time.sleep(LINGER_S)
        os._exit(0)  # the thread cannot leave the actor any other way

    def pid(self) -> int:
        return os.getpid()

    def wait_until_ended(self) -> str | None:
        """Block until the incarnation has ended; return why it cannot run the domain's code, if that was it."""
        self._ended.wait()
        return self._refusal


def mark_of(namespace: str, domain: str) -> str:
    """A resource of which every node has enough: by it the hosts of a domain are told from all else that waits in Ray."""
    return f"{IMPLICIT}{namespace}:{domain}"


def remote_host(name: str, *, cpus: float, mark: str) -> ray.actor.ActorClass[HostActor]:
    """The actor class with the options of a host of that name."""
    return ray.remote(HostActor).options(
        name=name,
        lifetime="detached",
        max_restarts=0,
        max_task_retries=0,
        num_cpus=cpus,
        resources={mark: _LEAST},
        max_concurrency=4,
    )


def configure_logging(level: str) -> None:
    """Log to standard error, which Ray writes to its session's log files."""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    # While Postgres is away, each pool would log a traceback for each connection it tries; we say so in one line.
    logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)
