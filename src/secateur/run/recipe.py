"""YAML to frozen dataclasses and back; an unknown key names the nearest known one."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from secateur.allocate.problem import Allocator, UnitAllocator
from secateur.calibrate.data import Calibration
from secateur.core.allocation import Allocation
from secateur.core.budget import Budget, parse_budget
from secateur.core.errors import RecipeError
from secateur.core.files import read_settings
from secateur.core.pattern import NM, Columns, check_ratio, parse_pattern
from secateur.core.protocols import Pattern, Score, Solver
from secateur.evaluate.choices import PRUNING_DTYPES
from secateur.experts.dropping import DropExperts
from secateur.registry import Table, check_name, nearest
from secateur.run.kinds import check_kind
from secateur.run.methods import (
    ALLOCATORS,
    METHODS,
    SAVE_DTYPES,
    SCORES,
    SOLVERS,
    UNITS,
    Method,
    check_pattern,
    usual_pattern,
)
from secateur.solve.refitted import Refitted
from secateur.solve.shortgpt import ShortGPT
from secateur.train.reconstruct import Reconstruction

__all__ = ["Recipe", "load_recipe", "parse_recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to prune a language model. Every field is a YAML key.

    In Python an object may stand for a name: a Solver as method, a Score in its mapping, a Pattern, an Allocator.

    method: a name, or a mapping with `name` and the solver's fields.
    ratio: share of the block weights to remove, 0 to 1; n:m patterns fix it.
    pattern: unstructured, row, columns:UNIT or n:m write zeros; heads+channels, query-heads+channels, channels and
    blocks and experts remove structure. None is the method's usual one.
    budget: size to reach instead of a ratio, such as 100M-params; for patterns that remove structure.
    allocator: how ratios differ between layers; a name, or a mapping with `name` and fields.
    ratios: ratios by block or layer name; they override the allocator.
    exempt: numbers of blocks that are not pruned; negative numbers count from the end.
    refit: cg fits the kept weights again by conjugate gradients after the method.
    reconstruct: training steps per block on the dense block's outputs; or a mapping with steps and rate.
    match: dense fits each layer to what it puts out in the dense model, so errors of earlier layers are made up for.
    round_to: FFN channels are kept in multiples of this number.
    cold_experts: what stands for the inputs of a cold expert: layer takes every token that reaches its layer, magnitude
    looks at its weights alone.
    expert_tokens: fewer calibration tokens than this make an expert cold.
    calibration: the texts that methods look at; a mapping.
    device: where blocks are computed: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
    dtype: what forward passes compute in: auto, float32, mixed (products in bfloat16) or bfloat16.
    save_dtype: what weights are written as: auto (the checkpoint's own), float32, bfloat16 or float16.
    batch_tokens: calibration tokens that pass through a block at once.
    memory_gb: GB of activations held in memory before they spill to disk.
    timed_ratio: the ratio that a budget in ms came to on this machine; set by the run.
    model: a folder, hub name, .gguf file or bundled:smollm2.
    out: the folder to write.
    """

    method: str | Mapping[str, Any] | Solver = "sparsegpt"
    ratio: float | None = None
    pattern: str | Pattern | None = None
    budget: str | None = None
    allocator: str | Mapping[str, Any] | Allocator = "uniform"
    ratios: Mapping[str, float] = field(default_factory=dict[str, float])
    exempt: Sequence[int] = ()
    refit: str | None = None
    reconstruct: int | Mapping[str, Any] | None = None
    match: str | None = None
    round_to: int = 8
    cold_experts: str = "layer"
    expert_tokens: int = 32
    calibration: Calibration = field(default_factory=Calibration)
    device: str = "auto"
    dtype: str = "auto"
    save_dtype: str = "auto"
    batch_tokens: int = 2048
    memory_gb: float = 4.0
    timed_ratio: float | None = None
    model: str | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        """Build every part once, so that mistakes show before any work."""
        self.solver()
        self.build_allocator()
        self._check_size()
        self._check_units()
        if self.match is not None:
            check_name("match", self.match, ("dense",))
            if self.drops_whole():
                raise RecipeError("match fits layers to the dense model, and whole blocks have none: leave match out")
        if self.reconstruction() is not None and (self.drops_whole() or self.dtype in ("bfloat16", "mixed")):
            raise RecipeError("reconstruct trains masked weights in float32: leave blocks, experts and dtype out")
        if self.round_to < 1:
            raise RecipeError(f"round_to {self.round_to} must be at least 1")
        Allocation(self.ratios)
        check_name("cold_experts", self.cold_experts, ("layer", "magnitude"))
        if self.expert_tokens < 1:
            raise RecipeError(f"expert_tokens {self.expert_tokens} must be at least 1")
        check_name("dtype", self.dtype, PRUNING_DTYPES)
        check_name("save_dtype", self.save_dtype, SAVE_DTYPES)
        if self.batch_tokens < 1 or self.memory_gb < 0:
            raise RecipeError("batch_tokens must be at least 1 and memory_gb at least 0")

    def _check_size(self) -> None:
        if self.budget is None:
            check_ratio(self.target())
            if self.target() == 1:
                raise RecipeError("ratio 1 would remove everything: ask for less")
        elif self.limit() and self.unit() is None:
            raise RecipeError(
                "a budget needs whole heads or channels to go: use pattern heads+channels, or give a ratio"
            )
        if self.budget is not None and self.ratio is not None:
            raise RecipeError("give a ratio or a budget, not both")

    def _check_units(self) -> None:
        if self.whole_blocks() != isinstance(self.solver(), ShortGPT):
            raise RecipeError("pattern blocks and method shortgpt go together: name both or neither")
        if self.whole_experts() != isinstance(self.solver(), DropExperts):
            raise RecipeError("pattern experts and methods reap, expert-norm and frequency go together")
        if self.drops_whole() and (self.ratios or self.allocator != "uniform" or self.exempt):
            raise RecipeError("whole blocks and experts stay or go: leave allocator, ratios and exempt out")

    def target(self) -> float:
        """The ratio, from the pattern where it fixes one. Raises RecipeError when none is given."""
        pattern = self.shape()
        if self.ratio is not None:
            if isinstance(pattern, NM):
                pattern.check((1, pattern.m), self.ratio)
            return self.ratio
        if isinstance(pattern, NM):
            return 1 - pattern.n / pattern.m
        raise RecipeError("missing ratio: the share of weights to remove, for example --ratio 0.5 (or use --budget)")

    def shape(self) -> Pattern:
        """The pattern object; where whole units go, that of one channel."""
        if self.unit() or self.drops_whole():
            return Columns()
        pattern = self._pattern()
        if not isinstance(pattern, str):
            return pattern
        check_pattern(pattern)
        return parse_pattern(pattern)

    def whole_blocks(self) -> bool:
        """Whether whole blocks go."""
        return self._pattern() == "blocks"

    def whole_experts(self) -> bool:
        """Whether whole experts go."""
        return self._pattern() == "experts"

    def drops_whole(self) -> bool:
        """Whether whole blocks or experts go, so that no matrix is solved."""
        return self.whole_blocks() or self.whole_experts()

    def unit(self) -> str | None:
        """Which units of attention go (auto, kv_groups, heads, none), or None when weights are zeroed."""
        pattern = self._pattern()
        return UNITS.get(pattern) if isinstance(pattern, str) else None

    def limit(self) -> Budget:
        """The budget object."""
        return parse_budget(str(self.budget))

    def build_allocator(self) -> Allocator:
        """The allocator object. Raises RecipeError on an unknown name or field."""
        if not isinstance(self.allocator, str | Mapping):
            return self.allocator
        named: Allocator = _named_part(self.allocator, ALLOCATORS, Allocator)
        unit = self.unit()
        if unit is None or not isinstance(named, UnitAllocator):
            return named
        return named.for_units("ffn" if unit == "none" else "all")

    def _pattern(self) -> str | Pattern:
        if self.pattern:
            return self.pattern
        return usual_pattern(self.method) if self._name() is None else self._method().pattern

    def solver(self) -> Solver:
        """The solver object, refitted where that is asked. Raises RecipeError on an unknown name or field."""
        if self.refit is None:
            return self._solver()
        check_name("refit", self.refit, ("cg",))
        return Refitted(solver=self._solver())

    def looks_at_dense(self) -> bool:
        """Whether the dense blocks run beside the pruned ones."""
        return self.match is not None or self.reconstruct is not None

    def reconstruction(self) -> Reconstruction | None:
        """How blocks are trained after pruning; None where they are not."""
        if self.reconstruct is None:
            return None
        if isinstance(self.reconstruct, bool) or not isinstance(self.reconstruct, int | Mapping):
            raise RecipeError(f"reconstruct should be steps, or a mapping of steps and rate, got {self.reconstruct!r}")
        settings = {"steps": self.reconstruct} if isinstance(self.reconstruct, int) else dict(self.reconstruct)
        made: Reconstruction = _build(Reconstruction, settings, "reconstruct")
        return made

    def _solver(self) -> Solver:
        if not isinstance(self.method, str | Mapping):
            return self.method
        method = self._method()
        given = {} if isinstance(self.method, str) else {k: v for k, v in self.method.items() if k != "name"}
        settings = _with_score({**method.defaults, **given})
        make = SOLVERS.find(method.solver) if isinstance(method.solver, str) else method.solver
        return _role(_build(make, settings, f"method {self._name()!r}"), Solver, f"method {self._name()!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what YAML and result.json hold. An object is its class and fields, which no recipe reads back."""
        data = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        return data | {"calibration": asdict(self.calibration)}

    def _name(self) -> str | None:
        """The method's name; None where an object stands."""
        if isinstance(self.method, Mapping):
            return str(self.method.get("name", "sparsegpt"))
        return self.method if isinstance(self.method, str) else None

    def _method(self) -> Method:
        return METHODS.find(str(self._name()))


def load_recipe(path: Path, data: Any = None) -> Recipe:
    """A recipe from a YAML file, or from `data` that stands for it. Raises RecipeError naming the file and the key."""
    data = read_settings(path) if data is None else data
    try:
        return parse_recipe(data)
    except RecipeError as error:
        raise RecipeError(f"recipe {path}: {error}") from error


def parse_recipe(data: Any) -> Recipe:
    """A recipe from plain data. Raises RecipeError on unknown keys and wrong kinds."""
    if not isinstance(data, dict):
        raise RecipeError(f"a recipe is a mapping of keys, found {type(data).__name__}")
    settings = dict(data)
    if "calibration" in settings:
        part = settings["calibration"]
        part = {"source": part} if isinstance(part, str) else part
        settings["calibration"] = _build(Calibration, part, "calibration")
    return _build(Recipe, settings, "recipe")


def _named_part(data: str | Mapping[str, Any], table: Table[Callable[..., Any]], role: type) -> Any:
    """One of a table's parts, from its name or a mapping of `name` and fields."""
    settings = {"name": data} if isinstance(data, str) else dict(data)
    name = str(settings.pop("name", None))
    what = f"{table.kind} {name!r}"
    return _role(_build(table.find(name), _with_score(settings), what), role, what)


def _with_score(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the score object for its name, or a mapping of `name` and fields."""
    score = settings.get("score")
    return settings | ({"score": _named_part(score, SCORES, Score)} if isinstance(score, str | dict) else {})


def _role(made: Any, role: type, what: str) -> Any:
    """What was made, if it has a role's members: a package's class may lack some. Raises RecipeError."""
    if not isinstance(made, role):
        raise RecipeError(f"{what} makes {type(made).__name__} objects, which have not all members of {role.__name__}")
    return made


def _plain(value: Any) -> Any:
    """A value as JSON holds it; an object as its class and what it keeps."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    kept = {name: entry if isinstance(entry, str | int | float) else repr(entry) for name, entry in vars(value).items()}
    return {"object": f"{type(value).__module__}:{type(value).__qualname__}", **kept}


def _build(make: Callable[..., Any], settings: Any, what: str) -> Any:
    """Call a dataclass with named settings; complain about unknown keys and wrong kinds."""
    if not isinstance(settings, Mapping):
        raise RecipeError(f"{what} should be a mapping of keys, found {type(settings).__name__}")
    known = inspect.signature(make).parameters
    for key in settings:
        if key not in known:
            raise RecipeError(f"{what} has no key {key!r}{nearest(str(key), known)}")
    return make(**{key: check_kind(what, key, value, known[key].annotation) for key, value in settings.items()})
