"""Test the event file against TensorBoard's reader."""

import struct
import time

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from sheeprl.metrics.files import EventFile, _checksum


def test_tensorboard_reads_the_events(tmp_path):
    """TensorBoard reads every event with its checksums, also the version that comes first."""
    file = EventFile(tmp_path)
    for step in range(3):
        event = Event(wall_time=time.time(), step=step)
        event.summary.value.add(tag="Loss", simple_value=step / 2)
        file.append(event)
    file.close()
    (path,) = tmp_path.iterdir()
    first, *events = EventFileLoader(str(path)).Load()
    assert first.file_version == "brain.Event:2"
    assert [event.step for event in events] == [0, 1, 2]


def test_each_event_file_has_its_own_name(tmp_path):
    """A resumed run in the same process adds a file."""
    for _ in range(2):
        EventFile(tmp_path).close()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_checksum_is_the_masked_castagnoli_polynomial():
    """The checksum of the standard's test input is the published one."""
    crc = 0xE3069283  # CRC-32C of "123456789"
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _checksum(b"123456789") == struct.pack("<I", masked)
