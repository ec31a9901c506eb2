"""Test the conversion of the hyperparameters of RL Baselines3 Zoo."""

import pytest

from sheeprl.config.loading import load_config
from sheeprl.config.zoo import convert
from sheeprl.utils.errors import ConfigError

ENTRIES = {
    "ppo": """
CartPole-v1: &small
  n_envs: 8
  n_timesteps: !!float 1e5
  policy: MlpPolicy
  n_steps: 32
  batch_size: 256
  gae_lambda: 0.8
  n_epochs: 20
  learning_rate: lin_0.001
  clip_range: lin_0.2
Acrobot-v1:
  <<: *small
  normalize: true
  n_envs: 16
Walker2d-v2:
  normalize: "{'norm_obs': True, 'norm_reward': False}"
  n_timesteps: 1000000
  use_sde: true
  policy_kwargs: "dict(log_std_init=-2, ortho_init=False, activation_fn=nn.ReLU,
    net_arch=[dict(pi=[256, 256], vf=[256, 256])])"
MountainCar-v0:
  policy_kwargs: "dict(net_arch=dict(pi=[64], vf=[32]), activation_fn=nn.GELU)"
  vec_env_wrapper: my.Wrapper
  nonsense: 3
atari:
  env_wrapper: [stable_baselines3.common.atari_wrappers.AtariWrapper]
  frame_stack: 4
  n_envs: 8
CarRacing-v2:
  env_wrapper:
    - rl_zoo3.wrappers.FrameSkip: {skip: 2}
    - gymnasium.wrappers.resize_observation.ResizeObservation: {shape: 64}
    - rl_zoo3.wrappers.HistoryWrapper: {horizon: 2}
  frame_stack: 2
""",
    "a2c": """
CartPole-v1:
  n_envs: 8
  n_timesteps: 500000
  policy_kwargs: "dict(optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(eps=1e-6))"
""",
    "dqn": """
CartPole-v1:
  n_timesteps: 50000
  learning_rate: 0.0023
  batch_size: 64
  buffer_size: 100000
  target_update_interval: 10
  train_freq: 256
  gradient_steps: 128
  exploration_fraction: 0.16
  exploration_final_eps: 0.04
  policy_kwargs: "dict(net_arch=[256, 256])"
Acrobot-v1:
  n_envs: 2
  gradient_steps: -1
""",
    "sac": """
Pendulum-v1:
  n_timesteps: 20000
  learning_rate: 0.001
  train_freq: [1, episode]
  gradient_steps: -1
BipedalWalker-v3:
  learning_rate: lin_7.3e-4
  ent_coef: auto_0.5
  train_freq: 64
  gradient_steps: 32
MountainCarContinuous-v0:
  ent_coef: 0.1
  train_freq: [1, episode]
  gradient_steps: 64
""",
    "td3": """
Pendulum-v1:
  noise_type: ornstein-uhlenbeck
  noise_std: 0.2
  replay_buffer_kwargs: "dict(handle_timeout_termination=True)"
""",
}


@pytest.fixture
def converted(tmp_path):
    """Convert an entry, write it, and return the validated configuration and the notes without their places."""

    def convert_entry(algorithm, env):
        """Convert the entry of an environment."""
        path = tmp_path / f"{algorithm}.yml"
        path.write_text(ENTRIES[algorithm], encoding="utf-8")
        result = convert(path, env)
        written = tmp_path / "converted.yaml"
        written.write_text(result.to_yaml(), encoding="utf-8")
        return load_config(written), [note.removeprefix(f"{tmp_path}/") for note in result.notes]

    return convert_entry


