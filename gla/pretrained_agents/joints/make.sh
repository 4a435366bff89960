#!/bin/sh
# Make the agent `joints` from nothing, in the folder it is called in: first `swing`, of which it goes
# on, then some twenty minutes on two CPU cores. Every step goes on where it stopped.
set -eu
sh "$(dirname "$0")/../swing/make.sh"
model="--projection.observation-dim 24 --projection.action-dim 6 --projection.kind identity
  --projection.bound log --model.width 128 --model.layers 3 --model.heads 4 --model.window 400
  --batch-size 16 --optimizer.name muon --optimizer.schedule wsd --optimizer.learning-rate 0.003
  --optimizer.warmup 10 --objective.reward 0.3 --objective.observation 0.3 --objective.told 1
  --acting.correlation 0.9 --checkpoint-every 100"

# PPO's experts of hinges in pairs, and contexts in which experts of other tasks act.
gla collect h/hinges --environment gla/RandomHinges-v0 --runs 512 --block 8 --storage float16 \
  --ppo.num-envs 16 --ppo.num-steps 50 --ppo.num-updates 80 --ppo.epochs 8 --ppo.minibatches 8 \
  --ppo.learning-rate 0.001 --ppo.gamma 0.98 --ppo.hidden 32
gla collect mixed-quality h/for-hinges --experts h/hinges --updates 16 --steps 50 --block 64 \
  --shares.random 0.25 --shares.foreign 0.4 --shares.early 0.15 --shares.middle 0.1 --shares.noisy 0.1 \
  --shares.late 0 --noise 0.4 0.8

gla meta-train dpt a/five --initial a/four $model --steps 700 --weights 8 2 1 1 \
  --histories h/for-hinges h/three-hinge h/for-linear h/for-neural
# Its own lifetimes in the tasks of the experts, who label what it sees.
gla collect agent h/five-hinges --agent a/five --experts h/hinges --runs 512 --updates 16 --steps 50 --block 64
gla meta-train dpt a/six --initial a/five $model --steps 500 --weights 8 4 1 \
  --histories h/five-hinges h/for-hinges h/three-hinge
gla models export a/six joints
