/*
 * Opening an image and the files behind it.
 *
 * What an image says about its backing file is as little to be trusted as all else in it: a file
 * that somebody sends could name any other of ours. So backing files are opened only for those who
 * say that they want that, only for reading, and only as what the image says they are: a raw disk
 * whose guest has written a qcow2 header into it stays a raw disk.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/qcow2_priv.h"
#include "hv/base/num.h"

#define L2_CACHE_BYTES (4U << 20) /* covers 32 GiB with clusters of 64 KiB */
#define FIRST_MAX (1U << QCOW2_CLUSTER_BITS_MAX)

/* --- one file --- */

static int look_at_file(struct qcow2_image *img, bool direct)
{
    const struct raw_block *raw = container_of(img->raw, struct raw_block, block);
    struct stat st;

    img->fd = raw->fd;
    img->align = direct ? raw->align : BLOCK_SECTOR;
    if (fstat(img->fd, &st) < 0)
        return -errno;
    img->dev = st.st_dev;
    img->ino = st.st_ino;
    img->is_device = S_ISBLK(st.st_mode);
    off_t end = lseek(img->fd, 0, SEEK_END); /* st_size is 0 for devices */
    if (end < 0)
        return -errno;
    img->file_end = (uint64_t)end;
    return 0;
}

static int read_header(struct qcow2_image *img, struct error *err)
{
    size_t len = img->file_end < FIRST_MAX ? (size_t)img->file_end : FIRST_MAX;
    uint8_t *first = malloc(len + 1);
    int rc = first ? qcow2_io_read(img, first, len, 0) : -ENOMEM;

    if (rc < 0) {
        free(first);
        return error_sys(err, rc, "cannot read its header");
    }
    rc = qcow2_header_decode(first, len, &img->h, err);
    if (rc == 0)
        rc = qcow2_header_check_features(&img->h, first, len, img->read_only, err);
    if (rc == 0)
        rc = qcow2_header_check_tables(&img->h, img->file_end, err);
    free(first);
    return rc;
}

static int read_l1(struct qcow2_image *img)
{
    size_t bytes = (size_t)img->h.l1_size * 8;

    img->l1 = malloc(bytes + 1);
    int rc = img->l1 ? qcow2_io_read(img, img->l1, bytes, img->h.l1_offset) : -ENOMEM;
    for (uint32_t i = 0; rc == 0 && i < img->h.l1_size; i++)
        img->l1[i] = be64toh(img->l1[i]);
    return rc;
}

static int load_image(struct qcow2_image *img, struct error *err)
{
    int rc = read_header(img, err);

    if (rc < 0)
        return rc;
    img->cluster_size = 1U << img->h.cluster_bits;
    img->l2_entries = img->cluster_size / 8;
    if (img->cluster_size < img->align)
        return error_set(err, -ENOTSUP,
                         "clusters of %u bytes are too small for O_DIRECT, which takes %u",
                         img->cluster_size, img->align);
    img->scratch = aligned_alloc(4096, img->cluster_size < 4096 ? 4096 : img->cluster_size);
    rc = img->scratch ? read_l1(img) : -ENOMEM;
    if (rc == 0)
        rc = qcow2_cache_init(&img->l2_cache, img->cluster_size, L2_CACHE_BYTES, qcow2_clean_l2);
    if (rc < 0)
        return error_sys(err, rc, "cannot read its L1 table");
    return img->read_only ? 0 : qcow2_refcount_load(img, err);
}

void qcow2_image_close(struct qcow2_image *img)
{
    if (img == NULL)
        return;
    block_destroy(img->raw);
    qcow2_cache_fini(&img->l2_cache);
    qcow2_cache_fini(&img->ref_cache);
    qcow2_set_fini(&img->tables);
    free(img->l1);
    free(img->reftable);
    free(img->dropped);
    free(img->scratch);
    free(img->packed);
    free(img->unpacked);
    free(img->path);
    free(img);
}