def test_an_entry_becomes_a_configuration(converted):
    """Values are converted, with schedules and the defaults of the other library where they differ."""
    config, notes = converted("ppo", "CartPole-v1")
    algo = config.algo
    assert notes == []
    assert (config.env.id, config.env.num_envs, config.run.total_steps) == ("CartPole-v1", 8, 100_000)
    assert (algo.rollout_steps, algo.batch_size, algo.epochs, algo.gae_lambda) == (32, 256, 20, 0.8)
    assert (algo.learning_rate, algo.final_learning_rate, algo.clip, algo.final_clip) == (0.001, 0.0, 0.2, 0.0)


def test_entries_inherit_by_yaml_anchors(converted):
    """An entry may take settings of another one by an anchor, and replace some."""
    config, notes = converted("ppo", "Acrobot-v1")
    assert notes == [] and config.env.num_envs == 16 and config.algo.epochs == 20
    assert config.algo.normalize_obs and config.algo.normalize_reward


def test_policy_kwargs_are_read_without_running_them(converted):
    """Arguments of the policy are read from text, and settings without a counterpart have a line each."""
    config, notes = converted("ppo", "Walker2d-v5")
    algo = config.algo
    assert (algo.hidden_sizes, algo.activation, algo.log_std_init) == ((256, 256), "relu", -2.0)
    assert (algo.normalize_obs, algo.normalize_reward) == (True, False)
    assert (algo.rollout_steps, config.env.num_envs) == (2048, 1)  # of the other library
    assert notes == [
        "ppo.yml:16: the entry Walker2d-v2 is used for Walker2d-v5",
        "ppo.yml:20: ortho_init=false: networks here have orthogonal weights",
        "ppo.yml:19: use_sde=true: state-dependent exploration doesn't exist here; the noise is drawn in every step",
    ]


def test_what_has_no_counterpart_is_named(converted):
    """Each setting without a counterpart has a line with its reason."""
    _, notes = converted("ppo", "MountainCar-v0")
    assert [note.partition("=")[0].rpartition(" ")[2] for note in notes] == [
        "net_arch",
        "activation_fn",
        "vec_env_wrapper",
        "nonsense",
    ]
    assert notes[-1] == "ppo.yml:25: nonsense=3: ppo has no such setting"


def test_wrappers_have_their_names_here(converted):
    """Wrappers get the short names, with their arguments and the stacked frames."""
    config, notes = converted("ppo", "BreakoutNoFrameskip-v4")
    assert config.env.id == "ALE/Breakout-v5" and config.env.kwargs == {"repeat_action_probability": 0.0}
    assert config.env.wrapper_calls == (("atari", {"life_loss": True, "frame_stack": 4}),)
    assert notes == ["ppo.yml:26: the entry atari is used for BreakoutNoFrameskip-v4"]
    config, notes = converted("ppo", "CarRacing-v2")
    assert config.env.id == "CarRacing-v3" and len(notes) == 2 and "needs the package rl_zoo3" in notes[1]
    assert config.env.wrapper_calls == (
        ("action_repeat", {"amount": 2}),
        ("resize", {"size": 64}),
        ("rl_zoo3.wrappers:HistoryWrapper", {"horizon": 2}),
        ("frame_stack", {"stack_size": 2}),
    )


def test_the_optimizer_of_a2c_is_converted(converted):
    """The optimizer that the zoo chooses is the one here."""
    config, notes = converted("a2c", "CartPole-v1")
    assert notes == [] and config.algo.rmsprop_eps == 1e-6 and config.algo.learning_rate == 7e-4


def test_training_frequencies_become_a_replay_ratio(converted):
    """Gradient steps per step of an environment, and target updates in gradient steps."""
    config, notes = converted("dqn", "CartPole-v1")
    assert notes == []
    assert (config.algo.replay_ratio, config.algo.target_every, config.buffer.size) == (0.5, 128, 100_000)
    assert (config.algo.double, config.algo.learning_starts, config.algo.final_epsilon) == (False, 100, 0.04)
    config, _ = converted("dqn", "Acrobot-v1")
    assert (config.algo.replay_ratio, config.algo.target_every) == (1.0, 10_000)


