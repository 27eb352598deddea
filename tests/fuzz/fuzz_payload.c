/*
 * Any bytes as compressed data: unpack() ends within its maximum, or says why not.
 */
#include <stdlib.h>

#include "boot/boot_priv.h"

#define MAX (1U << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct unpacked u = {0};
    struct error err = {{0}};
    unsigned sum = 0;

    if (unpack((struct bytes){data, size}, MAX, &u, &err) < 0) {
        if (u.data != NULL || err.text[0] == '\0')
            abort();
        return 0;
    }
    if (u.size > MAX)
        abort();
    for (size_t i = 0; i < u.size; i++) /* all of it can be read */
        sum += u.data[i];
    unpacked_fini(&u);
    return sum == UINT32_MAX ? 1 : 0;
}
