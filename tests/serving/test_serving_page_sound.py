"""What the page of ``bcfusion serve`` does with sound, driven offline in the browser: frames, jitter, rates, levels."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from served_page import Opened, chromium, identities, running, write_microphone

from bcfusion.report.listening.rows import level_gains, pixel_magnitudes

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install bcfusion[dev]")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH: apt-get install chromium"),
]
RATE, FRAME, QUANTUM = 16000, 160, 128
HERTZ = 300.0
STEP = 0.5 * 2 * np.pi * HERTZ / RATE  # largest step between samples of the sine that is sent


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("page")
    microphone = write_microphone(folder / "microphone.wav")
    with (
        playwright.sync_playwright() as driver,
        chromium(driver, CHROMIUM, microphone) as browser,
        running(identities(folder)) as server,
    ):
        opened = Opened(browser, server.address)
        yield opened
        opened.close()


def module(page: Opened, name: str, body: str, argument: Any = None) -> Any:
    """Run the body of a function of ``(module, argument)`` with one of the page's modules."""
    return page.js(f"async (argument) => {{ const module = await import('/assets/{name}.js'); {body} }}", argument)


# ---------------------------------------------------------------- rates


@pytest.mark.parametrize(("source", "target"), [(48000, 16000), (44100, 16000), (16000, 48000), (16000, 44100)])
def test_resampling_keeps_what_both_rates_have_and_time(page: Opened, source: int, target: int) -> None:
    for hertz in (100.0, 1000.0, 6500.0):
        output, delay = module(
            page,
            "resampler",
            """const [from, to, hertz] = argument, resampler = new module.Resampler(from, to), output = [];
            const input = Float32Array.from({ length: from }, (_, n) => Math.sin(2 * Math.PI * hertz * n / from));
            const part = (place) => input.subarray(place, place + 128);
            for (let place = 0; place < from; place += 128) output.push(...resampler.process(part(place)));
            return [output, resampler.delay];""",
            [source, target, hertz],
        )
        assert len(output) == pytest.approx(target * (1 - delay), abs=1)  # all that can be known by then
        steady = slice(target // 10, None)
        ideal = np.sin(2 * np.pi * hertz * np.arange(len(output)) / target)
        assert np.abs(np.array(output) - ideal)[steady].max() < 1e-4


def test_resampling_down_has_no_aliases(page: Opened) -> None:
    output = module(
        page,
        "resampler",
        """const input = Float32Array.from({ length: 48000 }, (_, n) => Math.sin(2 * Math.PI * 8200 * n / 48000));
        return [...new module.Resampler(48000, 16000).process(input)];""",
    )
    assert np.abs(output[2000:]).max() < 1e-4


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize("quantum", [128, 100])
def test_frames_are_whole_and_lose_no_sample(page: Opened, quantum: int) -> None:
    """160 is no multiple of the quantum, where other pages crackle."""
    frames = module(
        page,
        "collector",
        """const collector = new module.FrameCollector({ frame: 160, channels: [1, 0], from: 16000, to: 16000 });
        const found = [];
        for (let place = 0; place + argument <= 2000; place += argument) {
            const left = Float32Array.from({ length: argument }, (_, n) => place + n);
            found.push(...collector.push([left, left.map((value) => -value)], argument));
        }
        return found.map(({ number, begun, samples }) => [number, begun, [...samples]]);""",
        quantum,
    )
    assert [number for number, _, _ in frames] == list(range(12))
    assert [begun for _, begun, _ in frames] == pytest.approx([0.01 * number for number in range(12)])
    samples = np.concatenate([np.reshape(samples, (-1, 2)) for _, _, samples in frames])
    np.testing.assert_array_equal(samples[:, 1], np.arange(1920))  # sensors next to each other, in the chosen order
    np.testing.assert_array_equal(samples[:, 0], -np.arange(1920))


def test_a_microphone_without_sound_is_silence_and_two_channels_have_a_mean(page: Opened) -> None:
    frames = module(
        page,
        "collector",
        """const collector = new module.FrameCollector({ frame: 128, channels: ["mix"], from: 16000, to: 16000 });
        const both = [new Float32Array(128).fill(0.5), new Float32Array(128).fill(-0.1)];
        return [...collector.push([], 128), ...collector.push(both, 128)].map(({ samples }) => [...samples]);""",
    )
    np.testing.assert_allclose(frames, [[0] * 128, [0.2] * 128], atol=1e-7)


# ---------------------------------------------------------------- jitter buffer


def played(
    page: Opened, arrivals: Mapping[int, int], frames: int, silent: tuple[int, ...] = ()
) -> tuple[np.ndarray, dict[str, Any]]:
    """Play a sine whose frames arrive at given times.

    Args:
        page: the page.
        arrivals: number of a frame to the sample at which it is there; frames that are missing never arrive.
        frames: that are played.
        silent: numbers of frames that the server has not computed.

    Returns:
        What is heard ``(T,)``, if it is at most 600 frames; state of the buffer in the end, the delays in samples
        that it had one after the other, and the largest step between samples that were heard.
    """
    output, state = module(
        page,
        "jitter",
        """const { arrivals, frames, frame, rate, hertz, silent } = argument;
        const buffer = new module.JitterBuffer({ frame, rate, tracks: 1 });
        const heard = [], delays = [], waiting = [...arrivals];
        let [step, last] = [0, 0];
        for (let time = 0; time < frames * frame; time += 128) {
            while (waiting.length && waiting[0][1] <= time) {
                const [number] = waiting.shift();
                const sine = (_, n) => 0.5 * Math.sin(2 * Math.PI * hertz * (number * frame + n) / rate);
                const none = silent.includes(number);
                const tracks = [none ? new Float32Array(frame) : Float32Array.from({ length: frame }, sine)];
                buffer.push({ number, begun: number * frame / rate, tracks, silent: none });
            }
            const output = new Float32Array(128);
            buffer.pull([output]);
            if (frames <= 600) heard.push(...output);
            for (const value of output) [step, last] = [Math.max(step, Math.abs(value - last)), value];
            const { started } = buffer;
            const delay = started && started.at - started.number * frame;
            if (delay !== null && delay !== delays.at(-1)) delays.push(delay);
        }
        const { underruns, dropped, target, least, queue, fade } = buffer;
        return [heard, { underruns, dropped, target, least, waiting: queue.length, fade, delays, step }];""",
        {
            "arrivals": sorted(arrivals.items(), key=lambda item: (item[1], item[0])),
            "frames": frames,
            "frame": FRAME,
            "rate": RATE,
            "hertz": HERTZ,
            "silent": silent,
        },
    )
    return np.array(output), state


def regular(frames: int) -> dict[int, int]:
    return {number: (number + 1) * FRAME for number in range(frames)}


def test_frames_that_are_late_by_less_than_the_buffer_are_not_heard_to_be(page: Opened) -> None:
    late = np.random.default_rng(0).integers(0, 200, 600)
    times = np.maximum.accumulate(np.array([*regular(600).values()]) + late)  # they do not overtake each other
    output, state = played(page, dict(enumerate(times.tolist())), 600)
    assert (state["underruns"], state["dropped"], state["target"]) == (0, 0, state["least"])
    begin = int(np.flatnonzero(output)[0]) + state["fade"]
    delay = state["delays"][-1]
    times = np.arange(begin, len(output)) - delay
    np.testing.assert_allclose(output[begin:], 0.5 * np.sin(2 * np.pi * HERTZ * times / RATE), atol=1e-6)
    assert state["delays"] == [delay]  # it does not drift


def test_a_frame_that_is_missed_is_bridged_by_the_one_before_and_the_buffer_grows(page: Opened) -> None:
    arrivals = regular(300)
    for number in range(100, 104):
        arrivals[number] = 104 * FRAME + 80  # 4.5 frames late
    output, state = played(page, arrivals, 300)
    assert state["underruns"] == 1
    assert state["target"] == state["least"] + 1
    delays = state["delays"]
    assert delays[-1] > delays[0]
    assert state["step"] < 1.01 * STEP  # neither at the repeated frame nor at its end
    silent = np.flatnonzero(output[20 * FRAME :] == 0)
    assert len(silent) < 4 * FRAME


def test_a_pause_of_the_network_is_silence_that_fades_and_the_delay_recovers(page: Opened) -> None:
    arrivals = {number: max(time, 160 * FRAME) if number >= 100 else time for number, time in regular(400).items()}
    output, state = played(page, arrivals, 400)
    assert state["underruns"] == 1
    assert state["dropped"] > 50  # what piled up meanwhile is not played late
    delays = state["delays"]
    assert delays[-1] <= delays[0] + 2 * FRAME
    assert state["step"] < 1.01 * STEP
    assert np.all(output[110 * FRAME : 155 * FRAME] == 0)


def test_a_frame_that_is_lost_makes_no_click(page: Opened) -> None:
    arrivals = regular(300)
    del arrivals[150]
    output, state = played(page, arrivals, 300)
    assert state["step"] < 1.01 * STEP
    assert len(np.flatnonzero(output[20 * FRAME :] == 0)) < FRAME


def test_frames_that_the_server_has_not_computed_fade_to_silence(page: Opened) -> None:
    output, state = played(page, regular(300), 300, silent=(100, 101, 200))
    assert (state["underruns"], state["dropped"]) == (0, 0)
    assert state["step"] < 1.01 * STEP
    quiet = np.flatnonzero(output[20 * FRAME :] == 0)
    assert 3 * FRAME <= len(quiet) < 3 * FRAME + 40  # besides the zeros of the sine


def test_the_buffer_shrinks_after_it_was_too_full_for_long(page: Opened) -> None:
    """Frames come late for a while, so that it grows, and regularly from then on: it gives all of that back at once."""
    late = 8 * FRAME
    arrivals = {n: time + (late if 50 <= n < 60 else 0) for n, time in regular(1700).items()}
    for number in range(60, 70):
        arrivals[number] = max(arrivals[number], arrivals[59])
    _, state = played(page, arrivals, 1700)  # three times as long as it watches
    delays = state["delays"]
    assert max(delays) > delays[0] + 4 * FRAME
    assert delays[-1] < delays[0] + 2 * FRAME
    assert delays[-2] == max(delays)  # in one step
    assert state["target"] == state["least"]
    assert state["step"] < 1.01 * STEP
    assert state["underruns"] <= 2


def test_too_many_frames_at_once_are_left_out(page: Opened) -> None:
    arrivals = {number: 100 * FRAME if number < 100 else time for number, time in regular(200).items()}
    _, state = played(page, arrivals, 200)
    assert state["dropped"] == 100 - state["least"]
    delays = state["delays"]
    assert delays[-1] < (state["least"] + 2) * FRAME
    assert state["step"] < 1.01 * STEP


# ---------------------------------------------------------------- play-out

PLAY = """const { frame, rate, to, lookahead, frames, share } = argument;
    const playout = new module.Playout({ frame, rate, to, lookahead });
    playout.mix(share);
    const heard = [], reports = [];
    const quantum = 128 / to;
    let number = 0;
    for (let time = 0; number < frames; time += quantum) {
        while ((number + 1) * frame / rate <= time) {
            const begun = number * frame / rate;
            const sine = (amplitude, late) => Float32Array.from({ length: frame },
                (_, n) => amplitude * Math.sin(2 * Math.PI * 210 * (begun + (n - late) / rate)));
            // a network that looks ahead: its output is its input, later
            playout.push({ number, begun, tracks: [sine(0.5, lookahead), sine(0.2, 0)] });
            number++;
        }
        const output = new Float32Array(128);
        playout.render(output, time);
        heard.push(...output);
        reports.push(playout.report().delay);
    }
    return [heard, reports.at(-1), playout.report().underruns];"""


@pytest.mark.parametrize("to", [16000, 48000, 44100])
@pytest.mark.parametrize(("share", "amplitude"), [(1.0, 0.5), (0.0, 0.2), (0.25, 0.275)])
def test_output_and_bypass_are_heard_with_the_delay_that_is_shown(
    page: Opened, to: int, share: float, amplitude: float
) -> None:
    argument = {"frame": 160, "rate": RATE, "to": to, "lookahead": 100, "frames": 120, "share": share}
    heard, delay, underruns = module(page, "playout", PLAY, argument)
    assert underruns == 0
    times = np.arange(len(heard)) / to
    ideal = amplitude * np.sin(2 * np.pi * 210 * (times - delay - 100 / RATE))
    steady = slice(to // 2, None)
    np.testing.assert_allclose(np.array(heard)[steady], ideal[steady], atol=1e-4)
    assert 0.02 < delay < 0.06


# ---------------------------------------------------------------- levels, spectra, files


def test_levels_are_matched_as_on_the_listening_page(page: Opened) -> None:
    generator = np.random.default_rng(0)
    speech = np.repeat(generator.random(40) ** 3, 400)[:15990] * generator.standard_normal(15990)
    signals = [0.3 * speech, 0.001 * speech, np.zeros(15990), 0.9 * np.sign(speech)]
    found = module(
        page,
        "levels",
        "return module.levelGains(argument.map((samples) => Float32Array.from(samples)), 16000);",
        [signal.tolist() for signal in signals],
    )
    assert found == pytest.approx(level_gains(signals, RATE), abs=1e-3)


def test_spectra_are_those_of_the_listening_page(page: Opened) -> None:
    samples = np.random.default_rng(0).standard_normal(RATE) * np.linspace(0, 1, RATE)
    samples += np.sin(2 * np.pi * 2500 * np.arange(RATE) / RATE)
    found = module(
        page,
        "spectrum",
        """const { values, rows, columns } = module.magnitudes(Float32Array.from(argument), 16000, 640);
        return { values: [...values], rows, columns };""",
        samples.tolist(),
    )
    values = np.reshape(found["values"], (found["rows"], found["columns"]))
    theirs = pixel_magnitudes(samples, RATE)
    assert np.argmax(values.mean(1)) / len(values) == pytest.approx(2500 / 8000, abs=1 / len(values))
    assert 20 * np.log10(values.max() / theirs.max()) == pytest.approx(0, abs=1)
    later, earlier = (np.median(values[:, part]) for part in (slice(-10, None), slice(10, 20)))
    assert 20 * np.log10(later / earlier) > 15  # the noise grows


def test_the_fourier_transform_is_that_of_numpy(page: Opened) -> None:
    signal = np.random.default_rng(0).standard_normal(256)
    real, imaginary = module(
        page,
        "spectrum",
        """const [real, imaginary] = [Float64Array.from(argument), new Float64Array(256)];
        new module.Fft(256).run(real, imaginary);
        return [[...real], [...imaginary]];""",
        signal.tolist(),
    )
    np.testing.assert_allclose(np.array(real) + 1j * np.array(imaginary), np.fft.fft(signal), atol=1e-12)
