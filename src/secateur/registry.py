"""Tables of names. A row says where its object is imported from, and installed packages add rows by entry points."""

import difflib
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple, TypeVar

from secateur.core.errors import InputError, RecipeError

__all__ = ["Row", "Table", "check_name", "nearest"]

T = TypeVar("T")


class Row(NamedTuple):
    """Where an object is imported from, such as secateur.score.wanda:Wanda, and one line for people."""

    place: str
    line: str

    def load(self) -> Any:
        """Import the object."""
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)


class Table(Mapping[str, T]):
    """Names and their objects, which are imported when they are looked up.

    kind: what messages call a row, such as score.
    rows: this package's own, each a Row or the object itself.
    group: the entry points by which installed packages add rows, such as secateur.scores.
    wanted: what the objects of those packages have to be, if not just any callable.
    taken: further names that no package may use.
    """

    def __init__(
        self,
        kind: str,
        rows: Mapping[str, Row | T],
        *,
        group: str,
        wanted: type | None = None,
        taken: Collection[str] = (),
    ) -> None:
        """Keep the rows; nothing is imported and no package is looked at."""
        self.kind = kind
        self.rows = rows
        self._group = group
        self._wanted = wanted
        self._taken = taken

    def __iter__(self) -> Iterator[str]:
        """Own names, then those of installed packages. Raises InputError where two have the same name."""
        yield from self.rows
        yield from self._installed()

    def __len__(self) -> int:
        """How many names there are."""
        return len(self.rows) + len(self._installed())

    def __contains__(self, name: object) -> bool:
        """Whether there is such a name; imports nothing."""
        return name in self._installed() or name in self.rows

    def __getitem__(self, name: str) -> T:
        """The object of a name. Raises KeyError, and InputError where a package's object is unusable."""
        if name in (found := self._installed()):
            return self._load(found[name])
        row = self.rows[name]
        return row.load() if isinstance(row, Row) else row

    def find(self, name: str) -> T:
        """The object of a name. Raises RecipeError naming the nearest name there is."""
        check_name(self.kind, name, list(self))
        return self[name]

    def lines(self) -> dict[str, str]:
        """One line for people by name; imports nothing."""
        own = {name: str(getattr(row, "line", "")) for name, row in self.rows.items()}
        return own | {name: f"of {_package(entry)}" for name, entry in self._installed().items()}

    def _installed(self) -> Mapping[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in _entries(self._group, tuple(sys.path)):
            if entry.name in self.rows or entry.name in self._taken:
                raise self._refusal(entry, f"secateur's own ({getattr(self.rows.get(entry.name), 'place', 'a row')})")
            if found.setdefault(entry.name, entry).value != entry.value:
                raise self._refusal(entry, f"that of {_package(found[entry.name])} ({found[entry.name].value})")
        return found

    def _refusal(self, entry: EntryPoint, other: str) -> InputError:
        return InputError(
            f"{self.kind} {entry.name!r} of {_package(entry)} ({entry.value}) has the same name as {other}: "
            f"uninstall the package, or rename its entry point in {self._group}"
        )

    def _load(self, entry: EntryPoint) -> T:
        what = f"{self.kind} {entry.name!r} of {_package(entry)} ({entry.value})"
        try:
            made = entry.load()
        except Exception as error:  # importing another's code can raise anything
            raise InputError(f"{what} cannot be imported: {type(error).__name__}: {error}") from error
        if not (callable(made) if self._wanted is None else isinstance(made, self._wanted)):
            wanted = "something to call" if self._wanted is None else f"a {self._wanted.__name__}"
            raise InputError(f"{what} should be {wanted}, found {type(made).__name__}")
        return made


@lru_cache(maxsize=64)
def _entries(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entry points as they were when this path was first read: reading every package's takes a while."""
    return tuple(entry_points(group=group))


def _package(entry: EntryPoint) -> str:
    return f"package {entry.dist.name} {entry.dist.version}" if entry.dist else "an installed package"


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise RecipeError, with the nearest name, unless the name is known."""
    names = list(known)
    if name not in names:
        raise RecipeError(f"{kind} {name!r} is unknown{nearest(name, names)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """What to add to a refusal of a word: the closest known one, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(sorted(names))}"
