"""The page in a real browser: every control does what it says, numbers are the library's, nothing comes from elsewhere.

Needs playwright (in the extra `dev`) and a Chromium (named in CHROMIUM, or on the path: `apt-get install chromium`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from eigenstep.explore import Desk, Shelf
from eigenstep.gaussian import divergence
from eigenstep.grids import catalogue_grids
from eigenstep.optimal import optimal_grid
from eigenstep.spectrum import Spectrum

pytestmark = pytest.mark.slow

driving = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
uvicorn = pytest.importorskip("uvicorn")
serving = pytest.importorskip("eigenstep.explore.server", exc_type=ImportError)

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
if not Path(CHROMIUM).exists():
    pytest.skip("there is no Chromium; install it, or name it in CHROMIUM", allow_module_level=True)
# No background traffic of the browser's own; it runs without a sandbox where it is root, as in a container.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
DIGITS = Spectrum.from_zoo("digits")


@contextmanager
def served(desk: Desk, port: int = 0) -> Iterator[str]:
    """The page's address, while a server of it runs in a thread."""
    listening = serving.listen("127.0.0.1", port)
    server = uvicorn.Server(uvicorn.Config(serving.application(desk), log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield "http://127.0.0.1:{1}/".format(*listening.getsockname())
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


@pytest.fixture(scope="module")
def address():
    with served(Desk(Shelf(), "digits")) as at:
        yield at


@pytest.fixture(scope="module")
def browser():
    with driving.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Reader:
    """Someone who reads the page: what they see, do, and what the browser complained about."""

    def __init__(self, browser, address: str, **context: object) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address.rstrip("/"))
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.address = address
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, query: str = "") -> Reader:
        self.page.goto(self.address + query)
        return self.settle()

    def settle(self) -> Reader:
        """Wait until the optimum is on the page and nothing is under way."""
        self.page.locator("main[aria-busy=false]").wait_for()
        return self

    def number(self, kind: str) -> float:
        return float(self.page.locator(f".verdict .{kind} b").get_attribute("data-value"))

    def levels(self) -> list[float]:
        cells = self.page.locator("#levels tbody tr td:nth-child(2)")
        return [float(cell.get_attribute("data-value")) for cell in cells.all()]

    def rows(self) -> dict[str, float]:
        found = {}
        for row in self.page.locator("#hand tbody tr").all():
            found[row.locator("td").nth(0).inner_text().strip()] = float(row.locator("td").nth(1).get_attribute("data-value"))
        return found

    def choose(self, name: str, value: str) -> Reader:
        field = self.page.locator(f"#{name}")
        if not field.is_visible():
            self.page.locator("#more > summary").click()
        if field.evaluate("e => e.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)
            field.dispatch_event("change")
        return self.settle()

    def drag(self, k: int, by: float) -> Reader:
        """Drag the k-th free level (from 1) by so many pixels."""
        box = self.page.locator(".level").nth(k - 1).locator(".dot").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + by / 2, y, steps=3)
        self.page.mouse.move(x + by, y, steps=3)
        self.page.mouse.up()
        self.page.wait_for_timeout(100)
        return self.settle()

    def message(self) -> str:
        self.page.locator("#message").wait_for(state="visible")
        return self.page.locator("#message-words").inner_text()


@pytest.fixture
def reader(browser, address):
    made = Reader(browser, address)
    yield made
    assert [url for url in made.requests if not url.startswith((address, "data:", "blob:"))] == []
    # A refusal is an answer with status 400, which the console notes; it is no complaint about the page.
    assert [text for text in made.complaints if "the server responded with a status of 4" not in text] == []
    made.context.close()


