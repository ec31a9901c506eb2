"""Check a configuration against the environment and the machine."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from sheeprl.algos.args import AlgoArgs, OffPolicy, OnPolicy
from sheeprl.config.defaults import DEFAULT_REPLAY, cluster_address, fill_in, has_compiler, open_settings
from sheeprl.config.effects import without_effect
from sheeprl.config.loading import inspect
from sheeprl.config.schema import EVAL_RETURN, PATIENCE, Config
from sheeprl.config.suggestions import describe_error
from sheeprl.envs.config import EnvConfig
from sheeprl.envs.transforms import Spaces
from sheeprl.utils import rank_variables
from sheeprl.utils.errors import ConfigError, short_repr
from sheeprl.utils.installation import install_command
from sheeprl.utils.text import byte_size, counted


@dataclass(frozen=True)
class Resolved:
    """Configuration with all defaults filled in, the spaces of its environment, and warnings about it."""

    config: Config
    spaces: Spaces
    warnings: tuple[str, ...] = ()
    open_settings: frozenset[str] = frozenset()
    """Settings with defaults of this machine, which differ on another machine with the trainers."""


def check(tree: Mapping[str, Any]) -> Resolved:
    """Check an unvalidated tree against the schema, the environment and the machine.

    Raises:
        ConfigError: lists every mistake.
    """
    config, mistakes = inspect(tree)
    if config is None or any(mistake.startswith("env.kwargs") for mistake in mistakes):
        raise ConfigError([*mistakes, *_env_mistakes_of(tree)])
    given, config = config, fill_in(config)
    warnings: list[str] = []
    spaces, env_mistakes = probe_env(config.env, warnings)
    if spaces is not None and not config.algo.data().is_off_policy:
        spaces = replace(spaces, frame_stack={})  # the frames before a rollout aren't stored
    if spaces is not None:
        env_mistakes += unsupported_spaces(config.env.id, spaces)
        env_mistakes += [*_space_mistakes(config.algo, config.env.id, spaces), *_memory_mistakes(config, spaces)]
        env_mistakes += _eval_env_mistakes(config, spaces)
    mistakes = [*mistakes, *env_mistakes, *_size_mistakes(config), *_machine_mistakes(config)]
    if mistakes or spaces is None:
        raise ConfigError(mistakes)
    warnings += [*config.algo.space_warnings(spaces), *_untrained(config), *_unreachable(config)]
    warnings += without_effect(given, config, spaces)
    return Resolved(config, spaces, tuple(warnings), open_settings(given))


def _untrained(config: Config) -> Iterator[str]:
    """Yield a warning if the run takes no gradient step."""
    data = config.algo.data()
    if isinstance(data, OffPolicy) and not data.replay_ratio and not data.pretrain_steps:
        yield (
            "algo.replay_ratio=0: no gradient step is taken, so nothing is trained; use a larger one, such as "
            "algo.replay_ratio=1"
        )


def _unreachable(config: Config) -> Iterator[str]:
    """Yield a warning for each condition of `run.until` on evaluations, if the run plays none before its end."""
    if not config.eval.episodes:
        why = "with eval.episodes=0; set eval.episodes"
    elif config.eval.every is None:
        why = "on evaluations at the end only; set eval.every"
    else:
        return
    for name, target in sorted(config.run.until.items()):
        if name == PATIENCE or name.startswith("eval/"):
            yield f"run.until.{name}={target:g}: has no effect {why}"


def _env_mistakes_of(tree: Mapping[str, Any]) -> list[str]:
    """Return the mistakes in the `env` section of an otherwise unusable tree."""
    try:
        env = EnvConfig.model_validate(tree.get("env"))
    except ValidationError:
        return []  # the schema reports it
    return probe_env(env, [])[1]


def probe_env(config: EnvConfig, warnings: list[str]) -> tuple[Spaces | None, list[str]]:
    """Create the environment once, and return its spaces after all wrappers, or the mistakes in its settings.

    Args:
        config: the environment's settings.
        warnings: extended by what doesn't prevent the run.
    """
    from sheeprl.envs.interface import RESET, STEP, check_result
    from sheeprl.envs.make import EnvSettingsError, make_env, make_vector_env, setting_errors, spaces_of
    from sheeprl.envs.snapshot import close_quietly
    from sheeprl.envs.statistics import describe, with_statistics

    try:
        env = make_env(config, "rgb_array" if config.capture_video else None)
        with contextlib.ExitStack() as stack, setting_errors(config):
            stack.callback(close_quietly, env)
            if wrappers := with_statistics(env):
                warnings.append(describe(wrappers))
            if config.capture_video:
                env.reset(seed=0)
                env.render()
            if config.vectorization == "native":
                envs = make_vector_env(config)
                stack.callback(close_quietly, envs)
                single, vector = env.observation_space, envs.single_observation_space
                if (single.shape, single.dtype) != (vector.shape, vector.dtype):  # evaluation uses single environments
                    raise EnvSettingsError(
                        f"env.vectorization=native: {config.id} has observations {vector}, but one alone has "
                        f"{single}; use sync or async"
                    )
                unchecked = getattr(envs, "env", envs)  # without our wrapper, which reads the results
                check_result("reset", RESET, unchecked.reset(seed=0))
                check_result("step", STEP, unchecked.step(envs.action_space.sample()))
            return spaces_of(env), []
    except EnvSettingsError as error:
        return None, [str(error)]


def _eval_env_mistakes(config: Config, spaces: Spaces) -> Iterator[str]:
    """Yield a mistake for each setting of `eval.env` and `eval.envs` that evaluations can't use."""
    for name in (None, *config.eval.envs):
        section = "env" if name is None else f"envs.{name}"
        for mistake in _mistakes_of_eval_env(config, name, spaces):
            yield f"eval.{section}.{mistake.removeprefix('env.')}"


