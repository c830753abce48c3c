"""A neural codec as a foundation: one that was trained on much speech is taught to hear a body-conduction sensor.

Its encoder hears the sensor in place of the air microphone, its decoder speaks as it always did. Encoders trained by
the latent of the target: Hauret et al., "Real-time speech enhancement in noise for throat microphone using neural audio
codec as foundation model", 2025. The codecs: EnCodec (Défossez et al. 2022), DAC (Kumar et al., "High-Fidelity Audio
Compression with Improved RVQGAN", 2023) and Mimi (Défossez et al. 2024), as in the package `transformers`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.contracts import Batch
from bcfusion.generators.codec_model import CodecModel, Family, codec_model, plain_settings, quantised
from bcfusion.nn.codec_layers import reach_in_samples
from bcfusion.nn.network import WaveformNetwork
from bcfusion.nn.precision import full_precision
from bcfusion.nn.resample import Resample
from bcfusion.nn.streaming import StreamingModule
from bcfusion.requirements import one_of, require, within

Train = Literal["encoder", "decoder", "both"]
Quantizer = Literal["bypass", "straight_through", "frozen"]

_LEAST_SCALE = 1e-8  # of a normalised signal; EnCodec adds it to the root mean square


class Codec(WaveformNetwork):
    r"""A neural codec from sensors to speech: ``(B, in_channels, T) -> (B, 1, T)``.

    The signal is resampled to the rate of the codec, encoded to a latent z, ``(B, D, N)``, decoded, and resampled back.
    What the decoder gets is, with q(z) the codec's own choice of codebook entries:

    - ``quantizer=bypass``: z itself, so that the latent is continuous;
    - ``straight_through``: q(z), whose gradient is passed on to z as it is, :math:`\partial q / \partial z = 1`;
    - ``frozen``: q(z), without a gradient to z: the encoder learns from the latent alone (``teacher``).

    Codebooks are never trained. The output of quantised modes is that of the codec's own forward pass, of a signal of
    whole frames at the codec's rate.

    With ``sensor=null`` all sensors are encoded, each by itself, and a convolution over one frame makes one latent of
    theirs; it starts as their mean and is always trained.

    A codec whose layers see no future streams: Mimi, and EnCodec if its convolutions are padded with zeros
    (``config={pad_mode: constant}``; the published ones mirror the head of the file, which a stream does not have). Its
    resampling is then causal, too, and late. With ``sensor=null`` it takes whole files.

    Args:
        sample_rate: of input and output, in Hz.
        in_channels: number of sensors.
        family: ``encodec``, ``dac`` or ``mimi``, of random weights; a model says itself which it is.
        config: settings of the codec by the names that `transformers` gives them, in place of the model's, or of the
            defaults.
        model: a trained codec: ``hf:OWNER/NAME@REVISION`` on the Hugging Face hub, or a folder with ``config.json`` and
            ``model.safetensors``. None: random weights of ``family`` and ``config``. A bundle needs it no more: it
            holds the weights, and its arguments the settings.
        sensor: the one that is encoded, -1 is the last; None: all of them.
        train: ``encoder``, ``decoder`` or ``both``.
        quantizer: see above.
        codebooks: how many are used, from the first on; None: all.
        teacher: keep the encoder as it was, and :meth:`teach` what it says of the target. It is part of checkpoints and
            bundles, so that training can go on from them, unless ``train=decoder``, where it teaches the convolution of
            several sensors: then it is the encoder itself.

    Attributes:
        delay: None if the level of the whole file is needed. Of EnCodec, whose convolutions mirror the head of a file,
            it does not hold for the first frame.
        provides: with a teacher, in training, ``latent`` and ``target_latent``, each ``(B, D, N)``, and
            ``latent_mask``, boolean ``(B, N)``: the frames that belong to the item.
        learns_from: ``latent`` if nothing else teaches the encoder, or the convolution of several sensors.

    Raises:
        ConfigError: the package `transformers` is missing, or the model; arguments out of range, or that teach nothing.
    """

    hears_all = False
    provides: tuple[str, ...] = ("latent", "target_latent", "latent_mask")

    def __init__(
        self,
        sample_rate: int = 16000,
        in_channels: int = 1,
        family: Family = "mimi",
        config: Mapping[str, Any] | None = None,
        model: str | None = None,
        sensor: int | None = -1,
        train: Train = "both",
        quantizer: Quantizer = "bypass",
        codebooks: int | None = None,
        teacher: bool = False,
    ) -> None:
        fuses = sensor is None and in_channels > 1
        require(
            self,
            one_of(get_args(Train), train=train),
            one_of(get_args(Quantizer), quantizer=quantizer),
            [] if sensor is None else within(-in_channels, in_channels - 1, sensor=sensor),
            (
                not teacher or train != "decoder" or fuses,
                "teacher=true teaches the encoder, which train=decoder leaves as it is: set teacher=false",
            ),
            (
                quantizer != "frozen" or teacher or (train == "decoder" and not fuses),
                "quantizer=frozen passes no gradient to the encoder: set teacher=true and losses=[latent_l1], or "
                "train=decoder and one sensor",
            ),
        )
        codec = codec_model(family, config, model)
        used = codec.codebooks if codebooks is None else codebooks
        require(self, within(1, codec.codebooks, codebooks=used))
        parts = (codec.encoder, codec.decoder)
        layers = [layer for part in parts for layer in part.modules() if isinstance(layer, StreamingModule)]
        normalise = bool(codec.settings.get("normalize", False))
        causal = bool(layers) and all(layer.causal for layer in layers) and not normalise and not fuses
        divisor = math.gcd(sample_rate, codec.sample_rate)
        own, theirs = sample_rate // divisor, codec.sample_rate // divisor  # samples that are equally long
        hop = math.lcm(codec.frame, theirs) // theirs * own
        require(
            self,
            (
                hop <= sample_rate,  # every crop and file is filled up to whole hops
                f"sample_rate={sample_rate}: its samples and the codec's frames coincide every {hop / sample_rate:.2f} "
                f"s only; set sample_rate={codec.sample_rate}, the codec's own",
            ),
        )
        resampling = None
        if own != theirs:
            resampling = (
                Resample(sample_rate, codec.sample_rate, causal=causal),
                Resample(codec.sample_rate, sample_rate, causal=causal),
            )
        lookahead = resampling[0].lookahead + resampling[1].late if causal and resampling is not None else 0
        delay = None if normalise or _normalises(codec) else _reach(codec, resampling, own / theirs)
        super().__init__(sample_rate, in_channels, hop, causal, lookahead, delay, -1 if sensor is None else sensor)
        self.into: nn.Module = nn.Identity() if resampling is None else resampling[0]
        self.back: nn.Module = nn.Identity() if resampling is None else resampling[1]
        self.family, self.frame, self.lacking, self.codec_rate = (
            codec.family,
            codec.frame,
            codec.lacking,
            codec.sample_rate,
        )
        self.fuses, self.train_part, self.quantizer_mode, self.codebooks = fuses, train, quantizer, used
        self.normalise = normalise
        self.encoder, self.decoder, self.quantizer = codec.encoder, codec.decoder, codec.quantizer
        self.quantizer.requires_grad_(False).eval()
        self.encoder.requires_grad_(train != "decoder")
        self.decoder.requires_grad_(train != "encoder")
        self.has_teacher = teacher
        if teacher and train != "decoder":
            self.teacher = copy.deepcopy(self.encoder).requires_grad_(False).eval()
        self.fusion: nn.Module = nn.Identity()
        if fuses:
            mean = torch.eye(codec.width).repeat(1, in_channels) / in_channels
            self.fusion = nn.Conv1d(in_channels * codec.width, codec.width, 1, bias=False)
            with torch.no_grad():
                self.fusion.weight.copy_(mean[..., None])
        self.provides = Codec.provides if teacher else ()
        self.learns_from = ("latent",) if quantizer == "frozen" and teacher else ()
        self._given, self.settings = (family, plain_settings(config), model), codec.settings
        self.register_load_state_dict_post_hook(_forget_codebooks)

    # ---------------------------------------------------------------- from sensors to speech

    def body(self, inputs: Tensor) -> Tensor:
        latent, scale = self._heard(inputs)
        return self._spoken(latent, scale, inputs.shape[-1])

    def teach(self, batch: Batch) -> dict[str, Tensor]:
        """Return what a training step computes losses from.

        Args:
            batch: with ``inputs``, ``target`` and ``lengths``.

        Returns:
            ``estimate (B, 1, T)`` and, if there is a teacher, ``latent`` and ``target_latent``, see ``provides``.
        """
        inputs = batch["inputs"]
        if not self.has_teacher:
            return {"estimate": cast("Tensor", self(inputs))}
        waveforms = self.padded(inputs)
        latent, scale = self._heard(waveforms)
        estimate = self._spoken(latent, scale, waveforms.shape[-1])
        with torch.no_grad():
            target = self.padded(batch["target"].to(inputs))
            encode = self.encoder if self.train_part == "decoder" else self.teacher
            wanted = encode(self._at_the_codecs_rate(target)[0])
        theirs, own = self.codec_rate, self.sample_rate * self.frame  # a frame begun counts
        frames = (-(-batch["lengths"] * theirs // own)).clamp_max(latent.shape[-1])
        return {
            "estimate": self.trim("estimate", estimate, inputs.shape[-1]),
            "latent": latent,
            "target_latent": wanted,
            "latent_mask": torch.arange(latent.shape[-1], device=frames.device) < frames[:, None],
        }

    def without_files(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments that need no model; see :class:`bcfusion.contracts.BuiltFromFiles`."""
        family, config = arguments.get("family", "mimi"), plain_settings(arguments.get("config"))
        if (family, config, arguments.get("model")) != self._given:
            return dict(arguments)
        return {**arguments, "family": self.family, "config": self.settings, "model": None}

    def _at_the_codecs_rate(self, waveforms: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return ``(B, S, T)`` as the encoder takes it, and what each was divided by, ``(B, S, 1)``, if anything."""
        sensors = waveforms.shape[1]
        x = self.into(waveforms.flatten(0, 1)[:, None])  # (B S, 1, T)
        if self.lacking and not self.is_streaming:  # samples of one more frame replace those that the decoder lacks
            x = F.pad(x, (0, self.frame))
        if not self.normalise:
            return x, None
        power = x.square().mean(-1, keepdim=True)
        scale = power.clamp_min(_LEAST_SCALE**2).sqrt() + _LEAST_SCALE
        return x / scale, scale.unflatten(0, (-1, sensors)).squeeze(2)

    def _heard(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the latent ``(B, D, N)`` of the sensors, and what to multiply the output by, ``(B, 1, 1)``."""
        sensor = self.skip_channel % self.in_channels
        if not self.fuses:
            inputs = inputs[:, sensor : sensor + 1]
        x, scale = self._at_the_codecs_rate(inputs)
        latent = self.encoder(x)  # (B S, D, N)
        latent = self.fusion(latent.unflatten(0, (inputs.shape[0], -1)).flatten(1, 2))
        return latent, None if scale is None else scale[:, -1:]

    def _spoken(self, latent: Tensor, scale: Tensor | None, length: int) -> Tensor:
        """Return ``length`` samples ``(B, 1, length)`` of what the decoder makes of a latent."""
        y = self.decoder(self._chosen(latent))
        if scale is not None:
            y = y * scale
        if self.lacking and not self.is_streaming:
            y = y[..., : y.shape[-1] - (self.frame - self.lacking)]
        y = self.back(y)
        return y[..., :length]

    def _chosen(self, latent: Tensor) -> Tensor:
        if self.quantizer_mode == "bypass":
            return latent
        with torch.no_grad(), full_precision(latent):  # the nearest entry is a matter of small differences
            entries = quantised(self.family, self.quantizer, latent.to(_dtype_of(self.decoder)), self.codebooks)
        # what is added is zero, but for a latent that is not finite, which has to show
        passed = latent if self.quantizer_mode == "straight_through" else latent.detach()
        return entries + (passed - latent.detach())

    # ---------------------------------------------------------------- as a module

    def train(self, mode: bool = True) -> Codec:
        """Set the mode of what is trained; codebooks and teacher stay in evaluation mode."""
        super().train(mode)
        self.quantizer.eval()
        if self.has_teacher and self.train_part != "decoder":
            self.teacher.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Codec:
        moved = super()._apply(fn, recurse)
        _forget_codebooks(self)
        return cast("Codec", moved)

    def _streaming_modules(self) -> Iterator[tuple[str, StreamingModule]]:
        for path, module in super()._streaming_modules():
            if not path.startswith("teacher."):  # it hears targets, and no streams
                yield path, module


def _forget_codebooks(network: Codec, _: object = None) -> None:
    """Drop the entries that Mimi's codebooks have computed from their statistics, which may have changed."""
    for layer in network.quantizer.modules():
        if getattr(layer, "_embed", None) is not None:
            cast("Any", layer)._embed = None


def _dtype_of(part: nn.Module) -> torch.dtype:
    return next(part.parameters()).dtype


def _normalises(codec: CodecModel) -> bool:
    """Return whether a layer normalises over the whole file."""
    return any(getattr(layer, "has_norm", False) for part in (codec.encoder, codec.decoder) for layer in part.modules())


def _reach(codec: CodecModel, resampling: tuple[Resample, Resample] | None, unit: float) -> int:
    """Return samples of the input after n on which output n depends at most.

    Args:
        codec: the codec.
        resampling: to its rate and back; None: the rates are equal.
        unit: samples of the input per sample of the codec.
    """
    there, step = reach_in_samples(codec.encoder)
    reach = there + reach_in_samples(codec.decoder, step)[0]
    if resampling is not None:  # each sample needs all of the input that the kernel of its frame spans
        into, back = resampling
        reach = (reach + back.frame - 1 + back.width) * unit + into.frame - 1 + into.width
    return math.floor(reach)
