"""How much memory a process takes while something is done to it."""

from __future__ import annotations

import threading
from typing import Self

import psutil

LOOK_EVERY_S = 0.005


class Growth:
    """The most bytes that a process has had in memory since `with` began, above what it had then."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._before = self._most = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def most(self) -> int:
        return self._most - self._before

    def _look(self) -> None:
        while not self._done.wait(LOOK_EVERY_S):
            self._most = max(self._most, self._process.memory_info().rss)
