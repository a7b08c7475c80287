"""What is said of components: those that hold next to no rows, and those whose scale stands at its floor."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.conjugate import EStep, closed_form
from inference.conjugate.conjugate_block import listed
from zoo.program.program import Program
from zoo.replay.evaluate import Values

EMPTY_ROWS = 0.5  # rows in effect below which a component is said to be empty


def floored_scales(program: Program, values: Values) -> list[str]:
    """Warn of scales that stand at their floor, where no prior keeps them from it."""
    if not program.parameters:
        return []
    plan = closed_form(program)
    with torch.no_grad():
        replay = program.replay(values)
        _, marginals = program.marginals(replay.log_probs)
        expected = EStep(plan, program, values, replay, marginals)
        return [note for block in plan.blocks for note in block.warnings(expected)]


def thin_components(program: Program, values: Values) -> list[str]:
    """Warn of states with unknowns of their own that hold almost no rows, by number and effective size."""
    with torch.no_grad():
        responsibilities = program.responsibilities(values) if program.row else {}
    matrices = any(s.family == "MultivariateNormal" for s in program.observed)
    least = program.data.features().shape[1] + 1 if matrices else 2
    notes = []
    for name, probability in responsibilities.items():
        if not any(name in p.index and p.sites for s in program.sites.values() for p in s.args.values()):
            continue  # states that stand for numbers, or for what is known of them
        sizes = probability.sum(0)
        thin = [(k, float(s)) for k, s in enumerate(sizes) if float(s) < least]
        if len(thin) == 1:
            k, size = thin[0]
            notes.append(
                f"component {k} of {name!r} holds {size:.2f} rows in effect; its parameters are hardly determined"
            )
        elif thin:
            each = listed([k for k, _ in thin])
            most = max(size for _, size in thin)
            notes.append(
                f"components {each} of {name!r} hold {most:.2f} rows in effect or fewer; their parameters are hardly "
                "determined"
            )
    return notes


def component_sizes(program: Program, expected: EStep) -> dict[str, Tensor]:
    """Rows in effect that each state of each enumerated site of a row holds."""
    sizes = {}
    for site in program.assigned:
        if site.name in expected.sums:
            sizes[site.name] = expected.sums[site.name][0].reshape(-1)
        elif site.name in expected.marginals:
            sizes[site.name] = program.states_of(expected.marginals, site).sum(0)
    return sizes


def empty_components(program: Program, expected: EStep) -> list[str]:
    """Report components that hold no rows, by number and effective size: the model has pruned them."""
    notes = []
    for name, sizes in component_sizes(program, expected).items():
        notes += [
            f"component {k} of {name!r} is empty ({size:.2g} rows in effect): its posterior is its prior"
            for k, size in enumerate(sizes.tolist())
            if size < EMPTY_ROWS
        ]
    return notes
