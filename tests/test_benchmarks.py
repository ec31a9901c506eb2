"""Entry point of the benchmarks, their bounds and the generated page. No benchmark runs here."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml

from benchmarks import learning, policies, report, search, speed, values
from benchmarks.__main__ import benchmarks, main, summary_of
from benchmarks.cases.fakes import ENVS, ROWS, make_run
from benchmarks.harness import record, rows
from benchmarks.harness.bounds import Bound
from benchmarks.harness.products import HALFCHEETAH, of_sac
from benchmarks.harness.programs import (
    PEERS,
    POLICIES,
    VALUES,
    WORKLOADS,
    WORLDS,
    BenchmarkError,
    Peer,
    SheepRL,
    Timing,
    idle_while_ahead,
    where_it_went,
)
from benchmarks.harness.record import RESULTS, ROOT
from benchmarks.peers import environments
from benchmarks.peers.pictures import EPISODE
from benchmarks.report import Results, page
from benchmarks.reports import results
from benchmarks.speed import Comparison, Timings


def test_every_module_with_a_main_function_is_a_benchmark():
    """Modules with `main(args)` are benchmarks, helpers aren't."""
    names = benchmarks()
    assert {"learning", "speed", "replay", "chaos", "soak", "plot"} <= set(names)
    assert not {"record", "worker", "replay_cases", "__main__"} & set(names)
    assert all(summary.endswith(".") for summary in names.values())
    assert summary_of('"""Measures speed.\n\nMore."""\ndef main(args=None): ...') == "Measures speed."
    assert summary_of('"""A helper."""\ndef main(): ...') is None


def test_the_list_imports_no_benchmark():
    """`--list` imports neither a benchmark nor a heavy library."""
    code = "import sys; from benchmarks.__main__ import main; main(['--list']); print(*sys.modules)"
    heavy = {"torch", "ray", "numpy", "matplotlib"} | {f"benchmarks.{name}" for name in benchmarks()}
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    *lines, modules = printed.splitlines()
    assert len(lines) == len(benchmarks()) + 2
    assert not heavy & set(modules.split())


def test_an_unknown_name_is_rejected_with_the_nearest(capsys):
    """An unknown name gives exit code 2 and names the nearest benchmark."""
    assert main(["sped"]) == 2
    assert "did you mean speed?" in capsys.readouterr().err


def test_a_benchmark_gets_its_arguments(capsys):
    """Words after the name are the benchmark's arguments."""
    with pytest.raises(SystemExit) as ended:
        main(["learning", "--help"])
    assert ended.value.code == 0
    assert "usage: python -m benchmarks learning" in capsys.readouterr().out


def test_a_run_of_fakes_takes_all_steps():
    """The run that measures the driver collects and trains as configured, with one or more shards."""
    for shards in (1, 2):
        run = make_run(players=4, rounds=2, shards=shards, gradient_steps=4)
        asyncio.run(run.train())
        assert run.counters.policy_steps == 4 * 2 * ROWS * ENVS
        assert run.counters.gradient_steps == 2 * 4


def test_the_products_of_an_update_are_those_of_its_networks():
    """The matrix products of an update are those of its networks and add up to the known operations."""
    assert of_sac(batch=8, obs=3, action=2, hidden=(), critics=1) == [
        (8, 3, 4),  # the next actions
        *[(8, 5, 1), (8, 5, 1), (1, 8, 5)],  # their target, the critic's loss, its weights' gradients
        *[(8, 5, 1), (8, 1, 5)],  # the value of the actor's actions, and its gradient with respect to them
        *[(8, 3, 4), (4, 8, 3)],  # the actor
    ]
    assert sum(product.flops for product in of_sac(**HALFCHEETAH)) == pytest.approx(582e6, rel=0.01)


def metrics_line(step, seconds, updates, **parts):
    """Return a line of metrics of a run, without waits unless `parts` has them."""
    zero = dict.fromkeys(("player_idle", "trainer_idle", "trainer_wait_batch", "checkpoint_stall"), 0.0)
    zero = {f"Time/{name}": value for name, value in zero.items()} | {"Time/sps_env_interaction": 200.0}
    counters = {"step": step, "Time/sps": 100 / seconds, "Time/sps_train": 50.0, "Params/gradient_steps": updates}
    return {**counters, **zero, **parts}


