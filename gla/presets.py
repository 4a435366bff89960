"""Three published recipes for one trainer: names for settings, nothing else.

| name | context | target | loss |
|---|---|---|---|
| `gla` | a chain of ever later updates | a later policy's distribution | forward + reverse KL |
| `ad` | the same | the action that was taken | negative log-likelihood |
| `dpt` | consecutive updates from any one on | the last policy's distribution | forward KL |
"""

from __future__ import annotations

from gla.errors import GlaError, near_matches
from gla.objectives import ObjectiveConfig
from gla.sampling import LAST, SamplingConfig

_PRESETS: dict[str, tuple[SamplingConfig, ObjectiveConfig]] = {
    # Kirsch et al. 2023, Eq. 1, with targets relabelled at the visited states.
    "gla": (SamplingConfig(), ObjectiveConfig()),
    # Laskin et al. 2022. They show every k-th episode of a history; here the gap does that.
    "ad": (SamplingConfig(lead=(0, 0)), ObjectiveConfig(forward=0.0, reverse=0.0, nll=1.0)),
    # Lee et al. 2023: whatever the context is, the label is the optimal action. They maximise the
    # likelihood of labels drawn from the optimal policy; its mean is the forward KL and a constant.
    "dpt": (
        SamplingConfig(stages=1, first_update=(0, LAST), gap=(0, 0), lead=(LAST, LAST)),
        ObjectiveConfig(forward=1.0, reverse=0.0),
    ),
}
PRESETS = tuple(_PRESETS)


def preset(name: str) -> tuple[SamplingConfig, ObjectiveConfig]:
    """Return the settings that a name stands for: how sequences are cut, and the loss.

    - `gla`: Kirsch et al. 2023, "Towards General-Purpose In-Context Learning Agents";
    - `ad`: Laskin et al. 2022, "In-context Reinforcement Learning with Algorithm Distillation";
    - `dpt`: Lee et al. 2023, "Supervised Pretraining Can Learn In-Context Reinforcement Learning".
      Histories whose maker kept no policies give it their own targets, the best policy's if they
      have one.

    Raises:
        GlaError: if there is none of that name.
    """
    if name not in _PRESETS:
        raise GlaError(
            f"there is no preset {name!r}{near_matches(name, PRESETS)}",
            f"one of {', '.join(PRESETS)}",
        )
    return _PRESETS[name]
