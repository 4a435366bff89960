"""The conformance kit: good environments pass, and each way of breaking one is caught and named."""

import math
import time

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from gla.envs.base import Environment, timestep
from gla.envs.host import HostEnv, HostVectorEnv, mujoco_env
from gla.envs.testing import Check, Report, check
from gla.errors import GlaError

FALSE = np.zeros((), bool)
UNSEEDED = np.random.default_rng()


class Good(Environment):
    """A point pushed towards a hidden goal; the task ends when it is far away."""

    name = "Good"
    horizon = 6
    distinct_tasks = math.inf
    can_render = True
    has_oracle = True
    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def sample_params(self, key):
        return {"goal": jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)}

    def reset(self, key, params):
        x = 0.5 * jax.random.normal(key, (2,))
        return {"x": x}, x

    def step(self, key, state, action, params):
        x = state["x"] + 0.5 * jnp.clip(action, -1.0, 1.0)
        reward = -jnp.linalg.norm(x - params["goal"])
        far = jnp.linalg.norm(x) > 4.0
        return {"x": x}, timestep(x, reward, far, jnp.zeros((), bool))

    def render(self, state, params):
        picture = np.zeros((32, 32, 3), np.uint8)
        picture[16, 16] = 255
        return picture

    def solve(self, params):
        return params["goal"]

    def best_action(self, solution, state, params):
        return jnp.clip(2.0 * (solution - state["x"]), -1.0, 1.0)


def changed(**attributes):
    """Return a Good with other attributes or methods."""
    return type("Good", (Good,), attributes)()


def stepped(change):
    """Return a Good whose timesteps (and states) go through `change`."""

    def step(self, key, state, action, params):
        return change(*Good.step(self, key, state, action, params))

    return changed(step=step)


def test_a_good_environment_passes_every_check():
    report = check(Good()).require()
    assert report.passed and report.environment == "Good"
    assert {c.status for c in report.checks} == {"passed"}
    assert [c.name for c in report.checks] == [
        *("spaces", "arrays", "pure", "tasks", "numbers", "one program", "determinism", "batches"),
        *("actions", "ends", "autoreset", "pictures", "oracle", "gymnasium"),
    ]
    notes = {c.name: c.note for c in report.checks}
    assert notes["determinism"] == "random starts, deterministic steps"
    assert notes["ends"].startswith("truncated at step 6")
    assert notes["actions"] == "clipped to [-1, 1]"
    assert "14 passed" in str(report)


def test_a_class_or_function_that_makes_one_will_do():
    still = {
        "reset": lambda self, key, params: ({"x": jnp.zeros(2)}, jnp.zeros(2)),
        "render": Environment.render,
        "can_render": False,
        "has_oracle": False,
    }
    made = type("Still", (Good,), still)
    report = check(made, steps=2).require()
    notes = {c.name: (c.status, c.note) for c in report.checks}
    assert notes["autoreset"] == ("passed", "deterministic start")
    assert notes["oracle"][0] == notes["pictures"][0] == "skipped"


def noisy_step(self, key, state, action, params):
    state, ts = Good.step(self, key, state, action, params)
    return state, ts._replace(reward=ts.reward + np.float32(UNSEEDED.normal()))


def remembering_step(self, key, state, action, params):
    self.last = action
    return Good.step(self, key, state, action, params)


def batched_step(self, key, state, action, params):
    # The mean over the batch, where there is one: what vmap promises cannot happen.
    @jax.custom_batching.custom_vmap
    def shared(x):
        return x

    @shared.def_vmap
    def _(size, batched, x):
        return jnp.broadcast_to(x.mean(0), x.shape), True

    state, ts = Good.step(self, key, state, action, params)
    return state, ts._replace(reward=shared(ts.reward))


def unclipped_step(self, key, state, action, params):
    x = 0.9 * state["x"] + 0.1 * action
    return {"x": x}, timestep(x, jnp.sum(x), jnp.zeros((), bool), jnp.zeros((), bool))


