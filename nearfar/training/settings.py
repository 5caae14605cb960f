"""The settings of a pretraining run that every method shares: the views, and the training itself.

Nothing here imports torch, so that `--help` answers at once. What a single method adds is in that
method's own file, as its `Config`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.config import setting
from ..images.files import MAX_PIXELS


@dataclass(frozen=True)
class Training:
    """Length, size, optimizer, machine and images of a training. The defaults are those of recipe "cpu"."""

    modality: str = setting(
        "auto",
        "kind of data: images, sound, text or pairs (images with captions); auto finds it by the method and the "
        "endings of files",
    )
    groups: str | None = setting(
        None,
        "a .csv of images and their groups, such as bursts, slices, visits or speakers, or the word folders: the "
        "other view is of another image of the group",
    )
    epochs: float | None = setting(None, "passes over the images", low=0.0)
    steps: int | None = setting(None, "optimizer steps", low=1)
    minutes: float | None = setting(
        None, "time budget in minutes, turned into a number of steps by a short measurement", low=0.0
    )
    batch_size: int = setting(256, "images a step, over all processes; each gives two views", low=2)
    micro_batch: int | None = setting(
        None,
        "images in memory at a time, over all processes (gradient caching); the loss still sees the whole batch, so "
        "every image keeps all its negatives",
        low=1,
        source="Gao et al. 2021, GradCache",
    )
    encoder: str = setting(
        "resnet8", "network to train: a name of nearfar, timm or torchvision; auto: the recipe's"
    )
    stem: str = setting(
        "auto",
        "first layers: 3x3 stride 1 for images up to 64 px, or the network's own",
        choices=("auto", "small", "standard"),
        source="SimCLR, appendix B.9",
    )
    weights: str | None = setting(
        None, "start from a run, a known encoder such as timm:resnet18, or a .safetensors file of --encoder"
    )
    trainable: str = setting(
        "all",
        "what of the encoder changes: all, norms, last:K for its last K blocks, lora:R for additions of rank R, or "
        "none, where captions learn to fit it; of a known encoder on a CPU last:2",
    )
    head_warmup: float = setting(
        0.0,
        "share of the steps in which only the method's heads learn; 0.1 with --weights",
        low=0.0,
        high=1.0,
    )
    encoder_rate: float = setting(
        1.0, "share of the learning rate for the encoder's last layer; 0.1 with --weights", low=0.0, high=1.0
    )
    rate_decay: float = setting(
        1.0,
        "factor of the encoder's rate from a layer to the one before it; 0.8 with --weights",
        low=0.01,
        high=1.0,
        source="Howard and Ruder 2018, ULMFiT, section 3.2",
    )
    start_pull: float = setting(
        0.0,
        "with --weights, weight of a pull of the features towards those of the start, which fades to 0 by the end",
        low=0.0,
        source="Li et al. 2019, DELTA",
    )
    freeze_statistics: bool = setting(
        False,
        "batch norms keep the statistics of the start, rather than normalise by those of each batch; on with --weights",
    )
    image_size: int | None = setting(
        None,
        "side of a view in pixels; with --weights of a known encoder its own, up to 256",
        low=8,
        high=1024,
    )
    early_size: float = setting(
        1.0,
        "side of the views in the first --early-steps of the steps, as a share of --image-size; smaller views cost "
        "less",
        low=0.25,
        high=1.0,
        source="after Tan and Le 2021, EfficientNetV2, section 4",
    )
    early_steps: float = setting(0.8, "share of the steps with views of --early-size", low=0.0, high=1.0)
    short_side: int | None = setting(
        None,
        "short side, in pixels, to which larger images are reduced before views are cut from them; 8/7 of "
        "--image-size at least, and if not given",
        low=8,
    )
    optimizer: str = setting("muon", "how weights are updated", choices=("lars", "sgd", "adamw", "muon"))
    lr: float = setting(0.02, "base learning rate, before --lr-scaling", low=0.0)
    lr_scaling: str = setting(
        "fixed",
        "learning rate from the base: as it is, base x batch/256, or base x sqrt(batch)",
        choices=("fixed", "linear", "sqrt"),
        source="SimCLR, section B.1",
    )
    momentum: float = setting(0.9, "momentum of LARS and SGD", low=0.0, high=1.0)
    weight_decay: float = setting(0.01, "weight decay; biases and norms are exempt", low=0.0)
    warmup: float = setting(0.1, "share of the steps over which the learning rate rises", low=0.0, high=1.0)
    precision: str = setting(
        "auto",
        "arithmetic of the network; the loss is always float32",
        choices=("auto", "float32", "bfloat16"),
    )
    seed: int = setting(0, "random seed", low=0)
    device: str = setting("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    views_on: str = setting(
        "auto",
        "where views are made: by the CPU's threads, or on --device; auto measures both if it is a GPU",
        choices=("auto", "cpu", "device"),
    )
    compile: str = setting(
        "auto",
        "whether torch.compile makes the network faster code; auto measures it for long runs on a GPU",
        choices=("auto", "yes", "no"),
    )
    parallel: str = setting(
        "ddp",
        "what several processes share: ddp, the batch; fsdp, also the weights of every block and their optimizer's "
        "state",
        choices=("ddp", "fsdp"),
        source="Zhao et al. 2023, PyTorch FSDP",
    )
    checkpoint_activations: bool = setting(
        False,
        "compute every block again in the backward pass, which takes less memory and a third more time; for "
        "networks without batch norm",
        source="Chen et al. 2016, Training deep nets with sublinear memory cost",
    )
    threads: int | None = setting(
        None,
        "CPU threads that train, each on a share of the batch of at least 16 images; torch's number if not given",
        low=1,
    )
    workers: int | None = setting(
        None, "CPU threads that read images and make views; all cores if not given", low=1
    )
    max_bad: float = setting(0.1, "share of unusable images beyond which the run stops", low=0.0, high=1.0)
    max_pixels: int = setting(MAX_PIXELS, "images of more pixels than this are left out", low=1)
    holdout: float = setting(
        0.02,
        "share of the images that is never trained on, 2,048 of them at most, so that health is measured there",
        low=0.0,
        high=0.5,
    )
    health_checks: int = setting(20, "maximum number of health checks during training; 0: none", low=0)
    stop_on_collapse: bool = setting(False, "end a run as soon as a health check shows a collapse")
    cache: bool = setting(True, "decode the images once; --no-cache reads the files at every pass")
    save_minutes: float = setting(2.0, "minutes between saves, at most", low=0.0)
    tensorboard: bool = setting(False, "also write TensorBoard logs (needs nearfar[tensorboard])")
