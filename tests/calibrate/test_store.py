import pytest
import torch

from secateur.calibrate.store import Store


@pytest.mark.parametrize("limit", [0, 100, 1 << 20])
def test_what_is_put_comes_back_past_any_limit(tmp_path, limit):
    store = Store(4, limit=limit, folder=tmp_path)
    values = [torch.randn(5, 4), torch.randn(3, 4).bfloat16(), torch.randn(5, 4), torch.randn(2, 4)]
    store.fill(values)
    assert all(torch.equal(a, b) for a, b in zip(store.all(), values, strict=True))
    assert store.spilled == {0: 4, 100: 3, 1 << 20: 0}[limit]
    store[0] = torch.ones(5, 4)
    assert store[0].eq(1).all() and len(store) == 4
    store.close()
    assert not list(tmp_path.iterdir())


def test_dropped_memory_is_used_again(tmp_path):
    store = Store(3, limit=80, folder=tmp_path)
    store[0], store[1] = torch.ones(20), torch.ones(20)
    assert store.spilled == 1
    store.drop(0)
    store[2] = torch.ones(20)
    assert store.spilled == 1
    with pytest.raises(IndexError, match="nothing was put at 0"):
        store[0]
    store.drop(1)
    assert store.spilled == 0
    store.close()
