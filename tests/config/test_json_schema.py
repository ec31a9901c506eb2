"""Test the JSON schema of configuration files with a validator of JSON schemas."""

import json
import re

import jsonschema
import pytest

from sheeprl.algos import registry
from sheeprl.config.json_schema import config_schema
from sheeprl.config.loading import presets, shipped_folder
from sheeprl.config.schema import Config, config_class, leaves
from sheeprl.config.yaml_io import parse_yaml

OWN = [name for name in registry.registered() if registry.args_class(name).__module__.startswith("sheeprl.")]
FILES = [*sorted(shipped_folder().glob("*.yaml")), *presets().values()]
VALIDATOR = jsonschema.Draft7Validator(config_schema(OWN))


def mistakes_of(tree, validator=VALIDATOR):
    """Return the places where a tree doesn't fit the schema."""
    return [".".join(map(str, error.absolute_path)) for error in validator.iter_errors(tree)]


def test_the_shipped_schema_is_up_to_date():
    """The shipped schema is that of the algorithms: `sheeprl schema > configs/schema.json`."""
    shipped = json.loads((shipped_folder() / "schema.json").read_text(encoding="utf-8"))
    assert shipped == config_schema(OWN)
    jsonschema.Draft7Validator.check_schema(shipped)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_configurations_fit_the_schema(file):
    """The shipped configurations fit the schema, and tell editors where it is."""
    text = file.read_text(encoding="utf-8")
    assert mistakes_of(parse_yaml(text, str(file))) == []
    for modeline in re.findall(r"^# yaml-language-server: \$schema=(.*)$", text, re.MULTILINE):
        assert (file.parent / modeline).is_file()


@pytest.mark.parametrize("name", OWN)
def test_the_name_selects_the_arguments_of_the_algorithm(name):
    """With the name of an algorithm, its arguments and no others are permitted, each with a description."""
    schema = config_schema(OWN)
    (branch,) = [
        then for then in schema["properties"]["algo"]["allOf"] if then["if"]["properties"]["name"]["const"] == name
    ]
    section = schema["definitions"][branch["then"]["$ref"].removeprefix("#/definitions/")]
    args = registry.args_class(name)
    assert set(section["properties"]) == set(args.model_fields)
    assert all(below["description"] for below in section["properties"].values())
    assert mistakes_of({"algo": {"name": name, "nonsense": 1}}) == ["algo"]
    alone = jsonschema.Draft7Validator(config_schema([name]))
    assert mistakes_of({"algo": {"name": name}, "run": None}, alone) == []


def test_every_setting_has_a_description():
    """Each setting outside `algo` is in the schema, with its description."""
    schema = config_schema(["ppo"])
    for key, field in leaves(config_class(registry.args_class("ppo"))):
        section, _, name = key.partition(".")
        below = schema["definitions"]["algo.ppo" if section == "algo" else section]["properties"][name]
        assert below["description"] == field.description, key
    assert set(schema["properties"]) == {"base", *Config.model_fields}


@pytest.mark.parametrize(
    ("tree", "places"),
    [
        ({"base": ["ppo", "mujoco"]}, []),
        ({"base": 5}, ["base"]),
        ({"run": {"total_steps": "100_000", "tags": "word"}, "log": {"to": "wandb"}}, []),  # as editors read 100_000
        ({"run": {"total_steps": "many"}}, ["run.total_steps"]),
        ({"run": {"total_steps": 0}}, ["run.total_steps"]),
        ({"algo": {"name": "ppo", "gamma": 2}}, ["algo.gamma"]),
        ({"algo": {"name": "ppo", "learning_rate": "2.5e-4"}}, []),
        ({"algo": {"name": "my.module:PPO", "anything": 1}}, []),
        ({"algo": {"name": "pppo"}}, ["algo.name"]),
        ({"runn": {}}, [""]),
    ],
)
def test_a_mistake_is_found_where_it_is(tree, places):
    """The schema finds mistakes, and permits what the configuration permits."""
    assert mistakes_of(tree) == places
