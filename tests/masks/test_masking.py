import math

import pytest
import torch

from secateur.core.pattern import NM
from secateur.masks import masking
from secateur.masks.candidates import Candidates
from secateur.masks.masking import Draw, key_of, masked_gradient, masked_weight, probabilities

PATTERNS = [(2, 4), (1, 4), (4, 8), (3, 5), (4, 4)]


def case(n, m, rows=7, blocks=5):
    stream = torch.Generator().manual_seed(n * m)
    made = Candidates(NM(n=n, m=m))
    weight, slope = torch.randn(2, rows, blocks * m, generator=stream)
    return made, torch.randn(len(made), rows, blocks, generator=stream) * 0.01, weight, slope


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """Both ways to compute: C++ where a compiler is, and torch."""
    if request.param == "torch":
        monkeypatch.setattr(masking, "library", lambda source: None)
    elif masking.library(masking.SOURCE) is None:
        pytest.skip("no C++ compiler here")
    return request.param


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("kinds", [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_compiled_code_and_torch_agree(n, m, kinds, hard, monkeypatch):
    if masking.library(masking.SOURCE) is None:
        pytest.skip("no C++ compiler here")
    made, logits, weight, slope = case(n, m)
    weight, draw = weight.to(kinds[0]), Draw(key_of(1, "layer"), 200.0, 0.5, 1e-3, hard)
    pair = []
    for _ in range(2):
        values = (
            masked_weight(logits, weight, made, draw, kinds[1]),
            masked_gradient(logits, weight, slope, made, draw),
        )
        pair.append(values)
        monkeypatch.setattr(masking, "library", lambda source: None)
    for ours, theirs in zip(*pair, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_every_block_of_a_mask_adds_up_to_n(n, m, hard, way):
    made, logits, weight, _ = case(n, m)
    mask = masked_weight(logits, torch.ones_like(weight), made, Draw(3, 100.0, 1.0, 0.0, hard))
    assert torch.allclose(mask.view(len(mask), -1, m).sum(dim=2), torch.tensor(float(n)), atol=1e-5)
    assert mask.min() >= 0 and mask.max() <= 1 + 1e-6
    if hard:
        assert set(mask.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("pull", [0.0, 0.01])
@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_gradient_is_that_of_finite_differences_with_the_noise_fixed(n, m, pull, way):
    made, logits, weight, slope = case(n, m, rows=2, blocks=2)
    draw = Draw(key_of("noise"), 20.0, 1.0, pull)

    def loss(own):
        masked = masked_weight(own, weight, made, draw).double()
        return float((masked * slope).sum() - pull * masked.square().sum())

    gradient, step = masked_gradient(logits, weight, slope, made, draw), 1e-2 / 20
    for place in range(0, logits.numel(), 3):
        moved = [logits.clone() for _ in range(2)]
        moved[0].view(-1)[place] += step
        moved[1].view(-1)[place] -= step
        expected = (loss(moved[0]) - loss(moved[1])) / (2 * step)
        assert float(gradient.view(-1)[place]) == pytest.approx(expected, rel=0.02, abs=0.02)


def test_cold_choices_are_drawn_as_often_as_the_softmax_says():
    logits = torch.tensor([0.0, 0.5, 1.0, 1.5, -1.0, 0.2])[:, None, None].expand(6, 100, 400).contiguous()
    chosen = probabilities(logits, Draw(key_of("often"), 1.0, 1e-3)).argmax(dim=0)
    counts, expected = chosen.flatten().bincount(minlength=6), torch.softmax(logits[:, 0, 0], dim=0) * 40_000
    assert float(((counts - expected).square() / expected).sum()) < 20.5  # 0.1% of chi-square with five degrees


def test_noise_is_fixed_by_the_key_and_differs_between_keys():
    made, logits, weight, _ = case(2, 4)
    first, again, other = (masked_weight(logits, weight, made, Draw(key, 100.0, 1.0)) for key in (5, 5, 6))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert key_of(1, "a", 2) != key_of(1, "a", 3) and key_of(1, "a", 2) == key_of(1, "a", 2)


def test_noise_of_neighbours_is_uncorrelated():
    words = masking._numbers(Draw(key_of("x"), 1.0, 1.0), torch.zeros(1))[0]
    drawn = masking._hashed(torch.arange(200_000), words).double() / 2**32 - 0.5
    assert abs(float(drawn.mean())) < 0.003 and float(drawn.var()) == pytest.approx(1 / 12, rel=0.01)
    for lag in (1, 2, 16, 144):
        assert abs(float((drawn[lag:] * drawn[:-lag]).mean()) * 12) < 4 / math.sqrt(200_000)


def test_certain_logits_give_the_candidates_mask_at_any_temperature(way):
    made = Candidates(NM())
    numbers = torch.randint(6, (4, 8), generator=torch.Generator().manual_seed(2))
    logits = torch.nn.functional.one_hot(numbers, 6).movedim(2, 0).float()
    mask = masked_weight(logits, torch.ones(4, 32), made, Draw(9, 1000.0, 0.05))
    assert torch.equal(mask, made.keep(numbers).float())
