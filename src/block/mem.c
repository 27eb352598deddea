/*
 * A disk in memory: for tests, and for guests whose disk nobody keeps.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hv/base/num.h"
#include "hv/block/block.h"

struct mem_block {
    struct block block;
    uint8_t *bytes; /* owned mapping of block.size bytes */
};

static void copy(const struct block_req *req, uint8_t *disk)
{
    for (unsigned i = 0; i < req->iov_count; i++) {
        const struct iovec *v = &req->iov[i];
        if (req->op == BLOCK_READ)
            memcpy(v->iov_base, disk, v->iov_len);
        else
            memcpy(disk, v->iov_base, v->iov_len);
        disk += v->iov_len;
    }
}

/* Whole pages go back to the host, and read as zeros when they are touched again. */
static void zero(uint8_t *disk, uint64_t size)
{
    uint64_t head = -(uintptr_t)disk % 4096, pages;

    if (head >= size) {
        memset(disk, 0, size);
        return;
    }
    pages = align_down(size - head, 4096);
    memset(disk, 0, head);
    if (pages > 0 && madvise(disk + head, pages, MADV_DONTNEED) < 0)
        memset(disk + head, 0, pages);
    memset(disk + head + pages, 0, size - head - pages);
}

static void mem_submit(struct block_channel *c, struct block_req *req)
{
    uint8_t *disk = container_of(c->block, struct mem_block, block)->bytes + req->offset;

    if (req->op == BLOCK_READ || req->op == BLOCK_WRITE)
        copy(req, disk);
    else if (req->op != BLOCK_FLUSH)
        zero(disk, req->size);
    block_finish(c, req, 0);
}

static int mem_open(struct block *b, const struct block_channel_config *cfg,
                    struct block_channel **out)
{
    struct block_channel *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return -ENOMEM;
    int rc = block_channel_init(c, b, cfg);
    if (rc < 0)
        free(c);
    else
        *out = c;
    return rc;
}

static void mem_close(struct block_channel *c)
{
    block_channel_fini(c);
    free(c);
}

static void mem_destroy(struct block *b)
{
    struct mem_block *m = container_of(b, struct mem_block, block);

    (void)munmap(m->bytes, atomic_load(&b->size)); /* fails only for a bug of ours */
    free(m);
}

static const struct block_ops mem_ops = {
    .open = mem_open,
    .submit = mem_submit,
    .close = mem_close,
    .destroy = mem_destroy,
};

int block_mem_create(uint64_t size, struct block **out)
{
    struct mem_block *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return -ENOMEM;
    if (size == 0 || size % BLOCK_SECTOR != 0) {
        free(m);
        return -EINVAL;
    }
    m->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                    -1, 0);
    if (m->bytes == MAP_FAILED) {
        free(m);
        return -ENOMEM;
    }
    m->block = (struct block){
        .ops = &mem_ops,
        .size = size,
        .logical_size = BLOCK_SECTOR,
        .physical_size = 4096,
        .can_discard = true,
        .can_zero = true,
    };
    *out = &m->block;
    return 0;
}
