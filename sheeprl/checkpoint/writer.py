"""Write the checkpoints of a run, in its folder or at `checkpoint.storage`, and remove old ones."""

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
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.checkpoint.storage import CARRIED, RunStorage, Saved
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
        on_problem: called with a message for each problem that leaves the checkpoint complete.
        storage: where checkpoints are; None for the run folder.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        shards: int = 1,
        on_problem: Callable[[str], None] = lambda text: None,
        storage: RunStorage | None = None,
    ) -> None:
        """Remove the remains of a killed run."""
        self.run_dir, self.folder = run_dir, run_dir / "checkpoints"
        self.config = config
        self.shards = shards
        self.on_problem = on_problem
        self.storage = storage
        self._stored = storage.checkpoints()[-1:] if storage else []  # the newest one at the storage
        # Checkpoints are written between rounds; then all rows of an on-policy rollout are used.
        self._keeps_buffer = config.buffer.checkpoint and isinstance(config.algo.data(), OffPolicy)
        self._clear_remains()

    @property
    def keeps_buffer(self) -> bool:
        """Return True if each checkpoint includes the replay."""
        return self._keeps_buffer

    @property
    def newest_buffer(self) -> str | None:
        """Return the folder or URL of the newest saved replay, None if there is none."""
        if self.storage is not None and self._stored:
            return self.storage.manifest_url(self._stored[-1]) if self._keeps_buffer else None
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

    def replay_place(self, folder: str) -> str:
        """Return where the shards save their rows for the checkpoint in a folder: below it, or a URL."""
        if self.storage is None:
            return f"{folder}/buffer"
        return self.storage.pending(_step_of_partial(Path(folder)))

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
        await asyncio.to_thread(self._finish, Path(folder), stats, snapshot, players)

    def _finish(
        self, partial: Path, stats: Mapping[str, Any], snapshot: Snapshot, players: Mapping[int, PlayerState]
    ) -> None:
        """Write all files but the replay, the manifest last."""
        final = self.folder / partial.name[1:-5]
        state: dict[str, Any] = {
            "algorithm": self.config.algo.name,
            "shards": self.shards,
            "metrics_size": int((partial / METRICS_SIZE).read_text()),
            "players": {str(number): player.incarnation for number, player in players.items()},
            "books": stats,
        }
        if self.storage is not None and self._keeps_buffer:
            state["replay"] = self.storage.manifest_url(Saved(self.storage.epoch, _step_of_partial(partial)))
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
        if self.storage is not None:
            self._commit(self.storage, partial, about, state["metrics_size"])
        elif self._keeps_buffer:
            self._check_replay(partial / "buffer")
        manifest.write(partial, about)
        replace_folder(final, partial)
        self._remove_old()

    def _remove_old(self) -> None:
        """Remove all checkpoints except the newest and the best ones, also at the storage."""
        found = checkpoints(self.run_dir)
        retained = self._worth_keeping(found)
        names = {path.name for path in retained}
        try:
            for path in set(found) - set(retained):
                manifest.remove(path)
            if self.storage is None:
                return
            stored = self.storage.checkpoints()
            newest = stored[-self.config.checkpoint.keep_last :]
            self.storage.clean([*newest, *(saved for saved in stored if saved.folder in names)])
        except OSError as error:
            self.on_problem(f"old checkpoints can't be removed: {one_line(error)}")

    def _check_replay(self, folder: Path) -> None:
        """Check that this process sees the rows of all shards, which other nodes may have written to other disks.

        Raises:
            OSError: the rows of a shard are elsewhere.
        """
        for shard in range(self.shards):
            if not (folder / f"shard_{shard}" / manifest.BUFFER).is_file():
                raise OSError(
                    f"the rows of shard {shard} aren't in {folder}: its node doesn't share this folder; set "
                    "checkpoint.storage=s3://bucket/prefix (or gs://…), or set run.dir to a folder that all nodes share"
                )

    def _commit(self, storage: RunStorage, partial: Path, about: Mapping[str, Any], metrics_size: int) -> None:
        """Commit a checkpoint at the storage, with the metrics so far, for a resume in another folder."""
        if (self.run_dir / METRICS).exists():
            with (self.run_dir / METRICS).open("rb") as file:
                write_synced(partial / METRICS, file.read(metrics_size))
        for name in CARRIED:
            if (self.run_dir / name).exists():
                write_synced(partial / name, (self.run_dir / name).read_bytes())
        shards = self.shards if self._keeps_buffer else 0
        self._stored = [storage.commit(partial, _step_of_partial(partial), about, shards)]

    def _worth_keeping(self, found: Sequence[Path]) -> list[Path]:
        """Return the `keep_last` newest and the `keep_best` best checkpoints."""
        settings = self.config.checkpoint
        retained = list(found[-settings.keep_last :])
        if settings.keep_best:
            retained += by_score(found, self.run_dir, settings.best_by)[-settings.keep_best :]
        return retained


def _step_of_partial(folder: Path) -> int:
    """Return the policy step in the name of a temporary folder."""
    return int(folder.name.removeprefix(".step_").removesuffix(".part"))
