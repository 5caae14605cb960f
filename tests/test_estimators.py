"""Images in every form Python holds them, a vector each; and the estimators, by scikit-learn's checks."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

import nearfar
from nearfar.core.errors import NearfarError
from nearfar.data.open import open_data
from nearfar.integrations.sklearn import (
    AnomalyDetector,
    DuplicateFinder,
    EncoderTransformer,
    FewShotClassifier,
    FineTunedClassifier,
)
from nearfar.training.run import Run

SMALL = {
    "encoder": "resnet10_w16",
    "batch_size": 16,
    "steps": 2,
    "image_size": 16,
    "device": "cpu",
    "precision": "float32",
}


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return nearfar.pretrain(photos, out=tmp_path_factory.mktemp("runs") / "a", **SMALL)


@pytest.fixture(scope="module")
def pictures(labelled: Path) -> tuple[list[str], list[str]]:
    files = sorted((labelled / "train").rglob("*.png"))
    return [str(path) for path in files], [path.parent.name for path in files]


# Run.encode


def test_every_form_of_an_image_gives_the_same_vector(run: Run, photos: Path) -> None:
    path = photos / "003.png"
    image = Image.open(path)
    pixels = np.asarray(image)
    expected = run.encode(path)
    assert expected.shape == (run.encoder.dim,) and expected.dtype == np.float32
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    forms = [str(path), path.read_bytes(), image, pixels, tensor, image.convert("RGBA")]
    for form in forms:
        np.testing.assert_allclose(run.encode(form), expected, atol=1e-6)
    many = run.encode([path, *forms])
    assert many.shape == (7, run.encoder.dim)
    np.testing.assert_allclose(many, np.repeat(expected[None], 7, 0), atol=1e-6)
    for stack in (pixels[None], tensor[None], np.array([str(path)]), [path]):
        assert run.encode(stack).shape == (1, run.encoder.dim)


def test_encode_agrees_with_embed(run: Run, photos: Path) -> None:
    embedded = nearfar.embed(run, photos)
    np.testing.assert_allclose(run.encode(photos), embedded.vectors, atol=1e-6)
    mixed = run.encode([photos / name for name in reversed(embedded.ids)], batch_size=7)
    np.testing.assert_allclose(mixed[::-1], embedded.vectors, atol=1e-5)


def test_encode_speaks_sentence_transformers(run: Run, photos: Path, capsys: pytest.CaptureFixture) -> None:
    files = [photos / f"{n:03d}.png" for n in range(5)]
    plain = run.encode(files)
    scaled = run.encode(files, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False)
    assert isinstance(scaled, torch.Tensor)
    np.testing.assert_allclose(
        scaled.numpy(), plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6
    )
    assert capsys.readouterr() == ("", "")


def test_images_of_other_sizes_go_together(run: Run) -> None:
    draw = np.random.default_rng(0)
    shapes = [(16, 16, 3), (40, 20, 3), (9, 30), (24, 24, 4), (30, 31, 1)]
    vectors = run.encode([draw.integers(0, 256, shape, dtype=np.uint8) for shape in shapes])
    assert vectors.shape == (5, run.encoder.dim) and np.isfinite(vectors).all()


def test_a_turned_photograph_is_turned_back(run: Run, photos: Path) -> None:
    pixels = np.asarray(Image.open(photos / "001.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.rot90(pixels)).save(file, "PNG", exif=exif)
    np.testing.assert_allclose(run.encode(Image.open(file)), run.encode(pixels), atol=1e-6)
    np.testing.assert_allclose(run.encode(file.getvalue()), run.encode(pixels), atol=1e-6)


def test_what_is_no_image_is_a_sentence(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n rest")
    for images, says in (
        ([photos / "000.png", tmp_path / "bad.png"], r"bad\.png cannot be encoded \(.*\); leave it out"),
        (str(tmp_path / "none.png"), "none.png"),
        (np.zeros((8, 8, 3), np.complex64), "complex64"),
        ([], "empty"),
        ([3], "image 0 is a int"),
        (3, "a int"),
        ("", "empty"),
    ):
        with pytest.raises(NearfarError, match=says):
            run.encode(images)


def test_a_list_can_be_learnt_from(photos: Path, tmp_path: Path) -> None:
    files = [photos / f"{n:03d}.png" for n in range(40)]
    images = [Image.open(path) for path in files]
    by_path = nearfar.pretrain(files, out=tmp_path / "a", **SMALL)
    by_image = nearfar.pretrain(images, out=tmp_path / "b", **SMALL)
    np.testing.assert_array_equal(by_path.encode(files), by_image.encode(files))


# Estimators


@pytest.fixture(scope="module")
def fitted(pictures: tuple[list[str], list[str]]) -> EncoderTransformer:
    return EncoderTransformer(**SMALL).fit(pictures[0])


def test_an_encoder_is_fitted_and_transforms(
    fitted: EncoderTransformer, pictures: tuple[list[str], list[str]]
) -> None:
    vectors = fitted.transform(pictures[0])
    assert vectors.shape == (160, fitted.run_.encoder.dim) and vectors.dtype == np.float32
    names = fitted.get_feature_names_out()
    assert len(names) == vectors.shape[1] and names[0] == "encodertransformer0"
    again = EncoderTransformer(**SMALL).fit_transform(pictures[0])
    np.testing.assert_array_equal(again, vectors)
    other = EncoderTransformer(**SMALL, random_state=1).fit_transform(pictures[0])
    assert not np.allclose(other, vectors)


def test_a_fine_tuned_classifier_names_classes_by_their_labels_with_probabilities(
    run: Run, pictures: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    files, names = pictures
    labels = np.array(
        [{name: 7 * at + 3 for at, name in enumerate(sorted({*names}))}[name] for name in names]
    )
    how = {"mode": "linear", "workers": 1, "device": "cpu"}
    made = clone(FineTunedClassifier(run.folder, **how)).fit(files, labels)
    assert made.get_params()["mode"] == "linear" and (made.classes_ == np.unique(labels)).all()
    shares = made.predict_proba(files)
    assert shares.shape == (len(files), len(made.classes_)) and np.allclose(shares.sum(1), 1)
    assert (made.predict(files) == made.classes_[shares.argmax(1)]).all()
    assert made.score(files, labels) > 1.5 / len(made.classes_)
    again = pickle.loads(pickle.dumps(made))
    assert (again.predict_proba(files) == shares).all()
    # The same as nearfar predict says of the same run.
    kept = FineTunedClassifier(run.folder, out=tmp_path / "tuned", **how).fit(files, names)
    nearfar.predict(tmp_path / "tuned", [files[0], files[-1]], out=tmp_path / "said.csv", workers=1)
    said = [line.split(",")[1] for line in (tmp_path / "said.csv").read_text().splitlines()[1:]]
    assert said == [*kept.predict([files[0], files[-1]])]
    odd = np.where(labels == labels.min(), " x", "null")  # neither would be read as it stands
    assert {*FineTunedClassifier(run.folder, **how).fit(files, odd).predict(files)} <= {" x", "null"}
    with pytest.raises(NearfarError, match="one class an image"):
        FineTunedClassifier(run.folder, multi_label=True).fit(files, names)


def test_settings_are_parameters(fitted: EncoderTransformer) -> None:
    made = EncoderTransformer("byol", temperature=0.1, batch_size=8)
    params = made.get_params()
    assert params["temperature"] == 0.1 and params["batch_size"] == 8 and params["method"] == "byol"
    assert params["random_state"] == 0 and params["recipe"] == "auto"
    made.set_params(method="simclr", temperature=0.5, crop_min=0.2)
    assert made.method == "simclr" and made.get_params()["crop_min"] == 0.2
    copy = clone(made)
    assert copy.get_params() == made.get_params() and copy is not made
    assert "temperature=0.5" in repr(made)
    assert clone(fitted).get_params() == fitted.get_params() and not hasattr(clone(fitted), "run_")
    with pytest.raises(NearfarError, match="did you mean temperature"):
        EncoderTransformer(temperatur=0.1).fit(np.zeros((4, 16, 16, 3), np.uint8))


def test_an_encoder_is_saved_without_pickle(
    fitted: EncoderTransformer, pictures: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    fitted.save(tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"encoder.json", "encoder.safetensors"}
    expected = fitted.transform(pictures[0][:5])
    np.testing.assert_array_equal(
        EncoderTransformer.load(tmp_path / "run").transform(pictures[0][:5]), expected
    )
    np.testing.assert_allclose(nearfar.load(tmp_path / "run").encode(pictures[0][:5]), expected, atol=1e-6)
    # Between processes, as joblib sends it.
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(pictures[0][:5]), expected)


def test_an_encoder_can_keep_its_run(photos: Path, tmp_path: Path) -> None:
    made = EncoderTransformer(**SMALL, out=tmp_path / "run").fit(photos)
    np.testing.assert_array_equal(nearfar.load(tmp_path / "run").encode(photos), made.transform(photos))
    assert (tmp_path / "run" / "log.jsonl").exists()


def test_labels_go_to_methods_that_learn_from_them(pictures: tuple[list[str], list[str]]) -> None:
    made = EncoderTransformer("supervised", **SMALL).fit(*pictures)
    assert made.run_.config["settings"]["classes"] == len(set(pictures[1])) > 1
    assert made.transform(pictures[0][:2]).shape == (2, made.run_.encoder.dim)


def test_a_method_that_learns_from_labels_asks_for_them(pictures: tuple[list[str], list[str]]) -> None:
    with pytest.raises(NearfarError, match=r"supcon learns from labels; .*fit\(X, y\)"):
        EncoderTransformer("supcon", **SMALL).fit(pictures[0])
    for data in (pictures[0], (pictures[0], None)):
        with pytest.raises(NearfarError, match=r"\(images, labels\)"):
            open_data(data, labels=True)


def test_a_pipeline_and_a_grid_search(pictures: tuple[list[str], list[str]]) -> None:
    files, labels = pictures[0][::4], pictures[1][::4]
    pipe = make_pipeline(EncoderTransformer(**SMALL), LogisticRegression(C=1e4, max_iter=1000))
    assert pipe.fit(files, labels).score(files, labels) > 0.8
    grid = GridSearchCV(
        pipe, {"encodertransformer__temperature": [0.1, 0.5], "logisticregression__C": [1e4]}, cv=2, n_jobs=1
    )
    grid.fit(np.array(files), labels)  # scikit-learn deals out arrays of paths, and lists
    assert set(grid.best_params_) == {"encodertransformer__temperature", "logisticregression__C"}
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()
    assert grid.predict(files).shape == (40,)


class OfTables(EncoderTransformer):
    """Takes a row of a table for an image, since scikit-learn's checks know nothing but tables."""

    def fit(self, X: object, y: object = None) -> OfTables:
        return super().fit(pictured(X), y)

    def transform(self, X: object) -> np.ndarray:
        check_is_fitted(self)
        return super().transform(pictured(X))


