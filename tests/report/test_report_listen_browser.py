"""The listening page in a real browser: Debian's Chromium, headless, driven by playwright."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from listening import HIGHER, HOSTILE, HOSTILE_RUN, utterances

from bcfusion.report.listening.analysis import analyse
from bcfusion.report.listening.page import listening_page
from bcfusion.report.listening.ratings import read_ratings
from bcfusion.report.listening.rows import Settings

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install bcfusion[dev]")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH: apt-get install chromium"),
]

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
SECONDS = 20.0  # so long that a slow machine does not reach the end
SYSTEMS = ["input", "eben", HOSTILE_RUN, "target"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("listen") / "listen.html"
    page = listening_page("Two systems", utterances(SECONDS), HIGHER, Settings(anchors=(800,), seconds=SECONDS))
    path.write_text(page.text, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield browser
        browser.close()


class Opened:
    """A page in its own browser context, with all errors that occurred in it."""

    def __init__(self, browser: Any, address: str, viewport: dict[str, int]) -> None:
        self.context = browser.new_context(viewport=viewport, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def js(self, expression: str) -> Any:
        return self.page.evaluate(expression)

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def wait(self, expression: str) -> None:
        """Wait by polling: playwright's own waiting evaluates text inside the page, which its policy forbids."""
        until = time.monotonic() + 60
        while not self.js(expression):
            assert time.monotonic() < until, f"still not so: {expression}"
            self.page.wait_for_timeout(20)

    def playing(self) -> None:
        self.wait("bcfusionListen.player()?.playing && bcfusionListen.player().position() > 0.05")

    def pressed(self) -> list[str]:
        """Return the names of the sounds that are marked as audible."""
        return self.page.locator(".system[aria-pressed=true] .name").all_text_contents()

    def gains(self) -> list[float]:
        """Return the gain of each sound of the row, relative to its factor."""
        self.page.wait_for_timeout(100)
        return self.js(
            "(p => p.run.gains.map((node, place) => Math.round(100 * node.gain.value / p.factors[place]) / 100))"
            "(bcfusionListen.player())"
        )

    def screenshot(self, name: str) -> None:
        if folder := os.environ.get("BCFUSION_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png")


def checked(request: pytest.FixtureRequest, browser: Any, address: str, viewport: dict[str, int]) -> Iterator[Opened]:
    """Fail at the end if the page raised an error, violated its own policy or requested anything."""
    opened = Opened(browser, address, viewport)
    yield opened
    opened.screenshot(f"{request.node.originalname}-{viewport['width']}")
    opened.context.close()
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture
def wide(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Opened]:
    yield from checked(request, browser, address, WIDE)


@pytest.fixture
def phone(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Opened]:
    yield from checked(request, browser, address, PHONE)


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def opened(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Opened]:
    yield from checked(request, browser, address, request.param)


def test_the_player_shows_time_and_sound_before_it_is_started(opened: Opened) -> None:
    part = opened.page.locator
    assert part("#time").text_content() == "0.0 / 20.0 s"
    assert part("#now").text_content() == "input · u/0"
    assert part("#switches button").count() == 4
    shown = part("#second option").all_text_contents()
    assert len(set(shown)) == len(shown) == 3
    assert all(len(name) <= 32 for name in shown)  # fits the closed list, so that its end is not cut
    titles = opened.js("[...document.querySelectorAll('#second option')].map((option) => option.title)")
    assert HOSTILE_RUN in titles
    inside = "(node => node.scrollWidth <= node.clientWidth + 1)(document.getElementById('%s'))"
    assert all(opened.js(inside % name) for name in ("first", "second", "now"))
    part("#switches button").nth(1).click()
    opened.playing()
    assert part("#now").text_content() == "eben · u/0"
    assert part("#switches button[aria-pressed=true]").text_content() == "2 eben"


def test_switching_opens_one_gain_and_the_position_continues(opened: Opened) -> None:
    opened.keys("2")
    opened.playing()
    assert opened.pressed() == ["eben"]
    assert opened.gains() == [0, 1, 0, 0, 0]
    # the clock may advance between two readings
    state = """(p => {
        const first = p.context.currentTime, position = p.position(), last = p.context.currentTime;
        return [first - p.run.begun, position - p.offset, last - p.run.begun, p.run.begun, p.offset];
    })(bcfusionListen.player())"""
    before = opened.js(state)
    opened.keys("3")
    assert opened.gains() == [0, 0, 1, 0, 0]
    after = opened.js(state)
    assert after[3:] == before[3:]  # nothing was restarted
    for earliest, position, latest, *_ in (before, after):
        assert earliest - 1e-6 <= position <= latest + 1e-6
    assert after[1] > before[1]
    assert opened.pressed() == [HOSTILE_RUN]
    assert opened.page.locator("#now").text_content() == f"{HOSTILE_RUN} · u/0"


