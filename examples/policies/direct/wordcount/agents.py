"""Counts the words of a text: one agent splits it into pages, one agent for each page counts."""

from pydantic import BaseModel

from callboard import Agent, Context, TaskWork, handler, message


@message("wordcount.page.v1")
class CountPage(BaseModel):
    page: str
    text: str


class Counter(Agent):
    """Takes the task: its input is a list of pages."""

    kind = "counter"

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        pages: list[str] = work.input
        if not pages:
            ctx.fail("There is nothing to count.")
            return
        ctx.split(len(pages))
        for number, text in enumerate(pages, 1):
            page = f"page {number}"
            ctx.send(f"wordcount/page/{work.id} {number}", CountPage(page=page, text=text))


class Page(Agent):
    """Counts one page; the task completes with the last one."""

    kind = "page"

    @handler
    async def on_page(self, request: CountPage, ctx: Context) -> None:
        ctx.complete_part(request.page, len(request.text.split()))
