"""Convert the hyperparameters of RL Baselines3 Zoo: a YAML file per algorithm, with an entry per environment."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sheeprl.algos import registry
from sheeprl.config import peer_algorithms, peer_names
from sheeprl.config.loading import apply_overrides, inspect, set_value
from sheeprl.config.schema import Tree, config_class, leaves
from sheeprl.config.suggestions import nearest, shown
from sheeprl.config.yaml_io import Dumper, parse_yaml_lines
from sheeprl.utils.errors import ConfigError

Values = dict[str, Any]

_ACTOR_CRITIC: Values = {"gamma": 0.99, "ent_coef": 0.0, "vf_coef": 0.5, "max_grad_norm": 0.5, "net_arch": [64, 64]}
_OFF_POLICY: Values = {
    **{"buffer_size": 1_000_000, "learning_starts": 100, "batch_size": 256, "tau": 0.005, "gamma": 0.99},
    **{"train_freq": 1, "gradient_steps": 1},
}
DEFAULTS: dict[str, Values] = {
    "ppo": {
        **_ACTOR_CRITIC,
        **{"learning_rate": 3e-4, "n_steps": 2048, "batch_size": 64, "n_epochs": 10, "gae_lambda": 0.95},
        **{"clip_range": 0.2, "normalize_advantage": True},
    },
    "a2c": {
        **_ACTOR_CRITIC,
        **{"learning_rate": 7e-4, "n_steps": 5, "gae_lambda": 1.0, "normalize_advantage": False},
    },
    "dqn": {
        **_OFF_POLICY,
        **{"learning_rate": 1e-4, "batch_size": 32, "tau": 1.0, "train_freq": 4, "target_update_interval": 10_000},
        **{"exploration_fraction": 0.1, "exploration_initial_eps": 1.0, "exploration_final_eps": 0.05},
        **{"max_grad_norm": 10.0, "net_arch": [64, 64], "double": False},
    },
    "sac": {**_OFF_POLICY, "learning_rate": 3e-4, "net_arch": [256, 256]},
    "td3": {**_OFF_POLICY, "learning_rate": 1e-3, "net_arch": [400, 300], "noise_std": 0.0},
}
"""Values of Stable-Baselines3 for settings that an entry leaves out, by the name of the file."""

WITHOUT_EFFECT = ("policy", "optimize_memory_usage", "use_rms_prop", "enable_critic_lstm", "n_lstm_layers")
"""Settings that need no counterpart with the values that the zoo has."""

WRAPPERS: dict[str, tuple[str, dict[str, str]]] = {
    "FrameSkip": ("action_repeat", {"skip": "amount"}),
    "ResizeObservation": ("resize", {"shape": "size"}),
    "GrayScaleObservation": ("grayscale", {}),
    "GrayscaleObservation": ("grayscale", {}),
    "TimeLimit": ("time_limit", {}),
    "MaskVelocityWrapper": ("mask_velocities", {}),
}
"""Wrappers with a short name here, and their arguments that have another name."""


@dataclass
class Converted:
    """Configuration made from an entry of the zoo.

    Args:
        algorithm: name of the algorithm here.
        tree: the settings.
        notes: one line for each setting that has no exact counterpart.
    """

    algorithm: str
    tree: Tree = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_yaml(self) -> str:
        """Return the settings as a file with one line for each."""
        lines = []
        for section, settings in self.tree.items():
            lines.append(f"{section}:")
            for name, value in settings.items():
                text = yaml.dump(
                    value, Dumper=Dumper, default_flow_style=True, width=math.inf, sort_keys=False
                ).removesuffix("...\n")
                lines.append(f"  {name}: {text.strip()}")
        return "\n".join(lines) + "\n"


def convert(path: Path, env: str, algorithm: str | None = None) -> Converted:
    """Return the configuration of an entry of a file of the zoo.

    Args:
        path: the file, such as `ppo.yml`.
        env: name of the entry. Another version of the environment, and `atari` for Atari games, are found as well.
        algorithm: the algorithm of the file; default: the name of the file.

    Raises:
        ConfigError: the file can't be read, or it has no such entry, or its algorithm doesn't exist here.
    """
    entries, lines = _read(path)
    name = algorithm or path.stem
    entry = _find_entry(env, entries, path)
    entry_lines = {key[len(entry) + 1 :]: line for key, line in lines.items() if key.startswith(f"{entry}.")}
    reader = _Reader(name, dict(entries[entry]), path, entry_lines)
    reader.read_env(env, entry, lines.get(entry, 1))
    reader.read_entry()
    mistakes = inspect(reader.result.tree)[1]
    reader.result.notes += [f"{path}: {mistake}" for mistake in mistakes]
    return reader.result


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, int]]:
    """Return the entries of a file and the lines of their settings."""
    try:
        entries, lines = parse_yaml_lines(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: can't be read: {error}"]) from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ConfigError([f"{path}: must have an entry of settings per environment, as a file of the zoo"])
    return entries, lines


def _find_entry(env: str, entries: Mapping[str, Any], path: Path) -> str:
    """Return the name of the entry for an environment."""
    if env in entries:
        return env
    stem = _without_version(env)
    if versions := [name for name in entries if _without_version(name) == stem]:
        return versions[-1]
    if "atari" in entries and (env.startswith("ALE/") or "NoFrameskip" in env):
        return "atari"
    hint = nearest(env, list(entries))
    raise ConfigError([f"{path}: has no entry {env}{hint or '; its entries: ' + ', '.join(map(str, entries))}"])


def _without_version(env: str) -> str:
    """Return the id of an environment without its version."""
    return re.sub(r"-v\d+$", "", env)


class _Reader:
    """Converts one entry.

    Args:
        name: name of the algorithm in the zoo.
        entry: the settings.
        path: the file.
        lines: line of each setting.
    """

    def __init__(self, name: str, entry: Values, path: Path, lines: Mapping[str, int]) -> None:
        """Find the algorithm, and fill in the values of Stable-Baselines3."""
        known = list(registry.registered())
        use = name if name in known else peer_algorithms.find(name, known)
        if use is None:
            raise ConfigError(
                [f"{path}: no algorithm here is {name}{nearest(name, known)}; use --algo NAME if the file has another"]
            )
        self.path, self.lines = path, lines
        algorithm, *settings = use.split()
        self.result = Converted(algorithm)
        self.args = registry.args_class(algorithm)
        self.keys = {key for key, _ in leaves(config_class(self.args))}
        set_value(self.result.tree, "algo.name", algorithm)
        apply_overrides(self.result.tree, settings)
        if algorithm != name:
            self._note("algo", f"is converted to {use}, the nearest algorithm", name)
        kwargs = _python(entry.pop("policy_kwargs", None) or {})
        if not isinstance(kwargs, dict):
            self._note("policy_kwargs", "isn't a mapping", kwargs)
            kwargs = {}
        self.given: Values = {**entry, **kwargs}
        self.values: Values = {**DEFAULTS.get(algorithm, {}), **self.given}
        self.envs = int(self.values.get("n_envs", 1))

    def read_env(self, env: str, entry: str, line: int) -> None:
        """Set the environment, in a version that gymnasium has."""
        if entry != env:
            self.result.notes.append(f"{self.path}:{line}: the entry {entry} is used for {env}")
        if game := re.fullmatch(r"(\w+?)NoFrameskip-v4", env):
            self._set("env.id", f"ALE/{game[1]}-v5")
            self._set("env.kwargs", {"repeat_action_probability": 0.0})
            return
        if registered := _newest_version(env):
            self.result.notes.append(
                f"env.id={env}: {registered} is the newest version and is used; returns may differ"
            )
        self._set("env.id", registered or env)

    def read_entry(self) -> None:
        """Convert all settings of the entry, and those that it leaves out and that differ here."""
        self._set("env.num_envs", self.envs)
        special = dict(self._special())
        done = {name for names in special for name in names.split()}
        for names, convert_them in special.items():
            if any(name in self.values for name in names.split()):
                convert_them()
        for name, value in self.values.items():
            if name not in done and name not in WITHOUT_EFFECT:
                self._convert_by_name(name, value)

    # -------------------------------------------------------------------------------- one setting each

    def _special(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield settings whose values change, and the method that converts them."""
        yield "n_envs", lambda: None
        yield "n_timesteps", lambda: self._set("run.total_steps", int(self.values["n_timesteps"]))
        yield "learning_rate", self._learning_rate
        yield "clip_range", self._clip_range
        yield "batch_size", self._batch_size
        yield "ent_coef", self._entropy
        yield "normalize", self._normalize
        yield "net_arch", self._net_arch
        yield "activation_fn", self._activation
        yield "ortho_init", lambda: self._unless("ortho_init", True, "networks here have orthogonal weights")
        yield "env_wrapper frame_stack", self._wrappers
        yield "env_kwargs", lambda: self._set("env.kwargs", _python(self.values["env_kwargs"]))
        yield "train_freq gradient_steps target_update_interval", self._replay_ratio
        yield "noise_type noise_std", self._noise
        yield "use_sde sde_sample_freq use_sde_at_warmup", self._sde
        yield "replay_buffer_kwargs", self._replay_kwargs
        yield "optimizer_class optimizer_kwargs", self._optimizer
        yield "callback", lambda: self._note("callback", "set run.callbacks to callbacks of SheepRL")
        yield "replay_buffer_class", lambda: self._note("replay_buffer_class", "the replay buffer here is another one")
        yield "vec_env_wrapper", lambda: self._note("vec_env_wrapper", "use a wrapper of single environments")
        yield "double", lambda: self._set_if_known("algo.double", "double")

    def _learning_rate(self) -> None:
        """Convert a learning rate, which falls to 0 with `lin_`."""
        rate, linear = _schedule(self.values["learning_rate"])
        keys = [key for key in ("learning_rate", "actor_lr", "critic_lr", "alpha_lr") if f"algo.{key}" in self.keys]
        for key in keys:
            self._set_algo(key, rate, "learning_rate")
        if linear and "algo.final_learning_rate" in self.keys:
            self._set("algo.final_learning_rate", 0.0)
        elif linear:
            self._note("learning_rate", f"{self.result.algorithm} has no schedule; the rate stays at {rate}")

    def _clip_range(self) -> None:
        """Convert the range of the clip, which falls to 0 with `lin_`."""
        clip, linear = _schedule(self.values["clip_range"])
        self._set_algo("clip", clip, "clip_range")
        if linear:
            self._set("algo.final_clip", 0.0)

    def _batch_size(self) -> None:
        """Convert the size of minibatches. One larger than the rollout means the whole rollout, as there."""
        size, steps = self.values["batch_size"], self.values.get("n_steps")
        rollout = steps * self.envs if isinstance(steps, int) else None
        if rollout is not None and isinstance(size, (int, float)) and rollout < size:
            self._note("batch_size", f"is larger than the rollout; the minibatch is the rollout of {rollout} rows")
            size = rollout
        self._set_algo("batch_size", size, "batch_size")

    def _entropy(self) -> None:
        """Convert the coefficient of the entropy, which is a temperature where `auto` learns it."""
        value = self.values["ent_coef"]
        if "algo.alpha" not in self.keys:
            self._set_algo("entropy_coef", value, "ent_coef")
        elif isinstance(value, str):
            self._set_algo("alpha", float(value.partition("_")[2] or 1.0), "ent_coef")
        elif value == 0:
            self._note("ent_coef", "must be more than 0; the temperature is learned instead")
        else:
            self._set("algo.alpha", value)
            self._set("algo.learn_alpha", False)

    def _normalize(self) -> None:
        """Convert the normalization of observations and rewards."""
        value = _python(self.values["normalize"])
        parts = value if isinstance(value, dict) else {"norm_obs": bool(value), "norm_reward": bool(value)}
        for name, key in (("norm_obs", "normalize_obs"), ("norm_reward", "normalize_reward")):
            if parts.get(name, True) and f"algo.{key}" in self.keys:
                self._set(f"algo.{key}", True)
            elif parts.get(name, True):
                self._note("normalize", f"{self.result.algorithm} has no algo.{key}", name)

    def _net_arch(self) -> None:
        """Convert the sizes of the hidden layers, which are the same for actor and critic here."""
        value = self.values["net_arch"]
        parts = value[-1] if isinstance(value, list) and value and isinstance(value[-1], dict) else value
        sizes = list(parts.values()) if isinstance(parts, dict) else [parts]
        if any(size != sizes[0] for size in sizes) or not isinstance(sizes[0], list):
            self._note("net_arch", "actor and critic have the same hidden layers here; set algo.hidden_sizes")
        else:
            self._set_algo("hidden_sizes", sizes[0], "net_arch")

    def _activation(self) -> None:
        """Convert the activation of the hidden layers."""
        name = str(self.values["activation_fn"]).rpartition(".")[2].lower()
        if "algo.activation" in self.keys and name in ("relu", "tanh", "silu"):
            self._set("algo.activation", name)
        elif "algo.activation" in self.keys or name != "relu":
            self._note("activation_fn", "isn't available; the algorithm's own activation is used")

    def _wrappers(self) -> None:
        """Convert wrappers, innermost first, and the number of stacked frames."""
        given = self.values.get("env_wrapper") or []
        wrappers = [_wrapper(entry) for entry in (given if isinstance(given, list) else [given])]
        stack = self.values.get("frame_stack")
        for wrapper in wrappers:
            if wrapper["path"] == "atari":
                wrapper["frame_stack"], stack = stack or 1, None
            elif ":" in wrapper["path"]:
                package = wrapper["path"].partition(".")[0]
                self._note("env_wrapper", f"needs the package {package} on every node", wrapper["path"])
        if stack:
            wrappers.append({"path": "frame_stack", "stack_size": int(stack)})
        self._set("env.wrappers", [wrapper["path"] if len(wrapper) == 1 else wrapper for wrapper in wrappers])

    def _replay_ratio(self) -> None:
        """Convert the gradient steps per call and the calls per step, and the steps between two target networks."""
        every, steps = self.values.get("train_freq", 1), self.values.get("gradient_steps", 1)
        every, unit = every if isinstance(every, list) else (every, "step")
        if unit == "episode" and steps != -1:
            self._note("train_freq", "training here doesn't wait for the end of an episode; algo.replay_ratio stays")
            return
        ratio = 1.0 if steps == -1 else steps / (every * self.envs)
        self._set_algo("replay_ratio", ratio, "train_freq" if "train_freq" in self.given else "gradient_steps")
        interval = self.values.get("target_update_interval")
        if interval is not None and "algo.target_every" in self.keys:
            call = steps if steps != -1 else every * self.envs
            self._set("algo.target_every", max(1, call if unit == "step" else 1, round(interval * ratio)))
        elif interval not in (None, 1):
            self._set("algo.target_delay", interval)

    def _noise(self) -> None:
        """Convert the noise on actions."""
        kind, deviation = self.values.get("noise_type"), self.values.get("noise_std", 0.0)
        if "algo.exploration_noise" not in self.keys:
            self._note("noise_type", f"{self.result.algorithm} has no noise on actions", kind)
            return
        self._set("algo.exploration_noise", float(deviation))
        if kind not in (None, "normal"):
            self._note("noise_type", "normal noise of the same deviation is used")

    def _sde(self) -> None:
        """Note state-dependent exploration, which doesn't exist here."""
        if self.values.get("use_sde"):
            self._note("use_sde", "state-dependent exploration doesn't exist here; the noise is drawn in every step")

    def _replay_kwargs(self) -> None:
        """Note arguments of the replay buffer; those about time limits hold here anyway."""
        value = _python(self.values["replay_buffer_kwargs"])
        if not isinstance(value, dict) or set(value) - {"handle_timeout_termination"}:
            self._note("replay_buffer_kwargs", "the replay buffer here has no such arguments")

    def _optimizer(self) -> None:
        """Convert the epsilon of the optimizer, which is RMSprop as in TensorFlow where the zoo changes it."""
        name, given = str(self.values.get("optimizer_class", "")), _python(self.values.get("optimizer_kwargs") or {})
        key = next((key for key in ("rmsprop_eps", "adam_eps") if f"algo.{key}" in self.keys), None)
        rest = dict(given) if isinstance(given, dict) else {"": given}
        if key and "eps" in rest:
            self._set(f"algo.{key}", rest.pop("eps"))
        if rest or (name and not name.endswith("RMSpropTFLike")):
            self._note("optimizer_class", "the algorithm's own optimizer is used", name or rest)

    def _convert_by_name(self, name: str, value: Any) -> None:
        """Convert a setting whose value stays the same, by the table of names."""
        peer, _ = peer_names.find(name)
        uses = [use for library in ("zoo", "sb3") for use in (peer.libraries.get(library, ("", []))[1] if peer else [])]
        for use in uses:
            for key in use.settings:
                if key in self.keys:
                    self._set(key, value) if name in self.given else self._set_default(key, value)
                    return
        if name in self.given:
            note = next((use.note for use in uses if use.note and not use.settings), "")
            self._note(name, note or f"{self.result.algorithm} has no such setting")

    # ------------------------------------------------------------------------------------------- helpers

    def _set(self, key: str, value: Any) -> None:
        """Set a setting; whole numbers lose their fraction."""
        set_value(self.result.tree, key, int(value) if isinstance(value, float) and _is_count(key, value) else value)

    def _set_algo(self, key: str, value: Any, name: str) -> None:
        """Set an argument of the algorithm, if it has it and the entry has the setting or the default differs."""
        if f"algo.{key}" not in self.keys:
            if name in self.given:
                self._note(name, f"{self.result.algorithm} has no algo.{key}")
        elif name in self.given:
            self._set(f"algo.{key}", value)
        else:
            self._set_default(f"algo.{key}", value)

    def _set_if_known(self, key: str, name: str) -> None:
        """Set a setting to the value of the entry, if the algorithm has it."""
        if key in self.keys:
            self._set_default(key, self.values[name])

    def _set_default(self, key: str, value: Any) -> None:
        """Set a setting to the value of Stable-Baselines3 where the default here is another one."""
        fields = dict(leaves(config_class(self.args)))
        default = fields[key].get_default(call_default_factory=True)
        if (list(default) if isinstance(default, tuple) else default) != value:
            self._set(key, value)

    def _unless(self, name: str, value: Any, reason: str) -> None:
        """Note a setting with another value than the one that holds here."""
        if self.values[name] != value:
            self._note(name, reason)

    def _note(self, name: str, reason: str, value: Any = None) -> None:
        """Note a setting without an exact counterpart."""
        line = self.lines.get(name) or self.lines.get("policy_kwargs")
        place = f"{self.path}:{line}" if line else str(self.path)
        given = self.values.get(name) if value is None else value
        self.result.notes.append(f"{place}: {name}={shown(given)}: {reason}")


