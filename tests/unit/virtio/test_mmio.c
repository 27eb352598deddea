#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_mmio.h>
#include <string.h>

#include "hv/base/num.h"
#include "hv/virtio/mmio.h"
#include "support/dev_state.h"
#include "support/echo_dev.h"
#include "support/fake_irq.h"

#define ACK VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRV VIRTIO_CONFIG_S_DRIVER
#define FOK VIRTIO_CONFIG_S_FEATURES_OK
#define DOK VIRTIO_CONFIG_S_DRIVER_OK
#define BAD VIRTIO_CONFIG_S_NEEDS_RESET
#define DATA 0x80000
#define GSI 5

static struct virtio_rig rig;
static struct echo *echo;
static struct fake_irq irq;
static struct device *dev;

static struct device *carry(struct virtio_dev *v)
{
    struct irq_line line = fake_irq_line(&irq, GSI);
    struct device *made = NULL;

    cr_assert_eq(virtio_mmio_create("virtio0", v, &line, &made), 0);
    return made;
}

static void setup(void)
{
    virtio_rig_init(&rig);
    echo = echo_create(&rig);
    dev = carry(&echo->v);
}

static void teardown(void)
{
    dev_destroy(dev);
    rig.v = NULL; /* was the transport's */
    virtio_rig_fini(&rig);
}

TestSuite(virtio_mmio, .init = setup, .fini = teardown);

static uint32_t get(uint64_t offset)
{
    return (uint32_t)dev_read(dev, offset, 4);
}

static void set(uint64_t offset, uint32_t value)
{
    dev_write(dev, offset, 4, value);
}

static void negotiate(void)
{
    set(VIRTIO_MMIO_STATUS, ACK);
    set(VIRTIO_MMIO_STATUS, ACK | DRV);
    set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    set(VIRTIO_MMIO_DRIVER_FEATURES, 1); /* VERSION_1 */
    set(VIRTIO_MMIO_STATUS, ACK | DRV | FOK);
    cr_assert_eq(get(VIRTIO_MMIO_STATUS), ACK | DRV | FOK);
}

static void set_address(uint64_t low, uint64_t gpa)
{
    set(low, (uint32_t)gpa);
    set(low + 4, (uint32_t)(gpa >> 32));
}

static void place(uint32_t index, uint16_t size)
{
    struct ring *ring = &rig.rings[index];

    ring_init(ring, &rig.mem, VIRTIO_RIG_RINGS + index * VIRTIO_RIG_STRIDE, size);
    set(VIRTIO_MMIO_QUEUE_SEL, index);
    set(VIRTIO_MMIO_QUEUE_NUM, size);
    set_address(VIRTIO_MMIO_QUEUE_DESC_LOW, ring->at.desc);
    set_address(VIRTIO_MMIO_QUEUE_AVAIL_LOW, ring->at.driver);
    set_address(VIRTIO_MMIO_QUEUE_USED_LOW, ring->at.device);
    set(VIRTIO_MMIO_QUEUE_READY, 1);
}

static void start(void)
{
    negotiate();
    place(0, 16);
    place(1, 8);
    set(VIRTIO_MMIO_STATUS, ACK | DRV | FOK | DOK);
    virtio_rig_work(&rig);
}

