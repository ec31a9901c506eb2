"""Settings of a run: one frozen tree, read from YAML and the command line.

This module imports neither torch nor Ray. `sheeprl.config.checks` checks the settings against the environment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, create_model, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from sheeprl.algos.args import AlgoArgs
from sheeprl.config.yaml_io import Dumper, Loader
from sheeprl.envs.config import EnvConfig
from sheeprl.utils.settings import Count, Fractional, Natural, NonNegative, Part, Positive, Section, needs

Tree = dict[str, Any]
Labels = dict[str, str]
PROFILED_ROUNDS = 3  # with log.profile=true
EVAL_RETURN, EPISODE_RETURN, PATIENCE = "eval/return", "episode/return", "patience"  # names in run.until
UNTIL = (EVAL_RETURN, EPISODE_RETURN, PATIENCE)  # besides the names in metrics.jsonl, such as Loss/value_loss
SELECTOR = "run on Ray nodes with these labels, as in {market: spot}"
FALLBACK = "labels of the nodes to use while no node has those of label_selector; {} for any node"


def _check_label(value: str) -> str:
    """Reject a name that doesn't fit into a file name, or that could be taken for a selector."""
    if not re.fullmatch(r"\w[\w.+-]*", value):
        raise PydanticCustomError("label", "must consist of letters, digits and _ . + - only, and begin with a letter")
    return value


def _as_list(value: Any) -> Any:
    """Return a single word as a list."""
    return [value] if isinstance(value, str) else value


Label = Annotated[str, AfterValidator(_check_label)]
"""Name without spaces and slashes."""

Words = BeforeValidator(_as_list)


def _check_callback(entry: Any) -> Any:
    """Reject an entry of `run.callbacks` that names no class, or whose arguments no call can pass."""
    names = [*entry] if isinstance(entry, dict) else []
    path = entry.get("path") if isinstance(entry, dict) else entry
    if not isinstance(path, str) or ":" not in path or not all(isinstance(name, str) for name in names):
        example = "{path: my_callbacks:Harder, by: 0.9}"
        raise PydanticCustomError("callback", f"must be package.module:Class, or a mapping such as {example}")
    return entry


CallbackSetting = Annotated[Any, AfterValidator(_check_callback)]
"""Path of a callback, or a mapping of its `path` and its arguments."""