def _mistakes_of_eval_env(config: Config, name: str | None, spaces: Spaces) -> Iterator[str]:
    """Yield a mistake for each setting that the evaluations of a name can't use; each begins with `env.`."""
    from sheeprl.envs.make import EnvSettingsError, check_spaces, make_eval_envs
    from sheeprl.envs.snapshot import close_quietly

    changes = config.eval.changes(name)
    if not changes:
        return
    if useless := sorted({"num_envs", "vectorization", "capture_video"} & changes.keys()):
        yield f"env.{useless[0]}: has no effect on evaluations; leave it out"
        return
    try:
        env = config.eval_env_of(name)
        (made,) = make_eval_envs(env, most=1)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            at = {**detail, "loc": ("env", *detail["loc"])}
            yield from describe_error(at, type(config))
        return
    except EnvSettingsError as error:
        yield str(error)
        return
    try:
        check_spaces(made.observation_space, made.action_space, spaces, env.id)
    except EnvSettingsError as error:
        yield str(error)
    finally:
        close_quietly(made)


def unsupported_spaces(env: str, spaces: Spaces) -> list[str]:
    """Return a mistake for each space of an environment that no algorithm supports."""
    import gymnasium

    from sheeprl.envs.transforms import dict_keys, flat_spaces, without_vector_form

    kinds = gymnasium.spaces
    mistakes = []
    if not isinstance(spaces.action, (kinds.Discrete, kinds.MultiDiscrete, kinds.MultiBinary, kinds.Box)):
        mistakes.append(
            f"env.id={env}: action space {spaces.action} isn't supported; use Discrete, MultiDiscrete, MultiBinary or "
            "Box, or convert it in a wrapper (env.wrappers)"
        )
    if any("/" in key for key in dict_keys(spaces.observation)):
        mistakes.append(f"env.id={env}: an observation key contains a slash; rename the key in a wrapper")
    for name, part in flat_spaces(spaces.observation).items():
        if (shape := part.shape) and len(shape) > 1 and 0 in shape:
            mistakes.append(f"env.id={env}: the observation {name} has the shape {shape}, so it is empty; remove it")
    for key, part in without_vector_form(spaces.observation):
        mistakes.append(
            f"env.id={env}: the observation{key} has the space {short_repr(part)}, which has no vector form; "
            f"{_advice_against(env, spaces.observation, key)}"
        )
    return mistakes + [f"env.id={env}: {mistake}" for mistake in _mask_mistakes(spaces)]


