"""Whether a fitted q can be trusted, in words."""

from __future__ import annotations

import math

from inference.diagnostics.pareto import KHAT_GOOD

KHAT_SMALL = 0.5  # below it the ratios have a variance (Vehtari et al. 2024)


def verdict(
    shape: float, converged: bool, evidence: float, error: float, of: str = "x", *, far: float = 0.0, few: bool = False
) -> str:
    """Say in words what k-hat means for the use of q.

    The evidence is log p of what `of` names; `far` is how far the ELBO is below it, if that is a lot; `few` whether a
    few draws have all the weight.
    """
    close = f"log p({of}) = {evidence:.3f} +- {error:.2g} by importance weighting"
    if not math.isfinite(shape) and not math.isnan(shape):
        text = "do not trust: the approximation misses part of the posterior (k-hat is infinite)"
    elif shape > KHAT_GOOD:
        text = (
            f"do not trust: k-hat {shape:.2f} is above {KHAT_GOOD}, the approximation is far from the posterior where "
            "that has mass; means may be right, spreads and the evidence are not. Try a richer guide, or nuts"
        )
    elif few:
        text = (
            f"do not trust: a few draws outweigh all others ({close}); the approximation misses where most of the "
            "posterior is. Try a richer guide, restarts, or better starting values"
        )
    elif far and not math.isnan(shape):
        text = (
            f"usable with care: the ELBO is {far:.1f} nats below the evidence, so draws are right only when weighted, "
            f"and their unweighted means and spreads are not; {close}"
        )
    elif shape > KHAT_SMALL:
        text = f"usable with care: k-hat {shape:.2f} is between {KHAT_SMALL} and {KHAT_GOOD}; {close}"
    elif math.isnan(shape):
        text = f"trust, as far as can be told: p / q has no spread, or too few draws to see it; {close}"
    else:
        text = f"trust: k-hat {shape:.2f} is below {KHAT_SMALL}, the approximation is close to the posterior; {close}"
    return text if converged else f"not converged, so this describes where it stopped. {text[0].upper()}{text[1:]}"
