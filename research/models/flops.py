"""Where a model's parameters and floating-point operations are: a table by layer, read from the traced program.

Nothing is computed: `layer_table` traces the forward pass and walks its equations, so that abstract parameters of any
size do. Reports show the table; the training loop can turn its total into a fraction of the device's peak.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.extend.core import Jaxpr
from jaxtyping import Array

from research.core import trees
from research.core.shapes import Params
from research.models.model import Model

TOP = "(top level)"


def layer_table(
    model: Model, params: Params, batch: Mapping[str, Array | jax.ShapeDtypeStruct]
) -> list[dict[str, Any]]:
    """Returns one row {"path", "parameters", "flops"} a layer, in the order of computation.

    A layer is a module that owns parameters or multiplies. FLOPs are those of matrix products and convolutions of one
    forward pass over the whole batch, a multiplication and an addition counting as two; the rest is a few per cent
    (a backward pass costs about twice the forward one). A scanned layer counts for all its repetitions; of a
    conditional the costliest branch counts, of a loop of unknown length one turn. Experts count for their full
    capacity, used or not: `top` x `capacity_factor` times one MLP over all tokens, however many experts there are.

    Args:
        model: what to trace.
        params: parameters or their shapes (`jax.eval_shape`).
        batch: the fields that the model reads, or their shapes.
    """
    program = jax.make_jaxpr(lambda params, batch: model.apply(params, batch)[0])
    flops: dict[str, int] = {}
    for scope, count in _operations(program(params, batch).jaxpr, ()):
        path = _module_path(scope, params)
        flops[path] = flops.get(path, 0) + count
    parameters: dict[str, int] = {}
    for path, leaf in trees.flatten(params).items():
        owner = path.rpartition("/")[0] or TOP
        parameters[owner] = parameters.get(owner, 0) + math.prod(leaf.shape)
    paths = [path for path in flops if flops[path] or path in parameters]
    paths += [path for path in parameters if path not in flops]
    return [{"path": path, "parameters": parameters.get(path, 0), "flops": flops.get(path, 0)} for path in paths]


def _operations(jaxpr: Jaxpr, outer: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yields (scope, FLOPs) of every equation, the scope as names from the outermost to the innermost."""
    for equation in jaxpr.eqns:
        scope = outer + tuple(str(equation.source_info.name_stack).split("/"))
        inner = [list(_operations(sub, scope)) for sub in _sub_jaxprs(equation.params)]
        if equation.primitive.name == "cond":
            inner = [max(inner, key=lambda branch: sum(count for _, count in branch))]
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        yield scope, _flops(equation)
        yield from ((path, times * count) for branch in inner for path, count in branch)


def _sub_jaxprs(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)  # of a closed one, which newer releases no longer tell apart
            if isinstance(inner, Jaxpr):
                yield inner


def _flops(equation: Any) -> int:
    """Returns 2 x output size x length of the sum behind each output, for products and convolutions."""
    match equation.primitive.name:
        case "dot_general":
            left = equation.invars[0].aval.shape
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = math.prod(left[axis] for axis in contracted)
        case "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            # The kernel's input channels are those of one group already.
            summed = math.prod(kernel) // kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        case _:
            return 0
    return 2 * math.prod(equation.outvars[0].aval.shape) * summed


def _module_path(scope: tuple[str, ...], params: Params) -> str:
    """Returns the path of the innermost module with parameters that a scope names."""
    node: Any = params
    path = []
    for name in scope:
        # Linen writes "module.method" for methods other than __call__.
        module = name.partition(".")[0]
        if isinstance(node, Mapping) and isinstance(node.get(module), Mapping):
            node = node[module]
            path.append(module)
    return "/".join(path) or TOP