def test_the_time_breakdown_is_read_from_the_metrics():
    """The time breakdown and the idle fraction are computed from a run's metrics."""
    lines = [
        metrics_line(100, 4.0, 100, **{"Time/trainer_idle": 0.5, "Time/compiling": 0.25}),
        {"step": 150, "Test/cumulative_reward": 1.0},
        metrics_line(200, 10.0, 300, **{"Time/trainer_wait_batch": 0.2, "Time/player_idle": 0.8}),
        {"event": "end", "wall_time": 15.0},
    ]
    where = where_it_went(lines, loop=15.0)
    assert where["updating"] == 100 / 50 + 200 / 50
    assert where["waiting for players"] == 2.0
    assert where["waiting for batches"] == pytest.approx(2.0)
    assert where["compiling"] == pytest.approx(1.0)
    assert where["other"] == pytest.approx(4.0)
    coupled = where_it_went(lines, loop=15.0, coupled=True)
    assert coupled["playing"] == pytest.approx(200 / 200)
    assert "waiting for players" not in coupled
    assert idle_while_ahead(lines) == pytest.approx(0.2)
    assert idle_while_ahead(lines[:1]) is None


class Fixed:
    """Program whose runs take given seconds, by number of threads."""

    def __init__(self, name, seconds):
        """Store the seconds."""
        self.name, self.seconds = name, seconds

    def run(self, workload, threads, steps):
        """Return the timing without running anything."""
        return Timing(self.seconds[threads], self.seconds[threads] + 5, steps, steps)


def test_the_best_number_of_threads_counts():
    """The best number of threads counts, and far slower ones are dropped from later rounds."""
    comparison = Comparison(WORKLOADS["sac_halfcheetah"], [Fixed("SheepRL coupled", {1: 10.0, 2: 11.0})], [], [1, 2])
    comparison.timings += [Timings(Fixed("other", {1: 40.0, 2: 20.0}), number) for number in (1, 2)]
    for _ in range(3):
        comparison.round()
    assert [timings.left_out for timings in comparison.timings] == [False, False, True, False]
    assert [len(timings.runs) for timings in comparison.timings] == [3, 3, 1, 3]
    assert comparison.ratios("SheepRL coupled", Fixed("other", {}), "loop") == [2.0] * 3


def test_the_better_placement_counts(monkeypatch):
    """A requirement is compared with the faster placement."""
    monkeypatch.setattr(
        SheepRL, "run", lambda self, *_: Timing({"coupled": 10.0, "decoupled": 8.0}[self.mode], 9, 90, 90)
    )
    monkeypatch.setattr(Peer, "run", lambda self, *_: Timing(24.0, 30.0, 90, 90))
    ours = [SheepRL(mode, Path("cache")) for mode in ("decoupled", "coupled")]
    comparison = Comparison(WORKLOADS["ppo_cartpole"], [*ours, SheepRL("coupled", None)], [PEERS["sb3"]], [1])
    comparison.round()
    bounds = [(bound.name, bound.value, bound.met) for bound in comparison.bounds()]
    assert bounds[0] == ("PPO CartPole-v1, loop: times as fast as Stable-Baselines3 (decoupled)", 3.0, True)
    assert bounds[1][1:] == (30 / 9, True)
    assert bounds[2][0] == "PPO CartPole-v1, first time: times as fast as Stable-Baselines3 (coupled)"


