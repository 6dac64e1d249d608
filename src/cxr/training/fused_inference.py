"""Which network gives the same answers sooner, where nothing is learned from them?

On a CPU a convolution is over before its result has left the cache; batch normalisation, the addition of a residual and
the activation each carry it through memory once more. Here they become part of the convolution: the first by folding
its constants into the weights, the others as what oneDNN, the library behind PyTorch's convolutions on a CPU, calls
post-operations. `torch.compile` does the same, after half a minute of compiling; this takes a fraction of a second, so
that it can be done for every validation.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn

_OPERATIONS = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_TOLERANCE = 1e-3  # of the largest logit; rounding stays a hundred times below
_PASS_ON = (nn.Identity, nn.Dropout)  # in evaluation, what comes in goes out


def fuse_for_inference(network: nn.Module) -> nn.Module:
    """A network that gives the same answers as this one, to rounding, for evaluation without gradients.

    It is a `FusedNetwork`, to be told when weights have changed. A network with nothing to fuse, one that cannot be
    followed, and one that is not on a CPU in float32 are returned as they are.

    Args:
        network: in evaluation mode; maps images (B, 3, H, W) to logits (B, C). It is not changed.
    """
    weights = next(network.parameters(), None)
    if weights is None or weights.device.type != "cpu" or weights.dtype != torch.float32 or not _available():
        return network
    try:
        graph = _Tracer().trace(network)
    except Exception:  # a network may do whatever Python can; what cannot be followed runs as it is
        return network
    fused = fx.GraphModule(network, graph)
    convolutions = [node for node in graph.nodes if _is(fused, node, nn.Conv2d)]
    if not sum(_fuse(fused, node) for node in convolutions):
        return network
    fused.delete_all_unused_submodules()
    fused.recompile()
    return FusedNetwork(fused, network)


class FusedNetwork(nn.Module):
    """A fused network that is held against the one that it was made of before it is believed.

    Where activations overflow, oneDNN's ReLU turns what is not a number into 0, and a network that diverged would give
    answers. With new weights the first image of all is therefore answered by both; if they disagree, the plain network
    answers all.

    Args:
        fused: what `fuse_for_inference` makes of it.
        plain: the network itself.
    """

    def __init__(self, fused: nn.Module, plain: nn.Module) -> None:
        super().__init__()
        self.fused = fused.eval()
        self._plain = (plain,)  # in a tuple: not a part of this
        self._agree: bool | None = None

    def forget(self) -> None:
        """Let go of the weights that were folded; the next answers are given with those of then."""
        self._agree = None
        for part in self.fused.modules():
            if isinstance(part, FusedConvolution):
                part.forget()

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W)."""
        if self._agree is False:
            return cast(Tensor, self._plain[0](image))
        answers = cast(Tensor, self.fused(image))
        if self._agree is None:
            expected = self._plain[0](image[:1])
            self._agree = bool((answers[:1] - expected).abs().max() <= _TOLERANCE * expected.abs().max())
            return answers if self._agree else self(image)
        return answers


