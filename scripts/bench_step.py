"""Time a training step of EBEN: ours, and the same step assembled from public packages.

    python scripts/bench_step.py
    scripts/install_public_code.sh
    python scripts/bench_step.py --reference

One step: EBEN generator (4 bands, 32 channels, 1 input band), EBEN discriminators (q=4), multi-resolution STFT loss,
feature matching, clipped hinge game, gradients of the losses balanced with a moving average (decay 0.9), Adam for both
networks. The variants take turns in one process; medians and the medians of the ratios per turn are printed. Peak
memory is measured in a separate process for each variant.

The public step follows the training step of `vibravox` 0.1.1 (generator first, then discriminators; the other network
frozen; gradients measured at the last layer) with its networks, losses and balancing, and `auraloss` 0.4.0 for the STFT
loss. Logging and Lightning are left out of both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # as the command line does: spinning threads distort every timing

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from bcfusion.configuration.compose import register_resolvers
from bcfusion.configuration.paths import conf_dir
from bcfusion.training.assemble import build_module
from bcfusion.training.module import SpeechModule

Step = Callable[[Tensor, Tensor], None]

OVERRIDES = [
    "generator=eben",
    "discriminators=[pqmf_bands]",
    "discriminators.pqmf_bands.q=4",
    "discriminators.pqmf_bands.min_channels=24",
    "adversarial=hinge_clipped",
    "losses=[mr_stft,feature_matching]",
    "losses.feature_matching.normalization=reference",
    "balancer=eben",
    "trainer.ema_decay=null",
]


class WithoutTrainer(SpeechModule):
    """The training module with plain optimisers instead of Lightning's."""

    def start(self) -> None:
        self.plain_optimizers = dict(zip(("generator", "discriminator"), self.configure_optimizers(), strict=False))

    def _optimizer(self, network: str) -> Any:
        return self.plain_optimizers[network]

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward(*args, **kwargs)


def ours(device: torch.device, *overrides: str) -> Step:
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        module, _ = build_module(compose("train", [*OVERRIDES, *overrides]))
    module.__class__ = WithoutTrainer
    assert isinstance(module, WithoutTrainer)
    module.to(device).train()
    module.start()

    def step(inputs: Tensor, target: Tensor) -> None:
        lengths = torch.full((target.shape[0],), target.shape[-1], device=target.device)
        ids = [str(index) for index in range(target.shape[0])]
        module.training_step({"inputs": inputs, "target": target, "lengths": lengths, "ids": ids}, 0)

    return step


def public(device: torch.device) -> Step:
    """Return the step of the public packages, assembled as in their training module."""
    try:
        import auraloss
        from vibravox.lightning_modules.eben import EBENLightningModule
        from vibravox.torch_modules.dnn.eben_discriminator import DiscriminatorEBENMultiScales
        from vibravox.torch_modules.dnn.eben_generator import EBENGenerator
        from vibravox.torch_modules.losses.feature_loss import FeatureLossForDiscriminatorMelganMultiScales
        from vibravox.torch_modules.losses.hinge_loss import HingeLossForDiscriminatorMelganMultiScales
    except ImportError as error:
        raise SystemExit(
            f"--reference needs vibravox 0.1.1 and auraloss ({error}); see the top of this file for the installation"
        ) from None
    module = EBENLightningModule(
        sample_rate=16000,
        generator=EBENGenerator(m=4, n=32, p=1),
        discriminator=DiscriminatorEBENMultiScales(q=4, min_channels=24),
        generator_optimizer=partial(torch.optim.Adam, lr=3e-4),
        discriminator_optimizer=partial(torch.optim.Adam, lr=3e-4),
        metrics=nn.Module(),
        reconstructive_loss_freq_fn=auraloss.freq.MultiResolutionSTFTLoss(),
        feature_matching_loss_fn=FeatureLossForDiscriminatorMelganMultiScales(),
        adversarial_loss_fn=HingeLossForDiscriminatorMelganMultiScales(),
        dynamic_loss_balancing="ema",
        beta_ema=0.9,
    ).to(device)
    generator, discriminator = module.generator, module.discriminator
    generator_optimizer, discriminator_optimizer = module.generator_optimizer, module.discriminator_optimizer
    learning = {network: [p for p in network.parameters() if p.requires_grad] for network in (generator, discriminator)}

    def toggle(network: nn.Module, learns: bool) -> None:
        for parameter in learning[network]:
            parameter.requires_grad_(learns)

    def step(inputs: Tensor, target: Tensor) -> None:
        inputs, target = generator.cut_to_valid_length(inputs), generator.cut_to_valid_length(target)
        toggle(discriminator, False)
        estimate, estimate_bands = generator(inputs)
        target_bands = generator.pqmf.forward(target, "analysis")
        signals = {
            "enhanced_speech": estimate,
            "reference_speech": target,
            "decomposed_enhanced_speech": estimate_bands,
            "decomposed_reference_speech": target_bands,
        }
        losses = module.dynamically_balance_losses(module.compute_atomic_losses(network="generator", **signals))
        sum(losses.values()).backward()
        generator_optimizer.step()
        generator_optimizer.zero_grad()
        toggle(discriminator, True)
        toggle(generator, False)
        losses = module.compute_atomic_losses(network="discriminator", **signals)
        (losses["real_loss"] + losses["fake_loss"]).backward()
        discriminator_optimizer.step()
        discriminator_optimizer.zero_grad()
        toggle(generator, True)

    return step


