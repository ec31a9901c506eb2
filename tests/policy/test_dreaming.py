"""Test what world models predict, and the files and tables of their dreams."""

import re

import numpy as np
import pytest
import torch

from sheeprl import ConfigError, load_config
from sheeprl.algos.world_model import Scene
from sheeprl.callbacks.loading import load_callbacks
from sheeprl.cli.entry import main
from sheeprl.policy import dream_files
from sheeprl.policy.dream_callback import Dreams as DreamCallback
from sheeprl.policy.dreaming import Dreams, dreamers, error_table
from tests.algos.dreamer_v2 import test_dreamer_v2 as early
from tests.algos.dreamer_v3 import test_dreamer_v3 as third
from tests.helpers.algorithms import Small
from tests.helpers.dreamer_rows import CASES, ROWS, N, make_batch
from tests.helpers.runs import run

CONTEXT = 3


def build(kind, case):
    """Return a small Dreamer, its agent, and rows of episodes."""
    algorithm, agent = third.build(CASES[case]) if kind == "v3" else early.build(kind, case)
    rows = make_batch(algorithm, ends=False).select("obs", "action", "reward", "terminated")
    rows.batch_size = [ROWS, N]
    return algorithm, agent, rows


def dream(algorithm, agent, rows):
    """Return the true and the predicted scene."""
    with torch.no_grad():
        return algorithm.dream(agent, rows, CONTEXT, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("kind", "case"), [("v1", "continuous"), ("v2", "multi-discrete, Dict"), ("v3", "multi-discrete, Dict")]
)
def test_imagined_rows_depend_on_actions_and_not_on_observations(kind, case):
    """Later observations change nothing, later actions and earlier observations do."""
    algorithm, agent, rows = build(kind, case)
    true, predicted = dream(algorithm, agent, rows)
    assert predicted.reward.shape == predicted.continues.shape == true.continues.shape == (ROWS, N)
    assert [part.shape for part in true.pictures] == [part.shape for part in predicted.pictures]
    other = rows.clone()
    other["obs"][CONTEXT:] = torch.zeros_like(other["obs"][CONTEXT:])
    assert torch.equal(dream(algorithm, agent, other)[1].vector, predicted.vector)
    other["action"][CONTEXT] = (1 - other["action"][CONTEXT]).abs()
    after = dream(algorithm, agent, other)[1].vector
    assert torch.equal(after[: CONTEXT + 1], predicted.vector[: CONTEXT + 1])
    assert not torch.equal(after[CONTEXT + 1], predicted.vector[CONTEXT + 1])
    other["obs"][:CONTEXT] = torch.zeros_like(other["obs"][:CONTEXT])
    assert not torch.equal(dream(algorithm, agent, other)[1].vector[CONTEXT], predicted.vector[CONTEXT])


@pytest.mark.parametrize("kind", ["v1", "v2", "v3"])
def test_true_vectors_are_those_of_the_observation(kind):
    """Vectors return to their own units."""
    algorithm, agent, rows = build(kind, "continuous")
    true, predicted = dream(algorithm, agent, rows)
    torch.testing.assert_close(true.vector, rows["obs"])
    assert torch.equal(true.continues, torch.ones(ROWS, N))
    assert ((predicted.continues >= 0) & (predicted.continues <= 1)).all()


@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_true_pictures_are_those_of_the_observation(kind):
    """Pictures return to numbers in [0, 1]."""
    algorithm, agent, rows = build(kind, "discrete, pixels")
    (picture,) = dream(algorithm, agent, rows)[0].pictures
    torch.testing.assert_close(picture, rows["obs"].movedim(-1, 2) / 255)


def scenes(lengths, pictures=True):
    """Return dreams whose predicted vectors are off by one and whose pictures are black."""
    found = []
    for length in lengths:
        vector = torch.arange(length).float().view(length, 1, 1).expand(length, 1, 2)
        reward, continues = torch.zeros(length, 1), torch.ones(length, 1)
        shown = [torch.ones(length, 1, 3, 8, 8)] if pictures else []
        true = Scene(shown, vector, reward, continues)
        found.append((true, Scene([0 * each for each in shown], vector + 1, reward, continues)))
    return found


def test_errors_by_hand(tmp_path):
    """Errors are root mean squares over the episodes that last so long, beside those of the last observation."""
    header, *rows = error_table(Dreams(tmp_path / "step_7", 2, 30.0, scenes([4, 6])))
    assert header == ("step", "vectors", "repeated", "pictures", "repeated", "reward", "continue")
    assert rows[0] == ("1", "1", "1", "1", "0", "0", "0")
    assert rows[-1] == ("4", "1", "4", "1", "0", "0", "0")


