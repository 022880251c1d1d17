"""The wire: what is written is read, and what is no message of ours is named as such."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from bus.envelope import Header, header_from_json, header_to_json, new_id
from bus.errors import InvalidMessage, InvalidPayload, UnknownMessageType
from bus.registry import decode_payload, encode_json, encode_payload, wire_name_of
from bus.wire import Item, Parcel, decode_parcel, encode_parcel, open_item
from callboard import message

_text = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)


@message("wire.sample.v1")
class Sample(BaseModel):
    text: str = ""
    number: float = 0.0
    nested: dict[str, list[str]] = {}


@given(st.integers(0, 2**63 - 1), st.integers(0, 4095), st.integers(0, 2**63 - 1), st.lists(st.tuples(
    st.integers(-(2**62), 2**63 - 1), _text, _text)))  # fmt: skip
def test_a_parcel_is_read_as_it_was_written(
    source: int, partition: int, number: int, items: list[tuple[int, str, str]]
) -> None:
    parcel = Parcel(source, partition, number, [Item(seq, "default", a, "{}", p) for seq, a, p in items])
    assert decode_parcel(encode_parcel(parcel)) == parcel


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\x90", b"\x94\x01\x02\x03\x04", b"GET / HTTP/1.1", b"\xc1" * 9]
)
def test_what_is_no_parcel_is_refused_with_a_hint(data: bytes) -> None:
    with pytest.raises(InvalidMessage, match=r"Publish events to callboard\.events"):
        decode_parcel(data)


def test_a_header_is_read_as_it_was_written_and_leaves_out_what_is_not_set() -> None:
    plain = Header(id=new_id(), type="wire.sample.v1", sender="a/b/c", sent_at=1.5)
    assert set(header_to_json(plain)[1:-1].replace('"', "").split(",")) == {
        f"id:{plain.id}", "type:wire.sample.v1", "sender:a/b/c", "sent_at:1.5",
    }  # fmt: skip
    full = Header(
        id=new_id(), type="wire.sample.v1", sender="a/b/ü", sent_at=1.5, correlation="c", causation="d", task="t",
        priority=2, deadline=9.25, hops=3, traceparent="00-x", blob="f" * 64,
    )  # fmt: skip
    for header in (plain, full):
        assert header_from_json(header_to_json(header)) == header


def test_an_item_is_opened_with_its_header_as_it_was_stored() -> None:
    header = Header(id=new_id(), type="wire.sample.v1", sender="a/b/c", sent_at=1.5)
    text = header_to_json(header).replace(",", ", ")
    envelope = open_item(Item(-5, "default", "b/c", text, '{"text": "x"}'))
    assert (envelope.header, envelope.header_json, envelope.is_control) == (header, text, True)


def test_ids_sort_by_the_time_they_were_made() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert ids == sorted(ids)


@given(_text, st.floats(allow_nan=False, allow_infinity=False))
def test_a_payload_is_read_as_it_was_written(text: str, number: float) -> None:
    sample = Sample(text=text, number=number, nested={text: [text]})
    assert decode_payload("wire.sample.v1", encode_payload(sample)) == sample


@pytest.mark.parametrize(
    "sample",
    [Sample(text="a\0"), Sample(nested={"\0": []}), Sample(nested={"a": ["\0"]}), Sample(text="\udfff")],
)
def test_text_that_postgres_cannot_hold_is_refused_wherever_it_stands(sample: Sample) -> None:
    with pytest.raises(InvalidPayload):
        encode_payload(sample)


@pytest.mark.parametrize("payload", ["", "{", "[]", "null", '{"number": "many"}', '{"text": "\\ud800"}'])
def test_a_payload_that_does_not_fit_is_refused(payload: str) -> None:
    with pytest.raises(InvalidPayload, match=r"does not fit wire\.sample\.v1"):
        decode_payload("wire.sample.v1", payload)


def test_an_unregistered_name_says_how_to_register_it() -> None:
    with pytest.raises(UnknownMessageType, match="in a module that one of the domain"):
        decode_payload("wire.nobody.v1", "{}")


def test_a_subclass_of_a_message_needs_a_name_of_its_own() -> None:
    class Special(Sample):
        pass

    with pytest.raises(UnknownMessageType, match="has no wire name"):
        wire_name_of(Special)


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), "\ud800", "\0", object(), {"a": b"bytes"}])
def test_a_value_that_json_or_postgres_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InvalidPayload):
        encode_json(value)
