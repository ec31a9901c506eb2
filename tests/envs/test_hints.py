"""Test the messages for unknown environment ids and missing modules."""

import importlib
import sys

import gymnasium
import pytest

from sheeprl.envs.config import EnvConfig
from sheeprl.envs.make import EnvSettingsError, make_env
from sheeprl.utils.installation import install_command

ENVS = "tests.helpers.odd_envs"
FOLDER = "run sheeprl in the folder of the module, or add this folder to PYTHONPATH"


def message_of(env_id, **settings):
    """Return why an environment can't be made, without the setting."""
    with pytest.raises(EnvSettingsError) as caught:
        make_env(EnvConfig(id=env_id, **settings))
    setting, _, message = str(caught.value).partition(f"={settings.get('wrappers', [env_id])[0]}: ")
    assert setting == ("env.wrappers" if "wrappers" in settings else "env.id")
    return message


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path in which modules and packages can be written; imports and registrations are undone."""
    monkeypatch.syspath_prepend(tmp_path)
    modules, registered = set(sys.modules), dict(gymnasium.registry)
    yield tmp_path
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    gymnasium.registry.clear()
    gymnasium.registry.update(registered)
    importlib.invalidate_caches()


@pytest.fixture
def without(monkeypatch):
    """Return a function after whose call a package can't be imported."""

    def hide(package):
        """Hide a package from the import system."""

        class Hiding:
            @staticmethod
            def find_spec(name, path=None, target=None):
                """Raise for the hidden package."""
                if name.partition(".")[0] == package:
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        monkeypatch.setattr(sys, "meta_path", [Hiding, *sys.meta_path])
        for name in list(sys.modules):
            if name.partition(".")[0] == package or "gymnasium.envs.mujoco" in name:
                monkeypatch.delitem(sys.modules, name)

    return hide


# ------------------------------------------------------------------------------------------ missing modules


@pytest.mark.parametrize("module", ["my_mujoco_envs", "pygame_envs", "tests.shimmy"])
def test_a_missing_module_of_the_user_is_not_an_extra(module):
    """The message for a missing module of the user names no extra of the package."""
    assert message_of(f"{module}:Ant-v0") == f"no module named {module}; install its package, {FOLDER}"
    assert message_of("CartPole-v1", wrappers=[f"{module}:Mine"]) == (
        f"no module named {module}; install its package, {FOLDER}"
    )


def test_a_package_that_the_module_of_the_user_needs(site, without):
    """The message names a missing package that the module of the user imports."""
    without("Box2D")
    (site / "walker_envs.py").write_text("import nowhere.at_all\n")
    needed = "nowhere, which walker_envs needs, is not installed; install the package that contains this module"
    assert message_of("walker_envs:Walker-v0") == needed
    (site / "runner_envs.py").write_text("import Box2D\n")
    assert message_of("runner_envs:Runner-v0") == (
        f"Box2D, which runner_envs needs, is not installed; {install_command('box2d')}"
    )
    (site / "jumper_envs.py").write_text("from math import mujoco\n")
    assert message_of("jumper_envs:Jumper-v0").startswith("cannot import name 'mujoco' from 'math' (")


def test_extras_of_gymnasium(without):
    """The message for a missing extra of Gymnasium shows how to install it."""
    without("mujoco")
    assert message_of("HalfCheetah-v5") == f"mujoco is not installed; {install_command('mujoco')}"


@pytest.mark.parametrize("hidden", [False, True])
def test_versions_that_have_moved_to_another_package(without, hidden):
    """The message for an old version names the newest one."""
    if hidden:
        without("mujoco")
    message = message_of("HalfCheetah-v2")
    assert "moved to the gymnasium-robotics project" in message and message.endswith("; use HalfCheetah-v5")


# -------------------------------------------------------------------------------------------- unknown ids


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        (f"{ENVS}:Resluts-v0", f"no such environment; did you mean {ENVS}:Results-v0?"),
        (f"{ENVS}:results-v3", f"no such environment; did you mean {ENVS}:Results-v0?"),
        (f"{ENVS}:Zzz-v0", f"no such environment; the module {ENVS} registers "),
        ("tests.buffer:Nothing-v0", "the module tests.buffer registers no environments"),
        ("CartPol-v1", "no such environment; did you mean CartPole-v1?"),
        ("cartpole-v9", "no such environment; did you mean CartPole-v1?"),
        ("FetchReach-v3", "no such environment; if a module of yours or a package registers it, write module:Fetch"),
        ("a:b:c", "isn't an id; write a gymnasium id or module:id, as in CartPole-v1 or my_envs:Mine-v0"),
        (":Mine-v0", "isn't an id; write a gymnasium id or module:id"),
        ("", "isn't an id; write a gymnasium id or module:id"),
        ("../mine.py:Mine-v0", "../mine.py isn't the name of a module; write mine:Mine-v0; run sheeprl in its folder"),
    ],
)
def test_unknown_ids(env_id, said):
    """The message for an unknown id suggests similar ones."""
    assert message_of(env_id).startswith(said)


