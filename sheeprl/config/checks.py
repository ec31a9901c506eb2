"""Check a configuration against the environment and the machine."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.config.defaults import DEFAULT_REPLAY, fill_in, has_compiler
from sheeprl.config.loading import inspect
from sheeprl.config.schema import Config
from sheeprl.envs.config import EnvConfig
from sheeprl.envs.transforms import Spaces
from sheeprl.utils.errors import ConfigError


@dataclass(frozen=True)
class Resolved:
    """A configuration without open questions, and the spaces of its environment."""

    config: Config
    spaces: Spaces


def check(tree: Mapping[str, Any]) -> Resolved:
    """Check a raw tree against schema, environment and machine.

    Raises:
        ConfigError: with every mistake found.
    """
    config, mistakes = inspect(tree)
    if config is None:
        raise ConfigError([*mistakes, *_env_mistakes_of(tree)])
    config = fill_in(config)
    spaces, env_mistakes = _probe(config.env)
    if spaces is not None:
        env_mistakes += [*_space_mistakes(config, spaces), *_memory_mistakes(config, spaces)]
    mistakes = [*mistakes, *env_mistakes, *_size_mistakes(config), *_machine_mistakes(config)]
    if mistakes or spaces is None:
        raise ConfigError(mistakes)
    return Resolved(config, spaces)


def _env_mistakes_of(tree: Mapping[str, Any]) -> list[str]:
    """Mistakes in `env` of a tree whose other groups are beyond use."""
    try:
        env = EnvConfig.model_validate(tree.get("env"))
    except ValidationError:
        return []  # told by the schema
    return _probe(env)[1]


def _probe(config: EnvConfig) -> tuple[Spaces | None, list[str]]:
    """Make the environment once: its spaces as agents see them, and what is wrong with it."""
    from sheeprl.envs.make import EnvSettingsError, make_env, make_vector_env, spaces_of, told_as_settings

    try:
        env = make_env(config, "rgb_array" if config.capture_video else None)
        with contextlib.closing(env), told_as_settings(config):
            if config.capture_video:
                env.reset(seed=0)
                env.render()
            if config.vectorization == "native":
                with contextlib.closing(make_vector_env(config)) as envs:
                    envs.reset(seed=0)
                    single, vector = env.observation_space, envs.single_observation_space
                if (single.shape, single.dtype) != (vector.shape, vector.dtype):  # evaluation plays single ones
                    raise EnvSettingsError(
                        f"env.vectorization=native: {config.id} shows {vector}, alone it shows {single}; "
                        "use sync or async"
                    )
            return spaces_of(env), []
    except EnvSettingsError as error:
        return None, [str(error)]


def _space_mistakes(config: Config, spaces: Spaces) -> Iterator[str]:
    import gymnasium

    from sheeprl.envs.transforms import dict_keys, vector_size

    args, env = config.algo, config.env.id
    known = (gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete, gymnasium.spaces.Box)
    kind = spaces.action_kind
    if not isinstance(spaces.action, known):
        yield f"env.id={env}: its action space, {spaces.action}, is none of Discrete, MultiDiscrete and Box"
    elif kind not in args.actions:
        yield f"env.id={env}: its actions are {kind}; {args.name} needs {' or '.join(args.actions)} ones"
    elif isinstance(spaces.action, gymnasium.spaces.Box) and args.bounded_actions and not spaces.action.is_bounded():
        yield f"env.id={env}: its actions have no bounds; {args.name} needs bounded ones"
    if any("/" in key for key in dict_keys(spaces.observation)):
        yield f"env.id={env}: a key of its observations has a slash in it; rename it in a wrapper"
    if "pixels" not in args.observations:
        try:
            vector_size(spaces.observation)
        except TypeError as error:
            yield f"env.id={env}: {error}; {args.name} needs vectors"


def _memory_mistakes(config: Config, spaces: Spaces) -> Iterator[str]:
    """What doesn't fit into the memory of this machine, by observations alone; nodes of a cluster may have more."""
    import psutil

    from sheeprl.config.defaults import cluster_address
    from sheeprl.envs.transforms import observation_bytes

    if config.run.mode == "decoupled" and cluster_address(config) is not None:
        return
    there, row = psutil.virtual_memory().total, observation_bytes(spaces.observation)
    rows, envs, players = config.players.fragment_rows or 1, config.env.num_envs, config.players.num or 1
    data, size = config.algo.data(), min(config.buffer.size or 0, config.run.total_steps)
    if row * rows * envs * players > there:
        yield (
            f"env.num_envs={envs}: a round of {rows} x {envs} x {players} rows takes "
            f"{_gib(row * rows * envs * players)}, more than the {_gib(there)} of this machine; lower it"
        )
    elif isinstance(data, OffPolicy) and not config.buffer.memmap and row * size > there:
        yield (
            f"buffer.size={config.buffer.size}: {size} rows take {_gib(row * size)}, more than the {_gib(there)} of "
            "this machine; lower it or use buffer.memmap=true"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.0f} GiB"


def _size_mistakes(config: Config) -> Iterator[str]:
    """Sizes that don't fit each other."""
    data = config.algo.data()
    yield from _rank_mistakes(config, data.batch_size or 0)
    yield from _shard_mistakes(config)
    yield from _replay_setting_mistakes(config)
    yield from _rollout_mistakes(config, data) if isinstance(data, OnPolicy) else _replay_mistakes(config, data)


