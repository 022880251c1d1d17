"""A host: `python -m benchmarks.plain.host DOMAIN NAME`, with the servers' addresses as JSON on standard input."""

import asyncio
import json
import logging
import sys

import uvloop

from actors.incarnation import HostSettings, run_incarnation
from coordinators.equipment import SYSTEM_KINDS, equip_host


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    settings = HostSettings(domain=sys.argv[1], host=sys.argv[2], **json.loads(sys.stdin.readline()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_incarnation(settings, system_kinds=SYSTEM_KINDS, equip=equip_host))


if __name__ == "__main__":
    main()
