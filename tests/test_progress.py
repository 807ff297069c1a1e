"""`verbose` prints the number of finished images, for images in memory and in files."""

import re
import threading
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import small_blocks

from sklearn_conv import StridedConv2DTransformer, _progress
from sklearn_conv._engine import native_engine, numpy_engine, threads
from sklearn_conv._progress import Progress

IMAGES = np.random.default_rng(0).random((60, 12, 10, 2), np.float32)
LINE = r"\[StridedConv2DTransformer\]: Done (\d+) out of 60 images \| "
LINE += r"elapsed: \d+\.\ds remaining: \d+\.\ds"


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_the_time_left_is_that_of_the_other_images(capsys, monkeypatch):
    times = iter([0.0, 0.5, 3.0, 3.5, 9.0])
    monkeypatch.setattr(_progress, "monotonic", times.__next__)
    progress = Progress(SimpleNamespace(verbose=1), 60)
    for _ in range(4):
        progress.advance(15)
    first, last = lines(capsys)  # at most one line per second, and one at the end
    assert first == "[SimpleNamespace]: Done 30 out of 60 images | elapsed: 3.0s remaining: 3.0s"
    assert last.endswith("Done 60 out of 60 images | elapsed: 9.0s remaining: 0.0s")


def test_parts_of_an_image_count(capsys):
    progress = Progress(SimpleNamespace(verbose=10), 1)
    for _ in range(3):
        progress.advance(Fraction(1, 3))
    assert [line.split(" out")[0].split("Done ")[1] for line in lines(capsys)] == ["0", "0", "1"]


def test_several_threads_report_all_images(capsys):
    progress = Progress(SimpleNamespace(verbose=10), 400)
    threads = [
        threading.Thread(target=lambda: [progress.advance(1) for _ in range(100)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [int(line.split("Done ")[1].split()[0]) for line in lines(capsys)]
    assert done == [*range(1, 401)]


@pytest.mark.parametrize("options", [{}, {"pooling": None}], ids=["cells", "maps"])
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("n_images", [60, 1])
def test_transform_reports_images(options, n_jobs, n_images, capsys, monkeypatch):
    small_blocks(monkeypatch, 2**14)
    transformer = StridedConv2DTransformer(4, random_state=0, n_jobs=n_jobs, **options).fit(IMAGES)
    silent = transformer.transform(IMAGES[:n_images])
    assert lines(capsys) == []
    features = transformer.set_params(verbose=10).transform(IMAGES[:n_images])
    printed = lines(capsys)
    assert all(re.fullmatch(LINE.replace("60", str(n_images)), line) for line in printed)
    done = [int(line.split("Done ")[1].split()[0]) for line in printed]
    assert len(done) > 1 or n_images == 1
    assert done == sorted(done)
    assert done[-1] == n_images
    np.testing.assert_array_equal(features, silent)
    transformer.set_params(verbose=1).transform(IMAGES[:n_images])
    assert len(lines(capsys)) == 1


def test_verbose_does_not_change_the_scheduling(monkeypatch):
    small_blocks(monkeypatch, 2**14)
    seen = {}
    real = threads.run_tasks
    for verbose in (0, 20):
        calls = seen.setdefault(verbose, [])

        def watch(function, tasks, workers, calls=calls):
            calls.append((len(tasks), workers))
            return real(function, tasks, workers)

        for engine in (native_engine, numpy_engine):
            monkeypatch.setattr(engine, "run_tasks", watch)
        transformer = StridedConv2DTransformer(4, n_jobs=2, verbose=verbose, random_state=0)
        transformer.fit(IMAGES).transform(IMAGES)
    assert seen[0] == seen[20] != []


def test_batches_report_all_images(capsys):
    transformer = StridedConv2DTransformer(4, verbose=10).fit(IMAGES)
    for rows, _ in transformer.transform_batches(IMAGES, 30):
        assert f"Done {rows.stop} out of 60 images" in lines(capsys)[-1]
