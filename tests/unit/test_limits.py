"""What travels inside a message fits into a parcel that NATS takes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from actors.domain import LimitSpec
from bus.address import DEFAULT_TENANT
from bus.envelope import Header, header_to_json, new_id
from bus.limits import CLAIM_CHECK_BYTES, PAYLOAD_BYTES
from bus.wire import MAX_PARCEL_BYTES, Item, Parcel, encode_parcel

NATS_MAX_PAYLOAD = 1024 * 1024


def test_the_largest_message_without_a_blob_fits_into_what_nats_takes() -> None:
    limits = LimitSpec(claim_check_bytes=MAX_PARCEL_BYTES)
    header = Header(
        id=new_id(), type="t" * 200, sender=f"desk/clerk/{'k' * 1_000}", sent_at=0.0, traceparent="p" * 200
    )
    payload = "\N{SNOWMAN}" * (limits.claim_check_bytes // 3)
    item = Item(2**62, DEFAULT_TENANT, f"clerk/{'k' * 1_000}", header_to_json(header), payload)
    assert len(encode_parcel(Parcel(2**62, 4095, 2**62, [item]))) <= NATS_MAX_PAYLOAD


@pytest.mark.parametrize("limits", [{"claim_check_bytes": MAX_PARCEL_BYTES + 1}, {"payload_bytes": 2**30}])
def test_a_limit_that_cannot_be_kept_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="less than or equal"):
        LimitSpec(**limits)


def test_the_defaults_are_in_order() -> None:
    limits = LimitSpec()
    assert (limits.claim_check_bytes, limits.payload_bytes) == (CLAIM_CHECK_BYTES, PAYLOAD_BYTES)
    assert CLAIM_CHECK_BYTES < MAX_PARCEL_BYTES < PAYLOAD_BYTES
