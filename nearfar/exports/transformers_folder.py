"""An encoder as a folder that transformers and sentence-transformers open.

Networks of timm's leave in timm's own folder, which transformers opens as it is. Our own networks, and
torchvision's ResNets with a first layer for small images, are in neither library: their folder holds the code
of the network, one short file that needs torch and transformers alone.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from ..core.errors import NearfarError
from ..models import combined, image_tower
from ..models.residual import Block, Residual
from ..models.transformer import Transformer
from ..training.run import Run
from . import timm_folder

NOTE, WEIGHTS, PREPARING = timm_folder.NOTE, timm_folder.WEIGHTS, "preprocessor_config.json"
MODEL, PROCESSOR = "modeling_nearfar", "image_processing_nearfar"  # modules in the folder
PREPARED, RESIZED_ONCE = 0.999, 0.9  # least cosines to nearfar's own vectors; known reaches 0.987
INSTEAD = "use --to onnx or --to torch"
# sentence-transformers takes the mean of the last map where no such file names the vector.
_MODULE = "sentence_transformers.base.modules.transformer.Transformer"
SENTENCES = {
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": _MODULE}],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {"image": {"method": "forward", "method_output_name": "pooler_output"}},
        "module_output_name": "sentence_embedding",
    },
}


def needs(run: Run) -> None:
    """Make sure that transformers is installed and that the folder can hold this network.

    Raises:
        NearfarError: it is not, or cannot.
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise NearfarError(
            "an export to transformers needs the package transformers: pip install 'nearfar[transformers]'."
        ) from None
    if run.encoder.name == image_tower.NAME:
        raise NearfarError(f"{run.name} is a tower of a model of transformers; take that, or {INSTEAD}.")
    if run.encoder.name == combined.NAME:
        raise NearfarError(f"{run.name} consists of several networks; {INSTEAD}.")
    if timm_folder.architecture(run.encoder) is None and layout(run.encoder.net) is None:
        raise NearfarError(
            f"{run.name} has a {run.encoder.name} with stem {run.encoder.stem}, of which transformers has no "
            f"code; {INSTEAD}."
        )
    if run.encoder.projection is not None:
        raise NearfarError(
            f"{run.name} projects its vectors to compare them with texts, which the folder's network does "
            f"not; {INSTEAD}."
        )


def is_remote(run: Run) -> bool:
    """Tell whether the folder holds code, which transformers runs with trust_remote_code=True alone."""
    return timm_folder.architecture(run.encoder) is None


def layout(net: nn.Module) -> tuple[str, dict[str, Any]] | None:
    """Describe a network that leaves with its code.

    Args:
        net: without its classifier.

    Returns:
        Which file of code it has, beside this one, and what its `NearfarConfig` takes; None for others.
    """
    if isinstance(net, Transformer):
        shape = net.shape
        own = {"width": shape.width, "depth": shape.depth, "heads": shape.heads, "patch": shape.patch}
        return "modeling_transformer.py", own
    if isinstance(net, Residual):
        first, blocks = net.conv1, [part for part in net.blocks if isinstance(part, Block)]
        neck = next((part for part in net.blocks if isinstance(part, nn.Conv2d)), None)
        return "modeling_residual.py", {
            "stem": [first.out_channels, first.kernel_size[0], first.stride[0]],
            "blocks": [[part.bn2.num_features, _halving(part)] for part in blocks],
            "neck": 0 if neck is None else neck.out_channels,
            "every_scale": net.every_scale,
        }
    import torchvision.models.resnet as resnet

    if not isinstance(net, resnet.ResNet) or not isinstance(net.maxpool, nn.Identity):
        return None
    return "modeling_resnet.py", {
        "layers": [len(getattr(net, f"layer{stage}")) for stage in range(1, 5)],
        "bottleneck": isinstance(net.layer1[0], resnet.Bottleneck),
        "groups": net.groups,
        "width_per_group": net.base_width,
    }


def _halving(block: Block) -> str:
    if isinstance(block.pool, nn.MaxPool2d):
        return "pool"
    return "stride" if block.conv1.stride[0] > 1 else ""


