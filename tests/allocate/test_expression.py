import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.allocate.expression import POST, PRE, REDUCE, STRENGTHS, Expression, parse
from secateur.core.errors import InputError


def slot(names):
    return st.lists(st.sampled_from(sorted(names)), min_size=1, max_size=2).map(tuple)


PARTS = st.tuples(slot(PRE), st.sampled_from(sorted(REDUCE)), slot(POST), st.sampled_from(STRENGTHS))
DRAW = torch.Generator().manual_seed(0)
SCORES = [torch.rand(6, 9, generator=DRAW), torch.rand(4, 5, generator=DRAW)]


@given(PARTS)
def test_text_and_program_are_one_and_every_program_gives_a_number(parts):
    program = Expression(*parts)
    assert parse(str(program)) == program
    before = [score.clone() for score in SCORES]
    value = program.finish(program.reduced(SCORES))
    assert isinstance(value, float) and not math.isnan(value)
    assert all(torch.equal(a, b) for a, b in zip(before, SCORES, strict=True))


def test_the_published_winner_on_fixed_numbers():
    scores = np.exp(np.linspace(-2, 1.5, 60))
    expected = np.arcsin(np.arctan(np.var(np.log(scores), ddof=1)))
    program = parse("W:(ABSLOG)-(VAR)-(ATAN,ASIN)-(7)")
    parts = [torch.tensor(scores[:24]).reshape(4, 6), torch.tensor(scores[24:]).reshape(6, 6)]
    assert program.finish(program.reduced(parts)) == pytest.approx(expected, rel=1e-9)
    wide = [torch.exp(torch.linspace(-9, 9, 60)).reshape(6, 10)]
    assert program.finish(program.reduced(wide)) == 0.0  # asin ends at 1: the published gate


def test_known_values_of_reductions():
    normal = [torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0))]
    assert Expression(("abslog",), "var", ("no_op",), 7).reduced(normal) == pytest.approx(math.pi**2 / 8, abs=0.01)
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    values = {name: REDUCE[name]([x]) for name in REDUCE}
    assert values["gram"] == pytest.approx(float((x @ x.T).mean())) and values["rank"] == 2
    assert values["determinant"] == pytest.approx(1.0) and values["slogdet"] == pytest.approx(0.0, abs=1e-6)
    assert values["correlation"] == pytest.approx(float(torch.corrcoef(x).mean()))
    assert values["geometric_mean"] == pytest.approx(30**0.25) and values["diagonal"] == 3
    share = np.array([1, 2, 3, 5]) / 11
    assert values["entropy"] == pytest.approx(-(share * np.log(share)).sum())


@pytest.mark.parametrize(
    "text", ["", "(var)", "(abslog)-(sum)-(atan)-(7)", "(a)-(var)-(atan)-(7)", "(abs)-(var)-(abs)-(3)"]
)
def test_what_is_no_program_is_refused(text):
    with pytest.raises(InputError, match="should"):
        parse(text)
