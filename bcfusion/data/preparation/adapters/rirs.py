"""OpenSLR 28: simulated and measured room impulse responses at 16 kHz.

T. Ko et al., "A study on data augmentation of reverberant speech for robust speech recognition", ICASSP 2017. Lines of
a ``rir_list`` are ``--rir-id ID --room-id ROOM PATH``, PATH relative to the folder that contains RIRS_NOISES. The
measured responses are from RWCP, the REVERB challenge 2014 and Aachen (AIR), with 1 to 30 channels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from bcfusion.data.preparation.adapters import Option, Recording, missing
from bcfusion.data.preparation.adapters.tree import chosen, descend, grouped, sounds_of

_MEASURED = "measured"
_FOLDERS = {
    "smallroom": "simulated_rirs/smallroom",
    "mediumroom": "simulated_rirs/mediumroom",
    "largeroom": "simulated_rirs/largeroom",
    _MEASURED: "real_rirs_isotropic_noises",
}
_OPTION = Option("rooms", f"of {', '.join(_FOLDERS)}: one, several separated by commas, or all", default="all")
# The rooms of the measured responses, by what precedes and follows them in the names of the files.
_ROOMS = (
    re.compile(r"(RVB2014)_type\d_rir_([a-z]+\d)_(?:near|far)_angl[ab]"),
    re.compile(r"(RWCP)_type\d_rir_[a-z]+_([a-z0-9]+)_imp.+"),
    re.compile(r"(RWCP)_(type4)_rir_.+"),
    re.compile(r"(air)_type1_air_(?:binaural|phone)_(?:bt_)?([a-z_]+?)\d*_(?:\d|h).*"),
)


class Rirs:
    """Room responses; all of one room are in one split, rooms are divided 80/10/10 by a hash of their names.

    The first channel of a measured response is used. The noises of the same archive are left out.
    """

    summary = "60,000 simulated responses of 600 rooms and 325 measured ones, 16 kHz"
    source = "https://www.openslr.org/28/ (rirs_noises.zip), Apache 2.0"
    layout = """\
ROOT/simulated_rirs/smallroom/rir_list                     ROOT is RIRS_NOISES/ or its parent
ROOT/simulated_rirs/smallroom/Room001/Room001-00001.wav ...
ROOT/simulated_rirs/{mediumroom,largeroom}/...
ROOT/real_rirs_isotropic_noises/rir_list
ROOT/real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla.wav ..."""
    kind = "rir"
    options: tuple[Option, ...] = (_OPTION,)

    def recordings(self, root: Path, options: Mapping[str, str], unpacked: Path) -> Iterator[Recording]:
        """Yield the responses of the rooms asked for, in the order of the lists."""
        folder = descend(root, "RIRS_NOISES")
        for part in chosen(_OPTION, options[_OPTION.name], _FOLDERS):
            files = _responses(folder, folder / _FOLDERS[part])
            if not files:
                raise missing(self, root, f"no responses in {_FOLDERS[part]} (--{_OPTION.name} can exclude it)")
            channels = {"rir": 0} if part == _MEASURED else {}
            yield from grouped(files, folder, "rir", room_of, lambda file: {"room": room_of(file)}, channels)


def room_of(file: Path) -> str:
    """Return the room of a response: ``smallroom/Room001`` of a simulated one, ``RWCP_e2b`` of a measured one."""
    for pattern in _ROOMS:
        if found := pattern.fullmatch(file.stem):
            return f"{found[1]}_{found[2]}"
    return f"{file.parent.parent.name}/{file.parent.name}" if file.stem.startswith(file.parent.name) else file.stem


def _responses(root: Path, folder: Path) -> list[Path]:
    """Return the files that the list names; if there is no list, all sound files except the noises."""
    listing = folder / "rir_list"
    if listing.is_file():
        lines = listing.read_text(encoding="utf-8").splitlines()
        return [root / line.split()[-1].removeprefix("RIRS_NOISES/") for line in lines if line.strip()]
    return [file for file in sounds_of(folder) if "_noise_" not in file.name]


ADAPTER = Rirs()