def test_the_output_has_no_gap(wide: Opened) -> None:
    """Rendered offline: each sound encodes its position, so that a repeated, late or missing sample shows."""
    heard = wide.js(
        """async () => {
        const rate = 16000, context = new OfflineAudioContext(1, rate, rate);
        const buffers = [1, -1].map((sign) => {
            const buffer = context.createBuffer(1, rate, rate);
            buffer.getChannelData(0).forEach((_, place, samples) => { samples[place] = (sign * place) / rate; });
            return buffer;
        });
        const player = new bcfusionListen.Player(context);
        player.load(buffers, [1, 0.5], 0);
        player.play();
        context.suspend(0.4).then(() => { player.open(1); context.resume(); });
        return [...(await context.startRendering()).getChannelData(0)];
        }"""
    )
    lead, rate = 480, 16000  # 30 ms until all sounds begin together
    switch, ramp = 6400, 192
    errors = [abs(heard[place] - (place - lead) / rate) for place in range(lead, switch)]
    errors += [abs(heard[place] + 0.5 * (place - lead) / rate) for place in range(switch + ramp + 128, rate)]
    assert max(errors) < 1e-5
    steps = [abs(heard[place + 1] - heard[place]) for place in range(switch - 10, switch + ramp + 128)]
    assert max(steps) < 0.01  # of 0.55 in all: a ramp, no click


def test_a_part_is_repeated(wide: Opened) -> None:
    heard, positions = wide.js(
        """async () => {
        const rate = 16000, context = new OfflineAudioContext(1, rate, rate);
        const buffer = context.createBuffer(1, rate, rate);
        buffer.getChannelData(0).forEach((_, place, samples) => { samples[place] = place / rate; });
        const player = new bcfusionListen.Player(context), positions = [];
        player.load([buffer], [1], 0);
        player.setLoop([0.2, 0.4]);
        player.play();
        const look = () => { positions.push(player.position()); context.resume(); };
        for (const time of [0.32, 0.64]) context.suspend(time).then(look);
        const heard = [...(await context.startRendering()).getChannelData(0)];
        return [[heard[5120], heard[10240]], positions];
        }"""
    )
    assert positions == pytest.approx([0.2 + 0.09, 0.2 + 0.01], abs=1e-6)  # the first begins at 0.03 s
    assert heard == pytest.approx(positions, abs=2e-3)


def test_playing_begins_at_a_whole_sample(wide: Opened) -> None:
    """Between samples a browser may interpolate, which dulls the sound."""
    offset, begun = wide.js(
        """(() => {
        const rate = 22050, context = new OfflineAudioContext(1, rate, rate);  // of which 30 ms are no whole samples
        const player = new bcfusionListen.Player(context);
        player.load([context.createBuffer(1, rate, rate)], [1], 0);
        player.seek(0.12345678);
        player.play();
        return [rate * player.offset, rate * player.run.begun];
        })()"""
    )
    assert offset == pytest.approx(2722, abs=1e-6)
    assert begun == pytest.approx(round(begun), abs=1e-6)


def test_keys_seek_pause_repeat_and_change_the_level(wide: Opened) -> None:
    wide.keys("1")
    wide.playing()
    wide.keys(" ")
    wide.wait("!bcfusionListen.player().playing")
    before = wide.js("bcfusionListen.player().position()")
    wide.keys("ArrowRight")
    assert wide.js("bcfusionListen.player().position()") == pytest.approx(before + 1, abs=1e-6)
    wide.keys("ArrowLeft", "ArrowLeft", "l")
    assert wide.js("bcfusionListen.player().loop") == [0, SECONDS]
    assert wide.js("bcfusionListen.player().position()") == 0
    matched = wide.js("bcfusionListen.player().factors")
    wide.keys("m")
    recorded = wide.js("bcfusionListen.player().factors")
    assert recorded[2] < matched[2]  # the quiet run is quiet again
    assert wide.page.locator("#match").get_attribute("aria-pressed") == "false"
    assert "gain" not in " ".join(wide.page.locator(".gain").all_text_contents())
    wide.keys("n", " ")
    wide.playing()
    assert wide.page.locator("section.current h2").text_content() == HOSTILE
    assert wide.js("bcfusionListen.player().loop") == [0, SECONDS]  # kept for the next one
    wide.keys("l")
    assert wide.js("bcfusionListen.player().loop") is None


