"""Population-based training, Jaderberg et al. 2017 (1711.09846), with Ray Tune.

Each member trains a part of the policy steps, as a run that begins with the networks of the part before. After each
part, the worst quarter continues with networks and changed settings of the best quarter.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sheeprl.checkpoint.run_dir import find_checkpoint
from sheeprl.config.loading import get_value, validate
from sheeprl.config.schema import structural_keys
from sheeprl.tune.search import Search, first_settings
from sheeprl.tune.space import Choices, Range
from sheeprl.tune.trial import score_of, train_seed
from sheeprl.tune.tuning import SCORE, STEPS, configure, restored, run_on_ray
from sheeprl.utils.errors import ConfigError, RunFailedError, one_line

LINEAGE = "lineage.json"
QUARTER = 0.25  # of the members are replaced, and of the settings are drawn again
PARTS = 10  # by default


@dataclass(frozen=True)
class Part:
    """One part of a member's training.

    Args:
        settings: values by key.
        folder: folder of the run.
        score: the metric at its end.
        policy_steps: policy steps of this part and those before.
    """

    settings: dict[str, Any]
    folder: str
    score: float
    policy_steps: int


def check_population(search: Search, members: int, parts: int) -> None:
    """Check the settings of population-based training besides those of a search.

    Raises:
        ConfigError: something is wrong; the message lists all mistakes.
    """
    fixed = structural_keys(type(validate(search.tree)))
    mistakes = [
        f"{key}: can't change within training; leave its range out"
        for key in search.space
        if key in fixed or not key.startswith("algo.")
    ]
    if members < 2:
        mistakes.append(f"--population {members}: must be at least 2")
    if search.seeds != 1:
        mistakes.append(f"--seeds {search.seeds}: a member of a population has one seed")
    if int(get_value(search.tree, "run.total_steps")) < parts:
        mistakes.append(f"--parts {parts}: must be at most run.total_steps")
    if mistakes:
        raise ConfigError(mistakes)


def train_population(
    search: Search, members: int, parts: int = PARTS, say: Callable[[str], None] = print
) -> list[list[Part]]:
    """Train a population, or continue it, and return the parts of each member, those of the best member first.

    Args:
        search: the search; `trials`, `seeds` and `prune` don't matter.
        members: number of members.
        parts: parts of `run.total_steps`; networks and settings are passed on after each one.
        say: called with a message.

    Raises:
        ConfigError: the folder has another search.
        RunFailedError: Ray can't be started, or all members failed.
    """
    return run_on_ray(search, {"population": members, "parts": parts}, lambda: _fit(search, members, parts, say))


def _fit(search: Search, members: int, parts: int, say: Callable[[str], None]) -> list[list[Part]]:
    """Run Ray Tune, and return the parts of each member that didn't fail."""
    configure()
    from ray import tune as ray_tune
    from ray.tune.schedulers import PopulationBasedTraining
    from ray.tune.search.basic_variant import BasicVariantGenerator

    steps = int(get_value(search.tree, "run.total_steps")) // parts
    domains = {key: _domain(part) for key, part in search.space.items()}
    trainable = ray_tune.with_resources(_trainable(search, steps, parts), {"cpu": search.cpus})
    tuner = restored(search, trainable, say)
    if tuner is None:
        tuner = ray_tune.Tuner(
            trainable,
            param_space=domains,
            tune_config=ray_tune.TuneConfig(
                search_alg=BasicVariantGenerator(
                    points_to_evaluate=[first_settings(search)],
                    max_concurrent=search.jobs or 0,
                    random_state=int(get_value(search.tree, "run.seed") or 0),
                ),
                scheduler=PopulationBasedTraining(
                    time_attr=STEPS,
                    metric=SCORE,
                    mode="max",
                    perturbation_interval=steps,
                    hyperparam_mutations=_mutations(search),
                    custom_explore_fn=lambda config: within_ranges(search, config),
                    quantile_fraction=QUARTER,
                    resample_probability=QUARTER,
                ),
                num_samples=members,
                time_budget_s=search.budget,
            ),
            run_config=ray_tune.RunConfig(name="tune", storage_path=str(search.folder / "ray"), verbose=0),
        )
    found = tuner.fit()
    results = [found[number] for number in range(len(found))]
    for result in results:
        if result.error is not None:
            say(f"a member failed: {one_line(getattr(result.error, 'cause', None) or result.error)}")
    lineages = [_lineage(result.checkpoint) for result in results if result.checkpoint is not None]
    if not lineages:
        raise RunFailedError("no member of the population has finished a part")
    return sorted(lineages, key=lambda lineage: (lineage[-1].policy_steps, lineage[-1].score), reverse=True)


