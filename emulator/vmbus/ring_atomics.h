/* What the compiled ring needs of the processor and C alone cannot say in Cython: single accesses to shared words, in
 * order. Indices, mask and pending size are 32-bit words of the control page; a unit is 8 aligned bytes of data. */
#ifndef VMBUS_RING_ATOMICS_H
#define VMBUS_RING_ATOMICS_H

#include <stddef.h>
#include <stdint.h>

#if !defined(__GNUC__)
#error "the compiled ring uses the atomic builtins of gcc and clang"
#endif
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "what stands in a ring is little-endian, and the compiled ring does not swap"
#endif

typedef uint64_t __attribute__((may_alias)) ring_unit;

/* Everything the peer wrote before it stored this word is visible after this. */
static inline uint32_t ring_load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* Everything done before this is visible to a peer that sees the new value. */
static inline void ring_publish(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* The head of a descriptor (type, offset, length, flags) in one access: no peer can change half of it meanwhile. */
static inline uint64_t ring_load_unit(const char *where)
{
    return __atomic_load_n((const ring_unit *)where, __ATOMIC_RELAXED);
}

static inline void ring_store_unit(char *where, uint64_t value)
{
    *(ring_unit *)where = value;
}

/* Between a store the peer shall see and a load of what it stored: neither release nor acquire orders those two.
 * The litmus test builds the ring without it once, to show that the test notices. */
static inline void ring_full_fence(void)
{
#ifdef VMBUS_RING_WITHOUT_FENCE
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* Bits one side sets while the other clears its neighbours: each change is one step, so that neither loses the other's,
 * and a full fence, since what the bit tells of was stored before and is loaded behind. Whether the bit was clear. */
static inline int bits_set(char *bits, size_t bit)
{
    uint8_t mask = (uint8_t)(1u << (bit & 7));
    return !(__atomic_fetch_or((uint8_t *)bits + (bit >> 3), mask, __ATOMIC_SEQ_CST) & mask);
}

/* 64 aligned bits, cleared by the same step that read them. */
static inline uint64_t bits_take(char *bits)
{
    if (!__atomic_load_n((const ring_unit *)bits, __ATOMIC_ACQUIRE))
        return 0;
    return __atomic_exchange_n((ring_unit *)bits, 0, __ATOMIC_SEQ_CST);
}

#endif
