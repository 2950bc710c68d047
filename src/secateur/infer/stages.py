"""Stages of a block: products that read one tensor, in the order they were made in one run."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from secateur.adapt.block import Block, Stage
from secateur.adapt.layer import Layer
from secateur.core.shapes import Samples
from secateur.infer.blocks import probe_samples, reads_pictures, run_body
from secateur.infer.products import Product, Products, Read

__all__ = ["staged"]

_NARROW = 4  # numbers, that fewer are read than: coordinates, which no layer is
_MORE = 64  # samples where few did not reach every stack of experts
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass
class _Seen:
    """One matrix as a run used it: how it is stored, how many tokens it read, and how often."""

    turned: bool
    rows: int
    calls: int = 1


@dataclass
class _Group:
    """Products that read one tensor."""

    products: list[Product]
    routed: bool = False


def staged(model: PreTrainedModel, blocks: Sequence[Block], samples: Samples) -> tuple[Block, ...]:
    """The blocks with their stages; the model's parameters must have values.

    A matrix that several blocks share belongs to the first of them. Routers, which decide what reads a token, and
    gates of one output are no layers: what they lose costs far more than they weigh.
    """
    tables = _tables(model)
    held: dict[str, nn.Parameter] = {}
    for block in blocks:
        held |= {name: value for name, value in _matrices(block).items() if id(value) not in tables}
    seen = _Run(model, blocks, held, samples)
    if any(_is_stack(model, name) and not seen.read(name) for name in held):  # a router sent all tokens elsewhere
        seen = _Run(model, blocks, held, probe_samples(model, _MORE))
    return tuple(
        replace(block, stages=_stages(model, block, reads, seen.odd, seen.tokens))
        for block, reads in zip(blocks, seen.reads, strict=True)
    )


class _Run:
    """Every product of one run of a model, by the block in which it is first made."""

    def __init__(
        self, model: PreTrainedModel, blocks: Sequence[Block], held: Mapping[str, nn.Parameter], samples: Samples
    ) -> None:
        self.tokens = 0 if reads_pictures(model) else samples.numel()  # stages of pictures read fewer and fewer
        self.reads: list[list[Read]] = [[] for _ in blocks]
        self._owner: dict[Product, int] = {}
        self._now: int | None = None
        products = Products(held, self._seen)
        with ExitStack() as stack:
            for block in blocks:
                stack.callback(block.module.register_forward_pre_hook(self._enters(block.number)).remove)
            stack.enter_context(products)
            run_body(model, samples)
        self.odd = products.odd

    def read(self, parameter: str) -> bool:
        """Whether any matrix of a parameter was multiplied by."""
        return parameter in self.odd or any(product.parameter == parameter for product in self._owner)

    def _enters(self, number: int) -> Callable[..., None]:
        def entered(*_: object) -> None:
            self._now = number

        return entered

    def _seen(self, read: Read) -> None:
        if self._now is not None and self._owner.setdefault(read.product, self._now) == self._now:
            self.reads[self._now].append(read)


def _is_stack(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter may hold a matrix for every expert."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return model.get_parameter(name).dim() == 3 and not isinstance(owner, _ConvNd)


def _tables(model: PreTrainedModel) -> set[int]:
    """Parameters that are looked up, and the head's."""
    head = model.get_output_embeddings()
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return {id(module.weight) for module in [*tables, *([] if head is None else [head])]}


def _matrices(block: Block) -> dict[str, Any]:
    """Parameters of a block that may be matrices, by their names in it."""
    return {name: value for name, value in block.tensors().items() if value.dim() in (2, 3)}


