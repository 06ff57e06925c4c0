"""Features: what they keep, that they come out alike everywhere, and what they refuse."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from eigenstep.evaluation import KINDS, PixelFeatures, PretrainedFeatures, features_named, random_convolutions, trained_features
from eigenstep.evaluation.features import data_range
from eigenstep.evaluation.metrics import frechet_distance
from eigenstep.evaluation.store import Store

torch = pytest.importorskip("torch")


def strokes(n, seed=0, size=12):
    """Images of one bright bar, upright (0) or lying (1), off the middle so that rotations can be told."""
    rng = np.random.default_rng(seed)
    kinds, at = rng.integers(0, 2, n), rng.integers(1, 4, n)
    images = 0.1 * rng.standard_normal((n, 1, size, size))
    for image, kind, place in zip(images, kinds, at, strict=True):
        image[0, :, place] += 1 - kind
        image[0, place, :] += kind
        image[0, 1, 1:7] += 0.7
    return images, kinds


@pytest.fixture(scope="module")
def images():
    return strokes(400)


def test_pixels_keep_distances_within_the_leading_axes():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 2, 3)) * [[3.0, 2.0, 1.0], [0.0, 0.0, 0.0]]
    features = PixelFeatures.of_data(x, dim=3)
    assert features.dim == 3
    values = features(x)
    np.testing.assert_allclose((values**2).sum(1), ((x - x.mean(0)) ** 2).sum((1, 2)), rtol=1e-10)
    # Largest first, and the Fréchet distance does not see the turn.
    assert np.all(np.diff(values.var(axis=0)) < 0)
    whole = PixelFeatures.of_data(x)
    y = x[::-1] * 1.1
    assert frechet_distance(whole(x), whole(y)) == pytest.approx(
        frechet_distance(x.reshape(200, -1), y.reshape(200, -1)), rel=1e-9
    )


def test_pixels_of_fewer_items_than_numbers():
    x = np.random.default_rng(2).standard_normal((5, 40))
    features = PixelFeatures.of_data(x)
    assert features.dim == 4
    np.testing.assert_allclose((features(x) ** 2).sum(1), ((x - x.mean(0)) ** 2).sum(1), rtol=1e-10)


def test_random_convolutions_are_the_same_everywhere_and_standardised(images):
    x, _ = images
    one, other = random_convolutions(x), random_convolutions(x)
    assert one.identity == other.identity != random_convolutions(x, seed=1).identity
    values = one(x)
    np.testing.assert_allclose(values.mean(axis=0), 0.0, atol=1e-6)  # float32 sums
    np.testing.assert_allclose(values.std(axis=0), 1.0, atol=1e-4)


def test_random_convolutions_see_what_the_covariance_does_not(images):
    x, _ = images
    rng = np.random.default_rng(3)
    flat = x.reshape(len(x), -1)
    gaussian = rng.multivariate_normal(flat.mean(0), np.cov(flat.T), len(x)).reshape(x.shape)
    features, pixels = random_convolutions(x), PixelFeatures.of_data(x)
    fresh, _ = strokes(400, seed=9)
    # As far as the features tell: Gaussian noise of the same covariance is far, fresh items are near.
    assert frechet_distance(features(gaussian), features(x)) > 10 * frechet_distance(features(fresh), features(x))
    assert frechet_distance(pixels(gaussian), pixels(x)) < 3 * frechet_distance(pixels(fresh), pixels(x))


def test_a_network_learns_labels_or_rotations(images):
    x, kinds = images
    labelled = trained_features(x, kinds, steps=60, batch_size=32)
    assert labelled.note.startswith("trained to tell 2 labels; right for ")
    assert int(labelled.note.split(" %")[0].split()[-1]) >= 90
    turned = trained_features(x, steps=150, batch_size=48)
    assert "rotations by 0, 90, 180 and 270 degrees" in turned.note
    assert int(turned.note.split(" %")[0].split()[-1]) >= 60  # four kinds: 25 % by chance
    np.testing.assert_allclose(labelled(x).mean(axis=0), 0.0, atol=1e-5)
    assert trained_features(x, kinds, steps=5).identity == trained_features(x, kinds, steps=5).identity


def test_signals_have_features_too():
    x = np.random.default_rng(4).standard_normal((40, 3, 32))
    assert "its mirror image" in trained_features(x, steps=3).note
    assert random_convolutions(x)(x).shape == (40, 64)
    assert random_convolutions(x[:, 0])(x[:, 0]).shape == (40, 64)


def test_a_trained_network_is_kept_and_found_again(images, tmp_path):
    x, kinds = images
    made = trained_features(x, kinds, steps=5)
    Store(tmp_path, {}, resume=False).keep_features(made)
    found = Store(tmp_path, {}, resume=True).features("trained")
    assert (found.identity, found.note, found.item_shape) == (made.identity, made.note, made.item_shape)
    np.testing.assert_array_equal(found(x), made(x))
    assert Store(tmp_path, {}, resume=True).features("other") is None


def test_ranges_are_told_from_the_data():
    assert data_range([[0.0, 255.0]]) == (0.0, 255.0)
    assert data_range([[-0.2, 0.4]]) == (-0.5, 0.5)
    assert data_range([[-1.5, 0.4]]) == (-1.5, 0.4)


def test_pretrained_features_travel_without_their_network():
    features = PretrainedFeatures("dinov2", (-1.0, 1.0))
    features._loaded["cpu"] = lambda x: x
    again = pickle.loads(pickle.dumps(features))
    assert again == features
    assert again._loaded == {}
    assert (again.name, again.dim) == ("dinov2", 384)


def test_an_absent_package_is_named_with_its_command():
    program = (
        "import sys; sys.modules['timm'] = sys.modules['torch_fidelity'] = None\n"
        "import numpy as np\n"
        "from eigenstep.evaluation import features_named\n"
        "for name in ('inception', 'dinov2'):\n"
        "    try:\n"
        "        features_named([name], np.zeros((30, 3, 8, 8)) + np.arange(30)[:, None, None, None])\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second = result.stdout.splitlines()
    assert "'inception' need torch-fidelity" in first
    assert first.endswith("install it with `pip install torch-fidelity`.")
    assert second.endswith("install it with `pip install timm`.")


def test_a_torchvision_for_another_torch_is_named(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ImportError, match=r"need timm, which .* \(operator torchvision::nms does not exist\); install"):
        PretrainedFeatures("dinov2", (0.0, 1.0)).require()


def test_identity_of_pretrained_features_is_that_of_the_files_content(tmp_path):
    for name, content in {"a": b"12", "b": b"12", "c": b"21"}.items():
        (tmp_path / name).write_bytes(content)
    a, b, c = (PretrainedFeatures("dinov2", (0.0, 1.0), str(tmp_path / name)).identity for name in "abc")
    assert a == b != c
    assert PretrainedFeatures("inception", (0.0, 1.0), str(tmp_path / "a")).identity != a


def test_inception_is_the_packages_own_network_on_bytes(tmp_path, monkeypatch):
    """torch-fidelity's class with random weights in a file: its features of the images as 8-bit files hold them."""
    pytest.importorskip("torch_fidelity")
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    class Untrained(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_, **__):
            """Keep the random weights: the class would download others."""

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
    torch.manual_seed(0)
    network = Untrained("untrained", ["2048"])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    x = np.random.default_rng(0).uniform(-1.1, 1.1, (2, 3, 32, 32))
    found = PretrainedFeatures("inception", (-1.0, 1.0), str(tmp_path / "weights.pth"))(x)
    scaled = np.clip((x.astype(np.float32) + 1) / 2, 0, 1)
    with torch.no_grad():
        (expected,) = network(torch.from_numpy(np.round(255 * scaled)).to(torch.uint8))
    assert found.shape == (2, 2048)
    # The same network on the same bytes.
    np.testing.assert_array_equal(found, expected.double().numpy())


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_dinov2_is_the_packages_own_network_at_224(tmp_path, suffix):
    """timm's class with random weights in a file, kept for 518 x 518: the same features as by resampling in every call."""
    timm = pytest.importorskip("timm")
    import safetensors.torch

    torch.manual_seed(0)
    name = "vit_small_patch14_dinov2.lvd142m"
    network = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    file = tmp_path / f"weights.{suffix}"
    {"pth": torch.save, "safetensors": safetensors.torch.save_file}[suffix](network.state_dict(), str(file))
    x = np.random.default_rng(0).uniform(0.0, 255.0, (2, 1, 32, 32))
    found = PretrainedFeatures("dinov2", (0.0, 255.0), str(file))(x)
    colours = torch.from_numpy(x / 255).float().expand(-1, 3, -1, -1)
    larger = torch.nn.functional.interpolate(colours, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    mean, deviation = (torch.tensor(network.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        expected = network((larger - mean) / deviation)
    assert found.shape == (2, 384)
    # float32 in twelve blocks; features are of the size of 1.
    np.testing.assert_allclose(found, expected.double().numpy(), rtol=0, atol=1e-5)


def test_importing_the_room_needs_no_torch():
    program = "import sys; sys.modules['torch'] = None; import eigenstep.evaluation, eigenstep.report"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: random_convolutions(x[:, :, :4]), "too small for convolutions, which need 8 numbers along an axis"),
        (lambda x: random_convolutions(np.ones((20, 1, 8, 8))), "all the same number"),
        (lambda x: random_convolutions(x[:1]), "at least 2 items"),
        (lambda x: trained_features(x[:10]), "at least 20 items"),
        (lambda x: trained_features(x, np.zeros(400, dtype=int)), "of at least two kinds"),
        (lambda x: trained_features(x, np.zeros(3, dtype=int)), "`labels` must be 400 integers"),
        (lambda x: trained_features(x, np.linspace(0, 1, 400)), "`labels` must be 400 integers"),
        (lambda x: random_convolutions(x)(x[:, :, :10]), r"must have shape \(n, 1, 12, 12\)"),
        (lambda x: PixelFeatures.of_data(x[:1]), "at least 2 items"),
        (lambda x: PretrainedFeatures("vgg", (0.0, 1.0)), "`features` must be one of"),
        (lambda x: PretrainedFeatures("dinov2", (1.0, 0.0)), "`value_range` must rise"),
        (lambda x: PretrainedFeatures("dinov2", (0.0, 1.0), "none.pth"), "there is no file 'none.pth'"),
        (lambda x: PretrainedFeatures("dinov2", (0.0, 1.0))(np.ones((3, 2, 9, 9))), "images of 1 or 3 channels"),
        (lambda x: features_named(["pixels"], x, weights={"pixels": "x"}), "`weights` must be one of inception, dinov2"),
    ],
)
def test_refusals(images, call, message):
    with pytest.raises(ValueError, match=message):
        call(images[0])


def test_every_kind_has_a_name():
    assert KINDS == ("pixels", "random-convolutions", "trained", "inception", "dinov2")
