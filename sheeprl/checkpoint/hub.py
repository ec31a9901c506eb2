"""Transfer policies from and to the Hugging Face hub, under the name `hf:user/repo` or `hf:user/repo@revision`.

HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE have the meaning that they have for the package huggingface_hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.utils.errors import ConfigError, one_line
from sheeprl.utils.installation import install_command

PREFIX = "hf:"
NAME = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
PATTERNS = ["config.yaml", "spaces.json", "evaluations.jsonl", "README.md", "checkpoints/*"]
"""Files of a repository that are downloaded: text, numbers and safetensors."""
REFUSED = ["*.pt", "*.pth", "*.bin", "*.pkl", "*.pickle", "*.ckpt"]
"""Names of files that may hold pickled objects."""


@dataclass(frozen=True)
class Repository:
    """Repository of the hub.

    Args:
        repo: `user/repo`.
        revision: branch, tag or commit; None for the main branch.
    """

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, name: str) -> Repository:
        """Return the repository of a name.

        Raises:
            ConfigError: it has another form.
        """
        found = NAME.fullmatch(name.removeprefix(PREFIX))
        if found is None or not name.startswith(PREFIX):
            raise ConfigError([f"{name}: isn't a repository of the hub; write hf:USER/REPO or hf:USER/REPO@REVISION"])
        return cls(found["repo"], found["revision"])

    def __str__(self) -> str:
        """Return the name."""
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def is_hub_name(name: str) -> bool:
    """Return whether a name of a run means a repository of the hub."""
    return name.startswith(PREFIX)


def download(name: str, folder: Path | None = None, report: Callable[[str], None] = lambda text: None) -> Path:
    """Download the run of a repository and return its folder.

    Args:
        name: `hf:user/repo`, also with `@revision`.
        folder: folder to write; None for the cache of huggingface_hub.
        report: called with a message.

    Raises:
        ConfigError: the repository doesn't exist, can't be read or holds no run, or a package is missing.
    """
    repository = Repository.parse(name)
    with _hub_errors(repository) as hub:
        report(f"downloading {repository}")
        found = hub.snapshot_download(
            repository.repo,
            revision=repository.revision,
            allow_patterns=PATTERNS,
            ignore_patterns=REFUSED,
            local_dir=folder,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    place = Path(found)
    if not (place / "config.yaml").is_file() or not checkpoints(place):
        raise ConfigError([f"{repository}: holds no policy of SheepRL, which sheeprl push writes"])
    return place


def upload(folder: Path, repository: Repository, private: bool, message: str) -> str:
    """Upload a folder as one commit, and create the repository first if it doesn't exist; return its URL.

    Args:
        folder: the files.
        repository: the target.
        private: True to create a private repository.
        message: title of the commit.

    Raises:
        ConfigError: the hub refuses, or a package is missing.
    """
    with _hub_errors(repository) as hub:
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        created = api.create_repo(repository.repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo,
            folder_path=folder,
            revision=repository.revision,
            commit_message=message,
            delete_patterns=["checkpoints/*"],
        )
    return str(created)


@contextmanager
def _hub_errors(repository: Repository) -> Iterator[Any]:
    """Yield huggingface_hub, and turn its errors into one line.

    Raises:
        ConfigError: the block failed, or the package is missing.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ConfigError([f"{repository}: {error}; use {install_command('hub')}"]) from error
    try:
        yield hub
    except errors.RepositoryNotFoundError as error:
        reason = "no such repository, or it is private; for a private one, set HF_TOKEN"
        raise ConfigError([f"{repository}: {reason}"]) from error
    except errors.RevisionNotFoundError as error:
        raise ConfigError([f"{repository}: the repository has no such revision"]) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            reason = "the hub refuses the access; set HF_TOKEN to a token that may write"
        else:
            reason = f"the hub answered: {one_line(error)}"
        raise ConfigError([f"{repository}: {reason}"]) from error
    except (errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigError([f"{repository}: can't be transferred: {one_line(error)}"]) from error
    except Exception as error:  # of the library for connections, which isn't ours to import
        if not type(error).__module__.startswith(("httpx", "requests", "httpcore")):
            raise
        raise ConfigError([f"{repository}: the hub can't be reached: {one_line(error)}"]) from error
