"""A convolutional variational auto-encoder of the log-magnitude spectrogram.

The auto-encoder is that of Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014. Their decoder returns the
encoder's input; this one returns speech as the air microphone would have picked it up, from that of the sensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from bcfusion.nn.conv2d import Conv2d, ConvTranspose2d
from bcfusion.nn.frequency_norm import LEAST_OF_LOGARITHMS, FrequencyNorm
from bcfusion.nn.norm import BatchNorm1d, BatchNorm2d
from bcfusion.nn.spectral import Complex, SpectralNetwork, from_log, log_magnitude, magnitude
from bcfusion.nn.stft import Window
from bcfusion.requirements import above, at_least, one_of, require

Head = Literal["gain", "mapping"]

# Power of a bin that loses its phase, which keeps the gradient at silence finite; far below any signal.
_PHASE_EPS = 1e-12


class SpectrogramVAE(SpectralNetwork):
    r"""Log magnitudes to a latent Gaussian per frame, and back: ``(B, in_channels, T) -> (B, 1, T)``. Not causal.

    The encoder takes the log magnitudes :math:`\tfrac12 \ln(|X|^2 + \epsilon^2)` of all sensors, batch-normalised bin
    by bin. Convolutions that each halve the bins, and see the frames before and after, are followed by a linear layer,
    which gives mean :math:`\mu` and log variance :math:`\ln \sigma^2` of ``latent_size`` variables per frame. In
    training the latent variables are drawn, :math:`z = \mu + \sigma \varepsilon` (the reparametrisation of section 2.4
    of the paper), with torch's global generator, as dropout does; in evaluation mode :math:`z = \mu`. The decoder, a
    mirror image without connections that would bypass the latent variables, turns z into one number per bin:

    - ``head=gain``: the logarithm of a gain on the magnitude of ``skip_channel``, to which :math:`\epsilon` has been
      added as above: from an empty band, a gain makes a magnitude as well.
    - ``head=mapping``: the log magnitude of the estimate. All of it passes through the latent variables.

    The phase is that of ``skip_channel``. The loss on :math:`\mu` and :math:`\ln \sigma^2` is
    :class:`bcfusion.losses.latent.KlLoss`.

    With the defaults and one sensor 0.86 M parameters.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        n_fft: of the STFT, see :class:`bcfusion.nn.stft.Stft`; half of it is a multiple of 2 to the number of levels.
        hop_length: likewise.
        win_length: likewise.
        window: likewise.
        channels: after each convolution of the encoder; the decoder has them in reverse.
        kernel_size: of all convolutions along (frequency, frames), both odd.
        latent_size: latent variables per frame.
        log_var_bound: the log variance is kept within plus and minus this number, by a hyperbolic tangent.
        head: ``gain`` or ``mapping``.
        floor: :math:`\epsilon`, a magnitude.
        causal: must be false: convolutions are centred.
        init_output_scale: factor on the initial weights of the last layer, whose bias starts at 0.
        skip_channel: the sensor that has the gain and the phase; -1 is the last (the air microphone, in fusion).
        frequency_norm: ``learnable``: in place of the batch normalisation at the input the log magnitudes are scaled
            and shifted bin by bin, from the training set's statistics on; so is the decoder's output, with
            ``head=mapping`` from those of the target on, else from 1 and 0 on; see
            :class:`bcfusion.nn.frequency_norm.FrequencyAffine`. None: batch normalisation.

    Attributes:
        delay: the reach of the convolutions and the overlap of the frames, in samples.
        provides: ``mu`` and ``log_var``, each ``(B, latent_size, N)``.

    Raises:
        ConfigError: an argument is out of range; sizes that do not fit; ``causal=True``.
    """

    provides = ("mu", "log_var")
    keeps_noise = True

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        n_fft: int = 512,
        hop_length: int = 128,
        win_length: int = 512,
        window: Window = "hann",
        channels: Sequence[int] = (16, 32, 64, 96, 128),
        kernel_size: Sequence[int] = (5, 3),
        latent_size: int = 64,
        log_var_bound: float = 8.0,
        head: Head = "gain",
        floor: float = 3e-3,
        causal: bool = False,
        init_output_scale: float = 0.1,
        skip_channel: int = -1,
        frequency_norm: FrequencyNorm = None,
    ) -> None:
        widths, kernel = list(channels), list(kernel_size)
        halves = 2 ** len(widths)
        require(
            self,
            (not causal, "causal=True is impossible, its convolutions are centred: set causal=False"),
            at_least(1, channels=widths, kernel_size=kernel, latent_size=latent_size),
            (
                len(kernel) == 2 and all(size % 2 == 1 for size in kernel),
                f"kernel_size={kernel} must be two odd numbers, along frequency and along the frames",
            ),
            (
                n_fft % (2 * halves) == 0,
                f"n_fft={n_fft} must be a multiple of {2 * halves}: {len(widths)} levels halve the bins",
            ),
            above(0, log_var_bound=log_var_bound, floor=floor, init_output_scale=init_output_scale),
            one_of(get_args(Head), head=head),
        )
        future = 2 * len(widths) * (kernel[1] // 2)
        super().__init__(
            sample_rate, in_channels, n_fft, hop_length, win_length, window, False, future, skip_channel, frequency_norm
        )
        self.log_var_bound, self.head, self.floor = log_var_bound, head, floor
        self.norm = BatchNorm1d(in_channels * self.stft.bins) if frequency_norm is None else nn.Identity()
        self.frequency_in = self.frequency_affine(in_channels, self.stft.bins, least=LEAST_OF_LOGARITHMS)
        self.frequency_out = self.frequency_affine(
            1, self.stft.bins, kind="restore" if head == "mapping" else "identity", least=LEAST_OF_LOGARITHMS
        )

        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        bins, padding = self.stft.bins, (kernel[0] // 2, kernel[0] // 2)
        for level, (inputs, width) in enumerate(zip([in_channels, *widths], widths, strict=False)):
            down = Conv2d(inputs, width, kernel, bins, (2, 1), padding=padding)
            outputs = inputs if level else 1
            up = ConvTranspose2d(width, outputs, kernel, down.out_bins, 2, padding)
            encoder += [down, BatchNorm2d(width), nn.PReLU(width)]
            decoder = [up, *([BatchNorm2d(outputs), nn.PReLU(outputs)] if level else []), *decoder]
            bins = down.out_bins
        self.shape = widths[-1], bins  # of a frame between the convolutions and the latent variables
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
        self.to_latent = nn.Linear(widths[-1] * bins, 2 * latent_size)
        self.from_latent = nn.Linear(latent_size, widths[-1] * bins)
        last = decoder[-1]
        assert isinstance(last, ConvTranspose2d)
        assert last.bias is not None
        with torch.no_grad():
            last.weight.mul_(init_output_scale)
            last.bias.zero_()

    def statistics_of(self, sensors: Complex, target: Complex) -> dict[str, Tensor]:
        levels, wanted = (log_magnitude(*parts, self.floor) for parts in (sensors, target))
        return {"frequency_in": levels, "frequency_out": wanted.unsqueeze(1)}

    def spectrum(self, real: Tensor, imag: Tensor) -> tuple[Complex, dict[str, Tensor]]:
        """Map ``(B, in_channels, F, N)`` to the estimate's parts ``(B, F, N)``, mean and log variance."""
        levels = log_magnitude(real, imag, self.floor)
        mu, log_var = self.encode(levels)
        latent = mu + torch.randn_like(mu) * (0.5 * log_var).exp() if self.training else mu
        level = self.decode(latent)
        if self.head == "gain":
            level = level + levels[:, self.skip_channel]
        sensor = real[:, self.skip_channel], imag[:, self.skip_channel]
        gain = from_log(level, self.stft.win_length) / magnitude(*sensor, _PHASE_EPS)
        return (gain * sensor[0], gain * sensor[1]), {"mu": mu, "log_var": log_var}

    def encode(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, each ``(B, latent_size, N)``, for log magnitudes ``(B, in_channels, F, N)``."""
        normal = self.norm(self.frequency_in(levels).flatten(1, 2)).unflatten(1, levels.shape[1:3])
        hidden = self.encoder(normal).flatten(1, 2).transpose(1, 2)  # (B, N, C F')
        mu, log_var = self.to_latent(hidden).transpose(1, 2).chunk(2, dim=1)
        return mu, self.log_var_bound * torch.tanh(log_var / self.log_var_bound)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the decoder's output ``(B, F, N)`` for latent variables ``(B, latent_size, N)``."""
        hidden = self.from_latent(latent.transpose(1, 2)).transpose(1, 2).unflatten(1, self.shape)
        output: Tensor = self.frequency_out(self.decoder(hidden)).squeeze(1)
        return output
