"""What the leaderboard says in words: how it is made, and how it is read."""

from __future__ import annotations

from collections.abc import Sequence

from gla.benchmarks.statistics import in_words
from gla.benchmarks.suites import Suite

Entries = tuple[tuple[str, str], ...]

LEAD = (
    "Agents that learn in context, weights frozen, beside controllers that learn nothing. One "
    "agent beats another only if their 95% intervals do not overlap: agents that nothing beats "
    "share rank 1."
)

_SCORE = (
    "Score",
    "0 is the best null controller of the environment, 1 its expert. Both ends are held fixed, so "
    "an interval is about the agent, not about the scale. The return that is scored is that of the "
    "last tenth of the lifetime: of E whole episodes the last E / 10, rounded down, and at least "
    "one.",
)
_NULL = (
    "Null controller",
    "Never looks: zero action, constant actions, noise of several sizes, uniform actions. The "
    "floor is the best of all that any submission of the suite ran on the very same tasks, by its "
    "mean over whole lifetimes; the stored reference, if nobody ran one.",
)
_EXPERT = (
    "Expert",
    "A learner that trained for long on the environment itself, with its return stored; where none "
    "is stored, a solver that knows the task and was run on it.",
)
_TWIN = (
    "Reward-masked twin",
    "The same agent on the same tasks with its rewards hidden. What the agent gains over its twin "
    "is what it learned from rewards; what both have comes from elsewhere.",
)
_INTERVAL = (
    "Interval",
    "95% percentile bootstrap over lifetimes. Figures of a suite draw lifetimes again within every "
    "environment and keep the environments (the stratified bootstrap): other lifetimes might have "
    "changed a figure so far, other environments further.",
)
_RANK = (
    "Rank",
    "The best rank that the intervals allow, with the range of ranks below it: 1 plus the number "
    "of agents that beat this one, to the number of agents that it does not beat. Where ranges "
    "overlap, no order is claimed. Ranked are agents with results of every environment that were "
    "trained only on what the suite allows.",
)
_VERDICT = (
    "Learned",
    "The last episode beats the first, the best null controller and the twin's last episode, each "
    "with intervals that do not overlap. It is judged on the last episode alone, the score on the "
    "last tenth.",
)
_IMPROVEMENT = (
    "Improvement",
    "The last tenth of the lifetime minus its first episode, within each lifetime, which removes "
    "how hard its task is.",
)
_GAIN = (
    "Gain over twin",
    "The last tenth of the lifetime minus that of the twin in the same lifetime.",
)

INDEX: Entries = (_SCORE, _NULL, _EXPERT, _TWIN, _RANK, _INTERVAL)

FILES: Entries = (
    (
        "Null controller",
        "Never looks: zero action, constant actions, noise of several sizes, uniform actions. The "
        "best mean over whole lifetimes is score 0; the expert is score 1.",
    ),
    (
        "Rewards masked",
        "The agent of that name with its rewards hidden. What the agent gains over this twin is "
        "what it learned from rewards.",
    ),
    _IMPROVEMENT,
    (
        "Rank",
        "The best rank that the intervals allow, with the range of ranks below it. An agent with a "
        "single lifetime has no interval and no rank. A stored reference has neither.",
    ),
)

SUITE: Entries = (
    _SCORE,
    (
        "Interquartile mean",
        "The mean of the middle half of the scores of all lifetimes on all environments (Agarwal "
        "et al. 2021), which single outliers do not move. All columns up to the area are such "
        "means. Differences are taken within each lifetime before the mean, so the gain is not "
        "exactly the difference of two scores in the table.",
    ),
    _RANK,
    _GAIN,
    _IMPROVEMENT,
    (
        "Area under curve",
        "The score of the mean return over all steps of the lifetime: who learns sooner has more "
        "of it.",
    ),
    (
        "Better than online PPO",
        "How probably a lifetime of the agent ends with a higher return (last tenth) than one of "
        "PPO that starts anew in every lifetime and learns from that alone; 0.5 is no difference, "
        "a draw counts half.",
    ),
    (
        "Steps to half scale",
        "Steps after which a tenth of the lifetime's episodes in a row has earned, in the mean, "
        "half of the way from the best null controller to the expert: the median over lifetimes, "
        "and the share of lifetimes that get there at all. Never: half of them do not.",
    ),
    (
        "Sooner than online PPO",
        "The median of online PPO divided by that of the agent: 4\N{MULTIPLICATION SIGN} is four "
        "times sooner. Where one of the two never gets there, the length of the lifetime bounds "
        "the ratio, which is then shown without an interval.",
    ),
    (
        "Finished",
        "Environments with results, and those of them on which the agent learned: its last episode "
        "beats the first, the best null controller and the twin's last, with intervals that do not "
        "overlap.",
    ),
    (
        "Seconds",
        "Wall-clock time of the agent alone on all environments, compilation included, and the "
        "median time of a step of all lifetimes that ran at once, environment included. Compare "
        "only what ran on the same machine.",
    ),
    _NULL,
    _EXPERT,
    _TWIN,
    _INTERVAL,
)

ENVIRONMENT: Entries = (_SCORE, _NULL, _EXPERT, _TWIN, _GAIN, _IMPROVEMENT, _VERDICT, _INTERVAL)

AGENT: Entries = (
    _SCORE,
    _TWIN,
    _VERDICT,
    (
        "Digest",
        "It shows that a file is as it was written. It does not show who wrote it, nor that the "
        "run took place: whoever changes a file can write its new digest. To be sure, run the "
        "command.",
    ),
    _INTERVAL,
)


def facts(suite: Suite) -> str:
    """Return what everyone meets on a suite, in a sentence."""
    lengths = sorted({task.steps for task in suite.tasks})
    steps = in_words([f"{one:,}" for one in lengths])
    count = "1 environment" if len(suite.tasks) == 1 else f"{len(suite.tasks)} environments"
    return (
        f"{count}, {suite.lifetimes} lifetimes of {steps} steps on each, on tasks of the test "
        f"split, seed {suite.seed}; digest of the suite {suite.digest}."
    )


def sources(suite: Suite) -> str:
    """Return on what an agent may have been meta-trained, in a sentence."""
    text = f"An agent may have been meta-trained on {_ids(suite.allowed)}"
    if suite.excluded:
        text += f", but not on {_ids(suite.excluded)}"
    return f"{text}. Tasks of the test split are for nobody to train on."


def _ids(patterns: Sequence[str]) -> str:
    if tuple(patterns) == ("gla/*",):
        return "any registered environment"
    return in_words(list(patterns), "or")


def suites_table(suites: Sequence[Suite]) -> str:
    """Return a table of suites in Markdown, as in the documentation."""
    lines = [
        "| suite | what it shows | environments | steps | may be trained on |",
        "|---|---|---|---|---|",
    ]
    for suite in suites:
        environments = ", ".join(f"`{id.removeprefix('gla/')}`" for id in suite.environments)
        steps = in_words([f"{one:,}" for one in sorted({task.steps for task in suite.tasks})])
        allowed = ", ".join(f"`{pattern}`" for pattern in suite.allowed)
        if suite.excluded:
            allowed += " but " + ", ".join(f"`{pattern}`" for pattern in suite.excluded)
        about = suite.about.rstrip(".")
        lines.append(f"| `{suite.name}` | {about} | {environments} | {steps} | {allowed} |")
    return "\n".join(lines)