def test_repeat_can_be_chosen_before_anything_plays(wide: Opened) -> None:
    wide.page.click("#repeat")
    assert wide.page.locator("#repeat").get_attribute("aria-pressed") == "true"
    wide.keys("2")
    wide.playing()
    assert wide.js("bcfusionListen.player().loop") == [0, SECONDS]


def test_a_click_into_a_spectrogram_plays_that_system_from_there(wide: Opened) -> None:
    plot = wide.page.locator("section").first.locator(".plot").nth(3)
    box = plot.bounding_box()
    plot.click(position={"x": 0.75 * box["width"], "y": 30})
    wide.wait("bcfusionListen.player()?.playing")
    assert 0.75 * SECONDS - 0.1 <= wide.js("bcfusionListen.player().position()") < SECONDS
    assert wide.pressed() == ["target"]


def test_rows_are_sorted_by_the_largest_difference(wide: Opened) -> None:
    headings = wide.page.locator("section h2")
    assert headings.all_text_contents() == ["u/0", HOSTILE, "u/2"]
    wide.page.select_option("#metric", label="PESQ-WB ↑")
    assert headings.all_text_contents() == ["u/2", HOSTILE, "u/0"]
    differences = wide.page.locator("section .difference").all_text_contents()
    assert differences == [f"PESQ-WB of {HOSTILE_RUN} − eben: {value}" for value in ("+2.00", "−0.50", "+0.10")]
    wide.page.select_option("#second", label="input")  # eben against its input: 1.0, 1.0, 0.5
    assert headings.all_text_contents() == ["u/0", HOSTILE, "u/2"]
    assert wide.page.locator("section").last.locator("td b").all_text_contents() == ["3.50", "0.700", "1.50"]


def test_axes_have_their_marks_at_the_right_places(wide: Opened) -> None:
    marks = wide.js(
        """(plot => { const [box, y] = [plot.querySelector(".plot"), plot.querySelector(".y")].map(
            (node) => node.getBoundingClientRect());
        const lines = [...plot.querySelectorAll(".y i")].map(
            (node) => (y.bottom - node.getBoundingClientRect().bottom) / box.height);
        return [lines, [...plot.querySelectorAll(".y span")].map((node) => Number(node.textContent))];
        })(document.querySelector(".spectrogram"))"""
    )
    assert marks[1] == [0, 2, 4, 6, 8]
    assert marks[0] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0], abs=0.01)


def test_the_focused_element_stays_above_the_player(opened: Opened) -> None:
    opened.keys("2")
    opened.playing()
    for _ in range(25):
        opened.keys("Tab")
        assert opened.js(
            "(node => node.closest('#transport') || node === document.body || node.getBoundingClientRect().bottom"
            " <= document.getElementById('transport').getBoundingClientRect().top + 1)(document.activeElement)"
        ), opened.js("document.activeElement.outerHTML")[:200]


def test_space_chooses_and_a_click_at_the_middle_rates(wide: Opened) -> None:
    wide.page.click("[data-mode=ab]")
    wide.page.get_by_role("button", name="Start").click()
    wide.page.get_by_role("radio").nth(1).focus()
    wide.keys(" ")
    assert wide.page.get_by_role("radio").nth(1).is_checked()
    wide.page.click("[data-mode=mushra]")
    wide.page.get_by_role("button", name="Start").click()
    slider = wide.page.locator(".stimulus input").first
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    assert wide.page.locator(".stimulus output").first.text_content() == "50 fair"


def test_hostile_names_are_text(wide: Opened) -> None:
    assert wide.js("window.hacked") is None
    assert wide.page.locator("section").nth(1).locator("h2").text_content() == HOSTILE
    assert wide.page.locator("section").first.locator(".system .name").all_text_contents() == SYSTEMS


