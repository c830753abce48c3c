"""Vibravox: French speech from five body sensors and a headset microphone at 48 kHz.

J. Hauret et al., "Vibravox: a dataset of French speech captured with body-conduction audio sensors", Speech
Communication 172, 2025. Columns and subsets as in the authors' loaders (github.com/jhauret/vibravox), names of the
parquet files as Hugging Face lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bcfusion.contracts import UNKNOWN_SPEAKER
from bcfusion.data.preparation.adapters import Option, Recording, missing
from bcfusion.data.preparation.adapters.parquet import download, find_shards, unpack

_REPOSITORY = "Cnam-LMSSC/vibravox"
_AIR = "headset_microphone"
_SENSORS = (
    "throat_microphone",
    "forehead_accelerometer",
    "temple_vibration_pickup",
    "rigid_in_ear_microphone",
    "soft_in_ear_microphone",
)
_SUBSETS = ("speech_clean", "speech_noisy", "speechless_clean", "speechless_noisy")
_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
_ABOUT = ("speaker_id", "sentence_id", "gender", "raw_text")


class Vibravox:
    """Each body sensor with the headset microphone, in the official splits, which share no speaker.

    A recording has ``air`` (the headset) and ``body`` (a sensor); with ``--sensor all`` each utterance appears five
    times, once per sensor. ``speech_noisy`` was recorded in noise, so its headset is no clean target; the
    ``speechless`` subsets hold what the sensors pick up from the room and from a silent wearer.
    """

    summary = "French speech, five body sensors and a headset microphone, 48 kHz, 188 speakers, 45 h"
    source = f"https://huggingface.co/datasets/{_REPOSITORY}, CC BY 4.0 (--download fetches the subset asked for)"
    layout = """\
ROOT/speech_clean/train-00000-of-00201.parquet ...
ROOT/speech_clean/validation-00000-of-000NN.parquet ...
ROOT/speech_clean/test-00000-of-00030.parquet ...
ROOT/{speech_noisy,speechless_clean,speechless_noisy}/...
(or SUBSET/SPLIT/0000.parquet, as Hugging Face converts it)"""
    kind = "speech"
    options: tuple[Option, ...] = (
        Option("sensor", "body sensor to pair with the headset", "throat_microphone", (*_SENSORS, "all")),
        Option("subset", "part of the corpus", "speech_clean", _SUBSETS),
    )

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the utterances of a subset; sounds are written to ``unpacked/SUBSET/SPLIT/SENSOR/SPEAKER/ID.flac``."""
        subset = options["subset"]
        sensors = _SENSORS if options["sensor"] == "all" else (options["sensor"],)
        shards = {split: find_shards([root / subset], split) for split in _SPLITS}
        if not any(shards.values()):
            raise missing(self, root, f"no parquet files of {subset}")
        sounds = {sensor: f"audio.{sensor}" for sensor in (_AIR, *sensors)}
        for theirs, ours in _SPLITS.items():
            rows = unpack(shards[theirs], sounds, _ABOUT, utterance_name, unpacked / subset / ours)
            for name, files, about in rows:
                for sensor in sensors:
                    several = len(sensors) > 1
                    tail = f"/{sensor}" if several else ""
                    # each sensor of a wearer has its own lag and polarity
                    session = {"session": sensor} if several else {}
                    yield Recording(
                        id=f"{subset}/{name}{tail}",
                        split=ours,
                        speaker=str(about.get("speaker_id", UNKNOWN_SPEAKER)),
                        paths={"air": files[_AIR], "body": files[sensor]},
                        extra={"sensor": sensor, **session, **facts(about)},
                    )

    def download(self, root: Path, options: Mapping[str, str]) -> None:
        """Fetch the parquet files of a subset through huggingface_hub; ``speech_clean`` alone is over 100 GB."""
        download(_REPOSITORY, f"{options['subset']}/*.parquet", root)


def utterance_name(about: Mapping[str, Any]) -> str:
    """Return ``SPEAKER/SENTENCE`` in characters safe for file names; ``SPEAKER/0`` if no sentence is given."""
    speaker, sentence = (re.sub(r"[^\w.-]", "_", str(about.get(key))) for key in ("speaker_id", "sentence_id"))
    return f"{speaker}/{'0' if sentence == 'None' else sentence}"


def facts(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that have a value, except speaker and sentence."""
    named = ("speaker_id", "sentence_id")
    return {key: value for key, value in about.items() if key not in named and value is not None}


ADAPTER = Vibravox()
