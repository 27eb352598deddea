/*
 * ACPI fixed hardware: just enough for a machine that is switched on and off.
 *
 * The registers are bytes that may be accessed in any grouping, which is how ACPI describes them
 * (ACPI 6.5 §4.8.3), and spares us a case for every width and offset.
 *
 * Deliberate deviations: SCI_EN is always 1, because there is no SMI_CMD and hence no other mode.
 * The timer's carry never sets TMR_STS, so TMR_EN can be set but brings no interrupt: every system
 * that uses the timer polls it. Of the sleep types only S5 does anything; what we do not offer in
 * `_Sx` objects is ignored. The bus-master and global-lock bits have nobody behind them.
 */
#include "hv/devices/acpi_pm.h"

#include <errno.h>
#include <stdlib.h>

#include "hv/base/fd.h"
#include "hv/base/num.h"
#include "hv/base/todo.h"

/* PM1 status and enable, ACPI 6.5 tables 4.13 and 4.14. */
#define PM1_TMR (1U << 0)
#define PM1_GBL (1U << 5)
#define PM1_PWRBTN (1U << 8)
#define PM1_SLPBTN (1U << 9)
#define PM1_RTC (1U << 10)
#define PM1_EN_MASK (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)
#define PM1_STS_MASK PM1_PWRBTN /* the only one that is ever set here */

/* PM1 control, ACPI 6.5 table 4.15. */
#define PM1_SCI_EN (1U << 0)
#define PM1_BM_RLD (1U << 1)
#define PM1_SLP_TYP_SHIFT 10
#define PM1_SLP_TYP_MASK 7U
#define PM1_SLP_EN (1U << 13) /* write-only */
#define PM1_CNT_STORED (PM1_BM_RLD | (PM1_SLP_TYP_MASK << PM1_SLP_TYP_SHIFT))

#define PM1_EN_OFFSET (ACPI_PM_EVT_OFFSET + 2)

#define TIMER_HZ 3579545U
#define TIMER_MASK 0xffffffU /* FADT says TMR_VAL_EXT = 0: 24 bits */

struct acpi_pm {
    struct device dev;
    struct acpi_pm_config cfg; /* cfg.sci is the line in use */
    uint16_t sts;              /* PM1 status */
    uint16_t en;               /* PM1 enable */
    uint16_t cnt;              /* PM1 control, without SCI_EN and SLP_EN */
    uint32_t timer_offset; /* added to the ticks of the clock, so that the count survives a load */
};

/* --- The timer (§4.8.3.3) --- */

static uint32_t clock_ticks(const struct acpi_pm *pm)
{
    uint64_t ns = pm->cfg.now_ns ? pm->cfg.now_ns(pm->cfg.now_ctx) : now_ns();

    return (uint32_t)((unsigned __int128)ns * TIMER_HZ / 1000000000);
}

static uint32_t timer_value(const struct acpi_pm *pm)
{
    return (clock_ticks(pm) + pm->timer_offset) & TIMER_MASK;
}

/* --- Events (§4.8.3.1) --- */

static void update_sci(struct acpi_pm *pm)
{
    irq_set(&pm->cfg.sci, pm->sts & pm->en);
}

void acpi_pm_power_button(struct device *dev)
{
    struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

    dev_lock(dev);
    pm->sts |= PM1_PWRBTN;
    update_sci(pm);
    dev_unlock(dev);
}

/* --- Power (§4.8.3.2, §4.8.3.6) --- */

/* EXERCISE 5.10: what ends the machine; pm->cfg.power() is to be told what. sleep_if_asked(): PM1
 * control was written, and `written` is what (one byte of it, in its place; the other is 0). With
 * SLP_EN set, a sleep type (SLP_TYP) that is S5's, pm->cfg.s5_slp_typ, powers the machine off;
 * without it, or with another type, nothing happens (ACPI 6.5 §4.8.3.2.1, table 4.15).
 * write_reset(): a byte written to the reset register resets if all bits of pm->cfg.reset_value are
 * set in it. At port 0xCF9, where chip sets have this register, further bits choose between kinds
 * of reset that are all the same here: Linux with reboot=pci writes 0x0E where ACPI says 0x06. */
// SOLUTION 5.10
static void sleep_if_asked(struct acpi_pm *pm, uint16_t written)
{
    unsigned type = (written >> PM1_SLP_TYP_SHIFT) & PM1_SLP_TYP_MASK;

    if ((written & PM1_SLP_EN) && type == pm->cfg.s5_slp_typ)
        pm->cfg.power(pm->cfg.power_ctx, ACPI_POWER_OFF);
}

static void write_reset(struct acpi_pm *pm, uint8_t value)
{
    if ((value & pm->cfg.reset_value) == pm->cfg.reset_value)
        pm->cfg.power(pm->cfg.power_ctx, ACPI_POWER_RESET);
}
// ELSE
// static void sleep_if_asked(struct acpi_pm *pm, uint16_t written)
// {
//     if (written & PM1_SLP_EN)
//         (void)todo("5.10");
// }
//
// static void write_reset(struct acpi_pm *pm, uint8_t value)
// {
//     (void)todo("5.10");
// }
// END 5.10

/* --- The register file, byte by byte --- */

static uint8_t byte_of(uint32_t value, uint64_t index)
{
    return (uint8_t)(value >> (8 * index));
}

