"""Common Voice: sentences that volunteers read on their own devices, in many languages, MP3.

R. Ardila et al., "Common Voice: a massively-multilingual speech corpus", LREC 2020.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion.data.preparation.adapters import Option, Recording, missing
from bcfusion.errors import DataError

_SPLITS = {"train": "train", "dev": "valid", "test": "test"}
_SUFFIX = ".mp3"


class CommonVoice:
    """The official splits of one language: lists of validated clips that share no speaker (``client_id``)."""

    summary = "sentences read by volunteers, MP3, many languages"
    source = "https://commonvoice.mozilla.org/datasets (Mozilla Data Collective, after signing in), CC0"
    layout = """\
ROOT/cv-corpus-17.0-2024-03-15/en/train.tsv    ROOT may be cv-corpus-* or the folder of the language itself
ROOT/cv-corpus-17.0-2024-03-15/en/dev.tsv      the split valid
ROOT/cv-corpus-17.0-2024-03-15/en/test.tsv
ROOT/cv-corpus-17.0-2024-03-15/en/clips/common_voice_en_1.mp3 ..."""
    kind = "speech"
    options: tuple[Option, ...] = (Option("language", "for example en; default: the only one in the root"),)

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the clips, in the order of the lists."""
        folder = self._folder(root, options.get("language"))
        lists = {split: folder / f"{split}.tsv" for split in _SPLITS}
        if absent := [path.name for path in lists.values() if not path.is_file()]:
            raise missing(self, root, f"no {' and no '.join(absent)} in {folder}")
        for theirs, path in lists.items():
            with path.open(encoding="utf-8", newline="") as text:
                # quotation marks are part of the sentences
                table = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
                if absent := [name for name in ("client_id", "path") if name not in (table.fieldnames or ())]:
                    raise DataError(f"{path}: no column {' and no column '.join(absent)}: not a list of Common Voice")
                for clip in table:
                    if not clip["client_id"] or not clip["path"]:
                        raise DataError(f"{path}, line {table.line_num}: no client_id or no path")
                    # early releases left the suffix out
                    name = clip["path"].removesuffix(_SUFFIX)
                    yield Recording(
                        id=f"{folder.name}/{name}",
                        split=_SPLITS[theirs],
                        speaker=clip["client_id"],
                        paths={"air": folder / "clips" / (name + _SUFFIX)},
                        extra={"language": folder.name},
                    )

    def _folder(self, root: Path, language: str | None) -> Path:
        found = sorted(
            path.parent for pattern in (".", "*", "cv-corpus-*/*") for path in root.glob(f"{pattern}/train.tsv")
        )
        if language is not None:
            found = [folder for folder in found if folder.resolve().name == language]
        if not found:
            raise missing(self, root, "no train.tsv" + (f" in a folder {language}" if language else ""))
        if len(found) > 1:
            names = ", ".join(str(folder.relative_to(root)) for folder in found[:10])
            raise DataError(f"{root} contains {names}: give --language, or one of them as --root")
        return found[0].resolve() if found[0] == root else found[0]


ADAPTER = CommonVoice()
