"""Write the checkpoints of a run, copy them to the remote store, and remove old ones."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sheeprl.algos.args import OffPolicy
from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.best import by_score
from sheeprl.checkpoint.files import AGENT, CONFIG, METRICS, METRICS_SIZE, STATE, file_size
from sheeprl.checkpoint.remote import RemoteStore, remote_store
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.config.schema import Config
from sheeprl.driver.players import PlayerState
from sheeprl.driver.trainers import Snapshot
from sheeprl.utils.errors import one_line
from sheeprl.utils.files import replace_folder, write_synced


class CheckpointWriter:
    """Write checkpoints of a run and remove old ones.

    Args:
        run_dir: the run folder.
        config: the run's configuration.
        shards: number of replay shards.
        on_problem: called with a message for each problem that leaves the local checkpoint complete.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        shards: int = 1,
        on_problem: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Open the remote store, if the configuration names one."""
        self.run_dir, self.folder = run_dir, run_dir / "checkpoints"
        self.config = config
        self.shards = shards
        self.on_problem = on_problem
        self.remote = remote_store(config, run_dir)
        # Checkpoints are written between rounds; then all rows of an on-policy rollout are used.
        self._keeps_buffer = config.buffer.checkpoint and isinstance(config.algo.data(), OffPolicy)
        self._clear_remains()

    @property
    def keeps_buffer(self) -> bool:
        """Return True if each checkpoint includes the replay."""
        return self._keeps_buffer

    @property
    def newest_buffer(self) -> str | None:
        """Return the folder of the newest saved replay, None if there is none."""
        with_buffer = [path / "buffer" for path in checkpoints(self.run_dir) if (path / "buffer").is_dir()]
        return str(with_buffer[-1]) if with_buffer else None

    def _clear_remains(self) -> None:
        """Remove unfinished checkpoints of a killed run, and restore a checkpoint that it was replacing."""
        for partial in self.folder.glob(".step_*.part"):
            shutil.rmtree(partial)
        for old in self.folder.glob(".step_*.old"):
            final = self.folder / old.name[1:-4]
            if final.exists():
                shutil.rmtree(old)
            else:
                old.rename(final)

    def begin(self, policy_steps: int) -> str:
        """Create the temporary folder of a new checkpoint and return its path.

        Raises:
            OSError: the folder can't be created.
        """
        partial = self.folder / f".step_{policy_steps}.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / METRICS_SIZE).write_text(str(file_size(self.run_dir / METRICS)))
        return str(partial)

    def abandon(self, folder: str) -> None:
        """Delete the temporary folder of an unfinished checkpoint."""
        shutil.rmtree(folder, ignore_errors=True)

    async def finish(
        self, folder: str, stats: Mapping[str, Any], snapshot: Snapshot, players: Mapping[int, PlayerState]
    ) -> None:
        """Complete a checkpoint whose folder already has the replay, then remove old checkpoints.

        Raises:
            OSError: a file can't be written.
        """
        final = await asyncio.to_thread(self._finish, Path(folder), stats, snapshot, players)
        if self.remote is not None:
            await asyncio.to_thread(self._send, self.remote, final)

    def _finish(
        self, partial: Path, stats: Mapping[str, Any], snapshot: Snapshot, players: Mapping[int, PlayerState]
    ) -> Path:
        """Write all files but the replay, the manifest last, and return the final folder."""
        final = self.folder / partial.name[1:-5]
        state = {
            "algorithm": self.config.algo.name,
            "shards": self.shards,
            "metrics_size": int((partial / METRICS_SIZE).read_text()),
            "players": {str(number): player.incarnation for number, player in players.items()},
            "books": stats,
        }
        (partial / METRICS_SIZE).unlink()
        write_synced(partial / AGENT, snapshot.data.tobytes())
        for number, player in players.items():
            write_synced(partial / f"player_{number}.pt", player.data)
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
        replace_folder(final, partial)
        self._remove_old()
        return final

    def _remove_old(self) -> None:
        """Remove all checkpoints except the newest and the best ones."""
        found = checkpoints(self.run_dir)
        for path in set(found) - set(self._worth_keeping(found)):
            shutil.rmtree(path)

    def _worth_keeping(self, found: Sequence[Path]) -> list[Path]:
        """Return the `keep_last` newest and the `keep_best` best checkpoints."""
        settings = self.config.checkpoint
        retained = list(found[-settings.keep_last :])
        if settings.keep_best:
            retained += by_score(found, self.run_dir, settings.best_by)[-settings.keep_best :]
        return retained

    def _send(self, remote: RemoteStore, final: Path) -> None:
        """Upload a checkpoint, and remove remote checkpoints that don't exist locally."""
        try:
            remote.upload(final)
            local = {path.name for path in checkpoints(self.run_dir)}
            for name in remote.names():
                if name not in local:
                    remote.remove(name)
        except (OSError, ValueError) as error:
            self.on_problem(f"{final.name} is saved locally but not in checkpoint.mirror: {one_line(error)}")
