"""Manifests: complete checkpoints are verified, damaged ones raise an error that names the file."""

import json
import math
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer import dirty as changes
from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.manifest import MANIFEST, DamagedCheckpointError
from tests.helpers.buffer_model import rows_of
from tests.helpers.damage import cuts, deleted, flips, small_disk, with_file_limit  # noqa: F401

ABOUT = {"algorithm": "sac", "policy_steps": 1000, "metrics": {"Rewards/rew_avg": 0.1 + 0.2, "Loss/é": None}}


def fill(folder, steps=1000, buffer=None):
    """Write the files of a checkpoint, a few pages each; return the buffer to add rows to."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(steps).bytes(9000)
    (folder / "state.pt").write_bytes(noise)
    (folder / "config.yaml").write_text("algo:\n  name: sac\n")
    (folder / "empty").write_bytes(b"")
    (folder / "players").mkdir()
    (folder / "players" / "0 of [2].json").write_text(json.dumps({"steps": steps}))
    buffer = buffer or ReplayBuffer(2000)
    buffer.add(rows_of(range(steps, steps + 200)), (0, steps))
    buffer.save(folder / "buffer" / "shard_0")
    return buffer


def make_checkpoint(folder, steps=1000, buffer=None):
    """Write a complete checkpoint; return the buffer to add rows to."""
    buffer = fill(folder, steps, buffer)
    manifest.write(folder, {**ABOUT, "policy_steps": steps})
    return buffer


def files_below(folder):
    """Return all files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """Return a complete checkpoint whose chunks have more than one page."""
    monkeypatch.setattr(changes, "CHUNK_BYTES", 6000)  # more than one page
    make_checkpoint(tmp_path / "step_1000")
    return tmp_path / "step_1000"


def test_the_manifest_lists_all_files(checkpoint):
    """The manifest lists every file with its size and checksum, and the versions."""
    found = manifest.verify(checkpoint)
    assert found == manifest.read(checkpoint)
    assert manifest.is_complete(checkpoint)
    assert found.about == ABOUT
    assert found.format == manifest.FORMAT
    assert set(found.versions) == {"sheeprl", "python", "torch", "numpy", "ray"}
    assert found.versions["numpy"] == np.__version__
    there = [path.relative_to(checkpoint).as_posix() for path in files_below(checkpoint) if path.name != MANIFEST]
    assert list(found.files) == there
    for name, entry in found.files.items():
        data = (checkpoint / name).read_bytes()
        assert entry.bytes == len(data)
        assert entry.crc32 == (None if name.endswith(".bin") else zlib.crc32(data))
    assert sum(name.endswith(".bin") for name in found.files) > 5


@pytest.mark.parametrize("damage", [cuts, lambda path: flips(path, 300)], ids=["cut", "flipped"])
def test_verify_names_the_damaged_file(checkpoint, damage):
    """`verify` finds cuts and flipped bits in any file and names the file."""
    tried = 0
    for path in files_below(checkpoint):
        for where in damage(path):
            with pytest.raises(DamagedCheckpointError) as caught:
                manifest.verify(checkpoint)
            assert caught.value.file == path, (path, where)
            assert str(path) in str(caught.value)
            tried += 1
    assert tried > 20
    manifest.verify(checkpoint)


def test_every_flipped_bit_of_a_manifest_is_found(tmp_path):
    """Each flipped bit of a manifest is found."""
    (tmp_path / "step_1").mkdir()
    (tmp_path / "step_1" / "é").write_text("one file")  # its name has hexadecimal digits, which have two cases
    manifest.write(tmp_path / "step_1", {})
    path = tmp_path / "step_1" / MANIFEST
    for _ in flips(path):
        with pytest.raises(DamagedCheckpointError, match=MANIFEST):
            manifest.read(tmp_path / "step_1")
    assert manifest.read(tmp_path / "step_1").files


def test_a_truncated_manifest_is_damaged(checkpoint):
    """A manifest truncated at any length is damaged."""
    path = checkpoint / MANIFEST
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpointError, match=MANIFEST):
            manifest.read(checkpoint)
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedCheckpointError, match=MANIFEST):
        manifest.read(checkpoint)


