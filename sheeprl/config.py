"""The settings of a run: one tree, read from YAML and overrides, checked as a whole, frozen afterwards.

No torch and no Ray here. What only the environment can tell (does it exist, which actions has it) is checked
in `sheeprl.resolve`.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, create_model
from pydantic.fields import FieldInfo

from sheeprl.algos import registry
from sheeprl.algos.args import AlgoArgs, Count, Fractional, Natural, NonNegative, Positive, Section

Tree = dict[str, Any]


class ConfigError(Exception):
    """The user's input is wrong: one line a mistake in `mistakes`."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = [" ".join(mistake.splitlines()) for mistake in mistakes]
        super().__init__(self.mistakes)  # args are what a copy from another process is made of

    def __str__(self) -> str:
        return "\n".join(self.mistakes)


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


class EnvConfig(Section):
    """The environment."""

    id: str = Field(description="a gymnasium id, also module:id")
    num_envs: Count = Field(4, description="environments of one player")
    vectorization: Literal["sync", "async", "native"] = Field(
        "sync", description="sync: one after the other; async: a process each; native: the env's own vector version"
    )
    max_episode_steps: Count | None = Field(None, description="truncate episodes after so many steps")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of the environment itself")
    wrappers: tuple[str, ...] = Field(
        (), strict=False, description="gymnasium wrappers around each env, package.module:Class"
    )
    capture_video: bool = Field(False, description="record episodes of the first environment (extra: video)")


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
        return str(yaml.dump(self.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False))


# --------------------------------------------------------------------------------------------- reading


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` that also knows 1e-3 and 1e6 as numbers, leaves dates texts, and refuses a key given twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name, which it copies before adding
        first: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse duplicates, of which YAML would silently keep the last."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """`yaml.SafeDumper` that quotes the texts which `_Loader` would otherwise read as numbers, as `1e5`."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML.

    Raises:
        ConfigError: it isn't YAML; the message holds the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError([f"{where}: not valid YAML: {problem}"]) from error


def shipped_folder() -> Path:
    """The folder of the shipped configurations: in the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str) -> Path:
    """The file of a configuration given by path or by the bare name of a shipped one.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in sorted(shipped_folder().glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    kind = "is a folder, not a file" if path.is_dir() else "is no file"
    hint = nearest(path.stem, shipped)
    raise ConfigError([f"{name}: {kind}, and no shipped configuration is called so ({', '.join(shipped)}){hint}"])


def read_tree(name: str) -> Tree:
    """The raw tree of a configuration file.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    path = find_config(name)
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    if not isinstance(tree, dict):
        held = "nothing" if tree is None else "a list" if isinstance(tree, list) else "a single value"
        raise ConfigError([f"{path}: holds {held}, not groups of settings such as `env:` and `algo:`"])
    return tree


def set_value(tree: Tree, key: str, value: Any) -> None:
    """Set a dotted key, making the groups on its way.

    Raises:
        ConfigError: what should be a group isn't one.
    """
    *groups, leaf = key.split(".")
    for group in groups:
        below = tree.get(group)
        if below is None:
            below = tree[group] = {}
        if not isinstance(below, dict):
            raise ConfigError([f"{group}={_shown(below)}: must be a group of settings, to set {key} in it"])
        tree = below
    tree[leaf] = value


def get_value(tree: Tree, key: str) -> Any:
    """The value at a dotted key, None if there is none."""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def structural_keys(model: type[Section]) -> list[str]:
    """The settings that shape networks."""
    return [
        key
        for key, field in leaves(model)
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("structural")
    ]


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> None:
    """Apply `key=value` overrides; values are YAML.

    Raises:
        ConfigError: one isn't of that form.
    """
    mistakes = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key):
            mistakes.append(f"{override!r}: an override is written key=value, as in run.seed=1")
            continue
        try:
            set_value(tree, key, parse_yaml(text, f"the value of {key}"))
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)


def load_config(name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        name: a YAML file, or the bare name of a shipped configuration such as `ppo`.
        overrides: `group.key=value`, applied on top; values are YAML.

    Raises:
        ConfigError: with every mistake that can be told without making the environment.
    """
    tree = read_tree(os.fspath(name))
    apply_overrides(tree, overrides)
    return validate(tree)


# -------------------------------------------------------------------------------------------- checking


@cache
def config_class(args: type[AlgoArgs]) -> type[Config]:
    """Config with the `algo` group typed by one algorithm's arguments."""
    return create_model("Config", __base__=Config, algo=(args, Field(default_factory=dict)))


def validate(tree: Mapping[str, Any]) -> Config:
    """Check a tree of plain values as a whole.

    Raises:
        ConfigError: with every mistake of the schema.
    """
    config, mistakes = inspect(tree)
    if mistakes or config is None:
        raise ConfigError(mistakes)
    return config


def inspect(tree: Mapping[str, Any]) -> tuple[Config | None, list[str]]:
    """The tree as a Config, with its mistakes.

    Where a value is wrong its default stands in, so that the rest can be looked at in the same go; None when
    not even that is possible (an unknown algorithm, no env.id).
    """
    # A group that is left out, or whose settings are all commented out, is an empty one.
    tree = {"env": {}} | {group: {} if below is None else below for group, below in _plain_copy(tree).items()}
    args, mistakes = _args_of(tree)
    model = config_class(args or AlgoArgs)
    if args is None:
        tree["algo"] = {"name": "unknown"}
    config = None
    try:
        config = model.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
        mistakes += dict.fromkeys(_describe(detail, model) for detail in details)
        for detail in details:
            _remove(tree, detail["loc"])
        with contextlib.suppress(ValidationError):
            config = model.model_validate(tree)
    return (config if args else None), mistakes


def _args_of(tree: Tree) -> tuple[type[AlgoArgs] | None, list[str]]:
    algo = tree.get("algo")
    name = algo.get("name") if isinstance(algo, dict) else None
    if name is None and (algo is None or isinstance(algo, dict)):
        return None, [f"algo.name: is missing; one of {', '.join(registry.registered())}"]
    if not isinstance(name, str):
        return None, [f"algo: give a group of settings with a name, as in `algo: {{name: ppo}}`, not {algo!r}"]
    try:
        return registry.args_class(name), []
    except registry.UnknownAlgorithmError as error:
        known = registry.registered()
        return None, [f"algo.name={name}: {error}; one of {', '.join(known)}{nearest(name, known)}"]


def _plain_copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain_copy(below) for key, below in value.items()}
    return list(value) if isinstance(value, list) else value


def _remove(tree: Any, location: tuple[int | str, ...]) -> None:
    """Take the value at `location` out of the tree, or, inside a list, the list."""
    for key in location[:-1]:
        if not isinstance(tree, dict) or key not in tree or not isinstance(tree[key], dict):
            break
        tree = tree[key]
    else:
        key = location[-1]
    if isinstance(tree, dict):
        tree.pop(key, None)


def leaves(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted key and field of every setting."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from leaves(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean …?` with the name most like this one, or nothing."""
    match = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f"; did you mean {prefix}{match[0]}?" if match else ""


def nearest_key(key: str, model: type[Section]) -> str:
    """`; did you mean …?` for a dotted key that doesn't exist, or nothing."""
    known = [name for name, _ in leaves(model)]
    group, _, leaf = key.rpartition(".")
    if namesakes := [name for name in known if name.rpartition(".")[2] == leaf]:
        return f"; did you mean {' or '.join(namesakes)}?"
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == group}
    elsewhere = {name.rpartition(".")[2]: name for name in reversed(known)}
    for names in (siblings, elsewhere | {name: name for name in model.model_fields}):
        if match := difflib.get_close_matches(leaf, names, 1, 0.6):
            return f"; did you mean {names[match[0]]}?"
    return ""


