"""SAC-AE's groups, phases and loss."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict

from sheeprl.algos.base import Spaces, Step
from sheeprl.algos.sac_ae.args import SACAEArgs
from sheeprl.algos.sac_ae.loss import quantized
from sheeprl.algos.sac_ae.sac_ae import SACAE
from sheeprl.models import noise as device_noise

PICTURE = spaces.Box(0, 255, (6, 8, 3), np.uint8)
BOTH = spaces.Dict({"rgb": PICTURE, "state": spaces.Box(-1.0, 1.0, (2,)), "top": spaces.Box(0, 255, (5, 5), np.uint8)})


def build_sac_ae(observation=PICTURE, **args):
    """Build SAC-AE for two continuous actions."""
    args = SACAEArgs(name="sac_ae", hidden_sizes=(8,), cnn_features=6, **args)
    return SACAE(args, Spaces(observation, spaces.Box(-1.0, 1.0, (2,))))


def batch(observation=PICTURE, count=4):
    """Return random transitions."""
    observation.seed(0)
    samples = [observation.sample() for _ in range(count)]
    rows = {"action": torch.rand(count, 2), "reward": torch.rand(count), "terminated": torch.zeros(count) > 0}
    for name in ("obs", "next_obs"):
        if isinstance(observation, spaces.Dict):
            parts = {key: torch.as_tensor(np.stack([sample[key] for sample in samples])) for key in observation}
            rows[name] = TensorDict(parts, [count])
        else:
            rows[name] = torch.as_tensor(np.stack(samples))
    return TensorDict({**rows, "sample_weight": torch.full((count,), 1 / count)}, [count])


def test_actor_and_targets_in_every_second_step():
    """Critics and autoencoder learn in every step; actor, temperature and targets in every second one."""
    algorithm = build_sac_ae()
    autoencoder = ("encoder", "decoder")
    first, second = (algorithm.phases(Step(step, 0.0)) for step in (0, 1))
    assert [phase.optimizer for phase in first] == ["critic", autoencoder]
    assert [phase.optimizer for phase in second] == ["critic", "actor", "alpha", autoencoder]
    assert [len(phase.target_updates) for phase in (*first, *second)] == [0, 0, 3, 0, 0, 0]
    rates = {update.target: update.tau for update in second[0].target_updates}
    assert rates == {"critic_target.networks": 0.01, "critic_target.trunk": 0.05, "encoder_target": 0.05}


def test_optimizers():
    """The encoder has two optimizers, the decoder a weight decay, and the temperature a beta1 of its own."""
    specs = build_sac_ae().optimizers()
    assert specs["critic"].modules == ("policy.encoder", "critic")
    assert specs["encoder"].modules == ("policy.encoder", "critic.trunk")
    decoder, alpha = (specs[name].build([torch.nn.Parameter(torch.zeros(1))]) for name in ("decoder", "alpha"))
    assert decoder.param_groups[0]["weight_decay"] == 1e-7 and alpha.param_groups[0]["betas"] == (0.5, 0.999)


def test_autoencoder_loss():
    """The loss is the error of the decoded pictures plus the penalty of their encoding."""
    algorithm = build_sac_ae(latent_penalty=0.1)
    agent, rows = algorithm.build_agent(), batch()
    noise = algorithm.autoencoder_noise(torch.Size([4]), torch.Generator().manual_seed(0))
    loss = algorithm.autoencoder_loss(agent, rows, noise, {})
    pictures = rows["obs"].movedim(-1, 1) / 255
    latent = agent.critic.trunk(agent.policy.encoder(rows["obs"]))
    uniform = device_noise.uniform(noise["seed"], 0, (3, 6, 8))
    error = (agent.decoder[0](latent) - quantized(pictures, uniform)).square().mean()
    torch.testing.assert_close(loss.value, error + 0.1 * 0.5 * latent.square().sum(-1).mean())
    torch.testing.assert_close(loss.metrics["Loss/reconstruction_loss"], error.detach())


def test_every_picture_is_decoded_and_no_vector():
    """A Dict has a decoder for each picture; all read the projection of all pictures."""
    algorithm = build_sac_ae(BOTH)
    agent, rows = algorithm.build_agent(), batch(BOTH)
    noise = algorithm.autoencoder_noise(torch.Size([4]), torch.Generator().manual_seed(0))
    algorithm.autoencoder_loss(agent, rows, noise, {}).value.backward()
    latent = agent.latent(agent.policy.encoder(rows["obs"]))
    assert [decoder(latent).shape for decoder in agent.decoder] == [(4, 3, 6, 8), (4, 1, 5, 5)]
    trained = {name.split(".")[0] for name, parameter in agent.named_parameters() if parameter.grad is not None}
    assert trained == {"policy", "critic", "decoder"}
    assert all(parameter.grad is None for parameter in agent.policy.network.parameters())


def test_each_decoder_reads_the_features_of_all_pictures():
    """Both decoded pictures depend on both encoders."""
    torch.manual_seed(0)
    agent, rows = build_sac_ae(BOTH).build_agent(), batch(BOTH)
    latent = agent.latent(agent.policy.encoder(rows["obs"]))
    for decoder in agent.decoder:
        for encoder in agent.policy.encoder.pictures:
            gradients = torch.autograd.grad(decoder(latent).sum(), list(encoder.parameters()), retain_graph=True)
            assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_actor_loss_trains_neither_encoder_nor_its_projection_for_the_critics():
    """The actor's loss has no gradient for the encoder, the critics' loss has one."""
    algorithm = build_sac_ae()
    agent, rows = algorithm.build_agent(), batch()
    noise = algorithm.critic_noise(torch.Size([4]), torch.Generator().manual_seed(0))
    encoder = list(agent.policy.encoder.parameters())
    value = algorithm.actor_loss(agent, rows, noise, {}).value
    assert torch.autograd.grad(value, encoder, allow_unused=True, retain_graph=True) == (None,) * len(encoder)
    value = algorithm.critic_loss(agent, rows, noise, {}).value
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(value, encoder))


@pytest.mark.parametrize(
    "observation", [spaces.Box(-1.0, 1.0, (3,)), spaces.Dict({"state": spaces.Box(-1.0, 1.0, (3,))})]
)
def test_vectors_alone_are_refused(observation):
    """Without pictures there is nothing to reconstruct."""
    args = SACAEArgs(name="sac_ae")
    (mistake,) = args.space_mistakes(Spaces(observation, spaces.Box(-1.0, 1.0, (2,))))
    assert mistake.startswith("algo.name=sac_ae: no picture is left to reconstruct; use")


def test_latent_in_front_of_vectors():
    """The encoding of the pictures is the front of the critics' inputs."""
    agent, rows = build_sac_ae(BOTH).build_agent(), batch(BOTH)
    features = agent.policy.encoder(rows["obs"])
    assert torch.equal(agent.latent(features), agent.critic.trunk(features)[:, :6])
    assert torch.equal(agent.critic.trunk(features)[:, 6:], rows["obs"]["state"])
    assert agent.latent(features).abs().max() < 1
