"""The agents that run the random programs: walkers do the steps, clerks answer questions.

What a walker sees of its waits are tokens, `ID=VALUE`: the execution of a step, an answer, a choice. It keeps them in its
state and hands the latest on with what it sends, so that a value which is not the same for everybody is found.
"""

from __future__ import annotations

import asyncio
import secrets

from pydantic import BaseModel, ConfigDict

from actors.agent import Agent, handler
from actors.context import Context
from actors.retry import RetryPolicy
from bus.envelope import Priority
from bus.errors import AskFailed, PromiseExpired
from bus.registry import message
from tests.faults import programs
from tests.faults.executions import execute
from tests.faults.programs import (
    Ask,
    Await,
    Call,
    Child,
    Compute,
    Gather,
    Line,
    Question,
    Send,
    Sleep,
    name,
    step,
)

LARGE = "." * 3_000  # a result that goes to a blob
HANDED_ON = 3  # tokens


class Flaky(Exception):
    """Goes away when it is tried again."""


class Hopeless(Exception):
    """Never goes away."""


@message("chaos.walk.v1")
class Walk(BaseModel):
    """One step of the program `seed`. `nth` counts the messages from its sender to its recipient, from 1; 0 stands
    for one that is in no order with the others. `resolves` is the promise that the step is to resolve."""

    model_config = ConfigDict(extra="allow")  # an event has the `agent` that it is for, besides

    seed: int
    agents: int
    number: int
    depth: int
    nth: int
    part: str = ""
    tokens: list[str] = []
    resolves: str = ""


@message("chaos.done.v1")
class Done(BaseModel):
    """The answer of a walker that has done the step `number`."""

    number: int
    token: str


@message("chaos.question.v1")
class Asked(BaseModel):
    """`id` is the place of the call that asks."""

    id: str
    how: str


@message("chaos.ready.v1")
class Ready(BaseModel):
    """The clerk may answer."""

    id: str


@message("chaos.answer.v1")
class Answer(BaseModel):
    id: str
    token: str


class Walker(Agent):
    kind = "walker"
    retry = RetryPolicy(attempts=6, first_delay_s=0.02, factor=2.0, give_up_on=(Hopeless,))

    class State(BaseModel):
        count: int = 0
        total: int = 0
        timers: list[int] = []
        sent: dict[str, int] = {}  # by recipient
        got: dict[str, list[int]] = {}  # by sender: `nth` of its messages, in the order they came
        gave: list[str] = []  # the tokens of its answers
        seen: list[str] = []  # the tokens that it has been given

    @handler
    async def walk(self, walk: Walk, ctx: Context) -> Done | None:
        me = int(ctx.address.key)
        now = step(walk.seed, walk.agents, me, walk.number, walk.depth)
        state = self.state
        state.count += 1  # before it may fail: what a failed turn did must not stay
        state.total += now.add
        state.seen += walk.tokens
        if walk.nth == 0:
            state.timers.append(walk.number)
        else:
            sender = ctx.sender.removeprefix("chaos/")
            state.got.setdefault(sender, []).append(walk.nth)
        run = _Run(self, walk, ctx)
        for place, call in enumerate(now.calls):
            if place == now.breaks_at:
                await _break(now, ctx)
            await run.call(call, f"{place}")
        if now.breaks_at == len(now.calls):
            await _break(now, ctx)
        if walk.part:
            ctx.complete_part(walk.part, now.add)
        if now.pause_s:
            await asyncio.sleep(now.pause_s)
        done = Done(number=walk.number, token=f"{ctx.header.id}!={secrets.token_hex(6)}")
        if walk.resolves:
            state.gave.append(done.token)
            ctx.resolve(walk.resolves, done)
        if ctx.header.reply_to is None:
            return None
        state.gave.append(done.token)
        return done


async def _break(now: programs.Step, ctx: Context) -> None:
    if now.hopeless:
        raise Hopeless("a step that fails for good")
    if now.fails and now.in_step:
        await ctx.step(_fail_if, ctx.failures < now.fails, key="breaks")
    elif ctx.failures < now.fails:
        raise Flaky(f"failure {ctx.failures + 1} of {now.fails}")


def _fail_if(fails: bool) -> None:
    if fails:
        raise Flaky("a step in the journal")


