"""LibriSpeech: read English audio books at 16 kHz.

V. Panayotov, G. Chen, D. Povey, S. Khudanpur, "LibriSpeech: an ASR corpus based on public domain audio books", ICASSP
2015; OpenSLR 12.
"""

from __future__ import annotations

from bcfusion.data.preparation.adapters.openslr import SubsetCorpus

ADAPTER = SubsetCorpus(
    summary="read English, 16 kHz, 2484 speakers, 982 h in official subsets",
    source="https://www.openslr.org/12/, CC BY 4.0 (--download fetches the subsets asked for)",
    layout="""\
ROOT/LibriSpeech/train-clean-100/103/1240/103-1240-0000.flac ...    ROOT may be LibriSpeech itself
ROOT/LibriSpeech/{train-clean-360,train-other-500}/...
ROOT/LibriSpeech/{dev-clean,dev-other}/...                          the split valid
ROOT/LibriSpeech/{test-clean,test-other}/...""",
    folders=("LibriSpeech",),
    suffix=".flac",
    utterances={
        "train-clean-100": 28539,
        "train-clean-360": 104014,
        "train-other-500": 148688,
        "dev-clean": 2703,
        "dev-other": 2864,
        "test-clean": 2620,
        "test-other": 2939,
    },
    downloader="LIBRISPEECH",
)