/* `timer`: its value at the time of the access, the same for all bytes. */
static uint8_t read_byte(const struct acpi_pm *pm, uint64_t offset, uint32_t timer)
{
    switch (offset) {
    case ACPI_PM_EVT_OFFSET:
    case ACPI_PM_EVT_OFFSET + 1:
        return byte_of(pm->sts, offset - ACPI_PM_EVT_OFFSET);
    case PM1_EN_OFFSET:
    case PM1_EN_OFFSET + 1:
        return byte_of(pm->en, offset - PM1_EN_OFFSET);
    case ACPI_PM_CNT_OFFSET:
    case ACPI_PM_CNT_OFFSET + 1:
        return byte_of(pm->cnt | PM1_SCI_EN, offset - ACPI_PM_CNT_OFFSET);
    case ACPI_PM_TMR_OFFSET ... ACPI_PM_TMR_OFFSET + ACPI_PM_TMR_SIZE - 1:
        return byte_of(timer, offset - ACPI_PM_TMR_OFFSET);
    default:
        return 0;
    }
}

static uint64_t acpi_pm_read(struct device *dev, uint64_t offset, unsigned size)
{
    const struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);
    uint32_t timer = timer_value(pm);
    uint64_t value = 0;

    if (offset >=
        ACPI_PM_RESET_OFFSET) /* the register is write-only; its neighbours are no one's */
        return offset == ACPI_PM_RESET_REG && size == 1 ? 0 : UINT64_MAX;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)read_byte(pm, offset + i, timer) << (8 * i);
    return value;
}

/* Puts one byte into a 16-bit register, of which `mask` can be written. */
static void store_byte(uint16_t *reg, uint64_t index, uint8_t byte, uint16_t mask)
{
    uint16_t lane = (uint16_t)(0xffU << (8 * index)) & mask;

    *reg = (uint16_t)((*reg & ~lane) | (((unsigned)byte << (8 * index)) & lane));
}

static void write_byte(struct acpi_pm *pm, uint64_t offset, uint8_t byte)
{
    switch (offset) {
    case ACPI_PM_EVT_OFFSET:
    case ACPI_PM_EVT_OFFSET + 1: /* status bits are cleared by writing 1 */
        pm->sts &= (uint16_t) ~((unsigned)byte << (8 * (offset - ACPI_PM_EVT_OFFSET)));
        break;
    case PM1_EN_OFFSET:
    case PM1_EN_OFFSET + 1:
        store_byte(&pm->en, offset - PM1_EN_OFFSET, byte, PM1_EN_MASK);
        break;
    case ACPI_PM_CNT_OFFSET:
    case ACPI_PM_CNT_OFFSET + 1:
        store_byte(&pm->cnt, offset - ACPI_PM_CNT_OFFSET, byte, PM1_CNT_STORED);
        sleep_if_asked(pm, (uint16_t)((unsigned)byte << (8 * (offset - ACPI_PM_CNT_OFFSET))));
        break;
    default: /* the timer is read-only */
        break;
    }
    update_sci(pm);
}

static void acpi_pm_write(struct device *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

    if (offset >= ACPI_PM_RESET_OFFSET) {
        if (offset == ACPI_PM_RESET_REG && size == 1)
            write_reset(pm, (uint8_t)value);
        return;
    }
    for (unsigned i = 0; i < size; i++)
        write_byte(pm, offset + i, (uint8_t)(value >> (8 * i)));
}

/* --- Life --- */

static void acpi_pm_save(struct device *dev, struct codec_writer *w)
{
    const struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

    codec_put_u16(w, pm->sts);
    codec_put_u16(w, pm->en);
    codec_put_u16(w, pm->cnt);
    codec_put_u32(w, timer_value(pm));
}

static int acpi_pm_load(struct device *dev, struct codec_reader *r)
{
    struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

    uint16_t sts = codec_get_u16(r);
    uint16_t en = codec_get_u16(r);
    uint16_t cnt = codec_get_u16(r);
    uint32_t timer = codec_get_u32(r);
    int err = codec_leave(r);
    if (err)
        return err;
    if ((sts & ~PM1_STS_MASK) || (en & ~PM1_EN_MASK) || (cnt & ~PM1_CNT_STORED) ||
        timer > TIMER_MASK)
        return -EINVAL;
    pm->sts = sts;
    pm->en = en;
    pm->cnt = cnt;
    pm->timer_offset = timer - clock_ticks(pm);
    update_sci(pm);
    return 0;
}

static void acpi_pm_destroy(struct device *dev)
{
    struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

    dev_fini(&pm->dev);
    free(pm);
}

static const struct dev_ops acpi_pm_ops = {
    .read = acpi_pm_read,
    .write = acpi_pm_write,
    .save = acpi_pm_save,
    .load = acpi_pm_load,
    .destroy = acpi_pm_destroy,
    .max_access = 4,
    .version = 1,
};

int acpi_pm_create(const char *name, const struct acpi_pm_config *cfg, struct device **dev)
{
    struct acpi_pm *pm = calloc(1, sizeof(*pm));

    if (!pm)
        return -ENOMEM;
    dev_init(&pm->dev, &acpi_pm_ops, name);
    pm->cfg = *cfg;
    *dev = &pm->dev;
    return 0;
}
