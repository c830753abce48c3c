"""Public neural codecs as the package `transformers` has them: which there are, and how one is built or read.

A codec is read from a folder in the format of that package, ``config.json`` and ``model.safetensors``; nothing else in
the folder is opened. Of ``config.json`` only the settings of the codec itself are taken: there are further ones in that
format that name code.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from bcfusion.errors import CheckpointError, ConfigError
from bcfusion.nearest import did_you_mean, nearest_path
from bcfusion.nn.codec_layers import adopted, adopted_transformer
from bcfusion.requirements import one_of, require
from bcfusion.run.fetching import fetch, parse_reference
from bcfusion.run.models import HUB, is_on_hub

__all__ = ["EXAMPLES", "CodecModel", "Family", "codec_model", "plain_settings", "quantised"]

Family = Literal["encodec", "dac", "mimi"]

#: what `transformers` calls them
_CLASSES = {
    "encodec": ("EncodecConfig", "EncodecModel"),
    "dac": ("DacConfig", "DacModel"),
    "mimi": ("MimiConfig", "MimiModel"),
}
EXAMPLES = "hf:facebook/encodec_24khz, hf:descript/dac_16khz, hf:kyutai/mimi"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_LARGEST = {_CONFIG: 1_000_000, _WEIGHTS: 4_000_000_000}  # bytes


@dataclasses.dataclass
class CodecModel:
    """A codec in parts.

    Attributes:
        family: which it is.
        settings: of its configuration, plain values; with ``family`` all that is needed to build it again.
        encoder: ``(B, 1, T) -> (B, D, N)``, T a multiple of ``frame``.
        decoder: ``(B, D, N) -> (B, 1, N frame)``, or shorter by ``lacking``.
        quantizer: the codebooks.
        sample_rate: in Hz.
        frame: samples of a frame of the latent.
        width: D.
        codebooks: how many there are.
        lacking: samples that are missing at the end of what the decoder returns.
    """

    family: str
    settings: dict[str, Any]
    encoder: nn.Module
    decoder: nn.Module
    quantizer: nn.Module
    sample_rate: int
    frame: int
    width: int
    codebooks: int
    lacking: int = 0


def quantised(family: str, quantizer: Any, latent: Tensor, codebooks: int) -> Tensor:
    """Return the sum of the entries of the first codebooks that the codec chooses for a latent.

    Args:
        family: of the codec.
        quantizer: its codebooks, in evaluation mode.
        latent: ``(B, D, N)``.
        codebooks: how many are used.

    Returns:
        ``(B, D, N)``.
    """
    if family == "dac":
        values: Tensor = quantizer(latent, codebooks)[0]
        return values
    if family == "mimi":
        values = quantizer.decode(quantizer.encode(latent, codebooks).transpose(0, 1))
        return values
    rest, total = latent, torch.zeros_like(latent)
    for layer in quantizer.layers[:codebooks]:
        entry = layer.decode(layer.encode(rest))
        rest, total = rest - entry, total + entry
    return total


class _MimiEncoder(nn.Module):
    """Convolutions, transformer and the convolution that halves the frame rate: ``(B, 1, T) -> (B, D, N)``."""

    def __init__(self, half: Any) -> None:
        super().__init__()
        self.encoder_seanet = adopted(half.encoder_seanet)
        self.encoder_transformer = adopted_transformer(half.encoder_transformer)
        self.downsample = nn.Identity() if half.downsample is None else adopted(half.downsample)

    def forward(self, x: Tensor) -> Tensor:
        latent: Tensor = self.downsample(self.encoder_transformer(self.encoder_seanet(x)))
        return latent


class _MimiDecoder(nn.Module):
    """The mirror image of :class:`_MimiEncoder`: ``(B, D, N) -> (B, 1, T)``."""

    def __init__(self, half: Any) -> None:
        super().__init__()
        self.upsample = nn.Identity() if half.upsample is None else adopted(half.upsample)
        self.decoder_transformer = adopted_transformer(half.decoder_transformer)
        self.decoder_seanet = adopted(half.decoder_seanet)

    def forward(self, latent: Tensor) -> Tensor:
        x: Tensor = self.decoder_seanet(self.decoder_transformer(self.upsample(latent)))
        return x


def codec_model(family: str, settings: Mapping[str, Any] | None, model: str | None) -> CodecModel:
    """Build a codec, or read a trained one.

    Args:
        family: of random weights; a model says itself which it is.
        settings: of its configuration in `transformers`: they replace those of the model, or the defaults.
        model: ``hf:OWNER/NAME``, which may end in ``@REVISION``, or a folder; None: random weights.

    Raises:
        ConfigError: the package is missing, there is no such model or it is another one, it cannot be fetched, or the
            settings do not fit.
    """
    changes = plain_settings(settings)
    if model is None:
        return _in_parts(family, _built(family, changes))
    folder = _folder(model)
    stored = _stored_settings(folder, model)
    kind = str(stored.pop("model_type", None))
    require("Codec", (kind in _CLASSES, f"model={model} is of the type {kind}, none of {', '.join(_CLASSES)}"))
    known = _names(kind)
    if "rope_theta" in stored and "rope_parameters" not in stored:  # as older files have it
        stored["rope_parameters"] = {"rope_type": "default", "rope_theta": stored["rope_theta"]}
    config = _configuration(kind, {**{name: stored[name] for name in known if name in stored}, **changes})
    return _in_parts(kind, _read(kind, config, folder, model))


# ---------------------------------------------------------------- the package


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(["Codec needs the package transformers: run pip install 'bcfusion[codec]'"]) from error
    return transformers


def _names(family: str) -> list[str]:
    """Return the settings that are the codec's own."""
    require("Codec", one_of(get_args(Family), family=family))
    library = _library()
    common = {field.name for field in dataclasses.fields(library.PreTrainedConfig)}
    kind: Any = getattr(library, _CLASSES[family][0])
    return [field.name for field in dataclasses.fields(kind) if field.name not in common]


