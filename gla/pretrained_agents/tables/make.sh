#!/bin/sh
# Make the agent `tables` from nothing, in the folder it is called in, on one CPU core (the card says how long).
# It goes on where it stopped.
set -eu
family=gla/RandomTabular-v0
gla meta-train evolve a/tables --environments \
  "$family?states=16&successors=3&spread=20&reach=2&traps=4&reward_share=0&step_reward=0&horizon=100" \
  "$family?states=20&successors=3&spread=10&reach=3&traps=5&reward_share=0&step_reward=0&horizon=100" \
  "$family?states=90&successors=1&reach=5&reward_share=0.0028&horizon=90" \
  "$family?states=12&successors=2&reward_share=0.2&reward_noise=1&horizon=25" \
  --start wary --late 1 --shaping score --steps 4000 --noise 0.1 --pairs 16 --tasks 4 --generations 40 \
  --optimizer.learning-rate 0.02 \
  --validation.every 10 --validation.lifetimes 64 --validation.steps 5000 --validation.environments \
  "$family?states=16&successors=3&spread=20&reach=3&traps=4&reward_share=0&step_reward=0&horizon=100" \
  "$family?states=18&successors=3&spread=20&reach=2&traps=4&reward_share=0&step_reward=0&horizon=100" \
  "$family?states=60&successors=1&reach=3&reward_share=0.004&horizon=100"
gla models export a/tables tables
