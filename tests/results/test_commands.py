"""Test the commands about results on small fabricated runs and on logs of other programs."""

import io
import json
import os
import time

import pytest

from sheeprl.checkpoint.best import best_checkpoint
from sheeprl.checkpoint.runs import find_runs, resolve_run
from sheeprl.cli import main
from sheeprl.results.reading import select
from sheeprl.utils.errors import ConfigError

CONFIG = "algo: {name: %s}\nenv: {id: %s}\nrun: {seed: %d}\ncheckpoint: {best_by: %s}\n"


def make_run(root, algo, seed, score, tags=(), name=None, best_by="episode/return"):
    """Make the folder of a finished run and return it."""
    folder = root / "logs" / algo / "Env-v0" / f"{name or 'run'}_{algo}_{seed}"
    for step in (100, 200, 300):
        (folder / "checkpoints" / f"step_{step}").mkdir(parents=True)
        (folder / "checkpoints" / f"step_{step}" / "manifest.json").write_text("{}")
    (folder / "config.yaml").write_text(CONFIG % (algo, "Env-v0", seed, best_by))
    (folder / ".lock").touch()
    info = {"name": name, "tags": list(tags), "algo": algo, "env": "Env-v0", "seed": seed, "starts": []}
    (folder / "run.json").write_text(json.dumps(info))
    means = {100: score / 2, 200: score, 300: score - 1}
    lines = [{"step": step, "time": step / 10, "mean": mean} for step, mean in means.items()]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"step": step, "time": step / 10, "return": step, "length": 10} for step in range(10, 310, 10)]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "metrics.jsonl").write_text('{"event": "end", "status": "done"}\n')
    return folder


