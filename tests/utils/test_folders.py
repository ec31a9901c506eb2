"""Folders are checked before a run writes to them."""

import os

import pytest

from sheeprl.utils.folders import why_not_writable


def test_a_folder_that_can_be_created_is_writable_and_leaves_nothing(tmp_path):
    """A folder that can be created is writable and leaves nothing."""
    assert why_not_writable(tmp_path) == ""
    assert why_not_writable(tmp_path / "a" / "b") == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file(tmp_path):
    """A folder below a file."""
    (tmp_path / "file").touch()
    assert why_not_writable(tmp_path / "file") == why_not_writable(tmp_path / "file" / "run") == "Not a directory"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    """A folder without permission."""
    tmp_path.chmod(0o500)
    assert why_not_writable(tmp_path) == "permission denied"
    assert why_not_writable(tmp_path / "run") == "Permission denied"
