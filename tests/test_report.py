"""The report: it says what the library computed, holds everything inside itself, and is whole or not there."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from eigenstep import Spectrum, optimal_grid, plots, rank
from eigenstep.estimation import Population
from eigenstep.grids import catalogue_grids
from eigenstep.report import comparison_report, findings, spectrum_report

LAM = np.geomspace(9.0, 1e-3, 60)
SAMPLE = Spectrum.from_eigenvalues(
    np.append(1.1 * LAM[:29], np.zeros(31)),
    n_samples=30,
    item_shape=(6, 10),
    provenance={"name": "a < b", "value_range": "[-1, 1]", "command": "eigenstep spectrum x", "caveats": "Few & far."},
)


@pytest.fixture(scope="module")
def population():
    return Population.from_spectrum(SAMPLE, replicates=4)


@pytest.fixture(scope="module")
def found(population):
    return findings(SAMPLE, population=population, steps=3)


@pytest.fixture(scope="module")
def page(population, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "few.html"
    spectrum_report(SAMPLE, path, population=population, steps=3)
    return path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Collects the text, and checks that every element that is opened is closed in its turn."""

    VOID = ("meta", "br", "path", "use", "rect")

    def __init__(self):
        super().__init__()
        self.open, self.text, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_findings_are_the_librarys_own_numbers(found, population):
    first = found.goals[0]
    plan = optimal_grid(population.spectrum, 3, 0.002, 80.0)
    np.testing.assert_allclose(first.sigmas, plan.sigmas, rtol=1e-12)
    assert first.value == pytest.approx(plan.value, rel=1e-12)
    best = rank(population.spectrum, catalogue_grids(3, 0.002, 80.0, final=0.0, spectrum=population.spectrum))[0]
    assert (first.baselines[0].name, first.baselines[0].value) == (best.name, pytest.approx(best.value, rel=1e-12))
    assert found.noise_floor == population.noise_floor
    assert found.verdict.replace("\u00a0", " ") == first.certainty.verdict
    raw = optimal_grid(SAMPLE, 3, 0.002, 80.0).sigmas
    assert found.raw_move == pytest.approx(np.max(np.abs(raw[:-1] / plan.sigmas[:-1] - 1)), rel=1e-9)
    lowest = max(1.1 * LAM[28], population.resolution**2)
    assert found.decades == pytest.approx(np.log10(population.spectrum.eigenvalues[0] / lowest), rel=1e-12)
    assert found.title == "Spectrum of a < b"


def test_the_page_says_them(page, found):
    text = " ".join("".join(read(page).text).split())
    for words in (
        "Spectrum of a < b",
        "30 samples · 60 dimensions (6 × 10) · values [-1, 1]",
        " ".join(found.verdict.split()),
        f"{found.goals[0].certainty.enough_samples:,}",
        found.noise.sentence,
        "Of the data: Few & far.",
        "Measured by eigenstep spectrum x",
        f"kl, noise floor {found.noise_floor:.2g}",  # below 100
        ", ".join(f"{sigma:.4g}" for sigma in found.goals[0].sigmas),
        f"{found.goals[0].baselines[0].name}, {found.goals[0].baselines[0].value / found.goals[0].value:.2f} × the error",
    ):
        assert words in text


def test_the_page_needs_nothing_from_outside(page):
    for tag, name, value in read(page).attributes:
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith("#"), (tag, name, value)
    assert not re.search(r"<script|@import|url\((?!#)", page)
    # Names of XML namespaces are no addresses that anyone asks.
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_figures_follow_light_and_dark(page):
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--ours)" in drawn
    assert "var(--ink)" in drawn
    # Every colour is one of the page's: a fixed one would be lost on one of the two backgrounds.
    assert re.findall(r"#[0-9a-fA-F]{6}\b", drawn) == []
    assert drawn.count('role="img" aria-label=') == 2


def test_the_page_is_the_same_twice(page, population, tmp_path):
    spectrum_report(SAMPLE, tmp_path / "again.html", population=population, steps=3)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_png_is_one_figure(population, tmp_path):
    image = pytest.importorskip("PIL.Image")
    spectrum_report(SAMPLE, tmp_path / "few.png", population=population, steps=3)
    with image.open(tmp_path / "few.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == round(8.27 * 160)
        # The last line is written, and the page ends soon after it.
        ink = np.flatnonzero((np.asarray(picture.convert("L")) < 200).any(axis=1))
        assert 0.2 * 160 < picture.height - ink[-1] < 0.7 * 160


@pytest.mark.parametrize(
    ("spectrum", "verdict"),
    [
        (Spectrum.from_eigenvalues(LAM), "The number of samples is not known"),
        (Spectrum.from_eigenvalues(LAM, n_samples=2), "2 samples are too few to say anything"),
        (Spectrum.from_eigenvalues(LAM, n_samples=9, provenance={"form": "stationary"}), "Measured per frequency"),
        (Spectrum.from_eigenvalues(LAM, n_samples=9, provenance={"estimated": "by hand"}), "an estimate already: by hand"),
    ],
)
def test_without_a_population_it_says_why(spectrum, verdict, tmp_path):
    found = spectrum_report(spectrum, tmp_path / "exact.html", steps=2)
    assert found.population is None
    assert found.raw_move is None
    assert verdict in found.verdict
    assert found.title == "Spectrum"
    assert found.goals[0].gamma > 0
    assert "95 % intervals" not in (tmp_path / "exact.html").read_text(encoding="utf-8")


def test_values_in_other_units_than_the_models_are_noticed(tmp_path):
    raw = Spectrum.from_eigenvalues(2000.0**2 * LAM)
    spectrum_report(raw, tmp_path / "raw.html", steps=2)
    text = " ".join("".join(read((tmp_path / "raw.html").read_text(encoding="utf-8")).text).split())
    assert "These plans start at σ = 80.0, below the data's largest standard deviation of 6,000: bring" in text
    assert "e+03" not in text


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"`suffix of `path`` must be one of .html, .png, got '.pdf'"):
        spectrum_report(SAMPLE, tmp_path / "x.pdf")
    exact = Spectrum.from_eigenvalues([1.0])
    with pytest.raises(OSError, match="could not write"):
        spectrum_report(exact, tmp_path / "missing" / "x.html", steps=2)
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0"):
        findings(exact, steps=0)


