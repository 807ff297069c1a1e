"""The displays show the right data, and their text can be read."""

import subprocess
import sys
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.text import Text
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC

from sklearn_conv import StridedConv2DTransformer, inspection
from sklearn_conv.inspection import (
    ClassActivationDisplay,
    FeatureMapDisplay,
    GridSearchDisplay,
    KernelDisplay,
    MapDisplay,
)

RNG = np.random.default_rng(0)
COLOR = RNG.random((30, 12, 15, 3))
DIGITS = load_digits()
STEP = "stridedconv2dtransformer"

explain = ClassActivationDisplay.from_estimator
draw_kernels = KernelDisplay.from_estimator
draw_maps = FeatureMapDisplay.from_estimator
draw_search = GridSearchDisplay.from_estimator


@pytest.fixture(autouse=True)
def _without_a_screen():
    with mpl.rc_context({"backend": "agg"}):
        yield
        plt.close("all")


def fit(images=COLOR, **settings):
    return StridedConv2DTransformer(**{"random_state": 0, **settings}).fit(images)


def make_model(images=COLOR, **settings):
    labels = np.where(np.arange(len(images)) % 2, "corroded", "sound")
    transformer = StridedConv2DTransformer(**{"n_kernels": 8, "random_state": 0, **settings})
    return make_pipeline(transformer, RidgeClassifier()).fit(images, labels)


def search(grid, cv=2, **options):
    model = make_pipeline(StridedConv2DTransformer(4, random_state=0), RidgeClassifier())
    grid = {f"{STEP}__{name}": values for name, values in grid.items()}
    return GridSearchCV(model, grid, cv=cv, **options).fit(DIGITS.images[:100], DIGITS.target[:100])


def visible_texts(figure):
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    hidden = {id(text) for ax in all_axes(figure) if not ax.axison for text in ax.texts}
    for ax in all_axes(figure):
        if not ax.axison:
            for axis in (ax.xaxis, ax.yaxis):
                hidden |= {id(text) for text in axis.findobj(Text)}
            hidden -= {id(text) for text in ax.texts}
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklabels(), axis.get_majorticklocs(), strict=True)
            hidden |= {id(label) for label, at in ticks if not low <= at <= high}
    return [text for text in texts if id(text) not in hidden]


def all_axes(figure):
    axes = list(figure.axes)
    for ax in axes:
        axes.extend(ax.child_axes)
    return axes


