/* number_format.h - what the number formats' readers share within the room. */
#ifndef KERNEL_NUMBER_FORMAT_H
#define KERNEL_NUMBER_FORMAT_H
#include <stdint.h>

extern const int8_t number_iq4_levels[16]; /* the sixteen levels of IQ4_NL and IQ4_XS */

#endif
