"""Plays a policy without exploration, from fixed start seeds."""

from __future__ import annotations

from dataclasses import replace

from sheeprl.actors.evaluation import LANES, Evaluation, eval_seeds, play_episodes
from sheeprl.utils.gc_control import importing


def evaluate_checkpoint(path: str, episodes: int, seed: int | None = None, video: bool = False) -> Evaluation:
    """Play the policy of a run's newest checkpoint, or of one checkpoint.

    Args:
        path: folder of the run or of the checkpoint.
        episodes: how many.
        seed: from which the start seeds are derived; default the run's.
        video: record the first environment's episodes into the run's `videos` folder.

    Raises:
        ConfigError: there is no such checkpoint, or its environment can't be made here.
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
        envs = [make_env(config.env) for _ in range(min(episodes, LANES) - video)]
        if video:
            filmed = make_env(config.env, "rgb_array")
            envs.append(record_video(filmed, str(run_dir / "videos"), every_episode=True))
    except EnvSettingsError as error:
        raise ConfigError([str(error)]) from error
    algorithm = build_algorithm(config, spaces_of(envs[0]))
    agent = algorithm.build_agent()
    try:
        state = torch.load(checkpoint / "agent.pt", map_location="cpu", weights_only=True)
        agent.load_state_dict(state["agent"])
    except Exception as error:  # torch raises many kinds for a damaged file
        first_line = str(error).strip().partition("\n")[0]
        raise ConfigError([f"{checkpoint / 'agent.pt'}: can't be loaded: {first_line}"]) from error
    policy = agent.get_submodule("policy").eval()
    seeds = eval_seeds(config.run.seed if seed is None else seed, episodes)
    played = play_episodes(algorithm, policy, envs, seeds)
    return replace(played, policy_steps=read_counters(checkpoint).policy_steps)
