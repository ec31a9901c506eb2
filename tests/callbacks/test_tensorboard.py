"""Test the configuration in TensorBoard events."""

from sheeprl import load_config
from sheeprl.callbacks.base import RunView
from sheeprl.callbacks.tensorboard import TensorBoardConfig
from sheeprl.metrics.counters import Counters, RunStats
from sheeprl.metrics.reporter import FileReporter


def test_configuration_comes_before_the_scalars(tmp_path):
    """TensorBoard's own reader finds text, hyperparameters and scalars; a resume writes no second configuration."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reporter = FileReporter(tmp_path, "error")
    stats = RunStats(Counters(), 0.0)
    run = RunView(load_config("ppo"), tmp_path, stats, lambda: 0.0, reporter.message, lambda: None)
    for _ in range(2):
        TensorBoardConfig(tmp_path).on_start(run)
    reporter.metrics(10, {"loss": 1.0})
    reporter.close()
    assert sorted(tmp_path.glob("events*"))[0].name.endswith(".config")
    found = EventAccumulator(str(tmp_path)).Reload()
    assert found.Tags()["scalars"] == ["loss"]
    assert "config/text_summary" in found.Tags()["tensors"]
    assert b"env:" in found.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    assert "_hparams_/session_start_info" in found.summary_metadata