_MESSAGES = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "tuple_type": "must be a list",
    "dict_type": "must be a group of settings",
    "model_type": "must be a group of settings",
}


def _describe(detail: Mapping[str, Any], model: type[Config]) -> str:
    """One line for one mistake: where, what was given, what is allowed."""
    key = ".".join(str(part) for part in detail["loc"])
    given, context = detail["input"], detail.get("ctx", {})
    kind = detail["type"]
    whole, _, _ = key.rpartition(".")
    if allowed := _alternatives(dict(leaves(model)).get(whole)):  # told once for each of them, under its own name
        return f"{whole}={_shown(given)}: must be {allowed}"
    if kind == "extra_forbidden":
        return f"{key}: unknown setting{nearest_key(key, model)}"
    if kind == "missing":
        return f"{key}: is missing"
    if kind == "literal_error":
        allowed = context["expected"].replace("'", "")
        hint = nearest(str(given), re.findall(r"[\w-]+", allowed))
        return f"{key}={_shown(given)}: must be {allowed}{hint}"
    message = _MESSAGES.get(kind)
    if message is None:
        bounds = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        limit = next((f"must be {words} {context[name]:g}" for name, words in bounds.items() if name in context), None)
        message = limit or detail["msg"].removeprefix("Value error, ")
    return f"{key}={_shown(given)}: {message}"


def _alternatives(field: FieldInfo | None) -> str | None:
    """What a setting may be that is true, false or one of some words; None for every other."""
    kinds = get_args(field.annotation) if field else ()
    words = [str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    return f"true, false or {' or '.join(words)}" if bool in kinds and words else None


def _shown(value: Any) -> str:
    """A value as it would stand in YAML, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n...\n").strip()
    return text if len(text) < 80 else f"{text[:77]}..."
