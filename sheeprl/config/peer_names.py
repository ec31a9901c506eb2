"""Names of settings in other libraries, and the settings here that correspond to them.

Error messages use the table for hints. `python -m tools.migration` writes it to `docs/migration.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LIBRARIES = {
    "sb3": "Stable-Baselines3",
    "zoo": "RL Baselines3 Zoo",
    "cleanrl": "CleanRL",
    "rllib": "RLlib",
    "old": "SheepRL 0.8.4",
    "other": "Other libraries",
}


@dataclass(frozen=True)
class Use:
    """Settings to use instead.

    Args:
        settings: dotted keys; `section.name=value` if only this value corresponds; none if nothing does.
        note: the difference in unit or meaning, or the reason why there is no setting.
    """

    settings: tuple[str, ...]
    note: str


@dataclass
class Peer:
    """Name of a setting in other libraries.

    Args:
        name: the name, with its section if only that form means the settings.
        uses: what to use instead; an algorithm has the settings of one of them, and the first of these counts.
        libraries: the libraries that use the name, with the form that they use and the uses that they mean.
    """

    name: str
    uses: list[Use] = field(default_factory=list)
    libraries: dict[str, tuple[str, list[Use]]] = field(default_factory=dict)


PEERS: dict[str, Peer] = {}


def _row(settings: str, note: str = "", **names: str) -> None:
    """Add a row to the table.

    Args:
        settings: the settings here; empty if there is none.
        note: the difference in unit or meaning.
        names: the names in each library. `section.name` matches only so; in `section/name` the section may be left out.
    """
    use = Use(tuple(settings.split()), note)
    for library, spelled in names.items():
        for form in spelled.split():
            name = form.rpartition("/")[2] if "/" in form else form
            peer = PEERS.setdefault(name, Peer(name))
            if use not in peer.uses:
                peer.uses.append(use)
            peer.libraries.setdefault(library, (form.replace("/", "."), []))[1].append(use)


def find(name: str) -> tuple[Peer | None, bool]:
    """Return the peer of a dotted key or of its last part, and whether the whole key is in the table."""
    if name in PEERS:
        return PEERS[name], True
    return PEERS.get(name.rpartition(".")[2]), False


# ---------------------------------------------------------------------------------- length, seed, folder

_row(
    "run.total_steps",
    sb3="total_timesteps",
    zoo="n_timesteps",
    cleanrl="total_timesteps",
    rllib="num_env_steps_sampled_lifetime timesteps_total",
    old="algo/total_steps",
    other="total_frames timesteps num_timesteps num_env_steps num_frames",
)
_row(
    "run.total_steps",
    "policy steps; one iteration has algo.rollout_steps × env.num_envs × players.num",
    rllib="training_iteration",
    other="max_iterations num_iterations",
)
_row(
    "run.total_steps",
    "policy steps; the limit of an episode is env.max_episode_steps",
    other="max_steps max_timesteps",
)
_row(
    "run.seed",
    sb3="seed",
    zoo="seed",
    cleanrl="seed",
    rllib="seed",
    old="seed",
)
_row(
    "run.dir",
    "the folder of the run itself",
    sb3="tensorboard_log save_path",
    zoo="log_folder",
    rllib="local_dir",
    old="root_dir",
    other="log_dir logdir log.dir checkpoint.dir checkpoint_dir output_dir",
)
_row("run.dir", "the folder of the run itself; checkpoint.storage names s3:// or gs://", rllib="storage_path")
_row("checkpoint.storage", "as in s3://BUCKET/runs", rllib="upload_dir", other="mirror storage.path")
_row(
    "run.name",
    "the beginning of the run folder's name",
    cleanrl="exp_name",
    old="exp_name run_name",
    other="experiment_name",
)
_row("run.tags", "a list of words", zoo="wandb_tags")
_row(
    "",
    "run.seed fixes all random numbers; on CPU, runs with run.max_staleness=0 are reproducible bit for bit",
    cleanrl="torch_deterministic",
    old="torch_use_deterministic_algorithms cudnn_benchmark",
)
_row("", "use sheeprl resume RUN", old="checkpoint/resume_from", rllib="restore", other="resume_from resume_path")
_row(
    "algo.init_from",
    "a new run with the networks of this one; sheeprl resume RUN continues the run itself",
    zoo="trained_agent",
    other="load_model load_checkpoint pretrained",
)
_row(
    "run.until",
    "a mapping, as in {eval/return: 475, patience: 5}",
    sb3="reward_threshold max_no_improvement_evals",
    rllib="stop",
    other="target_reward stop_return early_stopping",
)
_row("run.callbacks", "as in my_callbacks:Progress", sb3="callback", rllib="callbacks callbacks_class")
_row(
    "",
    "use sheeprl sweep NAME run.seed=0..9",
    cleanrl="num_seeds start_seed",
    other="seeds n_seeds",
)
_row(
    "",
    "use sheeprl tune NAME --trials 30",
    zoo="optimize_hyperparameters n_trials max_total_trials n_startup_trials sampler pruner study_name",
    rllib="num_samples",
)
_row("", "use sheeprl train NAME --dry-run", old="dry_run")
_row(
    "",
    "name the algorithm first, as in sheeprl train ppo",
    zoo="algo",
    other="algorithm algo_name agent",
)

# -------------------------------------------------------------------------------------- environment

_row(
    "env.id",
    sb3="env_id",
    zoo="env",
    cleanrl="env_id",
    rllib="environment env",
    old="env.id",
    other="env_name env.name env.env_id gym_id environment_id environment_name task",
)
_row(
    "env.num_envs",
    "environments of one player",
    sb3="n_envs",
    zoo="n_envs",
    cleanrl="num_envs",
    rllib="num_envs_per_env_runner num_envs_per_worker",
    old="env/num_envs",
    other="nenvs env.num",
)
_row(
    "env.kwargs",
    sb3="env_kwargs",
    zoo="env_kwargs",
    rllib="env_config",
)
_row(
    "env.vectorization",
    "sync, async or native",
    sb3="vec_env_cls",
    zoo="vec_env",
    rllib="gym_env_vectorize_mode",
    old="env/sync_env",
)
_row(
    "env.wrappers",
    "a list of names or package.module:Class, also with arguments",
    sb3="wrapper_class",
    zoo="env_wrapper",
    old="env/wrapper",
)
_row(
    "algo.normalize_obs=true algo.normalize_reward=true",
    "running statistics inside the policy, saved with it",
    zoo="normalize",
)
_row("algo.normalize_obs=true", "running statistics inside the policy", rllib="observation_filter")
_row(
    "env.wrappers",
    "use the wrapper clip_reward; metrics show the true returns",
    rllib="clip_rewards",
    old="env/clip_rewards",
)
_row(
    "env.wrappers",
    "use a wrapper",
    zoo="vec_env_wrapper",
)
_row(
    "env.wrappers",
    "use the wrapper frame_stack",
    zoo="frame_stack",
    old="env/frame_stack env/frame_stack_dilation",
)
_row(
    "env.wrappers",
    "use the wrapper of this name",
    old="env/action_repeat env/grayscale env/mask_velocities env/reward_as_observation env/actions_as_observation",
)
_row(
    "env.wrappers",
    "use the wrapper resize",
    old="env/screen_size",
)
_row(
    "env.max_episode_steps",
    "the length of a rollout is algo.rollout_steps",
    rllib="horizon",
)
_row(
    "env.max_episode_steps",
    old="env/max_episode_steps",
    other="max_ep_len time_limit",
)
_row(
    "env.capture_video",
    "sheeprl eval RUN --video films the trained policy",
    cleanrl="capture_video",
    old="env/capture_video",
    other="record_video save_video",
)
_row("", "use sheeprl enjoy RUN", other="render visualize")

# ------------------------------------------------------------------------------------------- players

_row(
    "players.num",
    "each player runs env.num_envs environments",
    rllib="num_workers num_env_runners num_rollout_workers",
)
_row(
    "players.cpus",
    rllib="num_cpus_per_env_runner num_cpus_per_worker",
)
_row(
    "players.gpus",
    rllib="num_gpus_per_env_runner num_gpus_per_worker",
)
_row(
    "players.fragment_rows",
    "rows per environment",
    rllib="rollout_fragment_length",
)
_row(
    "players.step_timeout",
    rllib="sample_timeout_s",
)
_row(
    "ray.max_failures",
    "failures within ray.failure_window seconds",
    rllib="max_num_env_runner_restarts",
)
_row(
    "",
    "lost workers are always replaced, up to ray.max_failures times",
    rllib="restart_failed_env_runners ignore_env_runner_failures",
)

# ------------------------------------------------------------------------------ learning rates, networks

_row(
    "algo.learning_rate",
    sb3="learning_rate",
    zoo="learning_rate",
    cleanrl="learning_rate",
    rllib="lr",
    old="algo.optimizer.lr",
)
_row(
    "algo.actor_lr algo.critic_lr algo.alpha_lr",
    sb3="learning_rate",
    zoo="learning_rate",
    rllib="lr",
)
_row("algo.actor_lr", cleanrl="policy_lr", rllib="actor_lr", old="algo.actor.optimizer.lr")
_row("algo.actor_lr", other="pi_lr lr_actor actor_learning_rate policy_learning_rate")
_row("algo.critic_lr", cleanrl="q_lr", rllib="critic_lr", old="algo.critic.optimizer.lr")
_row("algo.critic_lr", other="qf_lr lr_critic critic_learning_rate q_learning_rate")
_row("algo.alpha_lr", rllib="alpha_lr", old="algo.alpha.optimizer.lr")
_row("algo.alpha_lr", other="lr_alpha")
_row(
    "algo.final_learning_rate=0",
    "the rate at the end of the run, reached linearly",
    cleanrl="anneal_lr",
    rllib="lr_schedule",
    old="algo/anneal_lr",
    other="lr_decay",
)
_row("algo.final_clip=0", "the clip range at the end of the run, reached linearly", old="algo/anneal_clip_coef")
_row("algo.desired_kl", "adapts the learning rate to a KL divergence", other="kl_threshold")
_row("algo.adam_eps", old="algo.optimizer.eps optimizer_eps", other="adam_epsilon")
_row(
    "algo.max_grad_norm",
    sb3="max_grad_norm",
    cleanrl="max_grad_norm",
    rllib="grad_clip",
    old="algo/max_grad_norm",
    other="grad_norm clip_grad_norm",
)
_row(
    "algo.hidden_sizes",
    "a list of widths, as in [64, 64]",
    sb3="net_arch policy_kwargs",
    zoo="policy_kwargs",
    rllib="fcnet_hiddens model_config model",
    old="algo/dense_units algo/mlp_layers algo/hidden_size",
    other="hidden_dim hid ac_kwargs",
)
_row("algo.units", "the width of each hidden layer", old="algo/dense_units")
_row("algo.layers", "the number of hidden layers", old="algo/mlp_layers")
_row(
    "algo.activation",
    sb3="activation_fn",
    rllib="fcnet_activation",
    old="algo/dense_act",
)
_row(
    "algo.memory",
    "lstm or gru",
    rllib="use_lstm",
)
_row(
    "algo.memory_size",
    sb3="lstm_hidden_size",
    zoo="lstm_hidden_size",
    rllib="lstm_cell_size",
)
_row(
    "algo.sequence",
    rllib="max_seq_len",
    old="algo/per_rank_sequence_length",
)
_row("algo.sequence_length", old="algo/per_rank_sequence_length", other="batch_length")
_row(
    "algo.log_std_init",
    "the logarithm",
    sb3="log_std_init",
)
_row(
    "",
    "the networks follow from the spaces; set their widths with algo.hidden_sizes",
    sb3="policy features_extractor_class ortho_init",
)
_row("algo.layer_norm", old="algo/layer_norm")
_row(
    "",
    "each algorithm has its own optimizer; algo.adam_eps or algo.rmsprop_eps sets its epsilon",
    sb3="optimizer_class optimizer_kwargs",
)

# ---------------------------------------------------------------------------------------- on-policy

_row("algo.gamma", sb3="gamma", cleanrl="gamma", rllib="gamma", old="algo/gamma", other="discount discount_factor")
_row(
    "algo.gae_lambda",
    sb3="gae_lambda",
    cleanrl="gae_lambda",
    rllib="lambda lambda_",
    old="algo/gae_lambda",
    other="lam lmbda gae_lam",
)
_row(
    "",
    "advantages are always those of GAE; set algo.gae_lambda",
    rllib="use_gae",
)
_row(
    "algo.rollout_steps",
    "rows of each environment",
    sb3="n_steps",
    cleanrl="num_steps",
    old="algo/rollout_steps",
    other="horizon_length num_steps_per_env rollout_length",
)
_row(
    "algo.rollout_steps",
    "rows of each environment: divide by env.num_envs × players.num",
    rllib="train_batch_size train_batch_size_per_learner",
    other="frames_per_batch steps_per_epoch",
)
_row("algo.batch_size", "over the whole trainer group", rllib="train_batch_size train_batch_size_per_learner")
_row(
    "algo.batch_size",
    "over the whole trainer group",
    sb3="batch_size",
    cleanrl="batch_size",
    rllib="minibatch_size sgd_minibatch_size",
    other="mini_batch_size batch",
)
_row("algo.batch_size", "over the whole trainer group: multiply by the number of ranks", old="algo/per_rank_batch_size")
_row(
    "algo.batch_size",
    "a size: algo.rollout_steps × env.num_envs × players.num, divided by that number",
    cleanrl="num_minibatches",
    other="num_mini_batches",
)
_row(
    "algo.epochs",
    sb3="n_epochs",
    cleanrl="update_epochs",
    rllib="num_epochs num_sgd_iter",
    old="algo/update_epochs",
    other="noptepochs ppo_epochs mini_epochs",
)
_row(
    "algo.clip",
    sb3="clip_range",
    cleanrl="clip_coef",
    rllib="clip_param",
    old="algo/clip_coef",
    other="cliprange clip_ratio clip_epsilon eps_clip e_clip",
)
_row(
    "algo.value_coef",
    sb3="vf_coef",
    cleanrl="vf_coef",
    rllib="vf_loss_coeff",
    old="algo/vf_coef",
    other="value_loss_coef critic_coef",
)
_row(
    "algo.entropy_coef",
    sb3="ent_coef",
    zoo="ent_coef",
    cleanrl="ent_coef",
    rllib="entropy_coeff",
    old="algo/ent_coef",
)
_row(
    "algo.normalize_advantage",
    sb3="normalize_advantage",
    cleanrl="norm_adv",
    old="algo/normalize_advantages",
)
_row(
    "algo.clip_value",
    "a clip range; leave it out to train without",
    sb3="clip_range_vf",
    cleanrl="clip_vloss",
    rllib="vf_clip_param",
    old="algo/clip_vloss",
    other="value_clip",
)
_row(
    "",
    "there is no KL penalty; algo.target_kl ends a round's training early, algo.desired_kl adapts the learning rate",
    rllib="kl_coeff kl_target use_kl_loss",
)
_row(
    "algo.final_entropy_coef",
    "the coefficient at the end of the run, such as 0",
    rllib="entropy_coeff_schedule",
    old="algo/anneal_ent_coef",
)
_row("", "the noise is drawn in every step", sb3="use_sde sde_sample_freq")

# --------------------------------------------------------------------------------------- off-policy

_row(
    "buffer.size",
    "rows",
    sb3="buffer_size",
    cleanrl="buffer_size",
    rllib="capacity replay_buffer_config",
    old="buffer/size",
    other="replay_size replay_capacity replay_buffer_size",
)
_row(
    "algo.replay_ratio",
    "gradient steps per policy step: gradient_steps ÷ (train_freq × n_envs)",
    sb3="gradient_steps train_freq",
    other="train_frequency",
)
_row("algo.replay_ratio", "gradient steps per policy step: divide by algo.batch_size", rllib="training_intensity")
_row(
    "algo.replay_ratio",
    "gradient steps per policy step",
    old="algo/replay_ratio algo/per_rank_gradient_steps",
    other="utd utd_ratio updates_per_step",
)
_row(
    "algo.learning_starts",
    "policy steps",
    sb3="learning_starts",
    cleanrl="learning_starts",
    rllib="num_steps_sampled_before_learning_starts",
    old="algo/learning_starts",
    other="start_steps start_timesteps random_steps init_random_frames update_after learning_start",
)
_row("buffer.init_from", "the run of the exploration", old="buffer.load_from_exploration")
_row("algo.pretrain_steps", old="algo.per_rank_pretrain_steps", other="pretrain")
_row(
    "algo.tau",
    sb3="tau",
    cleanrl="tau",
    rllib="tau",
    old="algo/tau",
)
_row("algo.tau", "1 − polyak", other="polyak")
_row(
    "algo.target_every",
    "gradient steps; multiply environment steps by algo.replay_ratio, and use at least one call's gradient_steps",
    sb3="target_update_interval",
    cleanrl="target_network_frequency",
    rllib="target_network_update_freq",
    other="target_update_period target_update_freq sync_target_every hard_update_freq",
)
_row(
    "algo.target_delay",
    "gradient steps per update of the targets, which move by algo.tau",
    sb3="target_update_interval",
    cleanrl="target_network_frequency",
    rllib="target_network_update_freq",
    old="algo.critic.per_rank_target_network_update_freq",
)
_row("algo.encoder_tau", old="algo.encoder.tau")
_row("algo.epsilon", sb3="exploration_initial_eps", cleanrl="start_e", rllib="initial_epsilon", other="eps_start")
_row(
    "algo.final_epsilon",
    sb3="exploration_final_eps",
    cleanrl="end_e",
    rllib="final_epsilon",
    other="eps_end eps_min epsilon_min epsilon_end",
)
_row(
    "algo.exploration_fraction",
    "fraction of the run",
    sb3="exploration_fraction",
    cleanrl="exploration_fraction",
)
_row(
    "algo.exploration_fraction",
    "fraction of the run: divide by run.total_steps",
    rllib="epsilon_timesteps",
    other="eps_decay epsilon_decay",
)
_row("algo.q_lambda", cleanrl="q_lambda")
_row("algo.double", rllib="double_q", other="double_dqn use_double is_double")
_row("algo.dueling", rllib="dueling", other="dueling_dqn")
_row("algo.noisy", rllib="noisy", other="noisy_net noisy_nets")
_row("algo.noisy_std", rllib="sigma0", other="noisy_sigma sigma_init")
_row("algo.n_step", cleanrl="n_step", rllib="n_step", other="multi_step nstep")
_row("algo.prioritized", other="prioritized_replay use_per per")
_row("algo.atoms", "with algo.head=c51", cleanrl="n_atoms", rllib="num_atoms", other="atom_size")
_row("algo.v_min", "with algo.head=c51", cleanrl="v_min", rllib="v_min", other="vmin")
_row("algo.v_max", "with algo.head=c51", cleanrl="v_max", rllib="v_max", other="vmax")
_row("algo.quantiles", "with algo.head=qr", sb3="n_quantiles", other="num_quantiles")
_row("algo.alpha", "the initial temperature; fixed with algo.learn_alpha=false", sb3="ent_coef", zoo="ent_coef")
_row(
    "algo.alpha",
    "the initial temperature; fixed with algo.learn_alpha=false",
    cleanrl="alpha",
    rllib="initial_alpha",
    old="algo.alpha.alpha",
    other="init_alpha",
)
_row(
    "algo.learn_alpha",
    cleanrl="autotune",
    other="automatic_entropy_tuning auto_alpha auto_entropy",
)
_row(
    "algo.target_entropy",
    sb3="target_entropy",
    rllib="target_entropy",
)
_row("algo.target_entropy_scale", cleanrl="target_entropy_scale")
_row("algo.latent_penalty", old="algo.decoder.l2_lambda")
_row("algo.cnn_features", old="algo.encoder.features_dim")
_row("algo.critics", sb3="n_critics", old="algo.critic.n")
_row("algo.critics", "2 with twin_q, 1 without", rllib="twin_q")
_row(
    "algo.policy_delay",
    "gradient steps per step of the actor",
    cleanrl="policy_frequency",
    old="algo.actor.per_rank_update_freq",
)
_row("algo.exploration_noise", "standard deviation of normal noise", sb3="action_noise")
_row("algo.target_noise", sb3="target_policy_noise", cleanrl="policy_noise", rllib="target_noise")
_row("algo.noise_clip", sb3="target_noise_clip", rllib="target_noise_clip")
_row(
    "",
    "the buffer stores observations and actions once; buffer.memmap=true moves them out of the memory",
    sb3="optimize_memory_usage replay_buffer_class",
)
_row(
    "buffer.memmap",
    old="buffer/memmap",
)

# ------------------------------------------------------------------------------------- world models

_row("algo.cnn_keys", old="algo.cnn_keys.encoder")
_row("algo.mlp_keys", old="algo.mlp_keys.encoder")
_row("algo.deter", old="algo.world_model.recurrent_model/recurrent_state_size")
_row("algo.categoricals", old="algo.world_model/stochastic_size")
_row("algo.stoch", old="algo.world_model/stochastic_size")
_row("algo.classes", old="algo.world_model/discrete_size")
_row("algo.depth", old="algo.world_model.encoder/cnn_channels_multiplier")
_row("algo.free_nats", old="algo.world_model/kl_free_nats")
_row("algo.prior_scale", old="algo.world_model/kl_dynamic")
_row("algo.posterior_scale", old="algo.world_model/kl_representation")
_row("algo.model_lr", old="algo.world_model.optimizer.lr")
_row("algo.learning_rate", "of all networks", old="algo.world_model.optimizer.lr")
_row("algo.uniform_mix", old="algo/unimix")
_row("algo.lambda_", old="algo/lmbda")
_row("algo.target_tau", old="algo.critic.tau")

# ---------------------------------------------------------------------------------- trainers, machine

_row(
    "trainer.accelerator",
    "cpu, cuda, mps or auto",
    sb3="device",
    zoo="device",
    old="fabric.accelerator",
)
_row("trainer.accelerator=cuda", cleanrl="cuda", other="gpu use_cuda use_gpu")
_row("trainer.accelerator=cpu", cleanrl="no_cuda", other="cpu no_gpu use_cpu disable_cuda cpu_only")
_row(
    "trainer.devices",
    "one rank each; with trainer.accelerator=cuda",
    rllib="num_gpus num_learners num_gpus_per_learner",
    old="fabric.devices",
    other="n_gpus ngpus",
)
_row(
    "trainer.num_nodes",
    old="fabric.num_nodes",
)
_row(
    "trainer.strategy",
    old="fabric.strategy",
)
_row("trainer.precision", "32-true or bf16-mixed", old="fabric.precision", other="mixed_precision")
_row(
    "trainer.compile",
    rllib="torch_compile_learner",
    other="torch_compile",
)
_row(
    "trainer.threads",
    zoo="num_threads",
    old="num_threads",
)
_row(
    "",
    "the framework is PyTorch",
    rllib="framework",
)
_row("", "float32 matrix products keep PyTorch's default precision", old="float32_matmul_precision")

# ------------------------------------------------------------------------- checkpoints, evaluation, log

_row(
    "checkpoint.every",
    "policy steps over all environments",
    sb3="save_freq",
    zoo="save_freq",
    rllib="checkpoint_freq checkpoint_frequency",
    old="checkpoint.every",
    other="save_interval checkpoint_interval save_every checkpoint.freq checkpoint.interval",
)
_row(
    "checkpoint.keep_last",
    rllib="num_to_keep keep_checkpoints_num",
    other="max_checkpoints max_to_keep",
    old="checkpoint/keep_last",
)
_row(
    "checkpoint.keep_best",
    "the number of best checkpoints to keep, by checkpoint.best_by; sheeprl eval RUN --best loads the best one",
    sb3="best_model_save_path",
    other="save_best",
)
_row(
    "checkpoint.best_by",
    "episode/return or eval/return",
    rllib="checkpoint_score_attr checkpoint_score_attribute",
)
_row(
    "", "every run ends with a checkpoint", rllib="checkpoint_at_end", cleanrl="save_model", old="checkpoint/save_last"
)
_row(
    "buffer.checkpoint",
    zoo="save_replay_buffer",
    old="buffer/checkpoint",
)
_row(
    "eval.every",
    "policy steps over all environments; SB3 counts its own steps, each of n_envs policy steps",
    sb3="eval_freq",
    zoo="eval_freq",
    other="eval.freq",
)
_row("eval.every", "policy steps; RLlib counts iterations", rllib="evaluation_interval")
_row(
    "eval.every",
    "policy steps over all environments",
    other="eval_interval eval_every eval.interval",
)
_row(
    "eval.episodes",
    sb3="n_eval_episodes",
    zoo="eval_episodes",
    rllib="evaluation_duration",
    other="num_eval_episodes eval.num_episodes eval.num eval.n_episodes",
)
_row(
    "eval.episodes",
    "0 disables evaluation",
    old="algo/run_test",
)
_row("", "an evaluation runs up to 16 environments", zoo="n_eval_envs", rllib="evaluation_num_env_runners")
_row(
    "eval.env",
    "the settings that evaluations change, as in {kwargs: {difficulty: hard}}",
    sb3="eval_env",
    zoo="eval_env_kwargs",
    rllib="evaluation_config",
)
_row(
    "log.every",
    "policy steps over all environments",
    sb3="log_interval",
    zoo="log_interval",
    old="metric/log_every",
    other="log_freq log.freq log.interval",
)
_row(
    "log.level",
    "debug, info, warning or error",
    sb3="verbose",
    zoo="verbose",
    rllib="log_level",
    old="metric/log_level",
)
_row(
    "",
    "a terminal shows the progress; log.ui=panel adds curves, log.level=warning hides it",
    sb3="progress_bar",
    zoo="progress",
)
_row(
    "",
    "the mean return is that of the last 100 episodes",
    sb3="stats_window_size",
    rllib="metrics_num_episodes_for_smoothing",
)
_row(
    "log.to",
    "as in [tensorboard, wandb]; the environment variable WANDB_MODE=online uploads",
    zoo="track",
    cleanrl="track",
    other="wandb use_wandb",
)
_row(
    "log.to",
    "as in [tensorboard, wandb]; the environment variable WANDB_PROJECT names the project",
    zoo="wandb_project_name",
    cleanrl="wandb_project_name",
    other="wandb_project",
)
_row(
    "log.to",
    "as in [tensorboard, wandb]; the environment variable WANDB_ENTITY names the entity",
    zoo="wandb_entity",
    cleanrl="wandb_entity",
)
_row(
    "log.to",
    "as in [tensorboard, mlflow]; the environment variable MLFLOW_TRACKING_URI names the server",
    other="mlflow use_mlflow mlflow_tracking_uri tracking_uri",
)
_row("log.to", "a list of tensorboard, wandb, mlflow and trackio", old="metric.logger", other="logger loggers tracker")
_row(
    "",
    "use sheeprl push RUN hf:USER/REPO",
    zoo="repo_name orga",
    cleanrl="upload_model hf_entity",
    old="model_manager",
    other="push_to_hub hub_model_id",
)
