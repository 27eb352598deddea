/*
 * Any thread may log to one log, and messages arrive whole; a limit that its owner's lock guards
 * lets as many pass as it counts.
 */
#include <stdio.h>
#include <string.h>

#include "hv/base/log.h"
#include "thread/crew.h"

#define WRITERS 4
#define MESSAGES 40000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static unsigned seen[WRITERS];                           /* messages that arrived */
static unsigned limited, announced;
static struct log_limit limit;

static void count_message(void *ctx, enum log_level level, const char *text)
{
    unsigned writer, number;
    char rest;

    (void)ctx;
    CHECK(level == LOG_INFO);
    CHECK(sscanf(text, "writer %u says %u%c", &writer, &number, &rest) == 2 && writer < WRITERS);
    CHECK(pthread_mutex_lock(&lock) == 0);
    CHECK(number == seen[writer]); /* in its own order */
    seen[writer]++;
    CHECK(pthread_mutex_unlock(&lock) == 0);
}

static void count_limited(void *ctx, enum log_level level, const char *text)
{
    (void)ctx, (void)level;
    if (strncmp(text, "limited", strlen("limited")) == 0)
        limited++;
    else
        announced++;
}

static void write_messages(void *ctx, unsigned index)
{
    const struct log plain = {.level = LOG_INFO, .write = count_message};
    const struct log guarded = {.level = LOG_INFO, .write = count_limited};

    (void)ctx;
    for (unsigned i = 0; i < MESSAGES; i++) {
        log_msg(&plain, LOG_INFO, "writer %u says %u", index, i);
        log_msg(&plain, LOG_DEBUG, "nobody hears this");
        CHECK(pthread_mutex_lock(&lock) == 0);
        log_limited(&guarded, &limit, LOG_INFO, "limited %u", i);
        CHECK(pthread_mutex_unlock(&lock) == 0);
    }
}

int main(void)
{
    struct crew crew = {0};

    crew_start(&crew, WRITERS, write_messages, NULL);
    crew_join(&crew);
    for (unsigned i = 0; i < WRITERS; i++)
        CHECK(seen[i] == MESSAGES);
    /* However long it took: a burst, and then one message a second with the count before it. */
    CHECK(limited >= LOG_LIMIT_BURST);
    CHECK(limited - LOG_LIMIT_BURST <= announced + LOG_LIMIT_BURST);
    CHECK(limited + limit.swallowed <= (uint64_t)WRITERS * MESSAGES);
    return 0;
}
