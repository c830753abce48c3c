"""ABCS: Mandarin speech from a headset with an air and a bone-conduction microphone, in the two channels of a file.

M. Wang, J. Chen, X.-L. Zhang, S. Rahardja, "End-to-end multi-modal speech recognition on an air and bone conducted
speech corpus", IEEE/ACM TASLP 31, 2023. Tree, file names and channel order (air first) as in the authors' own
preparation (github.com/aaaceo890/abc_asr) and in that of CUHK's AIoT lab.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion.data.preparation.adapters import Option, Recording, missing
from bcfusion.data.preparation.adapters.channels import CHANNEL_OPTIONS, channels_of, check_channel_order
from bcfusion.data.preparation.adapters.tree import descend, relative_id, sounds_of

_SPLITS = {"train": "train", "dev": "valid", "test": "test"}


class Abcs:
    """Air and bone-conduction microphone, in the official splits.

    The sound is checked for the order of the channels. The noisy copies of the test set (``Audio/test_-5db``, ...) are
    not read: training and evaluation add noise.
    """

    summary = "Mandarin speech, air and bone-conduction microphone in stereo, 100 speakers, 42 h"
    source = "https://github.com/wangmou21/abcs (OneDrive, Baidu); no licence is stated, ask the authors"
    layout = """\
ROOT/Audio/train/Speaker8/Speaker8_C_0.wav ...    channel 0 air, channel 1 bone
ROOT/Audio/dev/SpeakerN/...
ROOT/Audio/test/SpeakerN/..."""
    kind = "speech"
    options: tuple[Option, ...] = CHANNEL_OPTIONS

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the utterances, after checking the channel order."""
        channels = channels_of(options)
        folder = descend(root, "ABCS", "Audio")
        files = {split: sounds_of(folder / split) for split in _SPLITS}
        every = [file for split in _SPLITS for file in files[split]]
        if not every:
            raise missing(self, root, "no recordings in Audio/train, Audio/dev and Audio/test")
        check_channel_order(every, channels["air"], channels["body"])
        for theirs, ours in _SPLITS.items():
            for file in files[theirs]:
                yield Recording(
                    id=relative_id(file, folder),
                    split=ours,
                    speaker=file.stem.split("_")[0],
                    paths={"air": file, "body": file},
                    channels=channels,
                )


ADAPTER = Abcs()
