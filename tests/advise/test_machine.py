import torch

from secateur.advise.machine import describe_machine, probe_decoding


def test_the_machine_is_described():
    told = describe_machine()
    assert told["cores"] >= 1 and told["engines"]["torch"] and set(told["packed"]) == {"2:4", "bitmask"}


def test_a_probe_times_every_product_that_runs_here():
    threads = torch.get_num_threads()
    times = probe_decoding(256, 128)
    wanted = {"smaller"} | {name for name, there in describe_machine()["packed"].items() if there}
    assert set(times) == wanted and all(0.01 < value < 100 for value in times.values())
    assert torch.get_num_threads() == threads
