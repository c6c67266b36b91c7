"""`tessera simulate` writes its report, and says which seed breaks a law."""

from backend.schedule.simulation.faults import Broken
from web import simulate
from web.cli import main


def test_a_quick_run_writes_a_report_with_charts(tmp_path):
    flags = ["--preset", "calm", "--policy", "tessera", "--policy", "swap anywhere", "--quick"]
    assert main(["simulate", *flags, "--seconds", "40", "--devices", "1", "--output", str(tmp_path)]) == 0
    assert "| tessera |" in (tmp_path / "README.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "rates.svg", "p99.svg"}


def test_runs_under_faults_say_how_many_hold(capsys):
    assert main(["simulate", "--faults", "2"]) == 0
    assert "2 of 2 seeds hold" in capsys.readouterr().out


def test_a_broken_law_fails_and_prints_its_seed(capsys, monkeypatch):
    def broken(seed: int) -> None:
        raise Broken(seed, 1.0, "a job never ended")

    monkeypatch.setattr(simulate, "chaos", broken)
    assert main(["simulate", "--faults", "1", "--seed", "9"]) == 1
    assert "seed 9" in capsys.readouterr().err
