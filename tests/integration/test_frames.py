"""Test that runs learn the same from single stored frames as from stored stacks."""

import gymnasium
import pytest

from sheeprl.config.checks import check
from sheeprl.config.loading import load_config
from tests.helpers.runs import largest_difference, ray_session, run, saved

STACK = "env.wrappers=[{path: frame_stack, stack_size: 3}]"
STACK_INSIDE = "env.wrappers=[{path: frame_stack, stack_size: 3}, tests.integration.test_frames:Outside]"
SHORT_EPISODES = ["run.total_steps=400", "env.max_episode_steps=21"]


class Outside(gymnasium.ObservationWrapper):
    """A wrapper that could change observations, so that whole stacks have to be stored."""

    def observation(self, observation):
        """Return the observation."""
        return observation


def stored(folder):
    """Return the bytes of the stored observations of the newest checkpoint."""
    return max(path.stat().st_size for path in folder.glob("checkpoints/*/buffer/*/row obs*"))


def spaces_of(algorithm, *overrides):
    """Return the spaces of a configuration."""
    return check(load_config(algorithm, list(overrides)).model_dump(mode="json")).spaces


def test_stacks_that_frames_restore():
    """Frames are stored once if the outermost wrapper stacks them, except for rollouts."""
    assert spaces_of("sac", STACK).frame_stack == {"obs": 3}
    assert spaces_of("sac", STACK_INSIDE).frame_stack == {}
    assert spaces_of("sac", "env.wrappers=[{path: frame_stack, stack_size: 3, dilation: 2}]").frame_stack == {}
    assert spaces_of("sac", "env.wrappers=[{path: FrameStackObservation, stack_size: 2}]").frame_stack == {"obs": 2}
    assert spaces_of("ppo", STACK).frame_stack == {}


@pytest.mark.parametrize("compiled", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_frames_train_the_same_agent_as_stacks(tmp_path, compiled):
    """A coupled run is bit-identical with frames stored once, across ends of episodes and the border of the ring."""
    overrides = ["run.mode=coupled", *SHORT_EPISODES, "buffer.size=10000", f"trainer.compile={compiled}"]
    for name, wrappers in (("frames", STACK), ("stacks", STACK_INSIDE)):
        run(tmp_path / name, "sac", wrappers, *overrides)
    one, other = saved(tmp_path / "frames"), saved(tmp_path / "stacks")
    assert one["gradient_steps"] == other["gradient_steps"] > 0
    assert largest_difference(one["agent"], other["agent"]) == 0.0


@pytest.mark.slow
def test_frames_train_the_same_agent_in_both_modes(tmp_path):
    """A decoupled run with two shards, players and a warm-up stores frames once, too."""
    with ray_session(cpus=4):
        overrides = ["run.mode=decoupled", *SHORT_EPISODES, "players.num=2", "buffer.shards=2", "run.max_staleness=0"]
        for name, wrappers in (("frames", STACK), ("stacks", STACK_INSIDE)):
            run(tmp_path / name, "sac", wrappers, *overrides)
    one, other = saved(tmp_path / "frames"), saved(tmp_path / "stacks")
    assert one["gradient_steps"] == other["gradient_steps"] > 0
    assert largest_difference(one["agent"], other["agent"]) == 0.0
