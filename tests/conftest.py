"""`pytest` runs the fast tests, `pytest --slow` the others, which take most of the time."""


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests instead of the fast ones")


def pytest_collection_modifyitems(config, items):
    wanted = config.getoption("--slow")
    chosen = [item for item in items if (item.get_closest_marker("slow") is not None) == wanted]
    named = any("::" in arg for arg in config.args)  # a test that is named runs in any case
    if not named:
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
