"""Serve a policy over HTTP with Ray Serve: requests are answered in batches, also while newer checkpoints are loaded.

| request | answer |
|---|---|
| `POST /act` with `{"obs": ...}`, one observation or a batch | `{"action": ..., "policy_steps": 1000}` |
| `GET /spec` | the inputs and outputs of the policy |
| `GET /healthz` | `{"status": "ok", "policy_steps": 1000}`, without a token |
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sheeprl.policy.interface import Array, Policy
from sheeprl.policy.loading import load_policy
from sheeprl.utils.errors import ConfigError, RunFailedError, one_line
from sheeprl.utils.installation import install_command

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

TOKEN = "SHEEPRL_SERVE_TOKEN"
APP = "sheeprl"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MOST_WAITING = 1000  # requests that one replica accepts at a time
START_SECONDS = 120.0
FOLLOW_SECONDS = 5.0

Leaves = dict[str, Array]


@dataclass(frozen=True)
class Source:
    """Policy to serve.

    Args:
        path: absolute path of a run, a checkpoint or an exported file, or the URL of a run at `checkpoint.storage`.
        best: True for the best checkpoint of a run.
        follow: seconds between two looks for a newer checkpoint; None to keep the first one.
    """

    path: str
    best: bool = False
    follow: float | None = None

    def checkpoint(self) -> str:
        """Return the path of the checkpoint, or of the exported file.

        Raises:
            ConfigError: there is none.
        """
        if Path(self.path).is_file():
            return self.path
        from sheeprl.checkpoint.best import named_checkpoint

        return str(named_checkpoint(self.path, self.best)[1])


class RefusedError(Exception):
    """Raised when a request can't be answered.

    Args:
        status: HTTP status.
        reason: one line.
    """

    def __init__(self, status: int, reason: str) -> None:
        """Store the arguments."""
        super().__init__(reason)
        self.status = status


class PolicyServer:
    """One replica: it answers requests with a policy, and loads newer checkpoints in a thread.

    Args:
        source: the policy.
        token: secret that clients send as `Authorization: Bearer`; None for none.
        batch: most requests that share a call of the policy.
        wait: seconds that the first request of a batch waits for others.
    """

    def __init__(self, source: Source, token: str | None, batch: int, wait: float) -> None:
        """Load the policy and start to follow the run."""
        from ray import serve

        self.source, self.token = source, token
        self.loaded = source.checkpoint()
        self.policy = _load(self.loaded)
        # One batcher per replica, since its sizes are settings.
        self._act = serve.batch(max_batch_size=batch, batch_wait_timeout_s=wait)(self._act_on_batch)
        self._following: asyncio.Task[None] | None = None

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        from starlette.responses import JSONResponse

        self._follow()
        try:
            return JSONResponse(await self._answer(request))
        except RefusedError as error:
            return JSONResponse({"error": str(error)}, error.status)

    async def _answer(self, request: Request) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            RefusedError: it can't be answered.
        """
        path, method = request.url.path.rstrip("/"), request.method
        if (path, method) == ("/healthz", "GET"):
            return {"status": "ok", "policy_steps": self.policy.spec.policy_steps}
        self._check_token(request.headers.get("authorization", ""))
        if (path, method) == ("/spec", "GET"):
            return dict(json.loads(self.policy.spec.to_json()))
        if (path, method) != ("/act", "POST"):
            raise RefusedError(404, f"{method} {path or '/'}: use POST /act, GET /spec or GET /healthz")
        leaves, is_batch = self._observations(await request.body())
        action, policy_steps = await self._act(leaves)
        return {"action": (action if is_batch else action[0]).tolist(), "policy_steps": policy_steps}

    def _check_token(self, header: str) -> None:
        """Check the token of a request.

        Raises:
            RefusedError: it is missing or wrong.
        """
        given = header.removeprefix("Bearer ").encode()
        if self.token is not None and not hmac.compare_digest(given, self.token.encode()):
            raise RefusedError(401, f"the token is missing or wrong; send {TOKEN} as 'Authorization: Bearer TOKEN'")

    def _observations(self, body: bytes) -> tuple[Leaves, bool]:
        """Return the observations `[N, *]` in a request by flat key, and whether it is a batch.

        Raises:
            RefusedError: the body has another form than the policy needs.
        """
        try:
            leaves, is_batch = self.policy.leaves(json.loads(body)["obs"])
        except (KeyError, TypeError, json.JSONDecodeError):
            raise RefusedError(400, 'the body must be JSON with the key obs, such as {"obs": [0.1, 0.2]}') from None
        except ValueError as error:
            raise RefusedError(400, one_line(error)) from None
        for key, values in leaves.items():
            if not np.isfinite(values).all():
                raise RefusedError(400, f"{key} has values that aren't finite")
        return leaves, is_batch

    async def _act_on_batch(self, requests: list[Leaves]) -> list[tuple[Array, int]]:
        """Return the actions of several requests, and the policy steps of the policy that acted."""
        policy = self.policy
        whole = {key: np.concatenate([leaves[key] for leaves in requests]) for key in requests[0]}
        action = policy.act_without_state(whole)
        sizes = [len(next(iter(leaves.values()))) for leaves in requests]
        parts = np.split(action, np.cumsum(sizes)[:-1])
        return [(part, policy.spec.policy_steps) for part in parts]

    def _follow(self) -> None:
        """Start to follow the run, in the event loop of the requests."""
        if self.source.follow is not None and self._following is None:
            self._following = asyncio.ensure_future(self._load_newer())

    async def check_health(self) -> None:
        """Start to follow the run before the first request; Ray Serve calls this every few seconds."""
        self._follow()

    async def _load_newer(self) -> None:
        """Load each newer checkpoint of the run; requests use the old one until then."""
        assert self.source.follow is not None
        while True:
            await asyncio.sleep(self.source.follow)
            try:
                newest = await asyncio.to_thread(self.source.checkpoint)
                if newest != self.loaded:
                    self.policy, self.loaded = await asyncio.to_thread(_load, newest), newest
            except (ConfigError, OSError) as error:  # such as a checkpoint that was just removed
                logging.getLogger("ray.serve").warning("the newest checkpoint can't be loaded: %s", one_line(error))


