import io
from pathlib import Path

from rich.console import Console
from run_maker import make_config

from harness.run.sinks import ConsoleSink
from harness.run.sinks.console import evaluation_line, with_prefix

RECORD = {
    "round": 3,
    "eval/accuracy": 0.91234567,
    "train/loss": 0.5,
    "cost/client_flops_total": 4_200_000_000,
    "cost/tx_bytes_total": 1_530,
    "cost/compute_j_total": 12.0,
    "cost/link_j_total": 0.5,
    "cost/idle_j_total": 7.5,
    "time/sim_s_total": 7.125,
}


def show(results: Path, *words: str, terminal: bool, first_round: int = 0) -> str:
    out = io.StringIO()
    sink = ConsoleSink(Console(file=out, force_terminal=terminal, width=200, color_system=None))
    cfg = make_config(results, *words)
    sink.start(cfg, run_id=cfg.run_id, first_round=first_round)
    for round in range(first_round, 5):
        sink.write({"round": round} if round != 3 else RECORD, {})
    sink.write(RECORD, {})  # round 3 again, after lost processes
    sink.finish(None)
    return out.getvalue()


def test_the_line_of_an_evaluation() -> None:
    assert evaluation_line(RECORD) == (
        "round 3  eval/accuracy 0.9123  train/loss 0.5  4.2 GFLOP  1.53 kB up  20 J  7.125 s simulated"
    )
    assert evaluation_line({"round": 0, "val/map50": 0.25}) == "round 0  val/map50 0.25"


def test_prefixes() -> None:
    assert [with_prefix(value, "B") for value in (0, 999, 1000, 2.5e6, 1e9, 3e15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "2.5 MB",
        "1 GB",
        "3e+03 TB",
    ]


def test_a_terminal_gets_a_bar_and_a_line_per_evaluation(tmp_path: Path) -> None:
    out = show(tmp_path, terminal=True)
    assert out.count("round 3  eval/accuracy 0.9123") == 1
    assert "5/5" in out
    assert make_config(tmp_path).run_id in out
    assert "eval" not in show(tmp_path, terminal=True, first_round=4)


def test_silence_off_a_terminal_and_on_request(tmp_path: Path) -> None:
    assert show(tmp_path, terminal=False) == ""
    assert show(tmp_path, "log.console=false", terminal=True) == ""
