"""Install the newest wheel of dist/ with each extra alone, in a fresh environment each, and use what the extra is for.

    python recipe/check_wheel.py                     # "", cli, images, plots
    python recipe/check_wheel.py digits dask         # others

`make build` runs it. What an extra is for must work; what it is not for must be refused with the pip command that adds it.
"""

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

DIST = Path(__file__).parents[1] / "dist"

CORE = """
import eigenstep
grid = eigenstep.optimal_grid(eigenstep.Spectrum.from_zoo("cifar10"), 6, 0.002, 80.0)
assert grid.converged and grid.sigmas.size == 7
assert len(eigenstep.zoo_names()) >= 6
assert (__import__("pathlib").Path(eigenstep.__file__).parent / "py.typed").exists()
"""

USES = {
    "": """
try:
    import eigenstep.cli
except ImportError as error:
    assert 'pip install "eigenstep[cli]"' in str(error), error
else:
    raise AssertionError("the command line runs without click")
""",
    "cli": """
import subprocess, sys, pathlib
command = str(pathlib.Path(sys.executable).with_name("eigenstep"))
def out(*arguments): return subprocess.run([command, *arguments], capture_output=True, text=True, check=True).stdout
assert out("--version").startswith("eigenstep, version ")
assert 'pip install "eigenstep[images]"' in out("doctor")
assert "best of" in out("plan", "cifar10", "--steps", "6")
done = subprocess.run([command, "compare", "cifar10", "--steps", "3", "--plot", "x.png"], capture_output=True, text=True)
assert done.returncode == 2 and 'pip install "eigenstep[plots]"' in done.stderr, done.stderr
""",
    "images": """
import numpy, PIL.Image
from eigenstep.data import measure, open_source
for k in range(60):
    PIL.Image.fromarray(numpy.random.default_rng(k).integers(0, 256, (4, 4, 3), dtype=numpy.uint8)).save(f"{k}.png")
assert measure(open_source(".")).dim == 48
""",
    "plots": """
from eigenstep.plots import eigenvalue_curve
eigenvalue_curve({"cifar10": eigenstep.Spectrum.from_zoo("cifar10")}).figure.savefig("x.png")
assert __import__("pathlib").Path("x.png").read_bytes()[:4] == b"\\x89PNG"
""",
    "digits": """
from eigenstep.data import measure, open_source
assert measure(open_source("digits")).dim == 64
""",
    "dask": "import distributed",
}


def check(extra, wheel):
    """Install the wheel with one extra, and run its use in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "venv", with_pip=True)
        python = Path(folder) / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        work = Path(folder) / "work"
        work.mkdir()
        wanted = f"{wheel}[{extra}]" if extra else str(wheel)
        subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", wanted], check=True)
        subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "check"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([python, "-W", "error", "-c", CORE + USES[extra]], cwd=work, check=True)
    print(f"{wheel.name} [{extra}]: installs alone and works", flush=True)


def main():
    """Check the newest wheel with the extras named, or with those of the default."""
    wheels = sorted(DIST.glob("eigenstep-*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        sys.exit(f"No wheel in {DIST}; `make build` makes one.")
    unknown = [extra for extra in sys.argv[1:] if extra not in USES]
    if unknown:
        sys.exit(f"No use is known for {', '.join(unknown)}; known: {', '.join(filter(None, USES))}.")
    assert re.match(r"eigenstep-[\d.]+\S*-py3-none-any\.whl", wheels[-1].name), wheels[-1]
    for extra in sys.argv[1:] or ("", "cli", "images", "plots"):
        check(extra, wheels[-1])


if __name__ == "__main__":
    main()
