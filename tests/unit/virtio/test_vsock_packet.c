#include <criterion/criterion.h>
#include <endian.h>
#include <string.h>

#include "virtio/vsock_priv.h"

#define CID 9
#define BODY 16

/* A packet in memory, as one chain of two pieces. */
static struct {
    struct virtio_vsock_hdr h;
    uint8_t body[BODY];
} memory;
static struct iovec iov[3];
static struct vq_chain chain;

static void setup(void)
{
    memset(&memory, 0, sizeof(memory));
    memory.h = (struct virtio_vsock_hdr){
        .src_cid = htole64(CID),
        .dst_cid = htole64(2),
        .src_port = htole32(0x11223344),
        .dst_port = htole32(0x55667788),
        .len = htole32(BODY),
        .type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
        .op = htole16(VIRTIO_VSOCK_OP_RW),
        .flags = htole32(3),
        .buf_alloc = htole32(0x99aabbcc),
        .fwd_cnt = htole32(0xddeeff00),
    };
    iov[0] = (struct iovec){&memory, 50};
    iov[1] = (struct iovec){(uint8_t *)&memory + 50, sizeof(memory) - 50};
    iov[2] = (struct iovec){NULL, 0};
    chain = (struct vq_chain){.iov = iov, .out_count = 3, .out_size = sizeof(memory)};
}

TestSuite(vsock_packet, .init = setup);

Test(vsock_packet, virtio_5_10_6_fields_are_where_the_specification_has_them)
{
    struct vsock_packet p;

    cr_assert(vsock_parse(&chain, CID, &p));
    cr_assert_eq(p.guest_port, 0x11223344);
    cr_assert_eq(p.host_port, 0x55667788);
    cr_assert_eq(p.len, BODY);
    cr_assert_eq(p.type, 1);
    cr_assert_eq(p.op, 5);
    cr_assert_eq(p.flags, 3);
    cr_assert_eq(p.buf_alloc, 0x99aabbcc);
    cr_assert_eq(p.fwd_cnt, 0xddeeff00);
    cr_assert_eq(chain.out_size, BODY);
}

Test(vsock_packet, a_chain_is_cut_to_the_payload)
{
    struct vsock_packet p;
    uint8_t body[BODY];

    for (uint8_t i = 0; i < BODY; i++)
        memory.body[i] = i;
    memory.h.len = htole32(8);
    cr_assert(vsock_parse(&chain, CID, &p));
    cr_assert_eq(chain.out_size, 8);
    cr_assert_eq(iov[0].iov_len + iov[1].iov_len + iov[2].iov_len, 8);
    cr_assert_eq(vq_chain_read(&chain, 0, body, sizeof(body)), 8);
    cr_assert_eq(memcmp(body, memory.body, 8), 0);
}

Test(vsock_packet, a_length_beyond_the_chain_is_no_operation)
{
    struct vsock_packet p;

    memory.h.len = htole32(BODY + 1);
    cr_assert(vsock_parse(&chain, CID, &p));
    cr_assert_eq(p.op, VIRTIO_VSOCK_OP_INVALID);
}

Test(vsock_packet, an_unknown_operation_is_none)
{
    struct vsock_packet p;

    memory.h.op = htole16(8);
    cr_assert(vsock_parse(&chain, CID, &p));
    cr_assert_eq(p.op, VIRTIO_VSOCK_OP_INVALID);
}

Test(vsock_packet, a_reset_is_a_reset_whatever_else_it_says)
{
    struct vsock_packet p;

    memory.h.op = htole16(VIRTIO_VSOCK_OP_RST);
    memory.h.len = htole32(UINT32_MAX);
    cr_assert(vsock_parse(&chain, CID, &p));
    cr_assert_eq(p.op, VIRTIO_VSOCK_OP_RST);
}