def write(run: Run, folder: Path) -> None:
    """Write the network, its weights, and how pictures are prepared into a folder."""
    for name, said in SENTENCES.items():
        (folder / name).write_text(json.dumps(said, indent=1), encoding="utf-8")
    if not is_remote(run):
        timm_folder.write(run, folder)
        return
    found = layout(run.encoder.net)
    assert found is not None  # `needs` asked
    file, own = found
    here, plan = Path(__file__), run.preprocess
    shutil.copyfile(here.with_name(file), folder / f"{MODEL}.py")
    shutil.copyfile(here.with_name("image_processing.py"), folder / f"{PROCESSOR}.py")
    config = {
        "architectures": ["NearfarModel"],
        "auto_map": {"AutoConfig": f"{MODEL}.NearfarConfig", "AutoModel": f"{MODEL}.NearfarModel"},
        "model_type": file.removesuffix(".py").replace("modeling", "nearfar"),
        "hidden_size": run.encoder.dim,
        "image_size": plan.size,
        **own,
    }
    (folder / NOTE).write_text(json.dumps(config, indent=1), encoding="utf-8")
    preparing = {
        "auto_map": {"AutoImageProcessor": f"{PROCESSOR}.NearfarImageProcessor"},
        "image_processor_type": "NearfarImageProcessor",
        "side": plan.size,
        "short_side": plan.decode_side,
        "crop": plan.crop,
        "interpolation": plan.interpolation,
        "reduction": plan.reduction,
        "fit": plan.fit,
        "image_mean": list(run.encoder.mean),
        "image_std": list(run.encoder.std),
    }
    (folder / PREPARING).write_text(json.dumps(preparing, indent=1), encoding="utf-8")
    save_file(timm_folder.weights(run.encoder.net), folder / WEIGHTS, metadata={"format": "pt"})


def run(opened: Run, folder: Path, x: torch.Tensor) -> torch.Tensor:
    """Encode (n, 3, side, side) with what transformers opens, normalised as its processor says."""
    model, prepare = _opened(opened, folder)
    mean, std = normalisation(prepare, opened)
    with torch.inference_mode():
        found: torch.Tensor = model((x - mean) / std).pooler_output
    forget_code(model)
    return found


def run_pipeline(opened: Run, folder: Path, pictures: Sequence[Any]) -> torch.Tensor:
    """Encode pictures, (H, W, 3) uint8 each, as the folder's own processor prepares them."""
    model, prepare = _opened(opened, folder)
    x = [prepare(Image.fromarray(one), return_tensors="pt")["pixel_values"] for one in pictures]
    with torch.inference_mode():
        found: torch.Tensor = model(torch.cat(x)).pooler_output
    forget_code(model)
    return found


def close(run: Run) -> float:
    """Give the least cosine to nearfar's own vector that the folder's processor must reach.

    timm's resizes once, and of a picture that is smaller than the network's input it makes other pixels.
    """
    return PREPARED if is_remote(run) else RESIZED_ONCE


def normalisation(prepare: Any, run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the mean and the deviation from a processor, each (1, 3, 1, 1).

    Args:
        prepare: as transformers opened it.
        run: what was exported.
    """
    own = {"mean": "image_mean", "std": "image_std"}
    said = {name: getattr(prepare, own[name]) for name in own} if is_remote(run) else prepare.data_config
    mean, std = (torch.tensor(said[name]).view(1, 3, 1, 1) for name in own)
    return mean, std


def forget_code(model: nn.Module) -> None:
    """Delete transformers' copy of a folder's code, which has a name that the folder has only now."""
    copy = Path(str(sys.modules[type(model).__module__].__file__)).parents[1]
    if copy.name.startswith("_dot_"):
        shutil.rmtree(copy, ignore_errors=True)


def _opened(run: Run, folder: Path) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModel

    remote = {"trust_remote_code": True} if is_remote(run) else {}
    with quiet():
        model = AutoModel.from_pretrained(folder, **remote).eval()
        return model, AutoImageProcessor.from_pretrained(folder, **remote)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and remarks from the user."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
