"""Every part of the configuration with every odd signal: all is finite, and what is not finite shows.

Parts are found by their files in conf/, so that a new one is tested by itself. Signals are those of odd_signals.py.
Most tests put all of them into one batch, since no part may let the items of a batch affect each other.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL_DISCRIMINATORS
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class, instantiate
from odd_signals import BROKEN, FINITE, LONG, RATE, SHORT, batch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from bcfusion.configuration.compose import build, generator_node, register_resolvers
from bcfusion.configuration.paths import conf_dir
from bcfusion.contracts import Draw, Judgement, Skip, Taught, asks_for
from bcfusion.data.loading.augmentation import Augmentation
from bcfusion.data.loading.collate import Item
from bcfusion.data.simulation.calibration import Calibration, Response
from bcfusion.data.simulation.frames import grid
from bcfusion.errors import BcfusionError
from bcfusion.generators.codec import Codec
from bcfusion.losses.latent import LatentL1Loss
from bcfusion.losses.prediction import PredictionMseLoss
from bcfusion.nn.network import estimate_of
from bcfusion.objectives.bridge import Bridge
from bcfusion.run.layout import register_run_dir
from bcfusion.training.anchor import OutputAnchor

SMALL_GENERATORS = Path(__file__).parent / "generators" / "small"
PAIRS = list(product(FINITE, FINITE))  # of estimate and target


def members(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml") if not path.stem.startswith("_"))


def every(group: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", members(group))


def composed(*overrides: str) -> DictConfig:
    register_resolvers()
    register_run_dir()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", list(overrides))
    GlobalHydra.instance().clear()
    return cfg


def built(node: Any) -> Any:
    """Build a part, or skip the test if it needs a package or a file that is not here."""
    try:
        return instantiate(node)
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, BcfusionError) and ("pip install" in str(cause) or "no network" in str(cause)):
            pytest.skip(str(cause))
        raise


def entry(group: str, name: str) -> Any:
    """Return an entry of a list group, such as a loss, by itself."""
    node = OmegaConf.create({"sample_rate": RATE, group: OmegaConf.load(conf_dir() / group / f"{name}.yaml")})[group]
    assert list(node) == [name]
    return node[name]


def is_finite(*tensors: Tensor | None) -> bool:
    return all(tensor is None or bool(tensor.isfinite().all()) for tensor in tensors)


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


# ---------------------------------------------------------------- losses


def made_loss(name: str, like: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a loss; ``like`` has settings of the generator, of which those that the loss has too are taken."""
    node = entry("losses", name)
    node.pop("weight")
    for key in (like or {}).keys() & node.keys() - {"_target_"}:
        node[key] = like[key]  # type: ignore[index]
    loss: nn.Module = built(node)
    return loss


