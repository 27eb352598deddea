/*
 * What the parts of `hv image` share.
 */
#ifndef CLI_IMAGE_H
#define CLI_IMAGE_H

#include "hv/block/qcow2.h"

enum image_format { IMAGE_UNSAID, IMAGE_RAW, IMAGE_QCOW2 };

struct image_options {
    enum image_format format; /* of the file, or of the copy */
    enum image_format from;   /* convert: of what is copied */
    struct block_qcow2_options qcow2;
    bool allow_backing, force, shrink, repair, json;
};

const char *image_format_name(enum image_format format);

/* What was said, or what the name ends in; never what the content looks like, which whoever wrote
 * the disk chose. `option`: how to say it. */
int image_format_of(const char *path, enum image_format said, const char *option,
                    enum image_format *out, struct error *err) HV_MUST_CHECK;

/* A new image in a file beside `path`, whose name goes to *temporary (owned), so that nobody ever
 * finds half of one at `path`. -EEXIST: there is something, and nobody said --force. */
int image_begin(const char *path, enum image_format format, uint64_t size,
                const struct image_options *opt, char **temporary, struct error *err) HV_MUST_CHECK;
/* Moves it to `path` if `rc` is 0, else removes it. Returns rc, or the reason why that failed.
 * Takes `temporary`. */
int image_end(const char *path, char *temporary, bool force, int rc, struct error *err);

int image_open(const char *path, enum image_format format, bool read_only, bool backing,
               struct block **out, struct error *err) HV_MUST_CHECK;

/* image_copy.c: -EINTR: a signal asked to stop, *signal says which. */
int image_convert(const char *in, const char *out, const struct image_options *opt, int *signal,
                  struct error *err) HV_MUST_CHECK;

#endif
