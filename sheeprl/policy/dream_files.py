"""Write dreams as videos, animated pictures and plots."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sheeprl.policy.dreaming import Dreams
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.installation import install_command

LEAST_SIZE = 96  # least height of a shown picture in pixels
MAX_GIF = 1024  # most pixels of a side of an animated picture
GAP = 2  # pixels between pictures
MOST_CURVES = 8  # elements of a vector that a plot shows
SEEN, IMAGINED = (0, 158, 115), (213, 94, 0)
"""Colors of the gaps around rows that the world model sees, and around those that it imagines."""
FORMATS = (".gif", ".mp4", ".png", ".pdf", ".svg")


def write(dreams: Dreams, out: Path) -> None:
    """Write dreams to a file, which `check` has accepted.

    `.mp4` and `.gif` show pictures, one column per episode: the true ones, the predicted ones, and their difference.
    `.png`, `.pdf`, `.svg`, and `.gif` of observations without pictures, are plots of vectors, rewards and
    continuations.

    Raises:
        ConfigError: the observation has no such parts, a package is missing, or the file can't be written.
    """
    has_pictures = bool(dreams.episodes[0][0].pictures)
    is_video = out.suffix == ".mp4" or (out.suffix == ".gif" and has_pictures)
    if is_video and not has_pictures:
        raise ConfigError([f"--out {out}: the observation has no pictures; use a file that ends with .png"])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if not is_video:
            write_plot(dreams, out)
        elif out.suffix == ".gif":
            from sheeprl.envs.wrappers.video import write_gif

            write_gif(str(out), list(frames(dreams, _size_in_gif(dreams))), round(dreams.fps), MAX_GIF)
        else:
            _write_mp4(dreams, out)
    except OSError as error:
        raise ConfigError([f"--out {out}: can't be written: {error}"]) from error


def check(out: str) -> None:
    """Check before episodes are played that a file can be written.

    Raises:
        ConfigError: its name ends with no known format, or a package is missing.
    """
    suffix = Path(out).suffix
    if suffix not in FORMATS:
        raise ConfigError([f"--out {out}: must end with {', '.join(FORMATS)}"])
    if suffix == ".mp4" and find_spec("moviepy") is None:
        raise ConfigError(
            [f"--out {out}: needs moviepy; {install_command('video')}, or use a file that ends with .gif"]
        )
    if suffix in (".png", ".pdf", ".svg") and find_spec("matplotlib") is None:
        raise ConfigError([f"--out {out}: needs matplotlib; {install_command('plot')}"])


def default_file(dreams: Dreams) -> Path:
    """Return the default file in the folder of the checkpoint's run: a video if moviepy is installed."""
    pictures = ".gif" if find_spec("moviepy") is None else ".mp4"
    suffix = pictures if dreams.episodes[0][0].pictures else ".png"
    return dreams.checkpoint.parents[1] / "videos" / f"{dreams.name}{suffix}"


def _size_in_gif(dreams: Dreams) -> int:
    """Return the height to which small pictures are enlarged, so that an animated picture keeps all pixels."""
    columns = sum(len(true.pictures) for true, _ in dreams.episodes)
    return max(1, min(LEAST_SIZE, MAX_GIF // (2 * max(columns, 3)) - GAP))  # each is at most twice as large


def frames(dreams: Dreams, least_size: int = LEAST_SIZE) -> Iterator[Any]:
    """Yield frames `[H, W, 3]` of bytes, one per row of the longest episode; shorter ones stay at their last row.

    Args:
        dreams: the episodes.
        least_size: pictures of fewer lines are enlarged.
    """
    for row in range(max(len(true.reward) for true, _ in dreams.episodes)):
        columns = []
        for true, guess in dreams.episodes:
            at = min(row, len(true.reward) - 1)
            for one, two in zip(true.pictures, guess.pictures, strict=True):
                pair = np.asarray(one[at, 0]), np.asarray(two[at, 0])
                columns.append([_shown(part, least_size) for part in (*pair, np.abs(pair[0] - pair[1]))])
        color = SEEN if row < dreams.context else IMAGINED
        height, width = (max(column[0].shape[axis] for column in columns) for axis in (0, 1))
        frame = np.empty((3 * (height + GAP) + GAP, len(columns) * (width + GAP) + GAP, 3), np.uint8)
        frame[:] = color
        for column, parts in enumerate(columns):
            for line, part in enumerate(parts):
                top, left = GAP + line * (height + GAP), GAP + column * (width + GAP)
                frame[top : top + part.shape[0], left : left + part.shape[1]] = part
        yield frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]  # players of videos need even sizes


def _shown(picture: Any, least_size: int) -> Any:
    """Return a picture `[C, H, W]` in [0, 1] as bytes `[H, W, 3]`, enlarged; stacked frames by their last one."""
    channels = picture[-3:] if len(picture) % 3 == 0 else np.repeat(picture[-1:], 3, 0)
    scale = -(-least_size // channels.shape[1])
    large = channels.repeat(scale, 1).repeat(scale, 2)
    return np.round(255.0 * large.transpose(1, 2, 0)).astype(np.uint8)


def _write_mp4(dreams: Dreams, out: Path) -> None:
    """Write a video."""
    from moviepy import ImageSequenceClip

    clip = ImageSequenceClip(list(frames(dreams)), fps=dreams.fps)
    clip.write_videofile(str(out), logger=None)


def write_plot(dreams: Dreams, out: Path) -> None:
    """Write a plot: a column per episode, a line per element of the vector, and lines for reward and continuation."""
    from sheeprl.utils.plotting import pyplot

    figure = draw(dreams, pyplot())
    if out.suffix != ".gif":
        figure.savefig(out, dpi=120)
        return
    from PIL import Image

    from sheeprl.envs.wrappers.video import replace_gif

    figure.canvas.draw()
    replace_gif(str(out), [Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])], 1000)


def draw(dreams: Dreams, plt: Any) -> Any:
    """Return the figure of a plot."""
    first = dreams.episodes[0][0]
    size = 0 if first.vector is None else first.vector.shape[-1]
    names = [f"obs[{number}]" for number in range(min(size, MOST_CURVES))] + ["reward", "continue"]
    shape = {"figsize": (3.2 * len(dreams.episodes), 1.2 * len(names)), "sharex": True, "squeeze": False}
    figure, cells = plt.subplots(len(names), len(dreams.episodes), layout="constrained", **shape)
    for column, pair in enumerate(dreams.episodes):
        for line, name in enumerate(names):
            cell = cells[line][column]
            for scene, label, style in zip(pair, ("true", "predicted"), ("-", "--"), strict=True):
                values = {"reward": scene.reward, "continue": scene.continues}.get(name)
                values = scene.vector[..., line] if values is None and scene.vector is not None else values
                cell.plot(np.asarray(values)[:, 0], style, linewidth=1.2, label=label)
            cell.axvspan(-0.5, dreams.context - 0.5, color="#009E73", alpha=0.15, linewidth=0)
            if column == 0:
                cell.set_ylabel(name)
        cells[0][column].set_title(f"episode {column + 1}")
        cells[-1][column].set_xlabel("row; colored: observed")
    cells[0][0].legend(frameon=False, fontsize=7)
    return figure
