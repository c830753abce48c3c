"""Libraries that cannot be imported or do not do their work, made up as packages earlier on the path."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_sounddevice import FakeSound

from bcfusion.doctor import libraries
from bcfusion.doctor.finding import FAIL, NOTE, OK, Finding

ROOT = Path(__file__).resolve().parents[2]
Look = Callable[[str], Finding]
TORCH_FOR_CPUS = "__version__ = '2.11.0+cpu'\nclass version:\n    cuda = hip = None\n"


@pytest.fixture
def package(tmp_path: Path) -> Callable[[str, str], None]:
    """Return a function that makes a package of one file in a folder that comes first on the path."""

    def make(name: str, code: str) -> None:
        folder = tmp_path / "first" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(code)

    return make


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Return a function that gives the one finding of a check, in a process where the made-up packages come first."""

    def of(check: str) -> Finding:
        code = (
            "import sys, json, dataclasses; sys.path[:0] = sys.argv[1:]; from bcfusion.doctor import libraries; "
            f"print(json.dumps([dataclasses.asdict(each) for each in libraries.{check}()]))"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "first"), str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        [found] = json.loads(done.stdout)
        return Finding(**found)

    return of


@pytest.mark.slow
def test_a_torch_that_cannot_be_loaded_comes_with_torchaudio(package: Callable[[str, str], None], look: Look) -> None:
    package("torch", "raise ImportError('libtorch_cpu.so: cannot enable executable stack')")
    found = look("torch")
    assert found.status == FAIL
    assert "cannot be imported: ImportError: libtorch_cpu.so" in found.text
    assert found.remedy.endswith("--force-reinstall 'torch==2.11.*' 'torchaudio==2.11.*'")


@pytest.mark.slow
def test_a_torch_of_another_numpy_is_named(package: Callable[[str, str], None], look: Look) -> None:
    package("torch", "__version__ = '2.0'\ndef from_numpy(x):\n    raise RuntimeError('Numpy is not available')\n")
    found = look("torch")
    assert found.status == FAIL
    assert "torch 2.0 and numpy" in found.text
    assert "do not fit" in found.text


@pytest.mark.slow
def test_a_torchaudio_for_cuda_beside_a_torch_for_cpus(package: Callable[[str, str], None], look: Look) -> None:
    package("torch", TORCH_FOR_CPUS)
    package("torchaudio", "raise OSError('libc10_cuda.so: cannot open shared object file: No such file or directory')")
    found = look("torchaudio")
    assert found.status == FAIL
    assert "is built for CUDA, torch 2.11.0+cpu for CPUs only" in found.text
    assert found.remedy.endswith("'torch==2.11.*' 'torchaudio==2.11.*'")


@pytest.mark.slow
@pytest.mark.parametrize(
    "message",
    [
        "/site/torchaudio/lib/_torchaudio.abi3.so: undefined symbol: _ZN3c105Error",
        "libtorch.so: cannot open shared object file: No such file or directory",
    ],
)
def test_a_torchaudio_that_was_built_for_another_torch(
    package: Callable[[str, str], None], look: Look, message: str
) -> None:
    package("torch", TORCH_FOR_CPUS)
    package("torchaudio", f"raise OSError({message!r})")
    found = look("torchaudio")
    assert found.status == FAIL
    assert "was built for another torch than 2.11.0+cpu" in found.text


@pytest.mark.slow
def test_a_pesq_that_was_compiled_for_another_numpy(package: Callable[[str, str], None], look: Look) -> None:
    reason = "numpy.dtype size changed, may indicate binary incompatibility. Expected 96 from C header, got 88"
    package("pesq", f"raise ValueError({reason!r})")
    found = look("pesq")
    assert found.status == FAIL
    assert found.text.startswith("compiled for another numpy than ")
    assert "--no-cache-dir 'pesq>=0.0.4,<0.1'" in found.remedy