def _rank_mistakes(config: Config, batch: int) -> Iterator[str]:
    """What the ranks of the trainer group can't share out."""
    trainer, players = config.trainer, config.players.num or 1
    ranks = trainer.ranks
    if batch % ranks:
        yield f"algo.batch_size={batch}: must be a multiple of the {ranks} ranks that share it"
    if config.run.mode == "coupled" and players % ranks:
        yield f"players.num={players}: in coupled mode every rank plays; use a multiple of {ranks}"
    if config.run.mode == "coupled" and ranks > 1 and config.algo.data().prioritized:
        yield (
            f"trainer.devices={ranks}: in coupled mode every rank has a part of the replay, and {config.algo.name} "
            "draws by priority, of which each would know its own only; use run.mode=decoupled"
        )
    if config.log.record and ranks > 1:
        yield "log.record=true: only runs with one rank can be replayed; leave it out or use trainer.devices=1"
    if config.run.mode == "coupled" and trainer.num_nodes > 1:
        yield f"trainer.num_nodes={trainer.num_nodes}: coupled mode is for one node; use run.mode=decoupled"


def _shard_mistakes(config: Config) -> Iterator[str]:
    """What the replay can't be shared out over."""
    shards, players = config.buffer.shards, config.players.num or 1
    if shards == 1:
        return
    if config.run.mode == "coupled":
        yield f"buffer.shards={shards}: in coupled mode every rank has its part; leave it out or use run.mode=decoupled"
    elif isinstance(config.algo.data(), OnPolicy):
        yield f"buffer.shards={shards}: {config.algo.name} reads whole rollouts out of one buffer; leave it out"
    elif shards > players:
        yield f"buffer.shards={shards}: more than players.num={players}; the others would stay empty"


def _replay_setting_mistakes(config: Config) -> Iterator[str]:
    """Settings of the replay that do nothing as things are."""
    buffer, data = config.buffer, config.algo.data()
    if buffer.dir is not None and not buffer.memmap:
        yield f"buffer.dir={buffer.dir}: is for buffer.memmap=true"
    if isinstance(data, OnPolicy) and buffer.memmap:
        yield f"buffer.memmap=true: {config.algo.name} keeps one rollout only; leave it out"
    chooses = isinstance(data, OnPolicy) or data.prioritized or (data.sampler and not data.sampler.anchored)
    if buffer.online_fraction and chooses:
        name = config.algo.name
        yield f"buffer.online_fraction={buffer.online_fraction:g}: {name} chooses samples in its own way; leave it out"


def _rollout_mistakes(config: Config, data: OnPolicy) -> Iterator[str]:
    """Sizes that don't fit a rollout."""
    rows, envs, players, size = data.rollout_steps, config.env.num_envs, config.players.num or 1, config.buffer.size
    round_rows = rows * envs * players
    if config.players.fragment_rows != rows:
        yield (
            f"players.fragment_rows={config.players.fragment_rows}: a rollout is one fragment; leave it out or use "
            f"algo.rollout_steps={rows}"
        )
    elif size != round_rows:
        yield (
            f"buffer.size={size}: a rollout buffer holds one round of {rows} x {envs} x {players} rows; leave it out "
            f"or use {round_rows}"
        )
    if data.batch_size and data.batch_size > round_rows:
        yield f"algo.batch_size={data.batch_size}: larger than a rollout of {round_rows} rows"


def _replay_mistakes(config: Config, data: OffPolicy) -> Iterator[str]:
    """Sizes that don't fit a replay."""
    size, total = config.buffer.size or DEFAULT_REPLAY, config.run.total_steps
    if data.batch_size > size:
        yield f"algo.batch_size={data.batch_size}: larger than will ever be stored, buffer.size={size}"
    elif data.batch_size > total:
        yield f"algo.batch_size={data.batch_size}: larger than will ever be stored, run.total_steps={total}"
    players = config.players.num or 1
    shards = config.trainer.ranks if config.run.mode == "coupled" else config.buffer.shards
    round_rows = (config.players.fragment_rows or 1) * config.env.num_envs * players
    shard_rows = round_rows // players * math.ceil(players / shards)
    if data.learning_starts >= total:
        yield f"algo.learning_starts={data.learning_starts}: nothing would be learned in run.total_steps={total}"
    if size < round_rows:
        yield f"buffer.size={size}: less than one round, {round_rows} rows"
    elif size // shards < shard_rows:
        needed = shards * shard_rows
        yield f"buffer.size={size}: a shard of {shards} takes up to {shard_rows} rows a round; use at least {needed}"


def _machine_mistakes(config: Config) -> Iterator[str]:
    """What this machine lacks."""
    if config.trainer.compile and not has_compiler():
        yield "trainer.compile=true: needs a C++ compiler, and none is installed (such as the package g++)"
    trainer = config.trainer
    if trainer.compile and trainer.accelerator == "mps":
        yield "trainer.compile=true: is for CPU and CUDA, not for trainer.accelerator=mps; leave it out"
    if config.run.mode == "coupled" and trainer.accelerator in ("cuda", "mps"):
        import torch

        there = torch.cuda.device_count() if trainer.accelerator == "cuda" else int(torch.backends.mps.is_available())
        if there < trainer.devices:
            yield (
                f"trainer.accelerator={trainer.accelerator}: this machine has {there} such devices, "
                f"trainer.devices={trainer.devices}; use trainer.accelerator=cpu"
            )
    if config.env.capture_video and importlib.util.find_spec("moviepy") is None:
        yield 'env.capture_video=true: needs moviepy; pip install "sheeprl[video]"'