class RunConfig(Section):
    """Length, seed, folder and mode of the run."""

    total_steps: Count = Field(
        100_000,
        description="policy steps to train for (one step: one action in one environment); the run ends after the round "
        "that reaches them",
    )
    seed: Natural = Field(0, description="seed from which all random generators are derived")
    dir: str | None = Field(None, description="run folder; default logs/<algo>/<env id>/[<name>_]<time>_<seed>")
    name: Label | None = Field(None, description="name of the run; commands find the run by its beginning")
    tags: Annotated[tuple[Label, ...], Field(strict=False), Words] = Field(
        (), description="words that group runs, for tag:WORD in sheeprl ls, compare and plot"
    )
    mode: Literal["decoupled", "coupled"] = Field(
        "decoupled", description="decoupled: players, buffer and trainers are Ray actors; coupled: one process, no Ray"
    )
    max_staleness: Natural | None = Field(
        None,
        description="policy versions by which collection may lag behind training; default 1 if decoupled and the "
        "algorithm tolerates it (off-policy, or with V-trace), else 0",
    )
    resume: bool | Literal["auto"] = Field(
        False,
        description="resume from the newest checkpoint in run.dir, if there is one; auto: also start a run there that "
        "doesn't exist yet or was ended before its first checkpoint",
    )
    until: dict[str, float] = Field(
        default_factory=dict,
        description="stop early once a metric reaches a value, or after `patience` evaluations without a better one, "
        "as in {eval/return: 475, patience: 5}; metrics: eval/return, episode/return, and those of metrics.jsonl",
    )
    callbacks: tuple[CallbackSetting, ...] = Field(
        (),
        strict=False,
        description="callbacks: package.module:Class, or a mapping of its path and its arguments",
    )

    @field_validator("until")
    @classmethod
    def _check_until(cls, value: dict[str, float]) -> dict[str, float]:
        """Reject names that no metric can have, and a patience that isn't a positive whole number."""
        for name in value:
            if name != PATIENCE and "/" not in name:
                names = {"name": name, "known": ", ".join(UNTIL)}
                raise PydanticCustomError("until", "{name} is no metric; use {known} or one of metrics.jsonl", names)
        patience = value.get(PATIENCE, 1)
        if patience < 1 or patience != int(patience):
            raise PydanticCustomError("patience", "patience must be a whole number of evaluations, at least 1")
        return value

    @property
    def callback_calls(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Return the path and the arguments of each callback."""
        pairs = ((entry, {}) if isinstance(entry, str) else (entry["path"], dict(entry)) for entry in self.callbacks)
        return tuple((path, {name: part for name, part in given.items() if name != "path"}) for path, given in pairs)


class PlayersConfig(Section):
    """Players: the actors that collect experience."""

    num: Count | None = Field(None, description="number of players; default 1, or one per rank in coupled mode")
    min: Count | None = Field(
        None,
        description="processes that hold players, with which the run starts; default: players.max",
        json_schema_extra=needs("decoupled"),
    )
    max: Count | None = Field(
        None,
        description="most processes that hold players; default: players.num, one process per player",
        json_schema_extra=needs("decoupled"),
    )
    cpus: Positive = Field(1.0, description="Ray CPUs per process of players", json_schema_extra=needs("decoupled"))
    gpus: NonNegative = Field(0.0, description="Ray GPUs per process of players", json_schema_extra=needs("decoupled"))
    label_selector: Labels = Field(
        default_factory=dict, description=f"players {SELECTOR}", json_schema_extra=needs("decoupled")
    )
    label_fallback: Labels | None = Field(None, description=FALLBACK, json_schema_extra=needs("players.label_selector"))
    spares: Natural = Field(
        1,
        description="standby processes to replace lost players; started after the first loss, if resources allow",
        json_schema_extra=needs("decoupled", "ray.max_failures"),
    )
    state_cost: Fractional = Field(
        0.02,
        description="most of a player's time for saving its state, from which a lost one continues; 0 saves none",
        json_schema_extra=needs("decoupled", "checkpoint.envs"),
    )
    quorum: Part = Field(
        1.0,
        description="part of the players' fragments with which a round closes; below 1, late ones join later rounds",
        json_schema_extra=needs("decoupled", "partial rounds"),
    )
    fragment_rows: Count | None = Field(
        None, description="rows per environment and fragment; default: the rollout on-policy, 16 off-policy"
    )
    step_timeout: Positive | None = Field(
        300.0, description="seconds for a step or reset before the player is replaced; null for no limit"
    )

    def fragments_of(self, players: int) -> int:
        """Return the fragments of a round of a number of players; 0.1 means the decimal fraction 1/10."""
        return math.ceil(Fraction(str(self.quorum)) * players)


class BufferConfig(Section):
    """Replay buffer."""

    size: Count | None = Field(None, description="capacity in rows; default: one rollout on-policy, 1000000 off-policy")
    init_from: str | None = Field(
        None,
        description="begin with the stored rows of this run (folder, @last, beginning of its name), checkpoint or URL "
        "at checkpoint.storage",
        json_schema_extra=needs("off-policy"),
    )
    shards: Count = Field(1, description="replay shards, one actor each; off-policy and decoupled only")
    checkpoint: bool = Field(True, description="save the replay in checkpoints", json_schema_extra=needs("off-policy"))
    memmap: bool = Field(False, description="store the replay in memory-mapped files; it may exceed the memory")
    dir: str | None = Field(None, description="folder of the memory-mapped files; default: buffer, in the run folder")
    label_selector: Labels = Field(
        default_factory=dict, description=f"shards {SELECTOR}; default: the nodes of the trainers"
    )
    label_fallback: Labels | None = Field(None, description=FALLBACK)
    online_fraction: Fractional = Field(
        0.0, description="fraction of each batch taken from the newest rows, each row once"
    )
    non_finite: Literal["refuse", "keep"] = Field(
        "refuse", description="refuse: reject fragments with non-finite rewards or observations; keep: store them"
    )


class TrainerConfig(Section):
    """Trainer group: the Fabric ranks that train the agent."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="accelerator of Fabric", json_schema_extra=needs("own ranks")
    )
    devices: Count = Field(1, description="devices per node, one rank each", json_schema_extra=needs("own ranks"))
    num_nodes: Count = Field(1, description="number of nodes, each with `devices` ranks")
    strategy: Literal["auto", "ddp"] = Field(
        "auto", description="strategy of Fabric", json_schema_extra=needs("own ranks", "several ranks")
    )
    label_selector: Labels = Field(
        default_factory=dict, description=f"ranks {SELECTOR}", json_schema_extra=needs("decoupled")
    )
    label_fallback: Labels | None = Field(None, description=FALLBACK, json_schema_extra=needs("trainer.label_selector"))
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="precision of Fabric")
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="compile the gradient step, and cache it for later runs; auto: if the run is long enough to "
        "recover the compile time, and a C++ compiler is installed",
    )
    compile_limit: Count = Field(
        5000,
        description="largest number of operations of a compiled gradient step; larger ones would compile for several "
        "minutes, so they run eagerly, and on one CUDA device as a recorded CUDA graph",
    )
    threads: Count | None = Field(
        None,
        description="CPU threads per rank; default: 1 for small networks, else all cores but one, divided among the "
        "ranks",
    )
    prefetch: Natural = Field(
        1, description="chunks of batches to request ahead, within a round", json_schema_extra=needs("off-policy")
    )

    @property
    def ranks(self) -> int:
        """Return the number of processes in the trainer group."""
        return self.devices * self.num_nodes

    @property
    def threads_per_node(self) -> int:
        """Return the CPU threads of all ranks of a node."""
        return (self.threads or 1) * self.devices


