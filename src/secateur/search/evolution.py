"""Generations of candidates: each follows from the seed and the fitness of those before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Generator

from secateur.allocate.expression import POST, PRE, PUBLISHED, REDUCE, STRENGTHS, Expression, parse
from secateur.core.errors import InputError
from secateur.core.seed import generator

__all__ = ["Evolution", "Expressions", "Ratios", "Space"]

T = TypeVar("T")


@runtime_checkable
class Space(Protocol[T]):
    """What is searched: where to start, random candidates, and children of two parents."""

    def start(self) -> T:
        """The candidate every search begins with."""
        ...

    def random(self, draw: Generator) -> T:
        """A candidate from nowhere."""
        ...

    def child(self, one: T, other: T, progress: float, draw: Generator) -> T:
        """A candidate from two parents; progress runs from 0 to 1 over the search."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evolution(Generic[T]):
    """A generation depends on the seed and on earlier ones alone, not on who evaluates it or when.

    population: candidates a generation. parents: the best so far that may have children; each
    parent is the best of a tournament of two among them.
    """

    space: Space[T]
    trials: int
    population: int = 16
    parents: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes nothing can be bred from."""
        if self.trials < 1 or self.population < 1 or self.parents < 2:
            raise InputError("search: trials and population should be at least 1, parents at least 2")

    def generation(self, earlier: Sequence[T], fitness: Mapping[int, float]) -> list[T]:
        """The candidates that follow on `earlier`, whole generations whose fitness is known by number.

        No candidate comes twice. Raises InputError when the space is used up.
        """
        # A stream for each generation: a resumed search draws the same.
        draw = generator(self.seed, "evolution", len(earlier))
        ranked = sorted(range(len(earlier)), key=lambda number: (fitness[number], number))[: self.parents]
        made = [] if earlier else [self.space.start()]
        while len(made) < min(self.population, self.trials - len(earlier)):
            place = len(earlier) + len(made)
            made.append(self._new([*earlier, *made], ranked, place / self.trials, draw))
        return made

    def _new(self, earlier: Sequence[T], ranked: Sequence[int], progress: float, draw: Generator) -> T:
        for attempt in range(10_000):
            candidate = (
                self._bred(earlier, ranked, progress, draw) if ranked and attempt < 200 else self.space.random(draw)
            )
            if candidate not in earlier:  # no evaluation is spent twice
                return candidate
        raise InputError(f"search: no candidate is left after {len(earlier)}: ask for fewer trials")

    def _bred(self, earlier: Sequence[T], ranked: Sequence[int], progress: float, draw: Generator) -> T:
        places = torch.randint(len(ranked), (2, 2), generator=draw).min(dim=1).values.tolist()  # ranks: the lower wins
        return self.space.child(earlier[ranked[places[0]]], earlier[ranked[places[1]]], progress, draw)


def _coin(draw: Generator, chance: float) -> bool:
    return bool(torch.rand((), generator=draw) < chance)


def _pick(names: Sequence[T], draw: Generator) -> T:
    return names[int(torch.randint(len(names), (), generator=draw))]


@dataclass(frozen=True, kw_only=True)
class Expressions:
    """Programs: slots of two parents are mixed, and single operators redrawn; the published winner comes first."""

    mixing: float = 0.5
    mutation: float = 0.2

    def start(self) -> Expression:
        """The published winner."""
        return parse(PUBLISHED)

    def random(self, draw: Generator) -> Expression:
        """One or two operators a slot."""
        return Expression(
            self._slot(list(PRE), draw), _pick(list(REDUCE), draw), self._slot(list(POST), draw), _pick(STRENGTHS, draw)
        )

    def child(self, one: Expression, other: Expression, progress: float, draw: Generator) -> Expression:
        """Every slot from either parent, then maybe redrawn."""
        fresh = self.random(draw)
        mixed = other if _coin(draw, self.mixing) else one

        def slot(name: str) -> object:
            if _coin(draw, self.mutation):
                return getattr(fresh, name)
            return getattr(mixed if _coin(draw, 0.5) else one, name)

        return Expression(*(slot(name) for name in ("pre", "reduce", "post", "strength")))  # type: ignore[arg-type]

    def _slot(self, names: list[str], draw: Generator) -> tuple[str, ...]:
        return tuple(_pick(names, draw) for _ in range(int(torch.randint(1, 3, (), generator=draw))))


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Moves of every block's ratio away from the target, in steps that shrink at a third and two thirds."""

    count: int
    step: float = 0.02
    mutation: float = 0.2

    def start(self) -> tuple[float, ...]:
        """No moves: uniform."""
        return (0.0,) * self.count

    def random(self, draw: Generator) -> tuple[float, ...]:
        """Small moves."""
        moves = (torch.rand(self.count, generator=draw) * 2 - 1) * self.step
        return tuple(round(float(move), 4) for move in moves)

    def child(
        self, one: tuple[float, ...], other: tuple[float, ...], progress: float, draw: Generator
    ) -> tuple[float, ...]:
        """Every gene from either parent, then maybe moved."""
        step = self.step / 2 ** int(3 * progress)
        genes = [mine if _coin(draw, 0.5) else theirs for mine, theirs in zip(one, other, strict=True)]
        signs = (torch.randint(2, (self.count,), generator=draw) * 2 - 1).tolist()
        return tuple(
            round(gene + (sign * step if _coin(draw, self.mutation) else 0.0), 4)
            for gene, sign in zip(genes, signs, strict=True)
        )
