"""Other programs' names of our commands and flags, so that a wrong one is matched by meaning too."""

from __future__ import annotations

from collections.abc import Sequence

# What was typed -> the flags that mean it here; only those that the command has are suggested.
SYNONYMS = {
    "--learning-rate": ("--lr",),
    "--rate": ("--lr",),
    "--lr-schedule": ("--warmup",),
    "--wd": ("--weight-decay",),
    "--decay": ("--weight-decay",),
    "--l2": ("--weight-decay",),
    "--optim": ("--optimizer",),
    "--opt": ("--optimizer",),
    "--tau": ("--temperature",),
    "--temp": ("--temperature",),
    "-t": ("--temperature",),
    "--amp": ("--precision",),
    "--fp16": ("--precision",),
    "--bf16": ("--precision",),
    "--dtype": ("--precision",),
    "--mixed-precision": ("--precision",),
    "--backbone": ("--encoder",),
    "--model": ("--encoder",),
    "--arch": ("--encoder",),
    "--network": ("--encoder",),
    "--pretrained": ("--weights",),
    "--checkpoint": ("--weights", "--run"),
    "--gpu": ("--device",),
    "--gpus": ("--device",),
    "--cpu": ("--device",),
    "--cuda": ("--device",),
    "--k": ("--limit", "--n-clusters"),
    "-k": ("--k", "--limit", "--n-clusters"),
    "--neighbors": ("--k", "--limit"),
    "--neighbours": ("--k", "--limit"),
    "--n-neighbors": ("--k", "--limit"),
    "--threshold": ("--min-similarity", "--reject", "--fpr"),
    "--similarity": ("--min-similarity",),
    "--alike": ("--min-similarity",),
    "--false-alarms": ("--fpr",),
    "--false-positive-rate": ("--fpr",),
    "--contamination": ("--fpr",),
    "--strange": ("--anomalous",),
    "--abnormal": ("--anomalous",),
    "--num-workers": ("--workers",),
    "--num-threads": ("--threads", "--workers"),
    "--n-jobs": ("--threads", "--workers"),
    "--threads": ("--workers",),
    "--jobs": ("--workers",),
    "-j": ("--workers",),
    "--batch": ("--batch-size",),
    "--bs": ("--batch-size",),
    "-b": ("--batch-size",),
    "--chunk": ("--micro-batch",),
    "--accumulate": ("--micro-batch",),
    "--grad-accumulation": ("--micro-batch",),
    "--gradient-accumulation": ("--micro-batch",),
    "--size": ("--image-size",),
    "--img-size": ("--image-size",),
    "--resolution": ("--image-size",),
    "--imgsz": ("--image-size",),
    "--crop-size": ("--image-size", "--crop-min"),
    "--scale": ("--crop-min",),
    "--grey": ("--grayscale",),
    "--gray": ("--grayscale",),
    "--greyscale": ("--grayscale",),
    "--color-jitter": ("--jitter",),
    "--colour-jitter": ("--jitter",),
    "--output": ("--out",),
    "--output-dir": ("--out",),
    "--save-dir": ("--out",),
    "-o": ("--out",),
    "--force": ("--overwrite",),
    "--count": ("--limit",),
    "--top": ("--limit",),
    "--top-k": ("--limit",),
    "--num": ("--limit",),
    "-n": ("--limit", "--n-clusters"),
    "--n": ("--n-clusters", "--limit"),
    "--number": ("--n-clusters", "--limit"),
    "--clusters": ("--n-clusters",),
    "--num-clusters": ("--n-clusters",),
    "--least": ("--min-cluster-size",),
    "--min-samples": ("--min-cluster-size",),
    "--way": ("--method",),
    "--algorithm": ("--method",),
    "--algo": ("--method",),
    "--loss": ("--method",),
    "--filter": ("--where",),
    "--condition": ("--where",),
    "--query": ("--where", "--image"),
    "--format": ("--to", "--out"),
    "--label": ("--column", "--labels"),
    "--label-column": ("--column",),
    "--file": ("--image", "--out"),
    "--epoch": ("--epochs",),
    "--iterations": ("--steps",),
    "--max-steps": ("--steps",),
    "--time": ("--minutes", "--budget"),
    "--hours": ("--minutes", "--budget"),
    "--looks": ("--health-checks",),
    "--val": ("--test", "--holdout"),
    "--validation": ("--holdout",),
    "--random-state": ("--seed",),
    "--random-seed": ("--seed",),
}
# What was typed as a command: what to type instead.
_COMMANDS = """
train: pretrain, or with labels finetune
fit: pretrain, or with labels finetune
distill: pretrain DATA --method distill --teacher known, or finetune RUN --teacher RUN --unlabelled DATA
adapt: pretrain DATA --weights known
eval: evaluate
test: evaluate
benchmark: evaluate, or compare for methods
encode: embed
extract: embed
infer: predict
classify: predict, or classes for examples alone
segment: finetune --task segment
detect: finetune --task detect
dedupe: duplicates
dedup: duplicates
outliers: anomalies
cluster: clusters
find: search
serve: explore
ui: explore
label: suggest, or explore to label on a page
convert: export
import: adopt
download: adopt
"""
COMMANDS = dict(line.split(": ", 1) for line in _COMMANDS.strip().splitlines())
_RESUME = (
    ("pretrain", "compare", "sweep", "finetune", "learning-curve", "embed", "demo"),
    "run the same command again to resume",
)
_GPUS = (("pretrain",), "for several GPUs type: torchrun --nproc-per-node N -m nearfar pretrain ...")
# What was typed, where no flag means it -> the commands to which the advice applies, and the advice.
ADVICE = {
    "--resume": _RESUME,
    "--continue": _RESUME,
    "--gpus": _GPUS,
    "--num-gpus": _GPUS,
    "--world-size": _GPUS,
}


def of_command(word: str) -> str:
    """Say what a command of other programs is called here.

    Args:
        word: what was typed, such as "train".

    Returns:
        A phrase that ends an error sentence; "" where nothing means the same.
    """
    return f"did you mean nearfar {COMMANDS[word]}?" if word in COMMANDS else ""


def by_meaning(command: str, flag: str, known: Sequence[str]) -> str:
    """Say what a flag of other programs is called here.

    Args:
        command: the command, such as "pretrain".
        flag: what was typed, such as "--learning-rate".
        known: the flags that the command has.

    Returns:
        A phrase that ends an error sentence; "" where nothing means the same.
    """
    commands, advice = ADVICE.get(flag, ((), ""))
    if command in commands:
        return f"{advice}."
    meant = [name for name in SYNONYMS.get(flag, ()) if name in known]
    return f"did you mean {' or '.join(meant)}?" if meant else ""
