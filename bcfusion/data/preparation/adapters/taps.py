"""TAPS: Korean speech from a throat microphone and an acoustic microphone at 16 kHz.

Y. Kim, Y. Song, Y. Chung, "TAPS: Throat and Acoustic Paired Speech Dataset for deep learning-based speech enhancement",
arXiv:2502.11478, 2025. Columns and splits (``train``, ``dev``, ``test``) as on the authors' page and in users' loaders.
We found no statement of the names of the parquet files, so every layout that Hugging Face writes is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion.contracts import UNKNOWN_SPEAKER
from bcfusion.data.preparation.adapters import Option, Recording, missing
from bcfusion.data.preparation.adapters.parquet import download, find_shards, unpack
from bcfusion.data.preparation.adapters.vibravox import facts, utterance_name

_REPOSITORY = "yskim3271/Throat_and_Acoustic_Pairing_Speech_Dataset"
_SOUNDS = {"air": "audio.acoustic_microphone", "body": "audio.throat_microphone"}
_SPLITS = {"train": "train", "dev": "valid", "test": "test"}
_ABOUT = ("speaker_id", "sentence_id", "gender", "text", "normalized_text")


class Taps:
    """Throat (``body``) and acoustic microphone (``air``), in the official splits, which share no speaker.

    The authors aligned the two by cross-correlation, reduced the noise of the acoustic microphone with Demucs, and
    upsampled the throat sensor, an accelerometer, from 8 kHz.
    """

    summary = "Korean speech, throat and acoustic microphone, 16 kHz, 60 speakers, 15 h"
    source = f"https://huggingface.co/datasets/{_REPOSITORY}, CC BY 4.0 (--download fetches it)"
    layout = """\
ROOT/data/train-00000-of-000NN.parquet ...
ROOT/data/dev-00000-of-000NN.parquet ...
ROOT/data/test-00000-of-000NN.parquet ...
(or ROOT/SPLIT-*.parquet, or ROOT/default/SPLIT/0000.parquet, as Hugging Face converts it)"""
    kind = "speech"
    options: tuple[Option, ...] = ()

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the utterances; their sounds are written to ``unpacked/SPLIT/{air,body}/SPEAKER/ID.flac``."""
        folders = [root / "data", root, root / "default"]
        shards = {split: find_shards(folders, split) for split in _SPLITS}
        if not any(shards.values()):
            raise missing(self, root, "no parquet files")
        for theirs, ours in _SPLITS.items():
            for name, files, about in unpack(shards[theirs], _SOUNDS, _ABOUT, utterance_name, unpacked / ours):
                speaker = str(about.get("speaker_id", UNKNOWN_SPEAKER))
                yield Recording(id=name, split=ours, speaker=speaker, paths=files, extra=facts(about))

    def download(self, root: Path, options: Mapping[str, str]) -> None:
        """Fetch the parquet files through huggingface_hub."""
        download(_REPOSITORY, "*.parquet", root)


ADAPTER = Taps()
