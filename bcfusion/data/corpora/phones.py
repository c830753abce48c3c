"""The phones of the demo corpus's language: formants, durations, and spectra of turbulence.

Vowels follow Peterson & Barney (1952).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PHONES", "SILENT", "SPECTRA", "Phone"]

SILENT = -200.0  #: dB


@dataclass(frozen=True)
class Phone:
    """One speech sound, as an adult male tract (17.5 cm) makes it.

    Attributes:
        formants: F1 to F4 in Hz.
        duration: seconds, closure included.
        voicing: gain of the voice, dB re a vowel.
        glide: share of F2 to F4 that a consonant takes from its vowel (locus equations).
        frication: level of the turbulence, dB re the vowels' RMS.
        spectrum: name of the turbulence's shape in :data:`SPECTRA`.
        burst: seconds of frication at the end of a closure (0: frication lasts as long as the phone).
        aspiration: level of the breath through the tract, dB re the voice.
        damping: factor on the bandwidths above F1.
    """

    formants: tuple[float, float, float, float]
    duration: float
    voicing: float = 0.0
    glide: float = 0.0
    frication: float = SILENT
    spectrum: str = ""
    burst: float = 0.0
    aspiration: float = SILENT
    damping: float = 1.0

    @property
    def is_vowel(self) -> bool:
        """Whether this is a syllable's nucleus, which bears the accent and lends its formants to its consonants."""
        return self.voicing == 0.0


_LABIAL = (240.0, 900.0, 2250.0, 3350.0)
_ALVEOLAR = (240.0, 1750.0, 2600.0, 3500.0)
_VELAR = (240.0, 2000.0, 2300.0, 3350.0)

#: The inventory (ARPAbet). Durations differ from phone to phone, so that even a narrow-band sensor distinguishes them.
PHONES: dict[str, Phone] = {
    "_": Phone((500, 1500, 2500, 3500), 0.12, voicing=SILENT, glide=0.7),
    "iy": Phone((270, 2290, 3010, 3550), 0.13),
    "ey": Phone((400, 2050, 2650, 3450), 0.17),
    "eh": Phone((530, 1840, 2480, 3400), 0.12),
    "ae": Phone((670, 1720, 2410, 3400), 0.21),
    "aa": Phone((750, 1120, 2440, 3350), 0.18),
    "ao": Phone((580, 850, 2410, 3300), 0.20),
    "ow": Phone((450, 780, 2350, 3300), 0.16),
    "uw": Phone((310, 870, 2240, 3250), 0.14),
    "er": Phone((480, 1350, 1700, 3200), 0.16),
    "ah": Phone((640, 1250, 2400, 3350), 0.10),
    "l": Phone((350, 1050, 2700, 3400), 0.075, voicing=-4.0, glide=0.35, damping=1.5),
    "w": Phone((290, 650, 2200, 3300), 0.08, voicing=-4.0, glide=0.1, damping=1.5),
    "y": Phone((260, 2250, 2950, 3550), 0.07, voicing=-4.0, glide=0.1, damping=1.3),
    "m": Phone((270, 1000, 2200, 3300), 0.085, voicing=-6.0, glide=0.5, damping=3.5),
    "n": Phone((270, 1550, 2500, 3450), 0.08, voicing=-6.0, glide=0.4, damping=3.5),
    "s": Phone((320, 1700, 2600, 3500), 0.13, SILENT, 0.4, frication=-8.0, spectrum="s"),
    "sh": Phone((320, 1950, 2500, 3400), 0.15, SILENT, 0.4, frication=-6.0, spectrum="sh"),
    "f": Phone((340, 1050, 2250, 3350), 0.11, SILENT, 0.7, frication=-18.0, spectrum="f"),
    "th": Phone((340, 1450, 2550, 3450), 0.095, SILENT, 0.6, frication=-20.0, spectrum="th"),
    "hh": Phone((500, 1500, 2500, 3500), 0.08, SILENT, 1.0, aspiration=-12.0),
    "z": Phone((250, 1700, 2600, 3500), 0.10, -10.0, 0.4, frication=-13.0, spectrum="s", damping=2.0),
    "v": Phone((250, 1050, 2250, 3350), 0.08, -9.0, 0.7, frication=-24.0, spectrum="f", damping=2.0),
    "p": Phone(_LABIAL, 0.10, SILENT, 0.7, frication=-13.0, spectrum="labial", burst=0.010),
    "t": Phone(_ALVEOLAR, 0.10, SILENT, 0.4, frication=-5.0, spectrum="s", burst=0.022),
    "k": Phone(_VELAR, 0.11, SILENT, 0.7, frication=-6.0, spectrum="velar", burst=0.025),
    "b": Phone(_LABIAL, 0.075, -15.0, 0.7, frication=-17.0, spectrum="labial", burst=0.006, damping=4.0),
    "d": Phone(_ALVEOLAR, 0.07, -15.0, 0.4, frication=-11.0, spectrum="s", burst=0.010, damping=4.0),
    "g": Phone(_VELAR, 0.075, -15.0, 0.7, frication=-12.0, spectrum="velar", burst=0.014, damping=4.0),
}

#: Spectra of turbulence, corners (Hz, dB) joined on a logarithmic axis; the cavity behind the constriction
#: weakens the low end. Above 8 kHz all of them fall by 18 dB per octave.
SPECTRA: dict[str, tuple[tuple[float, float], ...]] = {
    "s": ((50, -42), (250, -30), (700, -33), (1600, -31), (2600, -24), (3600, -10), (4600, -2), (5600, 0), (7900, -5)),
    "sh": ((50, -36), (300, -24), (700, -26), (1300, -22), (1800, -10), (2500, 0), (3400, -1), (5000, -6), (7900, -14)),
    "f": ((50, -18), (250, -8), (900, -9), (2000, -7), (4000, -4), (6000, -1), (7900, 0)),
    "th": ((50, -26), (300, -17), (1200, -15), (2500, -10), (5000, -3), (6500, 0), (7900, 0)),
    "labial": ((50, -14), (300, 0), (900, 0), (2000, -8), (4000, -16), (7900, -24)),
    "velar": ((50, -26), (500, -16), (1300, -5), (1900, 0), (2600, -5), (4000, -12), (7900, -22)),
}
