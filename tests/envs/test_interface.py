"""Test that wrong results of environments and wrappers are named."""

import pytest
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from sheeprl.config.checks import check
from sheeprl.config.loading import load_config
from sheeprl.envs.config import EnvConfig
from sheeprl.envs.interface import InterfaceError
from sheeprl.envs.make import make_vector_env, quiet_gymnasium
from sheeprl.envs.snapshot import SnapshotEnv
from sheeprl.utils.errors import ConfigError
from tests.helpers.odd_envs import BOX, OldReset, OldStep, Results, Simple, StepFails

RESET = "it must return (observation, info)"
STEP = "it must return (observation, reward, terminated, truncated, info)"
DICT = spaces.Dict({"a": BOX, "b": BOX})


def error_of(env):
    """Return the error of a first reset and step, in gymnasium's wrappers."""
    quiet_gymnasium()
    env = SnapshotEnv(env)
    with pytest.raises(InterfaceError) as caught:
        env.reset(seed=3)
        env.step(0)
    return str(caught.value)


def wrapped(env):
    """Return an environment in the wrappers of `gymnasium.make`."""
    return TimeLimit(OrderEnforcing(PassiveEnvChecker(env)), 10)


@pytest.mark.parametrize(
    ("method", "count", "space", "message"),
    [
        ("reset", 0, BOX, f"reset returned None; {RESET}"),
        ("reset", 1, BOX, f"reset returned one value (ndarray); {RESET}"),
        ("reset", 1, DICT, f"reset returned one value (dict); {RESET}"),
        ("reset", 1, spaces.Box(-1, 1, (9,)), f"reset returned one value (ndarray); {RESET}"),
        ("step", 0, BOX, f"step returned None; {STEP}"),
        ("step", 1, spaces.Box(-1, 1, (9,)), f"step returned one value (ndarray); {STEP}"),
        ("step", 3, BOX, f"step returned 3 values (ndarray, float, bool); {STEP}"),
        ("step", 4, BOX, f"step returned 4 values (ndarray, float, bool, bool); {STEP}"),
    ],
)
@pytest.mark.parametrize("wrap", [wrapped, lambda env: TimeLimit(env, 10)])
def test_a_wrong_result_of_an_environment_is_named(method, count, space, message, wrap):
    """The error names the environment and its wrong result."""
    error = error_of(wrap(Results(method, count, space)))
    expected, old, advice = error.partition(", not as in gym before 0.26: ")
    assert expected == f"tests.helpers.odd_envs.Results.{message}"
    assert bool(old) == ((method, count) in (("reset", 1), ("step", 4)))
    if old:
        assert advice.startswith("return obs, ") and "GymV21CompatibilityV0(env=Results())" in advice
        assert advice.endswith('after pip install "shimmy[gym-v21]"')


@pytest.mark.parametrize(("wrapper", "message"), [(OldReset, RESET), (OldStep, STEP)])
def test_a_wrong_result_of_a_wrapper_is_named(wrapper, message):
    """The error names the wrapper and its wrong result."""
    error = error_of(wrapper(wrapped(Simple())))
    assert error.startswith(f"tests.helpers.odd_envs.{wrapper.__name__}.") and message in error
    assert ", not as in gym before 0.26: return obs, " in error and "shimmy" not in error


def test_other_errors_are_unchanged():
    """Other errors of an environment are unchanged."""
    env = SnapshotEnv(wrapped(StepFails()))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="a value of the environment's own"):
        env.step(0)


def test_a_worker_process_names_a_wrong_result():
    """A worker process names a wrong result too."""
    kwargs = {"method": "step", "count": 4}
    envs = make_vector_env(
        EnvConfig(id="tests.helpers.odd_envs:Results-v0", num_envs=1, vectorization="async", kwargs=kwargs)
    )
    envs.reset(seed=0)
    with pytest.raises(InterfaceError, match=r"Results\.step returned 4 values"):
        envs.step(envs.action_space.sample())
    envs.close(terminate=True)


@pytest.mark.parametrize(("method", "count", "message"), [("reset", 1, RESET), ("step", 4, STEP)])
def test_a_wrong_result_of_a_native_vector_is_found_before_the_start(method, count, message):
    """The check before the start finds a wrong result of a native vector."""
    kwargs = f"env.kwargs={{method: {method}, count: {count}}}"
    overrides = ["env.id=tests.helpers.odd_envs:Results-v0", "env.vectorization=native", kwargs]
    with pytest.raises(ConfigError, match=r"odd_envs:Results-v0: ") as caught:
        check(load_config("ppo", overrides).model_dump())
    assert f"{method} returned {count} values" in str(caught.value) and message in str(caught.value)
