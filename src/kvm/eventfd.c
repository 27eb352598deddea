#include "hv/kvm/eventfd.h"

#include <errno.h>
#include <stdlib.h>

#include "hv/base/todo.h"
#include "kvm/kvm_priv.h"

#define PIC_PINS 8     /* of either chip */
#define IOAPIC_PINS 24 /* KVM_IOAPIC_NUM_PINS */
#define PIC_GSIS 16

/* --- doorbells --- */

static int change_doorbell(const struct vm *vm, const struct vm_doorbell *bell, uint32_t flags)
{
    /* EXERCISE 9.7: tells KVM of a doorbell (KVM_IOEVENTFD, KVM API §4.59): which eventfd a write
     * of bell->size bytes at bell->gpa signals; with has_match, only a write of bell->match. FLAGS
     * are KVM_IOEVENTFD_FLAG_DEASSIGN, or nothing; the rest of them follows from the bell. */
    // SOLUTION 9.7
    struct kvm_ioeventfd arg = {
        .datamatch = bell->match,
        .addr = bell->gpa,
        .len = bell->size,
        .fd = bell->event_fd,
        .flags = flags | (bell->has_match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0U),
    };

    return kvm_ioctl(vm->fd, KVM_IOEVENTFD, &arg);
    // END 9.7
}

int vm_doorbell_add(const struct vm *vm, const struct vm_doorbell *bell)
{
    return change_doorbell(vm, bell, 0);
}

int vm_doorbell_remove(const struct vm *vm, const struct vm_doorbell *bell)
{
    return change_doorbell(vm, bell, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

/* --- routes --- */

static struct kvm_irq_routing_entry pin(uint32_t gsi, uint32_t chip, uint32_t number)
{
    return (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_IRQCHIP,
        .u.irqchip = {.irqchip = chip, .pin = number},
    };
}

/* What KVM has at the start: GSIs 0 to 15 reach the PICs as well as the I/O APIC. */
static unsigned add_pins(struct kvm_irq_routing_entry *entries)
{
    unsigned n = 0;

    for (uint32_t gsi = 0; gsi < PIC_GSIS; gsi++)
        entries[n++] = pin(gsi, gsi < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                           gsi % PIC_PINS);
    for (uint32_t gsi = 0; gsi < IOAPIC_PINS; gsi++)
        entries[n++] = pin(gsi, KVM_IRQCHIP_IOAPIC, gsi);
    return n;
}

static struct kvm_irq_routing_entry message(uint32_t gsi, const struct vm_msi *msi)
{
    return (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_MSI,
        .u.msi = {.address_lo = (uint32_t)msi->address,
                  .address_hi = (uint32_t)(msi->address >> 32),
                  .data = msi->data},
    };
}

int vm_set_messages(const struct vm *vm, const struct vm_msi *messages, unsigned count)
{
    size_t size = sizeof(struct kvm_irq_routing) +
                  (PIC_GSIS + IOAPIC_PINS + count) * sizeof(struct kvm_irq_routing_entry);
    struct kvm_irq_routing *table = calloc(1, size);

    if (table == NULL)
        return -ENOMEM;
    int rc;
    /* EXERCISE 9.8: fills `table` and hands it to KVM (KVM_SET_GSI_ROUTING, KVM API §4.52), which
     * forgets every route that is not in it. So first the pins (add_pins() says how many entries
     * these are), then each message that is used, with its GSI (VM_MSI_GSI_FIRST and its place);
     * `nr` is how many entries there are. rc: what KVM says. */
    // SOLUTION 9.8
    table->nr = add_pins(table->entries);
    for (unsigned i = 0; i < count; i++)
        if (messages[i].used)
            table->entries[table->nr++] = message(VM_MSI_GSI_FIRST + i, &messages[i]);
    rc = kvm_ioctl(vm->fd, KVM_SET_GSI_ROUTING, table);
    // ELSE
    // table->nr = add_pins(table->entries);
    // table->entries[0] = message(VM_MSI_GSI_FIRST, messages);
    // rc = todo("9.8");
    // END 9.8
    free(table);
    return rc;
}
