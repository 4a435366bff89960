#!/bin/sh
# Make the agent `tables` from nothing, in the folder it is called in, on one CPU core (the card says how long).
# It goes on where it stopped.
set -eu
family=gla/RandomTabular-v0
gla meta-train evolve a/tables --environments \
  "$family?states=6&actions=3&successors=2&spread=2&traps=1&reward_share=0&step_reward=0&horizon=20" \
  "$family?states=20&actions=3&successors=2&reward_share=0.03" \
  "$family?states=16&spread=10&traps=4&reward_share=0&step_reward=0&horizon=80" \
  "$family?states=48&actions=5&successors=1&reach=2&reward_share=0.004&horizon=60" \
  "$family?states=24&successors=1&reach=2&reward_share=0&step_reward=-1&horizon=60" \
  "$family?states=12&successors=2&reward_share=0.2&reward_noise=1&horizon=25" \
  "$family?states=30&actions=3&successors=2&spread=0.3&traps=6&reward_share=0&step_reward=0&horizon=100" \
  "$family?states=16&actions=6&successors=2&traps=4&reward_share=0.02&horizon=40" \
  "$family?states=20&spread=10&reach=3&traps=3&reward_share=0&step_reward=0&horizon=100" \
  "$family?states=90&successors=1&reach=5&reward_share=0.0028&horizon=90" \
  --start optimistic --late 1 --steps 4000 --noise 0.05 --pairs 16 --generations 80 \
  --optimizer.learning-rate 0.01 \
  --validation.every 10 --validation.lifetimes 32 --validation.steps 4000 --validation.environments \
  "$family?states=60&successors=1&reach=3&reward_share=0.004&horizon=100" \
  "$family?states=24&spread=5&traps=6&reward_share=0&step_reward=0&horizon=120" \
  "$family?states=40&actions=3&successors=2&reward_share=0.02" \
  "$family?states=36&spread=5&reach=3&traps=5&reward_share=0&step_reward=0&horizon=120"
gla models export a/tables tables
