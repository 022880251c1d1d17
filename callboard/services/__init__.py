"""Postgres and NATS: embedded by default, external when their URLs are set."""

from .checks import check_nats, check_postgres_durable, redacted
from .instance import Endpoints, Instance, find_instance
from .program import client_program
from .services import Services, ensure_services, stop_instance

__all__ = [
    "Endpoints",
    "Instance",
    "Services",
    "check_nats",
    "check_postgres_durable",
    "client_program",
    "ensure_services",
    "find_instance",
    "redacted",
    "stop_instance",
]
