"""A second look at draws of chains, by weighted draws that owe them little: what they have left out, or bear out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from inference.diagnostics.coordinates import Names
from inference.diagnostics.shifts import Moments, moments, place_of, scalars
from inference.diagnostics.survey import survey
from inference.diagnostics.verdict import KNOWN, MEAN_OFF, SD_OFF
from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.replay.evaluate import Values

MORE = 4  # times as many draws for a look that is not precise enough
ROUGHLY = 0.05  # of the weight, at other modes, from which chains have left something out, however rough that is
SURE = 3.0  # Monte Carlo errors beyond which chains have left something out


@dataclass(frozen=True)
class SecondLook:
    """What a survey says of draws of chains.

    Attributes
    ----------
    missed
        Where the draws leave out what it finds; empty if nowhere, or where it cannot tell.
    agreement
        How near its means and standard deviations are; empty where they are not, or it cannot tell.
    """

    missed: str = ""
    agreement: str = ""


def second_look(
    program: Program, values: Values, count: int, worth: float, density: Density | None = None
) -> SecondLook:
    """Hold draws of chains to what a wider look finds.

    Chains that all begin near one mode agree with each other, whatever there is elsewhere.

    Parameters
    ----------
    program
        The program.
    values
        Draws of all latents.
    count
        How many draws to weigh.
    worth
        Effective sample size of the draws.
    density
        That of the program, if it was made already.
    """
    total = len(next(iter(values.values())))
    x, shapes = scalars(program, {}, values, total)
    own = moments(x, np.full(total, 1 / total))

    def known(seen: Moments) -> bool:
        off = replace(own, mean_error=0 * own.mean, sd_error=0 * own.sd).off(seen)  # leaves the errors of the look
        return bool(off.mean_error.max() <= KNOWN * MEAN_OFF and off.sd_error.max() <= KNOWN * SD_OFF)

    wide = survey(program, {}, values, count, most=MORE * count, clear=known, density=density)
    if wide is None:
        return SecondLook()
    if wide.moments is None:  # its weights are uneven: what they say is rough
        heavy = wide.modes > 0 and wide.elsewhere > ROUGHLY
        return SecondLook(
            missed=f"climbs from afar end at {wide.modes} other mode(s) that no chain has come to, where much of the "
            "mass may be; start chains apart, or use smc"
            if heavy
            else ""
        )
    off = own.off(wide.moments)
    gaps = (np.abs(off.mean), np.abs(off.sd - 1))
    slow = math.sqrt(max(1.0, total / worth))  # draws of chains are worth fewer
    mean = gaps[0] - SURE * slow * off.mean_error - MEAN_OFF
    sd = gaps[1] - SURE * slow * off.sd_error - SD_OFF
    if wide.modes and max(mean.max(), sd.max()) > 0:
        names = Names(program, {n: v[0] for n, v in values.items()})
        name = names.entry(*place_of(int(np.maximum(mean, sd).argmax()), shapes))
        return SecondLook(
            missed=f"climbs from afar end at {wide.modes} other mode(s) that no chain has come to, and weighed with "
            f"these the mean or spread of {name} is another one; start chains apart, or use smc"
        )
    noise = (slow * own.mean_error / wide.moments.sd, slow * own.sd_error / wide.moments.sd)  # of any such chains
    near = all(bool((g - e <= limit).all()) for g, e, limit in zip(gaps, noise, (MEAN_OFF, SD_OFF), strict=True))
    if not near or not known(wide.moments):
        return SecondLook()
    return SecondLook(
        agreement=f"a wider look at the posterior finds means within {gaps[0].max():.2f} posterior sds and sds within "
        f"{100 * gaps[1].max():.0f} %"
    )
