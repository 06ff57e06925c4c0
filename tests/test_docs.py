"""The documentation: every Python block runs and prints what stands below it, every command line parses, every name and page
has its place. The pages are also built, strictly, by a slow test."""

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
ELSEWHERE = {"models.md"}
"""Pages whose Python is run by tests/test_load_denoiser.py, with the networks that it takes."""

sys.path.insert(0, str(DOCS))
import site_checks  # noqa: E402 - it lies beside the pages, where mkdocs looks for it

sys.path.remove(str(DOCS))


def text_of(page):
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page, *languages):
    return re.findall(rf"```(?:{'|'.join(languages)})\n(.*?)```", text_of(page), flags=re.DOTALL)


# Python


def images(folder, *, count, size):
    image = pytest.importorskip("PIL.Image")
    Path(folder).mkdir()
    rng = np.random.default_rng(0)
    for k in range(count):
        pixels = rng.normal(128, 40, (size, size, 3)) + rng.normal(0, 40)
        image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(f"{folder}/{k}.png")


def for_start():
    """Images of 4 x 4, and a pipeline of a network for them."""
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    images("my-images", count=60, size=4)
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=4, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(4, 4), norm_num_groups=2,
        attention_head_dim=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler(prediction_type="v_prediction")).save_pretrained("my-pipeline")
    return {}


def for_diffusers():
    """A pipeline that is its scheduler and takes anything, and the denoiser of unit variance in the place of its folder."""
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    import eigenstep.adapters.diffusers
    from eigenstep import Spectrum, VPDiscrete
    from eigenstep.models import ModelDenoiser

    class Pipe:
        scheduler = diffusers.DDIMScheduler()
        device = "cpu"

        def __call__(self, *anything, **named):
            assert named

    path = VPDiscrete.from_alphas_cumprod(Pipe.scheduler.alphas_cumprod.double().numpy())
    wiener = ModelDenoiser(lambda x, t: 0 * x, path, "v", item_shape=(5,))
    data = np.random.default_rng(0).standard_normal((200, 5))
    return {
        "eigenstep": eigenstep, "torch": torch, "pipe": Pipe(), "folder": wiener, "images": data, "image": None,
        "spectrum": Spectrum.from_samples(data),
    }  # fmt: skip


def for_cli():
    """A plan for a network, as `eigenstep plan --model` keeps it."""
    from eigenstep import EDM, Spectrum
    from eigenstep.models import ModelDenoiser, plan

    data = np.random.default_rng(0).standard_normal((100, 2)) * [2.0, 1.0]
    spectrum = Spectrum.from_samples(data, basis=2)
    wiener = ModelDenoiser(lambda x, sigma: x * [4 / (4 + sigma**2), 1 / (1 + sigma**2)], EDM(), "x0", item_shape=(2,))
    Path("plan.json").write_text(plan(wiener, spectrum, 3, data=data, judges=4).to_json())
    spectrum.save("plan.npz")
    return {}


def after_cli(names):
    assert names["plan"].n == 3


def for_few_samples():
    pytest.importorskip("matplotlib")
    return {"x": np.random.default_rng(0).standard_normal((60, 6)) * [6, 5, 4, 3, 2, 1]}


def for_spectra():
    from eigenstep import new_moments

    rng = np.random.default_rng(0)
    rest = new_moments("auto", (2, 8, 8), n_items=20_000)
    rest.update(rng.standard_normal((200, 2, 8, 8)))
    rest.save("rest.npz")
    return {"batches": [rng.standard_normal((100, 2, 8, 8)) for _ in range(2)]}


def for_sources():
    images("photos", count=20, size=4)
    return {}


def for_clusters():
    return {"batches": [np.random.default_rng(0).standard_normal((60, 3, 4, 4))]}


def for_evaluate():
    torch = pytest.importorskip("torch")
    return {"load_my_network": lambda checkpoint: lambda x, sigma: x / (1 + sigma[:, None] ** 2), "torch": torch}


def after_evaluate(names):
    assert names["denoiser"]("best.pt")(np.ones((1, 2)), 1.0).tolist() == [[0.5, 0.5]]


def after_spectra(names):
    assert names["moments"].count == 400
    assert names["spectrum"].basis.shape == (64, 128)


