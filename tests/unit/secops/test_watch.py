"""What is remembered of one source: exact counts, bounded memory, no attempt counted twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from secops.record import Kind, Witness
from secops.thresholds import Thresholds
from secops.watch import Sighting, Watch, observe
from secops.window import Window

LIMITS = Thresholds()
START = datetime(2024, 1, 1, tzinfo=UTC)


def seen(line: int, witness: Witness | None, user: str = "root", **more: object) -> Sighting:
    kind = Kind.FAILURE if witness else Kind.ACCEPTED
    fields = {"connection": "h/1", "at": START + timedelta(seconds=line), "kind": kind, **more}
    return Sighting.model_validate(
        {"source": "192.0.2.1", "line": line, "witness": witness, "user": user, **fields}
    )


def watch_of(*sightings: Sighting, limits: Thresholds = LIMITS) -> Watch:
    watch = Watch(source="192.0.2.1")
    for each in sightings:
        watch = observe(watch, each, limits)
    return watch


def test_a_named_user_and_its_failed_password_are_one_failure() -> None:
    watch = watch_of(seen(1, Witness.NAMED, "bob"), seen(2, Witness.FAILED, "bob"))
    assert (watch.failures, watch.users, watch.evidence.lines) == (1, {"bob": 1}, [1, 2])


def test_a_named_user_alone_is_a_failure() -> None:
    assert watch_of(seen(1, Witness.NAMED, "bob")).failures == 1


def test_pam_and_keyboard_interactive_tell_of_the_same_attempts() -> None:
    lines = [Witness.PAM_ERROR, Witness.INTERACTIVE, Witness.PAM_ERROR, Witness.INTERACTIVE, Witness.FAILED]
    assert watch_of(*(seen(line, witness) for line, witness in enumerate(lines, 1))).failures == 3


def test_a_dismissal_and_a_client_that_reports_failure_add_nothing() -> None:
    lines = [Witness.FAILED, Witness.DISMISSED, Witness.CLIENT]
    watch = watch_of(*(seen(line, witness, "") for line, witness in enumerate(lines, 1)))
    assert watch.failures == 1


def test_other_connections_are_counted_apart() -> None:
    watch = watch_of(
        seen(1, Witness.NAMED, connection="h/1"),
        seen(2, Witness.NAMED, connection="h/2"),
        seen(3, Witness.FAILED, connection="h/1"),
        seen(4, Witness.FAILED, connection="h/2"),
    )
    assert watch.failures == 2


def test_a_line_seen_twice_changes_nothing() -> None:
    once = watch_of(seen(1, Witness.FAILED), seen(2, Witness.FAILED))
    assert watch_of(seen(1, Witness.FAILED), seen(1, Witness.FAILED), seen(2, Witness.FAILED)) == once
    assert observe(once, seen(1, Witness.FAILED), LIMITS) is once


def test_a_login_remembers_what_failed_before_it() -> None:
    watch = watch_of(seen(1, Witness.FAILED, "a"), seen(2, Witness.FAILED, "b"), seen(3, None, "a"))
    assert [(each.failures_before, each.users_before) for each in watch.logins] == [(2, 2)]


def test_memory_is_bounded_and_counters_stay_exact() -> None:
    limits = Thresholds(max_users=4, max_evidence=3, max_connections=2, max_logins=2)
    lines = [
        seen(line, Witness.FAILED if line % 2 else None, f"u{line}", connection=f"h/{line}")
        for line in range(1, 2001)
    ]
    watch = watch_of(*lines, limits=limits)
    assert (watch.failures, watch.accepted, watch.unlisted) == (1000, 1000, 996)
    assert list(watch.users) == ["u1", "u3", "u5", "u7"]
    assert watch.evidence.lines == [1, 3, 5, 1995, 1997, 1999]
    assert watch.evidence.total == 1000
    assert [login.failures_before for login in watch.logins] == [1000, 999] or len(watch.logins) == 2
    assert len(watch.connections) == 2
    assert len(watch.window.buckets) <= limits.window_s // limits.bucket_s + 1
    assert len(watch.model_dump_json()) < 4000


def test_the_window_slides() -> None:
    window = Window()
    for at_s, total in ((0, 1), (599, 2), (600, 2), (1195, 2), (1200, 2), (5000, 1)):
        window = window.add(at_s, 1, LIMITS)
        assert window.total == total, at_s


def test_a_line_out_of_order_finds_its_place_in_the_window() -> None:
    window = Window().add(1000, 1, LIMITS).add(700, 1, LIMITS).add(10, 9, LIMITS)
    assert window.total == 2


sightings = st.lists(
    st.tuples(
        st.sampled_from([*Witness, None]),
        st.sampled_from(["root", "bob", ""]),
        st.integers(1, 9),
        st.sampled_from(["", "h/1", "h/2"]),
        st.integers(-5000, 5000) | st.none(),
    ),
    max_size=30,
)


@given(sightings)
def test_a_watch_survives_storage_after_any_line(
    drawn: list[tuple[Witness | None, str, int, str, int | None]],
) -> None:
    straight = stored = Watch(source="192.0.2.1")
    for line, (witness, user, count, connection, offset) in enumerate(drawn, 1):
        at = None if offset is None else START + timedelta(seconds=offset)
        each = seen(line, witness, user, count=count, connection=connection, at=at)
        each = Sighting.model_validate_json(each.model_dump_json())
        straight = observe(straight, each, LIMITS)
        stored = observe(Watch.model_validate_json(stored.model_dump_json()), each, LIMITS)
        assert stored.peak <= stored.failures
    assert straight == stored
