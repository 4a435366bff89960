"""Watching a lifetime: it is that of the meta-test, and the right moments are pictured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gla.agents.base import View, each
from gla.agents.nulls import Null
from gla.benchmarks.runner import MetaTestConfig, make_world, meta_test
from gla.benchmarks.watch import Camera, WatchConfig, film_lifetime, watch
from gla.envs.host import HostEnv
from gla.errors import GlaError
from gla.projection import ProjectionConfig

UNIFORM = Null("uniform", uniform=True)


class Reader:
    """Plays what it makes of all rewards and observations so far, with noise: all of it counts."""

    name, jittable = "reader", True

    def __init__(self, view=None):
        self.view = view

    def init(self, keys, num_envs, observation_space, action_space):
        self.size = action_space.shape[0]
        return each(jax.random.normal, keys)

    def act(self, state, observation, reward, terminated, truncated, keys):
        state = jnp.where(truncated, 0.0, 0.9 * state + reward)
        angle = state + 0.1 * each(jax.random.normal, keys) + jnp.sum(observation, -1)
        return state, jnp.sin(angle)[:, None] * jnp.ones(self.size)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("agent", "environment", "steps"),
    [
        (UNIFORM, "gla/Gridworld-v0", 60),
        (Reader(), "gla/RandomLinear-v0", 110),
        (Reader(View(ProjectionConfig(8, 4), window=20)), "gla/RandomLinear-v0", 110),
    ],
)
def test_the_lifetime_is_that_of_the_meta_test(agent, environment, steps, masked):
    config = MetaTestConfig(environment, lifetimes=3, steps=steps, seed=5, nulls=False)
    kind = "masked" if masked else "agent"
    expected = meta_test(agent, config, progress=False).of_kind(kind)[0].lifetimes[2]
    own = WatchConfig(steps, lifetime=2, seed=5, masked=masked, size=32)
    film, lifetime = film_lifetime(agent, environment, own, progress=False)
    np.testing.assert_allclose(lifetime.episode_returns, expected.episode_returns, rtol=2e-4)
    assert lifetime.episode_lengths == expected.episode_lengths
    assert tuple(film.returns) == lifetime.episode_returns
    last = len(lifetime.episode_returns)
    assert [reel.number for reel in film.reels] == [1, last] and last > 1
    for shown in film.reels:
        assert shown.length == lifetime.episode_lengths[shown.number - 1]
        assert shown.total == pytest.approx(lifetime.episode_returns[shown.number - 1], rel=1e-5)
    assert ("rewards masked" in film.title) == masked
    assert film.null is not None and film.expert is not None and film.null < film.expert


def test_the_last_picture_is_of_the_end_not_of_the_next_start():
    world = make_world(MetaTestConfig("gla/Gridworld-v0", lifetimes=1, steps=60, seed=1, first=3))
    params = jax.tree.map(lambda leaf: leaf[0], world.params)
    solution = world.plain.solve(params)
    camera = Camera(world, 60, 20, size=256)
    observation = camera.reset()
    states = []
    for _ in range(30):
        state = jax.tree.map(lambda leaf: leaf[0], world._state.inner)
        states.append((int(np.argmax(observation[0])), state))
        action = world.plain.best_action(solution, state, params)
        observation, reward, terminated, _ = camera.step(np.asarray(action)[None])
        if terminated[0]:
            break
    assert camera.first is camera.last and camera.first.length == len(states)
    goal = int(np.flatnonzero(params.terminal)[0])
    shots = camera.first.shots(1)
    assert len(shots) == len(states) + 1 and shots[-1][2] == pytest.approx(camera.first.total)
    for (_, picture, _), (_, state) in zip(shots[:-1], states, strict=True):
        assert (picture == world.plain.render(state, params)).all()
    at_goal = world.plain.render(states[0][1]._replace(number=goal), params)
    assert (shots[-1][1] == at_goal).all()


def test_only_episodes_that_may_be_the_first_or_the_last_are_pictured(monkeypatch):
    taken = []
    picture = Camera._picture
    monkeypatch.setattr(
        Camera, "_picture", lambda camera: taken.append(camera._episode) or picture(camera)
    )
    config = WatchConfig(4 * 50 + 7, size=32)
    film, _ = film_lifetime(Reader(), "gla/RandomLinear-v0", config, progress=False)
    assert [reel.number for reel in film.reels] == [1, 4]
    # Of 50 steps the end is drawn otherwise; the fifth is never whole.
    assert [taken.count(episode) for episode in (1, 2, 3, 4, 5)] == [50, 0, 0, 50, 8]


def test_of_a_host_simulator_the_end_is_pictured_before_the_reset(monkeypatch):
    def render(env):  # instead of OpenGL: how many steps the episode has had
        return np.full((32, 32, 3), env.steps, np.uint8)

    monkeypatch.setattr(HostEnv, "render", render)
    config = WatchConfig(120, lifetime=1, size=32)
    agent = Null("zero", np.zeros(2, np.float32))
    film, lifetime = film_lifetime(agent, "gla/Reacher-v0", config, progress=False)
    assert lifetime.episode_lengths == (50, 50)
    for reel in film.reels:
        assert [(step, int(picture[0, 0, 0])) for step, picture, _ in reel.shots(1)] == [
            (step, step) for step in range(51)
        ]
    test = MetaTestConfig("gla/Reacher-v0", 2, 120, masked_twin=False, nulls=False)
    expected = meta_test(agent, test, progress=False).agents[0].lifetimes[1]
    assert lifetime.episode_returns == expected.episode_returns


AGENTS = """
from gla.agents.nulls import Null

def uniform():
    return Null("uniform", uniform=True)
"""


def test_a_film_is_written_of_an_agent_that_was_named(tmp_path, monkeypatch):
    (tmp_path / "watched_agents.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    environment, config = "gla/Darkroom-v0?size=3&horizon=6", WatchConfig(14, size=64)
    watched = watch("watched_agents:uniform", environment, "a.gif", config, progress=False)
    assert watched.path.stat().st_size < 100_000 and watched.stride == 1
    assert watched.sentence.startswith("film: a.gif (episode 1: return ")
    with Image.open(watched.path) as gif:
        assert gif.n_frames > 2 and gif.width >= 2 * 64


@pytest.mark.parametrize(
    ("environment", "settings", "words"),
    [
        (
            "gla/MemoryChain-v0",
            {},
            "there are no pictures of gla/MemoryChain-v0; expected an environment",
        ),
        (
            "gla/RandomLinear-v0",
            {"steps": 20},
            "no episode of gla/RandomLinear-v0 is whole after 20",
        ),
        ("gla/RandomLinear-Projected-v0", {}, "already projected"),
        ("gla/RandomLinaer-v0", {}, "no environment is called"),
        ("gla/RandomLinear-v0", {"lifetime": -1}, "lifetimes -1"),
        ("gla/RandomLinear-v0", {"steps": -1}, "steps is -1"),
        ("gla/RandomLinear-v0", {"size": 5}, "size is 5"),
    ],
)
def test_what_cannot_be_watched_is_said_in_one_line(environment, settings, words):
    with pytest.raises(GlaError, match=words) as caught:
        film_lifetime(UNIFORM, environment, WatchConfig(**settings), progress=False)
    assert "\n" not in str(caught.value)


def test_the_name_of_the_film_is_checked_before_anything_is_played():
    with pytest.raises(GlaError, match="ends in .gif or .mp4"):
        watch("no_such_module:agent", "gla/Gridworld-v0", "film.png")
