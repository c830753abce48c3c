"""The language of the demo corpus and the voices that speak it."""

from __future__ import annotations

import numpy as np

from bcfusion.data.corpora.phones import PHONES
from bcfusion.data.corpora.synthesis import Array, Segment, Voice, room_noise, synthesise

__all__ = ["LEXICON", "PEAK", "draw_script", "draw_voice", "utterance"]

#: Every word of the language, as phones. Each vowel has few consonants as neighbours, which makes them predictable.
LEXICON = (
    "s aa d ow", "sh iy l", "f ey n uw", "k ae t", "z ao m er", "th ah v iy", "b eh s", "m uw sh", "t iy z ah",
    "d aa s", "g ow f", "p ae sh iy", "w er th", "l ao k aa", "hh ey s", "y uw n", "n eh f ow", "s iy b ae",
    "sh aa m", "v ow z ey", "d er sh", "f ae s ow", "b ao th", "t ey sh uw",
)  # fmt: skip

SPEECH_LEVEL = -23.0  # dBFS, RMS outside of pauses
ROOM_LEVEL = -65.0  # dB re speech, so that PESQ and STOI never see digital silence
PEAK = 0.89  #: of full scale, the largest sample of a synthesised file


def draw_voice(position: float, rng: np.random.Generator) -> Voice:
    """Return a voice between a deep one (``position`` 0: 90 Hz, long tract) and a high one (1: 250 Hz, short tract)."""
    return Voice(
        f0=90.0 * (250.0 / 90.0) ** position,
        tract=0.98 + 0.19 * position + rng.uniform(-0.02, 0.02),
        rate=rng.uniform(0.92, 1.1),
        jitter=rng.uniform(0.004, 0.01),
        shimmer=rng.uniform(0.02, 0.06),
        open_quotient=0.52 + 0.16 * position + rng.uniform(-0.03, 0.03),
        tilt=3200.0 - 1000.0 * position + rng.uniform(-300.0, 300.0),
        breath=rng.uniform(-30.0, -23.0),
        melody=rng.uniform(0.1, 0.2),
    )


def utterance(voice: Voice, seconds: float, sample_rate: int, rng: np.random.Generator) -> tuple[Array, list[str]]:
    """Synthesise random words in a quiet room.

    Args:
        voice: who speaks.
        seconds: length of the clip, silence at both ends included; at least 1.
        sample_rate: Hz, at least 8000.
        rng: source of everything random.

    Returns:
        ``(T,)`` with speech at -23 dBFS and its peak below 0.9, and the words.
    """
    script, words = draw_script(voice, seconds, rng)
    speech = synthesise(script, voice, sample_rate, rng)
    edges = np.rint(np.cumsum([0.0] + [segment.seconds for segment in script]) * sample_rate).astype(int)
    speaking = np.repeat([segment.phone != "_" for segment in script], np.diff(edges))
    speech /= np.sqrt(np.mean(np.square(speech[speaking])))
    speech += 10 ** (ROOM_LEVEL / 20) * room_noise(len(speech), sample_rate, rng)
    return speech * min(10 ** (SPEECH_LEVEL / 20), PEAK / float(np.max(np.abs(speech)))), words


def draw_script(voice: Voice, seconds: float, rng: np.random.Generator) -> tuple[list[Segment], list[str]]:
    """Return as many words as fit into ``seconds``, with pauses between them; the last pause fills the rest."""
    spoken = {word: [_spoken(phone, voice) for phone in word.split()] for word in LEXICON}
    length = {word: sum(segment.seconds for segment in segments) for word, segments in spoken.items()}
    script, words = [Segment("_", rng.uniform(0.12, 0.2))], list[str]()
    left = seconds - script[0].seconds
    while fitting := [word for word in LEXICON if length[word] + 0.15 <= left]:
        word = fitting[rng.integers(len(fitting))]
        stressed = next(i for i, segment in enumerate(spoken[word]) if PHONES[segment.phone].is_vowel)
        accent = rng.uniform(0.4, 1.0)
        script += [
            Segment(s.phone, s.seconds * (1.12 if i == stressed else 1.0), accent if i == stressed else 0.0)
            for i, s in enumerate(spoken[word])
        ]
        words.append(word)
        # most words follow closely, every fourth ends a phrase
        pause = rng.uniform(0.25, 0.4) if rng.uniform() < 0.25 else rng.uniform(0.05, 0.14)
        script.append(Segment("_", pause))
        left = seconds - sum(segment.seconds for segment in script)
    rest = seconds - sum(segment.seconds for segment in script[:-1])
    return [*script[:-1], Segment("_", rest)], words


def _spoken(phone: str, voice: Voice) -> Segment:
    return Segment(phone, PHONES[phone].duration / voice.rate)
