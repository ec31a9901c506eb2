"""A checkpoint is what its manifest says, or the error names the file that isn't."""

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
    """What a checkpoint's folder holds, of a few pages a file; the buffer, to go on with."""
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


def make(folder, steps=1000, buffer=None):
    buffer = fill(folder, steps, buffer)
    manifest.write(folder, {**ABOUT, "policy_steps": steps})
    return buffer


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(changes, "CHUNK_BYTES", 6000)  # of more than one page
    make(tmp_path / "step_1000")
    return tmp_path / "step_1000"


def test_a_checkpoint_is_as_it_was_written(checkpoint):
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
def test_every_damage_is_found_and_names_the_file(checkpoint, damage):
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


def test_every_bit_of_a_small_manifest_counts(tmp_path):
    (tmp_path / "step_1").mkdir()
    (tmp_path / "step_1" / "é").write_text("one file")  # its name has hexadecimal digits, which have two cases
    manifest.write(tmp_path / "step_1", {})
    path = tmp_path / "step_1" / MANIFEST
    for _ in flips(path):
        with pytest.raises(DamagedCheckpointError, match=MANIFEST):
            manifest.read(tmp_path / "step_1")
    assert manifest.read(tmp_path / "step_1").files


def test_a_manifest_cut_anywhere_is_damaged(checkpoint):
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
    for path in files_below(checkpoint):
        wanted = FileNotFoundError if path.name == MANIFEST else DamagedCheckpointError
        with deleted(path), pytest.raises(wanted) as caught:
            manifest.verify(checkpoint)
        assert str(path) in str(caught.value)
    manifest.verify(checkpoint)


def test_a_folder_without_a_manifest_is_no_checkpoint(checkpoint):
    (checkpoint / MANIFEST).unlink()
    assert not manifest.is_complete(checkpoint)
    with pytest.raises(FileNotFoundError, match=r"not a complete checkpoint.*manifest\.json"):
        manifest.read(checkpoint)
    with pytest.raises(FileNotFoundError):
        manifest.read(checkpoint / "nowhere")


def test_a_manifest_that_was_being_written_counts_for_nothing(checkpoint):
    partial = checkpoint / f".{MANIFEST}.part"
    (checkpoint / MANIFEST).rename(partial)
    assert not manifest.is_complete(checkpoint)
    found = manifest.write(checkpoint, ABOUT)
    assert partial.name not in found.files
    assert not partial.exists()
    manifest.verify(checkpoint)


def test_files_of_others_are_let_be(checkpoint):
    (checkpoint / "notes.txt").write_text("the good one")
    manifest.verify(checkpoint)


def test_a_copy_elsewhere_is_as_good(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "elsewhere" / "step_1000")
    shutil.rmtree(checkpoint)
    manifest.verify(tmp_path / "elsewhere" / "step_1000")


def rewritten(checkpoint, change):
    """Write a manifest again with what `change` does to its content and a checksum that fits."""
    path = checkpoint / MANIFEST
    rest = path.read_bytes().partition(b"\n")[2]
    body = json.loads(b"{" + rest)
    change(body)
    rest = json.dumps(body, indent=1).encode().removeprefix(b"{\n")
    path.write_bytes(b'{"crc32": "%08x",\n%b' % (zlib.crc32(rest), rest))


def test_a_newer_format_is_refused_with_what_to_do(checkpoint):
    rewritten(checkpoint, lambda body: body.update(format=2, files="in another way"))
    with pytest.raises(DamagedCheckpointError, match=r"format 2; SheepRL .* reads formats up to 1; use") as caught:
        manifest.read(checkpoint)
    assert caught.value.file == checkpoint / MANIFEST


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "buffer/../../outside", "", ".", "a//b", "nul\0"])
def test_files_outside_of_the_checkpoint_are_refused(checkpoint, name):
    rewritten(checkpoint, lambda body: body["files"].update({name: {"bytes": 1, "crc32": None}}))
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
def test_what_is_no_manifest_is_refused(checkpoint, change):
    rewritten(checkpoint, change)
    with pytest.raises(DamagedCheckpointError, match=r"manifest\.json: isn.t a manifest"):
        manifest.read(checkpoint)


def test_a_file_without_any_checksum_is_refused(checkpoint):
    rewritten(checkpoint, lambda body: body["files"]["state.pt"].update(crc32=None))
    with pytest.raises(DamagedCheckpointError, match=r"state\.pt: has no checksum"):
        manifest.verify(checkpoint)


def test_a_buffer_that_isnt_whole_makes_no_checkpoint(checkpoint):
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


def test_chunks_arent_read_again_when_a_checkpoint_is_written(checkpoint, monkeypatch):
    (checkpoint / MANIFEST).unlink()
    read = []
    measure = manifest.size_and_checksum
    monkeypatch.setattr(manifest, "size_and_checksum", lambda path: read.append(path.name) or measure(path))
    manifest.write(checkpoint, ABOUT)
    assert "buffer.json" in read
    assert not any(name.endswith(".bin") for name in read)


def test_metrics_that_arent_numbers_come_back(tmp_path):
    manifest.write(tmp_path, {"loss": math.inf, "reward": math.nan})
    about = manifest.read(tmp_path).about
    assert about["loss"] == math.inf
    assert math.isnan(about["reward"])


def test_what_isnt_plain_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="float32"):
        manifest.write(tmp_path, {"loss": np.float32(1)})
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_has_no_room_leaves_nothing(small_disk):  # noqa: F811
    disk = small_disk(1)
    (disk.folder / "state.pt").write_bytes(bytes(2**18))
    ballast = disk.fill()
    with pytest.raises(OSError, match="No space left"):
        manifest.write(disk.folder, ABOUT)
    assert sorted(path.name for path in disk.folder.iterdir()) == ["ballast", "state.pt"]
    ballast.unlink()
    manifest.write(disk.folder, ABOUT)
    manifest.verify(disk.folder)


def test_a_manifest_that_cant_be_written_to_its_end_leaves_nothing(tmp_path):
    for number in range(100):
        (tmp_path / f"file_{number}").touch()
    said = with_file_limit(4096 / 2**20, lambda: manifest.write(tmp_path, ABOUT))
    assert "File too large" in said
    assert len(list(tmp_path.iterdir())) == 100
    assert with_file_limit(1, lambda: manifest.write(tmp_path, ABOUT)) == ""
    manifest.verify(tmp_path)


def test_big_files_are_read_in_parts(tmp_path):
    """Forty megabytes with room for ten more than Python has."""
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
        pytest.skip("how much memory a process has can't be told here")
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def test_neither_torch_nor_ray_is_imported():
    program = "import sys, sheeprl.checkpoint.manifest; assert not {'torch', 'ray', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
