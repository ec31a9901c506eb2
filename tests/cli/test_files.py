"""Test the commands about configuration files."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).resolve().parents[2] / "docs"
CONSOLE = re.compile(r"^```console\n\$ sheeprl (.*)\n((?:error: .*\n)+)```$", re.MULTILINE)


def test_schema_prints_a_json_schema(sheeprl):
    """`schema` prints a JSON schema, of one algorithm or of all."""
    done = sheeprl("schema", "ppo")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["properties"]["algo"]["properties"]["name"]["anyOf"][0] == {"enum": ["ppo"]}
    assert len(json.loads(sheeprl("schema").out)["properties"]["algo"]["allOf"]) > 5
    assert sheeprl("schema", "pppo").errors == [
        "pppo: unknown algorithm 'pppo'; did you mean ppo? (list: sheeprl algos)"
    ]


def test_config_understands_bases(sheeprl, tmp_path):
    """`config --diff` shows the file and line of each setting of a file with bases."""
    path = tmp_path / "mine.yaml"
    path.write_text("base: [sac, mujoco]\nalgo:\n  tau: 0.01\n")
    done = sheeprl("config", str(path), "--diff", "run.seed=3")
    lines = done.out.splitlines()
    assert lines[0] == f"# configuration {path} (sac on HalfCheetah-v5)"
    assert f"algo.tau=0.01  # default 0.005; {path}:3" in lines
    assert any(line.startswith("env.id=HalfCheetah-v5  # ") and "presets/mujoco.yaml:" in line for line in lines)
    assert "run.seed=3  # default 0" in lines
    path.write_text("base: sacc\n")
    assert sheeprl("config", str(path)).errors[0].startswith(f"{path}:1: base=sacc: isn't a shipped configuration")


def test_convert_config_prints_a_configuration(sheeprl, tmp_path):
    """`convert-config` prints a configuration, and a warning for each setting without a counterpart."""
    path = tmp_path / "ppo.yml"
    path.write_text("CartPole-v1:\n  n_envs: 8\n  use_sde: true\n")
    done = sheeprl("convert-config", str(path), "CartPole-v1")
    assert done.code == 0 and done.err.startswith(f"warning: {path}:3: use_sde=true: state-dependent exploration")
    assert yaml.safe_load(done.out)["env"] == {"id": "CartPole-v1", "num_envs": 8}
    out = tmp_path / "cartpole.yaml"
    done = sheeprl("convert-config", str(path), "CartPole-v1", "--out", str(out))
    assert done.code == 0 and sheeprl("run", str(out), "--dry-run").code == 0
    assert sheeprl("convert-config", str(path), "X-v0").code == 2
    assert sheeprl("convert-config", str(path), "CartPole-v1", "--out", str(tmp_path / "no" / "x.yaml")).code == 2


@pytest.mark.parametrize("page", ["configuration.md", "errors.md"])
def test_the_mistakes_on_a_page_are_those_of_the_program(sheeprl, tmp_path, monkeypatch, page):
    """The mistakes that a page shows are what the program prints about such a file."""
    ((words, lines),) = CONSOLE.findall((DOCS / page).read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    num_envs = 0 if "num_envs=0" in lines else 4
    Path("mine.yaml").write_text(
        f"algo:\n  name: ppo\n  epochs: 4\n  gama: 0.98\nenv:\n  id: CartPole-v1\n  num_envs: {num_envs}\n"
    )
    done = sheeprl(*shlex.split(words))
    assert (done.code, done.err) == (2, lines)
