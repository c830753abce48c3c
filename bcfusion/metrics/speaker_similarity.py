"""Speaker similarity: how much the estimate sounds like the same person as the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bcfusion.contracts import Skip
from bcfusion.metrics.base import SHORTEST_SECONDS, TOO_SHORT, resample, skip_silence
from bcfusion.metrics.optional import LazyMetric, require_packages, weights_file
from bcfusion.run.fetching import Reference, fetch
from bcfusion.telemetry import without_telemetry

RATE = 16_000
BANDS = 80  #: of the log mel energies that the network takes
REPOSITORY = "Wespeaker/wespeaker-voxceleb-resnet34-LM"  #: on the Hugging Face hub
FILE_NAME = "voxceleb_resnet34_LM.onnx"
LARGEST = 500_000_000  #: bytes of that file, which has 26.5 million


class SpeakerSimilarity(LazyMetric):
    """The cosine of the speaker embeddings of estimate and target: ``speaker_similarity``, -1 to 1, higher is better.

    H. Wang et al., "WeSpeaker: a research and production oriented speaker embedding learning toolkit", 2023: a network
    trained to tell speakers apart maps an utterance to a vector, here ResNet34 of VoxCeleb (English and other
    languages, 16 kHz). Its input are the log energies of 80 mel bands of Kaldi (frames of 25 ms every 10 ms, Hamming
    window, no dither), minus their mean over time, so level does not count. Other rates are resampled to 16 kHz.

    Below two seconds of speech the vectors say little. The network hears the channel, too: a muffled sensor lowers the
    value though the speaker is the same, so compare systems by it, and with the input's row.

    The weights (26.5 MB, CC BY 4.0) are downloaded on first use to the cache of the Hugging Face hub; or they come from
    a file, which may be any network that WeSpeaker exports to ONNX: 80 log mel energies in, one vector out.

    An utterance is skipped if estimate or target is silent, or if it is shorter than 0.25 s.

    Args:
        weights: an ONNX file; None: the download.

    Raises:
        ConfigError: the file does not exist, or a package that the metric needs is not installed.
    """

    names = ("speaker_similarity",)

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        require_packages(self, "onnxruntime", *(["huggingface_hub"] if weights is None else []))
        self.weights = weights_file(self, weights)
        self.higher_is_better = {"speaker_similarity": True}

    def _load(self) -> Any:
        without_telemetry()
        import onnxruntime

        path = self.weights or _fetched()
        # more threads would compete with other scoring processes and the training
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        shapes = [each.shape for each in session.get_inputs()]
        if len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][-1] != BANDS:
            raise ValueError(f"its inputs are {shapes}, not one of (batch, frames, {BANDS})")
        return session

    def _remedy(self) -> str:
        return f"name a copy of {FILE_NAME} with metrics.speaker_similarity.weights=FILE, or run once with a connection"

    def _measure(self, estimate: np.ndarray, target: np.ndarray, sample_rate: int) -> dict[str, float]:
        if estimate.size < SHORTEST_SECONDS * sample_rate:
            raise Skip(TOO_SHORT)
        skip_silence(target=target, estimate=estimate)
        session = self._loaded()
        found, expected = (embedding(session, resample(each, sample_rate, RATE)) for each in (estimate, target))
        lengths = float(np.linalg.norm(found) * np.linalg.norm(expected))
        return {"speaker_similarity": float(found @ expected) / lengths if lengths else float("nan")}


def _fetched() -> Path:
    wanted = [FILE_NAME]
    return fetch(Reference(REPOSITORY, None), wanted, needed=wanted, largest={FILE_NAME: LARGEST}).folder / FILE_NAME


def embedding(session: Any, signal: np.ndarray) -> np.ndarray:
    """Return the vector ``(D,)`` float64 of a signal ``(T,)`` in [-1, 1] at 16 kHz of at least 0.25 s.

    Samples beyond are clipped, as in a file.
    """
    import torch  # not at the top: processes that score other metrics never load it
    from torchaudio.compliance.kaldi import fbank

    # of the numbers of 16-bit samples, for which Kaldi's lower limit of the energies was made
    samples = torch.from_numpy(np.clip(signal, -1.0, 1.0)).float()[None] * 2**15
    features = fbank(
        samples,
        num_mel_bins=BANDS,
        frame_length=25.0,
        frame_shift=10.0,
        dither=0.0,
        sample_frequency=float(RATE),
        window_type="hamming",
        use_energy=False,
    )
    features = features - features.mean(dim=0)
    outputs = session.run(None, {session.get_inputs()[0].name: features[None].numpy()})
    return np.asarray(outputs[0], dtype=np.float64).ravel()
