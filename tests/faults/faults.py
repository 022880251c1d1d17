"""All that can be done to a cluster. Each waits until it has happened, and raises Void when it has not."""

from __future__ import annotations

from tests.faults import entrances, moves, outages, points, processes
from tests.faults.chaos_run import Fault

ALL: tuple[Fault, ...] = (
    processes.kill_host,
    processes.kill_all_hosts,
    processes.kill_coordinator,
    processes.kill_coordinator_and_host,
    processes.stop_host_past_its_takeover,
    processes.stop_coordinator,
    processes.jump_clocks,
    points.kill_before_commit,
    points.kill_after_commit,
    points.stop_before_commit,
    points.stop_between_fence_and_commit,
    points.kill_in_handover,
    points.kill_in_acquire,
    points.kill_before_trial,
    points.kill_in_takeover,
    points.stop_in_takeover,
    moves.hand_back_and_forth,
    moves.one_more_and_one_less,
    moves.pause_and_resume,
    outages.kill_host_while_postgres_is_away,
    outages.kill_host_while_nats_is_away,
    outages.lose_answers,
    outages.crash_postgres,
    outages.cut_connections,
    outages.restart_nats,
    outages.drop_deliveries,
    entrances.kill_event_reader,
    entrances.stop_event_reader_past_its_takeover,
    points.kill_before_flush,
    points.kill_after_flush,
    points.kill_when_put_away,
    points.kill_before_wake,
    points.stop_before_wake,
    entrances.kill_before_assignment,
    entrances.kill_after_assignment,
    entrances.stop_in_assignment,
)
BY_NAME: dict[str, Fault] = {fault.__name__: fault for fault in ALL}