def _configuration(family: str, settings: Mapping[str, Any]) -> Any:
    known = _names(family)
    unknown = [name for name in settings if name not in known]
    require("Codec", [f"config.{name}: {family} has no such setting{did_you_mean(name, known)}" for name in unknown])
    try:
        return getattr(_library(), _CLASSES[family][0])(**settings)
    except Exception as error:  # its checks raise classes of their own
        raise ConfigError([f"Codec: config: {_in_one_line(error)}"]) from error


def _built(family: str, settings: Mapping[str, Any]) -> Any:
    config = _configuration(family, settings)
    try:
        model = getattr(_library(), _CLASSES[family][1])(config)
    except (ValueError, RuntimeError, TypeError, KeyError, ZeroDivisionError) as error:
        raise ConfigError([f"Codec: config: {_in_one_line(error)}"]) from error
    for name, table in model.quantizer.named_buffers():  # which are zeros: an untrained codec would say nothing
        if name.endswith((".embed", ".embed_sum")):
            nn.init.normal_(table)
    return model


def _read(family: str, config: Any, folder: Path, model: str) -> Any:
    kind = getattr(_library(), _CLASSES[family][1])
    try:
        with _without_progress():
            loaded, report = kind.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # its errors are of many classes
        raise ConfigError([f"Codec: model={model}: {_WEIGHTS} cannot be read: {_in_one_line(error)}"]) from error
    missing = sorted(report["missing_keys"]) + sorted(str(each) for each in report["mismatched_keys"])
    if missing:
        raise ConfigError(
            [f"Codec: model={model}: {_WEIGHTS} lacks {len(missing)} weights of a {family}, the first is {missing[0]}"]
        )
    return loaded


@contextmanager
def _without_progress() -> Iterator[None]:
    logging = _library().utils.logging
    shown = logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an environment variable has decided about those of the hub's client
        logging.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                logging.enable_progress_bar()