def test_ids_of_installed_packages_without_their_module(site):
    """The message names the module that registers an id of an installed package."""
    package = site / "grid_worlds"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import gymnasium\n"
        "print('welcome')\n"
        "gymnasium.register('GridWorld-Corridor-v0', 'grid_worlds.worlds:Empty')\n"
        "gymnasium.register('grid_worlds/Maze-v1', 'grid_worlds.worlds:Maze')\n"
    )
    for name, needs in (("grid_worlds", "gymnasium>=1.0"), ("broken_worlds", "gymnasium"), ("other", "numpy")):
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: {needs}\n")
        (info / "top_level.txt").write_text(f"{name}\n")
    (site / "broken_worlds.py").write_text("raise SystemExit('no display')\n")
    (site / "other.py").write_text("raise AssertionError('it does not need gymnasium')\n")
    use = "the package grid_worlds registers it; use env.id=grid_worlds:GridWorld-Corridor-v0"
    assert message_of("GridWorld-Corridor-v0") == use
    assert message_of("Maze-v1") == "no such environment; did you mean grid_worlds:grid_worlds/Maze-v1?"
    assert message_of("GridWorlds-Corridor-v0") == (
        "no such environment; did you mean grid_worlds:GridWorld-Corridor-v0?"
    )


def test_a_namespace_may_be_a_module(site):
    """The message names the module that has the name of the namespace."""
    (site / "my_worlds.py").write_text("import gymnasium\ngymnasium.register('Desert-v0', 'my_worlds:Desert')\n")
    assert message_of("my_worlds/Desert-v0") == "no such environment; did you mean my_worlds:Desert-v0?"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gymnasium.wrappers:NormaliseObservation", "not found in gymnasium.wrappers; did you mean NormalizeObserv"),
        ("gymnasium.wrappers", "isn't a wrapper; write package.module:Class"),
        (":Mine", "isn't a wrapper; write package.module:Class"),
        ("builtins:str", "returned a str, not a gymnasium environment"),
        ("builtins:exit", "can't be used: SystemExit: "),
    ],
)
def test_unknown_wrappers(path, said):
    """The message for an unknown wrapper suggests similar ones."""
    assert message_of("CartPole-v1", wrappers=[path]).startswith(said)


CONVERSION = (
    'pip install "shimmy[gym-v26]" (gym-v21 for versions before 0.26), then use env.id=shimmy:GymV26Environment-v0'
)

OLD = """
import sys, types
import gymnasium
gym = types.ModuleType("gym.envs.registration")
gym.registry = {"Old-v0": None}
sys.modules["gym.envs.registration"] = gym
"""

OTHER_BASE = """
import gymnasium
class Env: pass
Env.__module__ = "gym.core"
class Mine(Env): pass
gymnasium.register("Mine-v0", Mine)
"""


def test_an_environment_that_is_registered_with_gym_can_be_converted(site, monkeypatch):
    """The message for an environment that only gym knows has the commands that convert it."""
    (site / "old_envs.py").write_text(OLD)
    message = message_of("old_envs:Old-v0")
    assert message.startswith("the module old_envs registers it with gym, not with gymnasium; change its module to")
    assert message.endswith(f'{CONVERSION} "env.kwargs={{env_id: old_envs:Old-v0}}"')


def test_an_environment_of_gym_s_class_can_be_converted(site):
    """The message for a class that isn't derived from gymnasium's has the commands that convert it."""
    (site / "other_envs.py").write_text(OTHER_BASE)
    message = message_of("other_envs:Mine-v0")
    assert message.startswith("its class isn't derived from gymnasium.Env; if it is of gym, change its module to")
    assert CONVERSION in message


def test_a_module_that_needs_gym_is_converted(site, without):
    """The message for a module that imports gym says what replaces it."""
    (site / "needs_gym.py").write_text("import gym\n")
    message = message_of("needs_gym:Mine-v0")
    assert message.startswith("gym, the predecessor of gymnasium, is not installed; change its module to `import gymna")
    assert message.endswith('"env.kwargs={env_id: needs_gym:ID}"')
    assert message_of("shimmy:GymV26Environment-v0").startswith("shimmy is not installed; pip install ")
