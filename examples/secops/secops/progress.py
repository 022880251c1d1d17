"""How a case's progress is told: reading is four fifths of it, judging most of the rest, then come the blocks."""

from __future__ import annotations

ALL_READ = 0.8
ALL_JUDGED = 0.95
STEPS = 20  # a log's reading is told in so many steps; a task's own log is bounded