def test_first_sight(reader):
    reader.open()
    best = optimal_grid(DIGITS, 6, 0.002, 80.0)
    assert reader.number("ours") == best.value
    assert reader.page.locator(".verdict .ours b").inner_text() == f"{best.value:.4g}"
    assert reader.levels() == best.sigmas.tolist()
    hand = catalogue_grids(6, 0.002, 80.0, spectrum=DIGITS)
    expected = {"optimum": best.value, **{name: divergence(DIGITS, sigmas) for name, sigmas in hand.items()}}
    assert reader.rows() == expected
    assert reader.number("hand") == min(divergence(DIGITS, sigmas) for sigmas in hand.values())
    assert not reader.complaints


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("solver", "heun", lambda: optimal_grid(DIGITS, 6, 0.002, 80.0, solver="heun")),
        ("solver", "dpmpp_2m", lambda: optimal_grid(DIGITS, 6, 0.002, 80.0, solver="dpmpp_2m")),
        ("objective", "kl", lambda: optimal_grid(DIGITS, 6, 0.002, 80.0, objective="kl")),
        ("steps", "9", lambda: optimal_grid(DIGITS, 9, 0.002, 80.0)),
        ("path", "sd15", lambda: optimal_grid(DIGITS, 6, 0.029167158151720367, 14.614641229333639)),
        ("sigma_max", "30", lambda: optimal_grid(DIGITS, 6, 0.002, 30.0)),
        ("sigma_min", "0.5", lambda: optimal_grid(DIGITS, 6, 0.5, 80.0)),
        ("start_level", "12", lambda: optimal_grid(DIGITS, 6, 0.002, 12.0)),
        ("start", "prior", lambda: optimal_grid(DIGITS, 6, 0.002, 80.0, start="prior")),
        ("noise_floor", "0.2", lambda: optimal_grid(DIGITS, 6, 0.002, 80.0, noise_floor=0.2)),
        ("final", "sigma-min", lambda: optimal_grid(DIGITS, 6, 0.002, 80.0, final=None)),
        ("spectrum", "mnist", lambda: optimal_grid(Spectrum.from_zoo("mnist"), 6, 0.002, 80.0)),
    ],
)
def test_every_control_changes_the_optimum(reader, name, value, expected):
    before = reader.open().number("ours")
    reader.choose(name, value)
    best = expected()
    assert reader.number("ours") == best.value != before
    assert reader.levels() == best.sigmas.tolist()
    # What was chosen is in the address, and the address alone brings it back.
    assert f"{name}={value}" in reader.page.url
    again = reader.page.url
    reader.page.goto("about:blank")
    reader.page.goto(again)
    reader.settle()
    assert reader.levels() == best.sigmas.tolist()


def test_eigenvalues_can_be_the_samples_own(reader):
    reader.open("?spectrum=speech")
    population = reader.number("ours")
    reader.choose("eigenvalues", "sample")
    assert reader.number("ours") == optimal_grid(Spectrum.from_zoo("speech"), 6, 0.002, 80.0).value != population


def test_the_defaults_come_back(reader):
    reader.open("?steps=9&solver=heun&sigma_max=20&compare=cosine")
    reader.page.locator("#defaults").click()
    reader.settle()
    assert reader.levels() == optimal_grid(DIGITS, 6, 0.002, 80.0).sigmas.tolist()
    assert reader.page.url == reader.address + "?spectrum=digits"


def test_a_dragged_level_changes_the_error_and_snaps_back(reader):
    reader.open("?steps=5")
    best = reader.number("ours")
    reader.drag(2, 40)
    moved = reader.levels()
    assert reader.number("moved") == divergence(DIGITS, moved) > best == reader.number("ours")
    assert moved[2] < optimal_grid(DIGITS, 5, 0.002, 80.0).sigmas[2]
    assert "× the optimum" in reader.page.locator(".verdict .moved").inner_text()
    assert "sigmas=" in reader.page.url
    assert reader.page.locator(".ghost").count() == 1  # where the moved level was
    shared = reader.page.url
    reader.page.locator("#snap").click()
    reader.settle()
    assert reader.levels() == optimal_grid(DIGITS, 5, 0.002, 80.0).sigmas.tolist()
    assert reader.page.locator(".verdict .moved").count() == 0
    assert "sigmas=" not in reader.page.url
    reader.page.goto("about:blank")
    reader.page.goto(shared)
    reader.settle()
    assert reader.levels() == moved