PICTURES = {
    "kernels of one channel": lambda: draw_kernels(fit(DIGITS.images)),
    "kernels in color": lambda: draw_kernels(fit(kernel_size=5)),
    "many kernels": lambda: draw_kernels(fit(n_kernels=300)),
    "all of many kernels": lambda: draw_kernels(fit(n_kernels=300), indices=np.arange(300)),
    "two kernels": lambda: draw_kernels(fit(n_kernels=2)),
    "flat kernels": lambda: draw_kernels(fit(kernel_size=(1, 9))),
    "tall kernels": lambda: draw_kernels(fit(kernel_size=(9, 1))),
    "kernels of 13 channels": lambda: draw_kernels(fit(RNG.random((9, 8, 8, 13)))),
    "kernels of a single weight": lambda: draw_kernels(fit(kernel_size=1)),
    "maps": lambda: draw_maps(make_model(), COLOR[0]),
    "maps of both sides": lambda: draw_maps(
        fit(activation="split", pool_grid=3), COLOR[0], n_maps=11
    ),
    "maps of both sides of several biases": lambda: draw_maps(
        fit(activation="split", bias=[[-0.5], [0.1]], symmetries="dihedral", power=0.5), COLOR[0]
    ),
    "signed maps": lambda: draw_maps(fit(activation="identity", stride=3), COLOR[0]),
    "one map": lambda: draw_maps(fit(n_kernels=1), COLOR[0]),
    "maps of one row": lambda: draw_maps(fit(RNG.random((5, 1, 90))), RNG.random((1, 90))),
    "evidence": lambda: explain(make_model(), COLOR[0]),
    "evidence for a class versus another one": lambda: explain(
        make_model(symmetries="dihedral", power=0.5),
        COLOR[0],
        class_of_interest="corroded",
        versus="sound",
    ),
    "evidence in 13 channels": lambda: explain(
        make_model(RNG.random((9, 30, 8, 13))), RNG.random((30, 8, 13))
    ),
    "a search": lambda: draw_search(search({"stride": [1, 2, 3], "kernel_size": [2, (3, 5), 4]})),
    "a search in one row": lambda: draw_search(
        search({"stride": [1, 2, 3, 4, 5, 6], "kernel_size": [3]})
    ),
    "a search over names": lambda: draw_search(
        search({"kernels": ["gaussian", "patches", "kmeans"], "activation": ["relu", "split"]}),
        x="activation",
        y="kernels",
    ),
    "a map of classes": lambda: MapDisplay.from_predictions(
        make_map((11, 14)),
        RNG.random((46, 61, 3)),
        size=6,
        step=4,
        labels=["forest $1$", "rock", "water"],
    ),
    "a map of numbers": lambda: MapDisplay.from_predictions(
        RNG.random((6, 7)), COLOR[0], size=2, step=2
    ),
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_text_can_be_read_and_given_axes_are_used(draw):
    shown = draw()
    texts = visible_texts(shown.figure_)
    assert texts
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    assert min(text.get_size() for text in texts) >= 4
    width, height = shown.figure_.bbox.size
    for name, box in boxes:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside, f"{name!r} is cut off"
    for (name, box), (other, other_box) in combinations(boxes, 2):
        box, other_box = box.shrunk(0.95, 0.95), other_box.shrunk(0.95, 0.95)
        assert not box.overlaps(other_box), f"{name!r} lies on {other!r}"

    figure, (left, right) = plt.subplots(1, 2)
    assert shown.plot(ax=right) is shown
    assert (shown.ax_, shown.figure_) == (right, figure)
    figure.canvas.draw()
    assert not left.images


def test_the_gallery_is_sorted_and_on_one_scale():
    fine, smooth = np.array([[1, -1], [-1, 1.0]]), np.array([[1, 1], [0.9, 1]])
    kernels = np.stack([100 * fine, smooth], axis=2)[:, :, np.newaxis]
    shown = KernelDisplay(kernels, ["fine", "smooth"]).plot()
    assert shown.order_.tolist() == [1, 0]
    assert [text.get_text() for text in shown.ax_.texts] == ["smooth", "fine"]
    first, second = (image.get_array() for image in shown.ax_.images)
    # The weights of the fine kernel are 100 times as large, but it has the same contrast.
    np.testing.assert_allclose(second, 0.5 + 0.5 * fine, atol=0.02)
    assert first.min() > 0.9


def test_chosen_kernels_and_channels():
    transformer = fit(n_kernels=10)
    shown = draw_kernels(transformer, indices=[7, 2], channels=1)
    assert shown.order_.tolist() == [7, 2]
    assert [text.get_text() for text in shown.ax_.texts] == ["kernel007", "kernel002"]
    kernel = transformer.kernels_[:, :, 1, 7]
    tile = shown.ax_.images[0].get_array()
    assert np.corrcoef(tile.ravel(), kernel.ravel())[0, 1] > 0.95
    with pytest.raises(TypeError, match="color"):
        draw_kernels(transformer, color="red")
    for channels, shape in [([2, 1, 0], (3, 3, 3)), ([0, 2], (3, 7)), (None, (3, 3, 3))]:
        shown = draw_kernels(transformer, channels=channels)
        assert shown.ax_.images[0].get_array().shape == shape


def test_maps_are_the_strongest_and_the_grid_cuts_them():
    images = np.zeros((2, 8, 8))
    images[0, :, 4:] = 1  # an edge from left to right
    kernels = np.zeros((3, 3, 1, 3))
    kernels[1, :, 0] = [[0, -0.5, 0], [0, 0, 0.2], [0, 0.5, 0]]
    transformer = fit(images, kernels=kernels, padding="valid", pool_grid=(2, 3), activation="abs")
    shown = draw_maps(transformer, images[0], n_maps=2)
    maps = transformer.set_params(pooling=None, flatten=False).transform(images[:1])[0]
    strongest = np.argsort(-maps.mean(axis=(0, 1)))[:2]
    np.testing.assert_array_equal(shown.maps, maps[..., strongest])
    assert shown.names == [f"kernel{k:03d}" for k in strongest]
    # The maps are 6 x 6, and the first window is centered on pixel 1.
    assert [cut.tolist() for cut in shown.cuts] == [[2.5], [1.5, 3.5]]
    assert [cut.tolist() for cut in shown.image_cuts] == [[3.5], [2.5, 4.5]]
    transformer.set_params(pooling="mean", flatten=True, pool_grid=[1, 2, (1, 3)])
    shown = draw_maps(transformer, images[0], n_maps=2)
    assert [cut.tolist() for cut in shown.cuts] == [[2.5], [1.5, 2.5, 3.5]]


def test_a_batch_is_told_apart_from_an_image():
    gray = DIGITS.images[:, :, :6]
    labels = np.arange(len(gray)) % 2
    model = make_pipeline(StridedConv2DTransformer(4, random_state=0), RidgeClassifier())
    model.fit(gray, labels)
    doubled = make_pipeline(FunctionTransformer(lambda images: 2 * images), *model).fit(
        gray[..., np.newaxis], labels
    )
    for draw in (explain, draw_maps):
        for fitted in (model, doubled):
            for n in (1, 2, 6, 8):
                with pytest.raises(ValueError, match=rf"batch of {n} gray images; .*images\[0\]"):
                    draw(fitted, gray[:n])
            with pytest.raises(ValueError, match=r"images\[0\]"):
                draw(fitted, gray[:1, :, :, np.newaxis])
            draw(fitted, gray[0])
            draw(fitted, gray[0, :, :, np.newaxis])
        with pytest.raises(ValueError, match=r"channels come first; pass image.transpose\(1, 2, 0"):
            draw(make_model(), COLOR[0].transpose(2, 0, 1))
        for row in (gray[0].ravel(), gray[:1].reshape(1, -1)):
            with pytest.raises(ValueError, match=r"pass image.reshape\(8, 6, 1\)"):
                draw(model, row)
        # The only axis of a signal is not mistaken for a batch.
        signals = make_model(RNG.random((9, 1, 30)))
        draw(signals, RNG.random((1, 30)))


def test_the_image_that_the_transformer_receives_is_drawn():
    images = DIGITS.images[..., np.newaxis]
    turn = FunctionTransformer(lambda images: np.rot90(images, axes=(1, 2)))
    model = make_pipeline(turn, StridedConv2DTransformer(8, random_state=0), RidgeClassifier())
    model.fit(images, DIGITS.target)
    for draw in (explain, FeatureMapDisplay.from_estimator):
        shown = draw(model, images[3])
        np.testing.assert_array_equal(np.squeeze(shown.image), np.rot90(DIGITS.images[3]))
    plt.close("all")


@pytest.mark.parametrize(
    "function", [lambda X: X[..., ::-1], lambda X: gaussian_filter(X, (0, 1, 1))]
)
def test_steps_receive_gray_images_without_another_axis(function):
    model = make_pipeline(
        FunctionTransformer(function),
        StridedConv2DTransformer(8, random_state=0),
        RidgeClassifier(),
    ).fit(DIGITS.images, DIGITS.target)
    shown = explain(model, DIGITS.images[3], class_of_interest=3)
    decision = model.decision_function(DIGITS.images[3:4])[0, 3]
    assert shown.evidence.sum() == pytest.approx(decision)
    FeatureMapDisplay.from_estimator(model, DIGITS.images[3])
    plt.close("all")


def test_an_image_that_a_step_crops():
    model = make_pipeline(
        FunctionTransformer(lambda images: images[:, 2:]),
        StridedConv2DTransformer(4, random_state=0),
        RidgeClassifier(),
    ).fit(COLOR, np.arange(30) % 2)
    shown = explain(model, COLOR[0])
    np.testing.assert_array_equal(shown.image, COLOR[0, 2:])
    assert shown.evidence.shape == (10, 15)
    assert shown.evidence.sum() == pytest.approx(abs(model.decision_function(COLOR[:1])[0]))


def test_each_map_has_its_own_scale():
    maps = np.abs(RNG.normal(size=(40, 40, 4))) * [100, 1, 1e-3, 0]
    maps[0, 0] = 1e6  # a single large response does not make the others dark
    cuts = np.array([]), np.array([])
    for values, is_signed in ((maps, False), (maps - 0.3 * maps[::-1], True)):
        shown = FeatureMapDisplay(COLOR[0], values, list("abcd"), cuts, cuts).plot()
        for panel, drawn in zip(shown.axes_[1:4], np.moveaxis(values, 2, 0)[:3], strict=True):
            (image,) = panel.images
            assert image.get_clim() == (0, 1)
            fractions = np.asarray(image.get_array())
            spread = np.quantile(fractions, [0.05, 0.95])
            assert spread[1] - spread[0] > 0.3
            assert (fractions > 1).mean() <= 0.011
            # Equal fractions are equal responses, and 0 is at 0 or in the middle.
            slope, at_zero = np.polyfit(drawn.ravel(), fractions.ravel(), 1)
            np.testing.assert_allclose(fractions, slope * drawn + at_zero, rtol=1e-6, atol=1e-6)
            assert at_zero == pytest.approx(0.5 if is_signed else 0, abs=0.01)
            _, high = panel.get_title().split("\n")[1].split(" to ")
            assert float(high) == pytest.approx((1 - at_zero) / slope, rel=0.1)


def test_cuts_follow_stride_dilation_and_padding():
    transformer = fit(
        RNG.random((3, 20, 21)), kernel_size=(3, 2), stride=(2, 3), dilation=(2, 1), padding=(1, 4)
    )
    shown = draw_maps(transformer, RNG.random((20, 21)))
    rows, columns = (n // 2 for n in shown.maps.shape[:2])
    # A cut is in the middle between the centers of the windows on both sides.
    centers = [2 * (rows - 1) - 1 + 2, 2 * rows - 1 + 2]
    assert shown.image_cuts[0].tolist() == [np.mean(centers)]
    centers = [3 * (columns - 1) - 4 + 0.5, 3 * columns - 4 + 0.5]
    assert shown.image_cuts[1].tolist() == [np.mean(centers)]


def test_maps_are_those_of_the_image_alone():
    """A mean over mirrored images would not lie on the image."""
    shown = draw_maps(fit(symmetries="dihedral", power=0.5), COLOR[0])
    expected = draw_maps(fit(), COLOR[0])
    np.testing.assert_allclose(shown.maps, expected.maps, rtol=1e-6)
    assert shown.names == expected.names


def test_displays_print_nothing(capsys):
    transformer = fit(verbose=1)
    capsys.readouterr()
    draw_maps(transformer, COLOR[0])
    assert not capsys.readouterr().out


def test_maps_that_are_not_pooled_have_no_grid():
    shown = draw_maps(fit(pooling=None), COLOR[0])
    assert [len(cut) for cut in shown.cuts] == [0, 0]


def test_the_class_of_the_evidence():
    model = make_model()
    decision = model.decision_function(COLOR[:1])[0]
    predicted = explain(model, COLOR[0])
    assert predicted.class_name == model.predict(COLOR[:1])[0]
    assert predicted.evidence.sum() == pytest.approx(abs(decision))
    for name, sign in [("corroded", -1), ("sound", 1)]:
        shown = explain(model, COLOR[0], class_of_interest=name)
        assert shown.evidence.sum() == pytest.approx(sign * decision)
        assert name in shown.axes_[1].get_title()


def test_classes_are_not_compared_as_strings():
    model = make_pipeline(StridedConv2DTransformer(4, random_state=0), RidgeClassifier())
    model.fit(DIGITS.images[:50], DIGITS.target[:50])
    shown = explain(model, DIGITS.images[0], class_of_interest=3)
    assert shown.class_name == "3"
    with pytest.raises(ValueError, match=r"one of \[0, 1, .*Got '3' instead"):
        explain(model, DIGITS.images[0], class_of_interest="3")


ODD = [r"$\frac{$", "$", "a$b$c", r"\$5", r"$\unknown$", "x_y^{", "%", "{}"]


@pytest.mark.parametrize("name", ODD)
def test_names_of_the_user_are_drawn_as_they_are(name):
    labels = np.where(np.arange(30) % 2, name, "other")
    transformer = StridedConv2DTransformer(4, random_state=0)
    model = make_pipeline(transformer, RidgeClassifier()).fit(COLOR, labels)
    evidence = explain(model, COLOR[0], class_of_interest=name)
    numbers = np.arange(4.0).reshape(2, 2)
    cuts = np.array([]), np.array([])
    shown = [
        evidence,
        KernelDisplay(transformer.kernels_, [name] * 4).plot(),
        FeatureMapDisplay(COLOR[0], COLOR[0], [name] * 3, cuts, cuts).plot(),
        GridSearchDisplay(numbers, numbers, numbers, [name, "b"], [name, 1], name, name).plot(),
    ]
    for display in shown:
        with mpl.rc_context({"text.usetex": False}):
            texts = [text.get_text() for text in visible_texts(display.figure_)]
        assert any(name in text for text in texts)


@pytest.mark.parametrize("usetex", [False, True])
def test_names_of_the_user_are_never_given_to_tex(usetex):
    with mpl.rc_context({"text.usetex": usetex}):
        model = make_model()
        shown = explain(model, COLOR[0])
        title = shown.axes_[1].title
    assert not title.get_usetex()
    assert not title.get_parse_math()


def test_decisions_between_pairs_of_classes_are_not_evidence_for_a_class():
    svc = SVC(kernel="linear", decision_function_shape="ovo")
    model = make_pipeline(StridedConv2DTransformer(4, random_state=0), svc)
    model.fit(DIGITS.images[:50], DIGITS.target[:50])
    with pytest.raises(ValueError, match="45 decisions for 10 classes; use class_activation_map"):
        explain(model, DIGITS.images[0])


def squares(shown, found):
    """Yield the square of each result of a search, and its number."""
    for i, point in enumerate(found.cv_results_["params"]):
        row = shown.y_values.index(point[f"{STEP}__{shown.y}"])
        yield (row, shown.x_values.index(point[f"{STEP}__{shown.x}"])), i


def test_the_best_of_other_parameters_is_shown():
    found = search({"stride": [1, 2], "kernel_size": [2, 3], "n_kernels": [4, 1]})
    shown = draw_search(found, x="stride", y="kernel_size")
    scores = found.cv_results_["mean_test_score"]
    for square, score in np.ndenumerate(shown.scores):
        here = [i for other, i in squares(shown, found) if other == square]
        assert score == scores[here].max()
        best = here[int(scores[here].argmax())]
        if (scores[here] == score).sum() == 1:
            assert shown.fit_times[square] == found.cv_results_["mean_fit_time"][best]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, ("stride", "bias")),
        ({"x": "bias"}, ("bias", "stride")),
        ({"x": f"{STEP}__stride"}, ("stride", "bias")),
        ({"y": "bias"}, ("stride", "bias")),
        ({"y": "stride"}, ("bias", "stride")),
        ({"x": "bias", "y": f"{STEP}__stride"}, ("bias", "stride")),
    ],
    ids=str,
)
def test_any_two_parameters_can_be_drawn(chosen, expected):
    found = search({"stride": [1, 2, 3], "bias": [-0.1, 0]})
    shown = draw_search(found, **chosen)
    assert (shown.x, shown.y) == expected
    assert shown.axes_[0].get_xlabel() == shown.x
    assert shown.axes_[0].get_ylabel() == shown.y
    values = {"stride": [1, 2, 3], "bias": [-0.1, 0]}
    assert (shown.x_values, shown.y_values) == (values[shown.x], values[shown.y])
    for square, i in squares(shown, found):
        assert shown.scores[square] == found.cv_results_["mean_test_score"][i]


