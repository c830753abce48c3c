"""What LibriSpeech and LibriTTS share: subsets named train-*, dev-*, test-*, each a tree of speakers and chapters."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bcfusion.data.preparation.adapters import Option, Recording, missing
from bcfusion.data.preparation.adapters.tree import chosen, descend, relative_id
from bcfusion.errors import DataError

logger = logging.getLogger(__name__)

_SPLITS = {"train": "train", "dev": "valid", "test": "test"}
_FETCHED = "train-clean-100,dev-clean,test-clean"


@dataclass
class SubsetCorpus:
    """A corpus of official subsets ``FOLDER/SUBSET/SPEAKER/CHAPTER/NAME``, which share no speaker.

    Attributes:
        summary: as in :class:`~bcfusion.data.preparation.adapters.Adapter`; likewise ``source`` and ``layout``.
        source: where to get it.
        layout: the expected tree.
        folders: names of the folder that the archives unpack to.
        suffix: of the recordings.
        utterances: their number in each subset, as published.
        downloader: name of the class in ``torchaudio.datasets``.
        kind: always ``speech``.
        options: ``--subsets``.
    """

    summary: str
    source: str
    layout: str
    folders: tuple[str, ...]
    suffix: str
    utterances: Mapping[str, int]
    downloader: str
    kind: str = "speech"
    options: tuple[Option, ...] = field(init=False)

    def __post_init__(self) -> None:
        of = ", ".join(self.utterances)
        self.options = (Option("subsets", f"separated by commas: {of}; default: all that exist"),)

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the utterances, sorted by path within each subset; a warning names incomplete subsets."""
        folder = next((found for name in self.folders if (found := descend(root, name)) != root), root)
        there = [subset for subset in self.utterances if (folder / subset).is_dir()]
        if not there:
            raise missing(self, root, f"none of the folders {', '.join(self.utterances)}")
        asked = chosen(self.options[0], options["subsets"], self.utterances) if "subsets" in options else there
        if absent := [subset for subset in asked if subset not in there]:
            raise missing(self, root, f"no folder {' and no folder '.join(absent)}, which --subsets names")
        for subset in asked:
            files = sorted((folder / subset).glob(f"*/*/*{self.suffix}"))
            if len(files) < self.utterances[subset]:
                logger.warning(
                    "%s: only %d of the %d utterances of %s exist: was an archive unpacked incompletely?",
                    folder,
                    len(files),
                    self.utterances[subset],
                    subset,
                )
            for file in files:
                yield Recording(
                    id=relative_id(file, folder),
                    split=_SPLITS[subset.partition("-")[0]],
                    speaker=file.parent.parent.name,
                    paths={"air": file},
                    extra={"subset": subset},
                )

    def download(self, root: Path, options: Mapping[str, str]) -> None:
        """Fetch the subsets asked for, by default train-clean-100, dev-clean and test-clean, through torchaudio."""
        import torchaudio

        fetch = getattr(torchaudio.datasets, self.downloader)
        root.mkdir(parents=True, exist_ok=True)
        for subset in chosen(self.options[0], options.get("subsets", _FETCHED), self.utterances):
            try:
                fetch(str(root), url=subset, download=True)
            except (OSError, RuntimeError) as error:
                raise DataError(f"cannot fetch {subset} to {root}: {error}; source: {self.source}") from error