def test_an_interrupted_benchmark_has_the_rounds_before(monkeypatch, tmp_path):
    """A benchmark that fails leaves the result of the rounds before."""
    seconds = iter([10.0, 20.0, 10.0, 30.0])

    def run(self, workload, threads, steps):
        """Return the next timing; fail after the last one."""
        try:
            return Timing(next(seconds), 9, 90, 90)
        except StopIteration:
            raise BenchmarkError("cut off") from None

    monkeypatch.setattr(SheepRL, "run", run)
    monkeypatch.setattr(SheepRL, "warm_up", lambda *_: None)
    monkeypatch.setattr(Peer, "run", run)
    words = ["--workloads", "sac_halfcheetah", "--modes", "coupled", "--peers", "sb3", "--peer-python", "sb3=python"]
    with pytest.raises(SystemExit, match="cut off"):
        speed.main([*words, "--threads", "1", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "speed.json").read_text())
    assert result["rounds"] == 2
    assert result["bounds"][0]["value"] == 2.5


@pytest.fixture
def learn(monkeypatch, tmp_path):
    """Return a function that runs the benchmark on PPO's CartPole without training, and the seeds that it has run."""
    ran = []

    def run_seed(job, seed):
        """Return a result without training."""
        ran.append(seed)
        job.folder(seed).mkdir(parents=True)
        return learning.SeedResult(
            seed, 490.0 + seed, 1.0, 100_000, 10, 1.0, 2.0, [(100, 50.0)], learning.record.commit()
        )

    def main(*words):
        """Run the benchmark; return the result."""
        learning.main(["ppo_cartpole", *words, "--out", str(tmp_path), "--work", str(tmp_path / "work")])
        return json.loads((tmp_path / "ppo_cartpole_coupled.json").read_text())

    monkeypatch.setattr(learning, "run_seed", run_seed)
    main.ran, main.out = ran, tmp_path
    return main


def test_a_finished_seed_is_not_run_again(learn, monkeypatch):
    """A seed with a result isn't run again, and each seed has the commit of its code."""
    first = learn("--seeds", "2")
    assert first["met"] is None  # too few seeds for a verdict
    monkeypatch.setattr(learning.record, "commit", lambda: "later")
    result = learn()
    assert learn.ran == [0, 1, 2]
    assert (result["seeds"], result["mean"], result["met"]) == ([0, 1, 2], 491.0, True)
    assert [seed["commit"] for seed in result["per_seed"]] == [first["commit"], first["commit"], "later"]
    learn("--seed", "1", "--again")
    assert learn.ran == [0, 1, 2, 1]


def test_seeds_of_other_settings_are_run_again(learn):
    """A result with other settings than the row's is replaced."""
    assert learn("--seeds", "2", "algo.gamma=0.9")["met"] is None
    assert learn("--seed", "0")["seeds"] == [0]
    assert learn.ran == [0, 1, 0]


def test_committed_results_have_the_settings_of_their_rows():
    """No seed of a committed result needs to be run again; a row with too few seeds says so."""
    for row in rows.load().values():
        for mode in rows.MODES:
            job = learning.Job(row, mode, (), RESULTS, RESULTS)
            if job.path.exists():
                stored = json.loads(job.path.read_text())
                assert [seed.seed for seed in learning.seeds_of(job)] == stored["seeds"] != [], job.path
                assert len(stored["seeds"]) >= row.seeds or stored["met"] is None, job.path


def test_seeds_can_be_added_by_two_commands_at_a_time(learn, monkeypatch):
    """Two commands can add seeds to one result at the same time."""
    run_seed = learning.run_seed

    def run_another(job, seed):
        """Return a result; the first command runs the second one before it ends."""
        if seed == 0:
            learn("--seed", "1")  # starts later and ends earlier
        return run_seed(job, seed)

    monkeypatch.setattr(learning, "run_seed", run_another)
    assert learn("--seed", "0")["seeds"] == [0, 1]


