"""PixelClassifier and PixelRegressor: features compared with loops over a padded image."""

import pickle
import warnings
from unittest.mock import patch

import dask.array as da
import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import map_coordinates
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.metrics import jaccard_score, r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from sklearn_conv import (
    PixelClassifier,
    PixelRegressor,
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    _pixelwise,
    read_images,
)
from sklearn_conv._engine.symmetry import SYMMETRIES
from sklearn_conv._ridge import all_rows

PAD = 32
"""A multiple of the scales, and more than what a pixel sees."""


def scene(shape=(70, 90), seed=0):
    """Return an image with a rough and a smooth part, and the labels of its pixels."""
    rng = np.random.default_rng(seed)
    labels = np.where(np.arange(shape[1]) < shape[1] // 2, 1, 2) * np.ones((shape[0], 1), int)
    noise = rng.normal(size=shape)
    rough = labels == 2
    return 100 + 10 * noise * (rough if len(shape) == 2 else rough[..., None]) + noise, labels


IMAGE, LABELS = scene((30, 30))


def scribble(labels, fraction=0.05, seed=0):
    known = np.random.default_rng(seed).random(labels.shape) < fraction
    return np.where(known, labels, 0)


def naive_features(model, image):
    """Return the features of all pixels, from definitions and a whole padded image."""
    image = image.reshape(*image.shape[:2], -1)
    padded = np.pad(image, [(PAD, 2 * PAD), (PAD, 2 * PAD), (0, 0)], mode="edge")
    parts = []
    for scale, transformer in zip(model.scales, model.transformers_, strict=True):
        h, w = (length // scale * scale for length in padded.shape[:2])
        blocks = padded[:h, :w].reshape(h // scale, scale, w // scale, scale, -1).mean(axis=(1, 3))
        d = transformer.dilation
        kernels, bias = transformer.kernels_, np.atleast_2d(transformer.bias_)
        extent = [d * (k - 1) + 1 for k in kernels.shape[:2]]
        means = 0
        views = SYMMETRIES[transformer.symmetries]
        for view in views:
            turned = view.apply(kernels[None])[0]
            windows = sliding_window_view(blocks, extent, axis=(0, 1))[..., ::d, ::d]
            if transformer.normalize_patches:
                mean = windows.mean(axis=(2, 3, 4), keepdims=True)
                variance = windows.var(axis=(2, 3, 4), keepdims=True)
                windows = (windows - mean) / np.sqrt(variance + transformer.eps_)
            z = np.einsum("hwcij,ijck->hwk", windows, turned) + transformer.offset_
            sides = (1, -1) if transformer.activation == "split" else (1,)
            values = [np.maximum(side * z + b, 0) for side in sides for b in bias]
            means = means + np.concatenate(values, axis=2) / len(views)
        for box in model.boxes:
            boxes = sliding_window_view(means, (box, box), axis=(0, 1)).mean(axis=(3, 4))
            places = [
                (np.arange(length) + 0.5 + PAD) / scale - 0.5 - (e - 1) // 2 - box // 2
                for length, e in zip(image.shape[:2], extent, strict=True)
            ]
            grid = np.meshgrid(*places, indexing="ij")
            parts += [map_coordinates(boxes[..., k], grid, order=1) for k in range(boxes.shape[2])]
    return np.stack(parts, axis=2)


@st.composite
def models(draw):
    symmetries = draw(st.sampled_from([None, "mirror", "dihedral"]))
    size = draw(st.sampled_from([1, 2, 3, 5] if symmetries == "dihedral" else [(2, 3), 3, (5, 2)]))
    features = StridedConv2DTransformer(
        2,
        size,
        kernels=draw(st.sampled_from(["gaussian", "patches"])),
        activation=draw(st.sampled_from(["relu", "split"])),
        bias=draw(st.sampled_from([0.0, [[0.5], [-0.5]]])),
        dilation=draw(st.sampled_from([1, 2])),
        normalize_patches=size != 1 and draw(st.booleans()),
        symmetries=symmetries,
    )
    scales = draw(st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=2, unique=True))
    boxes = draw(st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=2, unique=True))
    return PixelClassifier(features, scales=scales, boxes=boxes, random_state=0)


@settings(max_examples=15)
@given(models(), st.sampled_from([(40, 50), (130, 9), (33, 20, 3)]))
def test_features_are_means_of_responses_over_boxes_and_turned_kernels(model, shape):
    image, labels = scene(shape[:2])
    if len(shape) == 3:
        image = np.stack([image, image[::-1], image[:, ::-1]], axis=2)
    model.fit([image], [scribble(labels, 0.2)])
    expected = naive_features(model, image)
    weights = np.random.default_rng(0).normal(size=(expected.shape[2], 2))
    tiles = [*_pixelwise._tiles(0, image.shape)]
    for tile, values in model._compute([image], tiles):
        np.testing.assert_allclose(values, tile.cut(expected), atol=1e-9 * expected.max())
    for tile, values in model._compute([image], tiles, weights):
        wanted = tile.cut(expected) @ weights
        np.testing.assert_allclose(values, wanted, atol=1e-9 * np.abs(wanted).max())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_predictions_are_those_of_the_classifier(n_classes):
    image, labels = scene((150, 60))
    labels = labels.copy()
    if n_classes == 3:
        labels[100:], image[100:] = 7, image[100:] + 50
    known = scribble(labels)
    model = PixelClassifier(random_state=0).fit([image], [known])
    rows = naive_features(model, image).reshape(-1, model.classifier_.n_features_in_)
    np.testing.assert_array_equal(
        model.predict([image])[0].ravel(), model.classifier_.predict(rows)
    )
    model.classifier_._solution.later["temperature"] = model.temperature_
    np.testing.assert_allclose(
        model.predict_proba([image])[0].reshape(-1, n_classes),
        model.classifier_.predict_proba(rows),
        atol=1e-5,
    )
    at = known > 0
    forest = RandomForestClassifier(5, random_state=0)
    other = PixelClassifier(classifier=forest, random_state=0).fit([image], [known])
    features = naive_features(other, image)
    forest.fit(features[at].astype("f4"), known[at])
    expected = forest.predict(features.reshape(-1, features.shape[2]))
    assert (other.predict([image])[0].ravel() == expected).mean() > 0.99  # rounding at thresholds
    assert other.predict_proba([image])[0].shape == (150, 60, n_classes)


@pytest.mark.parametrize("tile", [16, 64, 256])
def test_no_tile_can_be_seen(tile):
    image, labels = scene((150, 170))
    model = PixelClassifier(random_state=0).fit([image], [scribble(labels)])
    expected = model.predict_proba([image])[0]
    with patch.object(_pixelwise, "TILE", tile):
        found = model.predict_proba([image])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_images_of_all_kinds(tmp_path):
    pairs = [scene((60, 70), seed) for seed in range(3)]
    images, labels = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    images = np.clip(images, 0, 255).astype(np.uint8)
    known = np.array([scribble(each, seed=i) for i, each in enumerate(labels)])
    copies = images.copy(), known.copy()
    model = PixelClassifier(random_state=0).fit(images, known)
    expected = model.predict(images)
    assert expected.shape == images.shape
    assert expected.dtype == known.dtype
    assert model.score(images, labels) > 0.9
    np.save(tmp_path / "images.npy", images)
    stored = np.load(tmp_path / "images.npy", mmap_mode="r")
    for X in (stored, [*images], [*stored], images[..., np.newaxis]):
        again = PixelClassifier(random_state=0, n_jobs=2).fit(X, [*known])
        np.testing.assert_array_equal(again.predict(X), expected)
    np.testing.assert_array_equal(images, copies[0])
    np.testing.assert_array_equal(known, copies[1])
    parts = [images[0][:40], images[1][:, :50]]
    found = model.predict(parts)
    assert [each.shape for each in found] == [(40, 70), (60, 50)]
    other = np.where(known == 0, 9, known)
    np.testing.assert_array_equal(
        PixelClassifier(unlabeled=9, random_state=0).fit(images, other).predict(images), expected
    )
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(images), expected)


