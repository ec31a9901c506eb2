"""Interrupt `add` at any stage, as a kill does."""

import gc

import numpy as np

NOTHING, BEGUN, COMPLETE = "nothing", "begun", "complete"


class Killed(BaseException):
    """Raised where a process would be killed."""


def _die(*args, **kwargs):
    """Raise `Killed`."""
    raise Killed


def _before(owner, name):
    """Make a method raise `Killed` instead of running."""
    setattr(owner, name, _die)


def _after(owner, name):
    """Make a method raise `Killed` after it ran."""
    original = getattr(owner, name)

    def instead(*args, **kwargs):
        """Write half of the metadata file and stop."""
        original(*args, **kwargs)
        raise Killed

    setattr(owner, name, instead)


def _half_the_metadata(storage):
    """Make the journal raise `Killed` with half of its metadata file written."""

    def instead(metadata):
        """Write a torn entry and stop."""
        (storage.journal.folder / ".book.json.part").write_text('{"checksum": 1, "te')
        raise Killed

    storage.journal.begin = instead


def _half_an_entry(storage):
    """Make the journal raise `Killed` with half of an entry written."""
    journal = storage.journal
    write = journal.write

    def instead(entry):
        """Write a torn entry and stop."""
        write(entry)
        raw = journal.records[journal.count : journal.count + 1].view(np.uint8)
        raw[len(raw) // 2 :] = 255
        raise Killed

    journal.write = instead


def _half_of_the_rows(storage):
    """Make the storage raise `Killed` with half of the keys written."""
    write_rows = storage._write_rows

    def instead(fragment, group, slots):
        """Write a torn entry and stop."""
        write_rows(dict(list(fragment.items())[: len(fragment) // 2]), group, slots)
        raise Killed

    storage._write_rows = instead


STAGES = {
    "metadata": (NOTHING, lambda storage: _before(storage.journal, "begin")),
    "half the metadata": (NOTHING, _half_the_metadata),
    "metadata replaced": (NOTHING, lambda storage: _after(storage.journal, "begin")),
    "streams": (NOTHING, lambda storage: _before(storage, "_open")),
    "streams opened": (NOTHING, lambda storage: _after(storage, "_open")),
    "half an entry": (NOTHING, _half_an_entry),
    "entry": (BEGUN, lambda storage: _after(storage.journal, "write")),
    "claimed": (BEGUN, lambda storage: _after(storage, "_claim_slots")),
    "half of the rows": (BEGUN, _half_of_the_rows),
    "rows": (BEGUN, lambda storage: _after(storage, "_write_rows")),
    "links": (BEGUN, lambda storage: _after(storage, "_connect")),
    "extensions": (BEGUN, lambda storage: _before(storage.journal, "commit")),
    "committed": (COMPLETE, lambda storage: _before(storage, "_join")),
    "joined": (COMPLETE, lambda storage: _after(storage, "_join")),
    "changes": (COMPLETE, lambda storage: _before(storage.changes, "added")),
}
"""Stages of `add` in order: the state of the fragment after attaching, and a function that makes the stage raise."""


def add_and_die(buffer, rows, stream, sequence, stage):
    """Interrupt `add` at a stage and close the buffer. Return True if `add` reached the stage."""
    STAGES[stage][1](buffer.storage)
    try:
        buffer.add_rows(rows, stream, sequence)
    except Killed:
        return True
    finally:
        buffer.close()
        gc.collect(0)
    return False
