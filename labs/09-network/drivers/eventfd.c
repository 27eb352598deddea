/*
 * Doorbells and messages, with a KVM that only writes down what it is asked: this program's own
 * ioctl().
 *
 *   answer ERRNO                        what the next ones are answered; 0: all is well
 *   bell add|remove GPA SIZE HAS MATCH FD
 *   messages COUNT [INDEX ADDRESS DATA]…    those that are used
 */
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "hv/kvm/eventfd.h"
#include "script.h"

#define VM_FD 777
#define ENTRIES_MAX 700
#define TEXT 200

static int answer;
static unsigned calls;
static struct kvm_ioeventfd bell_seen;
static struct kvm_irq_routing_entry entries[ENTRIES_MAX];
static unsigned entry_count, nr_seen;
static bool strange;

static void take_table(const struct kvm_irq_routing *table)
{
    nr_seen = table->nr;
    entry_count = table->nr < ENTRIES_MAX ? table->nr : ENTRIES_MAX;
    memcpy(entries, table->entries, entry_count * sizeof(entries[0]));
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list args;

    va_start(args, request);
    const void *arg = va_arg(args, void *);
    va_end(args);
    calls++;
    if (fd != VM_FD)
        strange = true;
    else if (request == KVM_IOEVENTFD)
        bell_seen = *(const struct kvm_ioeventfd *)arg;
    else if (request == KVM_SET_GSI_ROUTING)
        take_table(arg);
    else
        strange = true;
    errno = answer;
    return answer ? -1 : 0;
}

static void do_bell(char *rest, const struct vm *vm)
{
    bool add = strcmp(strsep(&rest, " "), "add") == 0;
    struct vm_doorbell bell = {.gpa = take_number(&rest), .size = (uint32_t)take_number(&rest)};

    bell.has_match = take_number(&rest);
    bell.match = take_number(&rest);
    bell.event_fd = (int)take_number(&rest);
    memset(&bell_seen, 0x5a, sizeof(bell_seen));
    report_int("rc", add ? vm_doorbell_add(vm, &bell) : vm_doorbell_remove(vm, &bell));
    report_u64("addr", bell_seen.addr);
    report_int("len", bell_seen.len);
    report_int("fd", bell_seen.fd);
    report_int("flags", bell_seen.flags);
    report_u64("datamatch", bell_seen.datamatch);
}

static void do_messages(char *rest, const struct vm *vm)
{
    static struct vm_msi messages[VM_MSI_ROUTES_MAX];
    unsigned count = (unsigned)take_number(&rest);
    char text[TEXT];

    memset(messages, 0, sizeof(messages));
    while (rest != NULL && *rest != '\0') {
        struct vm_msi *m = &messages[take_number(&rest)];
        m->used = true;
        m->address = take_number(&rest);
        m->data = (uint32_t)take_number(&rest);
    }
    entry_count = nr_seen = 0;
    report_int("rc", vm_set_messages(vm, messages, count));
    report_int("nr", nr_seen);
    report_name("entries");
    report_raw("[");
    for (unsigned i = 0; i < entry_count; i++) {
        const struct kvm_irq_routing_entry *e = &entries[i];
        bool is_msi = e->type == KVM_IRQ_ROUTING_MSI;
        (void)snprintf(text, sizeof(text), "%s[%u, %u, %llu, %u]", i > 0 ? ", " : "", e->gsi,
                       e->type,
                       is_msi ? (unsigned long long)e->u.msi.address_hi << 32 | e->u.msi.address_lo
                              : (unsigned long long)e->u.irqchip.irqchip,
                       is_msi ? e->u.msi.data : e->u.irqchip.pin);
        report_raw(text);
    }
    report_raw("]");
}

static bool command(const char *verb, char *rest)
{
    const struct vm vm = {.fd = VM_FD};

    calls = 0;
    if (strcmp(verb, "answer") == 0)
        answer = (int)take_number(&rest);
    else if (strcmp(verb, "bell") == 0)
        do_bell(rest, &vm);
    else if (strcmp(verb, "messages") == 0)
        do_messages(rest, &vm);
    else
        return false;
    report_int("calls", calls);
    report_bool("strange", strange);
    return true;
}

int main(void)
{
    return script_run(command);
}
