import numpy as np
from scipy.stats import kstest

from secateur.lottery.random_weights import fraction, streams, word

MASK = (1 << 64) - 1


def split_mix(state, count):
    """The generator as published: a state that steps, and a mix of it."""
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        yield mixed ^ (mixed >> 31)


def test_words_are_those_of_split_mix():
    key = 0x0123456789ABCDEF
    found = [int(word(np.uint64(key), place)) for place in range(20)]
    assert found == list(split_mix(key, 20))
    assert [fraction(np.uint64(one)) for one in found] == [(one >> 11) / 2**53 for one in found]


def test_entries_depend_on_their_place_alone():
    into, out = streams(7, 0, (3, 5))
    rows, columns = np.arange(50).repeat(3), np.tile(np.arange(3), 50)
    fractions, signs = into.draws(rows, columns)
    order = np.random.default_rng(0).permutation(150)
    again, signs_again = into.draws(rows[order], columns[order])
    assert (again == fractions[order]).all() and (signs_again == signs[order]).all()
    assert len(np.unique(fractions)) == 150 and not np.isin(out.draws(rows, columns)[0], fractions).any()


def test_seeds_and_layers_have_streams_of_their_own():
    keys = {stream.key for seed in range(3) for layer in range(3) for stream in streams(seed, layer, (4, 4))}
    assert len(keys) == 18 and streams(1, 1, (4, 4)) == streams(1, 1, (4, 4))


def test_numbers_are_uniform_and_signs_fair():
    into, _ = streams(0, 0, (100, 1))
    rows, columns = np.arange(1000).repeat(100), np.tile(np.arange(100), 1000)
    fractions, signs = into.draws(rows, columns)
    assert kstest(fractions, "uniform").pvalue > 1e-3 and abs(signs.mean()) < 4 / np.sqrt(1e5)
    assert abs(np.corrcoef(fractions[:-1], fractions[1:])[0, 1]) < 4 / np.sqrt(1e5)
    assert abs(np.corrcoef(fractions, signs)[0, 1]) < 4 / np.sqrt(1e5)