def test_only_places_with_labels_are_read():
    image, labels = scene((600, 600))
    known = np.zeros_like(labels)
    known[10:60, 10], known[10:60, 500] = 1, 2
    image[300:] = np.nan  # This would be an error.
    model = PixelClassifier(random_state=0).fit([image], [known])
    assert model.score([image[:200]], [labels[:200]]) > 0.8
    with pytest.raises(ValueError, match="NaN"):
        model.predict([image])


def test_score_is_the_mean_intersection_over_union():
    image, labels = scene()
    model = PixelClassifier(random_state=0, scales=[1]).fit([image], [scribble(labels, 0.01)])
    known = scribble(labels, 0.5, seed=1)
    known[:5] = np.where(known[:5] > 0, 1, 0)
    at = known > 0
    predicted = model.predict([image])[0]
    expected = jaccard_score(known[at], predicted[at], average="macro")
    assert model.score([image], [known]) == pytest.approx(expected)


def test_score_reads_places_with_labels_only():
    image, labels = scene((600, 300))
    known = np.where(np.arange(600)[:, np.newaxis] < 100, scribble(labels), 0)
    model = PixelClassifier(random_state=0).fit([image], [known])
    expected = model.score([image], [known])
    image[300:] = np.nan  # This would be an error.
    assert model.score([image], [known]) == expected
    with pytest.raises(ValueError, match=r"Image 1 of X has NaN.*at row 256, column 0"):
        model.score([image[:300], image[:, 100:]], [labels[:300], labels[:, 100:]])


