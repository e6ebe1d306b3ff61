"""The legacy backend: an object whose values lie in a store that has to be waited for.

The model: a write goes into a *layer* in memory, at once. The end of the turn commits the layer to
the object's `Store`, which brings committed layers to its `KvBackend` one batch after the other,
coalesced; a commit is confirmed when the backend has it. A read looks through the layers, then in
the cache; only what neither knows is asked of the backend, and while the code waits for the answer
the input gate is closed, so that nobody comes between a read and the write that follows from it.
"""
