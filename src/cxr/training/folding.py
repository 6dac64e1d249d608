"""How is a network evaluated without the batch norms that its convolutions can take over?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


class FoldedNetwork:
    """A network whose batch norms lie in the convolutions before them, for evaluation.

    In an evaluation a batch norm multiplies and adds constants, which the convolution before it can do for nothing
    (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    2018, section 3.2). Results differ in the last bits of the numbers. Where the steps of a network hang on its input,
    or no batch norm follows a convolution, it is evaluated as it is.

    The graph is read once; `refresh` takes the weights of the moment. All else is shared with the network.

    Args:
        network: left as it is; it must be in evaluation mode.

    Attributes:
        device: where the network was; on another one it must be folded anew.
    """

    def __init__(self, network: nn.Module) -> None:
        assert not network.training
        self._pairs: list[tuple[nn.Conv2d, nn.Conv2d, nn.BatchNorm2d]] = []
        self._call: nn.Module = network
        self.device = next(network.parameters()).device
        try:
            graph_module = fx.symbolic_trace(network)
        except Exception:  # whatever a network's own code raises when it is given a stand-in for an image
            return
        modules = dict(graph_module.named_modules())
        for node in list(graph_module.graph.nodes):
            pair = _pair(node, modules)
            if pair is not None:
                self._replace(graph_module, node, *pair)
        if self._pairs:
            graph_module.recompile()
            self._call = graph_module.eval()

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._call(image)
        return logits

    @property
    def num_folded(self) -> int:
        """How many batch norms were folded."""
        return len(self._pairs)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the present weights and statistics of the network."""
        for folded, conv, norm in self._pairs:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            assert folded.bias is not None
            folded.weight.copy_(weight)
            folded.bias.copy_(bias)

    def _replace(self, graph_module: fx.GraphModule, node: fx.Node, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        folded = copy.deepcopy(conv)  # with its layout in memory
        folded.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
        folded.requires_grad_(False)
        before = node.args[0]
        assert isinstance(before, fx.Node)
        name = f"folded_{len(self._pairs)}"
        graph_module.add_submodule(name, folded)
        before.target = name
        node.replace_all_uses_with(before)
        graph_module.graph.erase_node(node)
        self._pairs.append((folded, conv, norm))


def _pair(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[nn.Conv2d, nn.BatchNorm2d] | None:
    """The batch norm of this node, and the convolution that feeds nothing else."""
    norm = _called(node, modules)
    before = node.args[0] if node.args else None
    conv = _called(before, modules)
    # Exact types: a subclass may do more, such as an activation or padding.
    if type(norm) is not nn.BatchNorm2d or type(conv) is not nn.Conv2d or conv.padding_mode != "zeros":
        return None
    assert isinstance(before, fx.Node)
    # Without statistics of its own a batch norm uses those of the batch; a shared convolution has other readers.
    shared = len(before.users) > 1 or sum(other.target == before.target for other in node.graph.nodes) > 1
    return None if shared or norm.running_mean is None else (conv, norm)


def _called(node: Any, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules.get(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None
