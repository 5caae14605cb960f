"""Draws tiny images with masks, and with boxes: a red disc and a blue square on grey; and trains on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nearfar import models
from nearfar.finetuning.task_types import Setup
from nearfar.images.views import Preprocess

HEIGHT, WIDTH = 48, 64
VALUES = np.array([0, 128, 255])


def picture(seed):
    """Give pixels (h, w, 3), class numbers (h, w), and boxes as (name, left, top, right, bottom)."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(100, 140, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    down, across = np.mgrid[:HEIGHT, :WIDTH]
    y, x = int(generator.integers(10, HEIGHT - 10)), int(generator.integers(10, 22))
    disc = (down - y) ** 2 + (across - x) ** 2 < 64
    pixels[disc], mask[disc] = (200, 40, 40), 1
    top, left = int(generator.integers(0, HEIGHT - 12)), int(generator.integers(34, WIDTH - 12))
    pixels[top : top + 10, left : left + 10], mask[top : top + 10, left : left + 10] = (40, 40, 200), 2
    boxes = [("disc", x - 7, y - 7, x + 8, y + 8), ("square", left, top, left + 10, top + 10)]
    return pixels, mask, boxes


def write_masks(folder, count, values=VALUES, first=0):
    """Write images/N.png and masks/N.png; return the folder."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for at in range(count):
        pixels, mask, _ = picture(first + at)
        Image.fromarray(pixels).save(folder / f"images/{at:02d}.png")
        kind = np.uint8 if values.max() < 256 else np.uint16
        Image.fromarray(values[mask].astype(kind)).save(folder / f"masks/{at:02d}.png")
    return folder


def write_voc(path, boxes):
    """Write one VOC file."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax>"
        f"<ymax>{bottom}</ymax></bndbox></object>"
        for name, left, top, right, bottom in boxes
    )
    Path(path).write_text(f"<annotation>{objects}</annotation>")


def write_boxes(folder, count, kind="voc", first=0):
    """Write images/N.png and their boxes as VOC, YOLO or COCO; return the folder."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    names = ["disc", "square"]
    coco = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 4, "name": "disc"}, {"id": 9, "name": "square"}],
    }
    for at in range(count):
        pixels, _, boxes = picture(first + at)
        Image.fromarray(pixels).save(folder / f"images/{at}.png")
        coco["images"].append({"id": at, "file_name": f"{at}.png"})
        if kind == "voc":
            write_voc(folder / f"labels/{at}.xml", boxes)
        lines = []
        for name, left, top, right, bottom in boxes:
            x, y = (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT
            w, h = (right - left) / WIDTH, (bottom - top) / HEIGHT
            lines.append(f"{names.index(name)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}")
            box = [left, top, right - left, bottom - top]
            coco["annotations"].append(
                {"image_id": at, "category_id": (4, 9)[names.index(name)], "bbox": box}
            )
        if kind == "yolo":
            (folder / f"labels/{at}.txt").write_text("\n".join(lines))
    if kind == "yolo":
        (folder / "data.yaml").write_text("train: images\nnames:\n  0: disc\n  1: 'square'\nnc: 2\n")
    if kind == "coco":
        (folder / "annotations.json").write_text(json.dumps(coco))
    return folder


def train_a_little(task, data, lr, side):
    """Train the task's network for 12 steps; return it and the losses."""
    encoder = models.encoder("resnet10_w16", size=side)
    setup = Setup(None, torch.device("cpu"))
    network = task.network(encoder, data, setup, frozen=False)
    feed = task.feed(data, setup, batch_size=4, start=0)
    optimizer = task.optimizer(network, lr)
    losses = []
    for step in range(12):
        network.train()
        loss = network(feed.make(step)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return network, losses


def answers_of(task, network, data):
    """Predict the images."""
    return task.answers(network, data.dataset, Setup(Preprocess(), torch.device("cpu")), batch_size=4)


def restored(task, network):
    """Make the task and the network anew from the card and the head's weights."""
    other = type(task)()
    other.restore(json.loads(json.dumps(task.card())), "x: ")
    copy = other.empty(network.f, Preprocess())
    copy.head.load_state_dict(network.head.state_dict())
    return other, copy
