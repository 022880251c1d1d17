"""The program of a process that joins a Ray for a command: see ray_process.py.

Calls come in over standard input as a pickled (number, function, arguments). Each runs in a thread of its own and is
answered by a pickled (number, result, error) as soon as it ends. The process ends with its input.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, BinaryIO

from bus.errors import CallboardError, ServiceUnavailable

if TYPE_CHECKING:
    from serve.gateway import ServedGateway
    from serve.vllm.deployment import ServedVllm

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
    writing = threading.Lock()

    def answer(number: int, name: str, arguments: Mapping[str, Any]) -> None:
        written = _answer(calls, number, name, arguments)
        with writing:
            answers.write(SIZE.pack(len(written)) + written)
            answers.flush()

    with ThreadPoolExecutor() as threads, contextlib.suppress(EOFError):
        while True:
            threads.submit(answer, *pickle.load(requests))


def _answer(calls: Calls, number: int, name: str, arguments: Mapping[str, Any]) -> bytes:
    failure: CallboardError
    try:
        return pickle.dumps((number, calls[name](**arguments), None))
    except CallboardError as error:
        failure = error
    except Exception as error:  # Ray's errors are of no common class, and may not be readable elsewhere
        failure = ServiceUnavailable(
            f"Ray failed to {name.replace('_', ' ')}: {_line(error)}.",
            fix="See the Ray dashboard and its logs.",
        )
    return pickle.dumps((number, None, failure))


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
        "prepare_to_serve": _prepare_to_serve,
        "serve_runs": _serve_runs,
        "serve_gateway": _serve_gateway,
        "serve_vllm": _serve_vllm,
        "end_vllm": _end_vllm,
    }


def _prepare_to_serve() -> None:
    """Importing it takes seconds, which only who serves a gateway has need of."""
    import serve.deployment  # noqa: F401


def _serve_runs() -> bool:
    from serve.deployment import serve_runs

    return serve_runs()


def _serve_gateway(served: ServedGateway) -> None:
    from serve.deployment import serve_gateway

    serve_gateway(served)


def _serve_vllm(served: ServedVllm) -> None:
    from serve.vllm.deployment import serve_vllm

    serve_vllm(served)


def _end_vllm() -> None:
    from serve.vllm.deployment import end_vllm

    end_vllm()


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
