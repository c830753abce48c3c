"""VCTK 0.92: read English with many accents at 48 kHz, two microphones.

J. Yamagishi, C. Veaux, K. MacDonald, "CSTR VCTK Corpus: English multi-speaker corpus for CSTR voice cloning toolkit
(version 0.92)", University of Edinburgh, 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion.data.preparation.adapters import Option, Recording, missing, split_by_speaker
from bcfusion.data.preparation.adapters.tree import descend, relative_id
from bcfusion.errors import DataError

_FOLDER = "wav48_silence_trimmed"


class Vctk:
    """One of the two microphones; the corpus has no official splits.

    Speakers are divided 80/10/10 by a hash of their names, or as the options say. Speakers p280 and p315 were not
    recorded with the second microphone.
    """

    summary = "read English, 48 kHz, 110 speakers, 44 h, two microphones"
    source = (
        "https://datashare.ed.ac.uk/handle/10283/3443 (VCTK-Corpus-0.92.zip), CC BY 4.0 (--download fetches it, 11 GB)"
    )
    layout = """\
ROOT/VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic1.flac ...    ROOT may be VCTK-Corpus-0.92 itself
ROOT/VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_001_mic2.flac ..."""
    kind = "speech"
    options: tuple[Option, ...] = (
        Option("mic", "mic1: omni, close (DPA 4035); mic2: wide band (Sennheiser MKH 800)", "mic1", ("mic1", "mic2")),
        Option(
            "valid-speakers", "separated by commas, for example p360,p361; default: a tenth, by a hash of their names"
        ),
        Option("test-speakers", "separated by commas, for example p362,s5; default: a tenth, by a hash of their names"),
    )

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the utterances, sorted by path."""
        folder = descend(root, "VCTK-Corpus-0.92", _FOLDER)
        files = sorted(folder.glob(f"*/*_{options['mic']}.flac"))
        if not files:
            raise missing(self, root, f"no SPEAKER/*_{options['mic']}.flac in a folder {_FOLDER}")
        splits = self._splits({file.parent.name for file in files}, options)
        for file in files:
            speaker = file.parent.name
            yield Recording(relative_id(file, folder), splits[speaker], speaker, {"air": file})

    def _splits(self, speakers: set[str], options: Mapping[str, str]) -> dict[str, str]:
        given: dict[str, str] = {}
        for split in ("valid", "test"):
            names = [name.strip() for name in options.get(f"{split}-speakers", "").split(",") if name.strip()]
            if unknown := [name for name in names if name not in speakers]:
                raise DataError(f"--{split}-speakers: {', '.join(unknown)}: no recordings of {options['mic']}")
            if both := [name for name in names if name in given]:
                raise DataError(f"--valid-speakers and --test-speakers both name {', '.join(both)}")
            given |= dict.fromkeys(names, split)
        valid, test = (0.0 if split in given.values() else 0.1 for split in ("valid", "test"))
        return given | split_by_speaker(speakers - given.keys(), (1 - valid - test, valid, test))

    def download(self, root: Path, options: Mapping[str, str]) -> None:
        """Fetch the corpus through torchaudio."""
        import torchaudio

        root.mkdir(parents=True, exist_ok=True)
        try:
            torchaudio.datasets.VCTK_092(str(root), mic_id=options["mic"], download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(f"cannot fetch VCTK to {root}: {error}; source: {self.source}") from error


ADAPTER = Vctk()