class _Run:
    """The calls of one walk. Places follow from the program alone, so they are the same whenever the handler runs."""

    def __init__(self, walker: Walker, walk: Walk, ctx: Context) -> None:
        self._state = walker.state
        self._walk = walk
        self._ctx = ctx
        self._turn = ctx.header.id
        self._seen: list[str] = []  # in this turn

    async def call(self, call: Call, place: str) -> None:
        if isinstance(call, Send):
            self._send(call.child)
            return
        tokens = await self._wait(call, place)
        self._seen += tokens
        self._state.seen += tokens

    async def _wait(self, call: Call, place: str) -> list[str]:
        """Make the call; return the tokens that it gave."""
        ctx = self._ctx
        match call:
            case Compute():
                return [await self._compute(call, place)]
            case Sleep(seconds):
                await ctx.sleep(seconds)
                return []
            case Ask(child):
                return await self._ask(child, self._message(child), place)
            case Question():
                return await self._question(call, place)
            case Await():
                return await self._await(call, place)
            case Line(calls):
                return [token for n, c in enumerate(calls) for token in await self._wait(c, f"{place}.{n}")]
            case Gather(calls, first):
                # Numbered here: a branch that was given up is not begun when the turn runs again.
                messages = [self._message(c.child) if isinstance(c, Ask) else None for c in calls]
                branches = [self._branch(c, n, f"{place}.{n}", messages[n]) for n, c in enumerate(calls)]
                results = await ctx.gather(*branches, first=first)
                chosen = "".join(f"{n}," for n, _ in results)
                return [
                    f"{self._turn}@{place}={chosen}",
                    *(token for _, tokens in results for token in tokens),
                ]
            case Send():
                raise AssertionError("a branch sends nothing")

    async def _branch(self, call: Call, n: int, place: str, message: Walk | None) -> tuple[int, list[str]]:
        if isinstance(call, Ask) and message is not None:
            return n, await self._ask(call.child, message, place)
        return n, await self._wait(call, place)

    async def _compute(self, call: Compute, place: str) -> str:
        function = _compute_in_thread if call.in_thread else _compute_here
        retry = RetryPolicy(attempts=3, first_delay_s=0.005)
        result: str = await self._ctx.step(
            function, f"{self._turn}#{place}", call.large, stumbles=call.stumbles, retry=retry
        )
        return result.removesuffix(LARGE)

    async def _ask(self, child: Child, message: Walk, place: str) -> list[str]:
        try:
            done: Done = await self._ctx.ask(f"chaos/{name(child.agent)}", message, priority=_priority(child))
        except AskFailed as error:
            return [f"{self._turn}?{place}={error.reason}"]
        assert done.number == child.number, f"asked for step {child.number}, and {done.number} was answered"
        return [done.token]

    async def _question(self, call: Question, place: str) -> list[str]:
        id_ = f"{self._turn}?{place}"
        try:
            answer: Answer = await self._ctx.ask(
                f"chaos/clerk/{call.clerk}", Asked(id=id_, how=call.how), timeout=call.timeout_s
            )
        except AskFailed:
            assert call.timeout_s is not None, "a question without a timeout was not answered"
            return [f"{id_}=late"]
        assert answer.id == id_, f"asked {id_}, and {answer.id} was answered"
        return [answer.token, f"{id_}=answered"]

    async def _await(self, call: Await, place: str) -> list[str]:
        promise = await self._ctx.promise(place, timeout=call.timeout_s)
        for child in call.resolvers:
            self._send(child, promise.ref)
        if call.sleep_s:
            await self._ctx.sleep(call.sleep_s)
        try:
            done: Done = await promise
        except PromiseExpired:
            assert call.timeout_s is not None, "a promise without a timeout has expired"
            return [f"{self._turn}?{place}=expired"]
        assert done.number in {child.number for child in call.resolvers}, (
            f"step {done.number} was not asked to resolve"
        )
        return [done.token, f"{self._turn}?{place}={done.number}"]

    def _send(self, child: Child, resolves: str = "") -> None:
        ctx, to = self._ctx, f"chaos/{name(child.agent)}"
        if child.delay_s is None:
            ctx.send(to, self._message(child, resolves), priority=_priority(child))
        else:
            ctx.send_later(to, self._message(child), delay_s=child.delay_s, priority=_priority(child))

    def _message(self, child: Child, resolves: str = "") -> Walk:
        nth = 0
        if child.is_ordered:
            sent, to = self._state.sent, name(child.agent)
            nth = sent[to] = sent.get(to, 0) + 1
        return Walk(
            seed=self._walk.seed, agents=self._walk.agents, number=child.number, depth=child.depth, nth=nth,
            tokens=self._seen[-HANDED_ON:], resolves=resolves,
        )  # fmt: skip


def _priority(child: Child) -> Priority | None:
    return None if child.priority is None else Priority(child.priority)


_stumbled: set[str] = set()


def _compute_in_thread(place: str, large: bool, *, stumbles: bool) -> str:
    if stumbles and place not in _stumbled:
        _stumbled.add(place)
        raise Flaky("the first time in this process")
    return execute(place) + LARGE * large


async def _compute_here(place: str, large: bool, *, stumbles: bool) -> str:
    await asyncio.sleep(0)
    return _compute_in_thread(place, large, stumbles=stumbles)


class Clerk(Agent):
    """Answers each question once: at once, in another turn, or never."""

    kind = "clerk"

    class State(BaseModel):
        asked: list[str] = []
        open: dict[str, str] = {}
        gave: list[str] = []

    @handler
    async def on_asked(self, asked: Asked, ctx: Context) -> Answer | None:
        self.state.asked.append(asked.id)
        if asked.how == "now":
            return self._answer(asked.id)
        ref = ctx.reply_later()
        if asked.how == "later":
            self.state.open[asked.id] = ref
            ctx.send_later(ctx.address, Ready(id=asked.id), delay_s=0.05)
        return None

    @handler
    async def on_ready(self, ready: Ready, ctx: Context) -> None:
        ctx.resolve(self.state.open.pop(ready.id), self._answer(ready.id))

    def _answer(self, id_: str) -> Answer:
        token = f"{id_}!={secrets.token_hex(6)}"
        self.state.gave.append(token)
        return Answer(id=id_, token=token)
