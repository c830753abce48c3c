"""The page of ``bcfusion serve`` and the server together: recordings and live sound in headless Chromium."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from served_page import (
    AMPLITUDE,
    HOSTILE,
    LEFT,
    PHONE,
    RIGHT,
    WIDE,
    Opened,
    Running,
    chromium,
    identities,
    running,
    write_microphone,
)

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install bcfusion[dev]")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH: apt-get install chromium"),
]
RATE = 16000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return identities(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    microphone = write_microphone(tmp_path_factory.mktemp("microphone") / "microphone.wav")
    with playwright.sync_playwright() as driver, chromium(driver, CHROMIUM, microphone) as browser:
        yield browser


@pytest.fixture(scope="module")
def server(models: Mapping[str, Any]) -> Iterator[Running]:
    with running(models) as server:
        yield server


@pytest.fixture
def wide(browser: Any, server: Running) -> Iterator[Opened]:
    opened = Opened(browser, server.address)
    yield opened
    opened.close()


def recording(path: Path, seconds: float = 1.5, channels: int = 1) -> Path:
    """Write a second of speech-like noise: bursts, with pauses between them."""
    shape = (round(seconds * RATE), channels)
    bursts = np.repeat(np.random.default_rng(0).random(-(-shape[0] // 1600)), 1600)[: shape[0], None] ** 2
    soundfile.write(path, 0.2 * bursts * np.random.default_rng(1).standard_normal(shape), RATE, subtype="PCM_16")
    return path


def sound_of(opened: Opened, expression: str) -> tuple[np.ndarray, int]:
    """Return samples ``(T, channels)`` and sample rate of a blob in the page."""
    text = opened.js(
        f"""async () => {{
        const bytes = new Uint8Array(await ({expression}).arrayBuffer());
        return btoa([...bytes].map((byte) => String.fromCharCode(byte)).join(""));
        }}"""
    )
    return soundfile.read(io.BytesIO(base64.b64decode(text)), always_2d=True)


def amplitudes(samples: np.ndarray, rate: int, hertz: tuple[float, ...]) -> list[float]:
    """Return the amplitude of each sine in a signal ``(T,)``: the median of tenths of a second.

    A microphone that is only software stumbles on a busy machine, now and then.
    """
    length = rate // 10
    parts = samples[: len(samples) // length * length].reshape(-1, length) * np.hanning(length)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(length) / rate, hertz))
    return np.median(2 * np.abs(parts @ waves) / np.hanning(length).sum(), axis=0).tolist()


# ---------------------------------------------------------------- recordings


def test_a_file_is_restored_heard_and_downloaded(wide: Opened, tmp_path: Path) -> None:
    source = recording(tmp_path / f"{HOSTILE}.wav")
    sent = {}

    def keep(route: Any) -> None:
        answer = route.fetch()
        sent[route.request.url] = answer.body()
        route.fulfill(response=answer)

    wide.page.route("**/output.wav", keep)
    wide.page.set_input_files("#files", str(source))
    wide.shows("#takes audio")
    wide.restore()
    assert wide.js("document.activeElement.id") == "result-title"
    with wide.page.expect_download() as download:
        wide.page.click("#download")
    target = tmp_path / "download.wav"
    download.value.save_as(target)
    ((address, content),) = sent.items()
    assert target.read_bytes() == content  # what the server sent, byte for byte
    np.testing.assert_allclose(soundfile.read(target)[0], soundfile.read(source)[0], atol=2**-14)
    assert wide.js("bcfusionServe.result.player.buffers.map((buffer) => buffer.length)") == [1.5 * RATE] * 2
    assert wide.js("bcfusionServe.result.player.context.sampleRate") == RATE
    # names are text
    assert wide.js("window.hacked") is None
    assert HOSTILE in wide.text("#takes")
    assert HOSTILE in wide.text("#result-about")
    # the server keeps nothing that the page has
    job = address.rpartition("/")[0]
    wide.wait_until(lambda: wide.context.request.get(job).status == 404, "deleted")


def test_switching_mixing_and_keys(wide: Opened, tmp_path: Path) -> None:
    wide.page.set_input_files("#files", str(recording(tmp_path / "long.wav", 15)))
    wide.restore()
    heard = "bcfusionServe.result.player.shares"
    pressed = wide.page.locator(".system[aria-pressed=true] .name")
    assert (wide.js(heard), pressed.all_text_contents()) == ([0, 1], ["After"])
    wide.page.keyboard.press("1")
    wide.wait("bcfusionServe.result.player.playing && bcfusionServe.result.player.position() > 0.05")
    begun = wide.js("bcfusionServe.result.player.run.begun")
    assert (wide.js(heard), pressed.all_text_contents()) == ([1, 0], ["Before"])
    wide.page.keyboard.press("2")
    assert wide.js("bcfusionServe.result.player.run.begun") == begun  # nothing was restarted
    wide.page.focus("#mix")
    for _ in range(25):
        wide.page.keyboard.press("ArrowLeft")
    assert wide.js(heard) == pytest.approx([0.25, 0.75])
    assert wide.text("#now") == "Mix: 75 % after, 25 % before"
    assert pressed.count() == 0
    wide.page.wait_for_timeout(100)
    gains = wide.js("bcfusionServe.result.player.run.gains.map((node) => node.gain.value)")
    factors = wide.js("bcfusionServe.result.player.factors")
    assert gains == pytest.approx([0.25 * factors[0], 0.75 * factors[1]], rel=1e-5)
    with wide.page.expect_download() as download:
        wide.page.click("#download-mix")
    assert download.value.suggested_filename == "long-one-75.wav"
    mixed = tmp_path / "mix.wav"
    download.value.save_as(mixed)
    np.testing.assert_allclose(soundfile.read(mixed)[0], soundfile.read(tmp_path / "long.wav")[0], atol=2**-14)
    wide.page.keyboard.press("m")
    assert wide.js("bcfusionServe.result.player.factors") == [1, 1]
    assert wide.page.locator(".gain").all_text_contents() == ["as recorded"] * 2
    wide.page.focus("#result-title")
    wide.page.keyboard.press(" ")
    assert not wide.js("bcfusionServe.result.player.playing")
    before = wide.js("bcfusionServe.result.player.position()")
    wide.page.keyboard.press("ArrowRight")
    assert wide.js("bcfusionServe.result.player.position()") == pytest.approx(before + 1, abs=1e-6)
    wide.page.keyboard.press("l")
    assert wide.js("bcfusionServe.result.player.loop") == [0, 15]


def test_spectrograms_have_a_common_scale_and_a_click_seeks(wide: Opened, tmp_path: Path) -> None:
    times = np.arange(15 * RATE) / RATE
    soundfile.write(tmp_path / "tone.wav", 0.1 * np.sin(2 * np.pi * 2000 * times), RATE, subtype="FLOAT")
    wide.page.set_input_files("#files", str(tmp_path / "tone.wav"))
    wide.restore()
    for place in range(2):
        rows = wide.js(
            """(place) => {
            const canvas = document.querySelectorAll("#cards canvas")[place];
            const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return Array.from({ length: height }, (_, row) => {
                const place = 4 * (row * width + (width >> 1));
                return data[place] + data[place + 1] + data[place + 2];
            });
            }""",
            place,
        )
        brightest = int(np.argmax(rows))
        assert 8 * (1 - (brightest + 0.5) / len(rows)) == pytest.approx(2, abs=0.05)  # kHz, from 8 at the top
        assert max(rows) > 600  # the tone is the maximum
        assert np.median(rows) < 20  # far from it, black
    plot = wide.page.locator("#cards .plot").first
    box = plot.bounding_box()
    plot.click(position={"x": 0.25 * box["width"], "y": 20})
    wide.wait("bcfusionServe.result.player.playing")
    assert wide.js("bcfusionServe.result.player.opened") == 0
    assert 3.6 < wide.js("bcfusionServe.result.player.position()") <= 15
    labels = [wide.page.locator(f"#cards .{axis}label").first.inner_text() for axis in "xy"]
    assert labels == ["time (s)", "frequency (kHz)"]


def test_two_files_one_for_each_sensor(wide: Opened, tmp_path: Path) -> None:
    wide.page.select_option("#model", "two")
    body, noisy = recording(tmp_path / "body.wav"), recording(tmp_path / "noisy.wav", 1.0)
    soundfile.write(noisy, -0.5 * soundfile.read(body)[0], RATE, subtype="PCM_16")
    wide.page.set_input_files("#files", str(noisy))
    wide.page.set_input_files("#files", str(body))
    assert [text.split("\n")[0] for text in wide.page.locator("#takes li").all_inner_texts()] == [
        "noisy.wav",
        "body.wav",
    ]
    wide.page.click("#swap")
    assert wide.page.locator("#takes li .quiet").all_inner_texts()[0].startswith("body ·")
    wide.wait("bcfusionServe.takes.list.every((take) => take.seconds !== null)")
    wide.restore()
    assert wide.page.locator(".system .name").all_text_contents() == ["Before: body", "Before: noisy", "After"]
    first, last = wide.js(
        "bcfusionServe.result.player.buffers.slice(0, 3).map((buffer) => [...buffer.getChannelData(0).slice(0, 4000)])"
    )[::2]
    np.testing.assert_allclose(last, -0.5 * np.array(first), atol=2**-13)  # the last sensor, unchanged
    wide.page.click("#takes button >> nth=0")
    assert wide.page.locator("#takes li").count() == 1


def test_a_recording_has_the_length_and_the_level_of_the_microphone(wide: Opened) -> None:
    wide.page.click("#record")
    wide.wait("bcfusionServe.takes.recorder?.seconds > 1.5")
    assert wide.text("#recorded").startswith(("1.", "2.", "3."))
    assert int(wide.page.locator("#record-meters .meter").get_attribute("aria-valuenow")) > -30
    seconds = wide.js("(bcfusionServe.takes.recorder.stop(), bcfusionServe.takes.list[0].seconds)")
    samples, rate = sound_of(wide, "bcfusionServe.takes.list[0].blob")
    assert samples.shape == (round(seconds * rate), 1)
    steady = samples[rate // 2 :, 0]
    # the mean of both channels, whose sines differ
    assert amplitudes(steady, rate, LEFT + RIGHT) == pytest.approx([AMPLITUDE / 2] * 5, rel=0.05)
    wide.wait("document.querySelector('#takes audio').duration > 1")  # it can be heard before it is sent
    wide.restore()
    output = np.array(wide.js("[...bcfusionServe.result.player.buffers[1].getChannelData(0)]"))
    assert len(output) / RATE == pytest.approx(seconds, abs=2 / RATE)
    assert amplitudes(output[RATE // 2 :], RATE, LEFT + RIGHT) == pytest.approx([AMPLITUDE / 2] * 5, rel=0.05)


def test_two_channels_of_a_device_are_two_sensors(wide: Opened) -> None:
    wide.page.select_option("#model", "two")
    found = []
    for _ in range(2):
        wide.page.click("#record")
        wide.wait("bcfusionServe.takes.recorder?.seconds > 0.7")
        wide.js("bcfusionServe.takes.recorder.stop()")
        samples, rate = sound_of(wide, "bcfusionServe.takes.list[0].blob")
        found.append([amplitudes(channel[rate // 4 :], rate, (LEFT[0], RIGHT[0])) for channel in samples.T])
        wide.page.select_option("#file-source label:nth-child(2) select", label="left: noisy, right: body")
    apart = [[AMPLITUDE, 0], [0, AMPLITUDE]]
    np.testing.assert_allclose(found, [apart, apart[::-1]], atol=0.01)


def test_a_recording_ends_at_the_limit(browser: Any, models: Mapping[str, Any]) -> None:
    with running(models, max_seconds=0.5) as server:
        opened = Opened(browser, server.address)
        opened.page.click("#record")
        opened.shows("#takes li")
        samples, rate = sound_of(opened, "bcfusionServe.takes.list[0].blob")
        assert len(samples) == rate // 2
        opened.restore()  # it is not longer than the server takes
        opened.close()


def test_a_file_that_the_server_does_not_read_is_decoded_by_the_browser(wide: Opened, tmp_path: Path) -> None:
    content = wide.js(
        """async () => {
        const context = new AudioContext(), tone = new OscillatorNode(context, { frequency: 1000 });
        const found = [];
        const target = new MediaStreamAudioDestinationNode(context, { channelCount: 1 });
        tone.connect(new GainNode(context, { gain: 0.25 })).connect(target);
        tone.start();
        const recorder = new MediaRecorder(target.stream, { mimeType: "audio/webm" });
        recorder.ondataavailable = ({ data }) => found.push(data);
        recorder.start();
        await new Promise((resolve) => setTimeout(resolve, 800));
        await new Promise((resolve) => { recorder.onstop = resolve; recorder.stop(); });
        await context.close();
        const bytes = new Uint8Array(await new Blob(found).arrayBuffer());
        return btoa([...bytes].map((byte) => String.fromCharCode(byte)).join(""));
        }"""
    )
    source = tmp_path / "phone.memo.webm"
    source.write_bytes(base64.b64decode(content))
    wide.page.set_input_files("#files", str(source))
    wide.shows("#takes li")
    assert wide.text("#takes b") == "phone.memo.wav"
    wide.restore()
    output = np.array(wide.js("[...bcfusionServe.result.player.buffers[1].getChannelData(0)]"))
    middle = output[len(output) // 4 : -len(output) // 4]
    assert amplitudes(middle, RATE, (1000.0,)) == pytest.approx([0.25], rel=0.1)


# ---------------------------------------------------------------- what can go wrong


def test_what_the_server_refuses_is_a_sentence_and_can_be_tried_again(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    opened = Opened(browser, server.address)
    (tmp_path / "text.wav").write_text("this is no sound")
    opened.page.set_input_files("#files", str(tmp_path / "text.wav"))
    opened.page.click("#restore")
    opened.shows("#failed")
    assert opened.text("#failed-text")[0].isupper()
    assert opened.text("#failed-text").endswith(".")
    assert "text.wav" in opened.text("#failed-text")
    opened.page.set_input_files("#files", str(recording(tmp_path / "good.wav")))
    busy = {"status": 429, "json": {"error": "too many recordings: try again later"}}
    opened.page.route("**/api/jobs", lambda route: route.fulfill(**busy))
    opened.page.click("#restore")
    opened.wait_until(lambda: opened.text("#failed-text") == "Too many recordings: try again later.", "refused")
    opened.page.unroute("**/api/jobs")
    opened.page.click("#retry")
    opened.shows("#result")
    assert not opened.page.is_visible("#failed")
    long = recording(tmp_path / "long.wav", 21)
    opened.page.set_input_files("#files", str(long))
    opened.wait_until(lambda: "Longer than the 20.0 s" in opened.text("#takes"), "told before it is sent")
    assert opened.page.is_disabled("#restore")
    opened.page.set_input_files("#files", [])
    opened.close(expected=("status of 422", "status of 429"))


def test_progress_is_shown_and_cancelling_deletes(browser: Any, server: Running, tmp_path: Path) -> None:
    opened = Opened(browser, server.address)
    deleted = []
    opened.page.on("request", lambda request: deleted.append(request.url) if request.method == "DELETE" else None)
    states = [{"state": "queued", "position": 2}, {"state": "running", "progress": 0.3}]

    def answer(route: Any) -> None:
        if route.request.method == "GET":
            route.fulfill(json={"error": None, **(states.pop(0) if len(states) > 1 else states[0])})
        else:
            route.continue_()

    opened.page.route("**/api/jobs/*", answer)
    opened.page.set_input_files("#files", str(recording(tmp_path / "a.wav")))
    opened.page.click("#restore")
    opened.wait("document.getElementById('work-text').textContent === 'Restoring: 30 %'")
    assert opened.js("document.getElementById('work-progress').value") == pytest.approx(0.3)
    assert opened.page.is_disabled("#record")
    opened.page.click("#cancel")
    opened.wait_until(lambda: deleted, "the server is told")
    assert not opened.page.is_visible("#work")
    assert not opened.page.is_visible("#failed")
    assert opened.page.is_enabled("#restore")
    opened.close()


def test_a_server_that_is_gone_is_a_sentence(browser: Any, models: Mapping[str, Any], tmp_path: Path) -> None:
    with running(models) as server:
        opened = Opened(browser, server.address)
        opened.page.set_input_files("#files", str(recording(tmp_path / "a.wav")))
        opened.page.click("#tab-live")
        opened.go_live()
        server.end()
        opened.wait_until(lambda: opened.text("#live-problem") == "The server shuts down.", "told")
        assert opened.js("bcfusionServe.live.session") is None
        opened.page.click("#start")
        opened.wait_until(lambda: "Check that the server is running" in opened.text("#live-problem"), "told again")
        opened.page.click("#tab-file")
        opened.page.click("#restore")
        opened.shows("#failed")
        assert opened.text("#failed-text").startswith("The server does not answer.")
        opened.close(expected=("ERR_CONNECTION_REFUSED",))


def again(opened: Opened) -> bool:
    """Start live sound if it does not run; return whether any was heard."""
    if opened.text("#start") == "Start":
        opened.page.click("#start")
    return opened.page.is_visible("#running")


def test_one_stream_too_many_is_a_sentence(browser: Any, models: Mapping[str, Any]) -> None:
    with running(models, max_streams=1) as server:
        first, second = Opened(browser, server.address), Opened(browser, server.address)
        first.go_live()
        second.page.click("#tab-live")
        second.page.click("#start")
        second.wait_until(lambda: second.text("#live-problem") == "All streams are taken: try again later.", "refused")
        assert second.text("#start") == "Start"
        first.page.click("#start")
        second.wait_until(lambda: again(second), "the place is free again")
        for opened in (first, second):
            opened.close()


def test_a_recording_on_its_way_and_live_sound_at_once(wide: Opened, tmp_path: Path) -> None:
    """Both hold the model; the result that arrives while Live is shown waits behind its tab."""
    states = [{"state": "running", "progress": 0.3}]

    def answer(route: Any) -> None:
        if states and route.request.method == "GET" and not route.request.url.endswith(".wav"):
            route.fulfill(json={"error": None, **states[0]})
        else:
            route.continue_()

    wide.page.route("**/api/jobs/*", answer)
    wide.page.set_input_files("#files", str(recording(tmp_path / "a.wav")))
    wide.page.click("#restore")
    wide.wait("document.getElementById('work-text').textContent === 'Restoring: 30 %'")
    wide.go_live()
    states.clear()
    wide.wait("bcfusionServe.result.player")
    wide.wait("!bcfusionServe.state.job")
    assert wide.page.is_disabled("#model")  # live sound needs it still
    assert not wide.page.is_visible("#transport")
    assert wide.js("document.activeElement.id") != "result-title"
    wide.page.click("#start")
    assert wide.page.is_enabled("#model")
    wide.page.click("#tab-file")
    assert wide.page.is_visible("#result")
    assert wide.page.is_visible("#transport")
    states.append({"state": "queued", "position": 1})
    wide.page.click("#restore")
    wide.wait("document.getElementById('work-text').textContent === 'Waiting: 1 before this one'")
    assert wide.page.is_visible("#result")  # the old one stays until the new one is here
    wide.go_live()
    wide.page.click("#start")
    assert wide.page.is_disabled("#model")  # the recording needs it still
    wide.page.click("#tab-file")
    wide.page.click("#cancel")
    wide.wait("!document.getElementById('model').disabled")


def test_a_result_outlives_a_connection_that_fails_while_it_is_fetched(
    browser: Any, server: Running, tmp_path: Path
) -> None:
    opened = Opened(browser, server.address)
    opened.js("(window.setTimeout = ((timer) => (call, time) => timer(call, time / 20))(window.setTimeout), null)")
    requests = []
    opened.page.on("request", lambda request: requests.append((request.method, request.url.rpartition("/")[2])))
    broken = [True]
    opened.page.route("**/output.wav", lambda route: route.abort() if broken else route.continue_())
    opened.page.set_input_files("#files", str(recording(tmp_path / "a.wav")))
    opened.page.click("#restore")
    opened.shows("#failed")
    assert opened.text("#failed-text").startswith("The server does not answer.")
    assert requests.count(("GET", "output.wav")) == 4
    assert "DELETE" not in [method for method, _ in requests]
    broken.clear()
    opened.page.click("#retry")
    opened.shows("#result")
    assert requests.count(("POST", "jobs")) == 1  # it was not sent again
    opened.wait_until(lambda: "DELETE" in [method for method, _ in requests], "the server is told")
    opened.close(expected=("ERR_FAILED",))


def test_a_busy_server_is_asked_again(browser: Any, server: Running, tmp_path: Path) -> None:
    opened = Opened(browser, server.address)
    refused = []

    def answer(route: Any) -> None:
        if refused:
            route.continue_()
            return
        refused.append(route.request.url)
        route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": "too many requests"})

    opened.page.route("**/output.wav", answer)
    opened.page.set_input_files("#files", str(recording(tmp_path / "a.wav")))
    opened.restore()
    assert refused
    opened.close(expected=("status of 429",))


def test_a_connection_that_is_lost_in_silence_ends_live_sound(wide: Opened) -> None:
    wide.go_live()
    wide.js("(window.kept = bcfusionServe.live.session, kept.socket.send = () => {}, null)")
    wide.wait("kept.pending.length * kept.seconds > 1")
    wide.js("(kept.pending[0].sent -= 7000, null)")
    wide.wait("kept.ended")
    assert wide.text("#live-problem").startswith("The connection to the server was lost.")


@pytest.mark.parametrize(
    ("before", "sentence"),
    [
        (
            "Object.defineProperty(window, 'isSecureContext', { value: false });"
            "Object.defineProperty(navigator, 'mediaDevices', { value: undefined });",
            "Browsers give the microphone to pages on https or localhost only",
        ),
        ("Object.defineProperty(navigator, 'mediaDevices', { value: undefined });", "This browser gives no access"),
    ],
)
def test_without_a_microphone_files_still_work(
    browser: Any, server: Running, tmp_path: Path, before: str, sentence: str
) -> None:
    opened = Opened(browser, server.address, before=before)
    assert opened.text("#sound-problem").startswith(sentence)
    assert opened.page.is_disabled("#record")
    opened.page.click("#tab-live")
    assert opened.text("#live-none").startswith(sentence)
    assert opened.page.is_disabled("#start")
    opened.page.click("#tab-file")
    opened.page.set_input_files("#files", str(recording(tmp_path / "a.wav")))
    opened.restore()
    opened.close()


@pytest.mark.parametrize("error", ["NotAllowedError", "NotFoundError", "NotReadableError"])
def test_why_there_is_no_microphone_is_a_sentence(browser: Any, server: Running, error: str) -> None:
    refuse = f"navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', '{error}'); }};"
    opened = Opened(browser, server.address, before=refuse)
    opened.page.click("#record")
    opened.wait_until(lambda: "try again." in opened.text("#sound-problem"), "said at the recording")
    assert opened.text("#record").strip() == "Record"
    opened.page.click("#tab-live")
    opened.page.click("#start")
    opened.wait_until(lambda: "try again." in opened.text("#live-problem"), "said live")
    assert opened.text("#start") == "Start"
    opened.close()


@pytest.mark.parametrize(
    ("ended", "sentence"),
    [
        ("recorder.stream.getAudioTracks()[0].dispatchEvent(new Event('ended'))", "The microphone was disconnected."),
        ("recorder.context.suspend()", "The browser has interrupted the sound."),
    ],
)
def test_a_recording_that_ends_by_itself_says_why_and_is_kept(wide: Opened, ended: str, sentence: str) -> None:
    wide.page.click("#record")
    wide.wait("bcfusionServe.takes.recorder?.seconds > 0.1")
    wide.js(f"(({{ recorder }}) => {{ {ended}; }})(bcfusionServe.takes)")
    wide.shows("#takes li")
    assert wide.text("#sound-problem").startswith(sentence)
    wide.page.click("#takes button")
    assert wide.text("#sound-problem") == ""
    assert wide.js("document.activeElement.id") == "choose"  # what had the focus is gone


def test_stop_before_the_browser_has_given_the_microphone(browser: Any, server: Running) -> None:
    late = (
        "{ const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
        "navigator.mediaDevices.getUserMedia = async (wanted) => {"
        " await new Promise((resolve) => { window.permit = resolve; });"
        " return (window.given = await open(wanted)); }; }"
    )
    opened = Opened(browser, server.address, before=late)
    opened.page.click("#record")
    opened.wait("Boolean(window.permit)")
    opened.page.click("#record")
    assert opened.text("#record").strip() == "Record"
    assert opened.page.is_enabled("#choose")
    opened.js("permit()")
    opened.wait("window.given?.getTracks().every((track) => track.readyState === 'ended')")
    assert opened.js("bcfusionServe.takes.recorder") is None
    assert opened.text("#sound-problem") == ""
    opened.close()


def test_the_microphone_that_is_shown_is_the_one_that_records(browser: Any, server: Running) -> None:
    """Before a permission browsers do not name devices: the remembered one is asked for all the same."""
    before = (
        "localStorage.setItem('bcfusion-serve:microphone', 'remembered'); window.asked = [];"
        "{ const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
        "navigator.mediaDevices.getUserMedia = (wanted) =>"
        " { asked.push(wanted.audio.deviceId); return open(wanted); }; }"
    )
    opened = Opened(browser, server.address, before=before)
    opened.page.click("#record")
    opened.wait("bcfusionServe.takes.recorder?.seconds > 0.1")
    assert opened.js("asked") == [{"ideal": "remembered"}]
    given = opened.js("bcfusionServe.takes.recorder.stream.getAudioTracks()[0].getSettings().deviceId")
    shown = opened.js("document.querySelector('#file-source select').value")
    assert shown == ("" if given == "default" else given)
    opened.close()


# ---------------------------------------------------------------- live

TAP = """async (seconds) => {
    const { session } = bcfusionServe.live, { context, capture, play } = session;
    const merger = new ChannelMergerNode(context, { numberOfInputs: 2 }); // its inputs take the mean of both channels
    capture.source.connect(merger, 0, 0);
    play.connect(new ChannelSplitterNode(context)).connect(merger, 0, 1);
    const options = { frame: 1024, rate: context.sampleRate, channels: [0, 1] };
    const node = new AudioWorkletNode(context, "collect", {
        channelCount: 2, channelCountMode: "explicit", channelInterpretation: "discrete", processorOptions: options });
    const blocks = [], reports = [], { onreport } = session;
    session.onreport = (figures) => { reports.push(figures); onreport(figures); };
    await new Promise((resolve) => {
        node.port.onmessage = ({ data }) => {
            blocks.push(...data.samples);
            if (blocks.length >= 2 * seconds * context.sampleRate) resolve();
        };
        merger.connect(node).connect(context.destination);
    });
    node.port.postMessage("end");
    merger.disconnect();
    session.onreport = onreport;
    return { blocks, reports: reports.filter(({ parts }) => parts), rate: context.sampleRate };
}"""


def tapped(opened: Opened, seconds: float = 2.0) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]], int]:
    """Return what the microphone gave and what was played, ``(T,)`` each, the reports meanwhile, and the rate in Hz."""
    found = opened.js(TAP, seconds)
    heard, played = np.array(found["blocks"]).reshape(-1, 2).T
    return heard, played, found["reports"], found["rate"]


def longest_copy(heard: np.ndarray, played: np.ndarray, delay: int) -> int:
    """Return for how many samples on end what was played is what the microphone gave, later by a delay."""
    wrong = np.flatnonzero(np.abs(played[delay:] - heard[: len(heard) - delay]) > 1e-6)
    return int(np.diff([-1, *wrong, len(heard) - delay]).max()) - 1


def test_live_sound_is_the_microphone_delayed_without_a_gap(wide: Opened) -> None:
    """Sample by sample, for dozens of frames on end. A busy machine is late now and then; what is heard then is a fact
    of the buffer, and tested offline.
    """
    wide.go_live()
    for _ in range(30):
        heard, played, reports, rate = tapped(wide)
        assert rate == RATE
        copies = [
            (longest_copy(heard, played, delay), delay, report)
            for report in {round(report["delay"] * RATE): report for report in reports}.values()
            for delay in range(max(0, round(report["delay"] * RATE) - 128), round(report["delay"] * RATE) + 129)
        ]
        longest, _, state = max(copies, key=lambda copy: copy[0], default=(0, 0, {}))
        if longest > 0.3 * RATE:
            break
    assert longest > 0.3 * RATE  # neither a gap nor a click; later by what is shown, within a frame
    assert amplitudes(heard[-RATE:], RATE, LEFT + RIGHT) == pytest.approx([AMPLITUDE / 2] * 5, rel=0.05)
    parts = state["parts"]
    assert parts["frame"] == 128 / RATE
    assert parts["lookahead"] == 0
    assert parts["frame"] + parts["trip"] + parts["buffer"] >= state["delay"] - 1e-6
    shown = float(wide.text("#total").removesuffix(" ms"))
    assert shown >= 1000 * parts["frame"]
    assert wide.page.locator("#parts tbody tr").count() == 5
    assert wide.text("#live-problem") == ""


def test_bypass_of_two_sensors_is_the_one_that_is_mixed_with_the_output(wide: Opened) -> None:
    """That it is as late as the output is tested offline."""
    wide.page.select_option("#model", "two")
    wide.go_live()
    assert wide.js("bcfusionServe.live.session.channels") == [0, 1]
    wide.page.click("#bypass")
    assert wide.page.locator("#bypass").get_attribute("aria-pressed") == "true"

    def sent(kept: str) -> list[float]:
        """Return the amplitudes of the sines in frames that are sent to be played."""
        wide.js(
            """([kept, count]) => {
            const { port } = bcfusionServe.live.session.play, send = MessagePort.prototype.postMessage;
            window.frames_ = [];
            port.postMessage = function (message, moved) {
                const [output, input] = message.frame?.tracks || [];
                if (input && frames_.length < count) frames_.push([...(kept === "input" ? input : output)]);
                send.call(this, message, moved);
            };
            }""",
            [kept, 80],
        )
        wide.wait("frames_.length === 80")
        return amplitudes(np.concatenate(wide.js("frames_")), RATE, LEFT[:1] + RIGHT)

    for kept in ("input", "output"):
        for _ in range(30):  # on a busy machine, frames are left out
            found = sent(kept)
            if found[1:] == pytest.approx([AMPLITUDE] * 2, rel=0.05):
                break
        assert found == pytest.approx([0, AMPLITUDE, AMPLITUDE], abs=0.005)
    heard, played, _, _ = tapped(wide, 0.5)
    assert np.abs(heard).max() > 0.1
    assert np.abs(played).max() > 0.1


def test_live_at_a_rate_that_is_not_the_microphones(wide: Opened) -> None:
    """As in browsers that connect a microphone only to a context of its own rate: the page resamples."""
    wide.page.select_option("#model", HOSTILE)
    wide.js(
        """() => {
        const connect = AudioContext.prototype.createMediaStreamSource;
        AudioContext.prototype.createMediaStreamSource = function (stream) {
            if (this.sampleRate === 8000) throw new DOMException("different sample rates", "NotSupportedError");
            return connect.call(this, stream);
        };
        }"""
    )
    wide.go_live()
    for _ in range(30):
        heard, played, _, rate = tapped(wide)
        found = amplitudes(played, rate, LEFT + RIGHT)
        if found == pytest.approx([AMPLITUDE / 2] * 5, rel=0.05):
            break
    assert found == pytest.approx([AMPLITUDE / 2] * 5, rel=0.05)
    assert rate > 8000
    natural = sum(AMPLITUDE / 2 * 2 * np.pi * hertz / rate for hertz in LEFT + RIGHT)
    fade = 0.5 / (0.0025 * rate)  # of the whole signal, where a frame was late
    assert np.abs(np.diff(played)).max() < max(1.05 * natural, np.abs(np.diff(heard)).max()) + fade  # no click
    assert wide.js("window.hacked") is None


def test_a_page_that_is_hidden_stops(wide: Opened) -> None:
    wide.go_live()
    wide.js(
        """() => {
        window.kept = bcfusionServe.live.session;
        Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
        document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    assert wide.js("bcfusionServe.live.session") is None
    assert wide.text("#live-problem") == "Stopped, because the page was no longer visible."
    wide.wait("kept.context.state === 'closed' && kept.socket.readyState === WebSocket.CLOSED")
    assert wide.js("kept.stream.getTracks().map((track) => track.readyState)") == ["ended"]


def test_frames_that_cannot_be_sent_are_left_out_and_counted(wide: Opened) -> None:
    wide.go_live()
    full = "{ configurable: true, value: 1e6 }"
    wide.js(f"Object.defineProperty(bcfusionServe.live.session.socket, 'bufferedAmount', {full})")
    wide.wait("bcfusionServe.live.session.figures.unsent > 5")
    wide.js("delete bcfusionServe.live.session.socket.bufferedAmount")
    number = wide.js("bcfusionServe.live.session.figures.number")
    wide.wait(f"bcfusionServe.live.session.figures.number > {number + 20}")  # it goes on
    counted = dict(zip(*[wide.page.locator(f"#counts {tag}").all_inner_texts() for tag in ("dt", "dd")], strict=True))
    assert int(counted["not sent: the connection is too slow"]) > 5


# ---------------------------------------------------------------- every screen


@pytest.mark.parametrize("viewport", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_everything_has_a_name(
    browser: Any, server: Running, tmp_path: Path, viewport: dict[str, int], scheme: str
) -> None:
    opened = Opened(browser, server.address, viewport)
    opened.page.emulate_media(color_scheme=scheme)

    def check(state: str) -> None:
        opened.screenshot(f"serve-{state}-{scheme}-{viewport['width']}")
        assert opened.js("document.documentElement.scrollWidth <= innerWidth"), state
        unnamed = opened.js(
            "[...document.querySelectorAll('button, input, select, canvas, audio, [role=meter]')].filter((node) =>"
            " !(node.labels?.length || node.getAttribute('aria-label') || node.ariaHidden || node.textContent.trim()))"
            ".map((node) => node.outerHTML)"
        )
        assert unnamed == []
        small = opened.js(
            "[...document.querySelectorAll('button, select, a.button')].filter((node) => node.offsetParent"
            " && node.offsetHeight < 40).map((node) => node.outerHTML)"
        )
        assert small == []
        lines = "(node) => Math.round(node.offsetHeight / Number.parseFloat(getComputedStyle(node).lineHeight))"
        assert set(opened.js(f"[...document.querySelectorAll('#counts dd')].map({lines})")) <= {0, 1}

    check("start")
    opened.page.set_input_files("#files", str(recording(tmp_path / f"{'long-name-' * 20}.wav")))
    opened.restore()
    check("result")
    opened.page.click("#record")
    opened.wait("bcfusionServe.takes.recorder?.seconds > 0.1")
    check("recording")
    opened.page.select_option("#model", HOSTILE)
    opened.go_live()
    check("live")
    opened.close()


def test_tabs_and_everything_else_by_keyboard_alone(wide: Opened, tmp_path: Path) -> None:
    wide.page.focus("#tab-file")
    wide.page.keyboard.press("ArrowRight")
    assert wide.page.is_visible("#live")
    assert wide.js("document.activeElement.id") == "tab-live"
    wide.page.focus("#start")
    wide.page.keyboard.press(" ")
    wide.wait("bcfusionServe.live.session?.figures?.parts")
    wide.page.focus("#bypass")
    wide.page.keyboard.press("Enter")
    assert wide.js("bcfusionServe.live.session.share") == 0
    wide.page.focus("#tab-live")
    wide.page.keyboard.press("ArrowLeft")
    assert wide.js("bcfusionServe.live.session") is None  # nobody would see that it runs
    assert wide.page.is_visible("#file")