def test_without_matplotlib_the_error_names_the_extra():
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from eigenstep import Spectrum\n"
        "from eigenstep.report import spectrum_report\n"
        "try:\n"
        "    spectrum_report(Spectrum.from_eigenvalues([1.0]), 'never.png', steps=1)\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'Figures need matplotlib; install it with `pip install "eigenstep[plots]"`.'


COMPARED = {
    "spectrum": {"name": "a < b", "dim": 60, "trace": 17.25, "n_samples": 30},
    "eigenvalues_reason": "As they are.",
    "solver": "ddim",
    "objective": "w2",
    "path": None,
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "steps": [3, 4],
    "sigmas": [[80.0, 5.0, 0.5, 0.0], [80.0, 9.0, 2.0, 0.25, 0.0]],
    "values": [2.0, 1.0],
    "baselines": {"karras": [8.0, 5.0], "golden": [None, 3.0]},
}


class TestComparison:
    @pytest.fixture
    def page(self, tmp_path):
        axes = plots.error_against_steps([3, 4], {"ours": [2.0, 1.0], "karras": [8.0, 5.0]}, ours="ours")
        path = tmp_path / "compared.html"
        command = "eigenstep compare 'a < b'"
        comparison_report(COMPARED, path, axes=axes, error_name="squared distance", command=command)
        return path.read_text(encoding="utf-8")

    def test_it_says_what_the_record_says(self, page):
        reader = Reader()
        reader.feed(page)
        assert reader.open == []
        text = " ".join(" ".join(reader.text).split())
        # 8/2 and 3/1, the least at each number of steps.
        assert "The best hand-made grid leaves 3.00 to 4.00 times the error of the planned one from 3 to 4 steps." in text
        assert "3 2.00 8.00 4.00 karras" in text
        assert "4 1.00 3.00 3.00 golden" in text
        assert "golden – 3.00" in text
        assert "80, 9, 2, 0.25, 0" in text
        assert "60 dimensions of total variance 17.2 · 30 samples · As they are." in text
        assert "Made by eigenstep compare 'a < b'" in text

    def test_it_holds_everything_inside(self, page):
        assert page.count("<svg") == 2
        assert "<script" not in page
        links = set(re.findall(r"https?://[^\s\"'<]+", page))
        # Names of namespaces are addresses by form only.
        assert {link for link in links if not link.startswith("http://www.w3.org/")} == set()

    def test_one_number_of_steps_and_none_by_hand(self, tmp_path):
        one = {**COMPARED, "steps": [3], "sigmas": [[80.0, 5.0, 0.5, 0.0]], "values": [2.0], "baselines": {"karras": [None]}}
        axes = plots.error_against_steps([3], {"ours": [2.0]}, ours="ours")
        comparison_report(one, tmp_path / "one.html", axes=axes, error_name="squared distance")
        assert "The catalogue has no grid of so many steps over this range." in (tmp_path / "one.html").read_text("utf-8")

    def test_another_suffix(self, tmp_path):
        axes = plots.error_against_steps([3], {"ours": [2.0]}, ours="ours")
        with pytest.raises(ValueError, match="suffix of `path`"):
            comparison_report(COMPARED, tmp_path / "out.pdf", axes=axes, error_name="error")

    def test_the_command_writes_it(self, tmp_path):
        target = tmp_path / "compared.html"
        command = ["compare", "digits", "--steps", "3,4", "--report", str(target)]
        code = f"from eigenstep.cli import main; import sys; sys.argv = ['eigenstep', *{command!r}]; main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert f"wrote the report to {target}." in done.stderr
        page = target.read_text(encoding="utf-8")
        assert "Made by <code>eigenstep compare digits --steps 3,4" in page
        best = optimal_grid(Spectrum.from_zoo("digits"), 3, 0.002, 80.0)
        assert ", ".join(f"{sigma:.6g}" for sigma in best.sigmas) in page
