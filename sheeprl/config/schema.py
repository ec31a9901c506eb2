"""The settings of a run: one tree, read from YAML and overrides, checked as a whole, frozen afterwards.

No torch and no Ray here. What only the environment can tell (does it exist, which actions has it) is checked
in `sheeprl.resolve`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, create_model
from pydantic.fields import FieldInfo

from sheeprl.algos.args import AlgoArgs
from sheeprl.config.yaml_io import Dumper, Loader
from sheeprl.envs.config import EnvConfig
from sheeprl.utils.settings import Count, Fractional, Natural, NonNegative, Positive, Section

Tree = dict[str, Any]


class RunConfig(Section):
    """What is run, for how long, where it is kept."""

    total_steps: Count = Field(100_000, description="policy steps to train for (one step: one decision in one env)")
    seed: Natural = Field(0, description="every generator of the run is derived from it")
    dir: str | None = Field(None, description="the run's folder; default logs/<algo>/<env id>/<time>_<seed>")
    mode: Literal["decoupled", "coupled"] = Field(
        "decoupled", description="decoupled: players, buffer and trainers are Ray actors; coupled: one process, no Ray"
    )
    max_staleness: Natural | None = Field(
        None,
        description="versions of the weights a fragment may lag behind; default 1 off-policy and decoupled, else 0",
    )
    resume: bool = Field(False, description="go on from the newest checkpoint in run.dir, when there is one")


class PlayersConfig(Section):
    """The actors that play."""

    num: Count | None = Field(None, description="players; default 1, or one per rank in coupled mode")
    cpus: Positive = Field(1.0, description="CPUs that each player asks of Ray")
    gpus: NonNegative = Field(0.0, description="GPUs that each player asks of Ray")
    spares: Natural = Field(
        1, description="processes kept ready for the place of a lost player, once one was lost and if there is room"
    )
    fragment_rows: Count | None = Field(
        None, description="rows a player plays per request; default: the rollout on-policy, 16 off-policy"
    )
    step_timeout: Positive | None = Field(
        300.0, description="seconds that a step or reset may take before the player is replaced; null for any time"
    )


class BufferConfig(Section):
    """The shared replay buffer."""

    size: Count | None = Field(None, description="rows kept; default: one rollout on-policy, 1000000 off-policy")
    shards: Count = Field(1, description="actors that the replay is shared out over; off-policy and decoupled only")
    checkpoint: bool = Field(True, description="write the replay into checkpoints")
    memmap: bool = Field(False, description="keep the replay in files mapped into memory: it may be larger than that")
    dir: str | None = Field(None, description="folder for these files; default: buffer, in the run's folder")
    online_fraction: Fractional = Field(0.0, description="part of each batch that is the newest data, each once")
    non_finite: Literal["refuse", "keep"] = Field(
        "refuse", description="refuse fragments with rewards or observations that aren't finite, or keep them"
    )


class TrainerConfig(Section):
    """The Fabric group that learns."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Fabric's accelerator")
    devices: Count = Field(1, description="ranks (devices of one node)")
    num_nodes: Count = Field(1, description="nodes")
    strategy: Literal["auto", "ddp"] = Field("auto", description="Fabric's strategy")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="Fabric's precision")
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="take each gradient step as one compiled graph, which is kept for later runs; auto: where the run "
        "is long enough to win back the time that compiling takes, and there is a C++ compiler",
    )
    threads: Count | None = Field(None, description="CPU threads of each rank; default: all cores but one, shared out")
    prefetch: Natural = Field(1, description="chunks of batches requested ahead, never across a round's border")

    @property
    def ranks(self) -> int:
        """Processes of the trainer group."""
        return self.devices * self.num_nodes


class CheckpointConfig(Section):
    """Checkpoints."""

    every: Count | None = Field(
        None, description="policy steps between checkpoints; default a tenth of the run, at most 50000"
    )
    every_minutes: Positive | None = Field(None, description="minutes between checkpoints, besides those by steps")
    keep_last: Count = Field(3, description="newest checkpoints that are kept")
    keep_best: Natural = Field(0, description="checkpoints with the best mean return that are kept besides")
    envs: bool = Field(
        True,
        description="keep the environments' state, so that a resumed run goes on in their episodes; whether that can "
        "be done is found out by stepping two more of them side by side",
    )
    mirror: str | None = Field(
        None, description="also keep checkpoints there, in a folder named like the run's: s3://bucket/prefix, gs://…"
    )
    snapshot_every: Count = Field(
        1000, description="policy steps between snapshots of the trainers in memory, from which a lost group goes on"
    )


class EvalConfig(Section):
    """Evaluation with the greedy policy."""

    every: Count | None = Field(None, description="policy steps between evaluations; default only at the end")
    episodes: Natural = Field(10, description="episodes of an evaluation; 0 turns it off")


class LogConfig(Section):
    """What is written down."""

    every: Count | None = Field(
        None, description="policy steps between lines of metrics; default a hundredth of the run, at most 10000"
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is printed")
    record: bool = Field(False, description="write down what happens in which order, for sheeprl replay")


class RayConfig(Section):
    """How Ray is used."""

    address: str | None = Field(None, description="cluster to join; default RAY_ADDRESS, else Ray is started")
    wait_timeout: Positive = Field(600.0, description="seconds to wait for the cluster to hold the run")
    max_failures: Natural = Field(
        3, description="failures of one player, of one shard or of the trainers within failure_window that are borne"
    )
    failure_window: Positive = Field(600.0, description="seconds in which failures are counted")


class Config(Section):
    """A whole run. `algo` holds the arguments of the algorithm that `algo.name` names."""

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

    def to_yaml(self) -> str:
        """The tree as YAML that `load_config` reads back to an equal Config."""
        return str(yaml.dump(self.model_dump(mode="json"), Dumper=Dumper, sort_keys=False))


for _yaml in (Loader, Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def structural_keys(model: type[Section]) -> list[str]:
    """The settings that shape networks."""
    return [
        key
        for key, field in leaves(model)
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("structural")
    ]


@cache
def config_class(args: type[AlgoArgs]) -> type[Config]:
    """Config with the `algo` group typed by one algorithm's arguments."""
    return create_model("Config", __base__=Config, algo=(args, Field(default_factory=dict)))


def leaves(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted key and field of every setting."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from leaves(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field