def algorithm_mistakes(name: str, env: str, spaces: Spaces) -> list[str]:
    """Return a mistake for each space that a registered algorithm with its defaults doesn't support.

    The mistake of an algorithm that can't be imported is its error.
    """
    from sheeprl.algos import registry

    try:
        return [*_space_mistakes(registry.args_class(name)(name=name), env, spaces)]
    except Exception as error:  # a broken package must not hide the other algorithms
        return [f"algo.name={name}: can't be loaded; {type(error).__name__}: {' '.join(str(error).split())}"]


def _space_mistakes(args: AlgoArgs, env: str, spaces: Spaces) -> Iterator[str]:
    """Yield a mistake for each space that the algorithm doesn't support."""
    import gymnasium

    from sheeprl.envs.transforms import flat_spaces, pixel_keys

    kinds = gymnasium.spaces
    if isinstance(spaces.action, (kinds.Discrete, kinds.MultiDiscrete, kinds.MultiBinary, kinds.Box)):
        kind = spaces.action_kind
        if kind not in args.actions:
            yield f"env.id={env}: its actions are {kind}; {args.name} needs {' or '.join(args.actions)} actions"
        elif isinstance(spaces.action, kinds.Box) and args.bounded_actions and not spaces.action.is_bounded():
            yield f"env.id={env}: its actions have no bounds; {args.name} needs bounded actions"
    yield from args.space_mistakes(spaces)
    if "pixels" not in args.observations:
        for key in pixel_keys(spaces.observation):
            shape, flatten = flat_spaces(spaces.observation)[key].shape, "FlattenObservation"
            yield (
                f"env.id={env}: its observations ({key}) are pixels of shape {shape}; {args.name} needs vector "
                f"observations: use a vector version of the environment, or env.wrappers=[{flatten}] for small grids"
            )


def _mask_mistakes(spaces: Spaces) -> Iterator[str]:
    """Yield a mistake if the observation has an action mask that doesn't fit the actions."""
    import gymnasium

    from sheeprl.envs.transforms import ACTION_MASK, action_choices

    space = spaces.observation
    if not isinstance(space, gymnasium.spaces.Dict) or ACTION_MASK not in space.spaces:
        return
    mask, size = space[ACTION_MASK], sum(action_choices(spaces.action))
    if spaces.action_kind == "continuous":
        yield f"{ACTION_MASK} is a mask of choices, but its actions are continuous; rename the key in a wrapper"
    elif not isinstance(mask, (gymnasium.spaces.MultiBinary, gymnasium.spaces.Box)):
        yield f"{ACTION_MASK} has the space {short_repr(mask)}; use MultiBinary({size}) or a Box of 0 and 1"
    elif math.prod(mask.shape) != size or len(mask.shape) != 1:
        yield (
            f"{ACTION_MASK} has the shape {mask.shape}, but the action space {spaces.action} has {size} choices; use "
            f"the shape ({size},)"
        )


def _advice_against(env: str, space: Any, key: str) -> str:
    """Return a way to train with an observation space of which a part has no vector form.

    Args:
        env: name of the environment.
        space: the observation space.
        key: the part's keys, each in brackets.
    """
    import gymnasium

    from sheeprl.envs.families import family_of

    if wrappers := family_of(env).without_text:
        return f"use {wrappers}"
    own = "drop or convert it in a wrapper of your own, env.wrappers=[my_module:MyWrapper]"
    others = [name for name in getattr(space, "spaces", ()) if not key.startswith(f"[{name!r}]")]
    if isinstance(space, gymnasium.spaces.Dict) and others:
        kept = f"env.wrappers=[{{path: FilterObservation, filter_keys: [{', '.join(others)}]}}]"
        return f"leave it out with {kept}, or {own}"
    flattenable = False
    with contextlib.suppress(NotImplementedError):  # a package's own kind of space
        flattenable = space.is_np_flattenable
    if flattenable:
        return f"flatten it with env.wrappers=[FlattenObservation], or {own}"
    return f"{own}, derived from gymnasium.ObservationWrapper"


