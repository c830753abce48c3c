"""The training step of EBEN, ours and the public one (vibravox 0.1.1): same weights, same batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import parity
import torch
from hydra import compose, initialize_config_dir
from parity import largest, muffled, relative, renamed, speech_like
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bcfusion.configuration.compose import register_resolvers
from bcfusion.configuration.paths import conf_dir
from bcfusion.training.assemble import build_module
from bcfusion.training.module import SpeechModule

WIDEST = 64  # channels of the narrow full-band discriminator
ITEMS, SAMPLES = 2, 256 * 10 - 32  # the public generator takes 32 samples less than a multiple of 256

NARROW = ["discriminators.pqmf_bands.min_channels=8", f"discriminators.pqmf_bands.full_band_max_channels={WIDEST}"]
NETWORKS = [
    "generator=eben",
    "generator.input_bands=1",
    "generator.cutoff=0.15886658430099487",
    "generator.filter_gain=null",
    "discriminators=[pqmf_bands]",
    "losses=[mr_stft,feature_matching]",
    "optimizer.generator.betas=[0.5,0.9]",
    "optimizer.discriminator.betas=[0.5,0.9]",
    "trainer.ema_decay=null",
]
#: where our step differs from the public one on purpose: the options that give the public form; see docs/parity.md
SETTINGS = {
    "bands of the generator": ["generator.provide_bands=true", "discriminators.pqmf_bands.bands_from=generator"],
    "padding of the discriminators": ["discriminators.pqmf_bands.padding=published"],
    "clipped hinge": ["adversarial=hinge_clipped"],
    "STFT loss over the batch": ["losses.mr_stft.convergence_over=batch"],
    "STFT loss without limits on silence": ["losses.mr_stft.silence_db=null", "losses.mr_stft.convergence_limit=null"],
    "STFT loss with a clamped floor": ["losses.mr_stft.flooring=clamped"],
    "STFT of a mirrored signal": ["losses.mr_stft.padding=reflect"],
    "A-weighting by a filter": ["losses.mr_stft.a_weighting=true", "losses.mr_stft.a_weighting_taps=101"],
    "features over the estimate's": ["losses.feature_matching.normalization=estimate"],
    "features over the batch": ["losses.feature_matching.normalized_over=batch"],
    "layers by the last": ["losses.feature_matching.per_layer=last"],
    "features without a floor": ["losses.feature_matching.eps=1e-12"],
    "balancer": ["balancer=eben"],
    "norms at the last layer": ["balancer.anchor=last.weight"],
    "average from the first norm": ["balancer.average=first"],
    "no limit on spikes": ["balancer.spike_limit=null"],
    "norm of each part": ["balancer.total_norm=null"],
    "eps of the balancer": ["balancer.eps=1e-4"],
}
PUBLISHED = [override for overrides in SETTINGS.values() for override in overrides]
LOSSES = {  # public name to the tag of ours; the discriminators' two terms are logged as one here
    "train/generator/reconstructive_loss_freq": "loss/mr_stft",
    "train/generator/feature_matching_loss": "loss/feature_matching",
    "train/generator/adv_loss_gen": "loss/adversarial",
    "train/discriminator/backprop_loss": "discriminator/loss",
}
GENERATOR_NAMES = [
    ("first_conv", "first"),
    ("last_conv", "last"),
    ("encoder_blocks", "encoder"),
    ("decoder_blocks", "decoder"),
    ("residuals", "units"),
    ("dilated_conv", "dilated"),
    ("pointwise_conv", "pointwise"),
    ("latent_conv.1", "reduce"),
    ("latent_conv.3", "expand"),
    ("conv_trans", "up"),
    (".conv.", ".down."),
]


def discriminator_name(public: str) -> str:
    kind, *rest = public.split(".")
    stack, rest = (f"stacks.{rest[0]}", rest[2:]) if kind == "pqmf_discriminators" else ("full_band", rest[1:])
    last = "7" if kind == "pqmf_discriminators" else "6"
    if rest[0] == last:
        return ".".join([stack, "logits", *rest[1:]])
    return ".".join([stack, "layers", rest[0], *rest[2:]])  # rest[1]: place of the convolution beside its padding


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets ``(ITEMS, 1, SAMPLES)``."""
    for step in range(steps):
        target = speech_like(ITEMS, SAMPLES, seed=step)
        yield muffled(target), target


