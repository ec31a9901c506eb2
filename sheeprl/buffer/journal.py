"""Journal of a memory-mapped buffer: it marks complete fragments, so that a kill at any moment is recoverable.

An entry is written before the rows of a fragment and committed after them. The journal begins with the storage's
metadata, which lies in a file beside it and is replaced when the journal is full. Both live in the page cache like the
rows, so they survive the process.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sheeprl.utils.files import decode_checksummed, encode_checksummed, write_atomically

METADATA_FILE = "book.json"
RECORDS = 32_768

# These names are part of the file format: buffers of older versions are attached by them.
_KEYS = {"checksum": "checksum", "content": "text"}
_RECORD = np.dtype(
    [
        ("epoch", "<u8"),
        ("total", "<i8"),
        ("player", "<i8"),
        ("incarnation", "<i8"),
        ("sequence", "<i8"),
        ("rows", "<i4"),
        ("envs", "<i4"),
        ("anew", "u1"),
        ("whole", "u1"),
        ("checksum", "<u4"),
    ]
)


@dataclass(frozen=True)
class JournalEntry:
    """Entry of one fragment.

    Args:
        total: rows ever added to the storage before the fragment.
        key: (player, incarnation).
        sequence: sequence number of the fragment.
        rows: T, the rows of each environment.
        envs: B, the number of environments.
        new_streams: True if the fragment begins new streams.
        committed: True if the fragment is complete.
    """

    total: int
    key: tuple[int, int]
    sequence: int
    rows: int
    envs: int
    new_streams: bool
    committed: bool


class Journal:
    """Entries of the fragments added since the metadata was written.

    Args:
        folder: folder of the buffer.
        records: `[RECORDS]` array of `dtype` that stores the entries, in the same memory as the rows.
    """

    dtype = _RECORD

    def __init__(self, folder: Path, records: np.ndarray[Any, Any]) -> None:
        """Store folder and records; call `begin` or `read` before the first entry."""
        self.folder = folder
        self.records = records
        self.epoch = 0
        self.count = 0

    @property
    def full(self) -> bool:
        """Return True if `begin` is due before the next entry."""
        return self.epoch == 0 or self.count == len(self.records)

    def begin(self, metadata: dict[str, Any]) -> None:
        """Write the storage's metadata and begin an empty journal."""
        data = encode_checksummed({"epoch": self.epoch + 1, "book": metadata}, **_KEYS)
        write_atomically(self.folder / METADATA_FILE, data, sync=False)
        self.epoch += 1
        self.count = 0

    def write(self, entry: JournalEntry) -> None:
        """Write the entry of the next fragment, uncommitted."""
        record = np.zeros(1, _RECORD)
        record["epoch"], record["total"] = self.epoch, entry.total
        record["player"], record["incarnation"] = entry.key
        record["sequence"], record["rows"], record["envs"] = entry.sequence, entry.rows, entry.envs
        record["anew"] = entry.new_streams
        record["checksum"] = _checksum(record)
        self.records[self.count : self.count + 1] = record

    def commit(self) -> None:
        """Commit the entry written last."""
        self.records["whole"][self.count] = 1
        self.count += 1

    def read(self) -> tuple[dict[str, Any] | None, list[JournalEntry]]:
        """Return the metadata, None if none was written yet, and the entries. Only the last one may be uncommitted.

        Raises:
            ValueError: the metadata file is damaged.
        """
        path = self.folder / METADATA_FILE
        if not path.exists() and not self.records["epoch"].any():
            return None, []
        try:
            inner = decode_checksummed(path.read_bytes(), **_KEYS)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        self.epoch = inner["epoch"]
        entries = list(self._entries())
        self.count = sum(entry.committed for entry in entries)
        return inner["book"], entries

    def _entries(self) -> Iterator[JournalEntry]:
        """Yield the valid entries of this epoch, up to the first uncommitted one."""
        for record in self.records:
            uncommitted = np.array([record], _RECORD)
            uncommitted["whole"] = 0
            if record["epoch"] != self.epoch or int(record["checksum"]) != _checksum(uncommitted):
                return
            entry = JournalEntry(
                total=int(record["total"]),
                key=(int(record["player"]), int(record["incarnation"])),
                sequence=int(record["sequence"]),
                rows=int(record["rows"]),
                envs=int(record["envs"]),
                new_streams=bool(record["anew"]),
                committed=bool(record["whole"]),
            )
            yield entry
            if not entry.committed:
                return


def _checksum(record: np.ndarray[Any, Any]) -> int:
    """Return the CRC-32 of a record, computed with its checksum field set to 0."""
    copy = record.copy()
    copy["checksum"] = 0
    return zlib.crc32(copy.tobytes())
