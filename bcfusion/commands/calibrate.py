"""``bcfusion calibrate``: measure a sensor on recorded pairs, for the simulators that imitate it."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from bcfusion.commands.shared.arguments import path, positive_int, verb_parser
from bcfusion.contracts import SPLITS
from bcfusion.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from bcfusion.contracts import Row
    from bcfusion.data.inspect.alignment import Alignment
    from bcfusion.data.simulation.calibration import Calibration
    from bcfusion.data.simulation.estimation import Pair

HELP = """\
Measure a body sensor on simultaneous recordings of it and of an air microphone: its response, how the response follows
the short-time spectrum of air, what is left of its changes, its own noise. A few utterances of a few speakers are
enough. Lag and polarity are found and undone.
degradation=transfer_function and degradation=magnitude_ratio use the file that is written.

examples:
  bcfusion calibrate --pairs pairs.jsonl --out throat.json --plot throat.png
  bcfusion calibrate --body recordings/throat --air recordings/air --limit 4 --out throat.json
  bcfusion calibrate --pairs pairs.jsonl --split train --sensor temple --out temple.json
  bcfusion train degradation=transfer_function degradation.body.calibration=throat.json

All recordings of a speaker give one response; each recording of an unknown speaker gives its own. Do not calibrate on
recordings that are later used for evaluation: --split, --limit and --ids select.
"""

logger = logging.getLogger(__name__)

#: edges in Hz of the bands of the table
BANDS = (60, 125, 250, 500, 1000, 2000, 4000, 8000)


def main(argv: list[str]) -> int:
    """Run the verb and return the exit status.

    Raises:
        BcfusionError: there are no pairs, none of them can be measured, or a file cannot be written.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    folders = [folder is not None for folder in (arguments.body, arguments.air)]
    if not (all(folders) if arguments.pairs is None else not any(folders)):
        parser.error("give --pairs MANIFEST, or --body DIR and --air DIR")
    rows = _chosen(arguments)
    sample_rate = arguments.sample_rate or rows[0].sample_rate
    calibration = _calibrated(rows, arguments.sensor, sample_rate)
    calibration.save(arguments.out)
    print(table(calibration))
    use = shlex.quote(f"degradation.body.calibration={arguments.out}")
    print(f"{arguments.out}: bcfusion train degradation=transfer_function {use}")
    if arguments.plot:
        from bcfusion.report.calibration_figure import calibration_figure
        from bcfusion.report.spectrogram import save_figure

        print(save_figure(calibration_figure(calibration), arguments.plot))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = verb_parser("calibrate", HELP)
    parser.add_argument("--pairs", metavar="MANIFEST", type=path, help="manifest with air and the recorded sensor")
    parser.add_argument("--body", metavar="DIR", help="folder of the sensor's recordings, matched with --air by name")
    parser.add_argument("--air", metavar="DIR", help="folder of the air microphone's recordings")
    parser.add_argument("--out", metavar="FILE", type=path, required=True, help="file to write, JSON")
    parser.add_argument("--sensor", metavar="NAME", default="body", help="column of the manifest; default: body")
    parser.add_argument("--split", choices=(*SPLITS, "all"), default="all", help="default: all")
    parser.add_argument("--limit", metavar="N", type=positive_int, help="use only the first N recordings")
    parser.add_argument("--ids", metavar="ID", nargs="+", help="use only these recordings")
    parser.add_argument("--sample-rate", metavar="HZ", type=positive_int, help="default: that of the first recording")
    parser.add_argument("--plot", metavar="FILE", type=path, help="also write a figure of the curves: png, pdf or svg")
    return parser


def _chosen(arguments: argparse.Namespace) -> list[Row]:
    from bcfusion.contracts import Corpus
    from bcfusion.data.corpora.listing import ManifestCorpus
    from bcfusion.data.corpora.pairs import PairsCorpus

    if arguments.body and arguments.sensor != "body":
        raise DataError(f"--sensor {arguments.sensor} names a column of a manifest; with --body the sensor is body")
    corpus: Corpus
    if arguments.pairs is not None:
        corpus, where = ManifestCorpus(str(arguments.pairs)), str(arguments.pairs)
    else:
        corpus, where = PairsCorpus(arguments.body, arguments.air), f"{arguments.body} and {arguments.air}"
    splits = SPLITS if arguments.split == "all" else (arguments.split,)
    rows = [row for split in splits for row in corpus.rows(split) if arguments.sensor in row.paths]
    if not rows:
        raise DataError(f"{where}: no recording with both {arguments.sensor!r} and air in split {arguments.split}")
    if arguments.ids:
        known = {row.id: row for row in rows}
        if missing := [name for name in arguments.ids if name not in known]:
            raise DataError(f"{where}: no recording {', '.join(missing)}; it has {', '.join(list(known)[:8])} ...")
        rows = [known[name] for name in arguments.ids]
    return rows[: arguments.limit]


def _calibrated(rows: Sequence[Row], sensor: str, sample_rate: int) -> Calibration:
    from tqdm import tqdm

    from bcfusion.data.corpora.speakers import wearer
    from bcfusion.data.simulation.estimation import calibrate

    with tqdm(total=2 * len(rows), unit="recording", disable=None, file=sys.stderr) as bar:
        found = rests(rows, sensor, sample_rate, bar.update)
        wearers: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            if row.id in found:
                wearers.setdefault(wearer(row.speaker, row.id), []).append(row)

        def read() -> Iterator[tuple[str, Iterator[Pair]]]:
            for (_, identity), recordings in wearers.items():
                yield identity, read_pairs(recordings, found, sensor, sample_rate)
                bar.update(len(recordings))

        try:
            return calibrate(sensor, read(), sample_rate)
        except DataError as error:
            raise DataError(f"none of {len(rows)} recordings could be measured; see the warnings") from error