def _in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


# ---------------------------------------------------------------- files


def _folder(model: str) -> Path:
    """Return the folder that holds a model, which is fetched if it is on the hub."""
    if is_on_hub(model):
        reference = parse_reference(model.removeprefix(HUB))
        require("Codec", (reference is not None, f"model={model} is no hf:OWNER/NAME or hf:OWNER/NAME@REVISION"))
        assert reference is not None
        instead = f"without a connection give a folder that holds {_CONFIG} and {_WEIGHTS}: generator.model=FOLDER"
        try:
            files = (_CONFIG, _WEIGHTS)
            return fetch(reference, files, needed=files, largest=_LARGEST, instead=instead).folder
        except CheckpointError as error:
            raise ConfigError([f"Codec: model={model}: {error}"]) from error
    folder = Path(model).expanduser()
    if not folder.is_dir():
        on_hub = parse_reference(model)
        hint = f"; on the Hugging Face hub it is hf:{model}" if on_hub else nearest_path(folder)
        raise ConfigError([f"Codec: model={model}: there is no such folder{hint}"])
    lacking = [name for name in (_CONFIG, _WEIGHTS) if not (folder / name).is_file()]
    if lacking:
        pickled = sorted(each.name for each in folder.glob("*.bin"))
        hint = f" ({pickled[0]} is a pickle, which can run code: it is never read)" if pickled else ""
        raise ConfigError(
            [
                f"Codec: model={model}: it has no {' and no '.join(lacking)}{hint}; save_pretrained of transformers "
                "writes both"
            ]
        )
    return folder


def _stored_settings(folder: Path, model: str) -> dict[str, Any]:
    file = folder / _CONFIG
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(_LARGEST[_CONFIG] + 1)[: _LARGEST[_CONFIG]].decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError([f"Codec: model={model}: {_CONFIG} cannot be read: {_in_one_line(error)}"]) from error
    if not isinstance(content, dict):
        raise ConfigError([f"Codec: model={model}: {_CONFIG} holds no settings"])
    return content


# ---------------------------------------------------------------- parts


def _in_parts(family: str, model: Any) -> CodecModel:
    config = model.config
    channels, chunk = getattr(config, "audio_channels", 1), getattr(config, "chunk_length_s", None)
    require(
        "Codec",
        (channels == 1, f"audio_channels={channels}: a codec of one channel is needed, such as {EXAMPLES}"),
        (chunk is None, f"chunk_length_s={chunk}: a codec that cuts the signal is not supported; take {EXAMPLES}"),
    )
    settings = plain_settings({name: getattr(config, name) for name in _names(family)})
    encoder: nn.Module
    decoder: nn.Module
    if family == "mimi":
        encoder, decoder = _MimiEncoder(model.encoder), _MimiDecoder(model.decoder)
        width, codebooks, frame = config.hidden_size, config.num_quantizers, config.frame_size
    elif family == "encodec":
        encoder, decoder = adopted(model.encoder), adopted(model.decoder)
        width, codebooks, frame = config.hidden_size, config.num_quantizers, config.hop_length
    else:
        encoder, decoder = model.encoder, model.decoder
        width, codebooks, frame = config.hidden_size, config.n_codebooks, config.hop_length
    lacking = 0
    if family == "dac":
        length = 1  # of what the decoder makes of a frame
        for stride in config.upsampling_ratios:  # a stride s has the padding ceil(s / 2) on either side
            length = (length - 1) * stride - 2 * ((stride + 1) // 2) + 2 * stride
        lacking = int(frame) - length
    return CodecModel(
        family,
        settings,
        encoder,
        decoder,
        model.quantizer,
        int(config.sampling_rate),
        int(frame),
        int(width),
        int(codebooks),
        lacking,
    )


def plain_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return settings in dicts and lists, whatever containers hold them."""
    return {str(name): _plain(value) for name, value in (settings or {}).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain_settings(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value
