"""Test queries of a control store that fails or hangs."""

import asyncio
import threading

from sheeprl.actors.ray.queries import SteadyQuery


def test_a_query_keeps_its_last_result_while_the_store_fails():
    """A failed query leaves the last result; the next answer replaces it."""
    answers = iter([{"a"}, None, {"b"}])

    def ask():
        """Return the next answer, or fail."""
        answer = next(answers)
        if answer is None:
            raise ConnectionError("the store is away")
        return answer

    async def check():
        """Ask three times."""
        query = SteadyQuery(ask, set())
        assert [await query() for _ in range(3)] == [{"a"}, {"a"}, {"b"}]

    asyncio.run(check())


def test_a_hanging_store_does_not_block_the_event_loop():
    """While the store hangs, calls return the last result, and one thread waits."""
    released, calls = threading.Event(), []

    def ask():
        """Wait for the end of the test."""
        calls.append(1)
        released.wait()
        return 2

    async def check():
        """Ask while the store hangs, then after it."""
        query = SteadyQuery(ask, 1)
        assert [await query(seconds=0.01) for _ in range(3)] == [1, 1, 1]
        assert len(calls) == 1
        released.set()
        while await query(seconds=0.01) == 1:
            pass

    asyncio.run(check())
