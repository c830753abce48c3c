from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from listening import HIGHER, HOSTILE, HOSTILE_RUN, RATE, source, tone, utterances
from PIL import Image

from bcfusion import audio
from bcfusion.errors import ConfigError
from bcfusion.report.listening.page import listening_page
from bcfusion.report.listening.rows import Settings, level_gains, pixel_magnitudes, spectrogram_png
from bcfusion.report.listening.sounds import Source, Take, join, read_samples


class Parts(HTMLParser):
    """Text of the scripts and styles, and every address and handler in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.styles: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"]:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        if self.tags[-1:] == ["style"]:
            self.styles.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")


@pytest.fixture(scope="module")
def text() -> str:
    return listening_page(f"A & {HOSTILE}", utterances(), HIGHER, Settings(anchors=(3500,), seconds=1.5)).text


@pytest.fixture(scope="module")
def parts(text: str) -> Parts:
    parser = Parts()
    parser.feed(text)
    return parser


@pytest.fixture(scope="module")
def content(parts: Parts) -> dict:
    (data,) = (body for attributes, body in parts.scripts if attributes.get("type") == "application/json")
    return json.loads(data)


def test_ids_names_and_title_are_never_markup(text: str, parts: Parts, content: dict) -> None:
    assert len(parts.scripts) == 2
    assert "img" not in parts.tags
    assert HOSTILE not in text
    (data,) = (body for attributes, body in parts.scripts if attributes.get("type") == "application/json")
    assert not set("<>&") & set(data)  # "</script " and "<!--" end or change the element as well
    assert content["rows"][1]["id"] == HOSTILE
    assert [system["name"] for system in content["systems"]] == [
        "input",
        "eben",
        HOSTILE_RUN,
        "target",
        "anchor 3500 Hz",
    ]


def test_an_id_that_looks_like_a_blank_of_the_template_is_left_alone() -> None:
    page = listening_page("{{style}}", join([source("{{script}}", 300, {"{{data}}": 2.0})])[0], HIGHER, Settings())
    assert "<title>{{style}}</title>" in page.text
    assert '"id": "{{data}}"' in page.text


def test_nothing_is_fetched_and_only_the_page_s_own_script_runs(text: str, parts: Parts) -> None:
    addresses = [value for name, value in parts.attributes if name in ("src", "href")]
    assert addresses == ["data:,", "#main"]
    assert not [name for name, _ in parts.attributes if name.startswith("on")]
    policy = next(value for name, value in parts.attributes if name == "content" and value and "default-src" in value)
    script = next(body for attributes, body in parts.scripts if not attributes)
    for directive, body in (("script-src", script), ("style-src", parts.styles[0])):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_sounds_of_a_row_have_one_length_and_one_active_level(content: dict) -> None:
    for row in content["rows"]:
        assert (row["seconds"], row["whole"]) == (1.5, 2.0)
        levels = []
        for sound in row["sounds"]:
            signal, rate = soundfile.read(io.BytesIO(base64.b64decode(sound["audio"])))
            assert (len(signal), rate) == (24000, RATE)
            levels.append(20 * np.log10(np.sqrt(np.mean((signal * sound["matched"]) ** 2))))
        assert np.allclose(levels, -26.0, atol=0.05)


def test_the_gain_is_told_and_as_recorded_keeps_the_levels(content: dict) -> None:
    sounds = {content["systems"][sound["system"]]["name"]: sound for sound in content["rows"][0]["sounds"]}
    # a sine of amplitude 0.1 has -23.0 dB
    assert sounds["eben"]["gain_db"] == pytest.approx(-26 + 23.01, abs=0.02)
    assert sounds[HOSTILE_RUN]["gain_db"] == pytest.approx(-26 + 36.99, abs=0.02)
    for name, amplitude in (("eben", 0.1), (HOSTILE_RUN, 0.02), ("target", 0.2)):
        signal = soundfile.read(io.BytesIO(base64.b64decode(sounds[name]["audio"])))[0]
        assert np.abs(signal).max() * sounds[name]["recorded"] == pytest.approx(amplitude, rel=1e-3)


def test_the_anchor_has_nothing_above_its_cut_off() -> None:
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(RATE)
    take = Take({"input": noise, "enhanced": noise, "target": noise}, RATE)
    page = listening_page("", join([Source("a", {"u": take})])[0], {}, Settings(anchors=(2000,), sound_format="wav"))
    data = json.loads(page.text.partition('id="page">')[2].partition("</script>")[0])
    assert data["systems"][-1]["kind"] == "anchor"
    assert [bool(sound["picture"]) for sound in data["rows"][0]["sounds"]] == [True, True, True, False]
    anchor = soundfile.read(io.BytesIO(base64.b64decode(data["rows"][0]["sounds"][-1]["audio"])))[0]
    power = np.abs(np.fft.rfft(anchor)) ** 2
    assert power[2600:].sum() < 1e-4 * power[:2000].sum()
    with pytest.raises(ConfigError, match="below 8000 Hz"):
        listening_page("", utterances(), {}, Settings(anchors=(8000,)))


def test_what_does_not_fit_is_left_out_and_told() -> None:
    of_one = len(listening_page("", utterances()[:1], HIGHER, Settings()).text)
    script = len(listening_page("", utterances()[:1], HIGHER, Settings(seconds=0.01)).text)
    page = listening_page("", utterances(), HIGHER, Settings(megabytes=2.5 * (of_one - script) / 1e6))
    assert page.utterances == 2
    with pytest.raises(ConfigError, match="fewer --seconds"):
        listening_page("", utterances(), HIGHER, Settings(megabytes=0.001))


def test_scores_stand_in_the_order_of_the_metrics_with_their_units(content: dict) -> None:
    assert [metric["text"] for metric in content["metrics"]] == ["PESQ-WB", "STOI", "lag", "LSD"]
    assert [metric["higher"] for metric in content["metrics"]] == [True, True, None, False]
    values = {content["systems"][sound["system"]]["name"]: sound["values"] for sound in content["rows"][2]["sounds"]}
    assert values["eben"] == [1.5, 0.3, 0.5, 3.5]
    assert values["target"] == [None] * 4
    assert [content["systems"][system]["name"] for system in content["pair"]] == ["eben", HOSTILE_RUN]


def test_one_run_is_compared_with_its_input() -> None:
    page = listening_page("", join([source("eben", 300, {"u": 2.0})])[0], HIGHER, Settings())
    assert '"pair": [0, 1]' in page.text


def test_a_silent_sound_is_not_raised_and_no_peak_clips() -> None:
    click = np.zeros(RATE)
    click[5000:5320] = 0.02 * np.sign(np.random.default_rng(0).standard_normal(320))
    click[5100] = 0.9
    silent, quiet, peaky = level_gains([np.zeros(RATE), 1e-6 * tone(300), click], RATE)
    assert silent <= 0.0
    assert quiet <= 40.0
    assert 0.9 * 10 ** (peaky / 20) <= 10 ** (-1 / 20) + 1e-9


def test_the_spectrogram_has_low_tones_at_the_bottom_and_its_scale_in_decibels() -> None:
    signal = np.concatenate([tone(500, 0.1, 1.0), tone(6000, 0.01, 1.0)])
    magnitude = pixel_magnitudes(signal, RATE)
    image = Image.open(io.BytesIO(spectrogram_png(magnitude, top=magnitude.max())))
    levels = np.asarray(image, dtype=float)
    assert image.mode == "P"
    height, width = levels.shape
    assert width <= 640
    assert height <= 192
    assert levels[:, width // 4].argmax() == pytest.approx(height * (1 - 500 / 8000), abs=2)
    assert levels[:, 3 * width // 4].argmax() == pytest.approx(height * (1 - 6000 / 8000), abs=2)
    fall = (levels[:, width // 4].max() - levels[:, 3 * width // 4].max()) * 80 / 255
    assert fall == pytest.approx(20.0, abs=1.0)


# ---------------------------------------------------------------- what runs wrote


def write_samples(folder: Path, index: int, item: str, inputs: dict[str, float], enhanced: float) -> None:
    stem = f"{index}-{item.replace('/', '_')[-80:]}"
    for label, frequency in {**inputs, "enhanced": enhanced, "target": 1000.0}.items():
        audio.write(folder / "samples" / f"{stem}.{label}.wav", tone(frequency, seconds=0.2), RATE)


def write_scores(table: Path, ids: list[str]) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    lines = ["id,system,snr,stoi,lsd,skipped"]
    for place, item in enumerate(ids):
        lines += [f"{item},input (body),5,0.5,2,", f"{item},enhanced,5,0.{place + 1},,lsd: silent"]
    table.write_text("\n".join(lines) + "\n")
    table.with_suffix(".md").write_text("| | STOI ↑ | LSD ↓ |\n")


def test_samples_find_their_ids_and_scores(tmp_path: Path) -> None:
    ids = ["test/a.b/0", "test/a/b_0", "test/a_b/0"]  # the last two have files of one name but for the index
    write_scores(tmp_path / "quality" / "test.csv", ids)
    for place, item in enumerate(ids):
        write_samples(tmp_path, place, item, {"input_body": 200.0, "input_noisy": 250.0}, 300.0)
    found = read_samples("run", [tmp_path])
    assert list(found.takes) == ids
    assert found.higher_is_better == {"stoi": True, "lsd": False}
    assert list(found.takes[ids[0]].signals) == ["enhanced", "input (body)", "input (noisy)", "target"]
    assert [found.takes[item].scores["enhanced"] for item in ids] == [{"stoi": 0.1}, {"stoi": 0.2}, {"stoi": 0.3}]


def test_a_damaged_sound_costs_its_utterance_alone(tmp_path: Path) -> None:
    for place, item in enumerate(["u0", "u1"]):
        write_samples(tmp_path, place, item, {"input": 200.0}, 300.0)
    damaged = tmp_path / "samples" / "0-u0.enhanced.wav"
    soundfile.write(damaged, np.full(100, np.nan), RATE, subtype="FLOAT")
    found = read_samples("run", [tmp_path])
    assert list(found.takes) == ["u1"]
    (problem,) = found.problems
    assert str(damaged) in problem


def test_inputs_that_differ_stand_with_the_names_of_their_runs() -> None:
    def run(name: str, frequency: float, gain: float = 1.0) -> Source:
        signals = {"input": gain * tone(frequency), "enhanced": tone(700), "target": gain * tone(1000)}
        return Source(name, {"u": Take(signals, RATE)})

    same, _ = join([run("a", 200), run("b", 200, gain=0.5)])  # lowered as a whole: still the same
    assert [sound.name for sound in same[0].sounds] == ["input", "a", "b", "target"]
    different, _ = join([run("a", 200), run("b", 250), run("c", 200)])
    assert [sound.name for sound in different[0].sounds] == ["input of a, c", "input of b", "a", "b", "c", "target"]


def test_utterances_of_one_id_with_another_target_are_refused() -> None:
    def run(name: str, target: float, rate: int = RATE) -> Source:
        return Source(name, {"u": Take({"input": tone(2), "enhanced": tone(3), "target": tone(target)}, rate)})

    assert join([run("a", 300), run("b", 400)]) == (
        [],
        ["u: the targets differ, so it is not the same utterance in all runs"],
    )
    assert join([run("a", 300), run("b", 300, 8000)])[1] == ["u: the sample rates differ (a 16000 Hz, b 8000 Hz)"]


# ---------------------------------------------------------------- contrast


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(parts: Parts, scheme: int) -> None:
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", parts.styles[0].split(":root")[scheme + 1]))
    for text, back in (
        ("text", "back"),
        ("text", "soft"),
        ("quiet", "back"),
        ("on-accent", "accent"),
        ("warn", "back"),
    ):
        assert contrast(colours[text], colours[back]) >= 4.5, (text, back)
    for line in ("line", "accent"):  # edges of controls and the mark of the focus
        assert contrast(colours[line], colours["back"]) >= 3.0, line
