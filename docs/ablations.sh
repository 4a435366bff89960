#!/bin/sh
# One change at a time to a small recipe, in the folder it is called in: the table of docs/experiments.md.
# It goes on where it stopped. SEEDS="0 1" ROWS="base one-family" ablations.sh does these alone.
set -eu

collect() { # OUT ENVIRONMENT RUNS
  gla collect "h/$1" --environment "gla/$2-v0" --runs "$3" --streams-per-run 2 --ppo.num-envs 16 \
    --ppo.num-steps 50 --ppo.epochs 8 --ppo.minibatches 8 --ppo.learning-rate 0.001 --ppo.gamma 0.97 --ppo.hidden 32
}
for family in Linear Mechanics Neural; do
  collect "$family" "Random$family" 256
  collect "$family-few" "Random$family" 8
  gla collect mixed-quality "h/$family-mixed" --experts "h/$family" --streams-per-run 2
  gla collect noise-distilled "h/$family-noisy" --experts "h/$family" --streams-per-run 2
done

wanted() { case " ${ROWS:-$1} " in *" $1 "*) ;; *) return 1 ;; esac; }

try() { # ROW AGENT SEED OPTIONS...
  row=$1 agent=$2 seed=$3
  shift 3
  for family in Linear Mechanics Neural; do
    [ -e "r/$row-$seed-$family.json" ] || gla meta-test "r/$row-$seed-$family.json" --agent "a/$agent-$seed" \
      --environment "gla/Random$family-v0" --split validation --lifetimes 64 --steps 400 --no-nulls "$@"
  done
}

train() { # ROW PRESET STORES OPTIONS...
  name=$1 preset=$2 stores=$3
  shift 3
  wanted "$name" || return 0
  for seed in ${SEEDS:-0 1}; do
    gla meta-train "$preset" "a/$name-$seed" --histories $stores --seed "$seed" --steps 500 --batch-size 16 \
      --projection.observation-dim 24 --projection.action-dim 6 --projection.kind orthogonal \
      --sampling.first-update 0 3 --sampling.gap 3 7 --sampling.lead 8 8 \
      --model.width 64 --model.layers 2 --model.heads 4 --model.window 400 \
      --optimizer.name muon --optimizer.learning-rate 0.003 --optimizer.schedule wsd "$@"
    try "$name" "$name" "$seed"
  done
}
all="h/Linear h/Mechanics h/Neural"
few="h/Linear-few h/Mechanics-few h/Neural-few"
mixed="h/Linear-mixed h/Mechanics-mixed h/Neural-mixed"
noisy="h/Linear-noisy h/Mechanics-noisy h/Neural-noisy"

train base gla "$all"
train few-tasks gla "$few"
train one-family gla h/Linear
train no-relabelling gla "$all" --sampling.lead 0 0
train last-policy gla "$all" --sampling.lead 100 100
train last-policy-forward gla "$all" --sampling.lead 100 100 --objective.reverse 0
train mixed-quality gla "$mixed"
train noise-distilled gla "$noisy"
train mixed-quality-forward gla "$mixed" --objective.reverse 0
train noise-distilled-forward gla "$noisy" --objective.reverse 0
train ad ad "$all" --sampling.lead 0 0
train ad-noise-distilled ad "$noisy" --sampling.lead 0 0
train every-update gla "$all" --sampling.gap 1 1
train best-streams gla "$all" --sampling.score-power 2
train gaussian gla "$all" --projection.kind gaussian
train slots gla "$all" --projection.kind slots
train log-rewards gla "$all" --projection.bound log
train told-the-return gla "$all" --sampling.conditions return
if wanted asked-the-return; then
  for seed in ${SEEDS:-0 1}; do try asked-the-return told-the-return "$seed" --ask return=1; done
fi
train auxiliary gla "$all" --objective.reward 0.4 --objective.observation 0.4
train forward-only gla "$all" --objective.reverse 0
train delta gla "$all" --model.backbone delta
train ssm gla "$all" --model.backbone ssm
train lstm gla "$all" --model.backbone lstm
