"""End additions to a buffer in the middle, as a kill does."""

import gc

import numpy as np

NOTHING, BEGUN, WHOLE = "nothing", "begun", "whole"


class Killed(BaseException):
    """Raised in place of SIGKILL."""


def _die(*args, **kwargs):
    """Raise `Killed`."""
    raise Killed


def _before(owner, name):
    """Die at the begin of a method."""
    setattr(owner, name, _die)


def _after(owner, name):
    """Die at the end of a method."""
    original = getattr(owner, name)

    def instead(*args, **kwargs):
        """Call the method and die."""
        original(*args, **kwargs)
        raise Killed

    setattr(owner, name, instead)


def _half_a_book(storage):
    """Die while the journal's book is written."""

    def instead(book):
        """Write a part of the book and die."""
        (storage.journal.folder / "book.json.part").write_text('{"checksum": 1, "te')
        raise Killed

    storage.journal.begin = instead


def _half_an_entry(storage):
    """Die while a journal entry is written."""
    journal = storage.journal
    intend = journal.intend

    def instead(added):
        """Damage half of the entry and die."""
        intend(added)
        raw = journal.records[journal.count : journal.count + 1].view(np.uint8)
        raw[len(raw) // 2 :] = 255
        raise Killed

    journal.intend = instead


def _half_of_the_rows(storage):
    """Die while the rows are written."""
    write_rows = storage._write_rows

    def instead(fragment, group, slots):
        """Write half of the fields and die."""
        write_rows(dict(list(fragment.items())[: len(fragment) // 2]), group, slots)
        raise Killed

    storage._write_rows = instead


STAGES = {
    "book": (NOTHING, lambda storage: _before(storage.journal, "begin")),
    "half a book": (NOTHING, _half_a_book),
    "book replaced": (NOTHING, lambda storage: _after(storage.journal, "begin")),
    "streams": (NOTHING, lambda storage: _before(storage, "_open")),
    "streams opened": (NOTHING, lambda storage: _after(storage, "_open")),
    "half an entry": (NOTHING, _half_an_entry),
    "entry": (BEGUN, lambda storage: _after(storage.journal, "intend")),
    "claimed": (BEGUN, lambda storage: _after(storage, "_claim")),
    "half of the rows": (BEGUN, _half_of_the_rows),
    "rows": (BEGUN, lambda storage: _after(storage, "_write_rows")),
    "links": (BEGUN, lambda storage: _after(storage, "_connect")),
    "annexes": (BEGUN, lambda storage: _before(storage.journal, "commit")),
    "committed": (WHOLE, lambda storage: _before(storage, "_join")),
    "joined": (WHOLE, lambda storage: _after(storage, "_join")),
    "changes": (WHOLE, lambda storage: _before(storage.changes, "added")),
}
"""Stages of an addition, in order: what `attach` finds after a death there, and a patch that dies."""


def add_and_die(buffer, rows, stream, sequence, stage):
    """Add a fragment and die at a stage; return whether the stage was reached. The files are closed in both cases."""
    STAGES[stage][1](buffer.storage)
    try:
        buffer.add_rows(rows, stream, sequence)
    except Killed:
        return True
    finally:
        buffer.close()
        gc.collect(0)
    return False