def test_a_level_stops_at_its_neighbours(reader):
    reader.open("?steps=5").drag(2, 2000)
    levels = reader.levels()
    assert np.all(np.diff(levels) < 0)
    # 1 % above the next one, written with six digits.
    assert levels[2] == pytest.approx(1.01 * levels[3], rel=1e-5)
    assert "goes no further" in reader.page.locator("#line-note").inner_text()


def test_levels_move_by_keyboard(reader):
    reader.open("?steps=4")
    best = reader.levels()
    level = reader.page.locator(".level").nth(1)
    level.focus()
    assert level.get_attribute("role") == "slider"
    reader.page.keyboard.press("ArrowRight")
    reader.settle()
    # Six digits are kept of what a hand has set.
    assert reader.levels()[2] == pytest.approx(best[2] / 1.01, rel=1e-5)
    reader.page.keyboard.press("Shift+ArrowLeft")
    reader.settle()
    assert reader.levels()[2] == pytest.approx(best[2] / 1.01 * 1.1, rel=1e-5)
    assert reader.page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "Level 3 of 5"
    assert f"{reader.levels()[2]:.4g}"[:4] in level.get_attribute("aria-valuetext")
    reader.page.keyboard.press("Escape")
    reader.settle()
    assert reader.levels() == best
    reader.page.keyboard.press("Tab")
    assert reader.page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "Level 4 of 5"


def test_a_key_held_down_keeps_the_figures_moving(reader):
    reader.open("?steps=4")
    reader.page.locator(".level").nth(0).focus()
    for _ in range(30):
        reader.page.keyboard.press("ArrowRight")
    reader.settle()
    assert reader.levels()[1] == pytest.approx(optimal_grid(DIGITS, 4, 0.002, 80.0).sigmas[1] / 1.01**30, rel=1e-4)
    assert reader.number("moved") == divergence(DIGITS, reader.levels())


def test_grids_are_compared_by_ticking(reader):
    reader.open()
    names = reader.page.locator("#grid-figure text.name")
    assert {"karras", "exponential", "ays_sd15"} <= set(names.all_text_contents())
    reader.page.locator("#hand input[name=karras]").uncheck()
    reader.page.locator("#hand input[name=cosine]").check()
    reader.settle()
    shown = set(names.all_text_contents())
    assert "cosine" in shown
    assert "karras" not in shown
    assert "compare=exponential,ays_sd15,cosine" in reader.page.url
    assert "cosine" in reader.page.locator("#retained-figure").text_content()
    for name in ("golden", "beta", "laplace"):
        reader.page.locator(f"#hand input[name={name}]").check()
        reader.settle()
    reader.page.locator("#hand input[name=karras]").click()
    assert "untick one before you tick karras" in reader.message()
    assert not reader.page.locator("#hand input[name=karras]").is_checked()


def test_eigenvalues_have_an_interval_where_samples_are_counted(reader, tmp_path):
    reader.open()
    reader.page.locator("#eigen-figure path.band").wait_for()
    assert "95 % interval" in reader.page.locator("#eigen-sub").inner_text()
    Spectrum.from_eigenvalues([4.0, 1.0]).save(tmp_path / "theory.json")
    reader.page.locator("#own > summary").click()
    reader.page.locator("#file").set_input_files(tmp_path / "theory.json")
    reader.page.locator("#data-line", has_text="theory").wait_for()
    reader.settle()
    reader.page.locator("#eigen-figure path.band").wait_for(state="detached")
    assert "95 % interval" not in reader.page.locator("#eigen-sub").inner_text()


def test_error_against_steps_fills_up(reader):
    reader.open("?steps=4")
    reader.page.locator("#steps-figure[data-columns='18']").wait_for()
    assert reader.page.locator("#steps-figure path.ours").count() == 1


