"""Which form to use: by the number of items, their size, and the memory there is."""

from __future__ import annotations

import os
from typing import Any

from eigenstep._checks import choice, integer
from eigenstep.moments.accumulator import PRECISIONS, Accumulator, read_state
from eigenstep.moments.dense import Moments
from eigenstep.moments.gram import GramMoments, gram_memory
from eigenstep.moments.low_rank import LowRankMoments
from eigenstep.moments.stationary import StationaryMoments

FORMS: dict[str, type[Accumulator]] = {
    form.form: form for form in (Moments, GramMoments, StationaryMoments, LowRankMoments)
}

DENSE_LIMIT = 16_384  # dimensions: four matrices of 2 GiB, and minutes for their eigenvalues


def new_moments(
    method: str,
    item_shape: int | tuple[int, ...],
    *,
    n_items: int | None = None,
    memory: int | None = None,
    precision: str = "float64",
    **form_options: Any,
) -> Accumulator:
    """An empty accumulator of the form asked for, or of the one that fits.

    "auto" takes the Gram form where there are no more items than dimensions and all of them fit into `memory`, else the
    dense form up to 16,384 dimensions whose four matrices fit, else the low-rank form. It never assumes that the
    data are stationary. The accumulator's `reason` says in a sentence what was chosen and why.

    Parameters
    ----------
    method : "auto", "dense", "gram", "stationary" or "low-rank".
    item_shape : shape of one item, or an int for vectors of that length.
    n_items : how many items there will be, None where that is unknown.
    memory : bytes the accumulator may take; None for half of what is free now.
    precision : "float64" or "float32".
    form_options : options of the form's own class, where a form is named.

    Raises
    ------
    ValueError, TypeError : an unknown method, or an option that the form does not have.

    Examples
    --------
    >>> new_moments("auto", (3, 32, 32), n_items=50_000, memory=2**31).reason
    'dense: the covariance of 3072 dimensions takes 0.281 GiB of the 2 GiB of memory.'
    >>> new_moments("auto", (3, 32, 32), n_items=500, memory=2**31).reason
    'gram: 500 items are no more than their 3072 dimensions, and take 0.0777 GiB of the 2 GiB of memory.'
    """
    choice(method, ("auto", *FORMS), "method")
    choice(precision, PRECISIONS, "precision")
    limit = free_memory() // 2 if memory is None else integer(memory, "memory")
    if method != "auto":
        known = _own_options(method)
        for name in form_options:
            choice(name, known, "form_options")
        if "memory" in known:
            form_options = {"memory": limit, **form_options}
        moments = FORMS[method](item_shape, precision=precision, **form_options)
        moments.reason = f"{method}: it was asked for."
        return moments
    if form_options:
        raise ValueError(f"`form_options` need a named `method`, got {', '.join(form_options)} for 'auto'.")
    dense = Moments(item_shape, precision=precision)
    dim = dense.dim
    if n_items is not None and integer(n_items, "n_items", minimum=0) <= dim:
        needed = gram_memory(n_items, dim, precision)
        if needed <= limit:
            gram = GramMoments(item_shape, precision=precision, memory=limit)
            gram.reason = (
                f"gram: {n_items} items are no more than their {dim} dimensions, and take {_gib(needed)} of the "
                f"{_gib(limit)} of memory."
            )
            return gram
    needed = 4 * 8 * dim**2
    if dim <= DENSE_LIMIT and needed <= limit:
        dense.reason = f"dense: the covariance of {dim} dimensions takes {_gib(needed)} of the {_gib(limit)} of memory."
        return dense
    low_rank = LowRankMoments(item_shape, precision=precision, memory=limit)
    why = f"more than {DENSE_LIMIT}" if dim > DENSE_LIMIT else f"{_gib(needed)}, more than the {_gib(limit)} of memory"
    low_rank.reason = (
        f"low-rank: the covariance of {dim} dimensions is too large ({why}); {low_rank.probes} probes see the spectrum."
    )
    return low_rank


def load_moments(path: str | os.PathLike[str]) -> Accumulator:
    """Read what `save` wrote, of whatever form.

    Raises
    ------
    ValueError : a truncated, corrupt or foreign file, or one from a newer version.
    FileNotFoundError : no such file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     GramMoments(4).save(f"{folder}/moments.npz")
    ...     load_moments(f"{folder}/moments.npz")
    GramMoments(item_shape=(4,), count=0, precision='float64')
    """
    header, arrays = read_state(path)
    return FORMS.get(header.get("form"), Moments)._restored(path, header, arrays)


def free_memory() -> int:
    """Bytes of memory that are available now; 4 GiB where the system does not tell."""
    try:
        # Linux: what a file cache holds can be had as well, which sysconf does not count.
        with open("/proc/meminfo") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 4 * 2**30


def _own_options(method: str) -> tuple[str, ...]:
    code = FORMS[method].__init__.__code__
    return tuple(
        name for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if name not in ("self", "item_shape")
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
