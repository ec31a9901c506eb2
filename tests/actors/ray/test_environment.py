"""Test the messages for variables with which Ray can't start or connect."""

import os
import sys

import pytest

from sheeprl.actors.ray import environment
from sheeprl.config.defaults import fill_in
from sheeprl.config.loading import validate


@pytest.fixture
def mistakes(monkeypatch, tmp_path):
    """Function that returns the mistakes with some variables, as before Ray is imported."""
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in [name for name in os.environ if name.startswith("RAY_") or name == "TMPDIR"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))

    def find(settings=(), **variables):
        """Set variables and return the mistakes."""
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        tree = {"algo": {"name": "ppo"}, "env": {"id": "none"}, **dict(settings)}
        return list(environment.mistakes(fill_in(validate(tree))))

    return find


def test_a_home_folder_that_can_be_written_suffices(mistakes):
    """A writable home folder suffices."""
    assert mistakes() == []


def test_no_home_names_the_token_and_its_variables(mistakes, tmp_path):
    """The mistake for a missing home folder names the token's variables."""
    (tmp_path / "file").touch()
    (mistake,) = mistakes(HOME=tmp_path / "file")
    assert mistake.startswith(f"HOME={tmp_path / 'file'}: Ray can't store its token in ~/.ray/auth_token")
    assert "RAY_AUTH_TOKEN" in mistake and "RAY_AUTH_MODE=disabled" in mistake


@pytest.mark.parametrize("variables", [{"RAY_AUTH_TOKEN": "secret"}, {"RAY_AUTH_MODE": "disabled"}])
def test_no_home_is_needed_with_a_token_or_without_authentication(mistakes, variables):
    """With a token or without authentication, no home folder is needed."""
    assert mistakes(HOME="/dev/null", **variables) == []


def test_a_token_file_that_cannot_be_read_is_named(mistakes):
    """The mistake names an unreadable token file."""
    (mistake,) = mistakes(RAY_AUTH_TOKEN_PATH="/none")
    assert mistake.startswith("RAY_AUTH_TOKEN_PATH=/none: can't be read; set it to a file with a token")


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_temporary_folder_with_a_long_path_is_named(mistakes, tmp_path, name):
    """The mistake names a temporary folder whose path is too long."""
    (mistake,) = mistakes(**{name: tmp_path / ("long" * 20)})
    assert mistake.startswith(f"{name}=") and "set RAY_TMPDIR to a shorter folder, such as RAY_TMPDIR=/tmp" in mistake


def test_a_temporary_folder_that_cannot_be_written_is_named(mistakes):
    """The mistake names a read-only temporary folder."""
    (mistake,) = mistakes(RAY_TMPDIR="/dev/null")
    assert mistake.startswith("RAY_TMPDIR=/dev/null: Ray can't write there (Not a directory); set RAY_TMPDIR to")


def test_the_address_of_a_dashboard_is_refused(mistakes):
    """The address of a dashboard is refused."""
    (mistake,) = mistakes(RAY_ADDRESS="http://127.0.0.1:8265")
    assert mistake.startswith("RAY_ADDRESS=http://127.0.0.1:8265: is the address of a dashboard")
    assert mistake.endswith("unset RAY_ADDRESS to start a local Ray")


def test_the_address_of_a_ray_client_is_refused(mistakes):
    """A Ray client's address is refused with the addresses that work."""
    (mistake,) = mistakes(RAY_ADDRESS="ray://127.0.0.1:10001")
    assert mistake.startswith("RAY_ADDRESS=ray://127.0.0.1:10001: is the address of a Ray client server")
    assert "with the address auto, or submit it as a job with ray job submit" in mistake


def test_a_local_ray_has_the_gpus_of_this_machine(mistakes, monkeypatch):
    """A local ray has the gpus of this machine."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    cuda = {"trainer": {"accelerator": "cuda"}}
    (mistake,) = mistakes(cuda)
    assert mistake == (
        "trainer.accelerator=cuda: this machine has no CUDA GPUs; use trainer.accelerator=cpu or join a cluster with "
        "ray.address"
    )
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert mistakes(cuda) == []
    (mistake,) = mistakes({**cuda, "players": {"gpus": 0.5}})
    assert mistake.startswith("players.gpus=0.5: 1 player and 1 rank need 1.5 GPUs, but this machine has 1; lower")
    assert mistakes({**cuda, "trainer": {"accelerator": "cuda", "devices": 8}}, RAY_ADDRESS="10.0.0.1:6379") == []


@pytest.mark.parametrize(("mode", "expected"), [(None, "token"), ("disabled", "disabled")])
def test_a_stored_token_is_offered(monkeypatch, tmp_path, mode, expected):
    """The mode is set if a token is stored and the user has chosen no mode."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")  # so that the value from before comes back
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    environment.offer_token()
    assert os.environ.get("RAY_AUTH_MODE") == mode
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    environment.offer_token()
    assert os.environ["RAY_AUTH_MODE"] == expected
