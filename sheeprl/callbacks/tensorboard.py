"""Write the configuration into a run's TensorBoard events, as text and as hyperparameters."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sheeprl.callbacks.base import Callback, RunView
from sheeprl.callbacks.trackers import flat

EVENTS, SUFFIX = "events.out.tfevents.", ".config"


class TensorBoardConfig(Callback):
    """Write the configuration at the first start of a run; its scalars are the metrics of the hyperparameters.

    Args:
        run_dir: folder of the run.
    """

    writes_run_files = True

    def __init__(self, run_dir: Path) -> None:
        """Store the folder."""
        self.run_dir = run_dir

    def on_start(self, run: RunView) -> None:
        """Write the file, whose name sorts before that of the scalars.

        TensorBoard reads the files of a folder in this order, and never returns to an earlier one.
        """
        if any(self.run_dir.glob(f"{EVENTS}*{SUFFIX}")):
            return
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.plugins.hparams import summary_v2
        from tensorboard.summary.writer.record_writer import RecordWriter

        text = "\n".join(f"    {line}" for line in run.config.to_yaml().splitlines())  # Markdown's code
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()])
        tensor.tensor_shape.dim.add(size=1)
        summaries = [
            Summary(value=[Summary.Value(tag="config/text_summary", metadata=metadata, tensor=tensor)]),
            summary_v2.hparams_pb(dict(flat(run.config.to_tree())), trial_id=self.run_dir.name),
        ]
        starts = [path.name.removeprefix(EVENTS).partition(".")[0] for path in self.run_dir.glob(f"{EVENTS}*")]
        first = min((int(start) for start in starts if start.isdigit()), default=int(time.time()))
        with (self.run_dir / f"{EVENTS}{first - 1}{SUFFIX}").open("wb") as file:
            writer = RecordWriter(file)
            for event in [_event(file_version="brain.Event:2"), *map(_with_summary, summaries)]:
                writer.write(event.SerializeToString())


def _event(**values: Any) -> Any:
    """Return an event of now."""
    from tensorboard.compat.proto.event_pb2 import Event

    return Event(wall_time=time.time(), **values)


def _with_summary(summary: Any) -> Any:
    """Return an event with a summary."""
    event = _event()
    event.summary.ParseFromString(summary.SerializeToString())
    return event
