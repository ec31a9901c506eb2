"""Write the configuration into a run's TensorBoard events: as text, and as hyperparameters with the final score."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sheeprl.actors.evaluation import Evaluation
from sheeprl.callbacks.base import Callback, RunView
from sheeprl.callbacks.trackers import flat

SCORE = "hparams/eval_return"


class TensorBoardConfig(Callback):
    """Write the configuration at the start, and the last evaluation as the metric of the hyperparameters.

    Args:
        run_dir: folder of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        """Store the folder; `on_start` opens the file."""
        self.run_dir = run_dir
        self._writer: Any = None

    def on_start(self, run: RunView) -> None:
        """Write the configuration."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.plugins.hparams import summary_v2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(self.run_dir), filename_suffix=".config")
        text = "\n".join(f"    {line}" for line in run.config.to_yaml().splitlines())  # Markdown's code
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()])
        tensor.tensor_shape.dim.add(size=1)
        self._add(Summary(value=[Summary.Value(tag="config/text_summary", metadata=metadata, tensor=tensor)]))
        self._add(summary_v2.hparams_pb(dict(flat(run.config.to_tree())), trial_id=self.run_dir.name))

    def on_evaluation(self, run: RunView, result: Evaluation) -> None:
        """Write the mean return."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(Summary(value=[Summary.Value(tag=SCORE, simple_value=result.mean_return)]), result.policy_steps)

    def on_end(self, run: RunView, status: str) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, summary: Any, step: int = 0) -> None:
        """Write a summary."""
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(wall_time=time.time(), step=step)
        event.summary.ParseFromString(summary.SerializeToString())
        self._writer.add_event(event)
        self._writer.flush()
