import pytest
import torch

from secateur.allocate.expression import PUBLISHED, parse
from secateur.core.errors import InputError
from secateur.search.evolution import Evolution, Expressions, Ratios

TARGET = (0.03, -0.03, 0.02, -0.02, 0.0, 0.01)


def distance(moves):
    return sum((move - goal) ** 2 for move, goal in zip(moves, TARGET, strict=True))


def run(evolution, judge):
    fitness, found = {}, []
    while len(found) < evolution.trials:
        found += evolution.generation(found, fitness)
        fitness |= {number: float(judge(one)) for number, one in enumerate(found) if number not in fitness}
    return fitness, found


def evolution(space, trials=160, seed=0):
    return Evolution(space=space, trials=trials, population=16, parents=8, seed=seed)


def test_the_same_seed_gives_the_same_candidates_and_another_seed_others():
    first, again, other = (run(evolution(Ratios(count=6), 64, seed), distance)[1] for seed in (0, 0, 1))
    assert first == again and first != other


def test_a_generation_depends_on_the_fitness_of_earlier_ones():
    space = evolution(Expressions(), 48)
    first = space.generation([], {})
    fitness = {number: float(number % 7) for number in range(16)}
    second = space.generation(first, fitness)
    assert second == space.generation(first, fitness) and len(first) == len(second) == 16
    assert second != space.generation(first, {number: -value for number, value in fitness.items()})


@pytest.mark.parametrize("space", [Expressions(), Ratios(count=3)])
def test_no_candidate_comes_twice(space):
    _, found = run(evolution(space), lambda candidate: len(str(candidate)) % 97)
    assert len(set(found)) == len(found) == 160


def test_it_beats_random_draws_at_equal_cost():
    wins = 0
    for seed in range(10):
        bred = min(run(evolution(Ratios(count=6), seed=seed), distance)[0].values())
        draw = torch.Generator().manual_seed(seed)
        random = min(distance(Ratios(count=6).random(draw)) for _ in range(160))
        wins += bred < random
    assert wins >= 9


def test_a_known_optimum_among_expressions_is_found():
    goal = parse("(log)-(entropy)-(tanh)-(9)")

    def unlike(found):
        return sum(getattr(found, name) != getattr(goal, name) for name in ("pre", "reduce", "post", "strength"))

    fitness, found = run(evolution(Expressions(), 800), unlike)
    assert str(found[0]) == PUBLISHED
    assert min(fitness.values()) <= 1


def test_a_space_that_is_used_up_says_so():
    class Pair:
        def start(self):
            return 0

        def random(self, draw):
            return int(torch.randint(2, (), generator=draw))

        def child(self, one, other, progress, draw):
            return one

    with pytest.raises(InputError, match="no candidate is left after 2"):
        evolution(Pair(), 4).generation([], {})
    with pytest.raises(InputError, match="parents at least 2"):
        Evolution(space=Pair(), trials=4, parents=1)
