"""What `check` finds in headers and by decoding, and how long the measurements before a run may take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar.cli.main import main
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.data import inspection
from nearfar.data.sources import open_source
from nearfar.methods.base import Loss
from nearfar.training.collection_settings import usual_side
from nearfar.training.precision import gains_from_bfloat16
from nearfar.training.turns import FEWEST

MAX = 1000


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Make six good images, two of them equal, and four bad ones, of which decoding alone finds one."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"good{number}.jpg")
    (tmp_path / "copy.jpg").write_bytes((tmp_path / "good3.jpg").read_bytes())
    whole = (tmp_path / "good0.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[:-100])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"no picture at all")
    Image.new("L", (40, 30)).save(tmp_path / "large.png")
    return tmp_path


def test_headers_alone_find_what_they_can(mixed: Path) -> None:
    source = open_source(mixed)
    quick = inspection.inspect(source, max_pixels=MAX, threads=2, seconds=0.0)
    assert [item.id for item in quick.rejected] == ["empty.jpg", "large.png", "text.jpg"]
    assert (quick.count, quick.usable, quick.decoded) == (10, 7, 3)
    whole = inspection.inspect(source, max_pixels=MAX, threads=2)
    assert [item.id for item in whole.rejected] == ["empty.jpg", "half.jpg", "large.png", "text.jpg"]
    assert quick.rejected == tuple(item for item in whole.rejected if item.id != "half.jpg")
    assert (whole.usable, whole.decoded) == (6, 10)
    assert quick.duplicates == whole.duplicates == (("copy.jpg", "good3.jpg"),)
    assert (quick.short, quick.long) == (whole.short, whole.long)
    assert quick.formats == {"JPEG": 7} and whole.formats == {"JPEG": 6}
    assert quick.bytes == whole.bytes + (mixed / "half.jpg").stat().st_size
    assert "  decoded     3 of 10; of the others only the headers were read (--full decodes all)" in str(
        quick
    )
    assert "  unusable    3 found\n" in str(quick)
    assert "decoded" not in str(whole) and "  unusable    4\n" in str(whole)


def test_with_time_enough_every_image_is_decoded(mixed: Path) -> None:
    source = open_source(mixed)
    whole = inspection.inspect(source, max_pixels=MAX, threads=2)
    assert inspection.inspect(source, max_pixels=MAX, threads=2, seconds=60.0) == whole
    arrays = open_source(np.zeros((3, 8, 8, 3), np.uint8))
    found = inspection.inspect(arrays, max_pixels=MAX, threads=1, seconds=0.0)
    assert (found.decoded, found.duplicates) == (3, (("0", "1", "2"),))


def test_a_copy_in_train_and_test_is_told_apart_from_others(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    for place, which in (("train/a/1", 0), ("train/a/2", 1), ("test/a/3", 1), ("train/b/4", 0)):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[which]).save(tmp_path / f"{place}.png")
    said = str(inspection.inspect(open_source(tmp_path), max_pixels=MAX, threads=1))
    assert "duplicates  2 exact, in 2 groups" in said
    assert "1 group across test and train: scores on copies" in said
    (tmp_path / "test/a/3.png").unlink()
    assert "across" not in str(inspection.inspect(open_source(tmp_path), max_pixels=MAX, threads=1))


def test_a_list_of_which_hardly_a_file_is_there_is_told_and_not_sent_to_check(tmp_path: Path) -> None:
    here = [f"{number}.png" for number in range(2)]
    for name in here:
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    names = [f"no{number}.png" for number in range(303)]
    names[7], names[21] = here  # not among those that the usual size is told from
    (tmp_path / "list.csv").write_text("\n".join(["path", *names]))
    found = nearfar.check(tmp_path / "list.csv", device="cpu")
    assert found.inspection.usable == 2 and "99% of the images are unusable" in found.obstacle
    with pytest.raises(NearfarError, match="of 64 images tried of .* none can be used .unreadable"):
        usual_side(open_source(tmp_path / "list.csv"), MAX)


def test_check_full_decodes_all(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfar.training.check.DECODING", 0.0)
    settings: dict[str, Any] = {"steps": 1, "max_bad": 0.1, "max_pixels": MAX}
    found = nearfar.check(mixed, **settings)
    assert found.inspection.decoded == 3 and len(found.inspection.rejected) == 3
    found = nearfar.check(mixed, full=True, **settings)
    assert found.inspection.decoded == 10 and len(found.inspection.rejected) == 4
    assert found.to_json()["decoded"] == 10 and "40% of the images are unusable" in found.obstacle


class Slow(torch.nn.Module):
    """A method whose passes take a number of seconds an image, on a clock of its own."""

    def __init__(self, float32: float, bfloat16: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seconds = {False: float32, True: bfloat16}
        self.now, self.passes = 0.0, 0
        self.disturbed: set[int] = set()  # numbers of passes that take ten times as long

    def forward(self, batch: Any) -> Loss:
        seconds = len(batch.rows) * self.seconds[torch.is_autocast_enabled("cpu")]
        self.now += seconds * (10 if self.passes in self.disturbed else 1)
        self.passes += 1
        return Loss({"loss": self.weight * 1.0}, {})


class Feed:
    """A feed of one batch."""

    def make(self, step: int) -> Any:
        from nearfar.data.batch import Batch

        return Batch([torch.zeros(32, 1)], torch.arange(32), None, 0)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "gains"),
    [
        (0.001, 0.0005, True),  # quick: all 32 images
        (0.001, 0.00095, False),  # not quicker by a tenth
        (0.2, 0.1, True),  # two images take 0.4 and 0.2 s
        (0.2, 0.5, False),
        (0.3, 0.9, False),
        (1.2, 0.5, False),  # the first passes take 3.4 of the 5 s, and a second turn would not fit
        (1.0, 30.0, False),  # one pass in bfloat16 takes a minute, and is the last
        (30.0, 1.0, False),
    ],
)
def test_the_measurement_of_bfloat16_ends_in_time(float32: float, bfloat16: float, gains: bool) -> None:
    method = Slow(float32, bfloat16)
    found = measured(method)
    assert found is gains
    longest = 2 * max(float32, bfloat16)
    assert method.now <= max(5.0, longest + 2 * min(float32, bfloat16))
    assert method.weight.grad is None


def test_a_check_that_finds_nothing_to_train_on_ends_with_status_2(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "scan.jp2").write_bytes(b"x")
    assert main(["check", str(tmp_path)]) == 2
    said = capsys.readouterr().out
    assert "no plan: 0 usable images" in said and "passed over 1 other file: .jp2 1" in said
    assert "convert it with opj_decompress" in said


def measured(method: Slow) -> bool:
    def clock() -> float:
        return method.now

    how = {"native": True, "clock": clock, "cost": clock}
    return gains_from_bfloat16(method, Feed(), torch.device("cpu"), **how)  # type: ignore[arg-type]


def test_a_processor_without_bfloat16_is_not_measured() -> None:
    method = Slow(0.2, 0.1)
    assert not gains_from_bfloat16(method, Feed(), torch.device("cpu"), native=False)  # type: ignore[arg-type]
    assert method.passes == 0


def test_turns_that_differ_are_repeated_and_the_middle_decides(capsys: pytest.CaptureFixture[str]) -> None:
    calm, disturbed = Slow(0.004, 0.002), Slow(0.004, 0.002)
    disturbed.disturbed = {11, 14}  # one in bfloat16 in the first turn that counts, and one in float32
    progress.show(True)
    try:
        assert measured(calm) and measured(disturbed)
    finally:
        progress.show(False)
    assert disturbed.passes > calm.passes == 10 + 2 * FEWEST
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and "bfloat16: 32 images take 128.0 ms in float32 and 64.0 ms" in told[1]


def test_what_pretraining_refuses_is_refused() -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    with pytest.raises(nearfar.NearfarError, match="--health-checks 0 leaves none"):
        nearfar.check(images, stop_on_collapse=True, health_checks=0)


def test_where_nothing_is_usable_it_is_said_why(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    cells = [b"", *(b"junk %d" % number for number in range(4))]
    parquet.write_table(pa.table({"image": cells}), tmp_path / "junk.parquet")
    found = nearfar.check(tmp_path / "junk.parquet")
    assert found.obstacle == (
        "0 usable images are too few to train on: 5 of 5 are unusable, 4 of them since each is "
        "'not an image'; mend or replace them"
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    (tmp_path / "junk.parquet").unlink()
    assert nearfar.check(tmp_path).obstacle == "1 usable image is too few to train on; add more"