def _memory_mistakes(config: Config, spaces: Spaces) -> Iterator[str]:
    """Yield a mistake if observations and stored states exceed the memory of this machine; a cluster may have more."""
    import psutil

    from sheeprl.envs.transforms import observation_bytes

    if not config.is_coupled and cluster_address(config) is not None:
        return
    available, state = psutil.virtual_memory().total, config.algo.stored_bytes
    row = observation_bytes(spaces) + state
    if state > available:
        yield (
            f"algo.name={config.algo.name}: the state that a row stores takes {byte_size(state)}, more than the "
            f"{byte_size(available)} of this machine; use smaller networks"
        )
        return
    rows, envs, players = config.fragment_rows, config.env.num_envs, config.num_players
    data, size = config.algo.data(), min(config.buffer.size or 0, config.run.total_steps)
    if row * rows * envs * players > available:
        yield (
            f"env.num_envs={envs}: a round of {rows} x {envs} x {players} rows takes "
            f"{byte_size(row * rows * envs * players)}, more than the {byte_size(available)} of this machine; use fewer"
        )
    elif isinstance(data, OffPolicy) and not config.buffer.memmap and row * size > available:
        yield (
            f"buffer.size={config.buffer.size}: {size} rows take {byte_size(row * size)}, more than the "
            f"{byte_size(available)} of this machine; use a smaller buffer or buffer.memmap=true"
        )


def _size_mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake for each pair of incompatible sizes."""
    data = config.algo.data()
    yield from _rank_mistakes(config, data.batch_size or 0)
    yield from _host_mistakes(config)
    yield from _quorum_mistakes(config)
    yield from _shard_mistakes(config)
    yield from _replay_setting_mistakes(config)
    yield from _storage_mistakes(config)
    yield from _until_mistakes(config)
    yield from _rollout_mistakes(config, data) if isinstance(data, OnPolicy) else _replay_mistakes(config, data)


def _until_mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake for each condition of `run.until` on an evaluation environment that `eval.envs` doesn't name."""
    for name in config.run.until:
        section, *middle = name.split("/")
        if section != "eval" or name == EVAL_RETURN:
            continue
        if len(middle) != 2 or middle[1] != "return" or middle[0] not in config.eval.envs:
            known = ", ".join([EVAL_RETURN, *(f"eval/{each}/return" for each in config.eval.envs)])
            yield f"run.until.{name}: no evaluation has this result; use {known}"


def _storage_mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake for an invalid `checkpoint.storage`, and for a setting that it excludes."""
    storage = config.checkpoint.storage
    if storage is None:
        return
    from sheeprl.utils.objects import as_url, check_url

    try:
        check_url(as_url(storage))
    except ValueError as error:
        # The message has no secrets, unlike the value.
        yield f"checkpoint.storage: {error}"
    if config.log.record:
        yield (
            "log.record=true: a re-execution reads checkpoints from the run folder; use log.record=false or leave "
            "checkpoint.storage out"
        )


def _rank_mistakes(config: Config, batch: int) -> Iterator[str]:
    """Yield a mistake for each setting that the number of ranks excludes."""
    trainer, players = config.trainer, config.num_players
    ranks = trainer.ranks
    if batch % ranks:
        most = max(1, batch // ranks) * ranks
        yield (
            f"algo.batch_size={batch}: must be a multiple of the number of ranks, {ranks} (trainer.devices="
            f"{trainer.devices}); use {most} or another number of devices"
        )
    if config.is_coupled and players % ranks:
        yield f"players.num={players}: in coupled mode every rank runs players; use a multiple of {ranks}"
    if config.is_coupled and ranks > 1 and config.algo.data().prioritized:
        yield (
            f"trainer.devices={ranks}: in coupled mode every rank has its own replay shard, but {config.algo.name} "
            "samples by priorities of the whole replay; use run.mode=decoupled"
        )
    if config.log.record and ranks > 1:
        yield "log.record=true: only runs with one rank can be re-executed; use log.record=false or trainer.devices=1"
    launched = rank_variables.world_size_of_fabric() or 1
    if not config.is_coupled and launched > 1:
        yield (
            f"run.mode=decoupled: Ray starts the ranks, but `fabric run` started this program {launched} times; use "
            "sheeprl without it, or run.mode=coupled"
        )
    if config.is_coupled and launched != int(os.environ.get("LOCAL_WORLD_SIZE", launched)):
        yield "fabric run --num-nodes: coupled mode supports one node; use run.mode=decoupled"
    if config.is_coupled and trainer.num_nodes > 1:
        yield f"trainer.num_nodes={trainer.num_nodes}: coupled mode supports one node; use run.mode=decoupled"


def _host_mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake if the numbers of processes and players don't fit together."""
    least, most, players = config.least_hosts, config.most_hosts, config.num_players
    if most > players:
        yield f"players.max={most}: more processes than players.num={players}; use at most one process per player"
    elif least > most:
        limit = f"players.max={most}" if config.players.max else f"players.num={players}"
        yield f"players.min={least}: more than {limit}; use at most {most}"


