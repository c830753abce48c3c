"""A bundle of the Hugging Face hub as a folder of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from bcfusion.files import appearing_folder
from bcfusion.run.bundle_files import HEADER, KNOWN, read_bundle, read_discriminators, require_place
from bcfusion.run.card import CARD, read_card
from bcfusion.run.description import Bundle
from bcfusion.run.fetching import Fetched
from bcfusion.run.layout import BUNDLE_CONFIG
from bcfusion.run.models import HUB, fetch_bundle
from bcfusion.run.portable import portable_training
from bcfusion.run.trust import require_own_code
from bcfusion.run.yaml_file import read_yaml

__all__ = ["pull"]


def pull(reference: str, output: Path, *, overwrite: bool = False, trust_code: bool = False) -> Fetched:
    """Write the bundle in a repository into a folder, which appears whole or not at all.

    Its ``config.yaml`` then also says which repository and revision it comes from, and no longer holds settings that
    concern the machine that trained it.

    Args:
        reference: ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
        output: the folder.
        overwrite: whether an earlier model in it is replaced.
        trust_code: whether it may name other code than that of bcfusion's networks.

    Raises:
        CheckpointError: ``output`` is in use, the bundle cannot be fetched or is damaged, or names other code.
        WriteError: ``output`` cannot be written.
    """
    require_place(output, overwrite)
    fetched = fetch_bundle(reference, discriminators=True)
    if not trust_code:
        require_own_code(fetched.folder, f"{HUB}{fetched.repository}")
    bundle, _ = read_bundle(fetched.folder)
    read_discriminators(fetched.folder)
    read_card(fetched.folder / CARD)
    with appearing_folder(output) as part:
        for name in KNOWN:
            if (fetched.folder / name).is_file():
                shutil.copyfile(fetched.folder / name, part / name)
        text = yaml.safe_dump(_with_origin(bundle, fetched), sort_keys=False, allow_unicode=True)
        (part / BUNDLE_CONFIG).write_text(HEADER.format(name=output.name) + text, encoding="utf-8")
    return fetched


def _with_origin(bundle: Bundle, fetched: Fetched) -> dict[str, Any]:
    content: dict[str, Any] = read_yaml(fetched.folder / BUNDLE_CONFIG)
    origin = {"repository": fetched.repository, "revision": fetched.revision}
    return {**content, "training": {**portable_training(bundle.training), "hub": origin}}
