"""Add the fragments of a round to the replay buffer, and recover those that were lost with their node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sheeprl.actors.handle import DataLostError, LostError
from sheeprl.buffer.fragments import EarlierFragmentMissingError, RefusedFragmentError
from sheeprl.config.schema import Config
from sheeprl.config.suggestions import check_command
from sheeprl.driver.players import Answered, PlayerGroup
from sheeprl.driver.replay import AddOutcome, ReplayClient
from sheeprl.driver.rounds import CollectedFragment, Rounds
from sheeprl.driver.stopping import Stopping
from sheeprl.metrics.counters import Counters
from sheeprl.metrics.reporter import Reporter
from sheeprl.utils.errors import RunFailedError, one_line, require


class FragmentAdder:
    """Adds rounds of fragments to the replay buffer.

    Args:
        config: configuration of the run.
        counters: counters of the run.
        players: the group of all players.
        replay: client of the replay buffer.
        rounds: fragments that wait for their round.
        reporter: receives messages.
        stopping: request to stop the run.
        drop_player: releases a lost player and counts its failure.
        on_free_place: called when a round has a place for another fragment.

    Attributes:
        given_up: players that lost a fragment for good when the run stopped. Their later fragments must not be added:
            they would leave a gap that a resume doesn't close.
    """

    def __init__(
        self,
        config: Config,
        counters: Counters,
        players: PlayerGroup,
        replay: ReplayClient,
        rounds: Rounds,
        reporter: Reporter,
        stopping: Stopping,
        drop_player: Callable[[int, Exception], None],
        on_free_place: Callable[[], None],
    ) -> None:
        """Store the clients."""
        self.config, self.data, self.counters = config, config.algo.data(), counters
        self.players, self.replay, self.rounds = players, replay, rounds
        self.reporter, self.stopping = reporter, stopping
        self.drop_player, self.on_free_place = drop_player, on_free_place
        self.given_up: set[int] = set()
        self._refusals = [0] * config.num_players  # consecutive refused fragments of each player

    async def add(self, fragments: list[CollectedFragment]) -> list[AddOutcome] | None:
        """Add a round's fragments. Replace in `fragments` those that were lost with their node.

        A rollout is added again if the buffer was lost when it held a part of it.

        Returns:
            For each fragment None, or the reason why it was refused or lost. None if the run stops while part of a
            rollout is missing.
        """
        while True:
            outcomes: list[AddOutcome] = [None] * len(fragments)
            missing = list(range(len(fragments)))
            while missing:
                refs = [(fragments[place].player, fragments[place].fragment) for place in missing]
                found = zip(missing, await require(self.replay.add(refs), "the buffer"), strict=True)
                missing = []
                for place, outcome in found:
                    outcomes[place] = outcome
                    if await self._is_sent_again(outcome, place, fragments):
                        missing.append(place)
            if self.data.is_off_policy:
                return outcomes
            if any(isinstance(error, DataLostError) for error in outcomes):
                return None
            if any(outcomes) or self.replay.size >= sum(each.info.rows for each in fragments):
                return outcomes

    async def _is_sent_again(self, outcome: AddOutcome, place: int, fragments: list[CollectedFragment]) -> bool:
        """Return True if a fragment has to be sent to its shard again; replace it first if it is lost."""
        if isinstance(outcome, EarlierFragmentMissingError):
            return True
        return isinstance(outcome, DataLostError) and await self._recollect_fragment(place, fragments)

    async def _recollect_fragment(self, place: int, fragments: list[CollectedFragment]) -> bool:
        """Replace a lost fragment by the same one, or by the player's next one; return False if the run stops first."""
        number = fragments[place].player
        self.reporter.message(
            f"a fragment of player {number} was lost with its node; the player collects another one", "warning"
        )
        another: CollectedFragment | None = None
        if fragments[place].origin is not None:
            another = await self.stopping.wait_unless_interrupted(self._repeat_fragment(fragments[place]))
        if another is None and not self.stopping.is_out_of_patience:
            self.rounds.give_up(number)
            self.on_free_place()
            another = await self.stopping.wait_unless_interrupted(self.rounds.take_again(number))
        if another is None:
            self.given_up.add(number)
            return False
        fragments[place] = another
        return True

    async def _repeat_fragment(self, lost: CollectedFragment) -> CollectedFragment | None:
        """Collect a fragment again from the state before it; return None if that is impossible.

        Raises:
            RunFailedError: the player exceeded its failure budget.
        """
        number, origin = lost.player, lost.origin
        assert origin is not None
        while True:
            async with self.players.playing[number]:  # a fragment that the player collects now comes first
                if number in self.players.handles and number not in self.players.origins:
                    return None  # it couldn't go on as before
                try:
                    async with self.players.rewound(number, origin) as player:
                        if player is None:
                            return None
                        info_ref, fragment = lost.request.send(player)
                        is_same = Answered.of(lost.request, lost.info).is_repeated_by(await info_ref)
                        return replace(lost, fragment=fragment) if is_same else None
                except LostError as error:
                    self.drop_player(number, error)
                except Exception:  # the weights are lost, or the environment fails
                    return None

    def record_refusal(self, number: int, error: RefusedFragmentError | None) -> None:
        """Count and report a fragment that the buffer refused. None stands for an accepted one.

        Raises:
            RunFailedError: too many in a row were refused, or the fragment is a part of a rollout.
        """
        self._refusals[number] = 0 if error is None else self._refusals[number] + 1
        if error is None:
            return
        self.counters.refused += 1
        text, most = f"a fragment of player {number} was refused: {one_line(error)}", self.config.ray.max_failures
        text += f"; check the environment with {check_command(self.config.env)}"
        if not self.data.is_off_policy:
            raise RunFailedError(text) from error
        if self._refusals[number] > most:
            raise RunFailedError(f"{text} ({self._refusals[number]} in a row; ray.max_failures={most})") from error
        self.reporter.message(text, "warning")
