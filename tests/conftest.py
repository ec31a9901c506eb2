"""Select the tests: `pytest` runs the fast tests, `pytest --slow` the others, which take most of the time."""


def pytest_addoption(parser):
    """Add the option `--slow`."""
    parser.addoption("--slow", action="store_true", help="run the slow tests instead of the fast ones")


def pytest_collection_modifyitems(config, items):
    """Select the fast or the slow tests."""
    if any("::" in arg for arg in config.args):  # a test that is named runs in any case
        return
    parts = {True: [], False: []}
    for item in items:
        parts[item.get_closest_marker("slow") is not None].append(item)
    items[:] = parts[config.getoption("--slow")]
    config.hook.pytest_deselected(items=parts[not config.getoption("--slow")])
