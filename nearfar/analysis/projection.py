"""Projects images to two dimensions, similar ones together."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

from ..core import progress, rng
from ..core.errors import NearfarError, nearest
from ..core.text import counted
from ..features.knn import top_k, unit

PROJECTIONS = ("tsne", "umap")
DIRECTIONS = 50  # principal directions that t-SNE starts from
TSNE_LIMIT = 5_000  # images that t-SNE projects; of more, it takes a sample, and places the others among it
SPAN = 1 << 16  # images that are placed among the sample at a time
ANCHORS = 5  # of the sample, the nearest that another image is placed among
UMAP_NEIGHBOURS = 15  # that UMAP keeps together, its own default
CELLS, THUMB, GAP = 40, 28, 1  # places along a side of a drawn map, and the pixels of each

Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.float64]


def check_projection(method: str) -> None:
    """Refuse a method of projection that is unknown or not installed, before there is anything to project.

    Args:
        method: as `project` takes it.
    """
    if method not in PROJECTIONS:
        raise NearfarError(f"--method {method!r} is not a projection method; {nearest(method, PROJECTIONS)}")
    if method == "umap" and find_spec("umap") is None:
        raise NearfarError("--method umap needs UMAP; install it: pip install 'nearfar[umap]'")


def project(x: Vectors, method: str = "tsne", seed: int = 0) -> Places:
    """Project images to 2-D. Near neighbours stay together; distances between far groups mean little.

    Args:
        x: (n, d) float32 features, n at least 3.
        method: "tsne", or "umap" where it is installed. Of more than `TSNE_LIMIT` images t-SNE projects a
            sample of that size; each other image is placed among its nearest five there. UMAP takes all.
        seed: random seed.

    Returns:
        (n, 2) from 0 to 1; the same on any number of threads.

    Raises:
        NearfarError: the method is unknown or not installed, or there are too few images.

    Source:
        van der Maaten and Hinton 2008, "Visualizing data using t-SNE"; McInnes et al. 2018, "UMAP".
    """
    check_projection(method)
    x = _wide(x)
    if len(x) < 3:
        raise NearfarError(f"{counted(len(x), 'vector is')} too few for a map; give at least 3.")
    if method == "umap":
        return _scaled(_umap(x, seed))
    if len(x) <= TSNE_LIMIT:
        return _scaled(_tsne(x, seed))
    chosen = np.sort(rng.permutation(rng.fold(seed, "landmarks"), len(x))[:TSNE_LIMIT])
    return _scaled(_among(x, x[chosen], _tsne(x[chosen], seed), chosen))


def first_look(x: Vectors, seed: int = 0) -> Places:
    """Project images to the two directions in which they differ most: quick, and less telling than `project`.

    Args:
        x: (n, d) float32 features, n at least 3.
        seed: random seed of the sample that the directions are of.

    Returns:
        (n, 2) from 0 to 1.
    """
    x = _wide(x)
    some = rng.permutation(rng.fold(seed, "first look"), len(x))[:TSNE_LIMIT]
    rows = unit(torch.from_numpy(x[some]))
    _, directions = torch.linalg.eigh((rows - rows.mean(dim=0)).T.cov().double())
    ways = directions[:, -2:].flip(1).float()  # eigenvalues ascend
    return _scaled(
        torch.cat([unit(part) @ ways for part in torch.from_numpy(x).split(65536)]).double().numpy()
    )


def _wide(x: Vectors) -> Vectors:
    """Give features of one number a second one, 0, since a map has two directions."""
    return np.pad(x, ((0, 0), (0, 1))) if x.shape[1] == 1 else x


def _tsne(x: Vectors, seed: int) -> Places:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = unit(torch.from_numpy(x).double()).numpy()
    if np.ptp(rows, axis=0).max() < 1e-12:  # copies of one image, on which scikit-learn would crash
        return np.zeros((len(rows), 2))
    with threadpool_limits(1):
        if min(rows.shape) > DIRECTIONS:
            rows = PCA(DIRECTIONS, svd_solver="full").fit_transform(rows)
        perplexity = min(30.0, (len(rows) - 1) / 3)
        made = TSNE(perplexity=perplexity, init="pca", max_iter=750, random_state=seed % 2**32)
        with _told(made):
            return made.fit_transform(rows).astype(np.float64)


@contextmanager
def _told(made: Any) -> Iterator[None]:
    """Say how far t-SNE is, to who follows it: it tells so in lines that it prints."""
    if not progress.followed():
        yield
        return
    made.verbose = 2

    class Lines(io.TextIOBase):
        def write(self, text: str) -> int:
            if found := re.search(r"Iteration (\d+)", text):
                progress.stage("laying out the map", int(found[1]), made.max_iter)
            return len(text)

    progress.stage("laying out the map", 0, made.max_iter)
    with redirect_stdout(cast(io.StringIO, Lines())):
        yield


def _among(x: Vectors, landmarks: Vectors, places: Places, chosen: npt.NDArray[np.int64]) -> Places:
    """Put each image at the mean of its nearest landmarks, the nearer counting more."""
    found = np.empty((len(x), 2))
    for low in range(0, len(x), SPAN):
        cosine, who = top_k(torch.from_numpy(x[low : low + SPAN]), torch.from_numpy(landmarks), ANCHORS)
        # Weights fall from the nearest's 1 to the last's 0, so that no image jumps as its neighbours change.
        far = (1 - cosine).double()
        weight = (far[:, -1:] - far) / (far[:, -1:] - far[:, :1]).clamp_min(1e-12) + 1e-3
        weight /= weight.sum(dim=1, keepdim=True)
        found[low : low + SPAN] = (weight.numpy()[:, :, None] * places[who.numpy()]).sum(axis=1)
    found[chosen] = places
    return found


def _umap(x: Vectors, seed: int) -> Places:
    try:
        from umap import UMAP
    except ImportError:
        raise NearfarError("--method umap needs UMAP; install it: pip install 'nearfar[umap]'") from None
    near = min(UMAP_NEIGHBOURS, len(x) - 1)
    made = UMAP(n_neighbors=near, metric="cosine", random_state=seed % 2**32, n_jobs=1)
    return made.fit_transform(x).astype(np.float64)


def _scaled(found: Places) -> Places:
    low, high = found.min(axis=0), found.max(axis=0)
    plain: Places = (found - low) / np.maximum(high - low, 1e-12)
    return plain


def cells(where: Places, across: int = CELLS) -> dict[tuple[int, int], int]:
    """Give every cell of the sheet the image nearest to its middle, of those that fall into it.

    Args:
        where: (n, 2) from 0 to 1.
        across: cells along a side.

    Returns:
        Row and column to the image's number.
    """
    scaled = where * (across - 1)
    closest = np.rint(scaled).astype(int)
    away = np.square(scaled - closest).sum(axis=1)
    held: dict[tuple[int, int], int] = {}
    for at in np.argsort(away, kind="stable").tolist():
        held.setdefault((int(closest[at, 1]), int(closest[at, 0])), at)
    return held


def draw(held: Mapping[tuple[int, int], int], picture: Callable[[int], Image.Image | None]) -> Image.Image:
    """Draw a map of thumbnails.

    Args:
        held: row and column, below `CELLS`, to the image's number, as `cells` gives them.
        picture: gives an image by its number; its centred square is shown.

    Returns:
        The map, transparent where no image lies.
    """
    step = THUMB + GAP
    canvas = Image.new("RGBA", (CELLS * step, CELLS * step), (0, 0, 0, 0))
    for (row, column), at in held.items():
        image = picture(at)
        if image is not None:
            thumb = ImageOps.fit(image, (THUMB, THUMB), Image.Resampling.BOX)
            canvas.paste(thumb, (column * step, row * step))
    return canvas
