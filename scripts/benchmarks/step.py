"""A training step of EBEN's game: ours without Lightning's trainer, its variants, and that of vibravox."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # as the command line does: spinning threads distort every timing

import torch
from torch import Tensor

from bcfusion.training.module import SpeechModule
from benchmarks.harness import Figure, Measured, Missing, Setting, Turn, agree, compared, in_turns
from benchmarks.processes import call, peak_megabytes
from benchmarks.rows import VIBRAVOX as PEER

if TYPE_CHECKING:
    from eben_steps import OurStep, PublicStep

INSTALL = "pip install --no-deps --ignore-requires-python vibravox==0.1.1 && pip install auraloss"
TOLERANCE = 1e-3  # in float32; tests/parity compares the same steps in float64, to 1e-4 of each parameter
# of the gradient of one parameter, in float32. It is rounding: for one item and these networks the largest difference
# is 1.8e-4 in float32 and 2.4e-13 in float64
OF_ONE = 1e-2
PROCESSES = 3  # of each side, for the peak of the memory
TINY = 256 * 10 - 32  # samples


class WithoutTrainer(SpeechModule):
    """The training module with plain optimisers instead of Lightning's."""

    def start(self) -> None:
        self.plain_optimizers = dict(zip(("generator", "discriminator"), self.configure_optimizers(), strict=False))

    def _optimizer(self, network: str) -> Any:
        return self.plain_optimizers[network]

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward(*args, **kwargs)


def configured(*overrides: str) -> WithoutTrainer:
    """Return the training module of a configuration, ready for ``training_step``."""
    from hydra import compose, initialize_config_dir

    from bcfusion.configuration.compose import register_resolvers
    from bcfusion.configuration.paths import conf_dir
    from bcfusion.run.layout import register_run_dir
    from bcfusion.training.assemble import build_module

    register_resolvers()
    register_run_dir()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        module, _ = build_module(compose("train", list(overrides)))
    module.__class__ = WithoutTrainer
    assert isinstance(module, WithoutTrainer)
    module.train()
    module.start()
    return module


def given(inputs: Tensor, target: Tensor) -> dict[str, Any]:
    """Return a batch of the training module, of whole segments."""
    lengths = torch.full((target.shape[0],), target.shape[-1], device=target.device)
    return {"inputs": inputs, "target": target, "lengths": lengths, "ids": [str(n) for n in range(target.shape[0])]}


