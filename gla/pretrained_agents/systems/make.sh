#!/bin/sh
# Make the agent `systems` from nothing, in the folder it is called in: about 70 minutes on two CPU cores.
# Every step goes on where it stopped.
set -eu
ppo="--ppo.num-envs 16 --ppo.num-steps 50 --ppo.num-updates 60 --ppo.epochs 8 --ppo.minibatches 8
  --ppo.learning-rate 0.001 --ppo.gamma 0.97 --ppo.hidden 32 --streams-per-run 2 --block 8"
model="--projection.observation-dim 24 --projection.action-dim 6 --projection.kind orthogonal
  --model.width 128 --model.layers 3 --model.heads 4 --model.window 400 --batch-size 16
  --optimizer.name muon --optimizer.schedule wsd --checkpoint-every 100"

learn() { gla collect "h/$1" --environment "gla/$2" --runs "$3" $ppo; }
# An agent lives 8 episodes in training tasks, and their experts label what it sees.
live() { gla collect agent "h/$1" --agent "a/$2" --experts "h/$3" --runs "$4" --streams-per-run 2 --updates 8 --block 16; }

# 1. PPO learns many tasks.
learn linear RandomLinear-v0 256
learn neural RandomNeural-v0 256
learn mech RandomMechanics-v0 512
learn mech1 'RandomMechanics-v0?joints=1&gravity=12' 128
learn mech200 'RandomMechanics-v0?horizon=200' 256

# 2. GLA on linear systems and networks, then on its own lifetimes there.
gla meta-train gla a/first --histories h/linear h/neural $model \
  --optimizer.learning-rate 0.003 --sampling.lead 8 8 --steps 1200
live first-linear first linear 256
live first-neural first neural 256
gla meta-train dpt a/second --initial a/first --histories h/first-linear h/first-neural $model \
  --optimizer.learning-rate 0.001 --optimizer.warmup 20 --objective.reverse 1 --steps 300

# 3. Coupled bodies join: policies of rising quality, and its own lifetimes.
for name in mech mech1 mech200; do
  gla collect mixed-quality "h/rising-$name" --experts "h/$name" --order rising --updates 8 --streams-per-run 2
done
live second-mech second mech 256
gla meta-train dpt a/third --initial a/second --histories h/rising-mech h/rising-mech1 \
  h/rising-mech200 h/second-mech h/first-linear h/first-neural --weights 5 1 2 4 2 2 $model \
  --optimizer.learning-rate 0.002 --optimizer.warmup 20 --steps 500

# 4. Once more on its own lifetimes, everywhere.
for name in mech linear neural mech200; do live "third-$name" third "$name" 128; done
gla meta-train dpt a/fourth --initial a/third --histories h/third-mech h/third-mech200 \
  h/rising-mech h/second-mech h/third-linear h/third-neural --weights 5 2 2 1 3 3 $model \
  --optimizer.learning-rate 0.002 --optimizer.warmup 20 --steps 500
gla models export a/fourth systems