def _stages(model: PreTrainedModel, block: Block, run: Sequence[Read], odd: set[str], tokens: int) -> tuple[Stage, ...]:
    seen: dict[Product, _Seen] = {}
    groups: dict[tuple[object, ...], _Group] = {}
    own = {id(value): name for name, value in _matrices(block).items()}  # shared ones have another name elsewhere
    for read in run:
        if read.product.parameter in odd or read.x.shape[-1] < _NARROW:
            continue
        product = read.product._replace(parameter=own[id(model.get_parameter(read.product.parameter))])
        if product in seen:
            seen[product].calls += 1
            continue
        seen[product] = _Seen(read.turned, read.x.numel() // read.x.shape[-1])
        source = read.source if read.x.numel() else (product,)  # tensors without tokens begin where others do
        groups.setdefault(source, _Group([])).products.append(product)
    listed = list(groups.values())
    for group in listed:
        group.routed = any(_is_routed(product, seen[product], tokens) for product in group.products)
    listed = _completed(block, listed, seen)
    routers = _routers(model, listed)
    stages, steps = [], dict[tuple[str, ...], int]()
    for group in listed:
        products = [product for product in group.products if product not in routers]
        if products:
            key = _key(group)
            step = steps.setdefault(key if group.routed else (*key, str(len(steps))), len(steps))
            layers = tuple(_layer(model, product, seen[product].turned) for product in products)
            calls = 0 if group.routed else sum(seen[product].calls for product in products)
            stages.append(Stage(layers[0].name, layers, step=step, routed=group.routed, calls=calls))
    return tuple(sorted(stages, key=lambda stage: stage.step))


def _is_routed(product: Product, seen: _Seen, tokens: int) -> bool:
    """Whether only some tokens reach a matrix: one of a stack, or of a numbered module that read fewer than all."""
    return product.number is not None or (seen.rows < tokens and _name(product) != product.parameter)


def _name(product: Product) -> str:
    """A matrix's name without the number of its module in the innermost list."""
    numbers = list(_NUMBER.finditer(product.parameter))
    if len(numbers) < 2:  # the first one is the block's
        return product.parameter
    return product.parameter[: numbers[-1].start()] + "*" + product.parameter[numbers[-1].end() :]


def _key(group: _Group) -> tuple[str, ...]:
    return tuple(_name(product) if group.routed else product.parameter for product in group.products)


def _completed(block: Block, groups: list[_Group], seen: dict[Product, _Seen]) -> list[_Group]:
    """The groups, and those of experts that no token of the run reached: they are read as their siblings are."""
    complete: dict[tuple[Product, ...], _Group] = {}
    parameters = _matrices(block)
    for group in groups:
        complete.setdefault(tuple(group.products), group)
    for group in groups if any(group.routed for group in groups) else []:
        if not group.routed:
            continue
        for products in _siblings(group.products, parameters):
            if any(its in seen for its in products):  # read by itself, if not together with what its siblings are
                continue
            complete.setdefault(tuple(products), _Group(products, routed=True))
            for mine, its in zip(group.products, products, strict=True):
                seen.setdefault(its, _Seen(seen[mine].turned, 0))
    return list(complete.values())


def _siblings(products: list[Product], parameters: Mapping[str, nn.Parameter]) -> list[list[Product]]:
    """The same matrices of every expert."""
    first = products[0]
    if first.number is not None:
        return [
            [each._replace(number=number) for each in products] for number in range(len(parameters[first.parameter]))
        ]
    found = []
    pattern = re.compile(re.escape(_name(first)).replace(r"\*", r"(\d+)"))
    for name in parameters:
        if match := pattern.fullmatch(name):
            own = [Product(_name(each).replace("*", match[1])) for each in products]
            if all(each.parameter in parameters for each in own):
                found.append(own)
    return found


def _routers(model: PreTrainedModel, groups: Sequence[_Group]) -> set[Product]:
    """Products beside experts that put out about one number for each of them, or one in all."""
    found: set[Product] = set()
    for group in groups:
        if not group.routed:
            continue
        first = group.products[0]
        stack = model.get_parameter(first.parameter)
        count = len(stack) if stack.dim() == 3 else sum(_key(other) == _key(group) for other in groups)
        place = _beside(first)
        found |= {
            product
            for other in groups
            for product in other.products
            if not other.routed and product.parameter.startswith(place) and _routes(model, product, count)
        }
    return found


def _beside(product: Product) -> str:
    """Where the module that holds an expert's module stands: routers are in it too."""
    owner = _name(product).partition(".*")[0] if product.number is None else product.parameter.rpartition(".")[0]
    return owner.rpartition(".")[0] + "."


def _routes(model: PreTrainedModel, product: Product, experts: int) -> bool:
    """Whether a matrix has as many rows as a router: some also weigh shared experts, or experts that do nothing."""
    rows = min(model.get_parameter(product.parameter).shape)
    return rows == 1 or experts <= rows <= 2 * experts


def _layer(model: PreTrainedModel, product: Product, turned: bool) -> Layer:
    owner, _, leaf = product.parameter.rpartition(".")
    module = model.get_submodule(owner)
    if product.number is not None:
        return Layer(f"{product.parameter}.{product.number}", module, leaf, index=product.number, turned=turned)
    usual = isinstance(module, Conv1D) if turned else isinstance(module, nn.Linear)
    return Layer(owner, module) if usual and leaf == "weight" else Layer(product.parameter, module, leaf, turned=turned)
