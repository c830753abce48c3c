from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bcfusion.errors import AudioError
from bcfusion.inference.containers import OutputFormat, check_rate, format_of_name, output_format
from bcfusion.inference.writing import write_blocks

RATE = 16000
LOSSY = {"VORBIS": 0.05, "OPUS": 0.2, "MPEG_LAYER_III": 0.1, "ULAW": 0.02, "ALAW": 0.02, "GSM610": 0.2}
COARSE = {"PCM_S8": 0.02, "PCM_U8": 0.02, "DPCM_8": 0.05}


def tone() -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(4000) / RATE)).astype(np.float32)


@pytest.mark.parametrize("container", sorted(soundfile.available_formats()))
def test_what_a_container_takes_is_written_and_read_back(container: str, tmp_path: Path) -> None:
    """Whatever is accepted works, and only what libsndfile fails to write or read is refused."""
    x, accepted, refused = tone(), 0, []
    for subtype in soundfile.available_subtypes(container):
        try:
            how = output_format(container, subtype)
            check_rate(how, RATE)
        except AudioError:
            refused.append(subtype)
            continue
        accepted += 1
        target = tmp_path / f"{subtype}{how.suffix}"
        write_blocks(iter(torch.from_numpy(x)[None].split(999, dim=1)), target, RATE, len(x), how)
        raw = {"samplerate": RATE, "channels": 1, "subtype": subtype, "format": "RAW"} if container == "RAW" else {}
        samples, rate = soundfile.read(target, **raw)
        assert rate == RATE
        assert len(x) <= len(samples) < len(x) + 1500  # whole blocks of a codec
        error_allowed = {**LOSSY, **COARSE}.get(subtype, 0.2 if "ADPCM" in subtype or subtype[0] in "GN" else 1e-3)
        assert np.abs(samples[500:3500] - x[500:3500]).max() < error_allowed, subtype
    assert accepted or container in ("SD2", "WVE", "XI")
    assert not {"PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "VORBIS", "OPUS"} & set(refused) or not accepted


def test_a_trial_leaves_nothing_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # libsndfile takes "._" there for the second half of any file that it has from a handle, and refuses an MP3
    monkeypatch.chdir(tmp_path)
    for container in soundfile.available_formats():
        with suppress(AudioError):
            output_format(container)
    assert not list(tmp_path.iterdir())


def test_names_of_formats_and_their_files() -> None:
    assert output_format() == OutputFormat("WAV", "PCM_16")
    assert (output_format("opus").subtype, output_format("opus").suffix) == ("OPUS", ".opus")
    assert output_format("ogg", "opus").suffix == ".opus"
    assert (output_format("aif").container, output_format("flac").suffix) == ("AIFF", ".flac")
    assert format_of_name(Path("a/b.CAF"), "alac_16") == OutputFormat("CAF", "ALAC_16")
    for name, subtype, says in (
        ("wav", "VORBIS", "WAV takes PCM_16, PCM_24"),
        ("flaac", None, "did you mean 'flac'"),
        ("opus", "VORBIS", "opus takes OPUS"),
        ("sd2", None, "SD2 cannot be written"),
        ("flac", "FLOAT", "FLAC takes PCM_S8, PCM_16, PCM_24"),
    ):
        with pytest.raises(AudioError) as caught:
            output_format(name, subtype)
        assert says in str(caught.value)
    for name in ("b", "b.xyz"):
        with pytest.raises(AudioError, match=r"cannot write b.*there is no such format"):
            format_of_name(Path(name))


def test_lossy_formats_take_their_own_rates_only() -> None:
    opus = output_format("opus")
    for rate in (8000, 16000, 48000):
        check_rate(opus, rate)
    with pytest.raises(AudioError, match="takes 8000, 12000, 16000, 24000, 48000 Hz"):
        check_rate(opus, 44100)
    with pytest.raises(AudioError, match="MP3 MPEG_LAYER_III has no sample rate of 96000 Hz"):
        check_rate(output_format("mp3"), 96000)


def test_a_file_beyond_four_gigabytes_gets_another_container() -> None:
    minutes = 16000 * 60
    assert output_format().container_for(200 * minutes) == "WAV"
    assert output_format().container_for(2300 * minutes) == "RF64"
    assert output_format("wav", "FLOAT").container_for(1150 * minutes) == "RF64"
    assert output_format("w64").container_for(2300 * minutes) == "W64"
    with pytest.raises(AudioError, match="at most 4 GB: give --format rf64"):
        output_format("aiff").container_for(2300 * minutes)
