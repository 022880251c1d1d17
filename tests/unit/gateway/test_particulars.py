"""What two questions must have in common before one answer does for both."""

from __future__ import annotations

import pytest

from serve.gateway.particulars import differ, particulars_of


def differs(one: str, other: str) -> bool:
    """Both ways round: it must not matter which was asked first."""
    found = {
        differ(particulars_of(one), particulars_of(other)),
        differ(particulars_of(other), particulars_of(one)),
    }
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I reset my password?", "how can i reset my password"),
        ("What is the capital of France?", "Tell me the capital of France."),
        ("Why isn't the disk full?", "Why is the disk not full?"),
        ("What is NATS?", "Please explain what NATS is."),
        ("Is port 22 of web-1 open?", "Is port 22 of web-1 open or closed?"),
        ("", ""),
    ],
)
def test_other_words_for_the_same(one: str, other: str) -> None:
    assert not differs(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What happened in 1914?", "What happened in 1918?"),
        ("Retry it three times.", "Retry it five times."),
        ("Summarize release 2.3.1", "Summarize release 2.3.10"),
        ("Who called on Monday?", "Who called on Tuesday?"),
        ("What is due today?", "What is due tomorrow?"),
        ("What is due on 2026-11-21?", "What is due on 2026-11-22?"),
        ("What is the capital of France?", "What is the capital of Spain?"),
        ("Paris is where?", "Rome is where?"),
        ("What does NATS do?", "What does MQTT do?"),
        ("Read /etc/passwd", "Read /etc/shadow"),
        ("Is max_size a setting?", "Is min_size a setting?"),
        ("Is it safe to delete?", "Is it not safe to delete?"),
        ("Which hosts have a backup?", "Which hosts have no backup?"),
        ("Which hosts answer?", "Which hosts don't answer?"),
        ("Darf man das löschen?", "Darf man das nicht löschen?"),
        ("How do I enable swap and mount it?", "How do I enable swap and unmount it?"),
        ("Convert USD to EUR", "Convert EUR to USD"),
        ("does a cat eat a mouse", "does a mouse eat a cat"),
        ("Is 10 more than 9?", "Is 9 more than 10?"),
    ],
)
def test_what_embeddings_hardly_see(one: str, other: str) -> None:
    assert differs(one, other)