def test_a_class_is_found_however_few_of_its_pixels_are_annotated():
    image, labels = scene((120, 140))
    known = np.where(np.arange(140) < 70, labels, 0)
    known[10:100:5, 120] = 2  # 18 pixels, and 8,400 of the other class
    model = PixelClassifier(random_state=0).fit([image], [known])
    assert model.score([image], [labels]) > 0.7
    weights = model.classifier_.class_weight
    assert weights[2] / weights[1] == pytest.approx((8400 / 18) ** 0.5)
    known[:, 20:] = 0
    known[10:20, 120] = 2  # The pixels of a class are in one block.
    model = PixelClassifier(random_state=0).fit([image], [known])
    assert model.score([image], [labels]) > 0.9
    forest = RandomForestClassifier(5, random_state=0)
    assert PixelClassifier(classifier=forest).fit([image], [known]).classifier_.n_classes_ == 2


@pytest.mark.parametrize("labels", [LABELS == 2, (LABELS - 1).astype("u1")])
def test_zero_is_a_class_if_another_label_says_what_is_not_annotated(labels):
    model = PixelClassifier(random_state=0, unlabeled=255).fit([IMAGE], [labels])
    np.testing.assert_array_equal(model.classes_, [0, 1])
    assert model.predict([IMAGE])[0].dtype == labels.dtype
    assert model.score([IMAGE], [labels]) > 0.8


