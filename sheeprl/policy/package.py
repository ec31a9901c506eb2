"""Write a policy as files that can be published: settings, spaces, weights as safetensors, and a model card.

The folder is that of a run with one checkpoint, so every command that takes a run takes it. It holds neither optimizers
nor replay nor pickled objects.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from sheeprl.callbacks.records import EVALUATIONS
from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.files import CONFIG, STATE, WEIGHTS, step_of
from sheeprl.checkpoint.run_dir import read_config
from sheeprl.checkpoint.run_info import read_run_info
from sheeprl.checkpoint.spaces_file import SPACES
from sheeprl.config.loading import get_value
from sheeprl.config.yaml_io import Dumper
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.installation import install_command
from sheeprl.version import __version__

PRIVATE = {
    "algo": ("init_from",),
    "buffer": ("init_from",),
    "run": ("dir", "resume", "callbacks"),
    "checkpoint": ("storage",),
    "ray": ("address", "runtime_env"),
}
"""Settings that say something about the machine, by section."""


def write_package(run_dir: Path, checkpoint: Path, folder: Path, name: str) -> None:
    """Write the files of one checkpoint into an empty folder.

    Args:
        run_dir: folder of the run.
        checkpoint: folder of the checkpoint.
        folder: folder to write.
        name: name under which the files are published, for the model card.

    Raises:
        ConfigError: a file can't be read, or a package is missing.
    """
    config = read_config(run_dir)
    for section, keys in PRIVATE.items():
        for key in keys:
            if isinstance(config.get(section), dict):
                config[section].pop(key, None)
    target = folder / "checkpoints" / checkpoint.name
    target.mkdir(parents=True)
    for place in (folder, target):
        (place / CONFIG).write_text(_yaml(config), encoding="utf-8")
    for file in (SPACES, EVALUATIONS):
        if (run_dir / file).is_file():
            shutil.copyfile(run_dir / file, folder / file)
    if not (folder / SPACES).is_file():
        raise ConfigError([f"{run_dir}: has no {SPACES}; resume the run once with this version of SheepRL"])
    write_weights(checkpoint, target / WEIGHTS)
    state = json.loads((checkpoint / STATE).read_bytes())
    (target / STATE).write_text(json.dumps({**state, "players": {}, "replay": None}, indent=1), encoding="utf-8")
    about = manifest.read(checkpoint).about
    manifest.write(target, about)
    card = model_card(config, about, _last_evaluation(run_dir, step_of(checkpoint)), read_run_info(run_dir), name)
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_weights(checkpoint: Path, path: Path) -> None:
    """Write the agent's tensors of a checkpoint as safetensors.

    Raises:
        ConfigError: the checkpoint can't be read, or a package is missing.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ConfigError([f"{error}; use {install_command('hub')}"]) from error
    from sheeprl.checkpoint.weights import read_agent

    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in read_agent(checkpoint).items()}
    save_file(tensors, path, {"format": "pt"})


def _last_evaluation(run_dir: Path, step: int) -> dict[str, Any] | None:
    """Return the newest evaluation at or before a step, None without one."""
    path = run_dir / EVALUATIONS
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return next((each for each in reversed(found) if each["step"] <= step), None)


def model_card(
    config: dict[str, Any],
    about: dict[str, Any],
    evaluation: dict[str, Any] | None,
    info: dict[str, Any],
    name: str,
) -> str:
    """Return the model card, with the metadata that the hub reads.

    Args:
        config: settings of the run.
        about: facts in the manifest of the checkpoint.
        evaluation: the newest line of the run's evaluations.
        info: content of `run.json`.
        name: name of the repository.
    """
    algo, env = str(get_value(config, "algo.name")), str(get_value(config, "env.id"))
    metadata: dict[str, Any] = {
        "library_name": "sheeprl",
        "tags": ["reinforcement-learning", "deep-reinforcement-learning", algo, env],
    }
    result = "not evaluated"
    if evaluation is not None:
        result = f"{evaluation['mean']:.2f} +/- {evaluation['std']:.2f}"
        metadata["model-index"] = [
            {
                "name": f"{algo} on {env}",
                "results": [
                    {
                        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
                        "dataset": {"name": env, "type": env},
                        "metrics": [{"type": "mean_reward", "value": result, "name": "mean_reward"}],
                    }
                ],
            }
        ]
    episodes = f" over {len(evaluation['returns'])} episodes" if evaluation else ""
    starts = info.get("starts") or [{}]
    versions = starts[-1].get("versions") or {"sheeprl": __version__}
    return CARD.format(
        metadata=_yaml(metadata),
        algo=algo,
        env=env,
        name=name,
        steps=about["policy_steps"],
        gradient_steps=about["gradient_steps"],
        result=f"{result}{episodes}",
        seed=get_value(config, "run.seed"),
        versions=", ".join(f"{package} {version}" for package, version in versions.items()),
    )


def _yaml(tree: dict[str, Any]) -> str:
    """Return a mapping as YAML."""
    return str(yaml.dump(tree, Dumper=Dumper, sort_keys=False))


CARD = """\
---
{metadata}---
# {algo} on {env}

| | |
|---|---|
| mean return | {result} |
| policy steps | {steps:,} |
| gradient steps | {gradient_steps:,} |
| seed | {seed} |
| versions | {versions} |

The weights are safetensors and the other files are text: loading executes no code of this repository.

```python
import sheeprl

policy = sheeprl.load_policy("{name}")
action = policy(obs)  # in the environment's own units; policy.reset() begins an episode
```

```bash
sheeprl eval {name}
sheeprl enjoy {name}
sheeprl export {name} --to onnx
sheeprl pull {name}
```

`config.yaml` has all settings of the run: `sheeprl train config.yaml` trains it again.
"""
