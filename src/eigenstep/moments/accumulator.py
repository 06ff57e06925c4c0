"""What every accumulator is: the verbs `update`, `merge`, `spectrum`, `save` and `load`, with their checks."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep import _files
from eigenstep._checks import Float, choice, integer, sample_array
from eigenstep.spectrum import JSON, Spectrum

FORMAT_VERSION = 1
PRECISIONS = ("float64", "float32")

Form = TypeVar("Form", bound="Accumulator")


class Accumulator(ABC):
    """Sums over a stream of items of one shape, from which their spectrum is taken; `FORMS` lists the kinds.

    The result is the same to the last bit whatever the batching, the same to rounding whatever the order of mergers,
    and a saved accumulator goes on to the last bit as if it had never been saved. `reason` is a sentence that says why
    this form was chosen; `new_moments` writes it.

    Parameters
    ----------
    item_shape : shape of one item, or an int for vectors of that length.
    precision : "float64" or "float32", of the products within a block of items; sums over blocks are float64 always.

    Raises
    ------
    ValueError, TypeError : a shape without positive integers, an unknown precision.

    Examples
    --------
    >>> from eigenstep.moments import Moments
    >>> seen = Moments((2,))
    >>> for batch in ([[3.0, 0.0]], [[-1.0, 0.0], [1.0, 0.0]]):
    ...     seen.update(np.array(batch))
    >>> seen.dim, seen.count, seen.mean.tolist(), seen.spectrum().eigenvalues.tolist()
    (2, 3, [1.0, 0.0], [4.0, 0.0])
    """

    form: ClassVar[str]

    def __init__(self, item_shape: int | tuple[int, ...], *, precision: str = "float64") -> None:
        """An empty accumulator for items of this shape."""
        sides = item_shape if isinstance(item_shape, (tuple, list)) else (item_shape,)
        self.item_shape: tuple[int, ...] = tuple(integer(side, "item_shape") for side in sides)
        self.precision = choice(precision, PRECISIONS, "precision")
        self.reason = f"The {self.form} form was asked for."

    @property
    def dim(self) -> int:
        """Numbers per item."""
        return math.prod(self.item_shape)

    @property
    @abstractmethod
    def count(self) -> int:
        """Items seen."""

    @property
    def mean(self) -> Float:
        """Mean item, of shape `item_shape`, in data units; ValueError before the first item."""
        self._need(1)
        return self._mean().reshape(self.item_shape)

    def update(self, batch: ArrayLike) -> None:
        """Add a batch of items, shape (m, *item_shape); a refused batch leaves the accumulator as it was.

        Raises
        ------
        ValueError : items of another shape, an empty batch, NaN or infinite values (by index in the whole stream),
            values beyond 1e37 with float32 precision.
        TypeError : complex numbers, text, objects.
        """
        items = sample_array(batch, "batch", first_item=self.count)
        if items.shape[1:] != self.item_shape:
            hint = "; pass one item as batch[None]" if items.shape == self.item_shape else ""
            sides = ", ".join(str(side) for side in self.item_shape)
            raise ValueError(f"`batch` must have shape (m, {sides}), got {items.shape}{hint}.")
        self._add(items.reshape(len(items), -1))

    def merge(self: Form, other: Form) -> None:
        """Add all that `other` saw, which is left as it was; the order of mergers matters to rounding only.

        Raises
        ------
        ValueError : items of another shape, other options.
        TypeError : an accumulator of another form.

        Examples
        --------
        >>> from eigenstep.moments import Moments
        >>> a, b = Moments(1), Moments(1)
        >>> a.update([[1.0], [3.0]]); b.update([[5.0], [7.0]])
        >>> a.merge(b)
        >>> a.count, a.mean, a.covariance()
        (4, array([4.]), array([[6.66666667]]))
        """
        if type(other) is not type(self):
            raise TypeError(
                f"`other` must be a {type(self).__name__}, got {type(other).__name__}; measure all parts by one method."
            )
        if other.item_shape != self.item_shape:
            raise ValueError(
                f"`other` must hold items of shape {self.item_shape}, got {other.item_shape}; only moments of the same "
                "kind of data can be merged."
            )
        if other.options != self.options:
            raise ValueError(f"`other` must have the options {self.options}, got {other.options}; measure all parts alike.")
        self._merge(other)

    @abstractmethod
    def spectrum(self, *, basis: int = 0, provenance: Mapping[str, JSON] | None = None) -> Spectrum:
        """Spectrum of the covariance, with the mean, its energy in each direction, and a basis.

        Parameters
        ----------
        basis : how many leading eigenvectors to keep; at most as many as there are non-zero eigenvalues.
        provenance : recorded in the spectrum.

        Raises
        ------
        ValueError : fewer than two items, or constant data.

        Warns
        -----
        RankWarning : no more items than dimensions.
        """

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to an `.npz` file, whole or not at all; what is loaded from it goes on bit for bit.

        Raises
        ------
        ValueError : another suffix.
        OSError : the disk is full or the folder is closed to us; an earlier file is left as it was.
        """
        _need_npz(path)
        header = {
            "format": "eigenstep-moments",
            "format_version": FORMAT_VERSION,
            "form": self.form,
            "item_shape": list(self.item_shape),
            "reason": self.reason,
            **self.options,
        }
        arrays: dict[str, Any] = {"header": np.array(json.dumps(header)), **self._state()}
        _files.write_atomically(path, lambda stream: np.savez(stream, **arrays))

    @classmethod
    def load(cls: type[Form], path: str | os.PathLike[str]) -> Form:
        """Read what `save` wrote; `load_moments` does so whatever the form.

        Raises
        ------
        ValueError : a truncated, corrupt or foreign file, one of another form, or one from a newer version.
        FileNotFoundError : no such file.

        Examples
        --------
        >>> import tempfile
        >>> from eigenstep.moments import Moments
        >>> moments = Moments(1)
        >>> moments.update([[1.0], [3.0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     moments.save(f"{folder}/half.npz")
        ...     Moments.load(f"{folder}/half.npz")
        Moments(item_shape=(1,), count=2, precision='float64')
        """
        header, arrays = read_state(path)
        return cls._restored(path, header, arrays)

    def __repr__(self) -> str:
        """Shape, count and options."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}(item_shape={self.item_shape}, count={self.count}{options})"

    @property
    def options(self) -> dict[str, JSON]:
        """What two accumulators must have in common, beside form and shape, to be merged."""
        return {"precision": self.precision}

    # ------------------------------------------------------------------ what a form fills in

    @abstractmethod
    def _mean(self) -> Float:
        """Mean of at least one item, flat."""

    @abstractmethod
    def _add(self, rows: NDArray[Any]) -> None:
        """Add finite rows (m, dim) in the type they came in; ValueError, with nothing changed, where they are refused."""

    @abstractmethod
    def _merge(self: Form, other: Form) -> None:
        """Add an accumulator of the same form, shape and options."""

    @abstractmethod
    def _state(self) -> dict[str, NDArray[Any]]:
        """Arrays from which `_restore` goes on bit for bit."""

    @abstractmethod
    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state; KeyError or ValueError where it does not fit."""

    # ------------------------------------------------------------------ shared

    @classmethod
    def _restored(cls: type[Form], path: str | os.PathLike[str], header: Any, arrays: Mapping[str, NDArray[Any]]) -> Form:
        try:
            if header["form"] != cls.form:
                raise ValueError(f"its form is {header['form']!r}, not {cls.form!r}")
            known = ("format", "format_version", "form", "item_shape", "reason")
            options = {name: value for name, value in header.items() if name not in known}
            moments = cls(tuple(header["item_shape"]), **options)
            moments.reason = str(header.get("reason", moments.reason))
            moments._restore(arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(_files.damaged(path, "moments", error)) from error
        return moments

    def _need(self, items: int) -> None:
        if self.count < items:
            name = type(self).__name__
            raise ValueError(f"`{name}` needs at least {items} item{'s' * (items != 1)} for this, got {self.count}.")


def read_state(path: str | os.PathLike[str]) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Header and arrays of a saved accumulator of any form."""
    _need_npz(path)
    header, arrays = _files.read_npz(path, "moments")
    _files.check_format(header, path, "moments", newest=FORMAT_VERSION)
    return header, arrays


def _need_npz(path: str | os.PathLike[str]) -> None:
    if not os.fspath(path).lower().endswith(".npz"):
        raise ValueError(f"`path` must end in .npz, got {os.fspath(path)!r}.")
