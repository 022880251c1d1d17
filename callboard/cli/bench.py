"""`callboard bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from callboard.cli.options import Json
from callboard.cli.running import asynchronous, needs_command
from callboard.cli.table import table
from callboard.cli.terminal import console, emit, note, plain

app = typer.Typer(invoke_without_command=True, help="Measure this machine.", add_completion=False)


@app.callback()
def bench(context: typer.Context) -> None:
    """Measure this machine."""
    needs_command(context)


@app.command()
@asynchronous
async def hops(
    hosts: Annotated[int, typer.Option(min=1, max=64, help="Host processes.")] = 2,
    agents: Annotated[int, typer.Option(min=1, help="Agents that the messages wander through.")] = 1_000,
    inflight: Annotated[int, typer.Option(min=1, help="Chains of messages at once.")] = 100,
    count: Annotated[int, typer.Option("--hops", min=1, help="Hops in all.")] = 50_000,
    waiting: Annotated[int, typer.Option(min=0, help="Messages that wait in other mailboxes meanwhile.")] = 0,
    blocked: Annotated[
        bool, typer.Option(help="These wait for a retry, and are read, instead of with paused agents.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Durable hops a second: receive, change state, commit, send on. In a deployment of its own."""
    from callboard.bench.hops import Load, measure

    load = Load(
        hosts=hosts,
        agents=agents,
        inflight=min(inflight, count),
        hops=count,
        waiting=waiting,
        blocked=blocked,
    )
    _show(await measure(load, note), as_json)


@app.command()
@asynchronous
async def steps(
    hosts: Annotated[int, typer.Option(min=1, max=64, help="Host processes.")] = 2,
    agents: Annotated[int, typer.Option(min=1, help="Agents that work at the same time.")] = 1_000,
    turns: Annotated[int, typer.Option(min=1, help="Turns in all, dealt out to the agents.")] = 1_000,
    count: Annotated[int, typer.Option("--steps", min=1, help="Steps of each turn, one after another.")] = 10,
    beside: Annotated[
        bool,
        typer.Option("--beside", help="Then also the limit and DBOS: from a checkout, after `make peers`."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Journaled steps a second: call a function, record its result, go on. In a deployment of its own."""
    from callboard.bench.beside import measure_beside, require_checkout
    from callboard.bench.steps import Load, measure

    if beside:
        require_checkout()
    load = Load(hosts=hosts, agents=agents, turns=turns, steps=count)
    report = await measure(load, note)
    _show(report, as_json, await measure_beside(load, report, note) if beside else None)


@app.command()
@asynchronous
async def asks(
    askers: Annotated[int, typer.Option(min=1, help="Agents that ask at once.")] = 100,
    count: Annotated[int, typer.Option("--asks", min=1, help="Questions of each, one after another.")] = 100,
    as_json: Json = False,
) -> None:
    """Ask-reply pairs a second between agents on two hosts. In a deployment of its own."""
    from callboard.bench.asks import Load, measure

    _show(await measure(Load(askers=askers, asks=count), note), as_json)


@app.command()
@asynchronous
async def embed(
    device: Annotated[str, typer.Option(help="cpu, or cuda for a GPU that Ray finds.")] = "cpu",
    texts: Annotated[
        Path | None,
        typer.Option(
            help="A folder with a corpus.jsonl, or a file with a text in each line; else made-up ones."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=32, help="Texts in all.")] = 400,
    each: Annotated[int, typer.Option(min=1, max=2048, help="Texts in a request.")] = 1,
    model: Annotated[
        str | None, typer.Option(help="A model folder, or a name of the hub; else the packaged model.")
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            help="What the gateway's model computes in: auto, float32, float16 or bfloat16. The bare loop has the library's "
            "own float32 on a CPU, and half precision on a GPU."
        ),
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Embeddings a second over HTTP, from 1, 8 and 32 clients, beside sentence-transformers alone."""
    from callboard.bench.embed import Load, measure
    from callboard.bench.texts import made_up, read_texts
    from serve.local.settings import DEFAULT_MODEL

    if device not in ("cpu", "cuda"):
        raise typer.BadParameter("must be cpu or cuda", param_hint="--device")
    if dtype not in ("auto", "float32", "float16", "bfloat16"):
        raise typer.BadParameter("must be auto, float32, float16 or bfloat16", param_hint="--dtype")
    given = made_up(count) if texts is None else read_texts(texts)[:count]
    load = Load(texts=given, model=model or DEFAULT_MODEL, device=device, dtype=dtype, each=each)
    report = await measure(load, note)
    if as_json:
        emit(report)
        return
    figures = msgspec.structs.asdict(report)
    runs = figures.pop("runs")
    out = console()
    for name, figure in figures.items():
        out.print(plain(f"{name:<20} {figure if isinstance(figure, str) else f'{figure:,}':>12}"))
    names = ("concurrency", "texts_per_s", "tokens_per_s", "ratio", "of_floor", "p50_ms", "p99_ms")
    rows = [tuple(f"{getattr(run, name):,}" for name in names) for run in runs]
    out.print(table(names, rows, right=names))


@app.command()
@asynchronous
async def generate(
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    model: Annotated[
        str | None,
        typer.Option(help="A folder, or a name of the hub; else made-up weights of 35 million parameters."),
    ] = None,
    requests: Annotated[int, typer.Option(min=2, help="Requests in all.")] = 32,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer, at most.")] = 64,
    sequences: Annotated[int, typer.Option(min=1, max=1024, help="Requests worked on at once.")] = 16,
    as_json: Json = False,
) -> None:
    """Tokens a second of the engine that answers chats here, beside transformers' `generate` one by one."""
    from callboard.bench.generate import Load, measure

    if device not in ("cpu", "cuda"):
        raise typer.BadParameter("must be cpu or cuda", param_hint="--device")
    load = Load(device=device, model=model, requests=requests, tokens=tokens, sequences=sequences)  # type: ignore[arg-type]
    _show(await measure(load, note), as_json)


@app.command("gateway")
@asynchronous
async def overhead(
    requests: Annotated[int, typer.Option(min=20, help="Requests in each pass.")] = 1000,
    as_json: Json = False,
) -> None:
    """What the model gateway adds to a request, from 1, 8 and 32 clients: beside the same upstream asked directly."""
    from callboard.bench.overhead import Load, measure

    report = await measure(Load(requests=requests), note)
    if as_json:
        emit(report)
        return
    names = tuple(report.runs[0].__struct_fields__)
    rows = [tuple(f"{getattr(run, name):,}" for name in names) for run in report.runs]
    console().print(table(names, rows, right=names))


def _show(report: msgspec.Struct, as_json: bool, beside: msgspec.Struct | None = None) -> None:
    figures = msgspec.structs.asdict(report) | (msgspec.structs.asdict(beside) if beside else {})
    if as_json:
        emit(figures)
        return
    out = console()
    for name, figure in figures.items():
        out.print(plain(f"{name:<24} {figure if isinstance(figure, str) else f'{figure:,}':>12}"))
