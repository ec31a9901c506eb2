"""Test that all files of `cluster/` use the versions of `cluster/versions.yaml`."""

import re
from pathlib import Path

import pytest
import yaml

from sheeprl.metrics.ray_metrics import METRICS
from sheeprl.utils.installation import TESTED_TORCH
from sheeprl.version import __version__

FOLDER = Path(__file__).parents[2] / "cluster"
VERSIONS = yaml.safe_load((FOLDER / "versions.yaml").read_text())
FILES = [path for path in sorted(FOLDER.rglob("*")) if path.is_file() and path.name != "versions.yaml"]
FILES += [FOLDER.parent / "docs" / "cluster.md"]
PATTERNS = {
    "ray": r"ray(?:\[default\])?==([\w.]+)|RAY_VERSION=([\w.]+)|rayVersion: ([\w.]+)",
    "sheeprl": r"sheeprl-ray(?:\[\w+\])?==([\w.]+)|/sheeprl:([\w.]+)",
    "torch": r"torch==([\w.]+)|TORCH_VERSION=([\w.]+)",
    "python": r"PYTHON_VERSION=([\d.]+)|--python (\d[\d.]*)",
    "kuberay": r"KubeRay (\d[\d.]*)",
}


@pytest.mark.parametrize("name", PATTERNS)
def test_files_have_the_version(name):
    """Every mention of a version is that of `versions.yaml`, and there is one."""
    found = [
        (path.name, next(filter(None, match.groups())))
        for path in FILES
        if path.suffix != ".pyc"
        for match in re.finditer(PATTERNS[name], path.read_text())
    ]
    wanted = str(VERSIONS[name])
    assert found
    assert not [(file, version) for file, version in found if not f"{wanted}.".startswith(f"{version}.")]


def test_version_of_sheeprl():
    """The clusters run this version."""
    assert VERSIONS["sheeprl"] == __version__


def test_torch_is_a_tested_one():
    """The version of torch is one for which SheepRL prints no warning."""
    oldest, newest = (tuple(map(int, version.split("."))) for version in TESTED_TORCH)
    assert oldest <= tuple(map(int, VERSIONS["torch"].split(".")[:2])) <= newest


def test_page_names_every_file():
    """The page about clusters names every file, or its folder."""
    page = (FOLDER.parent / "docs" / "cluster.md").read_text()
    names = {path.relative_to(FOLDER).parts for path in FILES if path.is_relative_to(FOLDER) and path.suffix != ".pyc"}
    assert not [parts for parts in names if f"`{parts[0]}/`" not in page and parts[-1] not in page]


def test_page_lists_the_exported_metrics():
    """The page about clusters lists the metrics that a run exports."""
    page = (FOLDER.parent / "docs" / "cluster.md").read_text()
    table = page.partition("| metric (`ray_sheeprl_…`)")[2].partition("\n\n")[0]
    names = re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:]))
    assert sorted(f"ray_sheeprl_{name}" for name in names) == sorted(metric.exported for metric in METRICS)
