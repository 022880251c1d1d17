"""A host whose agents ask models, as a plain process: `python -m tests.faults.model_host SETTINGS`.

SETTINGS are those of `HostSettings`, as JSON.
"""

from __future__ import annotations

import json
import sys

import uvloop

from actors.incarnation import HostSettings, run_incarnation
from coordinators.equipment import SYSTEM_KINDS, equip_host


def main() -> None:
    settings = HostSettings(**json.loads(sys.argv[1]))
    uvloop.run(run_incarnation(settings, system_kinds=SYSTEM_KINDS, equip=equip_host))


if __name__ == "__main__":
    main()
