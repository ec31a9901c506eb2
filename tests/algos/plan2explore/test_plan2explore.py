"""Test Plan2Explore's phases, gradients and actors on each Dreamer."""

import pytest
import torch
from gymnasium import spaces
from pydantic import ValidationError

from sheeprl.algos.base import PolicyInput, Step
from sheeprl.algos.dreamer_v1.dreamer_v1 import DreamerV1
from sheeprl.algos.dreamer_v2.dreamer_v2 import DreamerV2
from sheeprl.algos.dreamer_v3.dreamer_v3 import DreamerV3
from sheeprl.algos.plan2explore.args import P2EDV1Args, P2EDV2Args, P2EDV3Args
from sheeprl.algos.plan2explore.plan2explore import P2EDV1, P2EDV2, P2EDV3
from tests.helpers.algorithms import Small
from tests.helpers.dreamer_rows import CASES, N, make_batch, random_values
from tests.helpers.runs import largest_difference, saved
from tests.helpers.thread_ranks import on_ranks

SMALL = {
    "sequence_length": 6, "horizon": 3, "imag_last": 4, "deter": 16, "hidden": 8, "units": 8,
    "ensemble": 3, "ensemble_units": 8, "ensemble_layers": 2,
}  # fmt: skip
OWN = {
    "v1": (P2EDV1, P2EDV1Args, DreamerV1, {"layers": 2, "stoch": 5}),
    "v2": (P2EDV2, P2EDV2Args, DreamerV2, {"layers": 2, "classes": 4, "categoricals": 3}),
    "v3": (P2EDV3, P2EDV3Args, DreamerV3, {"depth": 2, "blocks": 4, "classes": 4, "categoricals": 3}),
}
KINDS = [("v1", "continuous"), *((kind, case) for kind in ("v2", "v3") for case in CASES)]


def build(kind, case="continuous"):
    """Return a small algorithm and its agent, whose heads aren't 0."""
    torch.manual_seed(0)
    algorithm, args, _, sizes = OWN[kind]
    algorithm = algorithm(args(name=f"p2e_d{kind}", **SMALL, **sizes), CASES[case])
    agent = algorithm.build_agent()
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return algorithm, agent


def take(algorithm, agent, batch):
    """Return the loss of each phase by its groups."""
    generator, carry, losses = torch.Generator().manual_seed(0), {}, {}
    for phase in algorithm.phases(Step(0, 0.0)):
        noise = phase.noise(torch.Size([N]), generator) if phase.noise else {}
        loss = losses[phase.groups] = phase.loss(agent, batch, noise, carry)
        carry |= loss.carry
    return losses


def gradients(algorithm, agent, batch, group):
    """Return the gradients of a group's parameters in its phase."""
    losses = take(algorithm, agent, batch)
    (loss,) = [loss for groups, loss in losses.items() if group in groups]
    modules = algorithm.optimizers()[group].modules
    parameters = [part for name in modules for part in agent.get_submodule(name).parameters()]
    return torch.autograd.grad(loss.value, parameters, allow_unused=True)


@pytest.mark.parametrize(("kind", "case"), KINDS)
def test_every_group_is_trained(kind, case):
    """Each parameter is in one group, and gets a gradient in its phase, in every space."""
    algorithm, agent = build(kind, case)
    batch, specs = make_batch(algorithm), algorithm.optimizers()
    modules = [name for spec in specs.values() for name in spec.modules]
    for name, parameter in agent.named_parameters():
        assert sum(name.startswith(f"{module}.") for module in modules) == parameter.requires_grad
    for group in ("world_model", "actor", "critic", "ensemble", "explorer", "explorer_critic"):
        found = [each for each in gradients(algorithm, agent, batch, group) if each is not None]
        assert all(each.isfinite().all() for each in found) and any(each.any() for each in found)
    losses = take(algorithm, agent, batch)
    named = set().union(*(loss.metrics for loss in losses.values()))
    assert named > {"Loss/ensemble_loss", "Rewards/intrinsic", "Loss/policy_loss", "Loss/policy_loss_exploration"}


@pytest.mark.parametrize("kind", OWN)
def test_the_reward_does_not_train_the_world_model(kind):
    """Another reward changes the losses of the reward head, but no gradient of encoder, dynamics or decoder."""
    algorithm, agent = build(kind)
    batch = make_batch(algorithm)
    other = batch.clone()
    other["reward"] += 3.0
    heads = len(list(agent.reward.parameters())) + len(list(agent.continuation.parameters()))
    before, after = (gradients(algorithm, agent, each, "world_model") for each in (batch, other))
    torch.testing.assert_close(before[:-heads], after[:-heads])
    assert any(not torch.equal(one, two) for one, two in zip(before[-heads:], after[-heads:], strict=True))


