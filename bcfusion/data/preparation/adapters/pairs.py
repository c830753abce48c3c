"""Two folders, recordings of a body sensor and of the air microphone, matched by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion.data.corpora.pairs import files_by_name
from bcfusion.data.preparation.adapters import Option, Recording, missing
from bcfusion.data.preparation.adapters.folder import PLACE_OPTIONS, placed
from bcfusion.files import on_disk

logger = logging.getLogger(__name__)


class Pairs:
    """Simultaneous recordings in mono files; paths below the two folders, without suffix, must be equal."""

    summary = "two folders, body sensor and air microphone, files matched by name"
    source = "your own recordings"
    layout = """\
ROOT/air/NAME.flac     NAME: [train|valid|test/] [SPEAKER/] name, the same in both folders
ROOT/body/NAME.flac    --air and --body give other names of the two folders"""
    kind = "speech"
    options: tuple[Option, ...] = (
        Option("air", "folder of the air microphone, below the root or absolute", "air"),
        Option("body", "folder of the body sensor, below the root or absolute", "body"),
        *PLACE_OPTIONS,
    )

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the pairs, sorted by name; a warning counts files without a partner."""
        air, body = (on_disk(root / Path(os.path.expanduser(options[sensor]))) for sensor in ("air", "body"))
        for sensor, folder in (("air", air), ("body", body)):
            if not folder.is_dir():
                raise missing(self, root, f"no folder {folder}, which --{sensor} names")
        partners = files_by_name(body)
        files_by_name(air)  # refuses two files with one name
        found = placed(self, air, options)
        pairs = [one for one in found if one.id in partners]
        if not pairs:
            raise missing(self, root, f"no file in {body} has the name of a file in {air}")
        for folder, alone in ((air, len(found) - len(pairs)), (body, len(partners) - len(pairs))):
            if alone:
                logger.warning("%s: %d file(s) have no partner and are ignored", folder, alone)
        for one in pairs:
            paths = {"air": one.file, "body": partners[one.id]}
            yield Recording(id=one.id, split=one.split, speaker=one.speaker, paths=paths)


ADAPTER = Pairs()
