"""In which order the targets of a model are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from serve.gateway.models_file import ModelSpec, TargetSpec

_WEIGHT = 0.2  # of the newest time in the mean
_STALE_S = 60.0  # a time as old as that says nothing any more: the target is asked first again


@dataclass
class _Time:
    mean_s: float
    at: float


class Order:
    """By the file, by price, or by the time to an answer (of a stream: to its first piece)."""

    def __init__(self, price: Callable[[TargetSpec], Decimal | None], clock: Callable[[], float]) -> None:
        self._price = price
        self._clock = clock
        self._prices: dict[TargetSpec, Decimal | None] = {}
        self._times: dict[TargetSpec, _Time] = {}

    def of(self, model: ModelSpec) -> list[TargetSpec]:
        """Where two are alike, or nothing is known of them, as in the file; those without a price come last."""
        targets = list(model.targets)
        if model.strategy == "cost":
            targets.sort(key=self._cost)
        elif model.strategy == "latency":
            targets.sort(key=self._mean_s)
        return targets

    def took(self, target: TargetSpec, seconds: float) -> None:
        now = self._clock()
        last = self._times.get(target)
        if last is None or now - last.at >= _STALE_S:
            self._times[target] = _Time(seconds, now)
        else:
            last.mean_s += _WEIGHT * (seconds - last.mean_s)
            last.at = now

    def _cost(self, target: TargetSpec) -> Decimal:
        if target not in self._prices:
            self._prices[target] = self._price(target)
        price = self._prices[target]
        return Decimal("Infinity") if price is None else price

    def _mean_s(self, target: TargetSpec) -> float:
        """0 for one that is to be asked so that it is known."""
        found = self._times.get(target)
        return 0.0 if found is None or self._clock() - found.at >= _STALE_S else found.mean_s