def test_a_row_without_a_configuration_is_named_and_the_others_run(learn, monkeypatch, capsys):
    """A row whose configuration doesn't exist fails with its name; later rows run."""
    table = rows.load()
    table = {"later": replace(table["td3_pendulum"], name="later", config="later"), **table}
    monkeypatch.setattr(rows, "load", lambda: table)
    with pytest.raises(SystemExit) as ended:
        learning.main(["later", "ppo_cartpole", "--out", str(learn.out), "--work", str(learn.out / "work")])
    assert ended.value.code == 1 and learn.ran == [0, 1, 2]
    assert "row later: configs/later.yaml doesn't exist" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_seed_continues(tmp_path, monkeypatch):
    """An interrupted command keeps its run, which the same command continues; the result names both commits."""
    row = replace(rows.load()["ppo_cartpole"], steps=600, episodes=2, overrides=("algo.rollout_steps=32",))
    job = learning.Job(row, "coupled", (), tmp_path, tmp_path / "work")
    sheeprl = learning.sheeprl

    def interrupted(*words):
        """Train for a third of the steps, as an interrupted run does."""
        sheeprl(*words, "run.total_steps=200")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learning, "sheeprl", interrupted)
        learning.run_job(job, [3])
    assert not job.path.exists()
    (seed,) = learning.run_job(job, [3])["per_seed"]
    assert seed["resumed"] == [seed["commit"]] and seed["process_time"] is None
    assert seed["policy_steps"] >= 600 and seed["curve"]
    assert not job.folder(3).exists()


@pytest.mark.slow
def test_a_row_may_begin_with_the_weights_of_another_one(tmp_path):
    """A row with `init_from` trains the other row first, whose run stays for its own result."""
    row = replace(rows.load()["ppo_cartpole"], steps=300, episodes=2, overrides=("algo.rollout_steps=32",))
    later = replace(row, name="later", steps=100, init_from=row)
    first, job = (learning.Job(each, "coupled", (), tmp_path, tmp_path / "work") for each in (row, later))
    (seed,) = learning.run_job(job, [3])["per_seed"]
    config = yaml.safe_load((first.folder(3) / "run" / "config.yaml").read_text())
    assert seed["policy_steps"] < 300 and config["run"]["total_steps"] == 300
    (before,) = learning.run_job(first, [3])["per_seed"]
    assert before["policy_steps"] >= 300
    assert job.settings["begins_with"] == first.settings


def test_the_verdict_of_a_row():
    """A row's bounds and its number of seeds decide the verdict."""
    row = rows.Row("walk", "Walk", "PPO", "ppo", "ppo", 1000, 10, 3, at_least=5.0)
    assert (row.verdict(5.0, 3), row.verdict(4.9, 3), row.verdict(9.0, 2)) == (True, False, None)
    assert replace(row, at_least=None, at_most=5.0).verdict(4.0, 3) is True
    assert replace(row, at_least=None).verdict(4.0, 3) is None
    assert replace(row, provisional=True).required() == "≥ 5 (provisional)"


def test_a_program_that_did_other_work_ends_the_benchmark():
    """A program with another number of gradient steps ends the benchmark."""
    other = Fixed("other", {1: 1.0})
    other.run = lambda workload, threads, steps: Timing(1.0, 1.0, 7, 7)
    comparison = Comparison(WORKLOADS["sac_halfcheetah"], [Fixed("SheepRL coupled", {1: 10.0}), other], [], [1])
    with pytest.raises(BenchmarkError, match="other took 7 gradient steps, not 4096"):
        comparison.round()


def test_a_bound_has_a_verdict():
    """A bound has the median, the spread and the verdict."""
    bound = Bound.of("ratio", [2.0, 3.0, 4.0], at_least=2.5, target=5.0)
    assert (bound.value, bound.spread, bound.met) == (3.0, (2.0, 4.0), True)
    assert str(bound) == "ratio: 3 [2, 4], required ≥ 2.5, target ≥ 5: met"
    assert Bound("idle", 0.04, at_most=0.03).as_json() == {"name": "idle", "value": 0.04, "at_most": 0.03, "met": False}
    assert Bound("alone", 1.0).met is None


def test_generated_files_equal_the_committed_results():
    """The committed pages and READMEs equal those generated from the committed results."""
    for path, text in report.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.relative_to(ROOT)}: run python -m benchmarks report"


def test_the_page_without_results_names_the_commands():
    """Without results, the page names the commands that measure them."""
    text = page([Results("")], "Nothing was tried.")
    assert "Not measured yet: `python -m benchmarks speed`." in text
    assert "images/" not in text
    assert text.endswith("Nothing was tried.\n")


