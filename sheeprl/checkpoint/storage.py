"""Checkpoints of a run at a URL (`checkpoint.storage`): in a bucket, or in a folder that several machines share.

    <url>/lease/<epoch>.json                        one per driver, created only if it doesn't exist
    <url>/objects/<digest>                          files and chunks, named by their content
    <url>/pending/<epoch>-step_<n>/shard_<k>.json   indexes of shards that a driver hasn't committed yet
    <url>/checkpoints/<epoch>-step_<n>.json         manifests

A checkpoint is its manifest, which is written last and names the objects. A driver checks before each manifest that no
other driver has taken a newer epoch. Objects that no manifest names are removed an hour after they were written.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sheeprl.buffer.places import MANIFEST as INDEX
from sheeprl.buffer.places import OBJECTS, DamagedSaveError, read_object_manifest
from sheeprl.buffer.saving import read_index_bytes
from sheeprl.callbacks.records import EPISODES, EVALUATIONS
from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.files import METRICS, URL_FILE
from sheeprl.checkpoint.manifest import DamagedCheckpointError
from sheeprl.checkpoint.run_info import RUN_INFO
from sheeprl.checkpoint.spaces_file import SPACES
from sheeprl.config.schema import Config
from sheeprl.utils.errors import ConfigError, one_line
from sheeprl.utils.files import encode_checksummed, replace_folder, write_atomically
from sheeprl.utils.objects import MissingObjectError, Objects, StorageError, content_name

LEASES, CHECKPOINTS, PENDING = "lease", "checkpoints", "pending"
CARRIED = (EPISODES, EVALUATIONS, RUN_INFO, SPACES)
"""Files of a run that its checkpoints at the storage hold, for a resume in another folder."""
RETENTION = 3600.0  # seconds for which an object that no manifest names remains: a save may be about to name it


class LeaseLostError(OSError):
    """Raised when another driver has taken over the run."""

    is_final = True  # the run can't continue

    def __str__(self) -> str:
        """Return the message without an error number."""
        return str(self.args[0])


@dataclass(frozen=True, order=True)
class Saved:
    """A checkpoint at the URL; the order is that of the times of writing.

    Args:
        epoch: epoch of the driver that wrote it.
        step: policy steps of the run.
    """

    epoch: int
    step: int

    @property
    def name(self) -> str:
        """Return the name of its manifest's object."""
        return f"{CHECKPOINTS}/{self.epoch:06d}-step_{self.step}.json"

    @property
    def folder(self) -> str:
        """Return the name of its local folder."""
        return f"step_{self.step}"


