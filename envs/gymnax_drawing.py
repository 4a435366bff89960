"""Pictures of gymnax's control tasks, for which gymnax itself has none or needs pygame.

Each function takes a state and the parameters of one gymnax environment, on the host, and returns
uint8[256, 256, 3]. Angles and lengths are those of gymnax's own dynamics and rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gla.envs import drawing
from gla.envs.drawing import Canvas, Colour


def pendulum(state: Any, params: Any) -> np.ndarray:
    """Draw Pendulum: the rod, and the last torque as an orange arc around its joint.

    The arc goes the way the torque turns the rod, a quarter of a circle at the largest torque. The
    green tick is above the joint, where the rod is to be held.
    """
    length, angle = float(params.l), float(state.theta)  # 0 is upright, counterclockwise
    canvas = Canvas(-1.3 * length, 1.3 * length)
    canvas.line([(0, 1.08 * length), (0, 1.22 * length)], drawing.GOAL, 0.05 * length)
    along = length * np.array([-np.sin(angle), np.cos(angle)])
    canvas.line([(0, 0), along], drawing.BODY, 0.12 * length)
    canvas.disc(along, 0.1 * length, drawing.AGENT)
    canvas.disc((0, 0), 0.06 * length, drawing.WALL)
    turn = np.pi / 2 * float(state.last_u) / float(params.max_torque)
    if abs(turn) > 0.02:
        _arrow(canvas, angle + np.pi / 2, turn, 0.4 * length)
    return canvas.array()


def _arrow(canvas: Canvas, start: float, turn: float, radius: float) -> None:
    """Draw an arc with a head around the origin, from an angle and so far, rad."""
    angles = np.linspace(start, start + turn, 20)
    canvas.line(radius * _directions(angles), drawing.HAZARD, 0.12 * radius)
    tip = start + turn + np.sign(turn) * 0.35
    end = start + turn
    head = _directions([end, end, tip]) * radius * np.array([[0.78], [1.22], [1.0]])
    canvas.polygon(head, drawing.HAZARD)


def cart_pole(state: Any, params: Any) -> np.ndarray:
    """Draw CartPole: the cart on its track, the pole, and pale guides at the angles that end it.

    Orange posts stand where the cart's middle must not pass.
    """
    edge, x = float(params.x_threshold), float(state.x)
    pole = 2 * float(params.length)  # gymnax's length is half of it
    half = 1.1 * edge
    canvas = Canvas((-half, -half + 0.6), (half, half + 0.6))
    canvas.line([(-half, -0.15), (half, -0.15)], drawing.WALL, 0.04)
    for post in (-edge, edge):
        canvas.line([(post, -0.3), (post, 0.0)], drawing.HAZARD, 0.06)
    for angle in (-float(params.theta_threshold_radians), float(params.theta_threshold_radians)):
        guide = 1.3 * pole * np.array([np.sin(angle), np.cos(angle)])
        canvas.line([(x, 0), (x + guide[0], guide[1])], drawing.GRID, 0.04)
    canvas.polygon([(x - 0.3, -0.13), (x + 0.3, -0.13), (x + 0.3, 0.13), (x - 0.3, 0.13)])
    angle = float(state.theta)  # 0 is upright, clockwise
    tip = (x + pole * np.sin(angle), pole * np.cos(angle))
    canvas.line([(x, 0), tip], drawing.AGENT, 0.1)
    canvas.disc((x, 0), 0.05, drawing.GRID)
    return canvas.array()


def mountain_car(state: Any, params: Any) -> np.ndarray:
    """Draw MountainCar, discrete or continuous: the valley, the car, the flag to reach."""
    low, high = float(params.min_position), float(params.max_position)

    def height(x: Any) -> Any:
        return 0.45 * np.sin(3 * np.asarray(x)) + 0.55  # its slope is what pulls in the dynamics

    canvas = Canvas((low - 0.05, -0.25), (high + 0.05, 1.65))
    xs = np.linspace(low - 0.3, high + 0.3, 100)
    ground = np.stack([xs, height(xs)], 1)
    canvas.polygon([(xs[0], -1), *ground, (xs[-1], -1)], drawing.GRID)
    canvas.line(ground, drawing.WALL, 0.02)
    goal = float(params.goal_position)
    top = float(height(goal)) + 0.3
    canvas.line([(goal, height(goal)), (goal, top)], drawing.GOAL, 0.02)
    canvas.polygon([(goal, top), (goal, top - 0.12), (goal + 0.12, top - 0.06)], drawing.GOAL)
    x = float(state.position)
    slope = np.arctan(1.35 * np.cos(3 * x))
    along = np.array([np.cos(slope), np.sin(slope)])
    up = np.array([-along[1], along[0]])
    foot = np.array([x, float(height(x))])
    box = [(-0.11, 0.05), (0.11, 0.05), (0.08, 0.15), (-0.08, 0.15)]
    canvas.polygon([foot + a * along + b * up for a, b in box], drawing.AGENT)
    for wheel in (-0.06, 0.06):
        canvas.disc(foot + wheel * along + 0.04 * up, 0.04, drawing.BODY)
    return canvas.array()


def acrobot(state: Any, params: Any) -> np.ndarray:
    """Draw Acrobot: two links that hang from a joint, and the line that the tip has to pass."""
    lengths = np.array([float(params.link_length_1), float(params.link_length_2)])
    angles = np.cumsum([float(state.joint_angle1), float(state.joint_angle2)]) - np.pi / 2
    links = lengths[:, None] * _directions(angles)
    reach = 1.15 * lengths.sum()
    canvas = Canvas(-reach, reach)
    canvas.line([(-reach, 1.0), (reach, 1.0)], drawing.GOAL, 0.04)  # gymnax's height, any links
    _chain(canvas, links)
    return canvas.array()


def reacher(state: Any, params: Any) -> np.ndarray:
    """Draw Reacher-misc: the arm, the goal, and the circle within which the arm can reach."""
    del params
    links = _directions(np.asarray(state.angles))  # gymnax's angles are those of the world
    joints = len(links)
    canvas = Canvas(-1.1 * joints, 1.1 * joints)
    canvas.disc((0, 0), joints, drawing.BACKGROUND, drawing.GRID)
    canvas.disc(np.asarray(state.goal_xy), 0.09 * joints, drawing.GOAL)
    _chain(canvas, links)
    return canvas.array()


def point_robot(state: Any, params: Any) -> np.ndarray:
    """Draw PointRobot-misc: the half circle of possible goals, the hidden goal, and the robot.

    A robot that has left the picture is a pale disc at its edge.
    """
    radius = float(params.circle_radius)
    low, high = np.array([-1.3, -0.6]) * radius, np.array([1.3, 2.0]) * radius
    canvas = Canvas(low, high)
    canvas.line(radius * _directions(np.linspace(0, np.pi, 60)), drawing.GRID, 0.03 * radius)
    canvas.disc(np.asarray(state.goal), float(params.goal_radius), drawing.GOAL)
    _mover(canvas, np.asarray(state.pos), low, high, 0.06 * radius)
    return canvas.array()


def swimmer(state: Any, params: Any) -> np.ndarray:
    """Draw Swimmer-misc: the swimmer, the goal, and the urchins near which nothing is paid.

    At the rim of an urchin half of the reward is left. A swimmer that has left the picture is a
    pale disc at its edge.
    """
    del params
    canvas = Canvas(-1.6, 1.6)
    canvas.disc(np.asarray(state.goal_xy), 0.12, drawing.GOAL)
    for urchin in np.asarray(state.urchin_xys):
        canvas.disc(urchin, np.sqrt(np.log(2) / 30), drawing.HAZARD)  # 1 - exp(-30 r^2) = 1/2
    _mover(canvas, np.asarray(state.xy), np.full(2, -1.6), np.full(2, 1.6), 0.07)
    return canvas.array()


def _directions(angles: Any) -> np.ndarray:
    """Return unit vectors f64[n, 2] of angles f[n], rad."""
    angles = np.asarray(angles, np.float64)
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def _chain(canvas: Canvas, links: np.ndarray) -> None:
    """Draw links f[n, 2] one after another from the origin, the end of the last in blue."""
    joints = np.concatenate([np.zeros((1, 2)), np.cumsum(links, 0)])
    size = 0.07 * len(links)
    canvas.line(joints, drawing.BODY, size)
    for joint in joints[:-1]:
        canvas.disc(joint, 0.7 * size, drawing.WALL)
    canvas.disc(joints[-1], 0.8 * size, drawing.AGENT)


def _mover(canvas: Canvas, at: np.ndarray, low: np.ndarray, high: np.ndarray, size: float) -> None:
    """Draw an agent f[2], at the edge of the picture and paler if it is beyond."""
    seen = np.clip(at, low, high)
    colour: Colour = drawing.AGENT if (seen == at).all() else drawing.TRAIL
    canvas.disc(seen, size, colour)


DRAWINGS: dict[str, Callable[[Any, Any], np.ndarray]] = {
    "Pendulum-v1": pendulum,
    "CartPole-v1": cart_pole,
    "MountainCar-v0": mountain_car,
    "MountainCarContinuous-v0": mountain_car,
    "Acrobot-v1": acrobot,
    "Reacher-misc": reacher,
    "PointRobot-misc": point_robot,
    "Swimmer-misc": swimmer,
}
"""By gymnax's id: (state, parameters) -> uint8[256, 256, 3]."""
