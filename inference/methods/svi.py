"""Stochastic variational inference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from guides.full_rank import FullRank
from guides.guide import Guide
from guides.mean_field import MeanField
from inference.approximations.completed import Collapse, integrated, view_of
from inference.compiled.compile import Compile, Lowered
from inference.method import Method, Outcome, unsupported
from inference.methods.batch_and_match import matched
from inference.runtime.checkpoint import Checkpoint, identity
from inference.runtime.interruption import listening
from inference.runtime.monitor import Monitor, Told
from inference.runtime.processes import ALONE, Processes
from inference.sampling.unconstrained import no_density
from inference.starts.natural import several_starts
from inference.variational.batches import Batches
from inference.variational.bound import Bound
from inference.variational.each import BoundOfEach, together
from inference.variational.ends import Ends
from inference.variational.gathered import Gathered
from inference.variational.held_out import HeldOut, parted
from inference.variational.optimize import Climb
from inference.variational.other_rows import OtherRows, held_of
from inference.variational.per_step import FULL_ROWS, PARTICLES, covering_draws, draws_per_step, rows_per_step
from inference.variational.sampled import standing_for_all, with_sampling_error
from inference.variational.schedule import Kind, Schedule
from inference.variational.wide import widened
from zoo.errors import MethodError, ZooError
from zoo.program.program import Program

STEPS = 10_000  # at most, if not given
TYPICAL = 1500  # steps that a fit takes as a rule if it may take fewer, for judging whether to compile
PARTING = ("batch_size", "accumulate", "validation", "distributed")  # settings that take rows apart
OPTIMIZERS = Literal["Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD", "Adagrad", "batch-and-match"]
MATCH = "batch-and-match"
PATIENCE = 10  # passes over the rows


@dataclass(frozen=True)
class SVI(Method):
    """Stochastic variational inference: climb the ELBO, or another bound, with any guide.

    max_q E_q[log p(x, z; theta)] - E_q[log q(z)] by stochastic gradient ascent (Hoffman et al. 2013). Enumerated sites
    are summed out exactly, so q covers the other latents only; draws are reparameterized (Kucukelbir et al. 2017), or,
    for counts and what else has no reparameterization, climb by the score function with the other draws of the step as
    a baseline (Mnih and Rezende 2016).
    Parameters and network weights climb along. Steps are taken by Adam in natural units (one over the square root of
    the curvature at the start) at a constant rate until the bound stops rising beyond its noise; then the rate falls to
    zero and the last steps are averaged. If the end is worse than an earlier stretch, that one is kept. Afterwards
    draws from q are weighed against the posterior: Pareto k-hat, the log evidence with its error, and a verdict.

    Parameters
    ----------
    guide
        The family for q: `MeanField()`, `FullRank()`, `Point()`, `Encoder(...)`, a composition, or your own.
    steps
        Most steps.
    epochs
        Instead of `steps`: most passes over the rows.
    learning_rate
        Of coordinates in natural units; network weights use a tenth of it.
    batch_size
        Rows per step. None: 128 with networks; otherwise all rows up to 5000, beyond that 1000. Rows of a stream (data
        sets of torch, arrays on disk) are read as a step needs them.
    accumulate
        Mini-batches to a step, whose gradients are averaged: larger batches than memory holds.
    particles
        Draws per step, k of IWAE. None: 8, or 64 to 512 where q is to cover the posterior, or 1 with large networks; at
        least 5 for bounds other than the ELBO.
    objective
        "elbo"; "iwae", the importance-weighted bound of `particles` draws (Burda, Grosse and Salakhutdinov 2016);
        "renyi", the bound of order `alpha` (Li and Turner 2016); "inclusive": q goes down KL(p || q), with p the
        posterior, by weighted draws, so that it covers all of the posterior and has its mean and standard deviation
        where it is a Normal; the model climbs the importance-weighted bound (reweighted wake-sleep, Bornschein and
        Bengio 2015; Tucker et al. 2019). Few globals start from moments of weighted draws that come from far away. The
        trace is an estimate of log p(x) - KL(p || q), the end the importance-weighted bound. "wake_sleep": the ELBO for
        the model, draws from the model for the encoder (Hinton et al. 1995).
    alpha
        Order of the Rényi bound, 0.5 if not given: 1 is the ELBO, 0 the importance-weighted bound. Below 0 it bounds
        the evidence from above, and q goes down D_{1 - alpha}(p || q) as for "inclusive", which is its limit at 0; -1
        is the chi-square divergence (Dieng et al. 2017).
    warm_up
        Steps over which the weight of the latents' log p - log q rises from 0 to 1 (KL annealing, Bowman et al. 2016).
    beta
        That weight after the warm-up: 1 for the ELBO, less for codes that say more of their rows, more for codes that
        say less (Higgins et al. 2017). The trace and the end always show the bound with weight 1.
    free_bits
        Nats that q of a row's latents may be from their prior, on average over a mini-batch, before they are pulled
        back (Kingma et al. 2016, one group of all latents); for decoders that learn to ignore them.
    optimizer, options
        Class in `torch.optim`, and settings for it other than the rate, such as ``{"weight_decay": 0.01}``. Or
        "batch-and-match", for `FullRank()`: no steps along gradients, but closed-form updates of mean and covariance
        that match the gradients of log q to those of log p at a batch of draws (Cai et al. 2024); a hundredth of the
        gradients where the posterior is near a Normal. `particles` is then the batch, at most 250 `steps` are taken,
        and rates, schedules and clips play no part; the end is where averages over the updates stand still.
    schedule
        "plateau" as above; "constant", "cosine", "exponential" or "one_cycle" (`torch.optim.lr_scheduler`) over all
        `steps`.
    clip
        Largest norm of the gradient per row.
    validation
        Rows that no step sees: a data set like the one that is fitted, or a share of that or, from 1 on, how many:
        after every pass their bound is evaluated, at the same draws each time. When it has not risen for `patience`
        passes the rate falls ("plateau") or the climb ends, and the weights with the highest are kept. For rows without
        latents of their own, or with an `Encoder`.
    restarts
        Number of starts, all climbed in one tensor program; the best end is kept, and R-hat of the log joint over
        all of them says whether they agree.
    compile
        Compile the step: True, False, or "auto", where that is expected to save more time than it takes; otherwise the
        operations of one step are recorded and played back, to the same bits. False: every step runs the model's code.
    checkpoint
        File to which the whole state is written every `checkpoint_every` steps. If it is there at the beginning, the
        fit goes on from it, and ends at the same numbers as one that was never stopped. With more `steps` or `epochs`
        than before it goes on to these, unless it had converged.
    workers
        Processes that fetch mini-batches ahead of their use.
    distributed
        Each process of a `torch.distributed` group (torchrun; gloo or nccl) takes its share of the rows of each step,
        and gradients are averaged. All processes call `fit` with the same data and seed, and get the same fit.
    corrected
        Resample draws by Pareto-smoothed importance weights where k-hat allows it; False hands out draws of q itself.
        Where rows are independent, as with an encoder and points for what they share, each is resampled by weights
        of its own when draws are asked for, and rows whose k-hat is above 0.7 are left as q has them.
    collapse
        "auto": latents that can be integrated out given the others are, and are drawn exactly given these afterwards,
        so that q is one of the others only; but not those that the guide names, nor where rows come in mini-batches,
        q is a point, or `warm_up` or "wake_sleep" treat latents and data apart. False: q is one of all latents.

    Examples
    --------
    >>> import zoo
    >>> from guides import Conjugate
    >>> from inference import SVI, fit
    >>> method = SVI(guide=Conjugate(), steps=100, learning_rate=0.05)
    >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method=method, seed=0)
    >>> print(result.objective.kind, round(result.objective.value))  # at most the log evidence, -4.654
    elbo -5
    """

    streams: ClassVar[bool] = True
    guide: Guide = field(default_factory=MeanField)
    steps: PositiveInt = STEPS
    learning_rate: PositiveFloat = 0.05
    batch_size: PositiveInt | None = None
    particles: PositiveInt | None = None
    objective: Literal["elbo", "iwae", "renyi", "inclusive", "wake_sleep"] = "elbo"
    alpha: FiniteFloat | None = None
    warm_up: NonNegativeInt = 0
    beta: PositiveFloat = 1.0
    free_bits: NonNegativeFloat = 0.0
    optimizer: OPTIMIZERS = "Adam"
    options: Mapping[str, float | bool] = field(default_factory=dict)
    schedule: Kind = "plateau"
    clip: PositiveFloat = 10.0
    restarts: PositiveInt = 1
    compile: Compile = "auto"
    checkpoint: str | None = None
    checkpoint_every: PositiveInt = 500
    workers: NonNegativeInt = 0
    corrected: bool = True
    collapse: Collapse = "auto"
    epochs: PositiveInt | None = None
    accumulate: PositiveInt = 1
    validation: Any = None
    patience: PositiveInt = PATIENCE
    distributed: bool = False

    def __post_init__(self) -> None:
        """Check the settings, and that they go together."""
        super().__post_init__()
        name = type(self).__name__.lower()
        if self.epochs is not None and self.steps != STEPS:
            raise MethodError(f"{name}: give steps={self.steps} or epochs={self.epochs}, not both")
        object.__setattr__(self, "validation", held_of(self.validation, name))
        if self.validation is None and self.patience != PATIENCE:
            raise MethodError(f"{name}: patience={self.patience} counts passes without a gain; give validation, too")
        if self.objective != "elbo" and (self.beta != 1 or self.free_bits):
            raise MethodError(f"{name}: beta and free_bits change the ELBO, and objective is {self.objective!r}")
        if self.epochs is None and self.warm_up > self.steps // 2:
            raise MethodError(f"{name}: warm_up={self.warm_up} must end in the first half of steps={self.steps}")
        if self.alpha is not None and self.objective != "renyi":
            raise MethodError(f"{name}: alpha is the order of objective='renyi', and objective is {self.objective!r}")
        if self.weighing and self.particles == 1:
            raise MethodError(
                f"{name}: objective={self.objective!r} weighs draws against each other, and of one draw is the ELBO; "
                "give particles=2 or more"
            )
        if self.optimizer == MATCH:
            self._check_match(name)
            return
        family = getattr(torch.optim, self.optimizer)
        try:
            family([torch.zeros(1, requires_grad=True)], lr=0.1, **self.options)
        except (TypeError, ValueError) as error:
            raise MethodError(
                f"{name}: torch.optim.{self.optimizer} does not take options={dict(self.options)}: {error}"
            ) from None

    def _check_match(self, name: str) -> None:
        """Refuse what closed-form updates of one Normal cannot do."""
        if not (isinstance(self.guide, FullRank) and not self.guide.sites):
            raise MethodError(f"{name}: optimizer={MATCH!r} is for guide=FullRank() of all latents, not {self.guide!r}")
        plain = SVI(self.guide, self.steps, particles=self.particles, compile=self.compile)
        plain = replace(plain, corrected=self.corrected, collapse=self.collapse)
        for each in fields(self):
            given = getattr(self, each.name)
            if each.name != "optimizer" and given != getattr(plain, each.name):
                raise MethodError(f"{name}: {each.name}={given!r} has no meaning for optimizer={MATCH!r}; leave it out")
        if self.particles is not None and (self.particles % 2 or self.particles < 4):
            raise MethodError(
                f"{name}: particles={self.particles} must be even and at least 4 for optimizer={MATCH!r}: draws come "
                "in pairs z and -z"
            )

    def why_not(self, program: Program) -> str | None:
        # Refuse models with a latent that cannot be enumerated, with nothing to fit, or that the guide refuses
        if (reason := unsupported(program, counts=self.optimizer != MATCH)) is not None:
            return reason
        if self.optimizer == MATCH and (reason := no_density(program)) is not None:
            return f"optimizer={MATCH!r} matches gradients of a posterior density, and {reason}"
        if program.tied and (parting := [n for n in PARTING if getattr(self, n) != getattr(SVI, n)]):
            return f"{' and '.join(parting)} takes rows apart, and {program.tied}; leave it out"
        if program.data.stream is not None and (reason := self._unread(program)) is not None:
            return reason
        if not program.latents and not program.parameters and not program.networks:
            return "there is no latent or parameter to fit"
        if self.objective != "elbo" and self._still(program):
            return f"objective={self.objective!r} weighs draws of a distribution, and what climbs here is only a point"
        if not program.latents:
            return self._needless(program)
        if self.guide.still and (self.particles or 1) > 1:
            return f"{self.guide!r} is a point while it climbs, whose particles={self.particles} draws are all the same"
        if (reason := self.guide.why_not(program)) is not None:
            return reason
        if self.free_bits and (program.globals or program.enumerated or not program.locals):
            return "free_bits is about the locals of a row, and needs a model with these and no other latents"
        if self.objective == "wake_sleep" and (program.globals or not program.locals):
            return "wake_sleep trains an encoder of local latents, and needs a model with these and without global ones"
        if self.weighing and self.batch_size is not None and program.globals:
            return f"objective={self.objective!r} with global latents needs all rows at once: leave out batch_size"
        return None

    def _needless(self, program: Program) -> str | None:
        """Why a guide that was given has nothing to do, where there are no latents for it."""
        if self.guide == type(self)().guide:
            return None
        gone = [s.name for s in (*program.enumerated, *(program.integrated.chains if program.integrated else ()))]
        summed = f"what is unknown of {', '.join(map(repr, gone))} is summed or integrated out exactly"
        why = summed if gone else "the model has only parameters and networks, which climb without one"
        return f"guide={self.guide!r} has no latent to cover: {why}; leave guide out"

    def _unread(self, program: Program) -> str | None:
        """Why the rows of a stream cannot be taken in mini-batches, if they cannot."""
        stream = program.data.stream
        if stream is None or stream.count is None:
            return f"mini-batches take rows by their numbers, and {stream} has them in order only; give an NPY file"
        if not isinstance(self.validation, OtherRows | None) or self.distributed:
            return "rows held back, and shares of processes, are parts of the rows in memory, and a stream is read anew"
        if program.tied:
            return f"a stream is read in parts, and {program.tied}"
        known = self.guide.points(program) if program.latents else ()
        drawn = [s.name for s in program.globals if s.name not in known]
        if drawn and not self.guide.point:
            return f"draws of {drawn[0]!r} would have to be weighed against all rows of a stream; make it a point"
        return None

    def _check_scored(self, bound: Bound) -> None:
        """Refuse what the score function cannot do: other bounds than the ELBO, and a baseline without other draws."""
        if not bound.scored:
            return
        what = f"svi: {self.guide!r} draws some latents without a gradient, for which it climbs by the score function"
        if self.objective != "elbo":
            raise MethodError(f"{what}; that is there for objective='elbo' only, not {self.objective!r}")
        if self.particles == 1:
            raise MethodError(f"{what}; its baseline needs other draws of the same step: give particles=2 or more")

    @property
    def order(self) -> float:
        """Order alpha of the bound.

        Examples
        --------
        >>> from inference import SVI
        >>> SVI().order, SVI(objective="iwae").order, SVI(objective="renyi", alpha=-1.0).order
        (1.0, 0.0, -1.0)
        """
        alpha = 0.5 if self.alpha is None else self.alpha
        return {"iwae": 0.0, "inclusive": 0.0, "renyi": alpha}.get(self.objective, 1.0)

    @property
    def weighing(self) -> bool:
        """Whether the draws of a step are weighed against each other.

        Examples
        --------
        >>> from inference import SVI
        >>> SVI().weighing, SVI(objective="iwae").weighing
        (False, True)
        """
        return self.objective in ("iwae", "renyi", "inclusive")

    @property
    def covering(self) -> bool:
        """Whether q goes down a divergence from the posterior to q.

        Examples
        --------
        >>> from inference import SVI
        >>> SVI().covering, SVI(objective="inclusive").covering
        (False, True)
        """
        return self.objective == "inclusive" or self.order < 0

    def how(self, program: Program) -> str:
        # Say what is integrated out
        if not (self._view(program).collapsed or program.integrated):
            return ""
        return integrated(program, "auto", self.guide.named(program))

    def _view(self, program: Program) -> Program:
        """The program with what can be integrated out, if the bound and the guide leave it to that."""
        apart = any(getattr(self, n) != getattr(SVI, n) for n in PARTING)
        weighed = self.warm_up > 0 or self.beta != 1 or self.objective == "wake_sleep"
        if apart or weighed or self.guide.still or len(program.data) > FULL_ROWS or program.data.stream is not None:
            return program
        view = view_of(program, self.collapse, self.guide.named(program))
        return program if self.guide.why_not(view) is not None else view

    def run(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        # Climb until the schedule says stop
        program = standing_for_all(self._view(program))
        if self.optimizer == MATCH:
            return self._matched(program, judged=True, progress=progress)
        group = Processes.running() if self.distributed else ALONE
        with group.watched():
            return self._climb(program, group, progress=progress)

    def _climb(self, program: Program, group: Processes, *, progress: Told | bool) -> Outcome:
        """Climb, alone or in one of several processes."""
        held = self.validation.bound(program) if isinstance(self.validation, OtherRows) else None
        data = [program.data, *([] if held is None else [held.data])]
        alone = self.checkpoint is None and group is ALONE
        which = "" if alone else identity(self, program.model, data, apart=("steps", "epochs"))
        group.agree(which, "the model, the data, the settings or the seed", program.device)
        file = None
        if self.checkpoint is not None:
            file = Checkpoint(Path(self.checkpoint), which, self.checkpoint_every, group)
        train = program
        if held is None and self.validation is not None:
            train, held = parted(program, self.validation)
        starts = several_starts(train, self.restarts)
        if self.covering:
            starts = [widened(train, start) for start in starts]
        bound = Bound(
            train,
            self.guide,
            starts,
            alpha=self.order,
            covering=self.covering,
            asleep=self.objective == "wake_sleep",
            warmed=self.warm_up > 0 or self.beta != 1,
            free=self.free_bits,
        )
        if bound.asleep and not bound.q.amortized:
            raise MethodError("wake_sleep trains an encoder: give SVI(guide=Encoder(), objective='wake_sleep')")
        if program.data.stream is not None and program.locals and not bound.q.amortized:
            raise MethodError(f"svi: {self.guide!r} has numbers for each row, and a stream too many; use Encoder()")
        self._check_scored(bound)
        gathered = Gathered(self.accumulate, group)
        with self._climbed(bound, self.restarts, file, gathered, held, progress=progress) as (ends, note):
            with bound.seeing(program):
                outcome = ends.best(note)
            return outcome if program.data.stream is None else with_sampling_error(program, outcome)

    def _matched(self, program: Program, *, judged: bool, progress: Told | bool = False) -> Outcome:
        """Closed-form updates, instead of a climb."""
        return matched(
            program,
            self.steps,
            self.particles,
            self.compile,
            corrected=self.corrected,
            judged=judged,
            progress=progress,
        )

    def fit_unjudged(self, program: Program) -> Outcome:
        # The draws that `run` hands out, without a verdict on them where that is cheaper
        if self.optimizer == MATCH:
            return self._matched(self._view(program), judged=False)
        return self.run(program)

    @contextmanager
    def _climbed(
        self,
        bound: Bound,
        starts: int,
        file: Checkpoint | None = None,
        gathered: Gathered | None = None,
        held: Program | None = None,
        *,
        progress: Told | bool = False,
    ) -> Iterator[tuple[Ends, str]]:
        """Climb from all starts; hand out where they end, from which Ctrl-C takes nothing, and why not compiled."""
        program, gathered = bound.program, Gathered() if gathered is None else gathered
        program.model.train()
        size, seed = rows_per_step(bound, self.batch_size), int(torch.randint(2**31, ()))
        batches = Batches(program.data, size, seed, self.workers, bound=bool(program.collapsed), model=program.model)
        still = self._still(program)
        gathered.check(batches.rows, len(program.data))
        draws = draws_per_step(bound, self.particles, rows=batches.rows, still=still)
        epoch = max(1, batches.epoch // gathered.parts)
        steps = self.steps if self.epochs is None else self.epochs * epoch
        schedules = [
            Schedule(
                steps,
                self.learning_rate,
                epoch=epoch,
                exact=still and batches.whole,
                hold=self.warm_up,
                kind=self.schedule,
                patience=self.patience,
            )
            for _ in range(starts)
        ]
        held_out = None if held is None else HeldOut(bound, held, draws)
        climb = Climb(bound, schedules, self.optimizer, self.options, self.clip, gathered, held_out)
        with torch.random.fork_rng(devices=[]):
            step = self._lowered(program, climb, draws, batches)
        with listening():
            with Monitor(type(self).__name__.lower(), steps, show=progress) as shown:
                climb.run(step, batches, draws, shown, beta=self.beta, warm_up=self.warm_up, file=file)
            program.model.eval()
            particles = draws if self.objective == "iwae" or self.covering else 1
            yield Ends(climb, self.guide, draws, particles, self.corrected), step.note

    def _still(self, program: Program) -> bool:
        """Whether what climbs is a point."""
        return not program.latents or self.guide.still

    def _lowered(self, program: Program, climb: Climb, draws: int, batches: Batches) -> Lowered:
        """The step, compiled where that pays."""
        if program.data.missing and not batches.whole:
            note = "not compiled: mini-batches with missing values (NaN) differ in what is missing"
            return Lowered(climb.evaluated, False, note if self.compile is True else "")
        first = climb.schedules[0]
        calls = min(first.steps, max(TYPICAL, first.fewest))
        return climb.lower(program, batches, draws, self.compile, calls)

    # -- many data sets ----------------------------------------------------------------------------------------

    def together(self, program: Program) -> int:
        # As many as one step can hold, where data sets can be climbed for in one tensor program; else 1
        unlike = program.networks or program.data.missing or program.chained or self.guide.point
        several = (
            self.restarts > 1
            or self.checkpoint is not None
            or any(getattr(self, n) != getattr(SVI, n) for n in PARTING)
        )
        if unlike or several or self.optimizer == MATCH or self.objective == "wake_sleep":
            return 1
        if len(program.data) > FULL_ROWS or not program.latents:
            return 1
        usual = covering_draws(len(program.data), networks=False) if self.covering else PARTICLES
        return together(program, self.particles or usual)

    def run_each(self, programs: Sequence[Program]) -> list[Outcome | ZooError]:
        # Climb for all data sets in one tensor program, each by a schedule of its own
        if len(programs) == 1 or self.together(programs[0]) == 1:
            return super().run_each(programs)
        programs = [self._view(program) for program in programs]
        try:
            starts = [several_starts(program, 1)[0] for program in programs]
            if self.covering:
                starts = [widened(program, start) for program, start in zip(programs, starts, strict=True)]
            warmed = self.warm_up > 0 or self.beta != 1
            bound = BoundOfEach(programs, self.guide, starts, alpha=self.order, covering=self.covering, warmed=warmed)
            if bound.q.amortized or bound.scored:
                return super().run_each(programs)
            with self._climbed(bound, len(programs)) as (found, _):
                ends = found
        except ZooError:  # of one of them: which, is seen one by one
            return super().run_each(programs)
        outcomes: list[Outcome | ZooError] = []
        for i, program in enumerate(programs):
            try:
                outcomes.append(ends.unjudged(program, i))
            except ZooError as error:
                outcomes.append(error)
        return outcomes
