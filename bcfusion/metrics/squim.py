"""SQUIM: PESQ, STOI and SI-SDR, predicted by a network from the estimate alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from bcfusion.metrics.base import resample
from bcfusion.metrics.optional import NetworkMetric, weights_file

RATE = 16_000
FILE_NAME = "squim_objective_dns2020.pth"


class Squim(NetworkMetric):
    """TorchAudio-Squim, objective part: ``squim_pesq`` (1 to 4.6), ``squim_stoi`` (0 to 1), ``squim_si_sdr`` (dB).

    A. Kumar et al., "TorchAudio-Squim: reference-less speech quality and intelligibility measures in TorchAudio", 2023.
    Higher is better. It needs no target, so it can rate real recordings. It was trained on English speech in noise at
    16 kHz (DNS 2020) and is not calibrated for body-conducted speech: compare systems by it, do not quote it as PESQ.
    Other rates are resampled to 16 kHz.

    torchaudio downloads the weights (28 MB, CC BY 4.0) on first use to ``$TORCH_HOME/hub/torchaudio/models``; or they
    come from a file.

    Args:
        weights: the file ``squim_objective_dns2020.pth``; None: torchaudio's own download.

    Raises:
        ConfigError: the file does not exist.
    """

    names = ("squim_pesq", "squim_stoi", "squim_si_sdr")

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.weights = weights_file(self, weights)
        self.higher_is_better = dict.fromkeys(self.names, True)

    def _load(self) -> Any:
        import torch  # not at the top: processes that score other metrics never load it
        from torchaudio.models import squim_objective_base
        from torchaudio.pipelines import SQUIM_OBJECTIVE

        if self.weights is None:
            return SQUIM_OBJECTIVE.get_model().eval()
        network = squim_objective_base()
        network.load_state_dict(torch.load(self.weights, map_location="cpu", weights_only=True))
        return network.eval()

    def _remedy(self) -> str:
        return f"name a copy of {FILE_NAME} with metrics.squim.weights=FILE, or run once with a connection"

    def _predict(self, network: Any, estimate: np.ndarray, sample_rate: int) -> dict[str, float]:
        import torch

        estimate = resample(estimate, sample_rate, RATE)
        with torch.inference_mode():
            stoi, pesq, si_sdr = network(torch.from_numpy(estimate).float().unsqueeze(0))
        return {"squim_pesq": float(pesq), "squim_stoi": float(stoi), "squim_si_sdr": float(si_sdr)}
