"""An executable model of the protocol as built, with faults and mutants: `python -m tests.model`.

What is real in it, and what is made for it:

- The **rules** are the real ones: the model's store is the store in memory, which applies `ledger.py` to its rows. That
  other stores answer alike is what the contract tests prove, so nothing is gained by writing the rules down again; and
  a mutant can change each of them (`mutant_rules.py`).
- The **deliveries, passes, steps and messages** are written anew (`deliveries.py`, `passes.py`, `steps.py`,
  `messages.py`), as generators in which every call is one step and every step can be interrupted. The real ones run
  on an event loop, whose order nobody chooses. Each rule is a method, so that a mutant is a subclass.
- The **world** is the model's own: time, a transport that is durable, at least once and in any order, and whatever goes
  wrong (`explorer.py`). The functions under test are `async def` code on a small loop (`usercode.py`).

Covered: every operation of a store that a delivery or an operator makes (all but `list`, which only looks), and those
of `upkeep.py`; every message of the protocol; both modes; what a process remembers between deliveries (`memory.py`, the
real `Remembered`, and the steps that a suspended body lends); the end of a delivery's time; deleted messages and their
repair; the end of the retention.

Left to the simulation and the tests of the library, since nothing in them is a rule of the protocol: real stores and
their transactions, the event loop, threads of plain functions (to the engine they are async ones), limits (to a run
they are messages that come later, which the model tries anyway), values, and clocks that disagree.

Checked after each schedule (`observer.py`): every run has ended, and no delivery stands still; a unit has one outcome
in an epoch; every value that a function sees is the recorded one; what a function concludes from the order of outcomes
is the same on each replay; a step runs at most once more for each fault, and all together at most once more for each
fault and each step in progress; a step with `once` starts once; no failure is recorded against a live holder; failures
are handled; an event is taken once.
"""