def test_a_stack_of_any_library_becomes_an_array(tmp_path):
    stack = np.stack([IMAGE, IMAGE[::-1], IMAGE + 1])
    model = PixelClassifier(random_state=0).fit(stack, [LABELS] * 3)
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed: .[images]")
    for i, each in enumerate(stack):
        pillow.fromarray(each.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{i}.png")
    torch = pytest.importorskip("torch", reason="torch is not installed: .[test]")
    for X in (stack, torch.tensor(stack), read_images(tmp_path, mode="L")):
        found = model.predict_proba(X)
        assert isinstance(found, np.ndarray)
        assert found.shape == (3, 30, 30, 2)
    np.testing.assert_array_equal(model.predict_proba([*stack]), model.predict_proba(stack))


def test_searches_and_cross_validation_by_image():
    pairs = [scene((50, 60), seed) for seed in range(4)]
    images, known = [p[0] for p in pairs], [scribble(p[1]) for p in pairs]
    model = PixelClassifier(random_state=0)
    assert (cross_val_score(model, images, known, cv=KFold(2)) > 0.8).all()
    search = GridSearchCV(model, {"boxes": [[1], [1, 5]]}, cv=KFold(2)).fit(images, known)
    assert search.best_params_ == {"boxes": [1, 5]}
    assert clone(model).get_params().keys() == model.get_params().keys()
    assert not hasattr(PixelClassifier(classifier=LinearRegression()), "predict_proba")


def test_alpha_is_chosen_by_blocks_that_are_left_out():
    rng = np.random.default_rng(0)
    image = np.repeat(np.repeat(rng.normal(size=(16, 16)), 8, 0), 8, 1)  # neighbors are alike
    labels = np.repeat(np.repeat(rng.integers(1, 3, (4, 4)), 32, 0), 32, 1)  # and labels by chance
    model = PixelClassifier(random_state=0).fit([image], [labels])
    assert model.classifier_.alpha_ > 1000
    probabilities = model.predict_proba([image[::-1]])[0]
    assert np.abs(probabilities - 0.5).mean() < 0.2  # Pixels by themselves would seem certain.
    one = scribble(labels)
    one[32:] = one[:, 32:] = 0
    one[:5, :5] = 3 - labels[0, 0]
    model = PixelClassifier(random_state=0).fit([image], [one])
    assert model.classifier_.alpha_ == _pixelwise.ALPHA  # one block


def test_a_ridge_classifier_that_is_passed_has_its_own_probabilities():
    image, labels = scene()
    known = scribble(labels)
    ridge = StreamingRidgeClassifier([1.0, 100.0])
    model = PixelClassifier(classifier=ridge, random_state=0).fit([image], [known])
    rows = naive_features(model, image).reshape(-1, model.classifier_.n_features_in_)
    expected = model.classifier_.predict_proba(rows)
    found = model.predict_proba([image])[0].reshape(-1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert model.temperature_ == model.classifier_.temperature_ != 1


def test_what_is_fitted_stays_if_parameters_change_or_fit_fails():
    image, labels = scene()
    model = PixelClassifier(random_state=0).fit([image], [scribble(labels)])
    expected = model.predict([image])[0]
    with pytest.raises(ValueError, match="at least two classes"):
        model.fit([image], [np.ones_like(labels)])
    np.testing.assert_array_equal(model.predict([image])[0], expected)
    model.set_params(features=StridedConv2DTransformer(3, 9), scales=[1], boxes=[7, 1])
    np.testing.assert_array_equal(model.predict([image])[0], expected)


def test_numbers_of_pixels():
    image, _ = scene((100, 130))
    numbers = np.linspace(1, 3, 130) * np.ones((100, 1))
    image = np.random.default_rng(0).normal(size=image.shape) * numbers
    known = np.where(np.random.default_rng(1).random(image.shape) < 0.1, numbers, np.nan)
    model = PixelRegressor(random_state=0).fit([image], [known])
    found = model.predict([image])[0]
    assert model.score([image], [numbers]) == pytest.approx(
        r2_score(numbers.ravel(), found.ravel())
    )
    assert model.score([image], [numbers]) > 0.5
    rows = naive_features(model, image).reshape(-1, model.regressor_.n_features_in_)
    np.testing.assert_allclose(found.ravel(), model.regressor_.predict(rows), atol=1e-4)
    other = PixelRegressor(regressor=LinearRegression(), random_state=0).fit([image], [known])
    assert other.score([image], [numbers]) > 0.3
    whole = PixelRegressor(unlabeled=-1, random_state=0).fit(
        [image], [np.nan_to_num(known, nan=-1)]
    )
    np.testing.assert_allclose(whole.predict([image])[0], found)
    with pytest.raises(ValueError, match="infinite numbers or NaN"):
        PixelRegressor(unlabeled=-1).fit([image], [known])


@pytest.mark.parametrize("shape", [(32, 32), (130, 140), (3, 9)])
def test_kernels_are_learned_from_what_is_inside(shape):
    """No window repeats the border, unless the image is smaller than the window."""
    seen = []

    def keep(shape, rng, patches):
        seen.append(patches().reshape(-1, 5, 5))
        return rng.standard_normal(shape)

    image = np.random.default_rng(0).normal(size=shape)
    labels = np.ones(shape, int)
    labels[:, shape[1] // 2 :] = 2
    features = StridedConv2DTransformer(1, 5, kernels=keep)
    PixelClassifier(features, scales=[1], random_state=0).fit([image], [labels])
    (patches,) = seen
    is_repeated = (np.diff(patches, axis=1) == 0).any(axis=(1, 2))
    assert is_repeated.all() if shape[0] < 5 else not is_repeated.any()


def test_fill_values_are_warned_of_once():
    image = np.random.default_rng(0).normal(100, 10, (256, 256))
    image[::16, ::16] = -9999
    labels = np.ones((256, 256), int)
    labels[:, 128:] = 2
    with pytest.warns(UserWarning, match="like a fill value") as caught:
        PixelClassifier(random_state=0).fit([image], [labels])
    assert len(caught) == 1


def test_global_state_is_left_alone():
    state = np.random.get_state()[1].copy()
    PixelClassifier().fit([IMAGE], [LABELS])
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    expected = PixelClassifier(random_state=0).fit([IMAGE], [LABELS]).predict([IMAGE])
    with sklearn.config_context(transform_output="pandas"):
        features = StridedConv2DTransformer(4, 3, random_state=0).set_output(transform="pandas")
        PixelClassifier(features, random_state=0).fit([IMAGE], [LABELS])
        found = PixelClassifier(random_state=0).fit([IMAGE], [LABELS]).predict([IMAGE])
    np.testing.assert_array_equal(found, expected)


def test_large_targets():
    PixelRegressor(random_state=0).fit([IMAGE], [(LABELS * 2e7).astype("f4")])


def test_labels_of_several_dtypes():
    model = PixelClassifier(random_state=0)
    model.fit([IMAGE] * 3, [LABELS, LABELS.astype(np.uint64), np.zeros(LABELS.shape, np.uint64)])
    assert model.classes_.dtype == model.predict([IMAGE])[0].dtype == np.int64


def test_n_jobs_may_change_after_fit(monkeypatch):
    model = PixelClassifier(random_state=0).fit([IMAGE], [LABELS]).set_params(n_jobs=2)
    seen, transform = [], StridedConv2DTransformer.transform

    def keep(self, X):
        seen.append(self.n_jobs)
        return transform(self, X)

    monkeypatch.setattr(StridedConv2DTransformer, "transform", keep)
    model.predict([IMAGE])
    assert {*seen} == {2}


def test_more_features_than_are_multiplied(monkeypatch):
    image, labels = scene()
    expected = PixelClassifier(random_state=0).fit([image], [labels]).predict([image])
    monkeypatch.setattr(all_rows, "MANY_FEATURES", 10)
    found = PixelClassifier(random_state=0).fit([image], [labels]).predict([image])
    np.testing.assert_array_equal(found, expected)


def test_images_are_read_one_after_the_other():
    """Those without labels are not read at all in fit."""

    class Stored:
        def __init__(self, images):
            self.images, self.read = images, []
            self.shape, self.dtype = images.shape, images.dtype

        def __len__(self):
            return len(self.images)

        def __getitem__(self, i):
            self.read.append(i)
            return self.images[i]

    images, labels = np.stack([IMAGE] * 4), np.stack([LABELS, LABELS, 0 * LABELS, 0 * LABELS])
    stored = Stored(images)
    model = PixelClassifier(random_state=0).fit(stored, labels)
    assert {*stored.read} == {0, 1}
    stored.read.clear()
    found = model.predict(stored)
    assert stored.read == [0, 1, 2, 3]
    expected = PixelClassifier(random_state=0).fit(images, labels).predict(images)
    np.testing.assert_array_equal(found, expected)


def test_no_warning_of_few_or_constant_images():
    image, labels = np.zeros((40, 40), np.uint8), np.ones((40, 40), int)
    image[:, 20:], labels[:, 20:] = 255, 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PixelClassifier(random_state=0).fit([image], [labels])
        assert model.score([image], [labels]) > 0.9


BAD_INPUT = {
    "features": ({"features": 3}, {}, TypeError, "'features' parameter"),
    "power": ({"features": StridedConv2DTransformer(power=0.5)}, {}, ValueError, "power=1"),
    "missing": (
        {"features": StridedConv2DTransformer(missing="ignore")},
        {},
        ValueError,
        "missing",
    ),
    "turned": (
        {"features": StridedConv2DTransformer(kernel_size=(2, 3), symmetries="dihedral")},
        {},
        ValueError,
        "square kernels",
    ),
    "random_state": ({"random_state": "x"}, {}, TypeError, "'random_state' parameter"),
    "n_jobs": ({"n_jobs": 0}, {}, ValueError, "'n_jobs' parameter of PixelClassifier"),
    "turned windows": (
        {"features": StridedConv2DTransformer(dilation=(1, 2), symmetries="dihedral")},
        {},
        ValueError,
        "one dilation",
    ),
    "scales": ({"scales": [3]}, {}, ValueError, "'scales' parameter.*divisors of 128"),
    "one scale": ({"scales": 1}, {}, TypeError, "'scales' parameter"),
    "boxes": ({"boxes": [2]}, {}, ValueError, "'boxes' parameter.*odd"),
    "no boxes": ({"boxes": []}, {}, ValueError, "'boxes' parameter"),
    "classifier": ({"classifier": "svm"}, {}, TypeError, "'classifier' parameter"),
    "single image": ({}, {"X": IMAGE, "y": LABELS}, ValueError, r"single image as \[image\]"),
    "number": ({}, {"X": 3}, TypeError, "array or a list of images"),
    "path": ({}, {"X": "scene.tif"}, TypeError, "not str"),
    "dict": ({}, {"X": {"scene": IMAGE}}, TypeError, "not dict"),
    "paths": ({}, {"X": ["scene.tif"]}, ValueError, r"read_images\(files\)"),
    "no image": ({}, {"X": [], "y": []}, ValueError, "0 images"),
    "channels": ({}, {"X": [IMAGE, np.ones((9, 9, 3))], "y": [LABELS] * 2}, ValueError, "channels"),
    "number of labels": ({}, {"y": [LABELS] * 2}, ValueError, "as many label images, not 2"),
    "no labels": ({}, {"y": None}, ValueError, "as many label images, not NoneType"),
    "other size": ({}, {"y": [LABELS[:9]]}, ValueError, r"shape \(9, 30\)"),
    "nothing annotated": ({}, {"y": [LABELS * 0]}, ValueError, "No pixel has a label"),
    "one class": ({}, {"y": [LABELS * 0 + 1]}, ValueError, "at least two classes"),
    "float labels": ({}, {"y": [LABELS * 1.0]}, TypeError, "PixelRegressor"),
    "negative labels": ({}, {"y": [LABELS - 3]}, ValueError, "labels are at least 0"),
    "objects": ({}, {"y": [np.arange(900).reshape(30, 30)]}, ValueError, "numbers of objects"),
    "names": ({}, {"y": [LABELS.astype(str)]}, TypeError, "each name of a class by an integer"),
    "unlabeled": ({"unlabeled": None}, {}, TypeError, "'unlabeled' parameter.*an integer"),
    "mask": ({}, {"y": [LABELS == 2]}, ValueError, "unlabeled to another number"),
    "hidden labels": ({}, {"y": [np.ma.masked_equal(LABELS, 1)]}, ValueError, r"y\.filled\(0\)"),
    "hidden pixels, Dask": (
        {},
        {"X": [da.from_array(np.ma.masked_less(IMAGE, 90))]},
        ValueError,
        "masked pixels",
    ),
    "hidden labels, Dask": (
        {},
        {"y": [da.from_array(np.ma.masked_equal(LABELS, 1))]},
        ValueError,
        r"y\.filled\(0\)",
    ),
    "hidden pixels": ({}, {"X": [np.ma.masked_less(IMAGE, 90)]}, ValueError, "masked pixels"),
    "color image": ({}, {"X": np.ones((30, 30, 3)), "y": LABELS}, ValueError, r"as \[image\] and"),
    "channels first": ({}, {"X": [np.ones((3, 30, 30))]}, ValueError, "moveaxis"),
    "one-hot": ({}, {"y": [np.stack([LABELS] * 2, 2)]}, ValueError, "no channels"),
    "NaN": ({}, {"X": [IMAGE * np.nan]}, ValueError, "NaN"),
    "text": ({}, {"X": [np.full((30, 30), "a")]}, (TypeError, ValueError), "X"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input(name):
    parameters, data, error, message = BAD_INPUT[name]
    model = PixelClassifier(random_state=0).set_params(**parameters)
    arguments = {"X": [IMAGE], "y": [LABELS]} | data
    with pytest.raises(error, match=message):
        model.fit(**arguments)
    with pytest.raises(NotFittedError):
        model.predict([IMAGE])


def test_images_with_other_channels_than_in_fit():
    model = PixelClassifier(random_state=0).fit([IMAGE], [LABELS])
    colors = np.stack([IMAGE] * 3, axis=2)
    with pytest.raises(ValueError, match=r"channels.*\[image\]"):
        PixelClassifier(random_state=0).fit([colors], [LABELS]).predict(colors)
    with pytest.raises(ValueError, match="0 images"):
        model.predict([])
    with pytest.raises(ValueError, match="channels"):
        model.predict([np.ones((9, 9, 3))])
