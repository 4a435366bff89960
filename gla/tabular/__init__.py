"""Learning to explore and plan in finite decision processes.

What is built in: `tables`, a memory that counts, and the backups of `rule` over what was counted.
What is learned: a few hundred numbers that say how the unknown is valued and how values become
actions (`rule.Rule`). `config` says how they are learned, `trained` reads them. The agent is
`gla.agents.tabular`, its training `gla.agents.evolution`.
"""
