"""Wrappers around single environments, which `env.wrappers` lists by the names in `SHORT_NAMES`."""

SHORT_NAMES = {
    "action_mask": "sheeprl.envs.wrappers.action_mask:ActionMask",
    "action_repeat": "sheeprl.envs.wrappers.action_repeat:ActionRepeat",
    "actions_as_observation": "sheeprl.envs.wrappers.actions_as_observation:ActionsAsObservation",
    "atari": "sheeprl.envs.wrappers.atari:atari",
    "clip_reward": "sheeprl.envs.wrappers.clip_reward:ClipReward",
    "episode_statistics": "sheeprl.envs.wrappers.episode_statistics:EpisodeStatistics",
    "frame_stack": "sheeprl.envs.wrappers.frame_stack:FrameStack",
    "grayscale": "sheeprl.envs.wrappers.images:Grayscale",
    "mask_velocities": "sheeprl.envs.wrappers.mask_velocities:MaskVelocities",
    "rescale_action": "gymnasium.wrappers:RescaleAction",
    "resize": "sheeprl.envs.wrappers.images:Resize",
    "one_hot_grid": "sheeprl.envs.wrappers.one_hot_grid:OneHotGrid",
    "reward_as_observation": "sheeprl.envs.wrappers.reward_as_observation:RewardAsObservation",
    "sticky_actions": "gymnasium.wrappers:StickyAction",
    "time_aware_observation": "gymnasium.wrappers:TimeAwareObservation",
    "time_limit": "gymnasium.wrappers:TimeLimit",
}
"""Short name -> `package.module:name` of a class or a function."""
