/* fake_guest.h has it. */
#include "fake_guest.h"
