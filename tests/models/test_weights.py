"""Parameters as arrays."""

import pytest
import torch
from torch import nn

from sheeprl.models.weights import from_arrays, load_tensors, to_arrays


def test_read_only_arrays_restore_parameters_and_buffers():
    """Read-only arrays restore all parameters and buffers."""
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    with torch.no_grad():
        source.weight.fill_(2.0)
        source.running_mean.fill_(3.0)
    arrays = to_arrays(source)
    for values in arrays.values():
        values.flags.writeable = False
    from_arrays(target, arrays)
    assert all(torch.equal(values, source.state_dict()[name]) for name, values in target.state_dict().items())


def test_copies_dont_change_with_the_module():
    """Copied arrays stay constant while the module changes; shared ones follow it."""
    module = nn.Linear(2, 1)
    before = module.weight.detach().clone()
    copied, shared = to_arrays(module), to_arrays(module, copy=False)
    with torch.no_grad():
        module.weight += 1.0
    assert copied["weight"].tolist() == before.tolist()
    assert shared["weight"].tolist() == module.weight.tolist()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"weight": torch.zeros(2, 2), "bias": torch.zeros(1)}, r"weight is \[2, 2\] in the checkpoint, but \[1, 2\]"),
        ({"weight": torch.zeros(1, 2)}, r"bias is missing in the checkpoint, but \[1\] with"),
        ({"weight": torch.zeros(1, 2), "bias": torch.zeros(1), "scale": torch.zeros(1)}, r"scale is \[1\] .* missing"),
    ],
)
def test_tensors_that_do_not_fit_change_nothing(tensors, said):
    """The message names the first tensor, and nothing is loaded."""
    module = nn.Linear(2, 1)
    before = module.weight.detach().clone()
    with pytest.raises(ValueError, match=said):
        load_tensors(module, tensors)
    assert torch.equal(module.weight, before)


def test_missing_array_is_rejected():
    """A missing array raises an error that names it."""
    with pytest.raises(KeyError, match="bias"):
        from_arrays(nn.Linear(2, 1), {"weight": torch.zeros(1, 2).numpy()})