class CheckpointConfig(Section):
    """Checkpoints and trainer snapshots."""

    every: Count | None = Field(
        None, description="policy steps between checkpoints; default a tenth of the run, at most 50000"
    )
    every_minutes: Positive | None = Field(None, description="also save a checkpoint after this many minutes")
    keep_last: Count = Field(3, description="number of newest checkpoints to keep")
    keep_best: Natural = Field(0, description="number of checkpoints with the best mean return to keep as well")
    best_by: Literal["episode/return", "eval/return"] = Field(
        "episode/return",
        description="episode/return: the best checkpoint has the best mean return of training episodes; eval/return: "
        "of evaluations",
    )
    envs: bool | Literal["auto"] = Field(
        "auto",
        description="save the state of environments, so that a resumed run continues their episodes; tested at "
        "the start with two extra environments; auto: except for environments of other packages",
    )
    storage: str | None = Field(
        None,
        description="where checkpoints are, below the name of the run folder: s3://bucket/prefix, gs://…, or a folder "
        "that all nodes share; default: the run folder",
    )
    snapshot_every: Count = Field(
        1000,
        description="policy steps between in-memory snapshots, from which a lost trainer group resumes",
        json_schema_extra=needs("decoupled", "ray.max_failures"),
    )

    @property
    def every_seconds(self) -> float | None:
        """Return the seconds between checkpoints by time, None for checkpoints by policy steps only."""
        return None if self.every_minutes is None else 60 * self.every_minutes


class EvalConfig(Section):
    """Evaluation of the policy on environments besides those of training."""

    every: Count | None = Field(
        None,
        description="policy steps between evaluations; default only at the end",
        json_schema_extra=needs("eval.episodes", "before the end"),
    )
    episodes: Natural = Field(10, description="episodes per evaluation; 0 disables evaluation")
    step_limit: Count | None = Field(
        100_000,
        description="steps after which an evaluation episode is cut, with a warning; null for no limit",
        json_schema_extra=needs("eval.episodes"),
    )
    explore: bool = Field(
        False, description="act with the exploration noise of training", json_schema_extra=needs("eval.episodes")
    )
    env: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of env that evaluations change, as in {kwargs: {difficulty: hard}}",
        json_schema_extra=needs("eval.episodes"),
    )
    envs: dict[Label, dict[str, Any]] = Field(
        default_factory=dict,
        description="further environments of evaluations by name, each with the settings of env that it changes, as in "
        "{hard: {kwargs: {difficulty: hard}}}; each plays eval.episodes",
        json_schema_extra=needs("eval.episodes"),
    )

    def changes(self, name: str | None = None) -> dict[str, Any]:
        """Return the settings of `env` that the evaluations of a name change; None for those of `eval.env`."""
        return self.env if name is None else self.envs[name]

    def changes_of_env(self, values: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
        """Return the attributes of environments that the evaluations of a name take from training.

        The `kwargs` that these evaluations change are fixed for them.
        """
        fixed = self.changes(name).get("kwargs") or {}
        return {key: value for key, value in values.items() if key not in fixed}


class LogConfig(Section):
    """Metrics, messages and the call log."""

    every: Count | None = Field(
        None, description="policy steps between lines of metrics; default a hundredth of the run, at most 10000"
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe messages to print")
    record: bool = Field(False, description="record all calls in order, for sheeprl replay")
    profile: bool | Count = Field(
        False,
        description="profile this number of rounds of each player, trainer and replay shard with torch.profiler, and "
        "write a trace per worker into the run folder; true: 3 rounds",
    )
    ui: Literal["line", "panel"] = Field(
        "line",
        description="progress on a terminal: one line, or a panel with curves, losses and the time breakdown where "
        "the terminal has room",
    )
    to: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...], Field(strict=False), Words] = Field(
        ("tensorboard",),
        description="where metrics go besides metrics.jsonl (extras: wandb, mlflow, trackio)",
    )

    @property
    def profiled_rounds(self) -> int:
        """Return the number of rounds to profile."""
        return PROFILED_ROUNDS if self.profile is True else int(self.profile)


