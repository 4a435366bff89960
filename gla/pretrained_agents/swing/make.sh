#!/bin/sh
# Make the agent `swing` from nothing, in the folder it is called in: about an hour on two CPU cores.
# Every step goes on where it stopped.
set -eu
family='gla/RandomPotential-v0'
model="--projection.observation-dim 24 --projection.action-dim 6 --projection.kind identity
  --projection.bound log --model.width 128 --model.layers 3 --model.heads 4 --model.window 400
  --batch-size 16 --optimizer.name muon --optimizer.schedule wsd --optimizer.learning-rate 0.003
  --objective.reward 0.3 --objective.observation 0.3 --objective.told 1 --acting.correlation 0.9
  --checkpoint-every 100"
mixed="--updates 16 --steps 50 --block 64 --shares.random 0.25 --shares.foreign 0.5 --shares.early 0.1
  --shares.middle 0 --shares.noisy 0.15 --shares.late 0 --noise 0.4 0.8"

# Experts that are told their tasks, and contexts in which experts of other tasks act.
teach() {
  gla collect generalist "h/$1" --teacher "t/$1.npz" --environment "$family$2" --runs 1024 \
    --updates 8 --steps 50 --block 64 --ppo.num-updates "$3"
  gla collect mixed-quality "h/for-$1" --experts "h/$1" $mixed
}
# Linear systems and networks, with PPO's experts.
learn() {
  gla collect "h/$1" --environment "gla/$2" --runs 512 --block 8 --storage float16 --ppo.num-envs 16 \
    --ppo.num-steps 50 --ppo.num-updates 60 --ppo.epochs 8 --ppo.minibatches 8 \
    --ppo.learning-rate 0.001 --ppo.gamma 0.97 --ppo.hidden 32
  gla collect mixed-quality "h/for-$1" --experts "h/$1" --updates 16 --steps 50 --block 64 \
    --shares.random 0.25 --shares.early 0.2 --shares.middle 0.2 --shares.noisy 0.2 --shares.late 0.15
}
# The lifetimes of an agent in the tasks of the experts, who label what it sees.
live() {
  gla collect agent "h/$1-$2" --agent "a/$1" --experts "h/$2" --runs "$3" --updates 16 --steps 50 --block 64
}

teach hinge '' 500
teach slider '?body=slider' 500
teach pair '?body=pair' 1000
teach easy '?free=1.0&strength=[1.0,3.0]&time_step=[0.15,0.3]&horizon=100' 150
learn linear RandomLinear-v0
learn neural RandomNeural-v0

gla meta-train dpt a/one $model --steps 1000 --weights 2 4 4 2 2 2 \
  --histories h/for-easy h/for-hinge h/for-pair h/for-slider h/for-linear h/for-neural
gla meta-train dpt a/two --initial a/one $model --optimizer.warmup 10 --steps 1000 --weights 1 7 5 3 \
  --histories h/for-easy h/for-hinge h/for-pair h/for-slider
gla meta-train dpt a/three --initial a/two $model --optimizer.warmup 10 --steps 900 --weights 6 8 2 \
  --histories h/for-easy h/for-hinge h/for-slider
live three hinge 640
live three easy 256
live three slider 512
gla meta-train dpt a/four --initial a/three $model --optimizer.warmup 10 --steps 600 --weights 7 3 1 3 1 1 \
  --histories h/three-hinge h/three-slider h/three-easy h/for-hinge h/for-slider h/for-easy
gla models export a/four swing