def judge(waveform: Tensor) -> list[Judgement]:
    """A discriminator that saturates nowhere, so that what is not finite stays so."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(4, 1, 15, generator=generator), torch.randn(4, 4, 5, generator=generator)
    hidden = nn.functional.leaky_relu(nn.functional.conv1d(waveform, weights[0], padding=7), 0.1)
    deeper = nn.functional.conv1d(hidden, weights[1], padding=2)
    return [Judgement(logits=deeper.mean(1), features=[hidden, deeper])]


def loss_and_gradient(loss: nn.Module, given: dict[str, Any], source: Tensor) -> tuple[Tensor, Tensor | None]:
    value = loss(**{name: given[name] for name in asks_for(loss)})
    value.backward()
    return value.detach(), source.grad


def of_waveforms(loss: nn.Module, estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
    estimate = estimate.clone().requires_grad_()
    with torch.no_grad():
        of_target = judge(target)
    given = {
        "inputs": target,
        "target": target,
        "noise": target,
        "lengths": torch.full(target.shape[:1], target.shape[-1]),
        "estimate": estimate,
        "estimate_judgements": judge(estimate),
        "target_judgements": of_target,
    }
    return loss_and_gradient(loss, given, estimate)


def asks_for_a_waveform_only(loss: nn.Module) -> bool:
    known = {"inputs", "target", "lengths", "noise", "estimate", "estimate_judgements", "target_judgements"}
    return set(asks_for(loss)) <= known


@every("losses")
def test_losses_and_their_gradients_are_finite(name: str) -> None:
    loss = made_loss(name)
    if not asks_for_a_waveform_only(loss):
        pytest.skip("tested with its generator")
    for samples in (1, SHORT):
        estimate, target = (batch(names, samples) for names in zip(*PAIRS, strict=True))
        value, gradient = of_waveforms(loss, estimate, target)
        assert value.dtype == torch.float32
        if not is_finite(value, gradient):  # which of them?
            alone = {(a, b): of_waveforms(loss, batch([a], samples), batch([b], samples)) for a, b in PAIRS}
            pytest.fail(f"{samples}: {[names for names, found in alone.items() if not is_finite(*found)]}")


@every("losses")
@pytest.mark.parametrize("broken", BROKEN)
def test_a_loss_of_what_is_not_finite_is_not_finite(name: str, broken: str) -> None:
    loss = made_loss(name)
    if not asks_for_a_waveform_only(loss):
        pytest.skip("tested with its generator")
    bad, good = batch([broken], 8000), batch(["noise"], 8000)
    assert not is_finite(of_waveforms(loss, bad, good)[0])
    if "target" in asks_for(loss) or "target_judgements" in asks_for(loss):
        assert not is_finite(of_waveforms(loss, good, bad)[0])


@pytest.mark.slow
@every("losses")
def test_losses_of_a_long_file_are_finite(name: str) -> None:
    loss = made_loss(name)
    if not asks_for_a_waveform_only(loss):
        pytest.skip("tested with its generator")
    assert is_finite(*of_waveforms(loss, batch(["noise"], LONG), long_file()))


def long_file(channels: int = 1) -> Tensor:
    """Return 7 s each of full scale, silence and noise, as ``(1, channels, T)``."""
    return torch.cat([batch([name], LONG // 3, channels) for name in ("square", "silence", "noise")], dim=-1)


def provider(names: set[str], settings: set[str]) -> tuple[str, Any]:
    """Return the name of a generator that provides outputs of these names, and the generator.

    It is the one that has most of the settings of the loss.
    """
    nodes = {each: OmegaConf.load(conf_dir() / "generator" / f"{each}.yaml") for each in members("generator")}
    for generator in sorted(nodes, key=lambda each: -len(settings & nodes[each].keys())):
        target = nodes[generator].get("_target_")
        possible = target is None or names <= set(getattr(get_class(target), "provides", ()))
        if possible and names <= set((model := made_generator(generator)).provides):
            return generator, model
    raise AssertionError(f"no generator provides {sorted(names)}")


@pytest.mark.slow
@every("losses")
def test_losses_on_other_outputs_of_a_generator_are_finite(name: str) -> None:
    loss = made_loss(name)
    if asks_for_a_waveform_only(loss):
        pytest.skip("tested with waveforms")
    provided = set(asks_for(loss)) - {"inputs", "target", "lengths", "noise", "estimate"}
    if provided <= set(Bridge.provides):
        pytest.skip("tested with the objectives")
    if provided <= set(Codec.provides):
        pytest.skip("tested with the teacher of codecs")
    generator, model = provider(provided, set(entry("losses", name)))
    loss = made_loss(name, settings_of(generator))
    model.train()
    for samples, names in ((1, list(FINITE)), (SHORT, list(FINITE)), (SHORT, ["silence", "silence"])):
        inputs = batch(names, samples, model.in_channels)
        for target in (inputs[:, :1], inputs[:, :1].flip(0)):
            lengths = torch.full((len(names),), samples)
            given = {**model(inputs), "inputs": inputs, "target": target, "noise": inputs[:, :1], "lengths": lengths}
            model.zero_grad()
            value = loss(**{argument: given[argument] for argument in asks_for(loss)})
            value.backward()
            assert is_finite(value, *(p.grad for p in model.parameters())), samples
    if "target" in asks_for(loss):
        given["target"] = batch(["NaN", "noise"], SHORT)
        assert not is_finite(loss(**{argument: given[argument] for argument in asks_for(loss)}))


@pytest.mark.slow
@every("objective")
def test_objectives_are_finite_in_training_and_at_inference(name: str) -> None:
    cfg = composed("generator=dpcrn", f"objective={name}", "task.sensors=[body]")
    with open_dict(cfg):
        cfg.generator = OmegaConf.merge(cfg.generator, OmegaConf.load(SMALL_GENERATORS / "dpcrn.yaml"))
    torch.manual_seed(0)
    model = build(generator_node(cfg))
    for samples, names in ((1, list(FINITE)), (SHORT, list(FINITE)), (SHORT, ["silence", "silence"])):
        inputs = batch(names, samples)
        for target in (inputs, inputs.flip(0)):
            given: Any = {"inputs": inputs, "target": target, "lengths": torch.full((len(names),), samples)}
            outputs = model.teach(given) if isinstance(model, Taught) else {"estimate": estimate_of(model(inputs))}
            loss = outputs["estimate"].square().mean()
            if "prediction" in outputs:
                loss = loss + PredictionMseLoss()(**{key: outputs[key] for key in Bridge.provides})
            model.zero_grad()
            loss.backward()
            assert is_finite(loss, *(p.grad for p in model.parameters())), samples
        with torch.inference_mode():
            assert is_finite(estimate_of(model.eval()(inputs))), samples
        model.train()


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["bypass", "straight_through", "frozen"])
def test_what_a_codec_is_taught_is_finite(quantizer: str) -> None:
    node = OmegaConf.merge(settings_of("codec"), {"teacher": True, "quantizer": quantizer})
    torch.manual_seed(0)
    model = built(node)
    for samples, names in ((1, list(FINITE)), (SHORT, list(FINITE)), (SHORT, ["silence", "silence"])):
        inputs = batch(names, samples)
        for target in (inputs, inputs.flip(0)):
            given: Any = {"inputs": inputs, "target": target, "lengths": torch.full((len(names),), samples)}
            outputs = model.teach(given)
            loss = LatentL1Loss()(*(outputs[name] for name in Codec.provides)) + outputs["estimate"].square().mean()
            model.zero_grad()
            loss.backward()
            assert is_finite(loss, *(p.grad for p in model.parameters())), samples


# ---------------------------------------------------------------- networks


@cache
def settings_of(name: str) -> DictConfig:
    cfg = composed(f"generator={name}", "task.sensors=[body]", "cutoff_frequency=4000")
    small = SMALL_GENERATORS / f"{name}.yaml"
    with open_dict(cfg):
        if small.is_file():
            cfg.generator = OmegaConf.merge(cfg.generator, OmegaConf.load(small))
    node = cfg.generator
    assert isinstance(node, DictConfig)
    return node


def made_generator(name: str) -> Any:
    torch.manual_seed(0)
    return built(settings_of(name))


def outputs_of(model: Any, inputs: Tensor) -> list[Tensor]:
    outputs = model(inputs)
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@pytest.mark.slow
@every("generator")
def test_generators_and_their_gradients_are_finite(name: str) -> None:
    """All signals in a batch; in training also each alone: batch normalisation sees nothing else then."""
    model = made_generator(name)
    for training, samples in product((False, True), (1, max(SHORT, 6 * model.hop + 3))):
        model.train(training)
        alone = [[each] * 2 for each in FINITE if each != "noise"] if training else []
        for names in (list(FINITE), *alone):
            inputs = batch(names, samples, model.in_channels).requires_grad_()
            values = outputs_of(model, inputs)
            assert is_finite(*values), (training, samples, names)
            model.zero_grad()
            if learned := [value.abs().square().mean() for value in values if value.requires_grad]:
                torch.stack(learned).sum().backward()
            assert is_finite(inputs.grad, *(p.grad for p in weights_of(model))), (training, samples, names)


@pytest.mark.slow
@every("generator")
def test_generators_show_what_is_not_finite_in_its_own_item_alone(name: str) -> None:
    model = made_generator(name).eval()
    for broken in BROKEN:
        inputs = batch([broken, "noise"], max(SHORT, 6 * model.hop + 3), model.in_channels)
        with torch.inference_mode():
            output = model(inputs)
        output = output["estimate"] if isinstance(output, dict) else output
        assert not is_finite(output[:1]), broken
        assert is_finite(output[1:]), broken


@pytest.mark.slow
@every("generator")
def test_generators_restore_a_long_file(name: str) -> None:
    model = made_generator(name).eval()
    with torch.inference_mode():
        output = model(long_file(model.in_channels))
    output = output["estimate"] if isinstance(output, dict) else output
    assert output.shape == (1, 1, LONG)
    assert is_finite(output)


@pytest.fixture(params=members("discriminators"))
def discriminator(request: pytest.FixtureRequest) -> nn.Module:
    node = entry("discriminators", request.param)
    with open_dict(node):
        node.update(SMALL_DISCRIMINATORS[request.param])
    torch.manual_seed(0)
    model: nn.Module = built(node)
    return model


def judged(discriminator: nn.Module, waveform: Tensor) -> list[Tensor]:
    return [tensor for found in discriminator(waveform) for tensor in (found.logits, *found.features)]


def test_discriminators_and_their_gradients_are_finite(discriminator: nn.Module) -> None:
    for samples, names in product((1, SHORT), (list(FINITE), ["silence"])):
        waveform = batch(names, samples).requires_grad_()
        values = judged(discriminator, waveform)
        assert is_finite(*values), (samples, names)
        discriminator.zero_grad()
        torch.stack([value.square().mean() for value in values]).sum().backward()
        assert is_finite(waveform.grad, *(p.grad for p in discriminator.parameters())), (samples, names)


@pytest.mark.slow
def test_discriminators_judge_a_long_file(discriminator: nn.Module) -> None:
    with torch.inference_mode():
        assert is_finite(*judged(discriminator, long_file()))


@pytest.mark.parametrize("broken", BROKEN)
def test_discriminators_show_what_is_not_finite(discriminator: nn.Module, broken: str) -> None:
    with torch.inference_mode():
        assert not is_finite(*(found.logits for found in discriminator(batch([broken], SHORT))))


@every("critics")
def test_critics_and_their_gradients_are_finite_and_show_what_is_not(name: str) -> None:
    torch.manual_seed(0)
    critic = built(entry("critics", name))
    least = critic.least_samples
    for samples in (1, least, least + 1111):
        estimate, target = (batch(names, samples) for names in zip(*PAIRS, strict=True))
        estimate.requires_grad_()
        loss = critic.generator_loss(estimate, target, torch.full((len(PAIRS),), samples))
        loss.backward()
        assert is_finite(loss, estimate.grad), samples
    for bad in BROKEN:
        for names in ((bad, "noise"), ("noise", bad)):
            estimate, target = (batch([each], least) for each in names)
            assert not is_finite(critic.generator_loss(estimate, target, torch.tensor([least]))), names


@every("adversarial")
def test_adversarial_losses_are_finite_up_to_absurd_logits_and_show_what_is_not(name: str) -> None:
    game = built(OmegaConf.load(conf_dir() / "adversarial" / f"{name}.yaml")["loss"])
    sizes = (0.0, 1e-40, 1e15, -1e15)
    for wanted, given in product(sizes, sizes):
        logits = [torch.full((2, 3), value, requires_grad=True) for value in (wanted, given)]
        target, estimate = ([Judgement(each, [])] for each in logits)
        losses = game.discriminator(target, estimate), game.generator(estimate)
        sum(losses).backward()
        assert is_finite(*losses, *(each.grad for each in logits)), (wanted, given)
    bad, good = ([Judgement(torch.full((2, 3), value), [])] for value in (math.nan, 0.5))
    assert not is_finite(game.discriminator(bad, good))
    assert not is_finite(game.discriminator(good, bad))
    assert not is_finite(game.generator(bad))


# ---------------------------------------------------------------- balancers


def balanced(name: str, estimate: Tensor, losses: dict[str, Callable[[Tensor], Tensor]]) -> tuple[Any, list[Tensor]]:
    """Return a balancer after one step, and the gradients that it passed on."""
    balancer = built(OmegaConf.load(conf_dir() / "balancer" / f"{name}.yaml"))
    anchor = OutputAnchor({"estimate": estimate.clone().requires_grad_()})
    computed = {loss: function(anchor.outputs["estimate"]) for loss, function in losses.items()}
    given: list[Tensor] = []
    balancer.backward(computed, dict.fromkeys(losses, 1.0), anchor, given.append)
    return balancer, given


@every("balancer")
@pytest.mark.parametrize("signal", FINITE)
@pytest.mark.parametrize("samples", [1, SHORT, LONG])
def test_balancers_pass_on_finite_gradients(name: str, signal: str, samples: int) -> None:
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "l1": lambda estimate: estimate.abs().mean(),
        "adversarial": lambda estimate: estimate.square().mean(),
        "absurd": lambda estimate: 1e12 * estimate.square().mean(),
        "nothing": lambda estimate: 0.0 * estimate.sum(),
    }
    given = balanced(name, batch([signal, signal], samples), losses)[1]
    assert len(given) == 1
    assert is_finite(given[0])


@every("balancer")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_balancers_count_a_loss_that_is_not_finite_or_pass_it_on(name: str, value: float) -> None:
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "l1": lambda estimate: estimate.abs().mean(),
        "bad": lambda estimate: value * estimate.square().mean(),
    }
    balancer, given = balanced(name, batch(["noise"], SHORT), losses)
    skipped = {loss: int(count) for loss, count in getattr(balancer, "skipped", {}).items()}
    assert skipped.get("bad") == 1 or not is_finite(given[0])
    assert not skipped.get("l1")


# ---------------------------------------------------------------- metrics


def metric(name: str) -> Any:
    node = composed("recipe=bandwidth_extension", f"metrics=[{name}]", "cutoff_frequency=4000").metrics[name]
    if hasattr(get_class(node["_target_"]), "score_item"):
        pytest.skip("scores utterances of a corpus only; see tests/metrics")
    if node.get("weights", "") is None:
        pytest.skip("needs a file of weights, which would be downloaded")
    return built(node)


@every("metrics")
@pytest.mark.slow
def test_metrics_give_a_finite_number_or_a_reason_and_none_of_what_is_not_finite(name: str) -> None:
    made = metric(name)
    signals = {**FINITE, **BROKEN}
    for samples in (1, SHORT):
        for pair in (pair for pair in product(signals, signals) if "noise" in pair):
            estimate, target = (batch([each], samples)[0, 0].numpy() for each in pair)
            values, reason = scored(made, estimate, target)
            if np.isfinite([estimate, target]).all():
                assert reason or all(math.isfinite(value) for value in values.values()), (pair, values)
            elif samples == SHORT:
                assert reason in ("non-finite estimate", "non-finite target"), pair
            else:
                assert reason, (pair, values)


def scored(metric: Any, estimate: np.ndarray, target: np.ndarray) -> tuple[dict[str, float], str]:
    """Return the values, or the reason for which there are none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # those of NumPy
            return metric.score(estimate, target, RATE), ""
    except Skip as skip:
        return {}, str(skip)


