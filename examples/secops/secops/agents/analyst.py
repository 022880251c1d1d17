"""The analyst: which sources of one log behaved alike, by the embeddings of what they did."""

from __future__ import annotations

from hashlib import sha256
from itertools import chain

from pydantic import BaseModel

from callboard import NO_RETRY, Agent, Context, ModelFailed, StepFailed, handler
from secops.errors import NotComparable
from secops.grouping import Alike, Likeness, alike
from secops.likeness import linked
from secops.messages import Compare, Compared


class Analyst(Agent):
    """Compares what the sources of a log did, and remembers the groups. Its key is the log's digest.

    So a second task on a log has the same groups, and asks no model; what could not be compared is tried again.
    """

    kind = "analyst"

    class State(BaseModel):
        compared: str = ""
        """The digest of what was compared last: by which model, how strictly, and the texts."""
        alike: tuple[Alike, ...] = ()

    state: State

    @handler
    async def on_compare(self, request: Compare, ctx: Context) -> Compared:
        state = self.state
        digest = sha256(request.model_dump_json().encode()).hexdigest()
        if state.compared != digest:
            try:
                groups = await self._linked(request, ctx)
            except (ModelFailed, NotComparable, StepFailed) as failed:  # a report can do without
                ctx.explain("not compared", why=failed.message)
                note = f"{failed.message} The next task on this log asks again."
                return Compared(likeness=Likeness(note=note))
            state.compared, state.alike = digest, alike(request.texts, groups)
        ctx.explain("compared", sources=len(request.texts), groups=len(state.alike))
        return Compared(likeness=Likeness(alike=state.alike))

    async def _linked(self, request: Compare, ctx: Context) -> list[tuple[list[int], float]]:
        """Each distinct text is embedded once, and a gateway that is away is asked once: somebody waits for the report."""
        by = request.by
        model = ctx.model(by.model, retry=NO_RETRY)
        texts = list(dict.fromkeys(request.texts.values()))
        batches = [texts[first : first + by.texts] for first in range(0, len(texts), by.texts)]
        answers = await ctx.gather(*(model.embed(batch, timeout=by.within_s) for batch in batches))
        vectors = list(chain.from_iterable(answers))
        if len(vectors) != len(texts):
            raise NotComparable(f"{by.model} has answered {len(texts)} texts with {len(vectors)} vectors.")
        found: list[tuple[list[int], float]] = await ctx.step(linked, vectors, by.similarity)
        return found
