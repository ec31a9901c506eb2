"""Find settings that are given but have no effect in their combination with others.

A setting declares the conditions of its effect with `sheeprl.utils.settings.needs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from sheeprl.config.defaults import fill_in
from sheeprl.config.schema import Config, leaves
from sheeprl.config.suggestions import shown
from sheeprl.envs.transforms import Spaces, input_keys
from sheeprl.utils import rank_variables


@dataclass(frozen=True)
class Situation:
    """Configuration with its defaults filled in, and the spaces of the agent."""

    config: Config
    spaces: Spaces

    @property
    def has_pictures(self) -> bool:
        """Return True if the policy reads a picture."""
        cnn_keys = getattr(self.config.algo, "cnn_keys", None)
        return bool(input_keys(self.spaces.observation, None, cnn_keys)[1])


@dataclass(frozen=True)
class Condition:
    """Condition under which a setting has an effect.

    Args:
        holds: returns True if the condition is met, given the situation and the value of the setting.
        without: the situation in which it isn't met, after "has no effect".
        remedy: change that gives the setting an effect; "" if there is none.
    """

    holds: Callable[[Situation, Any], bool]
    without: str
    remedy: str = ""


CONDITIONS = {
    "decoupled": Condition(
        lambda now, value: not now.config.is_coupled,
        "in coupled mode, which runs without Ray",
        "use run.mode=decoupled",
    ),
    "off-policy": Condition(
        lambda now, value: now.config.algo.data().is_off_policy,
        "with an on-policy algorithm, which uses each rollout at once and doesn't save it",
    ),
    "several ranks": Condition(
        lambda now, value: now.config.trainer.ranks > 1, "with a single rank", "use trainer.devices=2"
    ),
    "own ranks": Condition(
        lambda now, value: not rank_variables.started_by_fabric(), "under `fabric run`, whose options decide this"
    ),
    "partial rounds": Condition(
        lambda now, value: now.config.round_fragments < now.config.num_players,
        "with so few players, since the part of them that closes a round is rounded up to all",
        "use more players or a smaller part",
    ),
    "before the end": Condition(
        lambda now, value: value is None or value < now.config.run.total_steps,
        "at or beyond run.total_steps, where the run ends with an evaluation",
        "use a smaller value",
    ),
    "pictures": Condition(lambda now, value: now.has_pictures, "without a picture in the observation"),
    "continuous": Condition(lambda now, value: now.spaces.action_kind == "continuous", "with discrete actions"),
    "discrete": Condition(lambda now, value: now.spaces.action_kind != "continuous", "with continuous actions"),
}
"""Conditions by name. Each other condition is a setting.

It is `key=value`, `key=value|value` for one of several values, or `key` for any value besides 0, false and null.
"""


def without_effect(given: Config, filled: Config, spaces: Spaces) -> Iterator[str]:
    """Yield a line for each setting that is given but has no effect: the reason and what to do.

    A setting counts as given if its value differs from the default that it would get.

    Args:
        given: the configuration before its defaults are filled in.
        filled: the configuration with all defaults.
        spaces: spaces of the agent.
    """
    now = Situation(filled, spaces)
    fields = dict(leaves(type(given)))
    for key, field in fields.items():
        value = _value(given, key)
        if field.is_required() or value == field.get_default(call_default_factory=True):
            continue
        for name in _needs(field):
            condition = CONDITIONS.get(name) or _condition_on(filled, name, fields)
            if not condition.holds(now, value) and value != _default(given, key):
                remedy = f"{condition.remedy} or leave it out" if condition.remedy else "leave it out"
                yield f"{key}={shown(value)}: has no effect {condition.without}; {remedy}"
                break


def _needs(field: FieldInfo) -> list[str]:
    """Return the conditions that a setting declares."""
    extra: Any = field.json_schema_extra
    return extra.get("needs", []) if isinstance(extra, dict) else []


def _condition_on(config: Config, setting: str, fields: dict[str, FieldInfo]) -> Condition:
    """Return the condition that a setting has a value."""
    key, equals, text = setting.partition("=")
    current = _value(config, key)
    values = text.split("|")
    is_met = shown(current) in values if equals else bool(current)
    default = fields[key].get_default(call_default_factory=True)
    usable = values[0] if equals else "true" if default is False else shown(default) if default else None
    remedy = f"use {key}={usable}" if usable else f"set {key}"
    return Condition(lambda now, value: is_met, f"with {key}={shown(current)}", remedy)


def _default(config: Config, key: str) -> Any:
    """Return the value that a setting gets if it isn't given."""
    section, _, name = key.partition(".")
    settings = getattr(config, section)
    default = type(settings).model_fields[name].get_default(call_default_factory=True)
    without = config.model_copy(update={section: settings.model_copy(update={name: default})})
    return _value(fill_in(without), key)


def _value(config: Config, key: str) -> Any:
    """Return the value of a dotted key."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)
