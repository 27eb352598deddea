/*
 * irq_set() and irq_pulse() with a far end that writes down what it hears.
 *
 * args: GSI LEVEL OPS for each case   LEVEL: the line's before; OPS: of the letters 0 1 p, each a
 * call; n first: nobody listens
 */
#include "hv/bus/irq.h"
#include "observe.h"

static char heard[4096]; /* "4+" went up, "4-" went down */
static int marker;       /* its address is the listener's context */
static int wrong_ctx;

static void hear(void *ctx, uint32_t gsi, bool level)
{
    size_t n = strlen(heard);

    wrong_ctx |= ctx != &marker;
    (void)snprintf(heard + n, sizeof(heard) - n, "%u%c ", gsi, level ? '+' : '-');
}

static void perform(struct irq_line *line, char op)
{
    if (op == 'p')
        irq_pulse(line);
    else
        irq_set(line, op == '1');
}

static void try(uint32_t gsi, bool level, const char *ops)
{
    struct irq_line line = {.set = hear, .ctx = &marker, .gsi = gsi, .level = level};

    heard[0] = '\0';
    wrong_ctx = 0;
    if (*ops == 'n') {
        line.set = NULL;
        ops++;
    }
    for (; *ops != '\0'; ops++)
        perform(&line, *ops);
    report_case();
    report_string("heard", heard);
    report_int("level", line.level);
    report_int("wrong_ctx", wrong_ctx);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 2 < argc; i += 3)
        try((uint32_t)number(argv[i]), number(argv[i + 1]) != 0, argv[i + 2]);
    return report_end();
}
