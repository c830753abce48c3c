"""Workarounds for CPUs compute what the plain operation computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bcfusion.nn import cpu


@pytest.mark.parametrize(
    ("channels", "outputs", "kernel_size", "stride", "groups", "length", "by_phases"),
    [
        (4, 8, 41, 4, 4, 256, True),
        (4, 8, 41, 4, 2, 257, True),
        (4, 8, 41, 4, 2, 258, True),
        (4, 8, 41, 4, 2, 259, True),
        (6, 6, 7, 3, 3, 50, True),
        (4, 4, 5, 8, 2, 41, True),  # samples between the windows that no output sees
        (4, 8, 41, 4, 2, 40, False),  # shorter than the kernel
        (16, 8, 5, 4, 2, 60, False),  # too wide to gain
        (4, 8, 41, 4, 1, 256, False),
        (4, 8, 41, 2, 2, 256, False),
        (256, 4, 9, 4, 1, 1024, False),  # padded beforehand
    ],
)
def test_a_strided_convolution_is_that_of_torch(
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    outputs: int,
    kernel_size: int,
    stride: int,
    groups: int,
    length: int,
    by_phases: bool,
) -> None:
    taken = []
    plain = cpu._by_phases
    monkeypatch.setattr(cpu, "_by_phases", lambda *given: taken.append(1) or plain(*given))
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, weight, bias = made(2, channels, length), made(outputs, channels // groups, kernel_size), made(outputs)
    padding = kernel_size // 2
    expected = F.conv1d(x, weight, bias, stride, padding, groups=groups)
    found = cpu.strided_conv1d(x, weight, bias, stride, padding, groups)
    assert bool(taken) == by_phases
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    ahead = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    for mine, theirs in zip(
        *(torch.autograd.grad(y, (x, weight, bias), ahead) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-11)


def test_a_layer_of_a_discriminator_is_that_of_torch_with_weight_norm() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(cpu.StridedConv1d(16, 64, 41, stride=4, padding=20, groups=4))
    x = torch.randn(2, 16, 1000, generator=torch.Generator().manual_seed(0))
    expected = F.conv1d(x, layer.weight, layer.bias, 4, 20, groups=4)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def of_both(
    ours: torch.nn.Module, plain: torch.nn.Module, x: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Return output, gradient of the input and gradients of the parameters of both layers, in pairs."""
    found: list[list[torch.Tensor | None]] = []
    for layer in (ours, plain):
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        y = layer(inputs)
        (y * torch.linspace(-1, 2, y.numel()).view_as(y)).sum().backward()
        found.append([y, inputs.grad, *(parameter.grad for parameter in layer.parameters())])
    return list(zip(*found, strict=True))


@pytest.mark.parametrize("product", ["oneDNN", "torch"])
def test_a_pointwise_convolution_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, product: str) -> None:
    if product == "torch":
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    taken = []
    plain_product = cpu.product
    monkeypatch.setattr(cpu, "product", lambda *given: taken.append(1) or plain_product(*given))
    torch.manual_seed(0)
    ours = cpu.PointwiseConv1d(6, 4, causal=False)
    plain = torch.nn.Conv1d(6, 4, 1)
    plain.load_state_dict(ours.state_dict())
    for mine, expected in of_both(ours, plain, torch.randn(3, 6, 50)):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-5)
    assert len(taken) == (9 if cpu._ONEDNN_PRODUCT is not None else 0)  # forward, and two gradients, of three items
    with torch.no_grad():
        ours(torch.randn(1, 6, 50))
    ours(torch.randn(1, 6, 2)).sum().backward()  # shorter than the channels
    ours.double()(torch.randn(1, 6, 50, dtype=torch.float64)).sum().backward()
    assert len(taken) == (9 if cpu._ONEDNN_PRODUCT is not None else 0), "others are torch's own"


@pytest.mark.parametrize("slope", [0.25, 1.0, 0.0, -0.5])
def test_prelu_is_that_of_torch(slope: float) -> None:
    torch.manual_seed(0)
    ours, plain = cpu.PReLU(), torch.nn.PReLU()
    torch.nn.init.constant_(ours.weight, slope)
    plain.load_state_dict(ours.state_dict())
    for mine, expected in of_both(ours, plain, torch.randn(3, 6, 50)):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-5)
    x = torch.randn(4)
    with torch.no_grad():
        assert torch.equal(ours(x), plain(x))


@pytest.mark.parametrize(
    ("channels", "outputs", "taps", "stride", "groups", "length"),
    [(8, 12, 41, 4, 4, 50), (8, 12, 41, 4, 2, 33), (6, 4, 5, 1, 1, 20), (6, 4, 5, 1, 2, 5), (4, 4, 7, 3, 1, 8)],
)
def test_a_wide_convolution_is_that_of_torch(
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    outputs: int,
    taps: int,
    stride: int,
    groups: int,
    length: int,
) -> None:
    monkeypatch.setattr(cpu, "_WIDE", 0)
    taken = []
    plain_columns = cpu._columns
    monkeypatch.setattr(cpu, "_columns", lambda *given: taken.append(1) or plain_columns(*given))
    torch.manual_seed(0)
    ours = cpu.StridedConv1d(channels, outputs, taps, stride, padding=taps // 2, groups=groups)
    plain = torch.nn.Conv1d(channels, outputs, taps, stride, padding=taps // 2, groups=groups)
    plain.load_state_dict(ours.state_dict())
    for mine, expected in of_both(ours, plain, torch.randn(3, channels, length)):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-5)
    if cpu._ONEDNN_PRODUCT is not None:
        assert len(taken) == groups * (2 if stride == 1 else 1)


def test_fast_layers_have_a_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_WIDE", 0)
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9)
    for layer, plain in (
        (cpu.PReLU(), torch.nn.PReLU()),
        (cpu.PointwiseConv1d(4, 4, causal=False), torch.nn.Conv1d(4, 4, 1)),
        (cpu.StridedConv1d(4, 4, 3, padding=1), torch.nn.Conv1d(4, 4, 3, padding=1)),
    ):
        plain.load_state_dict(layer.state_dict())
        found = []
        for network in (layer, plain):
            inputs = x.clone().requires_grad_()
            (first,) = torch.autograd.grad(network(inputs).square().sum(), inputs, create_graph=True)
            given = [inputs, *network.parameters()]
            found.append([first, *torch.autograd.grad(first.square().sum(), given, allow_unused=True)])
        for mine, expected in zip(*found, strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)


def test_denormal_numbers_are_zeros_inside_and_kept_outside() -> None:
    small = torch.full((2,), 1e-39)

    def kept() -> bool:
        return bool((small * 1.0).ne(0).all())

    assert kept()
    with cpu.denormals_as_zero():
        assert not kept()
        with cpu.denormals_as_zero():
            assert not kept()
        assert not kept(), "the inner one must leave what the outer one has set"
    assert kept()
    with pytest.raises(ValueError, match="inside"), cpu.denormals_as_zero():
        raise ValueError("inside")
    assert kept()
