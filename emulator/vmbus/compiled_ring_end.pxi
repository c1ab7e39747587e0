# What both ends of a compiled ring have. Part of compiled_ring.pyx; its pure twin is pure_ring_end.py.

cdef class RingEnd:
    """The place of one end, the peer's place as it may be looked at, and the order between the two."""

    cdef RingMemory ring
    cdef object fence  # None: nothing besides the processor's own
    cdef Py_ssize_t size
    cdef Py_ssize_t position  # our own index; what stands in shared memory for it is output only
    cdef object problem

    def __cinit__(self, RingMemory ring not None, fence=no_fence):
        self.ring = ring
        self.fence = None if fence is no_fence else fence
        self.size = ring.data_bytes
        self.problem = None

    @cython.final
    cdef int fail(self, problem) except -1:
        self.problem = problem
        raise RingCorruption(problem)

    # Calls of Python stand apart: a C function that has one inside is not inlined.
    @cython.final
    cdef int illegal_index(self, str name, uint32_t index) except -1:
        return self.fail(describe_bad_index(name, index, self.size))

    @cython.final
    cdef int moved_back(self, str name, uint32_t index) except -1:
        return self.fail(describe_moved_back(name, index))

    @cython.final
    cdef int refuse_what_failed(self) except -1:
        """Raises RingCorruption again when one was seen before."""
        self.ring.check()
        if self.problem is not None:
            raise RingCorruption(self.problem)
        return 0

    @cython.final
    cdef int begin_at(self, int word, str name) except -1:
        """Take over our own index from shared memory, this once. Raises RingCorruption when it is illegal."""
        self.ring.check()
        cdef uint32_t index = ring_load(self.ring.words + word)
        if index >= self.size or index & 7:
            raise RingCorruption(describe_bad_index(name, index, self.size))
        self.position = index
        return 0

    @cython.final
    cdef inline Py_ssize_t peer_index(self, int word, str name) except -1:
        """The index the peer owns. Raises RingCorruption when it is illegal, and when anything was before."""
        cdef uint32_t index
        if self.ring.words == NULL or self.problem is not None:
            self.refuse_what_failed()
        index = ring_load(self.ring.words + word)
        if index >= self.size or index & 7:
            self.illegal_index(name, index)
        return index

    @cython.final
    cdef int order(self) except -1:
        """Let the peer see what was stored before looking at what it stored."""
        ring_full_fence()
        if self.fence is not None:
            self.fence()
            self.ring.check()
        return 0

    @cython.final
    cdef inline Py_ssize_t behind(self, Py_ssize_t position, Py_ssize_t count) noexcept:
        """The place so many bytes further on; at most the whole area."""
        position += count
        return position - self.size if position >= self.size else position

    @cython.final
    cdef inline Py_ssize_t free_from(self, Py_ssize_t out, Py_ssize_t end) noexcept:
        """The sender's room with these indices, both below the size of the ring."""
        cdef Py_ssize_t free = out - end - 8
        return free + self.size if free < 0 else free
