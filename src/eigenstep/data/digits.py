"""scikit-learn's digits: 1797 gray images of 8 x 8 that need no download."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eigenstep.data.source import Batch, Options, Source, affine, range_words

_NATIVE = (0.0, 16.0)


def open_digits(_: str, options: Options) -> Source:
    """The digits as (1, 8, 8) images, from their native [0, 16] to [-1, 1] unless another range is asked for."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError('the digits need scikit-learn; install it with: pip install "eigenstep[digits]"') from None
    images = np.asarray(load_digits().images)[:, None]
    target = options.value_range or "-1,1"
    convert = affine(_NATIVE, target, options.scale)

    def batches(_: Source) -> Iterator[Batch]:
        for start in range(0, len(images), options.batch_size):
            yield convert(images[start : start + options.batch_size])

    words = range_words(_NATIVE, target, options.scale, "digits")
    return Source("scikit-learn's digits", words, batches, n_items=len(images))