def _is_count(key: str, value: float) -> bool:
    """Return whether a float stands for a whole number of steps or rows."""
    return value.is_integer() and (value >= 100 or key.rpartition(".")[2] in ("num_envs", "rollout_steps", "epochs"))


def _schedule(value: Any) -> tuple[float, bool]:
    """Return the number of a value such as `lin_2.5e-4`, and whether it falls to 0."""
    text = str(value)
    try:
        return float(text.removeprefix("lin_")), text.startswith("lin_")
    except ValueError as error:
        raise ConfigError([f"{value!r}: isn't a number or a schedule such as lin_2.5e-4"]) from error


def _wrapper(entry: Any) -> Values:
    """Return an entry of `env.wrappers` for a wrapper of the zoo."""
    path, arguments = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
    module, _, name = str(path).rpartition(".")
    given: Values = dict(arguments or {})
    if name == "AtariWrapper":
        life_loss = given.pop("terminal_on_life_loss", True)
        return {"path": "atari", "life_loss": life_loss, **given}
    if name in WRAPPERS:
        short, renamed = WRAPPERS[name]
        return {"path": short, **{renamed.get(name, name): value for name, value in given.items()}}
    of_gymnasium = module.startswith(("gym.wrappers", "gymnasium.wrappers"))
    return {"path": name if of_gymnasium else f"{module}:{name}", **given}


def _newest_version(env: str) -> str | None:
    """Return the newest version of an environment in gymnasium; None if it is this one, or if there is none."""
    from gymnasium.envs.registration import registry as environments  # takes a moment to import

    stem = f"{_without_version(env)}-v"
    versions = [name for name in environments if name.startswith(stem) and name[len(stem) :].isdigit()]
    newest = max(versions, key=lambda name: int(name[len(stem) :]), default=None)
    return None if newest == env else newest


def _python(value: Any) -> Any:
    """Return the value of text with Python's literals and `dict(...)`; names such as `nn.ReLU` stay text."""
    if not isinstance(value, str):
        return value
    try:
        return _evaluated(ast.parse(value.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        return value


def _evaluated(node: ast.expr) -> Any:
    """Return the value of an expression, without calling anything.

    Raises:
        ValueError: the expression is more than literals, names and `dict(...)`.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {str(keyword.arg): _evaluated(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        keys: Sequence[Any] = [_evaluated(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_evaluated, node.values), strict=True))
    if isinstance(node, ast.List | ast.Tuple):
        return [_evaluated(part) for part in node.elts]
    if isinstance(node, ast.Name | ast.Attribute):
        return ast.unparse(node)
    return ast.literal_eval(node)