def pictured(table: object) -> np.ndarray:
    """An image of 8 x 8 pixels a row; numbers as large as scikit-learn's checks take go around."""
    values = np.mod(128 + 60 * np.asarray(table, np.float64), 256).astype(np.uint8)
    return np.stack([np.resize(row, (8, 8, 3)) for row in values])


# The other checks ask what becomes of numbers that no pixel has (sparse, complex, infinite, missing, objects)
# or of tables with one row, one column or another number of columns; an encoder has images of any size.
CHECKS = [
    "estimator_cloneable", "estimator_tags_renamed", "valid_tag_types", "estimator_repr",
    "no_attributes_set_in_init", "fit_score_takes_y", "estimators_overwrite_params",
    "dont_overwrite_parameters", "estimators_fit_returns_self", "readonly_memmap_input",
    "estimators_unfitted", "parameters_default_constructible", "get_params_invariance", "set_params",
    "dict_unchanged", "fit_idempotent", "fit_check_is_fitted", "estimators_pickle",
    "methods_sample_order_invariance", "methods_subset_invariance", "pipeline_consistency",
    "transformer_get_feature_names_out",
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learns_checks_of_an_encoder(check: str) -> None:
    made = OfTables(
        **SMALL | {"steps": 1, "image_size": 8, "batch_size": 4, "holdout": 0.0, "health_checks": 0}
    )
    getattr(estimator_checks, f"check_{check}")("OfTables", made)


@pytest.mark.parametrize(
    "made", [FewShotClassifier(), AnomalyDetector(), AnomalyDetector(method="mahalanobis")], ids=repr
)
def test_scikit_learns_checks(made: object) -> None:
    estimator_checks.check_estimator(made)


def test_few_shots_with_strangers() -> None:
    draw = np.random.default_rng(0)
    centres = np.eye(6, dtype=np.float32)[:5]
    x = np.concatenate([centre + 0.1 * draw.normal(size=(40, 6)) for centre in centres])
    y = np.repeat(["a", "b", "c", "d", "stranger"], 40)
    known = y != "stranger"
    shown = known & (np.arange(200) % 40 < 10)
    made = FewShotClassifier(outlier_label="none of these").fit(x[shown], y[shown])
    answer = made.predict(x)
    assert (answer[known] == y[known]).mean() > 0.85 and (answer[~known] == "none of these").all()
    assert made.score_samples(x[known]).min() > made.score_samples(x[~known]).max()
    assert FewShotClassifier().fit(x[shown], y[shown]).predict(x[~known])[0] in "abcd"


def test_many_examples_of_one_class_do_not_hide_it() -> None:
    draw = np.random.default_rng(0)
    centres = 0.6 * draw.normal(size=(3, 64)) + 3

    def rows(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(np.arange(3), counts)
        return centres[y] + 0.6 * draw.normal(size=(len(y), 64)), y

    asked, truth = rows([100, 100, 100])
    assert FewShotClassifier().fit(*rows([300, 5, 5])).score(asked, truth) > 0.97


def test_an_anomaly_detector_keeps_its_promise() -> None:
    draw = np.random.default_rng(0)
    alarms = []
    for seed in range(30):
        made = AnomalyDetector(fpr=0.1, random_state=seed).fit(draw.normal(size=(120, 4)) + 3)
        alarms.append((made.predict(draw.normal(size=(200, 4)) + 3) == -1).mean())
        assert (made.predict(draw.normal(size=(50, 4)) - 3) == -1).all()
    assert np.mean(alarms) == pytest.approx(0.1, abs=0.03)
    normal, anomalous = np.full((5, 4), 3.0), np.full((5, 4), -3.0)
    assert made.score_samples(normal).min() > made.score_samples(anomalous).max()  # as scikit-learn has it
    assert set(made.fit_predict(draw.normal(size=(60, 4)))) <= {1, -1}


def test_duplicates_are_grouped(run: Run) -> None:
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
    images = [Image.fromarray(one).resize((48, 48), Image.Resampling.BICUBIC) for one in coarse]
    saved = []
    for quality in (95, 85):
        file = io.BytesIO()
        images[5].save(file, "JPEG", quality=quality)
        saved.append(file.getvalue())
    given = [*images, images[3].copy(), *saved]
    for made in (DuplicateFinder(run), DuplicateFinder(str(run.path))):
        labels = made.fit_predict(given)
        assert labels[5] == labels[13] == labels[14] == 0 and labels[3] == labels[12] == 1
        assert (np.delete(labels, [3, 5, 12, 13, 14]) == -1).all()
        assert np.flatnonzero(~made.keep_).tolist() == [12, 13, 14]
    assert clone(made).get_params() == made.get_params()