def test_the_spread_over_folds_and_the_best_square():
    found = search({"stride": [1, 2, 3], "bias": [-0.1, 0]}, cv=4)
    shown = draw_search(found)
    results = found.cv_results_
    for square, i in squares(shown, found):
        folds = [results[f"split{fold}_test_score"][i] for fold in range(4)]
        assert shown.score_stds[square] == pytest.approx(np.std(folds))
    texts = [text.get_text() for text in shown.axes_[0].texts]
    assert texts == [
        f"{score:.3f}\n\u00b1 {std:.3f}"
        for score, std in zip(shown.scores.flat, shown.score_stds.flat, strict=True)
    ]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([[0.5, 0.9], [0.7, np.nan]], [(0, 1)]),
        ([[-3.0, -2.0], [-2.0, -9.0]], [(0, 1), (1, 0)]),
        ([[np.nan, np.nan]], []),
    ],
)
def test_the_best_squares_are_framed(scores, best):
    scores = np.array(scores)
    shown = GridSearchDisplay(
        scores, scores, scores, [*range(scores.shape[1])], [*range(scores.shape[0])], "x", "y"
    ).plot()
    frames = [patch.get_bbox() for patch in shown.axes_[0].patches]
    assert [(round((f.y0 + f.y1) / 2), round((f.x0 + f.x1) / 2)) for f in frames] == best
    assert not shown.axes_[1].patches