class FusedConvolution(nn.Module):
    """A convolution, its normalisation, then perhaps an addition and an activation, in one pass over the memory.

    Args:
        convolution: with zeros around the image.
        norm: is folded into the weights; None for none.
        activation: comes last; None for none.
        in_place: whether the sum may be written over what is added.
    """

    def __init__(
        self, convolution: nn.Conv2d, norm: nn.BatchNorm2d | None, activation: nn.Module | None, *, in_place: bool
    ) -> None:
        super().__init__()
        like = convolution
        self._shape: tuple[Any, ...] = (list(like.padding), list(like.stride), list(like.dilation), like.groups)
        self._made_of = (convolution, norm)  # in a tuple: not a part of this
        self._relu = isinstance(activation, nn.ReLU)
        self._activation = None if self._relu else activation
        self._in_place = in_place
        self._weights: tuple[Tensor, Tensor | None] | None = None

    def forget(self) -> None:
        """Fold anew at the next call."""
        self._weights = None

    def forward(self, image: Tensor, other: Tensor | None = None) -> Tensor:
        """(B, C_out, H', W') of ``image`` (B, C_in, H, W), to which ``other`` is added."""
        if self._weights is None:
            weight, bias = _folded(*self._made_of)
            weight = weight.contiguous(memory_format=torch.channels_last)
            # Laid out as suits the first image; for those of other sizes oneDNN sees to it at each call.
            weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._shape, list(image.shape))
            self._weights = (weight, bias)
        given, relu = (*self._weights, *self._shape), "relu" if self._relu else None
        if other is None:
            result = torch.ops.mkldnn._convolution_pointwise(image, *given, relu or "none", [], "")
        elif self._in_place and self._fits(image, other):
            result = torch.ops.mkldnn._convolution_pointwise_.binary(other, image, *given, "add", 1.0, relu, [], None)
        else:
            result = torch.ops.mkldnn._convolution_pointwise(image, *given, "none", [], "") + other
            result = result.relu_() if self._relu else result
        return cast(Tensor, result if self._activation is None else self._activation(result))

    def _fits(self, image: Tensor, other: Tensor) -> bool:
        """Whether nothing is repeated in the addition."""
        sides = (
            (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for side, kernel, padding, stride, dilation in zip(
                image.shape[2:], self._made_of[0].kernel_size, *self._shape[:3], strict=True
            )
        )
        return other.shape == (len(image), self._made_of[0].out_channels, *sides)


class _Tracer(fx.Tracer):
    """Follows a network down to its layers; timm's batch norm with an activation is one."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, BatchNormAct2d) or super().is_leaf_module(m, module_qualified_name)


def _available() -> bool:
    mkldnn: Any = torch.backends.mkldnn
    return bool(mkldnn.is_available()) and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS)


def _is(fused: fx.GraphModule, node: fx.Node | None, *kinds: type[nn.Module]) -> bool:
    return node is not None and node.op == "call_module" and isinstance(fused.get_submodule(str(node.target)), kinds)


def _layer(fused: fx.GraphModule, node: fx.Node) -> Any:
    return fused.get_submodule(str(node.target))


def _next(fused: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The node that uses the result of ``node``, where there is only one, and the last node before it."""
    while len(node.users) == 1:
        (user,) = node.users
        if not _is(fused, user, *_PASS_ON):
            return node, user
        node = user
    return node, None


def _fuse(fused: fx.GraphModule, node: fx.Node) -> bool:
    """Make one step of a convolution and what follows it; False where nothing does that could be put in."""
    convolution: nn.Conv2d = _layer(fused, node)
    if convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
        return False
    norm, activation = None, None
    before, after = _next(fused, node)
    if after is not None and _is(fused, after, nn.BatchNorm2d):
        norm = _layer(fused, after)
        if norm.running_mean is None:  # it looks at the batch, also in evaluation
            return False
        activation = norm.act if isinstance(norm, BatchNormAct2d) and not isinstance(norm.act, nn.Identity) else None
        before, after = _next(fused, after)
    other, place = None, node
    if activation is None:
        if after is not None and after.op == "call_function" and after.target in _ADDITIONS and not after.kwargs:
            (summand,) = [each for each in after.args if each is not before] or [None]
            if isinstance(summand, fx.Node):
                other, place = summand, after
                before, after = _next(fused, after)
        if after is not None and _is(fused, after, nn.ReLU):
            activation = _layer(fused, after)
            before = after
    if before is node:
        return False
    in_place = other is not None and _is_free(fused, other, place)
    name = f"fused_{str(node.target).replace('.', '_')}"
    fused.add_submodule(name, FusedConvolution(convolution, norm, activation, in_place=in_place))
    with fused.graph.inserting_before(place):
        made = fused.graph.call_module(name, (node.args[0],) if other is None else (node.args[0], other))
    before.replace_all_uses_with(made)
    fused.graph.eliminate_dead_code()
    return True


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution that is normalised already."""
    if norm is None:
        return convolution.weight.detach(), None if convolution.bias is None else convolution.bias.detach()
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    with torch.no_grad():  # the constants in float64: they are rounded once
        scale = (variance.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        offset = -mean.double() * scale
        if convolution.bias is not None:
            offset = offset + convolution.bias.double() * scale
        if norm.bias is not None:
            offset = offset + norm.bias.double()
        return convolution.weight * scale.float()[:, None, None, None], offset.float()


def _is_free(fused: fx.GraphModule, node: fx.Node, place: fx.Node) -> bool:
    """Whether the result of ``node`` is a tensor of its own that nothing reads after ``place``.

    Its other readers must be done by then, and must be layers that keep no view of it.
    """
    if not _is(fused, node, FusedConvolution, nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d):
        return False
    readers = [user for user in node.users if user is not place]
    return all(user < place and _is(fused, user, FusedConvolution, nn.Conv2d, nn.MaxPool2d) for user in readers)
