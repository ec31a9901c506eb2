"""Parameters as arrays."""

import pytest
import torch
from torch import nn

from sheeprl.models.weights import from_arrays, to_arrays


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


def test_missing_array_is_rejected():
    """A missing array raises an error that names it."""
    with pytest.raises(KeyError, match="bias"):
        from_arrays(nn.Linear(2, 1), {"weight": torch.zeros(1, 2).numpy()})
