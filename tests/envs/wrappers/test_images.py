"""Test grayscale and resized pictures against values computed by hand."""

import numpy as np
import pytest

from sheeprl.envs.config import EnvConfig
from sheeprl.envs.make import make_env
from sheeprl.envs.wrappers.images import AreaResize, grayscale

SCRIPTED = "tests.helpers.wrapped_envs:Scripted-v0"


def test_grayscale_is_the_luma():
    """Grayscale is the luma of the colors."""
    picture = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    assert grayscale(picture).tolist() == [[76, 150], [29, 255]]  # 255 times 0.299, 0.587 and 0.114, rounded


def test_resize_averages_areas():
    """Resizing averages areas."""
    picture = np.array([[0, 10, 20, 30], [40, 50, 60, 70]], np.uint8)
    assert AreaResize((2, 4), (1, 2))(picture).tolist() == [[25, 45]]
    row = np.array([[0, 60, 120]], np.uint8)
    # Two new pixels cover 1.5 old ones each: (0 + 60 / 2) / 1.5 and (60 / 2 + 120) / 1.5.
    assert AreaResize((1, 3), (1, 2))(row).tolist() == [[20, 100]]
    assert AreaResize((1, 3), (1, 6))(row).tolist() == [[0, 0, 60, 60, 120, 120]]


def test_resize_keeps_channels_and_constants():
    """Resizing preserves channels and constant pictures."""
    picture = np.stack([np.full((210, 160), value, np.uint8) for value in (0, 77, 255)], -1)
    small = AreaResize((210, 160), (84, 84))(picture)
    assert small.shape == (84, 84, 3) and small.flags["C_CONTIGUOUS"]
    assert (small == np.array([0, 77, 255])).all()


def test_resize_agrees_with_opencv():
    """Resizing agrees with OpenCV within rounding."""
    cv2 = pytest.importorskip("cv2")
    picture = np.random.default_rng(0).integers(0, 256, (210, 160, 3), dtype=np.uint8)
    theirs = cv2.resize(picture, (84, 84), interpolation=cv2.INTER_AREA)
    assert np.abs(AreaResize((210, 160), (84, 84))(picture).astype(int) - theirs).max() <= 1


@pytest.mark.parametrize(
    ("wrappers", "kind", "shape"),
    [
        (["grayscale"], "picture", (2, 2)),
        ([{"path": "grayscale", "keep_dim": True}], "picture", (2, 2, 1)),
        ([{"path": "resize", "size": 4}], "picture", (4, 4, 3)),
        ([{"path": "resize", "size": [1, 3]}, "grayscale"], "dict", (1, 3)),
    ],
)
def test_wrappers_change_the_space_and_the_pictures(wrappers, kind, shape):
    """Wrappers change the space and the pictures alike."""
    env = make_env(EnvConfig(id=SCRIPTED, kwargs={"kind": kind}, wrappers=tuple(wrappers)))
    env.reset(seed=0)
    obs = env.step(0)[0]
    assert env.observation_space.contains(obs)
    picture = obs["camera"] if kind == "dict" else obs
    assert picture.shape == shape and (picture == 10).all()