def _load(path: str) -> Policy:
    """Return the policy of a checkpoint or of an exported file, on one thread of torch."""
    policy = load_policy(path)
    if not path.endswith(".onnx"):
        import torch

        torch.set_num_threads(1)
    return policy


def check_servable(source: Source, host: str, port: int) -> tuple[Policy, str | None]:
    """Return the policy and the token, after a check of all that would fail later.

    Args:
        source: the policy.
        host: address to listen at.
        port: port to listen at.

    Raises:
        ConfigError: the policy can't be served, the address needs a token, the port is taken, or Ray Serve is missing.
    """
    try:
        import ray.serve  # noqa: F401
        import starlette  # noqa: F401
    except ImportError as error:
        # Ray's own message names another remedy, which may install another version.
        raise ConfigError([f"serve: a package of Ray Serve is missing; use {install_command('serve')}"]) from error
    if source.follow is not None and Path(source.path).is_file():
        raise ConfigError([f"--follow: {source.path} is a file and never changes; name its run"])
    policy = load_policy(source.checkpoint())
    if policy.spec.state:
        raise ConfigError(
            [
                f"{source.path}: {policy.spec.algo} has a state per episode ({_names(policy)}), which requests don't "
                "carry; call sheeprl.load_policy in the program that plays, or use sheeprl export"
            ]
        )
    token = os.environ.get(TOKEN) or None
    if token is None and host not in LOOPBACK:
        raise ConfigError(
            [f"--host {host}: other machines can reach it; set {TOKEN} to a secret that clients send with each request"]
        )
    _check_port(host, port)
    return policy, token


def _names(policy: Policy) -> str:
    """Return the names of a policy's state."""
    return ", ".join(leaf.key for leaf in policy.spec.state)


def _check_port(host: str, port: int) -> None:
    """Check that a port can be listened at.

    Raises:
        ConfigError: it can't.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        raise ConfigError([f"--host {host} --port {port}: {error.strerror or error}; use another one"]) from error


@contextmanager
def serving(
    source: Source,
    token: str | None,
    host: str,
    port: int,
    replicas: int,
    cpus: float,
    batch: int,
    wait: float,
) -> Iterator[str]:
    """Serve a policy within the block; the arguments are those of `sheeprl serve`.

    Yields:
        The URL.

    Raises:
        RunFailedError: Ray or the server can't be started.
    """
    from sheeprl.actors.ray.tasks import start_ray

    began = start_ray(os.environ.get("RAY_ADDRESS"), least_cpus=replicas * cpus)
    import ray
    from ray import serve

    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    try:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(http_options={"host": host, "port": port}, logging_config={"enable_access_log": False})
        server: Any = serve.deployment(
            PolicyServer,
            max_ongoing_requests=MOST_WAITING,
            num_replicas=replicas,
            ray_actor_options={"num_cpus": cpus},
        )
        serve.run(server.bind(source, token, batch, wait), name=APP, route_prefix="/")
        _wait_until_healthy(url)
        yield url
    except RunFailedError:
        raise
    except Exception as error:
        raise RunFailedError(f"the server can't be started: {one_line(error)}") from error
    finally:
        serve.delete(APP) if not began else serve.shutdown()
        if began:
            ray.shutdown()


def _wait_until_healthy(url: str, now: Callable[[], float] = time.monotonic) -> None:
    """Wait until the server answers.

    Raises:
        RunFailedError: it doesn't answer in time.
    """
    end = now() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:
                if json.loads(answer.read())["status"] == "ok":
                    return
        except (urllib.error.URLError, OSError, ValueError, KeyError) as error:
            if now() > end:
                raise RunFailedError(
                    f"{url}/healthz doesn't answer: {one_line(error)}; if the cluster had a Ray Serve before, it "
                    "listens at its own address"
                ) from error
        time.sleep(0.2)