def batch(size: int, samples: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs and target ``(size, 1, samples)``: noise at the level of speech."""
    generator = torch.Generator().manual_seed(0)
    target = 0.07 * torch.randn(size, 1, samples, generator=generator)
    return (0.5 * target).to(device), target.to(device)


def whole(samples: int, setting: Setting) -> int:
    """Return how many of the samples the public generator uses: it cuts the rest off."""
    return TINY if setting.rehearsal else (samples + 32) // 256 * 256 - 32


# ---------------------------------------------------------------- against vibravox


def need_peer() -> None:
    """Import what the public step needs.

    Raises:
        Missing: it is not installed.
    """
    try:
        import auraloss  # noqa: F401
        import vibravox.lightning_modules.eben
        import vibravox.torch_modules.dnn.eben_discriminator  # noqa: F401
    except ImportError as error:
        raise Missing(f"not installed: {INSTALL} ({error})") from None


def public_step(rehearsal: bool) -> PublicStep:
    from eben_steps import PublicStep

    torch.manual_seed(0)
    return PublicStep(narrow=rehearsal)


def our_step(rehearsal: bool) -> OurStep:
    from eben_steps import NARROW, PUBLISHED, OurStep

    torch.manual_seed(0)
    return OurStep(*(NARROW if rehearsal else []), *PUBLISHED, "optimizer.lr=3e-4")


def against_vibravox(setting: dict[str, Any], samples: int) -> Measured:
    """Compare one step of both, from the same weights; then time the following ones, and the memory of either side."""
    need_peer()
    from eben_steps import LOSSES
    from parity import largest, relative

    from benchmarks.networks import joined

    how = Setting(**setting)
    public, ours = public_step(how.rehearsal), our_step(how.rehearsal)
    public.copy_to(ours)
    size, used = 2 if how.rehearsal else 4, whole(samples, how)
    inputs, target = speech(size, used)
    public(inputs, target)
    ours(inputs, target)
    losses = max(relative(ours.record.losses[tag], public.record.losses[name]) for name, tag in LOSSES.items())
    gradients = ours.record.gradients, public.record.gradients
    result = Measured(
        agreement=[
            agree("losses of the first step", losses, TOLERANCE),
            agree("gradients of all parameters together", relative(*map(joined, gradients)), TOLERANCE),
            agree("gradient of the parameter that differs most", largest(*gradients), OF_ONE),
        ]
    )
    for step in (ours, public):
        step.record.stop()
    taken = in_turns({"ours": lambda: ours(inputs, target), PEER: lambda: public(inputs, target)}, how)
    result.figures = [compared("time", "s", "ours", PEER, taken), memory(how, size, used)]
    result.notes = [
        f"batch {size} x {used} samples: the public generator cuts {samples} to it",
        "memory: peak of a process of three steps, less its peak before the networks are built; "
        f"{result.figures[1].ratio.count} processes of each side",
    ]
    return result


def speech(size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return inputs and target ``(size, 1, samples)`` of made-up speech, in float32."""
    from parity import muffled, speech_like

    target = speech_like(size, samples, seed=0)
    return muffled(target).float(), target.float()


def memory(setting: Setting, size: int, samples: int) -> Figure:
    """Return the figure of the memory: processes of both sides in turns."""
    taken: dict[str, list[Turn]] = {"ours": [], PEER: []}
    for _ in range(1 if setting.rehearsal else PROCESSES):
        for name, turns in taken.items():
            peak = call(
                "benchmarks.step:peak",
                setting.threads,
                public=name == PEER,
                rehearsal=setting.rehearsal,
                size=size,
                samples=samples,
            )
            turns.append(Turn(peak, 0.0))
    return compared("peak memory", "MB", "ours", PEER, taken)


def peak(public: bool, rehearsal: bool, size: int, samples: int) -> float:
    """Return the peak of three steps in MB, less that of the process before, with all modules imported."""
    need_peer()
    import eben_steps  # noqa: F401

    inputs, target = speech(size, samples)
    before = peak_megabytes()
    step = public_step(rehearsal) if public else our_step(rehearsal)
    step.record.stop()
    for _ in range(3):
        step(inputs, target)
    return peak_megabytes() - before


# ---------------------------------------------------------------- our variants

VARIANTS = (
    "generator=eben",
    "discriminators=[pqmf_bands]",
    "discriminators.pqmf_bands.q=4",
    "discriminators.pqmf_bands.min_channels=24",
    "adversarial=hinge_clipped",
    "losses=[mr_stft,feature_matching]",
    "losses.feature_matching.normalization=reference",
    "balancer=eben",
    "trainer.ema_decay=null",
)
SMALL = ("discriminators.pqmf_bands.min_channels=4", "discriminators.pqmf_bands.full_band_max_channels=64")
NEVER = "adversarial.interval=1000000000"  # the discriminators judge, but learn only in the first step


def variants(setting: dict[str, Any], samples: int) -> Measured:
    """Time two passes of the discriminators and four, and the generator's update with and without balancing."""
    how = Setting(**setting)
    sizes = SMALL if how.rehearsal else ()
    inputs, target = batch(2 if how.rehearsal else 4, TINY if how.rehearsal else samples, torch.device("cpu"))

    def act(*overrides: str) -> Callable[[], None]:
        module, whole_batch = configured(*VARIANTS, *sizes, *overrides), given(inputs, target)
        return lambda: module.training_step(whole_batch, 0)  # type: ignore[arg-type,func-returns-value]

    passes = {"two passes": act(), "four passes": act("adversarial.shared_passes=false")}
    balanced = {"balanced": act(NEVER), "fixed weights": act(NEVER, "balancer=fixed")}
    return Measured(
        [
            compared("passes", "s", *passes, in_turns(passes, how)),
            compared("balancing", "s", *balanced, in_turns(balanced, how)),
        ],
        agreement=[
            "two and four passes make the same updates: tests/training/test_training_passes.py",
            "balanced and fixed weights differ by design",
        ],
    )