Test(virtio_mmio, virtio_4_2_2_says_what_it_is)
{
    cr_assert_eq(get(VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
    cr_assert_eq(get(VIRTIO_MMIO_VERSION), 2);
    cr_assert_eq(get(VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_CONSOLE);
    cr_assert_neq(get(VIRTIO_MMIO_VENDOR_ID), 0);
}

Test(virtio_mmio, virtio_4_2_3_an_empty_window_has_device_id_0)
{
    struct device *empty = carry(NULL);

    cr_assert_eq(dev_read(empty, VIRTIO_MMIO_MAGIC_VALUE, 4), 0x74726976);
    cr_assert_eq(dev_read(empty, VIRTIO_MMIO_DEVICE_ID, 4), 0);
    for (uint64_t offset = 0; offset < VIRTIO_MMIO_SIZE; offset += 4) {
        dev_write(empty, offset, 4, UINT32_MAX);
        (void)dev_read(empty, offset, 4);
    }
    cr_assert_eq(dev_read(empty, VIRTIO_MMIO_STATUS, 4), 0);
    dev_destroy(empty);
}

Test(virtio_mmio, features_come_in_halves)
{
    set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    cr_assert(get(VIRTIO_MMIO_DEVICE_FEATURES) & (1U << ECHO_FEATURE));
    set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    cr_assert_eq(get(VIRTIO_MMIO_DEVICE_FEATURES), 1);
    set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    cr_assert_eq(get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
}

Test(virtio_mmio, a_driver_comes_to_its_answer)
{
    struct ring_buf buf = {DATA, 9, true};
    struct vring_used_elem used;

    start();
    ring_send(&rig.rings[0], &buf, 1);
    set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    virtio_rig_work(&rig);
    cr_assert(ring_take_used(&rig.rings[0], &used));
    cr_assert_eq(used.len, 9);
    cr_assert_eq(irq.raises, 1);
    cr_assert_not(irq.level);
    cr_assert_eq(irq.gsi, GSI);
    cr_assert_eq(get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
    set(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    cr_assert_eq(get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

Test(virtio_mmio, acknowledging_one_cause_keeps_the_other)
{
    struct ring_buf buf = {DATA, 9, true};

    start();
    ring_send(&rig.rings[0], &buf, 1);
    set(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    virtio_rig_work(&rig);
    virtio_config_changed(&echo->v);
    set(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    cr_assert_eq(get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    cr_assert_eq(irq.raises, 2);
}

Test(virtio_mmio, a_queue_that_there_is_not_reads_0)
{
    static const uint32_t none[] = {2, 0xffff, UINT32_MAX};

    for (unsigned i = 0; i < ARRAY_LEN(none); i++) {
        set(VIRTIO_MMIO_QUEUE_SEL, none[i]);
        cr_assert_eq(get(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
        for (uint64_t offset = VIRTIO_MMIO_QUEUE_NUM; offset < VIRTIO_MMIO_CONFIG; offset += 4)
            if (offset != VIRTIO_MMIO_STATUS)
                set(offset, 1);
        cr_assert_eq(get(VIRTIO_MMIO_QUEUE_READY), 0);
        set(VIRTIO_MMIO_QUEUE_NOTIFY, none[i]);
    }
}

Test(virtio_mmio, virtio_4_2_2_2_an_enabled_queue_stays_where_it_is)
{
    start();
    set(VIRTIO_MMIO_QUEUE_SEL, 0);
    set(VIRTIO_MMIO_QUEUE_NUM, 4);
    set_address(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
    set(VIRTIO_MMIO_QUEUE_READY, 1);
    const struct vq *vq = &virtio_queue(&echo->v, 0)->vq;
    cr_assert_eq(vq->at.size, 16);
    cr_assert_eq(vq->at.desc, rig.rings[0].at.desc);
    cr_assert_eq(get(VIRTIO_MMIO_QUEUE_READY), 1);
    cr_assert_eq(get(VIRTIO_MMIO_STATUS), ACK | DRV | FOK | DOK);
}

Test(virtio_mmio, sizes_that_cannot_be_need_a_reset)
{
    static const uint32_t sizes[] = {0, 3, 32, 0x10000, 0x10010, UINT32_MAX};

    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        set(VIRTIO_MMIO_STATUS, 0);
        negotiate();
        set(VIRTIO_MMIO_QUEUE_SEL, 0);
        set(VIRTIO_MMIO_QUEUE_NUM, sizes[i]);
        set(VIRTIO_MMIO_QUEUE_READY, 1);
        cr_assert_eq(get(VIRTIO_MMIO_QUEUE_READY), 0);
        cr_assert(get(VIRTIO_MMIO_STATUS) & BAD);
    }
}

Test(virtio_mmio, a_queue_taken_back_can_be_placed_again)
{
    start();
    set(VIRTIO_MMIO_QUEUE_SEL, 1);
    set(VIRTIO_MMIO_QUEUE_READY, 0);
    cr_assert_eq(get(VIRTIO_MMIO_QUEUE_READY), 0);
    place(1, 4);
    cr_assert_eq(get(VIRTIO_MMIO_QUEUE_READY), 1);
    cr_assert_eq(virtio_queue(&echo->v, 1)->vq.at.size, 4);
}

Test(virtio_mmio, a_reset_takes_interrupts_back)
{
    start();
    virtio_config_changed(&echo->v);
    set(VIRTIO_MMIO_STATUS, 0);
    cr_assert_eq(get(VIRTIO_MMIO_STATUS), 0);
    cr_assert_eq(get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

Test(virtio_mmio, registers_take_whole_words_only)
{
    for (unsigned size = 1; size <= 2; size *= 2) {
        cr_assert_eq(dev_read(dev, VIRTIO_MMIO_MAGIC_VALUE, size), 0);
        dev_write(dev, VIRTIO_MMIO_STATUS, size, ACK);
    }
    cr_assert_eq(dev_read(dev, 2, 4), 0);
    dev_write(dev, VIRTIO_MMIO_STATUS + 2, 4, UINT32_MAX);
    cr_assert_eq(get(VIRTIO_MMIO_STATUS), 0);
}

Test(virtio_mmio, configuration_takes_any_width)
{
    dev_write(dev, VIRTIO_MMIO_CONFIG, 1, 0x42);
    cr_assert_eq(dev_read(dev, VIRTIO_MMIO_CONFIG, 1), 0x42);
    cr_assert_eq(dev_read(dev, VIRTIO_MMIO_CONFIG, 4), 0x42);
    cr_assert_eq(dev_read(dev, VIRTIO_MMIO_SIZE - 4, 4), 0);
    uint32_t before = get(VIRTIO_MMIO_CONFIG_GENERATION);
    virtio_config_changed(&echo->v);
    cr_assert_neq(get(VIRTIO_MMIO_CONFIG_GENERATION), before);
}

Test(virtio_mmio, there_are_no_shared_memory_regions)
{
    cr_assert_eq(get(VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX);
    cr_assert_eq(get(VIRTIO_MMIO_SHM_LEN_HIGH), UINT32_MAX);
}

Test(virtio_mmio, every_register_takes_everything)
{
    static const uint32_t values[] = {0, 1, 0xffff, 0x10000, 0x80000000, UINT32_MAX};

    for (unsigned i = 0; i < ARRAY_LEN(values); i++)
        for (uint64_t offset = 0; offset + 4 <= VIRTIO_MMIO_SIZE; offset += 4) {
            set(offset, values[i]);
            (void)get(offset);
        }
    set(VIRTIO_MMIO_STATUS, 0);
    start();
    cr_assert_eq(get(VIRTIO_MMIO_STATUS), ACK | DRV | FOK | DOK);
}

Test(virtio_mmio, state_survives_and_damage_is_refused)
{
    start();
    virtio_config_changed(&echo->v);
    dev_state_attack(dev);
    cr_assert_eq(get(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    cr_assert_eq(get(VIRTIO_MMIO_STATUS), ACK | DRV | FOK | DOK);
}
