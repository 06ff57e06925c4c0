"""The page's numbers are the library's, its refusals one sentence, its server keeps to itself."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from eigenstep.estimation import Population, choose_spectrum
from eigenstep.explore import Desk, Job, Shelf, State
from eigenstep.gaussian import OBJECTIVES, STEPWISE, divergence, retained_variance
from eigenstep.grids import catalogue_grids
from eigenstep.optimal import optimal_grid, rank
from eigenstep.paths import PATHS
from eigenstep.spectrum import Spectrum
from eigenstep.steps import local_shares, swept_angles

uvicorn = pytest.importorskip("uvicorn")
serving = pytest.importorskip("eigenstep.explore.server", exc_type=ImportError)

PAGE = Path(serving.__file__).with_name("page")
PATIENT = 60.0  # seconds: no first guesses where the optimum is asked for


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk(Shelf(), "digits")


def view(desk: Desk, **query: object) -> dict:
    return desk.view(desk.state({key: str(value) for key, value in query.items()}), patience=PATIENT)


class TestState:
    def test_defaults(self):
        state = State.from_query({}, spectrum="digits")
        assert (state.spectrum, state.steps, state.solver, state.objective) == ("digits", 6, "ddim", "w2")
        assert (state.sigma_min, state.sigma_max, state.start_level, state.ends) == (0.002, 80.0, 80.0, 0.0)
        assert state.sigmas is None

    def test_the_path_sets_the_range_and_either_end_may_be_given(self):
        path = PATHS["sd15"]()
        state = State.from_query({"path": "sd15", "sigma_max": "10", "start_level": " 4 "}, spectrum="digits")
        assert (state.sigma_min, state.sigma_max, state.start_level) == (path.sigma_min, 10.0, 4.0)

    def test_moved_levels(self):
        state = State.from_query({"steps": "3", "sigmas": "80,5,0.5,0"}, spectrum="digits")
        assert state.sigmas == (80.0, 5.0, 0.5, 0.0)

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ({"sigma_max": "wide"}, "`sigma_max` must be a number such as 0.5, got 'wide'"),
            ({"sigma_max": "0.001"}, "`sigma_min` must be below `sigma_max`|`sigma_max` must exceed `sigma_min`"),
            ({"start_level": "90"}, "`start_level` must be at most 80"),
            ({"start_level": "0.001"}, "`start_level` must exceed `sigma_min`, got 0.001 and 0.002"),
            ({"steps": "many"}, "`steps` must be a whole number from 1 to 40, got 'many'"),
            ({"steps": "41"}, "`steps` must be"),
            ({"solver": "dimm"}, "`solver` must be one of .* Did you mean 'ddim'"),
            ({"objective": "l2"}, "`objective` must be one of"),
            ({"path": "elsewhere"}, "`path` must be one of"),
            ({"compare": "karras,kerras"}, "`compare` must be one of"),
            ({"compare": "karras,karras_rho3,karras_rho5,karras_rho9,cosine,beta,golden"}, "`compare` must name at most 6"),
            ({"objective": "local", "start": "prior"}, "`start` must be 'marginal'"),
            ({"final": "sigma-min", "sigma_min": "0"}, "`final` sigma-min needs a `sigma_min` above 0"),
            ({"sigmas": "80,1,0"}, "`sigmas` must hold 7 levels for 6 steps, got 3"),
            ({"steps": "2", "sigmas": "80,90,0"}, "`sigmas` must be strictly descending"),
            ({"steps": "2", "sigmas": "70,9,0"}, "`sigmas` must run from 80 to 0, got 70 and 0"),
            ({"steps": "2", "sigmas": "80,0.001,0"}, "`sigmas` must not call the model below `sigma_min` 0.002, got 0.001"),
            ({"noise_floor": "-1"}, "`noise_floor` must be at least 0"),
        ],
    )
    def test_refusals(self, query, message):
        with pytest.raises((ValueError, TypeError), match=message):
            State.from_query(query, spectrum="digits")


class TestNumbers:
    @pytest.mark.parametrize("objective", OBJECTIVES)
    @pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m"])
    def test_optimum_and_hand_grids_are_the_librarys(self, desk, solver, objective):
        answer = view(desk, spectrum="digits", steps=5, solver=solver, objective=objective, noise_floor=0.01)
        spectrum = Spectrum.from_zoo("digits")
        measure = {"solver": solver, "objective": objective, "noise_floor": 0.01}
        best = optimal_grid(spectrum, 5, 0.002, 80.0, **measure)
        # The same calls: the same bits.
        assert answer["ours"]["sigmas"] == answer["optimum"]["sigmas"] == best.sigmas.tolist()
        assert answer["ours"]["value"] == answer["optimum"]["value"] == best.value
        assert answer["ours"]["origin"] == "optimum"
        rows = rank(spectrum, catalogue_grids(5, 0.002, 80.0, spectrum=spectrum), **measure)
        assert [row["name"] for row in answer["hand"]] == [row.name for row in rows]
        # Errors of single steps are summed over the nodes of the binned spectrum, which merges equal eigenvalues.
        tolerance = 1e-12 if objective in STEPWISE else 0
        np.testing.assert_allclose([row["value"] for row in answer["hand"]], [row.value for row in rows], rtol=tolerance)
        assert answer["hand"][0]["ratio"] == answer["hand"][0]["value"] / best.value

    def test_figures_are_the_librarys(self, desk):
        answer = view(desk, spectrum="digits", steps=4, solver="heun", compare="karras")
        spectrum = Spectrum.from_zoo("digits")
        sigmas = answer["ours"]["sigmas"]
        karras = catalogue_grids(4, 0.002, 80.0, spectrum=spectrum)["karras"]
        keep = spectrum.eigenvalues > 0
        kept = answer["retained"]
        assert kept["eigenvalues"] == spectrum.eigenvalues[keep].tolist()
        assert kept["ratios"]["ours"] == retained_variance(spectrum, sigmas, solver="heun")[keep].tolist()
        assert kept["ratios"]["karras"] == retained_variance(spectrum, karras, solver="heun")[keep].tolist()
        assert set(kept["ratios"]) == {"ours", "karras"}
        each = answer["each_step"]
        # Summed over the nodes of the binned spectrum, which merges equal eigenvalues.
        np.testing.assert_allclose(each["errors"], local_shares(spectrum, sigmas, solver="heun"), rtol=1e-12)
        angles = np.degrees(swept_angles(spectrum, sigmas))
        for direction in each["directions"]:
            (column,) = np.flatnonzero(spectrum.eigenvalues == direction["eigenvalue"])
            assert direction["degrees"] == angles[:, column].tolist()
        ranks = np.cumsum(spectrum.multiplicities)[keep]
        assert answer["eigenvalues"] == {"measured": np.column_stack([ranks, spectrum.eigenvalues[keep]]).tolist()}

    def test_moved_levels_are_judged_against_the_optimum(self, desk):
        answer = view(desk, steps=3, sigmas="80,5,0.5,0")
        spectrum = Spectrum.from_zoo("digits")
        value, best = divergence(spectrum, [80.0, 5.0, 0.5, 0.0]), optimal_grid(spectrum, 3, 0.002, 80.0).value
        assert answer["ours"]["origin"] == "moved"
        assert answer["ours"]["value"] == value > best == answer["optimum"]["value"]
        assert answer["ours"]["ratio"] == value / best

    def test_a_start_level_is_ours_alone(self, desk):
        answer = view(desk, steps=3, start_level=10)
        assert answer["ours"]["sigmas"] == optimal_grid(Spectrum.from_zoo("digits"), 3, 0.002, 10.0).sigmas.tolist()
        assert {row["sigmas"][0] for row in answer["hand"]} == {80.0}

    def test_a_path_brings_timesteps(self, desk):
        answer = view(desk, steps=3, path="sd15")
        sigmas = np.array(answer["ours"]["sigmas"])
        np.testing.assert_array_equal(answer["ours"]["timesteps"], PATHS["sd15"]().sigma_to_t(sigmas[:-1]))
        # -2 ln sigma by another library's logarithm: one rounding each.
        np.testing.assert_allclose(answer["ours"]["log_snr"][:-1], -2 * np.log(sigmas[:-1]), rtol=1e-14)
        assert answer["ours"]["log_snr"][-1] is None

    def test_few_samples_are_planned_on_the_population(self, desk):
        answer = view(desk, spectrum="speech", steps=3)
        chosen = choose_spectrum(Spectrum.from_zoo("speech"), 0.002, 80.0)
        assert chosen.eigenvalues == "population"
        assert answer["optimum"]["value"] == optimal_grid(chosen.spectrum, 3, 0.002, 80.0).value
        assert set(answer["eigenvalues"]) == {"measured", "population"}
        assert answer["spectrum"]["reason"].startswith(chosen.reason)

    def test_the_interval_is_the_librarys(self, desk):
        found = desk.interval(desk.state({}))["points"]
        population = Population.from_spectrum(Spectrum.from_zoo("digits"))
        ranks, low, high = np.transpose(found)
        middle, expected_low, expected_high = population.at_rank(ranks)
        assert (low.tolist(), high.tolist()) == (expected_low.tolist(), expected_high.tolist())
        assert np.all(middle >= population.resolution**2)
        assert ranks[0] == 1

    def test_without_samples_there_is_no_interval(self, desk):
        key = desk.shelf.put("theory", Spectrum.from_eigenvalues([4.0, 1.0]))
        found = desk.interval(desk.state({"spectrum": key}))
        assert found == {"points": None, "reason": "The number of samples is not known, so there is no interval."}
        few = desk.shelf.put("two", Spectrum.from_eigenvalues([4.0, 1.0], n_samples=2))
        assert desk.interval(desk.state({"spectrum": few}))["points"] is None

    def test_columns_of_error_against_steps(self, desk):
        found = desk.steps(desk.state({"solver": "heun"}), 4)
        spectrum = Spectrum.from_zoo("digits")
        assert found["optimum"] == optimal_grid(spectrum, 4, 0.002, 80.0, solver="heun").value
        karras = catalogue_grids(4, 0.002, 80.0)["karras"]
        assert found["hand"]["karras"] == divergence(spectrum, karras, solver="heun")

    def test_a_slow_search_is_not_waited_for(self):
        fresh = Desk(Shelf(), "digits")
        state = fresh.state({"solver": "dpmpp_2m", "steps": "10"})
        first = fresh.view(state, patience=0.0)
        assert first["optimum"] is None
        assert first["ours"]["origin"] == "guess"
        assert first["ours"]["value"] == first["hand"][0]["value"]
        assert first["ours"]["ratio"] is None
        later = fresh.view(state, patience=PATIENT)
        assert later["optimum"]["value"] < first["ours"]["value"]

    def test_a_search_that_waits_gives_way_to_a_later_one(self):
        fresh = Desk(Shelf(), "digits")
        for n in range(8, 16):
            fresh.view(fresh.state({"solver": "dpmpp_2m", "steps": str(n)}), patience=0.0)
        cancelled = [future for future in fresh._known.values() if future.cancelled()]
        assert cancelled
        # What was given up is searched after all when it is asked for again.
        assert view(fresh, solver="dpmpp_2m", steps=12)["optimum"]["converged"]

    def test_long_curves_are_thinned_but_not_changed(self, desk):
        lam = np.geomspace(10.0, 1e-6, 3072)
        key = desk.shelf.put("long", Spectrum.from_eigenvalues(lam))
        answer = view(desk, spectrum=key, steps=3)
        points = answer["eigenvalues"]["measured"]
        assert 80 < len(points) <= 160
        assert points[0] == [1.0, lam[0]]
        assert points[-1] == [3072.0, lam[-1]]
        assert {value for _, value in points} <= set(lam.tolist())
        sigmas, kept = answer["ours"]["sigmas"], answer["retained"]
        exact = dict(zip(lam.tolist(), retained_variance(Spectrum.from_eigenvalues(lam), sigmas), strict=True))
        assert kept["ratios"]["ours"] == [exact[value] for value in kept["eigenvalues"]]
        shares = local_shares(Spectrum.from_eigenvalues(lam), sigmas)
        # Summed over 192 Gauss nodes in place of 3,072 eigenvalues.
        np.testing.assert_allclose(answer["each_step"]["errors"], shares, rtol=1e-8)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")  # diffusers on NumPy 2
class TestCopies:
    @pytest.mark.parametrize("query", [{}, {"solver": "dpmpp_2m", "objective": "kl", "noise_floor": "0.01", "steps": "4"},
                                       {"sigmas": "80,5,0.5,0", "steps": "3"}, {"spectrum": "speech", "final": "sigma-min"}])
    def test_python_gives_the_grid_and_the_error(self, desk, query):
        names: dict = {}
        exec(desk.copied(desk.state(query), "python"), names)
        answer = view(desk, **query)
        assert np.asarray(names["sigmas"]).tolist() == answer["ours"]["sigmas"]
        assert names["value"] == answer["ours"]["value"]

    def test_json(self, desk):
        record = json.loads(desk.copied(desk.state({"path": "ddpm", "steps": "4"}), "json"))
        answer = view(desk, path="ddpm", steps=4)
        assert record["sigmas"] == answer["ours"]["sigmas"]
        assert record["timesteps"] == answer["ours"]["timesteps"]
        assert record["value"] == answer["ours"]["value"]
        assert record["moved_by_hand"] is False

    @pytest.mark.parametrize("path", ["", "sd15", "ddpm", "flow", "flow-shift3"])
    def test_diffusers_runs(self, desk, path):
        pytest.importorskip("diffusers")
        names: dict = {}
        exec(desk.copied(desk.state({"path": path, "steps": "5"}), "diffusers"), names)
        walked = np.asarray(names["scheduler"].sigmas, dtype=np.float64)
        if path.startswith("flow"):
            walked = walked / (1 - walked)
        # These schedulers compute in float32, of which 1 - s/(1+s) leaves four digits at s = 3000.
        np.testing.assert_allclose(walked, view(desk, path=path, steps=5)["ours"]["sigmas"], rtol=3e-4)

    def test_diffusers_with_another_solver_goes_through_the_adapter(self, desk):
        diffusers = pytest.importorskip("diffusers")
        from eigenstep.adapters.diffusers import read_back

        class Pipe:
            scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)

        names = {"pipe": Pipe()}
        query = {"path": "sd15", "steps": "5", "solver": "dpmpp_2m"}
        exec(desk.copied(desk.state(query), "diffusers"), names)
        # Kept in float64.
        np.testing.assert_allclose(read_back(names["pipe"].scheduler), view(desk, **query)["ours"]["sigmas"], rtol=1e-9)

    @pytest.mark.parametrize("form", ["comfyui", "k-diffusion", "webui", "sd.cpp", "text"])
    def test_other_hosts_get_every_level(self, desk, form):
        text = desk.copied(desk.state({"steps": "4"}), form)
        numbers = [float(word) for word in re.findall(r"\d+\.\d+", text)]
        # Nine digits, as many as float32 needs.
        np.testing.assert_allclose(numbers, view(desk, steps=4)["ours"]["sigmas"], rtol=1e-8)

    def test_unknown(self, desk):
        with pytest.raises(ValueError, match="`format` must be one of"):
            desk.copied(desk.state({}), "yaml")


@pytest.fixture(scope="module")
def address(desk):
    """A server of the page in a thread of its own."""
    listening = serving.listen("127.0.0.1", 0)
    ready = threading.Event()
    config = uvicorn.Config(serving.application(desk), log_level="error")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started and not ready.wait(0.02):
        pass
    yield listening.getsockname()[:2]
    server.should_exit = True
    thread.join(10)


def ask(address, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str):
    connection = http.client.HTTPConnection(*address, timeout=120)
    try:
        connection.request(method, path, body=body, headers={key.replace("_", "-"): value for key, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        kind = response.headers.get("content-type", "")
        return response.status, json.loads(content) if "json" in kind else content.decode(), response.headers
    finally:
        connection.close()


def measured(address, job: str) -> dict:
    for _ in range(300):
        _, state, _ = ask(address, f"/api/jobs/{job}")
        if state["key"] or state["error"]:
            return state
        time.sleep(0.1)
    raise AssertionError("the job did not end")


def images(folder: Path, count: int = 12, *, side: int = 6) -> Path:
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(1)
    for k in range(count):
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(folder / f"{k:02}.png")
    return folder


class TestServer:
    def test_the_page_and_its_parts(self, address):
        status, page, headers = ask(address, "/")
        assert status == 200
        assert "default-src 'self'" in headers["content-security-policy"]
        parts = set(re.findall(r'(?:src|href)="(/[^"]+)"', page))
        assert parts == {"/page/icon.svg", "/page/page.css", "/page/page.js"}
        for part in [*parts, "/page/figures.js"]:
            assert ask(address, part)[0] == 200

    def test_nothing_on_the_page_is_from_elsewhere(self):
        for part in PAGE.iterdir():
            links = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", part.read_text(encoding="utf-8")))
            # The name of a namespace is an address by form only.
            assert links <= {"http://www.w3.org/2000/svg"}, part

    def test_a_view(self, address, desk):
        status, answer, _ = ask(address, "/api/view?" + urlencode({"steps": 3, "sigmas": "80,5,0.5,0"}))
        assert status == 200
        assert answer["ours"]["value"] == divergence(Spectrum.from_zoo("digits"), [80.0, 5.0, 0.5, 0.0])

    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("/api/view?sigma_max=wide", "`sigma_max` must be a number"),
            ("/api/view?spectrum=nowhere", "`spectrum` 'nowhere' is not known to this server"),
            ("/api/steps?n=two", "`n` must be a whole number"),
            ("/api/steps?n=99", "`n` must be"),
            ("/api/copy?format=yaml", "`format` must be one of"),
            ("/api/jobs/none", "`job` is not known"),
        ],
    )
    def test_refusals_are_a_sentence(self, address, path, words):
        status, answer, _ = ask(address, path)
        assert status == 400
        assert words in answer["error"]
        assert answer["error"].endswith(".")

    def test_a_spectrum_file(self, address, tmp_path):
        path = tmp_path / "mine.json"
        Spectrum.from_eigenvalues([4.0, 1.0, 0.5]).save(path)
        status, answer, _ = ask(address, "/api/spectra?name=mine.json", method="POST", body=path.read_bytes())
        assert status == 200
        assert answer["key"].startswith("mine")
        _, shown, _ = ask(address, f"/api/view?steps=3&spectrum={answer['key']}")
        assert shown["spectrum"]["dim"] == 3
        _, again, _ = ask(address, "/api/spectra?name=mine.json", method="POST", body=path.read_bytes())
        assert again["key"] != answer["key"]

    @pytest.mark.parametrize(
        ("name", "body", "words"),
        [
            ("mine.json", b"{}", "mine.json"),
            ("mine.json", b"\x00\x01", "mine.json"),
            ("mine.npz", b"PK", "mine.npz"),
            ("mine.txt", b"1 2 3", "is no saved spectrum: choose a .json or .npz file"),
            ("../../etc/passwd", b"", "is no saved spectrum"),
        ],
    )
    def test_files_that_are_no_spectra(self, address, name, body, words):
        status, answer, _ = ask(address, "/api/spectra?" + urlencode({"name": name}), method="POST", body=body)
        assert status == 400
        assert words in answer["error"]
        assert "/tmp" not in answer["error"]

    def test_two_gigabytes_are_refused_before_they_are_read(self, address):
        connection = http.client.HTTPConnection(*address, timeout=120)
        connection.putrequest("POST", "/api/spectra?name=large.npz")
        connection.putheader("content-length", str(2 << 30))
        connection.endheaders()
        response = connection.getresponse()
        assert response.status == 413
        assert "larger than 256 MiB" in json.loads(response.read())["error"]
        connection.close()

    def test_an_upload_that_does_not_say_its_size_is_stopped(self, address, monkeypatch):
        monkeypatch.setattr(serving, "MOST_SPECTRUM_BYTES", 1 << 10)
        connection = http.client.HTTPConnection(*address, timeout=120)
        body = (b"x" * 512 for _ in range(8))
        connection.request("POST", "/api/spectra?name=large.npz", body=body, encode_chunked=True,
                           headers={"transfer-encoding": "chunked"})
        response = connection.getresponse()
        assert response.status == 413
        connection.close()

    def test_a_folder_on_this_machine(self, address, tmp_path):
        pytest.importorskip("PIL")
        folder = images(tmp_path / "photos")
        body = json.dumps({"folder": str(folder), "size": ""}).encode()
        _, answer, _ = ask(address, "/api/folders", method="POST", body=body)
        state = measured(address, answer["job"])
        assert state["error"] == ""
        assert (state["done"], state["key"]) == (12, "photos")
        _, shown, _ = ask(address, "/api/view?steps=3&spectrum=photos")
        assert (shown["spectrum"]["dim"], shown["spectrum"]["n_samples"]) == (36, 12)

    @pytest.mark.parametrize(
        ("asked", "words"),
        [
            ({"folder": ""}, "`folder` is empty"),
            ({"folder": "x", "size": "wide"}, "`size` must be a whole number of pixels"),
            ([], "must be a JSON object"),
        ],
    )
    def test_folders_that_are_none(self, address, asked, words):
        status, answer, _ = ask(address, "/api/folders", method="POST", body=json.dumps(asked).encode())
        assert status == 400
        assert words in answer["error"]

    def test_a_folder_without_images(self, address, tmp_path):
        (tmp_path / "notes.txt").write_text("none")
        for folder in (tmp_path, tmp_path / "absent"):
            _, answer, _ = ask(address, "/api/folders", method="POST", body=json.dumps({"folder": str(folder)}).encode())
            error = measured(address, answer["job"])["error"]
            assert str(folder) in error
            assert error.endswith((".", "depth."))

    def test_dropped_images(self, address, tmp_path):
        pytest.importorskip("PIL")
        folder = images(tmp_path / "photos")
        _, begun, _ = ask(address, "/api/drops", method="POST")
        for file in sorted(folder.iterdir()):
            path = f"/api/drops/{begun['drop']}/files?" + urlencode({"name": f"../{file.name}"})
            assert ask(address, path, method="POST", body=file.read_bytes())[0] == 200
        status, refused, _ = ask(address, f"/api/drops/{begun['drop']}/files?name=a.txt", method="POST", body=b"a")
        assert status == 400
        assert "'a.txt' is no image" in refused["error"]
        body = json.dumps({"name": "dropped", "size": "3"}).encode()
        _, answer, _ = ask(address, f"/api/drops/{begun['drop']}/measure", method="POST", body=body)
        state = measured(address, answer["job"])
        assert (state["error"], state["done"]) == ("", 12)
        assert state["key"].startswith("dropped")
        _, shown, _ = ask(address, f"/api/view?steps=3&spectrum={state['key']}")
        assert shown["spectrum"]["dim"] == 9
        assert ask(address, f"/api/drops/{begun['drop']}/measure", method="POST", body=b"{}")[0] == 400

    def test_a_measurement_can_be_stopped(self, tmp_path, monkeypatch):
        import eigenstep.data

        began, go_on = threading.Event(), threading.Event()

        def accumulate(source, *, progress):
            progress(1, 10)
            began.set()
            go_on.wait(10)
            progress(2, 10)
            raise AssertionError("it was not stopped")

        np.save(tmp_path / "data.npy", np.eye(4))
        monkeypatch.setattr(eigenstep.data, "accumulate", accumulate)
        shelf = Shelf()
        job = shelf.jobs.job(shelf.measure(str(tmp_path / "data.npy")))
        assert began.wait(10)
        job.cancelled = True
        go_on.set()
        for _ in range(100):
            if job.error:
                break
            time.sleep(0.05)
        assert job.record()["error"] == "Stopped; nothing was kept."

    def test_pages_from_elsewhere_change_nothing(self, address):
        host, port = address
        status, answer, _ = ask(address, "/api/drops", method="POST", origin="http://elsewhere.example")
        assert (status, answer["error"]) == (403, "This request comes from another page.")
        assert ask(address, "/api/drops", method="POST", origin=f"http://{host}:{port}")[0] == 200
        # A name that was made to point here (DNS rebinding) is not ours.
        assert ask(address, "/api/options", host="elsewhere.example")[0] == 400

    def test_a_taken_port_is_a_sentence(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=rf"Port {port} of 127.0.0.1 is taken; give another with --port"):
                serving.listen("127.0.0.1", port)


class Wiener:
    """A network on torch tensors that is the Wiener filter of N(0, 4 I), times a fault where one is asked for."""

    item_shape = (1, 3, 4)
    sigma_min, sigma_max = 0.05, 40.0
    path = None

    def __init__(self) -> None:
        self.go_on, self.reached, self.broken = threading.Event(), threading.Event(), ""
        self.go_on.set()

    def __call__(self, x, sigma):
        self.reached.set()
        assert self.go_on.wait(30)
        if self.broken:
            raise RuntimeError(self.broken)
        # Worse than the filter at high noise and better at low noise, so that there is a start level between.
        return x * 4 / (4 + sigma**2) * (1 if sigma < 4 else 0.9)


def ended(desk: Desk, job: str) -> dict:
    for _ in range(600):
        if desk.shelf.jobs.job(job).ended:
            return desk.shelf.jobs.job(job).record()
        time.sleep(0.05)
    raise AssertionError("the job did not end")


@pytest.fixture
def beside():
    """A desk with a small network beside it, and the network."""
    pytest.importorskip("torch")
    pytest.importorskip("PIL")
    from eigenstep.explore.network import Network

    items = 2 * np.random.default_rng(0).standard_normal((60, 1, 3, 4))
    spectrum = Spectrum.from_samples(items, basis=12)
    wiener, shelf = Wiener(), Shelf()
    network = Network(wiener, spectrum, name="filter", data_name="noise", items=items, judges=6)
    yield Desk(shelf, shelf.put("noise", spectrum), network), wiener
    wiener.go_on.set()


class TestNetwork:
    def test_its_range_is_the_pages(self, beside):
        desk, _ = beside
        state = desk.state({})
        assert (state.sigma_min, state.sigma_max, state.start_level) == (0.05, 40.0, 40.0)
        assert desk.options()["range"] == (0.05, 40.0)
        assert desk.options()["network"] == "filter"
        assert desk.state({"path": "sd15"}).sigma_min == PATHS["sd15"]().sigma_min

    def test_the_gauge_is_the_librarys(self, beside):
        from eigenstep.models import profile

        desk, _ = beside
        network = desk.network
        before = desk.about_network(desk.state({}))
        assert (before["gauge"], before["measured"], before["compared"], before["job"]) == (None, False, None, None)
        record = ended(desk, desk.measure_network())
        assert record["error"] == ""
        # Counted where the calls are made: what was promised is what was spent.
        assert record["done"] == record["total"] == before["calls"]
        known = desk.about_network(desk.state({}))
        expected = profile(network._subject, network.spectrum, data=network.items, judges=6)
        gauge = known["gauge"]
        assert gauge["ratio"] == expected.curve.ratio.tolist()
        band = 2 * expected.curve.ratio_standard_error
        assert gauge["low"] == (expected.curve.ratio - band).tolist()
        assert gauge["high"] == (expected.curve.ratio + band).tolist()
        assert gauge["start_level"] is None or gauge["start_level"] == expected.curve.start_level()
        assert known["endpoint_error"] == expected.endpoint_error
        np.testing.assert_array_equal(network._measured.endpoint, expected.endpoint)

    def test_samples_are_the_librarys(self, beside):
        from eigenstep.evaluation import rmse
        from eigenstep.models import generate, plan

        desk, wiener = beside
        ended(desk, desk.measure_network())
        state = desk.state({"steps": "3", "eigenvalues": "sample"})
        assert ended(desk, desk.compare_network(state))["error"] == ""
        found = desk.about_network(state)["compared"]
        measured = desk.network._measured
        made = plan(measured, None, 3, solver="ddim")
        rows = {row["role"]: row for row in found["rows"]}
        assert found["reason"] == made.reason
        assert rows["usual"]["name"] == made.hand.name
        assert rows["usual"]["sigmas"] == made.hand.sigmas.tolist()
        best = optimal_grid(desk.network.spectrum, 3, 0.05, 40.0).sigmas
        assert rows["current"]["sigmas"] == best.tolist()
        for role, grid in (("current", best), ("usual", made.hand.sigmas), ("planned", made)):
            if role in rows:
                items = np.asarray(generate(wiener, grid, 6, solver="ddim").double())
                assert rows[role]["rmse"] == rmse(items, measured.endpoint)
                assert rows[role]["ratio"] == rows[role]["rmse"] / rows["usual"]["rmse"]
        assert rows["converged"]["rmse"] == 0
        assert ("planned" in rows) == (made.chosen is not made.hand)

    def test_pictures_are_of_the_samples(self, beside):
        import base64
        import io

        from PIL import Image

        desk, _ = beside
        ended(desk, desk.measure_network())
        state = desk.state({"steps": "3", "eigenvalues": "sample"})
        ended(desk, desk.compare_network(state))
        (row,) = [row for row in desk.about_network(state)["compared"]["rows"] if row["role"] == "converged"]
        endpoint = desk.network._measured.endpoint
        assert len(row["images"]) == len(endpoint) == 6
        low, high = np.quantile(endpoint, [0.001, 0.999])
        for address, item in zip(row["images"], endpoint, strict=True):
            kind, data = address.split(",")
            assert kind == "data:image/png;base64"
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
            # Rounded to 256 levels.
            np.testing.assert_allclose(pixels / 255, np.clip((item[0] - low) / (high - low), 0, 1), atol=0.5 / 255 + 1e-9)

    def test_moved_levels_and_start_levels_are_sampled(self, beside):
        desk, _ = beside
        ended(desk, desk.measure_network())
        warm = desk.state({"steps": "2", "start_level": "8", "sigmas": "8,1,0"})
        assert desk.about_network(warm)["compared"] is None
        assert ended(desk, desk.compare_network(warm))["error"] == ""
        (row,) = [row for row in desk.about_network(warm)["compared"]["rows"] if row["role"] == "current"]
        assert (row["sigmas"], row["warm"], row["start_level"]) == ([8.0, 1.0, 0.0], True, 8.0)
        # Of another grid nothing is known.
        assert desk.about_network(desk.state({"steps": "2"}))["compared"] is None

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ({"solver": "euler_ancestral"}, "`solver` euler_ancestral adds noise of its own"),
            ({"path": "edm"}, "`sigma_max` must be at most 40, where the network's range ends, got 80."),
            ({"sigma_min": "0.01", "steps": "2", "sigmas": "40,0.02,0"}, "`sigma_min` must be at least 0.05"),
        ],
    )
    def test_what_it_cannot_be_sampled_on(self, beside, query, words):
        desk, _ = beside
        ended(desk, desk.measure_network())
        state = desk.state(query)
        try:
            error = ended(desk, desk.compare_network(state))["error"]
        except ValueError as refused:
            error = str(refused)
        assert error.startswith(words)

    def test_without_eigenvectors_there_is_no_start_level(self):
        pytest.importorskip("torch")
        from eigenstep.explore.network import Network

        network = Network(Wiener(), Spectrum.from_eigenvalues([4.0] * 12), name="filter", data_name="theory")
        assert network.record()["gauge"] is None
        with pytest.raises(ValueError, match="`start_level` 8 lies below the network's 40, and the spectrum holds no eigenvec"):
            network.check([8.0, 1.0, 0.0], "ddim")

    def test_data_of_another_shape(self):
        pytest.importorskip("torch")
        from eigenstep.explore.network import Network

        spectrum = Spectrum.from_eigenvalues([4.0] * 12)
        with pytest.raises(ValueError, match=r"the model takes items of shape \(1, 3, 4\) and the data have \(1, 2, 6\)"):
            Network(Wiener(), spectrum, name="filter", data_name="noise", items=np.zeros((4, 1, 2, 6)))
        with pytest.raises(ValueError, match=r"items of shape \(1, 3, 4\) and the spectrum has 5 dimensions"):
            Network(Wiener(), Spectrum.from_eigenvalues([4.0] * 5), name="filter", data_name="noise")

    def test_the_page_answers_while_it_is_measured_and_it_can_be_stopped(self, beside):
        desk, wiener = beside
        wiener.reached.clear()
        wiener.go_on.clear()
        job = desk.measure_network()
        assert wiener.reached.wait(30)
        assert view(desk, steps=3)["optimum"]["converged"]
        assert desk.about_network(desk.state({}))["job"] == job
        # Whoever asks again joins the work that is under way.
        assert desk.measure_network() == job
        desk.shelf.jobs.job(job).cancelled = True
        wiener.go_on.set()
        assert ended(desk, job)["error"] == "Stopped; nothing was kept."
        assert desk.about_network(desk.state({}))["job"] is None
        assert ended(desk, desk.measure_network())["error"] == ""

    def test_a_gauge_that_was_measured_before_a_stop_is_kept(self, beside, monkeypatch):
        desk, _ = beside
        gauged, tell = len(desk.network.items) * 25, Job.report

        def stop_after_the_gauge(job, done, total):
            job.cancelled = done > gauged
            tell(job, done, total)

        monkeypatch.setattr(Job, "report", stop_after_the_gauge)
        assert ended(desk, desk.measure_network())["error"] == "Stopped; the gauge was kept."
        known = desk.about_network(desk.state({}))
        assert known["gauge"] is not None
        assert not known["measured"]

    def test_a_network_that_fails_is_a_sentence(self, beside):
        desk, wiener = beside
        wiener.broken = "out of\nmemory"
        error = ended(desk, desk.measure_network())["error"]
        assert error == "The network failed at σ = 40 (RuntimeError: out of memory)."
        wiener.broken = ""
        assert ended(desk, desk.measure_network())["error"] == ""
        assert view(desk, steps=3)["optimum"]["converged"]

    def test_the_server_passes_it_on(self, beside):
        from starlette.testclient import TestClient

        desk, _ = beside
        with TestClient(serving.application(desk), base_url="http://localhost") as client:
            early = client.post("/api/network/compare?steps=3").json()["job"]
            assert ended(desk, early)["error"] == "The network is not measured yet: measure it first."
            ended(desk, client.post("/api/network/measure").json()["job"])
            ended(desk, client.post("/api/network/compare?steps=3").json()["job"])
            known = client.get("/api/network?steps=3").json()
            assert {row["role"] for row in known["compared"]["rows"]} >= {"current", "usual", "converged"}

    def test_a_server_without_one_says_so(self, address):
        status, answer, _ = ask(address, "/api/network")
        assert status == 400
        assert answer["error"].startswith("This server has no network: start it with `eigenstep explore --model FOLDER`")

    def test_the_networks_own_path_gives_timesteps_and_takes_the_snippet(self, beside):
        desk, wiener = beside
        wiener.path = PATHS["edm"]()
        answer = view(desk, steps=3)
        assert answer["ours"]["timesteps"] == wiener.path.sigma_to_t(np.array(answer["ours"]["sigmas"][:-1])).tolist()
        assert "pipe.scheduler = apply(sigmas, pipe.scheduler)" in desk.copied(desk.state({"steps": "3"}), "diffusers")


class TestCommand:
    def start(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "eigenstep", "explore", *arguments]
        environment = {**os.environ, "BROWSER": "false"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def test_it_serves_until_it_is_interrupted(self, tmp_path):
        path = tmp_path / "mine.json"
        Spectrum.from_eigenvalues([4.0, 1.0, 0.5]).save(path)
        process = self.start(str(path), "--port", "0", "--no-browser")
        try:
            line = process.stdout.readline().strip()
            found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?spectrum=mine", line)
            assert found, line or process.stderr.read()
            _, answer, _ = ask(("127.0.0.1", int(found[1])), "/api/view?steps=3")
            assert answer["spectrum"]["dim"] == 3
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        assert process.returncode in (0, 130)
        assert "Traceback" not in errors

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--data", "FOLDER"], "`--data` is for a network beside the page: give --model as well, or leave it out."),
            (["digits", "--model", "FOLDER"], "holds no config.json and no model_index.json; pass the folder"),
            (["digits", "--model", "nowhere"], "`model` must be a folder of a diffusers pipeline or module:function"),
            (["--model", "FOLDER"], "--model needs data: give --data"),
            (["--model", "BUNDLED", "--data", "OTHER"], r"items of shape \(1, 32, 32\) and the data have \(1, 5, 5\)"),
        ],
    )
    def test_a_network_that_is_none_ends_it_with_a_sentence(self, tmp_path, arguments, words):
        pytest.importorskip("diffusers")
        from eigenstep.cli.demo import bundled

        np.save(tmp_path / "other.npy", np.zeros((4, 1, 5, 5)))
        places = {"FOLDER": str(tmp_path), "BUNDLED": str(bundled()), "OTHER": str(tmp_path / "other.npy")}
        process = self.start(*(places.get(each, each) for each in arguments), "--port", "0", "--no-browser")
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2
        last = errors.strip().splitlines()[-1]
        assert last.startswith("eigenstep: ")
        assert re.search(words, last), errors

    def test_a_taken_port_ends_it_with_a_sentence(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            process = self.start("--port", str(taken.getsockname()[1]))
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 2
        assert re.fullmatch(r"eigenstep: Port \d+ of 127\.0\.0\.1 is taken; give another with --port, .*\n", errors)

    def test_a_spectrum_that_is_none_ends_it_with_a_sentence(self):
        process = self.start("nowhere", "--port", "0")
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2
        assert errors.startswith("eigenstep: There is no file, folder or zoo spectrum 'nowhere'")
