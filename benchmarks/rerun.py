"""Running some lifetimes of a submission again, to see whether they are what was submitted.

A lifetime depends on nothing but its number and its suite, so whoever has the agent can run any of
them alone. That is what a digest cannot show: whether the agent really did what a file says.
"""

from __future__ import annotations

import numpy as np

from gla.agents.external import load_agent
from gla.benchmarks.results import AgentResult, Lifetime, Results
from gla.benchmarks.runner import MetaTestConfig, meta_test
from gla.benchmarks.submissions import Read
from gla.checkpoints import Which
from gla.errors import GlaError

# Episodes agree if they differ by less than this share: rounding grows along a lifetime.
CLOSE = 1e-2


def rerun(read: Read, lifetimes: int = 2, agent: str | None = None, seed: int = 0) -> list[str]:
    """Run a few lifetimes of every environment again and compare.

    Args:
        read: the submission.
        lifetimes: how many of each environment, at least 1.
        agent: how it is loaded here, as `load_agent` takes it; None for what the submission says.
        seed: which lifetimes.

    Returns:
        One plain line for every environment on which the agent did something else; empty if all
        agree. A lifetime agrees if its first episode does: later ones may drift apart by rounding
        where dynamics are chaotic.

    Raises:
        GlaError: if the agent cannot be loaded or run, or `lifetimes` is out of range.
    """
    if not 1 <= lifetimes <= read.suite.lifetimes:
        raise GlaError(f"{lifetimes} lifetimes", f"1 to {read.suite.lifetimes}")
    details = read.submission.details
    which: Which = details.get("which", "latest")
    problems = []
    for environment, results in read.results.items():
        if not results.of_kind("agent"):
            continue
        found = _load(read, which, agent)
        own = results.of_kind("agent")[0]
        rng = np.random.default_rng(seed)
        for number in sorted(rng.choice(len(own.lifetimes), lifetimes, replace=False).tolist()):
            again = _again(found, results, number)
            if not _agree(own.lifetimes[number], again.lifetimes[0]):
                problems.append(
                    f"{environment}: lifetime {number} was submitted with first episode "
                    f"{own.lifetimes[number].episode_returns[0]:g} and is now "
                    f"{again.lifetimes[0].episode_returns[0]:g}"
                )
    return problems


def _load(read: Read, which: Which, agent: str | None):
    spec = agent or read.submission.spec
    try:
        return load_agent(spec, which, read.submission.details.get("ask") or None)
    except GlaError as error:
        if agent is not None:
            raise
        raise GlaError(
            f"the agent of the submission cannot be loaded here: {error.what}",
            "--agent with where it lies on this machine",
        ) from error


def _again(agent, results: Results, number: int) -> AgentResult:
    config = MetaTestConfig(
        results.environment, 1, results.steps, results.seed, number, masked_twin=False, nulls=False
    )
    return meta_test(agent, config, progress=False).agents[0]


def _agree(one: Lifetime, other: Lifetime) -> bool:
    a, b = one.episode_returns[0], other.episode_returns[0]
    return abs(a - b) <= CLOSE * (1 + abs(a)) and one.episode_lengths[0] == other.episode_lengths[0]
