"""Select the tests: `pytest` runs the fast ones, `pytest --slow` those that take most of the time.

`pytest --every` runs the slow tests whose mechanisms the other two parts test too, such as those of more algorithms,
and those that take many minutes.

Hypothesis draws the same examples in every run of the first two, so that a commit passes or fails for good; `--every`
draws new ones.
"""

import os

from hypothesis import settings

MOST_PROCESSES = 4  # each may start a Ray session
SEVERAL = ("tests/cluster/", "tests/integration/", "tests/test_elastic.py", "tests/test_sweep.py")
ONE = tuple(f"tests/integration/test_{name}" for name in ("exact", "frames", "probes", "sac_forms", "toy"))

settings.register_profile("same", derandomize=True)


def pytest_configure(config):
    """Select how hypothesis draws examples."""
    settings.load_profile("default" if config.getoption("--every") else "same")


def pytest_xdist_auto_num_workers(config):
    """Return the processes for whole folders; a few files need one process."""
    whole = all(os.path.isdir(arg) for arg in config.option.file_or_dir)
    return min(os.cpu_count() or 1, MOST_PROCESSES) if whole else 0


def pytest_xdist_make_scheduler(config, log):
    """Return the order of the slow tests: those that load all cores run one after another, beside those of one core."""
    if not (config.getoption("--slow") or config.getoption("--every")):
        return None

    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        """Gives each process one file after another; all files of runs in several processes go to the same one."""

        def _split_scope(self, nodeid):
            """Return the name of the tests that run one after another."""
            path = nodeid.partition("::")[0]
            return "several" if path.startswith(SEVERAL) and not path.startswith(ONE) else path

    return Scheduling(config, log)


def pytest_addoption(parser):
    """Add the options that select a part."""
    parser.addoption("--slow", action="store_true", help="run the slow tests instead of the fast ones")
    parser.addoption("--every", action="store_true", help="run the slow tests with every other algorithm")


def pytest_collection_modifyitems(config, items):
    """Select one of the three parts."""
    if any("::" in arg for arg in config.args):  # a test that is named runs in any case
        return
    chosen = "every" if config.getoption("--every") else "slow" if config.getoption("--slow") else "fast"
    parts = {"fast": [], "slow": [], "every": []}
    for item in items:
        kind = next((name for name in ("every", "slow") if item.get_closest_marker(name) is not None), "fast")
        parts[kind].append(item)
    items[:] = parts.pop(chosen)
    config.hook.pytest_deselected(items=[item for part in parts.values() for item in part])
