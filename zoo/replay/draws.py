"""Draws from distributions inside `torch.vmap`, most of which torch can draw from only outside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from zoo.replay.gaussian_chain import LinearGaussianChain
from zoo.replay.sites import base_distribution

ONE_OF = (  # arguments that say the same
    ("logits", "probs"),
    ("scale_tril", "covariance_matrix", "precision_matrix"),
    ("gate", "gate_logits"),
)
SIZES = ("total_count", "dim")  # plain numbers that some distributions are made with besides


def normal_draw(fn: Any) -> Tensor | None:
    """Draw from Normals by way of `torch.randn`, which torch can vectorize where `sample` it cannot; else None."""
    base = base_distribution(fn)
    if isinstance(base, LinearGaussianChain):
        return base.sample()
    if type(base).__name__ != "Normal":
        return None
    draw: Tensor = base.loc + base.scale * torch.randn(fn.shape(), dtype=base.loc.dtype, device=base.loc.device)
    return draw


def from_noise(fn: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value z that a Normal, univariate or not, makes of standard Normal noise, and log|dz/dnoise|.

    The latter in the shape of the distribution's log density.
    """
    base = base_distribution(fn)
    if type(base).__name__ == "Normal":
        return base.loc + base.scale * noise, _over_event(fn, base.scale.log().expand(noise.shape))
    root: Tensor = base.scale_tril
    value: Tensor = base.loc + (root @ noise.unsqueeze(-1)).squeeze(-1)
    return value, _over_event(fn, root.diagonal(dim1=-2, dim2=-1).log().expand(noise.shape))


def noise_density(fn: Any, noise: Tensor, volume: Tensor, scale: Any) -> Tensor:
    """Log density of the noise behind a Normal latent whose own log density is multiplied by a scale.

    It is log N(noise | 0, 1), for p(z) dz = p(noise) dnoise, whatever location and scale make z of it; with a scale s
    on log p(z), s (log N(noise) - log|dz/dnoise|) + log|dz/dnoise|.
    """
    density = _over_event(fn, -0.5 * (noise.square() + math.log(2 * math.pi)))
    if isinstance(scale, int | float) and scale == 1:
        return density
    scaled: Tensor = scale * (density - volume) + volume
    return scaled


def _over_event(fn: Any, entries: Tensor) -> Tensor:
    return entries.sum(list(range(-fn.event_dim, 0))) if fn.event_dim else entries


def vectorized_draw(fn: Any, lead: Tensor) -> Tensor:
    """Draw from a distribution inside `torch.vmap`, anew for each entry of `lead`, a number that varies over it.

    Its arguments, which may or may not vary, are laid out side by side, and all draws are made at once.
    """
    plain = normal_draw(fn)
    if plain is not None:
        return plain
    base = base_distribution(fn)
    arguments = _arguments(base)
    if not arguments or type(base).__name__ == "Delta":
        drawn: Tensor = fn.sample()  # torch may know how; if it does not, it raises
        return drawn
    batch = fn.shape()[: len(fn.shape()) - len(base.event_shape)]
    names = tuple(arguments)
    wide = [v.expand((*batch, *v.shape[v.ndim - _event_dim(base, n) :])) for n, v in arguments.items()]

    def draw(values: tuple[Tensor, ...]) -> Tensor:
        sizes = {n: v for n in SIZES if isinstance(v := getattr(base, n, None), int)}
        try:
            made = type(base)(**dict(zip(names, values, strict=True)), **sizes, validate_args=False)
        except (TypeError, ValueError) as error:
            raise RuntimeError(f"{type(base).__name__} cannot be made from its arguments: {error}") from error
        drawn: Tensor = made.sample()
        return drawn

    return drawn_at_once(draw, tuple(fn.shape()), lead, *wide)


def _arguments(base: Any) -> dict[str, Tensor]:
    """Arguments that a distribution can be made again from; none if it is made of other distributions."""
    found = {n: v for n in base.arg_constraints if isinstance(v := getattr(base, n, None), Tensor)}
    for group in ONE_OF:
        for name in [n for n in group if n in found][1:]:
            del found[name]
    return found


def _event_dim(base: Any, name: str) -> int:
    """How many dimensions on the right of an argument belong to one event."""
    dims: int = base.arg_constraints[name].event_dim
    return max(dims, 1) if name == "logits" and type(base).__name__ in ("Categorical", "OneHotCategorical") else dims


class _Drawn(torch.autograd.Function):
    """Draws whose vectorized form is drawn at once."""

    @staticmethod
    def forward(draw: Callable[[tuple[Tensor, ...]], Tensor], shape: tuple[int, ...], *values: Tensor) -> Tensor:
        drawn = draw(values[1:])
        if tuple(drawn.shape) != shape:
            raise RuntimeError(f"draws have shape {tuple(drawn.shape)}, not {shape}")
        return drawn

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: draws have no gradient."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, draw: Any, shape: tuple[int, ...], *values: Tensor) -> tuple[Tensor, int]:
        """Draw for all entries at once."""
        size = info.batch_size
        led = [
            v.expand(size, *v.shape) if dim is None else v.movedim(dim, 0)
            for v, dim in zip(values, in_dims[2:], strict=True)
        ]
        return drawn_at_once(draw, (size, *shape), *led), 0


drawn_at_once = cast(Callable[..., Tensor], _Drawn.apply)
