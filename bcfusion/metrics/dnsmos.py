"""DNSMOS: ratings of signal, background and overall quality that networks predict from the estimate alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from bcfusion.metrics.base import resample
from bcfusion.metrics.optional import NetworkMetric, require_packages
from bcfusion.telemetry import without_telemetry

RATE = 16_000


class Dnsmos(NetworkMetric):
    """Ratings from 1 to 5, higher is better: ``dnsmos_ovrl``, ``dnsmos_sig``, ``dnsmos_bak``, ``dnsmos_p808``.

    C. K. A. Reddy et al., "DNSMOS P.835: a non-intrusive perceptual objective speech quality metric to evaluate noise
    suppressors", 2022 (overall, signal, background), and "DNSMOS", 2021 (P.808, one rating). Windows of 9.01 s with a
    hop of one second are averaged; a shorter utterance is repeated until it fills a window. Computed at 16 kHz; other
    rates are resampled. Samples outside [-1, 1] are clipped, as in a file.

    The networks are part of the package speechmos (MIT): nothing is downloaded. An utterance takes about a second.

    Args:
        personalized: use the variant that counts other talkers as background.

    Raises:
        ConfigError: speechmos or a package that it needs is not installed.
    """

    names = ("dnsmos_ovrl", "dnsmos_sig", "dnsmos_bak", "dnsmos_p808")

    def __init__(self, personalized: bool = False) -> None:
        super().__init__()
        require_packages(self, "speechmos", "onnxruntime", "librosa", "requests")
        self.personalized = personalized
        self.higher_is_better = dict.fromkeys(self.names, True)

    def _load(self) -> Any:
        from pathlib import Path

        without_telemetry()
        import onnxruntime
        from speechmos import dnsmos

        folder = Path(dnsmos.__file__).parent
        primary = str(folder / ("pdnsmos_models" if self.personalized else "dnsmos_models") / "sig_bak_ovr.onnx")
        p808 = str(folder / "dnsmos_models" / "model_v8.onnx")
        network = dnsmos.DNSMOS(primary, p808)
        # its own sessions would each use every core, competing with other scoring processes and the training
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        network.onnx_sess = onnxruntime.InferenceSession(primary, options, providers=["CPUExecutionProvider"])
        network.p808_onnx_sess = onnxruntime.InferenceSession(p808, options, providers=["CPUExecutionProvider"])
        return network

    def _remedy(self) -> str:
        return "the networks are files of the package speechmos: pip install --force-reinstall 'bcfusion[metrics]'"

    def _predict(self, network: Any, estimate: np.ndarray, sample_rate: int) -> dict[str, float]:
        estimate = np.clip(resample(estimate, sample_rate, RATE), -1.0, 1.0)
        ratings = network(estimate.astype(np.float32), RATE, self.personalized)
        return {name: float(ratings[f"{name.removeprefix('dnsmos_')}_mos"]) for name in self.names}
