"""Select the tests: `pytest` runs the fast ones, `pytest --slow` those that take most of the time.

`pytest --every` runs the slow tests with the algorithms whose mechanisms the other two parts test with another one.
"""


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
