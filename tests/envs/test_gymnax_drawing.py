"""Pictures of gymnax's control tasks: what is drawn lies where the dynamics have it."""

from types import SimpleNamespace

import gymnax
import jax
import numpy as np
import pytest

from gla.envs import drawing, gymnax_drawing, registry
from gla.envs.gymnax_drawing import DRAWINGS
from gla.envs.table import TABLE

PENDULUM, CART_POLE, ACROBOT, CAR, ROBOT = (
    gymnax.make(name)[1]
    for name in ("Pendulum-v1", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "PointRobot-misc")
)


def centre(picture, colour):
    """Return the mean (x, y) of the pixels of a colour from the middle of the picture, y up."""
    rows, columns = np.nonzero((picture == colour).all(-1))
    assert rows.size, "nothing has this colour"
    return columns.mean() - 127.5, 127.5 - rows.mean()


def pendulum(theta, torque=0.0):
    return gymnax_drawing.pendulum(SimpleNamespace(theta=theta, last_u=torque), PENDULUM)


@pytest.mark.parametrize(("theta", "x", "y"), [(0, 0, 1), (np.pi / 2, -1, 0), (np.pi, 0, -1)])
def test_the_pendulum_is_upright_at_zero_and_turns_counterclockwise(theta, x, y):
    seen = centre(pendulum(theta), drawing.AGENT)
    np.testing.assert_allclose(seen, np.array([x, y]) * 256 / 2.6, atol=1.5)


def test_the_torque_points_the_way_it_turns_the_rod():
    upright = pendulum(0.0)
    assert not (upright == drawing.HAZARD).all(-1).any()
    left, right = (centre(pendulum(0.0, u), drawing.HAZARD) for u in (2.0, -2.0))
    assert left[0] < -10 and right[0] > 10
    weak = centre(pendulum(0.0, 0.5), drawing.HAZARD)
    assert left[0] < weak[0] < 0


def cart_pole(x, theta):
    return gymnax_drawing.cart_pole(SimpleNamespace(x=x, theta=theta), CART_POLE)


def test_the_pole_leans_to_the_right_at_positive_angles_and_moves_with_the_cart():
    middle = cart_pole(0.0, 0.0)
    x, y = centre(middle, drawing.AGENT)
    assert abs(x) < 1 and y > centre(middle, drawing.BODY)[1]
    assert centre(cart_pole(0.0, 0.2), drawing.AGENT)[0] > 2
    moved = cart_pole(2.4, 0.0)
    assert centre(moved, drawing.AGENT)[0] == pytest.approx(2.4 * 256 / 5.28, abs=1.5)


def test_the_acrobot_hangs_at_zero_and_its_tip_is_above_the_line_when_it_ends():
    def tip_and_line(first, second):
        state = SimpleNamespace(joint_angle1=first, joint_angle2=second)
        picture = gymnax_drawing.acrobot(state, ACROBOT)
        return centre(picture, drawing.AGENT), centre(picture, drawing.GOAL)

    (x, y), line = tip_and_line(0.0, 0.0)
    assert abs(x) < 1 and y == pytest.approx(-2 * 256 / 4.6, abs=1.5)
    assert line[1] == pytest.approx(256 / 4.6, abs=1.5)
    assert tip_and_line(np.pi / 2, 0.0)[0][0] > 100  # to the right
    assert tip_and_line(2.2, 0.0)[0][1] > line[1] and -2 * np.cos(2.2) > 1
    assert tip_and_line(2.0, 0.0)[0][1] < line[1] and -2 * np.cos(2.0) < 1


def test_the_car_climbs_on_both_sides_of_the_valley():
    def car(position):
        return centre(
            gymnax_drawing.mountain_car(SimpleNamespace(position=position), CAR), drawing.AGENT
        )

    left, bottom, right = car(-1.0), car(-np.pi / 6), car(0.2)
    assert left[0] < bottom[0] < right[0]
    assert min(left[1], right[1]) > bottom[1] + 20
    state = SimpleNamespace(position=0.5)
    flag = centre(gymnax_drawing.mountain_car(state, CAR), drawing.GOAL)
    assert flag[0] == pytest.approx(car(0.5)[0], abs=10)


def test_the_reachers_joints_turn_on_their_own_and_the_goal_is_where_reward_is_one():
    angles = np.array([0.3, 2.0])
    tip = np.array([np.cos(angles).sum(), np.sin(angles).sum()])
    state = SimpleNamespace(angles=angles, goal_xy=np.array([-1.2, -1.5]))
    picture = gymnax_drawing.reacher(state, None)
    scale = 256 / 4.4
    np.testing.assert_allclose(centre(picture, drawing.AGENT), tip * scale, atol=1.5)
    np.testing.assert_allclose(centre(picture, drawing.GOAL), state.goal_xy * scale, atol=1.5)
    three = SimpleNamespace(angles=np.zeros(3), goal_xy=np.zeros(2))
    picture = gymnax_drawing.reacher(three, None)
    assert centre(picture, drawing.AGENT)[0] == pytest.approx(3 * 256 / 6.6, abs=1.5)


def test_what_has_left_the_picture_is_pale_and_at_its_edge():
    def robot(*position):
        state = SimpleNamespace(pos=np.array(position), goal=np.array([0.0, 1.0]))
        return gymnax_drawing.point_robot(state, ROBOT)

    at = centre(robot(0.5, 0.2), drawing.AGENT)
    np.testing.assert_allclose(at, np.array([0.5, -0.5]) * 256 / 2.6, atol=1.5)
    np.testing.assert_allclose(  # the goal, 0.3 above the middle
        centre(robot(0.5, 0.2), drawing.GOAL), np.array([0.0, 0.3]) * 256 / 2.6, atol=1.5
    )
    beyond = robot(5.0, 0.7)
    assert not (beyond == drawing.AGENT).all(-1).any()
    assert centre(beyond, drawing.TRAIL)[0] > 120


def test_the_swimmer_is_seen_beside_its_urchins():
    state = SimpleNamespace(
        xy=np.array([1.0, 0.0]), goal_xy=np.array([0.0, 1.0]), urchin_xys=np.array([[-1.0, -1.0]])
    )
    picture = gymnax_drawing.swimmer(state, None)
    for place, colour in (
        (state.xy, drawing.AGENT),
        (state.goal_xy, drawing.GOAL),
        (state.urchin_xys[0], drawing.HAZARD),
    ):
        np.testing.assert_allclose(centre(picture, colour), place * 80, atol=1.5)


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_start_of_every_task_is_drawn(name):
    (spec,) = (spec for spec in TABLE.values() if spec.arguments == (name,))
    env = registry.make_functional(spec.id)
    params = env.sample_params(jax.random.key(0))
    state, _ = env.reset(jax.random.key(0), params)
    picture = env.render(state, params)
    assert env.can_render and picture.shape == (256, 256, 3) and picture.dtype == np.uint8
    other, _ = env.reset(jax.random.key(1), params)
    assert (env.render(other, params) != picture).any()