@pytest.mark.parametrize("kind", OWN)
def test_the_explorer_learns_from_disagreement_alone(kind):
    """Neither the reward head nor the logged reward changes the explorer's loss; the ensemble does."""
    algorithm, agent = build(kind)
    batch, losses = make_batch(algorithm), []
    for changed in ("nothing", "reward", "explorer.ensemble"):
        if changed != "nothing":
            batch["reward"] += 1.0
            with torch.no_grad():
                for parameter in agent.get_submodule(changed).parameters():
                    parameter.mul_(2.0)
        losses.append(take(algorithm, agent, batch)["explorer", "explorer_critic"].value)
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(("kind", "case"), KINDS)
def test_the_explorers_gradient_passes_the_dynamics_as_that_of_its_dreamer(kind, case):
    """The intrinsic reward has a gradient to continuous actions in DreamerV1 and V2, and none in DreamerV3."""
    algorithm, agent = build(kind, case)
    loss = take(algorithm, agent, make_batch(algorithm))["explorer", "explorer_critic"]
    found = torch.autograd.grad(loss.value, list(agent.explorer.ensemble.parameters()), allow_unused=True)
    passes = kind != "v3" and isinstance(algorithm.spaces.action, spaces.Box)
    assert all((each is not None) == passes for each in found)


@pytest.mark.parametrize("kind", OWN)
def test_the_explorer_plays_and_the_task_actor_is_evaluated(kind):
    """Exploration acts by the explorer, greedy actions are those of the plain Dreamer with the same networks."""
    algorithm, agent = build(kind)
    inputs = PolicyInput(random_values(algorithm.spaces.observation, N), torch.zeros(N), torch.ones(N) > 0)

    def play(mode):
        """Return actions."""
        with torch.no_grad():
            return algorithm.act(agent.policy, inputs, {}, mode, torch.Generator().manual_seed(0)).action

    greedy, explore = play("greedy"), play("explore")
    with torch.no_grad():
        for parameter in agent.policy.explorer.parameters():
            parameter.add_(0.1)
    assert torch.equal(play("greedy"), greedy) and not torch.equal(play("explore"), explore)


@pytest.mark.parametrize("kind", OWN)
def test_the_agent_of_the_dreamer_is_a_part(kind):
    """The tensors of the plain Dreamer are in the agent, under the same names and with the same shapes."""
    algorithm, agent = build(kind)
    plain = OWN[kind][2].build_agent(algorithm).state_dict()
    state = agent.state_dict()
    assert {name: state[name].shape for name in plain} == {name: values.shape for name, values in plain.items()}


def test_the_ensemble_learns_the_next_state_within_an_episode():
    """Its loss doesn't depend on the state after the end of an episode."""
    algorithm, agent = build("v3")
    batch = make_batch(algorithm)
    rows = batch.shape[0] if batch.shape else len(batch["reward"])
    carry = {name: torch.randn(rows - 1, N, size) for name, size in (("deter", 16), ("stoch", 12))}
    first = algorithm.ensemble_loss(agent, batch, {}, carry).value
    other = {name: values.clone() for name, values in carry.items()}
    ended = batch["is_first"][1:].nonzero()
    for row, sample in ended.tolist():
        other["deter"][row - 1, sample] += 1.0  # the last row of the episode, from which no next one is predicted
    assert len(ended) and algorithm.ensemble_loss(agent, batch, {}, other).value == first


@pytest.mark.parametrize("kind", OWN)
def test_two_ranks_equal_one(kind):
    """The mean gradient of two halves of a batch is that of the whole, for ensemble and explorer."""
    algorithm, agent = build(kind)
    batch, generator = make_batch(algorithm), torch.Generator().manual_seed(0)
    carry = {name: torch.randn(6, N, size) for name, size in (("deter", 16), ("stoch", algorithm.latents.size))}
    noise = algorithm.imagined_noise(torch.Size([N]), generator)
    groups = ("ensemble", "explorer", "explorer_critic")
    names = [name for group in groups for name in algorithm.optimizers()[group].modules]
    parameters = [part for name in names for part in agent.get_submodule(name).parameters()]

    def gradients(batch, noise, carry):
        """Return the gradients of both losses."""
        loss = algorithm.ensemble_loss(agent, batch, {}, carry).value
        return torch.autograd.grad(loss + algorithm.explorer_loss(agent, batch, noise, carry).value, parameters)

    def part(rank):
        """Return one rank's gradients."""
        half = batch.apply(lambda values: values[:, rank::2] if values.dim() > 1 else torch.full((2,), 1 / 2))
        drawn = {name: values[rank::2] for name, values in noise.items()}
        return gradients(half, drawn, {name: values[:, rank::2] for name, values in carry.items()})

    one, two = on_ranks(part)
    means = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
    torch.testing.assert_close(means, list(gradients(batch, noise, carry)), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_an_exploration_run_is_fine_tuned(tmp_path):
    """DreamerV3 begins with the world model, the actor and the critic of an exploration run."""
    explored, tuned = tmp_path / "explored", tmp_path / "tuned"
    Small("p2e_dv3").run(explored, "run.mode=coupled", "run.total_steps=100")
    small = ["run.mode=coupled", "run.total_steps=100", f"algo.init_from={explored}", "algo.learning_rate=1e-30"]
    Small("dreamer_v3").run(tuned, *small)
    before, after = saved(explored)["agent"], saved(tuned)["agent"]
    before = {name: before[name] for name in after if "returns" not in name and "target" not in name}
    assert largest_difference(before, {name: after[name] for name in before}) == 0.0


@pytest.mark.parametrize(("setting", "message"), [("sequence_length", "predicts the next row"), ("ensemble", "2")])
def test_nothing_to_disagree_about(setting, message):
    """One network has no disagreement, and one row has no next one."""
    with pytest.raises(ValidationError, match=f"{setting}(.|\n)*{message}"):
        P2EDV3Args(name="p2e_dv3", **{setting: 1})