def test_a_missing_file_is_named(checkpoint):
    """A missing file raises an error that names it."""
    for path in files_below(checkpoint):
        wanted = FileNotFoundError if path.name == MANIFEST else DamagedCheckpointError
        with deleted(path), pytest.raises(wanted) as caught:
            manifest.verify(checkpoint)
        assert str(path) in str(caught.value)
    manifest.verify(checkpoint)


def test_a_folder_without_a_manifest_is_no_checkpoint(checkpoint):
    """A folder without a manifest isn't a checkpoint."""
    (checkpoint / MANIFEST).unlink()
    assert not manifest.is_complete(checkpoint)
    with pytest.raises(FileNotFoundError, match=r"not a complete checkpoint.*manifest\.json"):
        manifest.read(checkpoint)
    with pytest.raises(FileNotFoundError):
        manifest.read(checkpoint / "nowhere")


def test_a_partially_written_manifest_is_ignored(checkpoint):
    """A partially written manifest doesn't make_checkpoint a checkpoint and is replaced."""
    partial = checkpoint / f".{MANIFEST}.part"
    (checkpoint / MANIFEST).rename(partial)
    assert not manifest.is_complete(checkpoint)
    found = manifest.write(checkpoint, ABOUT)
    assert partial.name not in found.files
    assert not partial.exists()
    manifest.verify(checkpoint)


def test_additional_files_are_ignored(checkpoint):
    """Files that the manifest doesn't list are ignored."""
    (checkpoint / "notes.txt").write_text("the good one")
    manifest.verify(checkpoint)


def test_a_copied_checkpoint_is_valid(checkpoint, tmp_path):
    """A copy of a checkpoint in another folder is valid."""
    shutil.copytree(checkpoint, tmp_path / "elsewhere" / "step_1000")
    shutil.rmtree(checkpoint)
    manifest.verify(tmp_path / "elsewhere" / "step_1000")


def rewrite(checkpoint, change):
    """Change the content of a manifest and give it a valid checksum."""
    path = checkpoint / MANIFEST
    rest = path.read_bytes().partition(b"\n")[2]
    body = json.loads(b"{" + rest)
    change(body)
    rest = json.dumps(body, indent=1).encode().removeprefix(b"{\n")
    path.write_bytes(b'{"crc32": "%08x",\n%b' % (zlib.crc32(rest), rest))


def test_a_newer_format_is_rejected_with_a_remedy(checkpoint):
    """A manifest of a newer format raises an error that names the remedy."""
    rewrite(checkpoint, lambda body: body.update(format=2, files="in another way"))
    with pytest.raises(DamagedCheckpointError, match=r"format 2; SheepRL .* reads formats up to 1; use") as caught:
        manifest.read(checkpoint)
    assert caught.value.file == checkpoint / MANIFEST


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "buffer/../../outside", "", ".", "a//b", "nul\0"])
def test_files_outside_of_the_checkpoint_are_rejected(checkpoint, name):
    """File names that lead out of the checkpoint raise an error."""
    rewrite(checkpoint, lambda body: body["files"].update({name: {"bytes": 1, "crc32": None}}))
    with pytest.raises(DamagedCheckpointError, match="a file inside a checkpoint"):
        manifest.read(checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("files"),
        lambda body: body.update(format=0),
        lambda body: body.update(format="1"),
        lambda body: body.update(about=None),
        lambda body: body["files"].update(a=3),
        lambda body: body["files"].update(a={"bytes": -1, "crc32": 0}),
        lambda body: body["files"].update(a={"bytes": 1.5, "crc32": 0}),
        lambda body: body["files"].update(a={"bytes": 1}),
        lambda body: body["files"].update(a={"bytes": 1, "crc32": True}),
        lambda body: body["files"].update(a={"bytes": 1, "crc32": 0, "mode": 7}),
    ],
)
def test_an_invalid_manifest_is_rejected(checkpoint, change):
    """Missing, unknown and invalid fields raise an error."""
    rewrite(checkpoint, change)
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json: isn.t a manifest"):
        manifest.read(checkpoint)


