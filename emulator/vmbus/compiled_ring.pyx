# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
"""The ring, compiled: the same behaviour as ``pure_ring`` to the last byte and word, with real atomics and fences.

The rules stand at the top of ``ring``, what both builds say at the top of ``ring_contract``. Three things differ:

* Packets are copied straight between Python's bytes and the ring. The head of each descriptor is read in one access,
  judged, and written over the same bytes of the private copy, so that what was judged is what is handed on.
* The control words are accessed with acquire and release, with a full fence where a store must be seen before a load.
  A fence given by the caller is called besides, unless it is ``no_fence``.
* Pages that do not lie side by side go through a page table: one bound check in ``over``, none later.

The interpreter's lock is held throughout, so the two ends of one process never run at the same time.

One module in several files: what is included at the end is compiled together with this, so that the C compiler sees
every call of a packet's way at once.
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

include "compiled_ring_results.pxi"
include "compiled_ring_memory.pxi"
include "compiled_ring_end.pxi"
include "compiled_ring_sender.pxi"
include "compiled_ring_receiver.pxi"
include "compiled_bits.pxi"
