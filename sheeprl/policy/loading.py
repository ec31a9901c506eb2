"""Load the policy of a run, a checkpoint or an exported file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.policy.interface import Policy
from sheeprl.utils.errors import ConfigError, one_line
from sheeprl.utils.installation import install_command

if TYPE_CHECKING:
    from gymnasium import Space

    from sheeprl.algos.base import Mode, Spaces
    from sheeprl.policy.torch_policy import TorchPolicy


TRAINING_PACKAGES = ("torch", "gymnasium", "pydantic", "yaml", "tensordict", "lightning_fabric", "fsspec", "ray")
"""Modules that a run's policy needs and an exported one doesn't; others may belong to the user's own algorithm."""


def load_policy(path: str | Path, *, best: bool = False, mode: Mode = "greedy", seed: int = 0) -> Policy:
    """Return a policy that maps observations of its environment to actions in the environment's own units.

    Args:
        path: a run (`@last`, its folder, the beginning of its name, its URL at `checkpoint.storage`, or
            `hf:user/repo`), a checkpoint, or a file of `sheeprl export`.
        best: True for the best checkpoint of a run, by `checkpoint.best_by`; False for the newest one.
        mode: `greedy`, or `explore` to sample as in training. Exported files are greedy.
        seed: seed of the random numbers, which `explore` draws, and a world model in every mode.

    Raises:
        ConfigError: there is no such run, checkpoint or file, or it can't be loaded; or there is no such mode.
    """
    if mode not in ("greedy", "explore"):
        raise ConfigError([f"mode={mode!r}: must be greedy or explore"])
    if not isinstance(path, (str, Path)) or not str(path).strip():
        raise ConfigError([f"path={path!r}: must be a run, a checkpoint or an exported file, such as '@last'"])
    file = Path(path).expanduser()
    if file.suffix in (".onnx", ".pt2"):
        return _exported(file)
    try:
        from sheeprl.checkpoint.best import named_checkpoint

        return load_checkpoint(str(named_checkpoint(str(path), best)[1]), mode, seed)
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_PACKAGES:
            raise
        advice = "load a file of sheeprl export here, or install sheeprl-ray with its dependencies"
        raise ConfigError([f"{path}: a run needs {error.name}, which isn't installed; {advice}"]) from error


def _exported(file: Path) -> Policy:
    """Return the policy of an exported file.

    Raises:
        ConfigError: the file doesn't exist or can't be loaded.
    """
    if not file.is_file():
        raise ConfigError([f"{file}: no such file"])
    try:
        if file.suffix == ".onnx":
            from sheeprl.policy.onnx_policy import OnnxPolicy

            return OnnxPolicy(file)
        from sheeprl.policy.pt2_policy import Pt2Policy

        return Pt2Policy(file)
    except ImportError as error:
        raise ConfigError([f"{file}: {error}; use {install_command('export')}"]) from error
    except Exception as error:  # the libraries raise many types for a damaged file
        raise ConfigError([f"{file}: can't be loaded: {one_line(error)}"]) from error


def load_checkpoint(path: str, mode: Mode = "greedy", seed: int = 0) -> TorchPolicy:
    """Return the policy of a run or of a checkpoint.

    Raises:
        ConfigError: it doesn't exist or can't be loaded.
    """
    from sheeprl.algos.build import build_algorithm
    from sheeprl.checkpoint.files import step_of
    from sheeprl.checkpoint.run_dir import find_checkpoint, read_config
    from sheeprl.checkpoint.weights import load_weights
    from sheeprl.config.loading import validate
    from sheeprl.policy.torch_policy import TorchPolicy

    run_dir, checkpoint = find_checkpoint(path)
    config = validate(read_config(run_dir))
    spaces, action = read_spaces(run_dir, config)
    algorithm = build_algorithm(config.algo, spaces)
    policy = load_weights(algorithm, checkpoint)
    return TorchPolicy(algorithm, policy, action, config.env.id, step_of(checkpoint), mode, seed)


def read_spaces(run_dir: Path, config: Any) -> tuple[Spaces, Space[Any]]:
    """Return the spaces of the agent and the environment's own action space.

    Without `spaces.json`, the environment is created to get its spaces.

    Raises:
        ConfigError: the file is damaged, or the environment can't be made.
    """
    from sheeprl.algos.base import Spaces
    from sheeprl.checkpoint.spaces_file import SPACES
    from sheeprl.envs.make import EnvSettingsError, make_env, spaces_of
    from sheeprl.envs.snapshot import close_quietly
    from sheeprl.envs.space_json import from_json
    from sheeprl.envs.transforms import action_space

    path = run_dir / SPACES
    if path.is_file():
        try:
            found = json.loads(path.read_bytes())
            action = from_json(found["action"])
            return Spaces(from_json(found["observation"]), action_space(action), found["frame_stack"]), action
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            advice = "remove it, and the environment is made to get its spaces"
            raise ConfigError([f"{path}: is damaged: {one_line(error)}; {advice}"]) from error
    try:
        env = make_env(config.env)
    except EnvSettingsError as error:
        raise ConfigError([str(error)]) from error
    try:
        return spaces_of(env), env.action_space
    finally:
        close_quietly(env)
