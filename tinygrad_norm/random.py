"""The random stream: the same seed gives torch's numbers (CPU generator of torch 2.13, on an x86 CPU with AVX2).

Engine: MT19937 (Matsumoto & Nishimura 1998), one 32-bit word u a step, seeded with the low 32 bits of the seed (mersenne.py).
    float32 uniform   U = (u mod 2²⁴) / 2²⁴                   one word
    float64 uniform   U = ((u₁·2³² + u₂) mod 2⁵³) / 2⁵³       two words, the high one first
    integer           u mod range + low                       two words from range 2²⁸ on
    normal            Box & Muller (1958): r = √(−2 ln U₁), θ = 2π U₂, the pair r cos θ, r sin θ (rounding.py)
Everything here speaks arrays; tensors are built on top.

    >>> manual_seed(0).uniform((3,)).tolist()              # torch.manual_seed(0); torch.rand(3)
    [0.49625658988952637, 0.7682217955589294, 0.08847743272781372]
"""

from __future__ import annotations

import math
import operator
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, SupportsInt

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .mersenne import MersenneTwister
from .rounding import box_muller, fma64

__all__ = ["Generator", "default_generator", "get_rng_state", "initial_seed", "manual_seed", "seed", "set_rng_state"]

Array = NDArray[Any]
State = dict[str, Any]

_DEFAULT_SEED = 67280421310721  # torch's seed of a new Generator
_LARGE = (2**32 - 1) // 20  # from this length on torch.randperm draws 64 bits an element


# -- 1. What a caller may ask for -------------------------------------------------------------------------------------


def _count(shape: Sequence[int], name: str) -> int:
    if any(operator.index(n) < 0 for n in shape):
        raise RuntimeError(f"{name}: every length in shape must be >= 0; got {tuple(shape)}")
    return math.prod(shape)


def _check_numbers(name: str, **values: Any) -> None:
    for what, value in values.items():
        if not hasattr(value, "__float__"):  # text has none, though float() would read it
            raise TypeError(f"{name}: {what} must be a number; got {type(value).__name__}")


def _float_dtype(dtype: DTypeLike, name: str) -> np.dtype[Any]:
    dt = np.dtype(dtype)
    if dt not in (np.float32, np.float64):
        raise NotImplementedError(f"{name}: dtype must be float32 or float64; got {dt}; draw in float32 and cast")
    return dt


def _integer_limits(dtype: DTypeLike, name: str) -> tuple[np.dtype[Any], int, int]:
    """The dtype with the smallest and the largest integer below which it holds every integer."""
    dt = np.dtype(dtype)
    if dt == np.bool_:
        return dt, 0, 1
    if dt in (np.float32, np.float64):
        top = 2 ** (24 if dt == np.float32 else 53)
        return dt, -top, top
    if dt in (np.uint8, np.int8, np.int16, np.int32, np.int64):
        return dt, int(np.iinfo(dt).min), int(np.iinfo(dt).max)
    raise NotImplementedError(f"{name}: dtype must be bool, uint8, int8 to int64, float32 or float64; got {dt}")


def _modulo(words: Array, range_: int) -> Array:
    """words mod range: NumPy divides by a scalar with SIMD, its remainder does not."""
    divisor = words.dtype.type(range_)
    quotient = words // divisor
    quotient *= divisor
    words -= quotient
    return words


# -- 2. The generator -------------------------------------------------------------------------------------------------


