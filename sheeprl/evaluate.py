"""Evaluate a saved policy without exploration, from fixed start seeds."""

from __future__ import annotations

from dataclasses import replace

from sheeprl.actors.evaluation import LANES, Evaluation, eval_seeds, play_episodes
from sheeprl.utils.gc_control import importing


def evaluate_checkpoint(path: str, episodes: int, seed: int | None = None, video: bool = False) -> Evaluation:
    """Evaluate the policy of a checkpoint or of a run's newest checkpoint.

    Args:
        path: the folder of the run or of the checkpoint.
        episodes: number of episodes.
        seed: the start seeds are derived from it; default `run.seed`.
        video: record the episodes of one environment in the folder `videos` of the run.

    Raises:
        ConfigError: the checkpoint doesn't exist, or its environment can't be created.
    """
    with importing():
        import torch

        from sheeprl.algos.build import build_algorithm
        from sheeprl.checkpoint.resume import read_counters
        from sheeprl.checkpoint.run_dir import find_checkpoint, read_config
        from sheeprl.config.loading import validate
        from sheeprl.envs.make import EnvSettingsError, make_env, record_video, spaces_of
        from sheeprl.utils.errors import ConfigError

    if episodes < 1:
        raise ConfigError([f"episodes={episodes}: must be at least 1"])
    run_dir, checkpoint = find_checkpoint(path)
    config = validate(read_config(run_dir))
    try:
        filmed = [make_env(config.env, "rgb_array") for _ in range(video)]  # the first, which selects how to render
        envs = [make_env(config.env) for _ in range(min(episodes, LANES) - video)]
        envs += [record_video(env, str(run_dir / "videos"), every_episode=True) for env in filmed]
    except EnvSettingsError as error:
        raise ConfigError([str(error)]) from error
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
    played = play_episodes(algorithm, policy, envs, seeds)
    return replace(played, policy_steps=read_counters(checkpoint).policy_steps)
