from secateur.allocate.owl import OWL
from secateur.allocate.problem import Allocator, CalibratedAllocator, Problem
from secateur.allocate.uniform import Uniform


def test_sizes_add_up_over_layers():
    problem = Problem({"a": {"a.q": 3, "a.k": 1}, "b": {"b.q": 5}})
    assert problem.sizes == {"a": 4, "b": 5} and problem.layers == {"a.q": 3, "a.k": 1, "b.q": 5}


def test_only_what_reads_blocks_is_a_calibrated_allocator():
    assert (
        isinstance(OWL(), CalibratedAllocator)
        and isinstance(Uniform(), Allocator)
        and not isinstance(Uniform(), CalibratedAllocator)
    )