def test_frames_show_true_predicted_and_their_difference(tmp_path):
    """Three lines, a column per episode; the color of the gaps says which rows are imagined."""
    frames = list(dream_files.frames(Dreams(tmp_path / "step_7", 2, 30.0, scenes([4, 6]))))
    assert len(frames) == 6 and len({frame.shape for frame in frames}) == 1
    height, width = frames[0].shape[:2]
    values = [frames[0][int(height * part), width // 4] for part in (1 / 6, 1 / 2, 5 / 6)]
    assert [value.tolist() for value in values] == [[255] * 3, [0] * 3, [255] * 3]
    true, guess = scenes([4], pictures=True)[0]
    for scene in (true, guess):
        scene.pictures.append(scene.pictures[0].repeat_interleave(3, -1).repeat_interleave(3, -2))
    assert len(list(dream_files.frames(Dreams(tmp_path / "step_7", 2, 30.0, [(true, guess)])))) == 4  # two sizes
    assert tuple(frames[1][0, 0]) == dream_files.SEEN and tuple(frames[2][0, 0]) == dream_files.IMAGINED


def test_animated_pictures_keep_all_pixels(tmp_path):
    """Four episodes beside each other are enlarged by a whole number, and have gaps."""
    image = pytest.importorskip("PIL.Image")
    dream_files.write(Dreams(tmp_path / "step_7", 2, 30.0, scenes([4] * 4, pictures=True)), tmp_path / "a.gif")
    height, width = scenes([4], pictures=True)[0][0].pictures[0].shape[-2:]
    gap = dream_files.GAP
    with image.open(tmp_path / "a.gif") as picture:
        scale = (picture.size[1] - gap) // 3 // height
        assert scale * height >= dream_files.LEAST_SIZE
        assert picture.size == (4 * (scale * width + gap) + gap, 3 * (scale * height + gap) + gap)


@pytest.mark.parametrize(("name", "pictures"), [("a.png", False), ("a.gif", False), ("a.gif", True)])
def test_files(tmp_path, name, pictures):
    """Plots and animated pictures are written."""
    pytest.importorskip("matplotlib")
    dream_files.write(Dreams(tmp_path / "step_7", 2, 30.0, scenes([4, 6], pictures)), tmp_path / "new" / name)
    assert (tmp_path / "new" / name).stat().st_size > 500


def test_a_run_without_a_world_model_is_refused(tmp_path, capsys):
    """The mistake names the algorithms that have one, and a wrong file is refused."""
    assert {"dreamer_v3", "p2e_dv1"} <= set(dreamers()) and "sac" not in dreamers()
    run(tmp_path, "ppo", "run.mode=coupled", "trainer.compile=false", "run.total_steps=64", "algo.rollout_steps=16")
    for more, text in (([], "ppo has no world model; use a run of dreamer_v1"), (["--out=a.txt"], "--out a.txt: must")):
        with pytest.raises(SystemExit, match="2"):
            main(["dream", str(tmp_path), *more])
        error = capsys.readouterr().err
        assert text in error and error.count("\n") == 1


def test_the_command(tmp_path, capsys):
    """The command prints the errors and writes a file; the callback starts it."""
    pytest.importorskip("matplotlib")
    Small("dreamer_v3").run(tmp_path / "run", "run.mode=coupled", "run.total_steps=60")
    with pytest.raises(SystemExit, match="0"):
        main(["dream", str(tmp_path / "run"), "--episodes=2", "--horizon=7", f"--out={tmp_path / 'a.svg'}"])
    printed = capsys.readouterr().out
    assert "step  vectors  repeated  reward  continue" in printed and (tmp_path / "a.svg").exists()


def test_the_callback_starts_one_process_at_a_time(tmp_path, monkeypatch):
    """A checkpoint during a dream is left out; a failure is reported."""
    started, messages = [], []

    class Process:
        """Process that ends with an error when `code` is set."""

        code = returncode = None

        def __init__(self, command, **kwargs):
            """Note the command."""
            started.append(command)
            kwargs["stderr"].write(b"no world model")

        def poll(self):
            """Return the exit code."""
            self.returncode = self.code
            return self.code

        def wait(self):
            """End at once."""
            self.code = self.returncode = 0

    monkeypatch.setattr("subprocess.Popen", Process)
    view = type("View", (), {"run_dir": tmp_path, "message": lambda self, text: messages.append(text)})()
    callback = DreamCallback(episodes=2)
    callback.on_checkpoint(view, tmp_path / "step_1")
    callback.on_checkpoint(view, tmp_path / "step_2")
    assert len(started) == 1 and "--episodes=2" in started[0] and np.size(messages) == 0
    callback.process.code = 2
    callback.on_checkpoint(view, tmp_path / "step_3")
    assert len(started) == 2 and messages == ["sheeprl dream failed: no world model"]
    callback.process.code = None
    callback.on_checkpoint(view, tmp_path / "step_4")
    callback.on_end(view, "done")
    assert len(started) == 3 and str(tmp_path / "step_4") in started[-1]  # the last checkpoint isn't left out


def test_the_callback_is_refused_before_a_run():
    """Wrong numbers, and an algorithm without a world model, are mistakes of the settings."""
    path = "sheeprl.policy.dream_callback:Dreams"
    for name, episodes, text in (
        ("dreamer_v3", 0, "episodes=0: must be at least 1"),
        ("ppo", 1, "ppo has no world model; use it with dreamer_v1 or"),
    ):
        config = load_config(name, [f"run.callbacks=[{{path: '{path}', episodes: {episodes}}}]"])
        with pytest.raises(ConfigError, match=re.escape(text)):
            load_callbacks(config)
