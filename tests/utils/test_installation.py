import json
import re
import sys
from pathlib import Path

import pytest

from sheeprl.envs.families import FAMILIES
from sheeprl.utils import installation, objects
from sheeprl.utils.installation import environment_warnings, install_command

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(__file__).resolve().parents[2]


class Fake:
    """An installed distribution."""

    def __init__(self, version, **files):
        """Store version and files."""
        self.version, self.files = version, files

    def read_text(self, name):
        """Return the content of a file."""
        return self.files.get(name.partition(".")[0])


@pytest.fixture
def installed(monkeypatch):
    """Return a dict of the distributions that seem to be installed; the tests fill it."""
    found = {}
    monkeypatch.setattr(installation, "_distribution", found.get)
    return found


def source(url, **info):
    """Return the content of `direct_url.json`."""
    return json.dumps({"url": url, **info})


def test_an_editable_clone_is_named_by_its_path(installed):
    """An editable clone is named by its path."""
    url = source("file:///home/me/my%20clone", dir_info={"editable": True})
    installed["sheeprl-ray"] = Fake("2.0.0", direct_url=url)
    assert install_command("mujoco") == 'pip install -e "/home/me/my clone[mujoco]"'


def test_the_folder_of_the_clone_is_a_dot(installed, tmp_path, monkeypatch):
    """A clone in the current folder is named `.`."""
    monkeypatch.chdir(tmp_path)
    installed["sheeprl-ray"] = Fake("2.0.0", direct_url=source(tmp_path.as_uri(), dir_info={"editable": True}))
    assert install_command("atari") == 'pip install -e ".[atari]"'


@pytest.mark.parametrize(
    "files",
    [
        {"direct_url": source("file:///home/me/clone", dir_info={})},
        {"direct_url": source("https://host/sheeprl.git", vcs_info={"vcs": "git", "commit_id": "1"})},
        {"direct_url": source("file:///tmp/sheeprl_ray-2.0.0-py3-none-any.whl", archive_info={})},
    ],
)
def test_another_installation_is_named_by_its_distribution(installed, files):
    """Another installation is named by its distribution."""
    installed["sheeprl-ray"] = Fake("2.0.0", **files)
    assert install_command("mujoco") == 'pip install "sheeprl-ray[mujoco]"'


@pytest.mark.parametrize("text", [None, "", "no JSON", "[]"])
def test_an_installation_from_the_index(installed, text, monkeypatch, tmp_path):
    """An installation from the index is named by its distribution."""
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "sheeprl" / "utils" / "installation.py"))
    installed["sheeprl-ray"] = Fake("2.0.0", direct_url=text, INSTALLER="pip\n")
    assert install_command("mujoco") == 'pip install "sheeprl-ray[mujoco]"'


def test_an_installation_by_uv_names_uv(installed, monkeypatch, tmp_path):
    """The command for an installation by uv begins with `uv`."""
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "sheeprl" / "utils" / "installation.py"))
    installed["sheeprl-ray"] = Fake("2.0.0", INSTALLER="uv")
    assert install_command("mujoco") == 'uv pip install "sheeprl-ray[mujoco]"'


def test_a_clone_on_the_path_is_found_by_its_files(installed, monkeypatch, tmp_path):
    """A clone on the Python path is found by its files."""
    monkeypatch.chdir(tmp_path)
    assert install_command("mujoco") == f'pip install -e "{ROOT}[mujoco]"'


def test_two_distributions_in_one_folder_are_named(installed):
    """A warning names two distributions in one folder."""
    installed["sheeprl-ray"] = Fake("2.0.0", direct_url=source("file:///clone", dir_info={"editable": True}))
    installed["sheeprl"] = Fake("0.8.4")
    (line,) = environment_warnings()
    assert "sheeprl 0.8.4 and sheeprl-ray 2.0.0" in line
    assert 'pip uninstall sheeprl sheeprl-ray, then pip install -e "/clone"' in line


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cpu", "2.15.1", "2.15.0a0+git12"])
def test_a_tested_torch_is_silent(installed, version):
    """A tested version of torch gives no warning."""
    installed["torch"] = Fake(version)
    assert list(environment_warnings()) == []


@pytest.mark.parametrize("version", ["2.5.1", "2.16.0", "2.100.0.dev20300101+cu140", "3.0"])
def test_another_torch_gives_one_line(installed, version):
    """Another version of torch gives a warning of one line."""
    installed["torch"] = Fake(version)
    (line,) = environment_warnings()
    assert line.startswith(f"torch {version} is outside of the tested versions 2.6 to ")


def test_no_installed_package_gives_no_warning(installed):
    """Without installed packages there is no warning."""
    assert list(environment_warnings()) == []


@pytest.mark.skipif(tomllib is None, reason="tomllib is part of Python 3.11")
class TestMetadata:
    """The metadata matches the code."""

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"] if tomllib else {}

    def test_the_name(self):
        """The distribution has its name."""
        assert self.project["name"] == installation.DISTRIBUTION

    def test_each_hint_names_an_extra(self):
        """Each hint names an existing extra."""
        hinted = {
            *installation.EXTRAS,
            *objects.EXTRAS.values(),
            *(family.extra for family in FAMILIES if family.extra),
        }
        assert hinted <= self.project["optional-dependencies"].keys()

    def test_each_extra_of_users_has_a_module(self):
        """Each extra has a module that the doctor looks for, except those of other extras and of clones."""
        others = {"envs", "test", "docs", "cluster", "dev"}
        assert self.project["optional-dependencies"].keys() - others == installation.EXTRAS.keys()

    def test_extras_refer_to_this_distribution(self):
        """Extras refer to this distribution."""
        own = [line for lines in self.project["optional-dependencies"].values() for line in lines if "sheeprl" in line]
        assert own and all(line.startswith("sheeprl-ray[") for line in own)

    def test_neither_python_nor_torch_has_an_upper_bound(self):
        """Neither Python nor torch has an upper bound."""
        (torch,) = [line for line in self.project["dependencies"] if re.match(r"torch\b", line)]
        assert not re.search("[<=]=?", self.project["requires-python"].replace(">=", ""))
        assert not re.search("[<=]=?", torch.replace(">=", ""))
        assert torch.removeprefix("torch>=") == installation.TESTED_TORCH[0]


def test_no_text_names_the_other_distribution():
    """No text of the project names the other distribution."""
    wrong = re.compile(r"""install[^\n]*["' ]sheeprl(\[|["' ]*$)|["']sheeprl\[|dependencies = \["sheeprl"\]""", re.M)
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("sheeprl/**/*.py"), *ROOT.glob("sheeprl/**/*.md")]
    files += [ROOT / "benchmarks" / "README.md", ROOT / "pyproject.toml", *ROOT.glob("tests/external_algo/*.toml")]
    assert [path.name for path in files if wrong.search(path.read_text(encoding="utf-8"))] == []
