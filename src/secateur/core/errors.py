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
]


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
