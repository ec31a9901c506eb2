"""DeepMind Control Suite (Tassa et al. 2018): `dm_control/walker-walk-v0`, from states or pixels."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sheeprl.envs.config import EnvConfig
from sheeprl.envs.families.base import Family

NAMESPACE = "dm_control/"
PIXELS = "pixels"
ENTRY_POINT = f"{__name__}:DMControlEnv"


class DMControl(Family):
    """Tasks of the suite; other ids of the namespace, such as those of locomotion, are made by shimmy."""

    prefixes = (NAMESPACE,)
    package = "dm_control"
    extra = "dmc"

    def register(self) -> None:
        """Register the tasks, and those of shimmy where it is installed."""
        from dm_control import suite

        if importlib.util.find_spec("shimmy") is not None:
            gymnasium.register_envs(importlib.import_module("shimmy"))
        for domain, task in suite.ALL_TASKS:
            env_id = f"{NAMESPACE}{domain}-{task}-v0"
            before = gymnasium.registry.get(env_id)
            if before is None or before.entry_point != ENTRY_POINT:
                gymnasium.registry.pop(env_id, None)
                gymnasium.register(env_id, ENTRY_POINT, kwargs={"domain": domain, "task": task})

    def renders(self, config: EnvConfig) -> bool:
        """Return True if a renderer can be selected, since the first import of dm_control decides about it."""
        return super().renders(config) or bool(config.kwargs.get(PIXELS)) or ctypes.util.find_library("EGL") is not None


class DMControlEnv(gymnasium.Env[Any, Any]):
    """Task of the suite with gymnasium's interface.

    States are a Dict of float64 vectors. With pixels alone an observation is a picture `[height, width, 3]`; with both,
    the Dict has it as `pixels`. A task that never terminates is truncated at its time limit.

    Args:
        domain: name of the body, such as `walker`.
        task: name of the task, such as `walk`.
        pixels: observe a picture.
        states: observe the states; None for the opposite of `pixels`.
        size: height and width of the picture and of videos; one number for both.
        camera_id: number of the camera.
        render_mode: None or `rgb_array`.
        task_kwargs: further arguments of the task, such as `time_limit`.
        environment_kwargs: further arguments of the suite's environment, such as `control_timestep`.

    Raises:
        ValueError: neither pixels nor states, or a state is named `pixels`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - gymnasium's form

    def __init__(
        self,
        domain: str,
        task: str,
        pixels: bool = False,
        states: bool | None = None,
        size: int | Sequence[int] = 84,
        camera_id: int = 0,
        render_mode: str | None = None,
        task_kwargs: dict[str, Any] | None = None,
        environment_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Load the task."""
        from dm_control import suite

        self.pixels, self.states = pixels, not pixels if states is None else states
        if not self.pixels and not self.states:
            raise ValueError("pixels=false and states=false: an observation needs one of them")
        self.height, self.width = (size, size) if isinstance(size, int) else size
        self.camera_id, self.render_mode = camera_id, render_mode
        # The task draws from this generator, which each seeded reset replaces.
        task_kwargs = {"random": np.random.RandomState(0), **(task_kwargs or {})}
        self.task = suite.load(domain, task, task_kwargs, environment_kwargs)
        self.metadata = {**self.metadata, "render_fps": round(1 / self.task.control_timestep())}
        parts: dict[str, spaces.Space[Any]] = {
            name: _space(spec) for name, spec in self.task.observation_spec().items()
        }
        if PIXELS in parts and pixels:
            raise ValueError(f"{domain}-{task} has a state named {PIXELS!r}")
        picture = spaces.Box(0, 255, (self.height, self.width, 3), np.uint8)
        if self.states:
            self.observation_space = spaces.Dict(parts | ({PIXELS: picture} if pixels else {}))
        else:
            self.observation_space = picture
        action = self.task.action_spec()
        shape = action.shape
        low, high = (np.broadcast_to(bound, shape).astype(np.float32) for bound in (action.minimum, action.maximum))
        self.action_space = spaces.Box(low, high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self.task.task.random.seed(seed % 2**32)
        return self._observe(self.task.reset()), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action; the end of a task with discount 0 terminates, every other end truncates."""
        step = self.task.step(np.asarray(action, np.float64))
        terminated = step.last() and step.discount == 0.0
        truncated = step.last() and not terminated
        return self._observe(step), float(step.reward or 0.0), bool(terminated), bool(truncated), {}

    def render(self) -> Any:
        """Return a picture of the camera."""
        return self.task.physics.render(self.height, self.width, self.camera_id)

    def close(self) -> None:
        """Free the renderer."""
        self.task.close()

    def _observe(self, step: Any) -> Any:
        """Return the observation of a time step."""
        if not self.states:
            return self.render()
        states = {name: np.array(value, np.float64) for name, value in step.observation.items()}
        return states | ({PIXELS: self.render()} if self.pixels else {})


def _space(spec: Any) -> spaces.Box:
    """Return the space of one state."""
    low, high = (getattr(spec, name, bound) for name, bound in (("minimum", -np.inf), ("maximum", np.inf)))
    return spaces.Box(
        np.broadcast_to(low, spec.shape).astype(np.float64),
        np.broadcast_to(high, spec.shape).astype(np.float64),
        dtype=np.float64,
    )