class Recorder:
    """The losses of one step, and its gradients just before the update, by parameter."""

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}
        self.gradients: dict[str, Tensor] = {}
        self._watching: list[RemovableHandle] = []

    def watch(self, optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> None:
        def before_step(*_: Any) -> None:
            for parameter, name in names.items():
                assert parameter.grad is not None, name
                self.gradients[name] = parameter.grad.detach().clone()

        self._watching.append(optimizer.register_step_pre_hook(before_step))

    def stop(self) -> None:
        """Copy no more gradients: for steps that are timed."""
        for handle in self._watching:
            handle.remove()


def trained(network: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    return {f"{prefix}.{name}": p for name, p in network.named_parameters() if p.requires_grad}


class OurStep:
    """Our module, configured by options alone; its services of Lightning are replaced by plain calls."""

    def __init__(self, *overrides: str) -> None:
        register_resolvers()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("train", [*NETWORKS, *overrides])
        module, _ = build_module(cfg)
        module.__class__ = _WithoutTrainer
        assert isinstance(module, _WithoutTrainer)
        assert module.adversary is not None
        self.module, self.record = module.train(), Recorder()
        self.generator, self.discriminators = module.generator, module.adversary.discriminators["pqmf_bands"]
        self.parameters = trained(self.generator, "generator") | trained(self.discriminators, "discriminators")
        module.plain = dict(zip(("generator", "discriminator"), module.configure_optimizers(), strict=True))
        names = {parameter: name for name, parameter in self.parameters.items()}
        for network, optimizer in module.plain.items():
            self.record.watch(optimizer, {p: n for p, n in names.items() if n.startswith(network)})

    def __call__(self, inputs: Tensor, target: Tensor) -> None:
        lengths = torch.full((len(target),), target.shape[-1])
        ids = [str(index) for index in range(len(target))]
        self.module.training_step({"inputs": inputs, "target": target, "lengths": lengths, "ids": ids}, 0)
        self.record.losses = self.module.take_log()


class _WithoutTrainer(SpeechModule):
    plain: dict[str, torch.optim.Optimizer]

    def _optimizer(self, network: str) -> Any:
        return self.plain[network]

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward(*args, **kwargs)


class PublicStep:
    """The public training step, as it is; the services of Lightning that it calls are replaced by plain calls."""

    def __init__(self, narrow: bool = True, lr: float = 3e-4) -> None:
        import auraloss
        from vibravox.lightning_modules.eben import EBENLightningModule
        from vibravox.torch_modules.dnn import melgan_discriminator
        from vibravox.torch_modules.dnn.eben_discriminator import DiscriminatorEBENMultiScales
        from vibravox.torch_modules.dnn.eben_generator import EBENGenerator
        from vibravox.torch_modules.losses.feature_loss import FeatureLossForDiscriminatorMelganMultiScales
        from vibravox.torch_modules.losses.hinge_loss import HingeLossForDiscriminatorMelganMultiScales

        class WithoutTrainer(EBENLightningModule):  # type: ignore[misc]
            def optimizers(self, use_pl_optimizer: bool = True) -> Any:
                return [self.generator_optimizer, self.discriminator_optimizer]

            def toggle_optimizer(self, optimizer: Any) -> None:
                for other, network in zip(self.optimizers(), (self.generator, self.discriminator), strict=True):
                    for parameter in trained_once[network]:
                        parameter.requires_grad_(other is optimizer)

            def untoggle_optimizer(self, optimizer: Any) -> None:
                for parameters in trained_once.values():
                    for parameter in parameters:
                        parameter.requires_grad_(True)

            def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
                loss.backward(*args, **kwargs)

            def log(self, name: str, value: Tensor, **_: Any) -> None:
                record.losses[name] = float(value.detach())

        # MelGAN's discriminator, 19 M of 23 M parameters, has no argument for its channels
        with parity.narrow(melgan_discriminator, WIDEST if narrow else 1024, "normalized_conv1d"):
            discriminators = DiscriminatorEBENMultiScales(q=4, min_channels=8 if narrow else 24)
        record = self.record = Recorder()
        stft = self.stft = auraloss.freq.MultiResolutionSTFTLoss(
            fft_sizes=[512, 1024, 2048],
            hop_sizes=[50, 120, 240],
            win_lengths=[240, 600, 1200],
            sample_rate=16000,
            perceptual_weighting=True,
        )
        for resolution in stft.stft_losses:  # which are in float32, whatever the default
            weight = resolution.prefilter.fir.weight
            weight.data = weight.data.to(torch.get_default_dtype())
        adam = partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.9))
        self.module = WithoutTrainer(
            sample_rate=16000,
            generator=EBENGenerator(m=4, n=32, p=1),
            discriminator=discriminators,
            generator_optimizer=adam,
            discriminator_optimizer=adam,
            metrics=nn.Module(),
            reconstructive_loss_freq_fn=stft,
            feature_matching_loss_fn=FeatureLossForDiscriminatorMelganMultiScales(),
            adversarial_loss_fn=HingeLossForDiscriminatorMelganMultiScales(),
            dynamic_loss_balancing="ema",
            beta_ema=0.9,
        )
        generator, discriminator = self.module.generator, self.module.discriminator
        trained_once = {
            network: [p for p in network.parameters() if p.requires_grad] for network in (generator, discriminator)
        }
        own = trained(generator, "generator")
        names = renamed(own, GENERATOR_NAMES)
        self.parameters = {names[name]: parameter for name, parameter in own.items()}
        self.parameters |= {
            f"discriminators.{discriminator_name(name)}": parameter
            for name, parameter in discriminator.named_parameters()
        }
        by_parameter = {parameter: name for name, parameter in self.parameters.items()}
        for network, optimizer in (
            ("generator", self.module.generator_optimizer),
            ("discriminator", self.module.discriminator_optimizer),
        ):
            record.watch(optimizer, {p: n for p, n in by_parameter.items() if n.startswith(network)})

    def __call__(self, inputs: Tensor, target: Tensor) -> None:
        self.module.training_step({"audio_body_conducted": inputs, "audio_airborne": target})

    def copy_to(self, ours: OurStep, filters: bool = True) -> None:
        """Give our networks these weights and, with ``filters``, the taps of the filter bank."""
        self.copy_weights_to(ours)
        with torch.no_grad():
            bank, own = self.module.generator.pqmf, ours.generator.pqmf
            if filters:
                own.analysis_filters.copy_(bank.analysis_weights)
                own.synthesis_filters.copy_(bank.synthesis_weights)
            if (prefilter := ours.module.losses["mr_stft"].prefilter) is not None:
                prefilter.copy_(self.stft.stft_losses[0].prefilter.fir.weight.flatten())

    def copy_weights_to(self, ours: OurStep) -> None:
        assert ours.parameters.keys() == self.parameters.keys()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                ours.parameters[name].copy_(parameter)

    def copy_state_to(self, ours: OurStep) -> None:
        """Make our next step start where the public one starts: weights, moments of Adam, averages of the balancer."""
        self.copy_weights_to(ours)
        theirs = (self.module.generator_optimizer, self.module.discriminator_optimizer)
        for optimizer, public in zip(ours.module.plain.values(), theirs, strict=True):
            for name, parameter in ours.parameters.items():
                if parameter in optimizer.state:
                    optimizer.state[parameter] = copy.deepcopy(public.state[self.parameters[name]])
        tags = ("mr_stft", "feature_matching", "adversarial")
        state = ours.module.balancer.get_extra_state()
        for name, norm in zip(tags, self.module.atomic_norms_old, strict=True):
            state[name]["total"] = norm.clone()
        ours.module.balancer.set_extra_state(state)


class Differences(NamedTuple):
    """Of one step, each the largest: of the losses, of the gradients by parameter, of the parameters' change so far."""

    losses: float
    gradients: float
    weights: float


def run(ours: OurStep, public: PublicStep, steps: int, together: bool = False) -> Iterator[Differences]:
    """Step both through the same batches; with ``together``, each of our steps starts from the public state."""
    start = {name: parameter.detach().clone() for name, parameter in public.parameters.items()}
    for inputs, target in batches(steps):
        public(inputs, target)
        ours(inputs, target)
        yield Differences(
            max(relative(ours.record.losses[tag], public.record.losses[name]) for name, tag in LOSSES.items()),
            largest(ours.record.gradients, public.record.gradients),
            largest(changes(ours.parameters, start), changes(public.parameters, start)),
        )
        if together:
            public.copy_state_to(ours)


def changes(parameters: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.detach() - start[name] for name, parameter in parameters.items()}