def rests(
    rows: Sequence[Row], sensor: str, sample_rate: int, done: Callable[[int], object] = lambda count: None
) -> dict[str, Alignment | None]:
    """Return what is left of lag and polarity once those of the rows are undone, by the rule of ``inspect``.

    Args:
        rows: all recordings, since those of a sensor decide together what is believed of each.
        sensor: column of the sensor.
        sample_rate: to which they are resampled, in Hz.
        done: is called with 1 after each recording.

    Returns:
        By id; None where it is uncertain. Recordings that cannot be read are left out with a warning.
    """
    from bcfusion.audio import UnreadableAudio
    from bcfusion.data.inspect.alignment import alignment
    from bcfusion.data.inspect.certainty import all_believed

    read = _reader(sensor, sample_rate)
    readable, measured = [], []
    for row in rows:
        try:
            measured.append(alignment(*read(row), sample_rate))
            readable.append(row)
        except UnreadableAudio as error:
            logger.warning("%s is left out: %s", row.id, error)
        done(1)
    return {row.id: found for row, found in zip(readable, all_believed(readable, measured), strict=True)}


def read_pairs(
    rows: Sequence[Row], found: Mapping[str, Alignment | None], sensor: str, sample_rate: int
) -> Iterator[Pair]:
    """Read pairs; undo lag, polarity and gain of the rows, then the rest of lag and polarity.

    Recordings are read a second time, so that only one is in memory at a time.

    Args:
        rows: to read.
        found: of :func:`rests`.
        sensor: column of the sensor.
        sample_rate: to which they are resampled, in Hz.
    """
    import numpy as np

    from bcfusion.data.loading.reader import BODY
    from bcfusion.data.simulation.estimation import Pair

    read = _reader(sensor, sample_rate)
    for row in rows:
        body, air = read(row)
        lag, polarity = (round(row.lag * sample_rate) / sample_rate, row.polarity) if sensor == BODY else (0.0, 1)
        rest = found[row.id]
        if rest is None:
            logger.warning("%s: lag and polarity are uncertain and left unchanged", row.id)
            yield Pair(row.id, body, air, lag, polarity)
            continue
        shift = round(rest.lag_seconds * sample_rate)
        size = len(air) - abs(shift)
        late, early = max(shift, 0), max(-shift, 0)
        aligned = np.ascontiguousarray(rest.polarity * body[late : late + size])
        yield Pair(row.id, aligned, air[early : early + size], lag + rest.lag_seconds, polarity * rest.polarity)


def _reader(sensor: str, sample_rate: int) -> Callable[[Row], tuple[np.ndarray, np.ndarray]]:
    """Return a function that reads the sensor and air of a whole row."""
    from bcfusion.data.loading.reader import SensorReader

    reader = SensorReader((sensor,), {}, sample_rate)

    def read(row: Row) -> tuple[np.ndarray, np.ndarray]:
        item = reader.read(row, 0, reader.total(row), ("calibrate", row.id), training=False)
        return item["inputs"][0].numpy(), item["target"][0].numpy()

    return read


def table(calibration: Calibration) -> str:
    """Return a line per wearer: the response in dB by bands, and what was undone."""
    import numpy as np

    frequencies = calibration.frequencies
    bands = [
        (low, high, (frequencies >= low) & (frequencies < high))
        for low, high in pairwise(BANDS)
        if ((frequencies >= low) & (frequencies < high)).any()
    ]
    names = [response.id[-24:] for response in calibration.responses]
    width = max(8, *map(len, names))
    edges = "".join(f"{f'{low:g}-{high:g}':>10}" for low, high, _ in bands)
    lines = [
        f"{calibration.sensor}, {len(names)} wearers, {calibration.sample_rate} Hz; response in dB in bands of Hz",
        f"{'':{width}}  speech s   lag ms  polarity  level dB{edges}",
    ]

    def line(name: str, head: str, curve: np.ndarray) -> str:
        return f"{name:{width}}{head:>38}" + "".join(f"{np.mean(curve[chosen]):>10.1f}" for *_, chosen in bands)

    for name, response in zip(names, calibration.responses, strict=True):
        head = (
            f"{response.seconds:.1f}{1000 * response.lag:>9.2f}{response.polarity:>+10d}{response.level_ratio:>10.1f}"
        )
        lines.append(line(name, head, response.response_db))
    for name, curve in (("mean", "response_db"), ("coherence", "coherence"), ("deviation", "deviation_db")):
        lines.append(line(name, "", calibration.curves(curve).mean(axis=0)))
    model = calibration.short_time
    if model is None:
        return "\n".join([*lines, "frame by frame the sensor follows the level of air in the same band"])
    lines.append(line("left", "", np.interp(frequencies, model.centres, model.deviation_db)))
    last = np.flatnonzero(model.memory >= 0.5)[-1] * model.step
    return "\n".join(
        [
            *lines,
            f"frame by frame air's spectrum explains {model.explained:.0%} of the variance of body over air, its level "
            f"in the same band {model.explained_by_level:.0%} ({model.validation} left out in turn, ridge "
            f"{model.ridge:g} dB²);",
            f"'left' is the deviation of the rest, which lasts {1000 * last:.0f} ms (correlation of a half)",
        ]
    )
