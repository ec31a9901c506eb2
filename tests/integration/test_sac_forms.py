"""Test SAC's other forms: discrete actions, action masks, and pictures with random shifts and stacked frames."""

import pytest

from sheeprl.config.checks import check
from sheeprl.evaluate import evaluate_checkpoint
from tests.helpers.algorithms import Small
from tests.helpers.runs import largest_difference, ray_session, saved
from tests.integration.test_exact_resume import check_that_nothing_differs, settings

FOLLOW = "env.id=tests.helpers.probe_envs:Follow-v0"
STACK = "env.wrappers=[{path: frame_stack, stack_size: 3}]"
FORMS = {
    "discrete": ["env.id=CartPole-v1", "algo.critics=3"],
    "masked": ["env.id=tests.helpers.envs:Masked-v0", "env.max_episode_steps=20"],
    "pixels": [FOLLOW, "env.kwargs={continuous: true}", STACK, "algo.random_shift=2", "algo.cnn_features=8"],
    "discrete pixels": [FOLLOW, "algo.random_shift=1", "algo.encoder_tau=0.1", "algo.target_delay=2"],
}
ESSENTIAL = ("pixels",)  # with random shifts, stacks and continuous actions
COUPLED = "run.mode=coupled"
SAC = Small("sac")


def every_form(slow=ESSENTIAL):
    """Return every form as a parameter, with the mark of the slow suite or of `--every`."""
    return [pytest.param(form, marks=pytest.mark.slow if form in slow else pytest.mark.every) for form in FORMS]


@pytest.fixture(scope="module")
def session():
    """Yield a Ray session."""
    with ray_session(cpus=5):
        yield


def agents(tmp_path, form, variants, *overrides):
    """Train once for each variant of the settings; return the agents, which have taken the same gradient steps."""
    found = []
    for number, variant in enumerate(variants):
        SAC.run(tmp_path / str(number), *FORMS[form], *overrides, variant)
        found.append(saved(tmp_path / str(number)))
    assert len({state["gradient_steps"] for state in found}) == 1 and found[0]["gradient_steps"] > 0
    return [state["agent"] for state in found]


def test_a_masked_run(tmp_path):
    """Random, explored and greedy actions respect the mask: the environment raises for forbidden choices."""
    config = SAC.config(tmp_path, *FORMS["masked"], COUPLED, "run.total_steps=120")
    SAC.run(tmp_path, *FORMS["masked"], COUPLED, "run.total_steps=120")
    assert check(config.model_dump(mode="json")).spaces.action_kind == "discrete"
    assert evaluate_checkpoint(str(tmp_path), episodes=2).mean_return == 20


@pytest.mark.parametrize("form", ["pixels", "discrete pixels"])
def test_frames_are_stored_once(tmp_path, form):
    """The replay stores the newest frame of a stack; without a stack, whole pictures."""
    spaces = check(SAC.config(tmp_path, *FORMS[form]).model_dump(mode="json")).spaces
    assert spaces.frame_stack == ({"obs": 3} if form == "pixels" else {})


@pytest.mark.parametrize("form", every_form(("masked", "discrete pixels")))  # steps of one kind, and of several
def test_compiled_and_eager_runs_agree(tmp_path, form):
    """A compiled run learns the same as an eager one."""
    variants = ["trainer.compile=false", "trainer.compile=true"]
    one, other = agents(tmp_path, form, variants, COUPLED, "run.total_steps=90")
    assert largest_difference(one, other) < 1e-5


@pytest.mark.parametrize("form", every_form())
def test_two_ranks_learn_what_one_learns(tmp_path, session, form):
    """Two ranks learn the same as one from the same global batches."""
    overrides = ["run.mode=decoupled", "run.max_staleness=0", "run.total_steps=200", "trainer.compile=false"]
    one, other = agents(tmp_path, form, ["trainer.devices=1", "trainer.devices=2"], *overrides, "players.num=2")
    assert largest_difference(one, other) < 1e-5


@pytest.mark.parametrize("form", every_form())
def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path, monkeypatch, form):
    """An interrupted run ends bit-identical to an uninterrupted one."""
    overrides = [*settings("sac"), COUPLED, "checkpoint.envs=true", *FORMS[form]]
    check_that_nothing_differs(tmp_path, monkeypatch, "sac", overrides)