def _quorum_mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake if the run can't train on rounds of a part of the players."""
    quorum = config.players.quorum
    if quorum == 1.0 or config.is_coupled:
        return
    if not config.algo.data().tolerates_staleness:
        yield (
            f"players.quorum={quorum:g}: {config.algo.name} doesn't correct for players with older weights; use "
            "players.quorum=1, or an algorithm that does"
        )
    elif config.max_staleness == 0:
        yield f"players.quorum={quorum:g}: needs weights of several versions; use run.max_staleness=1 or more"


def _shard_mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake if the run can't use the number of replay shards."""
    shards, players = config.buffer.shards, config.num_players
    if shards == 1:
        return
    if config.is_coupled:
        yield f"buffer.shards={shards}: coupled mode has one shard per rank; leave it out or use run.mode=decoupled"
    elif isinstance(config.algo.data(), OnPolicy):
        yield f"buffer.shards={shards}: {config.algo.name} needs whole rollouts in one buffer; leave it out"
    elif shards > players:
        yield f"buffer.shards={shards}: more than players.num={players}; use at most one shard per player"


def _replay_setting_mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake for each replay setting without effect."""
    buffer, data = config.buffer, config.algo.data()
    if buffer.dir is not None and not buffer.memmap:
        yield f"buffer.dir={buffer.dir}: needs buffer.memmap=true"
    if isinstance(data, OnPolicy) and buffer.memmap:
        yield f"buffer.memmap=true: {config.algo.name} stores only one rollout; leave it out"
    has_own_sampling = isinstance(data, OnPolicy) or data.prioritized or (data.sampler and not data.sampler.anchored)
    if buffer.online_fraction and has_own_sampling:
        name = config.algo.name
        yield f"buffer.online_fraction={buffer.online_fraction:g}: {name} has its own sampling; leave it out"


def _rollout_mistakes(config: Config, data: OnPolicy) -> Iterator[str]:
    """Yield a mistake for each size that is incompatible with the rollout."""
    rows, envs, players, size = data.rollout_steps, config.env.num_envs, config.round_fragments, config.buffer.size
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
    if data.sequence:
        yield from _sequence_mistakes(config, data.sequence, data)
    if data.batch_size and data.batch_size > round_rows:
        yield (
            f"algo.batch_size={data.batch_size}: larger than a rollout of {round_rows} rows (algo.rollout_steps x "
            f"env.num_envs x players.num); use at most {round_rows}, or raise algo.rollout_steps or env.num_envs"
        )
    elif data.standardize and math.ceil(round_rows / data.minibatches(round_rows)) == 1:
        which = "algo.batch_size=1" if round_rows > 1 else f"algo.rollout_steps={rows}"
        yield (
            f"{which}: {config.algo.name} standardizes {' and '.join(data.standardize)} over each minibatch, for which "
            "one row is too few; use at least 2"
            + "".join(f", or algo.{name}=false" for name in _standardizing(config.algo))
        )


def _standardizing(args: AlgoArgs) -> list[str]:
    """Return the algorithm's switches without which nothing is standardized."""
    switches = [name for name in type(args).model_fields if getattr(args, name) is True]
    without = {name: args.model_copy(update={name: False}).data() for name in switches}
    return [name for name, data in without.items() if isinstance(data, OnPolicy) and not data.standardize]


def _sequence_mistakes(config: Config, sequence: int, data: OnPolicy) -> Iterator[str]:
    """Yield a mistake if minibatches can't hold whole sequences of this many rows."""
    unit, batch = sequence * config.trainer.ranks, data.batch_size or 0
    if sequence > data.rollout_steps:
        yield (
            f"algo.rollout_steps={data.rollout_steps}: shorter than a training sequence of {sequence} rows; use at "
            f"least {sequence}, or shorter sequences"
        )
    elif batch % unit:
        yield (
            f"algo.batch_size={batch}: a minibatch holds whole sequences of {sequence} rows on each of "
            f"{config.trainer.ranks} ranks; use a multiple of {unit}, such as {math.ceil(batch / unit) * unit}"
        )


