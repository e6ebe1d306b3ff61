"""The concurrency core: when code of an object may run, and when its answers may leave.

The model, in two halves that meet in `Life`:

*Input.* An object's code runs as *events*. An event is driven in its caller's task, one *step*
at a time; a step is what runs between two real suspensions. Before a step the driver waits until
the *scope* of the event may run: a scope is the object's root or a *critical section*, and it may
run while no critical section directly under it is open and nobody else was promised the next
step. Waiters are served in order, critical sections first.

*Output.* Every step that wrote ends with a commit; a commit is *confirmed* when the disk holds
it. An answer is *withheld* until everything its event could have seen is confirmed.

Invariants:

* Exactly one step of one loop runs at a time, and ``Loop.current`` names its frame.
* A step never starts while another event's critical section is open in its object.
* A life that is broken never runs another step of its own except to unwind.
* Nobody who was promised a step and then left keeps it: the promise passes on.

Nothing in this package knows SQL.
"""
