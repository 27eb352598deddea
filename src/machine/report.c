/*
 * How a guest died, in words.
 */
#include "machine_priv.h"

static const char *death_name(uint32_t reason)
{
    switch (reason) {
    case KVM_EXIT_SHUTDOWN:
        return "triple fault";
    case KVM_EXIT_FAIL_ENTRY:
        return "KVM could not enter it";
    case KVM_EXIT_INTERNAL_ERROR:
        return "KVM could not go on";
    default:
        return "an exit that hv does not handle";
    }
}

void machine_report(struct machine *m, const struct machine_outcome *outcome, FILE *out)
{
    uint32_t reason = outcome->end == MACHINE_TRIPLE_FAULT ? KVM_EXIT_SHUTDOWN : outcome->value;

    (void)fprintf(out, "The guest died on CPU %u: %s (KVM_EXIT_%s, exit reason %u)\n", outcome->cpu,
                  death_name(reason), kvm_exit_name(reason), reason);
    explain(m, outcome, out); // lab 03
}