def _domain(part: Range | Choices) -> Any:
    """Return Ray Tune's domain of a range."""
    from ray import tune as ray_tune

    if isinstance(part, Choices):
        return ray_tune.choice(list(part.texts))
    if part.whole:
        return ray_tune.randint(int(part.low), int(part.high) + 1)
    return ray_tune.loguniform(part.low, part.high) if part.log else ray_tune.uniform(part.low, part.high)


def _mutations(search: Search) -> dict[str, Any]:
    """Return what Ray Tune changes in the settings of a member: neighbors of texts, multiples of numbers."""
    return {key: list(part.texts) if isinstance(part, Choices) else _domain(part) for key, part in search.space.items()}


def within_ranges(search: Search, settings: dict[str, Any]) -> dict[str, Any]:
    """Return changed settings with each number in its range."""
    ranges = {key: part for key, part in search.space.items() if isinstance(part, Range)}
    return settings | {key: part.nearest(settings[key]) for key, part in ranges.items()}


def _trainable(search: Search, steps: int, parts: int) -> Callable[[dict[str, Any]], None]:
    """Return the function that Ray Tune calls with the settings of a member."""

    def member(config: dict[str, Any]) -> None:
        """Train the parts of a member after those of its checkpoint, and report each one to Ray Tune."""
        from ray import tune as ray_tune

        lineage = _lineage(ray_tune.get_checkpoint())
        own = search.folder / "members" / str(ray_tune.get_context().get_trial_id())
        while len(lineage) < parts:
            lineage.append(train_part(search, config, lineage, own, steps))
            with tempfile.TemporaryDirectory() as scratch:
                text = json.dumps([asdict(part) for part in lineage])
                (Path(scratch) / LINEAGE).write_text(text, encoding="utf-8")
                newest = lineage[-1]
                ray_tune.report(
                    {SCORE: newest.score, STEPS: newest.policy_steps},
                    checkpoint=ray_tune.Checkpoint.from_directory(scratch),
                )

    return member


def train_part(search: Search, settings: Mapping[str, Any], lineage: list[Part], folder: Path, steps: int) -> Part:
    """Train one part and return it.

    Args:
        search: the search.
        settings: values by key.
        lineage: the parts before, whose networks the part begins with.
        folder: folder of the member.
        steps: policy steps of the part.

    Raises:
        RunFailedError: the run failed, or has no score.
    """
    number = len(lineage)
    # The same name after an interruption, and another one for other networks or settings.
    text = json.dumps([lineage[-1].folder if lineage else "", dict(settings)], sort_keys=True)
    place = folder / f"part_{number}_{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
    tree = search.seed_tree(settings, number, place)
    tree["run"]["total_steps"] = steps
    if tree.get("eval", {}).get("every") is not None:
        tree["eval"]["every"] = None  # the last evaluation counts
    if lineage:
        tree["algo"]["init_from"] = str(find_checkpoint(lineage[-1].folder)[1])
    sys.argv = list(search.command)
    train_seed(tree, place)
    before = lineage[-1].policy_steps if lineage else 0
    return Part(dict(settings), str(place), score_of(place, search.metric), before + steps)


def _lineage(checkpoint: Any) -> list[Part]:
    """Return the parts in a checkpoint of Ray Tune, none without one."""
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        return [Part(**part) for part in json.loads((Path(folder) / LINEAGE).read_bytes())]


def write_lineage(search: Search, lineage: list[Part]) -> Path:
    """Write the parts of the best member to `best.jsonl`, and return the folder of its last run."""
    lines = "".join(json.dumps(asdict(part)) + "\n" for part in lineage)
    (search.folder / "best.jsonl").write_text(lines, encoding="utf-8")
    return Path(lineage[-1].folder)
