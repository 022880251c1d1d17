"""The program of a process that joins a Ray for a command: see ray_process.py.

Calls come in over standard input as a pickled (function, arguments), each is answered by a pickled (result, error),
and the process ends with its input.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import struct
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from bus.errors import CallboardError, ServiceUnavailable

if TYPE_CHECKING:
    from serve.gateway import ServedGateway

SIZE = struct.Struct(">I")  # before each answer
Calls = Mapping[str, Callable[..., Any]]


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what Ray prints is no answer
    serve(sys.stdin.buffer, answers, _ray_calls())
    with contextlib.suppress(Exception):  # what was started in it goes on
        import ray

        ray.shutdown()
    os._exit(0)


def serve(requests: BinaryIO, answers: BinaryIO, calls: Calls) -> None:
    """Answer until the requests end."""
    while True:
        try:
            name, arguments = pickle.load(requests)
        except EOFError:
            return
        answer = pickle.dumps(_answer(calls[name], name, arguments))
        answers.write(SIZE.pack(len(answer)) + answer)
        answers.flush()


def _answer(
    call: Callable[..., Any], name: str, arguments: Mapping[str, Any]
) -> tuple[Any, CallboardError | None]:
    try:
        return call(**arguments), None
    except CallboardError as error:
        return None, error
    except Exception as error:  # Ray's errors are of no common class, and may not be readable elsewhere
        return None, ServiceUnavailable(
            f"Ray failed to {name.replace('_', ' ')}: {_line(error)}.",
            fix="See the Ray dashboard and its logs.",
        )


def _ray_calls() -> Calls:
    import ray

    # It takes seconds, in which Ray's head starts.
    from coordinators import ray_actors

    logging.getLogger("ray").setLevel(logging.ERROR)
    return {
        "join": _join,
        "nodes": ray.nodes,
        "anything_runs": ray_actors.anything_runs,
        "start_master": lambda **settings: ray_actors.start_master(ray_actors.ClusterSettings(**settings)),
        "end_coordinators": ray_actors.end_coordinators,
        "end_hosts": ray_actors.end_hosts,
        "serve_runs": _serve_runs,
        "serve_gateway": _serve_gateway,
    }


def _serve_runs() -> bool:
    from serve.deployment import serve_runs

    return serve_runs()


def _serve_gateway(served: ServedGateway) -> None:
    from serve.deployment import serve_gateway

    serve_gateway(served)


def _join(address: str, namespace: str) -> None:
    """Raises ServiceUnavailable with Ray's own words."""
    import ray

    try:
        ray.init(
            address=address,
            namespace=namespace,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except Exception as error:  # Ray has many ways to say no, of no common class
        raise ServiceUnavailable(
            f"Ray at {address} cannot be joined: {_refusal(error)}.",
            fix="It must run this release of Ray and Python, and let this process in: RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH. Outside of its machines, RAY_ADDRESS is ray://HEAD:10001.",
        ) from error


def _refusal(error: BaseException | None) -> str:
    """In one line; that a token was refused stands only in the causes of what Ray raises."""
    first = _line(error) if isinstance(error, Exception) else ""
    if "client server failed" in first or "ZombieProcess" in first:
        return f"{first}. Try again; Ray's head is better started with GRPC_ENABLE_FORK_SUPPORT=0, as in cluster.yaml"
    while error is not None:
        if "InvalidAuthToken" in str(error):
            return "it refuses the token"
        error = error.__cause__
    return first.partition(". Ensure that")[0]


def _line(error: Exception) -> str:
    words = str(error).strip().splitlines() or [type(error).__name__]
    if words[0].endswith(":"):  # what follows is a traceback of Ray's server
        return f"{words[0]} {words[-1].strip().rstrip('.')}"
    return words[0].rstrip(".")


if __name__ == "__main__":
    main()
