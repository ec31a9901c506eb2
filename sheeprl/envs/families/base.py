"""Interface of a family: the environments of one package, chosen by the beginning of their ids."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import gymnasium
from gymnasium.vector import VectorEnv

from sheeprl.envs.config import EnvConfig


class Family:
    """Environments that gymnasium makes as they are registered; the base of all families.

    Attributes:
        prefixes: beginnings of the ids.
        package: the package that must be importable.
        extra: the extra that installs it.
        without_text: wrappers that drop or convert texts in the observations, as settings; "" without texts.
        wrappers: module whose wrappers have short names in `env.wrappers`.
        renders: the environments may render observations, so a display or an offscreen renderer is selected for them.
    """

    prefixes: ClassVar[tuple[str, ...]] = ()
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""
    without_text: ClassVar[str] = ""
    wrappers: ClassVar[str] = ""

    def register(self) -> None:
        """Register the ids at gymnasium; called before each use, with the package importable."""

    def arguments(self, config: EnvConfig) -> dict[str, Any]:
        """Return the arguments of `gymnasium.make`; an environment may change them."""
        return copy.deepcopy(config.kwargs)

    def renders(self, config: EnvConfig) -> bool:
        """Return True if the observations are rendered."""
        return config.kwargs.get("render_mode") == "rgb_array"

    def make_vector(self, config: EnvConfig) -> VectorEnv[Any, Any, Any]:
        """Make the native vector version of `config.num_envs` environments.

        Raises:
            ValueError: there is no such version, or it can't do what `env.wrappers` says; the message begins with the
                setting.
        """
        if config.wrappers:
            raise ValueError("env.wrappers: wrap single environments; use env.vectorization=sync or async with them")
        arguments = self.arguments(config)
        if config.max_episode_steps is not None:
            arguments["max_episode_steps"] = config.max_episode_steps
        return gymnasium.make_vec(config.id, config.num_envs, vectorization_mode="vector_entry_point", **arguments)
