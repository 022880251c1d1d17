"""Reads for people: what agents, mailboxes, histories, hosts and tasks look like right now.

Nothing here locks a row or depends on a running host. JSON that authors made is handed on as text.
"""

from storage.inspect.agents import (
    AgentRow,
    AgentView,
    Owner,
    WaitingMessage,
    WaitingTimer,
    lifecycle_of,
    list_agents,
    paused_at_work,
    paused_of,
    view_agent,
)
from storage.inspect.dead_letters import (
    DeadLetterView,
    find_dead_letter,
    list_dead_letters,
    list_dead_letters_of_task,
)
from storage.inspect.deployment import (
    CoordinatorView,
    DomainView,
    HostView,
    Months,
    TableSize,
    find_event_cursor,
    history_months,
    list_coordinators,
    list_domains,
    list_hosts,
    list_tables,
)
from storage.inspect.history import LAST_VERSION, ChainVerdict, Transition, list_history, verify_history
from storage.inspect.past import PastState, state_at
from storage.inspect.task_timeline import Branch, TaskTimeline, task_timeline, tree_of
from storage.inspect.tasks import (
    TaskEventView,
    TaskView,
    Usage,
    children_of,
    find_task,
    list_task_events,
    list_tasks,
    usage_of,
)
from storage.inspect.timeline import Call, Timeline, Turn, agent_timeline, open_calls
from storage.inspect.turns import OpenTurn, PromiseView, find_open_turn, notes_of, read_open_journal
from storage.inspect.verify import BrokenLink, Verdict, count_agents, verify_all

__all__ = [
    "LAST_VERSION",
    "AgentRow",
    "AgentView",
    "Branch",
    "BrokenLink",
    "Call",
    "ChainVerdict",
    "CoordinatorView",
    "DeadLetterView",
    "DomainView",
    "HostView",
    "Months",
    "OpenTurn",
    "Owner",
    "PastState",
    "PromiseView",
    "TableSize",
    "TaskEventView",
    "TaskTimeline",
    "TaskView",
    "Timeline",
    "Transition",
    "Turn",
    "Usage",
    "Verdict",
    "WaitingMessage",
    "WaitingTimer",
    "agent_timeline",
    "children_of",
    "count_agents",
    "find_dead_letter",
    "find_event_cursor",
    "find_open_turn",
    "find_task",
    "history_months",
    "lifecycle_of",
    "list_agents",
    "list_coordinators",
    "list_dead_letters",
    "list_dead_letters_of_task",
    "list_domains",
    "list_history",
    "list_hosts",
    "list_tables",
    "list_task_events",
    "list_tasks",
    "notes_of",
    "open_calls",
    "paused_at_work",
    "paused_of",
    "read_open_journal",
    "state_at",
    "task_timeline",
    "tree_of",
    "usage_of",
    "verify_all",
    "verify_history",
    "view_agent",
]