BROKEN = {
    "wide actions": (
        lambda: changed(action_space=gymnasium.spaces.Box(-2.0, 2.0, (2,), np.float32)),
        "spaces",
        "the action space is .*; expected a float32 Box from -1 to 1; clip actions",
    ),
    "pictures as observations": (
        lambda: changed(observation_space=gymnasium.spaces.Box(0.0, 1.0, (8, 8), np.float32)),
        "spaces",
        "the observation space is .*; expected a one-dimensional float32 Box; flatten",
    ),
    "no horizon": (lambda: changed(horizon=0), "spaces", "the horizon is 0"),
    "weak types": (
        lambda: changed(reset=lambda self, key, params: ({"x": jnp.full(2, 1.0)}, jnp.zeros(2))),
        "arrays",
        r"state after reset\['x'\] is a weakly typed float32; .* compile twice",
    ),
    "another type after step": (
        lambda: stepped(lambda state, ts: ({"x": state["x"].astype(jnp.float16)}, ts)),
        "arrays",
        r"state\['x'\] is float32\[2\] after reset and float16\[2\] after step",
    ),
    "another structure after step": (
        lambda: stepped(lambda state, ts: ({**state, "y": state["x"]}, ts)),
        "arrays",
        "the same structure",
    ),
    "a reward as a vector": (
        lambda: stepped(lambda state, ts: (state, ts._replace(reward=ts.observation))),
        "arrays",
        r"reward is float32\[2\]; expected float32\[\]",
    ),
    "flags as numbers": (
        lambda: stepped(lambda state, ts: (state, ts._replace(terminated=jnp.float32(0)))),
        "arrays",
        r"terminated is float32\[\]; expected bool\[\]",
    ),
    "params of text": (
        lambda: changed(sample_params=lambda self, key: {"goal": "left"}),
        "arrays",
        "it raised TypeError",
    ),
    "randomness of its own": (
        lambda: changed(step=noisy_step),
        "pure",
        "step gives another program when it is traced again; .* randomness from the key",
    ),
    "a memory on the object": (
        lambda: changed(step=remembering_step),
        "pure",
        "the attribute 'last' keeps a value of a traced call",
    ),
    "a family that is one task": (
        lambda: changed(sample_params=lambda self, key: {"goal": jnp.zeros(2)}),
        "tasks",
        "16 keys drew 1 different tasks, but distinct_tasks is inf",
    ),
    "one task that is a family": (
        lambda: changed(distinct_tasks=1),
        "tasks",
        "16 keys drew 16 different tasks, but distinct_tasks is 1",
    ),
    "observations outside the space": (
        lambda: changed(observation_space=gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float32)),
        "numbers",
        "number [01] of an observation at step 0 is .*; expected -0.1.* to 0.1.*; widen",
    ),
    "rewards that are nan": (
        lambda: stepped(lambda state, ts: (state, ts._replace(reward=ts.reward * jnp.nan))),
        "numbers",
        "a reward at step 1 is .*nan",
    ),
    "a batch that is not a loop": (
        lambda: changed(step=batched_step),
        "batches",
        r"another result within a batch \(jax.vmap\) than alone",
    ),
    "actions that are not clipped": (
        lambda: changed(step=unclipped_step),
        "actions",
        r"an action beyond \[-1, 1\] does not do what the clipped action does",
    ),
    "a time limit in step": (
        lambda: stepped(lambda state, ts: (state, ts._replace(truncated=ts.reward < -0.1))),
        "ends",
        "step itself truncated .* leave time limits to horizon",
    ),
    "both ends at once": (
        lambda: stepped(
            lambda state, ts: (state, ts._replace(terminated=~FALSE, truncated=~FALSE))
        ),
        "ends",
        "both terminated and truncated",
    ),
    "pictures of floats": (
        lambda: changed(render=lambda self, state, params: np.zeros((8, 8, 3))),
        "pictures",
        r"render returned ndarray float64\[8, 8, 3\]; expected uint8",
    ),
    "an empty picture": (
        lambda: changed(render=lambda self, state, params: np.zeros((8, 8, 3), np.uint8)),
        "pictures",
        "one colour",
    ),
    "pictures that are not announced": (
        lambda: changed(can_render=False),
        "pictures",
        "render draws, but can_render is false",
    ),
    "an oracle that is wrong": (
        lambda: changed(best_action=lambda self, solution, state, params: -jnp.ones(2)),
        "oracle",
        "best actions earn .* and random ones",
    ),
    "an oracle of another shape": (
        lambda: changed(best_action=lambda self, solution, state, params: jnp.zeros(3)),
        "oracle",
        r"best_action gives float32\[3\]; expected float32\[2\]",
    ),
    "an oracle beyond the actions": (
        lambda: changed(best_action=lambda self, s, state, params: 9.0 * (s - state["x"])),
        "oracle",
        "best_action gave .*; expected an action of Box",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_environment_is_caught_in_plain_words(case):
    make, name, message = BROKEN[case]
    with pytest.raises(GlaError, match=f"Good fails the check '{name}'.*{message}") as caught:
        check(make(), steps=8, only=[name]).require()
    assert "\n" not in str(caught.value)


def test_a_fault_hides_what_depends_on_it_but_nothing_else():
    report = check(changed(horizon=-1))
    assert not report.passed and [c.name for c in report.failures] == ["spaces"]
    assert all(c.note == "needs 'spaces' to pass" for c in report.checks[1:2])
    text = str(check(changed(can_render=False), steps=4, only=["pictures", "tasks"]))
    assert "failed   pictures  render draws" in text and "4 passed, 1 failed" in text


class Fickle(Good):
    """Changes the type of its state from the fourth trace on."""

    traces = 0

    def step(self, key, state, action, params):
        self.traces += 1
        state, ts = Good.step(self, key, state, action, params)
        return {"x": state["x"].astype(jnp.float16 if self.traces > 3 else jnp.float32)}, ts


def test_a_second_compilation_is_caught():
    with pytest.raises(GlaError, match="'one program'.*step was traced 2 times"):
        check(Fickle(), steps=3, only=["pure", "one program"]).require()


def test_a_report_names_all_failures():
    report = Report("X", (Check("a", "passed"), Check("b", "failed", "why"), Check("c", "failed")))
    with pytest.raises(GlaError, match=r"X fails the check 'b' \(also failed: c\): why"):
        report.require()


class Simulator(gymnasium.Env):
    """A bounded walk of f32[3] that ends by itself above 2 and after 9 steps at the latest."""

    observation_space = gymnasium.spaces.Box(-3.0, 3.0, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = None
    limit = 9

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0, self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self.place.copy(), {}

    def step(self, action):
        self.steps += 1
        self.place = (self.place + 0.2 * np.clip(action, -1, 1)).astype(np.float32)
        far = bool(np.abs(self.place).max() > 2)
        return self.place.copy(), -1.0, far, self.steps >= self.limit and not far, {}


def host(**attributes):
    return type("Host", (Simulator,), attributes)


def test_a_good_host_environment_passes():
    report = check(Simulator, steps=60).require()
    notes = {c.name: (c.status, c.note) for c in report.checks}
    assert notes["ends"][1].startswith("truncated at step 9")
    assert notes["vector"] == ("passed", "the same as a single one in 60 steps and 6 resets")
    assert notes["pictures"][0] == "skipped"
    single = check(Simulator(), steps=20).require()
    assert {c.name: c.status for c in single.checks}["vector"] == "skipped"


def reset_from_the_clock(self, *, seed=None, options=None):
    Simulator.reset(self, seed=seed)
    self.place = np.float32([time.perf_counter() % 1, 0, 0])
    return self.place.copy(), {}


def reset_in_float64(self, *, seed=None, options=None):
    return Simulator.reset(self, seed=seed)[0].astype(np.float64), {}


def unclipped(self, action):
    observation, *rest = Simulator.step(self, action)
    self.place = (self.place + 0.01 * action).astype(np.float32)
    return self.place.copy(), *rest


def alter(index, value):
    def step(self, action):
        result = list(Simulator.step(self, action))
        result[index] = value(self) if callable(value) else value
        return tuple(result)

    return step


BROKEN_HOSTS = {
    "a space of pictures": (
        {"observation_space": gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)},
        "spaces",
        "wrap the simulator in gla.envs.HostEnv",
    ),
    "actions in newtons": (
        {"action_space": gymnasium.spaces.Box(0.0, 5.0, (3,), np.float32)},
        "spaces",
        "expected Discrete, or a float32 Box from -1 to 1",
    ),
    "float64": ({"reset": reset_in_float64}, "numbers", "float64; expected an array of float32"),
    "an integer reward": (
        {"step": alter(1, 1)},
        "numbers",
        "the reward 1 is a int; expected a float",
    ),
    "a reward that is not finite": (
        {"step": alter(1, math.inf)},
        "numbers",
        "the reward of step 1 is inf",
    ),
    "flags as numbers": ({"step": alter(2, 0)}, "numbers", "terminated is 0"),
    "an observation outside its space": (
        {"step": alter(0, lambda self: np.float32([0, 0, 9]))},
        "numbers",
        "number 2 of an observation is 9.0; expected -3.0 to 3.0",
    ),
    "a start from the clock": (
        {"reset": reset_from_the_clock},
        "seeds",
        "two episodes of seed 0 differ .* self.np_random",
    ),
    "actions that are not clipped": (
        {"step": unclipped},
        "actions",
        r"an action beyond \[-1, 1\]",
    ),
    "both ends at once": (
        {"step": alter(2, lambda self: self.steps >= 9)},
        "ends",
        "both terminated and truncated",
    ),
    "a limit that changes": (
        {"step": alter(3, lambda self: self.steps >= 4 + abs(int(5 * self.place[0])))},
        "ends",
        "episodes were truncated after .* steps; expected one time limit",
    ),
}


@pytest.mark.parametrize("case", BROKEN_HOSTS)
def test_a_broken_host_environment_is_caught_in_plain_words(case):
    attributes, name, message = BROKEN_HOSTS[case]
    with pytest.raises(GlaError, match=f"Host fails the check '{name}'.*{message}") as caught:
        check(host(**attributes), steps=60, only=[name]).require()
    assert "\n" not in str(caught.value)


def test_a_vector_environment_whose_parts_share_something_is_caught():
    class Shared(Simulator):
        taken = 0

        def reset(self, *, seed=None, options=None):
            Shared.taken = 0
            return super().reset(seed=seed)

        def step(self, action):
            Shared.taken += 1
            observation, _, *rest = super().step(action)
            return observation, -float(Shared.taken), *rest

    with pytest.raises(GlaError, match="'vector': reward of a sub-environment is -2.0 at step 1"):
        check(Shared, steps=30).require()


def test_vector_environments():
    report = check(HostVectorEnv([Simulator, Simulator]), steps=40).require()
    notes = {c.name: c.note for c in report.checks}
    assert notes["spaces"].startswith("2 x 3 observations")
    assert notes["autoreset"] == "final_obs seen"
    assert "no episode ended" in str(check(HostVectorEnv([Simulator]), steps=3))
    late = SyncVectorEnv([Simulator], autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(GlaError, match="final_obs"):
        check(late, steps=40).require()
    with pytest.raises(GlaError, match="'autoreset'.*NEXT_STEP; expected AutoresetMode.SAME_STEP"):
        check(late, steps=3).require()
    with pytest.raises(GlaError, match="'seeds'.*two runs of seed 0 differ"):
        check(HostVectorEnv([host(reset=reset_from_the_clock)]), steps=5).require()


def test_a_host_environment_with_pictures():
    drawn = host(render_mode="rgb_array", render=lambda self: np.eye(8, dtype=np.uint8)[..., None])
    with pytest.raises(GlaError, match=r"'pictures'.*uint8\[8, 8, 1\]"):
        check(drawn(), steps=12).require()


def test_ids_are_checked_against_the_table(monkeypatch):
    from gla.envs import registry, table

    spec = table.TABLE["gla/Reacher-v0"]
    wrong = {**table.TABLE, spec.id: type(spec)(**{**vars(spec), "horizon": 40})}
    monkeypatch.setattr(registry, "TABLE", wrong)
    with pytest.raises(GlaError, match="'table'.*an episode has 50 steps; expected at most 40"):
        check("gla/Reacher-v0", steps=60).require()


def test_bare_gymnasium_environments_need_the_adapter():
    with pytest.raises(GlaError, match="'spaces'.*expected a one-dimensional float32 Box"):
        check(gymnasium.make("CliffWalking-v1")).require()
    check(lambda: HostEnv(gymnasium.make("InvertedPendulum-v5"), "mine"), steps=30).require()
    assert isinstance(mujoco_env("InvertedPendulum-v5"), HostEnv)


@pytest.mark.parametrize("environment", [3, lambda: 3, "gla/Pendlum-v0"])
def test_what_is_no_environment_is_refused(environment):
    with pytest.raises(GlaError, match="nothing to check about int|did you mean Pendulum"):
        check(environment)


def test_an_unknown_check_suggests_near_matches():
    with pytest.raises(GlaError, match=r"no check 'end' \(did you mean ends"):
        check(Good(), only=["end"])