def test_temperatures_and_episodes_of_sac(converted):
    """A learned temperature stays learned, a fixed one is fixed, and training by episodes is noted."""
    config, notes = converted("sac", "Pendulum-v1")
    assert notes == [] and (config.algo.actor_lr, config.algo.replay_ratio) == (0.001, 1.0)
    config, notes = converted("sac", "BipedalWalker-v3")
    assert (config.algo.alpha, config.algo.learn_alpha, config.algo.replay_ratio) == (0.5, True, 0.5)
    assert notes == ["sac.yml:8: learning_rate=lin_7.3e-4: sac has no schedule; the rate stays at 0.00073"]
    config, notes = converted("sac", "MountainCarContinuous-v0")
    assert (config.algo.alpha, config.algo.learn_alpha) == (0.1, False)
    assert len(notes) == 1 and notes[0].startswith("sac.yml:14: train_freq=[1, episode]: ")


def test_noise_of_td3(converted):
    """Noise on actions is converted, and correlated noise is noted."""
    config, notes = converted("td3", "Pendulum-v1")
    assert (config.algo.exploration_noise, config.algo.hidden_sizes, config.algo.actor_lr) == (0.2, (400, 300), 1e-3)
    assert notes == ["td3.yml:3: noise_type=ornstein-uhlenbeck: normal noise of the same deviation is used"]


@pytest.mark.parametrize(
    ("name", "text", "env", "mistake"),
    [
        ("ppo", "CartPole-v1: {n_envs: 1}", "CartPol-v1", "has no entry CartPol-v1; did you mean CartPole-v1?"),
        ("ppo", "CartPole-v1: 3", "CartPole-v1", "must have an entry of settings per environment"),
        ("ppo", "CartPole-v1: {learning_rate: fast}", "CartPole-v1", "isn't a number or a schedule"),
        ("tqc", "CartPole-v1: {}", "CartPole-v1", "no algorithm here is tqc"),
    ],
)
def test_a_file_that_cannot_be_converted_is_a_mistake(tmp_path, name, text, env, mistake):
    """The mistake has the file and the cause."""
    path = tmp_path / f"{name}.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=mistake.replace("(", r"\(").replace("?", r"\?")):
        convert(path, env)


def test_the_nearest_algorithm_is_noted(tmp_path):
    """A variant of an algorithm is converted with the settings that make it."""
    path = tmp_path / "qrdqn.yml"
    path.write_text("CartPole-v1: {n_quantiles: 10}", encoding="utf-8")
    result = convert(path, "CartPole-v1")
    assert result.tree["algo"]["head"] == "qr" and result.tree["algo"]["quantiles"] == 10
    assert result.notes == [f"{path}: algo=qrdqn: is converted to dqn algo.head=qr, the nearest algorithm"]


def test_a_callback_is_named_as_a_setting_without_a_counterpart(tmp_path):
    """A callback of the zoo isn't taken over, since callbacks here have another form."""
    file = tmp_path / "ppo.yml"
    file.write_text("CartPole-v1:\n  n_timesteps: 1000\n  callback: rl_zoo3.callbacks.ParallelTrainCallback\n")
    result = convert(file, "CartPole-v1")
    assert "callbacks" not in result.tree.get("run", {})
    assert any("callback=rl_zoo3" in note and "run.callbacks" in note for note in result.notes)


def test_minibatch_larger_than_the_rollout_is_the_rollout(tmp_path):
    """Stable-Baselines3 takes the whole rollout as a minibatch; so does the converted configuration."""
    path = tmp_path / "ppo.yml"
    path.write_text("CartPole-v1:\n  n_steps: 8\n  n_envs: 2\n  batch_size: 256\n")
    converted = convert(path, "CartPole-v1")
    assert converted.tree["algo"]["batch_size"] == 16
    assert converted.notes == [
        f"{path}:4: batch_size=256: is larger than the rollout; the minibatch is the rollout of 16 rows"
    ]