def variants(names: Iterable[str], device: torch.device) -> dict[str, Step]:
    never = "adversarial.interval=1000000000"  # the discriminators judge, but learn only in the first step
    makers: dict[str, Callable[[], Step]] = {
        "ours": lambda: ours(device),
        "four passes": lambda: ours(device, "adversarial.shared_passes=false"),
        "generator alone": lambda: ours(device, never),
        "generator alone, fixed weights": lambda: ours(device, never, "balancer=fixed"),
        "public": lambda: public(device),
    }
    return {name: makers[name]() for name in names}


def batch(size: int, samples: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = 0.07 * torch.randn(size, 1, samples, generator=generator)
    return (0.5 * target).to(device), target.to(device)


def seconds(step: Step, inputs: Tensor, target: Tensor) -> float:
    begin = time.perf_counter()
    step(inputs, target)
    if inputs.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def peak_megabytes(name: str, arguments: argparse.Namespace) -> float:
    """Return the peak memory of three steps, minus the peak before the networks were built."""
    command = [sys.executable, __file__, "--measure-memory", name, "--batch", str(arguments.batch)]
    command += ["--samples", str(arguments.samples), "--threads", str(arguments.threads), "--device", arguments.device]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.splitlines()[-1])["megabytes"])


def peak_resident_kilobytes() -> float:
    """Return the peak of this program; `getrusage` would include the process that started it."""
    status = Path("/proc/self/status").read_text()
    return float(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def measure_memory(name: str, arguments: argparse.Namespace, device: torch.device) -> None:
    before = peak_resident_kilobytes()
    step = variants([name], device)[name]
    for _ in range(3):
        step(*batch(arguments.batch, arguments.samples, device))
    used = (peak_resident_kilobytes() - before) / 1024
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({"megabytes": used}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--samples", type=int, default=16384, help="samples per item at 16 kHz (default: 1.024 s)")
    parser.add_argument("--turns", type=int, default=15, help="timed steps per variant, after two warm-up steps")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--reference", action="store_true", help="include the step assembled from public packages")
    parser.add_argument("--measure-memory", metavar="VARIANT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    if arguments.measure_memory:
        measure_memory(arguments.measure_memory, arguments, device)
        return
    names = ["ours", "four passes", "generator alone", "generator alone, fixed weights"]
    names += ["public"] if arguments.reference else []
    steps = variants(names, device)
    signals = batch(arguments.batch, arguments.samples, device)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(arguments.turns + 2):
        for name in names if turn % 2 else reversed(names):  # so that no variant always follows the same one
            taken = seconds(steps[name], *signals)
            if turn >= 2:
                times[name].append(taken)
    print(
        f"{device}, {arguments.threads} threads, batch {arguments.batch} x {arguments.samples} samples, "
        f"median of {arguments.turns} turns (quartiles), peak memory of a separate process"
    )
    for name in names:
        low, median, high = statistics.quantiles(times[name], n=4)
        print(f"  {name:<32} {median:7.3f} s  ({low:.3f} to {high:.3f})  {peak_megabytes(name, arguments):6.0f} MB")

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))

    print(f"  two passes to four:              {ratio('ours', 'four passes'):.2f}")
    overhead = ratio("generator alone", "generator alone, fixed weights") - 1
    print(f"  balancing, of the generator's step: {overhead:+.0%}")
    if arguments.reference:
        print(f"  ours to public:                  {ratio('ours', 'public'):.2f}")


if __name__ == "__main__":
    main()
