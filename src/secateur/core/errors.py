"""The exception tree; every message says what, where, measured and remedy.

SecateurError
├── InputError            what the user gave cannot be used
│   ├── RatioError        a ratio outside 0..1, or one the pattern cannot meet
│   ├── PatternError      a matrix whose width does not fit the pattern
│   ├── RecipeError       an unknown key or a value of the wrong kind
│   ├── CalibrationError  samples too short, empty, or with NaN in their activations
│   └── ModelError        a folder, checkpoint or architecture that cannot be read
├── NumericalError        a singular Gram, NaN or inf in weights or statistics
│   └── DisagreementError two models that should compute the same do not; the command line exits with 1
└── StorageError          the disk is full or the output cannot be written
"""

__all__ = [
    "CalibrationError",
    "DisagreementError",
    "InputError",
    "ModelError",
    "NumericalError",
    "PatternError",
    "RatioError",
    "RecipeError",
    "SecateurError",
    "StorageError",
    "first_line",
    "last_line",
]

_LONGEST = 300  # letters of an error that are told


class SecateurError(Exception):
    """Anything this package raises on purpose; the command line exits with 2."""


class InputError(SecateurError):
    """What the user gave cannot be used."""


class RatioError(InputError):
    """A ratio outside 0..1, or one the pattern cannot meet."""


class PatternError(InputError):
    """A matrix whose shape does not fit the pattern."""


class RecipeError(InputError):
    """An unknown key, or a value of the wrong kind, in a recipe."""


class CalibrationError(InputError):
    """Calibration that is empty, too short, or makes NaN."""


class ModelError(InputError):
    """A model folder, checkpoint or architecture that cannot be read."""


class NumericalError(SecateurError):
    """A singular Gram, or NaN or inf where numbers were expected."""


class DisagreementError(NumericalError):
    """Two models that should compute the same do not."""


class StorageError(SecateurError):
    """The disk is full, or the output cannot be written."""


def first_line(error: Exception) -> str:
    """What an error of another library says first, with what a colon announces, or its kind where it says nothing."""
    first, *rest = _lines(error)
    return (f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first)[:_LONGEST]


def last_line(error: Exception) -> str:
    """What it says last: where several conditions are listed, the one that failed."""
    return _lines(error)[-1][:_LONGEST]


def _lines(error: Exception) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]
