"""Tiny environments for the tests of wrappers.

Importing this module registers them, so `gymnasium.make("tests.helpers.wrapped_envs:Scripted-v0")` works.
"""

import gymnasium
import numpy as np
from gymnasium import spaces


class Scripted(gymnasium.Env):
    """Environment whose observation is the number of steps; step s has the reward `rewards[s - 1]`.

    Args:
        rewards: rewards of an episode, which ends after the last one.
        kind: `vector` [step, -step], `picture` bytes [2, 2, 3] of the step, `dict` of both, or `choice` (Discrete).
        actions: `discrete` (3), `multi` (2 and 3), `binary` (2) or `box` ([-2, 2]).
        masks: put an action mask into the info, which forbids the last action.
        success: put `success` into the last info.
    """

    def __init__(
        self, rewards=(1.0, -2.0, 3.0, 0.5, 4.0), kind="vector", actions="discrete", masks=False, success=False
    ):
        """Make the spaces of the chosen kind."""
        self.rewards, self.kind, self.masks, self.success = tuple(rewards), kind, masks, success
        vector, picture = spaces.Box(-999.0, 999.0, (2,), np.float32), spaces.Box(0, 255, (2, 2, 3), np.uint8)
        self.observation_space = {
            "vector": vector,
            "picture": picture,
            "dict": spaces.Dict({"state": vector, "camera": picture}),
            "choice": spaces.Discrete(9),
        }[kind]
        self.action_space = {
            "discrete": spaces.Discrete(3),
            "multi": spaces.MultiDiscrete([2, 3]),
            "binary": spaces.MultiBinary(2),
            "box": spaces.Box(-2.0, 2.0, (2,), np.float32),
        }[actions]
        self.at, self.last_action = 0, None
        self.received = []

    def reset(self, *, seed=None, options=None):
        """Start an episode."""
        super().reset(seed=seed)
        self.at, self.last_action = 0, None
        self.offset = int(self.np_random.integers(4))
        return self.observe(), self.info()

    def step(self, action):
        """Record the action and return the next reward."""
        self.at, self.last_action = self.at + 1, action
        self.received.append(np.asarray(action).tolist())
        over = self.at >= len(self.rewards)
        return self.observe(), self.rewards[self.at - 1], over, False, self.info()

    def info(self):
        """Return the success and the action mask, if they are chosen."""
        info = {"success": float(self.at >= len(self.rewards))} if self.success else {}
        if self.masks:
            sizes = [3] if isinstance(self.action_space, spaces.Discrete) else [2, 3]
            parts = [np.array([1] * (size - 1) + [self.at % 2], np.int8) for size in sizes]
            info["action_mask"] = parts[0] if len(parts) == 1 else tuple(parts)
        return info

    def observe(self):
        """Return the step in the chosen kind."""
        vector = np.array([self.at, -self.at], np.float32)
        picture = np.full((2, 2, 3), 10 * self.at % 256, np.uint8)
        return {"vector": vector, "picture": picture, "dict": {"state": vector, "camera": picture}, "choice": self.at}[
            self.kind
        ]


class EndsEarly(gymnasium.Wrapper):
    """Report an end every `steps` steps, after which a reset without a seed continues the episode, as with lives."""

    def __init__(self, env, steps=2):
        """Store the number of steps."""
        super().__init__(env)
        self.steps, self.at, self.over, self.obs = steps, 0, True, None

    def reset(self, *, seed=None, options=None):
        """Reset, or go on with the same game."""
        self.at = 0
        if self.over or seed is not None:
            self.obs, _ = self.env.reset(seed=seed, options=options)
        self.over = False
        return self.obs, {}

    def step(self, action):
        """Step, and end the episode after `steps` steps."""
        self.obs, reward, terminated, truncated, info = self.env.step(action)
        self.at, self.over = self.at + 1, terminated or truncated
        return self.obs, reward, terminated or self.at == self.steps, truncated, info


class FakeEmulator:
    """Screen and lives of a fake game of ale-py: pixel values are the number of the frame."""

    def __init__(self):
        """Start with three lives."""
        self.frame, self.left = 0, 3

    def getScreenDims(self):  # noqa: N802 - ale-py's name
        """Return the size of the screen."""
        return (4, 6)

    def getScreenGrayscale(self, screen):  # noqa: N802
        """Draw the number of the frame."""
        screen[...] = self.frame

    def getScreenRGB(self, screen):  # noqa: N802
        """Draw the number of the frame in red."""
        screen[...] = np.array([self.frame, 0, 0])

    def lives(self):
        """Return the lives that are left."""
        return self.left


class FakeGame(gymnasium.Env):
    """Game that loses a life every `life` frames, and ends with the last one; each frame has the reward 2.

    Args:
        life: frames of a life.
        frameskip: as the games of ale-py name it.
        dark: frames that show nothing, to test the maximum of two frames.
    """

    observation_space = spaces.Box(0, 255, (128,), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self, life=8, frameskip=1, dark=()):
        """Store the frames at which a life is lost and dark frames."""
        self.ale, self.life, self._frameskip, self.dark, self.actions = FakeEmulator(), life, frameskip, dark, []

    def get_action_meanings(self):
        """Return the names of the actions."""
        return ["NOOP", "FIRE", "RIGHT"]

    def reset(self, *, seed=None, options=None):
        """Start a game."""
        super().reset(seed=seed)
        self.number, self.ale.left, self.ale.frame = 0, 3, 0
        self.actions.append("reset")
        return np.zeros(128, np.uint8), {"lives": 3}

    def step(self, action):
        """Show the next frame, and lose a life after `life` frames."""
        self.number += 1
        self.ale.frame = 0 if self.number in self.dark else self.number
        self.actions.append(int(action))
        if self.number % self.life == 0:
            self.ale.left -= 1
        return np.zeros(128, np.uint8), 2.0, self.ale.left == 0, False, {"lives": self.ale.left}


for name in ("Scripted", "FakeGame"):
    if f"{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"{name}-v0", f"tests.helpers.wrapped_envs:{name}", disable_env_checker=True)
