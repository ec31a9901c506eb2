"""Compare what a world model imagines with what happens: play episodes, predict them, measure the errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sheeprl.actors.evaluation import eval_seeds, stacked_obs
from sheeprl.algos.world_model import Scene, WorldModel
from sheeprl.checkpoint.files import step_of
from sheeprl.envs import transforms
from sheeprl.utils.errors import ConfigError

if TYPE_CHECKING:
    from tensordict import TensorDict

    from sheeprl.algos.base import Algorithm, Tensors

SHOWN = (1, 2, 3, 5, 10, 15, 20, 30, 50, 75, 100, 150, 200)
"""Steps of imagination after which errors are shown, besides the last one."""


@dataclass(frozen=True)
class Dreams:
    """True and predicted rows of episodes.

    Args:
        checkpoint: folder of the checkpoint.
        context: rows that the world model sees.
        fps: rows per second of the environment.
        episodes: one pair of a true and a predicted scene per episode, each `[T, 1, *]`.
    """

    checkpoint: Path
    context: int
    fps: float
    episodes: list[tuple[Scene, Scene]]

    @property
    def name(self) -> str:
        """Return a name for files."""
        return f"dream_step_{step_of(self.checkpoint)}"


def dream(path: str, episodes: int, context: int, horizon: int, seed: int | None = None, best: bool = False) -> Dreams:
    """Play episodes by the policy of a checkpoint and predict them by its world model.

    Args:
        path: a run, also by its URL at `checkpoint.storage`, or a checkpoint.
        episodes: number of episodes.
        context: rows that the world model sees before it imagines.
        horizon: rows that it imagines; fewer where an episode ends.
        seed: the seeds of the resets are derived from it; default `run.seed`.
        best: use the best checkpoint of a run.

    Raises:
        ConfigError: there is no such checkpoint, its algorithm has no world model, or the environment can't be made.
    """
    import torch

    from sheeprl.algos.build import build_algorithm
    from sheeprl.checkpoint.best import named_checkpoint
    from sheeprl.checkpoint.run_dir import read_config
    from sheeprl.checkpoint.weights import load_agent
    from sheeprl.config.loading import validate
    from sheeprl.envs.snapshot import close_quietly
    from sheeprl.policy.environment import make_evaluation_env
    from sheeprl.policy.loading import read_spaces

    run_dir, checkpoint = named_checkpoint(path, best)
    config = validate(read_config(run_dir))
    algorithm = build_algorithm(config.algo, read_spaces(run_dir, config)[0])
    if not isinstance(algorithm, WorldModel):
        raise ConfigError([f"{path}: {config.algo.name} has no world model; use a run of {' or '.join(dreamers())}"])
    agent = load_agent(algorithm, checkpoint)
    env = make_evaluation_env(config, checkpoint)
    generator, found = torch.Generator().manual_seed(0), []
    try:
        for number in eval_seeds(config.run.seed if seed is None else seed, episodes):
            rows = play(algorithm, agent.get_submodule("policy"), env, number, context + horizon, generator)
            if len(rows) <= context:
                continue  # the episode ends before the imagination begins
            with torch.inference_mode():
                found.append(algorithm.dream(agent, rows, context, generator))
    finally:
        close_quietly(env)
    if not found:
        raise ConfigError([f"--context={context}: all episodes end within as many rows; use a smaller one"])
    return Dreams(checkpoint, context, float(env.metadata.get("render_fps") or 30), found)


def dreamers() -> list[str]:
    """Return the names of the algorithms that have a world model."""
    from sheeprl.algos import registry
    from sheeprl.algos.build import algorithm_class

    names = []
    for name in registry.registered():
        with suppress(Exception):  # a broken package must not hide the others
            if issubclass(algorithm_class(registry.args_class(name)(name=name)), WorldModel):
                names.append(name)
    return names


def play(algorithm: Algorithm[Any], policy: Any, env: Any, seed: int, length: int, generator: Any) -> TensorDict:
    """Play one episode greedily and return its first rows, at most `length`.

    Returns:
        `[T, 1]` rows with `obs`, `action`, `reward`, `terminated`. The end row has no own action.
    """
    import torch
    from tensordict import TensorDict

    from sheeprl.algos.base import PolicyInput

    to_env = transforms.ActionTransform(env.action_space)
    obs, _ = env.reset(seed=seed)
    rows: list[Any] = []
    state: Tensors = {}
    reward, terminated, ended = 0.0, False, False
    with torch.inference_mode():
        while len(rows) < length:
            observed = stacked_obs([obs], algorithm.spaces.observation)
            received, is_first = torch.tensor([float(reward)]), torch.tensor([not rows])
            inputs = PolicyInput(observed, received, is_first, progress=1.0)
            output = algorithm.act(policy, inputs, state, "greedy", generator)
            state = output.rnn_state
            values = {"obs": observed, "action": output.action, "reward": received}
            rows.append(TensorDict(values | {"terminated": torch.tensor([terminated])}, [1]))
            if ended:
                break
            obs, reward, terminated, truncated, _ = env.step(to_env(output.action.numpy())[0])
            ended = terminated or truncated
    stacked: Any = torch.stack(rows)
    return stacked  # type: ignore[no-any-return]


def error_table(dreams: Dreams) -> list[tuple[str, ...]]:
    """Return a table of the prediction's errors by the steps of imagination, as texts with a header.

    Errors are root mean squares over episodes and elements. The columns `repeated` have those of the last observation
    before the imagination, as a baseline.
    """
    longest = max(len(true.reward) for true, _ in dreams.episodes) - dreams.context
    steps = [step for step in SHOWN if step < longest] + [longest]
    columns: dict[str, Callable[[Scene], Sequence[Any]]] = {
        "vectors": lambda scene: [] if scene.vector is None else [scene.vector],
        "pictures": lambda scene: scene.pictures,
        "reward": lambda scene: [scene.reward],
        "continue": lambda scene: [scene.continues],
    }
    present = [name for name, parts in columns.items() if parts(dreams.episodes[0][0])]
    header, table = ["step"], [[str(step)] for step in steps]
    for name in present:
        pairs = [
            pair
            for true, guess in dreams.episodes
            for pair in zip(columns[name](true), columns[name](guess), strict=True)
        ]
        has_baseline = name in ("vectors", "pictures")
        header += [name, "repeated"] if has_baseline else [name]
        for step, cells in zip(steps, table, strict=True):
            row = dreams.context + step - 1
            lasting = [(true, guess) for true, guess in pairs if row < len(true)]
            cells.append(_error([(true[row], guess[row]) for true, guess in lasting]))
            if has_baseline:
                cells.append(_error([(true[row], true[dreams.context - 1]) for true, _ in lasting]))
    return [tuple(header), *map(tuple, table)]


def _error(pairs: Sequence[tuple[Any, Any]]) -> str:
    """Return the root mean square of the differences."""
    differences = [(np.asarray(one, float) - np.asarray(two, float)).reshape(-1) for one, two in pairs]
    return f"{float(np.sqrt(np.square(np.concatenate(differences)).mean())):.3g}"
