"""Every number that a rule compares with, in one place."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class Thresholds(BaseModel):
    """What makes a source suspicious, and how much of it is remembered.

    Five failures in ten minutes is fail2ban's default (`maxretry`, `findtime`); the other figures are
    judgements, explained in the README's table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_s: PositiveInt = Field(default=600, description="length of the sliding window, seconds")
    bucket_s: PositiveInt = Field(
        default=10, description="grain of the window, seconds: 60 numbers instead of 600"
    )
    brute_force_peak: PositiveInt = Field(default=5, description="failures within one window")
    brute_force_slow: PositiveInt = Field(default=10, description="failures in all, however slowly they come")
    enumeration_users: PositiveInt = Field(default=5, description="distinct user names")
    enumeration_tries: PositiveInt = Field(default=3, description="failures per user name, at most")
    compromise_failures: PositiveInt = Field(default=5, description="failures before an accepted login")
    compromise_users: PositiveInt = Field(
        default=3, description="distinct failed names before an accepted login"
    )
    sweep_addresses: PositiveInt = Field(
        default=3, description="addresses of one /24 or /64, each failing a little"
    )
    sweep_period_s: PositiveInt = Field(
        default=6 * 3600, description="within this time of each other, seconds"
    )
    sweep_medium: PositiveInt = Field(default=5, description="addresses that make a sweep's severity medium")
    sweep_high: PositiveInt = Field(default=16, description="addresses that make a sweep's severity high")
    high_failures: PositiveInt = Field(default=50, description="failures that make a severity high")
    high_users: PositiveInt = Field(
        default=20, description="user names that make an enumeration's severity high"
    )

    # A connection cannot fail after LoginGraceTime (2 minutes by default); five times that is safe.
    connection_idle_s: PositiveInt = Field(
        default=600, description="a connection is forgotten after, seconds"
    )
    max_connections: PositiveInt = Field(default=32, description="connections remembered per source")
    max_users: PositiveInt = Field(default=64, description="user names remembered per source")
    max_evidence: PositiveInt = Field(
        default=50, description="line numbers kept from the start, and from the end"
    )
    max_logins: PositiveInt = Field(default=20, description="accepted logins remembered per source")
