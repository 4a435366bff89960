"""GPICL: learning to learn classification from randomly projected data sets.

After "General-Purpose In-Context Learning by Meta-Learning Transformers" (Kirsch et al. 2022).
`tasks` makes endlessly many tasks of a data set, the modules of learners hold what is meta-trained
and the hand-written learners that must stand beside it, `training` and `evaluate` do as they say.
"""
