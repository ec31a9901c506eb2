"""Record episodes as videos, and as small animated pictures for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.wrappers import RecordVideo

MAX_FRAMES, MAX_SIZE = 200, 256
"""Greatest number of frames, and greatest height and width in pixels, of an animated picture."""


class RecordEpisodes(RecordVideo):
    """gymnasium's `RecordVideo` with an animated GIF beside each video, which the reporter adds to TensorBoard."""

    def stop_recording(self) -> None:
        """Write the picture and the video."""
        if self.recorded_frames:
            write_gif(
                os.path.join(self.video_folder, f"{self._video_name}.gif"), self.recorded_frames, self.frames_per_sec
            )
        super().stop_recording()  # type: ignore[no-untyped-call]


def write_gif(path: str, frames: Sequence[Any], fps: int, max_size: int = MAX_SIZE) -> None:
    """Write an animated GIF, which exists once it is complete.

    Long or large ones lose frames or pixels at regular distances, and keep their duration.

    Args:
        path: path of the file.
        frames: bytes `[H, W, 3]`.
        fps: frames per second.
        max_size: most pixels of the longer side.
    """
    from PIL import Image  # TensorBoard depends on it

    stride = -(-len(frames) // MAX_FRAMES)
    shrink = -(-max(np.shape(frames[0])[:2]) // max_size)
    pictures = [Image.fromarray(np.ascontiguousarray(frame[::shrink, ::shrink])) for frame in frames[::stride]]
    replace_gif(path, pictures, round(1000 * stride / fps))


def replace_gif(path: str, pictures: Sequence[Any], milliseconds: int) -> None:
    """Write an animated GIF, which exists once it is complete.

    Args:
        path: path of the file.
        pictures: pictures of PIL.
        milliseconds: duration of each.
    """
    partial = f"{path}.part"
    pictures[0].save(partial, format="GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    os.replace(partial, path)
