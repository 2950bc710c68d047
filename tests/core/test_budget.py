import pytest

from secateur.core.budget import Budget, parse_budget
from secateur.core.errors import InputError


@pytest.mark.parametrize(
    ("text", "limit", "unit"),
    [
        ("100M-params", 1e8, "params"),
        ("2.5G-macs", 2.5e9, "macs"),
        ("40-ms", 40.0, "ms"),
        ("7k-bytes", 7e3, "bytes"),
        ("7K-bytes", 7e3, "bytes"),
        ("1B-params", 1e9, "params"),
    ],
)
def test_written_budgets(text, limit, unit):
    assert parse_budget(text) == Budget(limit, unit)


@pytest.mark.parametrize("text", ["100M", "-1-ms", "0-ms", "5X-params", "params", "8-cost"])
def test_bad_budgets_are_refused(text):
    with pytest.raises(InputError, match="budget"):
        parse_budget(text)


def test_allows():
    assert Budget(10.0, "ms").allows(10.0) and not Budget(10.0, "ms").allows(10.1)
