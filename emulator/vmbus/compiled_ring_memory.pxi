# Where a compiled ring lives. Part of compiled_ring.pyx; its pure twin is pure_ring_memory.py.

# What it refers to never refers back, so the collector need not break anything open here; and it must not, while the
# addresses below point into that buffer.
@cython.final
@cython.no_gc_clear
cdef class RingMemory:
    """Where one ring lives: the words of its control page, and a data area that wraps. Made by ``over``."""

    cdef readonly object control
    cdef readonly Py_ssize_t data_bytes
    cdef uint32_t *words  # NULL before `over` and after `release`: nothing below is touched then
    cdef char *data  # the data area where its pages lie side by side
    cdef char **pages  # else the address of each
    cdef Py_buffer guest  # keeps guest memory where it is
    cdef char *base
    cdef Py_ssize_t guest_bytes
    cdef bint holds_guest

    def __cinit__(self):
        self.words = NULL
        self.data = NULL
        self.pages = NULL
        self.holds_guest = False

    def __dealloc__(self):
        self.let_go()

    cdef void let_go(self) noexcept:
        self.words = NULL
        self.data = NULL
        PyMem_Free(self.pages)
        self.pages = NULL
        if self.holds_guest:
            self.holds_guest = False
            PyBuffer_Release(&self.guest)

    @staticmethod
    def over(memory, pfns):
        """A ring in these pages of guest memory, control page first, the data pages in any order, even repeated.

        Raises AddressOutsideMemory for a page that is not there, Misuse for fewer than two pages.
        """
        cdef tuple numbers = tuple(pfns)
        check_page_count(len(numbers))
        memory.check_pages(numbers)
        cdef RingMemory ring = RingMemory.__new__(RingMemory)
        ring.hold(memory.view(0, memory.byte_count))
        ring.lay_out(numbers)
        ring.control = memory.view(numbers[0] << PAGE_BITS, PAGE_BYTES).cast("I")
        return ring

    cdef int hold(self, view) except -1:
        """Pin what is below a view of guest memory, not the view: the collector may clear a view that is pinned."""
        cdef Py_buffer seen
        PyObject_GetBuffer(view, &seen, PyBUF_WRITABLE)
        self.base = <char *> seen.buf
        self.guest_bytes = seen.len
        PyBuffer_Release(&seen)
        PyObject_GetBuffer(view.obj, &self.guest, PyBUF_WRITABLE)
        self.holds_guest = True
        if self.base < <char *> self.guest.buf or self.base + self.guest_bytes > <char *> self.guest.buf + self.guest.len:
            raise Misuse("guest memory is a view of one object in one piece")
        return 0

    cdef int lay_out(self, tuple numbers) except -1:
        cdef char *base = self.base
        cdef Py_ssize_t count = len(numbers) - 1
        cdef Py_ssize_t index
        cdef Py_ssize_t pfn
        cdef Py_ssize_t known = self.guest_bytes >> PAGE_BITS
        cdef bint together = True
        if <size_t> base & 7:
            raise Misuse("guest memory begins at a multiple of 8 bytes, for its words to be accessed in one piece")
        if count > 0xFFFFFFFF >> PAGE_BITS:
            raise Misuse(f"a ring of {count} data pages is larger than an index of 32 bits can say")
        self.pages = <char **> PyMem_Malloc(count * sizeof(char *))
        if self.pages == NULL:
            raise MemoryError
        for index in range(count + 1):
            pfn = numbers[index]
            if pfn < 0 or pfn >= known:
                raise AddressOutsideMemory(f"page 0x{pfn:X} is outside this machine's memory")
            if index > 0:
                self.pages[index - 1] = base + (pfn << PAGE_BITS)
                together = together and self.pages[index - 1] == self.pages[0] + ((index - 1) << PAGE_BITS)
        self.data_bytes = count << PAGE_BITS
        if together:
            self.data = self.pages[0]
        pfn = numbers[0]
        self.words = <uint32_t *> (base + (pfn << PAGE_BITS))
        return 0

    cdef int check(self) except -1:
        if self.words == NULL:
            raise ValueError("operation forbidden: the memory of this ring has been released")
        return 0

    cdef inline char *unit(self, Py_ssize_t offset) noexcept:
        """The address of 8 aligned bytes; ``offset`` is below the size of the data area."""
        if self.data != NULL:
            return self.data + offset
        return self.pages[offset >> PAGE_BITS] + (offset & (PAGE_BYTES - 1))

    cdef inline void copy_in(self, Py_ssize_t offset, const char *source, Py_ssize_t count) noexcept:
        """Write at most the whole area, around the end if need be; ``offset`` is below its size."""
        cdef Py_ssize_t first
        if self.data == NULL:
            self.copy_in_pages(offset, source, count)
        elif offset + count <= self.data_bytes:
            memcpy(self.data + offset, source, count)
        else:
            first = self.data_bytes - offset
            memcpy(self.data + offset, source, first)
            memcpy(self.data, source + first, count - first)

    cdef inline void copy_out(self, Py_ssize_t offset, char *sink, Py_ssize_t count) noexcept:
        """Read at most the whole area, around the end if need be; ``offset`` is below its size."""
        cdef Py_ssize_t first
        if self.data == NULL:
            self.copy_out_pages(offset, sink, count)
        elif offset + count <= self.data_bytes:
            memcpy(sink, self.data + offset, count)
        else:
            first = self.data_bytes - offset
            memcpy(sink, self.data + offset, first)
            memcpy(sink + first, self.data, count - first)

    cdef void copy_in_pages(self, Py_ssize_t offset, const char *source, Py_ssize_t count) noexcept:
        cdef Py_ssize_t run
        while count > 0:
            run = min(count, PAGE_BYTES - (offset & (PAGE_BYTES - 1)))
            memcpy(self.unit(offset), source, run)
            source += run
            count -= run
            offset += run
            if offset == self.data_bytes:
                offset = 0

    cdef void copy_out_pages(self, Py_ssize_t offset, char *sink, Py_ssize_t count) noexcept:
        cdef Py_ssize_t run
        while count > 0:
            run = min(count, PAGE_BYTES - (offset & (PAGE_BYTES - 1)))
            memcpy(sink, self.unit(offset), run)
            sink += run
            count -= run
            offset += run
            if offset == self.data_bytes:
                offset = 0

    cdef int check_span(self, Py_ssize_t offset, Py_ssize_t byte_count) except -1:
        self.check()
        if not (0 <= offset < self.data_bytes and 0 <= byte_count <= self.data_bytes):
            raise Misuse(f"{byte_count} bytes from {offset} are not in a data area of {self.data_bytes} bytes")
        return 0

    def read(self, Py_ssize_t offset, Py_ssize_t byte_count):
        """A private copy of ``byte_count`` bytes from ``offset``, around the end if need be; at most the whole area."""
        self.check_span(offset, byte_count)
        cdef bytes copy = PyBytes_FromStringAndSize(NULL, byte_count)
        self.copy_out(offset, PyBytes_AS_STRING(copy), byte_count)
        return copy

    def write(self, Py_ssize_t offset, bytes data not None):
        """Copy ``data`` to ``offset``, around the end if need be."""
        self.check_span(offset, PyBytes_GET_SIZE(data))
        self.copy_in(offset, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def release(self):
        """Let go of guest memory, so that it can be unmapped; the ring can not be used any more."""
        self.let_go()
        if self.control is not None:
            self.control.release()
