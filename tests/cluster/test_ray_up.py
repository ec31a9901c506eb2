"""Test the configurations for `ray up` by Ray's own checks."""

import re
from pathlib import Path

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FOLDER = Path(__file__).parents[2] / "cluster"
CLOUDS = ("aws", "gcp", "azure")
SPOT = {
    "aws": {"InstanceMarketOptions": {"MarketType": "spot"}},
    "gcp": {"provisioningModel": "SPOT"},
    "azure": {"priority": "Spot"},
}


def read(name):
    """Return a configuration."""
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("name", [*(f"{cloud}.yaml" for cloud in CLOUDS), "fake-autoscaling/config.yaml"])
def test_ray_accepts_the_configuration(name):
    """Ray's schema has all keys, and Ray can fill in its defaults."""
    prepared = read(name) if "fake" in name else prepare_config(read(name))
    validate_config(prepared)
    for node_type in prepared["available_node_types"].values():
        ray.remote(label_selector=node_type.get("labels", {}))(read)  # Ray checks names and values of labels


@pytest.mark.parametrize("cloud", CLOUDS)
def test_only_players_are_on_spot_machines(cloud):
    """Players run on spot machines; the head and the trainer don't. Workers start when a run needs them."""
    types = read(f"{cloud}.yaml")["available_node_types"]
    ((key, value),) = SPOT[cloud].items()
    for name, node_type in types.items():
        text = yaml.dump(node_type["node_config"])
        assert (f"{key}: {value}" in text or f"{key}:" in text) == (name == "player"), name
        assert node_type["labels"] == {"role": name}
        assert name == "head" or node_type["min_workers"] == 0
    assert types["trainer"]["resources"]["GPU"] == 1
    assert types["head"]["resources"] == {"CPU": 0}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_tokens_are_on_and_dashboards_closed(cloud):
    """Each node requires the token, and the dashboard isn't reachable from outside the head."""
    config = read(f"{cloud}.yaml")
    assert any("export RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert config["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    (start,) = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.parametrize("cloud", CLOUDS)
def test_local_files_of_the_configuration_exist(cloud):
    """Files that are copied to the nodes exist in the repository, as do those that commands name there."""
    config = read(f"{cloud}.yaml")
    for source in config["file_mounts"].values():
        assert source.startswith("~") or (FOLDER.parent / source).exists()
    for path in re.findall(r"~/cluster/(\S+)", str(config)):
        assert (FOLDER / path).is_file()


def test_clouds_differ_only_where_they_must():
    """The clouds have the same keys and the same commands besides packages and names."""
    configs = [read(f"{cloud}.yaml") for cloud in CLOUDS]
    assert configs[0].keys() == configs[1].keys() == configs[2].keys()
    for config in configs:
        assert config["head_start_ray_commands"] == configs[0]["head_start_ray_commands"]
        assert config["max_workers"] == sum(
            node_type.get("max_workers", 0) for node_type in config["available_node_types"].values()
        )
