"""A run from its first trial to its last, whatever happens in between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from attnref_conformance.status import Outcome, Status
from attnref_conformance.suite import Selection, spread
from attnref_conformance.vacuous import vacuous
from attnref_conformance.workers import Crew, Here, not_run


class Listener(Protocol):
    """Somebody who wants to know how far a run has come."""

    def begin(self, total: int) -> None:
        """Hear how many trials there are."""

    def hear(self, outcome: Outcome) -> None:
        """Hear how one ended."""

    def end(self) -> None:
        """Hear that there are no more."""


@dataclass(frozen=True)
class Done:
    """A run that is over.

    Attributes:
        outcomes: One for every trial, in the order of the clauses.
        partial: Whether a part of the suite was left out.
        interrupted: Whether somebody ended it.
    """

    outcomes: Sequence[Outcome]
    partial: bool
    interrupted: bool = False


def run(
    judges: Crew | Here, selection: Selection, budget: float | None, listener: Listener
) -> Done:
    """Judge everything that is selected, or what fits into a budget of seconds.

    Ctrl-C ends the trials, and not the report of those that were run.
    """
    trials = selection.trials()
    ended: dict[str, Outcome] = {}
    why = f"not run within the budget of {budget:g} s" if budget is not None else ""
    interrupted = False
    listener.begin(len(trials))
    try:
        for outcome in judges.run(trials if budget is None else spread(trials), budget):
            ended[outcome.id] = outcome
            listener.hear(outcome)
    except KeyboardInterrupt:
        interrupted, why = True, "the run was interrupted"
        judges.close()
    finally:
        listener.end()
    outcomes = [ended.get(trial.id) or not_run(trial, why) for trial in trials]
    if selection.clauses or selection.quick or len(ended) < len(trials):
        return Done(outcomes, partial=True, interrupted=interrupted)
    found = vacuous(judges.declared(), outcomes)
    return Done([*outcomes, *found], partial=selection.partial or _left_out(outcomes))


def _left_out(outcomes: Sequence[Outcome]) -> bool:
    """Tell whether anything was not run that this machine could have run."""
    return any(o.status is Status.NOT_RUN and o.level for o in outcomes)
