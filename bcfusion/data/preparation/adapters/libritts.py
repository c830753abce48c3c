"""LibriTTS: the originals of LibriSpeech at 24 kHz, cut into sentences.

H. Zen et al., "LibriTTS: a corpus derived from LibriSpeech for text-to-speech", Interspeech 2019; OpenSLR 60.
LibriTTS-R (Y. Koizumi et al., Interspeech 2023; OpenSLR 141) has the same layout; a network restored it, so it is no
ground truth for bandwidth extension.
"""

from __future__ import annotations

from bcfusion.data.preparation.adapters.openslr import SubsetCorpus

ADAPTER = SubsetCorpus(
    summary="read English, 24 kHz, 2456 speakers, 585 h in official subsets",
    source="https://www.openslr.org/60/, CC BY 4.0 (--download fetches the subsets asked for)",
    layout="""\
ROOT/LibriTTS/train-clean-100/103/1241/103_1241_000000_000001.wav ...    ROOT may be LibriTTS itself, or has LibriTTS_R
ROOT/LibriTTS/{train-clean-360,train-other-500}/...
ROOT/LibriTTS/{dev-clean,dev-other}/...                                  the split valid
ROOT/LibriTTS/{test-clean,test-other}/...""",
    folders=("LibriTTS", "LibriTTS_R"),
    suffix=".wav",
    utterances={
        "train-clean-100": 33236,
        "train-clean-360": 116500,
        "train-other-500": 205044,
        "dev-clean": 5736,
        "dev-other": 4613,
        "test-clean": 4837,
        "test-other": 5120,
    },
    downloader="LIBRITTS",
)
