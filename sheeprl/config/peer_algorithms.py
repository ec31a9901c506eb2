"""Names of algorithms in other libraries, and the words after `sheeprl train` that correspond to them.

Error messages use the table for hints. `python -m tools.migration` writes it to `docs/migration.md`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

SUFFIXES = ("_continuous_action", "_atari_envpool", "_envpool", "_atari", "_continuous", "_jax", "_coupled")
"""Ends of names that say where an algorithm runs, not which one it is."""

_USES = {
    "ppo": "maskable_ppo ppo_mask ppo_decoupled ppo2 trpo",
    "ppo_recurrent": "rppo recurrent_ppo recurrentppo ppo_lstm ppo_rnn ppo_gru ppo_atari_lstm",
    "a2c": "a3c",
    "dqn algo.double=true": "ddqn double_dqn",
    "dqn algo.dueling=true": "dueling_dqn",
    "dqn algo.double=true algo.dueling=true": "d3qn",
    "dqn algo.prioritized=true": "per per_dqn dqn_per",
    "dqn algo.noisy=true": "noisy_dqn noisynet",
    "dqn algo.head=c51": "c51 categorical_dqn",
    "dqn algo.head=qr": "qrdqn qr_dqn",
    "rainbow_atari": "rainbow rainbow_dqn",
    "dqn algo.head=iqn": "iqn implicit_quantile",
    "apex_cartpole": "apex apex_dqn ape_x",
    "sac": "sacd sac_discrete discrete_sac sac_decoupled",
    "sac_ae": "sacae",
    "td3": "ddpg",
    "droq": "dropq",
    "dreamer_v3": "dreamer dreamerv3 dv3",
    "dreamer_v2": "dreamerv2 dv2",
    "dreamer_v1": "dreamerv1 dv1",
    "p2e_dv3": "p2e plan2explore p2e_dv3_exploration",
    "p2e_dv2": "p2e_dv2_exploration",
    "p2e_dv1": "p2e_dv1_exploration",
    "dreamer_v3_cartpole_swingup algo.init_from=RUN": "p2e_dv3_finetuning",
    "dreamer_v2 algo.init_from=RUN": "p2e_dv2_finetuning",
    "dreamer_v1 algo.init_from=RUN": "p2e_dv1_finetuning",
}
"""Names elsewhere by the words here: an algorithm or a shipped configuration, and settings."""


def names_of(use: str) -> list[str]:
    """Return the names in other libraries for the words after `sheeprl train`."""
    return _USES[use].split()


def known_uses(known: Collection[str]) -> list[str]:
    """Return the words after `sheeprl train` whose algorithm or configuration exists.

    Args:
        known: names of the algorithms and the configurations.
    """
    return [use for use in _USES if use.split()[0] in known]


def find(name: str, known: Collection[str]) -> str | None:
    """Return the words after `sheeprl train` that correspond to a name elsewhere, None for an unknown name.

    Args:
        name: name of an algorithm in another library; case, hyphens and the environments in it don't matter.
        known: names of the algorithms and the configurations here.
    """
    plain = re.sub(r"[-\s]+", "_", name.lower())
    stem = next((plain.removesuffix(suffix) for suffix in SUFFIXES if plain.endswith(suffix)), plain)
    for form in dict.fromkeys([plain, stem]):
        if form in known and form != name:
            return form
        for use in known_uses(known):
            if form in names_of(use):
                return use
    return None
