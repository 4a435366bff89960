"""What a store of learning histories holds: its description and its arrays."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal, get_args

from gla.errors import GlaError

SCHEMA = "gla-histories"
VERSION = 2

Storage = Literal["float32", "float16", "bfloat16"]

# Arrays that not every way of making histories has.
OPTIONAL = ("distribution", "value", "policy", "target", "told")

STREAM_ARRAYS = frozenset(
    (
        "observation",
        "action",
        "distribution",
        "reward",
        "value",
        "terminated",
        "truncated",
        "target",
    )
)
# All that a store may have.
ARRAYS = STREAM_ARRAYS | {
    "log_std",
    "policy",
    "mean_return",
    "reward_deviation",
    "observation_mean",
    "observation_std",
    "reward_scale",
    "target_log_std",
    "hyperparameters",
    "told",
}
# Over runs, one row per update; all other arrays over runs have none.
UPDATE_ARRAYS = frozenset(("log_std", "policy", "mean_return", "reward_deviation"))
# These alone take the storage type: rewards add up to returns, and policies are run again.
STORAGE_ARRAYS = frozenset(("observation", "action", "distribution", "value", "target"))


@dataclasses.dataclass(frozen=True)
class HistoryMeta:
    """What a store holds and how it came about.

    Attributes:
        environment: Gymnasium id of the (unprojected) environment.
        observation_size: n.
        action_size: k, or the number of discrete actions.
        discrete: whether actions are discrete.
        horizon: steps after which episodes were truncated.
        runs: number of runs, each on a task of its own.
        streams_per_run: parallel environments recorded per run.
        updates: policy versions per run.
        steps: steps of one stream per update.
        parallel_envs: parallel environments of a run, recorded or not.
        hidden: units per hidden layer of the recorded policies.
        split: task split, `train`, `validation` or `test`.
        seed: seed of the set of tasks.
        block: runs per block.
        settings: the collector's settings, for the record and to recognise another collection.
        packages: versions of the packages that mattered.
        method: how the histories were made: `ppo`, or the name of another maker.
        chunk: updates per chunk, or 0 for all of them in one.
        arrays: which of the optional arrays (`OPTIONAL`) there are.
        storage: type in which real numbers of streams (rewards apart) are stored.
        hyperparameters: names of the settings that differ from run to run.
        told: how many numbers are told of each task.
    """

    environment: str
    observation_size: int
    action_size: int
    discrete: bool
    horizon: int
    runs: int
    streams_per_run: int
    updates: int
    steps: int
    parallel_envs: int
    hidden: int
    split: str
    seed: int
    block: int
    settings: dict[str, Any]
    packages: dict[str, str]
    method: str = "ppo"
    chunk: int = 0
    arrays: tuple[str, ...] = ("distribution", "value", "policy")
    storage: Storage = "float32"
    hyperparameters: tuple[str, ...] = ()
    told: int = 0

    def __post_init__(self):
        for name in ("arrays", "hyperparameters"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.storage not in get_args(Storage):
            raise GlaError(f"storage is {self.storage!r}", "float32, float16 or bfloat16")
        if not set(self.arrays) <= set(OPTIONAL):
            raise GlaError(f"the optional arrays are {list(self.arrays)}", f"some of {OPTIONAL}")
        for name in ("runs", "streams_per_run", "updates", "steps", "block"):
            if getattr(self, name) < 1:
                raise GlaError(f"histories have {name} {getattr(self, name)}", "at least 1")
        if self.chunk < 0:
            raise GlaError(f"chunk is {self.chunk}", "a number of updates, or 0 for all of them")

    @property
    def streams(self) -> int:
        """Number of recorded streams."""
        return self.runs * self.streams_per_run

    @property
    def transitions(self) -> int:
        """Number of recorded transitions."""
        return self.streams * self.updates * self.steps

    @property
    def blocks(self) -> int:
        """Number of blocks in a complete store."""
        return -(-self.runs // self.block)

    @property
    def parts(self) -> int:
        """Number of parts in which a block is made, each of one chunk per stream."""
        return -(-self.updates // self.part_updates)

    @property
    def part_updates(self) -> int:
        """Updates of a part; the last one may have fewer."""
        return min(self.chunk or self.updates, self.updates)

    def block_runs(self, block: int) -> range:
        """Return the runs of a block."""
        return range(block * self.block, min((block + 1) * self.block, self.runs))

    def updates_of(self, part: int) -> range:
        """Return the updates of a part."""
        start = part * self.part_updates
        return range(start, min(start + self.part_updates, self.updates))


def array_shapes(meta: HistoryMeta) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and dtype of every array of a store.

    Over streams, [stream, update, step, ...]:
        `observation` f[n]; `action` f[k] as sampled, unclipped, or i32; `reward`; `terminated`;
        `truncated`; and where the store has them `distribution` f[k], the Gaussian's mean or the
        logits of the policy that acted; `value`, its critic's, in units of the scaled reward;
        `target` f[k], the distribution of the best policy of the run at the same state.
    Over runs and updates, [run, update, ...]:
        `mean_return`, the return per episode over all parallel environments (`episode_return`);
        with `distribution` `log_std` f[k]; with `value` `reward_deviation`, by which PPO divided
        rewards; with `policy` all parameters of every version f[P] (`gla.policy.flatten`), the
        observation normaliser among them.
    Over runs, [run, ...]:
        `observation_mean` f[n], `observation_std` f[n] and `reward_scale`, the task's normalisation
        window; with `target` `target_log_std` f[k]; `hyperparameters` f[h] where they differ;
        `told` f[z], what an expert is told of the task (`gla.envs.telling.told_vector`).
    """
    from gla.policy import PolicyShape

    n, k = meta.observation_size, meta.action_size
    policy = PolicyShape(n, k, meta.hidden, meta.discrete).size
    stream = (meta.streams, meta.updates, meta.steps)
    run = (meta.runs, meta.updates)
    real = meta.storage
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "observation": ((*stream, n), real),
        "action": (stream, "int32") if meta.discrete else ((*stream, k), real),
        "distribution": ((*stream, k), real),
        "reward": (stream, "float32"),
        "value": (stream, real),
        "terminated": (stream, "bool"),
        "truncated": (stream, "bool"),
        "target": ((*stream, k), real),
        "log_std": ((*run, k), "float32"),
        "policy": ((*run, policy), "float32"),
        "mean_return": (run, "float32"),
        "reward_deviation": (run, "float32"),
        "observation_mean": ((meta.runs, n), "float32"),
        "observation_std": ((meta.runs, n), "float32"),
        "reward_scale": ((meta.runs,), "float32"),
        "target_log_std": ((meta.runs, k), "float32"),
        "hyperparameters": ((meta.runs, len(meta.hyperparameters)), "float32"),
        "told": ((meta.runs, meta.told), "float32"),
    }
    needs = {
        "log_std": "distribution",
        "reward_deviation": "value",
        "target_log_std": "target",
        **{name: name for name in OPTIONAL},
    }
    return {
        name: shape
        for name, shape in shapes.items()
        if needs.get(name) in (None, *meta.arrays)
        and (name != "hyperparameters" or meta.hyperparameters)
    }


def identity(meta: HistoryMeta) -> dict[str, Any]:
    """Return what must agree for two collections to be the same one, as JSON values."""
    fields = dataclasses.asdict(meta)
    fields.pop("packages")
    if not fields["told"]:  # stores made before there was any are the same ones
        fields.pop("told")
    return json.loads(json.dumps({**fields.pop("settings"), **fields}))


def meta_from_attributes(attributes: dict[str, Any], where: object) -> HistoryMeta:
    """Rebuild a `HistoryMeta` from the attributes of a store's `zarr.json`.

    Raises:
        GlaError: if they are of another schema or version, or fields are missing or unknown.
    """
    values = dict(attributes)
    schema, version = values.pop("schema"), values.pop("version")
    if (schema, version) != (SCHEMA, VERSION):
        raise GlaError(
            f"{where} has schema {schema!r} version {version!r}",
            f"{SCHEMA!r} version {VERSION}",
            "collect again with this version of gla",
        )
    try:
        return HistoryMeta(**values)
    except TypeError as error:
        raise GlaError(
            f"{where}/zarr.json lacks or adds fields ({error})", "a complete file"
        ) from None
