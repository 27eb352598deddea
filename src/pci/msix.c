/*
 * MSI-X, PCI 3.0 §6.8.2.
 *
 * A message is routed, which may cost the sink a system call, when it is first needed after the
 * guest changed it; delivering it is cheap from then on.
 */
#include "hv/pci/msix.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "hv/base/todo.h"

#define ENTRY_WORDS (MSIX_ENTRY_SIZE / 4)

static uint64_t bit(unsigned v)
{
    return UINT64_C(1) << v;
}

void msix_init(struct msix *m, struct pci_dev *p, unsigned vectors, unsigned bar,
               uint32_t table_offset, uint32_t pba_offset, const struct msix_sink *sink)
{
    assert(vectors >= 1 && vectors <= MSIX_VECTORS_MAX);
    *m = (struct msix){.p = p, .sink = *sink, .vectors = vectors};
    (void)pthread_mutex_init(&m->lock, NULL); /* does not fail on Linux */
    m->cap = pci_add_capability(p, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);
    assert(m->cap != 0);
    pci_put16(p, m->cap + PCI_MSIX_FLAGS, (uint16_t)(vectors - 1));
    pci_allow(p, m->cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    pci_put32(p, m->cap + PCI_MSIX_TABLE, table_offset | bar);
    pci_put32(p, m->cap + PCI_MSIX_PBA, pba_offset | bar);
    msix_reset(m);
}

void msix_fini(struct msix *m)
{
    (void)pthread_mutex_destroy(&m->lock);
}

/* --- delivery --- */

static bool is_masked_locked(const struct msix *m, unsigned v)
{
    return m->masked || (m->entries[v].control & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

bool msix_is_enabled(struct msix *m)
{
    pthread_mutex_lock(&m->lock);
    bool enabled = m->enabled;
    pthread_mutex_unlock(&m->lock);
    return enabled;
}

/* EXERCISE 9.6: an interrupt of vector v comes (msix_notify()). Nothing happens while MSI-X is not
 * enabled, or if there is no such vector: `vector` may be any number, 0xffff is virtio's for none.
 * A masked one is kept in `pending`, once, however often it comes. deliver_locked(): the sink
 * learns where the message leads (`route`) before the first one after the guest changed it
 * (`routed` has the vectors that it knows), and only then, for that costs a system call; then it
 * sends one (`fire`). A message that cannot be routed is lost. deliver_pending_locked(): what is
 * pending and no longer masked is delivered, and not pending any more; if MSI-X is enabled. */
// SOLUTION 9.6
static void deliver_locked(struct msix *m, unsigned v)
{
    const struct msix_entry *e = &m->entries[v];

    if (!(m->routed & bit(v))) {
        if (m->sink.route(m->sink.ctx, v, e->address, e->data) < 0)
            return; /* a message that leads nowhere */
        m->routed |= bit(v);
    }
    m->sink.fire(m->sink.ctx, v);
}

/* What waited for its mask to go. */
static void deliver_pending_locked(struct msix *m)
{
    for (unsigned v = 0; m->enabled && v < m->vectors; v++) {
        if (!(m->pending & bit(v)) || is_masked_locked(m, v))
            continue;
        m->pending &= ~bit(v);
        deliver_locked(m, v);
    }
}

void msix_notify(struct msix *m, unsigned vector)
{
    pthread_mutex_lock(&m->lock);
    if (m->enabled && vector < m->vectors) {
        if (is_masked_locked(m, vector))
            m->pending |= bit(vector);
        else
            deliver_locked(m, vector);
    }
    pthread_mutex_unlock(&m->lock);
}
// ELSE
// static void deliver_pending_locked(struct msix *m)
// {
//     (void)m;
// }
//
// void msix_notify(struct msix *m, unsigned vector)
// {
//     if (todo("9.6") == 0 && !is_masked_locked(m, 0))
//         m->pending |= bit(0);
// }
// END 9.6

/* --- what the guest writes --- */

static void take_flags_locked(struct msix *m)
{
    uint16_t flags = pci_get16(m->p, m->cap + PCI_MSIX_FLAGS);

    m->enabled = flags & PCI_MSIX_FLAGS_ENABLE;
    m->masked = flags & PCI_MSIX_FLAGS_MASKALL;
}

void msix_config_written(struct msix *m)
{
    pthread_mutex_lock(&m->lock);
    take_flags_locked(m);
    deliver_pending_locked(m);
    pthread_mutex_unlock(&m->lock);
}

/* The word of an entry that a table access means, or NULL. */
static uint32_t *word_at(const struct msix_entry *entries, unsigned vectors, uint64_t offset,
                         unsigned size, uint32_t words[ENTRY_WORDS])
{
    uint64_t v = offset / MSIX_ENTRY_SIZE;

    if (size != 4 || offset % 4 != 0 || v >= vectors)
        return NULL;
    memcpy(words, &entries[v], MSIX_ENTRY_SIZE);
    return &words[offset / 4 % ENTRY_WORDS];
}

uint32_t msix_table_read(struct msix *m, uint64_t offset, unsigned size)
{
    uint32_t words[ENTRY_WORDS];

    pthread_mutex_lock(&m->lock);
    const uint32_t *word = word_at(m->entries, m->vectors, offset, size, words);
    uint32_t value = word ? *word : 0;
    pthread_mutex_unlock(&m->lock);
    return value;
}

void msix_table_write(struct msix *m, uint64_t offset, unsigned size, uint32_t value)
{
    uint32_t words[ENTRY_WORDS];

    pthread_mutex_lock(&m->lock);
    uint32_t *word = word_at(m->entries, m->vectors, offset, size, words);
    if (word) {
        uint64_t v = offset / MSIX_ENTRY_SIZE;
        *word = value;
        words[PCI_MSIX_ENTRY_VECTOR_CTRL / 4] &= PCI_MSIX_ENTRY_CTRL_MASKBIT;
        if (offset % MSIX_ENTRY_SIZE != PCI_MSIX_ENTRY_VECTOR_CTRL)
            m->routed &= ~bit((unsigned)v);
        memcpy(&m->entries[v], words, MSIX_ENTRY_SIZE);
        deliver_pending_locked(m);
    }
    pthread_mutex_unlock(&m->lock);
}

uint32_t msix_pba_read(struct msix *m, uint64_t offset, unsigned size)
{
    if (size != 4 || offset % 4 != 0 || offset >= sizeof(m->pending))
        return 0;
    pthread_mutex_lock(&m->lock);
    uint32_t value = (uint32_t)(m->pending >> (8 * offset));
    pthread_mutex_unlock(&m->lock);
    return value;
}

void msix_reset(struct msix *m)
{
    pthread_mutex_lock(&m->lock);
    memset(m->entries, 0, sizeof(m->entries));
    for (unsigned v = 0; v < m->vectors; v++)
        m->entries[v].control = PCI_MSIX_ENTRY_CTRL_MASKBIT;
    m->pending = 0;
    m->routed = 0;
    take_flags_locked(m);
    pthread_mutex_unlock(&m->lock);
}

/* --- state --- */

void msix_save(struct msix *m, struct codec_writer *w)
{
    pthread_mutex_lock(&m->lock);
    codec_put_u64(w, m->pending);
    for (unsigned v = 0; v < m->vectors; v++) {
        codec_put_u64(w, m->entries[v].address);
        codec_put_u32(w, m->entries[v].data);
        codec_put_u32(w, m->entries[v].control);
    }
    pthread_mutex_unlock(&m->lock);
}

int msix_load(const struct msix *m, struct codec_reader *r, struct msix_state *out)
{
    bool valid = true;

    memset(out, 0, sizeof(*out));
    out->pending = codec_get_u64(r);
    for (unsigned v = 0; v < m->vectors; v++) {
        out->entries[v].address = codec_get_u64(r);
        out->entries[v].data = codec_get_u32(r);
        out->entries[v].control = codec_get_u32(r);
        valid = valid && !(out->entries[v].control & ~PCI_MSIX_ENTRY_CTRL_MASKBIT);
    }
    if (m->vectors < 64 && out->pending >> m->vectors)
        valid = false;
    return valid ? 0 : -EINVAL;
}

void msix_restore(struct msix *m, const struct msix_state *state)
{
    pthread_mutex_lock(&m->lock);
    memcpy(m->entries, state->entries, sizeof(m->entries));
    m->pending = state->pending;
    m->routed = 0;
    take_flags_locked(m);
    deliver_pending_locked(m);
    pthread_mutex_unlock(&m->lock);
}
