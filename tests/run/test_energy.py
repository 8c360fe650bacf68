"""Measured energy: CPU seconds by hand, a tracker that is a fake, and what a run's files then hold."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from local_run import TINY, make_config, make_job, start

from harness.config import LogConfig
from harness.run import energy
from harness.run.driver import execute
from harness.run.energy import CodeCarbon, CpuTime, check_energy, energy_meter, summarize_energy, with_energy
from harness.run.runtime import LocalRuntime
from harness.types import ConfigError


@dataclass
class Measured:
    energy_consumed: float


@dataclass
class Tracker:
    """2 J a task."""

    running: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def start_task(self, name: str) -> None:
        assert not self.running
        assert name not in self.names
        self.running, self.names = [name], [*self.names, name]

    def stop_task(self, name: str) -> Measured:
        assert self.running == [name]
        self.running = []
        return Measured(2 / 3.6e6)


def test_cpu_seconds_take_a_cores_share_of_the_package() -> None:
    meter = CpuTime(package_w=80.0, cores=4)
    assert with_energy({"round": 0, "energy/cpu_s": 1.5}, meter)["energy/measured_j"] == 30.0
    assert with_energy({"round": 0}, meter) == {"round": 0}


def test_each_round_is_a_task_of_the_tracker() -> None:
    tracker = Tracker()
    meter = CodeCarbon(tracker)
    for round in range(3):
        assert with_energy({"round": round}, meter)["energy/measured_j"] == pytest.approx(2.0)
    meter.close()
    assert not tracker.running
    assert len(tracker.names) == 4


def test_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "offline_tracker", Tracker)
    monkeypatch.setattr(energy, "installed", lambda: True)
    assert isinstance(energy_meter(LogConfig()), CodeCarbon)
    assert isinstance(energy_meter(LogConfig(energy="cpu_time")), CpuTime)
    check_energy(LogConfig(energy="codecarbon"))
    monkeypatch.setattr(energy, "installed", lambda: False)
    assert isinstance(energy_meter(LogConfig()), CpuTime)
    with pytest.raises(ConfigError, match=r"log\.energy=codecarbon: it is not installed; use `pip install"):
        check_energy(LogConfig(energy="codecarbon"))
    with pytest.raises(ConfigError, match=r"log\.package_w must be > 0, got 0"):
        check_energy(LogConfig(package_w=0))
    with pytest.raises(ConfigError, match=r"log\.grid: unknown grid 'frence'; did you mean france"):
        check_energy(LogConfig(grid="frence"))


def test_a_summary_tells_both_beside_each_other() -> None:
    cfg = LogConfig(grid="coal", energy="cpu_time")
    found = summarize_energy(cfg, modelled_j=3.6e6, timings=[{"energy/measured_j": 1.8e6}] * 2)
    assert found["modelled_g"] == found["measured_g"] == pytest.approx(820)
    assert (found["grid"], found["measured_by"], found["measured_j"]) == ("coal", "cpu_time", 3.6e6)
    partly = summarize_energy(cfg, modelled_j=1.0, timings=[{"energy/measured_j": 1.0}, {}])
    assert "measured_j" not in partly


def test_a_runs_files_hold_it_and_its_name_and_records_do_not(tmp_path: Path) -> None:
    words = ("method=fedavg", "run.num_rounds=2", f"run.results_dir={tmp_path}", "log.console=false")
    cfg, none = (
        make_config([*words, f"log.energy={word}", "log.grid=italy"]) for word in ("cpu_time", "none")
    )
    assert cfg.run_id == none.run_id == make_config(words).run_id
    summary = execute(cfg, runtime=LocalRuntime())
    folder = tmp_path / cfg.run_id
    timings = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    assert all(0 < line["energy/cpu_s"] < 60 for line in timings)
    assert summary["energy"]["measured_j"] == pytest.approx(
        sum(line["energy/measured_j"] for line in timings)
    )
    assert summary["totals"]["carbon_g"] == summary["energy"]["modelled_j"] / 3.6e6 * 330.718
    assert "energy" not in (folder / "rounds.jsonl").read_text()


class Others:
    """CPU seconds of two actors, the second of which starts in round 1."""

    def __init__(self) -> None:
        self.readings = iter([{"a": 10.0}, {"a": 12.0}, {"a": 12.5, "b": 4.0}])

    def __call__(self) -> dict[str, float]:
        return next(self.readings)


def test_all_processes_are_counted_new_ones_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "process_time", lambda: 7.0)
    monkeypatch.setattr("harness.exchange.transport.LocalTransport.cpu_s", lambda self, read=Others(): read())  # noqa: B008
    engine = start(make_job(make_config(["method=fedavg"], base=TINY), tmp_path))
    assert engine.run_round(0).timings["energy/cpu_s"] == 2.0
    assert engine.run_round(1).timings["energy/cpu_s"] == 4.5