int qcow2_image_open(const struct block_qcow2_config *cfg, const char *path, bool is_raw,
                     bool read_only, struct qcow2_image **out, struct error *err)
{
    const struct block_raw_config raw = {.path = path,
                                         .read_only = read_only,
                                         .direct = cfg->direct,
                                         .no_uring = cfg->no_uring,
                                         .log = cfg->log};
    struct qcow2_image *img = calloc(1, sizeof(*img));
    int rc;

    if (img == NULL || (img->path = strdup(path)) == NULL) {
        free(img);
        return error_sys(err, -ENOMEM, "%s", path);
    }
    img->log = cfg->log;
    img->is_raw = is_raw;
    img->read_only = read_only;
    rc = raw_open(&raw, true, &img->raw, err);
    if (rc < 0) {
        qcow2_image_close(img);
        return rc;
    }
    rc = look_at_file(img, cfg->direct);
    if (rc < 0)
        rc = error_sys(err, rc, "%s", path);
    else if (!is_raw && (rc = load_image(img, err)) < 0)
        rc = error_prefix(err, rc, "%s", path);
    if (rc < 0)
        qcow2_image_close(img);
    else
        *out = img;
    return rc;
}

/* --- backing files --- */

/* The path of a backing file: as named, or beside the image that names it. */
static char *resolve(const struct qcow2_image *img)
{
    const char *name = img->h.backing, *slash = strrchr(img->path, '/');
    size_t dir = name[0] == '/' || slash == NULL ? 0 : (size_t)(slash - img->path) + 1;
    char *path = malloc(dir + strlen(name) + 1);

    if (path == NULL)
        return NULL;
    memcpy(path, img->path, dir);
    strcpy(path + dir, name);
    return path;
}

/* *is_raw: what the image says its backing file is. */
static int backing_format(const struct qcow2_image *img, bool *is_raw, struct error *err)
{
    const char *format = img->h.backing_format;

    *is_raw = strcmp(format, "raw") == 0;
    if (*is_raw || strcmp(format, "qcow2") == 0)
        return 0;
    if (format[0] == '\0')
        return error_set(err, -ENOTSUP,
                         "%s does not say what format its backing file %s has; "
                         "tell it: qemu-img rebase -u -b %s -F raw (or qcow2) %s",
                         img->path, img->h.backing, img->h.backing, img->path);
    return error_set(err, -ENOTSUP, "%s has a backing file of format %s, which hv does not know",
                     img->path, format);
}

static int check_loop(const struct qcow2 *q, const char *path, struct error *err)
{
    struct stat st;

    if (q->depth == BLOCK_QCOW2_CHAIN_MAX)
        return error_set(err, -ELOOP, "%s has more than %d backing files behind each other",
                         q->images[0]->path, BLOCK_QCOW2_CHAIN_MAX - 1);
    if (stat(path, &st) < 0)
        return 0; /* whoever opens it will say so */
    for (unsigned i = 0; i < q->depth; i++)
        if (q->images[i]->dev == st.st_dev && q->images[i]->ino == st.st_ino)
            return error_set(err, -ELOOP, "%s is its own backing file", path);
    return 0;
}

static int open_backing(struct qcow2 *q, const struct block_qcow2_config *cfg, struct error *err)
{
    const struct qcow2_image *img = q->images[q->depth - 1];
    bool is_raw = false;

    if (!cfg->backing)
        return error_set(err, -EPERM,
                         "%s has the backing file %s, which is opened only for who allows it: "
                         "--disk …,backing=on or hv image --allow-backing",
                         img->path, img->h.backing);
    int rc = backing_format(img, &is_raw, err);
    if (rc < 0)
        return rc;
    char *path = resolve(img);
    if (path == NULL)
        return error_sys(err, -ENOMEM, "%s", img->path);
    rc = check_loop(q, path, err);
    if (rc == 0)
        rc = qcow2_image_open(cfg, path, is_raw, true, &q->images[q->depth], err);
    q->depth += rc == 0;
    free(path);
    return rc < 0 && rc != -ELOOP ? error_prefix(err, rc, "backing file of %s", img->path) : rc;
}

int qcow2_chain_open(struct qcow2 *q, const struct block_qcow2_config *cfg, struct error *err)
{
    int rc = qcow2_image_open(cfg, cfg->path, false, cfg->read_only, &q->images[0], err);

    q->depth = rc == 0;
    while (rc == 0 && q->images[q->depth - 1]->h.backing[0] != '\0')
        rc = open_backing(q, cfg, err);
    return rc;
}

void qcow2_chain_close(struct qcow2 *q)
{
    while (q->depth > 0)
        qcow2_image_close(q->images[--q->depth]);
}