def test_a_file_without_a_checksum_is_rejected(checkpoint):
    """A file other than a chunk must have a checksum."""
    rewrite(checkpoint, lambda body: body["files"]["state.pt"].update(crc32=None))
    with pytest.raises(DamagedCheckpointError, match=r"state\.pt: has no checksum"):
        manifest.verify(checkpoint)


def test_an_incomplete_buffer_gets_no_manifest(checkpoint):
    """No manifest is written if a chunk is missing or the buffer's description is damaged."""
    (checkpoint / MANIFEST).unlink()
    chunk = next(checkpoint.rglob("*.bin"))
    with deleted(chunk), pytest.raises(DamagedCheckpointError) as caught:
        manifest.write(checkpoint, ABOUT)
    assert caught.value.file == chunk
    assert not manifest.is_complete(checkpoint)
    for _ in cuts(chunk.parent / "buffer.json"):
        with pytest.raises(DamagedCheckpointError, match=r"buffer\.json"):
            manifest.write(checkpoint, ABOUT)
    assert not manifest.is_complete(checkpoint)


def test_writing_a_manifest_does_not_read_chunks(checkpoint, monkeypatch):
    """Chunks, which have checksums already, aren't read for a manifest."""
    (checkpoint / MANIFEST).unlink()
    read = []
    measure = manifest.size_and_checksum
    monkeypatch.setattr(manifest, "size_and_checksum", lambda path: read.append(path.name) or measure(path))
    manifest.write(checkpoint, ABOUT)
    assert "buffer.json" in read
    assert not any(name.endswith(".bin") for name in read)


def test_non_finite_metrics_are_preserved(tmp_path):
    """Infinity and NaN in `about` are read back."""
    manifest.write(tmp_path, {"loss": math.inf, "reward": math.nan})
    about = manifest.read(tmp_path).about
    assert about["loss"] == math.inf
    assert math.isnan(about["reward"])


def test_values_that_json_cannot_store_are_rejected(tmp_path):
    """A value that JSON can't store raises an error before anything is written."""
    with pytest.raises(TypeError, match="float32"):
        manifest.write(tmp_path, {"loss": np.float32(1)})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_manifest(small_disk):  # noqa: F811
    """On a full disk, writing a manifest raises an error and leaves no file."""
    disk = small_disk(1)
    (disk.folder / "state.pt").write_bytes(bytes(2**18))
    ballast = disk.fill()
    with pytest.raises(OSError, match="No space left"):
        manifest.write(disk.folder, ABOUT)
    assert sorted(path.name for path in disk.folder.iterdir()) == ["ballast", "state.pt"]
    ballast.unlink()
    manifest.write(disk.folder, ABOUT)
    manifest.verify(disk.folder)


def test_a_failed_write_leaves_no_manifest(tmp_path):
    """A write that fails midway leaves no file."""
    for number in range(100):
        (tmp_path / f"file_{number}").touch()
    error = with_file_limit(4096 / 2**20, lambda: manifest.write(tmp_path, ABOUT))
    assert "File too large" in error
    assert len(list(tmp_path.iterdir())) == 100
    assert with_file_limit(1, lambda: manifest.write(tmp_path, ABOUT)) == ""
    manifest.verify(tmp_path)


def test_big_files_are_read_in_parts(tmp_path):
    """Files of 40 MiB are checked in a process that may allocate 10 MiB."""
    with (tmp_path / "big").open("wb") as file:
        file.truncate(40 * 2**20)
    program = """
import resource, sys
from pathlib import Path
from sheeprl.checkpoint import manifest
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 10 * 2**20,) * 2)
manifest.write(Path(sys.argv[1]), {})
manifest.verify(Path(sys.argv[1]))
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process can't be read on this system")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def test_the_module_imports_neither_torch_nor_ray():
    """Importing the module imports neither torch, Ray nor NumPy."""
    program = "import sys, sheeprl.checkpoint.manifest; assert not {'torch', 'ray', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