PREPARED = {
    "cli.md": for_cli,
    "start.md": for_start,
    "diffusers.md": for_diffusers,
    "few_samples.md": for_few_samples,
    "spectra.md": for_spectra,
    "sources.md": for_sources,
    "clusters.md": for_clusters,
    "evaluate.md": for_evaluate,
}
AFTERWARDS = {"cli.md": after_cli, "evaluate.md": after_evaluate, "spectra.md": after_spectra}
SMALLER = {
    "diffusers.md": [("(1, 16, 128, 128,", "(1, 5,"), ("solver_of(pipe.scheduler))", "solver_of(pipe.scheduler), judges=4)")],
    "start.md": [("size=64", "size=4"), ("size=32", "size=4"), ('or "ddim")', 'or "ddim", judges=4)')],
    "spectra.md": [("(4, 128, 128)", "(2, 8, 8)")],
    "sources.md": [("size=64", "size=2")],
    "clusters.md": [("(3, 32, 32)", "(3, 4, 4)")],
}
"""What is changed before a page's blocks are run, so that they take a second."""


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE and "```python" in text_of(page)])
def test_python_runs_and_prints_what_stands_below_it(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = PREPARED.get(page, dict)()
    for code, expected in re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", text_of(page), flags=re.DOTALL):
        for large, small in SMALLER.get(page, ()):
            code = code.replace(large, small)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page, "exec"), names)
        if expected:
            assert printed.getvalue() == expected, code
    AFTERWARDS.get(page, lambda names: None)(names)


def test_what_is_made_smaller_is_there():
    for page, changes in SMALLER.items():
        assert [large for large, _ in changes if large not in "".join(blocks(page, "python"))] == [], page


# Command lines


def command_lines(page):
    """Every `eigenstep ...` of a page's shell blocks, lines that end in a backslash joined, comments and redirections off."""
    for block in blocks(page, "sh", "console"):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r"; do |; done|;|\$\(", line):
                found = re.match(r"(?:\$ )?eigenstep (.*)", command.strip())
                if found:
                    yield [word for word in shlex.split(found.group(1), comments=True) if not word.startswith(">")]


LINES = [(page, line) for page in PAGES for line in command_lines(page)]


def parsed(line):
    """Parse a command line as click will when it is run; nothing is run."""
    import click

    from eigenstep.cli import cli

    if line[0].startswith("-"):
        assert line in (["--version"], ["--help"]), line
        return
    command = cli.commands.get(line[0])
    assert command is not None, f"there is no command {line[0]!r}"
    context = click.Context(command, info_name=line[0])
    _, rest, _ = command.make_parser(context).parse_args(list(line[1:]))
    assert rest == [], f"{rest} is too much"


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {' '.join(line)}" for page, line in LINES])
def test_command_lines_parse(page, line):
    pytest.importorskip("click")
    parsed(line)


def test_there_are_command_lines():
    assert len(LINES) > 40
    assert {"start.md", "cli.md", "clusters.md"} <= {page for page, _ in LINES}


def test_wrong_command_lines_are_found():
    click = pytest.importorskip("click")
    with pytest.raises(AssertionError, match="no command 'plot'"):
        parsed(["plot", "x"])
    with pytest.raises(click.NoSuchOption):
        parsed(["plan", "x", "--step-count", "6"])
    with pytest.raises(AssertionError, match="too much"):
        parsed(["zoo", "x"])


# Names, pages, links


def test_every_public_name_is_in_the_reference():
    assert site_checks.undocumented() == []


def test_a_name_without_a_place_is_found(tmp_path):
    pages = tmp_path / "api"
    pages.mkdir()
    for page in (DOCS / "api").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        (pages / page.name).write_text(text.replace("::: eigenstep.models.generate\n", ""), encoding="utf-8")
    assert site_checks.undocumented(pages) == ["eigenstep.models.generate"]


def test_the_reference_names_things_that_exist():
    import importlib

    for name in sorted(site_checks.documented_names()):
        parts = name.split(".")
        if "diffusers" in name:
            pytest.importorskip("diffusers")
        thing, rest = None, parts
        for k in range(len(parts), 0, -1):
            with contextlib.suppress(ModuleNotFoundError):
                thing, rest = importlib.import_module(".".join(parts[:k])), parts[k:]
                break
        for part in rest:
            thing = getattr(thing, part)
        # A module shows all that it defines: right for figures, and elsewhere a function hidden behind its module's name.
        assert rest or name in {"eigenstep.plots", "eigenstep.report"}, f"{name} is a module"


