"""Print the table of `ablations.sh` from the results that it left: `ablations.py [FOLDER [ROW]]`.

FOLDER is `r` by default; differences are from ROW, `base` by default, over the seeds of both.
Scores of the last episode, 0: best null controller, 1: expert, mean over training seeds, lifetimes
and families; 95% bootstrap over lifetimes. Rows share tasks, so differences are paired.
"""

import sys
from pathlib import Path

import numpy as np

from gla.benchmarks.aggregates import aggregate
from gla.benchmarks.results import read
from gla.benchmarks.statistics import agent_of, last_episode, scale, score, twin_of

FAMILIES = ("Linear", "Mechanics", "Neural")


def complete(folder):
    """Return the training seeds of every row that were tested on all families, sorted."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        row, seed, _ = file.stem.rsplit("-", 2)
        if all((folder / f"{row}-{seed}-{family}.json").exists() for family in FAMILIES):
            found.setdefault(row, set()).add(seed)
    return {row: sorted(seeds) for row, seeds in found.items()}


def scores(folder, row, seeds):
    """Return f64[2, families, lifetimes], means over seeds: the agent and its twin."""
    found = []
    for family in FAMILIES:
        results = [read(folder / f"{row}-{seed}-{family}.json") for seed in seeds]
        ends = scale(results[0])
        agents = [agent_of(one) for one in results]
        twins = [twin_of(one, agent) for one, agent in zip(results, agents, strict=True)]
        returns = [[last_episode(one) for one in runs] for runs in (agents, twins)]
        found.append(score(np.mean(returns, 1), ends.null.estimate, ends.expert))
    return np.stack(found, 1)


def interval(values):
    """Return the mean of f64[families, lifetimes] with its interval, as text."""
    return aggregate(values, np.mean).text(2)


folder, start = Path((*sys.argv[1:], "r")[0]), (*sys.argv[2:], "base")[0]
seeds = complete(folder)
names = ("change", "all", "each seed", *FAMILIES, "above its twin", f"above {start}")
print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
for row in sorted(seeds, key=lambda row: (row != start, row)):
    agent, twin = scores(folder, row, seeds[row])
    both = [seed for seed in seeds[start] if seed in seeds[row]]
    each = [scores(folder, row, [seed])[0].mean() for seed in seeds[row]]
    cells = [interval(agent), ", ".join(f"{score:.2f}" for score in each)]
    cells += [f"{values.mean():.2f}" for values in agent] + [interval(agent - twin)]
    if row != start and both:
        gain = scores(folder, row, both)[0] - scores(folder, start, both)[0]
        cells.append(interval(gain))
    else:
        cells.append("")
    print(f"| {row} | " + " | ".join(cells) + " |")
