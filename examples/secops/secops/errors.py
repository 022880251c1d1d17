"""Every error of the secops domain, under the framework's one base.

CallboardError
├── InputError             a log that cannot be used as input
│   ├── UnreadableInput    missing, a folder, not permitted, or damaged compression
│   ├── EmptyInput         holds no byte of log
│   ├── BinaryInput        is not text
│   └── InputTooLarge      is longer than the limit, once decompressed
├── LinesMissing           lines came before the ones that precede them
├── NotComparable          a model's vectors are no vectors
├── NotDone
│   └── NotBlocked         an address could not be blocked; nothing was changed
└── PolicyError            policy.yaml is missing, unreadable or wrong
"""

from __future__ import annotations

from bus.errors import CallboardError, NotDone


class InputError(CallboardError):
    """A log that cannot be used as input."""


class UnreadableInput(InputError):
    """The log is missing, a folder, not permitted, or its compression is damaged."""

    fix = "Check the path and its permissions; sshd's log is often /var/log/auth.log or /var/log/secure."


class EmptyInput(InputError):
    """The log holds no byte."""

    fix = "Check that sshd logs to this file; with journald alone, pipe `journalctl -u ssh -o short-iso` in."


class BinaryInput(InputError):
    """The log is not text."""

    fix = "Give a text log, plain or gzip; decompress other formats first."


class InputTooLarge(InputError):
    """The log is longer than the limit, once decompressed."""

    fix = "Split it by day (`split -l`), or raise the limit."


class LinesMissing(CallboardError):
    """Lines came before the ones that precede them: a feed was cut off, and is being repeated."""

    fix = "Feed the file again; then put these lines back with `callboard dead-letters retry ID`."


class NotComparable(CallboardError):
    """A model's vectors cannot be compared with each other."""


class NotBlocked(NotDone):
    """An address could not be blocked; nothing was changed."""


class PolicyError(CallboardError):
    """policy.yaml is missing, unreadable or wrong."""

    fix = "Correct policy.yaml; examples/secops/README.md lists its keys."
