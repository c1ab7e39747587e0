# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
"""The ring, compiled: the same behaviour as ``pure_ring`` to the last byte and word, with real atomics and fences.

The rules stand at the top of ``ring``, what both builds say at the top of ``ring_contract``. Three things differ:

* Packets are copied straight between Python's bytes and the ring. The head of each descriptor is read in one access,
  judged, and written over the same bytes of the private copy, so that what was judged is what is handed on.
* The control words are accessed with acquire and release, with a full fence where a store must be seen before a load.
  A fence given by the caller is called besides, unless it is ``no_fence``.
* Pages that do not lie side by side go through a page table: one bound check in ``over``, none later.

The interpreter's lock is held throughout, so the two ends of one process never run at the same time.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_REFCNT, Py_XDECREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from emulator.memory import AddressOutsideMemory
from emulator.status import Misuse
from emulator.vmbus.packets import RingCorruption
from emulator.vmbus.ring_contract import (
    MASK_SET_BY_PEER,
    UNPADDED,
    Received,
    Sent,
    check_page_count,
    describe_bad_index,
    describe_bad_packet,
    describe_crumb,
    describe_moved_back,
    no_fence,
)

cdef extern from "ring_atomics.h" nogil:
    uint32_t ring_load(const uint32_t *word)
    void ring_publish(uint32_t *word, uint32_t value)
    uint64_t ring_load_unit(const char *where)
    void ring_store_unit(char *where, uint64_t value)
    void ring_full_fence()
    bint bits_set(char *bits, size_t bit)
    uint64_t bits_take(char *bits)

cdef extern from "Python.h":
    object PySequence_Fast(object, const char *)
    Py_ssize_t PySequence_Fast_GET_SIZE(object)
    PyObject **PySequence_Fast_ITEMS(object)
    PyObject *PyTuple_GET_ITEM(object, Py_ssize_t)
    ctypedef struct PyTypeObject:
        object (*tp_alloc)(PyTypeObject *, Py_ssize_t)

cdef extern from *:
    """
    #define RING_STRING_(text) #text
    #define RING_STRING(text) RING_STRING_(text)
    #ifndef VMBUS_RING_SOURCE
    #define VMBUS_RING_SOURCE unknown
    #endif
    """
    const char *_SOURCE "RING_STRING(VMBUS_RING_SOURCE)"

cdef enum:
    WORD_IN = 0
    WORD_OUT = 1
    WORD_MASK = 2
    WORD_PENDING = 3
    WORD_FEATURES = 16
    PAGE_BYTES = 4096
    PAGE_BITS = 12
    DESCRIPTOR_BYTES = 16
    FOOTER_BYTES = 8
    COMPLETION = 11
    MOST_AT_ONCE = 1 << 30  # packets of one call: more than any ring holds
    LONGEST_IN_BAND = 0xFFFF * 8 - 16  # what the length field can say
    SMALL_RESULT_BYTES = 2048  # of packets kept alive by a result that is kept for the next call

SOURCE = _SOURCE.decode("ascii")
"""What this was compiled from, as setup.py saw it: a digest that a test compares with the sources that stand there."""

# The first 8 bytes of a descriptor but for its length: type 6, 16 bytes of header, no flags; and the bits to compare.
cdef uint64_t IN_BAND_HEAD = 0x00020006
cdef uint64_t ASKS = <uint64_t> 1 << 48  # the flag of a packet that asks for its completion
cdef uint64_t COMPLETION_HEAD = 0x0002000B  # type 11, 16 bytes of header; whatever its length and flags
cdef uint64_t PLAIN_HEAD = 0xFFFF0000FFFFFFFF

# Results that can be made beforehand: a single packet's, and those of small batches.
cdef enum:
    READY_RESULTS = 65
cdef list _results = [Sent(count >> 1, bool(count & 1)) for count in range(2 * READY_RESULTS)]


cdef object sent(Py_ssize_t written, bint signal):
    if written < READY_RESULTS:
        return _results[2 * written + signal]
    return Sent(written, signal)


cdef object received(list images, Py_ssize_t byte_count, bint signal, bint empty):
    # What Received(...) does, without the detour through its argument parsing.
    cdef object result = (<PyTypeObject *> Received).tp_alloc(<PyTypeObject *> Received, 4)
    fill(result, 0, images)
    fill(result, 1, byte_count)
    fill(result, 2, signal)
    fill(result, 3, empty)
    return result


cdef inline void fill(object result, Py_ssize_t index, object value) noexcept:
    """Put a value into a tuple that nobody else has seen."""
    cdef PyObject *before = PyTuple_GET_ITEM(result, index)
    Py_INCREF(value)
    PyTuple_SET_ITEM(result, index, value)
    Py_XDECREF(before)


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


cdef uint32_t checked(RingMemory ring, int word, str name) except? 0xFFFFFFFF:
    """One of the two indices; raises RingCorruption when it is illegal."""
    ring.check()
    cdef uint32_t index = ring_load(ring.words + word)
    if index >= ring.data_bytes or index & 7:
        raise RingCorruption(describe_bad_index(name, index, ring.data_bytes))
    return index


@cython.final
cdef class RingSender:
    """The sending end of one ring. Raises RingCorruption at construction when the indices are illegal."""

    cdef RingMemory ring
    cdef object fence  # None: nothing besides the processor's own
    cdef Py_ssize_t size
    cdef Py_ssize_t position  # our own index; what stands in shared memory for it is output only
    cdef Py_ssize_t known_free  # the receiver can only have made more room since
    cdef bint pending
    cdef object problem

    def __cinit__(self, RingMemory ring not None, fence=no_fence):
        self.ring = ring
        self.fence = None if fence is no_fence else fence
        self.size = ring.data_bytes
        self.position = checked(ring, WORD_IN, "in")
        self.known_free = 0
        self.pending = False
        self.problem = None
        self.room()

    cdef int fail(self, problem) except -1:
        self.problem = problem
        raise RingCorruption(problem)

    cdef int order(self) except -1:
        """Let the peer see what was stored before looking at what it stored."""
        ring_full_fence()
        if self.fence is not None:
            self.fence()
            self.ring.check()
        return 0

    cdef Py_ssize_t room(self) except -1:
        cdef Py_ssize_t free
        cdef uint32_t out
        self.ring.check()
        if self.problem is not None:
            raise RingCorruption(self.problem)
        out = ring_load(self.ring.words + WORD_OUT)
        if out >= self.size or out & 7:
            self.fail(describe_bad_index("out", out, self.size))
        free = <Py_ssize_t> out - self.position - 8
        if free < 0:
            free += self.size
        if free < self.known_free:
            self.fail(describe_moved_back("out", out))
        self.known_free = free
        return free

    def free_bytes(self):
        """Bytes there is room for now, footers included. Raises RingCorruption."""
        return self.room()

    def would_ever_fit(self, cost):
        """Whether a packet of ``cost`` bytes with its footer fits an empty ring. Some readers refuse the last 8."""
        return cost <= self.size - 16

    @property
    def largest_cost(self):
        """The most ring bytes one packet may take."""
        return self.size - 16

    def send_batch(self, images):
        """Write as many encoded packets as fit, in order; publish once and decide once about the doorbell (3.4).

        Raises RingCorruption, or Misuse when a packet is not padded to 8 bytes.
        """
        cdef Py_ssize_t free = self.room()
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t fits = 0
        cdef Py_ssize_t lengths = 0
        cdef object batch = PySequence_Fast(images, "packets come as a sequence of bytes")
        cdef PyObject **items = PySequence_Fast_ITEMS(batch)
        cdef Py_ssize_t count = PySequence_Fast_GET_SIZE(batch)
        while fits < count:
            if not PyBytes_CheckExact(<object> items[fits]):
                raise TypeError(f"an encoded packet is bytes, not {type(<object> items[fits]).__name__}")
            total = PyBytes_GET_SIZE(<object> items[fits]) + FOOTER_BYTES
            if total > free:
                break
            free -= total
            lengths |= total
            fits += 1
        if lengths & 7:
            raise Misuse(UNPADDED)
        if fits == 0:
            return sent(0, False)
        return sent(fits, self.put(items, fits, free))

    cdef bint put(self, PyObject **items, Py_ssize_t count, Py_ssize_t free) except -1:
        """Write packets that were seen to fit, publish them, and say whether to ring. No Python code runs in between."""
        cdef RingMemory ring = self.ring
        cdef Py_ssize_t position = self.position
        cdef Py_ssize_t length
        cdef Py_ssize_t index
        cdef Py_ssize_t start
        for index in range(count):
            start = position
            length = PyBytes_GET_SIZE(<object> items[index])
            ring.copy_in(position, PyBytes_AS_STRING(<object> items[index]), length)
            position += length
            if position >= self.size:
                position -= self.size
            ring_store_unit(ring.unit(position), <uint64_t> start << 32)  # the footer: 0, and where its packet begins
            position += FOOTER_BYTES
            if position == self.size:
                position = 0
        return self.publish(position, free)

    def send_in_band(self, payloads, Py_ssize_t first, Py_ssize_t most, uint64_t transaction_id, Py_ssize_t longest):
        """Write payloads from number ``first`` on, at most ``most``, as in-band packets that want no completion.

        As many as fit, up to one that is longer than ``longest`` bytes; transaction ids count up from the one given.
        Published once, with one decision about the doorbell. Raises RingCorruption, TypeError for what is not bytes.
        """
        cdef Py_ssize_t free = self.room()
        cdef object batch = PySequence_Fast(payloads, "payloads come as a sequence of bytes")
        cdef PyObject **items = PySequence_Fast_ITEMS(batch)
        cdef Py_ssize_t end = min(PySequence_Fast_GET_SIZE(batch), first + min(most, MOST_AT_ONCE))
        cdef Py_ssize_t position = self.position
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t length
        cdef Py_ssize_t total
        longest = min(longest, LONGEST_IN_BAND)
        if first < 0:
            raise Misuse(f"payloads are numbered from 0, not {first}")
        while first + count < end:
            if not PyBytes_CheckExact(<object> items[first + count]):
                if count:
                    break
                raise TypeError(f"a payload is bytes, not {type(<object> items[first]).__name__}")
            length = PyBytes_GET_SIZE(<object> items[first + count])
            total = ((length + 7) & ~<Py_ssize_t> 7) + DESCRIPTOR_BYTES + FOOTER_BYTES
            if length > longest or total > free:
                break
            self.put_packet(
                position, PyBytes_AS_STRING(<object> items[first + count]), length, transaction_id + count, IN_BAND_HEAD
            )
            free -= total
            position += total
            if position >= self.size:
                position -= self.size
            count += 1
        if count == 0:
            return sent(0, False)
        return sent(count, self.publish(position, free))

    def send_asking(self, bytes payload not None, uint64_t transaction_id):
        """Write one in-band packet that wants its completion, if there is room; otherwise as ``send_in_band``."""
        return self.put_single(payload, transaction_id, IN_BAND_HEAD | ASKS)

    def send_completion(self, bytes payload not None, uint64_t transaction_id):
        """Write the completion of one of the peer's packets, if there is room; otherwise as ``send_in_band``."""
        return self.put_single(payload, transaction_id, COMPLETION_HEAD)

    cdef object put_single(self, bytes payload, uint64_t transaction_id, uint64_t head):
        cdef Py_ssize_t free = self.room()
        cdef Py_ssize_t length = PyBytes_GET_SIZE(payload)
        cdef Py_ssize_t total = ((length + 7) & ~<Py_ssize_t> 7) + DESCRIPTOR_BYTES + FOOTER_BYTES
        if length > LONGEST_IN_BAND or total > free:
            return sent(0, False)
        self.put_packet(self.position, PyBytes_AS_STRING(payload), length, transaction_id, head)
        return sent(1, self.publish(self.behind(self.position, total), free - total))

    cdef inline void put_packet(
        self, Py_ssize_t start, const char *payload, Py_ssize_t length, uint64_t transaction_id, uint64_t head
    ) noexcept:
        """One packet with its footer, at a place that was seen to have room. ``head`` lacks its length."""
        cdef RingMemory ring = self.ring
        cdef Py_ssize_t padded = (length + 7) & ~<Py_ssize_t> 7
        cdef Py_ssize_t position = start
        ring_store_unit(ring.unit(position), head | <uint64_t> ((padded + DESCRIPTOR_BYTES) >> 3) << 32)
        position = self.behind(position, 8)
        ring_store_unit(ring.unit(position), transaction_id)
        position = self.behind(position, 8)
        if length != padded:
            ring_store_unit(ring.unit(self.behind(position, padded - 8)), 0)
        ring.copy_in(position, payload, length)
        ring_store_unit(ring.unit(self.behind(position, padded)), <uint64_t> start << 32)

    cdef inline Py_ssize_t behind(self, Py_ssize_t position, Py_ssize_t count) noexcept:
        """The place so many bytes further on."""
        position += count
        return position - self.size if position >= self.size else position

    cdef bint publish(self, Py_ssize_t position, Py_ssize_t free) except -1:
        """Let the receiver see what was written up to ``position``; whether to ring its doorbell."""
        cdef RingMemory ring = self.ring
        cdef uint32_t before = <uint32_t> self.position
        self.known_free = free
        self.position = position
        ring_publish(ring.words + WORD_IN, <uint32_t> position)
        self.order()
        # In this order: the mask, then the receiver's place. Past where we began means that it has seen us coming.
        return ring_load(ring.words + WORD_MASK) == 0 and ring_load(ring.words + WORD_OUT) == before

    def block(self, Py_ssize_t needed):
        """Ask for a doorbell when ``needed`` bytes are free. True: there is room by now, try again. May raise."""
        cdef Py_ssize_t threshold = min(max(needed, self.size >> 2), self.size)
        self.ring.check()
        threshold = min((threshold + 7) & ~<Py_ssize_t> 7, self.size - 8)
        ring_publish(self.ring.words + WORD_PENDING, <uint32_t> threshold)
        self.pending = True
        self.order()
        return self.room() >= needed

    def unblock(self):
        """No packet waits for room any more."""
        self.ring.check()
        if self.pending:
            ring_publish(self.ring.words + WORD_PENDING, 0)
            self.pending = False


