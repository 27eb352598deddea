/*
 * How AddressSanitizer runs in unit tests, whoever starts them: leaks are looked for, and an
 * allocation that is far too large fails as malloc() does, instead of ending the program.
 */
const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
    return "detect_leaks=1:allocator_may_return_null=1";
}
