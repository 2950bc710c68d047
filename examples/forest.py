"""Prune a random forest to half its feature cost, and predict one patient from what its nodes ask for.

python examples/forest.py
"""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from secateur import BudgetPruner

x, y = load_breast_cancer(return_X_y=True)
x, x_test, y, y_test = train_test_split(x, y, random_state=0, stratify=y)
costs = np.repeat([1.0, 2.0, 4.0], 10)  # means are cheap, spreads and extremes are not
forest = RandomForestClassifier(40, random_state=0)
whole = BudgetPruner(forest, feature_costs=costs).fit(x, y)
half = BudgetPruner(forest, feature_costs=costs, budget=whole.cost_ / 2, validation_fraction=0.25).fit(x, y)
for name, one in (("whole", whole), ("half", half)):
    print(f"{name}: accuracy {one.score(x_test, y_test):.3f}, mean cost {one.expected_cost(x_test):.1f}")
label, bill = half.predict_lazy(lambda feature: x_test[0, feature])
print(f"patient 0: class {label}, {len(bill.features)} of {x.shape[1]} measurements for {bill.cost:g}")
