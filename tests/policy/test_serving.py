"""Test the server of policies: what it refuses, and that a roll to a newer checkpoint loses no request."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from sheeprl import ConfigError, load_config, train

SMALL = [
    *("run.mode=coupled", "trainer.compile=false", "log.level=error", "trainer.threads=1", "algo.hidden_sizes=[8]"),
    *("algo.rollout_steps=16", "algo.batch_size=64", "algo.epochs=1", "eval.episodes=0", "env.id=CartPole-v1"),
]
OBS = [0.1, 0.0, -0.05, 0.0]


def free_port():
    """Return a port that no program listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a short run."""
    folder = tmp_path_factory.mktemp("served") / "run"
    train(load_config("ppo", [*SMALL, f"run.dir={folder}", "run.total_steps=200"]))
    return folder


@pytest.fixture
def serving(monkeypatch):
    """Return the module, if its extra is installed."""
    pytest.importorskip("starlette")
    from sheeprl.policy import serving

    monkeypatch.delenv(serving.TOKEN, raising=False)
    return serving


def test_other_machines_need_a_token(serving, run, monkeypatch):
    """An address that isn't loopback is refused without a token."""
    source = serving.Source(str(run))
    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0: other machines can reach it; set SHEEPRL_SERVE_TOKEN"):
        serving.check_servable(source, "0.0.0.0", free_port())
    monkeypatch.setenv(serving.TOKEN, "secret")
    policy, token = serving.check_servable(source, "0.0.0.0", free_port())
    assert (policy.spec.env, token) == ("CartPole-v1", "secret")


def test_what_cannot_be_served_is_one_line(serving, run, tmp_path):
    """A taken port and a file to follow are refused before Ray starts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"--port \d+: Address already in use"):
            serving.check_servable(serving.Source(str(run)), "127.0.0.1", taken.getsockname()[1])
    (tmp_path / "policy.onnx").touch()
    with pytest.raises(ConfigError, match=r"--follow: .* is a file and never changes"):
        serving.check_servable(serving.Source(str(tmp_path / "policy.onnx"), follow=5.0), "127.0.0.1", free_port())


def test_a_missing_package_has_one_remedy(monkeypatch):
    """The message names the extra, and not the remedy of Ray's own message."""
    from sheeprl.policy import serving

    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(ConfigError) as caught:
        serving.check_servable(serving.Source("nothing"), "127.0.0.1", 1)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith("serve: a package of Ray Serve is missing; use ") and mistake.endswith('[serve]"')


def test_policy_with_a_state_is_refused(serving, tmp_path):
    """A recurrent policy would mix the episodes of its clients."""
    recurrent = [
        *SMALL,
        "run.total_steps=64",
        "algo.rollout_steps=32",
        f"run.dir={tmp_path / 'run'}",
        "algo.batch_size=32",
    ]
    train(load_config("ppo_recurrent", recurrent))
    with pytest.raises(ConfigError, match=r"ppo_recurrent has a state per episode"):
        serving.check_servable(serving.Source(str(tmp_path / "run")), "127.0.0.1", free_port())


def test_batch_of_requests_equals_single_ones(run):
    """Requests of different sizes share one call of the policy."""
    import numpy as np

    from sheeprl import load_policy

    policy = load_policy(run)
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    alone = []
    for obs in observations:
        policy.reset()
        alone.append(policy(obs))
    leaves, is_batch = policy.leaves(observations)
    assert is_batch and list(policy.act_without_state(leaves)) == alone


def request(url, body=None, token="secret"):
    """Return the status and the answer of a request."""
    data = None if body is None else json.dumps(body).encode()
    prepared = urllib.request.Request(url, data, {"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(prepared, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.slow
def test_server_rolls_to_a_newer_checkpoint_and_loses_no_request(serving, run):
    """The requests of four clients are answered while the run continues; the answers come from its new checkpoint."""
    port = free_port()
    command = [sys.executable, "-m", "sheeprl", "serve", str(run), "--follow", "--port", str(port)]
    server = subprocess.Popen(
        command, env={**os.environ, serving.TOKEN: "secret"}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    answers, is_over = [], threading.Event()

    def ask():
        """Request actions until the test is over."""
        while not is_over.is_set():
            answers.append(request(f"{url}/act", {"obs": OBS}))

    url = f"http://127.0.0.1:{port}"
    clients = [threading.Thread(target=ask) for _ in range(4)]
    try:
        assert "serving ppo for CartPole-v1" in server.stdout.readline()
        first = request(f"{url}/healthz", token="")[1]["policy_steps"]
        assert request(f"{url}/act", {"obs": OBS}, token="wrong")[0] == 401
        assert request(f"{url}/act", {"obs": [1.0]})[0] == 400
        assert request(f"{url}/act", {"obs": [None, 1.0, 2.0, 3.0]})[0] == 400
        assert request(f"{url}/spec")[1]["env"] == "CartPole-v1"
        for client in clients:
            client.start()
        train(load_config(str(run / "config.yaml"), [f"run.dir={run}", "run.resume=true", "run.total_steps=1000"]))
        for _ in range(600):
            if answers and answers[-1][1].get("policy_steps", 0) >= 1000:
                break
            time.sleep(0.2)
        time.sleep(1)
    finally:
        is_over.set()
        for client in clients:
            client.join() if client.ident else None
        server.send_signal(signal.SIGINT)
        server.wait(60)
    assert {status for status, _ in answers} == {200}
    steps = [answer["policy_steps"] for _, answer in answers]
    assert steps[0] == first and steps[-1] >= 1000 and len(steps) > 20
