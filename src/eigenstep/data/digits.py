"""scikit-learn's digits: 1797 gray images of 8 x 8 that need no download."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eigenstep.data.readers import row_parts
from eigenstep.data.source import Batch, Options, Source, units

_NATIVE = (0.0, 16.0)


def open_digits(_: str, options: Options) -> Source:
    """The digits as (1, 8, 8) images, from their native [0, 16] to [-1, 1] unless another range is asked for."""
    images = _images()
    convert, words = units(replace(options, value_range=options.value_range or "-1,1"), _NATIVE, "digits")
    at_once = options.items_at_once(images.shape[1:])
    readers = row_parts(_images, len(images), at_once)
    return Source("scikit-learn's digits", words, images.shape[1:], readers, convert, at_once)


def _images() -> Batch:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError('the digits need scikit-learn; install it with: pip install "eigenstep[digits]"') from None
    return np.asarray(load_digits().images)[:, None]
