from secateur.core.compiled import compiled


@compiled
def doubled(number: float) -> float:
    return 2 * number


def test_type_checks_are_taken_off_before_compiling():
    assert doubled(3) == 6 and doubled.signatures
