"""What the machine can do: devices that exist, and batches that fit into memory, checked before a run begins."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, ListConfig
from torch import Tensor, nn

from bcfusion import system
from bcfusion.contracts import Batch
from bcfusion.errors import ConfigError
from bcfusion.nn.network import outputs_to_learn_from
from bcfusion.probe import device_of, evaluating
from bcfusion.training import device

if TYPE_CHECKING:
    from bcfusion.contracts import Generator
    from bcfusion.data.loading.datamodule import SpeechDataModule
    from bcfusion.training.module import SpeechModule

__all__ = ["available_bytes", "check_batch", "check_batch_of", "check_devices", "saved_bytes", "warn_user"]

MANY_REPEATS = 4  # a batch that holds each training file more often than this is hardly what was meant
_SUSPICIOUS = 3000  # activations take up to about this many times the bytes of a batch: below, nothing is measured


def check_devices(settings: Mapping[str, Any]) -> list[str]:
    """Return warnings about the devices of a trainer's configuration, one line each.

    Args:
        settings: verified, so that ``devices`` is of one of the accepted kinds.

    Raises:
        ConfigError: there are no such devices.
    """
    _check_machines(settings)
    wanted, cores = settings["devices"], system.cores()
    listed = isinstance(wanted, list | tuple | ListConfig)
    number = None if listed or wanted == "auto" else int(wanted)
    if not device.on_gpu(settings["accelerator"]):
        if listed or number == -1:
            raise ConfigError([f"trainer.devices: {wanted} names GPUs, but the run uses the CPU: give a number"])
        if number is not None and number > cores:
            return [f"trainer.devices={number}: {number} processes share {cores} cores and are slower than one alone"]
        return []
    found = torch.cuda.device_count()
    highest = max(map(int, wanted), default=0) + 1 if listed else number or 0
    if highest > found:
        gpus = "1 GPU" if found == 1 else f"{found} GPUs"
        raise ConfigError([f"trainer.devices: {wanted}, but this machine has {gpus}"])
    return []


def _check_machines(settings: Mapping[str, Any]) -> None:
    """Refuse what would wait for other processes for ever, or look for a cluster that is not there."""
    environment = settings.get("environment")
    target = "" if environment is None else str(environment["_target_"])
    if target.endswith("SLURMEnvironment") and "SLURM_PROCID" not in os.environ:
        raise ConfigError(
            ["trainer.environment: srun has not started this process: use scripts/slurm/train.sbatch, or trainer=ddp"]
        )
    known = {"SLURM_PROCID", "MASTER_ADDR", "NODE_RANK", "GROUP_RANK"} & os.environ.keys()
    if settings.get("num_nodes", 1) > 1 and environment is None and not known:
        raise ConfigError(
            [
                f"trainer.num_nodes: {settings['num_nodes']} machines, but nothing says where the others are: start "
                "the run with srun and trainer=slurm, or set MASTER_ADDR and NODE_RANK on each machine"
            ]
        )


def check_batch_of(cfg: DictConfig, module: SpeechModule, datamodule: SpeechDataModule) -> list[str]:
    """Return warnings about the size of the batches of a configuration, one line each; see :func:`check_batch`.

    Raises:
        ConfigError: a batch cannot fit into the memory that is free.
    """
    if not module.trainable or cfg.trainer.max_steps == 0:
        return []
    on_gpu = device.on_gpu(cfg.trainer.accelerator)
    several = str(cfg.trainer.devices)
    known = datamodule.train_speakers() is not None  # streamed shards are not counted
    return check_batch(
        module.generator,
        cfg.data.batch_size,
        len(cfg.task.sensors),
        round(cfg.data.segment_seconds * cfg.sample_rate),
        on_gpu=on_gpu,
        files=min(len(datamodule.rows("train")), cfg.data.max_train_items or sys.maxsize) if known else None,
        half=cfg.trainer.precision == "bf16-mixed",
        processes=int(several) if several.isdigit() and not on_gpu else 1,
    )


def check_batch(
    generator: nn.Module,
    batch_size: int,
    sensors: int,
    samples: int,
    *,
    on_gpu: bool,
    files: int | None,
    half: bool = False,
    processes: int = 1,
) -> list[str]:
    """Return warnings about the size of a training batch, one line each.

    The memory is a lower bound: the crops, and what the generator keeps of one crop for its backward pass, as measured.
    Losses, discriminators and optimisers need more.

    Args:
        generator: on the CPU, not compiled.
        batch_size: crops in a batch of one process.
        sensors: number of input channels.
        samples: length of a crop.
        on_gpu: whether batches are on a GPU.
        files: training files; None if they are not counted.
        half: whether activations have 16 bits.
        processes: those that share the memory.

    Raises:
        ConfigError: a batch cannot fit into the memory that is free.
    """
    warnings = []
    if files is not None and batch_size * processes > MANY_REPEATS * files:
        each = batch_size * processes / files
        warnings.append(
            f"data.batch_size={batch_size}: a step takes {batch_size * processes} crops, each of the {files} training "
            f"files {each:.0f} times"
        )
    free = available_bytes(on_gpu)
    crop = 4 * samples * (sensors + 1)
    if free is None or batch_size * processes * crop * _SUSPICIOUS < free:
        return warnings
    of_generator = saved_bytes(generator, torch.randn(1, sensors, samples)) // (2 if half else 1)
    needed = batch_size * processes * (crop + of_generator)
    if needed > free:
        seconds = samples / cast("Generator", generator).sample_rate
        fit = free // (processes * (crop + of_generator))
        where = "on the GPU" if on_gpu else "in memory"
        raise ConfigError(
            [
                f"data.batch_size: {batch_size} crops of {seconds:g} s need at least {_size(needed)} {where} "
                f"({_size(crop + of_generator)} each in the generator alone), {_size(free)} are free",
                f"at most {fit} can fit; half of that leaves room for losses and discriminators. "
                "trainer.accumulate adds up the gradients of several batches",
            ]
        )
    return warnings


@rank_zero_only
def warn_user(lines: Sequence[str]) -> None:
    """Print warnings on stderr, on rank 0."""
    for line in lines:
        print(f"bcfusion: {line}", file=sys.stderr)


def saved_bytes(generator: nn.Module, inputs: Tensor) -> int:
    """Return the bytes that a generator keeps of ``inputs (B, S, T)`` for its backward pass, without its parameters.

    Of one that is taught they are those of a training step, not of the steps in which it restores speech.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*generator.parameters(), *generator.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = inputs.to(device_of(generator))
    lengths = torch.full((len(inputs),), inputs.shape[-1], device=inputs.device)
    batch: Batch = {"inputs": inputs, "target": inputs[:, :1], "lengths": lengths}
    # in evaluation mode, so that no running statistics change
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with evaluating(generator), torch.random.fork_rng(devices=[]), torch.enable_grad(), hooks:
        outputs = outputs_to_learn_from(generator, batch)
    del outputs
    return sum(kept.values())


def available_bytes(on_gpu: bool) -> int | None:
    """Return the memory that is free: of the GPU, or of the machine and its container; None if it is not known."""
    if on_gpu:
        return int(torch.cuda.mem_get_info()[0])
    free: list[int] = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        free += [int(limit) - int(used)] if limit != "max" else []
    except (OSError, ValueError):
        pass
    return min(free, default=None)


def _size(count: float) -> str:
    """Return a number of bytes with three digits."""
    units: Sequence[str] = ("B", "kB", "MB", "GB", "TB", "PB")
    power = 0
    while count >= 1000 and power < len(units) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.3g} {units[power]}"