@pytest.mark.parametrize("form", ["diffusers", "comfyui", "k-diffusion", "webui", "sd.cpp", "text", "json", "python"])
def test_every_format_is_copied(reader, form):
    reader.open("?steps=4&path=sd15")
    reader.page.locator(f"#formats input[value='{form}']").check()
    reader.page.locator(f"#snippet[data-format='{form}']").wait_for()
    reader.page.locator("#copy").click()
    copied = reader.page.evaluate("() => navigator.clipboard.readText()")
    desk = Desk(Shelf(), "digits")
    assert copied == desk.copied(desk.state({"steps": "4", "path": "sd15"}), form)


def test_the_copied_diffusers_snippet_runs(reader):
    pytest.importorskip("diffusers")
    reader.open("?steps=4&path=flow")
    reader.drag(1, -20)
    reader.settle()
    reader.page.locator("#snippet[data-format='diffusers']").wait_for()
    reader.page.locator("#copy").click()
    names: dict = {}
    exec(reader.page.evaluate("() => navigator.clipboard.readText()"), names)
    walked = np.asarray(names["scheduler"].sigmas, dtype=np.float64)
    # The scheduler computes in float32, of which 1 - s/(1+s) leaves four digits at s = 999.
    np.testing.assert_allclose(walked / (1 - walked), reader.levels(), rtol=1e-4)


def test_levels_after_a_warm_start_are_not_copied_unsaid(reader):
    hint = reader.open("?steps=4").page.locator("#format-hint")
    assert "warm start" not in hint.inner_text()
    reader.choose("start_level", "8")
    reader.page.locator("#format-hint", has_text="These levels begin at σ = 8, after a warm start").wait_for()
    reader.choose("start_level", "")
    reader.page.locator("#format-hint", has_text="A scheduler of diffusers").wait_for()


def test_the_address_can_be_copied(reader):
    reader.open("?steps=4&solver=heun")
    reader.page.locator("#share").click()
    assert reader.page.evaluate("() => navigator.clipboard.readText()") == reader.page.url


def test_a_spectrum_file_is_opened(reader, tmp_path):
    made = Spectrum.from_eigenvalues([4.0, 1.0, 0.25])
    made.save(tmp_path / "three.json")
    reader.open()
    reader.page.locator("#own > summary").click()
    reader.page.locator("#file").set_input_files(tmp_path / "three.json")
    reader.page.locator("#data-line", has_text="three").wait_for()
    reader.settle()
    assert reader.number("ours") == optimal_grid(made, 6, 0.002, 80.0).value


def test_a_spectrum_file_is_dropped(reader, tmp_path):
    made = Spectrum.from_eigenvalues([9.0, 1.0])
    made.save(tmp_path / "two.json")
    reader.open()
    reader.page.evaluate(
        """(text) => {
            const dragged = new DataTransfer();
            dragged.items.add(new File([text], "two.json"));
            for (const type of ["dragenter", "dragover", "drop"]) {
                document.body.dispatchEvent(new DragEvent(type, { dataTransfer: dragged, bubbles: true, cancelable: true }));
            }
        }""",
        (tmp_path / "two.json").read_text(),
    )
    reader.page.locator("#data-line", has_text="two: 2 dimensions").wait_for()
    reader.settle()
    assert reader.number("ours") == optimal_grid(made, 6, 0.002, 80.0).value


def test_a_file_that_is_no_spectrum_leaves_the_page_usable(reader, tmp_path):
    (tmp_path / "list.json").write_text("[1, 2, 3]")
    reader.open()
    reader.page.locator("#own > summary").click()
    reader.page.locator("#file").set_input_files(tmp_path / "list.json")
    assert "list.json" in reader.message()
    assert reader.choose("steps", "3").levels() == optimal_grid(DIGITS, 3, 0.002, 80.0).sigmas.tolist()
    assert not reader.page.locator("#message").is_visible()


