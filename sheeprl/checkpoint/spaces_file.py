"""The file `spaces.json` of a run, with which a policy is loaded without its environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sheeprl.utils.files import write_atomically

if TYPE_CHECKING:
    from sheeprl.envs.transforms import Spaces

SPACES = "spaces.json"


def write_spaces(spaces: Spaces, run_dir: Path) -> None:
    """Write the agent's observation space and the environment's own action space."""
    from sheeprl.envs.space_json import to_json

    if spaces.env_action is None:
        return
    found = {
        "observation": to_json(spaces.observation),
        "action": to_json(spaces.env_action),
        "frame_stack": dict(spaces.frame_stack),
    }
    write_atomically(run_dir / SPACES, json.dumps(found).encode(), sync=False)
