"""Where a policy that plays is shown: in a window, as colored blocks in a terminal, or in a notebook."""

from __future__ import annotations

import io
import os
import shutil
import sys
from typing import Any, Protocol, TextIO

import numpy as np

from sheeprl.utils.errors import ConfigError

BLOCK = "\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀"
HOME, CLEAR, RESET = "\x1b[H", "\x1b[2J", "\x1b[0m"


class WindowClosedError(Exception):
    """Raised when the user has closed the window of an environment."""


class Screen(Protocol):
    """Place where an environment is shown."""

    @property
    def render_mode(self) -> str | None:
        """Return the mode in which the environment is made; None if nothing is drawn."""

    def show(self, env: Any) -> None:
        """Show the present state of an environment; called before each step."""


class Window:
    """Window that the environment opens and draws itself."""

    render_mode = "human"

    def show(self, env: Any) -> None:
        """Check that the window is open; the environment draws at each step.

        Raises:
            WindowClosedError: the user has closed it.
        """
        if _pygame_is_closed() or _mujoco_is_closed(env):
            raise WindowClosedError


def _pygame_is_closed() -> bool:
    """Return whether the user has closed the window of pygame, which most environments use."""
    pygame = sys.modules.get("pygame")
    return pygame is not None and pygame.display.get_init() and bool(pygame.event.peek(pygame.QUIT))


def _mujoco_is_closed(env: Any) -> bool:
    """Return whether the user has closed the window of a MuJoCo environment, which can't draw any longer then."""
    viewer = getattr(getattr(env.unwrapped, "mujoco_renderer", None), "viewer", None)
    glfw, window = sys.modules.get("glfw"), getattr(viewer, "window", None)
    return glfw is not None and window is not None and bool(glfw.window_should_close(window))


class Terminal:
    """Terminal in which each picture is drawn over the previous one.

    Args:
        stream: the terminal's stream.
    """

    render_mode = "rgb_array"

    def __init__(self, stream: TextIO) -> None:
        """Store the stream."""
        self.stream, self.start = stream, CLEAR + HOME

    def show(self, env: Any) -> None:
        """Draw the environment's picture.

        Raises:
            ConfigError: the environment has no picture.
        """
        picture = _picture(env)
        size = shutil.get_terminal_size()
        self.stream.write(self.start + as_text(picture, size.columns, size.lines - 2) + RESET + "\n")
        self.stream.flush()
        self.start = HOME


class Notebook:
    """Output of a notebook's cell, in which each picture replaces the previous one."""

    render_mode = "rgb_array"

    def __init__(self) -> None:
        """Start without an output."""
        self.output: Any = None

    def show(self, env: Any) -> None:
        """Draw the environment's picture.

        Raises:
            ConfigError: the environment has no picture.
        """
        from IPython import display
        from PIL import Image

        data = io.BytesIO()
        Image.fromarray(_picture(env)).save(data, "png")
        image = display.Image(data.getvalue())
        if self.output is None:
            self.output = display.display(image, display_id=True)
        else:
            self.output.update(image)


class NoScreen:
    """Nothing is drawn."""

    render_mode = None

    def show(self, env: Any) -> None:
        """Draw nothing."""


def choose_screen(terminal: bool | None = None, stream: TextIO | None = None) -> Screen:
    """Return where to show an environment.

    Args:
        terminal: True for the terminal, False for a window; None for the notebook that calls this, or a window if there
            is a display, or the terminal.
        stream: stream of the terminal; None for stdout. If stdout isn't a terminal, nothing is drawn.

    Raises:
        ConfigError: a window can't be opened.
    """
    if terminal is False and not has_display():
        raise ConfigError(["--window: there is no display (DISPLAY is not set); leave it out to draw in the terminal"])
    if terminal is None and in_notebook():
        return Notebook()
    if terminal is False or (terminal is None and has_display()):
        return Window()
    if stream is None and not sys.stdout.isatty():
        return NoScreen()
    return Terminal(stream or sys.stdout)


def has_display() -> bool:
    """Return whether a window can be opened."""
    return sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def in_notebook() -> bool:
    """Return whether this process runs the cells of a notebook."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and bool(kernel.IPKernelApp.initialized())


def _picture(env: Any) -> Any:
    """Return the picture `[H, W, 3]` of an environment.

    Raises:
        ConfigError: the environment has none.
    """
    picture = env.render()
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        raise ConfigError(["the environment returns no picture from render(); it can't be watched"])
    return picture


def as_text(picture: Any, columns: int, lines: int) -> str:
    """Return a picture `[H, W, 3]` as lines of half blocks, each with the colors of two pixels.

    Args:
        picture: bytes.
        columns: most characters of a line.
        lines: most lines.
    """
    height, width = picture.shape[:2]
    scale = max(width / max(1, columns), height / max(2, 2 * lines))
    new_width, new_height = max(1, int(width / scale)), max(2, int(height / scale) // 2 * 2)
    rows = (np.arange(new_height) * height / new_height).astype(int)
    columns_at = (np.arange(new_width) * width / new_width).astype(int)
    small = np.asarray(picture)[rows][:, columns_at, :3]
    return "\n".join(
        "".join(BLOCK.format(*upper, *lower) for upper, lower in zip(small[row], small[row + 1], strict=True)) + RESET
        for row in range(0, new_height, 2)
    )