@pytest.mark.slow
def test_a_pesq_that_computes_nonsense(package: Callable[[str, str], None], look: Look) -> None:
    package("pesq", "def pesq(rate, reference, estimate, mode):\n    return 1.2\n")
    assert (look("pesq").status, look("pesq").text) == (FAIL, "a signal compared with itself has 1.20, not 4.64")


@pytest.mark.slow
def test_a_missing_package_is_not_one_that_is_broken(package: Callable[[str, str], None], look: Look) -> None:
    package("lightning", "raise ModuleNotFoundError(\"No module named 'lightning'\", name='lightning')")
    assert look("lightning").text == "not installed"


@pytest.mark.slow
def test_a_lightning_that_lacks_something(package: Callable[[str, str], None], look: Look) -> None:
    package("lightning", "import no_such_module_anywhere")
    found = look("lightning")
    assert found.status == FAIL
    assert "No module named 'no_such_module_anywhere'" in found.text


@pytest.mark.slow
def test_without_libsndfile_no_file_is_read(package: Callable[[str, str], None], look: Look) -> None:
    package("soundfile", "raise OSError('sndfile library not found')")
    found = look("sound_files")
    assert (found.status, found.text) == (FAIL, "libsndfile is not found")
    assert "apt-get install libsndfile1" in found.remedy


@pytest.mark.slow
def test_without_onnxruntime_streams_are_computed_by_torch(package: Callable[[str, str], None], look: Look) -> None:
    package("onnxruntime", "raise ImportError('GLIBC_2.38 not found')")
    found = look("onnxruntime")
    assert found.status == NOTE
    assert "GLIBC_2.38 not found" in found.text
    assert "--backend torch" in found.remedy


@pytest.mark.slow
def test_without_portaudio_there_is_no_sound_card(package: Callable[[str, str], None], look: Look) -> None:
    package("sounddevice", "raise OSError('PortAudio library not found')")
    found = look("sound_cards")
    assert (found.status, found.remedy) == (NOTE, "apt-get install libportaudio2")
    assert "PortAudio" in found.text


@pytest.mark.slow
def test_without_soxr_nothing_is_resampled(package: Callable[[str, str], None], look: Look) -> None:
    package("soxr", "raise ImportError('libsoxr.so: undefined symbol')")
    found = look("resampling")
    assert found.status == FAIL
    assert found.remedy.endswith("--no-deps 'soxr>=0.5,<2'")


# ---------------------------------------------------------------- in this process


def test_what_is_installed_here_works() -> None:
    for check in (libraries.torch, libraries.torchaudio, libraries.pesq, libraries.sound_files, libraries.resampling):
        assert [finding.status for finding in check()] == [OK], check


def test_an_old_libsndfile_lacks_mp3_and_opus(monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    write = soundfile.write

    def old(file: object, data: object, rate: int, subtype: str, format: str) -> None:
        if subtype in ("OPUS", "MPEG_LAYER_III"):
            raise soundfile.LibsndfileError(1)
        write(file, data, rate, subtype=subtype, format=format)

    monkeypatch.setattr(soundfile, "write", old)
    [found] = libraries.sound_files()
    assert found.status == NOTE
    assert ": WAV, FLAC, OGG; not Opus, MP3" in found.text


@pytest.mark.parametrize(
    ("devices", "status", "says"),
    [
        ([("card", 2, 2, 48000)], OK, "1 input, 1 output; "),
        ([("microphone", 1, 0, 48000)], NOTE, "no output:"),
        ([], NOTE, "no input and no output:"),
    ],
)
def test_sound_devices_are_counted(
    devices: list[tuple[str, int, int, int]], status: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = FakeSound(*devices)
    sound.get_portaudio_version = lambda: (1246976, "PortAudio V19.7.0, revision 1")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", sound)
    [found] = libraries.sound_cards()
    assert found.status == status
    assert says in found.text
    assert found.text.endswith("PortAudio V19.7.0")


def test_what_is_no_requirement_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda _: None)
    [found] = libraries.onnxruntime()
    assert found.status == OK
    assert "not" in found.text
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    [found] = libraries.sound_cards()
    assert found.status == NOTE
    assert "[live]" in found.remedy
