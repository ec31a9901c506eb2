"""The run's folder and the checkpoints in it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.algos.args import OffPolicy
from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.files import AGENT, CONFIG, METRICS, METRICS_SIZE, STATE, file_size, step_of, write_synced
from sheeprl.checkpoint.remote import mirror_of
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.config.schema import Config
from sheeprl.driver.players import PlayerState
from sheeprl.driver.trainers import Snapshot
from sheeprl.utils.errors import one_line

if TYPE_CHECKING:
    from sheeprl.checkpoint.remote import Mirror


class CheckpointWriter:
    """Writes checkpoints of a run and removes old ones.

    Args:
        run_dir: the run's folder.
        config: what to keep, and for how long.
        shards: parts of the replay.
        on_problem: is told what doesn't keep a checkpoint from being whole.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        shards: int = 1,
        on_problem: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.run_dir, self.folder = run_dir, run_dir / "checkpoints"
        self.config = config
        self.shards = shards
        self.on_problem = on_problem
        self.mirror = mirror_of(config, run_dir)
        # Between rounds, when checkpoints are written, a rollout has been used up.
        self._keeps_buffer = config.buffer.checkpoint and isinstance(config.algo.data(), OffPolicy)
        self._clear_remains()

    @property
    def keeps_buffer(self) -> bool:
        """Whether the replay is saved with each checkpoint."""
        return self._keeps_buffer

    @property
    def newest_buffer(self) -> str | None:
        """The replay as the newest checkpoint has it."""
        with_buffer = [path / "buffer" for path in checkpoints(self.run_dir) if (path / "buffer").is_dir()]
        return str(with_buffer[-1]) if with_buffer else None

    def _clear_remains(self) -> None:
        """Remove what a killed run had begun to write; put back what it was replacing."""
        for partial in self.folder.glob(".step_*.part"):
            shutil.rmtree(partial)
        for old in self.folder.glob(".step_*.old"):
            final = self.folder / old.name[1:-4]
            if final.exists():
                shutil.rmtree(old)
            else:
                old.rename(final)

    def begin(self, policy_steps: int) -> str:
        """Make the folder in which a checkpoint is written, beside the others.

        Raises:
            OSError: it can't be made.
        """
        partial = self.folder / f".step_{policy_steps}.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / METRICS_SIZE).write_text(str(file_size(self.run_dir / METRICS)))
        return str(partial)

    def abandon(self, folder: str) -> None:
        """Remove what was begun."""
        shutil.rmtree(folder, ignore_errors=True)

    async def finish(
        self, folder: str, stats: Mapping[str, Any], snapshot: Snapshot, players: Mapping[int, PlayerState]
    ) -> None:
        """Write the rest into a folder in which the replay is saved, give it its name, then remove the oldest.

        Raises:
            OSError: it can't be written.
        """
        final = await asyncio.to_thread(self._finish, Path(folder), stats, snapshot, players)
        if self.mirror is not None:
            await asyncio.to_thread(self._send, self.mirror, final)

    def _finish(
        self, partial: Path, stats: Mapping[str, Any], snapshot: Snapshot, players: Mapping[int, PlayerState]
    ) -> Path:
        final = self.folder / partial.name[1:-5]
        state = {
            "algorithm": self.config.algo.name,
            "shards": self.shards,
            "metrics_size": int((partial / METRICS_SIZE).read_text()),
            "players": {str(number): kept.incarnation for number, kept in players.items()},
            "books": stats,
        }
        (partial / METRICS_SIZE).unlink()
        write_synced(partial / AGENT, snapshot.data.tobytes())
        for number, kept in players.items():
            write_synced(partial / f"player_{number}.pt", kept.data)
        write_synced(partial / STATE, json.dumps(state, indent=1).encode())
        write_synced(partial / CONFIG, (self.run_dir / CONFIG).read_bytes())
        returns = stats["recent_returns"]
        about = {
            "algorithm": self.config.algo.name,
            "policy_steps": stats["counters"]["policy_steps"],
            "gradient_steps": stats["counters"]["gradient_steps"],
            "mean_return": sum(returns) / len(returns) if returns else None,
        }
        manifest.write(partial, about)
        self._replace(final, partial)
        self._remove_old()
        return final

    def _replace(self, final: Path, partial: Path) -> None:
        """Give a whole checkpoint its name, which another may have, as when a finished run is resumed."""
        old = self.folder / f".{final.name}.old"
        if final.exists():
            final.rename(old)
        partial.rename(final)
        manifest.sync_folder(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def _remove_old(self) -> None:
        """Keep the newest checkpoints, and those with the best returns."""
        found = checkpoints(self.run_dir)
        for path in set(found) - set(self._worth_keeping(found)):
            shutil.rmtree(path)

    def _worth_keeping(self, found: Sequence[Path]) -> list[Path]:
        settings = self.config.checkpoint
        kept = list(found[-settings.keep_last :])
        if settings.keep_best:
            scored = [(score, path) for path in found if (score := _score(path)) is not None]
            best = sorted(scored, key=lambda pair: (pair[0], step_of(pair[1])))[-settings.keep_best :]
            kept += [path for _, path in best]
        return kept

    def _send(self, mirror: Mirror, final: Path) -> None:
        """Have the mirror hold what is kept here, and nothing else."""
        try:
            mirror.upload(final)
            kept = {path.name for path in checkpoints(self.run_dir)}
            for name in mirror.names():
                if name not in kept:
                    mirror.remove(name)
        except (OSError, ValueError) as error:
            self.on_problem(f"{final.name} is kept here, but not in checkpoint.mirror: {one_line(error)}")


def _score(checkpoint: Path) -> float | None:
    """The mean return at the time; None if it isn't known."""
    try:
        score: float | None = manifest.read(checkpoint).about["mean_return"]
    except manifest.DamagedCheckpointError:
        return None
    return score
