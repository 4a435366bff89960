"""How fast whole meta-tests run: agent, environment and bookkeeping, many lifetimes at once."""

from __future__ import annotations

import copy
from collections.abc import Callable

import jax

from gla.agents.base import View
from gla.agents.gla import GLAAgent
from gla.benchmarks.runner import CHUNK, MetaTestConfig, make_lens, make_world, run_agent
from gla.benchmarks.timing import Bench, Comparison, Goal, Program
from gla.models import ModelConfig, make_model
from gla.projection import ProjectionConfig
from gla.tokens import Interface

ENVIRONMENT = "gla/RandomLinear-v0"
# The quickstart's agent: 0.6M parameters, a window of 400.
VIEW = View(ProjectionConfig(observation_dim=24, action_dim=6))
MODEL = ModelConfig(width=128, layers=3, heads=4, window=400)
FEW, MANY = 64, 2048


def lifetimes_programs(
    bench: Bench, few: int = FEW, many: int = MANY, model: ModelConfig = MODEL
) -> list[Program]:
    """Return a meta-test by a loop over steps, and by one compiled scan of few and many lifetimes.

    Args:
        bench: is told of the agent's size.
        few: lifetimes.
        many: lifetimes.
        model: of the agent; its weights are random, which costs the same.
    """
    interface = Interface(VIEW.projection.observation_dim, VIEW.projection.action_dim)
    net = make_model(model, interface.token_size, interface.outputs)
    scanned = GLAAgent(net.init(jax.random.key(0)), model, interface, VIEW)
    looped = copy.copy(scanned)
    looped.jittable = False
    bench.notes.append(
        f"{net.parameter_count:,} parameters, {net.state_size:,} numbers of state a lifetime, "
        f"{CHUNK} steps of {ENVIRONMENT} a call, through a projection for each lifetime"
    )

    def program(name: str, agent: GLAAgent, lifetimes: int) -> Program:
        config = MetaTestConfig(ENVIRONMENT, lifetimes, CHUNK)
        world = make_world(config)
        lens = make_lens(world, VIEW, config)
        call: Callable[[], object] = lambda: run_agent(agent, world, config, lens)  # noqa: E731
        return Program(name, call, lifetimes * CHUNK)

    return [
        program(f"{few:,} lifetimes, a call per step", looped, few),
        program(f"{few:,} lifetimes", scanned, few),
        program(f"{many:,} lifetimes", scanned, many),
    ]


COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        "lifetimes",
        "How fast do many lifetimes pass in one compiled meta-test?",
        lifetimes_programs,
        "environment steps",
        (Goal(f"{FEW:,} lifetimes", "speed", 1.0),),
    ),
)
