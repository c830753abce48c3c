from __future__ import annotations

import io
import json
import math
import pickle

import numpy as np
import pytest

from bcfusion.live.engine import Latency
from bcfusion.live.statistics import Statistics
from bcfusion.live.status import StatusLine, plain, status_line, summary_lines

LATENCY = Latency(algorithmic=0.032, device=0.0206, rate=0.0, queue=0.016)


def statistics() -> Statistics:
    known = Statistics(2, frame_seconds=0.016, rate=16000)
    inputs = np.stack([np.full(256, 0.1), np.zeros(256)]).astype(np.float32)
    for number in range(100):
        known.add(0.004 if number else 0.020, inputs, np.full(256, 0.01, np.float32))
    return known


def test_the_line_says_where_the_time_goes() -> None:
    known = statistics()
    known.underruns, known.late, known.device_overruns = 3, 1, 1
    line = status_line(known.snapshot(65.2), LATENCY, ("body", "air"))
    assert line == (
        "1:05 latency 69 ms (algorithm 32 + device 21 + queue 16) load 26% frame 4.0 p99 4.2 ms "
        "under 3 over 2 body -20 air silent out -40 dBFS"
    )
    resampled = status_line(known.snapshot(1), Latency(0.01, 0.0, 0.03, 0.0), ("body", "air"))
    assert "(algorithm 10 + rate 30 + queue 0)" in resampled


def test_levels_begin_anew_and_times_do_not() -> None:
    known = statistics()
    first, second = known.snapshot(1.0), known.snapshot(2.0)
    assert first.inputs[0] == pytest.approx(-20, abs=0.01)
    assert (second.inputs[0], second.output) == (-math.inf, -math.inf)
    assert first.median == second.median == pytest.approx(0.004)
    assert first.longest == 0.020
    assert first.load == pytest.approx((99 * 0.004 + 0.020) / 1.6)


def test_reading_changes_nothing_that_is_counted() -> None:
    known = statistics()

    def values() -> dict[str, bytes]:
        return {name: pickle.dumps(value) for name, value in vars(known).items()}

    def changed(before: dict[str, bytes]) -> set[str]:
        return {name for name, value in values().items() if value != before[name]}

    before = values()
    known.add(0.004, np.full((2, 256), 0.1, np.float32), np.full(256, 0.1, np.float32))
    counted, before = changed(before), values()
    known.snapshot(1.0)
    read = changed(before)
    assert len(counted) >= 4
    assert read
    assert not counted & read


def test_a_stream_that_has_not_begun_has_no_times() -> None:
    empty = Statistics(1, 0.016, 16000).snapshot(0.0)
    assert "frame – p99 – ms" in status_line(empty, LATENCY, ("body",))
    assert json.loads(json.dumps(plain(empty, LATENCY), allow_nan=False))["computing"]["median"] is None


def test_the_summary_gives_advice_that_fits() -> None:
    known = statistics()
    assert len(summary_lines(known.snapshot(1.6), LATENCY)) == 3
    known.underruns, known.underrun_samples, known.resets, known.clipped = 2, 1600, 1, 7
    lines = "\n".join(summary_lines(known.snapshot(1.6), LATENCY))
    assert "underruns 2 (0.10 s of silence)" in lines
    assert "late now and then: more --buffers" in lines
    assert "began anew, 1 times" in lines
    assert "clipped: 7 samples" in lines
    assert "samples of the output" not in lines
    known.add(0.004, np.zeros((2, 256), np.float32), np.full(256, -1.5, np.float32))
    assert "clipped: 256 samples of the output" in "\n".join(summary_lines(known.snapshot(1.6), LATENCY))
    known.computing_total = 5.0
    assert "does not keep up: a longer --frame" in "\n".join(summary_lines(known.snapshot(1.6), LATENCY))
    assert "missed deadlines: 2 of 101" in summary_lines(known.snapshot(1.6), LATENCY, file=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_fits_it() -> None:
    now = [0.0]
    terminal = Terminal()
    line = StatusLine(terminal, lambda: 10, lambda: now[0])
    texts = iter(["a long line of text", "short"])
    for moment in (0.1, 0.3, 0.4, 0.6):
        now[0] = moment
        line.show(lambda: next(texts))
    line.close()
    assert terminal.getvalue() == "\ra long li\rshort    \n"
    assert not list(texts)


def test_elsewhere_lines_follow_each_other_every_five_seconds() -> None:
    now = [0.0]
    log = io.StringIO()
    line = StatusLine(log, lambda: 10, lambda: now[0])
    for moment in (1.0, 5.1, 6.0, 10.2):
        now[0] = moment
        line.show(lambda: f"state at {moment:g} seconds")  # noqa: B023
    line.close()
    assert log.getvalue() == "state at 5.1 seconds\nstate at 10.2 seconds\n"
