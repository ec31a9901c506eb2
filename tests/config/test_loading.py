"""Test the configuration tree: it is read back unchanged, and all mistakes are reported together."""

import copy
import math
import multiprocessing
import pickle
import string
from collections import OrderedDict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sheeprl import train
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.sac.args import SACArgs
from sheeprl.config.loading import apply_overrides, inspect, load_config, read_tree, set_value, validate
from sheeprl.config.schema import Config, config_class, leaves
from sheeprl.config.yaml_io import parse_yaml
from sheeprl.utils.errors import ConfigError

SMALL = {"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}}


def with_values(**values):
    """SMALL with dotted keys (`run__seed`) set."""
    tree = {group: dict(below) for group, below in SMALL.items()}
    for key, value in values.items():
        set_value(tree, key.replace("__", "."), value)
    return tree


def mistakes_of(tree):
    """Return the mistakes that `validate` finds."""
    with pytest.raises(ConfigError) as caught:
        validate(tree)
    return caught.value.mistakes


def written(tmp_path, text, name="mine.yaml"):
    """Write a file and return its path."""
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# ----------------------------------------------------------------------------------------- round trips

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(
    ["1e5", "12e45", "-3E+2", "1.e3", "yes", "null", "~", "0x1f", "1:30", "2024-01-01", " a ", "#", "- a", "a: b", "<<"]
)
numbers = st.floats(min_value=1e-300, max_value=1e300)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary()
plain = st.recursive(
    scalars,
    lambda below: (
        st.lists(below, max_size=3)
        | st.lists(below, max_size=3).map(tuple)
        | st.sets(scalars, max_size=3)
        | st.dictionaries(scalars | st.tuples(scalars, scalars), below, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(
    learning_rate=numbers,
    env_id=texts,
    folder=st.none() | texts,
    kwargs=st.dictionaries(texts, plain, max_size=3),
    wrappers=st.lists(texts, max_size=3),
    hidden_sizes=st.lists(st.integers(1, 4096), max_size=4),
    total_steps=st.integers(1, 10**12),
    anneal=st.booleans(),
)
def test_yaml_reads_back_as_the_same_config(
    learning_rate, env_id, folder, kwargs, wrappers, hidden_sizes, total_steps, anneal
):
    """The YAML of a configuration is read back as an equal configuration."""
    config = validate(
        with_values(
            algo__learning_rate=learning_rate,
            algo__hidden_sizes=hidden_sizes,
            algo__anneal=anneal,
            env__id=env_id,
            env__kwargs=kwargs,
            env__wrappers=wrappers,
            run__dir=folder,
            run__total_steps=total_steps,
        )
    )
    again = validate(parse_yaml(config.to_yaml(), "again"))
    assert again.to_yaml() == config.to_yaml()
    assert (again.env.id, again.run.dir, again.algo.learning_rate) == (env_id, folder, learning_rate)
    assert exact(again.env.kwargs) == exact(config.env.kwargs) == exact(kwargs)


def test_a_set_has_one_yaml_text():
    """Sets that are equal are written alike, though members of several types and other inserts change their order."""
    members = [b"a", 3, "0", None, 1.5, *map(str, range(50))]
    ways = [set(order) for order in (members, reversed(members), sorted(members, key=repr))]
    texts = {validate(with_values(env__kwargs={"set": way})).to_yaml() for way in ways}
    assert len(texts) == 1
    assert validate(parse_yaml(texts.pop(), "again")).env.kwargs == {"set": set(members)}


def exact(value):
    """Return a text that is equal for values of the same types, NaN included; sets have no order."""
    if isinstance(value, dict):
        return [(exact(key), exact(part)) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *map(exact, value)]
    return sorted(map(repr, value)) if isinstance(value, set) else repr(value)


class Odd:
    """A value whose text has several lines."""

    def __repr__(self):
        """Return two lines."""
        return "odd\nvalue"


cyclic = [1]
cyclic.append(cyclic)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(3), ".value=array([0., 0., 0.]): a numpy.ndarray can't be stored in config.yaml; use numbers, text"),
        ({"deep": [1, {2: np.float32(1)}]}, ".value.deep[1][2]=np.float32(1.0): a numpy.float32 can't"),
        ([{np.int64(3): 1}], ".value[0][np.int64(3)]=np.int64(3): a numpy.int64 can't"),
        (print, ".value=<built-in function print>: a builtin_function_or_method can't"),
        (Odd(), f".value=odd value: a {__name__}.Odd can't"),
        (1 + 2j, ".value=(1+2j): a complex can't"),
        (OrderedDict(a=1), ".value=OrderedDict([('a', 1)]): a collections.OrderedDict can't"),
        (cyclic, ".value[1][1]=&id001 [1, *id001]: a list that contains itself can't"),
    ],
)
def test_arguments_that_yaml_can_not_store_are_named(value, message):
    """The mistake names arguments that YAML can't store."""
    (mistake,) = mistakes_of(with_values(env__kwargs={"value": value, "fine": 1}))
    assert mistake.startswith(f"env.kwargs{message}")


def test_names_of_arguments_are_text():
    """Names of arguments must be text."""
    assert mistakes_of(with_values(env__kwargs={1: 2})) == ["env.kwargs: the key 1 must be text"]


def test_a_value_of_a_wrong_type_is_shown():
    """The mistake shows a value of a wrong type."""
    assert mistakes_of(with_values(env__num_envs=print))[0].startswith("env.num_envs=<built-in function print>: must")


@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_a_shipped_config_is_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    """A shipped configuration is found by its name from any folder."""
    monkeypatch.chdir(tmp_path)
    config = load_config(name)
    assert config.algo.name == name
    assert validate(parse_yaml(config.to_yaml(), "again")) == config


def test_a_file_precedes_a_shipped_config_of_its_name(tmp_path, monkeypatch):
    """A file precedes the shipped configuration of its name."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "algo: {name: sac}\nenv: {id: Mine-v0}", "ppo")
    assert load_config("ppo").env.id == "Mine-v0"


def test_the_arguments_of_the_algorithm_are_typed():
    """The arguments of the algorithm are typed and part of the YAML."""
    config = validate(with_values(algo__name="sac", algo__tau=0.25))
    assert isinstance(config.algo, SACArgs) and config.algo.tau == 0.25
    assert "tau: 0.25" in config.to_yaml()


@pytest.mark.parametrize("name", ["ppo", "sac"])
def test_a_config_can_be_copied_and_pickled(name):
    """A configuration can be copied and pickled."""
    config = load_config(name, ["env.kwargs={table: {1: [.inf]}}"])
    for again in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again == config and type(again) is type(config) and again.to_yaml() == config.to_yaml()
        assert again.model_fields_set == config.model_fields_set
    with pytest.raises(ValidationError):
        again.run = config.run  # frozen
    assert pickle.loads(pickle.dumps(config.env)) == config.env


@pytest.mark.slow
def test_a_spawned_process_trains_with_a_pickled_config(tmp_path):
    """A spawned process trains with a pickled configuration."""
    overrides = ["run.mode=coupled", "algo.rollout_steps=8", "algo.batch_size=8", "run.total_steps=32"]
    config = load_config("ppo", [*overrides, "eval.episodes=0", f"run.dir={tmp_path / 'run'}"])
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(train, config).result().policy_steps == 32


def test_defaults_are_those_of_the_fields():
    """Missing settings have the defaults of their fields."""
    config = validate(SMALL)
    assert config.algo == PPOArgs(name="ppo")
    assert (config.run.mode, config.run.seed, config.env.num_envs) == ("decoupled", 0, 4)


# --------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1e6", 1e6), ("-2E+3", -2e3), ("1_0e1", 100.0), ("1.e3", 1e3), ("2.5e-1", 0.25), ("10", 10)],
)
def test_numbers_may_be_written_with_an_exponent(text, value):
    """Numbers may have an exponent."""
    found = parse_yaml(text, "test")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["1e", "e3", "1e3x", "v1e3", "1-e3"])
def test_text_that_resembles_a_number_is_text(text):
    """Text that resembles a number is text."""
    assert parse_yaml(text, "test") == text


def test_dates_are_text():
    """Dates are text."""
    assert parse_yaml("[2024-01-01, 2024-01-01 10:00:00]", "test") == ["2024-01-01", "2024-01-01 10:00:00"]


def test_integer_settings_accept_whole_floats_only():
    """Integer settings accept only whole floats."""
    config = validate(with_values(run__total_steps=1e6))
    assert config.run.total_steps == 1_000_000 and isinstance(config.run.total_steps, int)
    assert mistakes_of(with_values(run__total_steps=1.5)) == ["run.total_steps=1.5: must be a whole number"]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_infinite_counts_are_refused(value):
    """Infinite counts are refused."""
    (mistake,) = mistakes_of(with_values(run__total_steps=value))
    assert mistake.startswith("run.total_steps=")


# ---------------------------------------------------------------------------------------- YAML mistakes


def test_a_syntax_error_names_file_and_line(tmp_path):
    """A syntax error names file and line."""
    path = written(tmp_path, "algo:\n  name: ppo\nenv: [unclosed\n")
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        load_config(path)
    assert caught.value.mistakes[0].startswith(f"{path}:3:6: ")


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("a: 1\nb: 2\na: 3", "a is already in line 1", "3:1"),
        ("x:\n  1: a\n  1: b", "1 is already in line 2", "3:3"),
        ("{a: 1, a: 1}", "a is already in line 1", "1:8"),
    ],
)
def test_a_key_given_twice_is_refused_with_its_line(text, key, line):
    """A duplicate key is refused with its line."""
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "mine.yaml")
    assert caught.value.mistakes[0].startswith(f"mine.yaml:{line}: not valid YAML: the name {key}, in ")


def test_the_same_key_in_two_groups_is_fine():
    """Two sections may have the same key."""
    assert parse_yaml("a: {every: 1}\nb: {every: 1}", "test") == {"a": {"every": 1}, "b": {"every": 1}}


def test_merge_keys_work():
    """YAML merge keys are supported."""
    text = "base: &base {a: 1, b: 2}\nmine:\n  <<: *base\n  a: 3"
    assert parse_yaml(text, "test")["mine"] == {"a": 3, "b": 2}


def test_yaml_makes_no_objects():
    """YAML tags can't create Python objects."""
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml("!!python/object/apply:os.getcwd []", "test")


def test_a_control_character_is_a_mistake():
    """A control character is reported as a mistake."""
    with pytest.raises(ConfigError, match="test:1:4: not valid YAML"):
        parse_yaml("a: \x01", "test")


@pytest.mark.parametrize(("text", "kind"), [("- a", "a list"), ("", "nothing"), ("7", "a single value")])
def test_a_file_must_contain_sections(tmp_path, text, kind):
    """A file must contain sections of settings."""
    with pytest.raises(ConfigError, match=f"contains {kind}, not sections of settings"):
        read_tree(str(written(tmp_path, text)))


def test_a_missing_file_gets_the_nearest_name(tmp_path, monkeypatch):
    """The error for a missing file suggests the nearest shipped configuration."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config("pppo")
    (mistake,) = caught.value.mistakes
    about = "isn't a file or a shipped configuration; did you mean ppo? (list: sheeprl configs)"
    assert mistake == f"pppo: {about}"


def test_a_folder_or_a_binary_file_is_a_mistake(tmp_path):
    """A folder and a binary file are mistakes."""
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml: can't be read"):
        load_config(binary)


# -------------------------------------------------------------------------------------- schema mistakes


@pytest.mark.parametrize(
    ("key", "value", "mistake"),
    [
        ("run__sede", 1, "run.sede: unknown setting; did you mean run.seed?"),
        ("env__nmu_envs", 1, "env.nmu_envs: unknown setting; did you mean env.num_envs?"),
        ("algo__learning_rat", 1, "algo.learning_rat: unknown setting; did you mean algo.learning_rate?"),
        ("run__num_envs", 8, "run.num_envs: unknown setting; did you mean env.num_envs?"),
        ("algo__every", 8, "algo.every: unknown setting; did you mean checkpoint.every or eval.every or log.every?"),
        ("runn", {}, "runn: unknown setting; did you mean run?"),
        ("num_env", 8, "num_env: unknown setting; did you mean env.num_envs?"),
        ("zzz", 8, "zzz: unknown setting"),
        ("seed", 8, "seed: unknown setting; did you mean run.seed?"),
        ("env__num_envs", 0, "env.num_envs=0: must be at least 1"),
        ("algo__batch_size", -64, "algo.batch_size=-64: must be at least 1"),
        ("algo__hidden_sizes", [64, -1], "algo.hidden_sizes.1=-1: must be at least 1"),
        ("algo__learning_rate", 0.0, "algo.learning_rate=0.0: must be more than 0"),
        ("algo__gamma", 1.5, "algo.gamma=1.5: must be at most 1"),
        ("env__num_envs", "four", "env.num_envs=four: must be a whole number"),
        ("env__num_envs", True, "env.num_envs=true: must be a whole number"),
        ("env__num_envs", None, "env.num_envs=null: must be a whole number"),
        ("algo__learning_rate", "fast", "algo.learning_rate=fast: must be a number"),
        ("algo__anneal", 1, "algo.anneal=1: must be true or false"),
        ("env__id", 5, "env.id=5: must be text"),
        ("env__kwargs", [1], "env.kwargs=[1]: must be a mapping such as {name: value}, or {} for none"),
        ("run", 5, "run=5: must be a section of settings"),
        ("trainer__compile", "nonsense", "trainer.compile=nonsense: must be true, false or auto"),
        ("log__profile", -1, "log.profile=-1: must be true, false or a whole number, at least 1"),
        ("log__profile", "nonsense", "log.profile=nonsense: must be true, false or a whole number, at least 1"),
        ("run__mode", "decopled", "run.mode=decopled: must be decoupled or coupled; did you mean decoupled?"),
    ],
)
def test_a_mistake_names_setting_value_and_remedy(key, value, mistake):
    """A mistake names the setting, the value and what would work."""
    assert mistakes_of(with_values(**{key: value})) == [mistake]


def test_all_mistakes_are_reported_together():
    """The error lists every mistake."""
    tree = with_values(run__seed=-1, env__num_envs="many", algo__clipp=0.1, log__level="loud")
    found = mistakes_of(tree)
    assert len(found) == 4
    assert {mistake.split("=")[0].split(":")[0] for mistake in found} == {
        "run.seed",
        "env.num_envs",
        "algo.clipp",
        "log.level",
    }


def test_an_unknown_algorithm_hides_no_other_mistake():
    """An unknown algorithm gets the nearest name and hides no other mistake."""
    found = mistakes_of(with_values(algo__name="pppo", run__seed=-1))
    assert found[0].startswith("algo.name=pppo: ") and found[0].endswith("did you mean ppo? (list: sheeprl algos)")
    assert found[1:] == ["run.seed=-1: must be at least 0"]


@pytest.mark.parametrize("algo", [None, {}, {"gamma": 0.9}])
def test_a_missing_algorithm_lists_the_registered_ones(algo):
    """The mistake for a missing algorithm lists the registered ones."""
    (mistake,) = mistakes_of({**SMALL, "algo": algo})
    assert mistake.startswith("algo.name: is missing; use one of ")
    assert {"ppo", "sac"} <= set(mistake.partition("one of ")[2].split(", "))


@pytest.mark.parametrize("algo", ["ppo", 5, {"name": 5}, ["ppo"]])
def test_an_algorithm_in_the_wrong_form_shows_the_right_one(algo):
    """The mistake for an algorithm in the wrong form shows the right form."""
    (mistake,) = mistakes_of({**SMALL, "algo": algo})
    assert mistake.endswith(": must be a section of settings with a name; use algo.name=ppo")


def test_an_algorithm_may_be_named_by_path():
    """The import path of its arguments may name an algorithm."""
    config = validate(with_values(algo__name="sheeprl.algos.sac.args:SACArgs"))
    assert isinstance(config.algo, SACArgs)
    for path in ("sheeprl.algos.sac.args:Nothing", "no.such.module:PPO"):
        (mistake,) = mistakes_of(with_values(algo__name=path))
        assert mistake.startswith(f"algo.name={path}: ")


@pytest.mark.parametrize("env", [None, {}])
def test_a_missing_env_id_is_reported_without_the_section(env):
    """A missing `env.id` is reported, also without the section `env`."""
    assert mistakes_of({**SMALL, "env": env}) == ["env.id: is missing"]
    assert mistakes_of({"algo": {"name": "ppo"}}) == ["env.id: is missing"]


def test_a_section_of_comments_is_empty():
    """A section whose settings are all comments is empty."""
    assert validate(parse_yaml("algo: {name: ppo}\nenv: {id: X-v0}\nrun:\n  # seed: 1\n", "t")).run.seed == 0


def test_inspect_replaces_wrong_values_by_defaults():
    """`inspect` replaces wrong values by their defaults."""
    config, mistakes = inspect(with_values(run__seed=-1, run__total_steps=7, algo__hidden_sizes=[0], algo__bogus=1))
    assert config is not None and len(mistakes) == 3
    assert (config.run.seed, config.run.total_steps, config.algo) == (0, 7, PPOArgs(name="ppo"))


groups = st.sampled_from([*Config.model_fields, "runn", 1, True])
names = st.sampled_from(["name", "id", "num_envs", "seed", "kwargs", "hidden_sizes", "wrappers", "mode", 3])
values = plain | st.sampled_from(["ppo", "sac", "coupled", math.inf, math.nan, [[1]], {1: {2: 3}}])


@settings(deadline=None)
@given(st.dictionaries(groups, st.dictionaries(names, values, max_size=4) | values, max_size=6))
def test_no_tree_makes_inspect_raise(tree):
    """`inspect` raises for no tree."""
    config, mistakes = inspect(tree)
    assert config is not None or mistakes
    assert all(len(mistake.splitlines()) == 1 for mistake in ConfigError(mistakes).mistakes)


@settings(deadline=None)
@given(st.text(string.printable))
def test_the_parser_raises_config_errors_only(text):
    """The parser raises nothing but `ConfigError` for any text."""
    try:
        parse_yaml(text, "test")
    except ConfigError as error:
        assert error.mistakes[0].startswith("test")


def test_a_config_error_can_be_pickled():
    """A `ConfigError` can be pickled."""
    error = pickle.loads(pickle.dumps(ConfigError(["run.seed=-1: one\nline", "another"])))
    assert error.mistakes == ["run.seed=-1: one line", "another"]
    assert str(error) == "run.seed=-1: one line\nanother"


# ------------------------------------------------------------------------------------------- overrides


def test_overrides_are_yaml_and_replace_values_of_the_file():
    """Overrides are YAML and replace values of the file."""
    config = load_config(
        "ppo", ["env.num_envs=2", "algo.learning_rate=1e-3", "algo.hidden_sizes=[8, 8]", "run.dir=a=b"]
    )
    assert (config.env.num_envs, config.algo.learning_rate) == (2, 1e-3)
    assert config.algo.hidden_sizes == (8, 8)
    assert config.run.dir == "a=b"


def test_the_last_override_of_a_key_wins():
    """The last override of a key counts."""
    assert load_config("ppo", ["run.seed=1", "run.seed=2"]).run.seed == 2


@pytest.mark.parametrize("override", ["run.seed", "=1", "run..seed=1", ".seed=1", "run seed=1", "--seed=1", ""])
def test_an_override_of_the_wrong_form_is_refused(override):
    """An override without `=` or key is refused."""
    with pytest.raises(ConfigError) as caught:
        apply_overrides({}, [override, "also wrong"])
    assert len(caught.value.mistakes) == 2
    assert caught.value.mistakes[0] == f"{override!r}: isn't a setting; use key=value, as in run.seed=1"


def test_an_override_whose_value_is_not_yaml_names_the_key():
    """The mistake for an override that isn't YAML names the key."""
    with pytest.raises(ConfigError, match=r"the value of env\.kwargs: not valid YAML"):
        apply_overrides({}, ["env.kwargs={a: "])


def test_an_unknown_override_gets_the_nearest_key():
    """The mistake for an unknown override suggests the nearest key."""
    with pytest.raises(ConfigError) as caught:
        load_config("ppo", ["env.num_env=2"])
    assert caught.value.mistakes == ["env.num_env: unknown setting; did you mean env.num_envs?"]


def test_set_value_creates_missing_sections():
    """`set_value` creates missing and empty sections."""
    tree = {"env": None}
    set_value(tree, "env.kwargs.size", 3)
    assert tree == {"env": {"kwargs": {"size": 3}}}


def test_set_value_replaces_no_value_by_a_section():
    """`set_value` refuses to replace a value by a section."""
    tree = {"env": 5}
    with pytest.raises(ConfigError, match=r"env=5: must be a section of settings to contain env\.kwargs\.size"):
        set_value(tree, "env.kwargs.size", 3)
    assert tree == {"env": 5}
    tree = {"env": {"kwargs": {"size": 3}}}
    with pytest.raises(ConfigError, match=r"^env\.kwargs\.size=3: must be a section"):
        set_value(tree, "env.kwargs.size.width", 3)


def test_keys_of_evaluations_and_their_results_are_settings():
    """Keys with the names of evaluations may have slashes and dashes."""
    tree = {}
    apply_overrides(tree, ["run.until.eval/return=475", "eval.envs.hard-1.kwargs.level=2"])
    assert tree["run"]["until"] == {"eval/return": 475}
    assert tree["eval"]["envs"] == {"hard-1": {"kwargs": {"level": 2}}}


# -------------------------------------------------------------------------------------------- the tree


def test_a_config_is_frozen():
    """A configuration is frozen."""
    config = validate(SMALL)
    with pytest.raises(ValidationError):
        config.run = config.run
    with pytest.raises(ValidationError):
        config.run.seed = 1
    with pytest.raises(ValidationError):
        config.algo.gamma = 0.5


def test_inspect_does_not_change_the_tree():
    """`inspect` doesn't change the tree."""
    tree = with_values(run__seed=-1)
    before = repr(tree)
    inspect(tree)
    assert repr(tree) == before


@pytest.mark.parametrize("args", [PPOArgs, SACArgs])
def test_every_setting_has_a_description(args):
    """Every setting has a description."""
    for key, field in leaves(config_class(args)):
        assert field.description, key


def test_leaves_begin_with_the_arguments_of_the_algorithm():
    """`leaves` begins with the arguments of the algorithm."""
    keys = [key for key, _ in leaves(config_class(PPOArgs))]
    assert keys[0] == "algo.name" and "algo.clip" in keys and "run.total_steps" in keys
    assert len(keys) == len(set(keys))


def test_the_shipped_configs_of_a_checkout_are_all_valid():
    """Every shipped configuration is valid."""
    folder = Path(__file__).parents[2] / "configs"
    names = [path.stem for path in sorted(folder.glob("*.yaml"))]
    assert {"ppo", "sac"} <= set(names)
    for name in names:
        load_config(name)


@pytest.mark.parametrize("text", ["!!set [1]", "!!int x", "!!float x", "!!python/tuple 3", "!!timestamp 3", "[" * 5000])
def test_a_tag_that_does_not_fit_its_value_is_a_mistake(text):
    """A YAML tag that doesn't fit its value is a mistake."""
    with pytest.raises(ConfigError, match=r"mine\.yaml.*: not valid YAML: "):
        parse_yaml(text, "mine.yaml")


@pytest.mark.parametrize(
    ("section", "name", "value", "advice"),
    [
        ("algo", "hidden_sizes", 64, "; use [64]"),
        ("algo", "hidden_sizes", "64, 32", "; use [64, 32]"),
        ("algo", "hidden_sizes", "wide", "; use [64, 64]"),
        ("algo", "hidden_sizes", True, "; use [64, 64]"),
        ("algo", "mlp_keys", "state", "; use [state]"),
        ("algo", "cnn_keys", 3, ""),
        ("env", "wrappers", "FlattenObservation", "; use [FlattenObservation]"),
        ("env", "wrappers", {"path": "a"}, "; use [{path: a}]"),
    ],
)
def test_a_value_instead_of_a_list_is_shown_as_a_list(section, name, value, advice):
    """The mistake of a value that must be a list shows the list."""
    tree = {"algo": {"name": "ppo"}, "env": {"id": "Any-v0"}}
    tree[section][name] = value
    (mistake,) = inspect(tree)[1]
    assert mistake.endswith(f": must be a list{advice}")
