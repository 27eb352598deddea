/* The same for all labs: arguments in, one line of JSON out. */
#include "../../01-real-mode/drivers/observe.h"
