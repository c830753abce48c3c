"""One HTML page to listen to systems side by side and to rate them blindly; it needs no server and no network."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import scipy.signal
import soundfile
import torch
from matplotlib import colormaps
from PIL import Image

from bcfusion.audio.level import active_level
from bcfusion.errors import ConfigError
from bcfusion.report.colours import colour_of
from bcfusion.report.listening.sounds import Sound, Utterance
from bcfusion.report.spectrogram import RANGE_DB, WINDOW_SECONDS
from bcfusion.report.table import metric_name

__all__ = ["MARK", "Page", "Settings", "level_gains", "listening_page", "spectrogram_png"]

MARK = '<meta name="generator" content="bcfusion listen">'  #: by which a page is known to be one of these
SCRIPTS = ("player.js", "view.js", "rating.js", "main.js")
LEVEL = -26.0  # dBFS of the active speech, customary in listening tests (ITU-T P.56, P.800)
HEADROOM = -1.0  # dBFS that no peak exceeds
MOST_GAIN = 40.0  # dB; what is quieter still is as good as silent
STORED_PEAK = 0.99  # sounds are stored at full scale, so that 16 bits suffice for quiet ones
PICTURE = (640, 192)  # at most so many columns and rows
ANCHOR_ORDER = 10


@dataclass(frozen=True)
class Settings:
    """How a page is made.

    Attributes:
        seconds: of each sound, from its beginning. megabytes: that the page may have; utterances that do not fit are
            left out. sound_format: ``flac`` or ``wav``. anchors: cut-off in Hz of each low-passed target that is rated
            beside the systems.
    """

    seconds: float = 12.0
    megabytes: float = 50.0
    sound_format: str = "flac"
    anchors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Page:
    """The HTML document, and how many of the utterances are on it."""

    text: str
    utterances: int


def listening_page(
    title: str, utterances: Sequence[Utterance], higher_is_better: Mapping[str, bool | None], settings: Settings
) -> Page:
    """Write the page.

    Args:
        title: of the page. utterances: in their order on it, at least one.
        higher_is_better: direction of each metric; its order is that of the columns. settings: see there.

    Raises:
        ConfigError: an anchor's cut-off is not below half the sample rate, or the first utterance alone exceeds the
            size.
    """
    names = {sound.name: sound.kind for utterance in utterances for sound in utterance.sounds}
    place = {"input": 0, "run": 1, "target": 2}
    ordered = sorted(names, key=lambda name: place[names[name]])
    systems: list[dict[str, Any]] = [
        {"name": name, "kind": names[name], "colour": colour_of(name, ordered)} for name in ordered
    ]
    systems += [{"name": _anchor(cutoff), "kind": "anchor", "colour": "#000000"} for cutoff in settings.anchors]
    index = {system["name"]: number for number, system in enumerate(systems)}
    scored = {name for each in utterances for sound in each.sounds for name in sound.scores}
    metrics = [name for name in (*higher_is_better, *sorted(scored - higher_is_better.keys())) if name in scored]
    rows: list[dict[str, Any]] = []
    size = 0
    for utterance in utterances:
        row = _row(utterance, index, metrics, settings)
        size += sum(len(sound["audio"]) + len(sound["picture"]) for sound in row["sounds"])
        if size > settings.megabytes * 1e6:
            break
        rows.append(row)
    if not rows:
        raise ConfigError(
            [f"--megabytes {settings.megabytes:g}: the first utterance needs {size / 1e6:.1f}; give fewer --seconds"]
        )
    content = {
        "title": title,
        "systems": systems,
        "metrics": [_metric(name, higher_is_better.get(name)) for name in metrics],
        "rows": rows,
        "pair": _pair(systems),
    }
    content["key"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return Page(_document(title, content, settings), len(rows))


def level_gains(signals: Sequence[np.ndarray], sample_rate: int) -> list[float]:
    """Gains in dB that bring signals to one active level: -26 dBFS, or less where a peak would exceed -1 dBFS.

    A silent signal is left as it is; no gain exceeds 40 dB.

    Args:
        signals: each ``(T,)``. sample_rate: in Hz.
    """
    gains = []
    for signal in signals:
        active = active_level(torch.from_numpy(np.asarray(signal, dtype=np.float64))[None], sample_rate)
        gains.append(min(LEVEL - 20 * math.log10(active), MOST_GAIN) if active > 1e-7 else 0.0)
    peaks = [20 * math.log10(max(_peak(signal), 1e-9)) + gain for signal, gain in zip(signals, gains, strict=True)]
    over = max(0.0, max(peaks) - HEADROOM)
    return [gain - over for gain in gains]


def spectrogram_png(signal: np.ndarray, sample_rate: int, top: float) -> bytes:
    """A spectrogram without axes, time to the right, frequency from 0 at the bottom to half the sample rate.

    Args:
        signal: ``(T,)``. sample_rate: in Hz. top: magnitude of 0 dB, the brightest colour; the darkest is 80 dB below.

    Returns:
        A PNG of at most 640 by 192 pixels with a palette.
    """
    decibels = 20 * np.log10(np.maximum(_magnitude(signal, sample_rate) / top, 1e-10))
    # steps of 3/255 of the range are below 1 dB, which nobody sees, and make the file a quarter smaller
    levels = np.clip(3 * np.round(85 * (1 + decibels / RANGE_DB)), 0, 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels[::-1]), mode="P")
    palette = np.round(255 * colormaps["magma"](np.arange(256))[:, :3]).astype(np.uint8)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _row(utterance: Utterance, index: Mapping[str, int], metrics: Sequence[str], settings: Settings) -> dict[str, Any]:
    rate = utterance.sample_rate
    whole = max(len(sound.signal) for sound in utterance.sounds)
    length = min(whole, max(1, round(settings.seconds * rate)))
    sounds = [(sound, _fit(sound.signal, length)) for sound in utterance.sounds]
    target = next(signal for sound, signal in sounds if sound.kind == "target")
    for cutoff in settings.anchors:
        low = Sound(_anchor(cutoff), "run", _low_pass(target, rate, cutoff), {})
        sounds.append((low, low.signal))
    gains = level_gains([signal for _, signal in sounds], rate)
    matched = [signal * 10 ** (gain / 20) for (_, signal), gain in zip(sounds, gains, strict=True)]
    loudest = [float(_magnitude(signal, rate).max()) for signal in matched]
    top = next(peak for (sound, _), peak in zip(sounds, loudest, strict=True) if sound.kind == "target")
    top = top or max(loudest) or 1.0
    recorded = 1 / max(1.0, *(_peak(signal) for _, signal in sounds))
    anchors = {_anchor(cutoff) for cutoff in settings.anchors}
    content = []
    for (sound, signal), gain, level in zip(sounds, gains, matched, strict=True):
        drawn = b"" if sound.name in anchors else spectrogram_png(level, rate, top)  # anchors are only heard
        stored = _peak(signal) / STORED_PEAK or 1.0
        content.append(
            {
                "system": index[sound.name],
                "audio": base64.b64encode(_encoded(signal / stored, rate, settings.sound_format)).decode("ascii"),
                "matched": stored * 10 ** (gain / 20),
                "recorded": stored * recorded,
                "gain_db": round(gain, 2) + 0.0,
                "picture": base64.b64encode(drawn).decode("ascii"),
                "values": [_finite(sound.scores.get(name)) for name in metrics],
            }
        )
    return {"id": utterance.id, "rate": rate, "seconds": length / rate, "whole": whole / rate, "sounds": content}


def _magnitude(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """STFT magnitude ``(rows, columns)``, the largest of what falls into one pixel, so that no line is lost."""
    window = max(16, 2 * round(WINDOW_SECONDS * sample_rate / 2))
    hop = max(window // 4, -(-len(signal) // (2 * PICTURE[0])))
    frames = scipy.signal.ShortTimeFFT(scipy.signal.windows.hann(window, sym=False), hop, sample_rate)
    padded = np.pad(signal, (0, max(0, window - len(signal))))
    magnitude = np.abs(frames.stft(padded, p0=0, p1=-(-len(signal) // hop)))
    for axis, most in ((0, PICTURE[1]), (1, PICTURE[0])):
        if magnitude.shape[axis] > most:
            starts = np.arange(most) * magnitude.shape[axis] // most
            magnitude = np.maximum.reduceat(magnitude, starts, axis=axis)
    return magnitude


def _fit(signal: np.ndarray, length: int) -> np.ndarray:
    return np.pad(np.asarray(signal[:length], dtype=np.float64), (0, max(0, length - len(signal))))


def _peak(signal: np.ndarray) -> float:
    return float(np.abs(signal).max(initial=0.0))


def _anchor(cutoff: float) -> str:
    return f"anchor {cutoff:g} Hz"


def _low_pass(signal: np.ndarray, sample_rate: int, cutoff: float) -> np.ndarray:
    if not 0 < cutoff < sample_rate / 2:
        raise ConfigError(
            [f"--anchor {cutoff:g}: must be above 0 and below {sample_rate / 2:g} Hz, half the sample rate"]
        )
    filtered = scipy.signal.sosfiltfilt(
        scipy.signal.butter(ANCHOR_ORDER, cutoff, fs=sample_rate, output="sos"), signal, padtype=None
    )
    return np.ascontiguousarray(filtered, dtype=np.float64)


def _encoded(signal: np.ndarray, sample_rate: int, sound_format: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, signal, sample_rate, format=sound_format.upper(), subtype="PCM_16")
    return buffer.getvalue()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _metric(name: str, higher: bool | None) -> dict[str, Any]:
    printed = metric_name(name)
    return {"text": printed.text, "unit": printed.unit, "decimals": printed.decimals, "higher": higher}


def _pair(systems: Sequence[Mapping[str, Any]]) -> list[int]:
    """The two that are compared at first: two runs, or the input and the only run."""
    runs = [number for number, system in enumerate(systems) if system["kind"] == "run"]
    inputs = [number for number, system in enumerate(systems) if system["kind"] == "input"]
    first, *others = runs if len(runs) > 1 else [*inputs[:1], *runs]
    return [first, others[0] if others else first]


def _document(title: str, content: Mapping[str, Any], settings: Settings) -> str:
    folder = resources.files("bcfusion.report.listening") / "page_files"

    def part(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    script = '"use strict";\n' + "\n".join(part(name) for name in SCRIPTS)
    style = part("page.css")
    rows = content["rows"]
    gains = (
        "All sounds of an utterance have the same active speech level; the gain applied is shown beside each. "
        "Press M to hear them as recorded."
    )
    seconds = (
        f"Sounds are cut to {settings.seconds:g} s. " if any(row["seconds"] < row["whole"] for row in rows) else ""
    )
    runs = sum(system["kind"] == "run" for system in content["systems"])
    count = f"{len(rows)} utterance{'s' * (len(rows) != 1)}, {runs} system{'s' * (runs != 1)} with input and target"
    blanks = {
        "title": html.escape(title),
        "summary": html.escape(f"{count}. {seconds}{gains}"),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        # "</script>" or "<!--" in an id would end the element or change how the browser reads it
        "data": json.dumps(content).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda blank: blanks[blank[1]], part("page.html"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
