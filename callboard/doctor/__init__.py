"""What `callboard doctor` looks at: each check is a finding, and each finding that is not good has a mend."""

from .data_folder import examine_data_folder
from .deployment import examine_deployment, examine_external, examine_ray
from .finding import FAIL, GOOD, WARN, Finding
from .gateway import examine_gateway
from .keeper import examine_keeper
from .machine import examine_machine

__all__ = [
    "FAIL",
    "GOOD",
    "WARN",
    "Finding",
    "examine_data_folder",
    "examine_deployment",
    "examine_external",
    "examine_gateway",
    "examine_keeper",
    "examine_machine",
    "examine_ray",
]