Test(vsock_packet, what_is_not_ours_is_left_alone)
{
    struct vsock_packet p, poison;

    memset(&poison, 0x5a, sizeof(poison));
    p = poison;
    cr_assert_not(vsock_parse(&chain, CID + 1, &p));
    memory.h.dst_cid = htole64(3);
    cr_assert_not(vsock_parse(&chain, CID, &p));
    chain.out_count = 1;
    iov[0].iov_len = VSOCK_HEADER - 1;
    cr_assert_not(vsock_parse(&chain, CID, &p));
    cr_assert_eq(memcmp(&p, &poison, sizeof(p)), 0);
}

Test(vsock_packet, a_header_reads_back_with_its_ends_exchanged)
{
    const struct vsock_packet p = {.guest_port = 1,
                                   .host_port = 2,
                                   .type = 3,
                                   .op = 4,
                                   .len = 5,
                                   .flags = 6,
                                   .buf_alloc = 7,
                                   .fwd_cnt = 8};
    const struct virtio_vsock_hdr h = vsock_header(&p, CID);

    cr_assert_eq(le64toh(h.src_cid), 2);
    cr_assert_eq(le64toh(h.dst_cid), CID);
    cr_assert_eq(le32toh(h.src_port), 2);
    cr_assert_eq(le32toh(h.dst_port), 1);
    cr_assert_eq(le16toh(h.type), 3);
    cr_assert_eq(le16toh(h.op), 4);
    cr_assert_eq(le32toh(h.len), 5);
    cr_assert_eq(le32toh(h.flags), 6);
    cr_assert_eq(le32toh(h.buf_alloc), 7);
    cr_assert_eq(le32toh(h.fwd_cnt), 8);
}

/* --- bytes that wait --- */

static void put(struct vsock_buf *b, uint8_t first, uint32_t len)
{
    static uint8_t bytes[VIRTIO_VSOCK_BUFFER + 3];
    struct iovec one = {bytes, len + 3};
    const struct vq_chain c = {.iov = &one, .out_count = 1, .out_size = len + 3};

    for (uint32_t i = 0; i < len; i++)
        bytes[3 + i] = (uint8_t)(first + i);
    cr_assert_eq(vsock_buf_put(b, &c, 3), 0);
}

static void assert_holds(const struct vsock_buf *b, uint8_t first, uint32_t len)
{
    struct iovec pieces[2];
    unsigned count = vsock_buf_pieces(b, pieces);
    uint32_t seen = 0;

    for (unsigned i = 0; i < count; i++)
        for (size_t j = 0; j < pieces[i].iov_len; j++)
            cr_assert_eq(((uint8_t *)pieces[i].iov_base)[j], (uint8_t)(first + seen++));
    cr_assert_eq(seen, len);
    cr_assert_eq(b->len, len);
}

Test(vsock_buf, keeps_bytes_in_their_order_round_the_end)
{
    struct vsock_buf b = {0};
    uint8_t next = 0;

    for (unsigned i = 0; i < 100; i++) {
        put(&b, next, 10001);
        assert_holds(&b, next, 10001);
        vsock_buf_drop(&b, 1);
        put(&b, (uint8_t)(next + 10001), 30001);
        assert_holds(&b, (uint8_t)(next + 1), 40001);
        vsock_buf_drop(&b, 30000);
        vsock_buf_drop(&b, 9999);
        assert_holds(&b, (uint8_t)(next + 40000), 2);
        put(&b, (uint8_t)(next + 40002), VIRTIO_VSOCK_BUFFER - 2);
        assert_holds(&b, (uint8_t)(next + 40000), VIRTIO_VSOCK_BUFFER);
        next = (uint8_t)(next + 40000 + VIRTIO_VSOCK_BUFFER);
        vsock_buf_drop(&b, VIRTIO_VSOCK_BUFFER);
    }
}

Test(vsock_buf, has_memory_only_while_it_holds_something)
{
    struct vsock_buf b = {0};
    struct iovec pieces[2];

    cr_assert_eq(vsock_buf_pieces(&b, pieces), 0);
    put(&b, 1, 1);
    cr_assert_not_null(b.bytes);
    vsock_buf_drop(&b, 1);
    cr_assert_null(b.bytes);
    vsock_buf_drop(&b, 0);
    cr_assert_null(b.bytes);
}