def test_it_fits_the_screen_and_everything_has_a_name(opened: Opened) -> None:
    for mode in ("listen", "ab", "mushra"):
        opened.page.click(f"[data-mode={mode}]")
        if mode != "listen":
            opened.page.get_by_role("button", name="Start").click()
        opened.screenshot(f"{mode}-{opened.page.viewport_size['width']}")
        assert opened.js("document.documentElement.scrollWidth <= innerWidth"), mode
        unnamed = opened.js(
            "[...document.querySelectorAll('button, input, select, img')].filter((node) =>"
            " !(node.labels?.length || node.getAttribute('aria-label') || node.alt || node.textContent.trim()))"
            ".map((node) => node.outerHTML)"
        )
        assert unnamed == []
        small = opened.js(
            "[...document.querySelectorAll('button')].filter((node) => node.offsetParent && node.offsetHeight < 40)"
            ".map((node) => node.textContent)"
        )
        assert small == []


def test_blind_preference_by_keyboard_alone(wide: Opened, tmp_path: Path) -> None:
    wide.page.focus("[data-mode=ab]")
    wide.keys("Enter", "Tab", "x", "y", "Tab", "Enter")  # from the heading: the name, then Start
    order = []
    for trial in range(3):
        wide.wait(f"document.querySelector('#rating h2').textContent === 'Trial {trial + 1} of 3'")
        wide.keys("Enter")
        assert wide.page.get_by_role("alert").last.text_content() == "Listen to A first."
        wide.keys("1")
        wide.playing()
        wide.keys("2")
        visible = wide.js("document.querySelector('main').innerText + document.querySelector('footer').innerText")
        assert not [name for name in SYSTEMS if name in visible]
        assert wide.js("document.querySelector('#rating').outerHTML").find("eben") < 0
        order.append(wide.js("bcfusionListen.player().opened"))
        wide.keys("b", "Enter")
    wide.wait("document.querySelector('#rating h2').textContent === 'Blind A/B'")
    kept = wide.js("bcfusionListen.ratings.content")
    assert kept["listener"] == "xy"
    assert [rating["choice"] for rating in kept["ratings"]] == ["b"] * 3
    # what was heard as B is what was written down as b
    assert [rating["b"] for rating in kept["ratings"]] == [SYSTEMS[place] for place in order]
    wide.page.reload()
    assert wide.js("bcfusionListen.ratings.content") == kept
    wide.page.click("[data-mode=ab]")
    assert "3 of 3 utterances rated" in wide.page.locator("#rating").inner_text()
    sessions = []
    for kind in ("JSON", "CSV"):
        with wide.page.expect_download() as download:
            wide.page.get_by_role("button", name=f"Save {kind}").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        sessions.append(read_ratings(path))
    assert sessions[0] == sessions[1]
    (found,) = analyse(sessions).preferences
    assert {found.first, found.second} == {"eben", HOSTILE_RUN}
    assert found.first_better + found.second_better == 3


def test_mushra_by_keyboard_alone(phone: Opened, tmp_path: Path) -> None:
    phone.page.focus("[data-mode=mushra]")
    phone.keys("Enter", "Tab", "Tab", "Enter")
    for trial in range(3):
        phone.wait(f"document.querySelector('#rating h2').textContent === 'Trial {trial + 1} of 3'")
        phone.keys("r")
        phone.playing()
        assert phone.page.locator("#now").text_content() == "Reference"
        reference = phone.js("bcfusionListen.player().opened")
        assert SYSTEMS[reference] == "target"
        for key in "12345":
            phone.keys(key)
            phone.wait(f"document.activeElement.getAttribute('aria-label') === 'rating of Sound {key}'")
            assert phone.page.locator("#now").text_content() == f"Sound {key}"
            heard = phone.js("bcfusionListen.player().opened")
            phone.keys("End" if heard == reference else "Home", *["ArrowRight"] * (heard + 1))
        phone.keys("Enter")
    phone.wait("document.querySelector('#rating h2').textContent === 'MUSHRA rating'")
    with phone.page.expect_download() as download:
        phone.page.get_by_role("button", name="Save JSON").click()
    path = tmp_path / "r.json"
    download.value.save_as(path)
    assert json.loads(path.read_text())["title"] == "Two systems"
    session = read_ratings(path)
    assert sorted(trial.utterance for trial in session.trials) == sorted(["u/0", HOSTILE, "u/2"])
    for trial in session.trials:
        assert trial.scores == {"input": 1, "eben": 2, HOSTILE_RUN: 3, "target": 100, "anchor 800 Hz": 5}
        assert trial.reference == "target"