def some_speed():
    """Return a small result of `benchmarks.speed`."""
    timings = {"threads": 1, "loop": [9.0, 10.0, 12.0], "process": [20.0], "loop_median": 10.0, "process_median": 20.0}
    timings |= {"updates": 10240, "where": {"updating": 8.0, "start-up": 2.0}}
    slow = {**timings, "program": "SheepRL coupled", "threads": 2, "loop_median": 30.0}
    pair = {"program": "SheepRL coupled", "peer": "another", "kind": "loop", "ratio": 3.21, "spread": [3.0, 3.5]}
    workload = {"workload": "ppo", "title": "PPO", "ratios": [pair]}
    workload["timings"] = [{**timings, "program": "SheepRL coupled"}, slow]
    bounds = [
        {"name": "PPO", "value": 2.5, "at_least": 3.0, "hope": 5.0, "met": False, "spread": [2.0, 3.0]},
        {"name": "idle", "value": 0.0125, "at_most": 0.03, "met": True},
        {"name": "cost", "value": 0.3, "at_most": 0.5, "hope": 0.25, "met": True},
        {"name": "linear", "value": 0.99, "at_least": 0.93, "hope": 0.98, "met": True},
    ]
    return {"commit": "0123456789abcdef", "command": "python -m benchmarks speed", "rounds": 3, "bounds": bounds} | {
        "workloads": [workload]
    }


def test_the_page_shows_required_target_and_measured_values():
    """The page has required, target and measured values, missed ones and figures."""
    text = page([Results("", {"speed": some_speed()}), Results("gpu", {"speed": some_speed()})], "")
    assert "| PPO | ≥ 3 | ≥ 5 | 2.5 | 2 to 3 | **not met** |" in text
    assert "| idle | ≤ 0.03 |  | 0.0125 |  | met |" in text
    assert "| SheepRL coupled | 1 | 10.0 [9.0, 12.0] | 20.0 | 10,240 |" in text
    assert "| coupled | another | training | 3.21 | 3 to 3.5 |" in text
    assert "- PPO: 2.5, required ≥ 3\n" in text
    assert "target missed:\n\n- cost: 0.3, required ≤ 0.5, target ≤ 0.25\n" in text
    assert "images/performance_ratios.png" in text and "images/performance_where.png" in text
    assert "performance_scaling" not in text
    assert "## On another machine: gpu" in text


def some_row(**fields):
    """Return a row without a result."""
    return rows.Row("walk", "Walk", "walker", "walker", "ppo", 20_000, 10, 3, **{"at_least": -5000, **fields})


def some_learning(mean, mode="coupled"):
    """Return a small result of `benchmarks.learning`."""
    seeds = [{"policy_steps": 20_004, "wall_time": seconds} for seconds in (10, 20, 15)]
    machine = {"cores": 2, "cpu": "CPU"}
    return {"mode": mode, "seeds": [0, 1, 2], "mean": mean, "std_over_seeds": 1.5, "per_seed": seeds} | {
        "commit": "0123456789abcdef",
        "machine": machine,
    }


@pytest.mark.parametrize(("mean", "verdict"), [(-6180.465, "**not met**"), (-4000.0, "met")], ids=["missed", "met"])
def test_the_results_page_shows_a_row(mean, verdict):
    """The page shows a row's score, its requirement, the published score, the verdict and where it comes from."""
    table = {"walk": some_row(peers="-12 (a-paper, v2-3)")}
    text = results.page(
        results.measured(table, [("", {}), ("gpu", {"walk_decoupled": some_learning(mean, "decoupled")})])
    )
    shown = results.number(mean)
    assert f"| walker | Walk (10 episodes) | 20,000 | – | {shown} | −12 (a-paper, v2-3) | ≥ −5000 | {verdict} |" in text
    assert f"| decoupled | {shown} | 1.50 | 3 | 20,004 | 10 to 20 | `python -m benchmarks learning walk --mode" in text
    assert "[walk_decoupled.json](../benchmarks/results/gpu/walk_decoupled.json): commit `0123456789ab`" in text
    assert "![walker on Walk](images/walk.png)" in text
    assert ("## Missed requirements" in text) == (verdict != "met")


