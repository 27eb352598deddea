/*
 * What stands where a learner has not written an exercise yet.
 *
 * A tree made for a lab (see labs/) has `return todo("1.4");` in place of the reference answer, so
 * it compiles, and says which exercise it stopped at. In the complete tree nothing calls this.
 */
#ifndef HV_BASE_TODO_H
#define HV_BASE_TODO_H

/* Says on stderr, once for each exercise, that it is not implemented. Returns -ENOSYS. Any thread.
 */
int todo(const char *exercise);

#endif
