"""Ends adds in the middle, as a kill does: whatever comes after doesn't happen."""

import gc

import numpy as np

NOTHING, BEGUN, WHOLE = "nothing", "begun", "whole"


class Killed(BaseException):
    """In the place of SIGKILL."""


def _die(*args, **kwargs):
    raise Killed


def _before(owner, name):
    setattr(owner, name, _die)


def _after(owner, name):
    original = getattr(owner, name)

    def instead(*args, **kwargs):
        original(*args, **kwargs)
        raise Killed

    setattr(owner, name, instead)


def _half_a_book(storage):
    def instead(book):
        (storage.journal.folder / "book.json.part").write_text('{"checksum": 1, "te')
        raise Killed

    storage.journal.begin = instead


def _half_an_entry(storage):
    journal = storage.journal
    intend = journal.intend

    def instead(added):
        intend(added)
        raw = journal.records[journal.count : journal.count + 1].view(np.uint8)
        raw[len(raw) // 2 :] = 255
        raise Killed

    journal.intend = instead


def _half_of_the_rows(storage):
    write_rows = storage._write_rows

    def instead(fragment, group, slots):
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
"""Moments of an add, in their order: what attaching finds of the fragment then, and how to end it there."""


def add_and_die(buffer, rows, stream, sequence, stage):
    """Whether the add came by the stage; the buffer's files are let go of either way."""
    STAGES[stage][1](buffer.storage)
    try:
        buffer.add_rows(rows, stream, sequence)
    except Killed:
        return True
    finally:
        buffer.close()
        gc.collect(0)
    return False