@pytest.mark.parametrize(("fields", "verdict"), [({}, "not run"), ({"gpu": True}, "not run: needs a GPU")])
def test_the_results_page_names_rows_that_were_not_run(fields, verdict):
    """A row without a result says so, with its command."""
    text = results.page(results.measured({"walk": some_row(**fields)}, [("", {})]))
    assert f"| – | – | – | ≥ −5000 | {verdict} |" in text
    assert "`python -m benchmarks learning walk`" in text and "images/" not in text


def test_a_row_is_not_met_if_one_placement_misses_it():
    """Every placement with a result must meet the requirement."""
    files = {"walk_coupled": some_learning(0.0), "walk_decoupled": some_learning(-9000.0, "decoupled")}
    (row,) = results.measured({"walk": some_row()}, [("", files)])
    assert row.verdict == "**not met**"


def test_every_committed_learning_result_has_a_row():
    """Every learning result belongs to a row of the table, so that the pages show it."""
    table = rows.load()
    for path in RESULTS.rglob("*coupled.json"):
        assert path.stem.removesuffix("_coupled").removesuffix("_decoupled") in table


def test_a_readme_without_markers_is_named(tmp_path, monkeypatch):
    """A README without the markers of its table is named."""
    monkeypatch.setattr(results.record, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("# Title")
    with pytest.raises(ValueError, match=r"README.md: add the lines"):
        results.replaced(tmp_path / "README.md", [])


def test_figures_with_results_are_drawn(tmp_path):
    """Each figure with results is drawn."""
    pytest.importorskip("matplotlib")
    from benchmarks.reports.figures import draw

    scaling = {"case": "scaling_8", "title": "5 ms", "median": {"1 player": 190.0, "8 players": 1500.0}}
    playing = {"cases": [scaling, {"case": "step", "title": "a step", "median": {"SheepRL": 30.0}}]}
    drawn = [path.name for path in draw(Results("", {"speed": some_speed(), "playing": playing}), tmp_path)]
    assert drawn == ["performance_ratios.png", "performance_where.png", "performance_scaling.png"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in drawn)


def test_the_environment_of_a_peer_is_created_once(tmp_path, monkeypatch):
    """A peer's environment is created once, and again after its requirements change."""
    called = []

    def call(*command):
        """Record a command and create its folder."""
        called.append(command)
        (tmp_path / "peers" / "sb3").mkdir(parents=True, exist_ok=True)

    monkeypatch.setenv("SHEEPRL_CACHE", str(tmp_path))
    monkeypatch.setattr(environments, "_call", call)
    python = environments.python_of("sb3")
    assert python == str(tmp_path / "peers" / "sb3" / "bin" / "python")
    assert [command[-2] for command in called] == ["venv", "-r"]
    assert environments.python_of("sb3") == python
    assert len(called) == 2
    (tmp_path / "peers" / "sb3" / "installed.txt").write_text("another version")
    environments.python_of("sb3")
    assert len(called) == 4


def test_a_peer_cannot_import_this_package(monkeypatch):
    """A peer's environment variables don't lead to this package or a Ray cluster."""
    monkeypatch.setenv("PYTHONPATH", "here")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    variables = environments.bare_environment(threads=2)
    assert not {"PYTHONPATH", "RAY_ADDRESS"} & set(variables)
    assert variables["OMP_NUM_THREADS"] == "2"


def test_the_first_figure_of_the_readme_is_described_by_its_results():
    """The text of the first figure agrees with its results."""
    plot = pytest.importorskip("benchmarks.plot", reason="needs matplotlib")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    alt = text[: text.index("](docs/images/overview.png)")].rpartition("![")[2]
    speed = json.loads((RESULTS / "speed.json").read_text())
    for workload in speed["workloads"]:
        for program, _, _ in plot.PROGRAMS:
            assert f"{plot.fastest(workload, program):.1f}" in alt


def test_the_pictures_of_the_benchmark_end_after_their_episode():
    """Pictures have their size and are bytes; an episode has its length."""
    env = gymnasium.make("benchmarks.peers.pictures:Pictures-v0", size=10)
    first, _ = env.reset(seed=0)
    assert first.shape == (10, 10, 4)
    assert first.dtype == np.uint8
    ends = [env.step(0)[3] for _ in range(EPISODE)]
    assert ends == [False] * (EPISODE - 1) + [True]


def test_the_search_is_better_if_most_of_its_runs_are():
    """The difference and the probability have intervals; a tie is no failure."""
    found = {bound.name: bound for bound in search.bounds([10.0, 11.0, 12.0], [1.0, 2.0, 11.5])}
    assert found["their difference"].value == pytest.approx(11 - 14.5 / 3)
    better = found["probability that the settings found are better"]
    assert better.value == pytest.approx(7 / 9) and better.met and better.spread[0] < 7 / 9 < better.spread[1]
    assert all(bound.met is not False for bound in search.bounds([1.0, 2.0], [1.0, 2.0]))


def test_a_task_of_the_search_replaces_its_earlier_case(tmp_path):
    """The cases of other tasks remain, in the order of the tasks."""
    path = tmp_path / "search.json"
    assert search.merged(path, {"case": "ppo_Pendulum-v1", "n": 1}) == [{"case": "ppo_Pendulum-v1", "n": 1}]
    path.write_text(json.dumps({"cases": [{"case": "ppo_Pendulum-v1", "n": 1}]}))
    assert search.merged(path, {"case": "ppo_Pendulum-v1", "n": 2}) == [{"case": "ppo_Pendulum-v1", "n": 2}]
    assert [case["case"] for case in search.merged(path, {"case": "ppo"})] == ["ppo_Pendulum-v1", "ppo"]


def test_a_benchmark_offers_its_own_workloads_and_peers(capsys):
    """`policies` knows its own workloads and libraries only."""
    for words in (["--workloads", "ppo_cartpole"], ["--peers", "rllib"]):
        with pytest.raises(SystemExit):
            policies.main(words)
        assert "invalid choice" in capsys.readouterr().err
    assert {requirement.workload for requirement in speed.REQUIREMENTS} == {*WORKLOADS, *POLICIES, *VALUES, *WORLDS}


def test_a_result_names_no_folder_of_the_machine(monkeypatch):
    """The command in a result has no absolute path, also behind an equals sign."""
    words = ["speed", "--out", "/tmp/trial", "--peer-python", "sb3=/opt/envs/sb3/bin/python", "run.dir=runs/a"]
    monkeypatch.setattr("sys.argv", ["benchmarks/__main__.py", *words])
    expected = "python -m benchmarks speed --out PATH/trial --peer-python sb3=PATH/python run.dir=runs/a"
    assert record.command_line() == expected


def test_a_workload_is_compared_with_the_libraries_that_can_do_it(tmp_path):
    """`values` compares DQN with Stable-Baselines3 only, and IMPALA with RLlib only."""
    given = speed.parse(["--peer-python", "sb3=python", "rllib=python"], values.BENCHMARK)
    found = {
        made.workload.name: [peer.key for peer in made.peers]
        for made in speed.compared(given, tmp_path, values.BENCHMARK)
    }
    assert found == {"dqn_cartpole": ["sb3"], "impala_cartpole": ["rllib"]}


def test_programs_may_differ_by_the_tolerance_of_the_workload(monkeypatch, tmp_path):
    """A program with fewer updates than the workload tolerates fails the benchmark."""
    comparison = speed.Comparison(VALUES["dqn_cartpole"], [SheepRL("coupled", tmp_path)], [PEERS["sb3"]], [1])
    monkeypatch.setattr(SheepRL, "run", lambda self, work, threads, steps: Timing(1.0, 1.0, 1000, steps))
    monkeypatch.setattr(Peer, "run", lambda self, work, threads, steps: Timing(1.0, 1.0, 975, steps))
    comparison.round()
    monkeypatch.setattr(Peer, "run", lambda self, work, threads, steps: Timing(1.0, 1.0, 960, steps))
    with pytest.raises(speed.BenchmarkError, match="took 960 gradient steps, not 1000"):
        comparison.round()
