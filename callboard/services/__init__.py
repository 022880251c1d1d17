"""Postgres and NATS: embedded by default, external when their URLs are set."""

from .checks import check_nats, check_postgres_durable, redacted
from .home import Home
from .instance import (
    Endpoints,
    Instance,
    external_endpoints,
    find_instance,
    is_recorded,
    recorded_instance,
    running_endpoints,
)
from .keeper import Keeper
from .program import client_program
from .services import Services, ensure_services, keep_services, stop_instance, why_postgres_is_gone
from .users import Users

__all__ = [
    "Endpoints",
    "Home",
    "Instance",
    "Keeper",
    "Services",
    "Users",
    "check_nats",
    "check_postgres_durable",
    "client_program",
    "ensure_services",
    "external_endpoints",
    "find_instance",
    "is_recorded",
    "keep_services",
    "recorded_instance",
    "redacted",
    "running_endpoints",
    "stop_instance",
    "why_postgres_is_gone",
]
