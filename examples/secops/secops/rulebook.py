"""The rules in force: the policy beside this package and the thresholds, under one version."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from .policy import Policy, load_policy
from .thresholds import Thresholds

_FILE = Path(__file__).resolve().parents[1] / "policy.yaml"


def name_of(policy: Policy) -> str:
    """What a policy is called where it decides: another one for any other rule."""
    return f"secops policy {policy.version}-{sha256(_rules_of(policy).encode()).hexdigest()[:8]}"


def _rules_of(policy: Policy) -> str:
    """Without its `grouping`, which changes no finding and decides no block."""
    return policy.model_dump_json(exclude={"grouping"})


LIMITS = Thresholds()
# Read when the domain is loaded: a wrong policy is refused before anything runs.
POLICY = load_policy(_FILE)
VERSION = sha256(f"{_rules_of(POLICY)}{LIMITS.model_dump_json()}".encode()).hexdigest()[:16]
# Who stands beside a decision that the policy has made.
POLICY_NAME = name_of(POLICY)