@pytest.fixture
def sheeprl(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command in a folder with six runs, and returns code, stdout and stderr."""
    for seed in range(3):
        make_run(tmp_path, "ppo", seed, 100.0 + seed, ["paper"])
        make_run(tmp_path, "a2c", seed, 50.0 + seed, name="slow" if seed else None)
    monkeypatch.chdir(tmp_path)

    def call(*words):
        """Run the command; return its exit code and output."""
        with pytest.raises(SystemExit) as exit:
            main(list(words))
        return exit.value.code, *capsys.readouterr()

    return call


def test_best_run_of_the_newest_environment(sheeprl, tmp_path, capsys):
    """`@best` is the run with the highest last evaluation on the environment of the newest run."""
    other = make_run(tmp_path, "sac", 0, 900.0)
    (other / "run.json").write_text(json.dumps({"algo": "sac", "env": "Other-v0", "seed": 0}))
    os.utime(other / "config.yaml", (1, 1))
    assert resolve_run("@best") == "logs/ppo/Env-v0/run_ppo_2"
    assert resolve_run("@best/checkpoints") == "logs/ppo/Env-v0/run_ppo_2/checkpoints"
    assert [each.name for each in select(["@best"])] == ["ppo/Env-v0/run_ppo_2"]
    for file in tmp_path.glob("logs/*/Env-v0/*/evaluations.jsonl"):
        file.unlink()
    with pytest.raises(ConfigError, match="@best: no run on Env-v0, the environment of @last, has an evaluation"):
        resolve_run("@best")


def test_compare(sheeprl, tmp_path):
    """The table has a line per group; the pair is compared."""
    code, out, _ = sheeprl("compare", "--threshold", "60", "--latex", "t.tex")
    assert code == 0
    assert [line.split()[:4] for line in out.splitlines()[1:3]] == [
        ["a2c", "Env-v0", "3", "50.0"],
        ["ppo", "Env-v0", "3", "100.0"],
    ]
    assert "not reached" in out and "P(a2c > ppo) = 0.00" in out
    assert "note: a probability of 0 or 1 without interval: no run of one group reaches a run of the other" in out
    assert "too few" not in out
    code, out, _ = sheeprl("compare", "run_a2c_0", "ppo")
    assert code == 0 and "  49.0  " in out and "P(a2c > ppo) = 0.00\n" in out
    assert "note: too few runs for an interval: a2c; an interval requires 3 runs per environment" in out
    assert r"\begin{tabular}" in (tmp_path / "t.tex").read_text()
    code, out, _ = sheeprl("compare", "tag:paper", "--by", "run.seed", "--json")
    assert [row["group"] for row in json.loads(out)["rows"]] == ["0", "1", "2"]


def test_plot_and_report(sheeprl, tmp_path):
    """The files exist; the report needs no other file."""
    pytest.importorskip("matplotlib")
    assert sheeprl("plot", "--x", "steps,time", "--out", "a.svg")[0] == 0
    assert "sheeprl" in (tmp_path / "a.svg").read_text()
    assert sheeprl("report", "ppo", "--html", "r.html")[0] == 0
    text = (tmp_path / "r.html").read_text()
    assert text.count("<svg") == 2
    assert "<script" not in text and "src=" not in text and "://" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "nothing"], "nothing: no such folder or run; use one of sheeprl ls"),
        (["compare", "--by", "a.b"], "--by a.b: no run has this setting"),
        (["plot", "--out", "a.gif"], "--out a.gif: must end with .pdf, .svg or .png"),
        (["plot", "--x", "weeks"], "--x weeks: 'weeks' is unknown; use steps, time or steps,time"),
        (["plot", "--smooth", "0"], "--smooth=0: must be at least 1"),
        (["clean", "--keep", "all"], "--keep all: 'all' is unknown; use best, last or best,last"),
        (["clean", "--older", "soon"], "--older soon: must be a positive number with a unit"),
    ],
)
def test_wrong_words(sheeprl, words, message):
    """Each mistake is one line and exit code 2."""
    code, _, err = sheeprl(*words)
    assert code == 2
    assert err.startswith(f"error: {message}") and err.count("\n") == 1


@pytest.mark.parametrize("suffix", ["pdf", "svg", "png"])
def test_figure_is_reproduced(sheeprl, tmp_path, monkeypatch, suffix):
    """The file names its runs; the figure drawn again is the same file, unless a run has changed."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("sys.argv", ["sheeprl", "plot", "tag:paper", "--x", "steps,time"])
    starts = [{"command": ["sheeprl", "train", "(ppo)", "ü"], "git": {"commit": "0123456789abcdef"}}]
    for file in tmp_path.glob("logs/ppo/*/*/run.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"starts": starts}))
    assert sheeprl("plot", "tag:paper", "--x", "steps,time", "--out", f"f.{suffix}")[0] == 0
    make_run(tmp_path, "ppo", 9, 1.0, ["paper"])  # wasn't in the figure
    code, out, _ = sheeprl("reproduce", f"f.{suffix}")
    assert code == 0 and f"f_again.{suffix}: identical to f.{suffix}" in out
    assert "0123456789ab  sheeprl train '(ppo)' 'ü'" in out and out.count("run_ppo") == 3
    assert "drawn by: sheeprl plot tag:paper --x steps,time" in out
    (tmp_path / "logs/ppo/Env-v0/run_ppo_0/evaluations.jsonl").write_text('{"step": 1, "time": 1, "mean": 7}\n')
    assert "differs from" in sheeprl("reproduce", f"f.{suffix}", "--out", f"g.{suffix}")[1]


def test_figures_that_can_not_be_reproduced(sheeprl, tmp_path):
    """A file of another program, a missing one and another format are one line each."""
    (tmp_path / "a.svg").write_text("<svg/>")
    (tmp_path / "a.png").write_bytes(b"no picture")
    for words, message in (
        (["a.svg"], "a.svg: isn't a figure of sheeprl plot"),
        (["a.png"], "a.png: can't be read"),
        (["b.pdf"], "b.pdf: can't be read: No such file"),
        (["a.jpg"], "a.jpg: must end with .pdf, .svg, .png"),
        (["a.svg", "--out", "b.pdf"], "--out b.pdf: must end with .svg"),
    ):
        code, _, err = sheeprl("reproduce", *words)
        assert code == 2 and err.startswith(f"error: {message}")


def test_clean_keeps_the_best_and_the_last(sheeprl, tmp_path):
    """Checkpoints of old runs go; a dry run removes nothing; newer runs stay."""
    folder = make_run(tmp_path, "sac", 0, 1.0, best_by="eval/return")
    assert best_checkpoint(folder).name == "step_200"
    assert "0 checkpoints removed" in sheeprl("clean", "--older", "1h")[1]
    for path in [folder, *folder.iterdir(), *(folder / "checkpoints").iterdir()]:
        os.utime(path, (time.time() - 7200,) * 2)
    assert "1 checkpoint would be removed" in sheeprl("clean", "--older", "1h", "--dry-run")[1]
    assert "1 checkpoint removed" in sheeprl("clean", "--older", "1h")[1]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step_200", "step_300"]


def test_clean_of_everything_asks_first(sheeprl, tmp_path, monkeypatch):
    """Without a run and an option nothing is removed before a yes."""

    def count():
        """Return the number of checkpoints of all runs."""
        return len(list(tmp_path.glob("logs/*/*/*/checkpoints/*")))

    code, _, err = sheeprl("clean")
    assert code == 2 and count() == 18
    assert err.startswith("error: clean removes 12 checkpoints of all runs below the working folder")
    assert all(option in err for option in ("--dry-run", "--keep", "--older", "--yes"))
    assert "12 checkpoints would be removed" in sheeprl("clean", "--dry-run")[1] and count() == 18
    monkeypatch.setattr("sheeprl.metrics.display.is_terminal", lambda stream: True)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert sheeprl("clean")[1].endswith("nothing was removed\n") and count() == 18
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert sheeprl("clean")[0] == 0 and count() == 6
    assert sheeprl("clean", "--yes")[0] == 0


def test_names_and_tags(sheeprl, tmp_path):
    """A run is found by `run.name`, by a unique prefix and by @last; several runs by a tag."""
    assert len(find_runs()) == 6
    assert {each.value_of("algo.name") for each in select(["tag:paper"])} == {"ppo"}
    assert len(select(["slow"])) == 2
    assert resolve_run("run_ppo_1").endswith("run_ppo_1")
    with pytest.raises(ConfigError, match="2 runs have this name"):
        resolve_run("slow")
    assert sheeprl("ls", "tag:paper") == sheeprl("ls", "--tag", "paper")
    code, out, _ = sheeprl("ls", "--tag", "paper", "--json")
    assert (code, len(out.splitlines()), json.loads(out.splitlines()[0])["status"]) == (0, 3, "finished")


def test_import_of_monitor_files(tmp_path):
    """Episodes of all environments are summed in the order of time."""
    header = '#{"t_start": 1.0, "env_id": "Env-v0"}\nr,l,t\n'
    (tmp_path / "0.monitor.csv").write_text(header + "1.0,10,0.5\n3.0,10,2.5\n")
    (tmp_path / "1.monitor.csv").write_text(header + "2.0,20,1.5\n")
    (found,) = select([str(tmp_path)])
    assert found.episodes.steps.tolist() == [10, 30, 40]
    assert found.episodes.values.tolist() == [1.0, 2.0, 3.0]
    assert found.value_of("env.id") == "Env-v0"
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"isn't a monitor\.csv"):
        select([str(tmp_path / "other.csv")])


def test_import_of_tensorboard_folders(tmp_path):
    """The first known tag of returns is the curve."""
    from sheeprl.metrics.reporter import FileReporter

    reporter = FileReporter(tmp_path, "error")
    for step in (10, 20):
        reporter.metrics(step, {"Rewards/rew_avg": step / 10, "Test/cumulative_reward": step})
    reporter.close()
    (tmp_path / "metrics.jsonl").unlink()
    (found,) = select([str(tmp_path)])
    assert found.evaluations.steps.tolist() == [10, 20]
    assert found.episodes.values.tolist() == [1.0, 2.0]
    assert found.score == 20
