"""The journal of a memory-mapped buffer: enough to know, after a kill at any moment, what was whole.

A record is written before a fragment's rows are, and marked as whole after them. The book (all streams, as of the
journal's beginning) is a file beside it that is replaced when the journal is full. Both live in the page cache like the
rows, so they survive the process.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BOOK = "book.json"
RECORDS = 32_768

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
class Added:
    """A fragment's entry.

    Args:
        total: rows that had been added before it.
        key: (player, incarnation).
        sequence: its number.
        rows: T.
        envs: B.
        anew: whether it began new streams.
        whole: whether all of it was written.
    """

    total: int
    key: tuple[int, int]
    sequence: int
    rows: int
    envs: int
    anew: bool
    whole: bool


class Journal:
    """Entries of the fragments that were added since the book was written.

    Args:
        folder: of the buffer.
        records: array that keeps the entries, `RECORDS` of `dtype`, in the same memory as the rows.
    """

    dtype = _RECORD

    def __init__(self, folder: Path, records: np.ndarray[Any, Any]) -> None:
        self.folder = folder
        self.records = records
        self.epoch = 0
        self.count = 0

    @property
    def full(self) -> bool:
        """Whether a new book is due, or the first."""
        return self.epoch == 0 or self.count == len(self.records)

    def begin(self, book: dict[str, Any]) -> None:
        """Write a book, with which the journal begins anew."""
        partial = self.folder / f"{BOOK}.part"
        text = json.dumps({"epoch": self.epoch + 1, "book": book})
        partial.write_text(json.dumps({"checksum": zlib.crc32(text.encode()), "text": text}))
        partial.replace(self.folder / BOOK)
        self.epoch += 1
        self.count = 0

    def intend(self, added: Added) -> None:
        """Note what is going to be added."""
        record = np.zeros(1, _RECORD)
        record["epoch"], record["total"] = self.epoch, added.total
        record["player"], record["incarnation"] = added.key
        record["sequence"], record["rows"], record["envs"] = added.sequence, added.rows, added.envs
        record["anew"] = added.anew
        record["checksum"] = _checksum(record)
        self.records[self.count : self.count + 1] = record

    def commit(self) -> None:
        """All rows of what was noted last are there."""
        self.records["whole"][self.count] = 1
        self.count += 1

    def read(self) -> tuple[dict[str, Any] | None, list[Added]]:
        """The book, None if there was none yet, and what was added since; the last entry alone may not be whole.

        Raises:
            ValueError: the book is damaged.
        """
        if not (self.folder / BOOK).exists() and not self.records["epoch"].any():
            return None, []
        try:
            outer = json.loads((self.folder / BOOK).read_text())
            if zlib.crc32(outer["text"].encode()) != outer["checksum"]:
                raise ValueError("its checksum differs")
            inner = json.loads(outer["text"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.folder / BOOK} is damaged: {error}") from error
        self.epoch = inner["epoch"]
        entries = list(self._entries())
        self.count = sum(entry.whole for entry in entries)
        return inner["book"], entries

    def _entries(self) -> Iterator[Added]:
        for record in self.records:
            bare = np.array([record], _RECORD)
            bare["whole"] = 0
            if record["epoch"] != self.epoch or int(record["checksum"]) != _checksum(bare):
                return
            key = (int(record["player"]), int(record["incarnation"]))
            whole = bool(record["whole"])
            yield Added(
                int(record["total"]),
                key,
                int(record["sequence"]),
                int(record["rows"]),
                int(record["envs"]),
                bool(record["anew"]),
                whole,
            )
            if not whole:
                return


def _checksum(record: np.ndarray[Any, Any]) -> int:
    bare = record.copy()
    bare["checksum"] = 0
    return zlib.crc32(bare.tobytes())