@cython.final
cdef class RingReceiver:
    """The receiving end of one ring. Raises RingCorruption at construction when the indices are illegal."""

    cdef RingMemory ring
    cdef object fence
    cdef Py_ssize_t size
    cdef Py_ssize_t position  # our own index
    cdef Py_ssize_t taken  # what the last `take` took
    cdef Py_ssize_t known_used  # seen and not yet consumed; the sender can only have added to it
    cdef bint masked
    cdef object problem
    cdef object spare  # the last small result: used again when by then nobody else has it

    def __cinit__(self, RingMemory ring not None, fence=no_fence):
        self.ring = ring
        self.fence = None if fence is no_fence else fence
        self.size = ring.data_bytes
        self.position = checked(ring, WORD_OUT, "out")
        self.known_used = 0
        self.masked = ring_load(ring.words + WORD_MASK) != 0
        self.problem = None
        self.spare = None
        self.used()

    cdef int fail(self, problem) except -1:
        self.problem = problem
        raise RingCorruption(problem)

    cdef int order(self) except -1:
        """Let the peer see what was stored before looking at what it stored."""
        ring_full_fence()
        if self.fence is not None:
            self.fence()
            self.ring.check()
        return 0

    cdef list list_of(self, bytes image):
        """A list of one packet: that of the last result, when nobody else has either."""
        cdef object made = self.spare
        cdef list last
        if made is not None and Py_REFCNT(made) == 2:
            last = <list> PyTuple_GET_ITEM(made, 0)
            if Py_REFCNT(last) == 2 and PyList_GET_SIZE(last) == 1:
                last[0] = image
                return last
        return [image]

    cdef object result(self, list images, Py_ssize_t byte_count, bint signal, bint empty):
        cdef object made = self.spare
        if made is not None and Py_REFCNT(made) == 2:  # here and in self.spare, as zip() and enumerate() do it
            fill(made, 0, images)
            fill(made, 1, byte_count)
            fill(made, 2, signal)
            fill(made, 3, empty)
        else:
            made = received(images, byte_count, signal, empty)
        self.spare = made if byte_count <= SMALL_RESULT_BYTES else None
        return made

    cdef Py_ssize_t used(self) except -1:
        cdef Py_ssize_t count
        cdef uint32_t index
        self.ring.check()
        if self.problem is not None:
            raise RingCorruption(self.problem)
        index = ring_load(self.ring.words + WORD_IN)
        if index >= self.size or index & 7:
            self.fail(describe_bad_index("in", index, self.size))
        count = <Py_ssize_t> index - self.position
        if count < 0:
            count += self.size
        if count < self.known_used:
            self.fail(describe_moved_back("in", index))
        self.known_used = count
        return count

    def used_bytes(self):
        """Bytes that wait to be taken, footers included. Raises RingCorruption."""
        return self.used()

    @property
    def peer_honours_pending_size(self):
        """Whether the peer rings when a blocked sender of ours has room; if not, such a sender must poll (3.1)."""
        self.ring.check()
        return ring_load(self.ring.words + WORD_FEATURES) & 1 != 0

    def receive_batch(self, Py_ssize_t max_packets, Py_ssize_t max_bytes):
        """Take up to ``max_packets`` data packets and ``max_bytes`` of their ring bytes, in the order they stand.

        One data packet is taken whatever its size, unless ``max_packets`` is 0. Completions do not count: nobody may
        hold them up, and the ring bounds them. Good packets in front of a bad one are returned; the next call raises
        RingCorruption.
        """
        cdef Py_ssize_t used = self.used()
        cdef Py_ssize_t consumed
        cdef Py_ssize_t before
        cdef bint signal
        cdef list images
        if not self.masked:
            if ring_load(self.ring.words + WORD_MASK) != 0:
                self.fail(MASK_SET_BY_PEER)
            if used:
                self.set_mask()
        if used == 0:
            return self.result([], 0, False, True)
        images = self.take(used, max_packets, max_bytes)
        self.ring.check()  # describing damage runs Python code, which may do anything
        if images is None:
            if self.problem is not None:
                raise RingCorruption(self.problem)
            return self.result([], 0, False, False)
        consumed = self.taken
        before = self.position
        self.position = before + consumed
        if self.position >= self.size:
            self.position -= self.size
        self.known_used = used - consumed
        ring_publish(self.ring.words + WORD_OUT, <uint32_t> self.position)
        self.order()
        signal = ring_load(self.ring.words + WORD_PENDING) != 0 and self.frees_a_sender(before)
        return self.result(images, consumed, signal, consumed == used)

    def receive_payloads(self, Py_ssize_t max_packets, Py_ssize_t max_bytes):
        """Take in-band packets that want no completion, up to the first of any other kind; their payloads, padded.

        Otherwise as ``receive_batch``. What is not plain stays, good or bad, for ``receive_batch`` to judge.
        """
        cdef Py_ssize_t used = self.used()
        cdef Py_ssize_t before
        cdef bint signal
        cdef list payloads
        if not self.masked:
            if ring_load(self.ring.words + WORD_MASK) != 0:
                self.fail(MASK_SET_BY_PEER)
            if used:
                self.set_mask()
        payloads = self.take_payloads(used, max_packets, max_bytes)
        if self.taken == 0:
            return self.result(payloads, 0, False, used == 0)
        before = self.position
        self.position = before + self.taken
        if self.position >= self.size:
            self.position -= self.size
        self.known_used = used - self.taken
        ring_publish(self.ring.words + WORD_OUT, <uint32_t> self.position)
        self.order()
        signal = ring_load(self.ring.words + WORD_PENDING) != 0 and self.frees_a_sender(before)
        return self.result(payloads, self.taken, signal, self.taken == used)

    def take_completion(self, uint64_t transaction_id):
        """Take what comes next if it is the completion of that packet: (payload, ring the doorbell).

        None, and nothing taken, when anything else stands there, or doorbells are asked for: then ``receive_batch``.
        """
        cdef RingMemory ring = self.ring
        cdef Py_ssize_t used = self.used()
        cdef Py_ssize_t before = self.position
        cdef Py_ssize_t total
        cdef uint64_t head
        cdef bytes payload
        if used < DESCRIPTOR_BYTES + FOOTER_BYTES or not self.masked:
            return None
        head = ring_load_unit(ring.unit(before))
        total = (<Py_ssize_t> <uint16_t> (head >> 32) << 3) + FOOTER_BYTES
        if head & 0xFFFFFFFF != COMPLETION_HEAD or total < DESCRIPTOR_BYTES + FOOTER_BYTES or total > used:
            return None
        if ring_load_unit(ring.unit(self.behind(before, 8))) != transaction_id:
            return None
        # Its size was judged against the ring, which is the most this can allocate.
        payload = PyBytes_FromStringAndSize(NULL, total - DESCRIPTOR_BYTES - FOOTER_BYTES)
        ring.copy_out(
            self.behind(before, DESCRIPTOR_BYTES), PyBytes_AS_STRING(payload), total - DESCRIPTOR_BYTES - FOOTER_BYTES
        )
        return payload, self.took(used, total)

    def take_in_band(self):
        """Take what comes next if it is an in-band packet: (payload, transaction id, flags, ring the doorbell).

        None, and nothing taken, when anything else stands there, or doorbells are asked for: then ``receive_batch``.
        """
        cdef RingMemory ring = self.ring
        cdef Py_ssize_t used = self.used()
        cdef Py_ssize_t before = self.position
        cdef Py_ssize_t total
        cdef uint64_t head
        cdef uint64_t transaction_id
        cdef bytes payload
        cdef bint signal
        if used < DESCRIPTOR_BYTES + FOOTER_BYTES or not self.masked:
            return None
        head = ring_load_unit(ring.unit(before))
        total = (<Py_ssize_t> <uint16_t> (head >> 32) << 3) + FOOTER_BYTES
        if head & 0xFFFFFFFF != IN_BAND_HEAD or total < DESCRIPTOR_BYTES + FOOTER_BYTES or total > used:
            return None
        transaction_id = ring_load_unit(ring.unit(self.behind(before, 8)))
        # Its size was judged against the ring, which is the most this can allocate.
        payload = PyBytes_FromStringAndSize(NULL, total - DESCRIPTOR_BYTES - FOOTER_BYTES)
        ring.copy_out(
            self.behind(before, DESCRIPTOR_BYTES), PyBytes_AS_STRING(payload), total - DESCRIPTOR_BYTES - FOOTER_BYTES
        )
        signal = self.took(used, total)
        return payload, transaction_id, <int> (head >> 48), signal

    cdef bint took(self, Py_ssize_t used, Py_ssize_t total) except -1:
        """Publish that one packet was taken; whether to ring the sender's doorbell."""
        cdef Py_ssize_t before = self.position
        self.position = self.behind(before, total)
        self.known_used = used - total
        ring_publish(self.ring.words + WORD_OUT, <uint32_t> self.position)
        self.order()
        return ring_load(self.ring.words + WORD_PENDING) != 0 and self.frees_a_sender(before)

    cdef inline Py_ssize_t behind(self, Py_ssize_t position, Py_ssize_t count) noexcept:
        """The place so many bytes further on; at most the whole area."""
        position += count
        return position - self.size if position >= self.size else position

    cdef list take_payloads(self, Py_ssize_t used, Py_ssize_t max_packets, Py_ssize_t max_bytes):
        """Copy payloads out; ``taken`` says how many ring bytes their packets had."""
        cdef RingMemory ring = self.ring
        cdef Py_ssize_t position = 0  # counts from the read index
        cdef Py_ssize_t offset = self.position
        cdef Py_ssize_t body
        cdef Py_ssize_t total
        cdef uint64_t head
        cdef bytes payload
        cdef list payloads = []
        while used - position >= DESCRIPTOR_BYTES + FOOTER_BYTES and max_packets > 0:
            head = ring_load_unit(ring.unit(offset))
            total = (<Py_ssize_t> <uint16_t> (head >> 32) << 3) + FOOTER_BYTES
            if head & PLAIN_HEAD != IN_BAND_HEAD or total < DESCRIPTOR_BYTES + FOOTER_BYTES or total > used - position:
                break
            if position and position + total > max_bytes:
                break
            body = offset + DESCRIPTOR_BYTES
            if body >= self.size:
                body -= self.size
            # Its size was judged against the ring, which is the most this can allocate.
            payload = PyBytes_FromStringAndSize(NULL, total - DESCRIPTOR_BYTES - FOOTER_BYTES)
            ring.copy_out(body, PyBytes_AS_STRING(payload), total - DESCRIPTOR_BYTES - FOOTER_BYTES)
            payloads.append(payload)
            max_packets -= 1
            position += total
            offset += total
            if offset >= self.size:
                offset -= self.size
        self.taken = position
        return payloads

    cdef list take(self, Py_ssize_t used, Py_ssize_t max_packets, Py_ssize_t max_bytes):
        """Copy packets out, or None; ``taken`` says how many ring bytes. A violation ends it and is remembered."""
        cdef RingMemory ring = self.ring
        cdef Py_ssize_t position = 0  # counts from the read index
        cdef Py_ssize_t offset = self.position
        cdef Py_ssize_t data_bytes = 0
        cdef Py_ssize_t total
        cdef uint64_t head
        cdef uint16_t data_offset8, length8
        cdef bytes image
        cdef list images = None
        while position < used:
            if used - position < DESCRIPTOR_BYTES:
                self.problem = describe_crumb(used - position)
                break
            head = ring_load_unit(ring.unit(offset))
            data_offset8 = <uint16_t> (head >> 16)
            length8 = <uint16_t> (head >> 32)
            total = (<Py_ssize_t> length8 << 3) + FOOTER_BYTES
            if data_offset8 < 2 or length8 < data_offset8 or total > used - position:
                self.problem = describe_bad_packet(data_offset8, length8, used - position)
                break
            if <uint16_t> head != COMPLETION:
                if max_packets <= 0 or (data_bytes and data_bytes + total > max_bytes):
                    break
                max_packets -= 1
                data_bytes += total
            # Its size was judged against the ring, which is the most this can allocate.
            image = PyBytes_FromStringAndSize(NULL, total - FOOTER_BYTES)
            ring.copy_out(offset, PyBytes_AS_STRING(image), total - FOOTER_BYTES)
            ring_store_unit(PyBytes_AS_STRING(image), head)
            if images is None:
                images = self.list_of(image)
            else:
                images.append(image)
            position += total
            offset += total
            if offset >= self.size:
                offset -= self.size
        self.taken = position
        return images

    cdef bint frees_a_sender(self, Py_ssize_t before) noexcept:
        """Whether what was just taken gave a blocked sender the room it waits for (3.4)."""
        cdef uint32_t *words = self.ring.words
        cdef Py_ssize_t pending = ring_load(words + WORD_PENDING) & ~<uint32_t> 7
        cdef Py_ssize_t end = ring_load(words + WORD_IN)
        cdef bint counts = ring_load(words + WORD_FEATURES) & 1
        if not pending or not counts or end >= self.size or end & 7:
            return False
        return self.free_from(before, end) < pending <= self.free_from(self.position, end)

    cdef inline Py_ssize_t free_from(self, Py_ssize_t out, Py_ssize_t end) noexcept:
        """The sender's room with these indices, both below the size of the ring."""
        cdef Py_ssize_t free = out - end - 8
        return free + self.size if free < 0 else free

    cdef void set_mask(self) noexcept:
        ring_publish(self.ring.words + WORD_MASK, 1)
        self.masked = True

    def mask(self):
        """No doorbells for now, we are awake."""
        self.ring.check()
        self.set_mask()

    def go_idle(self):
        """Ask for doorbells again; True: still empty, sleep. False: look again first. Raises RingCorruption."""
        self.ring.check()
        if self.problem is not None:
            raise RingCorruption(self.problem)
        ring_publish(self.ring.words + WORD_MASK, 0)
        self.masked = False
        self.order()
        return self.used() == 0


