from secateur.core.errors import first_line, last_line


def test_errors_in_one_line():
    assert first_line(ValueError("it failed:\n  why\nb")) == "it failed: why" and first_line(ValueError("a:")) == "a:"
    assert first_line(ValueError("\n a\nb")) == "a" and first_line(KeyError()) == "KeyError"
    assert last_line(ValueError("\n a\nb\n")) == "b" and last_line(KeyError()) == "KeyError"
    assert len(first_line(ValueError("a" * 500))) == len(last_line(ValueError("a" * 500))) == 300
