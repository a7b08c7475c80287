"""Stick-breaking: a category's probability is what earlier breaks have left of a stick, times its own break."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.conjugate.beta import Beta
from inference.conjugate.block import Block, Matcher, Use, uses
from inference.conjugate.categorical import Categorical
from inference.conjugate.conjugate_block import ConjugateBlock
from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import Current, Entries, Moments
from inference.conjugate.recognition import Recognition
from zoo.replay.sites import Site, views

OTHER = 0.7  # power of the breaks at a second place, where the probabilities have to be a broken stick's too


class StickCategory(Categorical):
    """z ~ Categorical(p), p_k = v_k prod_{l<k} (1 - v_l), the last v being 1 (Sethuraman 1994).

    log p(z) = sum_k [z = k] log v_k + [z > k] log(1 - v_k): breaks v_k ~ Beta(a, b) have the posteriors
    Beta(a + sum w [z = k], b + sum w [z > k]) (Blei and Jordan 2006, equations 18 and 19).
    """

    distributions, composes = (), "probs"

    def __init__(self, breaks: str) -> None:
        self.breaks = breaks

    def composed(self, current: Current) -> Moments:
        """E[log p]: of the break, and of all that came before."""
        posterior = current.posteriors.get(self.breaks)
        v = Beta().at(current.values[self.breaks]) if posterior is None else posterior.moments(self.breaks)
        return {"log": _stick(v["log"], v["log1m"])}

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """To (log v, log(1 - v)): weights of each category, and of all later ones."""
        (counts,) = entries.sums
        later = counts.flip(-1).cumsum(-1).flip(-1) - counts
        return counts[..., :-1], later[..., :-1]


def _stick(log: Tensor, log1m: Tensor) -> Tensor:
    """log v_k + sum_{l<k} log(1 - v_l), with a last v of 1; (breaks,) -> (breaks + 1,)."""
    left = torch.nn.functional.pad(log1m.cumsum(-1), (1, 0))
    return torch.nn.functional.pad(log, (0, 1)) + left


def broken_stick(seen: Recognition, example: EStep, site: Site) -> StickCategory | None:
    """The likelihood of a category whose probabilities are those of a broken stick, at two places; else None."""
    parent = site.args.get("probs") or site.args.get("logits")
    if site.family != "Categorical" or parent is None or parent.kind != "function" or len(parent.sites) != 1:
        return None
    breaks = seen.program.sites.get(parent.sites[0])
    if breaks is None or breaks.family != "Beta" or len(breaks.shape) != 1 or parent.index or parent.data:
        return None
    place = example.values[breaks.name]
    for value in (place, place**OTHER):
        values = {**example.values, breaks.name: value}
        probs = views(example.program.replay(values, densities=False).distributions[site.name])["probs"]
        expected = _stick(value.log(), (-value).log1p()).exp()
        if probs.shape[-1:] != expected.shape or not torch.allclose(probs, expected.expand_as(probs), rtol=1e-5):
            return None
    return StickCategory(breaks.name)


@dataclass
class StickBlock(ConjugateBlock):
    """The update of all breaks of a stick: a category tells of its own break and of all before it."""

    def count(self, expected: EStep) -> Tensor:
        """Expected count of what each break decides."""
        return sum(self.message(expected, None), torch.zeros(()))

    def message(self, expected: EStep, anchor: Tensor | None) -> tuple[Tensor, ...]:
        """Sums over all entries of what they say of each break."""
        found = []
        for use in self.uses:
            likelihood = expected.plan.likelihoods[use.site.name]
            parts = likelihood.message(use.argument, expected.entries(use.site, self.name))
            found.append([part.sum(list(range(part.ndim - 1))) for part in parts])
        return tuple(sum(parts[1:], parts[0]) for parts in zip(*found, strict=True))


class StickMatcher(Matcher):
    """Breaks with a Beta prior that feed nothing but categories by breaking a stick."""

    rank = 2

    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Claim each such unknown."""
        return [block for block in (self._block(seen, name) for name in unknown) if block is not None]

    def _block(self, seen: Recognition, name: str) -> Block | None:
        site = seen.program.sites[name]
        if site.family != "Beta" or name not in seen.likelihoods or any(p.sites or p.index for p in site.args.values()):
            return None
        children = [child for child, _ in uses(seen.program, name)]
        kinds = [seen.likelihoods.get(child.name) for child in children]
        if not kinds or not all(isinstance(kind, StickCategory) and kind.breaks == name for kind in kinds):
            return None
        return StickBlock(name, Beta(), tuple(Use(child, "probs", child.args["probs"]) for child in children))
