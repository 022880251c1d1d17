"""The rules in force: the policy beside this package and the thresholds, under one version."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from .policy import load_policy
from .thresholds import Thresholds

_FILE = Path(__file__).resolve().parents[1] / "policy.yaml"

LIMITS = Thresholds()
# Read when the domain is loaded: a wrong policy is refused before anything runs.
POLICY = load_policy(_FILE)
VERSION = sha256(f"{POLICY.model_dump_json()}{LIMITS.model_dump_json()}".encode()).hexdigest()[:16]
# Who stands beside a decision that the policy has made: any other text is another version.
POLICY_NAME = f"secops policy {POLICY.version}-{sha256(POLICY.model_dump_json().encode()).hexdigest()[:8]}"