# ---------------------------------------------------------------- simulators and augmentation


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A measured sensor of two wearers."""
    flat = np.ones(len(grid(RATE)))
    fall = -6.0 * np.log2(np.maximum(grid(RATE), 300.0) / 300.0)
    rest = (fall, fall, flat, 6 * flat, -0.5 * flat, 4 * flat, -70 * flat)
    responses = [
        Response(name, (name,), 5.0, 0.0, 1, 0.0, gain + fall, *rest) for name, gain in (("a", 0.0), ("b", 3.0))
    ]
    file = tmp_path_factory.mktemp("calibration") / "two.json"
    Calibration("body", RATE, grid(RATE), tuple(responses)).save(file)
    return str(file)


@pytest.fixture
def simulators(name: str, calibration: str, noise: Path) -> dict[str, Any]:
    """The simulators of an entry of conf/degradation, by sensor."""
    recipe = "bandwidth_extension" if name.startswith("narrowband") else "fusion"
    cfg = composed(f"recipe={recipe}", f"degradation={name}", f"data.noise_root={noise}")
    needed = {"calibration": calibration, "noise_root": str(noise)}
    found = {}
    for sensor, node in cfg.degradation.items():
        with open_dict(node):
            for key in [key for key in node if OmegaConf.is_missing(node, key)]:
                node[key] = needed[key]
        found[sensor] = built(node)
    return found


def draw(seed: int, training: bool) -> Draw:
    return Draw(RATE, torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 100), training)


@pytest.mark.slow
@every("degradation")
def test_simulators_are_finite_and_keep_what_is_not(name: str, simulators: dict[str, Any]) -> None:
    for simulate, training in product(simulators.values(), (True, False)):
        for signal, samples, seed in product(FINITE, (1, 2, SHORT), range(6)):
            made = simulate(batch([signal], samples)[0], draw(seed, training))
            assert is_finite(*made.values()), (signal, samples, seed, training)
            assert {value.shape for value in made.values()} == {(1, samples)}
        for broken, seed in product(BROKEN, range(6)):
            kept, refusal = simulated(simulate, broken, draw(seed, training))
            assert kept or "finite" in refusal or "NaN" in refusal, (broken, seed, training, refusal)
        made = simulate(long_file()[0], draw(0, training))
        assert is_finite(*made.values())


def simulated(simulate: Any, signal: str, draw: Draw) -> tuple[bool, str]:
    """Return whether the result is not finite, or why it was refused."""
    try:
        return not is_finite(simulate(batch([signal], SHORT)[0], draw)["signal"]), ""
    except BcfusionError as refusal:
        return False, str(refusal)


def augmented(signal: str, samples: int, seed: int) -> Item:
    augmentation = Augmentation(
        level=-26.0,
        gain=(-10.0, 10.0),
        polarity=0.5,
        body_gain=(-10.0, 10.0),
        body_polarity=0.5,
        body_equalisation=4.0,
        body_band_mask=0.5,
        body_noise=(20.0, 50.0),
    )
    item = Item(
        inputs=batch([signal], samples, 2)[0],
        target=batch([signal], samples)[0],
        length=samples,
        id="a",
        unreadable=[],
        noise=batch(["noise"], samples)[0],
    )
    augmentation.apply(item, augmentation.draw(torch.Generator().manual_seed(seed)), ("body", "noisy"), RATE)
    return item


def test_this_test_changes_crops_in_every_way_that_there_is() -> None:
    """A new argument of the augmentation has to be added to this file."""
    known = {"speed", "level", "gain", "polarity", "body_gain", "body_polarity", "body_equalisation", "body_noise"}
    known |= {"body_equalisation_octaves", "body_band_mask", "body_band_octaves", "body_sensors", "self"}
    assert set(inspect.signature(Augmentation.__init__).parameters) == known  # speed is resampling, of tests/audio


@pytest.mark.parametrize("signal", [*FINITE, *BROKEN])
@pytest.mark.parametrize("samples", [1, SHORT])
def test_augmented_crops_are_finite_and_keep_what_is_not(signal: str, samples: int) -> None:
    for seed in range(8):
        item = augmented(signal, samples, seed)
        assert is_finite(item["inputs"], item["target"], item["noise"]) == (signal in FINITE), seed


@pytest.mark.slow
def test_an_augmented_long_file_is_finite() -> None:
    item = augmented("square", LONG, 0)
    assert is_finite(item["inputs"], item["target"], item["noise"])
