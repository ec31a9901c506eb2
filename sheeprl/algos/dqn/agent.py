"""Q-network of discrete actions, and its target network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sheeprl.algos.base import Spaces
from sheeprl.algos.dqn.args import QArgs
from sheeprl.algos.dqn.heads import Head
from sheeprl.algos.dqn.loss import midpoints
from sheeprl.models.actions import Actions, action_mask
from sheeprl.models.encoder import Encoder
from sheeprl.models.mlp import mlp
from sheeprl.models.noisy import NoisyMLP
from sheeprl.models.precision import full_precision
from sheeprl.models.recurrent import Recurrent


class FractionEmbedding(nn.Module):
    """Features of a quantile fraction τ, times those of an observation; IQN, Dabney et al. 2018 (1806.06923), eq. 4.

    ψ_j(s) relu(Σ_i cos(π i τ) w_ij + b_j), with the sum over i = 0, …, `cosines` − 1.

    Args:
        size: number of features.
        cosines: number of cosines.
    """

    def __init__(self, size: int, cosines: int) -> None:
        """Build the layer."""
        super().__init__()
        self.layer = nn.Linear(cosines, size)

    def forward(self, features: Tensor, fraction: Tensor) -> Tensor:
        """Return `[*batch, K, size]` for features `[*batch, size]` and fractions `[*batch, K]`."""
        numbers = torch.arange(self.layer.in_features, device=fraction.device, dtype=fraction.dtype)
        embedded = functional.relu(self.layer(torch.cos(math.pi * numbers * fraction.unsqueeze(-1))))
        return features.unsqueeze(-2) * embedded


class QNetwork(nn.Module):
    """Action values Q(s, ·) of a discrete space.

    Args:
        spaces: observation and action space.
        args: sizes of the layers.
        head: meaning of the outputs of one action.
        dueling: sum the outputs of two streams, Q = V + A − mean A (Wang et al. 2016, 1511.06581, eq. 9). They share
            all hidden layers but the last one.
        noisy_std: initial noise of noisy layers; None for layers without noise.

    A head with quantile fractions gets them before the last hidden layer. A subclass may put a memory between the
    encoder and the layers, see `build_memory`.
    """

    def __init__(
        self, spaces: Spaces, args: QArgs, head: Head, *, dueling: bool = False, noisy_std: float | None = None
    ) -> None:
        """Build encoder, shared layers and streams."""
        super().__init__()
        self.actions = Actions(spaces.action)
        self.head = head
        self.encoder = Encoder(
            spaces.observation,
            args.mlp_keys,
            args.cnn_keys,
            features=args.cnn_features,
            cnn=args.cnn,
            layer_norm=args.layer_norm,
        )
        is_split = dueling or head.cosines > 0
        shared, own = (args.hidden_sizes[:-1], args.hidden_sizes[-1:]) if is_split else ((), args.hidden_sizes)

        def build(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Module:
            """Build an MLP, noisy or not."""
            if noisy_std is None:
                return mlp(inputs, hidden, outputs, layer_norm=args.layer_norm)
            return NoisyMLP(inputs, hidden, outputs, noisy_std)

        self.memory = self.build_memory(self.encoder.size, args)
        inputs = self.encoder.size if self.memory is None else self.memory.size
        self.shared = None
        if shared:
            self.shared = build(inputs, shared[:-1], shared[-1])
            # The last layer has neither: it is the output layer of its MLP.
            self.shared_norm = nn.LayerNorm(shared[-1]) if args.layer_norm else None
            inputs = shared[-1]
        self.embedding = FractionEmbedding(inputs, head.cosines) if head.cosines else None
        self.advantage = build(inputs, own, self.actions.outputs * head.size)
        self.value = build(inputs, own, head.size) if dueling else None
        networks = (self.shared, self.advantage, self.value)
        self.noise_sizes = [network.noise_size if isinstance(network, NoisyMLP) else 0 for network in networks]
        self.noise_size = sum(self.noise_sizes)
        """Number of factors of the noise in all layers, 0 without noisy layers."""

    def build_memory(self, inputs: int, args: Any) -> Recurrent | None:
        """Return a recurrent cell for `inputs` features of the observation; None for a network without memory."""
        return None

    def outputs(
        self, obs: Any, noise: Tensor | None = None, batch_dims: int = 1, fraction: Tensor | None = None
    ) -> Tensor:
        """Return the outputs of all actions: `[*batch, *]` observations to `[*batch, actions, K]`.

        K is `head.size`, or the number of fractions.

        Args:
            obs: observations with `batch_dims` batch axes.
            noise: result of `models.noisy.factors`, `[noise_size]` for the same noise in all samples, or
                `[*batch, noise_size]`; None without noise.
            batch_dims: number of leading batch axes.
            fraction: `[*batch, K]` quantile fractions, for a head that has them; None for midpoints.
        """
        return self.outputs_of(self.encoder.forward(obs, batch_dims), noise, fraction)

    def outputs_of(self, features: Tensor, noise: Tensor | None = None, fraction: Tensor | None = None) -> Tensor:
        """Return the outputs `[*batch, actions, K]` of all actions for features `[*batch, features]`; see `outputs`.

        Features are those of the encoder, or the outputs of the memory.
        """
        shared, advantage, value = [None] * 3 if noise is None else noise.split_with_sizes(self.noise_sizes, -1)
        if self.shared is not None:
            features = _apply(self.shared, features, shared)
            features = functional.relu(features if self.shared_norm is None else self.shared_norm(features))
        if self.embedding is not None:
            if fraction is None:
                fraction = midpoints(self.head.fractions, features).expand(*features.shape[:-1], -1)
            features = self.embedding(features, fraction)
            # All fractions of an observation share its noise.
            advantage, value = (
                part.unsqueeze(-2) if part is not None and part.ndim > 1 else part for part in (advantage, value)
            )
        output = full_precision(_apply(self.advantage, features, advantage))
        output = output.reshape(*output.shape[:-1], self.actions.outputs, self.head.size)
        if self.value is not None:
            state_value = full_precision(_apply(self.value, features, value)).unsqueeze(-2)
            output = state_value + output - output.mean(-2, keepdim=True)
        return output if self.embedding is None else output.squeeze(-1).transpose(-1, -2)

    def forward(self, obs: Any, noise: Tensor | None = None, batch_dims: int = 1) -> Tensor:
        """Return the values Q(s, ·), those of forbidden actions very low; see `outputs` and `permitted`."""
        return self.values(self.outputs(obs, noise, batch_dims), obs)

    def values(self, output: Tensor, obs: Any) -> Tensor:
        """Return the values Q(s, ·) `[*batch, actions]` of outputs, those of forbidden actions very low."""
        return self.actions.masked(self.head.values(output), permitted(obs))


class DQNAgent(nn.Module):
    """Q-network and target network. Players get the Q-network, the submodule `policy`."""

    def __init__(self, policy: QNetwork) -> None:
        """Copy the network; the target starts equal."""
        super().__init__()
        self.policy = policy
        self.target = copy.deepcopy(policy).requires_grad_(False)


def permitted(obs: Any) -> Tensor | None:
    """Return the action mask `[*batch, actions]` of observations; None if all actions are permitted.

    A row that permits no action, such as a final observation, permits all of them: a truncated episode bootstraps from
    it.
    """
    mask = None if isinstance(obs, Tensor) else action_mask(obs)
    return None if mask is None else mask | ~mask.any(-1, keepdim=True)


def mapped(obs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return observations with each tensor changed."""
    return change(obs) if isinstance(obs, Tensor) else {name: mapped(part, change) for name, part in obs.items()}


def of_action(output: Tensor, action: Tensor) -> Tensor:
    """Return the outputs `[N, K]` of one action per sample, from those of all actions `[N, actions, K]`."""
    index = action[:, None, None].expand(-1, 1, output.shape[-1])
    return torch.gather(output, 1, index).squeeze(1)


def _apply(network: nn.Module, inputs: Tensor, noise: Tensor | None) -> Tensor:
    """Return the outputs of an MLP, with noise if there is any."""
    outputs: Tensor = network.forward(inputs) if noise is None else network.forward(inputs, noise)
    return outputs
