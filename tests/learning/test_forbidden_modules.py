"""Test that modules whose training would be wrong are refused by name."""

import pytest
import torch
from torch import nn

from sheeprl.learning.forbidden_modules import check_dtypes, check_modules
from sheeprl.models.normalizer import RunningMoments
from sheeprl.utils.errors import AlgorithmError


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.LSTM(2, 3), r"a torch\.nn\.LSTM: .*use the cells of sheeprl\.models\.recurrent"),
        (nn.GRU(2, 3), r"a torch\.nn\.GRU: "),
        (nn.Dropout(0.1), r"a torch\.nn\.Dropout: .*use dropout of sheeprl\.models\.noise"),
        (nn.Dropout2d(0.1), r"a torch\.nn\.Dropout2d: "),
        (nn.BatchNorm1d(2), r"a torch\.nn\.BatchNorm1d: .*Loss\.buffers"),
        (nn.InstanceNorm2d(2, track_running_stats=True), r"a torch\.nn\.InstanceNorm2d: "),
    ],
)
def test_a_module_is_refused_by_name(module, said):
    """A module anywhere in the agent is refused, with its name and a replacement."""
    agent = nn.Module()
    agent.policy = nn.Sequential(nn.Linear(2, 2), module)
    with pytest.raises(ValueError, match=rf"the agent's 'policy\.1' is {said}"):
        check_modules(agent)


def test_other_modules_are_accepted():
    """Recurrent cells, LayerNorm, InstanceNorm without statistics and dropout of probability 0 are right."""
    check_modules(nn.Sequential(nn.GRUCell(2, 3), nn.LayerNorm(3), nn.InstanceNorm1d(3), nn.Dropout(0.0)))
    check_modules(nn.TransformerEncoderLayer(4, 2, dropout=0.0))
    assert torch.is_grad_enabled()


def test_running_statistics_are_refused_on_a_device_without_float64():
    """Sums in float64 work on CPU and CUDA; on mps the message names the tensors and other settings."""
    agent = nn.ModuleDict({"moments": RunningMoments((2,)), "layer": nn.Linear(2, 2)})
    for device in ("cpu", "cuda"):
        check_dtypes(agent, torch.device(device))
    check_dtypes(agent["layer"], torch.device("mps"))
    with pytest.raises(AlgorithmError, match=r"mps has no float64, but the agent's moments\.count and 2 more tensors"):
        check_dtypes(agent, torch.device("mps"))
