/*
 * What went wrong, in words, beside the -errno.
 *
 * A fallible function returns 0 or -errno. Where the number alone would not tell a person what to
 * do (which program header, which option, which ioctl), the function also takes a `struct error *`
 * and leaves one sentence there, without a trailing full stop or newline. Only cli/ prints it.
 */
#ifndef HV_BASE_ERR_H
#define HV_BASE_ERR_H

#define HV_MUST_CHECK __attribute__((warn_unused_result))

/* Long enough for a sentence with a path in it; longer text is cut. */
#define ERROR_TEXT_MAX 512

struct error {
    char text[ERROR_TEXT_MAX]; /* "" while nothing went wrong */
};

/* Writes the sentence and returns `code` (a -errno), so that callers can `return error_set(...)`.
 * `err` may be NULL: the caller does not want words. */
int error_set(struct error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* As error_set(), and appends ": " and strerror(-code). */
int error_sys(struct error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the sentence that is already there; returns `code`. For the caller who
 * knows the user's noun: the callee says "truncated header", the caller adds the file's name. */
int error_prefix(struct error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
