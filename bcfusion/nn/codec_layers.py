"""The layers of public neural codecs, around the weights that were published, so that they stream.

Convolutions, LSTM and transformer of EnCodec (Défossez et al., "High Fidelity Neural Audio Compression", 2022) and Mimi
(Défossez et al., "Moshi: a speech-text foundation model for real-time dialogue", 2024). Each takes the torch layers
that another package has built, and keeps their names: a network computes the same with either, and has the same
weights. :func:`adopted` exchanges them in a whole network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcfusion.errors import ConfigError
from bcfusion.nn.padding import pad
from bcfusion.nn.streaming import StreamingError, StreamingModule
from bcfusion.requirements import one_of, require

PadMode = Literal["constant", "reflect", "replicate"]


class CodecConv(StreamingModule):
    """A convolution of EnCodec or Mimi: ``(B, C, T) -> (B, C', ceil(T / stride))``.

    What the kernel reaches beyond its frame is padded: all of it at the head if causal, else half at either end, the
    odd sample at the head. With ``replicate`` the head repeats the first sample. A mirrored head (``reflect``) needs
    samples that a stream does not have yet.

    Args:
        conv: the layer, without padding.
        causal: whether all of the padding is at the head.
        mode: how it is padded.
        norm: after the convolution, over channels and time of the whole file; None: there is none.

    Attributes:
        left: samples of padding at the head.
        extent: samples that the kernel spans.

    Raises:
        ConfigError: another mode.
    """

    def __init__(
        self, conv: nn.Conv1d, causal: bool, mode: PadMode = "constant", norm: nn.Module | None = None
    ) -> None:
        require(self, one_of(get_args(PadMode), pad_mode=mode))
        super().__init__()
        self.conv = conv
        if norm is not None:
            self.norm = norm
        self.has_norm = norm is not None
        self.stride = conv.stride[0]
        self.extent = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1
        context = self.extent - self.stride
        self.left = context if causal else context - context // 2
        self.right = context - self.left
        self.mode = mode
        self.causal = causal and norm is None and (mode != "reflect" or not context)

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``past (B, C, left)``; to repeat the first sample also ``started (B, 1, 1)``, 1 after it."""
        if not self.left:
            return {}
        state = {"past": like.new_zeros(batch_size, self.conv.in_channels, self.left)}
        return state | ({"started": like.new_zeros(batch_size, 1, 1)} if self.mode == "replicate" else {})

    def forward(self, x: Tensor) -> Tensor:
        """Convolve whole files of any length, or chunks of whole frames.

        Raises:
            StreamingError: a chunk is not a multiple of the stride.
        """
        if self.is_streaming:
            if x.shape[-1] % self.stride:
                raise StreamingError(f"a chunk of {x.shape[-1]} samples is not a multiple of the stride {self.stride}")
            if self.left and self.mode == "replicate":
                started = self.recall("started")
                self.replace(past=torch.where(started > 0, self.recall("past"), x[..., :1]))
                self.replace(started=(started + 1).clamp(max=1))  # a graph cannot return a constant
            y: Tensor = self.conv(self.prepend_past(x, self.left))
        else:
            right = self.right + -x.shape[-1] % self.stride
            if self.mode == "replicate":
                x = F.pad(x, (self.left, right), mode="replicate")
            else:
                x = pad(x, self.left, right, "reflect" if self.mode == "reflect" else "zeros")
            y = self.conv(x)
        return self.norm(y) if self.has_norm else y


class CodecConvTranspose(StreamingModule):
    """A transposed convolution of EnCodec or Mimi: ``(B, C, N) -> (B, C', stride N)``.

    Of what is longer than that, a causal layer drops a share at the end and the rest at the head, another half.

    Args:
        conv: the layer, without padding.
        causal: see above.
        trim_right_ratio: the share of a causal layer; only with 1 it streams.
        norm: as of :class:`CodecConv`.
    """

    def __init__(
        self, conv: nn.ConvTranspose1d, causal: bool, trim_right_ratio: float = 1.0, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = conv
        if norm is not None:
            self.norm = norm
        self.has_norm = norm is not None
        self.stride = conv.stride[0]
        self.overlap = conv.kernel_size[0] - self.stride
        self.left = self.overlap - (math.ceil(self.overlap * trim_right_ratio) if causal else self.overlap // 2)
        self.causal = causal and self.left == 0 and norm is None

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``overlap (B, C', overlap)``, what the last frames add to samples that are still to come."""
        return {"overlap": like.new_zeros(batch_size, self.conv.out_channels, self.overlap)} if self.overlap else {}

    def forward(self, x: Tensor) -> Tensor:
        """Convolve whole files or chunks, of any number of frames."""
        self.require_frames(x.shape[-1])
        conv, length = self.conv, self.stride * x.shape[-1]
        if not self.is_streaming:
            y = self.norm(conv(x)) if self.has_norm else conv(x)
            return y[..., self.left : self.left + length]
        y = self.add_overlap(F.conv_transpose1d(x, conv.weight, None, conv.stride, 0, 0, conv.groups), length)
        return y if conv.bias is None else y + conv.bias.unsqueeze(-1)


class CodecLstm(StreamingModule):
    """The recurrence of EnCodec, whose output is added to its input: ``(B, C, N)`` to the same shape.

    Args:
        lstm: the layers, C to C.
    """

    endless = True

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return ``hidden`` and ``cell``, each ``(B, layers, C)``."""
        shape = (batch_size, self.lstm.num_layers, self.lstm.hidden_size)
        return {"hidden": like.new_zeros(shape), "cell": like.new_zeros(shape)}

    def forward(self, x: Tensor) -> Tensor:
        self.require_frames(x.shape[-1])
        frames = x.permute(2, 0, 1)
        if self.is_streaming:
            before = tuple(self.recall(name).transpose(0, 1).contiguous() for name in ("hidden", "cell"))
            y, (hidden, cell) = self.lstm(frames, before)
            self.replace(hidden=hidden.transpose(0, 1), cell=cell.transpose(0, 1))
        else:
            y = self.lstm(frames)[0]
        added: Tensor = (y + frames).permute(1, 2, 0)
        return added


class CodecTransformer(StreamingModule):
    """A transformer of Mimi, in which a frame attends to itself and earlier ones: ``(B, C, N)`` to the same shape.

    Layers normalise first, rotate queries and keys by their position (Su et al., "RoFormer", 2021), and scale what
    attention and feed-forward layers add, channel by channel.

    Args:
        layers: each with ``input_layernorm``, ``self_attn`` (projections ``q_proj``, ``k_proj``, ``v_proj`` and
            ``o_proj``), ``self_attn_layer_scale``, ``post_attention_layernorm``, ``mlp``, ``mlp_layer_scale``.
        heads: of the queries; those of keys and values follow from the projections.
        head_dim: numbers per head.
        window: frames that a frame attends to, itself included.
        theta: base of the rotations' wavelengths.
    """

    endless = True  # not in theory: eight layers of a window of 10 s
    block = 512  #: frames of a whole file that are looked up at once

    def __init__(self, layers: nn.ModuleList, heads: int, head_dim: int, window: int, theta: float) -> None:
        super().__init__()
        self.layers = layers
        self.heads, self.head_dim, self.window, self.theta = heads, head_dim, window, theta

    def initial_state(self, batch_size: int, like: Tensor) -> dict[str, Tensor]:
        """Return the keys and values of the last frames, ``(B, heads, window - 1, head_dim)`` for each layer, and
        ``seen (B, window - 1)``, 1 for those that there were."""
        past = self.window - 1
        state = {"seen": like.new_zeros(batch_size, past)}
        for index, layer in enumerate(self.layers):
            heads = cast("Any", layer).self_attn.k_proj.out_features // self.head_dim
            for name in ("keys", "values"):
                state[f"{name}{index}"] = like.new_zeros(batch_size, heads, past, self.head_dim)
        return state

    def forward(self, x: Tensor) -> Tensor:
        self.require_frames(x.shape[-1])
        h = x.transpose(1, 2)  # (B, N, C)
        frames, past = h.shape[1], self.window - 1 if self.is_streaming else 0
        places = torch.arange(past + frames, device=x.device)
        seen = None
        if self.is_streaming:
            seen = torch.cat([self.recall("seen"), h.new_ones(h.shape[0], frames)], dim=1)
            self.replace(seen=seen[:, frames:])
        turns = self._turns(places)
        for index, layer in enumerate(cast("Iterator[Any]", self.layers)):
            attended = self._attended(index, layer.self_attn, layer.input_layernorm(h), turns, seen)
            h = h + layer.self_attn_layer_scale(attended)
            h = h + layer.mlp_layer_scale(layer.mlp(layer.post_attention_layernorm(h)))
        return h.transpose(1, 2)

    def _turns(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine ``(places, head_dim)`` of the angles at each place."""
        half = torch.arange(0, self.head_dim, 2, device=places.device, dtype=torch.float32)
        angles = places[:, None].float() * self.theta ** (-half / self.head_dim)
        angles = torch.cat([angles, angles], dim=1)
        return angles.cos(), angles.sin()

    def _attended(
        self, index: int, attention: Any, h: Tensor, turns: tuple[Tensor, Tensor], seen: Tensor | None
    ) -> Tensor:
        query, key, value = (
            projection(h).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        frames = h.shape[1]
        if self.is_streaming:
            key = torch.cat([self.recall(f"keys{index}"), key], dim=2)
            value = torch.cat([self.recall(f"values{index}"), value], dim=2)
            self.replace(**{f"keys{index}": key[:, :, frames:], f"values{index}": value[:, :, frames:]})
        cosine, sine = (turn.to(query.dtype) for turn in turns)
        query = _rotated(query, cosine[-frames:], sine[-frames:])
        rotated = _rotated(key, cosine, sine)
        broken = None
        if not torch.compiler.is_exporting():
            # a frame that is masked has the weight 0, and 0 times NaN would be NaN in frames before it
            broken = ~(rotated.isfinite() & value.isfinite()).all(-1).all(1)  # (B, past + N)
            rotated, value = (each.masked_fill(broken[:, None, :, None], 0.0) for each in (rotated, value))
        repeats = self.heads // value.shape[1]
        if repeats > 1:
            rotated, value = (each.repeat_interleave(repeats, dim=1) for each in (rotated, value))
        parts = []
        whole = self.is_streaming or torch.compiler.is_exporting()
        for start in (0,) if whole else range(0, frames, self.block):  # memory grows with the length, not its square
            stop = frames if whole else min(start + self.block, frames)
            first, last = (0 if whole else max(0, start - self.window + 1)), key.shape[2] if whole else stop
            places = torch.arange(key.shape[2], device=h.device)
            since = places[key.shape[2] - frames + start : key.shape[2] - frames + stop, None] - places[first:last]
            allowed = ((since >= 0) & (since < self.window))[None, None]
            if seen is not None:
                allowed = allowed & (seen > 0)[:, None, None]
            y = F.scaled_dot_product_attention(
                query[:, :, start:stop], rotated[:, :, first:last], value[:, :, first:last], attn_mask=allowed
            )
            if broken is not None:
                y = y.masked_fill((allowed & broken[:, None, None, first:last]).any(-1)[..., None], torch.nan)
            parts.append(y)
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        attended: Tensor = attention.o_proj(joined.transpose(1, 2).flatten(2))
        return attended


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2) of ``(..., N, head_dim)``."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


def adopted(module: nn.Module) -> nn.Module:
    """Exchange the layers of an encoder or a decoder of EnCodec or Mimi by those of this module, in place.

    A layer is known by what it holds: ``conv`` and ``causal``, or ``lstm``.

    Returns:
        The module itself, or what it is exchanged by.

    Raises:
        ConfigError: a layer is padded in a way that is not known here.
    """
    made = _adopted(module)
    if made is not module:
        return made
    for name, child in list(module.named_children()):
        setattr(module, name, adopted(child))
    return module


def _adopted(layer: Any) -> nn.Module:
    if isinstance(layer, StreamingModule):
        return layer
    conv, norm = getattr(layer, "conv", None), getattr(layer, "norm", None)
    if isinstance(conv, nn.ConvTranspose1d):
        return CodecConvTranspose(conv, layer.causal, layer.trim_right_ratio, norm)
    if isinstance(conv, nn.Conv1d):
        return CodecConv(conv, layer.causal, layer.pad_mode, norm)
    if isinstance(getattr(layer, "lstm", None), nn.LSTM):
        return CodecLstm(layer.lstm)
    return cast("nn.Module", layer)


def adopted_transformer(transformer: Any) -> CodecTransformer:
    """Return a :class:`CodecTransformer` with the layers of a transformer of Mimi.

    Raises:
        ConfigError: its positions are not rotations of one base.
    """
    config = transformer.config
    rope = config.rope_parameters or {}
    if rope.get("rope_type", "default") != "default":
        raise ConfigError([f"Mimi: rope_type={rope['rope_type']} is not known here: default is"])
    return CodecTransformer(
        transformer.layers, config.num_attention_heads, config.head_dim, config.sliding_window, rope["rope_theta"]
    )


def reach_in_samples(chain: nn.Module, unit: float = 1.0) -> tuple[float, float]:
    """Return how far beyond sample n of its input the output of convolutions at n depends on it, at most.

    Args:
        chain: the layers, in the order in which they run; a submodule named ``shortcut`` bypasses others.
        unit: samples of the signal per sample of the input.

    Returns:
        The reach in samples of the signal, counted up to the end of the last frame, and the unit of the output.
    """
    reach = 0.0
    for name, layer in chain.named_modules():
        if "shortcut" in name.split("."):
            continue
        around = chain.get_submodule(name.rpartition(".")[0])
        if isinstance(layer, nn.Conv1d):
            extent = (layer.kernel_size[0] - 1) * layer.dilation[0] + 1
            left = around.left if isinstance(around, CodecConv) else int(layer.padding[0])
            reach += (extent - 1 - left) * unit
            unit *= layer.stride[0]
        elif isinstance(layer, nn.ConvTranspose1d):
            unit /= layer.stride[0]
            left = around.left if isinstance(around, CodecConvTranspose) else int(layer.padding[0])
            reach += left * unit
    return reach, unit
