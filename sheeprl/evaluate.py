"""Evaluate a saved policy from fixed start seeds."""

from __future__ import annotations

import sys
from dataclasses import replace

from sheeprl.actors.evaluation import LANES, Evaluation, describe_cut, eval_seeds, play_episodes
from sheeprl.envs.timeout import StepWatch
from sheeprl.utils.gc_control import importing
from sheeprl.utils.process import StopSignals, exclusive

__all__ = ["describe_cut", "evaluate_checkpoint"]


def evaluate_checkpoint(
    path: str, episodes: int, seed: int | None = None, video: bool = False, step_limit: int | None = None
) -> Evaluation:
    """Evaluate the policy of a checkpoint or of a run's newest checkpoint.

    Args:
        path: the folder of the run or of the checkpoint.
        episodes: number of episodes.
        seed: the start seeds are derived from it; default `run.seed`.
        video: record the episodes of one environment in the folder `videos` of the run.
        step_limit: steps after which an episode is cut; default `eval.step_limit`.

    Raises:
        ConfigError: the checkpoint doesn't exist, or its environment can't be created.
        RunFailedError: this process has a run or another evaluation, or the environment returned something that its
            interface or its spaces exclude.
    """
    with exclusive("the evaluation"), StopSignals():
        return _evaluate(path, episodes, seed, video, step_limit)


def _evaluate(path: str, episodes: int, seed: int | None, video: bool, step_limit: int | None) -> Evaluation:
    """Evaluate a policy, alone in this process."""
    with importing():
        import torch

        from sheeprl.algos.base import Mode
        from sheeprl.algos.build import build_algorithm
        from sheeprl.checkpoint.resume import read_counters
        from sheeprl.checkpoint.run_dir import find_checkpoint, read_config
        from sheeprl.config.loading import validate
        from sheeprl.envs.make import EnvSettingsError, make_env, make_eval_envs, record_video, spaces_of
        from sheeprl.envs.results import ResultError
        from sheeprl.envs.statistics import describe, with_statistics
        from sheeprl.utils.errors import ConfigError, RunFailedError

    if episodes < 1:
        raise ConfigError([f"episodes={episodes}: must be at least 1"])
    run_dir, checkpoint = find_checkpoint(path)
    config = validate(read_config(run_dir))
    env = config.eval_env
    try:
        filmed = [make_env(env, "rgb_array") for _ in range(video)]  # the first, which selects how to render
        envs = make_eval_envs(env, min(episodes, LANES) - video, least=1 - video)
        envs += [record_video(env, str(run_dir / "videos"), every_episode=True) for env in filmed]
    except EnvSettingsError as error:
        raise ConfigError([str(error)]) from error
    if wrappers := with_statistics(envs[0]):
        print(f"warning: {describe(wrappers)}", file=sys.stderr)
    algorithm = build_algorithm(config.algo, spaces_of(envs[0]))
    agent = algorithm.build_agent()
    try:
        state = torch.load(checkpoint / "agent.pt", map_location="cpu", weights_only=True)
        agent.load_state_dict(state["agent"])
    except Exception as error:  # torch raises many types for a damaged file
        first_line = str(error).strip().partition("\n")[0]
        raise ConfigError([f"{checkpoint / 'agent.pt'}: can't be loaded: {first_line}"]) from error
    policy = agent.get_submodule("policy").eval()
    seeds = eval_seeds(config.run.seed if seed is None else seed, episodes)
    most = config.eval.step_limit if step_limit is None else step_limit
    try:
        watch = StepWatch(config.players.step_timeout)
        mode: Mode = "explore" if config.eval.explore else "greedy"
        played = play_episodes(algorithm, policy, envs, seeds, most, watch, mode)
    except ResultError as error:
        raise RunFailedError(f"{env.id}, evaluation: {error}") from error
    return replace(played, policy_steps=read_counters(checkpoint).policy_steps)
