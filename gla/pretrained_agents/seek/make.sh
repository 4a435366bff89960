#!/bin/sh
# Make the agent `seek` from nothing, in the folder it is called in: first `swing`, of which it goes
# on, then about an hour and a half on two CPU cores. Every step goes on where it stopped.
set -eu
sh "$(dirname "$0")/../swing/make.sh"
model="--projection.observation-dim 24 --projection.action-dim 6 --projection.kind identity
  --projection.bound log --model.width 128 --model.layers 3 --model.heads 4 --model.window 400
  --batch-size 16 --optimizer.name muon --optimizer.schedule wsd --optimizer.learning-rate 0.003
  --optimizer.warmup 10 --objective.reward 0.3 --objective.observation 0.3 --objective.told 1
  --acting.correlation 0.9 --checkpoint-every 100"
family=gla/RandomGoal-v0
easy='width=[0.2,0.7]&crossing=[6.0,20.0]&lag=[0.3,2.0]&horizon=100'
cheap='costly=0.5&cost=[0.003,0.1]'

# Experts that are told their tasks: NAME OPTIONS RUNS UPDATES and more settings of PPO.
teach() {
  name=$1 options=$2 runs=$3 updates=$4
  shift 4
  gla collect generalist "h/$name" --teacher "t/$name.npz" --environment "$family$options" \
    --runs "$runs" --updates 8 --steps 50 --block 64 --ppo.num-updates "$updates" "$@"
}
# Contexts of mixed qualities: NAME EXPERTS, shares of uniform actions, experts of other tasks,
# early, middle and noisy experts, and the least and the most noise of those.
mix() {
  gla collect mixed-quality "h/$1" --experts "h/$2" --updates 16 --steps 50 --block 64 \
    --shares.random "$3" --shares.foreign "$4" --shares.early "$5" --shares.middle "$6" \
    --shares.noisy "$7" --shares.late 0 --noise "$8" "$9"
}
# The lifetimes of an agent in the tasks of the experts, who label what it sees.
live() {
  gla collect agent "h/$1-$2" --agent "a/$1" --experts "h/$2" --runs "$3" --streams-per-run 1 \
    --updates 16 --steps 50 --block 64
}

# Actions that cost little: a first acquaintance.
teach cheap-goal "?$cheap" 1024 400
mix for-cheap-goal cheap-goal 0.25 0.5 0.1 0 0.15 0.4 0.8
gla meta-train dpt a/g1 --initial a/four $model --steps 600 --weights 8 3 3 1 \
  --histories h/for-cheap-goal h/three-hinge h/three-slider h/for-hinge
live g1 cheap-goal 768
mix paid-cheap-goal cheap-goal 0.1 0.25 0.15 0.2 0.3 0.4 0.8
teach cheap-easy "?$easy&$cheap" 768 150
mix for-cheap-easy cheap-easy 0.15 0.35 0.15 0.1 0.25 0.4 0.8
gla meta-train dpt a/g2 --initial a/g1 $model --steps 500 --weights 8 5 3 2 2 \
  --histories h/for-cheap-easy h/paid-cheap-goal h/g1-cheap-goal h/three-hinge h/three-slider

# Actions that cost more, and experts that are quieter for it.
quiet='--ppo.initial-log-std -1.0 --ppo.entropy-coefficient 0'
teach goal '' 1024 400 $quiet
mix for-goal goal 0.15 0.35 0.15 0.1 0.25 0.4 0.8
teach easy-goal "?$easy" 768 250 $quiet
mix for-easy-goal easy-goal 0.15 0.35 0.15 0.1 0.25 0.4 0.8
live g2 goal 512
live g2 easy-goal 512
gla meta-train dpt a/g3 --initial a/g2 $model --steps 700 --weights 6 5 3 3 2 2 \
  --histories h/g2-easy-goal h/g2-goal h/for-easy-goal h/for-goal h/three-hinge h/three-slider
live g3 goal 512
live g3 easy-goal 512
gla meta-train dpt a/g4 --initial a/g3 $model --steps 1000 --weights 6 3 2 1 5 2 4 1 \
  --histories h/g3-goal h/g3-easy-goal h/for-goal h/for-easy-goal h/three-hinge h/for-hinge \
  h/three-slider h/for-slider
live g4 goal 512
live g4 easy-goal 512
gla meta-train dpt a/g5 --initial a/g4 $model --steps 1100 --weights 8 2 3 1 5 2 4 1 \
  --histories h/g4-goal h/g4-easy-goal h/for-goal h/for-easy-goal h/three-hinge h/for-hinge \
  h/three-slider h/for-slider

# Goals that are seen, and contexts in which they are found often.
teach seen '?seen=1.0' 1024 400 --ppo.initial-log-std -1.0 --ppo.entropy-coefficient 0.002
mix paid-seen seen 0.1 0.3 0 0 0.6 0.2 0.7
live g5 seen 640
live g5 easy-goal 384
gla meta-train dpt a/g6 --initial a/g5 $model --steps 1000 --weights 6 5 2 5 2 4 1 \
  --histories h/g5-seen h/paid-seen h/g5-easy-goal h/three-hinge h/for-hinge h/three-slider \
  h/for-slider
# Goals without a cost of actions: until one is found, rewards never vary and are not scaled.
teach free-goal '?seen=1.0&costly=0.3&cheap=0.0' 1024 320 --ppo.initial-log-std -1.0 \
  --ppo.entropy-coefficient 0.002
mix paid-free free-goal 0.1 0.3 0 0 0.6 0.2 0.7
live g6 free-goal 512
gla meta-train dpt a/g7 --initial a/g6 $model --steps 700 --weights 6 5 5 2 4 1 \
  --histories h/g6-free-goal h/paid-free h/three-hinge h/for-hinge h/three-slider h/for-slider
gla models export a/g7 seek
