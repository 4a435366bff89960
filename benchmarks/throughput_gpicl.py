"""What drawing supervised tasks costs, beside the training step that learns from them."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from gla.benchmarks.timing import Bench, Comparison, Goal, Program
from gla.datasets import from_arrays
from gla.gpicl.config import GPICLConfig, LearnerConfig
from gla.gpicl.factory import make_learner
from gla.gpicl.tasks import TaskConfig, sample, to_device
from gla.gpicl.training import init_state, sequence_loss
from gla.models import ModelConfig
from gla.steps import TrainState, take_steps

GIVEN, FRESH, SEEDED = "step on tasks drawn before", "step that draws its tasks", (
    "step that builds every projection"
)  # fmt: skip

# The paper's model on images of 32 x 32 x 3 (GPICL, appendix A.5).
CONFIG = GPICLConfig(
    tasks=TaskConfig(length=100, input_dim=256, fixed_share=0.9),
    learner=LearnerConfig(
        tokens="paper",
        model=ModelConfig(width=256, layers=4, heads=8, window=100, positions="learned"),
    ),
    batch_size=128,
    steps_per_dispatch=1,
)


def _programs(bench: Bench) -> list[Program]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(2000) % 10
    examples = to_device(from_arrays("noise", images, labels, images, labels), CONFIG.tasks)
    learner = make_learner(CONFIG.learner, CONFIG.tasks.input_dim, CONFIG.tasks.classes)
    state = jax.jit(lambda: init_state(CONFIG, learner))()
    bench.notes.append(
        f"{learner.parameter_count / 1e6:.1f}M parameters, batch {CONFIG.batch_size}, "
        f"{CONFIG.tasks.length} examples of 32 x 32 x 3 projected to {CONFIG.tasks.input_dim}."
    )
    before = jax.jit(lambda: sample(jax.random.key(0), examples, CONFIG.tasks, CONFIG.batch_size))()

    def step(tasks: TaskConfig | None):
        def run(state: TrainState, examples, before):
            def gradient(params, key, progress):
                batch = before
                if tasks is not None:
                    batch = sample(key, examples, tasks, CONFIG.batch_size, progress)
                grads, (losses, _) = jax.grad(sequence_loss, has_aux=True)(params, learner, batch)
                return grads, {"loss": losses.mean()}, losses[:1]

            return take_steps(state, gradient, CONFIG)[1].terms["loss"]

        compiled = jax.jit(run)
        return lambda: jax.block_until_ready(compiled(state, examples, before))

    many = dataclasses.replace(CONFIG.tasks, tasks=2**25)
    work = CONFIG.batch_size
    return [
        Program(GIVEN, step(None), work),
        Program(FRESH, step(CONFIG.tasks), work),
        Program(SEEDED, step(many), work),
    ]


COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        "gpicl-tasks",
        "What does drawing projected tasks cost within a training step of the paper's GPICL model?",
        _programs,
        unit="sequences",
        goals=(Goal(FRESH, "overhead", 0.10),),
    ),
)
