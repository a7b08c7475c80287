"""How the unknowns of a program are updated: which blocks have a closed form, and what is left."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.conjugate.block import Block, Matcher
from inference.conjugate.e_step import EStep
from inference.conjugate.recognition import Recognition
from inference.conjugate.recognize import recognize
from zoo.program.program import Program


@dataclass
class Plan(Recognition):
    """What the sites are, and what is updated how.

    Attributes
    ----------
    blocks
        Closed-form updates, local unknowns first.
    rest
        Unknowns without one.
    example
        A few rows at made-up values.
    """

    blocks: list[Block] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    example: EStep | None = None

    @classmethod
    def of(cls, program: Program) -> Plan:
        """Recognize the sites of a program, and let blocks claim its unknowns, those of several unknowns first."""
        plan = cls(program)
        plan.example = recognize(plan)
        every = [s.name for s in (*program.parameters, *program.latents)]
        unknown = [n for n in every if n not in plan.in_values]
        for matcher in sorted((kind() for kind in Matcher.classes), key=lambda m: (m.rank, type(m).__name__)):
            offered = [n for n in unknown if matcher.states or not program.sites[n].by_state]
            for block in matcher.match(plan, plan.example, offered):
                if set(block.unknowns) <= set(unknown):
                    plan.blocks.append(block)
                    unknown = [n for n in unknown if n not in block.unknowns]
        order = {site.name: (site.role != "local", i) for i, site in enumerate(program.sites.values())}
        plan.blocks.sort(key=lambda block: (block.last, min(order[n] for n in block.unknowns)))
        plan.rest = [n for n in every if n in unknown or n in plan.in_values] + sorted(program.networks)
        return plan

    @property
    def names(self) -> list[str]:
        """All unknowns."""
        return [*(n for block in self.blocks for n in block.unknowns), *self.rest]
