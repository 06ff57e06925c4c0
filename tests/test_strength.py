"""Grids for hosts that slice: what the host keeps, by its own arithmetic."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from eigenstep.grids import strength_grid

PLAN = np.array([2.5, 1.1, 0.4, 0.0])


def kept_by_diffusers(sigmas, strength):
    """`get_timesteps` of its image-to-image pipelines, on the list it is given: the steps before t_start are skipped."""
    n = len(sigmas) - 1
    init_timestep = min(int(n * strength), n)
    return sigmas[max(n - init_timestep, 0) :]


def kept_by_webui(sigmas, strength):
    """`setup_img2img_steps` of A1111 and Forge, and what they then cut from the list."""
    steps = len(sigmas) - 1
    t_enc = int(min(strength, 0.999) * steps)
    return sigmas[steps - t_enc - 1 :]


@pytest.mark.parametrize(("host", "kept"), [("diffusers", kept_by_diffusers), ("webui", kept_by_webui)])
@pytest.mark.parametrize("strength", [*np.round(np.arange(0.01, 1.0, 0.01), 2), 1.0])
@pytest.mark.parametrize("n", [1, 3, 29])
def test_the_host_keeps_the_plan_for_every_strength(host, kept, strength, n):
    plan = np.append(np.geomspace(2.5, 0.03, n), 0.0)
    grid = strength_grid(plan, strength, 14.6, host=host)
    np.testing.assert_array_equal(kept(grid, strength), plan)
    assert (np.diff(grid) < 0).all()
    assert grid[0] == (14.6 if grid.size > plan.size else 2.5)
    if grid.size > plan.size:  # the shortest such list: of one step less, the host would keep fewer
        assert len(kept(grid[1:], strength)) - 1 < n


def test_products_below_the_whole_number():
    assert int(100 * 0.29) == 28
    grid = strength_grid(np.append(np.geomspace(2.5, 0.03, 29), 0.0), 0.29, 14.6)
    assert grid.size - 1 == 101


def test_full_strength_changes_nothing_and_needs_no_room():
    np.testing.assert_array_equal(strength_grid(PLAN, 1.0, 2.5), PLAN)


def test_unknown_hosts_are_refused():
    with pytest.raises(ValueError, match="`host` must be one of diffusers, webui, got 'comfyui'"):
        strength_grid(PLAN, 0.5, 14.6, host="comfyui")


def test_takes_what_has_sigmas():
    class Plan:
        sigmas = PLAN

    np.testing.assert_array_equal(strength_grid(Plan(), 0.5, 14.6), strength_grid(PLAN, 0.5, 14.6))


@pytest.mark.parametrize(
    ("strength", "sigma_max", "message"),
    [
        (0.0, 14.6, "`strength` must be greater than 0, got 0"),
        (1.2, 14.6, "`strength` must be at most 1, got 1.2"),
        (0.5, 2.5, r"`sigma_max` must exceed the first planned level to make room for 3 skipped steps, got 2\.5 and 2\.5"),
    ],
)
def test_refusals(strength, sigma_max, message):
    with pytest.raises(ValueError, match=message):
        strength_grid(PLAN, strength, sigma_max)


def test_the_documentations_lines_run():
    text = (Path(__file__).parents[1] / "docs" / "hosts.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, names)
    np.testing.assert_array_equal(kept_by_webui(names["padded"], 0.6), names["plan"].sigmas)
    assert names["padded"].size - 1 == 9
    assert names["result"].high[-1] == names["result"].low[0] == 7.0
