"""The benchmarks run, in their shortest form, and write what their README says. No figure is judged here."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import figure
from benchmarks.record import (
    TABLE_BEGINS,
    TABLE_ENDS,
    Record,
    load_history,
    make_record,
    newest_table,
    save,
)
from benchmarks.rows import QUICK, ROW_NAMES, ROWS, Carrier, Face, Measure, Row

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "benchmarks" / "README.md").read_text()


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=110, check=False)


def children_of(directory: Path) -> list[str]:
    """Command lines of all processes that were given a path below ``directory``."""
    lines: list[str] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(directory) in line:
                lines.append(line)
    return lines


def test_a_quick_run_yields_every_row_the_readme_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = run("--quick", "--json")
    assert done.returncode == 0, done.stderr
    record: Record = json.loads(done.stdout)
    assert {"date", "commit", "machine", "load_average_before", "effort", "seconds", "figures"} <= record.keys()
    assert {"cpu", "cores", "python", "kernel"} <= record["machine"].keys()
    assert set(record["figures"]) == set(re.findall(r"^\| ([a-z-]+\.[a-z]+\.\d+) \|", README, re.MULTILINE))
    for name, row in ROW_NAMES.items():
        figures = record["figures"][name]
        keys = {"p50", "p99"} if row.is_round_trip else {"rate"}
        assert figures.keys() == {*row.carriers, "ratio"}
        assert figures["ratio"].keys() == keys | {"lowest", "highest"}
        for carrier in row.carriers:
            assert figures[carrier].keys() == keys
            assert all(value > 0 for value in figures[carrier].values()), (name, carrier)
    assert list(tmp_path.iterdir()) == []
    assert children_of(tmp_path) == []


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--json"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        try:
            # It says so when it measures, so all its processes are there.
            assert b"repetition 1" in process.stderr.readline()
            assert len(children_of(tmp_path)) > 10
        finally:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert children_of(tmp_path) == []


def test_part_of_a_run_is_not_saved() -> None:
    for part in (["--quick"], ["--row", ROWS[0].name]):
        done = run("--save", *part)
        assert done.returncode == 2
        assert "--save keeps whole runs only" in done.stderr


def test_a_ratio_is_the_median_of_the_repetitions_and_higher_is_better() -> None:
    times = Row(Measure.EXTERNAL, Face.SYNC, 64)
    taken = [
        {Carrier.HOSTED: {"p50": hosted, "p99": 10 * hosted}, Carrier.RELAY: {"p50": 50.0, "p99": 100.0}}
        for hosted in (100.0, 200.0, 500.0)
    ]
    assert figure(times, taken) == {
        "hosted": {"p50": 200.0, "p99": 2000.0},
        "relay": {"p50": 50.0, "p99": 100.0},
        "ratio": {"p50": 0.25, "p99": 0.05, "lowest": 0.1, "highest": 0.5},
    }
    rates = Row(Measure.SENDS, Face.TRIO, 64)
    counted = [
        {Carrier.HOSTED: {"rate": hosted}, Carrier.RELAY: {"rate": 1000.0}, Carrier.STREAM_RELAY: {"rate": 10.0}}
        for hosted in (100.0, 300.0, 200.0)
    ]
    assert figure(rates, counted)["ratio"] == {"rate": 0.2, "lowest": 0.1, "highest": 0.3}


def test_saving_appends_to_the_history_and_replaces_the_table(tmp_path: Path) -> None:
    history, readme = tmp_path / "history.json", tmp_path / "README.md"
    readme.write_text(f"before\n{TABLE_BEGINS}an old table\n{TABLE_ENDS}after\n")
    row = Row(Measure.DATAGRAM, Face.SYNC, 64)
    taken = [{carrier: {"p50": 40.0, "p99": 80.0} for carrier in row.carriers}]
    first = make_record({row.name: figure(row, taken)}, QUICK, 0.5, 1.0)
    second = {**first, "commit": "another"}
    save(first, history, readme)
    save(second, history, readme)
    assert load_history(history) == [first, second]
    assert readme.read_text() == f"before\n{TABLE_BEGINS}{newest_table(second)}{TABLE_ENDS}after\n"
    assert f"| {row.name} | 40 | 80 |" in readme.read_text()


def test_the_readme_shows_the_newest_record_of_the_history() -> None:
    assert TABLE_BEGINS + newest_table(load_history()[-1]) + TABLE_ENDS in README
