"""Each script and the notebook of `examples/` runs as its first lines say, on small stand-ins for the user's files."""

import re
import runpy
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a script in a folder of its own; what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    return run


def images(folder, count, size):
    image = pytest.importorskip("PIL.Image")
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(count):
        pixels = rng.normal(128, 40, (size, size, 3)) + rng.normal(0, 40)
        image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{k}.png")


def levels(said):
    """The numbers of the line of levels."""
    return [float(word) for word in re.search(r"^levels[^:]*: (.*)$", said, flags=re.MULTILINE).group(1).split()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_short_and_say_how_they_are_run(script):
    text = (EXAMPLES / script).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert f"    python examples/{script}" in text


def test_every_example_is_on_the_page():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    missing = [path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".ipynb"} and path.name not in page]
    assert missing == []


def test_own_images(run, tmp_path):
    images(tmp_path / "my-images", 60, 8)
    said = run("own_images.py", "my-images", "--size", 4, "--steps", 5)
    found = levels(said)
    assert len(found) == 6
    assert found == sorted(found, reverse=True)
    assert re.search(r"^planned +1\.00 times", said, flags=re.MULTILINE)
    assert (tmp_path / "spectrum.json").exists()


def test_better_samples(run, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("matplotlib")
    torch = pytest.importorskip("torch")
    images(tmp_path / "my-images", 60, 4)
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=4, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(4, 4), norm_num_groups=2,
        attention_head_dim=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    # v-prediction: an untrained network that answers little is then nearly the Wiener filter of unit variance.
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction")
    diffusers.DDIMPipeline(unet, scheduler).save_pretrained(tmp_path / "my-pipeline")
    said = run("better_samples.py", "my-pipeline", "my-images", "--steps", 2, "--items", 2)
    before, after = (float(number) for number in re.findall(r"2 calls, RMSE ([\d.]+)", said))
    assert after < before
    assert (tmp_path / "before-after.png").stat().st_size > 1000


def test_train_tangent(run):
    pytest.importorskip("torch")
    said = run("train_tangent.py", "--updates", 100)
    gamma = float(re.search(r"gamma ([\d.]+)", said).group(1))
    assert 0.5 < gamma < 2.0  # the spiral's variances are near one
    distances = [float(line.split()[1]) for line in said.splitlines()[2:]]
    assert len(distances) == 3
    assert distances[2] < 0.5  # noise of the same variance is at 0.6 and more


def test_audio(run, tmp_path):
    (tmp_path / "my-sounds").mkdir()
    rng = np.random.default_rng(0)
    for k in range(20):
        with wave.open(str(tmp_path / "my-sounds" / f"{k}.wav"), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes((1000 * np.cumsum(rng.standard_normal(300))).clip(-32768, 32767).astype("<i2").tobytes())
    said = run("audio.py", "my-sounds", "--length", 256, "--steps", 4)
    assert said.startswith("20 clips in ")
    assert len(levels(said)) == 5


@pytest.mark.slow  # starts two processes
def test_cluster(run, tmp_path):
    pytest.importorskip("distributed")
    from eigenstep import Spectrum, load_moments

    data = np.random.default_rng(0).standard_normal((500, 6)) * [6, 5, 4, 3, 2, 1]
    np.save(tmp_path / "my-data.npy", data)
    said = run("cluster.py", "my-data.npy", "--address", "local:2")
    assert said.startswith("500 items of shape (6,)")
    kept = load_moments(tmp_path / "sums.npz").spectrum()
    np.testing.assert_allclose(kept.eigenvalues, Spectrum.from_samples(data).eigenvalues, rtol=1e-9)  # what clusters promise


def test_custom_solver(run):
    said = run("custom_solver.py")
    rows = [line.split() for line in said.splitlines()[1:5]]
    assert [row[0] for row in rows] == ["7", "11", "15", "23"]
    assert all(float(ours.rstrip("%")) < float(heun.rstrip("%")) for _, ours, heun in rows)
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    assert "".join(f"{line}\n" for line in said.splitlines()[:5]) in page
    measured, predicted = (float(number) for number in re.findall(r"(?:samples|predicted) (\d\.\d+)", said))
    assert measured == pytest.approx(predicted, rel=4 * np.sqrt(2 / 200_000))  # four standard errors


def test_custom_source(run, tmp_path):
    (tmp_path / "measurements").mkdir()
    rng = np.random.default_rng(0)
    for k in range(3):
        table = np.column_stack([np.cumsum(rng.standard_normal(200)), rng.standard_normal(200)])
        np.savetxt(tmp_path / "measurements" / f"{k}.csv", table, delimiter=",", header="value,other", comments="")
    said = run("custom_source.py", "measurements", "--window", 16)
    assert "n_samples=36" in said
    assert len(levels(said)) == 7


@pytest.mark.slow
def test_notebook(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="the notebook needs `pip install nbclient ipykernel`")
    pytest.importorskip("ipykernel", reason="the notebook needs `pip install nbclient ipykernel`")
    import nbformat

    import eigenstep

    monkeypatch.setenv("PYTHONPATH", str(Path(eigenstep.__file__).parents[1]))  # the kernel is another process
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "keep the notebook without outputs"
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 3
