"""The checks, in the order of the report: memory is measured before libraries are loaded into it."""

from __future__ import annotations

from dataclasses import replace

from bcfusion.doctor import at_work, computing, installation, libraries, machine, storage
from bcfusion.doctor.extras import extras
from bcfusion.doctor.finding import STORAGE, Check
from bcfusion.doctor.project import TORCH
from bcfusion.doctor.remedies import install_extra

__all__ = ["CHECKS"]

_TRAIN, _STREAM = ("train",), ("stream",)
_DRIVER = "trainer.accelerator=cpu; nvidia-smi shows whether the driver works"
INSTALLATION, LIBRARIES, MACHINE, COMPUTING = "Installation", "Libraries", "Machine", "Computing"
EXTRAS, AT_WORK = f"Extras: {install_extra('EXTRA')}", "At work"

_CHECKS = (
    Check("python", INSTALLATION, installation.python),
    Check("bcfusion", INSTALLATION, installation.package),
    Check("releases", INSTALLATION, installation.releases),
    Check("requirements", INSTALLATION, installation.requirements),
    Check("dependencies", INSTALLATION, installation.dependencies),
    Check("processor", MACHINE, machine.processor),
    Check("threads", MACHINE, machine.threads),
    Check("memory", MACHINE, machine.memory),
    Check("shared memory", MACHINE, machine.shared_memory, purposes=_TRAIN),
    Check("open files", MACHINE, machine.open_files),
    Check("cluster", MACHINE, machine.cluster, purposes=_TRAIN),
    Check("encoding", MACHINE, machine.encoding),
    Check("runs", STORAGE, storage.runs, purposes=_TRAIN),
    Check("cache", STORAGE, storage.cache, purposes=_TRAIN),
    Check("temporary files", STORAGE, storage.temporary),
    Check("library caches", STORAGE, storage.library_caches, purposes=()),
    Check("hub token", STORAGE, storage.token, purposes=()),
    Check("torch", LIBRARIES, libraries.torch, packages=TORCH),
    Check("torchaudio", LIBRARIES, libraries.torchaudio, ("torch",), TORCH),
    Check("lightning", LIBRARIES, libraries.lightning, ("releases", "torch"), ("lightning",), purposes=_TRAIN),
    Check("pesq", LIBRARIES, libraries.pesq, packages=("pesq",), purposes=_TRAIN),
    Check("sound files", LIBRARIES, libraries.sound_files, packages=("soundfile",)),
    Check("resampling", LIBRARIES, libraries.resampling, packages=("soxr",)),
    Check("sound cards", LIBRARIES, libraries.sound_cards, repair="stream --file needs no card", purposes=_STREAM),
    Check("onnxruntime", LIBRARIES, libraries.onnxruntime, packages=("onnxruntime",), purposes=_STREAM),
    Check("GPU", COMPUTING, computing.gpus, ("torch",), repair=_DRIVER, purposes=_TRAIN),
    Check("precision", COMPUTING, computing.precision, ("torch", "GPU"), repair=_DRIVER, purposes=()),
    Check("torch.compile", COMPUTING, computing.compilation, purposes=()),
    Check("determinism", COMPUTING, computing.determinism, purposes=_TRAIN),
    Check("extras", EXTRAS, extras, purposes=()),
    Check("configuration", AT_WORK, at_work.configuration, ("torch", "lightning"), purposes=_TRAIN),
    Check("shipped models", AT_WORK, at_work.models, ("torch", "torchaudio"), purposes=()),
    Check("stream", AT_WORK, at_work.stream, ("torch", "torchaudio"), purposes=_STREAM),
)
#: the first is what all others need
CHECKS: tuple[Check, ...] = (
    Check("working directory", INSTALLATION, installation.working_directory),
    *(replace(check, needs=("working directory", *check.needs)) for check in _CHECKS),
)
