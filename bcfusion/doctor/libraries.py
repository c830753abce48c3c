"""The libraries at work: each is imported, and does a little of what it is needed for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from bcfusion.doctor.finding import Finding, fail, note, ok, why
from bcfusion.doctor.project import TORCH, installed_version
from bcfusion.doctor.remedies import after, install_extra, reinstall
from bcfusion.errors import DeviceError
from bcfusion.telemetry import without_telemetry

__all__ = ["lightning", "onnxruntime", "pesq", "resampling", "sound_cards", "sound_files", "torch", "torchaudio"]

#: libraries of CUDA, as the loader names those that a build for CUDA does not find
_OF_CUDA = ("libc10_cuda", "libtorch_cuda", "libcudart", "libcublas", "libcudnn")


def torch() -> Iterator[Finding]:
    """Look whether torch can be imported and shares arrays with numpy."""
    try:
        import numpy
        import torch
    except Exception as error:
        yield fail("torch", _import_problem("torch", error), after(error, reinstall(*TORCH)))
        return
    try:
        ones = torch.from_numpy(numpy.ones((2, 2), dtype=numpy.float32))
        (ones @ ones).numpy()
    except Exception as error:
        found = f"torch {torch.__version__} and numpy {numpy.__version__} do not fit: {why(error)}"
        yield fail("torch", found, reinstall(*TORCH))
        return
    yield ok("torch", f"{torch.__version__}, {_build(torch)}; numpy {numpy.__version__}")


def _build(torch: Any) -> str:
    if torch.version.cuda:
        return f"built for CUDA {torch.version.cuda}"
    return f"built for ROCm {torch.version.hip}" if torch.version.hip else "built for CPUs only"


def torchaudio() -> Iterator[Finding]:
    """Look whether torchaudio fits torch: it does not declare which one it was built for."""
    import torch

    version = installed_version("torchaudio") or "torchaudio"
    try:
        import torchaudio

        torchaudio.functional.melscale_fbanks(65, 0.0, 8000.0, 20, 16000)
        torchaudio.transforms.Resample(16000, 8000)(torch.zeros(1, 1600))
    except Exception as error:
        text = str(error)
        if torch.version.cuda is None and any(name in text for name in _OF_CUDA):
            found = f"{version} is built for CUDA, torch {torch.__version__} for CPUs only"
            remedy = reinstall(*TORCH)
        elif "undefined symbol" in text or any(name in text for name in (*_OF_CUDA, "libtorch", "libc10")):
            found, remedy = f"{version} was built for another torch than {torch.__version__}", reinstall(*TORCH)
        else:
            found, remedy = _import_problem("torchaudio", error), after(error, reinstall(*TORCH))
        yield fail("torchaudio", found, remedy)
        return
    yield ok("torchaudio", f"{torchaudio.__version__}, fits torch")


def lightning() -> Iterator[Finding]:
    """Look whether Lightning can be imported."""
    try:
        import lightning
        import lightning.pytorch
    except Exception as error:
        problem = _import_problem("lightning", error)
        yield fail("lightning", problem, after(error, reinstall("lightning")))
        return
    yield ok("lightning", lightning.__version__)


def pesq() -> Iterator[Finding]:
    """Look whether PESQ, which was compiled on this machine, still fits numpy."""
    try:
        import numpy
        from pesq import pesq as score

        time = numpy.arange(16000) / 16000
        voiced = numpy.sin(2 * numpy.pi * 200 * time) * (1 + numpy.sin(2 * numpy.pi * 4 * time))
        values = 0.1 * (voiced + 0.1 * numpy.random.default_rng(0).standard_normal(16000))
        value = score(16000, values, values, "wb")
    except Exception as error:
        text = str(error)
        remedy = after(error, _with_compiler())
        if isinstance(error, ModuleNotFoundError) and error.name == "pesq":
            lack = f"{_import_problem('pesq', error)}; it is compiled by pip. Without it there are no values of PESQ"
            yield note("pesq", f"{lack}: train with selection=stoi trainer.keep_best=[stoi]", _with_compiler())
        elif any(
            words in text for words in ("numpy.dtype size changed", "numpy.core.multiarray", "compiled using NumPy")
        ):
            yield fail("pesq", f"compiled for another numpy than {installed_version('numpy')}", _with_compiler())
        else:
            yield fail("pesq", why(error), remedy)
        return
    if not 4 < value < 5:
        yield fail("pesq", f"a signal compared with itself has {value:.2f}, not 4.64", _with_compiler())
        return
    yield ok("pesq", f"{installed_version('pesq') or ''}, compiled for this numpy")


def _with_compiler() -> str:
    build = reinstall("pesq", options="--no-deps --no-cache-dir")
    return f"apt-get install gcc python3-dev, then {build}"


def sound_files() -> Iterator[Finding]:
    """Look at which kinds of sound files libsndfile reads back as it has written them."""
    try:
        import numpy
        import soundfile
    except Exception as error:
        problem = "libsndfile is not found" if isinstance(error, OSError) else _import_problem("soundfile", error)
        yield fail("sound files", problem, after(error, f"{reinstall('soundfile')}, or apt-get install libsndfile1"))
        return
    samples = 0.1 * numpy.random.default_rng(0).standard_normal(16000)
    kinds = {"WAV": "PCM_24", "FLAC": "PCM_16", "OGG": "VORBIS", "Opus": "OPUS", "MP3": "MPEG_LAYER_III"}
    works: list[str] = []
    lacks: list[str] = []
    for name, subtype in kinds.items():
        memory = io.BytesIO()
        try:
            container = "OGG" if name == "Opus" else name
            soundfile.write(memory, samples, 16000, subtype=subtype, format=container)
            memory.seek(0)
            found, rate = soundfile.read(memory)
            right = rate == 16000 and abs(len(found) - len(samples)) <= 2400 and bool(numpy.isfinite(found).all())
        except Exception:
            right = False
        (works if right else lacks).append(name)
    text = f"libsndfile {soundfile.__libsndfile_version__}: {', '.join(works) or 'nothing'}"
    remedy = reinstall("soundfile")
    if "WAV" in lacks or "FLAC" in lacks:
        yield fail("sound files", f"{text}; not {', '.join(lacks)}", remedy)
    elif lacks:
        yield note("sound files", f"{text}; not {', '.join(lacks)}, for which version 1.1 is needed", remedy)
    else:
        yield ok("sound files", text)


def resampling() -> Iterator[Finding]:
    """Resample a constant from 48 to 16 kHz, as a stream does."""
    try:
        import numpy
        import soxr

        output = soxr.resample(numpy.ones(4800, numpy.float32), 48000, 16000, quality="VHQ")
        right = len(output) == 1600 and bool(abs(output[800] - 1) < 1e-3)
    except Exception as error:
        yield fail("resampling", _import_problem("soxr", error), after(error, reinstall("soxr")))
        return
    if right:
        yield ok("resampling", f"soxr {soxr.__version__}")
    else:
        yield fail("resampling", f"soxr {soxr.__version__} gives wrong values", reinstall("soxr"))


def sound_cards() -> Iterator[Finding]:
    """Look for sound devices; without one there is still ``stream --file``."""
    from bcfusion.live.device import library

    try:
        sound = library()
    except DeviceError as error:
        text, _, remedy = str(error).partition("\n")
        yield note("sound cards", text, install_extra("live") if remedy.startswith("pip ") else remedy)
        return
    try:
        devices = list(sound.query_devices())
    except Exception as error:
        yield note("sound cards", f"PortAudio: {why(error)}", "restart the sound server of this user")
        return
    counts = {kind: sum(device[f"max_{kind}_channels"] > 0 for device in devices) for kind in ("input", "output")}
    version = str(sound.get_portaudio_version()[1]).partition(",")[0]
    shown = (f"{number} {kind}{'s' * (number != 1)}" for kind, number in counts.items())
    if counts["input"] and counts["output"]:
        yield ok("sound cards", f"{', '.join(shown)}; {version}")
        return
    lacking = " and no ".join(kind for kind, number in counts.items() if not number)
    remedy = "a container needs --device /dev/snd; a user has to be in the group audio"
    yield note("sound cards", f"no {lacking}: stream and record need one, stream --file does not; {version}", remedy)


def onnxruntime() -> Iterator[Finding]:
    """Look at what onnxruntime can compute on, if it is installed."""
    if find_spec("onnxruntime") is None:
        yield ok("onnxruntime", "not installed: streams are computed by torch")
        return
    without_telemetry()
    try:
        import onnxruntime

        providers = onnxruntime.get_available_providers()
    except Exception as error:
        remedy = f"{after(error, reinstall('onnxruntime'))}, or stream --backend torch"
        # a stream falls back to torch if it cannot be imported, and ends with any other error
        found = note if isinstance(error, ImportError) else fail
        yield found("onnxruntime", _import_problem("onnxruntime", error), remedy)
        return
    names = ", ".join(name.removesuffix("ExecutionProvider") for name in providers)
    yield ok("onnxruntime", f"{onnxruntime.__version__}: {names}")


def _import_problem(package: str, error: Exception) -> str:
    """Return what keeps a package from being imported."""
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return "not installed"
    version = installed_version(package)
    return f"{version + ' ' if version else ''}cannot be imported: {why(error)}"
