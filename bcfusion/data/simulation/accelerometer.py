"""A family of body-conduction sensors: random low-pass, tilt, resonances, level, noise, leak and source bandwidth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from scipy import signal as scipy_signal
from scipy.fft import next_fast_len
from torch import Tensor

from bcfusion.contracts import Draw
from bcfusion.data.simulation import Batched, choice, known_names, pair, simulate_batch, uniform
from bcfusion.data.simulation.air_noise import AirNoise
from bcfusion.data.simulation.fir import causal_filter, minimum_phase
from bcfusion.requirements import ascending, require, whole, within

#: length of the filter in seconds, in which the narrowest default resonance, 200 Hz with Q 4 and 10 dB, decays by 60 dB
RESPONSE_SECONDS = 0.1
#: frequencies of the response per tap of the filter: the cepstrum of a resonance is longer than its filter
BINS_PER_TAP = 4
#: Hz at which the tilt is 0 dB, and Hz below which it is constant
TILT_PIVOT, TILT_LOWEST = 250.0, 100.0
#: Hz below which the spectrum of the sensor's noise is flat
NOISE_CORNER = 50.0
#: share of the source bandwidth taken by the steep edge of its anti-aliasing filter
EDGE = 0.1
#: lowest and highest ripple of Chebyshev filters, in dB
RIPPLE = (0.1, 1.0)

#: ``family(x, order, generator)``: magnitude ``(F,)`` at ``x (F,)``, frequency over cutoff
Family = Callable[[Tensor, int, torch.Generator], Tensor]


class Wearer(NamedTuple):
    """What depends on the speaker: magnitude ``response (F,)``, ``gain`` (linear, with its sign), delay in samples."""

    response: Tensor
    gain: float
    delay: int


class Device(NamedTuple):
    """What changes from recording to recording; ``bandwidth`` in Hz is infinite if the sensor has our sample rate."""

    noise_level: float
    noise_exponent: float
    bandwidth: float


class Accelerometer(Batched):
    """Simulates accelerometers and contact microphones on throat, forehead, temple or in the ear.

    Clean speech is filtered by the wearer and the sensor, and the sensor adds its noise::

        signal = gain (h * (air + leak) + noise)   h: minimum phase, then delay
        |H(f)| = lowpass(f / cutoff)  tilt(f)  resonance_1(f) ... resonance_n(f)  bandlimit(f)

    ``lowpass`` is an analogue low-pass of a random family and order. ``tilt`` is a slope in dB per octave around
    250 Hz, from 100 Hz upwards. A resonance of gain g dB is the peaking equaliser
    ``((1 - x^2)^2 + (A x / Q)^2) / ((1 - x^2)^2 + (x / (A Q))^2)``, in power, with ``x = f / f_0`` and
    ``A = 10^(g / 40)``. ``bandlimit`` models a sensor recorded at a lower rate and upsampled: it falls from 1 to 0 over
    the last tenth of the band, for the noise too. The sensor's noise is Gaussian; its power falls as
    ``1 / f^exponent`` above 50 Hz, and its level is absolute: quiet speech is closer to it, as with a real sensor.

    The target is not shifted. The minimum-phase filter delays low frequencies as any such low-pass must, by less than a
    millisecond at a cutoff of 500 Hz; ``delay`` adds whole samples to that, to model recordings that are not aligned. A
    recorded corpus is aligned by its manifest, so the default is no delay. Air and leak go through the same filter:
    ``leak_snr`` is the ratio at the air microphone plus the shielding of the housing, some 20 to 30 dB.

    What depends on the wearer (low-pass, tilt, resonances, delay, gain, polarity) is drawn from ``draw.body``, which is
    seeded by the speaker, in evaluation as in training. What changes from recording to recording (level and colour of
    the noise, bandwidth, leak) is drawn from ``draw.generator`` in training; in evaluation it is the middle of each
    range, and only the noise signals themselves are drawn, from the utterance's generator.

    Args:
        families: names of low-passes in ``LOWPASSES``, all equally likely.
        orders: lowest and highest order of the low-pass, both included.
        cutoff: in Hz, drawn uniformly on a logarithmic scale; the gain there is -3 dB, or the ripple of a Chebyshev
            filter.
        tilt: in dB per octave, negative if high frequencies are attenuated.
        resonances: lowest and highest number of them.
        resonance_frequency: in Hz, drawn uniformly on a logarithmic scale.
        resonance_gain: in dB.
        resonance_q: quality factor of each resonance.
        gain: in dB.
        inverted: share of the speakers whose sensor has the opposite sign.
        delay: in seconds, rounded to whole samples.
        noise_level: root mean square of the sensor's noise in dB of full scale, before ``gain``; null: no noise.
        noise_exponent: 0 is white, 1 pink.
        bandwidth: in Hz, up to which the sensor was recorded; null: up to half the sample rate.
        leak_root: folder or manifest of noise that leaks into the sensor, as in :class:`AirNoise`; null: none leaks.
        leak_snr: ratio of speech to leaking noise in dB, before the sensor's filter.

    Raises:
        ConfigError: an argument is out of range; or, by :meth:`check_rate`, nothing that may be drawn is in the band.
        DataError: see :class:`AirNoise`.
    """

    def __init__(
        self,
        families: Sequence[str] = ("butterworth", "chebyshev", "bessel", "damped"),
        orders: Sequence[int] = (1, 4),
        cutoff: Sequence[float] = (300.0, 1500.0),
        tilt: Sequence[float] = (-3.0, 1.0),
        resonances: Sequence[int] = (1, 3),
        resonance_frequency: Sequence[float] = (200.0, 3500.0),
        resonance_gain: Sequence[float] = (2.0, 10.0),
        resonance_q: Sequence[float] = (1.0, 4.0),
        gain: Sequence[float] = (-6.0, 6.0),
        inverted: float = 0.0,
        delay: Sequence[float] = (0.0, 0.0),
        noise_level: Sequence[float] | None = (-80.0, -60.0),
        noise_exponent: Sequence[float] = (0.0, 1.5),
        bandwidth: Sequence[float] | None = None,
        leak_root: str | None = None,
        leak_snr: Sequence[float] = (20.0, 50.0),
    ) -> None:
        require(
            self,
            known_names(LOWPASSES, families=families),
            ascending(1, 10, orders=orders) or whole(orders=orders),
            ascending(10, 1e5, cutoff=cutoff, resonance_frequency=resonance_frequency),
            ascending(-24, 24, tilt=tilt),
            ascending(0, 20, resonances=resonances) or whole(resonances=resonances),
            ascending(-40, 40, resonance_gain=resonance_gain),
            ascending(0.1, 20, resonance_q=resonance_q),
            ascending(-100, 100, gain=gain, leak_snr=leak_snr),
            within(0, 1, inverted=inverted),
            ascending(0, 0.1, delay=delay),
            [] if noise_level is None else ascending(-200, 0, noise_level=noise_level),
            ascending(0, 4, noise_exponent=noise_exponent),
            [] if bandwidth is None else ascending(100, 1e6, bandwidth=bandwidth),
        )
        self.families = tuple(families)
        self.orders = tuple(map(int, orders))
        self.cutoff = pair(cutoff)
        self.tilt = pair(tilt)
        self.resonances = tuple(map(int, resonances))
        self.resonance_frequency = pair(resonance_frequency)
        self.resonance_gain = pair(resonance_gain)
        self.resonance_q = pair(resonance_q)
        self.gain = pair(gain)
        self.inverted = float(inverted)
        self.delay = pair(delay)
        self.noise_level = None if noise_level is None else pair(noise_level)
        self.noise_exponent = pair(noise_exponent)
        self.bandwidth = None if bandwidth is None else pair(bandwidth)
        self.reads_files = leak_root is not None  #: whether it has to run in the processes of the loader
        self._leak = (
            None
            if leak_root is None
            else AirNoise(leak_root, leak_snr, evaluation_snr=sum(leak_snr) / 2, key="leak_root of Accelerometer")
        )

    def check_rate(self, sample_rate: int) -> None:
        """Refuse a sample rate, in Hz, whose band ends below everything that may be drawn.

        Raises:
            ConfigError: the lowest cutoff, resonance or bandwidth is not below half the sample rate.
        """
        ranges = {
            "cutoff": self.cutoff,
            "resonance_frequency": self.resonance_frequency if self.resonances[1] else None,
            "bandwidth": self.bandwidth,
        }
        require(
            self,
            *(
                (
                    values[0] < sample_rate / 2,
                    f"{name}={list(values)} must begin below {sample_rate / 2:g} Hz, half of the sample rate",
                )
                for name, values in ranges.items()
                if values is not None
            ),
        )

    def batch(self, air: Tensor, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """Simulate ``air (B, 1, T)`` on its device; see :meth:`bcfusion.contracts.BatchSimulator.batch`."""
        air = air.to(torch.float32)
        sample_rate = draws[0].sample_rate
        taps = round(RESPONSE_SECONDS * sample_rate)
        frequencies = torch.linspace(0.0, sample_rate / 2, BINS_PER_TAP * taps + 1, dtype=torch.float64)
        wearers = [self.wearer(frequencies, sample_rate, draw.body) for draw in draws]
        devices = [self._device(draw) for draw in draws]
        limits = torch.tensor([device.bandwidth for device in devices], dtype=torch.float64)[:, None]
        responses = torch.stack([wearer.response for wearer in wearers]) * bandlimit(frequencies, limits)
        # one filter per item, each preceded by as many zeros as its delay
        filters = torch.zeros(len(wearers), taps + max(wearer.delay for wearer in wearers), dtype=torch.float64)
        for late, wearer, response in zip(filters, wearers, minimum_phase(responses, taps), strict=True):
            late[wearer.delay : wearer.delay + taps] = response
        if self._leak is not None:
            air = simulate_batch(self._leak, air, draws)["signal"]
        signal = causal_filter(air, filters.to(air.device))
        if self.noise_level is not None:
            signal = signal + _noise(devices, limits, draws, signal)
        gains = torch.tensor([wearer.gain for wearer in wearers], dtype=torch.float32, device=air.device)
        return {"signal": gains[:, None, None] * signal}

    def wearer(self, frequencies: Tensor, sample_rate: int, body: torch.Generator) -> Wearer:
        """Draw a wearer from ``body``, with the response at ``frequencies (F,)`` in Hz."""
        lowpass = LOWPASSES[self.families[choice(len(self.families), body)]]
        order = self.orders[0] + choice(self.orders[1] - self.orders[0] + 1, body)
        response = lowpass(frequencies / _logarithmic(self.cutoff, body), order, body)
        octaves = (frequencies.clamp_min(TILT_LOWEST) / TILT_PIVOT).log2()
        response = response * 10.0 ** (uniform(*self.tilt, body) * octaves / 20.0)
        for _ in range(self.resonances[0] + choice(self.resonances[1] - self.resonances[0] + 1, body)):
            x = frequencies / _logarithmic(self.resonance_frequency, body)
            response = response * resonance(x, uniform(*self.resonance_gain, body), uniform(*self.resonance_q, body))
        delay = round(uniform(*self.delay, body) * sample_rate)
        gain = 10.0 ** (uniform(*self.gain, body) / 20.0)
        return Wearer(response, -gain if uniform(0.0, 1.0, body) < self.inverted else gain, delay)

    def _device(self, draw: Draw) -> Device:
        def drawn(limits: tuple[float, float]) -> float:
            return uniform(*limits, draw.generator) if draw.training else sum(limits) / 2

        level = 0.0 if self.noise_level is None else 10.0 ** (drawn(self.noise_level) / 20.0)
        bandwidth = math.inf if self.bandwidth is None else drawn(self.bandwidth)
        return Device(level, drawn(self.noise_exponent), bandwidth)


def _logarithmic(limits: tuple[float, float], generator: torch.Generator) -> float:
    return math.exp(uniform(math.log(limits[0]), math.log(limits[1]), generator))


def _noise(devices: Sequence[Device], limits: Tensor, draws: Sequence[Draw], like: Tensor) -> Tensor:
    """Return the sensors' own noise, ``(B, 1, T)`` as ``like``: drawn white on the CPU and coloured on the device."""
    length = like.shape[-1]
    size = next_fast_len(length, real=True)
    white = torch.stack([torch.randn(1, size, generator=draw.generator) for draw in draws]).to(like.device)
    frequencies = torch.arange(size // 2 + 1, dtype=torch.float64) * (draws[0].sample_rate / size)
    exponents = torch.tensor([device.noise_exponent for device in devices], dtype=torch.float64)[:, None]
    levels = torch.tensor([device.noise_level for device in devices], dtype=torch.float64)[:, None]
    colour = (frequencies.clamp_min(NOISE_CORNER) / NOISE_CORNER) ** (-exponents / 2) * bandlimit(frequencies, limits)
    colour = levels * colour / colour.square().mean(-1, keepdim=True).sqrt()
    return torch.fft.irfft(torch.fft.rfft(white, n=size) * colour[:, None].to(white), n=size)[..., :length]


def bandlimit(frequencies: Tensor, bandwidth: Tensor) -> Tensor:
    """Return 1 below ``bandwidth`` and 0 above, with a raised cosine over the last tenth; both in Hz, broadcast."""
    # not through frequencies / bandwidth - 1, which is NaN where the bandwidth is infinite
    depth = ((frequencies / bandwidth - (1.0 - EDGE)) / EDGE).clamp(0.0, 1.0)
    return 0.5 + 0.5 * (math.pi * depth).cos()


def resonance(x: Tensor, decibels: float, q: float) -> Tensor:
    """Return the magnitude of a peaking equaliser at ``x``, frequency over centre: ``decibels`` at 1, 0 dB far from it.

    This is the analogue prototype of R. Bristow-Johnson's audio EQ cookbook.
    """
    amplitude = 10.0 ** (decibels / 40.0)
    off = (1.0 - x.square()).square()
    return ((off + (amplitude / q * x).square()) / (off + (x / (amplitude * q)).square())).sqrt()


def butterworth(x: Tensor, order: int, generator: torch.Generator) -> Tensor:
    """Return the Butterworth response ``1 / sqrt(1 + x^(2 n))``, flat up to the cutoff."""
    return (1.0 + x ** (2 * order)).rsqrt()


def chebyshev(x: Tensor, order: int, generator: torch.Generator) -> Tensor:
    """Return the Chebyshev response of the first kind, ``1 / sqrt(1 + e^2 T_n(x)^2)``, with 0.1 to 1 dB of ripple."""
    ripple = 10.0 ** (uniform(*RIPPLE, generator) / 10.0) - 1.0
    inside, outside = (order * x.clamp_max(1.0).acos()).cos(), (order * x.clamp_min(1.0).acosh()).cosh()
    return (1.0 + ripple * torch.where(x < 1.0, inside, outside).square()).rsqrt()


def bessel(x: Tensor, order: int, generator: torch.Generator) -> Tensor:
    """Return the Bessel response: the gentlest knee, a mass on a spring that hardly rings; -3 dB at the cutoff."""
    poles = torch.from_numpy(scipy_signal.bessel(order, 1.0, analog=True, output="zpk", norm="mag")[1])
    return poles.abs().prod() / (1j * x[:, None] - poles).abs().prod(-1)


def damped(x: Tensor, order: int, generator: torch.Generator) -> Tensor:
    """Return the response of n equal real poles, layers of tissue: ``(1 + (2^(1/n) - 1) x^2)^(-n/2)``, -3 dB at 1."""
    return (1.0 + (2.0 ** (1.0 / order) - 1.0) * x.square()) ** (-order / 2)


#: the low-passes by name, as in the argument ``families``
LOWPASSES: Mapping[str, Family] = {function.__name__: function for function in (butterworth, chebyshev, bessel, damped)}