class RunStorage:
    """Checkpoints of one run at a URL.

    Args:
        url: URL of the run.

    Raises:
        ValueError: the URL is invalid, or its package is missing.
        StorageError: the file system can't be opened.
    """

    def __init__(self, url: str) -> None:
        """Open the file system; `take_lease` makes this process the writer."""
        self.objects = Objects(url)
        self.url, self.epoch = self.objects.url, 0
        self.lease = ""  # content of the lease object
        self.skew = 0.0  # seconds by which this machine's clock is ahead of the one that dates the objects

    # ------------------------------------------------------------------------------------------- lease

    def take_lease(self) -> None:
        """Become the only driver that commits checkpoints. This also checks that the URL is writable.

        Raises:
            StorageError: the URL isn't readable and writable.
        """
        self.lease = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex})
        while True:
            self.epoch = self._newest_epoch() + 1
            if self.objects.create(self.lease_name, self.lease.encode()):
                break
        if self.objects.read(self.lease_name).decode() != self.lease:
            raise StorageError(f"{self.url}: an object reads back with other content")
        _, self.skew = self.objects.listing(LEASES)[self.lease_name.rpartition("/")[2]]  # the age of a new object

    @property
    def lease_name(self) -> str:
        """Return the name of this driver's lease object."""
        return f"{LEASES}/{self.epoch:06d}.json"

    def check_lease(self) -> None:
        """Check that no other driver has taken over the run.

        Raises:
            LeaseLostError: another driver has.
        """
        newest = self._newest_epoch()
        # The content too, since a server that isn't Amazon's may ignore the condition of the creation.
        if newest != self.epoch or self.objects.read(self.lease_name).decode() != self.lease:
            where = f"{self.url}/{LEASES}/{newest:06d}.json"
            raise LeaseLostError(f"another driver has taken over this run ({where}); this one may not save checkpoints")

    def _newest_epoch(self) -> int:
        """Return the newest epoch, 0 if there is none."""
        names = (re.fullmatch(r"(\d+)\.json", name) for name in self.objects.listing(LEASES))
        return max((int(match[1]) for match in names if match), default=0)

    # ------------------------------------------------------------------------------------------ reading

    def checkpoints(self) -> list[Saved]:
        """Return all checkpoints, oldest first.

        Raises:
            StorageError: the URL can't be listed.
        """
        names = (re.fullmatch(r"(\d+)-step_(\d+)\.json", name) for name in self.objects.listing(CHECKPOINTS))
        return sorted(Saved(int(match[1]), int(match[2])) for match in names if match)

    def manifest_url(self, saved: Saved) -> str:
        """Return the URL of a manifest, from which shards read their rows."""
        return f"{self.url}/{saved.name}"

    def fetch(self, saved: Saved, into: Path) -> Path:
        """Copy a checkpoint without its rows to a local folder, and check that all its objects exist.

        Args:
            saved: the checkpoint.
            into: parent of the local folder.

        Returns:
            The local folder.

        Raises:
            DamagedCheckpointError: an object is missing or altered.
            StorageError: an object can't be read.
        """
        final, partial = into / saved.folder, into / f".{saved.folder}.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        where = self.manifest_url(saved)
        try:
            with self._naming(saved):
                body = read_object_manifest(self.objects, saved.name)
                indexes = [entry for name, entry in body["files"].items() if name.startswith("buffer/")]
                chunks = [chunk for index in self._read(indexes) for chunk in read_index_bytes(index, where)]
                self._check_sizes(where, {chunk["file"]: chunk["bytes"] for chunk in chunks})
                small = {name: entry for name, entry in body["files"].items() if not name.startswith("buffer/")}
                for name, data in zip(small, self._read(list(small.values())), strict=True):
                    write_atomically(partial / manifest.inside(name), data)
                manifest.write(partial, body["about"])
                replace_folder(final, partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return final

    def read_files(self, saved: Saved, names: Sequence[str]) -> dict[str, bytes]:
        """Return the content of those files of a checkpoint that exist, by name.

        Raises:
            DamagedCheckpointError: an object is missing or altered.
            StorageError: an object can't be read.
        """
        with self._naming(saved):
            files = read_object_manifest(self.objects, saved.name)["files"]
            found = {name: files[name] for name in names if name in files}
            return dict(zip(found, self._read(list(found.values())), strict=True))

    @contextmanager
    def _naming(self, saved: Saved) -> Iterator[None]:
        """Convert the errors of a damaged checkpoint to one that names its manifest."""
        where = self.manifest_url(saved)
        try:
            yield
        except MissingObjectError as error:
            raise DamagedCheckpointError(where, one_line(error)) from error
        except DamagedSaveError as error:
            raise DamagedCheckpointError(where, one_line(error).removeprefix(f"{where}: ")) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpointError(where, f"is damaged: {one_line(error)}") from error

    def _read(self, entries: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Return the content of the objects of several files, compared with their digests."""
        found = list(self.objects.read_all([f"{OBJECTS}/{entry['object']}" for entry in entries]))
        for entry, data in zip(entries, found, strict=True):
            if content_name(data) != entry["object"]:
                raise DamagedSaveError(f"{self.url}/{OBJECTS}/{entry['object']}: its content differs from its name")
        return found

    def _check_sizes(self, where: str, expected: Mapping[str, int]) -> None:
        """Check that objects exist in their size."""
        present = self.objects.listing(OBJECTS) if expected else {}
        for name, size in expected.items():
            if present.get(name, (None, 0.0))[0] != size:
                raise DamagedCheckpointError(where, f"{self.url}/{OBJECTS}/{name} is missing or truncated")

    # ------------------------------------------------------------------------------------------ writing

    def pending(self, step: int) -> str:
        """Return the URL where shards write the indexes of the checkpoint at a step."""
        return f"{self.url}/{self._pending_name(step)}"

    def _pending_name(self, step: int) -> str:
        """Return the name below which shards write the indexes of the checkpoint at a step."""
        return f"{PENDING}/{self.epoch:06d}-step_{step}"

    def commit(self, folder: Path, step: int, about: Mapping[str, Any], shards: int) -> Saved:
        """Upload a checkpoint's local files, then write the manifest that makes them and the shards' rows a checkpoint.

        Args:
            folder: local folder with all files but the rows.
            step: policy steps.
            about: description, of values that JSON can represent.
            shards: number of shards that have written an index; 0 if the checkpoint has no rows.

        Raises:
            LeaseLostError: another driver has taken over the run.
            DamagedSaveError: the index of a shard is missing.
            StorageError: an object can't be written.
        """
        saved = Saved(self.epoch, step)
        pending = self._pending_name(step)
        contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in _files(folder)}
        for shard in range(shards):
            contents[f"buffer/shard_{shard}/{INDEX}"] = self.objects.read(f"{pending}/shard_{shard}.json")
        files = {name: {"object": content_name(data), "bytes": len(data)} for name, data in contents.items()}
        chunks = {
            chunk["file"]: chunk["bytes"]
            for name, data in contents.items()
            if name.startswith("buffer/")
            for chunk in read_index_bytes(data, f"{self.url}/{pending}")
        }
        self._check_sizes(self.manifest_url(saved), chunks)
        uploads = {entry["object"]: contents[name] for name, entry in files.items()}
        self.objects.each(lambda item: self.objects.write(f"{OBJECTS}/{item[0]}", item[1]), uploads.items())
        self.check_lease()
        body = {"about": dict(about), "versions": manifest.versions(), "files": files, "chunks": sorted(chunks)}
        if not self.objects.create(saved.name, encode_checksummed(body)):
            self.objects.write(saved.name, encode_checksummed(body))  # the same step again, of the same driver
        return saved

    def clean(self, retained: Iterable[Saved]) -> None:
        """Remove all other checkpoints, then the objects that no manifest has named for an hour.

        Raises:
            LeaseLostError: another driver has taken over the run.
            StorageError: the objects can't be listed or removed.
        """
        self.check_lease()
        keep = set(retained)
        self.objects.remove(saved.name for saved in self.checkpoints() if saved not in keep)
        named = set[str]()
        try:
            for saved in self.checkpoints():
                body = read_object_manifest(self.objects, saved.name)
                named |= {entry["object"] for entry in body["files"].values()} | set(body["chunks"])
        except (DamagedSaveError, KeyError, TypeError):
            return  # the objects of a damaged manifest are unknown
        for kind in (OBJECTS, PENDING):
            listed = self.objects.listing(kind).items()
            old = (name for name, (_, age) in listed if age - self.skew > RETENTION)
            self.objects.remove(f"{kind}/{name}" for name in old if name not in named)


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder except hidden ones and the local manifest."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name != manifest.MANIFEST and not path.name.startswith(".")
    )


def storage_url(config: Config, run_dir: Path) -> str | None:
    """Return the URL of a run's checkpoints, None if they are in the run folder."""
    if config.checkpoint.storage is None:
        return None
    remembered = run_dir / URL_FILE  # a run that continues in a folder of another name
    if remembered.is_file():
        return remembered.read_text(encoding="utf-8").strip()
    return f"{config.checkpoint.storage.rstrip('/')}/{run_dir.name}"


def run_storage(config: Config, run_dir: Path) -> RunStorage | None:
    """Return the storage of a run's checkpoints, None if they are in the run folder.

    Raises:
        ConfigError: the URL is invalid, or its file system can't be opened.
    """
    url = storage_url(config, run_dir)
    if url is None:
        return None
    try:
        return RunStorage(url)
    except (OSError, ValueError) as error:
        raise ConfigError([f"checkpoint.storage={config.checkpoint.storage}: {one_line(error)}"]) from error


def restore_metrics(checkpoint: Path, run_dir: Path) -> None:
    """Copy the run's own files in a fetched checkpoint to a run folder that has none."""
    for name in (METRICS, *CARRIED):
        if (checkpoint / name).is_file() and not (run_dir / name).exists():
            shutil.copy(checkpoint / name, run_dir / name)
