"""Submissions made of arithmetic, for tests of the leaderboard."""

import hashlib

import numpy as np

from gla.benchmarks import results as files
from gla.benchmarks import submissions, suites
from gla.benchmarks.results import AgentResult, Lifetime, Results
from gla.envs import registry

CREATED = "2026-01-02T03:04:05+00:00"
# Where environments have no stored references.
NULL, EXPERT = 10.0, 50.0


def ends(environment):
    stored = registry.references(environment)
    if "expert" not in stored:
        return NULL, EXPERT
    return stored["null"]["return"], stored["expert"]["return"]


def lives(suite, task, level, start=0.0, pace=0.2, spread=0.15, seed=0):
    """Lifetimes whose score goes from `start` to `level` in a share `pace` of the lifetime."""
    horizon = registry.find(registry.split_options(task.environment)[0]).horizon
    length = min(horizon, task.steps)
    episodes = task.steps // length
    null, expert = ends(task.environment)
    rng = np.random.default_rng([seed, *hashlib.sha256(task.environment.encode()).digest()[:4]])
    time = np.linspace(0, 1, episodes) if episodes > 1 else np.ones(1)
    found = []
    for _ in range(suite.lifetimes):
        own = level + spread * rng.normal()
        scores = start + (own - start) * (1 - np.exp(-time / pace))
        scores = scores + 0.3 * spread * rng.normal(size=episodes)
        returns = null + (expert - null) * scores
        found.append(Lifetime([float(f"{x:.9g}") for x in returns], [length] * episodes))
    return tuple(found)


def results_of(
    suite, task, agent="learner", level=0.6, twin=0.0, nulls=False, sources=(), seed=0, **changes
):
    null, expert = ends(task.environment)
    agents = []
    if agent is not None:
        own = lives(suite, task, level, seed=seed, **changes.pop("shape", {}))
        agents.append(AgentResult(agent, "agent", own, 12.5, 0.002))
        if twin is not None:
            masked = lives(suite, task, twin, seed=seed + 1)
            agents.append(AgentResult(f"{agent} (rewards masked)", "masked", masked, 12.0, 0.002))
    if nulls:
        for name, height in (("zero action", 0.0), ("uniform", -0.5), ("constant 1", -0.1)):
            own = lives(suite, task, height, start=height, spread=0.02, seed=99)
            agents.append(AgentResult(name, "null", own, 1.0))
    references = {} if "?" in task.environment else registry.references(task.environment)
    entries = {
        "environment": task.environment,
        "split": "test",
        "seed": suite.seed,
        "steps": task.steps,
        "lifetimes": suite.lifetimes,
        "agents": tuple(agents),
        "references": references,
        "config": {"meta_test": {"first": 0}, "view": None, "agent": agent},
        "packages": {"jax": "0.10.2"},
        "training_sources": tuple(sources),
        "suite": suite.name,
        "created": CREATED,
    }
    return Results(**entries | changes)


def write(
    folder, agent="learner", suite="bandits-v1", failures=(), created=CREATED, spec=None,
    details=None, sources=(), only=None, **settings,
):  # fmt: skip
    """Write a submission and return its folder.

    Args:
        folder: where.
        agent: name; None runs null controllers alone.
        suite: name.
        failures: environments on which the agent fails.
        created: when.
        spec: what was typed.
        details: of the agent.
        sources: environments that it was meta-trained on.
        only: environments to have results of; None is all.
        settings: of `results_of`.
    """
    suite = suites.find(suite)
    failures = dict.fromkeys(failures, "'learner' on it, at step 3, raised ValueError: <no> & so.")
    spec = spec or ("nulls" if agent is None else f"my_agents:{agent}")
    details = {"agent": spec} if details is None else details
    digests = {}
    for task in suite.tasks:
        if task.environment in failures or (only is not None and task.environment not in only):
            continue
        found = results_of(suite, task, agent, sources=sources, **settings)
        config = {**found.config, **details}
        found = files.Results(**{**vars(found), "config": config, "created": created})
        files.write(folder / submissions.file_name(task.environment), found)
        digests[task.environment] = files.digest(found)
    submissions.write(
        folder,
        submissions.Submission(
            suite.name, suite.digest, agent or "null controllers", spec, details, tuple(sources),
            digests, failures, {"platform": "Linux", "cores": "2"}, {"jax": "0.10.2"}, created,
        ),
    )  # fmt: skip
    return folder


def many(folder):
    """Write submissions of all kinds and return the folder."""
    write(folder / "nulls", None, nulls=True)
    write(folder / "ppo", "PPO, online", level=0.5, twin=0.0, seed=10, spec="ppo",
          shape={"pace": 0.6})  # fmt: skip
    sources = ("gla/RandomTabular-v0", "gla/RandomLinear-v0")
    training = {"agent": "runs/gla", "training": {"steps": 100, "histories": ["a"]},
                "histories": {}, "step": 100, "which": "best", "ask": {"gap": 32}}  # fmt: skip
    write(folder / "gla", "GLA, 100 steps", level=0.7, seed=20, sources=sources, spec="runs/gla",
          details=training)  # fmt: skip
    write(folder / "close", "GLA's <rival> & co", level=0.69, twin=0.1, seed=30, sources=sources)
    write(folder / "weak", "weak", level=-0.2, twin=-0.2, seed=40, shape={"start": -0.2})
    write(folder / "foreign", "foreign", level=0.95, seed=50, sources=("elsewhere/Bandit-v0",))
    write(folder / "broken", "broken", level=0.4, seed=60, failures=("gla/LinearBandit-v0",))
    write(folder / "other/gla-grid", "GLA, 100 steps", "gridworld-v1", level=0.3, seed=70,
          sources=sources, spec="runs/gla", details=training)  # fmt: skip
    write(folder / "other/ppo-grid", "PPO, online", "gridworld-v1", level=0.1, seed=80, spec="ppo")
    return folder
