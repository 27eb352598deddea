/* The guest's own, found from where the drivers are compiled. */
#include "../guest/lib/pic.h"
