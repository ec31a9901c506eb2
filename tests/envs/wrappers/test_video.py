"""Test the recording of episodes."""

import numpy as np
import pytest

from sheeprl.envs.make import record_video
from sheeprl.envs.wrappers.video import MAX_FRAMES, write_gif
from tests.helpers.wrapped_envs import Scripted


class Filmed(Scripted):
    """`Scripted` with pictures."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - gymnasium's form

    def __init__(self):
        """Render RGB pictures."""
        super().__init__()
        self.render_mode = "rgb_array"

    def render(self):
        """Return a picture of the step."""
        return np.full((16, 16, 3), 20 * self.at, np.uint8)


def test_a_long_recording_loses_frames_and_pixels(tmp_path):
    """A long recording loses frames and pixels."""
    image = pytest.importorskip("PIL.Image")
    frames = [np.full((300, 600, 3), number % 256, np.uint8) for number in range(2 * MAX_FRAMES)]
    write_gif(str(tmp_path / "a.gif"), frames, fps=20)
    with image.open(tmp_path / "a.gif") as picture:
        assert (picture.n_frames, picture.size, picture.info["duration"]) == (MAX_FRAMES, (200, 100), 100)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_an_episode_is_recorded(tmp_path):
    """An episode is recorded."""
    pytest.importorskip("moviepy")
    env = record_video(Filmed(), str(tmp_path), every_episode=True)
    env.reset(seed=0)
    for _ in range(5):
        env.step(0)
    env.close()
    assert {path.suffix for path in tmp_path.iterdir()} == {".gif", ".mp4"}