def test_parameters_of_the_same_name_keep_their_steps():
    model = make_pipeline(PCA(), RidgeClassifier())
    rows = DIGITS.data[:60, 20:40]
    grid = {"pca__random_state": [0, 1], "ridgeclassifier__random_state": [0]}
    found = GridSearchCV(model, grid, cv=2).fit(rows, DIGITS.target[:60])
    shown = draw_search(found)
    assert (shown.x, shown.y) == ("ridgeclassifier__random_state", "pca__random_state")
    with pytest.raises(ValueError, match="2 of the searched parameters are named"):
        draw_search(found, x="random_state")


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.FitFailedWarning", "ignore:One or more of the test scores"
)
def test_settings_that_failed_or_were_not_tried():
    found = search({"kernel_size": [3, 9], "padding": ["same", "valid"], "stride": [1]})
    shown = draw_search(found, x="padding", y="kernel_size")
    assert np.isnan(shown.scores).tolist() == [[False, False], [False, True]]
    assert "no score" in [text.get_text() for text in shown.axes_[0].texts]
    best = draw_search(found, x="stride", y="kernel_size")  # of both paddings
    np.testing.assert_array_equal(best.scores[:, 0], np.nanmax(shown.scores, axis=1))
    model = make_pipeline(StridedConv2DTransformer(4, random_state=0), RidgeClassifier())
    grid = {f"{STEP}__stride": [1, 2, 3], f"{STEP}__kernel_size": [2, 3, 4]}
    found = RandomizedSearchCV(model, grid, n_iter=3, cv=2, random_state=0)
    shown = draw_search(found.fit(DIGITS.images[:99], DIGITS.target[:99]))
    assert np.isfinite(shown.scores).sum() == 3


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: draw_kernels(StridedConv2DTransformer()), NotFittedError, "fit"),
        (lambda: draw_kernels(RidgeClassifier()), TypeError, "Got RidgeClassifier"),
        (lambda: draw_kernels(fit(), indices=[64]), ValueError, "from 0 to 63"),
        (lambda: draw_kernels(fit(), indices=[]), TypeError, "from 0 to 63"),
        (lambda: draw_kernels(fit(), channels=3), ValueError, "from 0 to 2"),
        (lambda: draw_kernels(fit(), channels="red"), TypeError, "'channels'"),
        (lambda: draw_maps(StridedConv2DTransformer(), COLOR[0]), NotFittedError, "fit"),
        (lambda: draw_maps(fit(), COLOR[0, :5]), ValueError, "was fitted on images of shape"),
        (lambda: draw_maps(fit(), COLOR), ValueError, r"images\[0\]"),
        (lambda: draw_maps(fit(), COLOR[0], n_maps=0), ValueError, "'n_maps'"),
        (lambda: explain(make_model(), COLOR[:2]), ValueError, "must be a single image"),
        (
            lambda: explain(make_model(), COLOR[0], class_of_interest="rusty"),
            ValueError,
            r"one of \['corroded', 'sound'\]",
        ),
        (lambda: draw_search(fit()), TypeError, "requires a fitted search"),
        (lambda: draw_search(GridSearchCV(RidgeClassifier(), {})), NotFittedError, "not fitted"),
        (
            lambda: draw_search(search({"stride": [1]})),
            ValueError,
            "draws two searched parameters, but only .*stride'] was searched",
        ),
        (
            lambda: draw_search(search({"stride": [1], "n_kernels": [2]}), x="kernel_size"),
            ValueError,
            "0 of the searched parameters are named 'kernel_size'; choose x and y from .*n_kernels",
        ),
        (
            lambda: draw_search(search({"stride": [1], "n_kernels": [2], "bias": [0]}), x="stride"),
            ValueError,
            r"3 were searched; choose x and y from \[.*bias', .*n_kernels', .*stride'\]",
        ),
        (
            lambda: draw_search(
                search(
                    {"stride": [1], "kernel_size": [2]},
                    scoring=["accuracy", "f1_macro"],
                    refit="accuracy",
                )
            ),
            ValueError,
            "one metric",
        ),
    ],
)
def test_errors(draw, error, message):
    with pytest.raises(error, match=message):
        draw()


