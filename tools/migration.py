"""Writes docs/migration.md from the names of other libraries in `sheeprl/config/peer_names.py`.

python -m tools.migration
"""

from __future__ import annotations

from pathlib import Path

from sheeprl.algos import registry
from sheeprl.cli.names import shipped_files
from sheeprl.config import peer_algorithms
from sheeprl.config.peer_names import LIBRARIES, PEERS, Use

PAGE = Path(__file__).resolve().parents[1] / "docs" / "migration.md"

HEAD = """\
# Coming from another library

These tables map the names of other libraries to the settings of SheepRL. A command line or a configuration with one of
these names gets the same hint:

```console
$ sheeprl train ppo --n_envs 8 algo.clip_range=0.1
error: --n_envs: unknown flag; use --num_envs (environments of one player) (list: sheeprl train ppo -h all)
error: algo.clip_range: unknown setting; use algo.clip
```

Units differ most often: SheepRL counts **policy steps**. One policy step is one action in one environment, summed over
all environments of all players. A batch size is that of the whole trainer group.

Commands correspond as follows (RUN is a folder, `@last` or the beginning of a run's name):
"""

COMMANDS = [
    (
        '`model = PPO("MlpPolicy", "CartPole-v1"); model.learn(100_000)`',
        "`sheeprl train ppo --env CartPole-v1 --total_steps 100000`",
    ),
    (
        "`model = PPO.load(path); model.predict(obs)`, `Algorithm.from_checkpoint(path).compute_single_action(obs)`",
        'in Python: `policy = sheeprl.load_policy("RUN"); policy(obs)`',
    ),
    ("`evaluate_policy(model, env, n_eval_episodes=100)`, `rllib evaluate`", "`sheeprl eval RUN --episodes 100`"),
    (
        "`EvalCallback(env, best_model_save_path=…, eval_freq=10_000)`",
        "`eval.every=10000 checkpoint.keep_best=1 checkpoint.best_by=eval/return`, then `sheeprl eval RUN --best`",
    ),
    ("`StopTrainingOnRewardThreshold(475)`", '`"run.until={eval/return: 475}"`'),
    (
        '`env.set_attr("level", 3)`, `env_runner.foreach_env(…)`',
        "`run.set_env(level=3)` in a [callback](callbacks.md#curricula)",
    ),
    ("`check_env(env)`", "`sheeprl check-env ID`"),
    ("`monitor.csv` with a plot of it", "`sheeprl plot FOLDER`, which also reads `monitor.csv`"),
    ("`python train.py --algo ppo --env CartPole-v1` (RL Baselines3 Zoo)", "`sheeprl train ppo --env CartPole-v1`"),
    ("`python train.py --algo ppo -optimize --n-trials 30` (RL Baselines3 Zoo)", "`sheeprl tune ppo --trials 30`"),
    ("`hyperparams/ppo.yml` (RL Baselines3 Zoo)", "`sheeprl convert-config hyperparams/ppo.yml CartPole-v1`"),
    ("`python enjoy.py`", "`sheeprl enjoy RUN`"),
    ("`python -m rl_zoo3.record_video`", "`sheeprl eval RUN --video`"),
    (
        "`python -m rl_zoo3.push_to_hub`, `load_from_hub`",
        "`sheeprl push RUN hf:USER/REPO`, `sheeprl pull hf:USER/REPO`",
    ),
    ("`python cleanrl/ppo.py --env-id CartPole-v1`", "`sheeprl ppo --env CartPole-v1`"),
    ("`python -m cleanrl_utils.benchmark --num-seeds 3`", "`sheeprl sweep ppo run.seed=1..3`, then `sheeprl compare`"),
    ("`tune.grid_search([1e-3, 1e-4])`", "`sheeprl sweep ppo algo.learning_rate=1e-3,1e-4`"),
    ("`PopulationBasedTraining(…)`", "`sheeprl tune ppo --population 8`"),
    ("`Algorithm.restore(path)`, `checkpoint.resume_from=…`", "`sheeprl resume RUN`"),
    ("`torch.onnx.export(…)` of a policy", "`sheeprl export RUN --to onnx`"),
    ("a policy in a Ray Serve deployment", "`sheeprl serve RUN`"),
    ("`sheeprl exp=ppo env=gym env.id=CartPole-v1` (SheepRL 0.8.4)", "`sheeprl train ppo env.id=CartPole-v1`"),
    ("`sheeprl-eval checkpoint_path=…` (SheepRL 0.8.4)", "`sheeprl eval RUN`"),
    ("`sheeprl-agents` (SheepRL 0.8.4)", "`sheeprl algos`"),
    ("`--env-kwargs sutton_barto_reward:True`", '`--kwargs "{sutton_barto_reward: true}"`'),
]
"""Commands and calls elsewhere, and those here."""

FOOT = """\
The mean return in the log is that of the last 100 episodes, like the running mean `rollout/ep_rew_mean` of
Stable-Baselines3. In the metrics, `Rewards/rew_avg` is the mean of only the episodes that ended since the last line.

`python -m tools.migration` generates this page from `sheeprl/config/peer_names.py` and
`sheeprl/config/peer_algorithms.py`.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([HEAD, commands(), FOOT, algorithms(), *(table(library) for library in LIBRARIES)])


def commands() -> str:
    """Return the table of commands."""
    return "\n".join(["| elsewhere | here |", "|---|---|", *(f"| {there} | {here} |" for there, here in COMMANDS), ""])


def algorithms() -> str:
    """Return the table of algorithms."""
    uses = peer_algorithms.known_uses([*shipped_files(), *registry.registered()])
    rows = [f"| {_code(peer_algorithms.names_of(use))} | `sheeprl train {use}` |" for use in uses]
    return "\n".join(["## Algorithms", "", "| there | here |", "|---|---|", *rows, ""])


def table(library: str) -> str:
    """Return the table of a library, in the order of the settings."""
    rows: dict[Use, list[str]] = {}
    for peer in PEERS.values():
        if library in peer.libraries:
            form, uses = peer.libraries[library]
            for use in uses:
                rows.setdefault(use, []).append(form)
    lines = [f"## {LIBRARIES[library]}", "", "| there | here | |", "|---|---|---|"]
    for use, forms in rows.items():
        lines.append(f"| {_code(forms)} | {_code(use.settings) or '–'} | {use.note} |")
    return "\n".join([*lines, ""])


def _code(names: list[str] | tuple[str, ...]) -> str:
    """Return names as code, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
