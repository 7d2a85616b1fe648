"""Teachers that may become the Gram teacher: which of them is the best, and which can never be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

__all__ = ["Candidate", "best", "comparable", "score_table", "undominated"]

RANK_MARGIN = 0.1
"""A candidate whose RankMe is lower than the best one's by more than this share is not chosen."""
LEARNED = 0.97
"""A teacher whose DINO loss is not below this share of ln K has learned nothing yet (docs/explanation/
gram-anchoring.md): ln K is the loss of a student that says nothing."""


@attrs.frozen
class Candidate:
    """The teacher of a step, and how good it seems."""

    step: int
    patch_cosine: float
    """Mean cosine of two patches of the same image: low where patches say where they are."""
    rank: float
    """RankMe of the class tokens: high where images are told apart."""
    dense_score: float | None
    """What somebody who has labels says, higher is better; None: nobody does."""
    sha256: str | None
    """Of its file."""
    has_learned: bool = True
    """Whether the DINO loss of its step was below 0.97 ln K; True where there is no DINO loss."""
    scored_by: str | None = None
    """The metric that `dense_score` is of (`choose_by`); None: it is the answer to the hook `dense_score`."""


def comparable(candidates: Iterable[Candidate], choose_by: str | None) -> list[Candidate]:
    """The candidates as the choice is to see them: a score by another measure than `choose_by` is none, for it may be
    on another scale."""
    return [c if c.scored_by == choose_by else attrs.evolve(c, dense_score=None) for c in candidates]


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The one to anchor to.

    With a dense score for each of them: the highest. Else, of those that have learned, if any has, the lowest patch
    cosine among those whose RankMe is within 10 % of the highest: patches become alike where dense features decay, and
    also where a network says nothing, which RankMe tells. Of equal ones the earliest.
    """
    return min(eligible(candidates), key=lambda c: (*preference(c, candidates), c.step))


def eligible(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    if has_dense_scores(candidates):
        return candidates
    candidates = [c for c in candidates if c.has_learned] or candidates
    highest = max(c.rank for c in candidates)
    return [c for c in candidates if c.rank >= (1 - RANK_MARGIN) * highest]


def preference(candidate: Candidate, among: Sequence[Candidate]) -> tuple[float, ...]:
    """Lower is better. What does not decide decides between equal ones, so that `dominates` agrees."""
    dense, label_free = (-(candidate.dense_score or 0.0),), _label_free(candidate)
    return (*dense, *label_free) if has_dense_scores(among) else (*label_free, *dense)


def _label_free(candidate: Candidate) -> tuple[float, ...]:
    return not candidate.has_learned, candidate.patch_cosine, -candidate.rank


def has_dense_scores(candidates: Sequence[Candidate]) -> bool:
    """Scores are comparable only where everybody has one."""
    return all(c.dense_score is not None for c in candidates)


def undominated(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats or equals in everything: `best` of them is `best` of all."""
    return [c for c in candidates if not any(dominates(other, c) for other in candidates)]


def dominates(a: Candidate, b: Candidate) -> bool:
    """Whether a is chosen before b whatever else there is."""
    if (a.dense_score is None) != (b.dense_score is None):
        return False
    mine, others = ((*_label_free(c), -(c.dense_score or 0.0), c.step if equal_scores(a, b) else 0) for c in (a, b))
    return mine != others and all(x <= y for x, y in zip(mine, others, strict=True))


def equal_scores(a: Candidate, b: Candidate) -> bool:
    return (*_label_free(a), a.dense_score) == (*_label_free(b), b.dense_score)


def score_table(candidates: Sequence[Candidate]) -> str:
    """Lines for people."""
    lines = ["    step   patch cosine   RankMe   dense score   learned"]
    for c in candidates:
        dense = "-" if c.dense_score is None else f"{c.dense_score:.4f}"
        learned = "yes" if c.has_learned else "no"
        lines.append(f"{c.step:>8}   {c.patch_cosine:>12.4f}   {c.rank:>6.1f}   {dense:>11}   {learned:>7}")
    return "\n".join(lines)
