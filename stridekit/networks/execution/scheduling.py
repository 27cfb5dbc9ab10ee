"""The schedule: a network and a batch in, the steps of a run or of a training step out, with the values they touch."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stridekit.errors import NetworkError
from stridekit.memory.arrays import Array
from stridekit.networks.execution.kernels import Backward, Context, Forward, LayerKernel, SoftmaxKernel, kernel_for
from stridekit.networks.execution.optimizers import update_workspace
from stridekit.networks.execution.steps import Step, Value, Views
from stridekit.networks.operations import Input, Resolved, Shape, SoftmaxCrossEntropy

if TYPE_CHECKING:
    from stridekit.networks.layers import Layer
    from stridekit.networks.network import Network


@dataclass
class StepSchedule:
    """Steps and values.

    Attributes
    ----------
    steps : list of Step
    values : dict of Value
        All that lies in the arena or is returned.
    outputs : tuple of str
        Values that are returned.
    kernels : dict of LayerKernel
        By layer.
    parameters : dict of str
        What each parameter and buffer is called among the values.
    classes : tuple of int
        Shape of the target in training: ``(N, *spatial)``.
    class_count : int
        How many classes a target may name.
    loss, target : str
        In training, the values that hold the loss, one float64, and the target, which is given and not in the arena.
    """

    steps: list[Step] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    kernels: dict[str, LayerKernel] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    classes: tuple[int, ...] = ()
    class_count: int = 0
    loss: str = ""
    target: str = ""

    def add_value(self, name: str, shape: Shape, dtype: np.dtype[Any], role: str) -> str:
        """Note a value; return its name."""
        self.values[name] = Value(name, shape, dtype, role)
        return name


def schedule(network: Network, batch: int, context: Context) -> StepSchedule:
    """Return what a run takes, or in training a step: forward, the loss, backward.

    Raises
    ------
    NetworkError
        In training, for a network with more than one output.
    """
    made = _Scheduler(network, batch, context)
    if context.training:
        made.train()
    else:
        for layer in network.layers:
            made.forward(layer)
        made.found.outputs = tuple(dict.fromkeys(network.outputs))
        for name in made.found.outputs:
            value = made.found.values[name]
            made.found.values[name] = Value(name, value.shape, value.dtype, "output")
    return made.found


class _Scheduler:
    def __init__(self, network: Network, batch: int, context: Context):
        self.network, self.batch, self.context = network, batch, context
        self.found = StepSchedule()
        self.trained = _trained(network) if context.training else set()
        self.named = set(network.by_name)
        for name in (*network.parameter_shapes, *network.buffer_shapes):
            self.found.parameters[name] = self._unused(name)
        self.saved: dict[str, dict[str, str]] = {}
        self.gradients: dict[str, str] = {}
        self.contributions: dict[str, int] = {}
        self.parameter_gradients: dict[str, str] = {}

    def forward(self, layer: Layer) -> None:
        """Add the step that computes a layer."""
        shape, found = self._shape(layer.name), self.found
        found.add_value(layer.name, _stored(shape), self.context.element, "activation")
        if isinstance(layer.operation, Input):
            found.steps.append(Step(f"{layer.name} given", (), (layer.name,), 0, None, feeds=layer.name))
            return
        shapes = tuple(self._shape(name) for name in layer.inputs)
        wanted = tuple(name in self.trained for name in layer.read)
        kernel = kernel_for(self.context, self._at(layer), shapes, shape, wanted)
        found.kernels[layer.name] = kernel
        saved = {}
        if self.context.training:
            saved = self.saved[layer.name] = {
                name: self._add(f"{layer.name}.{name}", each, dtype, "saved")
                for name, (each, dtype) in kernel.saved.items()
            }
        parameters = self._parameters_of(layer)

        def run(views: Views, workspace: Array) -> None:
            kernel.forward(
                Forward(
                    [views[name] for name in layer.read],
                    views[layer.name],
                    {short: views[name] for short, name in parameters.items()},
                    {short: views[name] for short, name in saved.items()},
                    workspace,
                )
            )

        in_place = {layer.name: tuple(layer.inputs[position] for position in kernel.in_place)}
        found.steps.append(
            Step(
                f"{layer.name} forward",
                layer.read,
                (layer.name, *saved.values()),
                kernel.forward_workspace,
                run,
                in_place,
            )
        )

    def train(self) -> None:
        """Add the steps forward, the loss and the steps backward."""
        output = self._output()
        softmax = isinstance(output.operation, SoftmaxCrossEntropy)
        read = {name for layer in self.network.layers for name in layer.inputs}
        for layer in self.network.layers:
            # The loss is one of what comes into the softmax: its own result is wanted by nobody.
            if not softmax or layer is not output or layer.name in read:
                self.forward(layer)
        source = output.inputs[0] if softmax else output.name
        self._loss(source)
        last_user = _first_users(self.network, source)
        for layer in reversed(self.network.layers):
            if layer.name in self.contributions and not isinstance(layer.operation, Input):
                self._backward(layer)
                if last_user.get(layer.owner) == layer.name:
                    self._update(layer)

    def _update(self, layer: Layer) -> None:
        """Move a layer's parameters: nobody reads them any more, so their gradients need not be kept."""
        for short in self._at(layer).parameters:
            name = f"{layer.owner}.{short}"
            gradient = self.parameter_gradients[name]
            workspace = update_workspace(self.context, math.prod(self.found.values[gradient].shape))
            self.found.steps.append(Step(f"{name} update", (gradient,), (), workspace, None, updates=name))

    def _output(self) -> Layer:
        """Return the one output."""
        if len(self.network.outputs) != 1:
            raise NetworkError(
                f"training needs one output, {self.network.name} has {len(self.network.outputs)}: "
                f"{', '.join(self.network.outputs)}"
            )
        layer = self.network.by_name[self.network.outputs[0]]
        if layer.name not in self.trained:
            raise NetworkError(f"nothing before the output {layer.name!r} has parameters to train")
        return layer

    def _loss(self, source: str) -> None:
        """Add the step from what is compared with the target to its gradient."""
        found, shape = self.found, self._shape(source)
        softmax = SoftmaxCrossEntropy().resolved((shape[1:],))
        kernel = kernel_for(self.context, softmax, (shape,), shape, (True,))
        assert isinstance(kernel, SoftmaxKernel)
        gradient = self._gradient(source, None)
        loss = found.loss = self._add("loss", (1,), np.dtype(np.float64), "saved")
        target = found.target = self._unused("target")
        found.classes, found.class_count = _stored(shape)[:-1], shape[1]
        rows = (kernel.rows, shape[1])

        def run(views: Views, workspace: Array) -> None:
            views[loss][...] = kernel.loss(
                views[source].reshape(rows), views[target].reshape(-1), views[gradient].reshape(rows), workspace
            )

        found.steps.append(Step("loss", (source,), (gradient, loss), kernel.loss_workspace, run, {gradient: (source,)}))

    def _backward(self, layer: Layer) -> None:
        """Add the step from a layer's gradient to those of its inputs and parameters."""
        kernel, found = self.found.kernels[layer.name], self.found
        gradient = self.gradients[layer.name]
        if kernel.passes_gradient:
            self._pass_on(layer, gradient)
            return
        # A second gradient of the same value is computed beside the first, and added to it.
        totals: dict[str, str] = {}
        targets = [self._gradient(name, totals) if name in self.trained else None for name in layer.read]
        owned = {short: self._parameter_gradient(layer, short, totals) for short in self._at(layer).parameters}
        parameters = self._parameters_of(layer)
        saved = self.saved[layer.name]
        inputs = layer.read if kernel.saves_inputs else ()
        output = [layer.name] if kernel.saves_output else []
        written = [name for name in (*targets, *owned.values()) if name is not None]

        def run(views: Views, workspace: Array) -> None:
            kernel.backward(
                Backward(
                    views[gradient],
                    [views[name] for name in inputs],
                    views[layer.name] if output else None,
                    {short: views[name] for short, name in parameters.items()},
                    {short: views[name] for short, name in saved.items()},
                    [None if name is None else views[name] for name in targets],
                    {short: views[name] for short, name in owned.items()},
                    workspace,
                )
            )
            for beside, total in totals.items():
                kernel.xp.add(views[total], views[beside], out=views[total])

        in_place = {
            target: (gradient,)
            for position in kernel.grad_in_place
            if (target := targets[position]) is not None and target not in totals
        }
        sums = tuple(dict.fromkeys(totals.values()))
        before = tuple(name for name in sums if name not in written)
        found.steps.append(
            Step(
                f"{layer.name} backward",
                (gradient, *inputs, *output, *saved.values(), *before),
                (*written, *before),
                kernel.backward_workspace,
                run,
                in_place,
            )
        )

    def _pass_on(self, layer: Layer, gradient: str) -> None:
        """Give each input the gradient as it is: copied where it is the first, else added."""
        targets: list[tuple[str, bool]] = []
        for name in layer.read:
            if name in self.trained:
                fresh = name not in self.contributions
                targets.append((self._gradient(name, None), fresh))
        context = self.context

        def run(views: Views, workspace: Array) -> None:
            for name, fresh in targets:
                if fresh:
                    # If this value shares the gradient's memory, the copy changes nothing.
                    views[name][...] = views[gradient]
                else:
                    context.xp.add(views[name], views[gradient], out=views[name])

        times = Counter(name for name, _ in targets)
        begun = {name for name, fresh in targets if fresh}
        later = tuple(name for name, _ in targets if name not in begun)
        # One that is given twice needs memory of its own: it is added to while the gradient is still read.
        alone = [name for name, fresh in targets if fresh and times[name] == 1]
        in_place = dict.fromkeys(alone[-1:], (gradient,))
        self.found.steps.append(Step(f"{layer.name} backward", (gradient, *later), tuple(times), 0, run, in_place))

    def _gradient(self, name: str, totals: dict[str, str] | None) -> str:
        """Return the value for one more gradient of a layer's output.

        The first, or one beside it that `totals` then says to add to the first; without `totals` always the first.
        """
        number = self.contributions.get(name, 0)
        self.contributions[name] = number + 1
        if number and totals is None:
            return self.gradients[name]
        suffix = f".grad+{number}" if number else ".grad"
        made = self._add(f"{name}{suffix}", _stored(self._shape(name)), self.context.element, "gradient")
        first = self.gradients.setdefault(name, made)
        if totals is not None and made != first:
            totals[made] = first
        return made

    def _parameter_gradient(self, layer: Layer, short: str, totals: dict[str, str]) -> str:
        """Return the value for a parameter's gradient, or for one more beside the first, where layers share it."""
        owner = f"{layer.owner}.{short}"
        shape = self._at(layer).parameters[short]
        suffix = f".grad+{layer.name}" if owner in self.parameter_gradients else ".grad"
        made = self._add(f"{owner}{suffix}", shape, self.context.element, "parameter gradient")
        first = self.parameter_gradients.setdefault(owner, made)
        if made != first:
            totals[made] = first
        return made

    def _add(self, name: str, shape: Shape, dtype: np.dtype[Any], role: str) -> str:
        """Note a value that is no layer's result; return its name."""
        return self.found.add_value(self._unused(name), shape, dtype, role)

    def _unused(self, name: str) -> str:
        """Return `name`, with a prime where a layer, a parameter or another value is called so."""
        while name in self.named:
            name += "'"
        self.named.add(name)
        return name

    def _parameters_of(self, layer: Layer) -> dict[str, str]:
        """Return what a layer reads beside its inputs, by short names."""
        return {name: self.found.parameters[f"{layer.owner}.{name}"] for name in self._at(layer).kept}

    def _at(self, layer: Layer) -> Resolved:
        return self.network.resolved[layer.name]

    def _shape(self, name: str) -> Shape:
        """Return ``(N, C, *spatial)`` of what a layer gives."""
        feature = self.network.features[name]
        return (self.batch * feature.samples, *feature.shape)


def _first_users(network: Network, output: str) -> dict[str, str]:
    """Return by owner of parameters the first layer that uses them on the way to `output`: backward, the last."""
    reached, users = {output}, {}
    for layer in reversed(network.layers):
        if layer.name in reached:
            reached.update(layer.read)
            users[layer.owner] = layer.name
    return users


def _trained(network: Network) -> set[str]:
    """Return the layers whose gradient is wanted: those with parameters, or with some before them."""
    found: set[str] = set()
    for layer in network.layers:
        if network.resolved[layer.name].parameters or not found.isdisjoint(layer.read):
            found.add(layer.name)
    return found


def _stored(shape: Shape) -> Shape:
    """Return a shape ``(N, C, *spatial)`` as it lies in memory, channels innermost."""
    return (shape[0], *shape[2:], shape[1])
