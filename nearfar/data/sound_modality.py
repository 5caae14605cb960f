"""Sound as a kind of data: each question is passed on to the code in `sound/` that answers it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..core.errors import NearfarError
from ..sound.view_settings import SoundPreprocess, SoundViews
from .modality import Example, Modality

if TYPE_CHECKING:
    import torch

    from ..models import Encoder
    from ..sound.views import RaggedFrames, SoundParams
    from .source import Source

MOST_FRAMES = 512  # of a view, where nothing was asked for
LEAST_FRAMES = 16


class SoundModality(Modality):
    """Clips of any length; views are parts of their spectrogram, stretched, shifted, noisy and masked."""

    name = "sound"
    noun = "clips"
    easier = "raise --keep and lower --stretch, --shift, --warp and --masks"
    harder = "lower --keep and raise --stretch, --shift, --warp and --masks"
    differ_by = "pitch"
    unit = "frames"
    views = SoundViews
    preprocess = SoundPreprocess
    suffixes = frozenset({"wav", "wave", "flac", "ogg", "oga", "opus", "mp3", "aif", "aiff", "au"})
    columns: ClassVar = {"milliseconds": "number", "rate": "number"}
    baselines = ("mfcc", "mfcc_course")
    parts = ("svm",)  # the usual classifier of MFCC
    training: ClassVar = {"encoder": "mel_cnn_w32", "image_size": None, "short_side": None}
    on_device = True

    def open(self, data: Any, *, labels: bool = False, download: bool = True) -> Source:
        """Open a folder, a list or paths of sound files."""
        from ..sound.read import TO_INSTALL, WAV, has_soundfile
        from .endings import ending
        from .files import open_files

        source = open_files(data, kind=self.name, suffixes=self.suffixes, labels=labels)
        other = next((path for path in source.paths if ending(path) not in WAV), None)
        if other is not None and not has_soundfile():
            raise NearfarError(
                f"{source.name} holds {other!r}, and soundfile, which reads it, is missing; install it: "
                f"{TO_INSTALL}"
            )
        return source

    def is_one(self, data: Any) -> bool:
        """Tell the path of one file from a collection."""
        import os
        from pathlib import Path

        from .endings import ending

        if not isinstance(data, (str, os.PathLike)):
            return False
        return ending(os.fspath(data)) in self.suffixes and not Path(data).is_dir()

    def fetch(self, source: Source, row: int, *, limit: int) -> tuple[bytes, bytes]:
        """Fetch a clip's file; `limit` counts samples."""
        from pathlib import Path

        from ..sound.read import read

        data = source.read(row)
        content = read(data, limit) if isinstance(data, Path) else bytes(data)
        return content, hashlib.blake2b(content, digest_size=16).digest()

    def decode(self, data: bytes, preprocess: SoundPreprocess | None, *, limit: int) -> Example:
        """Decode a clip to its spectrogram, (frames, mels) uint8, and say how long it is and its own rate."""
        from ..sound import logmel, read

        how = preprocess or SoundPreprocess()
        samples, rate = read.decode(data, limit)
        frames = logmel.log_mels(read.resample(samples, rate, how.rate), how.rate, how.mels)
        frames = logmel.trimmed(frames, how.trim, how.depth)
        return Example(frames, {"milliseconds": round(1000 * len(samples) / rate), "rate": rate})

    def collate(self, values: Sequence[Any]) -> RaggedFrames:
        """Lay spectrograms in one buffer."""
        from ..sound.views import collate

        return collate(values)

    def size_of(self, value: Any) -> int:
        """Count the frames of a clip."""
        return len(value)

    def input_size(self, usual: int) -> int:
        """Choose the frames of a view: those of the median clip, within bounds."""
        return min(max(usual, LEAST_FRAMES), MOST_FRAMES)

    def preprocess_for(self, size: int, views: SoundViews) -> SoundPreprocess:
        """Take over what decides the spectrogram."""
        own = {name: getattr(views, name) for name in ("rate", "mels", "trim", "depth", "level")}
        return SoundPreprocess(size=size, **own)

    def labelled_views(self, preprocess: SoundPreprocess) -> SoundViews:
        """Take parts, at other speeds, with noise and masks; pitch and colour stay: labels may be of them."""
        found: SoundViews = super().labelled_views(preprocess)
        return dataclasses.replace(found, shift=0.0, warp=0.0, tilt=0.0)

    def draw(self, view: Any, key: int, ids: Any, block: RaggedFrames, size: int) -> SoundParams:
        """Draw boxes, noise and masks; see `sound.views.draw`."""
        from ..sound import views

        recipe, frames = _parts(view, size)
        return views.draw(recipe, key, ids, block.length.cpu().numpy(), frames)

    def apply(
        self,
        block: RaggedFrames,
        params: SoundParams,
        view: Any,
        size: int,
        *,
        dtype: torch.dtype | None = None,
        threads: int = 1,
    ) -> torch.Tensor:
        """Compute views, (n, 1, mels, frames); see `sound.views.apply`."""
        from ..sound import views

        recipe, frames = _parts(view, size)
        return views.apply(block, params, recipe, frames, dtype)

    def place(self, block: RaggedFrames, device: torch.device) -> RaggedFrames:
        """Send spectrograms to a device."""
        return type(block)(*(x.to(device) for x in (block.frames, block.offset, block.length)))

    def prepare(self, block: RaggedFrames, preprocess: SoundPreprocess, *, threads: int = 1) -> torch.Tensor:
        """Stretch clips to the input's frames: (n, 1, mels, size)."""
        from ..sound import views

        params = views.centre(block.length.cpu().numpy(), preprocess.size)
        return views.apply(block, params, preprocess, preprocess.size)

    def baseline(self, name: str, preprocess: SoundPreprocess) -> tuple[torch.nn.Module, SoundPreprocess]:
        """Make the cepstral coefficients; see `sound.mfcc`."""
        from ..sound.mfcc import MFCC

        return MFCC(course=name == "mfcc_course"), dataclasses.replace(preprocess, level="nothing")

    def encoder(
        self,
        name: str,
        *,
        stem: str = "auto",
        size: int | None = None,
        weights: str | None = None,
        seed: int = 0,
        **own: Any,
    ) -> Encoder:
        """Build one of the networks of `sound.networks`."""
        from ..sound import networks

        return networks.encoder(name, size=size, weights=weights, seed=seed)

    def thumbnail(self, data: bytes, value: Any, side: int, preprocess: Any = None, *, limit: int) -> bytes:
        """Draw the spectrogram."""
        from ..sound.picture import picture

        return picture(value, side)


def _parts(view: Any, size: int) -> tuple[SoundViews, int]:
    """Give a view's settings and its frames."""
    return (view, size) if isinstance(view, SoundViews) else (view.recipe, view.side(size))


MODALITY = SoundModality()