def pictures(folder: Path, side: int = 6) -> Path:
    images = pytest.importorskip("PIL.Image")
    folder.mkdir()
    rng = np.random.default_rng(1)
    for k in range(12):
        images.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(folder / f"{k:02}.png")
    return folder


def test_a_folder_of_images_is_chosen(reader, tmp_path):
    folder = pictures(tmp_path / "pictures")
    reader.open()
    reader.page.locator("#own > summary").click()
    reader.page.locator("#images").set_input_files(folder)
    reader.page.locator("#data-line", has_text="pictures: 1 × 6 × 6, 36 dimensions").wait_for()
    assert not reader.page.locator("#progress").is_visible()


def test_a_folder_on_this_machine_is_measured(reader, tmp_path):
    folder = pictures(tmp_path / "mine")
    reader.open()
    reader.page.locator("#own > summary").click()
    reader.page.locator("#folder").fill(str(folder))
    reader.page.locator("#size").fill("3")
    reader.page.locator("#measure-now").click()
    reader.page.locator("#data-line", has_text="mine: 1 × 3 × 3, 9 dimensions").wait_for()
    assert "spectrum=mine" in reader.page.url


def test_a_folder_without_images_is_a_sentence(reader, tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    reader.open()
    reader.page.locator("#own > summary").click()
    reader.page.locator("#folder").fill(str(tmp_path))
    reader.page.locator("#measure-now").click()
    assert str(tmp_path) in reader.message()


@pytest.mark.parametrize(
    ("name", "value"), [("sigma_max", "wide"), ("sigma_min", "90"), ("noise_floor", "-1"), ("start_level", "1e9")]
)
def test_a_wrong_field_is_a_sentence(reader, name, value):
    reader.open()
    before = reader.levels()
    reader.page.locator("#more > summary").click()
    reader.page.locator(f"#{name}").fill(value)
    reader.page.locator(f"#{name}").press("Tab")
    assert f"{name}" in reader.message()
    assert reader.levels() == before
    reader.choose(name, "")
    assert not reader.page.locator("#message").is_visible()


def test_an_address_of_another_server_is_a_sentence(reader):
    reader.page.goto(reader.address + "?spectrum=holidays&steps=4")
    assert "holidays" in reader.message()
    assert "is not known to this server" in reader.message()
    assert reader.choose("spectrum", "digits").levels() == optimal_grid(DIGITS, 4, 0.002, 80.0).sigmas.tolist()


def test_a_server_that_is_stopped_and_started_again(browser):
    with served(Desk(Shelf(), "digits")) as at:
        reader = Reader(browser, at).open("?steps=4")
        port = int(at.rsplit(":", 1)[1].strip("/"))
    reader.page.locator("#solver").select_option("heun")
    assert "The server does not answer" in reader.message()
    with served(Desk(Shelf(), "digits"), port):
        reader.page.locator("#message").wait_for(state="hidden")
        reader.settle()
        assert reader.levels() == optimal_grid(DIGITS, 4, 0.002, 80.0, solver="heun").sigmas.tolist()
    reader.context.close()


def small_network(judges: int = 4):
    """The bundled network, with few items and noises: a minute's work in seconds."""
    pytest.importorskip("diffusers")
    from eigenstep.cli.demo import bundled
    from eigenstep.explore.network import Network
    from eigenstep.models import load_denoiser

    spectrum = Spectrum.load(bundled() / "spectrum.npz")
    # Items of the Gaussian with MNIST's covariance: the images themselves are not in the repository.
    roots = np.sqrt(spectrum.eigenvalues[: len(spectrum.basis)])
    draws = np.random.default_rng(0).standard_normal((24, len(roots)))
    items = spectrum.mean.reshape(1, 1, 32, 32) + ((draws * roots) @ spectrum.basis).reshape(-1, 1, 32, 32)
    return Network(load_denoiser(bundled()), spectrum, name="mnist", data_name="digits", items=items, judges=judges)


def desk_beside(network) -> Desk:
    shelf = Shelf()
    return Desk(shelf, shelf.put("mnist-32", network.spectrum), network)


@pytest.fixture(scope="module")
def beside():
    """A desk with a network that was measured, and the address of its page with samples of 3 steps."""
    network = small_network()
    desk = desk_beside(network)
    ended(desk, desk.measure_network())
    ended(desk, desk.compare_network(desk.state({"steps": "3"})))
    with served(desk) as at:
        yield desk, at


def ended(desk: Desk, job: str) -> None:
    while not desk.shelf.jobs.job(job).ended:
        time.sleep(0.1)
    assert desk.shelf.jobs.job(job).error == ""


def test_a_network_is_measured_and_sampled_on_the_page(browser):
    network = small_network()
    desk = desk_beside(network)
    with served(desk) as at:
        reader = Reader(browser, at, viewport={"width": 1600, "height": 1000}).open("?steps=3")
        page = reader.page
        page.locator("#network-title", has_text="The network: mnist").wait_for()
        assert f"{network.calls:,} network calls" in page.locator("#network-note").inner_text()
        assert not page.locator("#gauge").is_visible()
        page.locator("#network-measure").click()
        page.locator("#network-progress").wait_for()
        # The page is not blocked meanwhile: another number of steps is planned and drawn.
        best = optimal_grid(network.spectrum, 4, *desk.options()["range"])
        assert reader.choose("steps", "4").levels() == best.sigmas.tolist()
        assert page.locator("#network-progress").is_visible()
        page.locator("#network-stop").click()
        page.locator("#network-progress").wait_for(state="hidden")
        page.locator("#network-note", has_text="Stopped; ").wait_for()
        page.locator("#network-measure").click()
        page.locator("#network-compare").wait_for(timeout=120_000)
        assert page.locator("#gauge-figure path.curve").count() == 1
        assert page.locator("#gauge-figure path.band").count() == 1
        reader.choose("steps", "3")
        page.locator("#network-compare:not([disabled])").click()
        page.locator("#samples").wait_for(timeout=120_000)
        found = desk.about_network(desk.state({"steps": "3"}))["compared"]
        for row in found["rows"]:
            strip = page.locator(f".strip[data-role={row['role']}]")
            assert float(strip.locator(".rmse").get_attribute("data-value")) == row["rmse"]
            assert [image.get_attribute("src") for image in strip.locator("img").all()] == row["images"]
        assert found["reason"] in page.locator("#samples-reason").inner_text()
        # Another grid has not been sampled: the sheet says so; the address brings the first one back.
        first = page.url
        reader.choose("steps", "5")
        page.locator("#sheet.stale").wait_for()
        page.goto("about:blank")
        page.goto(first)
        reader.settle()
        page.locator("#sheet:not(.stale) .strip").first.wait_for()
        assert reader.complaints == []
        reader.context.close()


def test_the_networks_plan_is_taken_to_the_grid(browser, beside):
    desk, at = beside
    compared = desk.about_network(desk.state({"steps": "3"}))["compared"]
    planned = [row for row in compared["rows"] if row["role"] == "planned"]
    reader = Reader(browser, at).open("?steps=3")
    reader.page.locator(".strip").first.wait_for()
    assert reader.page.locator("#take-plan").count() == len(planned)
    if planned:
        reader.page.locator("#take-plan").click()
        reader.page.wait_for_timeout(200)
        reader.settle()
        assert reader.levels() == planned[0]["sigmas"]
    reader.context.close()


class Failing:
    """A network that fails once it is measured."""

    item_shape, sigma_min, sigma_max, path = (1, 3, 4), 0.05, 40.0, None
    broken = False

    def __call__(self, x, sigma):
        if self.broken:
            raise RuntimeError("no memory")
        return x / (1 + sigma**2)


def test_a_network_that_fails_leaves_the_page_usable(browser):
    pytest.importorskip("torch")
    from eigenstep.explore.network import Network

    failing = Failing()
    desk = desk_beside(Network(failing, Spectrum.from_eigenvalues(np.ones(12)), name="filter", data_name="noise"))
    failing.broken = True
    with served(desk) as at:
        reader = Reader(browser, at).open("?steps=3")
        reader.page.locator("#network-measure").click()
        assert "The network failed at σ = 40 (RuntimeError: no memory)." in reader.message()
        assert reader.choose("steps", "4").levels() == optimal_grid(desk.network.spectrum, 4, 0.05, 40.0).sigmas.tolist()
        assert reader.page.locator("#network-measure").is_enabled()
        # A grid that the network cannot be sampled on is a sentence as well.
        failing.broken = False
        reader.page.locator("#network-measure").click()
        reader.page.locator("#network-compare:not([disabled])").wait_for()
        reader.choose("path", "edm")
        reader.page.locator("#network-compare:not([disabled])").click()
        assert "must be at most 40, where the network's range ends, got 80" in reader.message()
        reader.context.close()


def test_a_server_that_is_killed_while_the_network_is_measured(browser):
    network = small_network()
    desk = desk_beside(network)
    with served(desk) as at:
        port = int(at.rsplit(":", 1)[1].strip("/"))
        reader = Reader(browser, at).open("?steps=3")
        reader.page.locator("#network-measure").click()
        reader.page.locator("#network-progress").wait_for()
        job = desk.shelf.jobs.job(desk._under_way)
    assert "The server does not answer" in reader.message()
    job.cancelled = True
    while not job.ended:
        time.sleep(0.05)
    with served(desk_beside(network), port):
        reader.page.locator("#message").wait_for(state="hidden")
        reader.settle()
        assert reader.page.locator("#network-measure").is_enabled()
        assert not reader.page.locator("#network-progress").is_visible()
        assert len(reader.choose("steps", "4").levels()) == 5
    reader.context.close()


GOLDENS = Path(__file__).with_name("goldens")
PANELS = """() => [...document.querySelectorAll(".controls, .card")].map((panel) => {
    const box = panel.getBoundingClientRect();
    const name = panel.getAttribute("aria-labelledby") || panel.id;
    return [name, [box.left + scrollX, box.top + scrollY, box.width, box.height]];
})"""


@pytest.mark.parametrize("width", [390, 1024, 1600])
def test_it_looks_as_it_did(browser, beside, tmp_path, width):
    """Each panel beside the golden picture of it, as coarse as fonts make it.

    Another machine has other fonts: lines break elsewhere, panels grow or shrink by a few lines, strokes fall on other pixels.
    So panels are compared one by one, stretched to the golden's size, in two ways that hardly see strokes: the means of
    blocks of 16 × 16 pixels, and the share of coloured pixels, of which figures have many and text has few.
    Measured with DejaVu Serif in place of DejaVu Sans: heights differ by up to 5 %, blocks by up to 3.1 of 255 in the mean,
    the share of coloured pixels by up to 26 % (most of it the golden's palette); twice that is allowed of the first two.
    Where one figure's curves are missing, its panel loses all coloured pixels; where a panel is missing, so is its name.
    `EIGENSTEP_GOLDENS=write` writes the goldens anew.
    """
    images = pytest.importorskip("PIL.Image")
    _, at = beside
    reader = Reader(browser, at, viewport={"width": width, "height": 844}, reduced_motion="reduce", color_scheme="light")
    reader.open("?steps=3&solver=ddim")
    reader.page.locator("#steps-figure[data-columns='18']").wait_for(timeout=60_000)
    reader.page.locator("#sheet:not(.stale) .strip").first.wait_for()
    reader.page.locator("#eigen-figure path.band").wait_for()
    reader.page.wait_for_timeout(300)
    reader.page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
    boxes = dict(reader.page.evaluate(PANELS))
    reader.context.close()
    seen = images.open(tmp_path / f"{width}.png").convert("RGB")
    golden = GOLDENS / f"explore-{width}.png"
    if os.environ.get("EIGENSTEP_GOLDENS") == "write":
        GOLDENS.mkdir(exist_ok=True)
        half = seen.resize((seen.width // 2, seen.height // 2), images.Resampling.BOX)
        half.quantize(256, dither=images.Dither.NONE).save(golden, optimize=True)
        golden.with_suffix(".json").write_text(json.dumps(boxes, indent=1) + "\n", encoding="utf-8")
        pytest.skip("the golden was written; look at it")
    assert golden.stat().st_size < 150_000
    kept = json.loads(golden.with_suffix(".json").read_text(encoding="utf-8"))
    assert list(boxes) == list(kept)
    before, now = images.open(golden).convert("RGB"), seen.resize((seen.width // 2, seen.height // 2), images.Resampling.BOX)

    def panel(picture, box):
        left, top, wide, high = (round(value / 2) for value in box)
        return picture.crop((left, top, left + wide, top + high))

    def blocks(picture, box):
        coarse = picture.convert("L").resize((round(box[2] / 16), round(box[3] / 16)), images.Resampling.BOX)
        return np.asarray(coarse, dtype=float)

    def coloured(picture):
        pixels = np.asarray(picture, dtype=float)
        return float(np.mean(np.ptp(pixels, axis=-1) > 48))

    found = {}
    for name, box in kept.items():
        assert boxes[name][2] == pytest.approx(box[2], abs=2), name
        old, new = panel(before, box), panel(now, boxes[name])
        apart = float(np.abs(blocks(old, box) - blocks(new, box)).mean())
        found[name] = (boxes[name][3] / box[3] - 1, apart, coloured(new) - coloured(old), coloured(old))
    wrong = {
        name: (taller, apart, more, share)
        for name, (taller, apart, more, share) in found.items()
        if abs(taller) > 0.12 or apart > 6.5 or abs(more) > 0.35 * share + 0.002
    }
    assert wrong == {}


@pytest.mark.parametrize("width", [390, 1024, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_is_accessible(browser, beside, tmp_path, axe, width, scheme):
    reader = Reader(browser, beside[1], viewport={"width": width, "height": 844}, color_scheme=scheme)
    reader.open("?steps=3")
    reader.page.locator(".strip").first.wait_for()
    for summary in reader.page.locator("summary:visible").all():
        if not summary.evaluate("e => e.parentElement.open"):
            summary.click()
    assert reader.page.evaluate("() => document.documentElement.scrollWidth") <= width
    reader.page.locator("#steps-figure[data-columns='18']").wait_for()
    outside = reader.page.evaluate(
        """() => [...document.querySelectorAll("svg text")].filter((text) => {
            const [box, card] = [text.getBoundingClientRect(), text.closest(".card").getBoundingClientRect()];
            return box.left < card.left || box.right > card.right;
        }).map((text) => text.textContent)"""
    )
    assert outside == []
    reader.page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
    reader.page.evaluate(axe)
    found = reader.page.evaluate(
        "async () => (await axe.run()).violations.map((v) => [v.impact, v.id, v.nodes.map((n) => n.html)])"
    )
    serious = [violation for violation in found if violation[0] in ("serious", "critical")]
    assert serious == [], json.dumps(serious, indent=1)
    reader.context.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The source of axe-core, fetched from npm for this run only."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm, which brings axe-core, is not installed")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run([npm, "install", "axe-core@4", "--no-audit", "--no-fund"], cwd=folder, capture_output=True)
    if done.returncode:
        pytest.skip("npm could not fetch axe-core")
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


def test_a_finger_drags_on_a_phone(browser, address):
    reader = Reader(browser, address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True).open("?steps=4")
    best = reader.levels()
    dot = reader.page.locator(".level").nth(0).locator(".dot")
    dot.scroll_into_view_if_needed()
    box = dot.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = reader.context.new_cdp_session(reader.page)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for step in range(1, 6):
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x + 3 * step, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    reader.page.wait_for_timeout(200)
    reader.settle()
    assert reader.levels()[1] < best[1]
    assert reader.number("moved") == divergence(DIGITS, reader.levels())
    reader.context.close()
