/* The guest's code runs on the host here: its ports are the driver's. */
#include "fake_guest.h"
