"""How similar a simulated sensor is to the real one, on recorded pairs of other wearers than those it was measured on.

BCFUSION_CORPORA=FOLDER python scripts/sensor_fit.py
python scripts/sensor_fit.py --pairs BODY_DIR AIR_DIR [BODY_DIR AIR_DIR ...] --folds 4

Without --pairs: the 16 pairs of throat_pairs and throat_pairs_2 in that folder. The sensor is measured on the other
folds, then simulated from the air recordings of the fold left out, for two drawn wearers. Printed are

- the share of the variance of the short-time ratio of body to air that its level, and its whole spectrum, explain;
- by octaves, over frames of speech, means over recordings: coherence of body and air; correlation of body's and air's
  band levels over time; deviation of body's band levels, their correlation with themselves 64 ms later, and with those
  from 250 to 500 Hz; deviation of the ratio of body to air; level of the speech; level and deviation in pauses;
- STOI and PESQ of body against air.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from bcfusion.commands.calibrate import read_pairs, rests
from bcfusion.contracts import SPLITS, Draw
from bcfusion.data.corpora.pairs import PairsCorpus
from bcfusion.data.seeding import generator_for
from bcfusion.data.simulation.bands import band_centres, band_weights
from bcfusion.data.simulation.estimation import Pair, calibrate
from bcfusion.data.simulation.frames import decibels, grid, hann, spectra
from bcfusion.data.simulation.transfer_function import TransferFunction
from bcfusion.metrics.stoi import Stoi

RATE = 16000
EDGES = (60, 125, 250, 500, 1000, 2000, 4000, 7900)
#: arguments of the simulations that are compared
SIMULATIONS = {"level": {"follow": "level"}, "spectrum": {"follow": "spectrum"}}
WEARERS = 2  # drawn for each recording
LAG = 8  # frames, 64 ms


def measures(body: np.ndarray, air: np.ndarray) -> dict[str, list[float]]:
    """Return each measure by octaves, or a single score."""
    from pesq import NoUtterancesError, pesq

    at = grid(RATE)
    centres = band_centres(RATE)
    bins = [(at >= low) & (at < high) for low, high in pairwise(EDGES)]
    bands = [(centres >= low) & (centres < high) for low, high in pairwise(EDGES)]
    spectrum = [spectra(signal.astype(np.float64), hann(RATE)) for signal in (air, body)]
    power = [np.abs(values) ** 2 for values in spectrum]
    energy = power[0].sum(axis=1)
    speech = energy > energy.max() * 10**-3.5
    cross = np.abs((spectrum[0][speech].conj() * spectrum[1][speech]).sum(axis=0)) ** 2
    coherence = cross / (power[0][speech].sum(axis=0) * power[1][speech].sum(axis=0))
    levels = [decibels(values @ band_weights(centres, at).T) for values in power]
    air_level, body_level = (values[speech] - values[speech].mean(axis=0) for values in levels)
    deviation = body_level.std(axis=0)
    along = np.mean(air_level * body_level, axis=0) / (air_level.std(axis=0) * deviation)
    centred = levels[1] - levels[1][speech].mean(axis=0)
    both = speech[LAG:] & speech[:-LAG]
    later = np.mean(centred[LAG:][both] * centred[:-LAG][both], axis=0) / deviation**2
    between = np.corrcoef(body_level.T)
    pause = ~(np.convolve(speech, np.ones(17), "same") > 0)

    def by_octaves(values: np.ndarray) -> list[float]:
        return [float(values[chosen].mean()) for chosen in bands]

    found = {
        "coherence": [float(coherence[chosen].mean()) for chosen in bins],
        "correlation with air": by_octaves(along),
        "deviation, dB": by_octaves(deviation),
        "64 ms later": by_octaves(later),
        "with 250-500 Hz": by_octaves(between[bands[2]].mean(axis=0)),
        "ratio deviation, dB": by_octaves((body_level - air_level).std(axis=0)),
        "speech re air, dB": [float(x) for x in by_octaves(levels[1][speech].mean(axis=0) - levels[0][speech].mean())],
        "STOI": [Stoi().score(body, air, RATE)["stoi"]],
    }
    if pause.sum() > LAG:
        found["pauses re speech, dB"] = by_octaves(centred[pause].mean(axis=0))
        found["pauses deviation, dB"] = by_octaves(centred[pause].std(axis=0))
    with suppress(NoUtterancesError):
        found["PESQ"] = [float(pesq(RATE, air, body, "wb"))]
    return found


def recordings(folders: list[tuple[str, str]]) -> list[Pair]:
    """Read all pairs, aligned, in the order of their names."""
    pairs: list[Pair] = []
    for body, air in folders:
        corpus = PairsCorpus(body, air)
        rows = sorted((row for split in SPLITS for row in corpus.rows(split)), key=lambda row: row.id)
        found = rests(rows, "body", RATE)
        readable = [row for row in rows if row.id in found]
        pairs += [Pair(f"{body}/{one.id}", one.body, one.air) for one in read_pairs(readable, found, "body", RATE)]
    return pairs


def simulated(pairs: list[Pair], folds: int, options: dict[str, str]) -> list[dict[str, list[float]]]:
    """Return the measures of every simulated recording."""
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for fold in range(folds):
            file = Path(folder) / "sensor.json"
            calibrate("body", [(p.id, [p]) for n, p in enumerate(pairs) if n % folds != fold], RATE).save(file)
            simulator = TransferFunction(str(file), **options)  # type: ignore[arg-type]
            for number in range(fold, len(pairs), folds):
                air = torch.from_numpy(pairs[number].air.copy())[None]
                for wearer in range(WEARERS):
                    generators = (generator_for("sensor_fit", kind, number, wearer) for kind in ("item", "body"))
                    signal = simulator(air, Draw(RATE, *generators, training=False))["signal"]
                    made.append(measures(signal[0].numpy(), pairs[number].air))
    return made


def main() -> None:
    """Measure, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", metavar="DIR", help="folders of body and air, in turn")
    parser.add_argument("--folds", type=int, default=4)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if arguments.pairs:
        folders = list(zip(arguments.pairs[::2], arguments.pairs[1::2], strict=True))
    else:
        root = Path(os.environ["BCFUSION_CORPORA"])
        folders = [
            (str(root / name / "throat"), str(root / name / "air")) for name in ("throat_pairs", "throat_pairs_2")
        ]
    pairs = recordings(folders)
    model = calibrate("body", [(pair.id, [pair]) for pair in pairs], RATE).short_time
    if model is not None:
        print(f"{len(pairs)} pairs; of the variance of body over air, {model.validation} left out in turn,")
        print(f"air's level in the band explains {model.explained_by_level:.3f}, its spectrum {model.explained:.3f}")
    tables = {"real": [measures(pair.body, pair.air) for pair in pairs]}
    tables |= {name: simulated(pairs, arguments.folds, options) for name, options in SIMULATIONS.items()}
    print(f"{'':32}" + "".join(f"{f'{low}-{high}':>11}" for low, high in pairwise(EDGES)))
    for name in tables["real"][0]:
        for kind, rows in tables.items():
            values = np.mean([row[name] for row in rows if name in row], axis=0)
            print(f"{name:22}{kind:10}" + "".join(f"{value:11.2f}" for value in values))


if __name__ == "__main__":
    main()
