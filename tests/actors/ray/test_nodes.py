"""Test the check of a node: its access to the storage and its packages."""

from sheeprl.actors.ray.nodes import Marker, env_modules, versions, why_unseen


def test_a_marker_is_read_by_path_and_by_url(tmp_path):
    """A marker is seen by its path or URL; a missing one and another file are not."""
    path = tmp_path / "marker"
    marker = Marker(str(path), "1")
    assert "No such file" in why_unseen(marker)
    path.write_text("1")
    assert why_unseen(None) is why_unseen(marker) is why_unseen(Marker(f"file://{path}", "1")) is None
    assert why_unseen(Marker(str(path), "2")) == f"{path} is another file there"
    assert "doesn't exist" in why_unseen(Marker(f"file://{path}.json", "1"))


def test_the_modules_of_an_environment_and_the_versions_are_known():
    """The check knows the module of a Gymnasium environment and the versions of the packages."""
    assert env_modules("CartPole-v1") == ["gymnasium"] and env_modules("nothing/at all") == []
    assert env_modules("tests.helpers.run_envs:Walk-v0") == ["tests"]  # which a node may not have
    assert env_modules("onlyhere:Only-v0") == ["onlyhere"]
    assert {"sheeprl", "torch", "numpy"} <= versions().keys()
