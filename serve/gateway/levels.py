"""How well each model is served just now, from its upstreams' breakers and keys and from what its last request has met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from serve.gateway.breaker import REST_S
from serve.gateway.capability import able
from serve.gateway.models_file import ModelSpec, TargetSpec
from serve.gateway.requests import ModelRequest

# The best first. normal: by the target that is meant to; fallback: by another one; cache: only what was answered before;
# rules: only what models.yaml says; none: not at all.
Level = Literal["normal", "fallback", "cache", "rules", "none"]
ORDER: tuple[Level, ...] = ("normal", "fallback", "cache", "rules", "none")


class Levels:
    """They go down and up by themselves: what a request has met counts until the next one, or as long as a breaker rests."""

    def __init__(
        self,
        models: Mapping[str, ModelSpec],
        is_away: Callable[[TargetSpec], bool],
        *,
        cached: bool,
        clock: Callable[[], float],
    ) -> None:
        self._models = models
        self._is_away = is_away  # nobody can be asked there
        self._cached = cached
        self._clock = clock
        self._met: dict[str, tuple[Level, float]] = {}

    def now(self, name: str) -> Level:
        met, at = self._met.get(name, ("normal", 0.0))
        if self._clock() - at >= REST_S:
            met = "normal"
        return max(met, self._by_upstreams(self._models[name]), key=ORDER.index)

    def met(self, name: str, level: Level) -> None:
        """What a request for this model was answered by."""
        self._met[name] = (level, self._clock())

    def answered_by(self, request: ModelRequest, target: TargetSpec) -> Level:
        name, model = request.model, self._models[request.model]
        meant = able(model.targets, request)
        level = self._of(model, target, meant[0] if meant else target)
        self.met(name, level)
        return level

    def _by_upstreams(self, model: ModelSpec) -> Level:
        asked = [target for target in model.targets if not self._is_away(target)]
        if asked:
            return self._of(model, asked[0], model.targets[0])
        return "cache" if self._cached else "rules" if model.rules else "none"

    def _of(self, model: ModelSpec, target: TargetSpec, meant: TargetSpec) -> Level:
        """By price or by speed no target is meant more than the others."""
        return "normal" if model.strategy != "fixed" or target == meant else "fallback"
