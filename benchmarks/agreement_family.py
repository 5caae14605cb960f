"""Do the other families, with hidden patches, a decoder or a memory bank, agree with others' code?

    .bench/bin/python -m benchmarks.agreement_family

prints a line a method and ends with 1 if one disagrees: values and gradients, in float64, of our methods'
losses and of others', on the same numbers. Memory banks are in `benchmarks.agreement_banks`, and what no
package has in `benchmarks.agreement_references`. Others' whole models run where a loss is part of one: the
last layer of ours and of theirs is replaced by one that answers with the same predictions, so that patches,
masks and targets are compared too. Where a peer defines a method otherwise, the line says what was compared,
and why:

- transformers' MAE has the colours of a pixel side by side in a patch, ours one colour after the other.
- transformers' SimMIM adds 1e-5 to the number of hidden pixels; it is taken off again.
- lightly has no loss for I-JEPA: its `apply_masks`, and a smooth absolute error as in its example. It has no
  `--standardised`, which is ours; that is held against a slow reference.
- lightly has no Sinkhorn centring for iBOT: its SwAV's, of all patches of a view, as ours. DINOv2's code
  takes the masked patches alone, of both views at once.
- lightly's KoLeo adds 1e-8 to distances, here 0. DINOv2's code adds up the term of both views; ours is their
  mean.
- lightly's LeJEPA draws its directions itself, and keeps the weights of its 17 knots in float32: it is held
  to 1e-7. jepa-science keeps them in float64; it has no distance between views, so SIGReg alone is compared.
- pythae's VAE has the variance 1 for pixels; it is given images over the deviation that ours takes from the
  batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearfar import losses, models
from nearfar.data.batch import Batch
from nearfar.methods.beit import blocks
from nearfar.methods.dvae import Words
from nearfar.methods.lejepa import sigreg
from nearfar.methods.masks import shuffled

from . import agreement_banks
from .agreement_pair import SIDE, Pair, drawn, made, report, verdict

N, WIDTH, PATCH = 8, 16, 4
PLACES = (SIDE // PATCH) ** 2
TRANSFORMER = "vit_w64_d2"
LOOSER = {"lejepa, lightly": 1e-7}  # where a peer keeps some of its numbers in float32


class Answer(nn.Module):
    """A layer that answers with what it holds, whatever it is asked."""

    given: Tensor

    def __init__(self, form: Callable[[Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        self.form = form

    def forward(self, *asked: Any, **named: Any) -> Any:
        return self.form(self.given)


def batch(seed: int = 0) -> Batch:
    """One view of N images."""
    return Batch([drawn(N, 3, SIDE, SIDE, seed=seed).sigmoid()], torch.arange(N), None, 3)


def mae(normalised: bool) -> Callable[[], Pair]:
    def pair() -> Pair:
        from transformers import ViTMAEConfig, ViTMAEForPreTraining
        from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoderOutput

        settings = {"normalised": normalised, "decoder_width": 32, "decoder_depth": 1}
        ours, images = made("mae", encoder=TRANSFORMER, **settings), batch()
        config = ViTMAEConfig(
            image_size=SIDE, patch_size=PATCH, norm_pix_loss=normalised, mask_ratio=0.75, **_tiny()
        )
        theirs = ViTMAEForPreTraining(config).double().eval()
        ours.decoder = Answer()
        theirs.decoder = Answer(lambda y: ViTMAEDecoderOutput(logits=_colours_last(y)))
        noise = shuffled(images, PLACES).argsort(1).double()  # theirs keeps the places of the least noise

        def own(y: Tensor) -> Tensor:
            ours.decoder.given = y
            total: Tensor = ours.loss(*ours.embed(images)).total
            return total

        def given(y: Tensor) -> Tensor:
            theirs.decoder.given = y
            found: Tensor = theirs(images.views[0], noise=noise).loss
            return found

        return own, given, [drawn(N, PLACES, 3 * PATCH**2, seed=2)]

    return pair


def _tiny() -> dict[str, int]:
    return {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}


def _colours_last(y: Tensor) -> Tensor:
    return y.unflatten(2, (3, -1)).transpose(2, 3).flatten(2)


def simmim() -> Pair:
    from transformers import ViTConfig, ViTForMaskedImageModeling

    ours, images = made("simmim", encoder=TRANSFORMER, block=PATCH), batch()
    config = ViTConfig(image_size=SIDE, patch_size=PATCH, encoder_stride=PATCH, **_tiny())
    theirs = ViTForMaskedImageModeling(config).double().eval()
    ours.g, theirs.decoder = Answer(lambda y: F.pixel_unshuffle(y, PATCH)), Answer()
    ours.g.given = drawn(N, 3, SIDE, SIDE)
    hidden = ours.embed(images)[2]  # (N, SIDE, SIDE)
    places = hidden[:, ::PATCH, ::PATCH].flatten(1)

    def own(y: Tensor) -> Tensor:
        ours.g.given = y
        total: Tensor = ours.loss(*ours.embed(images)).total
        return total

    def given(y: Tensor) -> Tensor:
        theirs.decoder.given = y
        loss: Tensor = theirs(images.views[0], bool_masked_pos=places).loss
        return loss * (hidden.sum() + 1e-5) / hidden.sum()

    return own, given, [drawn(N, 3, SIDE, SIDE, seed=3)]


def beit() -> Pair:
    from transformers import BeitConfig, BeitForMaskedImageModeling

    words, images = 24, batch()
    told = models.encoder(TRANSFORMER, size=SIDE)
    state = Words(told.map_widths[-1], words).state_dict()
    ours = made("beit", SimpleNamespace(encoder=told, parts={"words": state}), encoder=TRANSFORMER)
    config = BeitConfig(image_size=SIDE, patch_size=PATCH, vocab_size=words, use_mask_token=True, **_tiny())
    theirs = BeitForMaskedImageModeling(config).double().eval()
    at = blocks(images, SIDE // PATCH, SIDE // PATCH, round(PLACES * ours.config.masked))  # (N, M)
    hidden = torch.zeros(N, PLACES, dtype=torch.bool).scatter(1, at, True)
    ours.g, theirs.lm_head = Answer(lambda y: y.take_along_dim(at[:, :, None], 1)), Answer()
    named = drawn(N, PLACES, words, seed=6).argmax(2)  # an untrained tokenizer has one word for nearly all
    ours.words = lambda x, shape: named
    labels = named[hidden]

    def own(y: Tensor) -> Tensor:
        total: Tensor = _with(ours.g, y, lambda: ours.loss(*ours.embed(images)).total)
        return total

    def given(y: Tensor) -> Tensor:
        ask = {"bool_masked_pos": hidden, "labels": labels}
        loss: Tensor = _with(theirs.lm_head, y, lambda: theirs(images.views[0], **ask).loss)
        return loss

    return own, given, [drawn(N, PLACES, words, seed=4)]


def _with(layer: Any, y: Tensor, do: Callable[[], Any]) -> Any:
    layer.given = y
    return do()


def ijepa() -> Pair:
    from lightly.models.utils import apply_masks

    settings = {"standardised": False, "target_blocks": 3, "predictor_width": 32, "predictor_depth": 1}
    ours, images = made("ijepa", encoder=TRANSFORMER, **settings), batch()
    _, _, at = ours.embed(images)  # (N, B, t)
    whole = ours.slow_f.tokens(images.views[0]).patches.detach()

    def own(y: Tensor) -> Tensor:
        ours.predictor = Answer(lambda y: y.flatten(0, 1))
        total: Tensor = _with(ours.predictor, y, lambda: ours.loss(*ours.embed(images)).total)
        return total

    def given(y: Tensor) -> Tensor:
        target = apply_masks(F.layer_norm(whole, whole.shape[2:]), list(at.unbind(1)))  # (B N, t, D)
        loss: Tensor = nn.SmoothL1Loss()(y.transpose(0, 1).flatten(0, 1), target)
        return loss

    return own, given, [drawn(N, *at.shape[1:], 64, seed=5)]


def ibot(centring: str) -> Callable[[], Pair]:
    """Both views: image and patch terms, with KoLeo; some images have no masked patch."""

    def pair() -> Pair:
        from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
        from lightly.loss.swav_loss import sinkhorn

        student, teacher, weight, spread = 0.1, 0.07, 0.5, 0.2
        ours = made(
            "ibot",
            encoder=TRANSFORMER,
            head=(WIDTH,),
            prototypes=WIDTH,
            centring=centring,
            student_temperature=student,
            teacher_temperature=teacher,
            teacher_temperature_start=teacher,
            patch_weight=weight,
            koleo=spread,
        )
        centres = torch.linspace(-0.5, 0.5, WIDTH).double(), torch.linspace(0.4, -0.4, WIDTH).double()
        ours.centre.data, ours.patch_centre.data = centres
        hidden = [torch.rand(N, PLACES, generator=torch.Generator().manual_seed(v)) < 0.3 for v in range(2)]
        hidden[1][2] = False

        def own(x_i: Tensor, x_j: Tensor, p_i: Tensor, p_j: Tensor, h_i: Tensor, h_j: Tensor) -> Tensor:
            total: Tensor = ours.loss(
                (x_i, x_j), answers[:2], (p_i, p_j), answers[2:], hidden, (h_i, h_j)
            ).total
            return total

        answers = [drawn(N, WIDTH, seed=20 + v) / 4 for v in range(2)]
        answers += [drawn(N, PLACES, WIDTH, seed=22 + v) / 4 for v in range(2)]

        def given(x_i: Tensor, x_j: Tensor, p_i: Tensor, p_j: Tensor, h_i: Tensor, h_j: Tensor) -> Tensor:
            koleo = KoLeoLoss(eps=0.0)
            spreading = spread * (koleo(h_i) + koleo(h_j)) / 2
            mask = torch.cat(hidden)
            asked = torch.cat([p_i, p_j])[mask]
            if centring == "mean":
                image = DINOLoss(output_dim=WIDTH, student_temp=student)
                image.center.data = centres[0].view(1, 1, -1).clone()
                patch = IBOTPatchLoss(WIDTH, teacher_temp=teacher, student_temp=student)
                patch.center.center = centres[1].view(1, -1).clone()
                torch.set_default_dtype(torch.float64)  # else its temperature and weights are float32
                of_patches = patch(torch.cat(answers[2:])[mask], asked, mask.view(-1, 4, 4))
                of_image = image(answers[:2], [x_i, x_j], teacher_temp=teacher)
                torch.set_default_dtype(torch.float32)
            else:
                codes = [sinkhorn(each.flatten(0, -2), 3, teacher) for each in answers]
                told = torch.cat([each.view(N, PLACES, WIDTH) for each in codes[2:]])[mask]
                each = -(told * F.log_softmax(asked / student, 1)).sum(1)
                share = 1 / mask.sum(1, keepdim=True).clamp(min=1).double().expand(-1, PLACES)[mask]
                of_patches = (each * share).sum() / (2 * N)
                of_image = (
                    F.cross_entropy(x_j / student, codes[0]) + F.cross_entropy(x_i / student, codes[1])
                ) / 2
            total: Tensor = of_image + weight * of_patches + spreading
            return total

        shapes = [(N, WIDTH)] * 2 + [(N, PLACES, WIDTH)] * 2 + [(N, WIDTH)] * 2
        return own, given, [drawn(*shape, seed=30 + k) for k, shape in enumerate(shapes)]

    return pair


def lejepa() -> Pair:
    from lightly.loss.lejepa_loss import SIGReg, lejepa_invariance_loss

    ours = made("lejepa", head=(WIDTH,), directions=32, lambda_=0.1)
    theirs = SIGReg(num_vectors=32)
    theirs._generate_unit_vectors = lambda *asked: ours.directions.T  # both along the same

    def given(*z: Tensor) -> Tensor:
        stacked = torch.stack(z)
        pull = lejepa_invariance_loss(all_proj=stacked, global_proj=stacked)
        total: Tensor = 0.1 * theirs(stacked) + 0.9 * pull
        return total

    return lambda *z: ours.loss(z).total, given, [drawn(N, WIDTH, seed=40 + v) for v in range(3)]


def sigreg_by_jepa_science() -> Pair:
    from jepa_science.sigreg import sigreg_loss

    def draw() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    directions = losses.unit(torch.randn(WIDTH, 32, dtype=torch.float64, generator=draw()).T)

    def given(z: Tensor) -> Tensor:
        found: Tensor = sigreg_loss(z, num_slices=32, generator=draw())
        return found

    return lambda z: sigreg(z, directions), given, [1.3 * drawn(N, WIDTH, seed=44) + 0.2]


def vae() -> Pair:
    from pythae.models import BetaVAE, BetaVAEConfig

    ours = made("vae", beta=2.0, latent=WIDTH)
    theirs = BetaVAE(BetaVAEConfig(input_dim=(3, SIDE, SIDE), latent_dim=WIDTH, beta=2.0))
    x = batch().views[0]

    def own(y: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        total: Tensor = ours.loss(y, x, mu, log_var).total
        return total

    def given(y: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        deviation = (y - x).detach().square().mean().sqrt()
        found: Tensor = theirs.loss_function(y / deviation, x / deviation, mu, log_var, mu)[0]
        return found / x[0].numel() + (2 * torch.pi * deviation**2).log() / 2

    return own, given, [drawn(N, 3, SIDE, SIDE, seed=50).sigmoid(), drawn(N, WIDTH), drawn(N, WIDTH, seed=51)]


def csi() -> Pair:
    """Its pairs of views by lightly; the cross-entropy of turns is PyTorch's in both."""
    from lightly.loss import NTXentLoss

    ours = made("csi", temperature=0.2)
    theirs = NTXentLoss(0.2)

    def own(a: Tensor, b: Tensor, logits: Tensor) -> Tensor:
        total: Tensor = ours.loss(F.normalize(a, dim=2), F.normalize(b, dim=2), logits).total
        return total

    def given(a: Tensor, b: Tensor, logits: Tensor) -> Tensor:
        turns = [F.cross_entropy(logits[:, at], torch.full((N,), at % 4)) for at in range(8)]
        pairs: Tensor = theirs(a.flatten(0, 1), b.flatten(0, 1))
        return pairs + torch.stack(turns).mean()

    return own, given, [drawn(N, 4, WIDTH, seed=60), drawn(N, 4, WIDTH, seed=61), drawn(N, 8, 4, seed=62)]


CHECKS: dict[str, Callable[[], Pair]] = {
    **agreement_banks.CHECKS,
    "mae, transformers": mae(normalised=True),
    "mae --no-normalised, transformers": mae(normalised=False),
    "simmim, transformers": simmim,
    "beit, transformers": beit,
    "ijepa --no-standardised, lightly": ijepa,
    "ibot --koleo 0.2, lightly": ibot("mean"),
    "ibot --koleo 0.2 --centring sinkhorn, lightly": ibot("sinkhorn"),
    "lejepa, lightly": lejepa,
    "lejepa, SIGReg alone, jepa-science": sigreg_by_jepa_science,
    "vae, pythae": vae,
    "csi, lightly": csi,
}


if __name__ == "__main__":
    sys.exit(verdict(report(CHECKS, LOOSER)))
