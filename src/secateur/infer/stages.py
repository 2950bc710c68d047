"""Stages of a block: products that read one tensor, in the order they were made in one run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from secateur.adapt.block import Block, Stage
from secateur.adapt.layer import Layer
from secateur.core.shapes import TokenIds
from secateur.infer.products import Product, Products, Read, holders

__all__ = ["staged"]

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


def staged(model: PreTrainedModel, blocks: Sequence[Block], ids: TokenIds) -> tuple[Block, ...]:
    """The blocks with their stages; the model's parameters must have values.

    A matrix that several blocks share belongs to the first of them. Routers, which decide what reads a token, and
    gates of one output are no layers: what they lose costs far more than they weigh.
    """
    owners: dict[str, int] = {}
    for block in blocks:
        for name in holders(model, block.module):
            owners.setdefault(name, block.number)
    runs: list[list[Read]] = [[] for _ in blocks]
    held = {name: model.get_parameter(name) for name in owners}
    for name in _embeddings(model):
        held.pop(name, None)
    products = Products(held, lambda read: runs[owners[read.product.parameter]].append(read))
    with products:
        model.base_model(ids, use_cache=False)
    return tuple(
        replace(block, stages=_stages(model, block, run, products.odd, ids.numel()))
        for block, run in zip(blocks, runs, strict=True)
    )


def _embeddings(model: PreTrainedModel) -> list[str]:
    """Names of tables that are looked up, and of the head."""
    head = model.get_output_embeddings()
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    ids = {id(module.weight) for module in [*tables, *([] if head is None else [head])]}
    return [name for name, value in model.named_parameters() if id(value) in ids]


def _stages(model: PreTrainedModel, block: Block, run: Sequence[Read], odd: set[str], tokens: int) -> tuple[Stage, ...]:
    seen: dict[Product, _Seen] = {}
    groups: dict[tuple[object, ...], _Group] = {}
    for read in run:
        if read.product.parameter in odd:
            continue
        if read.product in seen:
            seen[read.product].calls += 1
            continue
        seen[read.product] = _Seen(read.turned, read.x.numel() // read.x.shape[-1])
        groups.setdefault(read.source, _Group([])).products.append(read.product)
    listed = list(groups.values())
    for group in listed:
        group.routed = any(_is_routed(product, seen[product], tokens) for product in group.products)
    listed = _completed(model, block, listed, seen)
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
    return product.index is not None or (seen.rows < tokens and _name(product) != product.parameter)


def _name(product: Product) -> str:
    """A matrix's name without the number of its module in the innermost list."""
    numbers = list(_NUMBER.finditer(product.parameter))
    if len(numbers) < 2:  # the first one is the block's
        return product.parameter
    return product.parameter[: numbers[-1].start()] + "*" + product.parameter[numbers[-1].end() :]


def _key(group: _Group) -> tuple[str, ...]:
    return tuple(_name(product) if group.routed else product.parameter for product in group.products)


def _completed(model: PreTrainedModel, block: Block, groups: list[_Group], seen: dict[Product, _Seen]) -> list[_Group]:
    """The groups, and those of experts that no token of the run reached: they are read as their siblings are."""
    complete: dict[tuple[Product, ...], _Group] = {}
    parameters = holders(model, block.module)
    for group in groups:
        complete.setdefault(tuple(group.products), group)
    for group in groups if any(group.routed for group in groups) else []:
        if not group.routed:
            continue
        for products in _siblings(group.products, parameters):
            complete.setdefault(tuple(products), _Group(products, routed=True))
            for mine, its in zip(group.products, products, strict=True):
                seen.setdefault(its, _Seen(seen[mine].turned, 0))
    return list(complete.values())


def _siblings(products: list[Product], parameters: Mapping[str, nn.Parameter]) -> list[list[Product]]:
    """The same matrices of every expert."""
    first = products[0]
    if first.index is not None:
        return [[each._replace(index=index) for each in products] for index in range(len(parameters[first.parameter]))]
    found = []
    pattern = re.compile(re.escape(_name(first)).replace(r"\*", r"(\d+)"))
    for name in parameters:
        if match := pattern.fullmatch(name):
            own = [Product(_name(each).replace("*", match[1])) for each in products]
            if all(each.parameter in parameters for each in own):
                found.append(own)
    return found


def _routers(model: PreTrainedModel, groups: Sequence[_Group]) -> set[Product]:
    """Products that put out one number for every expert, or one in all."""
    counts = {1}
    for group in groups:
        if group.routed:
            first = group.products[0]
            held = model.get_parameter(first.parameter)
            counts.add(len(held) if held.dim() == 3 else sum(_key(other) == _key(group) for other in groups))
    experts = len(counts) > 1
    return {
        product
        for group in groups
        for product in group.products
        if not group.routed and experts and _rows(model, product) in counts
    }


def _rows(model: PreTrainedModel, product: Product) -> int:
    held = model.get_parameter(product.parameter)
    return min(held.shape) if held.dim() == 2 else held.shape[-2]


def _layer(model: PreTrainedModel, product: Product, turned: bool) -> Layer:
    owner, _, leaf = product.parameter.rpartition(".")
    module = model.get_submodule(owner)
    if product.index is not None:
        return Layer(f"{product.parameter}.{product.index}", module, leaf, index=product.index, turned=turned)
    usual = isinstance(module, Conv1D) if turned else isinstance(module, nn.Linear)
    return Layer(owner, module) if usual and leaf == "weight" else Layer(product.parameter, module, leaf, turned=turned)
