"""Test that a resumed run with wrappers is bit-identical to an uninterrupted one."""

from sheeprl import train
from sheeprl.checkpoint.resume import resume_tree
from sheeprl.config.loading import validate
from tests.helpers.runs import largest_difference, run, saved

SMALL = ["run.mode=coupled", "trainer.compile=false", "algo.rollout_steps=16", "algo.batch_size=16", "algo.epochs=1"]
WRAPPERS = (
    "env.wrappers=[episode_statistics, {path: sticky_actions, repeat_action_probability: 0.25}, mask_velocities, "
    "{path: frame_stack, stack_size: 3, dilation: 2}, {path: action_repeat, amount: 2}, clip_reward, "
    "{path: time_limit, max_episode_steps: 9}, reward_as_observation, {path: actions_as_observation, num_actions: 2}]"
)


def test_a_resumed_run_with_wrappers_is_bit_identical(tmp_path):
    settings = [*SMALL, WRAPPERS, "env.num_envs=2", "algo.hidden_sizes=[8]"]
    run(tmp_path / "whole", "ppo", *settings, "run.total_steps=128", env="CartPole-v1")
    run(tmp_path / "parts", "ppo", *settings, "run.total_steps=64", env="CartPole-v1")
    train(validate(resume_tree(str(tmp_path / "parts"), ["run.total_steps=128"])))
    whole, parts = (saved(tmp_path / name)["agent"] for name in ("whole", "parts"))
    assert largest_difference(whole, parts) == 0.0