def test_without_matplotlib_only_the_displays_raise_an_error():
    code = """
import sys
sys.modules["matplotlib"] = None
import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from sklearn_conv import StridedConv2DTransformer
from sklearn_conv.inspection import KernelDisplay, class_activation_map
images = np.random.default_rng(0).random((6, 5, 5))
model = make_pipeline(StridedConv2DTransformer(), RidgeClassifier()).fit(images, [0, 1] * 3)
print(class_activation_map(model, images).shape)
try:
    KernelDisplay.from_estimator(model)
except ImportError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "(6, 5, 5, 1)" in result.stdout
    assert "KernelDisplay requires matplotlib, which is not installed" in result.stdout


def test_every_display_keeps_scikit_learns_convention():
    displays = [
        getattr(inspection, name) for name in inspection.__all__ if name.endswith("Display")
    ]
    assert len(displays) == 5
    for cls in displays:
        assert hasattr(cls, "from_estimator") or hasattr(cls, "from_predictions")
        assert "ax : " in cls.plot.__doc__ or "ax\n" in cls.plot.__doc__


def test_images_of_8_bits_are_shown_as_they_are_and_others_say_how_they_are_scaled():
    images = np.random.default_rng(0).integers(60, 90, (6, 8, 8, 3), np.uint8)
    for X, title in ((images, "image"), (images / 255, "image\n0.235 to 0.349")):
        pipeline = make_pipeline(StridedConv2DTransformer(3, random_state=0), RidgeClassifier())
        pipeline.fit(X, [0, 1, 2] * 2)
        for display in (FeatureMapDisplay, ClassActivationDisplay):
            panel = display.from_estimator(pipeline, X[0]).axes_[0]
            assert panel.get_title() == title
            shown = panel.images[0].get_array()
            low, high = (0, 255) if X is images else (60, 89)
            np.testing.assert_allclose(shown, (images[0] - low) / (high - low), atol=0.01)
        _, ax = plt.subplots()
        given = ClassActivationDisplay.from_estimator(pipeline, X[0], ax=ax)
        assert len(given.axes_) == len(ax.child_axes) == 1
        plt.close("all")


# Maps


def make_map(shape):
    labels = np.array(["forest $1$", "rock", "water"])[np.arange(np.prod(shape)) % 3].reshape(shape)
    return np.ma.array(labels, mask=np.arange(np.prod(shape)).reshape(shape) % 7 == 0)


@pytest.mark.parametrize("with_axes", [False, True])
def test_a_map_of_classes_has_a_legend_and_opacity(with_axes):
    scene, values = RNG.random((46, 61, 3)), make_map((11, 14))
    labels = ["forest $1$", "rock", "water"]
    probability = RNG.random((11, 14))
    ax = plt.subplots(layout="constrained")[1] if with_axes else None
    display = MapDisplay.from_predictions(
        values, scene, size=6, step=4, labels=labels, probability=probability, ax=ax
    )
    assert len(display.axes_) == 1 if with_axes else 2
    texts = {text.get_text() for text in visible_texts(display.figure_)}
    assert {*labels, "map"} <= texts
    drawn = display.axes_[-1].images[-1]
    pixels = drawn.get_array()
    np.testing.assert_array_equal(pixels[..., 3], np.where(values.mask, 0, probability))
    colors = [pixels[values == label][:, :3] for label in labels]
    assert [len(np.unique(each, axis=0)) for each in colors] == [1, 1, 1]
    assert len(np.unique(np.concatenate(colors), axis=0)) == 3
    # The first pixel of the map is at the center of the first tile.
    left, right, bottom, top = drawn.get_extent()
    assert (left + (right - left) / 14 / 2, top + (bottom - top) / 11 / 2) == (2.5, 2.5)
    assert display.axes_[-1].get_xlim() == (-0.5, 60.5)


def test_a_map_of_numbers_and_a_large_scene(monkeypatch):
    monkeypatch.setattr("sklearn_conv.inspection._map.MAX_SIDE", 20)
    scene = np.ma.array(RNG.random((46, 61)))
    scene[:4] = np.ma.masked
    values = RNG.random((23, 30))
    values[2, 3] = np.nan
    display = MapDisplay.from_predictions(values, scene, cmap="magma")
    assert display.image.shape == (11, 15, 1)
    assert display.extent == (-0.5, 14.5, 11, -0.5)
    drawn = display.axes_[-1].images[-1]
    np.testing.assert_array_equal(drawn.get_alpha() == 0, np.isnan(values))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": None}, TypeError, "labels=model.classes_"),
        ({"size": 5}, ValueError, "does not fit the scene"),
        ({"values": np.zeros((2, 3, 4))}, ValueError, r"shape \(rows, columns\)"),
        ({"probability": np.zeros((2, 3))}, ValueError, "'probability' parameter of MapDisplay"),
        ({"scene": "scene.tif"}, TypeError, "'scene' parameter of MapDisplay"),
    ],
)
def test_wrong_maps_are_refused(change, error, message):
    arguments = {"values": make_map((11, 14)), "scene": RNG.random((46, 61)), "size": 6, "step": 4}
    with pytest.raises(error, match=message):
        MapDisplay.from_predictions(
            **arguments | {"labels": ["forest $1$", "rock", "water"]} | change
        )


def test_the_strongest_maps_of_an_image_with_missing_pixels():
    image = DIGITS.images[0].copy()
    image[:3, :3] = 0  # Windows with the pixel that is missing below have no response.
    transformer = StridedConv2DTransformer(32, missing="ignore", random_state=0).fit(DIGITS.images)
    expected = draw_maps(transformer, image, n_maps=4).names
    image[0, 0] = np.nan
    found = draw_maps(transformer, image, n_maps=4).names
    assert [*found] == [*expected]


def test_masked_pixels_are_missing():
    transformer = StridedConv2DTransformer(8, missing="ignore", pool_grid=1, random_state=0)
    model = make_pipeline(transformer, RidgeClassifier()).fit(DIGITS.images, DIGITS.target)
    masked = np.ma.array(DIGITS.images[0], copy=True)
    masked[2, 2] = 999
    masked[2, 2] = np.ma.masked
    shown = explain(model, masked, class_of_interest=0).evidence
    expected = inspection.class_activation_map(model, masked[np.newaxis], classes=[0])
    np.testing.assert_allclose(np.squeeze(shown), np.squeeze(expected))


def test_a_search_of_arrays():
    kernels = [np.ones((3, 3, 1, 2)), np.eye(3).reshape(3, 3, 1, 1), "gaussian"]
    steps = make_pipeline(StridedConv2DTransformer(2, random_state=0), RidgeClassifier())
    grid = {f"{STEP}__kernels": kernels, f"{STEP}__pool_grid": [(2, 2), [2]]}
    search = GridSearchCV(steps, grid, cv=2).fit(DIGITS.images[:100], DIGITS.target[:100])
    assert draw_search(search).scores.shape in [(2, 3), (3, 2)]