def set_bit(bits, Py_ssize_t bit):
    """Set a bit of shared memory in one step; True when it was clear. See ``shared_bits``."""
    cdef Py_buffer seen
    PyObject_GetBuffer(bits, &seen, PyBUF_WRITABLE)
    try:
        if not 0 <= bit < seen.len * 8:
            raise Misuse(f"bit {bit} is not in {seen.len} bytes")
        return bool(bits_set(<char *> seen.buf, bit))
    finally:
        PyBuffer_Release(&seen)


def take_bits(bits):
    """Clear shared memory in steps of 64 bits; the bits that were set, lowest first. See ``shared_bits``."""
    cdef Py_buffer seen
    cdef Py_ssize_t word
    cdef int bit
    cdef uint64_t taken
    cdef list found = []
    PyObject_GetBuffer(bits, &seen, PyBUF_WRITABLE)
    try:
        if seen.len & 7 or <size_t> seen.buf & 7:
            raise Misuse("bits are taken from whole, aligned words of 8 bytes")
        for word in range(seen.len >> 3):
            taken = bits_take(<char *> seen.buf + (word << 3))
            for bit in range(64):
                if not taken:
                    break
                if taken & 1:
                    found.append((word << 6) + bit)
                taken >>= 1
    finally:
        PyBuffer_Release(&seen)
    return found