def test_the_static_list_of_names_is_that_of_the_package():
    """`site_checks` reads the source, so that a site can be built without torch; here the modules themselves say it."""
    import importlib

    for room in ("eigenstep", *site_checks.ROOMS, *site_checks.CORE):
        assert site_checks._names(room) == list(importlib.import_module(room).__all__), room


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    assert sorted(re.findall(r"([\w/]+\.md)$", navigation, flags=re.MULTILINE)) == PAGES


def slug(heading):
    """The anchor of a heading, as the toc extension of Python-Markdown makes it."""
    letters = re.sub(r"[^\w\s-]", "", re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading)).strip().lower()
    return re.sub(r"[-\s]+", "-", letters)


def test_links_between_pages_lead_somewhere():
    wrong = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
            name, _, anchor = target.partition("#")
            path = (DOCS / page).parent / name if name else DOCS / page
            if not path.exists():
                wrong.append((page, target))
            elif anchor.startswith("eigenstep."):
                if f"::: {anchor}\n" not in path.read_text(encoding="utf-8") + "\n":
                    wrong.append((page, target))
            elif anchor:
                # The toc's slugs are of ASCII letters: σ and the like are dropped.
                headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
                if anchor not in {slug(heading.encode("ascii", "ignore").decode()) for heading in headings}:
                    wrong.append((page, target))
    assert wrong == []


# The site


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<link rel='stylesheet' href='//fonts.example/css'>",
        '<link href="https://fonts.example" rel="preconnect" crossorigin>',
        '<img alt="x" src="http://example.org/x.png">',
        "@import url(https://example.org/x.css);",
        "a{background:url('https://example.org/x.png')}",
    ],
)
def test_what_asks_the_network_is_found(text):
    assert len(site_checks.network_resources(f"<p>{text}</p>")) == 1


@pytest.mark.parametrize(
    "text",
    [
        '<a href="https://arxiv.org/abs/2601.13602">paper</a>',
        '<script src="assets/x.js"></script><link rel="stylesheet" href="assets/x.css">',
        "a{background:url(data:image/svg+xml;charset=utf-8,<svg xmlns='http://www.w3.org/2000/svg'/>)}",
        '<link rel="canonical" href="https://example.org/">',
    ],
)
def test_links_and_local_files_are_not(text):
    assert site_checks.network_resources(text) == []


def test_formulas_become_mathml():
    pytest.importorskip("latex2mathml")
    page = r'<p><span class="arithmatex">\(a &lt; b\)</span></p><div class="arithmatex">\[\frac{1}{2}\]</div>'
    made = site_checks.with_formulas(page)
    assert made.count("<math") == 2
    assert "arithmatex" not in made
    assert "&#x0003C;" in made
    assert "<mfrac>" in made


def test_docstrings_get_their_headings():
    pytest.importorskip("griffe", reason='building needs `pip install "eigenstep[docs]"`')
    sys.path.insert(0, str(DOCS))
    import docstrings

    sys.path.remove(str(DOCS))
    given = "Twice.\n\nRaises\n------\nValueError\n    > 0 only.\n\nSource: a book about it.\n\n>>> 1\n1"
    assert docstrings.sectioned(given) == (
        "Twice.\n\nRaises\n------\nValueError\n    \\> 0 only.\n\n"
        "Notes\n-----\nSource: a book about it.\n\nExamples\n--------\n>>> 1\n1"
    )
    kept = "Twice.\n\nExamples\n--------\nSo:\n\n>>> 1\n1\n\nand then\n\n>>> 2\n2"
    assert docstrings.sectioned(kept) == kept


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs", reason='building needs `pip install "eigenstep[docs]"`')
    pytest.importorskip("material", reason='building needs `pip install "eigenstep[docs]"`')
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr  # mkdocs counts what it says, so that --quiet would let everything pass
    pages = {page: (tmp_path / page).with_suffix(".html").read_text(encoding="utf-8") for page in PAGES}
    assert [page for page, text in pages.items() if "arithmatex" in text] == []
    assert [page for page, text in pages.items() if re.search(r"<blockquote|<p>[^<]*&gt;&gt;&gt;", text)] == []
    reference = "".join(text for page, text in pages.items() if page.startswith("api/"))
    shown = set(re.findall(r'id="(eigenstep[\w.]*)"', reference))
    assert site_checks.documented_names() - shown <= {"eigenstep.plots", "eigenstep.report"}  # shown by what they define
    assert pages["theory.md"].count("<math") > 40
