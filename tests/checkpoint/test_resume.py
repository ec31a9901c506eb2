"""Settings that a resumed run can't change are refused by name."""

import pytest
import yaml

from sheeprl import ConfigError
from sheeprl.checkpoint import resume

TREE = {"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}, "run": {"seed": 3, "dir": None, "resume": False}}


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("run.dir=other", "leave it out: the run continues in {folder}; to continue in a copy, copy that folder"),
        ("run.resume=true", "leave it out"),
        ("run.seed=4", "leave it out, or use 3"),
        ("env.id=Acrobot-v1", "leave it out, or use CartPole-v1"),
        ("env.kwargs={g: 1}", "leave it out"),
        ("algo.hidden_sizes=[8]", "leave it out"),
    ],
)
def test_a_fixed_setting_names_its_value_and_what_to_do(tmp_path, monkeypatch, override, advice):
    """A fixed setting names its value and what to do."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(TREE))
    monkeypatch.setattr(resume, "find_checkpoint", lambda path: (tmp_path, tmp_path / "checkpoints/step_1"))
    with pytest.raises(ConfigError) as caught:
        resume.resume_tree(str(tmp_path), [override])
    (mistake,) = caught.value.mistakes
    expected = f"{override}: can't change in a resumed run; {advice.format(folder=tmp_path)}"
    assert mistake.startswith(expected) and "None" not in mistake
