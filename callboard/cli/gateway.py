"""`callboard gateway`: where models are asked, with which key, and how their upstreams are."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.table import table
from callboard.cli.terminal import console, emit, plain, span

if TYPE_CHECKING:
    from actors.model_gateway import GatewayAddress

_ANSWERS_WITHIN_S = 5.0
_LEVELS = {"normal": "green", "none": "red"}
_COLOURS = {"closed": "green", "open": "red", "half_open": "yellow"}


@asynchronous
async def gateway(
    key: Annotated[
        bool, typer.Option("--key", help="Print the key that the gateway asks for, and nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the model gateway: its URL, its models, the upstreams that answer for them, and what they have cost."""
    from callboard.gateway import LocalGateway
    from callboard.settings import load_settings

    settings = load_settings()
    local = LocalGateway(settings)
    address = local.address()
    if key:
        if as_json:
            emit({"key": address.key})
        else:
            sys.stdout.write(address.key + "\n")
        return
    state = await _ask(address)
    found = {
        "base_url": address.base_url,
        "key_file": str(local.key_path),
        "models_file": str(settings.models_path),
        **state,
    }
    if as_json:
        emit(found)
    else:
        _show(found)


async def _ask(address: GatewayAddress) -> dict[str, Any]:
    """Raises ServiceUnavailable."""
    import httpx2

    from bus.errors import ServiceUnavailable

    try:
        async with httpx2.AsyncClient(timeout=_ANSWERS_WITHIN_S, trust_env=False) as http:
            answer = await http.get(
                f"http://127.0.0.1:{address.port}/callboard/gateway",
                headers={"authorization": f"Bearer {address.key}"},
            )
        found: dict[str, Any] = answer.raise_for_status().json()
    except (httpx2.HTTPError, ValueError):
        raise ServiceUnavailable(
            f"The model gateway at {address.base_url} does not answer.",
            fix="Start it with `callboard up --detach`.",
        ) from None
    return found


def _show(found: dict[str, Any]) -> None:
    out = console()
    out.print(plain(f"{found['base_url']}, with the key in {found['key_file']}"))
    if not found["models"]:
        out.print(
            plain(
                f"It has no models. Add some to {found['models_file']}, then `callboard up` again.", "yellow"
            )
        )
        return
    out.print(
        table(
            ("model", "serves", "level", "answered by"),
            [
                (
                    one["model"],
                    one["serves"],
                    plain(one["level"], _LEVELS.get(one["level"], "yellow")),
                    ", else ".join(one["targets"]),
                )
                for one in found["models"]
            ],
        )
    )
    for one in found["models"]:
        if one["similar"] is not None:
            out.print(plain(_similar_line(one["model"], one["similar"])))
    out.print()
    states = found["upstreams"].items()
    out.print(
        table(
            ("upstream", "breaker"), [(name, plain(state, _COLOURS.get(state, ""))) for name, state in states]
        )
    )
    for one in found["missing_keys"]:
        out.print(plain(f"{', '.join(one['models'])}: {one['why']} {one['fix']}", "yellow"))
    if found["errors"]:
        out.print(_error_table(found["errors"]))
    if found["accounts"]:
        out.print(_account_table(found["accounts"]))


def _similar_line(model: str, state: dict[str, int]) -> str:
    return (
        f"{model}: {state['given']:,} answers to similar questions, of {state['kept']:,} kept; {state['sampled']:,} more "
        f"were asked for all the same, and {state['wrong']:,} of those differed; {state['vetoed']:,} vetoes"
    )


def _error_table(errors: list[dict[str, Any]]) -> Any:
    return table(
        ("upstream", "model", "ago", "last error"),
        [(one["upstream"], one["model"], span(one["ago_s"]), one["error"]) for one in errors],
        right=("ago",),
    )


def _account_table(accounts: list[dict[str, Any]]) -> Any:
    figures = ("answered", "cached", "failed", "ended early", "tokens in", "tokens out", "US dollars")
    return table(
        ("model", "tenant", "task", "agent", *figures),
        [
            (
                one["model"],
                one["tenant"],
                one["task"] or "",
                one["agent"] or "",
                *(
                    f"{one[name]:,}"
                    for name in ("requests", "cached", "failed", "given_up", "input_tokens", "output_tokens")
                ),
                one["cost_usd"] + (" and more" if one["unpriced"] else ""),
            )
            for one in accounts
        ],
        right=figures,
        whole=("model", "tenant", "task", "agent"),
    )
