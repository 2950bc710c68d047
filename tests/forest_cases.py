"""Small random forests, and what they cost by walking every example."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from secateur.trees.integer_program import build_program, class_errors, square_errors
from secateur.trees.tree_arrays import read_forest


@dataclass
class Case:
    forest: Any
    arrays: Any
    x: Any
    y: Any
    weight: Any
    group: Any
    cost: Any
    leaves: Any
    error: Any
    program: Any

    def path(self, row, tree=None):
        """Nodes above an example's leaves, itself included, of one tree or all."""
        found = []
        for leaf in self.leaves[:, row] if tree is None else [self.leaves[tree, row]]:
            node = leaf
            while node >= 0:
                found.append(node)
                node = self.arrays.parent[node]
        return found


def case(seed, *, regression=False, trees=3, leaves=5, examples=25, order=False, weighted=False, repeated=False):
    """A forest of small trees on random data, 6 features in 4 groups, one of them free."""
    draw = np.random.default_rng(seed)
    x, weight = draw.normal(size=(examples, 6)), draw.integers(0, 4, examples).astype(float)
    weight[0] = 1
    y = x[:, 0] + x[:, 3] * x[:, 1] + 0.3 * draw.normal(size=examples)
    y = y if regression else np.digitize(y, [-0.5, 0.5]).astype(np.int64)
    kind = RandomForestRegressor if regression else RandomForestClassifier
    forest = kind(trees, max_leaf_nodes=leaves, random_state=seed).fit(x, y)
    if not regression:
        y = np.searchsorted(forest.classes_, y)
    group, cost = np.array([0, 1, 1, 2, 2, 3]), np.append(draw.random(3) + 0.1, 0.0)
    if repeated:
        x, y = np.repeat(x, weight.astype(int), axis=0), np.repeat(y, weight.astype(int))
    if order:
        shuffled = draw.permutation(len(x))
        x, y, weight = x[shuffled], y[shuffled], weight[shuffled]
    if not weighted:
        weight = np.ones(len(x))
    arrays = read_forest(forest.estimators_)
    found = arrays.leaves(x)
    error = (square_errors if regression else class_errors)(arrays, found, y, weight)
    program = build_program(arrays, found, error, group, cost, weight)
    return Case(forest, arrays, x, y, weight, group, cost, found, error, program)


def closed(program, keep):
    """Whether every kept split's parent is kept."""
    return all(program.parent[s] < 0 or keep[program.parent[s]] for s in np.flatnonzero(keep))


def every_choice(program):
    """All prunings."""
    for choice in product([False, True], repeat=len(program.gain)):
        keep = np.array(choice, bool)
        if closed(program, keep):
            yield keep


def random_keep(program, seed):
    """A pruning by chance."""
    keep = np.random.default_rng(seed).random(len(program.gain)) < 0.7
    for split in range(len(keep)):
        keep[split] &= program.parent[split] < 0 or keep[program.parent[split]]
    return keep


def brute_value(one, keep):
    """Mean error of a tree and mean cost, example by example."""
    kept = set(one.program.node[keep].tolist())
    error = cost = 0.0
    for row in range(len(one.y)):
        groups = set()
        for tree in range(len(one.arrays.roots)):
            node = int(one.arrays.roots[tree])
            while node in kept:
                feature = one.arrays.steps.feature[node]
                groups.add(int(one.group[feature]))
                goes = np.float32(one.x[row, feature]) <= one.arrays.steps.threshold[node]
                node = int((one.arrays.steps.left if goes else one.arrays.steps.right)[node])
            said = one.arrays.value[node]
            wrong = (one.y[row] - said[0]) ** 2 if len(said) == 1 else float(one.y[row] != said.argmax())
            error += one.weight[row] * wrong
        cost += one.weight[row] * sum(one.cost[group] for group in groups)
    return error / one.weight.sum() / len(one.arrays.roots), cost / one.weight.sum()