class RayConfig(Section):
    """Ray cluster and failures."""

    address: str | None = Field(
        None,
        description="address of the cluster to join; default RAY_ADDRESS, else start Ray",
        json_schema_extra=needs("decoupled"),
    )
    runtime_env: dict[str, Any] = Field(
        default_factory=dict,
        description="Ray's runtime_env of the run's actors, as in {pip: ['sheeprl-ray @ git+URL']}, for nodes without "
        "the packages",
        json_schema_extra=needs("decoupled"),
    )
    wait_timeout: Positive = Field(
        600.0,
        description="seconds to wait for cluster resources, at the start and for each replaced actor",
        json_schema_extra=needs("decoupled"),
    )
    max_failures: Natural = Field(
        3, description="tolerated failures of one player, one shard or the trainer group within failure_window"
    )
    max_node_losses: Natural = Field(
        100,
        description="tolerated losses of one worker together with its node, as by preemption, in failure_window",
        json_schema_extra=needs("decoupled"),
    )
    failure_window: Positive = Field(
        600.0, description="seconds for which a failure counts", json_schema_extra=needs("ray.max_failures")
    )


class Config(Section):
    """Settings of a run; `algo` contains the arguments of the algorithm `algo.name`."""

    algo: SerializeAsAny[AlgoArgs]
    env: EnvConfig
    run: RunConfig = Field(default_factory=RunConfig)
    players: PlayersConfig = Field(default_factory=PlayersConfig)
    buffer: BufferConfig = Field(default_factory=BufferConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    ray: RayConfig = Field(default_factory=RayConfig)

    @property
    def eval_env(self) -> EnvConfig:
        """Return the environment of evaluations: `env` with the settings of `eval.env`.

        Raises:
            ValidationError: `eval.env` has mistakes.
        """
        return self.eval_env_of(None)

    def eval_env_of(self, name: str | None) -> EnvConfig:
        """Return the environment of the evaluations of a name of `eval.envs`; None for those of `eval.env`.

        Raises:
            ValidationError: its settings have mistakes.
        """
        changes = dict(self.eval.changes(name))
        if isinstance(changes.get("kwargs"), dict):
            changes["kwargs"] = {**self.env.kwargs, **changes["kwargs"]}
        return EnvConfig.model_validate({**self.env.to_tree(), **changes}) if changes else self.env

    @property
    def is_coupled(self) -> bool:
        """Return whether one process, or one group of ranks, collects and trains without Ray."""
        return self.run.mode == "coupled"

    @property
    def num_players(self) -> int:
        """Return the number of players."""
        return _filled_in("players.num", self.players.num)

    @property
    def most_hosts(self) -> int:
        """Return the most processes that hold players."""
        return self.players.max or self.players.num or 1

    @property
    def least_hosts(self) -> int:
        """Return the number of processes that hold players with which the run starts."""
        return self.players.min or self.most_hosts

    @property
    def fragment_rows(self) -> int:
        """Return the rows per environment and fragment."""
        return _filled_in("players.fragment_rows", self.players.fragment_rows)

    @property
    def round_rows(self) -> int:
        """Return the rows of a round, which are the most policy steps that a round can add."""
        return self.round_fragments * self.fragment_rows * self.env.num_envs

    @property
    def round_fragments(self) -> int:
        """Return the fragments of a round: one per player, or the part that `players.quorum` sets."""
        return self.players.fragments_of(self.num_players)

    @property
    def max_staleness(self) -> int:
        """Return the policy versions by which collection may lag behind training."""
        return _filled_in("run.max_staleness", self.run.max_staleness)

    def to_yaml(self) -> str:
        """Return YAML that `load_config` reads back to an equal Config."""
        return str(yaml.dump(self.to_tree(), Dumper=Dumper, sort_keys=False))

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickle, which can't find the classes that `config_class` creates by their name."""
        args: Any = None if type(self) is Config else type(self).model_fields["algo"].annotation
        return _unpickle, (args, self.__getstate__())


def _filled_in(key: str, value: int | None) -> int:
    """Return the value of a setting whose default depends on others; `sheeprl.config.defaults.fill_in` sets it."""
    if value is None:
        raise ValueError(f"{key} is still open; call sheeprl.config.defaults.fill_in first")
    return value


for _yaml in (Loader, Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def structural_keys(model: type[Section]) -> list[str]:
    """Return the dotted keys of the settings that shape networks."""
    return [
        key
        for key, field in leaves(model)
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("structural")
    ]


@cache
def config_class(args: type[AlgoArgs]) -> type[Config]:
    """Return a subclass of Config with the `algo` section typed by one algorithm's arguments."""
    return create_model("Config", __base__=Config, algo=(args, Field(default_factory=dict)))


def _unpickle(args: type[AlgoArgs] | None, state: dict[Any, Any]) -> Config:
    """Return the Config of a pickled state."""
    model = Config if args is None else config_class(args)
    config = model.__new__(model)
    config.__setstate__(state)
    return config


def leaves(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted key and the field of every setting."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from leaves(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field
