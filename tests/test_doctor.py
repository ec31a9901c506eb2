"""Test the doctor on a machine with troubles."""

import json
import resource
from pathlib import Path

import pytest

from sheeprl import doctor
from sheeprl.cli import main


def found(subject):
    """Return the findings about a subject."""
    return [finding for finding in doctor.examine() if finding.subject == subject]


def test_every_problem_has_an_advice():
    """A finding that isn't ok says what to do."""
    findings = doctor.examine()
    assert {finding.status for finding in findings} <= {"ok", "warning", "error"}
    assert all(finding.advice for finding in findings if finding.status != "ok")
    assert {"sheeprl", "Python", "packages", "compiler cache", "Ray", "cores", "disk", "extras"} <= {
        finding.subject for finding in findings
    }


def test_troubles_are_found(monkeypatch, tmp_path):
    """Each trouble is named with its remedy."""
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert found("rendering")[0].status == "error"
    monkeypatch.setattr(doctor, "has_compiler", lambda: False)
    assert found("compiler")[0].status == "warning"
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 256))
    assert "ulimit -n 4096" in found("open files")[0].advice
    monkeypatch.setattr(doctor, "environment_warnings", lambda: iter(["two distributions fill it; uninstall one"]))
    assert found("environment")[0].advice == "uninstall one"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "no"))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    assert [finding.status for finding in found("Ray")] == ["ok", "error"]
    versions = {"torch": "2.13.0+cpu"}
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, "1.0"))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/bin/nvidia-smi")
    assert "CUDA build" in found("torch")[0].advice


def test_small_disk_and_missing_package(monkeypatch):
    """Free bytes are compared with the least ones."""
    monkeypatch.setattr(doctor, "LEAST_DISK", 10**18)
    assert found("disk")[0].status == "warning"
    monkeypatch.setattr(doctor, "REQUIRED", ("torch", "no-such-package"))
    assert found("packages")[-1].found == "no-such-package is missing"


@pytest.mark.parametrize("bad", [False, True])
def test_command(bad, monkeypatch, capsys):
    """The exit code is 1 if a run would fail; --json prints one object."""
    status = "error" if bad else "warning"
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("disk", status, "full", "clean it")])
    with pytest.raises(SystemExit, match=str(int(bad))):
        main(["doctor"])
    assert capsys.readouterr().out.split() == [status.upper(), "disk", "full;", "clean", "it"]
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    assert json.loads(capsys.readouterr().out)["findings"][0]["found"] == "full"


def test_doctor_imports_nothing_heavy():
    """The module names no heavy library at its top."""
    text = Path(doctor.__file__).read_text()
    assert not any(f"\nimport {name}" in text for name in ("torch", "ray", "lightning", "psutil"))