class Generator(MersenneTwister):
    """A stream of random numbers with torch's state: the engine, and the second normal of the last pair.

    Every draw holds one lock, so threads may share a generator: each call gets a stretch of the stream of its own.
    Copies (copy, deepcopy, pickle, clone_state) carry the state on and are independent.
    A call that raises draws nothing.

    Args:
        device: "cpu", the only one there is.
    Raises:
        RuntimeError: any other device.

    >>> g = Generator().manual_seed(1)
    >>> twin = g.clone_state()
    >>> bool((g.normal((5,)) == twin.normal((5,))).all())
    True
    """

    # No __repr__: as torch's, `<tinygrad_norm.random.Generator object at 0x…>`.

    def __init__(self, device: str = "cpu") -> None:
        if str(device) != "cpu":
            raise RuntimeError(f"Generator: device must be 'cpu'; got {device!r}")
        self.device = "cpu"
        self._lock = threading.Lock()
        self._next_normal: float | None = None  # torch keeps one, in double, for every dtype
        self.manual_seed(_DEFAULT_SEED)

    # -- seed and state

    def manual_seed(self, seed: int) -> Generator:
        """Restart the stream at seed, and forget the kept normal.

        Args:
            seed: in [−2⁶³, 2⁶⁴); a negative one counts as seed + 2⁶⁴. The engine takes the low 32 bits.
        Returns:
            The generator itself.
        Raises:
            RuntimeError: seed is no integer. ValueError: it is out of range.

        >>> Generator().manual_seed(-1).initial_seed() == 2**64 - 1
        True
        """
        if isinstance(seed, (bool, np.bool_)) or not hasattr(seed, "__index__"):
            raise RuntimeError(f"manual_seed: seed must be an integer; got {seed!r} of type {type(seed).__name__}")
        value = operator.index(seed)
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"manual_seed: seed must be in [-2**63, 2**64); got {value}")
        with self._lock:
            self._restart(value)
            self._next_normal = None
        return self

    def initial_seed(self) -> int:
        """The seed that the stream last started from.

        >>> Generator().initial_seed()
        67280421310721
        """
        return self._initial_seed

    def seed(self) -> int:
        """Restart the stream at a seed from the operating system, and return that seed.

        >>> g = Generator()
        >>> g.seed() == g.initial_seed()
        True
        """
        value = int.from_bytes(os.urandom(8), "little")
        self.manual_seed(value)
        return value

    def get_state(self) -> State:
        """The whole state as a dict of one array and four numbers, fit for an NPZ file.

        Returns:
            words (624,) uint32 and position: the engine; initial_seed; has_next_normal (0 or 1) and next_normal.

        >>> sorted(Generator().get_state())
        ['has_next_normal', 'initial_seed', 'next_normal', 'position', 'words']
        """
        with self._lock:
            engine: Any = self._bits.state["state"]
            kept = self._next_normal
            return {
                "words": np.array(engine["key"], dtype=np.uint32),
                "position": int(engine["pos"]),
                "initial_seed": self._initial_seed,
                "has_next_normal": int(kept is not None),
                "next_normal": 0.0 if kept is None else kept,
            }

    def set_state(self, state: State) -> Generator:
        """Continue from a state that get_state returned; numbers may have become arrays of shape () in a file.

        Returns:
            The generator itself.
        Raises:
            TypeError: state is no dict. RuntimeError: a key is missing, or words or position cannot be an engine's.

        >>> g = Generator()
        >>> state = g.get_state()
        >>> a = g.uniform((2,))
        >>> bool((g.set_state(state).uniform((2,)) == a).all())
        True
        """
        if not isinstance(state, dict):
            raise TypeError(f"set_state: state must be the dict that get_state returns; got {type(state).__name__}")
        missing = {"words", "position", "initial_seed", "has_next_normal", "next_normal"} - state.keys()
        if missing:
            raise RuntimeError(f"set_state: state must have every key of get_state; missing: {sorted(missing)}")
        words, position = np.array(state["words"]), state["position"]
        if isinstance(position, np.ndarray) and position.shape == ():
            position = position.item()
        if words.shape != (624,) or words.dtype != np.uint32 or not isinstance(position, (int, np.integer)) or not 0 <= position <= 624:
            raise RuntimeError(
                "set_state: words must be uint32 of shape (624,) and position in [0, 624]; "
                f"got {words.dtype} of shape {words.shape} and {position}"
            )
        try:
            first, kept, has_kept = int(state["initial_seed"]), float(state["next_normal"]), bool(int(state["has_next_normal"]))
        except (TypeError, ValueError) as error:
            raise RuntimeError(f"set_state: initial_seed, has_next_normal and next_normal must be numbers: {error}") from None
        with self._lock:
            self._bits.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": int(position)}}
            self._initial_seed = first
            self._next_normal = kept if has_kept else None
        return self

    def clone_state(self) -> Generator:
        """A new generator that continues this stream on its own.

        >>> g = Generator()
        >>> g.clone_state().integers(0, 9, (2,)).tolist() == g.integers(0, 9, (2,)).tolist()
        True
        """
        return Generator().set_state(self.get_state())

    def __reduce__(self) -> tuple[Callable[[State], Generator], tuple[State]]:
        return _restore, (self.get_state(),)

    # -- draws

    def uniform(
        self, shape: Sequence[int], low: float = 0.0, high: float = 1.0, dtype: DTypeLike = np.float32
    ) -> Array:
        """Uniform numbers, U·(high − low) + low with one rounding; torch's `rand` and `uniform_`.

        Args:
            shape: any, () and empty included.
            low, high: low <= high; both are rounded to dtype first.
            dtype: float32 or float64.
        Returns:
            A new array of that shape and dtype.
        Raises:
            RuntimeError: low > high, or a bound or high − low beyond dtype. NotImplementedError: another dtype.
            TypeError: a bound is no number.

        >>> Generator().manual_seed(0).uniform((2,), -1, 1).tolist()
        [-0.007486820220947266, 0.5364435911178589]
        """
        dt, n = _float_dtype(dtype, "uniform"), _count(shape, "uniform")
        _check_numbers("uniform", low=low, high=high)
        largest = float(np.finfo(dt).max)
        for name, bound in (("low", low), ("high", high)):
            if not -largest <= bound <= largest:
                raise RuntimeError(f"uniform: {name} must be a finite {dt}; got {bound}")
        if low > high:
            raise RuntimeError(f"uniform: low ({low}) must be <= high ({high}); swap them")
        if high - low > largest:
            raise RuntimeError(f"uniform: high - low must be at most the largest {dt}; got low={low}, high={high}")
        a = float(dt.type(low))
        width = float(dt.type(high) - dt.type(low))
        with self._lock:
            out = self._uniforms(n, dt, width, a)
        largest_u = 1 - (2.0**-24 if dt == np.float32 else 2.0**-53)
        if largest_u * width + a >= np.nextafter(dt.type(high), dt.type(low)):  # else no rounding reaches high
            out[out == dt.type(high)] = a  # high is outside; torch too puts low in its place
        return out.reshape(shape)

    def normal(self, shape: Sequence[int], mean: float = 0.0, std: float = 1.0, dtype: DTypeLike = np.float32, in_pairs: bool = False) -> Array:
        """Normal numbers by Box & Muller (1958); torch's `randn` and `normal_`.

        From 16 elements on, rows of 16: eight U₁, eight U₂, eight r cos θ, eight r sin θ. Where 16 does not divide the
        count, the last 16 elements are drawn anew as one more row. Below 16, one pair at a time in float64, and the
        pair's second number is kept for the next such call, whatever its dtype; so too, for any count, where torch
        fills memory that does not lie in the order of the indices (in_pairs).

        Args:
            shape: any, () and empty included.
            mean, std: std >= 0.
            dtype: float32 or float64.
            in_pairs: one pair at a time from 16 elements on too.
        Returns:
            A new array of that shape and dtype.
        Raises:
            RuntimeError: std negative or nan. NotImplementedError: another dtype. TypeError: mean or std is no number.

        >>> Generator().manual_seed(0).normal((2,)).tolist()
        [1.5409960746765137, -0.293428897857666]
        """
        dt, n = _float_dtype(dtype, "normal"), _count(shape, "normal")
        _check_numbers("normal", mean=mean, std=std)
        if not std >= 0:
            raise RuntimeError(f"normal: std must be >= 0; got {std}")
        mean, std = float(mean), float(std)
        in_pairs = in_pairs or n < 16
        with self._lock:
            out = np.array([self._one_normal() for _ in range(n)]) if in_pairs else self._uniforms(n, dt)
            tail = self._uniforms(0 if in_pairs or n % 16 == 0 else 16, dt)
        with np.errstate(invalid="ignore", over="ignore"):  # an infinite mean or std: torch is silent too
            if in_pairs:
                return fma64(out, std, mean).astype(dt).reshape(shape)
            box_muller(out[: n - n % 16].reshape(-1, 16), mean, std)
            box_muller(tail.reshape(-1, 16), mean, std)
        out[n - len(tail) :] = tail
        return out.reshape(shape)

    def _one_normal(self) -> float:
        kept, self._next_normal = self._next_normal, None
        if kept is None:
            w = self._bits.random_raw(4).tolist()  # Python's numbers: for four words an array costs ten times as much
            u1, u2 = (((high << 32 | low) % 2**53) * 2.0**-53 for high, low in (w[:2], w[2:]))
            r, theta = math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1
            kept, self._next_normal = r * math.cos(theta), r * math.sin(theta)
        return kept

    def integers(self, low: int, high: int | None, shape: Sequence[int], dtype: DTypeLike = np.int64) -> Array:
        """Integers in [low, high), word mod (high − low) + low; torch's `randint` and `random_(low, high)`.

        Args:
            low, high: low < high. high=None: up to and with the largest integer of dtype.
            shape: any, () and empty included.
            dtype: bool, uint8, int8 to int64, or a float that holds every integer of the range exactly.
        Returns:
            A new array of that shape and dtype.
        Raises:
            RuntimeError: low >= high, or dtype does not hold the range. ValueError: beyond int64.
            TypeError: a bound is no integer.

        >>> Generator().manual_seed(0).integers(0, 10, (4,)).tolist()
        [4, 9, 3, 0]
        """
        dt, least, largest = _integer_limits(dtype, "integers")
        n = _count(shape, "integers")
        low = operator.index(low)
        stop = largest + 1 if high is None else operator.index(high)
        for name, bound in (("low", low), ("high", 0 if high is None else stop)):
            if not -(2**63) <= bound < 2**63:
                raise ValueError(f"integers: {name} must be an int64; got {bound}")
        if low >= stop:
            raise RuntimeError(f"integers: low ({low}) must be below high ({stop})")
        if low < least or stop - 1 > largest:
            raise RuntimeError(
                f"integers: {dt} holds integers in [{least}, {largest}]; got [{low}, {stop}); choose a wider dtype"
            )
        range_ = stop - low
        with self._lock:
            words = self._words(n) if range_ < 2**28 else self._double_words(n)
        if range_ < 2**28:
            out = _modulo(words, range_).astype(np.int64)
            out += low
        else:
            wide = words
            if range_ < 2**64:  # else every bit pattern is an int64, and torch takes the words as they come
                wide = _modulo(words, range_) + np.uint64(low % 2**64)  # modulo 2⁶⁴ a negative low adds up as well
            out = wide.view(np.int64)
        return out.astype(dt, copy=False).reshape(shape)

    def random(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> Array:
        """Integers in [0, largest of dtype] (for floats 2²⁴ or 2⁵³); torch's `random_()` without bounds.

        Returns:
            A new array of that shape and dtype.
        Raises:
            NotImplementedError: a dtype that `integers` does not take either.

        >>> Generator().manual_seed(0).random((3,), np.uint8).tolist()
        [172, 47, 117]
        """
        dt, _, largest = _integer_limits(dtype, "random")
        n = _count(shape, "random")
        with self._lock:
            words = self._double_words(n) if dt in (np.int64, np.float64) else self._words(n)
        return _modulo(words, largest + 1).astype(dt).reshape(shape)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """The numbers 0 to n − 1 in random order (Fisher & Yates); torch's `randperm`.

        For i = 0 … n−2: swap a[i] with a[i + u mod (n − i)].

        Returns:
            An int64 array of shape (n,).
        Raises:
            RuntimeError: n negative. TypeError: n no integer. NotImplementedError: n beyond 2.1e8.

        >>> Generator().manual_seed(0).permutation(4).tolist()
        [0, 1, 3, 2]
        """
        n = operator.index(n)
        if n < 0:
            raise RuntimeError(f"permutation: n must be >= 0; got {n}")
        if n >= _LARGE:
            raise NotImplementedError(f"permutation: n must be below {_LARGE}; got {n}; permute blocks instead")
        with self._lock:
            words = self._words(max(n - 1, 0))
        partners = words % np.arange(n, 1, -1, dtype=np.uint32) + np.arange(n - 1, dtype=np.int64) if n else words
        out = np.arange(n, dtype=np.int64)
        a = out.data  # not a list: a million int objects outgrow the cache, which takes 2.5 times as long
        for i, j in enumerate(partners.tolist()):
            a[i], a[j] = a[j], a[i]
        return out

    def bernoulli(self, p: float | Array, shape: Sequence[int], dtype: DTypeLike = np.float32) -> Array:
        """Ones with probability p, else zeros: U < p; torch's `bernoulli` and `bernoulli_`, and dropout's keep mask.

        As in torch a number p draws float64 uniforms (two words an element), and an array p draws uniforms of its own
        dtype: one word for float32, two for float64.

        Args:
            p: a number, or a float array that broadcasts to shape; in [0, 1].
            shape: any, () and empty included.
            dtype: of the result.
        Returns:
            A new array of that shape and dtype.
        Raises:
            RuntimeError: p outside [0, 1] or nan, or not broadcasting.
            NotImplementedError: an array p of a dtype that is no float. TypeError: p is no number.

        >>> Generator().manual_seed(0).bernoulli(0.5, (4,)).tolist()
        [0.0, 0.0, 1.0, 0.0]
        """
        n = _count(shape, "bernoulli")
        if not isinstance(p, np.ndarray):
            _check_numbers("bernoulli", p=p)
            if not 0 <= p <= 1:
                raise RuntimeError(f"bernoulli: p must be in [0, 1]; got {p}")
            with self._lock:
                words = self._double_words(n)
            words &= np.uint64(2**53 - 1)
            # U < p in integers: U·2⁵³ is one, and p·2⁵³ loses no bit
            mask: Array = words < np.uint64(math.ceil(float(p) * 2.0**53))
            return mask.astype(dtype).reshape(shape)
        if p.dtype not in (np.float16, np.float32, np.float64):
            raise NotImplementedError(f"bernoulli: an array p must be of a float dtype; got {p.dtype}; cast it")
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise RuntimeError(f"bernoulli: every p must be in [0, 1]; got {_first_outside(p)}")
        try:
            limit = np.broadcast_to(p, tuple(shape))
        except ValueError:
            raise RuntimeError(f"bernoulli: p has shape {p.shape}; it must broadcast to {tuple(shape)}") from None
        with self._lock:
            u = self._uniforms(n, np.dtype(np.float64 if p.dtype == np.float64 else np.float32))
        return np.asarray(u.reshape(shape) < limit).astype(dtype)


def _first_outside(p: Array) -> float:
    return float(p[~((p >= 0) & (p <= 1))][0])


def _restore(state: State) -> Generator:
    return Generator().set_state(state)


# -- 3. The default generator -----------------------------------------------------------------------------------------

default_generator = Generator()
default_generator.seed()  # as in torch: a program that sets no seed differs from run to run


def manual_seed(seed: SupportsInt | str) -> Generator:
    """Restart the default generator at seed; returns it.

    Raises:
        ValueError: seed outside [−2⁶³, 2⁶⁴), or text that is no integer.

    >>> manual_seed(3) is default_generator
    True
    """
    try:
        value = int(seed)
    except (TypeError, ValueError, OverflowError) as error:
        raise type(error)(f"manual_seed: seed must be an integer; got {seed!r}") from None
    return default_generator.manual_seed(value)


def initial_seed() -> int:
    """The seed that the default generator last started from.

    >>> _ = manual_seed(3)
    >>> initial_seed()
    3
    """
    return default_generator.initial_seed()


def seed() -> int:
    """Restart the default generator at a seed from the operating system; returns that seed.

    >>> seed() == initial_seed()
    True
    """
    return default_generator.seed()


def get_rng_state() -> State:
    """The default generator's state; see Generator.get_state.

    >>> get_rng_state()["words"].shape
    (624,)
    """
    return default_generator.get_state()


def set_rng_state(state: State) -> None:
    """Continue the default generator from a state of get_rng_state; raises what Generator.set_state raises.

    >>> set_rng_state(get_rng_state())
    """
    default_generator.set_state(state)