def _replay_mistakes(config: Config, data: OffPolicy) -> Iterator[str]:
    """Yield a mistake for each size that is incompatible with the replay."""
    size, total = config.buffer.size or DEFAULT_REPLAY, config.run.total_steps
    has_rows = config.buffer.init_from is not None  # a short run trains on those
    if data.batch_size > size:
        yield (
            f"algo.batch_size={data.batch_size}: larger than buffer.size={size}; use at most {size}, or raise "
            "buffer.size"
        )
    elif data.batch_size > total and not has_rows:
        yield (
            f"algo.batch_size={data.batch_size}: larger than run.total_steps={total}; use at most {total}, or raise "
            "run.total_steps"
        )
    players = config.num_players
    shards = config.trainer.ranks if config.is_coupled else config.buffer.shards
    most = math.ceil(players / shards) if config.players.quorum == 1.0 else config.round_fragments
    shard_rows = config.fragment_rows * config.env.num_envs * most
    if data.learning_starts >= total:
        yield (
            f"algo.learning_starts={data.learning_starts}: must be less than run.total_steps={total}; use fewer, such "
            f"as algo.learning_starts={total // 10}, or raise run.total_steps"
        )
    rows = 1 if data.sampler is None else data.sampler.least_rows
    envs, all_envs = config.env.num_envs * math.ceil(players / shards), config.env.num_envs * players
    if rows > 1 and total < rows * all_envs and not has_rows:
        yield (
            f"run.total_steps={total}: {total // all_envs} rows of each of {all_envs} environments, but a sequence "
            f"needs {rows}; use at least {rows * all_envs}"
        )
    if size < config.round_rows:
        yield f"buffer.size={size}: smaller than one round; use at least {config.round_rows}"
    elif size // shards < shard_rows:
        least = shards * shard_rows
        yield f"buffer.size={size}: each of {shards} shards gets up to {shard_rows} rows a round; use at least {least}"
    elif size // shards < rows * envs:
        yield (
            f"buffer.size={size}: {size // shards // envs} rows of each environment, but a sequence needs {rows}; use "
            f"at least {shards * rows * envs}"
        )


def _machine_mistakes(config: Config) -> Iterator[str]:
    """Yield a mistake for each requirement that this machine doesn't meet."""
    elsewhere = not config.is_coupled and cluster_address(config) is not None
    if config.trainer.compile and not elsewhere and not has_compiler():
        yield "trainer.compile=true: needs a C++ compiler; install one (such as g++) or use trainer.compile=false"
    trainer = config.trainer
    if trainer.compile and trainer.accelerator == "mps":
        yield "trainer.compile=true: supports CPU and CUDA, not trainer.accelerator=mps; leave it out"
    if config.is_coupled and trainer.accelerator in ("cuda", "mps"):
        import torch

        found = torch.cuda.device_count() if trainer.accelerator == "cuda" else int(torch.backends.mps.is_available())
        if found < trainer.devices:
            yield too_few_gpus(config, found)
    if config.env.capture_video and importlib.util.find_spec("moviepy") is None:
        yield f"env.capture_video=true: needs moviepy; run {install_command('video')}"
    for name in config.log.to:
        if importlib.util.find_spec(name) is None:
            yield f"log.to={name}: needs {name}; run {install_command(name)}"


def too_few_gpus(config: Config, found: int) -> str:
    """Return the mistake of a run whose ranks need more GPUs than this machine has."""
    trainer = config.trainer
    kind = "CUDA" if trainer.accelerator == "cuda" else "MPS"
    advice = ["trainer.accelerator=cpu"]
    if found:
        advice.insert(0, f"trainer.devices={found}")
    if not config.is_coupled:
        advice.append("join a cluster with ray.address")
    has = counted(found, f"{kind} GPU") if found else f"no {kind} GPUs"
    cause = f"trainer.devices={trainer.devices}" if found else f"trainer.accelerator={trainer.accelerator}"
    return f"{cause}: this machine has {has}; use {' or '.join(advice)}"
